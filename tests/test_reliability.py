"""Faults of services and machines, each a line of docs/reliability.md: every answer is there once.

`make test` runs the quick ones; `make test-long` runs all of them and writes the page's table.
"""

import _thread
import itertools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import psutil
import pytest
from kills import kill_at_step
from langfuse_server import LangfuseServer
from runs import right, run_azure, start_process, start_run
from servers import as_json, completion, refusal, serving
from test_tracing import KEYS

from conftest import make_rows
from swaplib.data import dataset
from swaplib.evaluation import evaluate
from swaplib.files import hash_file
from swaplib.provenance import describe_device, now_utc
from swaplib.rows import SPLITS, Row, read_ledger, write_rows
from swaplib.settings import ROOT
from swaplib.tracing import delivery, langfuse_api, outbox

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- written by `make test-long` -->\n", "<!-- end -->\n"


@dataclass
class Outcome:
    """A line of the table; a lost row has no answer in the end, or no span; a doubled one two."""

    tried: str
    times: int = 0
    rows_asked: int = 0
    rows_in_ledger: int = 0
    calls_repeated: int = 0
    lost: int = 0
    doubled: int = 0

    def add_run(self, folder: Path, n_rows: int, n_calls: int) -> None:
        """Count what a run's ledger and trace hold in the end."""
        lines = list(outbox.read_outbox(folder / "ledger.jsonl"))
        answered = Counter(line["index"] for line in lines if line["status"] != "error")
        spans = [
            s["spanId"]
            for t in outbox.read_outbox(folder / "trace.jsonl")
            for s in list_row_spans(t)
        ]
        self.rows_asked += n_rows
        self.rows_in_ledger += len({line["index"] for line in lines})
        self.calls_repeated += n_calls - n_rows
        self.lost += n_rows - len(answered) + len(lines) - len(set(spans))
        self.doubled += sum(n > 1 for n in answered.values()) + len(spans) - len(set(spans))

    def finish(self, table: list["Outcome"]) -> None:
        """Nothing lost and nothing doubled, of at least one fault."""
        assert self.times
        assert (self.rows_in_ledger, self.lost, self.doubled) == (self.rows_asked, 0, 0), self
        table.append(self)


def list_row_spans(line) -> list[dict]:
    return [span for span in outbox.list_spans(line) if span["name"].startswith("row ")]


@pytest.fixture(scope="module")
def table(request) -> Iterator[list[Outcome]]:
    """Collects outcomes; with --table they become the page's table."""
    outcomes: list[Outcome] = []
    yield outcomes
    if request.config.getoption("--table"):
        heads = "| tried | times | rows asked | rows in the ledger | calls repeated | "
        heads += "lost | doubled |\n"
        body = "".join(f"| {' | '.join(map(str, astuple(outcome)))} |\n" for outcome in outcomes)
        text = f"\n{heads}|{' --- |' * 7}\n{body}\nMachine: {describe_device()}; {now_utc()}.\n\n"
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(before + BEGIN + text + END + rest.partition(END)[2])


def index_of(exchange) -> int:
    return int(exchange.json()["messages"][-1]["content"].removeprefix("Request ").rstrip("?"))


def in_parts(exchange, n_parts: int, pause_s: float, n_sent: int):
    """The right answer in parts with pauses; the connection is closed after some of them."""
    status, headers, body = right(exchange)
    size = len(body) // n_parts + 1
    parts = (time.sleep(pause_s) or body[i * size : (i + 1) * size] for i in range(n_sent))
    return status, headers | {"content-length": str(len(body))}, parts


def close_at_once(exchange):
    raise ConnectionAbortedError


# What the server does to the first call of a row, and how the row ends; `slow` ones meet a deadline
# of one second.
FAULTS = {
    "429 with Retry-After": (lambda e: refusal(429, **{"retry-after": "1"}), "ok"),
    "429 without Retry-After": (lambda e: refusal(429), "ok"),
    "500": (lambda e: refusal(500), "ok"),
    "503": (lambda e: refusal(503), "ok"),
    "no answer before the deadline": (lambda e: time.sleep(1.5) or right(e), "ok"),
    "a body that drips past the deadline": (lambda e: in_parts(e, 30, 0.1, 30), "ok"),
    "a body that drips": (lambda e: in_parts(e, 4, 0.05, 4), "ok"),
    "a connection cut in the middle of a body": (lambda e: in_parts(e, 2, 0, 1), "ok"),
    "a connection closed without a byte": (close_at_once, "ok"),
    "a body that is not JSON": (lambda e: (200, {}, b'{"choices": [{"mess'), "ok"),
    "an empty list of choices": (lambda e: as_json({"choices": []}), "ok"),
    "content_filter as HTTP 400": (lambda e: refusal(400, code="content_filter"), "filtered"),
    "content_filter as finish reason": (lambda e: completion(None, "content_filter"), "filtered"),
    "length as finish reason": (lambda e: completion("half", "length"), "truncated"),
}
TRANSIENT = [make for make, status in FAULTS.values() if status == "ok"]


def with_deadline(monkeypatch, deadline_s: float) -> None:
    make = evaluate.make_model
    monkeypatch.setattr(evaluate, "make_model", lambda *a: replace(make(*a), deadline_s=deadline_s))


def run_until_complete(settings, root: str) -> evaluate.Run:
    for _ in range(10):
        run = run_azure(settings, root, concurrency=8)
        if run.metrics["complete"]:
            return run
    raise AssertionError(run.metrics["n_by_status"])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_misbehaves_costs_no_row(toolcall_home, table, monkeypatch, fault):
    make, status = FAULTS[fault]
    with_deadline(monkeypatch, 1 if "deadline" in fault else 30)
    hit: set[int] = set()

    def answer(exchange):
        if (index := index_of(exchange)) % 2 or index in hit:
            return right(exchange)
        hit.add(index)
        return make(exchange)

    with serving(answer) as (root, exchanges):
        run = run_until_complete(toolcall_home, root)
    assert [line.generation.status for line in run.ledger] == [status, "ok"] * 3
    outcome = Outcome(fault, len(hit))
    outcome.add_run(run.folder, 6, len(exchanges))
    outcome.finish(table)


def test_a_server_that_does_all_of_it_costs_no_row(toolcall_home, table, monkeypatch):
    write_rows(toolcall_home.dataset / "toolcall" / "test.jsonl", make_rows(40))
    with_deadline(monkeypatch, 2)
    schedule, done = random.Random(1), []

    def answer(exchange):
        if schedule.random() < 0.6 or len(done) > 60:
            return right(exchange)
        done.append(make := schedule.choice(TRANSIENT))
        return make(exchange)

    with serving(answer) as (root, exchanges):
        run = run_until_complete(toolcall_home, root)
    outcome = Outcome("all that a second call can mend, at 40% of the calls", len(done))
    outcome.add_run(run.folder, 40, len(exchanges))
    outcome.finish(table)


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_run_that_is_told_to_stop_goes_on_later(toolcall_home, table, env_of_tests, kind):
    name = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}[kind]
    with serving(lambda e: time.sleep(0.2) or right(e)) as (root, exchanges):
        process = start_run(toolcall_home, root, env_of_tests, exchanges, "concurrency=2")
        while (
            not (ledgers := list(toolcall_home.runs.glob("*/ledger.jsonl")))
            or len(read_ledger(ledgers[0])) < 2
        ):
            time.sleep(0.01)
        process.send_signal(kind)
        assert process.wait(timeout=20) == -kind
        run = run_azure(toolcall_home, root)
    outcome = Outcome(f"{name} during an evaluation", 1)
    outcome.add_run(run.folder, 6, len(exchanges))
    assert outcome.calls_repeated <= 2  # those in flight
    outcome.finish(table)


def test_a_cell_that_is_interrupted_can_be_run_again_in_the_same_kernel(toolcall_home, table):
    def answer(exchange):
        if len(exchanges) == 4:
            _thread.interrupt_main()
        time.sleep(0.1)
        return right(exchange)

    with serving(answer) as (root, exchanges):
        with pytest.raises(KeyboardInterrupt):
            run_azure(toolcall_home, root, concurrency=1)
        calls = len(exchanges)
        assert 0 < len(read_ledger(next(toolcall_home.runs.glob("*/ledger.jsonl")))) < 6
        time.sleep(0.3)
        assert len(exchanges) == calls
        run = run_azure(toolcall_home, root)
    outcome = Outcome("a notebook's cell interrupted, then run again", 1)
    outcome.add_run(run.folder, 6, len(exchanges))
    assert outcome.calls_repeated <= 1
    outcome.finish(table)


@pytest.mark.long
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_notebook_that_is_told_to_stop_leaves_no_process_and_goes_on_later(
    toolcall_home, table, env_of_tests, kind
):
    outcome = Outcome(f"{'SIGTERM' if kind == signal.SIGTERM else 'Ctrl-C'} of `swap run`", 1)
    with serving(lambda e: time.sleep(0.3) or right(e)) as (root, exchanges):
        env = env_of_tests | {
            "AZURE_ENDPOINT": f"{root}/openai/deployments/gpt",
            "SWAP_ROW_LIMIT": "",
        }
        env |= {"SWAP_HOME": str(toolcall_home.swap_home)}
        command = [
            sys.executable,
            "-m",
            "swaplib.cli",
            "run",
            str(ROOT / "notebooks" / "02_eval.ipynb"),
        ]
        command += ["-p", "models", "azure", "-p", "concurrency", "1"]
        process = subprocess.Popen(
            command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while len(exchanges) < 3:
            assert process.poll() is None
            time.sleep(0.02)
        children = psutil.Process(process.pid).children(recursive=True)
        assert children  # the kernel
        process.send_signal(kind)
        assert process.wait(timeout=30) != 0
        assert not psutil.wait_procs(children, timeout=20)[1]
        run = run_azure(toolcall_home, root)
    outcome.add_run(run.folder, 6, len(exchanges))
    assert outcome.calls_repeated <= 1
    outcome.finish(table)


@pytest.mark.long
def test_an_evaluation_killed_at_any_moment_goes_on(toolcall_home, table, env_of_tests):
    n_rows, concurrency, moments, outcome = (
        60,
        4,
        random.Random(20),
        Outcome("SIGKILL during an evaluation"),
    )
    whole_s = None
    for attempt in itertools.takewhile(lambda _: outcome.times < 20, itertools.count()):
        settings = toolcall_home.model_copy(
            update={"swap_home": toolcall_home.swap_home / str(attempt)}
        )
        write_rows(settings.dataset / "toolcall" / "test.jsonl", make_rows(n_rows))
        with serving(lambda e: time.sleep(0.1) or right(e)) as (root, exchanges):
            start = time.monotonic()
            process = start_process(settings, root, env_of_tests, f"concurrency={concurrency}")
            if whole_s is None:  # the first one is not killed: it says how long a run takes
                assert process.wait() == 0
                whole_s = time.monotonic() - start
                continue
            time.sleep(moments.uniform(0, whole_s))
            outcome.times += process.poll() is None
            process.kill()
            process.wait()
            run = run_azure(settings, root, concurrency=concurrency)
        assert run.metrics["valid_call_rate"] == 1.0
        before = outcome.calls_repeated
        outcome.add_run(run.folder, n_rows, len(exchanges))
        assert 0 <= outcome.calls_repeated - before <= concurrency  # at most those in flight
    outcome.finish(table)


def write_own_rows(folder: Path, words: str, n: int = 3) -> None:
    for split in SPLITS:
        rows = [Row(f"{words} {split} {i}", "1") for i in range(n)]
        write_rows(folder / "structured" / f"{split}.jsonl", rows)


def read_dataset(settings) -> dict[str, bytes]:
    files = [p for p in settings.dataset.rglob("*") if p.is_file() and ".build" not in p.parts]
    return {str(p.relative_to(settings.dataset)): p.read_bytes() for p in files}


def test_a_data_build_killed_at_any_step_leaves_no_mixture_and_can_be_built_again(
    settings, tmp_path, table
):
    own, outcome = tmp_path / "own", Outcome("SIGKILL at each step of a data build (files)")
    write_own_rows(own, "old")
    dataset.build_dataset(settings, str(own), {})
    old = read_dataset(settings)
    write_own_rows(own, "new")
    dataset.build_dataset(settings, str(own), {})
    new = read_dataset(settings)
    for step in range(1000):
        write_own_rows(own, "old")
        dataset.build_dataset(settings, str(own), {})
        write_own_rows(own, "new")
        was_killed = kill_at_step(step, lambda: dataset.build_dataset(settings, str(own), {}))
        found = read_dataset(settings)
        rows = {name: text for name, text in found.items() if name.endswith(".jsonl")}
        assert rows.items() <= old.items() or rows.items() <= new.items()
        if not was_killed:
            break
        outcome.times += 1
        dataset.build_dataset(settings, str(own), {})
        assert read_dataset(settings) == new
        assert not (settings.dataset / ".build").exists()
        outcome.rows_asked += len(new)
        outcome.rows_in_ledger += len(read_dataset(settings))
    assert found == new
    outcome.finish(table)


@pytest.mark.long
def test_a_data_build_killed_at_any_moment_can_be_built_again(settings, table, env_of_tests):
    sizes = {"toolcall": "340/60/100", "structured": "600/80/100"}
    dataset.build_dataset(settings, "sample", sizes)
    whole, moments = read_dataset(settings), random.Random(20)
    outcome = Outcome("SIGKILL during a data build (files)")
    code = "from swaplib import settings\nfrom swaplib.data import dataset\n"
    code += f"dataset.build_dataset(settings.load_settings(), 'sample', {sizes})\n"
    whole_s = None
    for attempt in itertools.takewhile(lambda _: outcome.times < 20, itertools.count()):
        home = settings.swap_home / str(attempt)
        start = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-c", code], env=env_of_tests | {"SWAP_HOME": str(home)}
        )
        if whole_s is None:
            assert process.wait() == 0
            whole_s = time.monotonic() - start
            continue
        time.sleep(moments.uniform(0, whole_s))
        outcome.times += process.poll() is None
        process.kill()
        process.wait()
        again = settings.model_copy(update={"swap_home": home})
        dataset.build_dataset(again, "sample", sizes)
        outcome.rows_asked += len(whole)
        outcome.rows_in_ledger += sum(
            read_dataset(again).get(name) == text for name, text in whole.items()
        )
    outcome.finish(table)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A disk of its own at a folder; skips where this process may not mount one."""
    folder.mkdir(parents=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True
    )
    if done.returncode:
        pytest.skip("needs the right to mount a small disk (root)")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


def test_a_full_disk_stops_a_run_that_goes_on_when_there_is_room(settings, table):
    n_rows = 30
    with small_disk(settings.swap_home, "64k"), serving(right) as (root, exchanges):
        write_rows(settings.dataset / "toolcall" / "test.jsonl", make_rows(n_rows))
        with pytest.raises(OSError, match=rf"No space left.*{settings.runs}"):
            run_azure(settings, root)
        [ledger] = settings.runs.glob("*/ledger.jsonl")
        assert 0 < len(read_ledger(ledger)) < n_rows
        calls = len(exchanges)
        time.sleep(0.5)
        assert len(exchanges) == calls <= len(read_ledger(ledger)) + 3  # nothing more was asked
        remount(settings.swap_home, "size=4m")
        run = run_azure(settings, root)
        outcome = Outcome("a full disk during an evaluation", 1)
        outcome.add_run(run.folder, n_rows, len(exchanges))
    outcome.finish(table)


def test_a_file_that_may_not_grow_stops_a_run_that_goes_on_later(settings, table, env_of_tests):
    write_rows(settings.dataset / "toolcall" / "test.jsonl", make_rows(30))
    with serving(right) as (root, exchanges):
        process = start_process(settings, root, env_of_tests, "concurrency=2")
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (20_000, 20_000))
        _, said = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "trace.jsonl" in said.splitlines()[-1]
        run = run_azure(settings, root)
    outcome = Outcome("a limit on the size of files during an evaluation", 1)
    outcome.add_run(run.folder, 30, len(exchanges))
    assert outcome.calls_repeated <= 2
    outcome.finish(table)


def test_a_full_disk_during_a_data_build_leaves_the_old_rows(settings, tmp_path, table):
    own, outcome = tmp_path / "own", Outcome("a full disk during a data build (files)", 1)
    with small_disk(settings.swap_home, "256k"):
        write_own_rows(own, "old")
        dataset.build_dataset(settings, str(own), {})
        old = read_dataset(settings)
        write_own_rows(own, "new", 5000)
        with pytest.raises(OSError, match=rf"No space left.*{settings.dataset}"):
            dataset.build_dataset(settings, str(own), {})
        assert read_dataset(settings) == old
        assert not (settings.dataset / ".build").exists()
        remount(settings.swap_home, "size=16m")
        made = dataset.build_dataset(settings, str(own), {})
        outcome.rows_asked = len(made.manifest["sha256"])
        for file, sha256 in made.manifest["sha256"].items():
            outcome.rows_in_ledger += hash_file(settings.dataset / file) == sha256
    outcome.finish(table)


def test_a_read_only_folder_stops_a_run_before_its_first_call(settings, table):
    with small_disk(settings.swap_home, "4m"), serving(right) as (root, exchanges):
        write_rows(settings.dataset / "toolcall" / "test.jsonl", make_rows(6))
        remount(settings.swap_home, "ro")
        with pytest.raises(OSError, match=rf"Read-only.*{settings.evaluation}"):
            run_azure(settings, root)
        assert not exchanges
        remount(settings.swap_home, "rw")
        run = run_azure(settings, root)
        outcome = Outcome("a read-only folder", 1)
        outcome.add_run(run.folder, 6, len(exchanges))
    outcome.finish(table)


def tear(path: Path, is_torn, kept: int, tail: bytes) -> None:
    """Cut a file inside its last line of a kind, as a power cut would; rubbish may follow."""
    lines = path.read_bytes().splitlines(keepends=True)
    last = max(i for i, line in enumerate(lines) if is_torn(line))
    path.write_bytes(b"".join(lines[:last]) + lines[last][:kept] + tail)


@pytest.mark.parametrize("file", ["ledger.jsonl", "trace.jsonl"])
def test_a_torn_last_line_is_made_anew(toolcall_home, table, file):
    outcome, cuts = Outcome(f"a torn last line of {file}"), random.Random(20)
    for tail in (b"", b"\0" * 300, b"\xff\xfe", cuts.randbytes(40)):
        with serving(right) as (root, exchanges):
            run = run_azure(toolcall_home, root, fresh=True, concurrency=1)
            kept = cuts.randrange(1, 200)
            if file == "ledger.jsonl":  # the trace comes after the ledger, so it lacks the row
                tear(run.folder / file, bool, kept, tail)
                tear(run.folder / "trace.jsonl", lambda line: b'"row ' in line, 0, b"")
            else:
                tear(run.folder / file, lambda line: b'"row ' in line, kept, tail)
            (run.folder / "metrics.json").unlink()  # it comes last
            again = run_azure(toolcall_home, root)
        assert again.folder == run.folder
        outcome.times += 1
        outcome.add_run(run.folder, 6, len(exchanges))
    assert outcome.calls_repeated == (outcome.times if file == "ledger.jsonl" else 0)
    outcome.finish(table)


CHANGES = {
    "edited": lambda rows: [*rows[:5], Row("Request 5?", rows[4].completion)],
    "reordered": lambda rows: rows[::-1],
    "doubled": lambda rows: [*rows, rows[0]],
}


@pytest.mark.parametrize("change", CHANGES)
def test_rows_changed_between_two_runs_are_another_question(toolcall_home, table, change):
    path, outcome = (
        toolcall_home.dataset / "toolcall" / "test.jsonl",
        Outcome(f"rows {change} between two runs", 1),
    )
    rows = make_rows(6)
    changed = CHANGES[change](rows)
    with serving(right) as (root, exchanges):
        first = run_azure(toolcall_home, root)
        before = (first.folder / "ledger.jsonl").read_bytes()
        write_rows(path, changed)
        second = run_azure(toolcall_home, root)
        assert second.folder != first.folder
        assert (first.folder / "ledger.jsonl").read_bytes() == before
        write_rows(path, rows)
        assert run_azure(toolcall_home, root).folder == first.folder
    outcome.add_run(first.folder, 6, 6)
    outcome.add_run(second.folder, len(changed), len(exchanges) - 6)
    outcome.finish(table)


@pytest.mark.long
def test_two_processes_on_the_same_rows_ask_each_row_once(toolcall_home, table, env_of_tests):
    outcome = Outcome("two processes on the same run")
    for attempt in range(5):
        settings = toolcall_home.model_copy(
            update={"swap_home": toolcall_home.swap_home / str(attempt)}
        )
        write_rows(settings.dataset / "toolcall" / "test.jsonl", make_rows(6))
        with serving(lambda e: time.sleep(0.3) or right(e)) as (root, exchanges):
            processes = [start_process(settings, root, env_of_tests) for _ in range(2)]
            said = {
                process.communicate()[1].strip().rpartition("\n")[2]: process.returncode
                for process in processes
            }
        assert sorted(said.values()) == [0, 1]
        assert any("another process is at this run" in text for text in said)
        [folder] = settings.runs.glob("2*")
        outcome.times += 1
        outcome.add_run(folder, 6, len(exchanges))
    outcome.finish(table)


@pytest.mark.parametrize("fault", ["down", "401", "hanging"])
def test_langfuse_gets_everything_once_when_it_is_back(toolcall_home, table, monkeypatch, fault):
    monkeypatch.setattr(langfuse_api, "TIMEOUT_S", 0.5)
    langfuse, outcome = (
        LangfuseServer(),
        Outcome(f"Langfuse {fault}, then back (spans and scores)", 1),
    )
    ways = {
        "down": close_at_once,
        "401": lambda e: as_json({}, 401),
        "hanging": lambda e: (langfuse(e) and time.sleep(1.2)) or as_json({}),
    }
    answers = [ways[fault]]
    with serving(lambda e: answers[0](e)) as (root, posts), serving(right) as (azure, _):
        settings = toolcall_home.model_copy(update=KEYS | {"langfuse_base_url": root})
        run = run_azure(settings, azure)
        made = run.metrics["run"]["trace"]["made"]
        assert run.metrics["run"]["trace"]["delivered"] == 0
        assert run.metrics["complete"]
        answers[0], n_failed = langfuse, len(posts)
        monkeypatch.undo()
        [record] = delivery.push_traces(settings)
        assert (record["delivered"], record["failed"]) == (made, 0)
        assert delivery.push_traces(settings) == []
    outcome.rows_asked, outcome.rows_in_ledger = made, len(langfuse.spans) + len(langfuse.scores)
    outcome.calls_repeated = n_failed
    outcome.lost = made - outcome.rows_in_ledger
    outcome.finish(table)


def test_memory_that_runs_out_at_the_first_batch_means_a_smaller_batch_and_the_same_rows(
    table, env_of_tests
):
    code = f"""
import json, resource, sys, torch
from pathlib import Path
from swaplib.models.local import LocalSLM
from swaplib.models.local_checkpoint import Checkpoint
path = Path({os.environ["SLM_MODEL_PATH"]!r})
slm = LocalSLM(Checkpoint(path, precision="float32"), batch_size=8)
chats = [[{{"role": "user", "content": f"Request {{i}} " + "word " * 400}}] for i in range(8)]
list(slm.generate(chats[:1], 2))
spare = int(sys.argv[1]) * 2**20
if slm.checkpoint.device == "cuda":
    used = torch.cuda.memory_reserved() + spare
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(used / total)
else:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + spare
    resource.setrlimit(resource.RLIMIT_AS, (used, used))
answers = list(slm.generate(chats, 2))
print(json.dumps([slm.checkpoint.device, [i for i, _ in answers]]))
"""
    for spare_mib in (60, 0):  # how much a process has in reserve differs between machines
        command = [sys.executable, "-c", code, str(spare_mib)]
        done = subprocess.run(command, env=env_of_tests, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        *said, answers = done.stdout.splitlines()
        if said:
            break
    assert said
    assert all(line.startswith("out of memory with") for line in said)
    device, indices = json.loads(answers)
    outcome = Outcome(
        f"memory exhausted at the first batch ({device})", len(said), 8, len(set(indices))
    )
    outcome.lost, outcome.doubled = 8 - len(set(indices)), len(indices) - len(set(indices))
    outcome.finish(table)


def test_the_committed_table_has_every_fault_and_nothing_lost_or_doubled():
    text = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][
        1:
    ]
    tried = [line[0] for line in lines if line[0] != "---"]
    assert set(FAULTS) <= set(tried)
    for name in ("SIGKILL during an evaluation", "SIGKILL during a data build (files)"):
        assert [line[1] for line in lines if line[0] == name] == ["20"]
    assert {tuple(line[5:]) for line in lines if line[0] != "---"} == {("0", "0")}
