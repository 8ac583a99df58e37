"""Announce: tell people what the ledger has for them. Started by every event of the pipeline, where they want to hear.

It needs no event to be right: it reads the ledger, so a forged one tells nothing, and a lost one is made up for.
"""

from __future__ import annotations

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from pydantic import SecretStr

from flows.settings import load_place, load_settings
from models.decision import Decision
from models.errors import ConfigError, describe, nearest
from tasks.clock import platform_now
from tasks.monitoring.heartbeats import PARTS
from tasks.monitoring.notify import BLOCK, ChurnNotify, tell_open
from tasks.monitoring.outbox import send_events
from tasks.state import open_state, record_decision


@flow(name="announce")
def announce(silent: str | None = None) -> int:
    """Send a line for each event of the last day and each open alarm that was not sent yet; how many went out.

    Args:
        silent: a part that Prefect has not seen end its work when it should have; written down as an alarm first.

    Raises:
        ConfigError: no such part.
    """
    settings = load_settings()
    charter, home = load_place(settings)
    engine = open_state(home.state_url)
    if silent:
        record_decision(engine, silence(silent), as_of=platform_now(engine, charter), subject=silent,
                        flow_run_id=flow_run.id)
    send_events(engine, charter_name=charter.name)
    if settings.notify is None:
        get_run_logger().info("nobody is notified: CHURN_NOTIFY is not set")
        return 0
    sent, failed = tell_open(engine, charter, channel(settings.notify))
    (get_run_logger().warning if failed else get_run_logger().info)("%d told, %d not: see `make status`", sent, failed)
    return sent


def silence(part: str) -> Decision:
    """The alarm of Prefect's own dead-man switch; its evidence names no owner, so it calls that of the part.

    Raises:
        ConfigError: no such part: nobody would ever say that it is well.
    """
    if part not in PARTS:
        raise ConfigError(f"cannot raise an alarm about the silence of {part[:64]!r}: it is no part that works by "
                          f"itself; {nearest(part[:64], PARTS)}")
    return Decision("silence", "alarm", f"the flow {part} has not completed when it should have: see its "
                    "runs in Prefect, and that the worker runs", {"part": part, "seen_by": "prefect"})


def channel(address: str) -> ChurnNotify:
    """The block as it stands in Prefect, where somebody may have changed it; else from the setting."""
    try:
        found = ChurnNotify.load(BLOCK)
    except Exception as error:  # Prefect's own errors have no common root
        get_run_logger().warning("the block %s cannot be read, CHURN_NOTIFY is used: %s", BLOCK, describe(error))
        return ChurnNotify(url=SecretStr(address))
    assert isinstance(found, ChurnNotify)
    return found
