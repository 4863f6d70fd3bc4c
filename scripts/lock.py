"""Writes the lock files again (`make lock`), and checks an environment against them (`check`).

requirements.lock is every package that this project runs with; requirements-cuda.lock is what a
CUDA build of torch needs as well; requirements-gpu.lock is what Unsloth names and only a machine
with a GPU needs. Pins that still fit stay: `scripts/lock.py --upgrade` takes the newest.
requirements-cpu.lock is written by hand: CPU builds of torch are on no index, and uv does not know
them.
"""

import importlib.metadata
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAIN, CUDA, GPU = (ROOT / f"requirements{kind}.lock" for kind in ("", "-cuda", "-gpu"))

HASHES = re.compile(r"(?: \\\n +--hash=\S+)+")

# Packages that Unsloth names and a machine without a GPU does without, and why.
GPU_ONLY = {
    "cut-cross-entropy": "a loss written in Triton",
    "diffusers": "models that make images, which nothing here trains",
    "torchao": "kernels and number types of GPUs",
    "torchvision": "no CPU build is on the index; beside a CPU torch the CUDA build breaks Unsloth",
    "triton": "compiles kernels for GPUs",
    "xformers": "attention kernels of GPUs",
}

# The marker that uv writes after every pin, from `tool.uv.environments` of pyproject.toml.
EVERYWHERE = (
    " ; python_full_version < '3.13' and implementation_name == 'cpython' "
    "and sys_platform == 'linux'"
)


def read_blocks(text: str) -> dict[str, str]:
    """The entries of a lock by name: pins with markers and hashes.

    A package may have several, each for other Pythons.
    """
    blocks: dict[str, str] = {}
    for block in re.findall(
        r"^\S.*(?:\n[ \t]+.*)*\n", re.sub(r"^#.*\n", "", text, flags=re.M), re.M
    ):
        name = re.split(r"[=\s]", block)[0]
        blocks[name] = blocks.get(name, "") + block
    return blocks


def resolve(pins: str, excluded: list[str]) -> dict[str, str]:
    """What pyproject.toml asks for, resolved for all its Pythons, with the hashes of every file."""
    uv = [Path(sys.executable).parent / "uv", "pip", "compile", "pyproject.toml"]
    options = ["--quiet", "--no-header", "--no-annotate", "--universal", "--generate-hashes"]
    options += ["--extra", "dev", "--extra", "train"]
    with tempfile.TemporaryDirectory() as folder:
        lock, names = Path(folder) / "requirements.lock", Path(folder) / "excluded.txt"
        # The index gives the hashes.
        lock.write_text("" if "--upgrade" in sys.argv else HASHES.sub("", pins))
        names.write_text("\n".join(excluded))
        subprocess.run(
            [*uv, *options, "--excludes", names, "--output-file", lock],
            cwd=ROOT,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return read_blocks(lock.read_text().replace(EVERYWHERE, ""))


def write_locks() -> None:
    """Resolve twice, without and with what only a GPU needs, and write the three files."""
    pins = "".join(path.read_text() for path in (MAIN, CUDA, GPU) if path.is_file())
    main = resolve(pins, list(GPU_ONLY))
    full = resolve("".join(main.values()) + pins, [])
    cuda = {name for name in full if name.startswith(("nvidia-", "cuda-")) or name == "triton"}
    names_of = {MAIN: set(main) - cuda, CUDA: cuda, GPU: set(full) - set(main) - cuda}
    for path, names in names_of.items():
        blocks = main | {name: full[name] for name in names - set(main)}
        path.write_text(
            "# Written by `make lock`.\n" + "".join(blocks[name] for name in sorted(names))
        )
        print(f"{path.name}: {len(names)} packages")


def check() -> None:
    """`pip check`, without what only a GPU needs where there is none."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "check"]
    found = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    spared = re.compile(
        rf"unsloth[-_ ].* requires ({'|'.join(GPU_ONLY)}), which is not installed\."
    )
    problems = [
        line
        for line in found
        if not spared.fullmatch(line) and line != "No broken requirements found."
    ]
    if problems:
        raise SystemExit("\n".join(["packages that do not fit together:", *problems]))
    print(f"{sum(1 for _ in importlib.metadata.distributions())} packages fit together")


def has_cuda() -> bool:
    """Whether the installed torch asks for libraries of CUDA."""
    return any(
        "cuda" in line or "nvidia" in line for line in importlib.metadata.requires("torch") or []
    )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["check"]:
            check()
        case ["has-cuda"]:
            sys.exit(not has_cuda())
        case [] | ["--upgrade"]:
            write_locks()
        case words:
            sys.exit(
                f"scripts/lock.py {' '.join(words)}: expected nothing, --upgrade, check or has-cuda"
            )
