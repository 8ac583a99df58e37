"""A home in which the tiny release is champion, and a snapshot for it to score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import sqlalchemy as sa

from models.charter import Charter
from tasks.data.lake import snapshot_partition
from tasks.home import Home
from tasks.release import releases, rollouts
from tasks.state import open_state
from tests.release_payload import AS_OF, CHARTER, tiny_contract, write_payload

TINY = Charter.model_validate(CHARTER)


def snapshot_rows(count: int, seed: int = 5) -> pl.DataFrame:
    """Members of the tiny contract, in the order of their key; some are not active, some values are missing."""
    rng = np.random.default_rng(seed)
    spend = pl.Series(rng.gamma(2, 20, count))
    return pl.DataFrame({
        "member_id": [f"m{number:07d}" for number in range(count)],
        "active": rng.random(count) < 0.9,
        "visits": rng.poisson(4, count),
        "spend": spend.set(pl.Series(rng.random(count) < 0.1), None),
        "tier": pl.Series(["gold", "silver", None])[rng.integers(0, 3, count)],
    })


def write_snapshot(home: Home, rows: pl.DataFrame) -> Path:
    path = snapshot_partition(home, tiny_contract().fingerprint, AS_OF)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows.write_parquet(path, row_group_size=50_000)
    return path


def crown(home: Home, engine: sa.Engine, version: str = "1", **manifest: object) -> str:
    """Make a release with the tiny payload champion, as the end of a rollout would."""
    release_id = f"churn:v{version}"
    write_payload(home.bentoml / f"bentos/churn/v{version}/src/release", **manifest)
    releases.register_release(engine, release_id=release_id, model_version=version, run_id="run", auc=0.7,
                              fingerprint=tiny_contract().fingerprint, as_of=AS_OF.isoformat(), monthly_value=1.0)
    opened = rollouts.open_new(engine, release_id=release_id, strategy="basic", who="ada", why="test")
    assert rollouts.close(engine, opened, state="champion", reason="test")
    return release_id


def make_home(folder: Path, rows: int) -> tuple[Home, sa.Engine]:
    """A champion, and a snapshot of so many members."""
    home = Home(folder, TINY.name)
    engine = open_state(home.state_url)
    write_snapshot(home, snapshot_rows(rows))
    crown(home, engine)
    return home, engine
