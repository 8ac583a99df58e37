"""A release of thirty features for the serving bench, and the servers it is compared with, as programs."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import psutil
import skops.io

from models.charter import Charter
from models.contract import Column, Contract
from models.serving.scorer import plain_rows, predict
from models.training.estimators import fit_pipeline
from models.training.platt import Calibration, fold_in
from tests.release_payload import CHARTER, KEY

REPO: Final = Path(__file__).resolve().parents[2]
AS_OF: Final = datetime(2025, 1, 1, tzinfo=UTC)
CUSTOMERS: Final = 1000
CONTRACT: Final = Contract(
    "customer_id", "left", (),
    (Column("customer_id", "string", "entity_key", "id", "who"),
     Column("active", "bool", "eligible", "flag", "may be scored"),
     *(Column(f"n{number:02d}", "float64", "numeric", "count", f"number {number}", nullable=True)
       for number in range(26)),
     *(Column(f"w{number}", "string", "categorical", "word", f"word {number}", nullable=True)
       for number in range(4))), {})
ENVIRONMENT: Final = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
                      "PYTHONOPTIMIZE": "1", "BENTOML_DO_NOT_TRACK": "True", "HOME": os.environ.get("HOME", "/")}

TYPED: Final = '''
"""What one writes first: a typed BentoML API over the pipeline and a data frame."""
from typing import Optional
import bentoml, pandas as pd, pydantic, skops.io
from models.serving.scorer import TRUSTED_TYPES

Row = pydantic.create_model("Row", **{name: (Optional[kind], None) for name, kind in FIELDS})

@bentoml.service(workers=1)
class Typed:
    def __init__(self):
        self.pipeline = skops.io.load("release/pipeline.skops", trusted=list(TRUSTED_TYPES))

    @bentoml.api
    def predict(self, rows: list[Row]) -> list[float]:
        frame = pd.DataFrame([row.model_dump() for row in rows])
        return self.pipeline.predict_proba(frame)[:, 1].tolist()
'''
NOOP: Final = '''
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

async def answer(request):
    await request.body()
    return Response(b'{"ok": true}', media_type="application/json")

app = Starlette(routes=[Route("/v1/score", answer, methods=["POST"]), Route("/readyz", answer)])
'''


def make_rows(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.gamma(2, 10, (n, 26)).round(2), columns=CONTRACT.numeric)
    for name in CONTRACT.numeric[::3]:
        frame.loc[rng.random(n) < 0.1, name] = np.nan
    for name in CONTRACT.categorical:
        frame[name] = rng.choice(np.array(["a", "b", "c", "d", None], dtype=object), n)
    return frame


def write_world(folder: Path) -> Any:
    """Payload, code and stores in a folder laid out as a Bento's; returns the fitted pipeline."""
    from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.types import Bool, Float64, String

    shutil.copytree(REPO / "models", folder / "models", ignore=shutil.ignore_patterns("__pycache__"))
    train = make_rows(8000, 1)
    odds = (train["n01"] - 20) / 8 - (train["n02"] - 20) / 10 + (train["w0"] == "a")
    y = (np.random.default_rng(2).random(len(train)) < 1 / (1 + np.exp(-odds))).astype(int)
    pipeline = fit_pipeline("boosting", train, y.to_numpy(), CONTRACT, random_state=7, params={
        "max_iter": 100, "max_leaf_nodes": 31, "learning_rate": 0.05, "l2_regularization": 5.0})
    fold_in(pipeline, Calibration("platt", 0.9, -0.1, ""))
    release = folder / "release"
    release.mkdir()
    skops.io.dump(pipeline, release / "pipeline.skops")
    (release / "contract.json").write_text(CONTRACT.to_json())
    (release / "charter.json").write_text(Charter.model_validate(CHARTER).model_dump_json())
    (release / "release.json").write_text(json.dumps({
        "model_version": "1", "as_of": AS_OF.isoformat(), "fingerprint": CONTRACT.fingerprint, "threshold": 0.3,
        "feature_service": CONTRACT.service_name, "feature_view": CONTRACT.view_name, "holdout_salt": "bench"}))
    golden = make_rows(50, 3)
    golden.assign(expected_probability=predict(pipeline, golden, CONTRACT)).to_parquet(release / "golden.parquet")
    train.head(5000).to_parquet(release / "reference.parquet")
    frame = make_rows(CUSTOMERS, 4).assign(active=True, event_timestamp=AS_OF, created_timestamp=AS_OF,
                                           customer_id=[f"c{number:06d}" for number in range(CUSTOMERS)])
    frame.to_parquet(folder / "snapshot.parquet")
    store = FeatureStore(config=RepoConfig(
        project="churn", provider="local", registry={"registry_type": "sql", "path": f"sqlite:///{folder}/registry.db"},
        online_store={"type": "sqlite", "path": str(folder / "online.db")}, offline_store={"type": "duckdb"},
        entity_key_serialization_version=3))
    customer = Entity(name="customer_id", join_keys=["customer_id"], value_type=ValueType.STRING)
    view = FeatureView(
        name=CONTRACT.view_name, entities=[customer], online=True, source=FileSource(
            path=str(folder / "snapshot.parquet"), timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp"),
        schema=[Field(name="active", dtype=Bool), *(Field(name=name, dtype=Float64) for name in CONTRACT.numeric),
                *(Field(name=name, dtype=String) for name in CONTRACT.categorical)])
    store.apply([customer, view, FeatureService(name=CONTRACT.service_name, features=[view])])
    store.write_to_online_store(CONTRACT.view_name, frame, allow_registry_cache=False)
    (folder / "key").write_bytes(KEY)
    (folder / "clock").write_text("2025-01-02")
    fields = [(name, "float" if name in CONTRACT.numeric else "str") for name in CONTRACT.feature_names]
    listed = "".join(f"({name!r}, {kind})," for name, kind in fields)
    (folder / "typed.py").write_text(f"FIELDS = [{listed}]\n{TYPED}")
    (folder / "noop.py").write_text(NOOP)
    return pipeline


def bodies(count: int, rows: int) -> list[bytes]:
    """Bodies of POST /v1/score, each another one."""
    plain = plain_rows(make_rows(count * rows, 5), CONTRACT.feature_names)
    return [json.dumps({"rows": plain[start : start + rows]}).encode() for start in range(0, count * rows, rows)]


def release(folder: Path, port: int, workers: int = 1) -> tuple[list[str], dict[str, str]]:
    """The release as the platform serves it."""
    return [sys.executable, "-m", "models.serving.prefork", "--port", str(port)], {
        "PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1", "CHURN_FEAST_REGISTRY": f"sqlite:///{folder}/registry.db",
        "CHURN_FEAST_ONLINE": str(folder / "online.db"), "CHURN_FEAST_PROJECT": "churn",
        "CHURN_CUSTOMER_KEY_FILE": str(folder / "key"), "CHURN_PREDICTION_LOG": str(folder / "predictions.jsonl"),
        "CHURN_CLOCK_FILE": str(folder / "clock"), "CHURN_RELEASE_WORKERS": str(workers),
        "CHURN_RELEASE_ID": "churn:bench"}


@contextlib.contextmanager
def serving(
    folder: Path, command: list[str], environment: dict[str, str], port: int, ready: str = "/readyz"
) -> Iterator[tuple[psutil.Process, float]]:
    """A server and the seconds until it was ready; ended with all it started."""
    log = folder / f"{port}.log"
    begun = time.monotonic()
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=folder, env={**ENVIRONMENT, **environment}, stdout=out,
                                   stderr=subprocess.STDOUT, start_new_session=True)
    server = psutil.Process(process.pid)
    try:
        while not _answers(port, ready):
            if process.poll() is not None or time.monotonic() - begun > 180:
                raise SystemExit(f"{command} is not ready:\n{log.read_text()[-3000:]}")
            time.sleep(0.02)
        yield server, time.monotonic() - begun
    finally:
        started = [server, *server.children(recursive=True)] if server.is_running() else []
        for one in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.terminate()
        for one in psutil.wait_procs(started, timeout=8)[1]:
            one.kill()


def _answers(port: int, path: str) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return connection.getresponse().status == 200
    return False
