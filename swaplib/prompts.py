"""The only place where messages are made: one fixed system message for each track, then the row's prompt.

The same list goes to Azure, to the local SLM, to training and to serving, so that a comparison compares models.
The system message is always explicit, because chat templates otherwise put in their own.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from swaplib.metrics import Track, check_track
from swaplib.rows import write_text
from swaplib.settings import ROOT
from swaplib.trajectory import Step

Message = dict[str, str]

SYSTEM_PROMPTS: dict[Track, str] = {
    "structured": "You answer with JSON only: no prose and no code fences.",
    "toolcall": "You answer with exactly one tool call in the wrapper that is asked for, and no other text.",
}


def build_messages(track: Track, prompt: str) -> list[Message]:
    """The messages of one row: `[{"role": "system", …}, {"role": "user", "content": prompt}]`.

    Raises:
        ValueError: There is no such track.
    """
    check_track(track)
    return [{"role": "system", "content": SYSTEM_PROMPTS[track]}, {"role": "user", "content": prompt}]


def write_prompts(path: Path = ROOT / "mastra" / "src" / "prompts.json") -> Path:
    """Write the system messages where the TypeScript package imports them; returns the path."""
    content = {track: {"system": text} for track, text in SYSTEM_PROMPTS.items()}
    write_text(path, json.dumps(content, indent=2) + "\n")
    return path


AGENT_PROMPT = """\
Solve the task with Python. In every turn write one short thought, then one code block, like this:
I call the tool and look at its result.
<code>
result = TOOL(PARAMETER=VALUE)
print(result)
</code>
You then see what the code printed, or its error. These functions are defined already; call them with keyword arguments:

{signatures}

Make each call that the task asks for once, in the order asked. Leave out a parameter with a default unless the task \
sets it. End with final_answer(value): the result of the call, or for several calls the list of their results in the order \
asked."""

CODE_TAGS = ("<code>", "</code>")


def build_agent_messages(signatures: Sequence[str], task: str, steps: Sequence[Step] = ()) -> list[Message]:
    """The messages of an agent's next turn, and of a whole trajectory: the same for capture, training and evaluation.

    Args:
        signatures: The offered tools, as format_signature writes them.
        task: The request.
        steps: The turns so far, each an assistant message; what it led to is a user message, but for a final answer.
    """
    system = AGENT_PROMPT.format(signatures="\n\n".join(signatures))
    messages = [{"role": "system", "content": system}, {"role": "user", "content": f"Task: {task}"}]
    for step in steps:
        messages.append({"role": "assistant", "content": format_turn(step)})
        if not step.is_final:
            messages.append({"role": "user", "content": format_observation(step)})
    return messages


def format_turn(step: Step) -> str:
    """What the agent said in a step: its thought and code, or its whole output where no code was found."""
    if step.code is None:
        return step.thought
    return f"{step.thought}\n{CODE_TAGS[0]}\n{step.code}\n{CODE_TAGS[1]}".lstrip()


def format_observation(step: Step) -> str:
    """What the agent sees of a step: what was printed, then the error if there was one."""
    error = f"Error: {step.error}" if step.error else ""
    return "Observation:\n" + ("\n".join(part for part in (step.observation, error) if part) or "(nothing printed)")
