"""The demo's hosted LLM: the packaged checkpoint with a small adapter, served on loopback at AZURE_ENDPOINT's address.

It plays the part of the hosted model where there is none: in the demo and in the tests. The adapter was trained on the
train rows of both tracks (`slm_swap/stand_in/run_card.json`), so it knows the task, as a hosted LLM would. Nothing else in
the project knows of it; a real deployment differs by the environment only.
"""

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import httpx

from swaplib.checkpoints import PACKAGED_NAME, check_checkpoint
from swaplib.settings import ROOT

CHECKPOINT = ROOT / "slm_swap" / "models" / PACKAGED_NAME
ADAPTER = ROOT / "slm_swap" / "stand_in"
START_LIMIT_S = 180


@contextmanager
def running_stand_in(endpoint: str) -> Iterator[str]:
    """Serve the stand-in in a process of its own for as long as the context lasts.

    Args:
        endpoint: An address on loopback with a port, such as demo.env's AZURE_ENDPOINT.

    Yields:
        The server's root, for example `http://127.0.0.1:8199`.

    Raises:
        ValueError: The endpoint is not on loopback, or has no port.
        FileNotFoundError: The packaged checkpoint was not downloaded.
        RuntimeError: The server ended instead of answering; its output is in the message.
    """
    parts = urlsplit(endpoint)
    if parts.hostname not in ("127.0.0.1", "localhost") or parts.port is None:
        raise ValueError(f"the stand-in serves on loopback only, and AZURE_ENDPOINT is {endpoint}. Use demo.env.")
    check_checkpoint(CHECKPOINT)
    root = f"http://127.0.0.1:{parts.port}"
    command = [sys.executable, "-m", "swaplib.cli", "serve", "--model", CHECKPOINT, "--adapter", ADAPTER]
    command += ["--dtype", "float32", "--port", str(parts.port), "--name", "stand-in"]
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_until_healthy(server, root, log)
            yield root
        finally:
            server.terminate()
            server.wait(timeout=30)


def _wait_until_healthy(server: subprocess.Popen, root: str, log: IO[bytes]) -> None:
    """Wait for our own server: its process id is in its answer, so another server at the port is not taken for it."""
    for _ in range(START_LIMIT_S * 2):
        if server.poll() is not None:
            log.seek(0)
            output = log.read().decode(errors="replace")
            raise RuntimeError(f"the stand-in at {root} ended while starting:\n{output[-2000:]}")
        with suppress(httpx.TransportError, ValueError, AttributeError):
            answer = httpx.get(f"{root}/health", timeout=5, trust_env=False).json()
            if answer.get("pid") == server.pid:
                return
        time.sleep(0.5)
    raise RuntimeError(f"the stand-in at {root} did not answer within {START_LIMIT_S} s")


def run_with_stand_in(endpoint: str, command: list[str | Path]) -> int:
    """Run a command while the stand-in is up, or, without one, serve until interrupted; returns the exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped then, too
    with running_stand_in(endpoint) as root:
        if command:
            return subprocess.run(command, cwd=ROOT).returncode
        print(f"the stand-in answers at {root}; stop it with Ctrl-C")
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            return 0
