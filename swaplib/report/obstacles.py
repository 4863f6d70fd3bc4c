"""Sentences about form: why two models cannot be compared yet, and what hides in their outputs."""

from collections.abc import Mapping

from swaplib.formats.caveats import Caveats, FormRecord
from swaplib.metrics import Track
from swaplib.report.words import capitalise, say_gap, say_verdict, say_who


def describe_obstacle(track: Track, caveats: Caveats, obstacle: str) -> list[tuple[str, str]]:
    """Why two models cannot be compared, what can be said anyway, and the next step."""
    forms = {model: caveats["form"][model] for model in caveats["models"]}
    if obstacle == "useless":
        rows = [
            f"{say_who(m)} gets {form['strict']} of {form['n_rows']} rows right"
            for m, form in forms.items()
        ]
        why = (
            f"{capitalise('; '.join(rows))}: two models that cannot do a task are not as good as "
            "each other."
        )
        next_step = "Read the failures in 02, then mend the prompt or show examples"
    else:
        found = ", ".join(f"{say_who(m)} {form['found']}" for m, form in forms.items())
        strict = ", ".join(f"{say_who(m)} {form['strict']}" for m, form in forms.items())
        n = next(iter(forms.values()))["n_rows"]
        why = (
            f"{say_forms(forms)} Right wherever it stands, of {n} rows: {found}; "
            f"right as asked: {strict}."
        )
        next_step = "The metrics measure the form here. Mend the prompt or show examples"
    lines = [("Why", why)]
    if obstacle == "form":
        pair = caveats["found"]
        verdict = say_verdict(pair, caveats["margin"])
        gap = f"Counting right answers wherever they stand, the gap is {say_gap(pair)}: {verdict}."
        lines.append(("How sure?", gap))
    next_step += (
        f" (swap run notebooks/02_eval.ipynb -p track {track} -p models azure-shots4,slm-shots4)"
    )
    if not forms[caveats["models"][0]]["hides"]:
        next_step += ", or let 04_finetune teach the SLM its form"
    return [*lines, ("Next", f"{next_step}.")]


def say_forms(forms: Mapping[str, FormRecord]) -> str:
    """What hides in the outputs, said once where it is the same for both models."""
    said = {model: _say_form(form) for model, form in forms.items() if form["hides"]}
    if len(said) > 1 and len(set(said.values())) == 1:
        return next(iter(said.values())).format("both models")
    return " ".join(text.format(say_who(model)) for model, text in said.items())


def _say_form(form: FormRecord) -> str:
    """One model's form, as a sentence with a `{}` in place of the model."""
    n = form["n_rows"]
    hidden = form["found"] - form["strict"]
    if form["n_fenced"] * 2 > n:
        return f"{form['n_fenced']} of {n} answers of {{}} are inside a code fence."
    if form["word"] and hidden < form["n_word"]:
        word = form["word"].replace("{", "{{").replace("}", "}}")
        return (
            f"{form['n_word']} of {n} answers of {{}} call `{word}` where another tool was right."
        )
    return f"{hidden} right answers of {{}} do not stand alone, in the form asked for."
