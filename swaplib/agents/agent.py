"""The agent: a model that acts by writing code, over any client that `evaluate` can ask.

A plain loop: ask, find the code, run it, observe; until a final answer, the last step, or too many
failed steps in a row. What the model sees is made by agent_prompt.build_agent_messages from the
steps so far: the same for the hosted LLM and a local SLM, and the same that training texts are made
of. The code runs in a Sandbox. A turn, for example:

    I call the tool and look at its result.
    <code>
    print(count_loaves(shelves=12))
    </code>
"""

import ast
import re
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from swaplib.agents.agent_prompt import CODE_TAGS, NO_CODE
from swaplib.agents.sandbox.session import CellResult, Limits, Sandbox
from swaplib.agents.tasks import Task
from swaplib.agents.trajectory import Outcome, Step, Trajectory, list_calls
from swaplib.masking import mask_secrets, replace_surrogates
from swaplib.provenance import now_utc
from swaplib.rows import Generation

if TYPE_CHECKING:
    from swaplib.models.hosted import HostedLLM
    from swaplib.models.local import LocalSLM

CUT_OFF = "the answer was cut off at the token limit, so its code was not run: be shorter"
OPEN_TAG, CLOSE_TAG = CODE_TAGS
FENCED = re.compile(r"```(?:python|py)(.*?)\n```", re.DOTALL)
ANSWER_SET = re.compile(r"(?<![.\w])final_answer\s*=")
ANSWER_NAMED = re.compile(r"(?<![.\w])final_answer\b(?!\s*\()")  # a call is left alone


@dataclass(frozen=True, kw_only=True)
class AgentOptions:
    """Limits of an agent: its turns, failed ones in a row, tokens of a turn, the code's process.

    `allow_unwalled` lets code run where the kernel has no wall to offer.
    """

    max_steps: int = 4
    max_failures: int = 2
    max_new_tokens: int = 256
    limits: Limits = field(default_factory=Limits)
    allow_unwalled: bool = False


@dataclass
class _Work:
    """One request in progress.

    `answer` is the last step's final answer; `error` says why the last call got no output;
    `verdict` is what the task's own check says.
    """

    generations: list[Generation] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    answer: Any = None
    error: str | None = None
    verdict: bool | str | None = None


def run_agent(
    client: "HostedLLM | LocalSLM",
    task: Task,
    options: AgentOptions | None = None,
    secrets: Sequence[str] = (),
) -> Trajectory:
    """Let an agent work at one request.

    Args:
        client: The model that answers, at temperature 0.
        task: The request and the tools offered.
        options: The defaults where None.
        secrets: Masked as `***`, like what looks like a key, before a text is sent or written.

    Returns:
        The trajectory, however it ended. `outcome` is `error` when a call got no answer.

    Raises:
        CallFailed: The endpoint refuses every call.
        RuntimeError: The process for the agent's code does not start, or nothing would contain it:
            this machine's fault, not the model's.
    """
    started = now_utc()
    start = time.perf_counter()
    work = _do_work(client, task, options or AgentOptions(), secrets)
    has_answer = bool(work.steps) and work.steps[-1].is_final
    outcome: Outcome = "error" if work.error else "answered" if has_answer else "step_limit"
    return Trajectory(
        id=task.id,
        outcome=outcome,
        task=task.request,
        tools=tuple(definition["name"] for definition in task.offered),
        steps=tuple(work.steps),
        final_answer=work.answer if outcome == "answered" else None,
        usage=_count_usage(work.generations),
        model=client.identity(),
        timing={"started": started, "latency_ms": round((time.perf_counter() - start) * 1000, 1)},
        error=work.error,
        verdict=work.verdict,
    )


def _do_work(
    client: "HostedLLM | LocalSLM", task: Task, options: AgentOptions, secrets: Sequence[str] = ()
) -> _Work:
    """Work at the task in a sandbox; your own tools, and then the check, are asked meanwhile."""
    work = _Work()
    names = [definition["name"] for definition in task.offered]
    with ExitStack() as stack:
        host = None
        if task.own:
            host = stack.enter_context(closing(task.own.open(options.allow_unwalled)))
        sandbox = Sandbox(names, options.limits, options.allow_unwalled, host=host)
        stack.enter_context(closing(sandbox))
        _take_turns(work, client, task, options, sandbox, secrets)
        if host and task.gold.check and work.steps and work.steps[-1].is_final:
            verdict = host.check(task.gold.check, work.answer, list_calls(work.steps))
            work.verdict = mask_secrets(verdict, secrets)
    return work


def _take_turns(
    work: _Work,
    client: "HostedLLM | LocalSLM",
    task: Task,
    options: AgentOptions,
    sandbox: Sandbox,
    secrets: Sequence[str],
) -> None:
    """Ask, find the code, run it, observe, within the limits of the options."""
    for _ in range(options.max_steps):
        messages = task.build_messages(work.steps)
        _, generation = next(iter(client.generate([messages], options.max_new_tokens)))
        work.generations.append(generation)
        if generation.status == "error":
            work.error = generation.error
            return
        turn = cut_turn(replace_surrogates(generation.output))
        code = find_code(turn)
        result = _run_code(code, generation, sandbox)
        work.steps.append(_make_step(turn, code, result, secrets))
        work.answer = mask_secrets(result.answer, secrets)
        if _is_over(work.steps, options.max_failures):
            return


def _is_over(steps: Sequence[Step], max_failures: int) -> bool:
    """Whether the last step gave the answer, or so many in a row failed."""
    if steps[-1].is_final:
        return True
    last = steps[-max_failures:]
    return len(last) == max_failures and all(step.error for step in last)


def cut_turn(output: str) -> str:
    """A turn up to its first closing tag, which is added where it is missing.

    Nothing after that tag counts.
    """
    return output.partition(CLOSE_TAG)[0] + CLOSE_TAG if output else ""


def find_code(turn: str) -> str | None:
    """Find the code in a turn, as cut_turn leaves it.

    It is the text between the tags; where that is empty, the text of all fences marked as Python;
    else the whole turn, if it is Python. A variable named final_answer is renamed in code that also
    calls the function.

    Returns:
        The code, which may be blank, or None where there is none.

    Source: parse_code_blobs and fix_final_answer_code of smolagents 1.26 (Apache-2.0); the same
    turns have the same code.
    """
    tagged = turn.partition(OPEN_TAG)[2].removesuffix(CLOSE_TAG).strip()
    code = tagged or "\n\n".join(block.strip() for block in FENCED.findall(turn))
    if not code:
        try:
            ast.parse(turn)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
        code = turn
    if "final_answer(" in code and ANSWER_SET.search(code):
        return ANSWER_NAMED.sub("final_answer_variable", code)
    return code


def _run_code(code: str | None, generation: Generation, sandbox: Sandbox) -> CellResult:
    """Run a turn's code, unless there is none or the answer was cut off."""
    if code is not None and generation.status == "truncated" and CLOSE_TAG not in generation.output:
        return CellResult("", CUT_OFF)
    return sandbox.run(code) if code and code.strip() else CellResult("", NO_CODE)


def _make_step(turn: str, code: str | None, result: CellResult, secrets: Sequence[str]) -> Step:
    """A turn and what came of it, keys masked; without code the whole turn is the thought."""
    if code and code.strip():
        thought = re.split(f"{OPEN_TAG}|```", turn, maxsplit=1)[0].strip()
    else:
        thought, code = turn.removesuffix(CLOSE_TAG).strip(), None
    return Step(
        thought=mask_secrets(thought, secrets),
        code=mask_secrets(code, secrets),
        observation=mask_secrets(result.printed, secrets),
        error=mask_secrets(result.error, secrets),
        calls=tuple(mask_secrets(result.calls, secrets)),
        is_final=result.has_answer,
    )


def _count_usage(generations: Sequence[Generation]) -> dict[str, int]:
    return {
        "calls": len(generations),
        "prompt_tokens": sum(g.prompt_tokens or 0 for g in generations),
        "completion_tokens": sum(g.completion_tokens or 0 for g in generations),
    }
