"""Metrics of one process and of two that count together; bulk counting is the same as one by one."""

import os
import random
import re
import subprocess
import sys

import pytest

from models.errors import ReleaseError
from models.serving.service_metrics import SCORES, ServiceMetrics

WORKER = """
import sys
from pathlib import Path
from models.serving.service_metrics import ServiceMetrics
metrics = ServiceMetrics("churn:v1", Path(sys.argv[1]))
metrics.request("/v1/score", 200, 0.004)
metrics.request("/v1/score", 503, 0.3)
metrics.rows([0.2, 0.9, 0.9], [("leave", "budget"), ("contact", "value"), ("contact", "value")], ["clock"])
metrics.feature_age(3 * 86400)
metrics.unlogged(2)
if len(sys.argv) > 2:
    print(metrics.text().decode())
"""


def values(text):
    return {series: float(value) for series, value in re.findall(r"^(churn_\S+) (\S+)$", text, flags=re.MULTILINE)}


def test_two_processes_count_together_and_one_that_has_ended_is_not_forgotten(tmp_path):
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    run = [sys.executable, "-c", WORKER, str(tmp_path)]
    subprocess.run(run, env=environment, check=True, timeout=60)
    seen = values(subprocess.run([*run, "show"], env=environment, check=True, timeout=60, capture_output=True,
                                 text=True).stdout)
    release = 'release="churn:v1"'
    assert seen[f'churn_requests_total{{{release},route="/v1/score",status="200"}}'] == 2
    assert seen[f'churn_errors_total{{{release},route="/v1/score"}}'] == 2
    assert seen[f'churn_request_seconds_count{{{release},route="/v1/score"}}'] == 4
    assert seen[f"churn_probability_count{{{release}}}"] == 6
    assert seen[f'churn_probability_bucket{{le="0.2",{release}}}'] == 2
    assert seen[f'churn_decisions_total{{action="contact",{release},why="value"}}'] == 4
    assert seen[f'churn_degraded_total{{reason="clock",{release}}}'] == 6
    assert seen[f'churn_feature_age_seconds_bucket{{le="604800.0",{release}}}'] == 2
    assert seen[f"churn_prediction_log_failures_total{{{release}}}"] == 4


def test_what_a_library_counts_in_the_same_folder_is_not_told(tmp_path):
    """Feast's gauges carry the pid: each worker that ever lived would stay a series of its own."""
    theirs = WORKER.replace("import sys\n", "import sys\nfrom prometheus_client import Gauge\n", 1) + (
        "Gauge('feast_server_up', 'theirs').set(1)\nprint(metrics.text().decode())\n")
    text = subprocess.run([sys.executable, "-c", theirs, str(tmp_path)], check=True, timeout=60, capture_output=True,
                          text=True, env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}).stdout
    assert list(tmp_path.glob("gauge*.db"))
    assert {line.split()[2][:6] for line in text.splitlines() if line.startswith("# TYPE")} == {"churn_"}


def test_a_folder_without_the_mode_of_several_processes_is_refused(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
    seen = subprocess.run([sys.executable, "-c", WORKER, str(tmp_path)], env=environment, check=False, timeout=60,
                          capture_output=True, text=True)
    assert "ReleaseError: cannot count together" in seen.stderr
    with pytest.raises(ReleaseError, match="no such folder"):
        ServiceMetrics("churn:v1", tmp_path / "nowhere")


def test_many_scores_at_once_are_counted_as_one_by_one():
    drawn = random.Random(1)
    scores = [0.0, 1.0, *SCORES, *(drawn.random() for _ in range(500))]
    at_once, by_one = ServiceMetrics("bulk"), ServiceMetrics("single")
    at_once.rows(scores, [("leave", "budget")] * len(scores))
    for score in scores:
        by_one.rows([score], [("leave", "budget")])
    seen, expected = (values(one.text().decode().replace(name, "release"))
                      for one, name in ((at_once, "bulk"), (by_one, "single")))
    assert {name for name in seen if "created" not in name} == {name for name in expected if "created" not in name}
    for name, value in expected.items():
        if "created" not in name:
            assert seen[name] == pytest.approx(value), name
