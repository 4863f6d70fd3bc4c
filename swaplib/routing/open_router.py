"""Puts a router together from a route's file and the environment, and checks both at the start."""

import os
import sys
from pathlib import Path

from swaplib.evaluation.costs import Prices
from swaplib.models.hosted import HostedLLM
from swaplib.models.local import LocalSLM
from swaplib.routing.audit import Audit
from swaplib.routing.daily_budget import DailyBudget
from swaplib.routing.hosted_calls import HostedCalls
from swaplib.routing.recording import Recorder
from swaplib.routing.route_file import Route, read_route
from swaplib.routing.router import ModelRouter, RouteOptions
from swaplib.runs import new_folder
from swaplib.settings import Settings
from swaplib.tracing.request_traces import RequestTraces


def open_router(
    settings: Settings, file: Path, slm: LocalSLM, name: str, options: RouteOptions
) -> ModelRouter:
    """The router of a route for the SLM that is served; nothing is loaded yet.

    A hosted LLM that cannot be reached now is a warning, since the SLM can answer meanwhile; so is
    a route that 09 advises against.

    Args:
        settings: AZURE_* name the hosted LLM.
        file: The route, as notebook 09 writes it.
        slm: The served model.
        name: Its name in answers.
        options: How the route is served.

    Raises:
        FileNotFoundError, ValueError: The route is missing or broken, or about another SLM; a
            variable is missing; the file of the budget or of the audit is broken.
    """
    route = _read_own_route(file, slm)
    hosted = HostedLLM.from_settings(settings)
    try:
        hosted.check()
    except ConnectionError as problem:
        print(f"warning: {problem}", file=sys.stderr)
    budget = None
    if options.daily_calls is not None:
        budget = DailyBudget.beside(route.path, options.daily_calls)
        budget.check()
    calls = HostedCalls(hosted, budget)
    audit = None
    if options.audit_share > 0:
        audit = Audit(route, calls, options.audit_share, options.deadline_s)
        audit.check()
    # Servers of one route may start in the same second, each with a folder of its own.
    folder = new_folder(settings, "route", route.track, f"p{os.getpid()}")
    traces = RequestTraces(settings, folder)
    recorder = Recorder(traces, route.track, name, hosted, Prices.from_settings(settings))
    return ModelRouter(route, options, calls, audit, recorder)


def _read_own_route(file: Path, slm: LocalSLM) -> Route:
    """The route; raises ValueError where it was chosen for another SLM than the served one."""
    route = read_route(file)
    if problem := route.explain_misfit(slm.identity()):
        raise ValueError(
            f"{problem}. Serve the checkpoint, adapter and --dtype that it was chosen for, or run "
            "notebooks/09_router.ipynb for this one."
        )
    if doubt := route.explain_doubt():
        print(f"warning: {doubt}", file=sys.stderr)
    return route
