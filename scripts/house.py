"""Counts the rooms of a package, what they import of each other, and the sizes of its parts.

    python scripts/house.py                    this checkout
    python scripts/house.py ../old --flat      another one, whose modules lie side by side

A room is a folder of the package; a module beside the folders is a room of its own. A floor is the longest way down by
imports from a room to one that imports nothing. What is imported inside a function counts, too: it is only later.
"""

import argparse
import ast
import io
import json
import tokenize
from pathlib import Path

SPINE = ("01_data", "02_eval", "03_decision", "04_finetune", "05_post_eval")


def list_modules(package: Path) -> dict[str, Path]:
    """Each module of a package by its dotted name; a folder's own file has the folder's name."""
    names = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def find_imports(source: str, modules: dict[str, Path]) -> set[str]:
    """The modules of the package that a source imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            of_names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in of_names if name in modules} or {node.module}
    return found & set(modules)


def name_room(module: str) -> str:
    """`swaplib.agents.tools.text` is in the room `agents`."""
    return [*module.split("."), ""][1]


def find_arrows(package: Path) -> dict[str, set[str]]:
    """For each room those that it imports from."""
    modules = list_modules(package)
    arrows: dict[str, set[str]] = {}
    for name, path in modules.items():
        room = name_room(name)
        targets = {name_room(target) for target in find_imports(path.read_text(), modules)}
        arrows[room] = arrows.get(room, set()) | targets - {room, ""}
    return {room: targets for room, targets in arrows.items() if room}


def find_floor(room: str, arrows: dict[str, set[str]], above: tuple[str, ...] = ()) -> int:
    """How high a room stands, from 1.

    Raises:
        ValueError: The rooms import each other in a circle.
    """
    if room in above:
        raise ValueError(f"a circle: {' -> '.join((*above, room))}")
    return 1 + max(
        (find_floor(target, arrows, (*above, room)) for target in arrows[room]), default=0
    )


def count_code(path: Path) -> int:
    """Lines that are neither empty, nor comments, nor docstrings."""
    source = path.read_text()
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    silent = (
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    )
    lines = {n for t in tokens if t.type not in silent for n in range(t.start[0], t.end[0] + 1)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ) and ast.get_docstring(node):
            lines -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(lines)


def find_long_functions(path: Path, most: int) -> dict[str, int]:
    """Functions of more lines than that, docstring included."""
    nodes = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    sizes = {f"{path.stem}.{node.name}": (node.end_lineno or 0) - node.lineno + 1 for node in nodes}
    return {name: size for name, size in sizes.items() if size > most}


def read_notebook(path: Path) -> str:
    """The code of a notebook."""
    cells = json.loads(path.read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def find_spine(root: Path) -> set[str]:
    """The modules that 01 to 05 need, by way of whatever they import when they are loaded."""
    modules = list_modules(root / "swaplib")
    waiting = set()
    for name in SPINE:
        waiting |= find_imports(read_notebook(root / "notebooks" / f"{name}.ipynb"), modules)
    spine: set[str] = set()
    while waiting:
        spine.add(name := waiting.pop())
        waiting |= find_imports(modules[name].read_text(), modules) - spine
    return spine


def main() -> None:
    """Print the counts, one a line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, nargs="?", default=Path(__file__).parent.parent)
    parser.add_argument(
        "--functions", type=int, default=40, help="lines of a function that are still no fault"
    )
    parser.add_argument(
        "--modules", type=int, default=250, help="lines of a module that are still no fault"
    )
    options = parser.parse_args()
    modules = list_modules(options.root / "swaplib")
    arrows = find_arrows(options.root / "swaplib")
    long = {
        k: v
        for path in modules.values()
        for k, v in find_long_functions(path, options.functions).items()
    }
    lines = {name: len(path.read_text().splitlines()) for name, path in modules.items()}
    large = {name: n for name, n in lines.items() if n > options.modules}
    notebooks = sorted((options.root / "notebooks").glob("*.ipynb"))
    imports = {path.stem: len(find_imports(read_notebook(path), modules)) for path in notebooks}
    print(f"rooms (folders and modules beside them): {len(arrows)}")
    print(f"floors: {max(find_floor(room, arrows) for room in arrows)}")
    print(f"arrows between rooms: {sum(map(len, arrows.values()))}")
    print(
        f"modules: {len(modules)}, lines {sum(lines.values()):,}, of code {sum(map(count_code, modules.values())):,}"
    )
    spine = find_spine(options.root)
    print(
        f"spine of 01 to 05: {len(spine)} modules, lines of code {sum(count_code(modules[name]) for name in spine):,}"
    )
    print(f"functions over {options.functions} lines: {len(long)} {long or ''}")
    print(f"modules over {options.modules} lines: {len(large)} {large or ''}")
    print(f"imports in a notebook: {imports}")


if __name__ == "__main__":
    main()
