"""Three views of the same model side by side: what each role asks, what the charter claims, what was measured."""

from __future__ import annotations

from collections.abc import Sequence

from models.card.document import Banner, Block, Table, Text, markdown_block
from models.card.key_metrics import KeyMetric
from models.charter import Charter


def views_blocks(metrics: Sequence[KeyMetric], charter: Charter) -> tuple[Block, ...]:
    """The business case in a line, whether every level asked is reached, and a row for each metric of each role."""
    asked = [one for one in metrics if one.asked is not None]
    missed = [one for one in asked if not one.met]
    rows = tuple((one.role, one.label, one.asked_text, one.claimed_text, one.measured_text, one.verdict)
                 for one in metrics)
    if not asked:
        banner = Banner("The charter asks for no level.", None)
    elif missed:
        banner = Banner(f"{len(missed)} of {len(asked)} levels asked are not met: "
                        f"{'; '.join(one.text for one in missed)}.", False)
    else:
        banner = Banner(f"All {len(asked)} levels asked are met.", True)
    table = Table(("role", "what it looks at", "asked", "claimed", "measured (interval)", "met"), rows,
                  marked=frozenset(number for number, one in enumerate(metrics) if one.met is False))
    return (banner, Text(business_case(charter)), table)


def views_markdown(metrics: Sequence[KeyMetric], charter: Charter) -> str:
    """The same as Markdown, for an artifact."""
    return "\n\n".join(markdown_block(block) for block in views_blocks(metrics, charter))


def business_case(charter: Charter) -> str:
    """The charter's claim as a sentence with its arithmetic."""
    value = charter.value
    at_stake = f" ({value.at_stake:,.0f} a month at full price)" if value.at_stake is not None else ""
    paid = "" if value.worth_of_saved != value.discounted_price else " at the discounted price"
    return (f"The business case: of {value.customers:,} customers {value.monthly_churners:,} leave a month{at_stake}; "
            f"the model finds {value.share_found:.0%} of them and {value.share_who_stay:.0%} of those stay: "
            f"{value.saved:,.0f} customers saved at {value.worth_of_saved:,.10g} a month each{paid} are "
            f"{value.monthly:,.0f} a month, {charter.claim_a_month:,.0f} once {charter.contacts_a_month:,.0f} contacts "
            f"at {value.cost_of_contact:,.10g} are paid.")
