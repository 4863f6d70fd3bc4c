"""From calls in the notebooks to the definitions of what they call, by following imports alone.

`scripts/house.py --walk 10 --seed 1` prints such a walk as a Markdown table. What a reader can
follow without a search is followed: an import to its module's file, there to a top-level `def` or
`class`, and of a variable to a method of the class that the function which made it returns.
"""

import ast
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Place:
    """A definition: its node and the dotted name of the module that it is in."""

    module: str
    node: Definition


@dataclass(frozen=True)
class Call:
    """A call in a notebook: the cell's line that it is in, the name called, the definition."""

    notebook: str
    line: str
    name: str
    place: Place


class Walker:
    """Follows imports between the modules of a package, given by their dotted names."""

    def __init__(self, modules: Mapping[str, Path]):
        self.modules = modules
        self.trees = {name: ast.parse(path.read_text()) for name, path in modules.items()}

    def read_imports(self, tree: ast.Module) -> dict[str, str]:
        """Names that a source's own lines import from the package, with what each stands for."""
        nodes = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
        package = {name.partition(".")[0] for name in self.modules}
        return {
            alias.asname or alias.name: f"{node.module}.{alias.name}"
            for node in nodes
            if str(node.module).partition(".")[0] in package
            for alias in node.names
        }

    def find(self, target: str) -> Place:
        """The top-level definition that a dotted name stands for.

        Raises:
            LookupError: Its module has none of that name, or there is no such module.
        """
        module, _, name = target.rpartition(".")
        for node in self.trees[module].body if module in self.trees else []:
            if isinstance(node, Definition) and node.name == name:
                return Place(module, node)
        raise LookupError(f"{target}: expected a module with a top-level def or class of this name")

    def find_method(self, made_by: Place, name: str) -> Place:
        """A method of the class that a function returns, or of the class itself.

        Raises:
            LookupError: No class of the package is returned, or it has no such method.
        """
        place = self.find_returned(made_by)
        for node in place.node.body:
            if isinstance(node, Definition) and node.name == name:
                return Place(place.module, node)
        raise LookupError(f"{place.module}.{place.node.name} has no method {name} of its own")

    def find_returned(self, made_by: Place) -> Place:
        """The class of what a call returns: the class called, or the function's annotation."""
        if isinstance(made_by.node, ast.ClassDef):
            return made_by
        match made_by.node.returns:
            case ast.Name(id=name):
                imported = self.read_imports(self.trees[made_by.module])
                return self.find(imported.get(name, f"{made_by.module}.{name}"))
            case ast.Attribute(value=ast.Name(id=module), attr=name):
                imported = self.read_imports(self.trees[made_by.module])
                return self.find(f"{imported.get(module)}.{name}")
        raise LookupError(f"{made_by.module}.{made_by.node.name} is annotated with no class")

    def walk(self, notebook: str, source: str) -> Iterator[Call]:
        """Every call in a notebook's code of what it imports from the package, and of its methods.

        Raises:
            LookupError: A definition is not where the imports lead; notebook and line are named.
        """
        tree, lines = ast.parse(source), source.splitlines()
        imports, made = self.read_imports(tree), dict[str, Place]()
        for statement in tree.body:
            for node in ast.walk(statement):
                if not isinstance(node, ast.Call):
                    continue
                line = lines[node.lineno - 1].strip()
                try:
                    place = self._find_called(node.func, imports, made)
                except LookupError as error:
                    raise LookupError(f"{notebook}: {line}: {error}") from error
                if place:
                    yield Call(notebook, line, ast.unparse(node.func), place)
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=func)):
                    made.pop(name, None)
                    if place := self._find_called(func, imports, made):
                        made[name] = place

    def _find_called(
        self, func: ast.expr, imports: Mapping[str, str], made: Mapping[str, Place]
    ) -> Place | None:
        match func:
            case ast.Name(id=name) if name in imports:
                return self.find(imports[name])
            case ast.Attribute(value=ast.Name(id=module), attr=name) if module in imports:
                return self.find(f"{imports[module]}.{name}")
            case ast.Attribute(value=ast.Name(id=variable), attr=name) if variable in made:
                return self.find_method(made[variable], name)
        return None


def read_notebook(path: Path) -> str:
    """The code of a notebook."""
    cells = json.loads(path.read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def walk_notebooks(folder: Path, modules: Mapping[str, Path]) -> list[Call]:
    """The calls of all notebooks of a folder, in order."""
    walker = Walker(modules)
    return [
        call
        for path in sorted(folder.glob("*.ipynb"))
        for call in walker.walk(path.stem, read_notebook(path))
    ]


def format_walk(root: Path, modules: Mapping[str, Path], n: int, seed: int) -> str:
    """The calls in n code lines, drawn with a seed, as a Markdown table."""
    calls = walk_notebooks(root / "notebooks", modules)
    lines = list(dict.fromkeys((call.notebook, call.line) for call in calls))
    drawn = sorted(random.Random(seed).sample(lines, n))  # noqa: S311 - a sample, no secret
    head = (
        f"{n} of the {len(lines)} code lines of the notebooks that call the package, seed {seed}."
    )
    rows = [head, "", "| notebook | line | called | defined in |", "| --- | --- | --- | --- |"]
    for call in calls:
        if (call.notebook, call.line) in drawn:
            path = modules[call.place.module].relative_to(root)
            place = f"{path}:{call.place.node.lineno}"
            rows.append(f"| {call.notebook} | `{call.line}` | `{call.name}` | {place} |")
    return "\n".join(rows)
