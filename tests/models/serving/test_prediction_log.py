"""The prediction log: what is written whole, by several processes, on a full disk, and through a rotation."""

import json
import multiprocessing
import os
import resource
import stat
import subprocess
import sys
import time

import pytest

from models.serving.prediction_log import PredictionLog, parse_line, pieces, unused
from tests.conftest import skip_or_fail


def record(number, *, writer="a", text=""):
    return {"at": "2026-11-23T00:00:00Z", "request_id": f"{writer}-{number}", "row": 0, "release_id": "churn:v1",
            "attempt": 1, "features": {"text": text}, "probability": 0.5}


def ids(path):
    return [json.loads(line)["request_id"] for piece in pieces(path) for line in piece.read_bytes().splitlines()]


def test_all_rows_of_a_request_are_lines_of_their_own_written_at_once(tmp_path, monkeypatch):
    writes = []
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, text: writes.append(text) or real(file, text))
    log = PredictionLog(tmp_path / "p.jsonl")
    assert log.append_many([record(1), record(2), record(3)]) == 3
    assert len(writes) == 1
    assert ids(tmp_path / "p.jsonl") == ["a-1", "a-2", "a-3"]
    assert stat.S_IMODE((tmp_path / "p.jsonl").stat().st_mode) == 0o600


def test_nothing_to_write_and_what_no_json_can_hold_cost_nothing(tmp_path):
    log = PredictionLog(tmp_path / "p.jsonl")
    assert log.append_many([]) == 0
    assert log.append_many([{"at": object()}]) == 0
    assert log.append_many([record(1)]) == 1


def test_what_was_written_is_synced_soon_and_only_then(tmp_path, monkeypatch):
    log, synced = PredictionLog(tmp_path / "p.jsonl"), []
    monkeypatch.setattr(os, "fdatasync", lambda file: synced.append(file) if file == log._file else None)
    time.sleep(0.5)
    assert synced == []
    log.append_many([record(1)])
    deadline = time.monotonic() + 5
    while not synced and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.6)
    assert len(synced) == 1


def test_a_file_that_is_too_long_goes_on_in_a_new_one(tmp_path):
    log = PredictionLog(tmp_path / "p.jsonl", rotate_bytes=1_000)
    for number in range(20):
        assert log.append_many([record(number)]) == 1
    found = pieces(tmp_path / "p.jsonl")
    assert len(found) > 2
    assert all(piece.stat().st_size < 1_300 for piece in found)
    assert ids(tmp_path / "p.jsonl") == [f"a-{number}" for number in range(20)]


def _append(path, writer, count, rows):
    log = PredictionLog(path, rotate_bytes=20_000)
    for number in range(count):
        assert log.append_many([record(f"{number}-{row}", writer=writer) for row in range(rows)]) == rows
    os._exit(0)  # a fork inherits what libraries of other tests registered for the end of their own process


def test_several_processes_lose_no_line_while_they_rotate_the_same_file(tmp_path):
    path = tmp_path / "p.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append, args=(path, name, 400, 3)) for name in "abcd"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0, 0]
    assert sorted(ids(path)) == sorted(f"{name}-{number}-{row}" for name in "abcd" for number in range(400)
                                       for row in range(3))
    assert len(pieces(path)) > 10


def test_a_piece_is_unused_only_once_its_last_writer_has_moved_on(tmp_path):
    path = tmp_path / "p.jsonl"
    slow, fast = PredictionLog(path, rotate_bytes=100), PredictionLog(path, rotate_bytes=100)
    fast.append_many([record(1)])  # renames the file `slow` still has open
    fast.append_many([])
    piece = pieces(path)[0]
    assert not unused(piece)
    slow.append_many([record(2)])  # its line goes to the piece, and then it follows
    assert unused(piece)
    assert sorted(ids(path)) == ["a-1", "a-2"]


def test_a_file_that_was_moved_away_is_made_again(tmp_path):
    path = tmp_path / "p.jsonl"
    log = PredictionLog(path)
    path.rename(tmp_path / "elsewhere.jsonl")
    log.append_many([record(1)])
    log.append_many([record(2)])
    assert ids(path) == ["a-2"]
    assert json.loads((tmp_path / "elsewhere.jsonl").read_text())["request_id"] == "a-1"


def test_a_log_that_ends_torn_is_mended_by_the_next_to_open_it(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'{"at":"2026-')
    PredictionLog(path).append_many([record(1)])
    assert [parse_line(line) for line in path.read_bytes().splitlines()] == [None, record(1)]


def test_the_line_glued_to_a_torn_one_is_found():
    whole = json.dumps(record(7, text='{"at":'), separators=(",", ":")).encode()
    assert parse_line(whole) == record(7, text='{"at":')
    assert parse_line(whole[:60] + whole) == record(7, text='{"at":')
    for torn in (b"", b"   ", b'{"forgotten":true}', b"5", whole[:60], whole[:60] + whole[:80]):
        assert parse_line(torn) is None


FULL = """
import json, resource, sys
from pathlib import Path
from models.serving.prediction_log import PredictionLog, parse_line
path = Path(sys.argv[1])
log = PredictionLog(path)
row = json.loads(sys.argv[2])
done = []
def free():
    if len(sys.argv) > 3: Path(sys.argv[3]).unlink()
    else: resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
for number in range(4000):
    done.append(log.append_many([{**row, "request_id": f"{number}-{part}"} for part in range(3)]))
full = len(done)
free()
other = PredictionLog(path)
for number in range(5):
    done.append(log.append_many([{**row, "request_id": f"after-{number}"}]))
    other.append_many([{**row, "request_id": f"other-{number}"}])
print(json.dumps([full, done]))
"""


def test_a_full_file_takes_what_fits_and_is_whole_again_once_there_is_room(tmp_path):
    path = tmp_path / "p.jsonl"
    script = f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))\n{FULL}"
    check_full([sys.executable, "-c", script, str(path), json.dumps(record(0))], path)


@pytest.mark.service
def test_a_full_disk_takes_what_fits_and_is_whole_again_once_there_is_room(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False,
                                      capture_output=True).returncode:
        skip_or_fail("needs to mount a small file system")
    try:
        (disk / "ballast").write_bytes(b"x" * 700_000)
        check_full([sys.executable, "-c", FULL, str(disk / "p.jsonl"), json.dumps(record(0)), str(disk / "ballast")],
                   disk / "p.jsonl")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def check_full(command, path):
    seen = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=os.getcwd())
    full, done = json.loads(seen.stdout)
    during, after = done[:full], done[full:]
    assert during[0] == 3
    assert during[-1] == 0
    assert after == [1] * 5
    parsed = [parse_line(line) for line in path.read_bytes().splitlines()]
    assert parsed.count(None) <= 1
    known = [line["request_id"] for line in parsed if line]
    written = [f"{number}-{part}" for number, count in enumerate(during) for part in range(count)]
    assert known == written + [f"{who}-{number}" for number in range(5) for who in ("after", "other")]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
