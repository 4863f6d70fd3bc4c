"""What a run took, and what it would cost: tokens, latencies, rows a second, and dollars where prices are given.

Everything comes from ledgers and from prices that a person has set; without a price there is no dollar. The hosted LLM is
paid by the token, the local SLM by the hour, whether it is asked or not:

    hosted  $ a row   = prompt tokens x input price + answer tokens x output price
    local   $ a row   = $ an hour / rows an hour, when it is busy all the time
    the local one pays from   24 x $ an hour / hosted $ a row   rows a day on, if one machine answers that many
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from swaplib.model_names import ModelName
from swaplib.rows import LedgerLine
from swaplib.settings import Settings

MILLION, DAY_S = 1_000_000, 86_400


@dataclass(frozen=True)
class Prices:
    """US dollars: for a million tokens in and out of the hosted LLM, for an hour of the SLM's machine; None if not given."""

    usd_per_million_input: float | None
    usd_per_million_output: float | None
    usd_per_hour: float | None

    @classmethod
    def from_settings(cls, settings: Settings) -> "Prices":
        """The prices of the environment; raises ValueError when only one of the two token prices is set."""
        tokens = (settings.azure_usd_per_million_input, settings.azure_usd_per_million_output)
        if None in tokens and tokens != (None, None):
            raise ValueError(
                "set AZURE_USD_PER_MILLION_INPUT and AZURE_USD_PER_MILLION_OUTPUT, or neither: one is missing"
            )
        return cls(*tokens, settings.slm_usd_per_hour)

    def price_tokens(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """US dollars for tokens of the hosted LLM; None without prices."""
        if self.usd_per_million_input is None or self.usd_per_million_output is None:
            return None
        return (prompt_tokens * self.usd_per_million_input + completion_tokens * self.usd_per_million_output) / MILLION


def measure_ledger(ledger: Sequence[LedgerLine]) -> dict[str, Any]:
    """What a run took, from its ledger.

    Args:
        ledger: One line for each row, at least one.

    Returns:
        `prompt_tokens` and `completion_tokens` (sums; None when a row that was read does not tell), `p50_latency_ms` and
        `p95_latency_ms`, `busy_seconds` (at least one call or batch was under way; loading and pauses are not in it) and
        `rows_per_second` of that time; these two are None for ledgers of old, which do not say when answers came.
    """
    import numpy as np

    answers = [line.generation for line in ledger]
    tokens = {name: _sum_tokens(answers, name) for name in ("prompt_tokens", "completion_tokens")}
    p50, p95 = np.percentile([answer.latency_ms for answer in answers], (50, 95))
    busy = find_busy_seconds(ledger)
    return {
        **tokens,
        "p50_latency_ms": round(float(p50), 1),
        "p95_latency_ms": round(float(p95), 1),
        "busy_seconds": busy and round(busy, 3),
        "rows_per_second": len(ledger) / busy if busy else None,
    }


def _sum_tokens(answers: Sequence[Any], name: str) -> int | None:
    # a prompt that was refused before it was read has no usage, and costs nothing
    read = [a for a in answers if a.finish_reason not in ("content_filter", "context_length_exceeded") or a.output]
    if any(getattr(answer, name) is None for answer in read if answer.status != "error"):
        return None
    return sum(getattr(answer, name) or 0 for answer in answers)


def find_busy_seconds(ledger: Sequence[LedgerLine]) -> float | None:
    """The time in which at least one call was under way, in seconds: the union of the calls' intervals."""
    if any(line.ended_at is None for line in ledger):
        return None
    busy, reached = 0.0, float("-inf")
    for start, end in sorted((line.ended_at - line.generation.latency_ms / 1000, line.ended_at) for line in ledger):
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return busy


def price_runs(metrics: dict[str, dict[str, Any]], prices: Prices) -> dict[str, Any]:
    """What several models' runs would cost.

    Args:
        metrics: Metrics files by model; `azure` is paid by the token, every other one by the hour.
        prices: What is known of them.

    Returns:
        `prices`; `models`, for each: `rows`, `right` (rows right on every core metric), what measure_ledger found,
        `usd_per_1000_rows` and `usd_per_right_row` (None without a price, or with no right row); and `pays`, for each local
        model against `azure`: `usd_per_day`, `capacity_rows_per_day` of one machine, and `from_rows_per_day`, the volume
        from which it is the cheaper one (None when one machine cannot answer so many). Empty without both prices.
    """
    models = {model: _price_run(model, content, prices) for model, content in metrics.items()}
    hosted = models.get("azure", {}).get("usd_per_1000_rows")
    locals_ = {m: found for m, found in models.items() if not ModelName.parse(m).is_hosted and found["rows_per_second"]}
    is_priced = hosted and prices.usd_per_hour is not None
    pays = (
        {m: _find_pay(hosted / 1000, prices.usd_per_hour, found) for m, found in locals_.items()} if is_priced else {}
    )
    return {"prices": asdict(prices), "models": models, "pays": pays}


def _price_run(model: str, content: dict[str, Any], prices: Prices) -> dict[str, Any]:
    found = {name: content["extra"].get(name) for name in (*MEASURED, "right")}
    usd = _price_row(model, found, content["n_rows"], prices)
    right = found["right"]
    return {
        "rows": content["n_rows"],
        **found,
        "usd_per_1000_rows": None if usd is None else 1000 * usd,
        "usd_per_right_row": usd * content["n_rows"] / right if usd is not None and right else None,
    }


MEASURED = ("prompt_tokens", "completion_tokens", "p50_latency_ms", "p95_latency_ms", "busy_seconds", "rows_per_second")


def _price_row(model: str, found: dict[str, Any], n_rows: int, prices: Prices) -> float | None:
    """US dollars for one row, on average."""
    if not ModelName.parse(model).is_hosted:
        rate, hour = found["rows_per_second"], prices.usd_per_hour
        return hour / 3600 / rate if rate and hour is not None else None
    tokens = (found["prompt_tokens"], found["completion_tokens"])
    usd = None if None in tokens else prices.price_tokens(*tokens)
    return None if usd is None else usd / n_rows


def _find_pay(usd_per_row: float, usd_per_hour: float, found: dict[str, Any]) -> dict[str, Any]:
    """From which volume on a machine that is paid all day is cheaper than paying for each row."""
    usd_per_day, capacity = 24 * usd_per_hour, DAY_S * found["rows_per_second"]
    volume = usd_per_day / usd_per_row
    from_rows = volume if volume <= capacity else None
    return {"usd_per_day": usd_per_day, "capacity_rows_per_day": capacity, "from_rows_per_day": from_rows}


def trace_volumes(priced: dict[str, Any]) -> dict[str, Any] | None:
    """Dollars a day against rows a day, for a figure; None without prices.

    Args:
        priced: As price_runs makes it.

    Returns:
        `rows_per_day` (200 volumes), `usd_per_day` by model (local ones take as many machines as the volume needs), and
        `pays` as it was given.
    """
    import numpy as np

    if not (pays := priced["pays"]):
        return None
    reach = [
        found["from_rows_per_day"] or found["capacity_rows_per_day"] for found in pays.values()
    ]  # 0: a free machine
    volumes = np.geomspace(min(reach) / 30, max(found["capacity_rows_per_day"] for found in pays.values()) * 4, 200)
    usd = {"azure": volumes * priced["models"]["azure"]["usd_per_1000_rows"] / 1000}
    for model, found in pays.items():
        usd[model] = np.ceil(volumes / found["capacity_rows_per_day"]) * found["usd_per_day"]
    curves = {model: curve.tolist() for model, curve in usd.items()}
    return {"rows_per_day": volumes.tolist(), "usd_per_day": curves, "pays": pays}
