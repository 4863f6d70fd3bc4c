import ast
import re
import shutil
import stat
import subprocess
import tomllib

import pytest
import yaml

from swaplib import doctor
from swaplib.settings import PURPOSES, ROOT, load_settings

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DECLARED = PROJECT["dependencies"] + [pin for extra in PROJECT["optional-dependencies"].values() for pin in extra]


def normalise(pins) -> dict[str, str]:
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in (pin.split("==") for pin in pins)}


def read_lock(name: str) -> dict[str, str]:
    return normalise((ROOT / name).read_text().split())


def test_environment_yml_pins_what_pyproject_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    gpu_only = {"torchvision": read_lock("requirements-gpu.lock")["torchvision"]}
    assert normalise(pip) == normalise(DECLARED) | gpu_only


def test_the_lock_agrees_with_pyproject():
    lock = read_lock("requirements.lock")
    assert normalise(DECLARED).items() <= lock.items()
    assert not set(lock) & set(read_lock("requirements-gpu.lock"))


def test_every_variable_is_in_the_example_and_no_file_holds_a_key():
    example = (ROOT / ".env.example").read_text()
    assert all(f"{name}=" in example for name in PURPOSES)
    assert re.search(r"^AZURE_API_KEY=$", example, re.M)
    assert re.search(r"^LANGFUSE_SECRET_KEY=$", example, re.M)


def test_only_settings_reads_the_environment():
    readers = [p.name for p in (ROOT / "swaplib").glob("*.py") if re.search(r"os\.environ|getenv", p.read_text())]
    assert set(readers) <= {"settings.py"}


@pytest.mark.parametrize("folder", ["models", "04_ft", "05_eval"])
def test_results_and_checkpoints_are_not_committed(folder):
    done = subprocess.run(["git", "-C", ROOT, "ls-files", f"slm_swap/{folder}"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    assert done.stdout == ""


def test_a_file_of_keys_is_made_for_its_owner_alone_is_never_overwritten_and_never_committed(tmp_path):
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
    done = subprocess.run(["git", "check-ignore", *names], cwd=tmp_path, capture_output=True, text=True)
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
    """Where code takes a private name that is not its own, or changes a module, as well as its text can tell."""
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
            case ast.Attribute(ctx=ast.Store() | ast.Del()) | ast.Subscript(ctx=ast.Store() | ast.Del()):
                found += [ast.unparse(node)] if find_root(node) in ours else []
            case ast.Call(func=ast.Name(id="setattr" | "delattr" | "vars" | "globals")) | ast.Global():
                found.append(ast.unparse(node))
            case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=str(name)), *_]):
                found += [ast.unparse(node)] if name.startswith("_") else []
    return found


@pytest.mark.parametrize(
    "source",
    [
        "from swaplib.decoding import _Slots",
        "from swaplib import decoding\ndecoding._pick(x)",
        "from swaplib import decoding\ngetattr(decoding, '_pick')",
        "from swaplib import trainer\ntrainer.LINEAR_LAYERS = ()",
        "from swaplib import decoding\ndecoding.READ_AT_ONCE['cpu'] = 9",
        "from benchmarks import throughput\nthroughput.ROWS += 1",
        "import swaplib.trainer\nswaplib.trainer.LINEAR_LAYERS = ()",
        "from swaplib.local import LocalSLM\nLocalSLM(path)._load()",
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
    assert find_intrusions(own) == find_intrusions("from swaplib import runs\nruns.read(x).y.z(1)") == []


def test_benchmarks_use_the_package_by_its_public_names_and_change_nothing_in_it():
    files = sorted((ROOT / "benchmarks").glob("*.py"))
    assert len(files) > 10
    assert {file.name: found for file in files if (found := find_intrusions(file.read_text()))} == {}


def test_imports_point_from_a_floor_to_those_before_it():
    listed = re.findall(r"^  (\d+)\. (.+)$", (ROOT / "agent.md").read_text(), re.M)
    floors = {name: int(floor) for floor, names in listed for name in names.split(", ")}
    modules = {path.stem: ast.parse(path.read_text()) for path in (ROOT / "swaplib").glob("*.py")}
    assert set(floors) == set(modules) - {"__init__", "cli"}  # cli imports what a command needs when it is given
    for module, tree in modules.items():
        for node in tree.body:  # what is imported inside a function may point anywhere
            names = []
            if isinstance(node, ast.ImportFrom) and node.module == "swaplib":
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("swaplib."):
                names = [node.module.split(".")[1]]
            for name in {*names} & set(floors):
                assert floors[name] < floors.get(module, 99), f"{module} imports {name}"
