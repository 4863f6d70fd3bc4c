"""A scripted chat server that answers as a competent CodeAct teacher would: it knows the golds.

    python -m swaplib.demo.scripted_teacher --port 8201 --mistakes
    python -m swaplib.demo.scripted_teacher --tools T.py --tasks T.jsonl --solutions S.json

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
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request

from swaplib.agents.own_tasks import OwnFiles, read_own_tasks
from swaplib.agents.task_sources import choose_files
from swaplib.agents.tasks import Task, list_tasks
from swaplib.data import xlam
from swaplib.demo.teacher_turns import GOOD, MISTAKES, RECOVERED, blunder, solve, turn
from swaplib.files import read_json
from swaplib.serving.server_process import find_free_port
from swaplib.settings import load_settings


@dataclass
class Teacher:
    """Answers chat requests about tasks it knows; `mistakes` holds its mistake by task id.

    `solutions` are lines of Python that leave the answer in `result`, by task id, for tasks whose
    gold states no calls. Without one the expected answer is given at once.
    """

    tasks: list[Task]
    mistakes: dict[str, str] = field(default_factory=dict)
    solutions: dict[str, list[str]] = field(default_factory=dict)

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
        if task.is_free:
            return self.solve_freely(task, seen)
        if mistaken := blunder(task, style, turns, seen):
            return mistaken
        has_nothing_yet = turns == 1 and (style in RECOVERED or style == "calls twice")
        return solve(task, None if has_nothing_yet else seen, in_one_step=style == "one step")

    def solve_freely(self, task: Task, seen: str | None) -> str:
        """The next turn of a good solution of a task whose gold states no calls."""
        lines = self.solutions.get(task.id)
        if lines is None:
            return turn("I know the answer.", f"final_answer({task.gold.answer!r})")
        if seen is None:
            return turn("I ask the tools and look at the result.", *lines, "print(result)")
        return turn("I have the result, so I give it as the answer.", "final_answer(result)")

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


def make_own_teacher(files: OwnFiles, solutions: Path | None = None) -> Teacher:
    """A teacher for tasks of your own; `solutions` is a JSON file of them."""
    known = read_json(solutions, "Mend it.") if solutions else {}
    return Teacher(list(read_own_tasks(files).tasks), solutions=known)


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
    parser.add_argument("--tools", default="", help="a Python file of your own tools")
    parser.add_argument("--tasks", default="", help="a JSONL file of your own tasks")
    parser.add_argument("--solutions", type=Path, help="a JSON file: lines of Python by task id")
    options = parser.parse_args()
    own = choose_files(options.tools, options.tasks)
    with_mistakes, solutions = options.mistakes, options.solutions
    teacher = make_own_teacher(own, solutions) if own else make_teacher(with_mistakes)
    app = make_app(teacher)
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
