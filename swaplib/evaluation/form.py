"""Does form hide skill? A model whose right answers stand inside a code fence scores 0, and so may the other one.

The strict metrics decide (metrics.py). Where form hides what a model knows, they measure the prompt and not the model, and a
comparison by them says nothing:

    60 of 60 answers are inside a code fence; found there: hosted LLM 58 right, SLM 40; by the metrics 0 and 0: "as good"
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from swaplib.data.facts import list_parts
from swaplib.evaluation.answers import find_answer, has_right_answer
from swaplib.metrics import Track, parse_gold
from swaplib.rows import LedgerLine, Row

# right answers that only form has cost: this share of the rows, and at least five (one-sided sign test: p = 1/32)
HIDDEN_SHARE, HIDDEN_ROWS = 0.2, 5
# rows whose output calls one and the same name that no gold has
WORD_SHARE = 0.2


@dataclass(frozen=True)
class Form:
    """What a model's outputs look like beside what they say.

    `strict` rows are right as they are asked for, `found` ones hold the right answer somewhere; `n_fenced` outputs begin
    with a code fence. `word`: the most frequent name that no gold has, called by `n_word` outputs. `hides`: the strict rates
    say little about this model's skill.
    """

    n_rows: int
    strict: int
    found: int
    n_fenced: int
    word: str | None
    n_word: int
    hides: bool


def see_form(track: Track, rows: Sequence[Row], ledger: Sequence[LedgerLine]) -> Form:
    """See whether form hides a model's skill.

    Args:
        track: `structured` or `toolcall`.
        rows: The rows of the split.
        ledger: The run's ledger, in row order.
    """
    n, found = len(ledger), sum(find_bits(track, rows, ledger))
    strict = sum(all(line.scores.values()) for line in ledger)
    n_fenced = sum(line.generation.output.lstrip().startswith("```") for line in ledger)
    word, n_word = _find_word(track, rows, ledger)
    hides = found - strict >= max(HIDDEN_ROWS, HIDDEN_SHARE * n) or n_word >= max(
        HIDDEN_ROWS, WORD_SHARE * n
    )
    return Form(n, strict, found, n_fenced, word, n_word, hides)


def _find_word(
    track: Track, rows: Sequence[Row], ledger: Sequence[LedgerLine]
) -> tuple[str | None, int]:
    """The name that most outputs call and no gold does, such as a placeholder of the prompt; and by how many.

    To call another of the tools that golds call is a want of skill.
    """
    known = {name for row in rows for name, _ in list_parts(parse_gold(track, row.completion))}
    called: Counter[str] = Counter()
    for line in ledger:
        answer = find_answer(track, line.generation.output)
        names = {name for name, _ in list_parts(answer)} if answer is not None else set()
        called.update(name for name in names if name is not None and name not in known)
    # of names called equally often the first by the alphabet, so that a report comes out the same again
    return min(called.items(), key=lambda found: (-found[1], found[0]), default=(None, 0))


def find_bits(track: Track, rows: Sequence[Row], ledger: Sequence[LedgerLine]) -> list[bool]:
    """For each ledger line, whether the right answer stands anywhere in its output."""
    return [
        has_right_answer(track, rows[line.index].completion, line.generation.output) for line in ledger
    ]
