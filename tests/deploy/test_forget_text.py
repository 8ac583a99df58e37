"""What `make forget` and `make status` say of an erasure, without a platform."""

from __future__ import annotations

from pathlib import Path

from deploy.local.forget import by_folder
from deploy.local.status import _open_erasures
from models.decision import Decision
from tasks.state import open_state, record_decision

NOT_OURS = "not ours: have the person removed there; ingest drops their rows"


def test_source_files_that_still_hold_the_person_are_a_line_a_folder_and_all_else_a_line_each():
    remains = [("/in/orders/a.csv", f"1,002 rows; {NOT_OURS}"), ("/in/orders/b.csv", f"3 rows; {NOT_OURS}"),
               ("/in/orders/c.csv", "not looked at: no such column"), ("/in/people/a.csv", f"1 rows; {NOT_OURS}"),
               ("/in/truth/a.json", NOT_OURS), ("/in/truth/b.json", NOT_OURS),
               ("models/a.bin", "no text, no Parquet: look at it by hand"),
               ("models/b.bin", "no text, no Parquet: look at it by hand")]
    assert list(by_folder(remains)) == [
        f"/in/orders: 2 files, 1,005 rows; {NOT_OURS}",
        "/in/orders/c.csv: not looked at: no such column",
        f"/in/people/a.csv: 1 rows; {NOT_OURS}",
        f"/in/truth: 2 files; {NOT_OURS}",
        "models/a.bin: no text, no Parquet: look at it by hand",
        "models/b.bin: no text, no Parquet: look at it by hand",
    ]


def test_an_erasure_that_did_not_end_is_an_alarm_though_another_ended_since(tmp_path: Path):
    engine = open_state(f"sqlite:///{tmp_path}/state.db")
    for subject, verdict in (("one", "begun"), ("other", "begun"), ("other", "erased")):
        record_decision(engine, Decision("erasure", verdict, "erasing a person"), as_of=None, subject=subject)
    (alarm,) = _open_erasures(engine)
    assert "not finished: erasing a person. Run the same `make forget` again" in alarm
    record_decision(engine, Decision("erasure", "erased", "erasing a person"), as_of=None, subject="one")
    assert _open_erasures(engine) == []
    engine.dispose()
