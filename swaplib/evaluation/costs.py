"""What a run took, and what it would cost: tokens, latencies, rows a second, and dollars where prices are given.

Everything comes from ledgers and from prices that a person has set; without a price there is no dollar. The hosted LLM is
paid by the token, the local SLM by the hour, whether it is asked or not:

    hosted  $ a row   = prompt tokens x input price + answer tokens x output price
    local   $ a row   = $ an hour / rows an hour, when it is busy all the time
    the local one pays from   24 x $ an hour / hosted $ a row   rows a day on, if one machine answers that many

A row that its model never read (the prompt was too long, or filtered before, or the call failed) is no row here: a model
would look the faster and the cheaper, the less it reads.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from swaplib.models.names import ModelName
from swaplib.rows import Generation, LedgerLine
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
        return (
            prompt_tokens * self.usd_per_million_input
            + completion_tokens * self.usd_per_million_output
        ) / MILLION

    def split_price(
        self, prompt_tokens: int | None, completion_tokens: int | None
    ) -> dict[str, float] | None:
        """The same for `input` and `output` apart; None also where the tokens are not known."""
        parts = (
            self.price_tokens(prompt_tokens or 0, 0),
            self.price_tokens(0, completion_tokens or 0),
        )
        if None in (prompt_tokens, completion_tokens, *parts):
            return None
        return dict(zip(("input", "output"), parts, strict=True))


def measure_ledger(ledger: Sequence[LedgerLine]) -> dict[str, Any]:
    """What a run took, from its ledger.

    Args:
        ledger: One line for each row.

    Returns:
        `rows_read`, and of these rows alone: `prompt_tokens` and `completion_tokens` (sums; None when a row does not tell),
        `p50_latency_ms` and `p95_latency_ms`, `busy_seconds` (at least one call or batch was under way; loading and pauses
        are not in it) and `rows_per_second` of that time. The last two are None for ledgers of old, which do not say when
        answers came; all but `rows_read` and the tokens are None when no row was read.
    """
    import numpy as np

    read = [line for line in ledger if _was_read(line.generation)]
    latencies = [line.generation.latency_ms for line in read]
    p50, p95 = (
        (round(float(ms), 1) for ms in np.percentile(latencies, (50, 95))) if read else (None, None)
    )
    busy = find_busy_seconds(read)
    return {
        "rows_read": len(read),
        **{name: _sum_tokens(read, name) for name in ("prompt_tokens", "completion_tokens")},
        "p50_latency_ms": p50,
        "p95_latency_ms": p95,
        "busy_seconds": busy and round(busy, 3),
        "rows_per_second": len(read) / busy if busy else None,
    }


def _was_read(answer: Generation) -> bool:
    """Whether the model read the prompt: it fitted, no filter answered before the model, and the call did not fail."""
    if answer.status == "error":
        return False
    if answer.finish_reason == "content_filter":  # one that stopped the answer comes with a usage
        return bool(answer.output) or answer.prompt_tokens is not None
    return answer.finish_reason != "context_length_exceeded" or bool(answer.output)


def _sum_tokens(lines: Sequence[LedgerLine], name: str) -> int | None:
    counts = [getattr(line.generation, name) for line in lines]
    return None if None in counts else sum(counts)


def find_busy_seconds(ledger: Sequence[LedgerLine]) -> float | None:
    """The time in which at least one call was under way, in seconds: the union of the calls' intervals; None if unknown."""
    if not ledger or any(line.ended_at is None for line in ledger):
        return None
    busy, reached = 0.0, float("-inf")
    for start, end in sorted(
        (line.ended_at - line.generation.latency_ms / 1000, line.ended_at) for line in ledger
    ):
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
        `usd_per_1000_rows` (that were read) and `usd_per_right_row` (None without a price, or with no right row); and
        `pays`, for each local model against `azure`: `usd_per_day`, `capacity_rows_per_day` of one machine, and
        `from_rows_per_day`, the volume from which it is the cheaper one (None when one machine cannot answer so many);
        `from_rows_per_day_by_right`, the same for the price of a right answer (None also where nothing is right). Empty
        without both prices.
    """
    models = {model: _price_run(model, content, prices) for model, content in metrics.items()}
    hosted = models.get("azure", {}).get("usd_per_1000_rows")
    locals_ = {
        m: found
        for m, found in models.items()
        if not ModelName.parse(m).is_hosted and found["rows_per_second"]
    }
    pays = {}
    if hosted and prices.usd_per_hour is not None:
        for model, found in locals_.items():
            pays[model] = _find_pay(models["azure"], prices.usd_per_hour, found)
    return {"prices": asdict(prices), "models": models, "pays": pays}


def _price_run(model: str, content: dict[str, Any], prices: Prices) -> dict[str, Any]:
    found = {name: content["extra"].get(name) for name in (*MEASURED, "right")}
    n_read = (
        content["n_rows"] if found["rows_read"] is None else found["rows_read"]
    )  # None: a metrics file of old
    usd, right = _price_row(model, found, n_read, prices), found["right"]
    return {
        "rows": content["n_rows"],
        **found,
        "usd_per_1000_rows": None if usd is None else 1000 * usd,
        "usd_per_right_row": usd * n_read / right if usd is not None and right else None,
    }


MEASURED = (
    *(
        "rows_read",
        "prompt_tokens",
        "completion_tokens",
        "p50_latency_ms",
        "p95_latency_ms",
        "busy_seconds",
    ),
    "rows_per_second",
)


def _price_row(model: str, found: dict[str, Any], n_read: int, prices: Prices) -> float | None:
    """US dollars for one row that was read, on average."""
    if not ModelName.parse(model).is_hosted:
        rate, hour = found["rows_per_second"], prices.usd_per_hour
        return hour / 3600 / rate if rate and hour is not None else None
    tokens = (found["prompt_tokens"], found["completion_tokens"])
    usd = None if None in tokens or not n_read else prices.price_tokens(*tokens)
    return None if usd is None else usd / n_read


def _find_pay(hosted: dict[str, Any], usd_per_hour: float, found: dict[str, Any]) -> dict[str, Any]:
    """From which volume on a machine that is paid all day is cheaper than paying for each row, and for each right row."""
    usd_per_day, capacity = 24 * usd_per_hour, DAY_S * found["rows_per_second"]
    volume = usd_per_day / (hosted["usd_per_1000_rows"] / 1000)
    by_right = (
        volume * (hosted["right"] / hosted["rows"]) / (found["right"] / found["rows"])
        if found["right"]
        else None
    )
    return {
        "usd_per_day": usd_per_day,
        "capacity_rows_per_day": capacity,
        "from_rows_per_day": volume if volume <= capacity else None,
        "from_rows_per_day_by_right": by_right
        if by_right is not None and by_right <= capacity
        else None,
    }


def describe_costs(costs: dict[str, Any], model: str | None) -> str:
    """What it would cost, as one sentence for a manager; without prices it says where to set them.

    It says USD: between two dollar signs, JupyterLab would typeset mathematics.

    Args:
        costs: As price_runs makes it.
        model: The local model whose machine may pay.
    """
    parts = []
    for model, found in costs["models"].items():
        if found["usd_per_1000_rows"] is not None:
            parts.append(f"{model} USD {found['usd_per_1000_rows']:,.3f}")
    if not parts:
        return "No price is set (AZURE_USD_PER_MILLION_INPUT and _OUTPUT, SLM_USD_PER_HOUR), so costs are tokens and time."
    pay = costs["pays"].get(model)
    when = ""
    if pay and pay["from_rows_per_day"] is not None:
        when = f" A machine of its own pays from {pay['from_rows_per_day']:,.0f} rows a day on"
        by_right = pay["from_rows_per_day_by_right"]
        when += (
            f", counting only right answers from {by_right:,.0f}." if by_right is not None else "."
        )
    elif pay:
        most = f"{pay['capacity_rows_per_day']:,.0f} rows a day at most"
        when = f" A machine of its own never pays: it answers {most}, which cost less at the hosted LLM."
    listed = ", ".join(
        f"{n} of {costs['models'][model]['rows']} of {model}"
        for model, n in count_unread(costs).items()
    )
    note = f" Rows that were never read are left out: {listed}." if listed else ""
    return f"For 1,000 rows, with the machine always busy: {', '.join(parts)}.{when}{note}"


def count_unread(costs: dict[str, Any]) -> dict[str, int]:
    """How many rows were never read, by model; only models with such rows. Files of old do not tell."""
    known = {
        model: found
        for model, found in costs["models"].items()
        if found.get("rows_read") is not None
    }
    counts = {model: found["rows"] - found["rows_read"] for model, found in known.items()}
    return {model: n for model, n in counts.items() if n}


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
    volumes = np.geomspace(
        min(reach) / 30, max(found["capacity_rows_per_day"] for found in pays.values()) * 4, 200
    )
    usd = {"azure": volumes * priced["models"]["azure"]["usd_per_1000_rows"] / 1000}
    for model, found in pays.items():
        usd[model] = np.ceil(volumes / found["capacity_rows_per_day"]) * found["usd_per_day"]
    curves = {model: curve.tolist() for model, curve in usd.items()}
    return {"rows_per_day": volumes.tolist(), "usd_per_day": curves, "pays": pays}
