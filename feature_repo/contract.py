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

from models.contract_schemas import contract_from_schemas

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
             owner: str = "data scientist", group: str = "", segment: bool = False, sign: int = 0, high: str = "",
             low: str = "", **checks: Any) -> Any:
    """A column of the snapshot.

    Args:
        table: the optional raw table it cannot do without.
        ages: it grows with the age of the data, whatever customers do: its drift is shown, and is no reason to act.
        owner: the role that answers for its meaning.
        group: what it is made with; groups are added one by one to see what each is worth.
        segment: scores are also reported for each of its values (a number: for each quarter of its range).
        sign: +1 where more of it means more churn, -1 less, 0 not stated.
        high: the reason in words where it is high, `{value}` for its value; `low` where it is low.
    """
    metadata = {"role": role, "unit": unit, "table": table, "ages": ages, "owner": owner, "group": group,
                "segment": segment, "sign": sign, "reason": high, "reason_low": low}
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


class Contacts(pa.DataFrameModel):
    """Who was contacted to keep them; one row a contact. What happened next says nothing of who would have left."""

    customer_id: str = _raw("entity_key", "id", "who")
    contacted_at: _MOMENT = _raw("event_time", "UTC", "when")  # type: ignore[valid-type]
    arrived_at: _MOMENT = _raw("arrival_time", "UTC", "when we learnt of it",  # type: ignore[valid-type]
                               required=False, nullable=True)


class Snapshot(pa.DataFrameModel):
    """One customer at one cut, from what had happened and arrived before it; `snapshot.sql` computes it."""

    customer_id: str = _feature("id", "who", role="entity_key")
    event_timestamp: _MOMENT = _feature("UTC", "the cut", role="event_time")  # type: ignore[valid-type]
    created_timestamp: _MOMENT = _feature("UTC", "the cut", role="arrival_time")  # type: ignore[valid-type]
    eligible: bool = _feature("flag", "ordered recently enough to be worth keeping", role="eligible")

    recency_days: float = _feature(
        "days", "since the last order", ge=0, group="recency", segment=True, sign=1,
        high="no order for {value} days", low="last order only {value} days ago",
    )
    first_order_days: float = _feature(
        "days", "since the first order", ages=True, ge=0, group="recency", sign=-1,
        high="first order {value} days ago", low="first order only {value} days ago",
    )
    orders_7d: pl.Int64 = _feature(
        "count", "orders in the last 7 days", ge=0, group="frequency", sign=-1,
        high="{value} orders in the last 7 days", low="{value} orders in the last 7 days",
    )
    orders_30d: pl.Int64 = _feature(
        "count", "orders in the last 30 days", ge=0, group="frequency", sign=-1,
        high="{value} orders in the last 30 days", low="only {value} orders in the last 30 days",
    )
    orders_90d: pl.Int64 = _feature(
        "count", "orders in the last 90 days", ge=0, group="frequency", sign=-1,
        high="{value} orders in the last 90 days", low="only {value} orders in the last 90 days",
    )
    orders_180d: pl.Int64 = _feature(
        "count", "orders in the last 180 days", ge=0, group="frequency", sign=-1,
        high="{value} orders in the last 180 days", low="only {value} orders in the last 180 days",
    )
    orders_total: pl.Int64 = _feature(
        "count", "orders ever", ages=True, ge=1, group="frequency", segment=True, sign=-1,
        high="{value} orders so far", low="only {value} orders so far",
    )
    orders_trend: float = _feature(
        "log ratio", "orders of the last 30 days over a third of the last 90, one added to each", group="trend",
        sign=-1, high="orders have become more frequent lately", low="orders have become rarer lately",
    )
    spend_7d: float = _feature(
        "currency", "spent in the last 7 days", ge=0, group="value", sign=-1,
        high="spent {value} in the last 7 days", low="spent only {value} in the last 7 days",
    )
    spend_30d: float = _feature(
        "currency", "spent in the last 30 days", ge=0, group="value", sign=-1,
        high="spent {value} in the last 30 days", low="spent only {value} in the last 30 days",
    )
    spend_90d: float = _feature(
        "currency", "spent in the last 90 days", ge=0, group="value", sign=-1,
        high="spent {value} in the last 90 days", low="spent only {value} in the last 90 days",
    )
    spend_180d: float = _feature(
        "currency", "spent in the last 180 days", ge=0, group="value", sign=-1,
        high="spent {value} in the last 180 days", low="spent only {value} in the last 180 days",
    )
    spend_total: float = _feature(
        "currency", "spent ever", ages=True, ge=0, group="value", sign=-1, high="spent {value} so far",
        low="spent only {value} so far",
    )
    spend_trend: float = _feature(
        "log ratio", "spend of the last 30 days over a third of the last 90, one added to each", group="trend",
        sign=-1, high="spends more lately than before", low="spends less lately than before",
    )
    mean_order: float = _feature(
        "currency", "mean order", ge=0, group="value", high="an average order of {value}",
        low="an average order of only {value}",
    )
    mean_order_90d: float = _feature(
        "currency", "mean order of the last 90 days, where there is one", ge=0, nullable=True, group="value",
        high="an average order of {value} in the last 90 days",
        low="an average order of only {value} in the last 90 days",
    )
    max_order: float = _feature(
        "currency", "largest order", ages=True, ge=0, group="value", high="a largest order of {value}",
        low="a largest order of only {value}",
    )
    last_order: float = _feature(
        "currency", "the last order", ge=0, group="value", high="a last order of {value}",
        low="a last order of only {value}",
    )
    items_90d: pl.Int64 = _feature(
        "count", "pieces in the last 90 days", ge=0, group="value", sign=-1,
        high="{value} pieces in the last 90 days", low="only {value} pieces in the last 90 days",
    )
    mean_gap_days: float = _feature(
        "days", "mean days between orders, where there are two", ge=0, nullable=True, group="regularity", sign=1,
        high="{value} days between orders on average", low="only {value} days between orders on average",
    )
    gap_variation_180d: float = _feature(
        "ratio",
        "standard deviation over mean of the gaps that ended in the last 180 days, where there are two: 0 is clockwork",
        ge=0, nullable=True, group="regularity", high="orders at irregular times", low="orders like clockwork",
    )
    longest_gap_days: float = _feature(
        "days", "longest time between two orders, where there are two", ages=True, ge=0, nullable=True,
        group="regularity", high="was once silent for {value} days",
        low="was never silent for more than {value} days",
    )
    last_gap_days: float = _feature(
        "days", "between the last two orders, where there are two", ge=0, nullable=True, group="regularity", sign=1,
        high="{value} days between the last two orders", low="only {value} days between the last two orders",
    )
    last_gap_ratio: float = _feature(
        "ratio", "the last gap over the mean one, where there is one", ge=0, nullable=True, group="regularity",
        sign=1, high="took {value} times the usual time for the last order",
        low="took only {value} times the usual time for the last order",
    )
    overdue_ratio: float = _feature(
        "ratio", "recency over the mean gap, where there is one", ge=0, nullable=True, group="regularity", sign=1,
        high="silent for {value} times the usual gap", low="silent for only {value} times the usual gap",
    )
    weekend_share_180d: float = _feature(
        "share", "orders of the last 180 days on a Saturday or Sunday (UTC), where there is one", ge=0, le=1,
        nullable=True, group="regularity", high="orders mostly at weekends", low="orders mostly on working days",
    )
    age_years: float = _feature(
        "years", "age at the cut", table="customers", owner="data engineer", nullable=True, group="customer",
        segment=True, high="is {value} years old", low="is only {value} years old",
    )
    tenure_days: float = _feature(
        "days", "since joining", ages=True, table="customers", owner="data engineer", ge=0, nullable=True,
        group="customer", segment=True, sign=-1, high="joined {value} days ago", low="joined only {value} days ago",
    )
    plan: str = _feature(
        "plan", "plan at the cut", role="categorical", table="customers", owner="data engineer", nullable=True,
        isin=["basic", "standard", "premium"], group="customer", segment=True, high="is on the plan {value}",
        low="is on the plan {value}",
    )
    plan_changes_180d: pl.Int64 = _feature(
        "count", "changes of plan in the last 180 days", table="customers", ge=0, nullable=True, group="customer",
        high="{value} changes of plan in the last 180 days", low="{value} changes of plan in the last 180 days",
    )
    channel: str = _feature(
        "channel", "where the customer came from", role="categorical", table="customers", owner="data engineer",
        nullable=True, isin=["search", "social", "partner", "direct"], group="customer", segment=True,
        high="came by the channel {value}", low="came by the channel {value}",
    )

    churned: bool = _feature("flag", "no order in [cut, cut + horizon)", role="label")


RAW_TABLES: Final[dict[str, type[pa.DataFrameModel]]] = {"orders": Orders, "customers": Customers, "contacts": Contacts}

CONTRACT: Final = contract_from_schemas(
    {name: model.to_schema() for name, model in RAW_TABLES.items()},
    Snapshot.to_schema(),
    sql={name: (FOLDER / name).read_text(encoding="utf-8") for name in ("snapshot.sql", "labels.sql")},
    optional=("customers", "contacts"),
    contacts="contacts",
)
