"""Below maturity 3 a release waits for a person; his word is data, for one model, on one evidence, used once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
import sqlalchemy as sa

from flows import release as flow_module
from flows.approve import approve
from flows.approving import approve_now, command
from flows.releasing import release_place
from models.decision import Decision
from models.errors import ConfigError, ReleaseError
from tasks.home import Home
from tasks.maturity import note_level
from tasks.monitoring.alarms import open_alarms
from tasks.release import approval, rollouts
from tasks.state import open_state, read_decisions, record_decision, set_clock
from tasks.tables import APPROVALS, DECISIONS, TOLD
from tests.flows.test_release_flow import bento, train
from tests.flows.test_release_flow import home as home  # a fixture: pytest finds it by its name here

pytestmark = [pytest.mark.service, pytest.mark.usefixtures("prefect_harness")]
JANUARY = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.fixture
def engine(home: Home, monkeypatch: pytest.MonkeyPatch) -> sa.Engine:
    """The state of a platform at level 2."""
    monkeypatch.setenv("CHURN_MATURITY", "2")
    monkeypatch.setenv("CHURN_RELEASE_PORT", "25720")
    return open_state(home.state_url)


def recommended(home: Home, engine: sa.Engine, version: int) -> Decision:
    """A version that won at the gate, and what the loop answers when it wants to release it."""
    train(home, version)
    for gate, verdict in (("promotion", "promote"), ("go", "go")):
        record_decision(engine, Decision(gate, verdict, f"version {version} is better"), as_of=JANUARY,
                        subject=str(version))
    answer: Decision = flow_module.release(version=version, who="lifecycle", why="it won", by_itself=True)
    return answer


def rejected_words(engine: sa.Engine, version: int) -> list[tuple[str, str]]:
    with engine.connect() as connection:
        rows = connection.execute(sa.select(APPROVALS.c.verdict, APPROVALS.c.who).where(
            APPROVALS.c.model_version == str(version))).all()
    return [(row[0], row[1]) for row in rows]


def test_the_first_release_waits_is_shown_and_is_opened_by_a_persons_word(home: Home, engine: sa.Engine) -> None:
    from prefect.artifacts import Artifact

    waits = recommended(home, engine, 1)
    assert (waits.gate, waits.verdict) == ("release", "wait")
    assert waits.reason.startswith("version 1 waits for a person's approval (maturity 2): nobody has approved it")
    assert command("1") in waits.reason
    assert (rollouts.champion(engine), rollouts.open_rollout(engine)) == (None, None)
    page = str((Artifact.get("waits-for-approval") or pytest.fail("no artifact")).data)
    assert "| promotion | promote | version 1 is better | data scientist |" in page
    assert str(waits.evidence["model_sha256"]) in page
    assert [row.subject for row in approval.waiting(engine)] == ["churn:v1"]

    done = approve(version=1, who="ada", why="looked at the card")
    assert (done.gate, done.verdict) == ("release", "release")
    (given,) = read_decisions(engine, gate="approval")
    assert (given.decision.verdict, given.decision.reason) == ("approve", "version 1, by ada: looked at the card")
    word = approval.last_word(engine, "1")
    assert word is not None
    assert word.used_at is not None
    assert (word.who, word.why, dict(word.seen)) == ("ada", "looked at the card", dict(waits.evidence))
    serving = rollouts.champion(engine)
    assert serving is not None
    assert (serving.release_id, serving.who, serving.why) == ("churn:v1", "ada", "approved: looked at the card")
    assert approval.waiting(engine) == []
    with engine.connect() as connection:  # an event for the wait and one for the promotion were sent
        assert len(connection.execute(sa.select(TOLD).where(TOLD.c.medium == "event")).all()) == 2
    with pytest.raises(ReleaseError, match="cannot approve version 1: it does not wait for anybody; waiting: none"):
        approve(version=1, who="ada", why="again")


def test_the_champion_changed_since_so_the_word_is_refused(home: Home, engine: sa.Engine) -> None:
    recommended(home, engine, 1)
    train(home, 2)
    flow_module.release(version=2, who="bob", why="a person may at every level")
    refused = approve(version=1, who="ada", why="fine")
    assert (refused.gate, refused.verdict) == ("approval", "refuse")
    assert "cannot be approved any more: the champion was none, is churn:v2" in refused.reason
    assert rejected_words(engine, 1) == []
    assert rollouts.open_rollout(engine) is None


def test_another_model_under_the_same_name_is_refused(home: Home, engine: sa.Engine) -> None:
    recommended(home, engine, 1)
    (bento(home, "churn:v1") / "golden.parquet").write_bytes(b"another one")
    refused = approve(version=1, who="ada", why="fine")
    assert "the model's bytes was" in refused.reason
    assert rollouts.champion(engine) is None


def test_a_later_verdict_on_the_version_is_not_the_one_that_was_seen(home: Home, engine: sa.Engine) -> None:
    recommended(home, engine, 1)
    record_decision(engine, Decision("go", "no go", "seen again"), as_of=JANUARY, subject="1")
    assert "the go of its development was" in approve(version=1, who="ada", why="fine").reason


def test_what_waits_too_long_is_refused(home: Home, engine: sa.Engine) -> None:
    recommended(home, engine, 1)
    set_clock(engine, JANUARY + timedelta(days=40))
    assert "it waits since 2025-01-01, more than 31 days" in approve(version=1, who="ada", why="fine").reason


def test_a_rejected_version_waits_no_more(home: Home, engine: sa.Engine) -> None:
    recommended(home, engine, 1)
    said = approve(version=1, who="ada", why="too many old people", reject=True)
    assert (said.gate, said.verdict) == ("approval", "reject")
    assert (approval.waiting(engine), rejected_words(engine, 1)) == ([], [("reject", "ada")])
    assert approval.approved(engine, "1") is None
    assert [one.line for one in open_alarms(engine, release_place()[0])] == []  # it was a person's word
    with pytest.raises(ReleaseError, match="it does not wait"):
        approve(version=1, who="bob", why="I want it")


@pytest.mark.parametrize(("who", "why"), [("", "fine"), ("ada", " ")])
def test_nobody_approves_without_name_and_reason(home: Home, engine: sa.Engine, who: str, why: str) -> None:
    recommended(home, engine, 1)
    with pytest.raises(ConfigError, match="cannot approve: "):
        approve(version=1, who=who, why=why)
    assert rejected_words(engine, 1) == []


def test_while_a_rollout_is_open_nothing_is_written(home: Home, engine: sa.Engine) -> None:
    recommended(home, engine, 1)
    rollouts.open_new(engine, release_id="churn:v1", strategy="basic", who="bob", why="by hand")
    record_decision(engine, Decision("release", "wait", "again", {"model_version": "3"}), as_of=JANUARY,
                    subject="churn:v3")
    charter, place = release_place()
    with pytest.raises(ReleaseError, match=r"cannot approve version 3 now: the rollout of churn:v1 is open \(packaged"):
        approve_now(charter, place, version=3, who="ada", why="fine")
    assert rejected_words(engine, 3) == []


def test_one_word_is_used_once_by_however_many_and_not_when_it_is_old(home: Home, engine: sa.Engine) -> None:
    recommended(home, engine, 1)
    charter, place = release_place()
    approve_now(charter, place, version=1, who="ada", why="fine")
    given = approval.approved(engine, "1")
    assert given is not None

    def used(_: int) -> bool:
        try:
            with engine.begin() as connection:
                approval.use(connection, given)
        except ReleaseError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(used, range(8))) == [False] * 7 + [True]
    assert approval.approved(engine, "1") is None
    assert [one.line for one in open_alarms(engine, release_place()[0])] == []  # it was a person's word
    old = (datetime.now(UTC) - approval.VALID - timedelta(minutes=1)).isoformat(timespec="microseconds")
    with engine.begin() as connection:
        connection.execute(APPROVALS.update().values(used_at=None, at=old))
    assert approval.approved(engine, "1") is None
    assert [one.line for one in open_alarms(engine, release_place()[0])] == []  # it was a person's word
    assert flow_module.release(version=1, by_itself=True).verdict == "wait"


def test_at_level_three_nobody_is_asked_and_a_shell_without_the_setting_keeps_the_platforms_level(
    home: Home, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CHURN_MATURITY")
    note_level(home, 2)
    assert recommended(home, engine, 1).verdict == "wait"
    (home.root / "maturity").unlink()
    lost = flow_module.release(version=1, by_itself=True)
    assert (lost.verdict, "(maturity 1)" in lost.reason) == ("wait", True)
    assert "the maturity level cannot be read from" in lost.reason
    monkeypatch.setenv("CHURN_MATURITY", "3")
    assert flow_module.release(version=1, by_itself=True).verdict == "release"


def test_the_ledger_of_a_wait_that_cannot_be_dated_is_too_old(home: Home, engine: sa.Engine) -> None:
    recommended(home, engine, 1)
    with engine.begin() as connection:
        connection.execute(DECISIONS.update().where(DECISIONS.c.verdict == "wait").values(as_of=None))
    assert "it waits since an unknown" in approve(version=1, who="ada", why="fine").reason


def test_a_clock_that_runs_ahead_does_not_let_a_yes_outlive_the_no_after_it(home: Home, engine: sa.Engine) -> None:
    recommended(home, engine, 1)
    charter, place = release_place()
    approve_now(charter, place, version=1, who="ada", why="fine")
    given = approval.approved(engine, "1") or pytest.fail("no approval")
    ahead = (datetime.now(UTC) + timedelta(seconds=50)).isoformat(timespec="microseconds")
    with engine.begin() as connection:
        connection.execute(APPROVALS.update().values(at=ahead))
    approve_now(charter, place, version=1, who="bob", why="no", reject=True)
    assert approval.approved(engine, "1") is None
    assert (approval.last_word(engine, "1") or pytest.fail("no word")).verdict == "reject"
    with pytest.raises(ReleaseError, match="or somebody spoke since"), engine.begin() as connection:
        approval.use(connection, given)  # of a call that had read it before the no was written
    assert flow_module.release(version=1, by_itself=True).verdict == "wait"
    assert rollouts.open_rollout(engine) is None


def test_words_that_are_written_at_once_each_have_their_place(home: Home, engine: sa.Engine) -> None:
    recommended(home, engine, 1)
    seen = approval.evidence_now(engine, home, "churn:v1")
    with ThreadPoolExecutor(6) as pool:
        words = list(pool.map(lambda who: approval.write(engine, "approve", who=who, why="y", seen=seen), "abcdef"))
    assert sorted(word.number or 0 for word in words) == [1, 2, 3, 4, 5, 6]


def test_an_approval_whose_rollout_could_not_be_opened_can_still_be_used(home: Home, engine: sa.Engine) -> None:
    recommended(home, engine, 1)
    charter, place = release_place()
    approve_now(charter, place, version=1, who="ada", why="fine")
    given = approval.approved(engine, "1") or pytest.fail("no approval")
    along = partial(approval.use, approval=given)
    other = rollouts.open_new(engine, release_id="churn:v2", strategy="basic", who="bob", why="by hand")
    with pytest.raises(ReleaseError, match="is open since"):  # bob was first, after ada's word was read
        rollouts.open_new(engine, release_id="churn:v1", strategy="basic", who="ada", why="fine", along=along)
    assert approval.approved(engine, "1") == given
    rollouts.close(engine, other, state="rolled back", reason="by bob")
    mine = rollouts.open_new(engine, release_id="churn:v1", strategy="basic", who="ada", why="fine", along=along)
    assert approval.approved(engine, "1") is None
    rollouts.close(engine, mine, state="rolled back", reason="by bob")
    with pytest.raises(ReleaseError, match="it was used by another call"):
        rollouts.open_new(engine, release_id="churn:v1", strategy="basic", who="ada", why="fine", along=along)
    assert rollouts.open_rollout(engine) is None  # what cannot be used opens nothing
