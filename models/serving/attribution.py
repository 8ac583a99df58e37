"""How much each column moves a score, in log-odds, against the typical customer; exact for both estimators.

The players are the contract's columns, the value of a set of them is the model's log-odds with these columns
as the customer has them and all others as the typical customer has them; what each adds is its Shapley value
(Shapley 1953; with one reference: Lundberg et al., Nature Machine Intelligence 2, 2020, "interventional").
A linear model needs no more than its coefficients. A tree's leaf is a product of conditions, for which the
Shapley value has a closed form, so that no sampling is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import factorial
from typing import Any, Final

import numpy as np
import pandas as pd

from models.contract import Contract
from models.errors import DataError, ReleaseError
from models.serving.scorer import feature_frame

CHUNK_ROWS: Final = 500  # a chunk of a forest with 1,500 leaves holds some 10 MB a hundred rows
TOLERANCE: Final = 1e-6  # of log-odds (beyond 1: of each): what base and contributions give, and what the pipeline


@dataclass(frozen=True)
class Attributor:
    """A pipeline made ready to be explained; made once, then asked for many rows."""

    pipeline: Any
    contract: Contract
    reference: pd.DataFrame  # one row: the typical customer
    base: float  # its log-odds
    model: Linear | Trees

    @staticmethod
    def of(pipeline: Any, contract: Contract, background: pd.DataFrame) -> Attributor:
        """Make a fitted pipeline ready.

        Args:
            background: rows whose typical customer the scores are explained against, (n, k).

        Raises:
            ReleaseError: steps that are not understood.
        """
        reference = typical(background, contract)
        columns, final = pipeline.steps[0][1], pipeline.steps[-1][1]
        sources = sources_of(columns, contract)
        made = np.asarray(columns.transform(feature_frame(reference, contract)), dtype=np.float64)
        model: Linear | Trees
        if hasattr(final, "coef_"):
            model = Linear.of(final, sources, made[0], len(contract.features))
        elif hasattr(final, "_predictors"):
            model = Trees.of(final, sources, made[0], len(contract.features))
        else:
            raise ReleaseError(f"cannot explain a {type(final).__name__}: no coefficients and no trees. Train with a "
                               "known estimator, or add it to models/serving/attribution.py")
        return Attributor(pipeline, contract, reference, model.base, model)

    def contributions(self, rows: pd.DataFrame) -> np.ndarray:
        """What each feature adds to the log-odds, shape (n, features): base and a row's sum are its log-odds.

        Raises:
            DataError: see `feature_frame`.
            ReleaseError: they do not add up to what the pipeline answers; then it is another model's explanation.
        """
        parts = [np.empty((0, len(self.contract.features)))]
        for start in range(0, len(rows), CHUNK_ROWS):
            frame = feature_frame(rows.iloc[start : start + CHUNK_ROWS], self.contract)
            made = np.asarray(self.pipeline.steps[0][1].transform(frame), dtype=np.float64)
            parts.append(self.model.contributions(made))
            self._check(self.base + parts[-1].sum(axis=1), self.pipeline.decision_function(frame), start)
        return np.concatenate(parts)

    def _check(self, ours: np.ndarray, theirs: np.ndarray, start: int) -> None:
        """By log-odds: near 0 and 1 a probability hides how far apart they are."""
        wrong = np.flatnonzero(~(np.abs(ours - theirs) <= TOLERANCE * np.maximum(1, np.abs(theirs))))
        if len(wrong):
            raise ReleaseError(f"cannot explain row {start + int(wrong[0])}: the contributions give the log-odds "
                               f"{ours[wrong[0]]:.9g}, the pipeline {theirs[wrong[0]]:.9g} ({len(wrong)} of "
                               f"{len(ours)} rows are over {TOLERANCE:g} apart). Its steps are not those "
                               "models/serving/attribution.py knows")


def typical(background: pd.DataFrame, contract: Contract) -> pd.DataFrame:
    """The customer in the middle, one row: the median that occurs, the most frequent category; missing if most are.

    Raises:
        DataError: there are no rows, or a feature is missing.
    """
    if background.empty:
        raise DataError("cannot say who is typical: there are no rows. Give rows of the training set as background")
    frame = feature_frame(background, contract)
    row: dict[str, float | str | None] = {}
    for column in contract.features:
        known = frame[column.name].dropna()
        if len(known) * 2 < len(frame):
            row[column.name] = float("nan") if column.role == "numeric" else None
        elif column.role == "numeric":
            row[column.name] = float(np.quantile(known.to_numpy(), 0.5, method="lower"))
        else:
            counts = known.value_counts()
            row[column.name] = str(min(counts.index[counts == counts.max()]))
    return pd.DataFrame([row], columns=contract.feature_names)


@dataclass(frozen=True)
class Linear:
    """Coefficients of a linear model, and which feature each belongs to."""

    base: float
    coefficients: np.ndarray  # (m,)
    centre: np.ndarray  # (m,): the typical customer, transformed
    by_feature: np.ndarray  # (m, features): 1 where a transformed column is made of a feature

    @staticmethod
    def of(final: Any, sources: Sequence[int], centre: np.ndarray, features: int) -> Linear:
        coefficients = np.asarray(final.coef_, dtype=np.float64)[0]
        base = float(final.intercept_[0] + coefficients @ centre)
        return Linear(base, coefficients, centre, np.eye(features)[list(sources)])

    def contributions(self, made: np.ndarray) -> np.ndarray:
        found: np.ndarray = ((made - self.centre) * self.coefficients) @ self.by_feature
        return found


@dataclass(frozen=True)
class Trees:
    """Every leaf of a forest as the conditions its path sets, put together by feature (a *clause*).

    A leaf counts where each of its clauses holds. Against one reference a clause of which both customer and
    reference hold does not matter; where neither holds the leaf is out of reach. Of the others, `a` are held by
    the customer alone and `b` by the reference alone; the leaf's value is then shared: each of the first gets
    (a-1)! b! / (a+b)! of it, each of the second the negative of a! (b-1)! / (a+b)!.
    """

    base: float
    column: np.ndarray  # of each split
    threshold: np.ndarray
    missing_left: np.ndarray
    literals: np.ndarray  # (clauses, k): what must hold: split s to the left: s, to the right: s + splits, or always
    starts: np.ndarray  # (leaves,): its first clause
    leaf: np.ndarray  # (clauses,): whose it is, counting leaves that have clauses
    held: np.ndarray  # (clauses,): by the reference
    shares: tuple[np.ndarray, np.ndarray]  # by (a, b): of the customer's clause, of the reference's
    by_feature: np.ndarray  # (clauses, features): the leaf's value at the clause's feature

    @staticmethod
    def of(final: Any, sources: Sequence[int], reference: np.ndarray, features: int) -> Trees:
        splits: list[tuple[int, float, bool]] = []
        clauses: list[tuple[int, int, list[int]]] = []  # leaf, feature, literals (right: negative - 1)
        values: list[float] = []
        for (tree,) in final._predictors:
            _walk(tree.nodes, sources, splits, clauses, values)
        column, threshold, missing_left = (np.array(part) for part in zip(*splits, strict=True)) if splits else (
            np.empty(0, int), np.empty(0), np.empty(0, bool))
        always = 2 * len(splits)
        width = max((len(literals) for _, _, literals in clauses), default=1)
        table = np.full((len(clauses), width), always)
        for number, (_, _, literals) in enumerate(clauses):
            table[number, : len(literals)] = [one if one >= 0 else len(splits) - one - 1 for one in literals]
        of = np.array([one for one, _, _ in clauses], dtype=int)
        by_feature = np.zeros((len(clauses), features))
        by_feature[np.arange(len(clauses)), [feature for _, feature, _ in clauses]] = np.array(values)[of]
        starts = np.flatnonzero(np.r_[True, of[1:] != of[:-1]]) if len(of) else of
        leaf = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(of)]))
        margin = float(np.asarray(final.decision_function(reference[None])).ravel()[0])
        made = Trees(margin, column.astype(int), threshold.astype(float), missing_left.astype(bool), table, starts,
                     leaf, np.empty(0, bool), _shares(features), by_feature)
        return replace(made, held=made._hold(reference[None])[0])

    def _hold(self, made: np.ndarray) -> np.ndarray:
        """Which clauses hold for each row, shape (n, clauses)."""
        values = made[:, self.column]
        left = np.where(np.isnan(values), self.missing_left, values <= self.threshold)
        every = np.concatenate([left, ~left, np.ones((len(made), 1), bool)], axis=1)
        held = every[:, self.literals[:, 0]]
        for number in range(1, self.literals.shape[1]):
            held &= every[:, self.literals[:, number]]
        return held

    def contributions(self, made: np.ndarray) -> np.ndarray:
        if not len(self.leaf):
            return np.zeros((len(made), self.by_feature.shape[1]))
        held = self._hold(made)
        ours, theirs = held & ~self.held, ~held & self.held
        a, b, dead = (np.add.reduceat(part, self.starts, axis=1, dtype=np.int16)
                      for part in (ours, theirs, ~held & ~self.held))
        reached = dead == 0
        customer, reference = (np.where(reached, share[a, b], 0.0)[:, self.leaf] for share in self.shares)
        found: np.ndarray = (ours * customer - theirs * reference) @ self.by_feature
        return found


def _shares(features: int) -> tuple[np.ndarray, np.ndarray]:
    size = min(features, 64) + 1  # a path longer than that would need trees of such a depth
    ours, theirs = np.zeros((size, size)), np.zeros((size, size))
    for a in range(size):
        for b in range(size):
            if a:
                ours[a, b] = factorial(a - 1) * factorial(b) / factorial(a + b)
            if b:
                theirs[a, b] = factorial(a) * factorial(b - 1) / factorial(a + b)
    return ours, theirs


def _walk(
    nodes: Any, sources: Sequence[int], splits: list[tuple[int, float, bool]],
    clauses: list[tuple[int, int, list[int]]], values: list[float],
) -> None:
    """Add the splits, leaves and clauses of one tree."""
    paths: list[tuple[int, Mapping[int, list[int]]]] = [(0, {})]
    while paths:
        number, path = paths.pop()
        node = nodes[number]
        if node["is_leaf"]:
            clauses += [(len(values), feature, literals) for feature, literals in path.items()]
            values.append(float(node["value"]))
            continue
        if node["is_categorical"]:
            raise ReleaseError("cannot explain a tree that splits by category: encode categories before the model")
        split, feature = len(splits), sources[int(node["feature_idx"])]
        splits.append((int(node["feature_idx"]), float(node["num_threshold"]), bool(node["missing_go_to_left"])))
        for child, literal in ((node["left"], split), (node["right"], -split - 1)):
            paths.append((int(child), {**path, feature: [*path.get(feature, []), literal]}))


def sources_of(columns: Any, contract: Contract) -> list[int]:
    """Of each transformed column the number of the feature it is made of.

    Raises:
        ReleaseError: a step makes more or fewer columns than are understood.
    """
    place = {name: number for number, name in enumerate(contract.feature_names)}
    found: dict[int, int] = {}
    for name, step, names in columns.transformers_:
        span = columns.output_indices_[name]
        made = _made_of(step, [str(one) for one in names]) if step != "drop" else []
        if len(made) != span.stop - span.start:
            raise ReleaseError(f"cannot explain the step {name!r}: it makes {span.stop - span.start} columns of "
                               f"{len(names)}, {len(made)} are understood. Add it to models/serving/attribution.py")
        found |= {span.start + number: place[one] for number, one in enumerate(made)}
    return [found[number] for number in range(len(found))]


def _made_of(step: Any, names: list[str]) -> list[str]:
    """The source of each column a fitted step makes of the columns `names`."""
    if hasattr(step, "steps"):
        for _, part in step.steps:
            names = _made_of(part, names)
        return names
    if hasattr(step, "categories_"):
        return [name for name, width in zip(names, step._n_features_outs, strict=True) for _ in range(width)]
    if hasattr(step, "statistics_"):
        empty = np.zeros(len(names), bool) if step.keep_empty_features else pd.isna(step.statistics_)
        flags = [] if step.indicator_ is None else [names[number] for number in step.indicator_.features_]
        return [*(name for name, gone in zip(names, empty, strict=True) if not gone), *flags]
    return names
