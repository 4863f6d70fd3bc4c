"""Counts the rooms of a package, what they import of each other, and the sizes of its parts.

    python scripts/house.py                    this checkout
    python scripts/house.py ../old             another checkout
    python scripts/house.py --walk 10 --seed 1 ten code lines of the notebooks, and where what they
                                               call is defined

A room is a folder of the package; a module beside the folders is a room of its own. A floor is the
longest chain of imports from a room down to one that imports nothing. What is imported inside a
function counts, too: it is only later.
"""

import argparse
import ast
import io
import tokenize
from pathlib import Path

from notebook_walk import format_walk, read_notebook

SPINE = ("01_data", "02_eval", "03_decision", "04_finetune", "05_post_eval")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
LAYOUT = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
SILENT = (tokenize.COMMENT, *LAYOUT)


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
    lines = {n for t in tokens if t.type not in SILENT for n in range(t.start[0], t.end[0] + 1)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node):
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


def print_counts(root: Path, most_lines: int, most_module_lines: int) -> None:
    """Print what is counted, one figure a line."""
    modules = list_modules(root / "swaplib")
    arrows = find_arrows(root / "swaplib")
    spine = find_spine(root)
    of_files = [find_long_functions(path, most_lines) for path in modules.values()]
    long = {name: size for found in of_files for name, size in found.items()}
    lines = {name: len(path.read_text().splitlines()) for name, path in modules.items()}
    large = {name: n for name, n in lines.items() if n > most_module_lines}
    code = {name: count_code(path) for name, path in modules.items()}
    notebooks = sorted((root / "notebooks").glob("*.ipynb"))
    imports = {path.stem: len(find_imports(read_notebook(path), modules)) for path in notebooks}
    of_spine = sum(code[name] for name in spine)
    print(f"rooms (folders and modules beside them): {len(arrows)}")
    print(f"floors: {max(find_floor(room, arrows) for room in arrows)}")
    print(f"arrows between rooms: {sum(map(len, arrows.values()))}")
    print(f"modules: {len(modules)}, lines {sum(lines.values()):,}, of code {sum(code.values()):,}")
    print(f"spine of 01 to 05: {len(spine)} modules, lines of code {of_spine:,}")
    print(f"functions over {most_lines} lines: {len(long)} {long or ''}")
    print(f"modules over {most_module_lines} lines: {len(large)} {large or ''}")
    print(f"imports in a notebook: {imports}")


def main() -> None:
    """Print the counts, or a walk."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = parser.add_argument
    option("root", type=Path, nargs="?", default=Path(__file__).resolve().parent.parent)
    option("--functions", type=int, default=40, help="lines that a function may have")
    option("--modules", type=int, default=250, help="lines that a module may have")
    option("--walk", type=int, metavar="N", help="print a walk of N code lines of the notebooks")
    option("--seed", type=int, default=1, help="of the walk")
    options = parser.parse_args()
    if options.walk is None:
        print_counts(options.root, options.functions, options.modules)
    else:
        modules = list_modules(options.root / "swaplib")
        print(format_walk(options.root, modules, options.walk, options.seed))


if __name__ == "__main__":
    main()
