"""Leak checks before training. Reads training rows; refuses them, or says what could not be checked."""

from __future__ import annotations

import pandas as pd

from models.charter import Charter
from models.contract import Contract
from models.errors import DataError
from models.training.leaks import Leak, find_leaks
from models.training.rows import labels_of

SHOWN = 3  # leaks named in the one line of the error


def refuse_leaks(train: pd.DataFrame, contract: Contract, charter: Charter, *, random_state: int) -> tuple[Leak, ...]:
    """What could not be checked, where nothing leaks.

    Raises:
        DataError: the label leaks into a feature, a pair or the pipeline, or stands on its head, and names the
            columns; or the rows cannot train at all (`training_rows.labels_of`).
    """
    labels_of(train, contract, use="training")  # the checks look at parts of the rows, and would count those
    found = find_leaks(train, contract, charter.training, random_state=random_state)
    leaks = [leak for leak in found if leak.refuses]
    if leaks:
        more = f"; and {len(leaks) - SHOWN} more" if len(leaks) > SHOWN else ""
        reasons = "; ".join(leak.reason for leak in leaks[:SHOWN])
        raise DataError(f"cannot train on {len(train):,} rows: {reasons}{more}. {_MEND[leaks[0].kind]}")
    return found


_MEND = {
    "single": "Take the feature from before the cut, leave it out of the contract, or raise training.max_single_auc in "
              "the charter",
    "pair": "Take both from before the cut, or leave one out of the contract",
    "permutation": "See which step of the pipeline reads labels of rows it only scores",
    "sign": "Look at the label in labels.sql, and at the signs the contract states",
}
