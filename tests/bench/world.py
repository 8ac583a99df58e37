"""Worlds for the benches: N customers with about twelve orders each over 2024, as Parquet source files."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
import sqlalchemy as sa

from feature_repo.contract import CONTRACT, RAW_TABLES
from models.charter import Charter, load_charter
from models.contract import Contract
from tasks.data.ingest import ingest_sources
from tasks.data.sources import Sources, TableSource
from tasks.home import Home
from tasks.state import open_state

REPO: Final = Path(__file__).parents[2]
START: Final = datetime(2024, 1, 1, tzinfo=UTC)
AS_OF: Final = datetime(2025, 1, 1, tzinfo=UTC)
CUTS: Final = (*(datetime(2024, month, 1, tzinfo=UTC) for month in range(2, 13)), AS_OF)
ORDERS_EACH: Final = 12


@dataclass(frozen=True)
class World:
    """A folder with source files, and a home beside them whose lake holds what they say."""

    customers: int
    folder: Path

    @property
    def home(self) -> Home:
        return Home(self.folder / "home")

    @cached_property
    def engine(self) -> sa.Engine:
        return open_state(self.home.state_url)

    @cached_property
    def charter(self) -> Charter:
        return load_charter(REPO / "charter.yaml")

    @cached_property
    def sources(self) -> Sources:
        return Sources(tables={
            name: TableSource(
                path=str(self.folder / name / "*.parquet"),
                columns={column.name: column.name for column in CONTRACT.table(name).columns},
            )
            for name in ("customers", "orders")
        })

    @cached_property
    def contract(self) -> Contract:
        return CONTRACT.effective(self.sources.tables, eligible_within_days=60)

    def write_sources(self) -> None:
        """Seeded source files, one a month for orders; nothing is bad in them."""
        rng = np.random.default_rng(7)
        keys = pl.Series([f"c{number:07d}" for number in range(self.customers)])
        signed = _moments(-86_400 * rng.integers(0, 1000, self.customers))
        self._write("customers", "all", pl.DataFrame({
            "customer_id": keys, "updated_at": signed, "signed_up_at": signed,
            "birth_year": rng.integers(1940, 2005, self.customers),
            "plan": rng.choice(["basic", "standard", "premium"], self.customers),
            "channel": rng.choice(["search", "social", "partner", "direct"], self.customers),
            "arrived_at": signed,
        }))
        n = self.customers * ORDERS_EACH
        # Skewed: some customers order often, some once; everybody at least once.
        who = np.concatenate([
            np.arange(self.customers),
            (self.customers * rng.random(n - self.customers) ** 1.5).astype(np.int64),
        ])
        ordered = rng.integers(0, int((AS_OF - START).total_seconds()), n)
        arrived = np.minimum(ordered + rng.integers(0, 48 * 3600, n), int((AS_OF - START).total_seconds()))
        orders = pl.DataFrame({
            "order_id": pl.Series(np.arange(n)).cast(pl.String).str.zfill(9),
            "customer_id": keys.gather(who),
            "ordered_at": _moments(ordered),
            "items": rng.integers(1, 6, n),
            "amount": pl.Series(rng.gamma(2, 20, n)).round(2).cast(pl.Decimal(18, 2)),
            "arrived_at": _moments(arrived),
        }).sort("ordered_at")
        for (month,), rows in orders.group_by(pl.col("ordered_at").dt.month(), maintain_order=True):
            self._write("orders", f"2024-{month:02d}", rows)

    def _write(self, table: str, name: str, rows: pl.DataFrame) -> None:
        path = self.folder / table / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows.write_parquet(path)

    def fill_lake(self) -> None:
        """Ingest the source files, if that was not done before."""
        if not (self.folder / "orders").exists():
            self.write_sources()
        ingest_sources(self.sources, self.contract, RAW_TABLES, charter=self.charter, home=self.home,
                       engine=self.engine, root=REPO, as_of=AS_OF)


def _moments(seconds: np.ndarray) -> pl.Series:
    """Seconds since `START` as moments in UTC."""
    return (pl.Series(seconds).cast(pl.Int64) * 1_000_000 + int(START.timestamp() * 1e6)).cast(pl.Datetime("us", "UTC"))
