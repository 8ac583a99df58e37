"""Schemathesis over the description of the API: no 5xx, no status and no body that it does not describe."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.service

PORT = 25051
SECRET = "confidential-77"


def test_the_service_keeps_what_its_description_promises(serving, tmp_path):
    """Examples, boundaries and random requests, right ones and wrong ones; the same each time."""
    serving.next_server()
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{serving.url}/openapi.json",
               "--phases", "examples,coverage,fuzzing", "--max-examples", "50", "--generation-deterministic",
               "--request-timeout", "10", "--workers", "1", "--no-color", "--continue-on-failure",
               # JSON Schema counts 2.0 as a whole number; the service, as every count it learnt from, does not.
               "--exclude-checks", "positive_data_acceptance"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-2_000:]
    assert "2 selected" in done.stdout
    ask_with_secrets(serving.url)
    assert SECRET not in serving.said.read_text()


def ask_with_secrets(url):
    """What a customer might be known by, wherever a caller can put it; no refusal says it back."""
    good = f'{{"visits": 1, "spend": 1, "tier": "{SECRET}"}}'
    json_type = {"content-type": "application/json"}
    with httpx.Client(base_url=url, trust_env=False) as client:
        refused = [
            client.get(f"/v1/customers/{SECRET}/churn"), client.get(f"/v1/customers/{SECRET * 20}/churn"),
            client.get(f"/v1/customers/m1/churn?explain={SECRET}"), client.get(f"/{SECRET}"),
            client.post("/v1/score", content=f'{{"rows": [{good}]}}', headers=json_type),
            client.post("/v1/score", content=f'{{"rows": ["{SECRET}"]}}', headers=json_type),
            client.post("/v1/score", content=SECRET, headers={"content-type": SECRET}),
            client.post("/v1/score", content=SECRET, headers=json_type),
            client.post("/v1/score", content="{}", headers={**json_type, "x-customer-id": SECRET * 20}),
        ]
        for answer in refused:
            assert 400 <= answer.status_code < 500
            assert SECRET not in answer.text + str(answer.headers)
        assert SECRET not in client.get("/metrics").text
