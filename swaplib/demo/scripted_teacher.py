"""A scripted chat server that answers as a competent CodeAct teacher would: it knows the golds.

    python -m swaplib.demo.scripted_teacher --port 8201 --mistakes

No LLM is asked. It answers at `/v1/chat/completions` and at the Azure-shaped path, in OpenAI's
format, so that AZURE_ENDPOINT can name it like any deployment; its model is `scripted-teacher`.
Without `--mistakes` it solves every task. With it, it makes one of MISTAKES, in turn, in every
fifth task. The turn that solves a task whose gold is circle_area(radius=5):

    The task asks for circle_area.
    <code>
    result = circle_area(radius=5)
    final_answer(result)
    </code>
"""

import argparse
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request

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


def call_of(call: Mapping[str, Any]) -> str:
    """A gold call as Python."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in call["arguments"].items())
    return f"{call['name']}({arguments})"


def turn(thought: str, *lines: str) -> str:
    """A turn in the format that the prompt asks for."""
    return "\n".join([thought, "<code>", *lines, "</code>"])


def solve(task: Task, seen: str | None, in_one_step: bool) -> str:
    """The next turn of a good solution; `seen` is the last observation, None at the beginning."""
    calls = task.gold.calls
    names = " and ".join(dict.fromkeys(call["name"] for call in calls))
    if len(calls) == 1:
        variables, answer = ["result"], "result"
    else:
        variables = [f"result_{i}" for i in range(1, len(calls) + 1)]
        answer = f"[{', '.join(variables)}]"
    if seen is not None:
        return turn("I have the result, so I give it as the answer.", f"final_answer({answer})")
    made = [
        f"{variable} = {call_of(call)}" for variable, call in zip(variables, calls, strict=True)
    ]
    end = f"final_answer({answer})" if in_one_step else f"print({answer})"
    return turn(f"The task asks for {names}.", *made, end)


def blunder(task: Task, kind: str, turns: int, seen: str | None) -> str | None:
    """The next turn of a mistake, one of MISTAKES; None where it is that of a good solution.

    `turns` is how many there were; `seen` is the last observation, None at the beginning.
    """
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
        return turn(
            "Another tool may do.",
            "try:",
            f"    result = {other}({values})",
            "except Exception:",
            "    result = None",
            "final_answer(result)",
        )
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
    """An offered tool that the gold does not call, with as many parameters as its first call."""
    n = len(task.gold.calls[0]["arguments"])
    for tool in task.offered:
        if tool["name"] not in task.example.called and len(tool["parameters"]) == n:
            return tool["name"]
    return None


def _spoil(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str) and value:
        return value + value[:1]
    if isinstance(value, list) and value:
        return value + value[:1]
    return {"x": 1}


@dataclass
class Teacher:
    """Answers chat requests about tasks it knows; `mistakes` holds its mistake by task id."""

    tasks: list[Task]
    mistakes: dict[str, str] = field(default_factory=dict)

    def style_of(self, task: Task) -> str:
        """How it goes about a task: a mistake, or one of the good ways in turn."""
        return self.mistakes.get(task.id, GOOD[self.tasks.index(task) % len(GOOD)])

    def say(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Its next turn in a conversation."""
        task = next((t for t in self.tasks if messages[1]["content"] == f"Task: {t.request}"), None)
        if task is None:
            return "I do not know this task."
        turns = sum(message["role"] == "assistant" for message in messages)
        style = self.style_of(task)
        seen = messages[-1]["content"] if turns else None
        if mistaken := blunder(task, style, turns, seen):
            return mistaken
        has_nothing_yet = turns == 1 and (style in RECOVERED or style == "calls twice")
        return solve(task, None if has_nothing_yet else seen, in_one_step=style == "one step")

    def answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A chat completion as the API writes it; 4 characters count as a token."""
        text = self.say(body["messages"])
        n_prompt = sum(len(message["content"]) for message in body["messages"]) // 4
        n_answer = len(text) // 4
        message = {"role": "assistant", "content": text}
        return {
            "id": "chatcmpl-scripted",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": "scripted-teacher",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": n_prompt,
                "completion_tokens": n_answer,
                "total_tokens": n_prompt + n_answer,
            },
        }


def make_teacher(with_mistakes: bool) -> Teacher:
    """A teacher for the shipped tasks."""
    tasks, _ = list_tasks(xlam.read_source("sample", load_settings().sample)[0])
    chosen = tasks[::5] if with_mistakes else []
    return Teacher(tasks, {task.id: MISTAKES[i % len(MISTAKES)] for i, task in enumerate(chosen)})


def make_app(teacher: Teacher) -> FastAPI:
    """The teacher as a web application."""
    app = FastAPI()

    @app.post("/v1/chat/completions")
    @app.post("/openai/deployments/{deployment}/chat/completions")
    async def chat(request: Request) -> dict[str, Any]:
        return teacher.answer(await request.json())

    return app


@contextmanager
def teaching(teacher: Teacher, port: int | None = None) -> Iterator[str]:
    """Serve a teacher from a thread for as long as the context lasts; yields its address.

    Args:
        teacher: The teacher.
        port: A port on loopback; None for a free one.
    """
    port = port or find_free_port()
    app = make_app(teacher)
    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = True
        thread.join()


def main() -> None:
    """Serve on loopback until interrupted."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--port", type=int, default=8201)
    parser.add_argument("--mistakes", action="store_true")
    options = parser.parse_args()
    app = make_app(make_teacher(options.mistakes))
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
