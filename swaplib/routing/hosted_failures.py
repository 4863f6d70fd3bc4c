"""Why the hosted LLM gives no answer, and how a client is told: status, words, code, headers.

400 for what the client's own request brought about (a content filter, too many tokens), 429 for a
spent budget, 504 at the deadline, 502 for all else. What an endpoint means is in endpoints.py.
"""

import math
from collections.abc import Sequence

from swaplib import web
from swaplib.models.completions import Completion
from swaplib.models.endpoints import Refusal, find_meaning, make_printable, quote
from swaplib.routing.daily_budget import BudgetBroken, BudgetSpent
from swaplib.serving.routed import Failure

# What the client's own request brought about, by meaning: OpenAI's code for it.
_CLIENTS = {
    "filtered": "content_filter",
    "too long": "context_length_exceeded",
    "cut off": "max_tokens_too_low",
    "limit too high": "max_tokens_too_high",
}
_FINAL = {"x-should-retry": "false"}  # the official client would ask again otherwise


class HostedFailed(Exception):  # noqa: N818 - reads as what happened
    """The hosted LLM gives no answer; `failure` is what a client is told."""

    def __init__(self, failure: Failure):
        super().__init__(failure.message)
        self.failure = failure


def explain_refusal(
    refusal: Refusal, api_key: str, asked: Sequence[str], n_tries: int
) -> HostedFailed:
    """A refusal in the endpoint's own words, as far as they name neither the key nor a prompt."""
    means = (meaning := find_meaning(refusal)) and meaning.means
    said = quote(refusal, [api_key], asked)
    code = make_printable(refusal.code or refusal.type, 64) or "no code"
    code = "no code" if api_key in code else code
    words = f"{refusal.status} ({code}){f': {said}' if said else ''}"
    if means in _CLIENTS:
        message = f"the hosted LLM refused the request: {words}"
        return HostedFailed(Failure(400, message, _CLIENTS[means]))
    passes = means is None and (refusal.status in (408, 409, 429) or refusal.status >= 500)
    tries = f" after {n_tries} tries" if passes and n_tries > 1 else ""
    message = f"the hosted LLM refused the call: {words}{tries}"
    return HostedFailed(Failure(502, message, "hosted_failed", {} if passes else _FINAL))


def explain_connection(error: Exception, n_tries: int) -> HostedFailed:
    """A call that got no response."""
    tries = f" after {n_tries} tries" if n_tries > 1 else ""
    message = f"the hosted LLM cannot be reached: {web.explain(error)}{tries}"
    return HostedFailed(Failure(502, message, "hosted_failed"))


def explain_pause(seconds: float) -> HostedFailed:
    """No call was made, since the endpoint has asked for a pause beyond the request's deadline."""
    wait = math.ceil(seconds)
    message = f"the hosted LLM takes no calls for {wait} s, as it or its limit a minute says"
    return HostedFailed(Failure(502, message, "hosted_failed", {"retry-after": str(wait)}))


def explain_unreadable(completion: Completion | None) -> HostedFailed:
    """A response with status 200 that is no answer."""
    found = "no chat completion" if completion is None else "an answer that ended in an error"
    message = f"the hosted LLM sent {found}"
    return HostedFailed(Failure(502, message, "hosted_failed"))


def explain_deadline(last: BaseException | None) -> HostedFailed:
    """No answer before the request's deadline; `last` is what the last whole try failed with."""
    status = getattr(last, "status_code", None)
    why = "" if last is None else f" (the last try: {status or web.explain(last)})"
    message = f"the hosted LLM had not answered when the request's time was up{why}"
    return HostedFailed(Failure(504, message, "hosted_timeout"))


def refuse_by_budget(problem: BudgetSpent | BudgetBroken) -> HostedFailed:
    """No call was made, since it could not be booked."""
    if isinstance(problem, BudgetSpent):
        headers = _FINAL | {"retry-after": str(problem.seconds)}
        return HostedFailed(Failure(429, str(problem), "hosted_budget_spent", headers))
    return HostedFailed(Failure(500, str(problem), "hosted_budget_broken", _FINAL))
