"""The release flow against a Prefect server, MLflow, supervisor and Envoy; only the Bento is a small program."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest

from deploy.local import release_by_hand
from deploy.local.parts import make_secrets
from flows import release as flow_module
from flows.pause import pause
from flows.promote import promote
from flows.resume import resume
from flows.rollback import rollback
from flows.settings import load_place, load_settings
from models.errors import ConfigError, ReleaseError
from tasks.home import Home
from tasks.release import package, releases, rollouts
from tasks.release.processes import start_supervisor, stop_supervisor
from tasks.release.routing import read_routes
from tasks.state import open_state, read_decisions

pytestmark = [pytest.mark.service, pytest.mark.usefixtures("prefect_harness")]

BACKEND = Path(__file__).parents[1] / "tasks" / "release" / "release_backend.py"
CHARTER = """
name: tiny
problem: {horizon_days: 30, first_as_of: 2025-01-01}
value: {customers: 10, monthly_churners: 2, share_found: 0.5, share_who_stay: 0.5, worth_of_saved: 5, contact_budget: 2}
rollout: {stages: [0.5], time_limit_minutes: 1440}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    home = Home(tmp_path / "home")
    (tmp_path / "charter.yaml").write_text(CHARTER)
    monkeypatch.setenv("CHURN_CHARTER", str(tmp_path / "charter.yaml"))
    monkeypatch.setenv("CHURN_HOME", str(home.root))
    monkeypatch.setenv("CHURN_RELEASE_PORT", "24240")
    monkeypatch.setattr(package, "bento_payload", lambda home, tag: bento(home, tag))
    monkeypatch.setattr(package, "bento_venv", lambda _home, _tag: Path(sys.prefix))
    monkeypatch.setattr(package, "serve_command", lambda home, tag, _venv, *, port: (
        [sys.executable, str(BACKEND), str(port), tag, str(home.root / "mode")], {}))
    monkeypatch.setattr(flow_module, "build_bento", build_bento)
    start_supervisor(home)
    try:
        yield home
    finally:
        stop_supervisor(home)


def bento(home: Home, tag: str) -> Path:
    folder = home.root / "bentos" / tag
    if not folder.exists():
        raise ReleaseError(f"cannot find the Bento {tag!r}")
    return folder


def build_bento(payload: Path, *, home: Home, repo: Path) -> str:
    assert (repo / "flows").is_dir()
    tag = f"churn:v{json.loads((payload / 'release.json').read_text())['model_version']}"
    (home.root / "bentos").mkdir(exist_ok=True)
    payload.rename(home.root / "bentos" / tag)
    (home.root / "bentos" / tag / "was-built").touch()
    payload.mkdir()
    (payload / "release.json").write_text((home.root / "bentos" / tag / "release.json").read_text())
    return tag


def train(home: Home, version: int) -> None:
    """A registered version whose run left a payload."""
    import mlflow

    mlflow.set_tracking_uri(home.mlflow_uri)
    home.mlflow.mkdir(exist_ok=True)
    client = mlflow.MlflowClient(tracking_uri=home.mlflow_uri)
    if not client.search_registered_models():
        client.create_registered_model("tiny")
        client.create_experiment("tiny", artifact_location=str(home.mlflow / "artifacts"))
    run = client.create_run(client.get_experiment_by_name("tiny").experiment_id)
    folder = home.root / f"payload-{version}"
    folder.mkdir()
    pd.DataFrame({"x": [0.25], "expected_probability": [0.25]}).to_parquet(folder / "golden.parquet")
    (folder / "release.json").write_text(json.dumps({
        "model_version": str(version), "run_id": run.info.run_id, "as_of": "2025-01-01T00:00:00+00:00",
        "fingerprint": "f", "auc": 0.7, "monthly_value": 10.0}))
    client.log_artifacts(run.info.run_id, str(folder), "payload")
    client.create_model_version("tiny", f"runs:/{run.info.run_id}/payload", run.info.run_id)


def alias(home: Home) -> str:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=home.mlflow_uri)
    return str(client.get_model_version_by_alias("tiny", "champion").version)


def schedule_is_active() -> bool:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return client.read_deployment_by_name("release/release").schedules[0].active


def test_versions_are_released_advanced_and_rolled_back(home: Home) -> None:
    flow_module.release.to_deployment("release", interval=timedelta(minutes=1), paused=False).apply()
    engine = open_state(home.state_url)
    train(home, 1)
    train(home, 2)

    assert flow_module.release().reason == "no rollout is open: nothing to advance"
    assert not schedule_is_active()

    first = flow_module.release(version=1, who="ada", why="the first one")
    assert (first.gate, first.verdict) == ("release", "release")
    assert read_routes(home).champion is not None
    assert alias(home) == "1"
    with pytest.raises(ReleaseError, match="cannot release version 1: it is the champion already"):
        flow_module.release(version=1)
    with pytest.raises(ReleaseError, match="cannot release version 7 of tiny: there is none; known: 1, 2"):
        flow_module.release(version=7)

    second = flow_module.release(version=2, who="ada", why="better")
    assert (second.gate, second.verdict) == ("canary", "advance")
    assert read_routes(home).canary_share == 0.5
    assert schedule_is_active()
    with pytest.raises(ReleaseError, match="cannot release version 2: the rollout of churn:v2 is open since"):
        flow_module.release(version=2)
    waiting = flow_module.release()
    assert waiting.verdict == "hold"
    paused = pause(who="ada", why="lunch")
    assert (paused.gate, paused.verdict) == ("pause", "paused")
    assert "is paused since" in flow_module.release().reason
    assert resume(who="ada", why="back").verdict == "resumed"

    (home.serving / "access.jsonl").parent.mkdir(exist_ok=True)
    rollout = rollouts.open_rollout(engine)
    assert rollout is not None
    line = {"rollout": rollout.rollout_id, "share": "0.5", "cluster": "canary_or_stable/churn:v2/24241", "code": 200,
            "attempts": 2, "ms": 3, "answered_by": "churn:v1"}
    with (home.serving / "access.jsonl").open("a") as log:
        log.writelines(json.dumps({**line, "customer": f"{number}"}) + "\n" for number in range(60))
    back = flow_module.release()
    assert (back.gate, back.verdict) == ("release", "rolled back")
    assert "kill switch: 60 of 60 canary requests failed" in back.reason
    assert not schedule_is_active()
    assert alias(home) == "1"

    verdicts = [(row.decision.gate, row.decision.verdict) for row in reversed(read_decisions(engine))]
    assert verdicts == [("smoke", "pass"), ("release", "release"), ("go", "go"), ("smoke", "pass"),
                        ("canary", "advance"), ("canary", "hold"), ("pause", "paused"), ("canary", "hold"),
                        ("pause", "resumed"), ("canary", "roll back"), ("release", "rolled back"), ("go", "no go")]
    row = read_decisions(engine)[0]
    assert row.as_of == "2025-01-01T00:00:00+00:00"
    assert row.subject == "churn:v2"
    assert row.flow_run_id

    refused = flow_module.release(version=2, by_itself=True)  # the loop does not try again what was rolled back
    assert (refused.gate, refused.verdict) == ("release", "refuse")
    assert "its model is that of churn:v2, which was rolled back (kill switch" in refused.reason
    assert rollouts.open_rollout(engine) is None
    flow_module.release(version=2, strategy="shadow")  # a person may; its Bento is there: not built again
    assert read_routes(home).shadow is not None
    assert promote(who="ada", why="sure of it").verdict == "release"
    assert alias(home) == "2"
    assert rollback(who="ada", why="was wrong").verdict == "rolled back"
    assert alias(home) == "1"


def test_a_release_whose_smoke_test_fails_is_refused(home: Home) -> None:
    train(home, 1)
    (home.root / "mode").write_text("wrong")
    decision = flow_module.release(version=1, who="ada", why="the first one")
    assert (decision.gate, decision.verdict) == ("release", "refuse")
    assert "golden rows up to 0.1 away" in decision.reason
    assert rollouts.open_rollout(open_state(home.state_url)) is None


def command(what: str, monkeypatch: pytest.MonkeyPatch, **values: str) -> int:
    """`make WHAT NAME=value ...`."""
    for name in ("VERSION", "STRATEGY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"WHO": "ada", "WHY": "test", **values}.items():
        monkeypatch.setenv(name, value)
    _charter, home = load_place(load_settings())
    make_secrets(home)
    return release_by_hand.main(what)


@pytest.mark.parametrize("what", ["promote", "pause", "resume"])
def test_a_command_says_in_one_line_that_the_platform_does_not_run(
    what: str, home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_supervisor(home)
    assert command(what, monkeypatch) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "does not run. Start it with `make run`" in said


def test_an_open_rollout_is_rolled_back_by_its_command_while_supervisor_is_dead(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_state(home.state_url)
    for version in ("1", "2"):
        releases.register_release(engine, release_id=f"churn:v{version}", model_version=version, run_id=version,
                                  fingerprint="f", as_of="2025-01-01T00:00:00+00:00", auc=0.8, monthly_value=1.0)
        opened = rollouts.open_new(engine, release_id=f"churn:v{version}", strategy="basic", who="ada", why="try")
        if version == "1":
            rollouts.close(engine, opened, state="champion", reason="the first")
    stop_supervisor(home)
    assert command("rollback", monkeypatch) == 0
    assert "churn:v2 is rolled back: by " in capsys.readouterr().out
    assert rollouts.open_rollout(engine) is None
    serving = rollouts.champion(engine)
    assert serving
    assert serving.release_id == "churn:v1"


@pytest.mark.usefixtures("home")
def test_with_nothing_open_each_command_says_so_in_one_line_and_nobody_stays_nameless(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for what in ("promote", "pause", "resume"):
        assert command(what, monkeypatch) == 1
        assert capsys.readouterr().err.startswith(f"error: cannot {what}: no rollout is open; nothing was released yet")
    assert command("rollback", monkeypatch) == 1
    assert "cannot roll back: no rollout is open, and there is no champion" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="cannot promote: who and why is empty"):
        promote(who=" ", why="")


def test_a_rollback_needs_neither_prefect_nor_mlflow(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(home, 1)
    train(home, 2)
    for version in (1, 2):
        assert flow_module.release(version=version, who="ada", why="test", strategy="basic").verdict == "release"
    assert alias(home) == "2"
    monkeypatch.setenv("CHURN_PREFECT_PORT", "9")  # nobody answers there
    database = home.mlflow / "mlflow.db"
    database.rename(home.mlflow / "away.db")
    database.write_bytes(b"no database at all" * 100)
    begun = time.monotonic()
    assert command("rollback", monkeypatch, WHY="complaints") == 0
    with capsys.disabled():
        print(f"\nrolled back in {time.monotonic() - begun:.2f} s with Prefect away and MLflow broken")
    assert "release: rolled back: churn:v1 is champion again, churn:v2 is rolled back by ada: complaints" in (
        capsys.readouterr().out)
    champion = read_routes(home).champion
    assert champion is not None
    assert champion.release_id == "churn:v1"
    (home.mlflow / "away.db").replace(database)
    flow_module.release()  # the alias follows when MLflow is back
    assert alias(home) == "1"
