"""The only place where a row's messages are made: its track's system message, then its prompt.

A prompt shows finished calls of tools that no row offers, in the form that is scored: models copy
what an instruction shows, so a form to fill in comes back with its placeholders. What was tried is
in docs/prompts.md.

The same messages go to Azure, to the local SLM, to training and to serving, so that a comparison
compares models. The system message is always explicit, because chat templates otherwise add their
own. Few-shot examples, where they are asked for, are turns of the same chat between the two: the
prompt of a train row, then its completion.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path

from swaplib.files import write_text
from swaplib.metrics import Track, check_track
from swaplib.rows import Row
from swaplib.settings import ROOT

Message = dict[str, str]

SYSTEM_PROMPTS: dict[Track, str] = {
    "structured": "You answer with JSON only: no prose and no code fences.",
    "toolcall": (
        "You answer with exactly one tool call in the wrapper that is asked for, and no other text."
    ),
}

# What a row's instruction says of values. Native runs need it too: they state it without the form.
VALUES = (
    "Copy texts and numbers as the request has them; write numbers as numbers and texts as texts. "
    "Leave out a parameter with a default unless the request sets it."
)

ROW_PROMPTS: dict[Track, str] = {
    "toolcall": """\
Answer the request with one call of the tool below. Reply with exactly one wrapper around one \
JSON object; the wrapper names the tool and the object holds its arguments, as in this call of \
another tool:
<tool_call name="pour_tea">{{"cups":2,"sweetener":"honey"}}</tool_call>
Start with <tool_call name=" and end with </tool_call>. Copy texts and numbers as the request has \
them; write numbers as numbers and texts as texts. Leave out a parameter with a default unless the \
request sets it.

{signatures}

Request: {request}""",
    "structured": """\
Answer the request with calls of the tools below. Reply with exactly one JSON array, its calls in \
the order asked. For example, three calls of other tools:
[{{"name":"pour_tea","arguments":{{"cups":2,"sweetener":"honey"}}}},\
{{"name":"pour_tea","arguments":{{"cups":1}}}},\
{{"name":"ring_bell","arguments":{{"times_rung":3}}}}]
Start with [ and end with ]. Copy texts and numbers as the request has them; write numbers as \
numbers and texts as texts. Leave out a parameter with a default unless the request sets it.

{signatures}

Request: {request}""",
}

# The same for rows out of a log: their gold is what the hosted LLM said without a word of ours, so
# nothing is said of defaults. `json` is for an answer that is no call.
_DEFAULTS = VALUES[VALUES.index(" Leave out") :]
LOGGED_PROMPTS: dict[str, str] = {
    "toolcall": ROW_PROMPTS["toolcall"]
    .replace(_DEFAULTS, "")
    .replace("one call of the tool below", "one call of one of the tools below"),
    "structured": ROW_PROMPTS["structured"].replace(_DEFAULTS, ""),
    "json": """\
Answer the request with JSON. Reply with exactly one JSON document that fits this JSON Schema, \
where one is given, and nothing else. Start with the document's first bracket and end with its \
last one.

{signatures}

Request: {request}""",
}

MAX_SHOTS = 8


def build_prompt(
    track: Track, signatures: Sequence[str], request: str, template: str | None = None
) -> str:
    """A row's prompt: the instruction, the tools that it may call, the request.

    Args:
        signatures: The tools, as tool_schemas.format_signature writes them.
        request: What is asked.
        template: Another instruction than the track's, to be measured against it.
    """
    return (template or ROW_PROMPTS[track]).format(
        signatures="\n\n".join(signatures), request=request
    )


def build_messages(track: Track, prompt: str, shots: Sequence[Row] = ()) -> list[Message]:
    """The messages of one row: `[{"role": "system", …}, {"role": "user", "content": prompt}]`.

    Args:
        prompt: The row's prompt.
        shots: Examples, each a user and an assistant turn between the two.

    Raises:
        ValueError: There is no such track.
    """
    check_track(track)
    messages = [{"role": "system", "content": SYSTEM_PROMPTS[track]}]
    for shot in shots:
        messages += [
            {"role": "user", "content": shot.prompt},
            {"role": "assistant", "content": shot.completion},
        ]
    return [*messages, {"role": "user", "content": prompt}]


def pick_shots(train: Sequence[Row], n: int, seed: int = 42) -> list[Row]:
    """The first n of MAX_SHOTS train rows drawn with a seed.

    They are the same for every model and row, and fewer examples are among more of them.

    Raises:
        ValueError: n is not in 0..MAX_SHOTS, or there are fewer train rows.
    """
    if not 0 <= n <= MAX_SHOTS:
        raise ValueError(f"shots={n}: expected 0 to {MAX_SHOTS} examples")
    if n > len(train):
        raise ValueError(
            f"shots={n}: expected at least as many train rows to take examples from, found "
            f"{len(train)}"
        )
    return random.Random(seed).sample(list(train), min(MAX_SHOTS, len(train)))[:n]  # noqa: S311 - a sample, no secret


def write_prompts(path: Path = ROOT / "mastra" / "src" / "prompts.json") -> Path:
    """Write the system messages where the TypeScript package imports them; returns the path."""
    content = {track: {"system": text} for track, text in SYSTEM_PROMPTS.items()}
    write_text(path, json.dumps(content, indent=2) + "\n")
    return path
