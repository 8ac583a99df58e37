"""What only the maker of the world knows: true probabilities, the best possible score, when it drifts.

PSI and AUC are written out here, so that the truth does not rest on the code it is meant to test.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from examples.shop.files import customer_ids
from examples.shop.law import Bools, Floats, Ints, World
from examples.shop.world import Month

EDITION = 1  # raise it with every change that changes the files
PSI_FLOOR = 1e-4


def write_truth(folder: Path, world: World, months: list[Month]) -> None:
    """Write `truth/customers.parquet` and, as the sign that all is complete, `truth/truth.json` last."""
    known = [month for month in months if month.month > 0]
    utc = pl.Datetime("us", "UTC")
    pl.concat(
        pl.DataFrame(
            {
                "cut": pl.repeat(world.cut(m.month), m.p.size, dtype=utc, eager=True),
                "customer_id": customer_ids(m.eligible),
                "p": m.p,
                "churned": m.churned,
            }
        )
        for m in known
    ).write_parquet(folder / "truth" / "customers.parquet")
    reference = next((m for m in months if m.month == world.reference_month), None)
    truth = identity(world) | _dates(world) | {"months": [_month(world, m, reference) for m in known]}
    (folder / "truth" / "truth.json").write_text(json.dumps(truth, indent=2) + "\n", encoding="utf-8")


def identity(world: World) -> dict[str, Any]:
    """What tells this world from another: same identity, same bytes."""
    return {"edition": EDITION, "world": asdict(world)}


def _dates(world: World) -> dict[str, str]:
    # The files hold no order from before `start`; the longest window of the law is 90 days.
    named = {
        "start": 0,
        "p_follows_from_files_from": 3,
        "reference_at": world.reference_month,
        "data_drift_at": world.data_drift_month,
        "concept_drift_at": world.concept_drift_month,
    }
    return {name: str(world.cut(month).date()) for name, month in named.items()}


def _month(world: World, month: Month, reference: Month | None) -> dict[str, Any]:
    return {
        "month": month.month,
        "cut": str(world.cut(month.month).date()),
        "eligible": month.eligible.size,
        "churn_rate": float(month.churned.mean()),
        "psi_age": None if reference is None else psi(reference.age, month.age),
        "auc_best": auc(month.churned, month.p),
        "auc_frozen": auc(month.churned, month.p_frozen),
    }


def psi(reference: Ints | Floats, current: Ints | Floats) -> float:
    """Population stability index over ten bins cut at the reference's deciles (equal ones merged).

    A bin holds its lower edge; shares are floored at `PSI_FLOOR`.
    """
    edges = np.unique(np.quantile(reference, np.arange(1, 10) / 10))

    def shares(values: Ints | Floats) -> Floats:
        counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=edges.size + 1)
        return np.maximum(counts / values.size, PSI_FLOOR)

    before, now = shares(reference), shares(current)
    return float(((now - before) * np.log(now / before)).sum())


def auc(y: Bools, score: Floats) -> float:
    """Probability that a churner scores higher than one who stays; ties count half (Mann-Whitney)."""
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positives = int(y.sum())
    u = float(ranks[y].sum()) - positives * (positives + 1) / 2
    return u / (positives * (y.size - positives))
