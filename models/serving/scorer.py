"""From a row of features to a decision. The service and the batch scoring call the same functions.

Loads the fitted pipeline (skops, never pickle), scores rows, compares with golden rows, and says
"contact" or "leave" and why.
"""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import pandas as pd

from models.contract import Contract
from models.errors import DataError, ReleaseError, nearest

if TYPE_CHECKING:
    from models.charter import Value

# What our two estimators need beyond what skops trusts by itself. Fixed here, never read from the file
# itself: a list that travels with the model would trust whatever the model's writer put into it.
TRUSTED_TYPES: Final = (
    "functools.partial",
    "numpy.dtype",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.utils.validation.check_array",
)
CHUNK_ROWS: Final = 50_000  # larger frames cost more memory and, past this, more time a row

Action = Literal["contact", "leave"]
Why = Literal["value", "budget", "no_value", "holdout", "not_eligible"]
WHYS: Final[tuple[Why, ...]] = ("value", "budget", "no_value", "holdout", "not_eligible")


def load_pipeline(path: Path) -> Any:
    """Load a fitted pipeline that predicts two classes.

    Raises:
        ReleaseError: no skops file, a type outside `TRUSTED_TYPES`, or no pipeline of two classes.
    """
    import skops.io
    from sklearn.pipeline import Pipeline

    if not path.is_file() or not zipfile.is_zipfile(path):
        raise ReleaseError(f"cannot load {path.name}: it is missing or no skops file. Package the release again")
    try:
        foreign = sorted(set(skops.io.get_untrusted_types(file=path)) - set(TRUSTED_TYPES))
        if foreign:
            raise ReleaseError(
                f"cannot load {path.name}: it holds {foreign[0]}, which is none of the trusted types. Train with "
                "known steps, or add the type to models/serving/scorer.py after a review"
            )
        pipeline = skops.io.load(path, trusted=list(TRUSTED_TYPES))
    except ReleaseError:
        raise
    except Exception as error:  # skops raises a dozen kinds on a damaged file; none of them is a model
        raise ReleaseError(f"cannot load {path.name}: {type(error).__name__}. Package the release again") from error
    if not isinstance(pipeline, Pipeline) or len(getattr(pipeline, "classes_", ())) != 2:
        raise ReleaseError(f"cannot load {path.name}: it holds {type(pipeline).__name__}, not a fitted pipeline of "
                           "two classes. Train again")
    return pipeline


def feature_frame(rows: pd.DataFrame, contract: Contract) -> pd.DataFrame:
    """The contract's features by name and in its order: numeric as float64 with NaN, categorical as str with None.

    Raises:
        DataError: a feature is missing, or a numeric one holds something else or is infinite.
    """
    for name in contract.feature_names:
        if name not in rows.columns:
            raise DataError(f"cannot score rows without {name!r}; {nearest(name, map(str, rows))}")
    words, numbers = rows[contract.categorical].astype(object), _numbers(rows[contract.numeric])
    if np.isinf(numbers.to_numpy()).any():
        infinite = np.isinf(numbers).sum()
        raise DataError(f"cannot score rows: {infinite.idxmax()!r} is infinite in {infinite.max():,} of {len(rows):,}; "
                        "a ratio over zero is missing, not infinite")
    frame = pd.concat([numbers, words.where(words.notna(), None)], axis=1)
    return frame[contract.feature_names]


def _numbers(rows: pd.DataFrame) -> pd.DataFrame:
    """All columns at once, for one by one costs more than the model; one by one only to name the wrong one."""
    try:
        return rows.astype("float64")
    except (TypeError, ValueError):
        columns = {}
        for name in rows:
            try:  # pandas' own missing value in a column of objects is no float; it is a missing number all the same
                columns[name] = rows[name].where(rows[name].notna(), np.nan).astype("float64")
            except (TypeError, ValueError):  # the library's message would quote the value
                raise DataError(f"cannot score rows: {name!r} must be a number") from None
        return pd.DataFrame(columns, index=rows.index)


def predict(pipeline: Any, rows: pd.DataFrame, contract: Contract) -> np.ndarray:
    """Churn probability of each row, shape (n,), each in [0, 1].

    Raises:
        DataError: see `feature_frame`.
        ReleaseError: the pipeline gave something that is no probability.
    """
    if rows.empty:
        return np.empty(0)
    parts = []
    for start in range(0, len(rows), CHUNK_ROWS):
        chunk = feature_frame(rows.iloc[start : start + CHUNK_ROWS], contract)
        parts.append(np.asarray(pipeline.predict_proba(chunk)[:, 1], dtype=np.float64))
    probabilities = np.concatenate(parts)
    if not bool(np.all((probabilities >= 0) & (probabilities <= 1))):
        raise ReleaseError("the pipeline gave a value outside [0, 1] for a probability. Train again")
    return probabilities


def check_golden(
    scores: np.ndarray | Sequence[float], golden: pd.DataFrame, *, path: str = "the pipeline", tolerance: float = 1e-9
) -> None:
    """Compare scores of the golden rows with what training wrote down.

    Args:
        scores: of each golden row, shape (n,).
        golden: features and `expected_probability`, one row each.
        path: who scored them, for the message.

    Raises:
        ReleaseError: there are none, or one differs; names the path, the row, the expected and the seen value.
    """
    if golden.empty or "expected_probability" not in golden:
        raise ReleaseError("cannot check the release: it has no golden rows. Package it again")
    expected, got = golden["expected_probability"].to_numpy(dtype=np.float64), np.asarray(scores, dtype=np.float64)
    wrong = np.flatnonzero(~(np.abs(got - expected) <= tolerance))  # a NaN is wrong too
    if len(wrong):
        row = int(wrong[0])
        raise ReleaseError(
            f"golden row {row} scores {got[row]:.12g} by {path}, expected {expected[row]:.12g}, at most {tolerance:g} "
            f"apart ({len(wrong)} of {len(golden)} rows differ). This is not the model, or not the libraries, that "
            "were evaluated: package it again"
        )


def plain_rows(rows: pd.DataFrame, names: Sequence[str]) -> list[dict[str, Any]]:
    """The rows as a caller would send them: Python's own numbers and words, None where one is missing."""
    frame = rows[list(names)].astype(object)
    found: list[Any] = frame.where(frame.notna(), None).to_dict("records")
    return found


@dataclass(frozen=True)
class Policy:
    """What turns a probability into a decision: the charter's values and the threshold training froze."""

    share_who_stay: float
    worth_of_saved: float
    cost_of_contact: float
    holdout_share: float
    threshold: float
    salt: str

    @staticmethod
    def of(value: Value, release: Mapping[str, Any]) -> Policy:
        """The policy of a release: `value` from its charter, `release` its `release.json`.

        Raises:
            ReleaseError: the threshold is no number in [0, 1], or there is no salt.
        """
        threshold, salt = release.get("threshold"), release.get("holdout_salt")
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
            raise ReleaseError(f"release.json has the threshold {threshold!r}; it must be in [0, 1]. Train again")
        if not isinstance(salt, str) or not salt:
            raise ReleaseError("release.json has no holdout_salt. Train again")
        return Policy(
            share_who_stay=value.share_who_stay,
            worth_of_saved=value.worth_of_saved,
            cost_of_contact=value.cost_of_contact,
            holdout_share=value.holdout_share,
            threshold=float(threshold),
            salt=salt,
        )


@dataclass(frozen=True)
class Answer:
    """What to do about one entity, why, and the money a contact is expected to bring (cost taken off)."""

    decision: Action
    why: Why
    expected_value: float


def in_holdout(entity: str, *, salt: str, share: float) -> bool:
    """Whether an entity is never contacted: the same for every release, for the salt is not the release's."""
    digest = hashlib.sha256(f"{salt}:{entity}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64 < share


def decide(probability: float, entity: str | None, policy: Policy, *, eligible: bool) -> Answer:
    """Contact or leave, with the first reason that holds: not eligible, no value, budget, hold-out.

    Budget: the threshold is the probability of the last one the contact budget had room for.

    Args:
        entity: None where the caller did not say whose row it is; then the hold-out cannot apply.

    Raises:
        ReleaseError: the probability is not in [0, 1].
    """
    if not (math.isfinite(probability) and 0 <= probability <= 1):
        raise ReleaseError(f"cannot decide on the probability {probability!r}; it must be in [0, 1]")
    value = probability * policy.share_who_stay * policy.worth_of_saved - policy.cost_of_contact
    if not eligible:
        return Answer("leave", "not_eligible", value)
    if value <= 0:
        return Answer("leave", "no_value", value)
    if probability < policy.threshold:
        return Answer("leave", "budget", value)
    if entity is not None and in_holdout(entity, salt=policy.salt, share=policy.holdout_share):
        return Answer("leave", "holdout", value)
    return Answer("contact", "value", value)


@dataclass(frozen=True)
class Answers:
    """`Answer` of each row of a batch, as arrays of shape (n,)."""

    why: np.ndarray  # int8: places in `WHYS`; the decision is to contact where it is 0
    expected_value: np.ndarray


def decide_all(
    probabilities: Sequence[float] | np.ndarray, entities: Sequence[str] | np.ndarray,
    eligible: Sequence[bool] | np.ndarray, policy: Policy,
) -> Answers:
    """`decide` for a batch: the same answers, of arrays.

    Raises:
        ReleaseError: a probability is not in [0, 1].
        ValueError: the three are not of one length.
    """
    probability, flag = np.asarray(probabilities, dtype=np.float64), np.asarray(eligible, dtype=bool)
    if not len(probability) == len(entities) == len(flag):
        raise ValueError(f"{len(probability)} probabilities, {len(entities)} entities and {len(flag)} flags")
    wrong = np.flatnonzero(~((probability >= 0) & (probability <= 1)))
    if len(wrong):
        raise ReleaseError(f"cannot decide on the probability {float(probability[wrong[0]])!r}; it must be in [0, 1]")
    value = probability * policy.share_who_stay * policy.worth_of_saved - policy.cost_of_contact
    why = np.select([~flag, value <= 0, probability < policy.threshold],
                    [WHYS.index("not_eligible"), WHYS.index("no_value"), WHYS.index("budget")], 0).astype(np.int8)
    if policy.holdout_share > 0:
        for row in np.flatnonzero(why == 0):  # a hash each, but only of those there is a contact to make with
            if in_holdout(str(entities[int(row)]), salt=policy.salt, share=policy.holdout_share):
                why[row] = WHYS.index("holdout")
    return Answers(why, value)
