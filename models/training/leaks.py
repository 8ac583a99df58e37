"""Does the label leak into the features? Looked for before anything is fitted that could be proud of it.

Single features and pairs that are too good to be true, a pipeline that learns from shuffled labels, and a label that
stands on its head. What cannot be checked is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pandas as pd

from models.charter import Training
from models.contract import Column, Contract
from models.errors import DataError
from models.evaluation.bootstrap import interval
from models.evaluation.ranks import Ranked, auc
from models.training.label_permutation import Fitters, permuted_auc
from models.training.pair_leaks import Halves, leaking_pairs, tree_auc
from models.training.rows import labels_of

SIGN_CONFIDENCE: Final = 0.99
MOST_ROWS: Final = 2000  # looked at for pairs and for shuffled labels; single features and signs see every row


@dataclass(frozen=True)
class Leak:
    """What looks like a leak, or what could not be checked (`refuses` is False): why, in one line with its numbers."""

    kind: Literal["single", "pair", "permutation", "sign"]
    columns: tuple[str, ...]
    reason: str
    refuses: bool = True


def find_leaks(
    train: pd.DataFrame, contract: Contract, limits: Training, *, random_state: int, fitters: Fitters | None = None,
) -> tuple[Leak, ...]:
    """Every leak of the training rows, and what could not be checked; empty where all is well.

    Args:
        fitters: by name, what fits and scores: the pipelines as they are trained (default: every estimator).

    Raises:
        DataError: one class only, too few of one to look at, or rows that cannot train (`labels_of`).
    """
    y = train[contract.label].to_numpy(dtype=float)
    if len(np.unique(y)) > 1:  # rows that nothing can be fitted on would end the checks below in a library's words
        labels_of(train, contract, use="training")
    sample = train.iloc[_balanced(y, random_state)].reset_index(drop=True)
    halves = Halves.of(sample[contract.label].to_numpy(dtype=float), sample[contract.entity_key],
                       random_state=random_state)
    if not 0 < y.sum() < len(y) or not halves.known:
        raise DataError(f"cannot look for leaks: {int(y.sum()):,} of {len(y):,} training rows churned, and it takes "
                        "some of both classes. Take a longer range, or look at the label")
    single = _singles(train, y, sample, halves, contract, limits.max_single_auc)
    flagged = {name for leak in single for name in leak.columns}
    numbers = {name: _float(sample[name]) for name in contract.numeric if name not in flagged}
    pairs = [
        Leak("pair", found.columns, found.reason, found.refuses)
        for found in leaking_pairs(numbers, halves, limit=limits.max_single_auc)
    ]
    return (*single, *pairs, *_permutation(sample, contract, halves, fitters, random_state),
            *_sign(train, y, contract, random_state))


def _balanced(y: np.ndarray, random_state: int) -> np.ndarray:
    """Row numbers of at most `MOST_ROWS`, both classes as alike as there are rows: AUC depends on no base rate."""
    shuffled = np.random.default_rng(random_state).permutation(len(y))
    churned, stayed = shuffled[y[shuffled] == 1], shuffled[y[shuffled] != 1]
    fewer = min(len(churned), len(stayed), MOST_ROWS // 2)
    return np.sort(np.r_[churned[:max(fewer, MOST_ROWS - len(stayed))], stayed[:max(fewer, MOST_ROWS - len(churned))]])


def _singles(
    train: pd.DataFrame, y: np.ndarray, sample: pd.DataFrame, halves: Halves, contract: Contract, limit: float
) -> list[Leak]:
    found = []
    for column in contract.features:
        aucs = _single_aucs(train[column.name], y, sample[column.name], halves, column)
        best, how = max(aucs, key=lambda found: found[0])
        if not best <= limit:
            found.append(Leak("single", (column.name,), f"{column.name} alone{how} tells churners from stayers with "
                              f"AUC {best:.4f}, more than is plausible ({limit:g})"))
    return found


def _single_aucs(
    values: pd.Series, y: np.ndarray, sampled: pd.Series, halves: Halves, column: Column
) -> list[tuple[float, str]]:
    """AUC of one feature, whichever way round: by its order, by its absence, and by a tiny tree on rows held out."""
    found = [(_either_way(y, values.isna().to_numpy(dtype=float)), " (whether it is missing)")]
    if column.role == "categorical":
        words = sampled.astype(object).where(sampled.notna(), "").astype(str)
        rates = pd.Series(halves.y[halves.fit]).groupby(words[halves.fit].to_numpy()).mean()
        rated = words.map(rates).fillna(float(halves.y[halves.fit].mean())).to_numpy(dtype=float)
        return [*found, (auc(halves.y[~halves.fit], rated[~halves.fit]), "")]
    numbers = _float(values)
    found.append((_either_way(y, np.where(np.isnan(numbers), -np.inf, numbers)), ""))
    found.append((tree_auc(_float(sampled)[:, None], halves), " (by ranges)"))
    return found


def _either_way(y: np.ndarray, score: np.ndarray) -> float:
    once = auc(y, score)
    return max(once, 1 - once)


def _permutation(
    sample: pd.DataFrame, contract: Contract, halves: Halves, fitters: Fitters | None, random_state: int
) -> list[Leak]:
    found = []
    for name, seen in permuted_auc(sample, contract, halves.fit, fitters=fitters, random_state=random_state).items():
        if not seen.low <= 0.5 <= seen.high:
            found.append(Leak("permutation", (), f"{name} scores shuffled labels of rows it never saw with AUC "
                              f"{seen.value:.3f}, interval [{seen.low:.3f}, {seen.high:.3f}]: the label reaches the "
                              "score by another way than the features"))
    return found


def _sign(train: pd.DataFrame, y: np.ndarray, contract: Contract, random_state: int) -> list[Leak]:
    """Is the label the right way round? Mean rank of the features with a stated sign; nothing is fitted."""
    stated = [column for column in contract.features if column.sign and column.role == "numeric"]
    if not stated:
        return [Leak("sign", (), "the contract states no feature's sign, so that a label on its head would not be "
                     "noticed", refuses=False)]
    names = tuple(column.name for column in stated)
    ranks = [column.sign * (train[column.name].rank(pct=True).fillna(0.5).to_numpy() - 0.5) for column in stated]
    ranked = Ranked.of(np.mean(ranks, axis=0))
    seen = interval(lambda weight: ranked.auc(y, weight), train[contract.entity_key].to_numpy(),
                    confidence=SIGN_CONFIDENCE, resamples=200, random_state=random_state)
    numbers = f"AUC {seen.value:.3f} [{seen.low:.3f}, {seen.high:.3f}] by the stated signs of {len(names)} features"
    if seen.low > 0.5:
        return []
    if seen.high < 0.5:
        return [Leak("sign", names, f"the label stands on its head: {numbers}; churners look like the best customers")]
    return [Leak("sign", names, f"whether the label stands on its head cannot be told: {numbers}", refuses=False)]


def _float(values: pd.Series) -> np.ndarray:
    """As float64; what is no finite number is missing."""
    numbers = pd.to_numeric(values).to_numpy(dtype=float, na_value=np.nan)
    return np.where(np.isfinite(numbers), numbers, np.nan)
