"""The only place where an agent's messages are made: the system message, the task, then its turns.

The same messages serve capture, training and evaluation, for every model. The instruction shows two
finished tasks rather than a form to fill in, because models copy placeholders, and do not end a
task when no example shows them how.
"""

from collections.abc import Sequence

from swaplib.agents.trajectory import Step
from swaplib.prompts import Message

AGENT_PROMPT = """\
Solve the task with Python. In every turn write one short thought, then one code block between \
<code> and </code>. You then see what the code printed, or its error. Give the answer with \
final_answer, in a code block too. Two examples, with other tools than yours:

Task: How many loaves fit into an oven with 12 shelves?
I call the tool and look at its result.
<code>
result = count_loaves(shelves=12)
print(result)
</code>
Observation:
48
The result is the answer.
<code>
final_answer(result)
</code>

Task: How long does a pot of 3 litres take to boil, and how many cups does it fill?
I call both tools in the order asked and look at their results.
<code>
minutes = boil_pot(pot_litres=3)
cups = fill_cups(pot_litres=3)
print(minutes, cups)
</code>
Observation:
7.5 12
The answer is the list of both results.
<code>
final_answer([minutes, cups])
</code>

These functions are defined already; call them with keyword arguments:

{signatures}

Make each call that the task asks for once, in the order asked. Leave out a parameter with a \
default unless the task sets it. The answer is the result of the call, or for several calls the \
list of their results in the order asked."""

# Of tasks of your own whose gold is no calls: these are the agent's to choose.
FREE_PROMPT = (
    AGENT_PROMPT.partition("{signatures}")[0]
    + """\
{signatures}

Call them as the task needs, and look at a result before you use it. Leave out a parameter with a \
default unless the task sets it. The answer is what the task asks for, in the form that it asks \
for."""
)

CODE_TAGS = ("<code>", "</code>")
NO_CODE = """\
no code was found in this turn. Write code between <code> and </code>. To answer, call \
final_answer there, for example:
<code>
final_answer(48)
</code>"""


def build_agent_messages(
    signatures: Sequence[str], task: str, steps: Sequence[Step] = (), is_free: bool = False
) -> list[Message]:
    """The messages of an agent's next turn, and of a whole trajectory.

    Args:
        signatures: The offered tools, as format_signature writes them.
        task: The request.
        steps: The turns so far. Each is an assistant message; what it led to is a user message,
            except after a final answer.
        is_free: Whether the calls are the agent's to choose (FREE_PROMPT).
    """
    prompt = FREE_PROMPT if is_free else AGENT_PROMPT
    system = prompt.format(signatures="\n\n".join(signatures))
    messages = [{"role": "system", "content": system}, {"role": "user", "content": f"Task: {task}"}]
    for step in steps:
        messages.append({"role": "assistant", "content": format_turn(step)})
        if not step.is_final:
            messages.append({"role": "user", "content": format_observation(step)})
    return messages


def format_turn(step: Step) -> str:
    """What the agent said in a step: thought and code, or its whole output without code."""
    if step.code is None:
        return step.thought
    return f"{step.thought}\n{CODE_TAGS[0]}\n{step.code}\n{CODE_TAGS[1]}".lstrip()


def format_observation(step: Step) -> str:
    """What the agent sees of a step: what was printed, then the error if there was one."""
    error = f"Error: {step.error}" if step.error else ""
    seen = "\n".join(part for part in (step.observation, error) if part)
    return f"Observation:\n{seen or '(nothing printed)'}"
