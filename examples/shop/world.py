"""Life in the sample world: who signs up, who orders, who stays away. Reads and writes no file.

Each month draws from its own random streams, so what happened before a drift is the same without it.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from examples.shop.law import DAY, ELIGIBLE_WITHIN_DAYS, PLANS, Bools, Floats, Ints, World, log_odds, sigmoid

# The shop ran long before its files begin, so that they show it in its steady state.
BURN_IN_MONTHS = 60
BURN_IN_EXTRA = 1.4  # acquire more than needed, then keep as many as asked for

# Orders happen 2 to 26 days before the *next* cut, whatever the month's length: from its 3rd (February) or
# 6th day on, to its 27th to 30th. So [cut, cut + 30 days) holds exactly the month's orders, though February's
# window reaches into March; 30, 60, 90 and 180 days before a cut are exactly 1, 2, 3 and 6 months of orders;
# and recency does not jump because February is short.
ORDER_BEFORE_NEXT_CUT = (2 * DAY + 1, 26 * DAY)


@dataclass(frozen=True)
class People:
    """One entry a customer, in order of sign-up; `plan` is the one they signed up with."""

    month: Ints  # of sign-up
    year: Ints  # of sign-up
    age: Ints  # in that year
    plan: Ints
    channel: Ints
    rate: Floats  # orders beyond the first, in a month with any
    log_price: Floats  # log of their median order value


@dataclass(frozen=True)
class Month:
    """What happened in one month; customers are indices into `People`."""

    month: int
    eligible: Ints  # customers with an order in the 60 days before the cut
    age: Ints  # of the eligible, like the next three
    p: Floats  # true churn probability
    p_frozen: Floats  # what it would be by the effects from before the concept drift
    churned: Bools
    order_customer: Ints
    order_at: Ints  # seconds since 1970, UTC
    order_cents: Ints
    order_items: Ints
    changed: Ints  # customers whose plan changed
    changed_at: Ints
    changed_plan: Ints


def draw_people(world: World) -> People:
    """Everyone who ever signs up, burn-in included."""
    cohorts: list[dict[str, Any]] = []
    for month in range(-BURN_IN_MONTHS, world.months):
        rng = np.random.default_rng([world.seed, 1, month + BURN_IN_MONTHS])
        drifted = month >= world.data_drift_month
        more = BURN_IN_EXTRA if month < 0 else world.data_drift_acquisition if drifted else 1.0
        n = round(world.acquisition * world.customers * more)
        age = rng.normal(22.0, 3.0, n).clip(18, 30) if drifted else rng.normal(42.0, 13.0, n).clip(18, 85)
        mix = (0.15, 0.65, 0.1, 0.1) if drifted else (0.45, 0.2, 0.15, 0.2)
        cohorts.append(
            {
                "month": np.full(n, month),
                "year": np.full(n, world.cut(month).year),
                "age": age.round().astype(np.int64),
                "plan": rng.choice(3, n, p=(0.5, 0.35, 0.15)),
                "channel": rng.choice(4, n, p=mix),
                "rate": rng.lognormal(-0.4, 0.6, n),
                "log_price": rng.normal(np.log(30.0), 0.65, n),
            }
        )
    return People(**{name: np.concatenate([c[name] for c in cohorts]) for name in cohorts[0]})


@dataclass
class _State:
    """What the past left behind, one entry a customer; changed in place, month by month."""

    plan: Ints
    last_at: Ints  # last order, seconds since 1970
    orders: Ints  # (n, 3): in the latest month, the one before, the one before that
    cents: Ints  # (n, 3) likewise


def simulate(world: World) -> tuple[People, list[Month]]:
    """Live through the burn-in and the months of the files.

    Returns:
        The customers of the files, in order of sign-up (those who were there at the start, with the plan
        they had then, and each month's new ones), and what they did in each month.
    """
    people = draw_people(world)
    n = people.month.size
    nothing = np.zeros((n, 3), dtype=np.int64)
    state = _State(people.plan.copy(), np.zeros(n, dtype=np.int64), nothing, nothing)
    for month in range(-BURN_IN_MONTHS, 0):
        _live_month(world, people, state, month)
    people, state = _carry_over(world, people, state)
    return people, [_live_month(world, people, state, month) for month in range(world.months)]


def _carry_over(world: World, people: People, state: _State) -> tuple[People, _State]:
    """The shop's new system takes over `customers` of the eligible, drawn at random, and forgets the rest."""
    since = int(world.cut(0).timestamp()) - ELIGIBLE_WITHIN_DAYS * DAY
    candidates = np.flatnonzero((people.month < 0) & (state.last_at >= since))
    if candidates.size < world.customers:
        raise ValueError(
            f"cannot start with {world.customers} customers: the burn-in left {candidates.size}. "
            "Raise acquisition, or weaken the effects."
        )
    taken = np.random.default_rng([world.seed, 3]).choice(candidates, world.customers, replace=False)
    kept = np.concatenate([np.sort(taken), np.flatnonzero(people.month >= 0)])
    state = _State(state.plan[kept], state.last_at[kept], state.orders[kept], state.cents[kept])
    people = People(**{name: values[kept] for name, values in vars(people).items()})
    return replace(people, plan=state.plan.copy()), state


def _live_month(world: World, people: People, state: _State, month: int) -> Month:
    rng = np.random.default_rng([world.seed, 2, month + BURN_IN_MONTHS])
    cut, next_cut = (int(world.cut(m).timestamp()) for m in (month, month + 1))
    known = np.arange(np.searchsorted(people.month, month))
    new = np.arange(known.size, np.searchsorted(people.month, month, side="right"))

    # One draw a customer decides whether they order at all; the rest is how often and how much.
    recency_days = (cut - state.last_at[known]) / DAY
    age = people.age[known] + world.cut(month).year - people.year[known]
    history = recency_days, state.orders[known], state.cents[known], state.plan[known], age
    p, p_frozen = (sigmoid(log_odds(e, *history)) for e in (world.effects_in(month), world.effects))
    churned = rng.random(known.size) < p
    buyers = np.concatenate([known[~churned], new])
    customer = np.repeat(buyers, 1 + rng.poisson(people.rate[buyers]))
    at = next_cut - rng.integers(*ORDER_BEFORE_NEXT_CUT, customer.size, endpoint=True)
    price = np.exp(people.log_price[customer] + rng.normal(0.0, 0.45, customer.size))
    cents = np.maximum((price * 100).round().astype(np.int64), 100)
    items = 1 + rng.poisson(np.minimum(price / 30, 20))

    eligible = np.flatnonzero(recency_days <= ELIGIBLE_WITHIN_DAYS)
    changed = eligible[rng.random(eligible.size) < world.plan_change_share]
    changed_at = next_cut - rng.integers(*ORDER_BEFORE_NEXT_CUT, changed.size, endpoint=True)

    state.plan[changed] = (state.plan[changed] + rng.integers(1, len(PLANS), changed.size)) % len(PLANS)
    size = state.last_at.size
    state.orders = np.column_stack([np.bincount(customer, minlength=size), state.orders[:, :2]])
    state.cents = np.column_stack([np.bincount(customer, cents, size).astype(np.int64), state.cents[:, :2]])
    np.maximum.at(state.last_at, customer, at)
    return Month(
        month=month,
        eligible=eligible,
        age=age[eligible],
        p=p[eligible],
        p_frozen=p_frozen[eligible],
        churned=churned[eligible],
        order_customer=customer,
        order_at=at,
        order_cents=cents,
        order_items=items,
        changed=changed,
        changed_at=changed_at,
        changed_plan=state.plan[changed],
    )
