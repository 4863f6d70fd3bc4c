"""Checks an endpoint before a run without a paid call, in the way that the run's calls take.

Same proxy, same key, same TLS. Of a served SLM it also checks that the server lists its name: a
server that ignores the model's name must not answer for another model.

    check_endpoint("http://localhost:8000/v1", headers, "SLM_BASE_URL and SLM_API_KEY", "slm_ft")
"""

from collections.abc import Mapping
from urllib.parse import urlsplit

import httpx2

from swaplib import web
from swaplib.models.completions import list_models


def check_endpoint(
    endpoint: str, headers: Mapping[str, str], variables: str, served: str | None
) -> None:
    """Check that an endpoint can be reached and spoken with.

    Args:
        endpoint: Its address, up to where `/chat/completions` begins.
        headers: What its calls are sent with, the key among them.
        variables: What to check when the endpoint refuses, for the error.
        served: The name of a served SLM; None for the hosted LLM.

    Raises:
        ConnectionError: Nothing listens there, or what does cannot be spoken with; says why.
        ValueError, PermissionError: A served SLM is not listed under its name, or wants another
            key.
    """
    try:
        with web.open_client(endpoint, headers=dict(headers)) as client:
            answer = client.get("/models") if served else client.options("/chat/completions")
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        if isinstance(error, httpx2.ReadTimeout | httpx2.ReadError) and not served:
            return  # something listens; how it takes a call, only the first call can tell
        raise ConnectionError(
            f"cannot reach {_format_address(endpoint)} ({web.explain(error)}). Check {variables} "
            "and the network; for the demo's stand-in, start it with `make stand-in`."
        ) from None
    if answer.status_code == 407:
        raise ConnectionError(
            "the proxy of HTTPS_PROXY, HTTP_PROXY or ALL_PROXY wants a user and a password (407)"
        )
    if served:
        _check_listed(endpoint, answer, variables, served)


def _format_address(endpoint: str) -> str:
    """Host and port of an endpoint, and whether a proxy is in between."""
    parts = urlsplit(endpoint)
    way = " through the environment's proxy" if web.find_proxy(endpoint) else ""
    return f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}{way}"


def _check_listed(endpoint: str, answer: httpx2.Response, variables: str, served: str) -> None:
    """Check that a server lists a name, as it is or with Ollama's tag `:latest`."""
    if answer.status_code != 200:
        raise PermissionError(
            f"{endpoint}/models answered {answer.status_code}. Check {variables}."
        )
    names = list_models(web.parse_body(answer.content))
    if names is None:
        raise ConnectionError(f"{endpoint} is no OpenAI-compatible server. Check SLM_BASE_URL.")
    if not {served, f"{served}:latest"} & set(names):
        raise ValueError(
            f"{endpoint} serves {', '.join(names[:10]) or 'no model'}, not {served}. Serve it "
            "under that name: `swap serve --name`, vLLM's --served-model-name and --lora-modules, "
            "or `ollama cp`."
        )
