import ast
import re
import shutil
import stat
import subprocess
import tomllib
import venv
from pathlib import Path

import house
import pytest
import yaml

from swaplib import doctor
from swaplib.settings import PURPOSES, ROOT, load_settings

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DECLARED = PROJECT["dependencies"] + [
    pin for extra in PROJECT["optional-dependencies"].values() for pin in extra
]


LOCKS = [f"requirements{kind}.lock" for kind in ("", "-cpu", "-cuda", "-gpu")]
PIN = re.compile(r"([\w.-]+)==(\S+)((?: ; [^\\\n]+)?)((?: \\\n +--hash=sha256:[0-9a-f]{64})+)\n")


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(name: str) -> dict[str, set[str]]:
    """The versions of each package, maybe one for each Python; a pin without hashes fails."""
    text = re.sub(r"^#.*\n", "", (ROOT / name).read_text(), flags=re.M)
    pins: dict[str, set[str]] = {}
    for package, version, _, _ in PIN.findall(text):
        pins.setdefault(package, set()).add(version)
    assert PIN.sub("", text) == ""
    return pins


def test_environment_yml_takes_every_package_from_the_locks():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == ["--require-hashes", *(f"-r {name}" for name in LOCKS if "-cpu" not in name)]
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    assert conda == [f"python{PROJECT['requires-python']}", "pip", "git", "make"]


def test_the_locks_agree_with_pyproject_and_each_other():
    lock, cpu, cuda, gpu = map(read_lock, LOCKS)
    declared = [re.fullmatch(r"([\w.-]+)(?:\[.*\])?==(.+)", pin).groups() for pin in DECLARED]
    assert {name: lock.get(normalise(name)) for name, _ in declared} == {
        name: {version} for name, version in declared
    }
    assert cpu == {"torch": {f"{version}+cpu" for version in lock["torch"]}}
    assert not set(lock) & set(cuda) | set(lock) & set(gpu) | set(cuda) & set(gpu)
    # torch's own, and what installs.
    assert {"pip", "setuptools", "sympy", "mpmath", "jinja2", "fsspec"} <= set(lock)


@pytest.mark.parametrize(
    "name", [*LOCKS, "environment.yml", "Makefile", "pyproject.toml", "scripts/lock.py"]
)
def test_no_file_names_a_registry(name):
    text = (ROOT / name).read_text()
    assert not re.search(r"https?://|index-url|find-links|trusted-host", text)


def test_a_package_that_asks_for_another_version_is_told(tmp_path):
    venv.create(tmp_path, with_pip=True)
    site = next(tmp_path.glob("lib/*/site-packages"))
    for name, needed in {"unsloth": ["torchvision", "absent>=2"], "other": ["pip<1"]}.items():
        (site / f"{name}-1.0.dist-info").mkdir()
        lines = [
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0",
            *(f"Requires-Dist: {need}" for need in needed),
        ]
        (site / f"{name}-1.0.dist-info" / "METADATA").write_text("\n".join(lines) + "\n")
    command = [tmp_path / "bin" / "python", ROOT / "scripts" / "lock.py", "check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "unsloth 1.0 requires absent, which is not installed." in done.stderr
    assert "other 1.0 has requirement pip<1" in done.stderr
    assert "torchvision" not in done.stderr


def test_every_variable_is_in_the_example_and_no_file_holds_a_key():
    example = (ROOT / ".env.example").read_text()
    assert all(f"{name}=" in example for name in PURPOSES)
    assert re.search(r"^AZURE_API_KEY=$", example, re.M)
    assert re.search(r"^LANGFUSE_SECRET_KEY=$", example, re.M)


def test_only_settings_reads_the_environment():
    readers = [
        p.name
        for p in (ROOT / "swaplib").glob("*.py")
        if re.search(r"os\.environ|getenv", p.read_text())
    ]
    assert set(readers) <= {"settings.py"}


@pytest.mark.parametrize("folder", ["models", "04_ft", "05_eval"])
def test_results_and_checkpoints_are_not_committed(folder):
    done = subprocess.run(
        ["git", "-C", ROOT, "ls-files", f"slm_swap/{folder}"], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip("not a git checkout")
    assert done.stdout == ""


def test_a_file_of_keys_is_made_for_its_owner_alone_is_never_overwritten_and_never_committed(
    tmp_path,
):
    for name in ("Makefile", ".env.example", ".gitignore", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    subprocess.run(["make", ".env"], cwd=tmp_path, check=True, capture_output=True)
    path = tmp_path / ".env"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("AZURE_API_KEY=mine")
    subprocess.run(["make", ".env"], cwd=tmp_path, check=True, capture_output=True)
    assert path.read_text() == "AZURE_API_KEY=mine"
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    names = [".env", ".env.local", "prod.env", ".env.example", "demo.env"]
    done = subprocess.run(
        ["git", "check-ignore", *names], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.split() == names[:3]


def test_the_doctor_refuses_a_file_of_keys_that_others_can_read(tmp_path, monkeypatch):
    path = tmp_path / ".env"
    path.write_text("")
    monkeypatch.setattr(doctor, "ENV_FILE", path)
    path.chmod(0o644)
    with pytest.raises(ValueError, match=f"chmod 600 {path}"):
        doctor.check_env_file(load_settings())
    path.chmod(0o600)
    assert doctor.check_env_file(load_settings()) == str(path)


def find_root(node: ast.expr) -> str:
    """The name that an expression begins with: `a` of `a.b[0].c(1)`."""
    while not isinstance(node, ast.Name):
        node = getattr(node, "value", None) or getattr(node, "func", None)
        if not isinstance(node, ast.expr):
            return ""
    return node.id


def find_intrusions(source: str) -> list[str]:
    """Where code takes another's private name or changes a module, as far as its text can tell."""
    found, ours = [], set()
    for node in ast.walk(tree := ast.parse(source)):
        match node:
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                found += [alias.name for alias in names if alias.name.startswith("_")]
                module = getattr(node, "module", None)
                packages = {(module or alias.name).split(".")[0] for alias in names}
                if packages & {"swaplib", "benchmarks"}:
                    ours |= {(alias.asname or alias.name).split(".")[0] for alias in names}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr="__dict__" | "__setattr__" | "modules"):
                found.append(ast.unparse(node))
            case ast.Attribute(attr=name) if name.startswith("_") and not name.endswith("__"):
                found += [ast.unparse(node)] if find_root(node) not in ("self", "cls") else []
            case (
                ast.Attribute(ctx=ast.Store() | ast.Del())
                | ast.Subscript(ctx=ast.Store() | ast.Del())
            ):
                found += [ast.unparse(node)] if find_root(node) in ours else []
            case (
                ast.Call(func=ast.Name(id="setattr" | "delattr" | "vars" | "globals"))
                | ast.Global()
            ):
                found.append(ast.unparse(node))
            case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=str(name)), *_]):
                found += [ast.unparse(node)] if name.startswith("_") else []
    return found


@pytest.mark.parametrize(
    "source",
    [
        "from swaplib.models.decoding import _Slots",
        "from swaplib.models import decoding\ndecoding._pick(x)",
        "from swaplib.models import decoding\ngetattr(decoding, '_pick')",
        "from swaplib.training import sft\nsft.LINEAR_LAYERS = ()",
        "from swaplib.models import decoding\ndecoding.READ_AT_ONCE['cpu'] = 9",
        "from benchmarks import throughput\nthroughput.ROWS += 1",
        "import swaplib.training.sft\nswaplib.training.sft.LINEAR_LAYERS = ()",
        "from swaplib.models.local import LocalSLM\nLocalSLM(path)._load()",
        "slm.__dict__['model'] = model",
        "object.__setattr__(slm, 'batch_size', 1)",
        "setattr(place, name, kept)",
        "import sys\nsys.modules[__name__].ROWS = 1",
        "def measure():\n    global ROWS\n    ROWS = 1",
    ],
)
def test_a_private_name_or_a_changed_module_is_found(source):
    assert find_intrusions(source)


def test_what_is_ones_own_is_not_found():
    own = "class A:\n    def b(self):\n        self._c = self.d = type(self).__name__"
    assert (
        find_intrusions(own)
        == find_intrusions("from swaplib import runs\nruns.read(x).y.z(1)")
        == []
    )


def test_benchmarks_use_the_package_by_its_public_names_and_change_nothing_in_it():
    files = sorted((ROOT / "benchmarks").glob("*.py"))
    assert len(files) > 10
    assert {
        file.name: found for file in files if (found := find_intrusions(file.read_text()))
    } == {}


@pytest.mark.parametrize("path", (ROOT / "benchmarks").glob("*.py"), ids=lambda path: path.stem)
def test_a_benchmark_says_how_it_is_started_and_stays_short(path):
    text = path.read_text()
    if "__main__" in text:
        assert f"python -m benchmarks.{path.stem}" in ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 250


def find_undefined(source: str, modules: dict[str, Path]) -> list[str]:
    """Names that code takes from modules, or imports of them, and that these do not define."""
    defined = {name: read_names(path.read_text()) for name, path in modules.items()}
    aliases, found = {}, []
    for node in ast.walk(tree := ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "swaplib":
            for alias in node.names:
                target = f"{node.module}.{alias.name}"
                aliases[alias.asname or alias.name] = target
                if target not in modules and alias.name not in defined.get(node.module, ()):
                    found.append(target)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            target = aliases.get(node.value.id)
            if target in modules and node.attr not in defined[target]:
                found.append(f"{target}.{node.attr}")
    return found


def read_names(source: str) -> set[str]:
    """What the top level of a module defines; what it imports is another's."""
    names = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        else:
            stored = [n for n in ast.walk(node) if isinstance(n, ast.Name)]
            names |= {n.id for n in stored if isinstance(n.ctx, ast.Store)}
    return names


def test_benchmarks_take_from_the_package_only_what_a_module_defines():
    modules = house.list_modules(ROOT / "swaplib")
    files = [*(ROOT / "benchmarks").glob("*.py"), ROOT / "examples" / "make.py"]
    lacking = {file.name: find_undefined(file.read_text(), modules) for file in files}
    assert {name: found for name, found in lacking.items() if found} == {}
    source = "from swaplib import rows, absent\nrows.gone(rows.read_rows, rows.hash_text)"
    expected = ["swaplib.absent", "swaplib.rows.gone", "swaplib.rows.hash_text"]
    assert sorted(find_undefined(source, modules)) == expected


def test_rooms_import_only_what_stands_before_them():
    [line] = re.findall(r"^  `(files .+ <- cli)`$", (ROOT / "agent.md").read_text(), re.M)
    floors = {
        room: floor for floor, rooms in enumerate(line.split(" <- ")) for room in rooms.split()
    }
    arrows = house.find_arrows(ROOT / "swaplib")
    assert set(arrows) == set(floors)
    upward = [
        (room, target)
        for room, targets in arrows.items()
        for target in targets
        if floors[target] >= floors[room]
    ]
    assert upward == []


@pytest.mark.parametrize(
    "room", sorted(path.parent.name for path in (ROOT / "swaplib").glob("*/__init__.py"))
)
def test_each_room_says_what_it_may_touch(room):
    docstring = (
        ast.get_docstring(ast.parse((ROOT / "swaplib" / room / "__init__.py").read_text())) or ""
    )
    assert re.search(r"^May: .+^May not: .+", docstring, re.M | re.S)


def test_sizes_stay_within_their_budgets():
    modules = house.list_modules(ROOT / "swaplib")
    long = [house.find_long_functions(path, 40) for path in modules.values()]
    assert {name: lines for found in long for name, lines in found.items()} == {}
    large = {name for name, path in modules.items() if len(path.read_text().splitlines()) > 250}
    assert large == {"swaplib.models.decoding"}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert len(house.find_imports(house.read_notebook(path), modules)) <= 8, path.name
