"""The law of the sample world: which parameters it has, and how likely a customer is to churn."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

DAY = 86_400
PLANS = ("basic", "standard", "premium")
CHANNELS = ("search", "social", "partner", "direct")
ELIGIBLE_WITHIN_DAYS = 60


@dataclass(frozen=True)
class Effects:
    """What moves the log-odds that a customer orders nothing in the coming month."""

    intercept: float = -3.4
    recency: float = 1.2  # per unit of log1p(days since the last order)
    frequency: float = -0.75  # per unit of log1p(orders in the last 90 days)
    trend: float = -0.7  # per unit of spend trend, from -1 (stopped) to 1 (just began)
    standard: float = -0.5  # against plan basic
    premium: float = -1.0  # against plan basic
    age: float = -0.3  # per ten years above 42
    price: float = -0.5  # per unit of log(mean order value over 90 days / 30)
    gone: float = 6.0  # the log-odds themselves, once 90 days have passed without an order


# Who pays much, by the order or by the plan, used to stay; from the concept drift on it is they who leave.
# The intercept keeps the churn rate from jumping more than the drift itself makes it.
EFFECTS_AFTER = replace(Effects(), intercept=-4.7, price=1.0, standard=0.5, premium=1.0)


@dataclass(frozen=True)
class World:
    """The parameters of a world. Month 0 is a January, month m's cut is its first day, UTC."""

    seed: int = 7
    customers: int = 5_000  # with an order in the 60 days before month 0
    months: int = 24
    start_year: int = 2024
    acquisition: float = 0.052  # new customers a month, as a share of `customers`
    plan_change_share: float = 0.005  # of the eligible customers, a month
    late_share: float = 0.02  # of the orders: arrive 1 to 4 days late
    dirty_share: float = 0.005  # spoiled rows added, per clean row
    reference_month: int = 12  # what PSI compares with
    data_drift_month: int = 16  # from here on acquisition brings other people; >= months: never
    data_drift_acquisition: float = 1.7  # times as many of them
    concept_drift_month: int = 19  # from here on a high price drives customers away; >= months: never
    effects: Effects = Effects()
    effects_after: Effects = EFFECTS_AFTER

    def cut(self, month: int) -> datetime:
        """The first instant of `month`; negative months lie before the files."""
        return datetime(self.start_year + month // 12, month % 12 + 1, 1, tzinfo=UTC)

    def effects_in(self, month: int) -> Effects:
        """The effects that customers of `month` really follow."""
        return self.effects_after if month >= self.concept_drift_month else self.effects


def log_odds(
    effects: Effects, recency_days: Floats, orders: Ints, cents: Ints, plan: Ints, age: Ints
) -> Floats:
    """The log-odds of churn, one a customer.

    Args:
        recency_days: days since the last order, at the cut.
        orders: (n, 3) orders 0-30, 30-60 and 60-90 days before the cut.
        cents: (n, 3) spend likewise.
        plan: index into `PLANS`, valid at the cut.
        age: year of the cut less year of birth.
    """
    recent, before = cents[:, 0], cents[:, 1:].sum(axis=1) / 2
    n, spend = orders.sum(axis=1), cents.sum(axis=1)
    trend = (recent - before) / np.maximum(recent + before, 1)
    price = np.log(np.maximum(spend, 1) / np.maximum(n, 1) / 3000)
    eta = (
        effects.intercept
        + effects.recency * np.log1p(recency_days)
        + effects.frequency * np.log1p(n)
        + effects.trend * trend
        + np.array([0.0, effects.standard, effects.premium])[plan]
        + effects.age * (age - 42) / 10
        + effects.price * price
    )
    return np.where(n > 0, eta, effects.gone)


def sigmoid(x: Floats) -> Floats:
    """Log-odds to probability."""
    return 1.0 / (1.0 + np.exp(-x))
