"""`swap doctor`: is this machine ready? One line a check, which says what to do if it failed."""

import stat
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires, version

from swaplib import provenance
from swaplib.agents.sandbox.session import describe_walls, find_walls
from swaplib.evaluation.question import check_served
from swaplib.masking import make_visible
from swaplib.models.hosted import HostedLLM
from swaplib.models.local import LocalSLM
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.settings import ENV_FILE, PURPOSES, Settings, show_path
from swaplib.tracing.langfuse_api import check_server
from swaplib.tracing.outbox import check_tracing
from swaplib.training.suitability import check_tags, describe_checkpoint


def run_checks(settings: Settings) -> int:
    """Print every check's line.

    Returns:
        0 when all are ok, else 1.
    """
    checks: dict[str, Callable[[Settings], str]] = {
        ".env": check_env_file,
        "variables": check_variables,
        "packages": check_packages,
        "machine": check_machine,
        "hosted LLM": check_hosted,
        "checkpoint": check_checkpoint_loads,
        "langfuse": check_langfuse,
        "rows": check_rows,
        "agent's code": check_walls,
    }
    failed = 0
    for name, check in checks.items():
        try:
            print(make_visible(f"ok    {name}: {check(settings)}"))
        except Exception as error:  # every failure is a line, so that one run shows all of them
            failed += 1
            print(make_visible(f"FAIL  {name}: {error}"))
    return 1 if failed else 0


def check_env_file(settings: Settings) -> str:
    """Where variables come from; an `.env` that others can read fails."""
    if not ENV_FILE.is_file():
        return f"{ENV_FILE} is not there; the environment alone counts (copy .env.example to start)"
    if ENV_FILE.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        raise ValueError(f"others can read {ENV_FILE}, which holds keys. Run: chmod 600 {ENV_FILE}")
    return str(ENV_FILE)


def check_variables(settings: Settings) -> str:
    """Which variables are set; values are never shown."""
    states = {name: bool(getattr(settings, name.lower())) for name in PURPOSES}
    return ", ".join(f"{name} {'set' if is_set else 'not set'}" for name, is_set in states.items())


def check_packages(settings: Settings) -> str:
    """Whether the pinned versions are the installed ones."""
    requirements = [text for text in requires("swaplib") or [] if "extra ==" not in text]
    pins = [text.partition(";")[0].strip().split("==") for text in requirements]
    wrong = []
    for name, pinned in pins:
        try:
            installed = version(name).partition("+")[0]
        except PackageNotFoundError:
            installed = "missing"
        if installed != pinned:
            wrong.append(f"{name} {installed} (wanted {pinned})")
    if wrong:
        raise ValueError(f"{', '.join(wrong)}. Run `make setup` again.")
    return f"{len(pins)} pinned packages as wanted"


def check_machine(settings: Settings) -> str:
    """The device; no GPU is a fact, not a failure."""
    device = provenance.describe_device()
    if device.startswith("CPU"):
        return f"{device}; no GPU, so local models of 7B are too slow here"
    return device


def check_walls(settings: Settings) -> str:
    """What contains the code that a model writes as an agent; fails where nothing does."""
    return describe_walls(find_walls())


def check_hosted(settings: Settings) -> str:
    """One real call of one token."""
    llm = HostedLLM.from_settings(settings)
    latency_ms = _ask_once(llm, 1)
    return f"{llm.deployment} at {llm.identity()['endpoint']} answered in {latency_ms:.0f} ms"


def _ask_once(llm: HostedLLM, max_new_tokens: int) -> float:
    """The latency of one real call in ms; raises ConnectionError when there is no answer."""
    llm.check()
    [(_, answer)] = llm.generate([[{"role": "user", "content": "Say yes."}]], max_new_tokens)
    if answer.status == "error":
        raise ConnectionError(f"{llm.endpoint} does not answer: {answer.error}")
    return answer.latency_ms


def check_checkpoint_loads(settings: Settings) -> str:
    """Whether the SLM answers: loaded here in 4-bit, or served elsewhere; and how it is asked."""
    if settings.slm_base_url:
        served = HostedLLM.from_slm_settings(settings, "slm")
        latency_ms = _ask_once(served, 2)
        check_served(settings, served)
        return (
            f"slm at {served.endpoint} answered in {latency_ms:.0f} ms (SLM_BASE_URL); its "
            "template is the server's"
        )
    slm = LocalSLM(Checkpoint(settings.slm_model_path))
    slm.check()
    [(_, answer)] = slm.generate([[{"role": "user", "content": "Say yes."}]], 2)
    check_tags(slm.model)
    answered = f"loads in 4-bit and answers ({answer.latency_ms:.0f} ms for 2 tokens)"
    parts = [f"{show_path(settings.slm_model_path)} {answered}"]
    return "; ".join([*parts, *describe_checkpoint(slm.checkpoint)])


def check_langfuse(settings: Settings) -> str:
    """Whether the server is reachable, new enough, and takes the keys."""
    if settings.swap_tracing == "outbox":
        return "SWAP_TRACING=outbox: traces stay on this machine"
    check_tracing(settings)
    return check_server(settings)


def check_rows(settings: Settings) -> str:
    """Whether 01_data has run."""
    if not (settings.dataset / "manifest.json").is_file():
        raise FileNotFoundError(
            f"no rows in {show_path(settings.dataset)}. Run notebooks/01_data.ipynb"
        )
    return show_path(settings.dataset)
