"""The sample world keeps its promises: all of them recomputed from its files, with other people's code."""

import json
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from examples.shop.generate import write_world
from examples.shop.law import World
from examples.shop.truth import auc

SMALL = World(customers=400, months=6, data_drift_month=3, concept_drift_month=4, reference_month=2)
TIME = "%Y-%m-%d %H:%M:%S"
QUIET = range(6, 16)  # cuts whose 180 days lie in the files and whose month is before any drift


@dataclass(frozen=True)
class Shop:
    landing: Path
    truth: dict[str, Any]
    dirty: pl.DataFrame
    raw: dict[str, pl.DataFrame]  # all rows, strings, with `file` and `line`
    customers: pl.DataFrame  # clean and typed
    orders: pl.DataFrame

    def month(self, m: int) -> dict[str, Any]:
        return next(row for row in self.truth["months"] if row["month"] == m)


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    landing = write_world(tmp_path_factory.mktemp("shop") / "landing")
    dirty = pl.read_csv(landing / "truth" / "dirty.csv")
    raw = {table: read(landing, table) for table in ("customers", "orders")}
    clean = {
        name: rows.join(dirty, on=["file", "line"], how="anti").with_columns(
            pl.col(c).str.to_datetime(TIME) for c in rows.columns if c.endswith("_at")
        )
        for name, rows in raw.items()
    }
    customers = clean["customers"].with_columns(pl.col("birth_year").cast(pl.Int64))
    orders = clean["orders"].with_columns(pl.col("amount").cast(pl.Float64), pl.col("items").cast(pl.Int64))
    truth = json.loads((landing / "truth" / "truth.json").read_text())
    return Shop(landing, truth, dirty, raw, customers, orders)


@pytest.fixture(scope="session")
def rows(shop: Shop) -> dict[int, pl.DataFrame]:
    """Features and label of every eligible customer, by cut, from the files; from cut 3 on they are whole."""
    return {m: eligible_at(shop, first_of(m)) for m in range(2, 24)}


def read(landing: Path, table: str) -> pl.DataFrame:
    def batch(file: Path) -> pl.DataFrame:
        found = pl.read_csv(file, infer_schema=False).with_row_index("line", offset=2)
        return found.with_columns(pl.col("line").cast(pl.Int64), pl.lit(f"{table}/{file.name}").alias("file"))

    return pl.concat(batch(file) for file in sorted((landing / table).glob("*.csv")))


def first_of(month: int) -> datetime:
    return datetime(2024 + month // 12, month % 12 + 1, 1)


def eligible_at(shop: Shop, cut: datetime) -> pl.DataFrame:
    def since(days: int) -> pl.Expr:
        return pl.col("ordered_at") >= cut - timedelta(days=days)

    history = shop.orders.filter(pl.col("ordered_at") < cut)
    features = history.group_by("customer_id").agg(
        recency=(pl.lit(cut) - pl.col("ordered_at").max()).dt.total_seconds() / 86_400,
        **{f"n{d}": since(d).sum() for d in (30, 90, 180)},
        **{f"spend{d}": pl.col("amount").filter(since(d)).sum() for d in (30, 90, 180)},
    )
    plans = (
        shop.customers.filter(pl.col("updated_at") < cut).sort("updated_at").group_by("customer_id").last()
    )
    later = shop.orders.filter(pl.col("ordered_at").is_between(cut, cut + timedelta(days=30), closed="left"))
    return (
        features.filter(pl.col("recency") <= 60)
        .join(plans.select("customer_id", "plan", "birth_year"), on="customer_id", validate="1:1")
        .with_columns(
            age=cut.year - pl.col("birth_year"),
            price=pl.col("spend90") / pl.col("n90"),
            before=(pl.col("spend90") - pl.col("spend30")) / 2,
            churned=~pl.col("customer_id").is_in(later["customer_id"].implode()),
        )
        .with_columns(trend=(pl.col("spend30") - pl.col("before")) / (pl.col("spend30") + pl.col("before")))
        .sort("customer_id")
    )


def probability(rows: pl.DataFrame, effects: dict[str, float]) -> np.ndarray:
    eta = (
        effects["intercept"]
        + effects["recency"] * np.log1p(rows["recency"].to_numpy())
        + effects["frequency"] * np.log1p(rows["n90"].to_numpy())
        + effects["trend"] * rows["trend"].to_numpy()
        + effects["standard"] * (rows["plan"] == "standard").to_numpy()
        + effects["premium"] * (rows["plan"] == "premium").to_numpy()
        + effects["age"] * (rows["age"].to_numpy() - 42) / 10
        + effects["price"] * np.log(rows["price"].to_numpy() / 30)
    )
    return 1 / (1 + np.exp(-eta))


def psi(reference: pl.Series, current: pl.Series) -> float:
    """Ten bins by the reference's deciles, floor 1e-4: said once more, with numpy's histogram."""
    edges = np.unique(np.quantile(reference, np.linspace(0.1, 0.9, 9)))
    bins = [-np.inf, *edges, np.inf]
    a, b = (np.maximum(np.histogram(x, bins)[0] / len(x), 1e-4) for x in (reference, current))
    return float(np.sum((b - a) * np.log(b / a)))


def contents(landing: Path) -> dict[str, bytes]:
    return {str(f.relative_to(landing)): f.read_bytes() for f in sorted(landing.rglob("*")) if f.is_file()}


# The files as such


def test_the_same_seed_gives_the_same_bytes_and_another_seed_gives_others(tmp_path):
    first, second, other = (
        contents(write_world(tmp_path / name, replace(SMALL, seed=seed)))
        for name, seed in (("a", 7), ("b", 7), ("c", 8))
    )
    assert first == second
    assert all(text != other.get(name) for name, text in first.items())


def test_what_happens_before_a_drift_is_the_same_without_it(tmp_path):
    drifting = contents(write_world(tmp_path / "drifting", SMALL))
    quiet = contents(
        write_world(tmp_path / "quiet", replace(SMALL, data_drift_month=99, concept_drift_month=99))
    )
    same = {name for name, text in drifting.items() if text == quiet.get(name)}
    assert {f"{table}/2024-0{m}.csv" for table in ("customers", "orders") for m in (1, 2, 3)} <= same
    assert "customers/2024-04.csv" not in same
    assert "orders/2024-05.csv" not in same


def test_a_world_that_is_there_already_is_left_alone(tmp_path):
    landing = write_world(tmp_path / "landing", SMALL)
    before = {f: f.stat().st_mtime_ns for f in landing.rglob("*")}
    write_world(landing, SMALL)
    assert {f: f.stat().st_mtime_ns for f in landing.rglob("*")} == before


def test_another_world_or_half_a_world_is_never_overwritten(tmp_path):
    landing = write_world(tmp_path / "landing", SMALL)
    with pytest.raises(FileExistsError, match="seed 8"):
        write_world(landing, replace(SMALL, seed=8))
    (landing / "truth" / "truth.json").unlink()
    with pytest.raises(FileExistsError, match="other files"):
        write_world(landing, SMALL)


def test_a_failure_midway_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("examples.shop.generate.write_truth", fail)
    with pytest.raises(OSError, match="disk full"):
        write_world(tmp_path / "landing", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_the_default_sources_file_names_every_file_and_column(shop: Shop):
    sources = yaml.safe_load((Path(__file__).parents[3] / "feature_repo/sources.yaml").read_text())
    for table, source in sources["tables"].items():
        files = list(shop.landing.glob(source["path"].removeprefix("${CHURN_HOME}/landing/")))
        assert sorted(files) == sorted((shop.landing / table).iterdir())
        for file in files:
            header = file.open().readline().strip().split(",")
            assert list(source["columns"]) == list(source["columns"].values()) == header


def test_rows_lie_in_the_file_of_the_month_they_arrived_in(shop: Shop):
    for table, raw in shop.raw.items():
        assert (raw["file"] == table + "/" + raw["arrived_at"].str.head(7) + ".csv").all()


def test_two_percent_of_the_orders_are_days_late_and_none_more_than_five(shop: Shop):
    late_days = (shop.orders["arrived_at"] - shop.orders["ordered_at"]).dt.total_seconds().to_numpy() / 86_400
    assert 0 < late_days.min() < late_days.max() < 5
    assert 0.015 < (late_days >= 1).mean() < 0.025
    next_month = shop.orders["arrived_at"].dt.month() != shop.orders["ordered_at"].dt.month()
    assert next_month.sum() > 50


# Dirt


def test_half_a_percent_of_the_rows_is_spoiled(shop: Shop):
    for table, raw in shop.raw.items():
        share = shop.dirty["file"].str.starts_with(table).sum() / raw.height
        assert 0.004 < share < 0.006


def test_every_spoiled_row_is_what_the_truth_says_and_no_other_is(shop: Shop):
    def is_wrong(column: str) -> dict[str, pl.Expr]:
        value, number = pl.col(column), pl.col(column).cast(pl.Float64, strict=False)
        arrived = pl.col("arrived_at").str.to_datetime(TIME)
        happened = value.str.to_datetime(TIME, strict=False) if column.endswith("_at") else arrived
        return {
            "customer_id": {
                "empty customer_id": value.is_null(),
                "unknown customer": ~value.is_in(shop.customers["customer_id"].unique().implode()),
            },
            "updated_at": {"malformed date": happened.is_null()},
            "ordered_at": {
                "malformed date": happened.is_null(),
                "ordered_at after arrived_at": happened > arrived,
            },
            "amount": {
                "amount not a number": number.is_null() | number.is_nan(),
                "negative amount": number <= 0,
            },
            "order_id": {"repeated order_id": ~pl.struct("file", "order_id").is_first_distinct()},
            "plan": {"unknown plan": ~value.is_in(["basic", "standard", "premium"])},
            "birth_year": {"impossible birth_year": number < 1900},
        }.get(column, {})

    found = [
        row
        for raw in shop.raw.values()
        for column in raw.columns
        for what, wrong in is_wrong(column).items()
        for row in raw.filter(wrong).select("file", "line", pl.lit(what)).iter_rows()
    ]
    assert sorted(found) == sorted(shop.dirty.iter_rows())
    assert shop.dirty["what"].n_unique() == 9


# The truth


def test_labels_from_the_files_are_the_planted_draws(shop: Shop, rows: dict[int, pl.DataFrame]):
    truth = pl.read_parquet(shop.landing / "truth" / "customers.parquet")
    for m, found in rows.items():
        planted = truth.filter(pl.col("cut").dt.replace_time_zone(None) == first_of(m)).sort("customer_id")
        assert planted["customer_id"].equals(found["customer_id"], null_equal=False)
        assert (planted["churned"] == found["churned"]).all()
        assert shop.month(m)["eligible"] == found.height
        assert shop.month(m)["churn_rate"] == pytest.approx(found["churned"].mean())


def test_planted_probabilities_follow_from_the_files(shop: Shop, rows: dict[int, pl.DataFrame]):
    truth = pl.read_parquet(shop.landing / "truth" / "customers.parquet")
    world = shop.truth["world"]
    for m in range(3, 24):
        effects = world["effects"] if m < world["concept_drift_month"] else world["effects_after"]
        planted = truth.filter(pl.col("cut").dt.replace_time_zone(None) == first_of(m)).sort("customer_id")
        np.testing.assert_allclose(probability(rows[m], effects), planted["p"], rtol=1e-9)


def test_planted_figures_follow_from_the_files(shop: Shop, rows: dict[int, pl.DataFrame]):
    world = shop.truth["world"]
    for m in range(3, 24):
        effects = world["effects"] if m < world["concept_drift_month"] else world["effects_after"]
        best, frozen = (
            roc_auc_score(rows[m]["churned"], probability(rows[m], e)) for e in (effects, world["effects"])
        )
        assert shop.month(m)["auc_best"] == pytest.approx(best, abs=1e-9)
        assert shop.month(m)["auc_frozen"] == pytest.approx(frozen, abs=1e-9)
        assert shop.month(m)["psi_age"] == pytest.approx(psi(rows[12]["age"], rows[m]["age"]), abs=1e-9)


def test_the_truths_auc_counts_ties_half():
    churned, score = np.array([True, False, True, False, False]), np.array([0.5, 0.5, 0.7, 0.2, 0.7])
    assert auc(churned, score) == pytest.approx(4 / 6) == roc_auc_score(churned, score)


def test_draws_follow_the_planted_probabilities(shop: Shop):
    truth = pl.read_parquet(shop.landing / "truth" / "customers.parquet")
    for group in truth.sort("p").iter_slices(len(truth) // 20):
        p, churned = group["p"].to_numpy(), group["churned"].to_numpy()
        assert abs(churned.mean() - p.mean()) < 4 * np.sqrt((p * (1 - p)).sum()) / p.size


def test_in_quiet_months_churn_is_10_to_14_percent_and_hard_but_possible_to_foresee(shop: Shop):
    quiet = [shop.month(m) for m in range(1, 16)]
    assert all(0.10 < month["churn_rate"] < 0.14 for month in quiet)
    assert 0.82 < np.mean([month["auc_best"] for month in quiet]) < 0.84


def test_in_quiet_months_no_distribution_moves(rows: dict[int, pl.DataFrame]):
    names = ["recency", "n30", "n90", "n180", "spend30", "spend90", "spend180", "price", "trend", "age"]
    pairs = [(m, m + 1) for m in range(8, 15)] + [(12, 15)]
    moved = {(n, a, b): psi(rows[a][n], rows[b][n]) for n in names for a, b in pairs}
    assert max(moved.values()) < 0.02, moved
    assert 0.9 < rows[15].height / rows[8].height < 1.1


def test_age_drifts_within_two_months_and_not_before(shop: Shop):
    drift = {m: shop.month(m)["psi_age"] for m in range(1, 24)}
    assert all(drift[m] < 0.02 for m in range(1, 17))
    assert all(drift[m] >= 0.1 for m in range(18, 24))
    assert shop.truth["data_drift_at"] == "2025-05-01"


def test_the_old_score_fails_with_the_concept_drift_and_not_before_while_a_good_one_stays_possible(
    shop: Shop,
):
    usual = np.mean([shop.month(m)["auc_frozen"] for m in range(1, 19)])
    for m in range(1, 19):
        assert shop.month(m)["auc_frozen"] == shop.month(m)["auc_best"] == pytest.approx(usual, abs=0.03)
    for m in range(19, 24):
        assert shop.month(m)["auc_frozen"] < min(usual, shop.month(m)["auc_best"]) - 0.06
        assert shop.month(m)["auc_best"] == pytest.approx(usual, abs=0.04)
    assert shop.truth["concept_drift_at"] == "2025-08-01"


@pytest.mark.parametrize("name", ["recency", "frequency", "trend", "plan", "age", "price"])
def test_every_effect_matters(shop: Shop, rows: dict[int, pl.DataFrame], name: str):
    effects = shop.truth["world"]["effects"]
    without = effects | dict.fromkeys(["standard", "premium"] if name == "plan" else [name], 0.0)
    quiet = pl.concat([rows[m] for m in QUIET])
    whole, less = (roc_auc_score(quiet["churned"], probability(quiet, e)) for e in (effects, without))
    assert less < whole - 0.002
