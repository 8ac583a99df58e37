"""A small platform for failure drills: real Bentos under supervisor behind the real Envoy, a real Feast store.

Three releases: the champion before, the champion, and a canary; another reads one feature more. Each has its own
probabilities, so an answer tells by its score whose it was, and a wrong one is found.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import psutil
import skops.io

from models.charter import Charter
from models.contract import Check, Column, Contract
from models.serving.features_online import online_config
from models.serving.scorer import feature_frame
from models.training.estimators import make_pipeline
from tasks.home import Home
from tasks.release.package import bento_venv, build_bento, export_pins, serve_command
from tasks.release.processes import program, start_program, start_supervisor, stop_supervisor
from tasks.release.release_process import program_name
from tasks.release.routing import Upstream, envoy_answers, envoy_command, write_bootstrap
from tests.release_payload import AS_OF, CHARTER, KEY, SALT

REPO: Final = Path(__file__).resolve().parents[2]
MEMBERS: Final = 300
READY_SECONDS: Final = 180
BEFORE, CHAMPION, CANARY = "before", "champion", "canary"


def contract(*, wider: bool = False) -> Contract:
    """Two features; a wider one reads a third."""
    at_least_zero = Check("greater_than_or_equal_to(0)", "accuracy", "visits is below 0")
    return Contract(entity_key="member_id", label="left", tables=(), sql={}, snapshot=(
        Column("member_id", "string", "entity_key", "id", "who"),
        Column("active", "bool", "eligible", "flag", "may be scored"),
        Column("visits", "int64", "numeric", "count", "visits in 30 days", checks=(at_least_zero,)),
        Column("tier", "string", "categorical", "tier", "what was bought", categories=("gold", "silver")),
        *([Column("spend", "float64", "numeric", "currency", "spent in 30 days")] if wider else []),
    ))


@functools.cache
def members() -> pd.DataFrame:
    """(MEMBERS, 5) frame: id and the features of all contracts."""
    rng = np.random.default_rng(5)
    return pd.DataFrame({"member_id": [f"m{number}" for number in range(MEMBERS)], "active": True,
                         "visits": rng.poisson(4, MEMBERS), "tier": rng.choice(["gold", "silver"], MEMBERS),
                         "spend": rng.gamma(2, 20, MEMBERS).round(2)})


def fill_store(home: Home) -> None:
    """A view and a feature service for each contract, in one registry and one online store."""
    from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.types import Bool, Float64, Int64, String

    home.feast.mkdir(parents=True, exist_ok=True)
    frame = members().assign(**{name: pd.Series([AS_OF] * MEMBERS).astype("datetime64[us, UTC]")
                                for name in ("event_timestamp", "created_timestamp")})
    frame.to_parquet(home.feast / "snapshot.parquet")
    store = FeatureStore(config=RepoConfig(
        project=home.feast_project, provider="local", registry={"registry_type": "sql", "path": home.feast_registry},
        online_store=online_config(str(home.feast_online), seconds=5), offline_store={"type": "duckdb"},
        entity_key_serialization_version=3))
    types = {"bool": Bool, "int64": Int64, "float64": Float64, "string": String}
    member = Entity(name="member_id", join_keys=["member_id"], value_type=ValueType.STRING)
    source = FileSource(path=str(home.feast / "snapshot.parquet"), timestamp_field="event_timestamp",
                        created_timestamp_column="created_timestamp")
    for one in (contract(), contract(wider=True)):
        columns = [column for column in one.snapshot if column.role != "entity_key"]
        view = FeatureView(name=view_name(one), entities=[member], source=source, online=True,
                           schema=[Field(name=column.name, dtype=types[column.dtype]) for column in columns])
        store.apply([member, view, FeatureService(name=one.service_name, features=[view])])
        store.write_to_online_store(view.name, frame[[
            "member_id", *(column.name for column in columns), "event_timestamp", "created_timestamp"]],
            allow_registry_cache=False)  # its memory is by address: `tasks.features.apply.open_store`


def view_name(of: Contract) -> str:
    return f"features_{of.fingerprint[:8]}"


def write_payload(folder: Path, *, version: int, wider: bool = False) -> Path:
    """A release as training hands it over; each version was taught something else."""
    folder.mkdir(parents=True)
    its, rows = contract(wider=wider), members()
    pipeline = make_pipeline("logistic", its, random_state=7)
    pipeline.fit(feature_frame(rows, its), (rows["visits"] < 2 + version).astype(int))
    skops.io.dump(pipeline, folder / "pipeline.skops")
    (folder / "contract.json").write_text(its.to_json(), encoding="utf-8")
    (folder / "charter.json").write_text(Charter.model_validate(CHARTER).model_dump_json(), encoding="utf-8")
    (folder / "release.json").write_text(json.dumps({
        "model_version": str(version), "run_id": f"r{version}", "as_of": AS_OF.isoformat(),
        "fingerprint": its.fingerprint, "feature_service": its.service_name, "feature_view": view_name(its),
        "threshold": 0.3, "holdout_salt": SALT, "estimator": "logistic", "auc": 0.8, "monthly_value": 1000,
    }), encoding="utf-8")
    golden = rows.head(20)[list(its.feature_names)].astype({"visits": "float64"})
    expected = pipeline.predict_proba(feature_frame(golden, its))[:, 1]
    golden.assign(expected_probability=expected).to_parquet(folder / "golden.parquet")
    golden.to_parquet(folder / "reference.parquet")
    (folder / "requirements.txt").write_text(export_pins(REPO), encoding="utf-8")
    return folder


@dataclass
class Platform:
    """What runs: `releases` by role, the probability each must give for each member."""

    home: Home
    api: int
    releases: dict[str, Upstream] = field(default_factory=dict)
    expected: dict[str, Mapping[str, float]] = field(default_factory=dict)  # by release id, then by member

    def build(self, role: str, *, version: int, port: int, wider: bool = False) -> Upstream:
        """Build a release's Bento; it does not run yet."""
        payload = write_payload(self.home.root / "payloads" / str(version), version=version, wider=wider)
        tag = build_bento(payload, home=self.home, repo=REPO)
        pipeline = skops.io.load(payload / "pipeline.skops", trusted=skops.io.get_untrusted_types(
            file=payload / "pipeline.skops"))
        scores = pipeline.predict_proba(feature_frame(members(), contract(wider=wider)))[:, 1]
        self.expected[tag] = dict(zip(members()["member_id"], scores, strict=True))
        self.releases[role] = Upstream(tag, port)
        return self.releases[role]

    def start(self, role: str) -> None:
        """Start a release under supervisor; `ready` waits for it."""
        upstream = self.releases[role]
        command, environment = serve_command(self.home, upstream.release_id,
                                             bento_venv(self.home, upstream.release_id), port=upstream.port)
        start_program(self.home, program_name(upstream.release_id), command, environment=environment,
                      directory=self.home.root)

    def ready(self, *roles: str) -> None:
        """Wait until releases answer /readyz.

        Raises:
            TimeoutError: one did not within `READY_SECONDS`.
        """
        deadline = time.monotonic() + READY_SECONDS
        for role in roles:
            while not answers(self.releases[role].port, "/readyz"):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{role} is not ready after {READY_SECONDS} s")
                time.sleep(0.1)

    def parent(self, role: str) -> psutil.Process:
        pid = program(self.home, program_name(self.releases[role].release_id)).pid
        return psutil.Process(pid)

    def workers(self, role: str) -> list[psutil.Process]:
        """The processes that answer requests."""
        return self.parent(role).children()


@contextlib.contextmanager
def platform(root: Path, *, first_port: int) -> Iterator[Platform]:
    """Supervisor, Envoy and three releases, ready; nothing is routed yet. All of it ends with the block.

    Raises:
        OSError: one of the five ports is taken.
    """
    for port in range(first_port, first_port + 5):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    home = Home(root.absolute())
    for folder in (home.run, home.serving):
        folder.mkdir(parents=True, exist_ok=True)
    (home.run / "customer-key").write_bytes(KEY)
    (home.run / "clock").write_text("2025-01-02")
    fill_store(home)
    made = Platform(home, api=first_port)
    for number, role in enumerate((BEFORE, CHAMPION, CANARY), 1):
        made.build(role, version=number, port=first_port + number)
    start_supervisor(home)
    try:
        write_bootstrap(home, host="127.0.0.1", api_port=first_port)
        start_program(home, "envoy", envoy_command(home), environment={}, directory=home.root)
        for role in made.releases:
            made.start(role)
        made.ready(*made.releases)
        while not envoy_answers(home):
            time.sleep(0.05)
        yield made
    finally:
        stop_supervisor(home)


def answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def rows_of(member: str, its: Contract) -> dict[str, Any]:
    """The features of a member as a caller sends them."""
    row = members().set_index("member_id").loc[member, list(its.feature_names)]
    return {name: value.item() if hasattr(value, "item") else value for name, value in row.items()}
