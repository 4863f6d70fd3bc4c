import re
import subprocess
import tomllib

import pytest
import yaml

from swaplib.settings import PURPOSES, ROOT

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
