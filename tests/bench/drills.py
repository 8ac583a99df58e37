"""Failure drills on a `drill_world.Platform` under load: what each breaks, and how often.

Each drill is given the platform and the load, and spreads what it does over `requests` of the clients. Afterwards
all is as it was: every release runs, the champion has all customers and the champion before stays warm behind it.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from tasks.release.processes import program, stop_program
from tasks.release.release_process import program_name
from tasks.release.routing import Routes, Upstream, routes_lock, set_routes
from tests.bench.clients import Load, Outcome
from tests.bench.drill_world import BEFORE, CANARY, CHAMPION, REPO, Platform, answers, contract, members, rows_of

HALF: Final = 0.5
WIDER: Final = "wider"


@dataclass(frozen=True)
class Result:
    """One drill: what the clients saw, and what it cost."""

    name: str
    outcome: Outcome
    seconds: float
    note: str = ""
    killed_at: float | None = None
    gone_at: float | None = None

    @property
    def failed(self) -> int:
        return sum(self.outcome.failed.values())

    @property
    def in_flight(self) -> int:
        """How many of the failed were sent before the router was killed."""
        return sum(begun < (self.killed_at or 0.0) for begun in self.outcome.failed_begun)

    @property
    def after(self) -> int:
        """How many of the failed were sent once the killed router was gone; those between met one that was dying."""
        return sum(begun >= (self.gone_at or 0.0) for begun in self.outcome.failed_begun)


def calm(platform: Platform) -> Routes:
    """All customers are the champion's."""
    return Routes(platform.releases[CHAMPION], fallback=platform.releases[BEFORE])


def split(platform: Platform, share: float, *, canary: Upstream | None = None) -> Routes:
    """The canary has a share."""
    return Routes(platform.releases[CHAMPION], canary or platform.releases[CANARY], share, "drill",
                  fallback=platform.releases[BEFORE])


def route(platform: Platform, routes: Routes) -> None:
    """Set the routes, and see Envoy take them.

    Raises:
        TimeoutError: it did not.
    """
    with routes_lock(platform.home):
        if not set_routes(platform.home, routes, wait_seconds=10):
            raise TimeoutError("Envoy did not take the routes")


def ramp(platform: Platform, load: Load, requests: int) -> str:
    """5, 25, 50 and 100 % to the canary, then 0 again."""
    canary, champion = platform.releases[CANARY], platform.releases[CHAMPION]
    steps = [split(platform, 0.05), split(platform, 0.25), split(platform, 0.5), Routes(canary, fallback=champion),
             calm(platform)]
    for number, routes in enumerate(steps):
        route(platform, routes)
        load.wait_for(requests * (number + 1) // len(steps))
    return "five changes of the routes"


def kill_worker(role: str) -> Callable[[Platform, Load, int], str]:
    """-9 to a worker of a release at 50 %, three times."""
    def drill(platform: Platform, load: Load, requests: int) -> str:
        route(platform, split(platform, HALF))
        for number in range(3):
            load.wait_for(requests * (2 * number + 1) // 7)
            platform.workers(role)[0].kill()
            load.wait_for(requests * (2 * number + 2) // 7)
            platform.ready(role)
        load.wait_for(requests)
        route(platform, calm(platform))
        return "3 kills of a worker"

    return drill


def kill_parent(role: str) -> Callable[[Platform, Load, int], str]:
    """-9 to a release's whole process at 50 %; supervisor starts it again."""
    def drill(platform: Platform, load: Load, requests: int) -> str:
        route(platform, split(platform, HALF))
        load.wait_for(requests // 4)
        platform.parent(role).kill()
        load.wait_for(requests // 2)
        time.sleep(1)
        platform.ready(role)
        load.wait_for(requests)
        route(platform, calm(platform))
        return "1 kill of the parent"

    return drill


def only_500(platform: Platform, load: Load, requests: int) -> str:
    """The canary is there and healthy for a probe, and answers 500 to everything."""
    canary = platform.releases[CANARY]
    broken = Upstream(canary.release_id, canary.port + 10)
    proxy = subprocess.Popen([sys.executable, "-m", "tests.faults", "--port", str(broken.port), "--fault", "500",
                              "--upstream", str(canary.port)], cwd=REPO)
    try:
        while not answers(broken.port, "/readyz"):
            time.sleep(0.05)
        route(platform, split(platform, HALF, canary=broken))
        load.wait_for(requests)
        route(platform, calm(platform))
    finally:
        proxy.terminate()
        proxy.wait(20)
    return f"{load.outcome.answered_by[canary.release_id]} answers by the canary"


def hang(platform: Platform, load: Load, requests: int) -> str:
    """Every process of the canary stands still (SIGSTOP), then goes on."""
    route(platform, split(platform, HALF))
    load.wait_for(requests // 4)
    parent = platform.parent(CANARY)
    still = [parent, *parent.children(recursive=True)]
    for process in still:
        process.suspend()
    try:
        load.wait_for(3 * requests // 4)
    finally:
        for process in still:
            process.resume()
    load.wait_for(requests)
    route(platform, calm(platform))
    return "half of the time"


def swap(platform: Platform, load: Load, requests: int) -> str:
    """The canary has been promoted; the champion before it is put back, and the promoted one stopped at once."""
    canary, champion = platform.releases[CANARY], platform.releases[CHAMPION]
    route(platform, Routes(canary, fallback=champion))
    load.wait_for(requests // 3)
    begin = time.monotonic()
    route(platform, Routes(champion))
    taken = time.monotonic() - begin
    stop_program(platform.home, program_name(canary.release_id))
    load.wait_for(2 * requests // 3)
    platform.start(CANARY)
    load.wait_for(requests)
    platform.ready(CANARY)
    route(platform, calm(platform))
    return f"all customers back in {taken:.1f} s"


def one_feature_more(platform: Platform, load: Load, requests: int) -> str:
    """A canary that reads a feature the champion does not know, by a view and a service of its own, and back."""
    wider = platform.releases.get(WIDER) or platform.build(WIDER, version=4, port=platform.api + 4, wider=True)
    platform.start(WIDER)
    platform.ready(WIDER)
    for share in (0.25, 0.5):
        route(platform, replace(split(platform, share, canary=wider), same_features=False))
        wait_for_answers(load, wider.release_id, 30)  # until Envoy's first probe the champion answers for it
        load.wait_for(load.outcome.asked + requests // 3)
    route(platform, calm(platform))
    stop_program(platform.home, program_name(wider.release_id))
    load.wait_for(load.outcome.asked + requests // 3)
    return f"{load.outcome.answered_by[wider.release_id]} answers by the canary"


def wait_for_answers(load: Load, release_id: str, more: int) -> None:
    """Until a release has answered so many more.

    Raises:
        TimeoutError: it did not within 30 s.
    """
    wanted, deadline = load.outcome.answered_by[release_id] + more, time.monotonic() + 30
    while load.outcome.answered_by[release_id] < wanted:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{release_id} answered {load.outcome.answered_by[release_id]} of {wanted} within 30 s")
        time.sleep(0.05)


def kill_envoy(platform: Platform, load: Load, requests: int) -> str:
    """-9 to the router; supervisor starts it again."""
    route(platform, split(platform, HALF))
    load.wait_for(requests // 2)
    before = program(platform.home, "envoy").pid or 0
    watched = os.pidfd_open(before)
    load.killed_at = time.monotonic()
    os.kill(before, signal.SIGKILL)
    select.select([watched], [], [], 30)  # readable once it is gone, with all its sockets
    load.gone_at = time.monotonic()
    os.close(watched)
    load.wait_for(requests)
    route(platform, calm(platform))
    return (f"{load.outcome.refused} connections refused, a client that tries again waits "
            f"{load.outcome.waited_seconds:.1f} s")


DRILLS: Final[dict[str, Callable[[Platform, Load, int], str]]] = {
    "ramping 5-25-50-100-0": ramp,
    "canary's worker killed": kill_worker(CANARY),
    "canary's parent killed": kill_parent(CANARY),
    "canary answering only 500": only_500,
    "canary hanging": hang,
    "rollback of a promoted release": swap,
    "champion's worker killed": kill_worker(CHAMPION),
    "champion's parent killed": kill_parent(CHAMPION),
    "canary with one feature more, and back": one_feature_more,
    "Envoy killed": kill_envoy,
}
CHAMPION_DRILLS: Final = ("champion's worker killed", "champion's parent killed")


def run(platform: Platform, name: str, requests: int) -> Result:
    """One drill, from calm to calm."""
    platform.ready(BEFORE, CHAMPION, CANARY)
    # Who is dealt to the canary is known beforehand: what the champion's customers are answered is checked by it.
    route(platform, split(platform, HALF))
    theirs = dealt(platform) if name in CHAMPION_DRILLS else {}
    route(platform, calm(platform))
    canary = platform.releases[CANARY].release_id

    def expected(customer: str | None, by: str) -> float | None:
        if name in CHAMPION_DRILLS and by == canary and theirs.get(customer or "") != canary:
            return None
        whose = customer or members()["member_id"].iloc[0]
        return platform.expected[by].get(whose) if by in platform.expected else None

    its = contract()
    load = Load(platform.api, rows={member: rows_of(member, its) for member in members()["member_id"]},
                expected=expected, whose=str(members()["member_id"].iloc[0]))
    begin = time.monotonic()
    load.start()
    try:
        note = DRILLS[name](platform, load, requests)
    finally:
        outcome = load.stop()
    return Result(name, outcome, time.monotonic() - begin, note, load.killed_at, load.gone_at)


def dealt(platform: Platform) -> dict[str, str]:
    """Which release answers each member, once Envoy has found the canary well: until then the champion answers for it.

    Raises:
        TimeoutError: the canary answered nobody, or not the same ones twice.
    """
    canary, deadline, before = platform.releases[CANARY].release_id, time.monotonic() + 30, dict[str, str]()
    while time.monotonic() < deadline:
        found = asked(platform)
        if canary in found.values() and found == before:
            return found
        before = found
        time.sleep(1.2)  # longer than Envoy waits between two probes
    raise TimeoutError(f"{canary} is not dealt the same members twice")


def asked(platform: Platform) -> dict[str, str]:
    """Which release answers each member now."""
    connection = http.client.HTTPConnection("127.0.0.1", platform.api, timeout=10)
    found = {}
    for member in members()["member_id"]:
        connection.request("GET", f"/v1/customers/{member}/churn")
        found[member] = str(json.loads(connection.getresponse().read())["release_id"])
    connection.close()
    return found
