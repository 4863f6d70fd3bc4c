"""What runs would cost: dollars where prices are set, none where they are not.

Everything comes from what runs took (usage.py) and from prices in the environment. The hosted LLM
is paid by the token, the local SLM by the hour, whether it is asked or not:

    hosted  $ a row   = prompt tokens x input price + answer tokens x output price
    local   $ a row   = $ an hour / rows an hour, when it is busy all the time
    break-even        = 24 x $ an hour / hosted $ a row, in rows a day

One machine may not answer as many rows as break even. Rows that a model never read are left out.
Of a log a row weighs as much as its request was asked, so dollars are those of its requests.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from swaplib.formats.decision import Costs, ModelCosts, Pay, PricesRecord
from swaplib.formats.metrics_file import Extra, Taken
from swaplib.models.names import ModelName
from swaplib.settings import Settings

MILLION, DAY_S = 1_000_000, 86_400


@dataclass(frozen=True)
class Prices:
    """US dollars; None where no price is set.

    For a million tokens in and out of the hosted LLM, and for an hour of the SLM's machine.
    """

    usd_per_million_input: float | None
    usd_per_million_output: float | None
    usd_per_hour: float | None

    @classmethod
    def from_settings(cls, settings: Settings) -> "Prices":
        """The prices of the environment.

        Raises:
            ValueError: Only one of the two token prices is set.
        """
        tokens = (settings.azure_usd_per_million_input, settings.azure_usd_per_million_output)
        if None in tokens and tokens != (None, None):
            raise ValueError(
                "set AZURE_USD_PER_MILLION_INPUT and AZURE_USD_PER_MILLION_OUTPUT, or neither: "
                "one is missing"
            )
        return cls(*tokens, settings.slm_usd_per_hour)

    def price_tokens(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """US dollars for tokens of the hosted LLM; None without prices."""
        if self.usd_per_million_input is None or self.usd_per_million_output is None:
            return None
        usd_input = prompt_tokens * self.usd_per_million_input
        usd_output = completion_tokens * self.usd_per_million_output
        return (usd_input + usd_output) / MILLION

    def split_price(
        self, prompt_tokens: int | None, completion_tokens: int | None
    ) -> dict[str, float] | None:
        """The same for `input` and `output` apart; None also where the tokens are not known."""
        if prompt_tokens is None or completion_tokens is None:
            return None
        usd_input = self.price_tokens(prompt_tokens, 0)
        usd_output = self.price_tokens(0, completion_tokens)
        if usd_input is None or usd_output is None:
            return None
        return {"input": usd_input, "output": usd_output}

    def to_record(self) -> PricesRecord:
        """The prices as a decision has them."""
        return {
            "usd_per_million_input": self.usd_per_million_input,
            "usd_per_million_output": self.usd_per_million_output,
            "usd_per_hour": self.usd_per_hour,
        }


def price_runs(
    metrics: Mapping[str, Taken], prices: Prices, requests: Mapping[str, Taken] | None = None
) -> Costs:
    """What several models' runs would cost.

    Args:
        metrics: Metrics files by model; the hosted LLM is paid by the token, a local model by the
            hour. Of several hosted ones a machine has to beat the first.
        prices: What is known of them.
        requests: The same of a log's requests, as Compared.weigh_requests makes it: then these are
            priced, and only what the runs took is that of `metrics`.
    """
    models = {model: _price_run(model, content, prices) for model, content in metrics.items()}
    priced = {m: _price_run(m, content, prices) for m, content in (requests or metrics).items()}
    hosted = _find_hosted(models)
    pays = {}
    for model, local in priced.items():
        models[model]["usd_per_1000_rows"] = local["usd_per_1000_rows"]
        models[model]["usd_per_right_row"] = local["usd_per_right_row"]
        if ModelName.parse(model).is_hosted:
            continue
        if pay := _find_pay(priced[hosted] if hosted else None, local, prices.usd_per_hour):
            pays[model] = pay
    costs: Costs = {"prices": prices.to_record(), "models": models, "pays": pays}
    if requests:
        costs["requests"] = max(taken["n_rows"] for taken in requests.values())
    return costs


def _find_hosted(models: Iterable[str]) -> str | None:
    """The first of several models that is hosted; None where all are local."""
    return next((model for model in models if ModelName.parse(model).is_hosted), None)


def _price_run(model: str, content: Taken, prices: Prices) -> ModelCosts:
    extra = content["extra"]
    n_read = extra.get("rows_read", content["n_rows"])  # older files have no `rows_read`
    usd = _price_row(model, extra, n_read, prices)
    right = extra.get("right")
    return {
        "rows": content["n_rows"],
        "rows_read": extra.get("rows_read"),
        "prompt_tokens": extra.get("prompt_tokens"),
        "completion_tokens": extra.get("completion_tokens"),
        "p50_latency_ms": extra.get("p50_latency_ms"),
        "p95_latency_ms": extra.get("p95_latency_ms"),
        "busy_seconds": extra.get("busy_seconds"),
        "rows_per_second": extra.get("rows_per_second"),
        "right": right,
        "usd_per_1000_rows": None if usd is None else 1000 * usd,
        "usd_per_right_row": usd * n_read / right if usd is not None and right else None,
    }


def _price_row(model: str, extra: Extra, n_read: int, prices: Prices) -> float | None:
    """US dollars for one row that was read, on average."""
    if not ModelName.parse(model).is_hosted:
        rate, hour = extra.get("rows_per_second"), prices.usd_per_hour
        return hour / 3600 / rate if rate and hour is not None else None
    n_prompt, n_completion = extra.get("prompt_tokens"), extra.get("completion_tokens")
    if n_prompt is None or n_completion is None or not n_read:
        return None
    usd = prices.price_tokens(n_prompt, n_completion)
    return None if usd is None else usd / n_read


def _find_pay(
    hosted: ModelCosts | None, local: ModelCosts, usd_per_hour: float | None
) -> Pay | None:
    """From which volume on a machine that is paid all day costs less than paying for each row.

    None when a price or a speed is missing.
    """
    usd_per_1000_rows = hosted and hosted["usd_per_1000_rows"]
    speed = local["rows_per_second"]
    if not hosted or not usd_per_1000_rows or usd_per_hour is None or not speed:
        return None
    usd_per_day, capacity = 24 * usd_per_hour, DAY_S * speed
    volume = usd_per_day / (usd_per_1000_rows / 1000)
    by_right = None
    if local["right"] and hosted["right"] is not None:
        by_right = volume * (hosted["right"] / hosted["rows"]) / (local["right"] / local["rows"])
    return {
        "usd_per_day": usd_per_day,
        "capacity_rows_per_day": capacity,
        "from_rows_per_day": _cap(volume, capacity),
        "from_rows_per_day_by_right": _cap(by_right, capacity),
    }


def _cap(volume: float | None, capacity: float) -> float | None:
    """A volume that one machine can answer; None for a larger one."""
    return volume if volume is not None and volume <= capacity else None


def name_unit(costs: Costs) -> str:
    """What dollars and volumes are of: `rows`, or the `requests` of a log."""
    return "requests" if "requests" in costs else "rows"


def count_unread(costs: Costs) -> dict[str, int]:
    """How many rows were never read, by model; only models with such rows.

    Older files do not say.
    """
    counts = {
        model: priced["rows"] - n_read
        for model, priced in costs["models"].items()
        if (n_read := priced.get("rows_read")) is not None
    }
    return {model: n for model, n in counts.items() if n}


def trace_volumes(costs: Costs) -> dict[str, Any] | None:
    """Dollars a day against rows a day, for a figure; None without prices.

    Returns:
        `unit` (name_unit), `rows_per_day` (200 volumes), `usd_per_day` by model (local ones take as
        many machines as the volume needs), and `pays` as it was given.
    """
    import numpy as np

    pays = costs["pays"]
    model = _find_hosted(costs["models"])
    hosted = costs["models"][model]["usd_per_1000_rows"] if pays and model else None
    if hosted is None or model is None:
        return None
    # A free machine pays from 0 rows on, which a logarithmic axis does not have.
    reach = [pay["from_rows_per_day"] or pay["capacity_rows_per_day"] for pay in pays.values()]
    most = max(pay["capacity_rows_per_day"] for pay in pays.values())
    volumes = np.geomspace(min(reach) / 30, most * 4, 200)
    curves = {model: (volumes * hosted / 1000).tolist()}
    for model, pay in pays.items():
        machines = np.ceil(volumes / pay["capacity_rows_per_day"])
        curves[model] = (machines * pay["usd_per_day"]).tolist()
    return {
        "unit": name_unit(costs),
        "rows_per_day": volumes.tolist(),
        "usd_per_day": curves,
        "pays": pays,
    }
