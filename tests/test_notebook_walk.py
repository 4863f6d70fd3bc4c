from pathlib import Path

import house
import pytest
from notebook_walk import Walker, format_walk, walk_notebooks

from swaplib.settings import ROOT

MODULES = house.list_modules(ROOT / "swaplib")


def test_every_call_in_the_notebooks_is_defined_where_its_import_leads():
    calls = walk_notebooks(ROOT / "notebooks", MODULES)
    assert {call.notebook for call in calls} == {
        p.stem for p in (ROOT / "notebooks").glob("*.ipynb")
    }
    assert len(calls) > 90
    for call in calls:
        line = MODULES[call.place.module].read_text().splitlines()[call.place.node.lineno - 1]
        assert call.name.rpartition(".")[2] in line


def test_the_same_seed_walks_the_same_lines():
    walks = [format_walk(ROOT, MODULES, 10, seed) for seed in (1, 1, 2)]
    assert walks[0] == walks[1] != walks[2]
    assert len({line.split("|")[2] for line in walks[0].splitlines()[4:]}) <= 10


@pytest.fixture
def modules(tmp_path) -> dict[str, Path]:
    """Two modules, the second with a name and a class that it has from the first."""
    for name, text in {
        "parts": "class Box:\n    def open(self):\n        pass\n\ndef fill():\n    pass\n",
        "boxes": "from package.parts import Box, fill\n\ndef make() -> Box:\n    return Box()\n",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
    return {f"package.{path.stem}": path for path in sorted(tmp_path.glob("*.py"))}


def test_a_method_is_found_by_the_annotation_of_what_made_its_object(modules):
    source = "from package import boxes\nbox = boxes.make()\nbox.open()"
    found = [(c.name, c.place.module) for c in Walker(modules).walk("nb", source)]
    assert found == [("boxes.make", "package.boxes"), ("box.open", "package.parts")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("boxes.fill()", "nb: boxes.fill.*package.boxes.fill: expected a module with a top-level"),
        ("boxes.absent()", "package.boxes.absent"),
        ("box.shut()", "package.parts.Box has no method shut"),
    ],
)
def test_what_the_import_does_not_lead_to_is_an_error(modules, line, message):
    source = f"from package import boxes\nbox = boxes.make()\n{line}"
    with pytest.raises(LookupError, match=message):
        list(Walker(modules).walk("nb", source))
