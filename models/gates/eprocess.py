"""Bets that may be looked at as often as one likes: e-processes and a confidence sequence, from counts.

An e-process is the worth of a bet against a claim. While the claim holds it exceeds `1/alpha` at any time with
probability `alpha` at most (Ville's inequality), so nobody has to say beforehand when to look. A mixture of bets,
and a product over what is dealt anew, are such bets again.

Sources: Lindon & Malek, Anytime-Valid Inference for Multinomial Count Data, NeurIPS 2022 (arXiv 2011.03567);
Ramdas, Grünwald, Vovk & Shafer, Game-theoretic statistics and safe anytime-valid inference (arXiv 2210.01948);
Howard, Ramdas, McAuliffe & Sekhon, Time-uniform confidence sequences (arXiv 1810.08240).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

# How many times as often, beyond what is harmless: the bets of a mixture, each with the same stake.
RATIOS: Final = (1.08, 1.25, 1.6, 2.2, 3.5, 7.0, 20.0, 100.0)
# How much of the way from the tolerated share to all.
WAYS: Final = (0.03, 0.1, 0.25, 0.5, 0.75, 0.95)
FEW: Final = (1.0, 100.0)  # Beta prior of a share: narrowest where about 1 in 100 or fewer
ANY: Final = (1.0, 9.0)


@dataclass(frozen=True)
class Coins:
    """Customers to whom something happened, and their arms: each a coin that shows the canary with `share`."""

    share: float
    canary: int = 0
    champion: int = 0


def log_ratio_bet(coins: Iterable[Coins], harmless: float = 1.0) -> float:
    """Log worth of a bet against "it happens to a canary customer at most `harmless` times as often".

    If it happens `r` times as often in the canary, a coin of share `q` shows the canary with `q r / (q r + 1 - q)`.
    Each bet is the likelihood ratio of a larger `r` over `harmless`; over any smaller true ratio it loses on average,
    so the claim is the whole range up to `harmless`, a canary to whom it happens less often included.
    """
    thrown = [one for one in coins if one.canary + one.champion]
    return log_mean_exp([sum(_gain(one, harmless * ratio, harmless) for one in thrown) for ratio in RATIOS])


def log_seldom_bet(coins: Iterable[Coins], harmless: float = 1.0) -> float:
    """The same against "at least `1 / harmless` times as often"."""
    return log_ratio_bet([Coins(1 - one.share, one.champion, one.canary) for one in coins], harmless)


def log_slow_bet(slow: Sequence[Coins], fast: Sequence[Coins], slow_share: float | None) -> float:
    """Log worth of a bet against "canary customers are slow no more often": by the slow and by the fast ones.

    Args:
        slow_share: how often the champion is slow, known beforehand; it says how much rarer a fast canary customer
            becomes. None: only the slow ones are bet on.
    """
    worths = []
    for ratio in RATIOS:
        worth = sum(_gain(one, ratio, 1.0) for one in slow)
        if slow_share is not None:
            if slow_share * ratio > 0.97:
                continue
            worth += sum(_gain(one, (1 - slow_share * ratio) / (1 - slow_share), 1.0) for one in fast)
        worths.append(worth)
    return log_mean_exp(worths) if worths else 0.0


def _gain(one: Coins, ratio: float, harmless: float) -> float:
    q = one.share
    below, above = math.log(q * ratio + 1 - q), math.log(q * harmless + 1 - q)
    return one.canary * (math.log(ratio / harmless) - below + above) + one.champion * (above - below)


def log_share_bet(hits: int, total: int, tolerated: float) -> float:
    """Log worth of a bet against "each next one is a hit with at most `tolerated`"."""
    worths = []
    for way in WAYS:
        share = tolerated + (1 - tolerated) * way
        worths.append(hits * math.log(share / tolerated) + (total - hits) * math.log((1 - share) / (1 - tolerated)))
    return log_mean_exp(worths)


def log_mean_exp(values: Sequence[float]) -> float:
    """Log of the mean of `exp(values)`: what a mixture of bets is worth."""
    most = max(values)
    return most + math.log(sum(math.exp(value - most) for value in values) / len(values))


def worth(log_e: float) -> float:
    """An e-value as it is shown: four digits, within what a float can hold."""
    return float(f"{math.exp(max(min(log_e, 690.0), -690.0)):.4g}")


def share_bound(
    hits: int, total: int, *, alpha: float, upper: bool, prior: tuple[float, float] = FEW
) -> float:
    """End of the Beta-mixture confidence sequence of a share: where the mixture beats the share by `1/alpha`."""
    if total == 0:
        return 1.0 if upper else 0.0
    a, b = prior
    kept = total - hits
    mixture = _log_beta(a + hits, b + kept) - _log_beta(a, b) + math.log(alpha)
    inside, outside = hits / total, 1.0 if upper else 0.0
    for _ in range(40):
        middle = (inside + outside) / 2
        if middle in (0.0, 1.0):
            break
        if mixture >= hits * math.log(middle) + kept * math.log1p(-middle):
            outside = middle
        else:
            inside = middle
    return outside


def excess_bound(
    canary: tuple[int, int], champion: tuple[int, int], *, alpha: float, prior: tuple[float, float] = FEW
) -> float:
    """Upper bound of the canary's share minus the champion's, valid at every look, error `alpha`.

    Args:
        canary, champion: hits and customers.
    """
    return (share_bound(*canary, alpha=alpha / 2, upper=True, prior=prior)
            - share_bound(*champion, alpha=alpha / 2, upper=False, prior=prior))


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
