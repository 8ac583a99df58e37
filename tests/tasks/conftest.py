"""A small shop for the stages: a handful of customers whose numbers can be checked by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from feature_repo.contract import CONTRACT, RAW_TABLES, Snapshot
from models.charter import Charter, load_charter
from models.contract import Contract
from tasks.data.ingest import Load, ingest_sources
from tasks.data.sources import Sources, TableSource
from tasks.features.snapshots import build_snapshot
from tasks.home import Home
from tasks.release.processes import start_supervisor, stop_supervisor
from tasks.state import open_state
from tasks.state_store import state_place

REPO = Path(__file__).parents[2]
ORDER_COLUMNS = ("order_id", "customer_id", "ordered_at", "items", "amount", "arrived_at")
CUSTOMER_COLUMNS = ("customer_id", "updated_at", "signed_up_at", "birth_year", "plan", "channel", "arrived_at")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def state_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place for our state, on each engine it may be on."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state.db"
    return state_place(request.getfixturevalue("postgres_url"))


@pytest.fixture
def charter() -> Charter:
    return load_charter(REPO / "charter.yaml")


@pytest.fixture
def supervised_home(tmp_path: Path) -> Iterator[Home]:
    """A home whose supervisor runs, without a program yet."""
    home = Home(tmp_path / "home")
    start_supervisor(home)
    try:
        yield home
    finally:
        stop_supervisor(home)


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@dataclass
class Shop:
    """A home under tmp_path, fed with rows written as CSV lines."""

    home: Home
    engine: sa.Engine
    charter: Charter
    contract: Contract
    sources: Sources

    def write(self, table: str, *rows: str, file: str = "a.csv") -> None:
        columns = {"orders": ORDER_COLUMNS, "customers": CUSTOMER_COLUMNS}[table]
        path = self.home.landing / table / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([",".join(columns), *rows]) + "\n", encoding="utf-8")

    def ingest(self, as_of: str) -> Load:
        return ingest_sources(self.sources, self.contract, RAW_TABLES, charter=self.charter, home=self.home,
                              engine=self.engine, root=REPO, as_of=day(as_of))


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return make_shop(tmp_path)


def make_shop(folder: Path) -> Shop:
    """Orders and customers; one good customer, one good order, room for 60 % bad rows and old data."""
    home = Home(folder)
    charter = load_charter(REPO / "charter.yaml")
    lenient = charter.requirements.model_copy(update={"max_bad_share": 0.6, "max_data_age_days": 1000})
    sources = Sources(tables={
        "orders": TableSource(path=str(home.landing / "orders/*.csv"), columns={name: name for name in ORDER_COLUMNS}),
        "customers": TableSource(path=str(home.landing / "customers/*.csv"),
                                 columns={name: name for name in CUSTOMER_COLUMNS}),
    })
    charter = charter.model_copy(update={"requirements": lenient})
    contract = CONTRACT.effective(sources.tables, eligible_within_days=60)
    made = Shop(home, open_state(home.state_url), charter, contract, sources)
    made.write("customers", "c1,2024-01-01,2023-06-01,1980,basic,search,2024-01-01")
    made.write("orders", "o1,c1,2024-01-10,1,10.00,2024-01-10")
    return made


@pytest.fixture
def orders_only(tmp_path: Path) -> Callable[..., Shop]:
    """A source with orders alone, without order numbers and arrival times."""
    def make(*rows: str) -> Shop:
        home = Home(tmp_path)
        path = home.landing / "orders.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(["customer_id,date,items,value", *rows]) + "\n", encoding="utf-8")
        columns = {"customer_id": "customer_id", "ordered_at": "date", "items": "items", "amount": "value"}
        sources = Sources(tables={"orders": TableSource(path=str(path), columns=columns)})
        charter = load_charter(REPO / "examples/cdnow/charter.yaml")
        lenient = charter.requirements.model_copy(update={"max_data_age_days": 1000})
        return Shop(home, open_state(home.state_url), charter.model_copy(update={"requirements": lenient}),
                    CONTRACT.effective(["orders"], eligible_within_days=None), sources)

    return make


STORES = (
    "sqlite, sqlite", pytest.param("redis, sqlite", marks=pytest.mark.service),
    pytest.param("redis, postgresql", marks=pytest.mark.service),
)


@pytest.fixture(params=STORES)
def stores(request: pytest.FixtureRequest, shop: Shop) -> Shop:
    """A shop whose online features and registry are in each pair of stores in turn."""
    online, registry = request.param.split(", ")
    if online == "redis":
        url, project = request.getfixturevalue("redis_project")
        shop.home = replace(shop.home, name=project, online_store=url)
    if registry == "postgresql":
        shop.home = replace(shop.home, feature_registry=request.getfixturevalue("postgres_url"))
    return shop


@pytest.fixture
def filled(stores: Shop) -> Shop:
    """Two customers, one of them silent since January, and the snapshots of February and March in Feast."""
    from tasks.features.apply import apply_features

    stores.write("customers", "c1,2024-01-01,2023-06-01,1980,basic,search,2024-01-01",
                 "c2,2024-01-01,2023-06-01,1990,premium,social,2024-01-01")
    stores.write("orders", "o1,c1,2024-01-10,1,10,2024-01-10", "o2,c1,2024-02-10,1,20,2024-02-10",
                 "o3,c2,2023-12-15,1,30,2024-01-01")
    stores.ingest("2024-06-01")
    for cut in ("2024-02-01", "2024-03-01"):
        build_snapshot(stores.contract, Snapshot, home=stores.home, engine=stores.engine, cut=day(cut))
    apply_features(stores.contract, stores.home)
    return stores


@pytest.fixture
def mlflow_home(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Home:
    """A home whose MLflow tables are copied, not made: making them takes seconds."""
    from tasks.training.tracking import mlflow_client
    from tests.tasks.training.experiment import home_of

    made = tmp_path_factory.getbasetemp() / "mlflow-tables.db"
    if not made.exists():
        empty = home_of(tmp_path_factory.mktemp("mlflow"))
        mlflow_client(empty)
        made.write_bytes((empty.mlflow / "mlflow.db").read_bytes())
    home = home_of(tmp_path)
    home.mlflow.mkdir()
    (home.mlflow / "mlflow.db").write_bytes(made.read_bytes())
    return home
