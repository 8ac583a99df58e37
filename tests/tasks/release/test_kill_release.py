"""The release flow, killed with -9 after every single thing it does to the world, ends where an undisturbed one does.

Real supervisor, real processes, the flow's own function in a process of its own; only the Bento is a small program,
the judge says `advance`, and Prefect and MLflow are left out (they have tests of their own).
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from flows import release as release_flow
from flows import releasing
from models.charter import load_charter
from models.decision import Decision
from models.limits import Rollout
from tasks.home import Home
from tasks.release import endings, model_registry, package, release_process, releases, rollouts, settle
from tasks.release.processes import programs, start_supervisor, stop_supervisor
from tasks.release.release_process import ReleasePlace, program_name
from tasks.release.rollouts import OPEN_STATES, RolloutRow
from tasks.release.routing import read_routes
from tasks.state import open_state, read_decisions

pytestmark = pytest.mark.service

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.tasks.release.test_kill_release"])
REPO = Path(__file__).parents[3]
BACKEND = Path(__file__).with_name("release_backend.py")
FIRST_PORT = 25250
LIMITS = Rollout(stages=(0.3, 0.6), shadow_first=True)
# What the flow does to the world: our state, the ledger, processes, routes, MLflow's alias.
EFFECTS: tuple[tuple[Any, str], ...] = (
    (rollouts, "open_new"), (rollouts, "_transition"), (rollouts, "touch_look"), (releases, "claim_port"),
    (releases, "free_port"), (release_process, "start_program"), (settle, "stop_program"), (settle, "set_routes"),
    (endings, "record_decision"), (releasing, "record_decision"), (releasing, "mirror_champion"))


def make_place(root: Path) -> ReleasePlace:
    home = Home(root)
    return ReleasePlace(home=home, engine=open_state(home.state_url), limits=LIMITS, repo=root,
                        first_port=FIRST_PORT, ready_seconds=60)


class Alias:
    """MLflow's registry as far as the flow writes it: a file."""

    def __init__(self, home: Home) -> None:
        self.file = home.root / "alias"

    def set_registered_model_alias(self, _name: str, _alias: str, version: str) -> None:
        self.file.write_text(version)


def use_small_parts(root: Path, seen: str) -> None:
    """In the process that runs the flow. The judge is content with where the step began, and waits after it."""
    package.bento_payload = lambda home, tag: home.root / "bento" / tag.replace(":", "-")  # type: ignore[assignment]
    package.bento_venv = lambda _home, _tag: Path(sys.prefix)  # type: ignore[assignment]
    package.serve_command = lambda home, tag, _venv, *, port: (  # type: ignore[assignment]
        [sys.executable, str(BACKEND), str(port), tag, str(home.root / "mode")], package.store_variables(home))
    model_registry._client = Alias
    charter = load_charter(REPO / "charter.yaml").model_copy(update={"rollout": LIMITS})
    release_flow.release_place = lambda: (charter, make_place(root))  # type: ignore[attr-defined]
    release_flow.step = lambda work: work  # type: ignore[assignment]
    release_flow.get_run_logger = lambda: logging.getLogger("flow")  # type: ignore[attr-defined]
    release_flow.follow_schedule = lambda _place: True  # type: ignore[assignment]
    release_flow.look = lambda _place, rollout: Decision(  # type: ignore[attr-defined]
        rollout.state, "advance" if f"{rollout.state} {rollout.stage}" == seen else "hold", "the judge says so")


def run_call(root: Path, what: str, seen: str, die_after: int) -> None:
    """One call of the flow, or of a rollback by hand; with `die_after` its process ends by SIGKILL after so many
    effects."""
    use_small_parts(root, seen)
    left = [die_after]
    for module, name in EFFECTS:
        setattr(module, name, counting(getattr(module, name), left))
    if what == "rollback":
        releasing.roll_back_now(*release_flow.release_place(), who="ada", why="complaints")
    elif what.isdigit():
        release_flow.release.fn(version=int(what), who="ada", why="test", strategy="canary")
    else:
        release_flow.release.fn()


def counting(work: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    def call(*given: Any, **named: Any) -> Any:
        answer = work(*given, **named)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    return call


def call(root: Path, what: str, seen: str, die_after: int = 0) -> int:
    process = CONTEXT.Process(target=run_call, args=(root, what, seen, die_after))
    process.start()
    process.join(120)
    assert process.exitcode in (0, -9), f"{what} ended with {process.exitcode}"
    return int(process.exitcode or 0)


def where(place: ReleasePlace) -> str:
    rollout = rollouts.open_rollout(place.engine)
    return f"{rollout.state} {rollout.stage}" if rollout else ""


def again(place: ReleasePlace, what: str) -> str:
    """What is called after a kill: the same where it had not begun, else the schedule's call."""
    serving = rollouts.champion(place.engine)
    if what == "rollback":
        return what if serving and serving.release_id == "churn:2" else "advance"
    if what.isdigit():
        begun = rollouts.open_rollout(place.engine) or (serving and serving.release_id == f"churn:{what}")
        return "advance" if begun else what
    return what


CALLS = ("1", "2", "advance", "advance", "advance", "rollback")
AFTER = ("champion", "shadow", "canary", "canary", "champion", "champion")  # the newest rollout that is not rolled back


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for folder in tmp_path.iterdir():
        if (folder / "run").is_dir():
            stop_supervisor(Home(folder))


def begin(root: Path) -> ReleasePlace:
    place = make_place(root)
    start_supervisor(place.home)
    (root / "mlflow").mkdir()
    for name in ("1", "2"):
        folder = root / "bento" / f"churn-{name}"
        folder.mkdir(parents=True)
        pd.DataFrame({"x": [0.5], "expected_probability": [0.5]}).to_parquet(folder / "golden.parquet")
        releases.register_release(place.engine, release_id=f"churn:{name}", model_version=name, run_id="run",
                                  fingerprint=name, as_of="2025-01-01", auc=0.7, monthly_value=1.0)
    return place


def everything(place: ReleasePlace) -> dict[str, Any]:
    """Where the world stands, without times and ids."""
    routes = read_routes(place.home)
    ends = [row for row in read_decisions(place.engine) if row.decision.gate in ("release", "go")]
    return {
        "rollouts": [(row.release_id, row.state, row.stage, row.strategy) for row in all_rollouts(place)],
        "routes": {role: one.release_id for role in ("champion", "canary", "shadow", "fallback")
                   if (one := getattr(routes, role))},
        "share": routes.canary_share,
        "programs": sorted(programs(place.home)),
        "alias": (place.home.root / "alias").read_text() if (place.home.root / "alias").exists() else "",
        "ledger": sorted((row.decision.gate, row.decision.verdict) for row in ends),
    }


def all_rollouts(place: ReleasePlace) -> list[RolloutRow]:
    import sqlalchemy as sa

    from tasks.tables import ROLLOUTS

    return rollouts._read(place.engine, sa.select(ROLLOUTS).order_by(ROLLOUTS.c.opened_at))


def check_nothing_hurts(place: ReleasePlace, routed: list[str]) -> None:
    """What must hold at every instant, whoever was killed when."""
    assert sum(row.state in OPEN_STATES for row in all_rollouts(place)) <= 1, "two candidates"
    routes, running = read_routes(place.home), programs(place.home)
    for one in filter(None, (routes.champion, routes.canary, routes.shadow, routes.fallback)):
        known = running.get(program_name(one.release_id))
        assert known, f"{one} is routed, and its process is gone"
        assert known.state in ("RUNNING", "STARTING"), (one, known)
        assert releases.read_release(place.engine, one.release_id).port == one.port
    if routes.champion:
        routed.append(routes.champion.release_id.partition(":")[2])
    alias = place.home.root / "alias"
    if alias.exists():
        assert alias.read_text() in routed, "the alias is ahead of the route"


def test_killed_after_each_thing_it_does_a_release_ends_where_an_undisturbed_one_does(root: Path) -> None:
    quiet = begin(root / "quiet")
    stations = []
    for what in CALLS:
        assert call(quiet.home.root, what, where(quiet)) == 0
        stations.append(everything(quiet))
    stop_supervisor(quiet.home)
    assert [station["rollouts"][-1][1] for station in stations[:-1]] == list(AFTER[:-1])
    assert stations[-1]["routes"] == {"champion": "churn:1"}
    assert stations[-1]["alias"] == "1"

    place, kills, routed = begin(root / "killed"), 0, ["1"]
    for what, station in zip(CALLS, stations, strict=True):
        die_after, now, seen = 1, what, where(place)
        while call(place.home.root, now, seen, die_after) == -9:
            kills, die_after = kills + 1, die_after + 1
            check_nothing_hurts(place, routed)
            assert die_after < 40
            now = again(place, what)
            if everything(place) == station:  # nothing is left to do: the schedule's next call belongs to the next step
                break
        check_nothing_hurts(place, routed)
        assert everything(place) == station, f"after {what}"
    print(f"\n{kills} kills")
    assert kills >= 30
