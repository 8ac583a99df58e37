"""What Prefect watches for the platform, and what it lost when it was killed. Asks its API; imports no Prefect.

Two automations, made when the platform starts and made anew when they changed: a run without a heartbeat is ended, and
a monitor that does not complete in a day is missed. Where the platform comes up after it was killed, the runs and slots
it left are ended first: in a killed server's memory lay the leases that would have freed them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from deploy.local.ask import PrefectApi
from models.errors import PlatformError

HEARTBEAT_SECONDS: Final = 30  # the least Prefect takes
ZOMBIE_SECONDS: Final = 90.0  # three heartbeats missed
MISSED_SECONDS: Final = 26 * 3600.0  # a nightly check, and two hours of patience
ZOMBIES, MISSED_MONITOR = "churn-zombies", "churn-missed-monitor"
ENDS: Final = ("Completed", "Failed", "Cancelled", "Crashed")
PAGE: Final = 200  # runs asked for at once: Prefect's limit


def zombies(within: float = ZOMBIE_SECONDS) -> dict[str, Any]:
    """End a flow run that sent a heartbeat and then neither another one nor an end.

    Args:
        within: seconds of silence.
    """
    return {
        "name": ZOMBIES, "description": "A run whose process was killed with its worker is ended.", "enabled": True,
        "trigger": {
            "type": "event", "posture": "Proactive", "threshold": 1, "within": within,
            "match": {"prefect.resource.id": ["prefect.flow-run.*"]}, "for_each": ["prefect.resource.id"],
            "after": ["prefect.flow-run.heartbeat"],
            "expect": ["prefect.flow-run.heartbeat", *(f"prefect.flow-run.{end}" for end in ENDS)]},
        "actions": [{"type": "change-flow-run-state", "state": "CRASHED", "name": "Crashed",
                     "message": f"no heartbeat for {within:g} s: its process was killed"}]}


def missed_monitor(deployment_id: str, *, on: bool, within: float = MISSED_SECONDS) -> dict[str, Any]:
    """Run `announce`, which raises an alarm, when the flow `monitor` has not completed for so long.

    Args:
        deployment_id: of `announce`.
        on: not where nothing is scheduled.
        within: seconds.
    """
    return {
        "name": MISSED_MONITOR, "description": "The check that should run each night did not complete.", "enabled": on,
        "trigger": {
            "type": "event", "posture": "Proactive", "threshold": 1, "within": within,
            "match": {"prefect.resource.id": ["prefect.flow-run.*"]},
            "match_related": {"prefect.resource.role": "flow", "prefect.resource.name": "monitor"},
            "for_each": [], "after": [], "expect": ["prefect.flow-run.Completed"]},
        "actions": [{"type": "run-deployment", "source": "selected", "deployment_id": deployment_id,
                     "parameters": {"silent": "monitor"}}]}


def make_automations(api: PrefectApi, *, watch_monitor: bool) -> None:
    """Have both automations as they are written above; one that is so already keeps what it has seen.

    Raises:
        PlatformError: Prefect does not take one.
    """
    try:
        found: dict[str, Any] = {one["name"]: one for one in api.ask("/automations/filter", {"limit": PAGE})}
        announce = api.ask("/deployments/name/announce/announce")["id"]
        for wanted in (zombies(), missed_monitor(announce, on=watch_monitor)):
            there = found.get(wanted["name"])
            if there is None:
                api.ask("/automations/", wanted)
            elif not _within(wanted, there):
                api.ask(f"/automations/{there['id']}", wanted, method="PUT")
    except (OSError, LookupError, TypeError) as error:
        raise PlatformError(f"cannot make the automations in Prefect: {error}. See the log of prefect-server in the "
                            "home's run/logs") from None


def end_what_was_killed(api: PrefectApi) -> tuple[int, int]:
    """Runs and slots of a platform that is no more: end the runs, free the slots; how many of each.

    Call it only where nothing of the platform runs yet but the server: a run that is alive would be ended.

    Raises:
        PlatformError: Prefect does not answer.
    """
    try:
        runs = _left_running(api)
        for run in runs:
            api.ask(f"/flow_runs/{run['id']}/set_state", {"force": True, "state": {
                "type": "CRASHED", "name": "Crashed", "message": "the platform was stopped or killed while it ran"}})
        slots = [one for one in api.ask("/v2/concurrency_limits/filter", {"limit": PAGE}) if one["active_slots"]]
        for slot in slots:
            api.ask(f"/v2/concurrency_limits/{slot['id']}", {"active_slots": 0}, method="PATCH")
    except (OSError, LookupError, TypeError) as error:
        raise PlatformError(f"cannot end in Prefect what an earlier platform left running: {error}. See the log of "
                            "prefect-server in the home's run/logs") from None
    return len(runs), len(slots)


def _left_running(api: PrefectApi) -> Sequence[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        page = api.ask("/flow_runs/filter", {
            "flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}, "limit": PAGE,
            "offset": len(found)})
        found += page
        if len(page) < PAGE:
            return found


def _within(wanted: Any, there: Any) -> bool:
    """Whether what is there says all that is wanted; it may say more, by its defaults."""
    if isinstance(wanted, dict):
        return isinstance(there, dict) and all(name in there and _within(one, there[name])
                                               for name, one in wanted.items())
    if isinstance(wanted, list) and isinstance(there, list):
        if all(isinstance(one, str) for one in [*wanted, *there]):
            return sorted(wanted) == sorted(there)
        return len(wanted) == len(there) and all(map(_within, wanted, there))
    return bool(wanted == there)
