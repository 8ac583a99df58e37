"""A person's word on a release: what waits for it, and what becomes of it. Without Prefect, as `flows.releasing`."""

from __future__ import annotations

from typing import Final

from flows.maturity import releases
from flows.releasing import check_by_hand, record
from flows.settings import load_settings
from models.charter import Charter
from models.decision import Decision
from models.errors import ReleaseError
from tasks.clock import platform_now
from tasks.maturity import read_level
from tasks.release import approval, rollouts
from tasks.release.release_process import ReleasePlace
from tasks.state import read_decisions

WAITED: Final = "for a person's approval"


def permission(place: ReleasePlace, release_id: str) -> Decision | approval.Approval | None:
    """Why the loop does not release this by itself, or the approval it has to use; None where nobody is asked."""
    level = read_level(place.home, load_settings().maturity)
    if releases(level.number):
        return None
    seen = approval.evidence_now(place.engine, place.home, release_id)
    version = str(seen["model_version"])
    given, why = approval.approved(place.engine, version), "nobody has approved it"
    if given is not None:
        changed = approval.differences(given.seen, seen)
        if changed is None:
            return given
        why = f"the approval of {given.who} does not hold: {changed}"
    known = f"; {level.fault}" if level.fault else ""
    return Decision("release", "wait", f"version {version} waits {WAITED} (maturity {level.number}): {why}. Look at "
                    f"its card, then {command(version)}{known}", seen)


def approve_now(
    charter: Charter, place: ReleasePlace, *, version: int, who: str, why: str, reject: bool = False,
    run_id: str | None = None,
) -> Decision:
    """Write down a person's yes or no to a version that waits, with the evidence as it is now; opens nothing.

    Returns:
        `approve`, `reject`, or `refuse` where what the version was recommended on is no longer so.

    Raises:
        ReleaseError: the version does not wait, or a rollout is open.
        ConfigError: nobody is named, or no reason.
    """
    what = "reject" if reject else "approve"
    check_by_hand(what, who, why)
    rows = approval.waiting(place.engine, str(version))
    if not rows:
        others = ", ".join(str(row.decision.evidence["model_version"]) for row in approval.waiting(place.engine))
        raise ReleaseError(f"cannot {what} version {version}: it does not wait for anybody; waiting: {others or 'none'}"
                           f". Any version can be released by `make release VERSION={version} WHO=name WHY=text`")
    asked = rows[0]
    subject = str(asked.subject)
    if not reject:
        approval.check_free(place.engine, str(version))
    seen = approval.evidence_now(place.engine, place.home, subject)
    if reject:
        approval.write(place.engine, "reject", who=who, why=why, seen=seen)
        return record(place, charter, Decision("approval", "reject", f"version {version}, by {who}: {why}", seen),
                      subject=str(version), run_id=run_id)
    fault = approval.differences(asked.decision.evidence, seen)
    if approval.too_old(asked, platform_now(place.engine, charter)):
        fault = f"it waits since {(asked.as_of or 'an unknown date')[:10]}, more than {approval.WAITS.days} days"
    if fault:
        return record(place, charter, Decision("approval", "refuse", (
            f"version {version} cannot be approved any more: {fault}. Train again: `make run`"), seen),
            subject=str(version), run_id=run_id)
    approval.write(place.engine, "approve", who=who, why=why, seen=seen)
    return record(place, charter, Decision("approval", "approve", f"version {version}, by {who}: {why}", seen),
                  subject=str(version), run_id=run_id)


def evidence_page(charter: Charter, place: ReleasePlace, decision: Decision) -> str:
    """What a person should see before he says yes, in Markdown: the verdicts, the champion, the card, the command."""
    version = str(decision.evidence["model_version"])
    verdicts = [row for gate in ("promotion", "go") for row in read_decisions(place.engine, gate=gate, subject=version,
                                                                              limit=1)]
    card = place.home.reports / f"card-v{version}" / "model-card.html"
    serving = rollouts.champion(place.engine)
    lines = [f"**{decision.verdict}**: {decision.reason}", "",
             f"Would replace: {serving.release_id if serving else 'nobody, it would be the first'}", "",
             "| gate | verdict | why | owner |", "|---|---|---|---|",
             *(f"| {row.decision.gate} | {row.decision.verdict} | {row.decision.reason} | "
               f"{charter.owner(row.decision.gate)} |" for row in verdicts), "",
             f"Model card: {card.as_uri() if card.exists() else 'none was written'}", "",
             f"SHA-256 of the model: `{decision.evidence['model_sha256']}`", "",
             f"To release it run the deployment `approve` with version {version}, your name and your reason (or "
             f"{command(version)}); with `reject` it is turned down."]
    return "\n".join(lines)


def command(version: str) -> str:
    """The command by which a person approves a version."""
    return f"`make approve VERSION={version} WHO=name WHY=text`"
