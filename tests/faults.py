"""A release that misbehaves: a real one behind a small proxy, or one that reads skewed features.

    python -m tests.faults --port 8102 --fault errors:0.02 --upstream 8103
    python -m tests.faults --port 8102 --fault latency:50 -- bentoml serve churn:v4-0a1b2c3d --port 8102
    python -m tests.faults --port 8102 --fault skew:FEATURE:0.5 -- bentoml serve churn:v4-0a1b2c3d --port 8102

With a command the proxy starts it on another port and ends with it, so it can stand where supervisor or
`serve_command` has the release itself. Faults: `errors:SHARE` answers that share of the customers 500, always the
same ones; `latency:MS` waits before each request; `500` and `hang` do so to every request; `none`. `/readyz` is
always passed on: a fault that a probe finds is no test of a judge.

`skew:FEATURE:ADD` is training-serving skew as it happens: the release reads an online store (SQLite) in which one
feature is off by ADD, and scores and logs what it read. Its own batch scores of the same customers differ.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import hashlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

LOOPBACK = "127.0.0.1"


def errs(customer: bytes, share: float) -> bool:
    """Whether this customer is one of the share who get errors."""
    return int.from_bytes(hashlib.sha256(b"faults:" + customer).digest()[:4]) < share * 2**32


def skew_online_store(source: Path, target: Path, *, feature: str, add: float) -> int:
    """Copy a SQLite online store of Feast with `add` on a numeric feature of every entity; returns how many rows."""
    from feast.protos.feast.types.Value_pb2 import Value

    changed = 0
    with contextlib.closing(sqlite3.connect(target)) as store, store:
        with contextlib.closing(sqlite3.connect(source)) as original:  # a journal may lie beside the file
            original.backup(store)
        tables = [name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            columns = {row[1] for row in store.execute(f'PRAGMA table_info("{table}")')}
            if not {"feature_name", "value"} <= columns:
                continue
            for row, blob in store.execute(f'SELECT rowid, value FROM "{table}" WHERE feature_name = ?',
                                           (feature,)).fetchall():
                value = Value.FromString(blob)
                kind = value.WhichOneof("val")
                if kind is None:
                    continue
                old = getattr(value, kind)
                setattr(value, kind, type(old)(old + add))
                store.execute(f'UPDATE "{table}" SET value = ? WHERE rowid = ?', (value.SerializeToString(), row))
                changed += 1
    return changed


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes] | None:
    """Head and body of an HTTP/1.1 message with a length; None at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    length = int(_header(head, b"content-length") or 0)
    return head, await reader.readexactly(length) if length else b""


def _header(head: bytes, name: bytes) -> bytes | None:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip()
    return None


def customer_of(head: bytes) -> bytes | None:
    """Whom a request is about: by the path, else by the header."""
    path = head.split(b" ", 2)[1].partition(b"?")[0].split(b"/")
    return path[3] if path[1:3] == [b"v1", b"customers"] and len(path) > 3 else _header(head, b"x-customer-id")


async def _pass_on(
    down: asyncio.StreamReader, out: asyncio.StreamWriter, upstream: int, kind: str, amount: float
) -> None:
    """One client's connection, and one of its own to the release."""
    try:
        up, up_out = await asyncio.open_connection(LOOPBACK, upstream)
    except OSError:
        out.close()
        return
    try:
        while request := await _message(down):
            head, body = request
            probe, customer = head.startswith(b"GET /readyz"), customer_of(head)
            if kind == "hang" and not probe:
                await asyncio.sleep(3600)
            if kind == "latency" and not probe:
                await asyncio.sleep(amount / 1000)
            up_out.write(head + body)
            answer = await _message(up)
            if answer is None:
                break
            head, body = answer
            if not probe and (kind == "500" or (kind == "errors" and customer and errs(customer, amount))):
                head = b"HTTP/1.1 500 Internal Server Error" + head[head.index(b"\r\n"):]  # its headers stay
            out.write(head + body)
            await out.drain()
    except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
        pass  # one of the three went away
    finally:
        for writer in (out, up_out):
            writer.close()


async def serve(
    port: int, upstream: int, kind: str, amount: float, release: subprocess.Popen[bytes] | None = None
) -> None:
    """Stand before a release until SIGTERM, or until its process ends."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    server = await asyncio.start_server(lambda down, out: _pass_on(down, out, upstream, kind, amount), LOOPBACK, port)
    async with server:
        while not stopped.is_set() and (release is None or release.poll() is None):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), 0.2)


def end_with_parent() -> None:
    """In a child before it starts: Linux ends it when the proxy is killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _moved(command: list[str], port: int, upstream: int) -> list[str]:
    """The release's command on another port.

    Raises:
        SystemExit: the command does not name the port.
    """
    if str(port) not in command:
        raise SystemExit(f"error: the command does not name port {port}: {' '.join(command)}")
    return [str(upstream) if word == str(port) else word for word in command]


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.faults")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--fault", required=True, help="errors:0.02, latency:50, skew:FEATURE:ADD, 500, hang or none")
    parser.add_argument("--upstream", type=int, help="port of a release that runs; without it give its command")
    parser.add_argument("command", nargs="*")
    given = parser.parse_args()
    kind, *rest = given.fault.split(":")
    if kind not in ("errors", "latency", "skew", "500", "hang", "none") or (kind == "skew" and not given.command):
        parser.error(f"cannot do {given.fault!r}")
    amount = float(rest[-1]) if rest else 0.0
    if given.upstream:
        asyncio.run(serve(given.port, given.upstream, kind, amount))
        return 0
    upstream, environment = _free_port(), dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        if kind == "skew":
            environment["CHURN_FEAST_ONLINE"] = str(Path(folder) / "online.db")
            rows = skew_online_store(Path(os.environ["CHURN_FEAST_ONLINE"]), Path(folder) / "online.db",
                                     feature=rest[0], add=amount)
            print(f"{rows} values of {rest[0]} are off by {amount:+g}", flush=True)
        release = subprocess.Popen(_moved(given.command, given.port, upstream), env=environment,
                                   preexec_fn=end_with_parent if sys.platform == "linux" else None)
        try:
            asyncio.run(serve(given.port, upstream, kind, amount, release))
        finally:
            release.terminate()
            release.wait(20)
    return release.returncode or 0


if __name__ == "__main__":
    sys.exit(main())
