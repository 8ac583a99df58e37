"""A release's process. Starts it under supervisor, waits until it is ready, and scores its golden rows over HTTP."""

from __future__ import annotations

import http.client
import json
import math
import socket
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from models.decision import Decision
from models.errors import ReleaseError
from models.limits import Rollout
from models.serving.api_keys import platform_key
from tasks.home import Home
from tasks.release import package, releases
from tasks.release.processes import last_log_line, programs, start_program, started_with
from tasks.release.routing import LOOPBACK, Upstream

PORTS = 10  # loopback ports for releases: champion, canary, previous, and room for taken ones
GOLDEN_TOLERANCE = 1e-9
PROGRAM_PREFIX = "release-"
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback, whatever http_proxy says


@dataclass(frozen=True)
class ReleasePlace:
    """Where releases live, and the limits they are held to."""

    home: Home
    engine: sa.Engine
    limits: Rollout
    repo: Path
    first_port: int
    workers: int = 2  # processes of each release
    ready_seconds: float = 120  # BentoML with Feast takes 10 to 15 s, three at once on a busy machine 53

    @property
    def ports(self) -> range:
        return range(self.first_port, self.first_port + PORTS)


def start_release(place: ReleasePlace, release_id: str) -> Upstream:
    """Have a release's process run and wait until it is ready; nothing to do where it is.

    Raises:
        ReleaseError: it was not ready in time, or keeps ending; with the last line of its log.
    """
    upstream = run_release(place, release_id)
    _wait_ready(place, program_name(release_id), upstream)
    return upstream


def run_release(place: ReleasePlace, release_id: str) -> Upstream:
    """Have a release's process run, without waiting for it; nothing to do where it does.

    Raises:
        ReleaseError: no port is free, or its Bento is gone.
    """
    name = program_name(release_id)
    known = programs(place.home).get(name)
    held = releases.read_release(place.engine, release_id).port
    running = known is not None and known.state in ("RUNNING", "STARTING")
    ports = [port for port in place.ports if (running and port == held) or _bindable(port)]
    upstream = Upstream(release_id, releases.claim_port(place.engine, release_id, ports))
    stores = package.store_variables(place.home)
    # One that runs is left alone, even if this shell has another PATH; but never on a store that is not ours any more.
    if not running or upstream.port != held or not started_with(place.home, name, stores):
        venv = package.bento_venv(place.home, release_id)
        command, environment = package.serve_command(place.home, release_id, venv, port=upstream.port)
        start_program(place.home, name, command, directory=place.home.root, environment={
            **environment, "CHURN_RELEASE_WORKERS": str(place.workers),
            "CHURN_CUSTOMER_KEY_FILE": str((place.home.run / "customer-key").absolute())})
    return upstream


def is_ready(upstream: Upstream, *, seconds: float = 1) -> bool:
    """Whether a release answers that it is ready."""
    try:
        with _direct.open(f"http://{LOOPBACK}:{upstream.port}/readyz", timeout=seconds) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def smoke_test(place: ReleasePlace, release_id: str) -> Decision:
    """Start a release and score its golden rows over HTTP at its own port.

    Anything but the expected answers is a no: not ready in time, no answer, another release's answer.
    """
    try:
        worst, rows = _golden_difference(place, start_release(place, release_id))
    except ReleaseError as error:
        return Decision("smoke", "refuse", str(error))
    except (OSError, ValueError, LookupError, TypeError, http.client.HTTPException) as error:
        return Decision("smoke", "refuse", f"{release_id} did not answer its golden rows: "
                        f"{type(error).__name__}: {error}".replace("\n", " ")[:300])
    evidence = {"golden_rows": rows, "largest_difference": worst, "tolerance": GOLDEN_TOLERANCE}
    if rows == 0 or not worst <= GOLDEN_TOLERANCE:
        return Decision("smoke", "refuse", f"{release_id} scores its {rows} golden rows up to {worst:.3g} "
                        f"away from training (limit {GOLDEN_TOLERANCE:g})", evidence)
    return Decision("smoke", "pass", f"{release_id} scores its {rows} golden rows as training did (largest "
                    f"difference {worst:.1e}, limit {GOLDEN_TOLERANCE:g})", evidence)


def program_name(release_id: str) -> str:
    """Supervisor's name of a release's process."""
    return PROGRAM_PREFIX + release_id.replace(":", "-")


def _wait_ready(place: ReleasePlace, name: str, upstream: Upstream) -> None:
    deadline, pids = time.monotonic() + place.ready_seconds, set()
    while True:
        try:
            with _direct.open(f"http://{LOOPBACK}:{upstream.port}/readyz", timeout=2) as answer:
                if answer.status == 200:
                    return
                why = f"/readyz answers {answer.status}"
        except urllib.error.HTTPError as error:
            why = f"/readyz answers {error.code}"
        except OSError as error:
            why = f"no answer ({getattr(error, 'reason', error)})"
        known = programs(place.home).get(name)
        pids.add(known.pid if known else None)
        if known is None or known.state == "FATAL" or len(pids - {None}) > 2:
            why = f"its process keeps ending ({known.state if known else 'gone'})"
            break
        if time.monotonic() > deadline:
            why += f" within {place.ready_seconds:g} s"
            break
        time.sleep(0.2)
    raise ReleaseError(f"cannot start {upstream.release_id}: {why}. Its last line: "
                       f"{last_log_line(place.home, name) or 'none'} (see run/logs/{name}.log)")


def golden_rows(payload: Path) -> tuple[list[dict[str, Any]], list[float]]:
    """The golden rows as a caller would send them, and the probability training expects of each.

    By way of Python's own numbers: pandas' JSON keeps 15 digits, and a tree may split on the 16th. A
    whole number is sent as one: training sees floats everywhere, the API refuses 2.0 for a count.
    """
    import pandas as pd

    golden = pd.read_parquet(payload / "golden.parquet")
    expected = [float(value) for value in golden.pop("expected_probability")]
    records = golden.astype(object).where(golden.notna(), None).to_dict("records")
    return [{str(name): int(value) if isinstance(value, float) and value.is_integer() else value
             for name, value in record.items()} for record in records], expected


def _golden_difference(place: ReleasePlace, upstream: Upstream) -> tuple[float, int]:
    rows, expected = golden_rows(package.bento_payload(place.home, upstream.release_id))
    request = urllib.request.Request(
        f"http://{LOOPBACK}:{upstream.port}/v1/score", data=json.dumps({"rows": rows}).encode(),
        headers={"content-type": "application/json", **_own_key(place.home)})
    try:
        with _direct.open(request, timeout=30) as answer:
            document = json.loads(answer.read())
    except urllib.error.HTTPError as error:  # 422 names the field: say so
        raise ValueError(f"{error.code} {error.read()[:200].decode(errors='replace')}") from None
    if document["release_id"] != upstream.release_id:
        raise ValueError(f"the port answers as {document['release_id']!r}")
    scores = [float(prediction["churn_probability"]) for prediction in document["predictions"]]
    if len(scores) != len(expected):
        raise ValueError(f"{len(scores)} answers to {len(expected)} golden rows")
    differences = [abs(a - b) for a, b in zip(scores, expected, strict=True)]
    worst = max(differences, default=0.0) if all(map(math.isfinite, differences)) else math.inf
    return worst, len(scores)


def _own_key(home: Home) -> dict[str, str]:
    """The platform asks with a key of its own, whether its releases want one or not."""
    key = home.run / "customer-key"
    return {"authorization": f"Bearer {platform_key(key.read_bytes().strip())}"} if key.exists() else {}


def _bindable(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
