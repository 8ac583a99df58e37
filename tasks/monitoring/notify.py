"""Notifications. Reads the ledger; sends one line a verdict through a Prefect block, to where `CHURN_NOTIFY` says.

The flow `announce` sends as soon as an event starts it. What it did not send within a minute, because no worker runs
or Prefect is away, the watchdog sends by `python -m tasks.monitoring.notify`: the alarm about a dead worker too.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from prefect.blocks.abstract import NotificationBlock
from pydantic import Field, SecretStr

from models.charter import Charter, load_charter
from models.errors import PipelineError
from tasks.monitoring.address import FILE, apprise_client
from tasks.monitoring.alarms import owner_of
from tasks.monitoring.outbox import claim, event_of, open_rows, settle
from tasks.state import LedgerRow, open_state

LOGGER: Final = logging.getLogger(__name__)
CHANNEL: Final = "notification"
BLOCK: Final = "churn-notify"  # name of the block document in Prefect
LONGEST: Final = 500  # characters of a line: a phone shows no more


class ChurnNotify(NotificationBlock):
    """Where the pipeline's alarms go: any address Apprise knows, or a line in a file."""

    _block_type_name = "Churn notifications"
    _block_type_slug = "churn-notifications"
    _description = "Sends one line a verdict: to a mail, chat or web address in Apprise's form, or to a file."
    url: SecretStr = Field(default=..., description="an Apprise URL, such as slack://..., or file:///folder/name")

    # Prefect types it async, and calls its own blocks from sync code too.
    def notify(self, body: str, subject: str | None = None) -> None:  # type: ignore[override]
        """Send it.

        Raises:
            PipelineError: it was not taken; never with the address, which may hold a password.
        """
        address = self.url.get_secret_value()
        if address.startswith(FILE):
            line = f"{datetime.now(UTC).isoformat(timespec='seconds')} {subject}: {body}\n".encode()
            try:
                file = os.open(address.removeprefix(FILE), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                try:
                    os.write(file, line)
                finally:
                    os.close(file)
            except OSError as error:
                raise PipelineError(f"the file of CHURN_NOTIFY cannot be written: {error.strerror}") from None
            return
        client = apprise_client(address)
        if not client.notify(body=body, title=subject or ""):
            raise PipelineError(f"the address of CHURN_NOTIFY ({address.partition(':')[0]}) did not take it")


def line_of(row: LedgerRow, charter: Charter) -> tuple[str, str]:
    """Subject and body of a verdict: what, the owner's role, why. Reasons in the ledger hold no customer's value."""
    decision = row.decision
    event = event_of(row) or f"{decision.gate} {decision.verdict}"
    body = f"{charter.name}: {decision.gate}: {decision.verdict} (owner: {owner_of(row, charter)}): {decision.reason}"
    body = " ".join(body.split())
    if len(body) > LONGEST:
        body = f"{body[:LONGEST - 4]} ..."
    return event, f"{body} [decision {row.decision_id}]"


def tell_open(
    engine: sa.Engine, charter: Charter, block: ChurnNotify, *, older_than: timedelta = timedelta(0)
) -> tuple[int, int]:
    """Send what was not sent yet; how many went out, and how many did not. Never raises for a channel that fails.

    Args:
        older_than: leave younger verdicts to somebody else.
    """
    sent = failed = 0
    border = (datetime.now(UTC) - older_than).isoformat(timespec="microseconds")
    for row in open_rows(engine, CHANNEL):
        if row.at > border or not claim(engine, row.decision_id, CHANNEL):
            continue
        subject, body = line_of(row, charter)
        try:
            block.notify(body, subject)
        except Exception as error:  # a library of every chat there is: whatever it says, the flow goes on
            fault = str(error) if isinstance(error, PipelineError) else type(error).__name__
            settle(engine, row.decision_id, CHANNEL, fault=fault)
            LOGGER.error("notification of decision %s failed: %s", row.decision_id, fault)
            failed += 1
            continue
        settle(engine, row.decision_id, CHANNEL, fault=None)
        sent += 1
    return sent, failed


def main(arguments: list[str] | None = None) -> int:
    """Send what nobody sent; 0, or 1 where some did not go out."""
    parser = argparse.ArgumentParser(prog="tasks.monitoring.notify", description="Send the open notifications.")
    parser.add_argument("--charter", type=Path, required=True)
    parser.add_argument("--older-than", type=float, default=0.0, help="seconds; younger ones are left to the flow")
    given = parser.parse_args(arguments)
    # By the environment: address and store may hold passwords, and a command line is public.
    block = ChurnNotify(url=SecretStr(os.environ["CHURN_NOTIFY"]))
    engine, charter = open_state(os.environ["CHURN_NOTIFY_STATE"]), load_charter(given.charter)
    _sent, failed = tell_open(engine, charter, block, older_than=timedelta(seconds=given.older_than))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
