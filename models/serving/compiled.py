"""A fitted pipeline as plain Python: no pandas and no scikit-learn a row, microseconds instead of milliseconds.

The source is generated from the verified pipeline when a release starts and never shipped, so that there is no code
whose origin would have to be trusted. Nested ifs for boosting, a scorecard for logistic regression; what a word becomes
is asked of the fitted pipeline, not computed again. Many rows at once go through the classifier's own `predict_proba`
on a matrix made here. Both are held against the golden rows before the release is ready.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import pandas as pd

from models.contract import Contract
from models.errors import DataError, ReleaseError
from models.serving.attribution import sources_of
from models.serving.scorer import feature_frame

MANY_ROWS: Final = 150  # from here on 100 trees are cheaper by one call of scikit-learn, which costs some 1.8 ms
DEEPEST: Final = 90  # Python's parser takes 100 levels of indentation
_UNSEEN: Final = "\0 a word no training row can hold"

Row = Mapping[str, float | int | str | None]


@dataclass(frozen=True)
class Words:
    """What each word of a categorical feature becomes: values of the feature's transformed columns."""

    columns: tuple[int, ...]
    number: Mapping[str | None, int]  # of a word, in `table`; None: missing
    table: np.ndarray  # (words + 1, columns); the last row is a word never seen


@dataclass(frozen=True)
class Number:
    """How a numeric feature is transformed: its own column, and constants while it is there and while it is missing."""

    column: int | None  # None: the pipeline leaves it out
    log1p: bool
    mean: float
    scale: float
    others: tuple[int, ...]  # columns that only say whether it is missing
    present: tuple[float, ...]  # their values
    missing: tuple[float, ...]  # values of column and others where it is missing


Plan = Sequence[Number | Words | None]  # by feature of the contract; None: a word the pipeline leaves out


@dataclass(frozen=True)
class CompiledScorer:
    """A pipeline's two fast paths; both answer as its own `predict_proba`."""

    names: tuple[str, ...]
    source: str
    plan: Plan
    width: int  # transformed columns
    final: Any  # the fitted classifier
    one: Callable[[Row], float]

    def score(self, rows: Sequence[Row]) -> list[float]:
        """Churn probability of each row, every feature by name; a missing one is None or NaN.

        Raises:
            DataError: a number is infinite, or is none.
        """
        if len(rows) >= MANY_ROWS and not hasattr(self.final, "coef_"):  # a scorecard is cheaper at any size
            return self.score_many(rows)
        return [self.one(row) for row in rows]

    def score_many(self, rows: Sequence[Row]) -> list[float]:
        """The same by way of the classifier's own code, on a matrix of all rows."""
        found: list[float] = self.final.predict_proba(self.matrix(rows))[:, 1].tolist()
        return found

    def matrix(self, rows: Sequence[Row]) -> np.ndarray:
        """What the pipeline's first step would make of the rows, shape (n, width)."""
        made = np.zeros((len(rows), self.width))
        for name, part in zip(self.names, self.plan, strict=True):
            if isinstance(part, Words):
                unseen = len(part.table) - 1
                made[:, part.columns] = part.table[[part.number.get(_word(row[name]), unseen) for row in rows]]
            elif isinstance(part, Number):
                values = np.array([row[name] for row in rows], dtype=np.float64)  # None becomes NaN
                if np.isinf(values).any():
                    raise _infinite(name)
                if part.column is not None:
                    _fill(made, part, values)
        return made


def compile_pipeline(pipeline: Any, contract: Contract) -> CompiledScorer:
    """Generate and compile the scorer of a fitted pipeline; some 50 ms.

    Raises:
        ReleaseError: a step that is not understood; see `models.training.estimators` for those that are.
    """
    columns, final = pipeline.steps[0][1], pipeline.steps[-1][1]
    if len(pipeline.steps) != 2 or not hasattr(columns, "transformers_"):
        raise _foreign("a pipeline that is not columns and classifier")
    plan = _plan(columns, contract)
    width = max((part.stop for part in columns.output_indices_.values()), default=0)
    # `inf` for thresholds that only part the missing from the rest.
    known: dict[str, Any] = {"nan": math.nan, "inf": math.inf, "infinite": frozenset((math.inf, -math.inf)),
                             "log1p": math.log1p, "exp": math.exp, "refuse": partial(_refuse, contract)}
    lines = ["def score(row):"]
    if hasattr(final, "coef_"):
        lines += _scorecard(final, plan, contract.feature_names, known)
    elif hasattr(final, "_predictors"):
        lines += _forest(final, plan, contract.feature_names, known)
    else:
        raise _foreign(f"a {type(final).__name__}")
    lines += ["    if not -inf < t < inf: refuse(row)",
              "    return 1 / (1 + exp(-t)) if t > -700 else exp(t)", ""]
    source = "\n".join(lines)
    exec(compile(source, "<scorer of the release>", "exec"), known)  # numbers of a verified pipeline, no text of it
    return CompiledScorer(tuple(contract.feature_names), source, plan, width, final, known["score"])


def _plan(columns: Any, contract: Contract) -> Plan:
    """What becomes of each feature, partly read from the fitted steps, partly by transforming probes."""
    sources = sources_of(columns, contract)
    steps = {str(name): step for _, step, names in columns.transformers_ if step != "drop" for name in names}
    own = {str(name): columns.output_indices_[key].start + place for key, step, names in columns.transformers_
           if step != "drop" for place, name in enumerate(names)}
    base: dict[str, Any] = {column.name: 0.0 if column.role == "numeric" else _UNSEEN for column in contract.features}
    words = {name: _categories(steps[name], name, columns) for name in contract.categorical if name in steps}
    probes: list[dict[str, Any]] = [base]
    place: dict[tuple[str, Any], int] = {}
    for name in contract.feature_names:
        for value in [*words.get(name, []), None] if name in contract.categorical else [math.nan]:
            place[name, None if value != value else value] = len(probes)
            probes.append({**base, name: value})
    made = np.asarray(columns.transform(feature_frame(pd.DataFrame(probes), contract)), dtype=np.float64)
    plan: list[Number | Words | None] = []
    for number, name in enumerate(contract.feature_names):
        span = [column for column, source in enumerate(sources) if source == number]
        if name in contract.categorical:
            keys = [*words.get(name, []), None]
            table = made[[*(place[name, key] for key in keys), 0]][:, span]
            plan.append(Words(tuple(span), {key: at for at, key in enumerate(keys)}, table) if span else None)
            continue
        if not span:
            plan.append(Number(None, False, 0.0, 1.0, (), (), ()))
            continue
        others = [column for column in span if column != own[name]]
        log, mean, scale = _transformation(steps[name], [str(one) for one in _names(columns, name)].index(name))
        missing = made[place[name, None]]
        plan.append(Number(own[name], log, mean, scale, tuple(others), tuple(map(float, made[0, others])),
                           tuple(map(float, missing[[own[name], *others]]))))
    return plan


def _names(columns: Any, name: str) -> list[Any]:
    """The columns that go through the same step as one of them."""
    return next(list(names) for _, step, names in columns.transformers_ if step != "drop" and name in names)


def _categories(step: Any, name: str, columns: Any) -> list[str]:
    """The words a fitted encoder knows of a column."""
    for part in [one for _, one in step.steps] if hasattr(step, "steps") else [step]:
        if hasattr(part, "categories_"):
            place = [str(one) for one in _names(columns, name)].index(name)
            return [word for word in part.categories_[place] if isinstance(word, str)]
    raise _foreign(f"a {type(step).__name__} of words")


def _transformation(step: Any, place: int) -> tuple[bool, float, float]:
    """Whether a number goes through log1p, and mean and scale that are taken off it then."""
    log, mean, scale = False, 0.0, 1.0
    for part in [one for _, one in step.steps] if hasattr(step, "steps") else [step]:
        if part == "passthrough" or hasattr(part, "statistics_"):  # an imputer: leaves alone what is there
            continue
        if hasattr(part, "func") and (part.func is None or part.func is np.log1p) and scale == 1 and mean == 0:
            log = log or part.func is np.log1p
        elif getattr(part, "scale_", None) is not None and getattr(part, "mean_", None) is not None:
            mean, scale = float(part.mean_[place]), float(part.scale_[place])
        else:
            raise _foreign(f"a {type(part).__name__} of numbers")
    return log, mean, scale


def _scorecard(final: Any, plan: Plan, names: Sequence[str], known: dict[str, Any]) -> list[str]:
    """Each feature adds its points to the log-odds."""
    weight = np.asarray(final.coef_, dtype=np.float64)[0]
    lines = [f"    t = {float(final.intercept_[0])!r}"]
    for number, (name, part) in enumerate(zip(names, plan, strict=True)):
        if isinstance(part, Words):
            points = part.table @ weight[list(part.columns)]
            known[f"w{number}"] = {key: float(points[at]) for key, at in part.number.items()}
            lines += [f"    a = row[{name!r}]", f"    t += w{number}.get(a if a == a else None, {float(points[-1])!r})"]
        elif isinstance(part, Number):
            lines += _read(name)
            if part.column is None:
                continue
            there = float(weight[list(part.others)] @ np.array(part.present)) if part.others else 0.0
            gone = float(weight[[part.column, *part.others]] @ np.array(part.missing))
            if part.log1p:  # math.log1p would raise something else
                lines.append("    if a <= -1: refuse(row)")
            value = "log1p(a)" if part.log1p else "a"
            lines.append(f"    t += {gone!r} if a != a else {there!r} + {float(weight[part.column])!r} * (({value} - "
                         f"{part.mean!r}) / {part.scale!r})")
    return lines


def _forest(final: Any, plan: Plan, names: Sequence[str], known: dict[str, Any]) -> list[str]:
    """Every tree in turn; leaves are added in scikit-learn's own order, so that not a bit differs."""
    if getattr(final, "is_categorical_", None) is not None:
        raise _foreign("trees that split by category")
    lines = []
    for number, (name, part) in enumerate(zip(names, plan, strict=True)):
        if isinstance(part, Words):
            known[f"w{number}"] = {key: tuple(map(float, part.table[at])) for key, at in part.number.items()}
            known[f"u{number}"] = tuple(map(float, part.table[-1]))
            targets = "".join(f"v{column}, " for column in part.columns)
            lines += [f"    a = row[{name!r}]", f"    {targets}= w{number}.get(a if a == a else None, u{number})"]
        elif isinstance(part, Number):
            lines += _read(name)
            if part.column is None:
                continue
            if part.log1p or part.others or (part.mean, part.scale) != (0.0, 1.0) or not math.isnan(part.missing[0]):
                raise _foreign("trees on numbers that are transformed")
            lines.append(f"    v{part.column} = a")
    lines.append(f"    t = {float(np.ravel(final._baseline_prediction)[0])!r}")
    for (tree,) in final._predictors:
        _branch(tree.nodes.tolist(), tree.nodes.dtype.names.index, 0, "    ", lines)
    return lines


def _branch(nodes: list[Any], field: Callable[[str], int], at: int, indent: str, lines: list[str]) -> None:
    node = nodes[at]
    if node[field("is_leaf")]:
        lines.append(f"{indent}t += {float(node[field('value')])!r}")
        return
    if len(indent) > DEEPEST:
        raise _foreign(f"trees deeper than {DEEPEST}")
    name, limit = f"v{int(node[field('feature_idx')])}", repr(float(node[field("num_threshold")]))
    # NaN is on neither side of a number, so the condition's form says where it goes.
    lines.append(f"{indent}if not {name} > {limit}:" if node[field("missing_go_to_left")] else
                 f"{indent}if {name} <= {limit}:")
    _branch(nodes, field, node[field("left")], indent + " ", lines)
    lines.append(f"{indent}else:")
    _branch(nodes, field, node[field("right")], indent + " ", lines)


def _read(name: str) -> list[str]:
    """A number of the row: None is a missing one, a whole one is rounded to 53 bits as a data frame would."""
    return [f"    a = row[{name!r}]", "    a = nan if a is None else float(a)", "    if a in infinite: refuse(row)"]


def _fill(made: np.ndarray, part: Number, values: np.ndarray) -> None:
    gone = np.isnan(values)
    own = np.log1p(values) if part.log1p else values
    made[:, part.column] = np.where(gone, part.missing[0], (own - part.mean) / part.scale)
    for at, column in enumerate(part.others):
        made[:, column] = np.where(gone, part.missing[at + 1], part.present[at])


def _word(value: Any) -> Any:
    return None if value != value else value


def _refuse(contract: Contract, row: Row) -> None:
    """Say which number cannot be scored."""
    for name in contract.numeric:
        value = row[name]
        if isinstance(value, float) and math.isinf(value):
            raise _infinite(name)
    raise DataError("cannot score rows: a number is outside what the model can take. Check them against the contract")


def _infinite(name: str) -> DataError:
    return DataError(f"cannot score rows: {name!r} is infinite; a ratio over zero is missing, not infinite")


def _foreign(what: str) -> ReleaseError:
    return ReleaseError(f"cannot compile {what}. Train with a known estimator, or teach models/serving/compiled.py")
