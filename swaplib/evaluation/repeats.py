"""Names the fault that many outputs share: a wrong name, a set of keys, a form. It scores nothing.

One cause behind most wrong rows is worth more than a table of reasons: if 82 of 100 outputs call
`TOOL`, the instruction is at fault and not the model's skill.

    82 of 100 outputs call `TOOL` where another tool was right.
    60 of 100 outputs are not in the form asked for and begin with "```json".
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from swaplib.data.facts import list_parts
from swaplib.evaluation.answers import find_answer
from swaplib.metrics import Track, parse_gold, parse_output
from swaplib.rows import LedgerLine, Row

MIN_ROWS, MIN_SHARE = 3, 0.1  # a fault of fewer outputs is no pattern
_BEGINNING = re.compile(r"\S{1,24}")


def count_repeats(
    track: Track, rows: Sequence[Row], ledger: Sequence[LedgerLine]
) -> dict[str, Any]:
    """The most frequent wrong name, wrong set of keys and wrong form among a run's outputs.

    Returns:
        `n_rows`, and for each of `name`, `keys` and `form` the most frequent one as
        `{"value", "n"}`, or None where fewer than 3 outputs, or a tenth of them, share one. `name`:
        a tool called where another one was right. `keys`: the names of a call's arguments (for
        structured answers that are no calls, of an object's values) where others were right.
        `form`: how outputs begin that are not what the track asks for.
    """
    counts: dict[str, Counter[Any]] = {"name": Counter(), "keys": Counter(), "form": Counter()}
    for line in ledger:
        faults = _list_faults(track, rows[line.index].completion, line.generation.output)
        for kind, values in faults.items():
            counts[kind].update(values)
    least = max(MIN_ROWS, MIN_SHARE * len(ledger))
    most = {kind: _take_first(counter, least) for kind, counter in counts.items()}
    return {"n_rows": len(ledger), **most}


def _take_first(counter: Counter[Any], least: float) -> dict[str, Any] | None:
    value, n = next(iter(counter.most_common(1)), (None, 0))
    if n < least:
        return None
    return {"value": list(value) if isinstance(value, tuple) else value, "n": n}


def _list_faults(track: Track, completion: str, output: str) -> dict[str, set[Any]]:
    """An output's wrong names, wrong sets of keys and wrong form, each once."""
    faults: dict[str, set[Any]] = {"name": set(), "keys": set(), "form": set()}
    if parse_output(track, output) is None and (beginning := _BEGINNING.match(output.lstrip())):
        faults["form"].add(beginning[0])
    gold = list_parts(parse_gold(track, completion))
    names = {name for name, _ in gold}
    keys = {(name, *sorted(values)) for name, values in gold}
    answer = find_answer(track, output)
    for name, values in list_parts(answer) if answer is not None else ():
        if name not in names and name is not None:
            faults["name"].add(name)
        elif name in names and (name, *sorted(values)) not in keys:
            faults["keys"].add(tuple(sorted(values)))
    return faults


def describe_all(
    track: Track, rows: Sequence[Row], ledgers: Mapping[str, Sequence[LedgerLine]]
) -> list[dict[str, str]]:
    """The shared faults of several models: records with `model` and `shared fault`."""
    records = []
    for model, ledger in ledgers.items():
        sentences = describe_repeats(count_repeats(track, rows, ledger)) or ["none"]
        records += [{"model": model, "shared fault": sentence} for sentence in sentences]
    return records


def describe_repeats(repeats: dict[str, Any]) -> list[str]:
    """What count_repeats found, a sentence each; none where no fault is shared."""
    n, sentences = repeats["n_rows"], []
    if name := repeats["name"]:
        share = f"{name['n']} of {n} outputs"
        sentences.append(f"{share} call `{name['value']}` where another tool was right.")
    if keys := repeats["keys"]:
        share = f"{keys['n']} of {n} outputs"
        listed = ", ".join(f"`{key}`" for key in keys["value"]) or "no argument"
        sentences.append(f"{share} give {listed} where other arguments were asked for.")
    if form := repeats["form"]:
        share = f"{form['n']} of {n} outputs"
        begin = f'begin with "{form["value"]}"'
        sentences.append(f"{share} are not in the form asked for and {begin}.")
    return sentences
