"""What the demos share: a platform of their own beside the user's, its customers, and a rollout told as it goes."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import polars as pl
import sqlalchemy as sa
import yaml

from deploy.local.platform import Platform, start_platform, stop_platform
from deploy.local.run import warming_up
from deploy.local.traffic import Customer
from flows.settings import REPO, Settings, load_place
from models.charter import Charter
from models.contract import Contract
from models.errors import PipelineError, PlatformError
from tasks.data.lake import snapshot_folder
from tasks.home import Home
from tasks.release import rollouts
from tasks.release.package import bento_payload
from tasks.release.rollouts import RolloutRow, Strategy
from tasks.state import read_decisions

# Minutes instead of days. The judge is the real one: fewer customers only make it less sure before it advances.
LIMITS: Final = {"strategy": "canary", "stages": [0.2, 0.35, 0.5], "least_customers": 50, "max_error_excess": 0.1,
                 "max_slow_excess": 0.4, "time_limit_minutes": 5}
# A demo's state is its own, in its home: not the user's stores, nor their keys, which its customers do not have; and it
# tells nobody. What is not set here has its default.
OWN: Final = ("sources", "state_url", "online_store", "feature_registry", "scores_url", "api_keys", "metrics_port",
              "maturity", "notify")
PEOPLE: Final = 3000
LOOK_SECONDS: Final = 2.0
LONGEST: Final = 600.0  # seconds a rollout may take here
Tell = Callable[[sa.Engine, RolloutRow, int, float], int]


def beside(settings: Settings, *, name: str, ports: int, charter: Mapping[str, Mapping[str, Any]]) -> Settings:
    """The same settings with a home, ports, stores and a charter of the demo's own.

    Args:
        name: of its home, beside or below the user's.
        ports: how far its ports lie from the user's.
        charter: section -> keys that differ from the sample world's charter.

    Raises:
        PlatformError: the home cannot be written.
    """
    home = home_beside(settings, name)
    document = yaml.safe_load((REPO / "charter.yaml").read_text(encoding="utf-8"))
    for section, changes in charter.items():
        document[section] = document.get(section, {}) | dict(changes)
    try:
        home.mkdir(parents=True, exist_ok=True)
        (home / "charter.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise PlatformError(f"cannot write the demo's home {home}: {error.strerror}. Set CHURN_HOME to a folder you "
                            "may write") from None
    moved = {port: getattr(settings, port) + ports for port in ("api_port", "prefect_port", "mlflow_port",
                                                                "release_port")}
    highest = max(moved.values())
    if highest >= 65526:
        raise PlatformError(f"cannot use port {highest} for the demo: it takes the ports {ports} above yours, up to "
                            "65525. Set CHURN_*_PORT to lower ones")
    return settings.model_copy(update={"home": home, "charter": home / "charter.yaml", "env_file": home / ".env",
                                       **{own: Settings.model_fields[own].default for own in OWN
                                          if own in Settings.model_fields}, **moved})


def home_beside(settings: Settings, name: str) -> Path:
    """The demo's home, below the user's or in `data/`."""
    return (settings.home or REPO / "data").absolute() / name


@contextlib.contextmanager
def platform_beside(settings: Settings, *, after: str) -> Iterator[tuple[Charter, Home, Platform]]:
    """Run the demo's platform while the block runs; stopped at its end, however it ends.

    Args:
        after: what is said at the end.

    Raises:
        PlatformError: it does not start.
    """
    for variable in OWN:
        os.environ.pop(f"CHURN_{variable}".upper(), None)  # flows and the worker read them
    charter, home = load_place(settings)
    running = None
    try:
        say(f"platform, beside yours, in {home.root}")
        with warming_up() as warm_up:
            running = start_platform(settings, charter, home, say=say, meanwhile=warm_up)
        yield charter, home, running
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave half of it running
        if running:
            with contextlib.suppress(PipelineError, TimeoutError):
                running.rest.result(timeout=60)  # else it would start what is being stopped
        stop_platform(settings, home)
        say(after)


def roll_out(engine: sa.Engine, version: int, *, who: str, why: str, tell: Tell) -> RolloutRow:
    """Release a version by canary, and look until its rollout ends."""
    from flows.release import release

    begun = time.monotonic()
    strategy: Strategy = "canary"
    release(version=version, who=who, why=why, strategy=strategy)
    return follow_rollout(engine, begun=begun, who=who, tell=tell)


def follow_rollout(engine: sa.Engine, *, begun: float, who: str, tell: Tell) -> RolloutRow:
    """A look every LOOK_SECONDS, until the newest rollout ends; what the ledger gains is told as it grows.

    Raises:
        PlatformError: it does not end.
    """
    from flows.release import release

    told = 0
    rollout = rollouts.last_rollout(engine)
    assert rollout is not None
    while True:
        told = tell(engine, rollout, told, begun)
        rollout = rollouts.read_rollout(engine, rollout.rollout_id)
        if rollout.closed_at:
            return rollout
        if time.monotonic() - begun > LONGEST:
            raise PlatformError(f"cannot show the end of the rollout of {rollout.release_id}: it is still "
                                f"{rollout.state} after {LONGEST:g} s")
        time.sleep(LOOK_SECONDS)
        release(who=who, why="a look")


def tell_nothing(_engine: sa.Engine, _rollout: RolloutRow, _told: int, _begun: float) -> int:
    """For a rollout that is told once it is over."""
    return 0


def customers_of(home: Home, release_id: str) -> list[Customer]:
    """Who is eligible in the newest snapshot of a release's contract, with the features a caller would send."""
    contract = Contract.from_json((bento_payload(home, release_id) / "contract.json").read_text(encoding="utf-8"))
    newest = max(snapshot_folder(home, contract.fingerprint).glob("*.parquet"))
    rows = pl.read_parquet(newest).filter(pl.col(contract.eligible)).sort(contract.entity_key).head(PEOPLE)
    return [Customer(str(row[contract.entity_key]), {name: row[name] for name in contract.feature_names})
            for row in rows.iter_rows(named=True)]


def promoted_versions(engine: sa.Engine) -> list[int]:
    """Versions that won their gate, newest first."""
    return [int(row.subject or 0) for row in read_decisions(engine, gate="promotion", limit=1000)
            if row.decision.verdict == "promote"]


def canary_of(engine: sa.Engine) -> str | None:
    """The release that gets a share of the customers now."""
    rollout = rollouts.open_rollout(engine)
    return rollout.release_id if rollout and rollout.state == "canary" else None


def say(line: str) -> None:
    print(line, flush=True)

