"""What a gate answers: the ledger's row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

# Every gate and the verdicts it can give (`models.team.DEFAULT_OWNERS` says who owns it). A verdict that is not listed
# cannot be recorded.
VERDICTS: Final[Mapping[str, tuple[str, ...]]] = {
    "data": ("accept", "refuse"),
    "promotion": ("promote", "keep", "wait"),
    "smoke": ("pass", "refuse"),
    "shadow": ("advance", "hold", "roll back"),
    "canary": ("advance", "hold", "roll back"),
    "pause": ("paused", "resumed"),
    "bake": ("baked", "hold", "roll back"),
    "release": ("release", "refuse", "rolled back", "wait"),
    "approval": ("approve", "reject", "refuse"),
    "silence": ("alarm", "well"),
    "drift": ("nothing", "harmless", "retrain", "alarm"),
    "retrain": ("accept", "refuse", "wait", "done"),
    "erasure": ("begun", "erased"),
    "retention": ("drop",),
    "value": ("use", "keep"),
    "go": ("go", "no go"),
    "study": ("seldom", "every 12 months", "every 6 months", "every 3 months", "every 2 months", "every month",
              "no answer"),
}
# What a verdict of an older ledger is called now.
OLD_VERDICTS: Final[Mapping[tuple[str, str], str]] = {("drift", "ignore"): "nothing", ("drift", "flag"): "harmless"}


@dataclass(frozen=True)
class Decision:
    """A gate's verdict and why, in one readable line with its numbers.

    Raises:
        ValueError: a gate or verdict outside `VERDICTS`, or an empty reason: a gate that cannot say
            why has not decided.
    """

    gate: str
    verdict: str
    reason: str
    evidence: Mapping[str, float | int | str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS.get(self.gate, ()):
            raise ValueError(f"gate {self.gate!r} cannot say {self.verdict!r}; known: {dict(VERDICTS)}")
        if not self.reason.strip():
            raise ValueError(f"gate {self.gate!r} gave no reason for {self.verdict!r}")
