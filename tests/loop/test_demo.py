"""`make demo` in its short form: a real platform, real traffic, retrained by its own monitor's event."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from deploy.local.demo_world import SHORT
from tasks.home import Home
from tasks.release import releases, rollouts
from tasks.scoring.score import scores_partition
from tasks.state import LedgerRow, open_state, read_decisions
from tests.loop.conftest import Loop, make_loop

pytestmark = [pytest.mark.service, pytest.mark.timeout(1_800)]  # the demo is lived through while it is set up
FIRST_PORT = 25680  # the demo's own lie 120 above
SEEN = SHORT.world.concept_drift_month + 2  # its first labels are mature
LEARNT = SEEN + 1  # those of a second cut are
SECONDS = 1500  # two quiet cores take some three minutes; tests beside it make that several times as much


@dataclass(frozen=True)
class Lived:
    """What `make demo` printed, and what it left."""

    told: str
    home: Home

    @property
    def engine(self) -> sa.Engine:
        return open_state(self.home.state_url)

    def decided(self, month: int, gate: str) -> list[LedgerRow]:
        """What a gate said about a month of the world, oldest first."""
        as_of = SHORT.as_of(month).isoformat()
        return [row for row in reversed(read_decisions(self.engine, gate=gate, limit=1000)) if row.as_of == as_of]

    def line(self, month: int) -> str:
        """What was printed of it."""
        month_line = re.compile(rf"{SHORT.as_of(month):%Y-%m}  +[\d.]+ s")
        return next(line for line in self.told.splitlines() if month_line.match(line))


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory, shared_venvs: Path) -> Loop:
    folder = tmp_path_factory.mktemp("demo")
    made = make_loop(folder, FIRST_PORT)
    demo = made.home.root / "demo"
    demo.mkdir(parents=True)
    (demo / "venvs").symlink_to(shared_venvs)
    return made


@pytest.fixture(scope="module")
def lived(loop: Loop) -> Lived:
    return Lived(loop.make("demo", "SHORT=1", seconds=SECONDS).stdout, Home(loop.home.root / "demo"))


def test_each_month_is_one_line_in_order(lived: Lived):
    months = re.findall(r"^(\d{4}-\d\d)  +[\d.]+ s  .+ \| .+ \| .+$", lived.told, re.MULTILINE)
    assert months == [f"{SHORT.as_of(month):%Y-%m}" for month in SHORT.months]


def test_the_broken_delivery_is_refused_and_the_list_before_it_stands(lived: Lived):
    refused = lived.decided(SHORT.broken, "data")
    assert [row.decision.verdict for row in refused] == ["refuse"]
    assert "new rows are bad" in refused[0].decision.reason
    before = f"{SHORT.as_of(SHORT.broken - 1):%Y-%m}"
    assert "data: refuse" in lived.line(SHORT.broken)
    assert lived.line(SHORT.broken).endswith(f"the list of {before} stands")
    assert not scores_partition(lived.home, SHORT.as_of(SHORT.broken)).exists()


def test_the_check_after_a_broken_delivery_calls_who_owns_the_data(lived: Lived):
    """It is made at the date of the last good load; the refusal carries a later one."""
    check = lived.decided(SHORT.broken - 1, "drift")[-1].decision
    assert (check.verdict, check.evidence["owner"]) == ("alarm", "data engineer")
    assert "the last batch was refused" in check.reason
    assert "drift: alarm" in lived.line(SHORT.broken)
    assert "drift: alarm" not in lived.line(SHORT.broken + 1)


def test_the_next_delivery_heals_it(lived: Lived):
    assert [row.decision.verdict for row in lived.decided(SHORT.broken + 1, "data")] == ["accept"]
    assert scores_partition(lived.home, SHORT.as_of(SHORT.broken + 1)).exists()


def test_quiet_months_ask_for_nothing(lived: Lived):
    for month in range(SHORT.first, SEEN):
        assert not [row for row in lived.decided(month, "drift") if row.decision.verdict == "retrain"]
        assert lived.decided(month, "retrain") == []


def test_the_change_of_the_concept_is_seen_as_soon_as_its_labels_are_mature(lived: Lived):
    check = lived.decided(SEEN, "drift")[-1].decision
    assert (check.verdict, check.evidence["kind"]) == ("retrain", "concept")
    assert str(check.evidence["changed_since"]).startswith(f"{SHORT.as_of(SHORT.world.concept_drift_month):%Y-%m-%d}")
    assert "concept: " in lived.line(SEEN)


def test_the_retraining_waits_for_two_mature_cuts_after_the_change_and_then_learns_from_them_alone(lived: Lived):
    waited = lived.decided(SEEN, "retrain")
    assert [row.decision.verdict for row in waited] == ["wait"]
    assert lived.line(SEEN).endswith("s after the event; listed")
    assert "retrain: wait" in lived.line(SEEN)
    accepted = [row for row in lived.decided(LEARNT, "retrain") if row.decision.verdict == "accept"]
    promoted = lived.decided(LEARNT, "promotion")
    assert (len(accepted), [row.decision.verdict for row in promoted]) == (1, ["promote"])
    change = f"{SHORT.as_of(SHORT.world.concept_drift_month):%Y%m%d}"
    assert promoted[0].decision.evidence["train_cuts"].replace("-", "").startswith(change)


def test_the_monitors_event_has_the_worker_retrain_and_its_winner_is_released_by_canary(lived: Lived):
    asked = {row.decision_id: row for row in read_decisions(lived.engine, gate="drift")
             if row.decision.verdict == "retrain"}
    accepted = next(row for row in lived.decided(LEARNT, "retrain") if row.decision.verdict == "accept")
    by = asked[str(accepted.decision.evidence["decision_id"])]
    assert accepted.flow_run_id not in (None, by.flow_run_id)
    canary = [row.decision.verdict for row in lived.decided(LEARNT, "canary")]
    assert canary.count("advance") == 3, canary  # its first customers, 25 %, 50 %
    assert re.search(r"\| trained, \d+ s after the event; v2 champion by canary; listed$", lived.line(LEARNT))


def test_the_old_version_that_hangs_is_rolled_back_and_the_retrained_one_stays(lived: Lived):
    champion, ended = rollouts.champion(lived.engine), rollouts.last_rollout(lived.engine)
    assert champion is not None
    assert ended is not None
    assert releases.read_release(lived.engine, champion.release_id).model_version == "2"
    assert (ended.state, releases.read_release(lived.engine, ended.release_id).model_version) == ("rolled back", "1")
    assert "v1 rolled back (" in lived.line(SHORT.bad_candidate)


def test_it_ends_with_what_retraining_was_worth_on_the_same_customers(lived: Lived):
    sums = re.search(r"^earned ([\d,-]+); never retrained ([\d,-]+); retraining brought ([+\d,-]+) in 6 months$",
                     lived.told, re.MULTILINE)
    assert sums, lived.told
    made, never, gain = (int(number.replace(",", "")) for number in sums.groups())
    assert abs(made - never - gain) <= 1
    assert made > 0
    assert gain > 0
    values = re.findall(r"^(\d{4}-\d\d) +v(\d).* ([+-][\d,]+)$", lived.told, re.MULTILINE)
    assert len(values) == len(SHORT.months)
    by = [version for _, version, _ in values]
    assert by == ["1"] * 5 + ["2"]  # the month's list is made before its retraining
    assert [gain for _, version, gain in values if version == "1"] == ["+0"] * 5


def test_no_request_failed_and_the_picture_is_there(lived: Lived):
    assert re.search(r"^requests  [\d,]+ answered, 0 failed$", lived.told, re.MULTILINE), lived.told
    picture = re.search(r"^picture   file://(\S+)$", lived.told, re.MULTILINE)
    assert picture
    assert Path(picture[1]).read_bytes().startswith(b"\x89PNG")


def test_nothing_runs_afterwards(lived: Lived):
    left = [process.cmdline() for process in psutil.process_iter() if str(lived.home.root) in _words(process)]
    assert left == []


def test_ctrl_c_stops_what_was_started_and_the_next_demo_may_start_anew(lived: Lived, loop: Loop):
    started = loop.start("demo", "SHORT=1")
    assert started.stdout is not None
    while "envoy answers" not in (line := started.stdout.readline()):
        assert line, started.communicate()
    for child in psutil.Process(started.pid).children(recursive=True):
        if "deploy.local.demo" in child.cmdline():
            child.send_signal(signal.SIGINT)
    _, said = started.communicate(timeout=300)
    assert "interrupted; what the demo started is stopped" in said
    assert started.returncode != 0
    test_nothing_runs_afterwards(lived)


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
