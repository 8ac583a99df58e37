"""The picture of a rollout, by what stands in its axes."""

from datetime import UTC, datetime, timedelta

from matplotlib.figure import Figure

from tasks.release import look_plot
from tasks.release.looks import Look

AT = datetime(2025, 1, 1, tzinfo=UTC)


def a_look(seconds: float, verdict: str, *, stage: int = 0, minutes_in_stage: float, failed: float) -> Look:
    return Look(AT + timedelta(seconds=seconds), "canary", stage, verdict, "because", {"failed": failed},
                {"e_limit": 100, "minutes_in_stage": minutes_in_stage})


def drawn(looks, tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: (kept.append(self), path.touch()))
    look_plot.draw_looks(looks, tmp_path / "picture.png", title="t", shares=(0.05, 0.25))
    return kept[0].axes[0]


def test_a_rollback_at_the_first_look_is_a_line_across_the_limit(tmp_path, monkeypatch):
    axes = drawn([a_look(0, "roll back", minutes_in_stage=0.1, failed=2e5)], tmp_path, monkeypatch)
    lines = {line.get_label(): [list(map(float, line.get_xdata())), list(map(float, line.get_ydata()))]
             for line in axes.lines}
    assert lines["failed"] == [[0.0, 0.1], [1.0, 2e5]]
    assert lines["limit: roll back"][0][-1] == axes.get_xlim()[1] > 0.1
    assert set(lines["limit: roll back"][1]) == {100.0}


def test_a_stage_is_drawn_from_its_first_traffic(tmp_path, monkeypatch):
    axes = drawn([a_look(0, "advance", minutes_in_stage=2, failed=1),
                  a_look(120, "hold", stage=1, minutes_in_stage=1.5, failed=1)], tmp_path, monkeypatch)
    assert [round(band.get_x(), 3) for band in axes.patches] == [0, 2.5]
