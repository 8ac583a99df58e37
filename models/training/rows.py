"""Which rows train and test, and whether they can: enough of them, both classes, features that are there."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pandas as pd

from models.charter import Charter
from models.contract import Contract
from models.cuts import CutPlan
from models.errors import DataError
from models.serving.scorer import feature_frame


def split_rows(rows: pd.DataFrame, plan: CutPlan) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`(train, test)` by the plan's cuts; each sorted as given, index renewed."""
    train = rows[rows["event_timestamp"].isin(list(plan.train))].reset_index(drop=True)
    test = rows[rows["event_timestamp"].isin(list(plan.test))].reset_index(drop=True)
    return train, test


def check_enough(train: pd.DataFrame, test: pd.DataFrame, contract: Contract, charter: Charter, *, as_of: datetime,
                 next_as_of: datetime) -> None:
    """Refuse to train on too little.

    Raises:
        DataError: too few mature labels, or too few of one class; says how many there are, how many are
            needed, and the first `as_of` that could do.
    """
    needs = charter.training
    churners = min(int(part[contract.label].sum()) for part in (train, test))
    stayed = min(int((1 - part[contract.label]).sum()) for part in (train, test))
    if len(train) >= needs.least_rows and min(churners, stayed) >= needs.least_churners:
        return
    raise DataError(
        f"cannot train as of {as_of:%Y-%m-%d}: {len(train):,} mature training labels, needed are {needs.least_rows:,}; "
        f"fewest churners {churners:,} and stayers {stayed:,} in training or test, needed are {needs.least_churners:,} "
        f"each. The first AS_OF with one more cut is {next_as_of:%Y-%m-%d}"
    )


def labels_of(rows: pd.DataFrame, contract: Contract, *, use: str) -> np.ndarray:
    """The labels as 0.0 and 1.0, shape (n,), of rows that a model can be fitted on or judged by.

    Args:
        use: "training" or "test", for the message.

    Raises:
        DataError: no rows; a label that is neither 0 nor 1; one class only; a customer twice at a cut; an infinite
            number; features that are all null; a label whose customer lacks every feature that is never null.
    """
    label = contract.label
    y = rows[label].astype("float64").to_numpy()
    wrong = int((~np.isin(y, (0.0, 1.0))).sum())
    if wrong:
        raise DataError(f"cannot use the {use} rows: {label!r} is neither 0 nor 1 in {wrong:,} of {len(y):,}. Mend "
                        "labels.sql")
    if len(np.unique(y)) < 2:
        seen = f"all {len(y):,} have {label!r} {y[0]:g}" if len(y) else "there are none"
        raise DataError(f"cannot use the {use} rows: {seen}, needed are both classes. Take other cuts, or mend "
                        "labels.sql")
    twice = int(rows.duplicated([contract.entity_key, "event_timestamp"]).sum())
    if twice:
        raise DataError(f"cannot use the {use} rows: {twice:,} of {len(y):,} repeat a customer at a cut, who would "
                        "count twice. Mend snapshot.sql or labels.sql")
    features = feature_frame(rows, contract)
    if features.isna().all(axis=None):
        raise DataError(f"cannot use the {use} rows: none of the {features.shape[1]} features has a value in any of "
                        f"{len(y):,} rows. Take the snapshots of their cuts")
    never_null = [column.name for column in contract.features if not column.nullable]
    empty = int(features[never_null].isna().all(axis=1).sum()) if never_null else 0
    if empty:
        raise DataError(f"cannot use the {use} rows: {empty:,} of {len(y):,} labels have no features at their cut. "
                        "Take the snapshots of these cuts, or mend labels.sql, which names customers they lack")
    return y


def check_weight(weight: np.ndarray | None, rows: int) -> np.ndarray | None:
    """Case weights of the training rows; None counts each row once.

    Raises:
        DataError: not one weight a row, a weight that is no number or negative, or none above zero.
    """
    if weight is None:
        return None
    weights = np.asarray(weight, dtype=float)
    wrong = int((~(np.isfinite(weights) & (weights >= 0))).sum())
    if weights.shape != (rows,) or wrong or not weights.sum() > 0:
        raise DataError(f"cannot weigh {rows:,} training rows: {weights.size:,} weights, {wrong:,} of them negative or "
                        f"no number, sum {weights.sum():g}; needed is one a row, none below 0")
    return weights
