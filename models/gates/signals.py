"""What a check of monitoring saw, one thing each: the decision to retrain weighs them together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Name = Literal["labels", "performance", "concept", "quality"]
State = Literal["good", "bad", "waiting", "broken"]


@dataclass(frozen=True)
class Signal:
    """One thing that was looked at.

    good, bad: what the evidence says; bad by a limit that is surely crossed. waiting: too early, nothing is mature yet
    or too few are; no alarm. broken: it cannot be judged though it should be (unreadable, missing): an alarm.
    """

    name: Name
    state: State
    reason: str  # one line with numbers and the limit
    evidence: Mapping[str, float | int | str | None] = field(default_factory=dict)
