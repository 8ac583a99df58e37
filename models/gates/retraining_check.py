"""What a verdict on retraining rests on, and the sentences it is said in. `models.gates.retraining` decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

from models.decision import Decision
from models.gates.drift import ColumnDrift, DriftReport
from models.gates.signals import Signal
from models.limits import DriftPolicy

Kind = Literal["data", "concept", "performance"]
# How a retraining ended. champion: its model is that now; replaced: another model became champion after it began;
# on trial: its rollout is open; waits for a person: for the approval; not released: it won, and was held back.
Outcome = Literal["champion", "replaced", "on trial", "waits for a person", "not released", "rolled back", "kept",
                  "unfinished"]
Evidence = dict[str, float | int | str | None]

GATE: Final = "drift"
OWNERS: Final[Mapping[str, str]] = {  # who is called, by an owner's name of the charter
    "memory": "platform", "drift": "drift", "labels": "data", "performance": "drift", "concept": "drift",
    "quality": "data", "retrain": "retrain", "approval": "approval",
}
STEPS: Final[Mapping[str, str]] = {
    "memory": "Restore our state from a backup, then run `monitor` again",
    "drift": "Look at the run of `monitor`, at what was scored and at the release's reference; mend it and run "
             "`monitor` again",
    "labels": "Mend the feed of what happened, and ingest it; nothing is learnt from labels that are not there",
    "performance": "Look at the performance by segment: for whom is the model wrong, and does a feature tell them",
    "concept": "Look at what changed for the customers; train by hand (the deployment `train`), or raise the limits",
    "quality": "Mend the source, put the quarantine through again (`make redrive`), then run `monitor` again",
    "retrain": "Look at the runs of `retrain` that failed; the next check asks again",
    "approval": "Allow that version with `make approve`, or turn it down with REJECT=1; `make status` names it",
    "broken": "Look at the run of `monitor` for what is broken; mend it and run `monitor` again",
}


@dataclass(frozen=True)
class Past:
    """What is remembered beside flags and dates. `fault`: why the memory cannot be read; then nothing else counts."""

    fault: str | None = None
    drift_since: datetime | None = None  # cut of the first flag of the drift that lasts; None: it begins now
    failed: int = 0  # of the retrainings of the last month, those that ended in an error
    outcome: Outcome | None = None  # of the last retraining; None: there was none
    in_vain: int = 0  # retrainings in a row, the last ones, after which there was no champion, and none on trial
    recovered: frozenset[str] = frozenset()  # performance, concept: which was measured good since the last retraining
    labelled_until: datetime | None = None  # newest cohort whose labels are known; None: none is
    champion_judged: bool = False  # a cohort that the release under check scored has its labels


@dataclass(frozen=True)
class Check:
    """All that one verdict rests on."""

    report: DriftReport
    signals: Mapping[str, Signal]
    flags: tuple[bool, ...]  # newest first, this check's included
    policy: DriftPolicy
    last_retrain: datetime | None
    retrainings: int
    now: datetime
    past: Past
    owner: Callable[[str], str]
    evidence: Evidence = field(default_factory=dict)

    def says(self, verdict: str, reason: str, **more: float | int | str | None) -> Decision:
        return Decision(GATE, verdict, reason, {**self.evidence, **more})

    def alarm(self, faults: Sequence[tuple[str, str]], **more: float | int | str | None) -> Decision:
        """A person is called: by the first of `faults`, each a part of OWNERS and what is wrong with it."""
        part = faults[0][0]
        role = self.owner(OWNERS[part])
        broken = part in self.signals and self.signals[part].state == "broken"
        step = STEPS["broken" if broken else part]
        reason = f"{'; '.join(text for _, text in faults)}. For the {role}: {step}"
        return self.says("alarm", reason, owner=role, step=step, why=part, **more)

    def days_since(self) -> float | None:
        return None if self.last_retrain is None else (self.now - self.last_retrain).total_seconds() / 86_400

    def count(self) -> str:
        policy = self.policy
        return f"{sum(self.flags)} of the last {policy.of_checks} checks flagged, {policy.flags_to_act} needed"

    def last(self) -> str:
        return ", never retrained" if self.last_retrain is None else f", {self.cooldown()}"

    def cooldown(self) -> str:
        return f"retrained {self.days_since():.0f} days ago, cool-down {self.policy.cooldown_days} days"

    def budget(self) -> str:
        failed = f", {self.past.failed} of them failed" if self.past.failed else ""
        return (f"{self.retrainings} retrainings were begun in the last month{failed}, at most "
                f"{self.policy.retrainings_a_month} (retrainings_a_month)")

    def moved(self, word: str) -> str:
        """The columns that matter, those that do so only together last."""
        mattering, least = self.report.mattering, self.policy.least_importance
        light = [column for column in mattering if column.importance is not None and column.importance < least]
        parts = [column.describe() for column in mattering if column not in light]
        if light:
            share = sum(column.importance or 0.0 for column in light)
            parts.append(f"{len(light)} light columns with {share:.1%} of the importance together: "
                         + ", ".join(column.describe() for column in light))
        return word + ", ".join(parts) if parts else ""

    def aside(self) -> str:
        """Columns that moved and count for nothing, by why."""
        harmless = [column for column in self.report.flagged if not column.matters]
        parts: tuple[tuple[str, list[ColumnDrift]], ...] = (
            (f"below {self.policy.least_importance:.1%} of the importance", [one for one in harmless if not one.ages]),
            ("growing with the age of the data", [one for one in harmless if one.ages]),
        )
        return "".join(f"; harmless, {why}: {', '.join(column.describe() for column in columns)}"
                       for why, columns in parts if columns)

    def states(self) -> str:
        return ", ".join(f"{name} {one.state}" for name, one in self.signals.items())
