"""Runs `swap serve` in a process of its own for as long as it is needed.

with running_server(slm, "slm") as root:
    httpx2.get(f"{root}/v1/models")
"""

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO

import httpx2

from swaplib import web
from swaplib.models.local import LocalSLM

START_LIMIT_S = 180
STOP_LIMIT_S = 65  # the server gives the requests in flight 60 s


@contextmanager
def running_server(
    slm: LocalSLM,
    name: str,
    port: int | None = None,
    options: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Serve a model on loopback for as long as the context lasts.

    Args:
        slm: The model to serve; it is loaded in the other process only.
        name: The model's name in answers.
        port: The port; None for a free one.
        options: Further words of the command, such as `--max-waiting 500`.
        env: The process's environment; None for this one's.

    Yields:
        The server's root, for example `http://127.0.0.1:8199`.

    Raises:
        FileNotFoundError, ValueError: The checkpoint or the adapter is missing or broken.
        RuntimeError: The server ended instead of answering; its output is in the message.
    """
    slm.check()
    port = port or find_free_port()
    root = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        # The server ends with its standard input, so with this process, however that ends.
        server = subprocess.Popen(
            [*_make_command(slm, name, port), *options],
            env=env,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_until_healthy(server, root, log)
            yield root
        finally:
            _stop(server)


def _make_command(slm: LocalSLM, name: str, port: int) -> list[str]:
    served = slm.checkpoint
    options = {
        "--model": str(served.path),
        "--dtype": served.precision,
        "--batch-size": str(slm.batch_size),
        "--port": str(port),
        "--name": name,
        "--api-key": "",
    }
    if served.adapter:
        options["--adapter"] = str(served.adapter)
    words = [word for option in options.items() for word in option]
    return [sys.executable, "-m", "swaplib.cli", "serve", *words, "--stop-with-stdin"]


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server, which lets the requests in flight end first; kill it after STOP_LIMIT_S."""
    server.terminate()
    try:
        server.wait(timeout=STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    finally:
        if server.stdin:
            server.stdin.close()


def find_free_port() -> int:
    """A port on loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_healthy(server: subprocess.Popen[bytes], root: str, log: IO[bytes]) -> None:
    """Wait until our own server answers: by its process id, since another may have the port."""
    for _ in range(START_LIMIT_S * 2):
        if server.poll() is not None:
            log.seek(0)
            output = log.read().decode(errors="replace")
            raise RuntimeError(f"the server at {root} ended while starting:\n{output[-2000:]}")
        with suppress(httpx2.TransportError), web.open_client(root, timeout_s=5) as client:
            health = web.parse_body(client.get("/health").content)
            if isinstance(health, dict) and health.get("pid") == server.pid:
                return
        time.sleep(0.5)
    raise RuntimeError(f"the server at {root} did not answer within {START_LIMIT_S} s")
