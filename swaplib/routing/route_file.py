"""A route as `swap serve --route` reads it: what 09 has written for one track and one SLM."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swaplib.files import read_json
from swaplib.formats.router import Agreement, PolicyRecord
from swaplib.metrics import Track, check_track
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
    accepted rows on which that and the hosted LLM gave the same answer.
    """

    path: Path
    track: Track
    model: str
    policy: Policy
    identity: dict[str, Any]
    agreement: Agreement

    @property
    def is_native(self) -> bool:
        """Whether it was chosen on requests with tools or a response format, not in words."""
        return ModelName.parse(self.model).is_native

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
    try:
        policy: PolicyRecord | None = content["policy"]
        if policy is None:
            raise ValueError(
                f"{show_path(path)} says that no request can stay local, so there is nothing to "
                "serve: ask the hosted LLM, or choose a greater target in 09_router"
            )
        return Route(
            path,
            check_track(content["track"]),
            str(ModelName.parse(content["model"])),
            read_policy(policy),
            dict(content["identity"]),
            content["agreement"]["val"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{show_path(path)} is no route ({error!r}). {_AGAIN}") from None


def read_policy(record: PolicyRecord) -> Policy:
    """A policy of its record; raises ValueError, KeyError or TypeError for what is none."""
    signal, threshold = record["signal"], record["threshold"]
    if signal not in (None, *SIGNALS) or (signal is None) != (threshold is None):
        raise ValueError(f"expected a signal with its threshold, found {record}")
    return Policy(bool(record["has_validators"]), signal, threshold)
