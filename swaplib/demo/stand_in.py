"""The demo's hosted LLM: the packaged checkpoint with a small adapter, served on loopback at AZURE_ENDPOINT's address.

It plays the part of the hosted model where there is none: in the demo and in the tests. The adapter was trained on the
train rows of both tracks (`slm_swap/stand_in/run_card.json`), so it knows the task, as a hosted LLM would. Nothing else in
the project knows of it; a real deployment differs by the environment only.
"""

import contextlib
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import urlsplit

from swaplib.demo.packaged import PACKAGED_NAME
from swaplib.models.local import LocalSLM
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.serving.server_process import running_server
from swaplib.settings import ROOT

STAND_IN = LocalSLM(
    Checkpoint(
        ROOT / "slm_swap" / "models" / PACKAGED_NAME, ROOT / "slm_swap" / "stand_in", "float32"
    )
)


def running_stand_in(endpoint: str) -> AbstractContextManager[str]:
    """Serve the stand-in in a process of its own for as long as the context lasts.

    Args:
        endpoint: An address on loopback with a port, such as demo.env's AZURE_ENDPOINT.

    Raises:
        ValueError: The endpoint is not on loopback, or has no port.
    """
    parts, port = urlsplit(endpoint), None
    with contextlib.suppress(ValueError):  # whose words would hold a part of the endpoint
        port = parts.port
    if parts.hostname not in ("127.0.0.1", "localhost") or port is None:
        raise ValueError(
            "the stand-in serves on loopback at a port of its own: use the AZURE_ENDPOINT of demo.env."
        )
    return running_server(STAND_IN, "stand-in", port)


def run_with_stand_in(endpoint: str, command: list[str | Path]) -> int:
    """Run a command while the stand-in is up, or, without one, serve until interrupted; returns the exit status."""
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # so that the server is stopped then, too
    with running_stand_in(endpoint) as root:
        if command:
            return subprocess.run(command, cwd=ROOT).returncode
        print(f"the stand-in answers at {root}; stop it with Ctrl-C")
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            return 0
