"""The tables of docs/prompts.md, from the records of benchmarks/prompts.py."""

from benchmarks.prompt_candidates import AGENT_CANDIDATES, CANDIDATES
from benchmarks.records import Record, format_table
from swaplib.agents.agent_prompt import AGENT_PROMPT
from swaplib.files import write_text
from swaplib.metrics import TRACKS, Track, core_metrics
from swaplib.prompts import ROW_PROMPTS
from swaplib.settings import ROOT

PAGE = ROOT / "docs" / "prompts.md"
BEGIN = "<!-- tables: python -m benchmarks.prompts page -->\n"
END = "<!-- end of tables -->\n"
AGENT_HEADS = ["instruction", "model", "tasks", "answered", "kept", "of one call"]
AGENT_HEADS += ["of several calls", "most dropped"]


def choose(records: list[Record], track: Track) -> dict[str, float]:
    """Candidates of a track, the best first, with the mean of its core metrics over all columns."""
    found = [record for record in records if record["part"] == "rows" and record["track"] == track]
    means = {}
    for candidate in CANDIDATES:
        of_candidate = [record for record in found if record["candidate"] == candidate]
        if rates := [record[m] for record in of_candidate for m in core_metrics(track)]:
            means[candidate] = sum(rates) / len(rates)
    return dict(sorted(means.items(), key=lambda item: -item[1]))


def write_page(records: list[Record]) -> None:
    """Put the tables between the marks of docs/prompts.md."""
    head, mark, rest = PAGE.read_text().partition(BEGIN)
    _, end, tail = rest.partition(END)
    tables = [_format_rows(records, track) for track in TRACKS] + [_format_agent(records)]
    write_text(PAGE, head + mark + "\n" + "\n".join(tables) + "\n" + end + tail)


def _format_rows(records: list[Record], track: Track) -> str:
    found = [record for record in records if record["part"] == "rows" and record["track"] == track]
    columns = list(dict.fromkeys((r["model"], r["precision"], r["shots"]) for r in found))
    names = [f"{m}, {p}{f', {n} examples' if n else ''}" for m, p, n in columns]
    heads = ["instruction", *names, "mean"]
    lines = []
    for candidate, mean in choose(records, track).items():
        of_candidate = [r for r in found if r["candidate"] == candidate]
        cells = {(r["model"], r["precision"], r["shots"]): r for r in of_candidate}
        shown = [_format_rates(cells[column], track) for column in columns]
        is_chosen = CANDIDATES[candidate][track] == ROW_PROMPTS[track]
        lines.append([f"**{candidate}**" if is_chosen else candidate, *shown, f"{mean:.3f}"])
    metrics = " / ".join(core_metrics(track))
    title = f"### {track}: {metrics} on {found[0]['n_rows']} val rows\n\n"
    return title + _format_table(heads, lines, found[0])


def _format_rates(record: Record, track: Track) -> str:
    return " / ".join(f"{record[metric]:.2f}" for metric in core_metrics(track))


def _format_agent(records: list[Record]) -> str:
    found = [record for record in records if record["part"] == "agent"]
    lines = []
    for r in found:
        is_chosen = AGENT_CANDIDATES[r["candidate"]] == AGENT_PROMPT
        reasons = "; ".join(f"{n} {reason}" for reason, n in list(r["dropped"].items())[:2])
        share = f"{r['kept']} ({r['kept'] / r['n_tasks']:.0%})"
        name = f"**{r['candidate']}**" if is_chosen else r["candidate"]
        cells = [name, f"{r['model']}, {r['precision']}", r["n_tasks"], r["answered"], share]
        cells += [r["kept_of_one_call"], r["kept_of_several_calls"], reasons]
        lines.append([*map(str, cells)])
    return "### The agent, at all tasks\n\n" + _format_table(AGENT_HEADS, lines, found[0])


def _format_table(heads: list[str], lines: list[list[str]], record: Record) -> str:
    rows = format_table(heads, lines)
    return "\n".join([*rows, "", f"On {record['machine']}, commit {record['git_commit']}.", ""])
