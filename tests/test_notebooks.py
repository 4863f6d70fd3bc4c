import json
import os
import re
import subprocess
import sys

import nbformat
import papermill
import pytest

from swaplib.agents.agent import AgentOptions
from swaplib.notebooks import running
from swaplib.notebooks.parameters import name_question, parse_parameters
from swaplib.settings import ROOT

pytestmark = pytest.mark.slow

SOURCES = sorted((ROOT / "notebooks").glob("*.ipynb"))


def write_notebook(
    path,
    *cells: str,
    parameters: str = 'track: str = "toolcall"\nlimit: int = None\nrate: float = 0.5',
):
    notebook = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    )
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    notebook.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(notebook, path)
    return path


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_keeps_the_house_rules(source):
    notebook = nbformat.read(source, as_version=4)
    first, second = notebook.cells[:2]
    assert first.cell_type == "markdown"
    assert re.match(r"# .*\?$", first.source.splitlines()[0])
    assert all(f"**{word}:**" in first.source for word in ("Inputs", "Outputs", "Time", "Next"))
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == [second]
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) <= 15
    assert all(len(text.splitlines()) <= 10 for text in code if text != second.source)
    assert len(second.source.splitlines()) <= 14
    assert not re.search(
        r"^\s*(def|class|try|while|!|%)|import \*|sys\.path", "\n".join(code), re.M
    )
    assert any(re.match(r"## \d+\. Look", cell.source) for cell in notebook.cells)
    assert notebook.cells[-1].cell_type == "markdown"
    assert not any(cell.get("outputs") for cell in notebook.cells)
    assert len(papermill.inspect_notebook(str(source))) == len(second.source.splitlines())


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_links_of_a_notebook_lead_to_what_they_name(source):
    text = "\n".join(cell.source for cell in nbformat.read(source, as_version=4).cells)
    links = re.findall(r"\[([^\]]+)\]\(([^)#]+)\)", text)
    assert links
    for name, target in links:
        path = (source.parent / target).resolve()
        assert path.is_file(), target
        if path.suffix == ".py":
            assert re.search(rf"^(def|class) {name.partition('.')[2]}\b", path.read_text(), re.M), (
                name
            )


@pytest.mark.stand_in
def test_06_and_08_ask_an_agent_alike_unless_told_otherwise():
    known = [
        papermill.inspect_notebook(str(ROOT / "notebooks" / f"{name}.ipynb"))
        for name in ("06_capture", "08_distill")
    ]
    defaults = [
        {name: p["default"] for name, p in found.items() if name.startswith("max_")}
        for found in known
    ]
    assert defaults[0] == defaults[1] == {"max_steps": "4", "max_new_tokens": "256"}


def test_agents_are_told_their_limits_by_name_alone():
    with pytest.raises(TypeError, match="positional"):
        AgentOptions(4, 256)


def test_the_structured_track_runs_through_papermill(tmp_path, env_of_tests):
    env = env_of_tests | {"SWAP_HOME": str(tmp_path)}
    runs = [
        ("01_data", []),
        ("02_eval", ["-p", "max_new_tokens", "32"]),
        ("03_decision", ["-p", "delta", "0.5"]),
    ]
    for name, parameters in runs:
        command = [
            sys.executable,
            "-m",
            "papermill",
            ROOT / "notebooks" / f"{name}.ipynb",
            tmp_path / f"{name}.ipynb",
        ]
        track = [] if name == "01_data" else ["-p", "track", "structured"]
        done = subprocess.run(
            [*command, *track, *parameters], env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    evaluation = tmp_path / "05_eval"
    for model in ("azure", "slm"):
        metrics = json.loads((evaluation / f"structured_{model}_test.json").read_text())
        assert (metrics["n_rows"], metrics["complete"]) == (2, True)
        folder = evaluation / "runs" / metrics["run"]["run_id"]
        assert {p.name for p in folder.iterdir()} == {"metrics.json", "ledger.jsonl", "trace.jsonl"}
    assert json.loads((evaluation / "structured_decision.json").read_text())["FINE_TUNE"] in (0, 1)


def test_a_run_leaves_the_executed_notebook_and_its_html_and_not_the_source(
    settings, tmp_path, capfd
):
    source = write_notebook(tmp_path / "nb.ipynb", "print(track, limit, rate)")
    before = source.read_bytes()
    executed, html = running.run_notebook(settings, source, [("limit", "3"), ("rate", "1")], 60)
    assert executed == settings.reports / "nb_toolcall.ipynb"
    assert "toolcall 3 1" in html.read_text()
    assert "toolcall 3 1" in capfd.readouterr().out
    assert source.read_bytes() == before


def test_a_headline_stands_right_below_the_title_and_what_its_cell_prints_stays(settings, tmp_path):
    source = write_notebook(
        tmp_path / "nb.ipynb",
        "print('said aloud')\nfrom IPython.display import HTML\nHTML('<b>box</b>')",
    )
    notebook = nbformat.read(source, as_version=4)
    notebook.cells[1].metadata["tags"] = ["headline"]
    new_text = nbformat.v4.new_markdown_cell
    notebook.cells[:] = [
        new_text("# Is it so?\n\nIn and out."),
        notebook.cells[0],
        new_text("## 1. Decide"),
        notebook.cells[1],
    ]
    nbformat.write(notebook, source)
    _, page = running.run_notebook(settings, source, [], 60)
    text = page.read_text()
    places = [
        text.index(part)
        for part in ("Is it so?", "<b>box</b>", "In and out.", "1. Decide", "said aloud")
    ]
    assert places == sorted(places)
    assert text.count("<b>box</b>") == 1


def test_a_failing_cell_ends_with_its_error_and_the_report_shows_it(settings, tmp_path):
    source = write_notebook(tmp_path / "nb.ipynb", "raise ValueError('mend this')")
    with pytest.raises(RuntimeError, match=r"nb.ipynb, cell \[2\].*\nValueError: mend this$"):
        running.run_notebook(settings, source, [], 60)
    assert "mend this" in (settings.reports / "nb_toolcall.html").read_text()


def test_a_cell_that_hangs_and_a_kernel_that_dies_end_the_run(settings, tmp_path):
    hanging = write_notebook(tmp_path / "a.ipynb", "import time; time.sleep(60)")
    with pytest.raises(RuntimeError, match="longer than 2 s"):
        running.run_notebook(settings, hanging, [], 2)
    dying = write_notebook(tmp_path / "b.ipynb", "import os; os._exit(1)")
    with pytest.raises(RuntimeError, match=r"kernel of b\.ipynb died"):
        running.run_notebook(settings, dying, [], 60)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("trak", "toolcall", "unknown parameter 'trak': this notebook has track, limit, rate"),
        ("limit", "ten", "limit=ten: expected int"),
        ("limit", "1.5", "limit=1.5: expected int"),
        ("rate", "True", "rate=True: expected float"),
        ("rate", "None", "rate=None: expected float"),
        ("track", "../../outside", "unknown track '../../outside'"),
        ("split", "../../outside", "unknown split '../../outside'"),
    ],
)
def test_a_parameter_that_does_not_fit_stops_before_the_run(
    settings, tmp_path, name, value, message
):
    parameters = 'track: str = "toolcall"\nlimit: int = None\nrate: float = 0.5'
    parameters += '\nsplit: str = "test"' if name == "split" else ""
    source = write_notebook(tmp_path / "nb.ipynb", "pass", parameters=parameters)
    with pytest.raises(ValueError, match=re.escape(message)):
        running.run_notebook(settings, source, [(name, value)], 60)
    assert not settings.reports.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["nb.ipynb"]


@pytest.mark.parametrize(
    ("notebook", "parameters", "name"),
    [
        ("02_eval", {}, ""),
        ("02_eval", {"batch_size": 8, "models": "azure,slm"}, ""),
        ("02_eval", {"shots": 4}, "-shots4"),
        ("02_eval", {"models": "slm-shots4,azure-shots4"}, "-shots4"),
        ("02_eval", {"models": "slm-shots4"}, "-slm-shots4"),
        ("02_eval", {"models": "azure,slm-shots4"}, "-azure+slm-shots4"),
        (
            "02_eval",
            {"models": "azure-native,slm-native", "split": "val"},
            "-azure-native+slm-native-val",
        ),
        ("03_decision", {"delta": 0.1}, ""),
        ("05_post_eval", {"native": True}, "-native"),
        ("05_post_eval", {"native": False}, ""),
        ("07_build", {"fold": 2}, "-fold2"),
    ],
)
def test_a_report_of_another_question_is_not_written_over_the_usual_one(notebook, parameters, name):
    known = papermill.inspect_notebook(str(ROOT / "notebooks" / f"{notebook}.ipynb"))
    assert name_question(known, parameters, "azure,slm") == name


@pytest.mark.parametrize(
    ("notebook", "parameters", "name"),
    [
        ("02_eval", {"models": "azure-native,slm-native"}, ""),
        ("02_eval", {"models": "azure,slm"}, "-azure+slm"),
        ("05_post_eval", {"native": True}, ""),
        ("05_post_eval", {"native": False}, "-by-hand"),
    ],
)
def test_the_usual_report_of_a_log_is_the_native_one(notebook, parameters, name):
    known = papermill.inspect_notebook(str(ROOT / "notebooks" / f"{notebook}.ipynb"))
    assert name_question(known, parameters, "azure-native,slm-native") == name


def test_typed_words_become_values_of_the_stated_types():
    known = {
        "track": {"default": '"toolcall"', "inferred_type_name": "str"},
        "limit": {"default": "None", "inferred_type_name": "int"},
        "rate": {"default": "0.0", "inferred_type_name": "float"},
        "fresh": {"default": "False", "inferred_type_name": "bool"},
    }
    words = [("track", "7e10"), ("limit", "None"), ("rate", "1"), ("fresh", "True")]
    assert parse_parameters(known, words) == {
        "track": "7e10",
        "limit": None,
        "rate": 1,
        "fresh": True,
    }


def swap(env: dict, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "swaplib.cli", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


def test_the_command_line_ends_with_one_message_and_status_1(env_of_tests, tmp_path):
    env = env_of_tests | {"SWAP_HOME": str(tmp_path)}
    for arguments, message in [
        (["run", "nowhere.ipynb"], "no notebook at nowhere.ipynb"),
        (["run", str(SOURCES[0]), "-p", "seed"], "expected -p name value"),
        (["run", str(SOURCES[0]), "-p", "sed", "1"], "unknown parameter 'sed'"),
        (["serve", "--model", "nowhere"], "no checkpoint at"),
        (["push-traces"], "LANGFUSE_PUBLIC_KEY"),
        (["download", "nothing"], "unknown checkpoint 'nothing'"),
    ]:
        done = swap(env, *arguments)
        assert done.returncode == 1, arguments
        assert message in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "endpoint", ["https://me:pass-word@far.example:8199/x", "http://me:pass-word/x@127.0.0.1:8199"]
)
def test_the_stand_in_repeats_no_password(env_of_tests, endpoint):
    done = swap(env_of_tests | {"AZURE_ENDPOINT": endpoint}, "stand-in", "true")
    assert done.returncode == 1
    assert "the stand-in serves on loopback" in done.stderr
    assert "pass" not in done.stderr + done.stdout


def test_what_a_check_says_reaches_the_terminal_as_text(env_of_tests, settings):
    code = "from swaplib import doctor, settings\n"
    code += "doctor.check_checkpoint_loads = doctor.check_hosted = str\n"
    code += r"doctor.check_rows = lambda _: 'rows of \x1b[2J\x1b]0;title\x07'" + "\n"
    code += "doctor.run_checks(settings.load_settings())"
    env = env_of_tests | {"SWAP_HOME": str(settings.swap_home)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120
    )
    assert "rows of \\x1b[2J" in done.stdout
    assert not re.search("[\x07\x1b]", done.stdout)


@pytest.mark.stand_in
def test_the_doctor_checks_the_real_thing(env_of_tests, tmp_path):
    done = swap(env_of_tests | {"SWAP_HOME": str(tmp_path)}, "doctor")
    lines = {line.partition(":")[0].split()[1]: line for line in done.stdout.splitlines()}
    assert done.returncode == 1  # the rows were not made in this home
    assert lines["rows"].startswith("FAIL")
    assert "01_data" in lines["rows"]
    for name in ("hosted", "checkpoint", "packages", "variables"):
        assert lines[name].startswith("ok"), lines[name]
    assert os.environ["AZURE_API_KEY"] not in done.stdout


@pytest.mark.parametrize(
    ("version", "status", "message"),
    [
        ("4.58.0", 200, "update it to 4.59"),
        ("4.70.1", 401, "check the two Langfuse keys"),
        ("4.70.1", 200, None),
    ],
)
def test_the_doctor_knows_an_old_langfuse_and_refused_keys(settings, version, status, message):
    from servers import as_json, serving

    from swaplib.doctor import check_langfuse

    def answer(exchange):
        return (
            as_json({"status": "OK", "version": version})
            if "health" in exchange.path
            else as_json({}, status)
        )

    with serving(answer) as (root, _):
        keys = {"langfuse_public_key": "pk", "langfuse_secret_key": "sk", "langfuse_base_url": root}
        settings = settings.model_copy(update={"swap_tracing": "langfuse", **keys})
        if message is None:
            assert "keys accepted" in check_langfuse(settings)
        else:
            with pytest.raises((ValueError, PermissionError), match=message):
                check_langfuse(settings)
