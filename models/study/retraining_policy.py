"""What retraining every n months, or never, would have earned less its cost, and how fast a model ages.

All policies are judged at the same cuts on the same customers, and resampled together. A policy is *surely
worse* if another's advantage is greater than the luck of the best of them explains (the t-max test of Hansen,
Lunde & Nason, The Model Confidence Set, Econometrica 79, 2011); of those that are not, the simplest is
recommended: the fewest retrainings, and at a tie all history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from models.decision import Decision
from models.evaluation.bootstrap import Interval
from models.study.history import Draws, History, Model, StudyConfig

Window = Literal["combined", "new"]
WINDOWS: Final[tuple[Window, ...]] = ("combined", "new")
NEVER: Final = 0


@dataclass(frozen=True)
class Policy:
    """Retrain every so many months (`NEVER`: not at all) on `combined` history, or on what is `new` since."""

    every: int
    window: Window = "combined"

    @property
    def text(self) -> str:
        if self.every == NEVER:
            return "never"
        return f"{name_months(self.every)}{'' if self.window == 'combined' else ' (new rows only)'}"


def name_months(months: int) -> str:
    return "every month" if months == 1 else f"every {months} months"


def policies(config: StudyConfig, *, step_months: int, span_months: int, train_cuts: int) -> list[Policy]:
    """Those that history can tell apart, simplest first.

    Left out: months that are no multiple of the cuts', and those longer than the history seen. A `new` window
    as long as the combined one is the same.
    """
    told = [months for months in config.every_months if months % step_months == 0 and months <= span_months]
    return [Policy(NEVER)] + [
        Policy(months, window) for months in reversed(told) for window in WINDOWS
        if window == "combined" or months // step_months < train_cuts
    ]


def windows(config: StudyConfig, *, step_months: int, train_cuts: int) -> list[int]:
    """Every window a policy may need, in cuts."""
    new = {months // step_months for months in config.every_months if months % step_months == 0}
    return sorted({train_cuts} | {cuts for cuts in new if cuts < train_cuts})


def model_in_use(policy: Policy, history: History, cut: int, *, first: int, step_months: int,
                 train_cuts: int) -> tuple[Model, int]:
    """The model that serves at a cut, and how many retrainings there were up to it.

    Args:
        first: months until the first retraining; a policy is averaged over all it could be.
    """
    start = history.window(0, train_cuts)
    due = [number for number in range(1, cut + 1)
           if policy.every and history.months[number] >= first
           and (history.months[number] - first) % policy.every == 0]
    if not due:
        return start, 0
    size = train_cuts if policy.window == "combined" else policy.every // step_months
    return history.window(due[-1], size), len(due)


@dataclass(frozen=True)
class Earned:
    """What a policy would have earned a month, and how far it stays behind the best."""

    policy: Policy
    value: Interval  # money a month, before the cost of retraining
    net: Interval  # after it
    retrainings: float  # a year
    behind: Interval  # the best policy's net less this one's
    may_lose: float  # money a month: the highest end of any other policy's interval above this one
    surely_worse: bool


@dataclass(frozen=True)
class Age:
    """Frozen models at one age, each beside one trained that very month, on the same rows."""

    months: int
    pairs: int  # models and cuts
    auc: Interval
    auc_lost: Interval
    value_lost: Interval  # money a month


@dataclass(frozen=True)
class Study:
    """The study of history: what it found, and the decision."""

    ages: tuple[Age, ...]
    auc_lost_a_month: Interval  # of age: the slope through the origin
    earned: tuple[Earned, ...]  # simplest first
    decision: Decision


def pairs_wanted(history: History, found: Sequence[Policy], *, step_months: int, train_cuts: int) -> list[
        tuple[Model, int]]:
    """Every model and cut that ageing and policies look at."""
    cuts = range(len(history.cuts))
    frozen = [(history.window(origin, train_cuts), cut) for origin in cuts for cut in cuts if cut >= origin]
    used = [(model_in_use(policy, history, cut, first=first, step_months=step_months, train_cuts=train_cuts)[0], cut)
            for policy in found for first in phases(policy, step_months) for cut in cuts]
    return list(dict.fromkeys([*frozen, *used]))


def phases(policy: Policy, step_months: int) -> Sequence[int]:
    """Months until the first retraining that a policy may begin with."""
    return range(step_months, policy.every + 1, step_months) if policy.every else [0]


def interval_of(draws: np.ndarray, confidence: float) -> Interval:
    """The first of the draws is the estimate; ends are NaN where every tenth draw has no answer."""
    return Interval.of(draws[0], draws[1:], confidence=confidence)


def age_models(history: History, draws: Draws, *, train_cuts: int, step_months: int, confidence: float) -> tuple[
        tuple[Age, ...], Interval]:
    """How a frozen model falls behind a fresh one, by months of age; and the AUC it loses a month of age."""
    cuts, found = range(len(history.cuts)), []
    lost: list[tuple[int, np.ndarray]] = []
    for age in sorted({history.months[cut] - history.months[origin] for origin in cuts for cut in cuts[origin:]}):
        pairs = [(history.window(origin, train_cuts), history.window(cut, train_cuts), cut)
                 for origin in cuts for cut in cuts[origin:] if history.months[cut] - history.months[origin] == age]
        auc = np.array([draws.auc[old, cut] for old, _, cut in pairs])
        auc_lost = np.array([draws.auc[fresh, cut] - draws.auc[old, cut] for old, fresh, cut in pairs])
        value_lost = np.array([draws.value[fresh, cut] - draws.value[old, cut] for old, fresh, cut in pairs])
        found.append(Age(age, len(pairs), interval_of(auc.mean(axis=0), confidence),
                         interval_of(auc_lost.mean(axis=0), confidence),
                         interval_of(value_lost.mean(axis=0) / step_months, confidence)))
        lost += [(age, one) for one in auc_lost]
    ages = np.array([age for age, _ in lost], dtype=float)
    slope = (ages[:, None] * np.array([one for _, one in lost])).sum(axis=0) / max((ages**2).sum(), 1.0)
    return tuple(found), interval_of(slope, confidence)


def judge_history(
    history: History, draws: Draws, found: Sequence[Policy], *, config: StudyConfig, train_cuts: int,
    step_months: int, cost_of_retraining: float,
) -> Study:
    """Which policy to follow.

    Args:
        found: simplest first.
        cost_of_retraining: money a retraining.
    """
    months = len(history.cuts) * step_months
    value, retrainings = [], []
    for policy in found:
        used = [[model_in_use(policy, history, cut, first=first, step_months=step_months, train_cuts=train_cuts)
                 for cut in range(len(history.cuts))] for first in phases(policy, step_months)]
        value.append(np.mean([np.sum([draws.value[model, cut] for cut, (model, _) in enumerate(one)], axis=0)
                              for one in used], axis=0) / months)
        retrainings.append(float(np.mean([one[-1][1] for one in used])) / months)
    gross = np.array(value)
    net = gross - cost_of_retraining * np.array(retrainings)[:, None]
    worse = surely_worse(net, confidence=config.confidence)
    best = int(np.argmax(net[:, 0]))
    earned = tuple(
        Earned(policy, interval_of(gross[number], config.confidence), interval_of(net[number], config.confidence),
               12 * retrainings[number], interval_of(net[best] - net[number], config.confidence),
               # NumPy's maximum: an end that is no number stays one, and gives no answer.
               float(np.max([interval_of(one - net[number], config.confidence).high for one in net])),
               bool(worse[number]))
        for number, policy in enumerate(found)
    )
    ages, slope = age_models(history, draws, train_cuts=train_cuts, step_months=step_months,
                             confidence=config.confidence)
    return Study(ages, slope, earned, _recommend(earned, earned[best], slope, history, config, cost_of_retraining))


def surely_worse(net: np.ndarray, *, confidence: float) -> np.ndarray:
    """Which policies another one surely outdoes, shape (policies,).

    Args:
        net: (policies, 1 + resamples) money: of all rows first.
    """
    answers = []
    for own in net:
        ahead = net - own
        luck = ahead[:, 1:] - ahead[:, :1]
        spread = luck.std(axis=1)
        apart = spread > 1e-9 * max(float(np.abs(net[:, 0]).max()), 1e-9)
        if (ahead[~apart, 0] > 1e-9).any():  # the same customers whatever is drawn, and dearer
            answers.append(True)
        elif apart.any():
            seen = (ahead[apart, 0] / spread[apart]).max()
            limit = np.quantile((luck[apart] / spread[apart, None]).max(axis=0), confidence)
            answers.append(not seen <= limit)
        else:
            answers.append(False)
    return np.array(answers)


def _recommend(
    earned: Sequence[Earned], best: Earned, slope: Interval, history: History, config: StudyConfig, cost: float
) -> Decision:
    """The simplest policy that is not surely worse, if what it may lose is tolerable."""
    chosen = next(one for one in earned if not one.surely_worse)
    limit = config.tolerable_loss * best.net.value
    seen = (f"{len(history.cuts)} cuts from {history.cuts[0]:%Y-%m-%d} to {history.cuts[-1]:%Y-%m-%d}, models up to "
            f"{history.months[-1]} months old")
    evidence: dict[str, float | int | str | None] = {
        "recommended": chosen.policy.text, "window": chosen.policy.window, "every_months": chosen.policy.every,
        "net_a_month": chosen.net.value, "best": best.policy.text, "best_net_a_month": best.net.value,
        "behind": chosen.behind.value, "behind_low": chosen.behind.low, "behind_high": chosen.behind.high,
        "may_lose": chosen.may_lose, "policies": len(earned),
        "auc_lost_a_month": slope.value, "auc_lost_a_month_low": slope.low, "auc_lost_a_month_high": slope.high,
        "cost_of_retraining": cost, "cuts": len(history.cuts), "first_cut": f"{history.cuts[0]:%Y-%m-%d}",
        "last_cut": f"{history.cuts[-1]:%Y-%m-%d}", "oldest_model_months": history.months[-1],
        "estimator": config.estimator, "cut_short": history.cut_short or None,
    }
    ageing = f"AUC lost a month of age {slope.value:+.4f} [{slope.low:+.4f}, {slope.high:+.4f}]"
    if not best.net.value > 0:
        return Decision("study", "no answer", f"no policy would have earned anything: the best, {best.policy.text}, "
                        f"{best.net.value:+,.0f} a month ({seen})", evidence)
    name = "never retraining" if chosen.policy.every == NEVER else f"retraining {chosen.policy.text}"
    compared = f"{name} would have earned {chosen.net.value:+,.0f} a month, the most of all"
    if chosen is not best:
        compared = (f"{name} would have earned {chosen.net.value:+,.0f} a month, {best.policy.text} "
                    f"{best.net.value:+,.0f}, {config.confidence:.0%} interval of the difference "
                    f"[{chosen.behind.low:+,.0f}, {chosen.behind.high:+,.0f}]: no more than the luck of the best of "
                    f"{len(earned)}")
    if not chosen.may_lose <= limit:
        return Decision("study", "no answer", f"{compared}; but it may lose {chosen.may_lose:,.0f} a month against "
                        f"another, and at most {limit:,.0f} ({config.tolerable_loss:.0%}) is tolerable: too little is "
                        f"known ({seen})", evidence)
    verdict = "seldom" if chosen.policy.every == NEVER else name_months(chosen.policy.every)
    return Decision("study", verdict, f"{compared}; {ageing} ({seen})", evidence)
