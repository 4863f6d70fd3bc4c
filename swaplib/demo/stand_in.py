"""The demo's hosted LLM: the packaged checkpoint with a small adapter, served on loopback.

It takes the place of the hosted model in the demo and in the tests, at AZURE_ENDPOINT's address.
The adapter was trained on the train rows of both tracks (`slm_swap/stand_in/run_card.json`), so it
knows the task, as a hosted LLM would. A real deployment differs in its environment only.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import urlsplit

from swaplib.demo.packaged import PACKAGED_NAME
from swaplib.models.local import LocalSLM
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.serving.server_process import running_server
from swaplib.settings import ROOT

HOME = ROOT / "slm_swap"
STAND_IN = LocalSLM(Checkpoint(HOME / "models" / PACKAGED_NAME, HOME / "stand_in", "float32"))


def running_stand_in(endpoint: str) -> AbstractContextManager[str]:
    """Serve the stand-in in a process of its own for as long as the context lasts.

    Args:
        endpoint: An address on loopback with a port, such as demo.env's AZURE_ENDPOINT.

    Raises:
        ValueError: The endpoint is not on loopback, or has no port.
    """
    parts = urlsplit(endpoint)
    try:
        port = parts.port
    except ValueError:  # its text would show a part of the endpoint, which may hold a key
        port = None
    if parts.hostname not in ("127.0.0.1", "localhost") or port is None:
        raise ValueError(
            "the stand-in serves on loopback at a port of its own: "
            "use the AZURE_ENDPOINT of demo.env."
        )
    return running_server(STAND_IN, "stand-in", port)


def run_with_stand_in(endpoint: str, command: Sequence[str | Path]) -> int:
    """Run a command while the stand-in is up; returns its exit status.

    With an empty command, serve until interrupted.
    """
    # As an exception, so that the server is stopped, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with running_stand_in(endpoint) as root:
        if command:
            return subprocess.run(command, cwd=ROOT).returncode
        print(f"the stand-in answers at {root}; stop it with Ctrl-C")
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            return 0
