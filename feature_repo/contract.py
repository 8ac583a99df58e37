"""The domain, said once: raw tables, the snapshot of a customer at a cut, and what each column means.

A fork edits this folder and the two files that say what is predicted and from what; nothing else names
a column. Pandera validates with these models; Feast, the estimator, the service and the drift check
follow from `CONTRACT`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pandera.polars as pa
import polars as pl

from models.contract import Contract

FOLDER: Final = Path(__file__).parent
_MOMENT: Final = pl.Datetime("us", "UTC")
_MONEY: Final = pl.Decimal(18, 2)


def _raw(role: str, unit: str, description: str, *, wording: str | None = None, dimension: str = "accuracy",
         required: bool = True, references: str | None = None, not_before: str | None = None, **checks: Any) -> Any:
    """A raw column.

    Args:
        wording: the reason that a row which breaks its checks is given in the quarantine.
        dimension: of data quality, of its checks: accuracy, completeness, consistency or timeliness.
        references: the table whose entity key it must find.
        not_before: TABLE.COLUMN of the row it refers to, which may not be later.
    """
    metadata = {"role": role, "unit": unit, "wording": wording, "dimension": dimension, "required": required,
                "references": references, "not_before": not_before}
    return pa.Field(description=description, metadata=metadata, **checks)


def _feature(unit: str, description: str, *, role: str = "numeric", table: str | None = None, ages: bool = False,
             owner: str = "data scientist", **checks: Any) -> Any:
    """A column of the snapshot.

    Args:
        table: the optional raw table it cannot do without.
        ages: it grows with the age of the data, whatever customers do: its drift is shown, and is no reason to act.
        owner: the role that answers for its meaning.
    """
    metadata = {"role": role, "unit": unit, "table": table, "ages": ages, "owner": owner}
    return pa.Field(description=description, metadata=metadata, **checks)


class Orders(pa.DataFrameModel):
    """Purchases; one row an order."""

    order_id: str = _raw("row_key", "id", "the shop's number of the order", required=False, nullable=True)
    customer_id: str = _raw("entity_key", "id", "who ordered", references="customers")
    ordered_at: _MOMENT = _raw("event_time", "UTC", "when the order was placed",  # type: ignore[valid-type]
                               not_before="customers.signed_up_at")
    items: pl.Int64 = _raw("attribute", "count", "pieces in the order", wording="items is not between 1 and 10,000",
                           ge=1, le=10_000)
    amount: _MONEY = _raw("attribute", "currency", "what was paid",  # type: ignore[valid-type]
                          wording="amount is not between 0 and 1,000,000", ge=0, le=1_000_000)
    arrived_at: _MOMENT = _raw("arrival_time", "UTC", "when we learnt of it",  # type: ignore[valid-type]
                               required=False, nullable=True)


class Customers(pa.DataFrameModel):
    """What is known of a customer; a change is a new row with a later `updated_at`."""

    customer_id: str = _raw("entity_key", "id", "who")
    updated_at: _MOMENT = _raw("event_time", "UTC", "since when the row holds")  # type: ignore[valid-type]
    signed_up_at: _MOMENT = _raw("attribute", "UTC", "when the customer joined")  # type: ignore[valid-type]
    birth_year: pl.Int64 = _raw("attribute", "year", "year of birth", wording="birth_year is not between 1900 and 2020",
                                ge=1900, le=2020)
    plan: str = _raw("attribute", "plan", "what the customer subscribed to",
                     wording="plan is not basic, standard or premium", isin=["basic", "standard", "premium"])
    channel: str = _raw("attribute", "channel", "where the customer came from",
                        wording="channel is not search, social, partner or direct",
                        isin=["search", "social", "partner", "direct"])
    arrived_at: _MOMENT = _raw("arrival_time", "UTC", "when we learnt of it",  # type: ignore[valid-type]
                               required=False, nullable=True)

    # At a column, not at the frame: there Pandera writes out the whole row of each failure (14 times the CPU).
    @pa.check("updated_at", name="signed_up_first", title="consistency",
              description="updated_at is before signed_up_at")
    def _signed_up_first(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col("signed_up_at") <= pl.col("updated_at"))


class Snapshot(pa.DataFrameModel):
    """One customer at one cut, from what had happened and arrived before it; `snapshot.sql` computes it."""

    customer_id: str = _feature("id", "who", role="entity_key")
    event_timestamp: _MOMENT = _feature("UTC", "the cut", role="event_time")  # type: ignore[valid-type]
    created_timestamp: _MOMENT = _feature("UTC", "the cut", role="arrival_time")  # type: ignore[valid-type]
    eligible: bool = _feature("flag", "ordered recently enough to be worth keeping", role="eligible")

    recency_days: float = _feature("days", "since the last order", ge=0)
    first_order_days: float = _feature("days", "since the first order", ages=True, ge=0)
    orders_7d: pl.Int64 = _feature("count", "orders in the last 7 days", ge=0)
    orders_30d: pl.Int64 = _feature("count", "orders in the last 30 days", ge=0)
    orders_90d: pl.Int64 = _feature("count", "orders in the last 90 days", ge=0)
    orders_180d: pl.Int64 = _feature("count", "orders in the last 180 days", ge=0)
    orders_total: pl.Int64 = _feature("count", "orders ever", ages=True, ge=1)
    orders_trend: float = _feature("log ratio", "orders of the last 30 days over a third of the last 90, one added to "
                                                "each")
    spend_7d: float = _feature("currency", "spent in the last 7 days", ge=0)
    spend_30d: float = _feature("currency", "spent in the last 30 days", ge=0)
    spend_90d: float = _feature("currency", "spent in the last 90 days", ge=0)
    spend_180d: float = _feature("currency", "spent in the last 180 days", ge=0)
    spend_total: float = _feature("currency", "spent ever", ages=True, ge=0)
    spend_trend: float = _feature("log ratio", "spend of the last 30 days over a third of the last 90, one added to "
                                               "each")
    mean_order: float = _feature("currency", "mean order", ge=0)
    mean_order_90d: float = _feature("currency", "mean order of the last 90 days, where there is one", ge=0,
                                     nullable=True)
    max_order: float = _feature("currency", "largest order", ages=True, ge=0)
    last_order: float = _feature("currency", "the last order", ge=0)
    items_90d: pl.Int64 = _feature("count", "pieces in the last 90 days", ge=0)
    mean_gap_days: float = _feature("days", "mean days between orders, where there are two", ge=0, nullable=True)
    gap_variation_180d: float = _feature("ratio", "standard deviation over mean of the gaps that ended in the last 180 "
                                                  "days, where there are two: 0 is clockwork", ge=0, nullable=True)
    longest_gap_days: float = _feature("days", "longest time between two orders, where there are two", ages=True, ge=0,
                                       nullable=True)
    last_gap_days: float = _feature("days", "between the last two orders, where there are two", ge=0, nullable=True)
    last_gap_ratio: float = _feature("ratio", "the last gap over the mean one, where there is one", ge=0, nullable=True)
    overdue_ratio: float = _feature("ratio", "recency over the mean gap, where there is one", ge=0, nullable=True)
    weekend_share_180d: float = _feature("share", "orders of the last 180 days on a Saturday or Sunday (UTC), where "
                                                  "there is one", ge=0, le=1, nullable=True)
    age_years: float = _feature("years", "age at the cut", table="customers", owner="data engineer", nullable=True)
    tenure_days: float = _feature("days", "since joining", ages=True, table="customers", owner="data engineer", ge=0,
                                  nullable=True)
    plan: str = _feature("plan", "plan at the cut", role="categorical", table="customers", owner="data engineer",
                         nullable=True, isin=["basic", "standard", "premium"])
    plan_changes_180d: pl.Int64 = _feature("count", "changes of plan in the last 180 days", table="customers", ge=0,
                                           nullable=True)
    channel: str = _feature("channel", "where the customer came from", role="categorical", table="customers",
                            owner="data engineer", nullable=True, isin=["search", "social", "partner", "direct"])

    churned: bool = _feature("flag", "no order in [cut, cut + horizon)", role="label")


RAW_TABLES: Final[dict[str, type[pa.DataFrameModel]]] = {"orders": Orders, "customers": Customers}

CONTRACT: Final = Contract.from_schemas(
    {name: model.to_schema() for name, model in RAW_TABLES.items()},
    Snapshot.to_schema(),
    sql={name: (FOLDER / name).read_text(encoding="utf-8") for name in ("snapshot.sql", "labels.sql")},
    optional=("customers",),
)
