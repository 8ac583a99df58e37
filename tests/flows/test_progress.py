from __future__ import annotations

from flows.progress import trial_line
from models.training.search import Trial


def trial(number: int, loss: float, state: str = "complete") -> Trial:
    return Trial(number, "logistic", {"C": 0.1}, {"2024-01-01": loss} if state != "failed" else {}, state, 1.0)


def test_each_trial_is_a_line_with_how_many_there_are_and_the_best_so_far(capsys):
    tell = trial_line(4)
    for one in (trial(0, 0.4, "failed"), trial(1, 0.3), trial(2, 0.2, "pruned"), trial(3, 0.35)):
        tell(one)
    assert [line.strip() for line in capsys.readouterr().err.splitlines()] == [
        "trial 1 of 4: logistic, failed; none complete so far",
        "trial 2 of 4: logistic, log loss 0.3000; best so far 0.3000 by logistic",
        "trial 3 of 4: logistic, pruned; best so far 0.3000 by logistic",
        "trial 4 of 4: logistic, log loss 0.3500; best so far 0.3000 by logistic",
    ]
