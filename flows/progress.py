"""Progress of a search: a line after each trial."""

from __future__ import annotations

from collections.abc import Callable

from flows.summary import say
from models.training.search import Trial


def trial_line(trials: int) -> Callable[[Trial], None]:
    """What is called after each trial: says which of how many it was, its loss, and the best so far."""
    best: list[Trial] = []

    def on_trial(trial: Trial) -> None:
        if trial.state == "complete" and (not best or trial.loss < best[0].loss):
            best[:] = [trial]
        seen = f"log loss {trial.loss:.4f}" if trial.state == "complete" else trial.state
        known = f"best so far {best[0].loss:.4f} by {best[0].estimator}" if best else "none complete so far"
        say(f"  trial {trial.number + 1} of {trials}: {trial.estimator}, {seen}; {known}")

    return on_trial
