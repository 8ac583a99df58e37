"""A client for the benches of servers: raw sockets in one thread, so that it costs little beside what is measured."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

import psutil


@dataclass
class Load:
    """What was asked, and how long each answer took."""

    seconds: list[float] = field(default_factory=list)  # of each answer with a status of 200
    failed: int = 0
    cpu: float = 0.0  # seconds of the server's processes
    wall: float = 0.0

    @property
    def cpu_us(self) -> float:
        """CPU of the server a request, microseconds."""
        return self.cpu / max(1, len(self.seconds)) * 1e6

    @property
    def rate(self) -> float:
        return len(self.seconds) / self.wall

    def quantile(self, share: float) -> float:
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def request(path: str, body: bytes | None = None, headers: str = "") -> bytes:
    """The bytes of a request; with a body it is a POST of JSON."""
    if body is None:
        return f"GET {path} HTTP/1.1\r\nhost: bench\r\n{headers}\r\n".encode()
    head = f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return f"{head}{headers}\r\n".encode() + body


def run(
    port: int, requests: list[bytes], *, connections: int, seconds: float, processes: list[psutil.Process],
    rate: float | None = None,
) -> Load:
    """Send the requests in turn for a time, one after the other on each connection.

    Args:
        processes: those whose CPU counts, with all they started.
        rate: requests a second over all connections, sent when due; None: as fast as answers come.
    """
    return asyncio.run(_run(port, requests, connections, seconds, processes, rate))


async def _run(port: int, requests: list[bytes], connections: int, seconds: float, processes: list[psutil.Process],
               rate: float | None) -> Load:
    load, end = Load(), time.monotonic() + seconds
    begun, before = time.monotonic(), cpu(processes)
    await asyncio.gather(*(_client(load, port, requests[number:] + requests[:number], end,
                                   None if rate is None else connections / rate, number / connections)
                           for number in range(connections)))
    load.cpu, load.wall = cpu(processes) - before, time.monotonic() - begun
    return load


async def _client(load: Load, port: int, requests: list[bytes], end: float, every: float | None, shift: float) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    number, due = 0, time.monotonic() + (every or 0) * shift
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while time.monotonic() < end:
            if every is not None:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            begun = due if every is not None else time.monotonic()  # late because the server was: that counts
            due += every or 0
            writer.write(requests[number % len(requests)])
            number += 1
            head = await reader.readuntil(b"\r\n\r\n")
            await _body(reader, head.lower())
            if head[9:12] == b"200":
                load.seconds.append(time.monotonic() - begun)
            else:
                load.failed += 1
    writer.close()


async def _body(reader: asyncio.StreamReader, head: bytes) -> None:
    if b"transfer-encoding: chunked" in head:
        while size := int((await reader.readline()).split(b";")[0], 16):
            await reader.readexactly(size + 2)
        await reader.readline()
        return
    start = head.index(b"content-length:") + 15
    await reader.readexactly(int(head[start : head.index(b"\r\n", start)]))


def cpu(processes: list[psutil.Process]) -> float:
    """CPU seconds of processes and of all they started."""
    total = 0.0
    for process in processes:
        for one in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = one.cpu_times()
                total += times.user + times.system
    return total
