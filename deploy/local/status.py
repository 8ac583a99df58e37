"""`make status`: what is live, the last runs, open alarms. Reads our state and asks over HTTP; changes nothing.

Imports neither Prefect nor MLflow: it has to answer within three seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import sqlalchemy as sa

from deploy.local.ask import PrefectApi, answers
from deploy.local.parts import SERVER, api_url, mlflow_url, prefect_api
from deploy.local.platform import ENVOY, MLFLOW, PARTS, platform_urls
from flows.settings import REPO, Settings, load_place, load_settings
from models.charter import Charter, load_charter
from models.errors import ConfigError, PipelineError, PlatformError
from tasks.home import Home
from tasks.processes import programs, supervisor_running
from tasks.rollouts import RolloutRow, champion, open_rollout, read_release
from tasks.state import LedgerRow, open_state, read_decisions

BAD = {("data", "refuse"), ("smoke", "refuse"), ("canary", "roll back"), ("release", "refuse"),
       ("release", "rolled back"), ("drift", "alarm")}
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
    """One object: `champion`, `canary`, `last_runs`, `alarms`, `urls`.

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
              ENVOY: api_url(settings)}
    for row in filter(None, (live, canary)):
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
    alarms = [f"{alarm} (owner: {charter.owner('platform')})" for alarm in alarms]
    alarms += [f"the last run of {flow} is {run['state']}, since {run['at']} (owner: {_owner(charter, flow)})"
               for flow, run in (last_runs or {}).items() if run and run["state"] in ("FAILED", "CRASHED")]
    alarms += [f"{row.decision.gate}: {row.decision.verdict} ({_when(row)}; owner: "
               f"{charter.owner(row.decision.gate)}): {row.decision.reason}"
               for row in _last_decisions(engine) if (row.decision.gate, row.decision.verdict) in BAD]
    alarms += [f"{alarm} (owner: {charter.owner('erasure')})" for alarm in _open_erasures(engine)]
    return {
        "champion": _release(engine, live, since=live.closed_at) if live else None,
        "canary": {**_release(engine, canary, since=canary.stage_since), "share": charter.rollout.stages[canary.stage]}
        if canary else None,
        "last_runs": last_runs, "alarms": alarms, "urls": platform_urls(settings),
    }


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
        flows = api.ask("/flows/filter", {"limit": 100}, timeout=TIMEOUT)
        found: dict[str, Any] = {}
        for flow in sorted(flows, key=lambda flow: str(flow["name"])):
            runs = api.ask("/flow_runs/filter", {
                "flows": {"id": {"any_": [flow["id"]]}}, "flow_runs": {"state": {"type": {"not_any_": ["SCHEDULED"]}}},
                "sort": "EXPECTED_START_TIME_DESC", "limit": 1}, timeout=TIMEOUT)
            found[flow["name"]] = {
                "state": runs[0]["state_type"], "at": runs[0]["end_time"] or runs[0]["start_time"],
                "seconds": round(runs[0]["total_run_time"], 1)} if runs else None
        return found, None
    except (OSError, ValueError, LookupError, TypeError) as error:
        return None, f"the last runs are not known: Prefect does not answer ({error})"


def _last_decisions(engine: sa.Engine) -> list[LedgerRow]:
    """The newest verdict of each gate: an older one was answered by it."""
    newest: dict[str, LedgerRow] = {}
    for row in read_decisions(engine, limit=500):
        newest.setdefault(row.decision.gate, row)
    return [newest[gate] for gate in sorted(newest)]


def _open_erasures(engine: sa.Engine) -> list[str]:
    """An erasure that was begun and did not end, however many others have ended since."""
    newest: dict[str | None, LedgerRow] = {}
    for row in read_decisions(engine, gate="erasure", limit=10_000):
        newest.setdefault(row.subject, row)
    return [f"erasure: begun {row.at[:16]} and not finished: {row.decision.reason}. Run the same `make forget` again"
            for row in newest.values() if row.decision.verdict == "begun"]


def _when(row: LedgerRow) -> str:
    return f"as of {row.as_of[:10]}" if row.as_of else row.at[:16]


def text(status: dict[str, Any], *, checks: list[LedgerRow]) -> str:
    """The status for people, a line a fact."""
    lines = []
    for role in ("champion", "canary"):
        found = status[role]
        if found is None:
            lines.append(f"{role:<10} none")
            continue
        share = f", {found['share']:.0%} of the customers" if "share" in found else ""
        lines.append(f"{role:<10} version {found['version']} ({found['release_id']}){share}: AUC {found['auc']:.3f}, "
                     f"expected value {found['expected_monthly_value']:+,.0f} a month, "
                     f"since {(found['since'] or '')[:16]}")
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


def main(arguments: list[str] | None = None) -> int:
    """0 where the platform runs, with alarms or without; else 1 and one line."""
    parser = argparse.ArgumentParser(prog="make status", description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one object for machines")
    options = parser.parse_args(arguments)
    try:
        settings = load_settings()
        charter, home = existing_place(settings)
        status = read_status(settings, charter, home)
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(status, indent=1) if options.json else
          text(status, checks=_last_decisions(open_state(home.state_url))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
