"""Does form hide skill? A model whose right answers are inside code fences scores 0.

The strict metrics decide (metrics.py). Where form hides what a model knows, they measure the prompt
and not the model, and a comparison by them says nothing:

    60 of 60 answers are inside a code fence. Found there: hosted LLM 58 right, SLM 40.
    By the metrics: 0 and 0, so the SLM would be "as good".
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from swaplib.data.facts import list_parts
from swaplib.evaluation.answers import find_answer, has_right_answer
from swaplib.metrics import Track, parse_gold
from swaplib.rows import LedgerLine, Row

# Right answers that only form has cost: this share of the rows, and at least five, since five all
# one way have p = 1/32 in a one-sided sign test.
HIDDEN_SHARE, HIDDEN_ROWS = 0.2, 5
# Outputs that call one and the same name that no gold has, such as a placeholder of the prompt.
WORD_SHARE = 0.2


@dataclass(frozen=True)
class Form:
    """What a model's outputs look like beside what they say.

    `strict` rows are right as they are asked for, `found` ones hold the right answer somewhere;
    `n_fenced` outputs begin with a code fence. `word` is the most frequent name that no gold has,
    called by `n_word` outputs. `hides`: the strict rates say little about this model's skill.
    """

    n_rows: int
    strict: int
    found: int
    n_fenced: int
    word: str | None
    n_word: int
    hides: bool


def see_form(track: Track, rows: Sequence[Row], ledger: Sequence[LedgerLine]) -> Form:
    """See whether form hides a model's skill in its run over these rows."""
    n = len(ledger)
    found = sum(find_bits(track, rows, ledger))
    strict = sum(all(line.scores.values()) for line in ledger)
    n_fenced = sum(line.generation.output.lstrip().startswith("```") for line in ledger)
    word, n_word = _find_word(track, rows, ledger)
    has_hidden = found - strict >= max(HIDDEN_ROWS, HIDDEN_SHARE * n)
    has_word = n_word >= max(HIDDEN_ROWS, WORD_SHARE * n)
    return Form(n, strict, found, n_fenced, word, n_word, has_hidden or has_word)


def _find_word(
    track: Track, rows: Sequence[Row], ledger: Sequence[LedgerLine]
) -> tuple[str | None, int]:
    """The name that most outputs call and no gold does, and how many outputs call it.

    An output that calls another of the golds' tools lacks skill, so such names do not count.
    """
    known = {name for row in rows for name, _ in list_parts(parse_gold(track, row.completion))}
    called: Counter[str] = Counter()
    for line in ledger:
        answer = find_answer(track, line.generation.output)
        names = {name for name, _ in list_parts(answer)} if answer is not None else set()
        called.update(name for name in names if name is not None and name not in known)
    # Ties go to the alphabet, so that a report comes out the same again.
    return min(called.items(), key=lambda item: (-item[1], item[0]), default=(None, 0))


def find_bits(track: Track, rows: Sequence[Row], ledger: Sequence[LedgerLine]) -> list[bool]:
    """For each ledger line, whether the right answer is anywhere in its output."""
    return [
        has_right_answer(track, rows[line.index].completion, line.generation.output)
        for line in ledger
    ]
