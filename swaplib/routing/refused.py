"""What the refused rows of a split have in common: what refused them, and which tools they ask for.

It reads a replay and decides nothing.
"""

from collections import Counter

from swaplib.formats.router import RefusedBy, RefusedGroup
from swaplib.routing.policy import Policy
from swaplib.routing.replay import Replay

EXAMPLE = 160  # characters of a reason that is shown


def count_refusals(replay: Replay, policy: Policy) -> list[RefusedBy]:
    """The refused rows by what refused them first, the most first."""
    rows: dict[str, list[int]] = {}
    refusals = replay.list_refusals(policy)
    for i, refusal in enumerate(refusals):
        if refusal:
            rows.setdefault(refusal.validator, []).append(i)
    counted: list[RefusedBy] = []
    for validator, found in sorted(rows.items(), key=lambda item: -len(item[1])):
        example = refusals[found[0]]
        counted.append(
            {
                "validator": validator,
                "rows": len(found),
                "slm_right": int(replay.slm_right[found].sum()),
                "hosted_right": int(replay.hosted_right[found].sum()),
                "example": example.reason[:EXAMPLE] if example else "",
            }
        )
    return counted


def count_groups(replay: Replay, policy: Policy) -> list[RefusedGroup]:
    """The groups of tools with refused rows, those with the most refused first."""
    facts = replay.compared.facts
    if not facts:
        return []
    lines = replay.compared.ledgers[replay.model]
    names = [facts[line.index].group or "no tool" for line in lines]
    rows = Counter(names)
    refused = Counter(
        name for name, bit in zip(names, replay.accept(policy), strict=True) if not bit
    )
    return [{"group": name, "rows": rows[name], "refused": n} for name, n in refused.most_common()]
