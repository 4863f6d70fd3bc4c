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
