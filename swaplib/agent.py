"""The agent: smolagents' CodeAgent with a short prompt of our own, over any client that `evaluate` can ask.

The prompt, the messages and the tools are the same whoever answers, the hosted LLM or a local SLM, and the same that
training texts are made of. What the model sees is made by agent_prompt.build_agent_messages from the steps so far, and the
code it writes runs in a Sandbox. smolagents keeps the loop: ask, parse, execute, observe, until a final answer or the last
step.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from swaplib.agent_prompt import CODE_TAGS, NO_CODE, build_agent_messages
from swaplib.hosted import CallFailed, HostedLLM
from swaplib.prompts import Message
from swaplib.provenance import now_utc
from swaplib.rows import Generation
from swaplib.sandbox import CellResult, Limits, Sandbox
from swaplib.tasks import Task
from swaplib.trajectory import Outcome, Step, Trajectory

if TYPE_CHECKING:
    from swaplib.local import LocalSLM

CUT_OFF = "the answer was cut off at the token limit, so its code was not run: be shorter"


@dataclass(frozen=True, kw_only=True)
class AgentOptions:
    """By name: turns at most, failed ones in a row at most, tokens of a turn at most, limits of the code's process."""

    max_steps: int = 4
    max_failures: int = 2
    max_new_tokens: int = 256
    limits: Limits = field(default_factory=Limits)


class _NoAnswer(Exception):  # noqa: N818 - reads as what happened
    """The model gave no answer after the retries."""


@dataclass
class _Session:
    """One request in progress: what was said and done so far. Plays the parts that CodeAgent asks others to play."""

    client: "HostedLLM | LocalSLM"
    task: Task
    sandbox: Sandbox
    max_new_tokens: int
    steps: list[Step] = field(default_factory=list)
    generations: list[Generation] = field(default_factory=list)
    result: CellResult | None = None

    def ask(self) -> str:
        """The model's next turn; nothing behind the first closing tag counts."""
        messages = build_agent_messages(self.task.signatures, self.task.request, self.steps)
        self.result = None
        _, generation = next(iter(self.client.generate([messages], self.max_new_tokens)))
        self.generations.append(generation)
        if generation.status == "error":
            raise _NoAnswer(generation.error)
        text, tag, _ = generation.output.partition(CODE_TAGS[1])
        return text + tag

    def run(self, code: str) -> CellResult:
        """Execute a step's code, unless the answer was cut off or empty."""
        generation = self.generations[-1]
        if generation.status == "truncated" and CODE_TAGS[1] not in generation.output:
            self.result = CellResult("", CUT_OFF)
        else:
            self.result = self.sandbox.run(code) if code.strip() else CellResult("", NO_CODE)
        return self.result

    def add_step(self, output: str, code: str | None) -> None:
        """Keep a step as it ended; a step whose code was not found has its whole output as the thought."""
        result = self.result or CellResult("", NO_CODE)
        if (code or "").strip():
            thought = re.split(f"{CODE_TAGS[0]}|```", output, maxsplit=1)[0].strip()
        else:
            thought, code = output.removesuffix(CODE_TAGS[1]).strip(), None
        self.steps.append(Step(thought, code, result.printed, result.error, result.calls, result.has_answer))


def run_agent(client: "HostedLLM | LocalSLM", task: Task, options: AgentOptions | None = None) -> Trajectory:
    """Let an agent work at one request.

    Args:
        client: Who answers, at temperature 0.
        task: The request and the tools offered.
        options: Limits.

    Returns:
        The trajectory, whatever became of it. `outcome` is `error` when the model gave no answer to a call.

    Raises:
        CallFailed: The endpoint refuses every call.
    """
    options = options or AgentOptions()
    sandbox = Sandbox([definition["name"] for definition in task.offered], options.limits)
    session = _Session(client, task, sandbox, options.max_new_tokens)
    started, start = now_utc(), time.perf_counter()
    try:
        error = _run_code_agent(session, options)
    finally:
        sandbox.close()
    has_answer = bool(session.steps) and session.steps[-1].is_final
    outcome: Outcome = "error" if error else "answered" if has_answer else "step_limit"
    return Trajectory(
        id=task.id,
        outcome=outcome,
        task=task.request,
        tools=tuple(definition["name"] for definition in task.offered),
        steps=tuple(session.steps),
        final_answer=session.result.answer if has_answer and session.result else None,
        usage=_count_usage(session.generations),
        model=client.identity(),
        timing={"started": started, "latency_ms": round((time.perf_counter() - start) * 1000, 1)},
        error=error,
    )


def _count_usage(generations: Sequence[Generation]) -> dict[str, int]:
    names = ("prompt_tokens", "completion_tokens")
    return {"calls": len(generations)} | {n: sum(getattr(g, n) or 0 for g in generations) for n in names}


def _run_code_agent(session: _Session, options: AgentOptions) -> str | None:
    """Run smolagents' loop over a session; returns why the model gave no answer, or None."""
    from smolagents.utils import AgentError, AgentGenerationError

    agent = _make_code_agent(session, options)
    try:
        agent.run(session.task.request)
    except AgentGenerationError as error:
        cause = error.__cause__
        if isinstance(cause, CallFailed):
            raise cause from None
        if not isinstance(cause, _NoAnswer):
            raise
        return str(cause)
    except AgentError:
        if not agent.interrupt_switch:
            raise
    return None


def _make_code_agent(session: _Session, options: AgentOptions) -> Any:
    """A CodeAgent whose model, messages, executor and memory are the session."""
    from smolagents import ActionStep, ChatMessage, CodeAgent, LogLevel, MessageRole, Model, TokenUsage
    from smolagents.agents import EMPTY_PROMPT_TEMPLATES
    from smolagents.local_python_executor import CodeOutput, PythonExecutor
    from smolagents.tools import BaseTool

    class SessionModel(Model):
        def generate(self, messages: Any, **_: Any) -> Any:
            text = session.ask()
            usage = session.generations[-1]
            counts = TokenUsage(usage.prompt_tokens or 0, usage.completion_tokens or 0)
            return ChatMessage(MessageRole.ASSISTANT, text, token_usage=counts)

    class SessionExecutor(PythonExecutor):
        def send_tools(self, tools: Any) -> None:
            """The sandbox has its tools already."""

        def send_variables(self, variables: Any) -> None:
            """No variables are given."""

        def __call__(self, code_action: str) -> Any:
            result = session.run(code_action)
            if result.error:
                raise RuntimeError(result.error)
            return CodeOutput(output=result.answer, logs=result.printed, is_final_answer=result.has_answer)

    class OfferedTool(BaseTool):
        def __init__(self, name: str):
            self.name = name

        def __call__(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("tools are called in the sandbox only")

    class SessionAgent(CodeAgent):
        def write_memory_to_messages(self, summary_mode: bool = False) -> list[Message]:
            return build_agent_messages(session.task.signatures, session.task.request, session.steps)

        def provide_final_answer(self, task: str) -> Any:
            """No call beyond the last step: a trajectory without an answer stays without one."""
            return ChatMessage(MessageRole.ASSISTANT, "")

    def keep(step: ActionStep, agent: CodeAgent) -> None:
        if step.model_output is not None:
            session.add_step(step.model_output, step.code_action)
        last = session.steps[-options.max_failures :]
        if len(last) == options.max_failures and all(step.error for step in last):
            agent.interrupt()

    return SessionAgent(
        tools=[OfferedTool(definition["name"]) for definition in session.task.offered],
        model=SessionModel(),
        prompt_templates=EMPTY_PROMPT_TEMPLATES,
        executor=SessionExecutor(),
        code_block_tags=CODE_TAGS,
        max_steps=options.max_steps,
        verbosity_level=LogLevel.OFF,
        step_callbacks=[keep],
    )
