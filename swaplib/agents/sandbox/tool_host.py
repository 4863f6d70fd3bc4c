"""The process in which your own tools run, or are described; tool_process.py starts and asks it.

Started as `python -I tool_host.py` with one JSON object on its standard input (`file`, `sha256`,
`is_described`, `walls`, `limits`). It loads the file with the rights of whoever started it, so that
the file may import and read what it needs. To describe the tools, it says what they are and ends.
Else it steps apart (walls.py) and forks; its child raises the last walls and answers calls, a line
each. No code that a model wrote runs here. It is no part of the package's API.

    {"nonce": "5f0c…", "call": {"name": "find_book", "arguments": {"title": "Emma"}}}
    {"nonce": "5f0c…", "value": "F-AUS-3"}
"""

import importlib
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

# The checkout, which -I leaves out; main takes it away again before the file is loaded.
sys.path.insert(0, os.path.abspath(f"{__file__}/../../../.."))

from swaplib.agents.sandbox import tools_file, walls
from swaplib.agents.sandbox.guards import NEEDED_LATER

Functions = dict[str, Callable[..., Any]]


def send(target: int, message: dict[str, Any]) -> None:
    """Write one line."""
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(target, data) :]


def describe(module: ModuleType) -> dict[str, Any]:
    """The tools of a file. Torch stays away: it takes seconds, and knows only types of its own."""
    try:
        from transformers.utils import chat_template_utils

        absent = dict.fromkeys(("is_torch_available", "is_vision_available"), lambda: False)
        vars(chat_template_utils).update(absent)
        return tools_file.describe(module)
    except Exception as error:  # its hints are code of the file, too
        text = tools_file.describe_error(error)
        return {"problem": f"{module.__file__} cannot be described: {text}"}


def answer(functions: Functions, message: dict[str, Any]) -> dict[str, Any]:
    """What a call gave, or what a check says."""
    if "call" in message:
        asked = message["call"]
        return tools_file.call(asked["name"], functions[asked["name"]], asked["arguments"])
    asked = message["check"]
    name = asked["name"]
    return {"value": tools_file.check(name, functions[name], asked["answer"], asked["calls"])}


def serve(source: io.BufferedReader, target: int, module: ModuleType) -> None:
    """Answer until there is nobody to ask; what a tool does to the module changes no function."""
    functions = tools_file.list_functions(module)
    for line in source:
        message = json.loads(line)
        send(target, {"nonce": message["nonce"], **answer(functions, message)})


def grow(limits: dict[str, int]) -> dict[str, int]:
    """The limits, with the memory that the file's own imports have taken already on top."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError):
        return limits
    taken = pages * os.sysconf("SC_PAGE_SIZE")
    return limits | {"memory_bytes": limits["memory_bytes"] + taken}


def main() -> None:
    """Load the file; describe it, or step apart and fork: the child serves, behind its walls."""
    source, target = os.fdopen(os.dup(0), "rb"), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    config = json.loads(source.readline())
    sys.dont_write_bytecode = True
    sys.path.pop(0)
    try:
        module = tools_file.load_file(Path(config["file"]), config["sha256"])
    except (OSError, ValueError) as error:
        return send(target, {"problem": str(error)})
    if config["is_described"]:
        return send(target, describe(module))
    for name in NEEDED_LATER:
        importlib.import_module(name)
    limits = grow(config["limits"])
    contained = walls.step_apart(config["walls"], limits["disk_bytes"])
    has_files = bool(contained["walls"])
    child = os.fork()
    if child:
        os.close(target)  # so that an end of the child is seen at once
        source.close()
        os.waitpid(child, 0)
        return None
    os.setsid()
    walls.end_with_parent()
    walls.limit(limits, has_files)
    contained["walls"] += walls.refuse_calls(config["walls"], has_files)
    contained["is_walled"] = not walls.SUFFICIENT.isdisjoint(contained["walls"])
    send(target, {"contained": contained})
    return serve(source, target, module)


if __name__ == "__main__":
    main()
