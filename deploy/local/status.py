"""`make status`: what is live, the last runs, open alarms. Reads our state and asks over HTTP; changes nothing.

Imports neither Prefect nor MLflow: it has to answer within three seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from deploy.local.ask import PrefectApi, answers
from deploy.local.command import command
from deploy.local.parts import SERVER, api_url, metrics_url, mlflow_url, prefect_api
from deploy.local.platform import ENVOY, EXPORTER, MLFLOW, PARTS, platform_urls
from deploy.local.rollout_status import rollout_lines, rollout_status
from flows.settings import REPO, Settings, load_place, load_settings
from models.charter import Charter, load_charter
from models.errors import ConfigError, PipelineError, PlatformError
from tasks.clock import platform_now
from tasks.home import Home
from tasks.maturity import read_level
from tasks.monitoring.alarms import open_alarms
from tasks.monitoring.outbox import faults
from tasks.release.approval import too_old, waiting
from tasks.release.bake_state import bake_alarm, bake_line
from tasks.release.processes import programs, supervisor_running
from tasks.release.releases import read_release
from tasks.release.rollouts import RolloutRow, champion, open_rollout
from tasks.release.settle import WITH_TRAFFIC, release_state
from tasks.state import LedgerRow, gates, open_state, read_decisions

TIMEOUT = 1.0  # seconds a service may take; all are asked at once


def existing_place(settings: Settings) -> tuple[Charter, Home]:
    """The charter and its home, without making one.

    Raises:
        PlatformError: nothing was ever run there.
        ConfigError: the charter or the home cannot be used.
    """
    root = (settings.home or REPO / "data" / load_charter(settings.charter).name).absolute()
    if not (root / "charter-name").exists():
        raise PlatformError(f"no pipeline has run in {root}. Start it with `make run`, or set CHURN_HOME")
    return load_place(settings)


def read_status(settings: Settings, charter: Charter, home: Home) -> dict[str, Any]:
    """One object: `maturity`, `waits`, `champion`, `canary`, `rollout`, `bake`, `last_runs`, `alarms`, `urls`.

    `last_runs` is null where Prefect does not answer: that is not the same as no runs.

    Raises:
        PlatformError: the platform does not run.
    """
    if not supervisor_running(home):
        raise PlatformError(f"the platform of {home.root} does not run. Start it with `make run`")
    engine = open_state(home.state_url)
    live, opened = champion(engine), open_rollout(engine)
    canary = opened if opened and opened.state == "canary" else None
    alarms = _program_alarms(home)
    probes = {SERVER: f"{prefect_api(settings, home).url}/health", MLFLOW: f"{mlflow_url(settings)}/health",
              ENVOY: api_url(settings), EXPORTER: metrics_url(settings).replace("/metrics", "/targets")}
    for row in filter(None, (live, opened if opened and opened.state in WITH_TRAFFIC else None)):
        port = read_release(engine, row.release_id).port
        probes[row.release_id] = f"http://127.0.0.1:{port}/readyz"
    with ThreadPoolExecutor(len(probes) + 1) as pool:
        runs = pool.submit(_last_runs, prefect_api(settings, home))
        for name, ok in zip(probes, pool.map(lambda url: answers(url, timeout=TIMEOUT), probes.values()), strict=True):
            if not ok:
                alarms.append(f"{name} does not answer at {probes[name]}")
        last_runs, fault = runs.result()
    if fault:
        alarms.append(fault)
    level = read_level(home, settings.maturity)
    alarms += filter(None, [_route_alarm(engine, home), level.fault])
    alarms = [f"{alarm} (owner: {charter.owner('platform')})" for alarm in alarms]
    alarms += [f"the last run of {flow} is {run['state']}, since {run['at']} (owner: {_owner(charter, flow)})"
               for flow, run in (last_runs or {}).items() if run and run["state"] in ("FAILED", "CRASHED")]
    alarms += [alarm.line for alarm in open_alarms(engine, charter) if alarm.gate != "bake"]  # below, with the command
    alarms += filter(None, [bake_alarm(engine, charter)])
    alarms += [f"{alarm} (owner: {charter.owner('erasure')})" for alarm in _open_erasures(engine)]
    alarms += [f"{alarm} (owner: {charter.owner('platform')})" for alarm in _not_told(engine)]
    return {
        "maturity": level.number,
        "waits": _waits(engine, platform_now(engine, charter)),
        "champion": _release(engine, live, since=live.closed_at) if live else None,
        "canary": {**_release(engine, canary, since=canary.stage_since), 
                   "share": canary.stages(charter.rollout.stages)[:canary.stage + 1][-1]}
        if canary else None,
        "rollout": rollout_status(engine, home, charter.rollout, opened),
        "bake": bake_line(engine),
        "last_runs": last_runs, "alarms": alarms, "urls": platform_urls(settings),
    }


def _waits(engine: sa.Engine, now: datetime) -> list[dict[str, Any]]:
    """The versions that can still be approved, with the command.

    Args:
        now: platform clock.
    """
    return [{"version": row.decision.evidence["model_version"], "since": row.at,
             "command": f"make approve VERSION={row.decision.evidence['model_version']} WHO=name WHY=text"}
            for row in waiting(engine) if not too_old(row, now)]


def _route_alarm(engine: sa.Engine, home: Home) -> str | None:
    """Our state says who should serve, the route file who does; a call that was killed leaves them apart."""
    try:
        found = release_state(home, engine)
    except PipelineError as error:
        return str(error)
    routed = found["champion"]["release_id"] if found["champion"] else "nobody"
    return None if found["settled"] else (f"the routes do not follow our state yet: {routed} answers. The next call of "
                                          "`release` or the watchdog mends that within a minute")


def _release(engine: sa.Engine, row: RolloutRow, *, since: str | None) -> dict[str, Any]:
    release = read_release(engine, row.release_id)
    return {"release_id": release.release_id, "version": release.model_version, "auc": release.auc,
            "expected_monthly_value": release.monthly_value, "since": since}


def _owner(charter: Charter, flow: str) -> str:
    """Who owns a flow; Prefect may know flows that are none of ours."""
    try:
        return charter.owner(flow)
    except ConfigError:
        return "nobody named"


def _program_alarms(home: Home) -> list[str]:
    found = programs(home)
    missing = [f"{name} was not started" for name in PARTS if name not in found]
    return missing + [f"{name} is {info.state}" for name, info in found.items() if info.state != "RUNNING"]


def _last_runs(api: PrefectApi) -> tuple[dict[str, Any] | None, str | None]:
    """The last run of each flow that was not merely scheduled; or None and why it is not known."""
    try:
        flows = api.ask("/flows/filter", {"limit": 100}, timeout=TIMEOUT, patience=TIMEOUT)
        found: dict[str, Any] = {}
        for flow in sorted(flows, key=lambda flow: str(flow["name"])):
            runs = api.ask("/flow_runs/filter", {
                "flows": {"id": {"any_": [flow["id"]]}}, "flow_runs": {"state": {"type": {"not_any_": ["SCHEDULED"]}}},
                "sort": "EXPECTED_START_TIME_DESC", "limit": 1}, timeout=TIMEOUT, patience=TIMEOUT)
            found[flow["name"]] = {
                "state": runs[0]["state_type"], "at": runs[0]["end_time"] or runs[0]["start_time"],
                "seconds": round(runs[0]["total_run_time"], 1)} if runs else None
        return found, None
    except (OSError, ValueError, LookupError, TypeError) as error:
        return None, f"the last runs are not known: Prefect does not answer ({error})"


def _last_decisions(engine: sa.Engine) -> list[LedgerRow]:
    """The newest verdict of each gate: an older one was answered by it. Asked for by gate: the judge of an open rollout
    writes a row a minute, and in a day of these any other gate's last word would lie far back."""
    return [row for gate in gates(engine) for row in read_decisions(engine, gate=gate, limit=1)]


def _open_erasures(engine: sa.Engine) -> list[str]:
    """An erasure that was begun and did not end, however many others have ended since."""
    newest: dict[str | None, LedgerRow] = {}
    for row in read_decisions(engine, gate="erasure", limit=10_000):
        newest.setdefault(row.subject, row)
    return [f"erasure: begun {row.at[:16]} and not finished: {row.decision.reason}. Run the same `make forget` again"
            for row in newest.values() if row.decision.verdict == "begun"]


def _not_told(engine: sa.Engine) -> list[str]:
    """Notifications that did not go out."""
    found = faults(engine, "notification")
    return [f"{len(found)} notifications did not go out, the last: {found[-1]}"] if found else []


def _when(row: LedgerRow) -> str:
    return f"as of {row.as_of[:10]}" if row.as_of else row.at[:16]


def text(status: dict[str, Any], *, checks: list[LedgerRow]) -> str:
    """The status for people, a line a fact."""
    lines = [f"maturity   {status['maturity']}"]
    lines += [f"waits      version {one['version']} for a person's approval since {one['since'][:16]}: "
              f"`{one['command']}`" for one in status["waits"]]
    for role in ("champion", "canary"):
        found = status[role]
        if found is None:
            lines.append(f"{role:<10} none")
            continue
        share = f", {found['share']:.0%} of the customers" if "share" in found else ""
        lines.append(f"{role:<10} version {found['version']} ({found['release_id']}){share}: AUC {found['auc']:.3f}, "
                     f"expected value {found['expected_monthly_value']:+,.0f} a month, "
                     f"since {(found['since'] or '')[:16]}")
    lines += rollout_lines(status["rollout"])
    lines += [f"bake       {status['bake']}"] if status["bake"] else []
    runs = status["last_runs"]
    lines.append("last runs" + ("  not known" if runs is None else "" if runs else "  none"))
    for flow, found in (runs or {}).items():
        lines.append(f"  {flow:<12} {found['state'].lower()} {(found['at'] or '')[:16]}, {found['seconds']:.1f} s"
                     if found else f"  {flow:<12} never ran")
    lines.append("last checks" + ("" if checks else "  none"))
    lines += [f"  {row.decision.gate:<12} {row.decision.verdict} ({_when(row)}): {row.decision.reason}"
              for row in checks]
    lines.append(f"alarms     {len(status['alarms']) or 'none'}")
    lines += [f"  {alarm}" for alarm in status["alarms"]]
    lines.append("where to look")
    lines += [f"  {name:<12} {url}" for name, url in status["urls"].items()]
    return "\n".join(lines)


@command()
def main(arguments: list[str] | None = None) -> int:
    """0 where the platform runs, with alarms or without; else 1 and one line."""
    parser = argparse.ArgumentParser(prog="make status", description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one object for machines")
    options = parser.parse_args(arguments)
    settings = load_settings()
    charter, home = existing_place(settings)
    status = read_status(settings, charter, home)
    print(json.dumps(status, indent=1) if options.json else
          text(status, checks=_last_decisions(open_state(home.state_url))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
