"""Everything read from the environment, and every path: no other module reads os.environ.

Values come from the environment first, then from `.env` at the repository's root. SWAP_ENV_FILE
names another file: the demo and the tests use it, so that your own `.env` has no say there.
Relative paths start at the repository's root, never at the working folder, so that notebooks,
papermill and pytest agree.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parent.parent
ENV_FILE = ROOT / os.environ.get("SWAP_ENV_FILE", ".env")

PURPOSES = {
    "AZURE_ENDPOINT": "the hosted LLM's address, https://…/openai/deployments/<deployment> or …/v1",
    "AZURE_API_KEY": "the key of the hosted LLM",
    "AZURE_API_VERSION": "the API version of an Azure deployment, for example 2024-10-21",
    "AZURE_DEPLOYMENT": "the model's name at a plain …/v1 endpoint",
    "AZURE_REASONING": "on for a deployment that takes no temperature, and is asked without one",
    "AZURE_REQUESTS_PER_MINUTE": "the deployment's limit of requests a minute; calls keep to it",
    "AZURE_TOKENS_PER_MINUTE": "the deployment's limit of tokens a minute; calls keep to it",
    "SLM_MODEL_PATH": "the folder of the local checkpoint",
    "SLM_BASE_URL": "the address of an SLM served elsewhere, …/v1; without it, it runs right here",
    "SLM_API_KEY": "the key of that server, and of `swap serve`",
    "AZURE_USD_PER_MILLION_INPUT": "the hosted LLM's price in US dollars, prompt tokens",
    "AZURE_USD_PER_MILLION_OUTPUT": "the hosted LLM's price in US dollars, answer tokens",
    "SLM_USD_PER_HOUR": "what the machine that runs the SLM costs an hour, in US dollars",
    "LANGFUSE_PUBLIC_KEY": "the public key of the Langfuse project that receives the traces",
    "LANGFUSE_SECRET_KEY": "the secret key of the Langfuse project that receives the traces",
    "LANGFUSE_BASE_URL": "the address of the Langfuse server that receives the traces",
    "LANGFUSE_HOST": "the older name of LANGFUSE_BASE_URL; one of the two is enough",
}


class Settings(BaseSettings):
    """The environment, as load_settings() reads it; fields are variables in lower case."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE,
        env_file_encoding="utf-8-sig",
        extra="ignore",
        env_ignore_empty=True,
        hide_input_in_errors=True,
    )

    azure_endpoint: str | None = None
    azure_api_key: str | None = Field(default=None, repr=False)
    azure_api_version: str | None = None
    azure_deployment: str | None = None
    azure_reasoning: bool = False
    azure_requests_per_minute: int | None = Field(default=None, ge=1)
    azure_tokens_per_minute: int | None = Field(default=None, ge=1)
    slm_model_path: Path = Path("slm_swap/models/qwen2.5-7b-instruct")
    slm_base_url: str | None = None
    slm_api_key: str | None = Field(default=None, repr=False)
    azure_usd_per_million_input: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    azure_usd_per_million_output: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    slm_usd_per_hour: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    langfuse_public_key: str | None = Field(default=None, repr=False)
    langfuse_secret_key: str | None = Field(default=None, repr=False)
    langfuse_base_url: str | None = None
    langfuse_host: str | None = None
    swap_home: Path = Path("slm_swap")
    swap_row_limit: int | None = None
    swap_tracing: Literal["langfuse", "outbox"] = "langfuse"
    swap_trace_content: Literal["on", "off"] = "on"

    @field_validator("*", mode="before")
    @classmethod
    def _trim(cls, value: Any, info: ValidationInfo) -> Any:
        """Drop white space around a value, such as the line break of a copied key.

        A key or an address with a character that neither can have is refused.
        """
        if not isinstance(value, str):
            return value
        value = value.strip()
        is_sent = (info.field_name or "").endswith(("_key", "_endpoint", "_base_url", "_host"))
        if is_sent and not re.fullmatch(r"[!-~]*", value):
            raise ValueError(
                "it holds a space, a line break or another character that none has; copy it again"
            )
        return value

    @field_validator("slm_model_path", "swap_home")
    @classmethod
    def _from_root(cls, path: Path) -> Path:
        return ROOT / path.expanduser()

    @field_validator("swap_row_limit")
    @classmethod
    def _at_least_one(cls, limit: int | None) -> int | None:
        if limit is not None and limit < 1:
            raise ValueError("SWAP_ROW_LIMIT must be 1 or more; leave it out for whole splits")
        return limit

    @property
    def sample(self) -> Path:
        """The shipped raw xLAM rows, in the repository whatever SWAP_HOME says."""
        return ROOT / "slm_swap" / "02_dataset" / "source" / "xlam_sample.jsonl"

    @property
    def dataset(self) -> Path:
        """The folder of rows: <track>/<split>.jsonl and manifest.json."""
        return self.swap_home / "02_dataset"

    @property
    def evaluation(self) -> Path:
        """The folder of metric files, decisions, reports and runs."""
        return self.swap_home / "05_eval"

    @property
    def runs(self) -> Path:
        """One folder for each run, named by its run id."""
        return self.evaluation / "runs"

    @property
    def reports(self) -> Path:
        """Executed notebooks, their HTML, and figures."""
        return self.evaluation / "reports"

    def adapter_of(self, track: str) -> Path:
        """The folder of a track's adapter, with its run card."""
        return self.swap_home / "04_ft" / f"adapter_{track}"

    @property
    def models(self) -> Path:
        """Where `swap download` puts checkpoints: beside SLM_MODEL_PATH, not in SWAP_HOME."""
        return self.slm_model_path.parent

    def cap_rows(self, limit: int | None) -> int | None:
        """A limit of rows, tasks or chats, capped by SWAP_ROW_LIMIT; None for all of them."""
        limits = [n for n in (limit, self.swap_row_limit) if n is not None]
        return min(limits, default=None)

    def find_langfuse(self) -> str:
        """The Langfuse server's address without a slash at its end; empty when none is set.

        There is no default server.

        Raises:
            ValueError: LANGFUSE_BASE_URL and LANGFUSE_HOST differ; neither is shown, as an address
                may hold a password.
        """
        addresses = {url.rstrip("/") for url in (self.langfuse_base_url, self.langfuse_host) if url}
        if len(addresses) > 1:
            raise ValueError(
                "LANGFUSE_BASE_URL and LANGFUSE_HOST name different servers. Set one of them."
            )
        return next(iter(addresses), "")

    def list_secrets(self) -> tuple[str, ...]:
        """The keys that are set: the values of the fields that are not shown."""
        hidden = [name for name, field in type(self).model_fields.items() if not field.repr]
        return tuple(key for name in hidden if (key := getattr(self, name)))

    def require(self, *names: str) -> None:
        """Check that variables are set.

        Args:
            names: Variable names in upper case, as in PURPOSES.

        Raises:
            ValueError: Some are not; the message names each one, its purpose, and where it was
                looked up.
        """
        missing = [name for name in names if not getattr(self, name.lower())]
        if missing:
            lines = "\n".join(f"  {name}: {PURPOSES[name]}" for name in missing)
            raise ValueError(
                f"Not set, but needed here:\n{lines}\n"
                f"Looked up in the environment, then in {ENV_FILE}. "
                "Copy .env.example to .env and fill it in, or run `make demo` for the embedded "
                "default."
            )


def check_sizes(note: str = "", **sizes: int | None) -> None:
    """Raise ValueError, ending in a note, for named numbers below 1; None is allowed."""
    wrong = [f"{name}={n}" for name, n in sizes.items() if n is not None and n < 1]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: expected 1 or more{note}")


def load_settings() -> Settings:
    """Read the environment and `.env` again.

    Raises:
        ValueError: A variable has a value of the wrong form, or the file is not UTF-8; the message
            names it, never a value.
    """
    _check_encoding()
    try:
        return Settings()
    except ValidationError as error:
        listed = "\n".join(
            f"  {'.'.join(map(str, problem['loc'])).upper()}: {problem['msg']}"
            for problem in error.errors()
        )
        raise ValueError(
            f"The environment (or {ENV_FILE}) holds values that do not fit:\n{listed}"
        ) from None


def _check_encoding() -> None:
    """Raise ValueError where the file of variables is not UTF-8.

    UTF-16 without a byte order mark would otherwise be read as a file without variables.
    """
    raw = ENV_FILE.read_bytes() if ENV_FILE.is_file() else b""
    try:
        is_text = "\0" not in raw.decode("utf-8")
    except UnicodeDecodeError:
        is_text = False
    if not is_text:
        raise ValueError(
            f"{ENV_FILE} is not UTF-8 (PowerShell's > writes UTF-16): save it as UTF-8 and run "
            "this again."
        )


@contextlib.contextmanager
def no_proxies() -> Iterator[None]:
    """Take every proxy out of the environment for a while.

    It is for clients through which nothing leaves, but which read the proxies when they are built:
    they may refuse a scheme that they do not know, or a range of addresses in NO_PROXY.
    """
    proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    for name in proxies:
        del os.environ[name]
    os.environ["no_proxy"] = "*"  # a system's own settings do not count either
    try:
        yield
    finally:
        del os.environ["no_proxy"]
        os.environ.update(proxies)


def show_path(path: Path) -> str:
    """A path for people: relative to the repository where it is inside."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
