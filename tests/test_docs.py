import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
import readme_commands

from swaplib.settings import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "agent.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "mastra" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FENCE = re.compile(r"^ *```.*?^ *```$", re.M | re.S)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def read_markdown(path: Path) -> str:
    """The text of a page, or of a notebook's markdown cells."""
    if path.suffix != ".ipynb":
        return path.read_text()
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def find_links(text: str) -> list[str]:
    """The addresses of links and pictures, outside of code."""
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]+`", "code", FENCE.sub("", text)))


def find_anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def find_sentences(text: str) -> Iterator[str]:
    """The words of each sentence of 12 or more, outside of code, tables and headings."""
    text = re.sub(r"^ *(\||#|!\[|<!--).*$", "", FENCE.sub("", text), flags=re.M)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    for block in re.split(r"\n\s*\n|\n\s*(?:[-*]|\d+\.) ", text):
        for sentence in re.split(r"(?<=[.!?:])\s+", block):
            words = re.findall(r"\w+", sentence.lower())
            if len(words) >= 12:
                yield " ".join(words)


def read_tree() -> list[str]:
    """The folders that README's tree names, as paths from the repository's root."""
    section = ROOT.joinpath("README.md").read_text().split("\n## Folders\n")[1]
    block = re.search(r"^```\n(.*?)^```$", section, re.M | re.S)
    assert block
    above: list[str] = []
    paths = []
    for line in block[1].splitlines():
        indent, entry = re.match(r"( *)(\S+) ", line).groups()
        above = [*above[: len(indent) // 2], entry.rstrip("/")]
        paths.append("/".join(above))
    return paths


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=name)
def test_every_relative_link_and_anchor_resolves(page):
    broken = []
    for address in find_links(read_markdown(page)):
        if re.match(r"\w+:", address):
            continue
        target, _, anchor = address.partition("#")
        path = (page.parent / target).resolve() if target else page
        is_there = path.is_relative_to(ROOT) and path.exists()
        if not is_there or (anchor and anchor not in find_anchors(read_markdown(path))):
            broken.append(address)
    assert broken == []


def test_an_anchor_is_made_of_a_heading_as_github_makes_it():
    text = "# Layout and files (under `SWAP_HOME`)\n\n```\n# no heading\n```\n\n## How sure?"
    assert find_anchors(text) == {"layout-and-files-under-swap_home", "how-sure"}


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=name)
def test_a_page_that_is_named_in_words_exists(page):
    text = read_markdown(page)
    named = re.findall(r"(?<![\w/])(?:docs|benchmarks/results)/[\w./]+\.(?:md|json|png)", text)
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_tests_that_pages_name_exist():
    files = sorted((ROOT / "tests").glob("*.py"))
    defined = set(re.findall(r"^def (test_\w+)", "\n".join(f.read_text() for f in files), re.M))
    for page in PAGES:
        named = set(re.findall(r"\btest_\w+(?:\.py)?", page.read_text()))
        assert named <= defined | {file.name for file in files}, page.name


def test_pages_stay_short():
    lines = {name(page): page.read_text().splitlines() for page in PAGES}
    assert len(lines["README.md"]) <= 170
    assert len(lines["agent.md"]) <= 250
    widths = {"README.md": 120, "agent.md": 140}
    for page, width in widths.items():
        prose = [line for line in lines[page] if not re.match(r" *(\||`files )", line)]
        assert [line for line in prose if len(line) > width] == []


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=name)
def test_a_page_of_the_docs_begins_with_the_question_that_it_answers(page):
    assert re.match(r"# .+\?\n\n\w", page.read_text())


def test_no_sentence_stands_in_two_pages():
    homes: dict[str, set[str]] = {}
    for page in PAGES:
        for sentence in find_sentences(page.read_text()):
            homes.setdefault(sentence, set()).add(name(page))
    assert {sentence: pages for sentence, pages in homes.items() if len(pages) > 1} == {}


def test_the_tree_of_the_readme_has_every_folder_and_only_such():
    tree = read_tree()
    assert [path for path in tree if not (ROOT / path).exists()] == []
    folders = {name(file.parent) for file in (ROOT / "swaplib").rglob("*.py")}
    assert folders - set(tree) == set()


def test_every_page_of_the_docs_is_linked_from_the_readme():
    links = find_links((ROOT / "README.md").read_text())
    assert {name(page) for page in (ROOT / "docs").glob("*.md")} - set(links) == set()


def test_every_target_of_make_has_its_line_of_help():
    text = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.+)$", text, re.M)[1].split())
    assert targets <= set(re.findall(r"^([a-z-]+):.*## \S", text, re.M))


PAGE = """
```bash
export WORD=kept   # holds for those that follow
test "$WORD" = kept && \\
  echo "a | b" > made
false
```

<!-- skip: needs a key -->
```bash
rm -r .
```

```
not a command
```
"""


def test_the_commands_of_a_page_are_its_bash_blocks():
    commands = readme_commands.read_commands(PAGE)
    assert [(command.text, command.skipped) for command in commands] == [
        ("export WORD=kept", None),
        ('test "$WORD" = kept && echo "a | b" > made', None),
        ("false", None),
        ("rm -r .", "needs a key"),
    ]


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
def test_commands_run_in_one_shell_and_each_has_its_exit_code_in_the_report(tmp_path):
    commands = readme_commands.read_commands(PAGE)
    results = readme_commands.run_commands([c for c in commands if not c.skipped], tmp_path)
    assert [code for code, _ in results] == [0, 0, 1]
    assert (tmp_path / "made").read_text() == "a | b\n"
    report = readme_commands.format_report(commands, results, "here")
    assert "| `rm -r .` | not run: needs a key | |" in report
    assert re.search(r"^\| `false` \| 1 \| \d+\.\d \|$", report, re.M)


def test_a_shell_that_ends_early_leaves_its_other_commands_failed(tmp_path):
    commands = [readme_commands.Command("exit 3"), readme_commands.Command("true")]
    assert [code for code, _ in readme_commands.run_commands(commands, tmp_path)] == [-1, -1]


def test_no_command_of_the_readme_needs_a_key_without_saying_so():
    commands = readme_commands.read_commands((ROOT / "README.md").read_text())
    ready = [command.text for command in commands if not command.skipped]
    assert {"make demo", "make test"} <= set(ready)
    assert [text for text in ready if re.search(r"doctor|push-traces|\.env$|AZURE_", text)] == []
