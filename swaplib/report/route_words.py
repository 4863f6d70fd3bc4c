"""What a route is worth, in sentences. Every number comes from 09's file."""

from swaplib.evaluation.stats import BETTER, NOT_ENOUGH, NOT_WORSE
from swaplib.formats.router import Agreement, Bill, Point, PolicyRecord, RouterFile
from swaplib.report.notes import say_gold
from swaplib.report.words import say_gap, say_rows

OBSTACLES = {
    "form": (
        "the rates of at least one model measure the form of its answers (02_eval and "
        "docs/form.md), so what looks local may only be better written"
    ),
    "useless": (
        "neither model can do this task: each has no row right, or surely under one in ten, so who "
        "answers makes little difference"
    ),
}


def make_route_head(route: RouterFile) -> str:
    """The headline: how much can stay local, how sure that is, what it saves."""
    if not route["chosen"]:
        return "No route is surely good enough on val: every request goes to the hosted LLM"
    point = route["test"]["points"][route["chosen"]]
    if not point["accepted"]:
        return f"Open: what val has chosen kept none of test's {point['n_rows']} rows local"
    share = f"{point['coverage']:.0%} of requests"
    saving = say_saving(point["bill"], route["test"]["ends"]["always hosted"]["bill"])
    if route["obstacle"]:
        return f"Not comparable: {share} would stay local, {saving}"
    if route["verdict"] == BETTER:
        return f"{share} can stay local: better than always the hosted LLM (95% interval), {saving}"
    if route["verdict"] == NOT_WORSE:
        within = f"not worse than the hosted LLM by more than {route['target']:g}"
        return f"{share} can stay local: {within} (95% interval), {saving}"
    if route["verdict"] == NOT_ENOUGH:
        rows = f"{point['n_rows']} rows are too few to say whether right answers are lost"
        return f"Open: {share} stayed local, {saving}, and {rows}"
    return f"Do not route: with {share} local, answers are worse by more than {route['target']:g}"


def describe_route(route: RouterFile) -> list[tuple[str, str]]:
    """The lines below the headline: labels and texts."""
    lines = [] if not route["obstacle"] else [("Why not", OBSTACLES[route["obstacle"]])]
    if said := say_gold(route):
        lines.append(("The gold", said))
    kind = route["chosen"]
    if kind is None or route["policy"] is None:
        return [*lines, ("On val", _describe_no_choice(route))]
    of_val, of_test = route["val"]["points"][kind], route["test"]["points"][kind]
    hosted, slm = (route["test"]["ends"][end] for end in ("always hosted", "always the SLM"))
    right = route["evidence"]["right"]
    lines += [
        ("Chosen on val", f"{say_policy(route['policy'])}: {_say_point(of_val)}."),
        (
            "On test",
            f"{_say_point(of_test)}; always the hosted LLM {hosted['rate']:.2f}, always the SLM "
            f"{slm['rate']:.2f}. Always the hosted LLM less routed is {say_gap(right)}.",
        ),
        (
            "What passes",
            f"{of_test['accepted_wrong']} of the {of_test['accepted']} accepted answers are wrong; "
            f"the hosted LLM has {of_test['lost']} of these right. {of_test['gained']} accepted "
            "answers are right where it is wrong.",
        ),
        ("Cost", _describe_cost(of_test["bill"], hosted["bill"])),
    ]
    if (recovered := route["gap_recovered"]) is not None:
        lines.append(("Gap recovered", _describe_recovered(recovered, of_test["bill"])))
    if slm["right"] >= of_test["right"]:
        said = f"always the SLM has {slm['right']} rows of test right, routed {of_test['right']}"
        lines.append(("No router", f"{said}: whether it can take over all is for 05_post_eval."))
    if needed := say_rows(right["rows_needed"]):
        lines.append(("To settle it", f"{needed}."))
    if blind := route["without_facts"]:
        said = "requests that bring neither tools nor a schema are checked by form and confidence"
        lines.append(("Without tools", f"{said} alone: {_say_point(blind)}."))
    return [*lines, ("Agreement", _describe_agreement(route["agreement"]))]


def say_policy(policy: PolicyRecord) -> str:
    """A policy in words."""
    parts = ["all validators passed"] if policy["has_validators"] else []
    if policy["signal"]:
        what = {
            "mean_logprob": "mean log-probability",
            "min_logprob": "every token's log-probability",
        }[policy["signal"]]
        parts.append(f"{what} at least {policy['threshold']:.3f}")
    return " and ".join(parts)


def say_saving(bill: Bill, hosted: Bill) -> str:
    """What routing saves against always asking the hosted LLM: dollars, or tokens if unpriced."""
    saved = [
        ("cost", hosted["usd_per_1000"], bill["usd_per_1000"]),
        ("hosted bill", hosted["usd_hosted_per_1000"], bill["usd_hosted_per_1000"]),
        ("hosted tokens", _count_tokens(hosted), _count_tokens(bill)),
    ]
    for name, before, after in saved:
        if before and after is not None:
            return f"{name} {after / before - 1:+.0%}".replace("-", "−")
    return f"{bill['hosted_calls']} of {bill['requests']} hosted calls left"


def _count_tokens(bill: Bill) -> int | None:
    n_prompt, n_answer = bill["prompt_tokens"], bill["completion_tokens"]
    return None if n_prompt is None or n_answer is None else n_prompt + n_answer


def _say_point(point: Point) -> str:
    return (
        f"{point['accepted']} of {point['n_rows']} rows local ({point['coverage']:.0%}), "
        f"{point['rate']:.2f} right"
    )


def _describe_recovered(recovered: float, bill: Bill) -> str:
    """How much of the hosted LLM's lead routing keeps, and how many of its calls that takes."""
    calls = bill["hosted_calls"] / bill["requests"]
    return f"{recovered:.0%} of the hosted LLM's lead over the SLM, for {calls:.0%} of its calls."


def _describe_no_choice(route: RouterFile) -> str:
    ends, n = route["val"]["ends"], route["val"]["n_rows"]
    hosted, slm = (ends[end]["rate"] for end in ("always hosted", "always the SLM"))
    said = (
        f"whatever keeps some of its {n} rows local, validators or a threshold, may be worse by "
        f"more than {route['target']:g} (95% interval; hosted LLM {hosted:.2f} right, SLM "
        f"{slm:.2f}). More rows on val, a greater target or a better SLM may change that."
    )
    if route["val"]["curves"]:
        return said
    return f"{said} The SLM's run has no log-probabilities, so validators alone were tried."


def _describe_cost(bill: Bill, hosted: Bill) -> str:
    saving = say_saving(bill, hosted)
    calls = f"{bill['hosted_calls']} of {bill['requests']} requests ask the hosted LLM; {saving}."
    usd, before = bill["usd_per_1000"], hosted["usd_per_1000"]
    if usd is None or before is None:
        return f"{calls} Dollars need the prices of both models (docs/deployment.md)."
    busy = "With the SLM's machine always busy, 1,000 requests cost"
    said = f"{calls} {busy} USD {usd:,.3f} in place of {before:,.3f}"
    each, each_before = bill["usd_per_right"], hosted["usd_per_right"]
    if each is None or each_before is None:
        return f"{said}."
    rights = f"USD {1000 * each:,.3f} in place of {1000 * each_before:,.3f}"
    return f"{said}, and 1,000 right answers {rights}."


def _describe_agreement(agreement: dict[str, Agreement]) -> str:
    said = []
    for split, found in agreement.items():
        if found["rate"] is not None and found["interval"] is not None:
            low, high = found["interval"]
            said.append(f"{found['rate']:.2f} [{low:.2f}, {high:.2f}] on {split}")
    listed = ", ".join(said) or "not known"
    return (
        f"both models give the same answer to accepted rows: {listed}. An audit of a served route "
        "compares with val's."
    )
