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
        return "Routing does not help here: every request goes to the hosted LLM"
    point = route["test"]["points"][route["chosen"]]
    if not point["accepted"]:
        return f"Open: what val has chosen kept none of test's {point['n_rows']} rows local"
    share = f"{point['coverage']:.0%} of requests"
    saving = say_saving(point["bill"], route["test"]["ends"]["always hosted"]["bill"])
    if route["obstacle"]:
        return f"Not comparable: {share} would stay local, {saving}"
    if route["verdict"] == BETTER:
        return f"{share} can stay local: better than always the hosted LLM (95%), {saving}"
    if route["verdict"] == NOT_WORSE:
        within = f"not worse than the hosted LLM by more than {route['target']:g} (95%)"
        return f"{share} can stay local: {within}, {saving}"
    if route["verdict"] == NOT_ENOUGH:
        return f"Open: {share} stayed local, and {point['n_rows']} rows cannot say what that costs"
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
            f"{slm['rate']:.2f}. The gap to the hosted LLM is {say_gap(right)}.",
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
        lines.append(("Gap recovered", f"{recovered:.0%} of what lies between the two models."))
    if needed := say_rows(right["rows_needed"]):
        lines.append(("To settle it", f"{needed}."))
    if blind := route["without_facts"]:
        said = f"where requests bring no tools and no schema: {_say_point(blind)}."
        lines.append(("Without facts", said))
    return [*lines, ("Agreement", _describe_agreement(route["agreement"]))]


def say_policy(policy: PolicyRecord) -> str:
    """A policy in words."""
    parts = ["all validators"] if policy["has_validators"] else []
    if policy["signal"]:
        what = {"mean_logprob": "mean", "min_logprob": "least"}[policy["signal"]]
        parts.append(f"a {what} log-probability of at least {policy['threshold']:.3f}")
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


def _describe_no_choice(route: RouterFile) -> str:
    ends, n = route["val"]["ends"], route["val"]["n_rows"]
    hosted, slm = (ends[end]["rate"] for end in ("always hosted", "always the SLM"))
    said = (
        f"no threshold and no validator keeps any of its {n} rows local and is surely not worse by "
        f"more than {route['target']:g} (hosted LLM {hosted:.2f} right, SLM {slm:.2f}). More rows "
        "on val, a greater target or a better SLM may change that."
    )
    if route["val"]["curves"]:
        return said
    return f"{said} The SLM's run has no log-probabilities, so validators alone were tried."


def _describe_cost(bill: Bill, hosted: Bill) -> str:
    saving = say_saving(bill, hosted)
    calls = f"{bill['hosted_calls']} of {bill['requests']} requests ask the hosted LLM; {saving}."
    usd, before = bill["usd_per_1000"], hosted["usd_per_1000"]
    if usd is None or before is None:
        return f"{calls} No price is set for both sides, so no dollars."
    said = f"{calls} For 1,000 requests USD {usd:,.3f} in place of {before:,.3f}"
    each, each_before = bill["usd_per_right"], hosted["usd_per_right"]
    if each is None or each_before is None:
        return f"{said}."
    return f"{said}, for a right answer USD {each:.5f} in place of {each_before:.5f}."


def _describe_agreement(agreement: dict[str, Agreement]) -> str:
    said = []
    for split, found in agreement.items():
        if found["rate"] is not None and found["interval"] is not None:
            low, high = found["interval"]
            said.append(f"{found['rate']:.2f} [{low:.2f}, {high:.2f}] on {split}")
    listed = ", ".join(said) or "not known"
    return f"on accepted rows, both models' answers are the same: {listed}."
