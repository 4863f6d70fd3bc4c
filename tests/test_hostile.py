"""Hostile outputs, prompts and servers: scored as wrong, shown as text, and no key leaves a run."""

import base64
import os
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import start_process
from servers import as_json, completion, refusal, serving

from swaplib import metrics
from swaplib.evaluation import error_analysis
from swaplib.report import tables
from swaplib.rows import Generation, LedgerLine, Row, write_rows
from swaplib.settings import ROOT, load_settings

pytestmark = pytest.mark.slow

GOLD = {
    "toolcall": '<tool_call name="area">{"radius":5,"unit":"cm"}</tool_call>',
    "structured": "[1]",
}
OPEN, CLOSE = '<tool_call name="x">', "</tool_call>"

PIECES = (
    *(
        OPEN,
        CLOSE,
        '<tool_call name="',
        '">',
        "[",
        "]",
        '{"a":',
        "{",
        "}",
        '"',
        "\\",
        ",",
        "1",
        "-",
        "0.",
        "```",
        "é",
        " ",
    ),
    *(
        "9" * 5000,
        "1e999",
        "NaN",
        "\ud800",
        "\udfff",
        "\\ud800",
        "\0",
        "\\u0000",
        "\x1b[31m",
        "\u2028",
        "\x85",
        "\r\n",
    ),
)
pieces = st.sampled_from(PIECES)
texts = st.lists(
    st.tuples(pieces | st.text(max_size=5), st.sampled_from([1, 1, 1, 2, 3, 1200])), max_size=12
)


def take_all_steps(track: str, output: str) -> dict[str, bool]:
    """All that becomes of an output: scored, written, read, diagnosed, shown."""
    scores = metrics.score_row(track, GOLD[track], output)
    line = LedgerLine(0, "", Generation(output, "ok", "stop", 1, 1, 1.0), scores)
    assert LedgerLine.from_json(line.to_json().encode().decode()) == line
    found = error_analysis.diagnose(track, [Row("Request", GOLD[track])], [line])
    assert found["right"] == all(scores.values())
    unequal = {"compared": "", "differing": [{"row": 0, "first": output, "second": output}]}
    tables.show_unequal({"comparisons": [unequal]}).to_html().encode()
    return scores


@given(st.sampled_from(metrics.TRACKS), texts)
def test_any_output_is_scored_and_shown(track, parts):
    output = "".join(piece * times for piece, times in parts)
    scores = take_all_steps(track, output)
    assert not any(scores.values()) or metrics.parse_output(track, output) is not None


# texts of about n characters that have cost others quadratic time, a stack, or their process
SHAPES = {
    "brackets": lambda n: "[" * n,
    "objects": lambda n: '{"a":' * (n // 5),
    "brackets in a wrapper": lambda n: f'{OPEN}{{"a":{"[" * (n // 2)}{"]" * (n // 2)}}}{CLOSE}',
    "closed brackets": lambda n: "[" * (n // 2) + "]" * (n // 2),
    "wrappers never closed": lambda n: OPEN * (n // 20),
    "wrappers closed once": lambda n: OPEN * (n // 20) + CLOSE,
    "closings": lambda n: CLOSE * (n // 12),
    "many calls": lambda n: f"{OPEN}{{}}{CLOSE}" * (n // 34),
    "a name without an end": lambda n: '<tool_call name="' + "a" * n,
    "an open string": lambda n: '{"a": "' + "x" * n,
    "escapes": lambda n: '"' + "\\" * n,
    "an array": lambda n: "[" + "1," * (n // 2) + "1]",
    "an open array": lambda n: "[" + "1," * (n // 2),
    "keys": lambda n: "{" + ",".join(f'"{i}":1' for i in range(n // 10)) + "}",
    "huge integers": lambda n: "[" + ",".join(["9" * 4300] * (n // 4301)) + "]",
    "one huge integer": lambda n: "9" * n,
    "digits of a fraction": lambda n: "0." + "1" * n,
    "half surrogate pairs": lambda n: '"' + "\ud800" * n + '"',
    "NUL": lambda n: "\0" * n,
    "spaces": lambda n: " " * n,
    "prose with brackets": lambda n: "see [1] and {x} " * (n // 16),
}


def measure_s(track: str, text: str) -> float:
    def once() -> float:
        start = time.process_time()
        take_all_steps(track, text)
        return time.process_time() - start

    return min(once() for _ in range(3))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_work_does_not_grow_with_the_square_of_the_text(shape):
    for track in metrics.TRACKS:
        short, long = (measure_s(track, SHAPES[shape](n)) for n in (20_000, 600_000))
        # 30 would be linear, 900 the square.
        assert long < 300 * max(short, 0.001), (track, short, long)


@pytest.mark.parametrize(
    "shape", ["brackets", "wrappers never closed", "an open string", "huge integers"]
)
def test_ten_megabytes_are_scored_as_wrong(shape):
    text = SHAPES[shape](10_000_000)
    assert len(text) > 9_000_000
    for track in metrics.TRACKS:
        assert not all(take_all_steps(track, text).values())


def test_nesting_a_hundred_thousand_deep_is_scored_as_wrong():
    for text in (
        "[" * 100_000 + "]" * 100_000,
        f'{OPEN}{{"a":{"[" * 100_000}{"]" * 100_000}}}{CLOSE}',
    ):
        for track in metrics.TRACKS:
            assert not any(take_all_steps(track, text).values())


MARK = "document.documentElement.dataset.ran=1"
PLANTED = [
    (
        f"<script>{MARK}</script></pre></div></td></tr></table></body></html>"
        "<h1 class=planted>broken</h1>\x1b[31mred"
    ),
    f'<img class=planted src=x onerror="{MARK}"><svg class=planted onload="{MARK}"></svg>]]><!--',
    (
        f'<a class=planted href="javascript:{MARK}">click</a> [click](javascript:{MARK}) '
        "<style>body{display:none}</style>"
    ),
    f"\x1b]0;title\x07 \x9b2J \u202e reversed $$\\href{{javascript:{MARK}}}{{x}}$$ \\(x\\) \0",
    f"<iframe class=planted srcdoc='<script>parent.{MARK}</script>'></iframe>"
    f"{{{{constructor.constructor('{MARK}')()}}}}" + "x" * 300_000,
]
CANARIES = {
    "AZURE_API_KEY": "canary-azure-5d1f",
    "SLM_API_KEY": "canary-slm-77ab",
    "LANGFUSE_PUBLIC_KEY": "canary-public-01ce",
    "LANGFUSE_SECRET_KEY": "canary-secret-9e42",
}


class Page(HTMLParser):
    """What a browser made of a page: classes, attributes that hold code, and all text."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.code, self.classes, self.text = [], [], set(), ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.classes |= set((dict(attributes).get("class") or "").split())
        code = [
            v
            for k, v in attributes
            if k.startswith("on") or (v or "").startswith("javascript:") or k == "srcdoc"
        ]
        self.code += code

    def handle_data(self, data):
        self.text += data


def open_in_chromium(html: Path, profile: Path) -> str:
    """The page's document after its scripts have run; skips where there is no Chromium."""
    browser = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if browser is None or subprocess.run([browser, "--version"], capture_output=True).returncode:
        pytest.skip("no Chromium that starts here: apt-get install chromium (.ci/run does)")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
    ]
    flags += [
        "--disable-component-update",
        "--disable-sync",
        "--virtual-time-budget=2000",
        f"--user-data-dir={profile}",
    ]
    command = [browser, *flags, "--dump-dom", html.as_uri()]
    done = subprocess.run(command, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.decode("utf-8", "replace")


def swap(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "swaplib.cli", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def hostile_home(tmp_path_factory) -> tuple[Path, str]:
    """A home in which 02 met hostile rows, models and servers; and all that was said."""
    home = tmp_path_factory.mktemp("hostile")
    rows = [Row(f"{i} {text}", GOLD["toolcall"]) for i, text in enumerate(PLANTED)]
    write_rows(home / "02_dataset" / "toolcall" / "test.jsonl", rows)

    def answer(exchange):
        index = int(exchange.json()["messages"][-1]["content"].split()[0])
        return completion(PLANTED[index] + "\ud83d" * (index == 3))

    env = (
        dict(os.environ)
        | CANARIES
        | {"SWAP_HOME": str(home), "SWAP_ROW_LIMIT": "", "SWAP_TRACING": "langfuse"}
    )
    notebook = ["run", str(ROOT / "notebooks" / "02_eval.ipynb"), "-p", "models", "azure"]
    refusals = (
        refusal(401, code=CANARIES["AZURE_API_KEY"]),
        refusal(500, **{"retry-after-ms": "1"}),
    )
    with serving(lambda _: as_json({}, 401)) as (langfuse, _):
        env |= {"LANGFUSE_BASE_URL": langfuse}
        with serving(answer) as (root, exchanges):
            done = swap(env | {"AZURE_ENDPOINT": f"{root}/openai/deployments/gpt"}, *notebook)
            assert done.returncode == 0, done.stdout + done.stderr
            assert exchanges[0].headers["api-key"] == CANARIES["AZURE_API_KEY"]
        said = [done.stdout, done.stderr]
        (home / "05_eval" / "reports" / "02_eval_toolcall-azure.html").rename(home / "hostile.html")
        with serving(lambda _: refusals[0]) as (root, _):
            endpoint = {"AZURE_ENDPOINT": f"{root}/openai/deployments/gpt", "OPENAI_LOG": "debug"}
            done = swap(env | endpoint, *notebook)
            said += [done.stdout, done.stderr]
            assert "answered 401" in done.stderr
        with serving(lambda _: refusals[1]) as (root, _):
            settings = load_settings().model_copy(update={"swap_home": home})
            said += start_process(settings, root, env | {"OPENAI_LOG": "debug"}).communicate()
            assert "5 × InternalServerError 500" in "".join(filter(None, said))
        for command in (["push-traces"], ["doctor"]):
            done = swap(env | {"SLM_MODEL_PATH": str(home / "nothing")}, *command)
            said += [done.stdout, done.stderr]
    return home, "".join(filter(None, said))


def test_hostile_outputs_and_prompts_are_text_in_a_report(hostile_home, tmp_path):
    home, _ = hostile_home
    control = tmp_path / "control.html"
    control.write_text(PLANTED[0].partition("</pre>")[0] + PLANTED[1])
    planted = open_in_chromium(control, tmp_path / "profile")
    assert "planted" in Page(planted).classes
    assert "data-ran" in planted  # this browser would have run it
    html = open_in_chromium(home / "hostile.html", tmp_path / "profile")
    assert "data-ran" not in html
    page = Page(html)
    assert "planted" not in page.classes
    assert not page.code
    assert not {"iframe", "svg"} & set(page.tags)
    assert "How to read this." in page.text  # the end of the report
    assert page.text.count(f"<script>{MARK}</script></pre>") >= 2  # in prompt and output
    assert "\\x1b[31mred" in page.text
    assert "… (cut: 300," in page.text


def test_a_report_loads_nothing_from_elsewhere(hostile_home):
    home, _ = hostile_home
    assert not re.findall(r'(?:src|href)="https?://[^"]*"', (home / "hostile.html").read_text())


def test_no_key_is_in_any_file_or_word_of_runs_that_went_well_or_failed(hostile_home):
    home, said = hostile_home
    pair = f"{CANARIES['LANGFUSE_PUBLIC_KEY']}:{CANARIES['LANGFUSE_SECRET_KEY']}".encode()
    secrets = [*(value.encode() for value in CANARIES.values()), base64.b64encode(pair)]
    files = [path for path in home.rglob("*") if path.is_file()]
    assert {".ipynb", ".html", ".jsonl", ".json"} <= {path.suffix for path in files}
    assert not [
        (path.name, secret) for path in files for secret in secrets if secret in path.read_bytes()
    ]
    assert not [secret for secret in secrets if secret.decode() in said]
    for expected in ("NOT delivered", "answered 401", "FAIL  checkpoint"):
        assert expected in said
