"""A route as `swap serve --route` reads it: what 09 has written for one track and one SLM."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from swaplib.evaluation.intervals import wilson_interval
from swaplib.evaluation.stats import WORSE
from swaplib.files import hash_text, read_json
from swaplib.formats.router import Agreement, PolicyRecord
from swaplib.metrics import Track, canonical_json, check_track
from swaplib.models.names import ModelName
from swaplib.routing.policy import SIGNALS, Policy
from swaplib.settings import Settings, show_path

_AGAIN = "Run notebooks/09_router.ipynb again."
# What makes two checkpoints the same weights in the same arithmetic.
SAME = ("checkpoint_sha256", "adapter_sha256", "quantisation")


@dataclass(frozen=True)
class Route:
    """A chosen route.

    `identity` is that of the SLM that it was chosen for, and `agreement` the share of val's
    accepted rows on which that and the hosted LLM gave the same answer. `verdict` and `obstacle`
    are what 09 says of test.
    """

    path: Path
    track: Track
    model: str
    policy: Policy
    identity: dict[str, Any]
    agreement: Agreement
    verdict: str | None = None
    obstacle: str | None = None

    @property
    def is_native(self) -> bool:
        """Whether it was chosen on requests with tools or a response format, not in words."""
        return ModelName.parse(self.model).is_native

    @property
    def key(self) -> str:
        """A hash of what decides: a route that is chosen again and is the same has the same."""
        decides = [self.track, self.model, self.policy.to_record(), self.identity]
        return hash_text(canonical_json(decides))

    def explain_form(self, is_native: bool) -> str | None:
        """Why nothing is known of a request that is asked in this form; None where it is.

        A threshold holds for the form that it was chosen on.
        """
        if is_native == self.is_native:
            return None
        forms = {False: "in words", True: "with tools or a response format"}
        other = ModelName.parse(self.model)
        return (
            f"it is asked {forms[is_native]}, and the route was chosen on requests "
            f"{forms[self.is_native]} ({other}): choose one for "
            f"{replace(other, is_native=is_native, shots=0)} with 09_router"
        )

    def explain_doubt(self) -> str | None:
        """Why 09 advises against the route; None where it does not."""
        says = f"{show_path(self.path)}: 09_router says that"
        if self.obstacle:
            return f"{says} its two models cannot be compared ({self.obstacle})"
        if self.verdict == WORSE:
            return f"{says} its answers are surely worse than the hosted LLM's: do not route so"
        return None

    def explain_misfit(self, identity: Mapping[str, Any]) -> str | None:
        """Why the route is not about a model with this identity; None where it is."""
        differing = [key for key in SAME if self.identity.get(key) != identity.get(key)]
        if not differing:
            return None
        listed = "; ".join(
            f"{key}: chosen for {self.identity.get(key)}, served {identity.get(key)}"
            for key in differing
        )
        return f"{show_path(self.path)} is about another SLM than the one served ({listed})"


def path_of(settings: Settings, track: Track) -> Path:
    """Where 09 writes a track's route."""
    return settings.evaluation / f"{track}_router.json"


def read_route(path: Path) -> Route:
    """Read a route.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is none, or says that nothing can stay local.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no route at {show_path(path)}. Run notebooks/09_router.ipynb.")
    content: Any = read_json(path, _AGAIN)
    if content.get("policy", {}) is None:
        raise ValueError(
            f"{show_path(path)} says that no request can stay local, so there is nothing to "
            "serve: ask the hosted LLM, or choose a greater target in 09_router"
        )
    try:
        return Route(
            path,
            check_track(content["track"]),
            str(ModelName.parse(content["model"])),
            read_policy(content["policy"]),
            dict(content["identity"]),
            content["agreement"]["val"],
            content.get("verdict"),
            content.get("obstacle"),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{show_path(path)} is no route ({error!r}). {_AGAIN}") from None


def find_route(settings: Settings, track: Track) -> Route | None:
    """The route of a track that could be served; None where none was chosen."""
    path = path_of(settings, track)
    chosen = path.is_file() and read_json(path, _AGAIN).get("policy")
    return read_route(path) if chosen else None


def audit_of(route: Path) -> Path:
    """The file beside a route in which `swap serve --audit` counts."""
    return route.with_name(f"{route.stem}.audit.json")


def read_audit(settings: Settings, track: Track) -> dict[str, Any] | None:
    """What the audit of a track's route has counted; None where nobody has audited it."""
    path = audit_of(path_of(settings, track))
    return read_json(path, "Move it away: a new count begins.") if path.is_file() else None


def make_agreement(n: int, agreed: int) -> Agreement:
    """Of n answers, so many are the same from both models."""
    rate, interval = (agreed / n, wilson_interval(agreed, n)) if n else (None, None)
    return {"n": n, "agreed": agreed, "rate": rate, "interval": interval}


def read_policy(record: PolicyRecord) -> Policy:
    """A policy of its record; raises ValueError, KeyError or TypeError for what is none."""
    signal, threshold = record["signal"], record["threshold"]
    is_number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
    if signal is None:
        is_whole = threshold is None
    else:
        is_whole = signal in SIGNALS and is_number and math.isfinite(threshold or 0)
    if not is_whole or not isinstance(record["has_validators"], bool):
        raise ValueError(f"expected a signal with a finite threshold, or neither, found {record}")
    return Policy(record["has_validators"], signal, threshold)
