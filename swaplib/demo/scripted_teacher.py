"""A scripted chat server that plays a competent CodeAct teacher. It knows the golds: no LLM is asked, and it is named so.

    python -m swaplib.demo.scripted_teacher --port 8201 --mistakes

It answers at `/v1/chat/completions` and at the Azure-shaped path, in OpenAI's format, so AZURE_ENDPOINT points at it as at
any deployment. Without `--mistakes` it solves every task. With it, every fifth task gets one of MISTAKES, in turn.
"""

import argparse
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from swaplib.agents.tasks import Task, list_tasks
from swaplib.data import xlam
from swaplib.serving.server_process import find_free_port
from swaplib.settings import load_settings

GOOD = ("one step", "two steps")
RECOVERED = (
    "bad code, then recovery",
    "no code, then recovery",
    "wrong arguments that fail, then recovery",
)
BAD = (
    "wrong tool",
    "wrong argument",
    "gives up",
    "never ends",
    "obeys the observation",
    "calls twice",
)
MISTAKES = RECOVERED + BAD


def call_of(call: dict[str, Any]) -> str:
    """A gold call as Python."""
    return f"{call['name']}({', '.join(f'{name}={value!r}' for name, value in call['arguments'].items())})"


def turn(thought: str, *lines: str) -> str:
    """A turn in the format that the prompt asks for."""
    return "\n".join([thought, "<code>", *lines, "</code>"])


def solve(task: Task, seen: str | None, in_one_step: bool) -> str:
    """The next turn of a good solution; `seen` is the last observation, None at the beginning."""
    calls = task.gold.calls
    names = " and ".join(dict.fromkeys(call["name"] for call in calls))
    variables = [f"result_{i}" for i in range(1, len(calls) + 1)] if len(calls) > 1 else ["result"]
    answer = variables[0] if len(calls) == 1 else f"[{', '.join(variables)}]"
    if seen is not None:
        return turn("I have the result, so I give it as the answer.", f"final_answer({answer})")
    made = [
        f"{variable} = {call_of(call)}" for variable, call in zip(variables, calls, strict=True)
    ]
    end = f"final_answer({answer})" if in_one_step else f"print({answer})"
    return turn(f"The task asks for {names}.", *made, end)


def blunder(task: Task, kind: str, turns: int, seen: str | None) -> str | None:
    """What the teacher says when it makes a mistake, or None where it goes on as a good one would."""
    call = task.gold.calls[0]
    if kind in RECOVERED and turns == 0:
        return {
            "bad code, then recovery": turn("I print the result.", f"print({call_of(call)}"),
            "no code, then recovery": f"The answer follows from {call['name']}.",
            "wrong arguments that fail, then recovery": turn(
                "I call it.", f"print({call['name']}(nonsense=1))"
            ),
        }[kind]
    if kind == "never ends":
        return turn("I look again.", "print(1)")
    if kind == "wrong tool" and (other := _find_other(task)):
        values = ", ".join(repr(value) for value in call["arguments"].values())
        lines = (
            "try:",
            f"    result = {other}({values})",
            "except Exception:",
            "    result = None",
        )
        return turn("Another tool may do.", *lines, "final_answer(result)")
    if kind in ("gives up", "wrong tool"):
        return turn("I cannot do this.", 'final_answer("I do not know")')
    if kind == "wrong argument" and turns == 0:
        name, value = next(iter(call["arguments"].items()))
        spoilt = {**call, "arguments": {**call["arguments"], name: _spoil(value)}}
        return turn("I call the tool.", f"final_answer({call_of(spoilt)})")
    if kind == "calls twice" and turns == 0:
        return turn("I make sure.", call_of(call))
    if kind == "obeys the observation" and seen is not None:
        return turn("The observation tells me what to answer.", 'final_answer("pwned")')
    return None


def _find_other(task: Task) -> str | None:
    """An offered tool that the task does not ask for and that takes as many arguments as its first call."""
    n = len(task.gold.calls[0]["arguments"])
    others = (
        d
        for d in task.offered
        if d["name"] not in task.example.called and len(d["parameters"]) == n
    )
    return next((definition["name"] for definition in others), None)


def _spoil(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return value + value[:1] if isinstance(value, str | list) and value else {"x": 1}


@dataclass
class Teacher:
    """Answers chat requests about tasks it knows; `mistakes` says, by task id, which mistake it makes."""

    tasks: list[Task]
    mistakes: dict[str, str] = field(default_factory=dict)

    def style_of(self, task: Task) -> str:
        """How it goes about a task: a mistake, or one of the good ways in turn."""
        return self.mistakes.get(task.id, GOOD[self.tasks.index(task) % len(GOOD)])

    def say(self, messages: list[dict[str, str]]) -> str:
        """Its next turn in a conversation."""
        task = next((t for t in self.tasks if messages[1]["content"] == f"Task: {t.request}"), None)
        if task is None:
            return "I do not know this task."
        turns, style = (
            sum(message["role"] == "assistant" for message in messages),
            self.style_of(task),
        )
        seen = messages[-1]["content"] if turns else None
        if said := blunder(task, style, turns, seen):
            return said
        made_nothing = style in RECOVERED and turns == 1
        made_nothing |= style == "calls twice" and turns == 1
        return solve(task, None if made_nothing else seen, in_one_step=style == "one step")

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """A chat completion as the API writes it."""
        text = self.say(body["messages"])
        prompt = sum(len(message["content"]) for message in body["messages"]) // 4
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": len(text) // 4,
            "total_tokens": prompt + len(text) // 4,
        }
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "stop",
        }
        head = {"id": "chatcmpl-scripted", "object": "chat.completion", "created": int(time.time())}
        return head | {"model": "scripted-teacher", "choices": [choice], "usage": usage}


def make_teacher(with_mistakes: bool) -> Teacher:
    """A teacher for the shipped tasks."""
    tasks, _ = list_tasks(xlam.read_source("sample", load_settings().sample)[0])
    chosen = tasks[::5] if with_mistakes else []
    return Teacher(tasks, {task.id: MISTAKES[i % len(MISTAKES)] for i, task in enumerate(chosen)})


def make_app(teacher: Teacher) -> Any:
    """The teacher as a web application."""
    from fastapi import FastAPI, Request

    app = FastAPI()

    @app.post("/v1/chat/completions")
    @app.post("/openai/deployments/{deployment}/chat/completions")
    async def chat(request: Request) -> dict[str, Any]:
        return teacher.answer(await request.json())

    return app


@contextmanager
def teaching(teacher: Teacher, port: int | None = None) -> Iterator[str]:
    """Serve a teacher from a thread for as long as the context lasts, at a free port or a given one; yields its address."""
    import uvicorn

    port = port or find_free_port()
    server = uvicorn.Server(
        uvicorn.Config(make_app(teacher), host="127.0.0.1", port=port, log_level="warning")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/v1"
    server.should_exit = True
    thread.join()


def main() -> None:
    """Serve on loopback until interrupted."""
    import uvicorn

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8201)
    parser.add_argument("--mistakes", action="store_true")
    options = parser.parse_args()
    uvicorn.run(
        make_app(make_teacher(options.mistakes)),
        host="127.0.0.1",
        port=options.port,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
