import ast
import json

import papermill
import pytest
from raw_rows import TOOL, rename, toolcall_row, write_own

from swaplib.data import dataset
from swaplib.evaluation import foresight
from swaplib.files import write_json
from swaplib.metrics import TRACKS
from swaplib.report import data_tables
from swaplib.rows import Row
from swaplib.settings import ROOT

SIZES = dict.fromkeys(TRACKS, "1/1/1")


@pytest.fixture
def list_found(settings, tmp_path):
    """Build own rows of one track; by the words of each warning, how many rows it is about."""

    def build(
        track: str,
        near: dict | None = None,
        tools: list | None = None,
        limit: int = 256,
        **splits: list[Row],
    ):
        own = write_own(tmp_path / "own", track, **splits)
        if tools:
            write_json(own / "tools.json", tools)
        made = dataset.build_dataset(settings, str(own), SIZES)
        made.manifest.update({"near_duplicates": near} if near else {})
        warnings = foresight.list_warnings(settings, made, limit)
        assert all(warning["track"] == track and warning["meaning"] for warning in warnings)
        return {warning["warning"]: (warning["rows"], warning["of"]) for warning in warnings}

    return build


def find(found: dict[str, tuple[int, int]], words: str) -> tuple[int, int] | None:
    return next((counts for warning, counts in found.items() if words in warning), None)


def test_structured_prompts_without_a_word_about_the_form(list_found):
    rows = [
        Row("Reply with a JSON list: 1", "[]"),
        Row("An Object, please", "{}"),
        Row("Jsonny, an objection", "{}"),
    ]
    # Val and test say only a word.
    assert find(list_found("structured", train=rows), "none of the words JSON") == (3, 5)


def test_toolcall_prompts_without_the_wrapper(list_found):
    rows = [
        toolcall_row('Answer like <tool_call name="pour_tea">{}</tool_call>', "area"),
        toolcall_row("Go", "area"),
    ]
    assert find(list_found("toolcall", train=rows), "without <tool_call") == (3, 4)


def test_prompts_that_name_the_form_are_not_warned_of(list_found):
    rows = {split: [Row(f"JSON for {split}", '{"a":1}')] for split in ("train", "val", "test")}
    assert find(list_found("structured", **rows), "none of the words") is None


@pytest.mark.parametrize(
    ("completion", "is_canonical"),
    [
        ('{"a":1,"b":2}', True),
        ('{"b":2,"a":1}', False),
        ('{"a": 1}', False),
        ('{"a":"é"}', True),
        ("[1,2]", True),
    ],
)
def test_golds_that_are_not_canonical_are_counted(list_found, completion, is_canonical):
    found = list_found("structured", train=[Row("JSON", completion)])
    assert find(found, "canonical") == (None if is_canonical else (1, 3))


def test_calls_that_are_not_canonical_are_counted(list_found):
    rows = [
        toolcall_row("1", "area", '{"a":1,"b":{"c":1,"d":2}}'),
        toolcall_row("2", "area", '{"b":1,"a":2}'),
    ]
    assert find(list_found("toolcall", train=rows), "canonical") == (1, 4)


def test_objects_with_another_order_of_keys_than_most(list_found):
    golds = ['{"a":1,"b":2}', '{"a":3,"b":4}', '{"b":5,"a":6}', '{"c":1}']
    found = list_found("structured", train=[Row(f"JSON {gold}", gold) for gold in golds])
    assert find(found, "another order") == (1, 6)
    assert find(list_found("structured", train=[Row("JSON", golds[0])]), "another order") is None


def test_golds_that_lack_a_key_of_others(list_found):
    rows = {split: [Row(f"JSON {split}", '{"a":1,"b":2}')] for split in ("train", "val", "test")}
    assert find(list_found("structured", **rows), "without a key") is None
    rows["train"] = [Row("JSON", '{"a":1}')]
    assert find(list_found("structured", **rows), "without a key") == (1, 3)
    rows["val"] = [Row("JSON and more", "[]")]
    assert find(list_found("structured", **rows), "without a key") is None  # lists have no keys


def test_answers_that_reach_the_limit_of_tokens(list_found, checkpoint):
    long = json.dumps({"words": "yes " * 60}, separators=(",", ":"))
    tokens = checkpoint.count_tokens(long)
    rows = {"test": [Row("JSON", long)]}
    # The end is a token, too.
    assert find(list_found("structured", limit=tokens, **rows), "do not fit") == (1, 3)
    assert find(list_found("structured", limit=tokens + 1, **rows), "do not fit") is None


def test_rows_that_are_too_long_to_train_on(list_found):
    long = [Row(f"JSON {'word ' * 3_000}", "{}")]
    assert find(list_found("structured", train=long), "longer than 2,048 tokens") == (1, 2)
    assert find(list_found("structured", test=long), "longer than") is None  # nobody trains on test


def test_without_a_checkpoint_lengths_are_not_looked_at_and_the_preview_says_so(settings, tmp_path):
    settings = settings.model_copy(update={"slm_model_path": tmp_path / "nowhere"})
    own = write_own(tmp_path / "own", "structured", train=[Row(f"JSON {'word ' * 3_000}", "{}")])
    made = dataset.build_dataset(settings, str(own), SIZES)
    assert not any(
        "longer" in warning["warning"] for warning in foresight.list_warnings(settings, made)
    )
    assert "no checkpoint at" in foresight.preview_prompts(settings, made.rows)[-1]["text"]
    assert (
        "no checkpoint at" in foresight.count_tokens(made.rows, settings.slm_model_path)[0]["track"]
    )


def test_few_test_rows_are_warned_of_with_the_interval_of_a_rate(settings, tmp_path):
    rows = [Row(f"JSON {i}", "{}") for i in range(50)]
    for n, expected in (
        (50, []),
        (49, ["A rate of 0.49 has the 95% interval [0.36, 0.63]"]),
        (1, ["[0.00, 0.79]"]),
    ):
        made = dataset.build_dataset(
            settings, str(write_own(tmp_path / "own", "structured", test=rows[:n])), SIZES
        )
        found = [
            w["meaning"]
            for w in foresight.list_warnings(settings, made)
            if "test rows" in w["warning"]
        ]
        assert len(found) == len(expected)
        assert all(part in meaning for part, meaning in zip(expected, found, strict=True))


def test_one_tool_to_call_gives_its_name_away(list_found):
    assert find(list_found("toolcall", tools=[TOOL]), "one tool") == (3, 3)
    assert find(list_found("toolcall", tools=[TOOL, rename("volume")]), "one tool") is None


def test_without_tools_one_name_in_all_golds_gives_it_away(list_found):
    assert find(list_found("toolcall"), "one tool") == (3, 3)
    assert find(list_found("toolcall", val=[toolcall_row("v", "volume")]), "one tool") is None


def test_a_large_cluster_of_nearly_equal_prompts(list_found):
    rows = [Row(f"JSON {i}", "{}") for i in range(18)]
    assert find(list_found("structured", {"largest": 3}, train=rows), "one cluster") == (3, 20)
    assert find(list_found("structured", {"largest": 2}, train=rows), "one cluster") is None


def test_a_prompt_is_shown_as_each_model_sees_it(settings, checkpoint, tmp_path):
    own = write_own(
        tmp_path / "own", "structured", test=[Row("JSON of <b>Rome</b>", "{}"), Row("JSON", "[]")]
    )
    made = dataset.build_dataset(settings, str(own), SIZES)
    system, user, slm = foresight.preview_prompts(settings, made.rows)
    assert (system["part"], user["part"]) == ("system message", "user message")
    assert user["text"] == "JSON of <b>Rome</b>"
    messages = [
        {"role": "system", "content": system["text"]},
        {"role": "user", "content": user["text"]},
    ]
    assert slm["text"] == checkpoint.render(messages)
    served = settings.model_copy(update={"slm_base_url": "http://127.0.0.1:9/v1"})
    assert "the same messages" in foresight.preview_prompts(served, made.rows)[-1]["text"]


def test_the_limits_are_those_of_the_notebooks():
    known = papermill.inspect_notebook(str(ROOT / "notebooks" / "02_eval.ipynb"))
    assert ast.literal_eval(known["max_new_tokens"]["default"]) == foresight.MAX_NEW_TOKENS


def test_tables_of_01_show_what_was_found_and_escape_prompts():
    near = {"clusters": 1, "rows": 4, "largest": 4}
    counts = {"rows": {"structured": {"test": 30}}, "repeated_prompts": {"structured": {"test": 0}}}
    manifest = counts | {
        "sha256": {"structured/test.jsonl": "0" * 64},
        "sizes_asked": {"structured": {"test": "30%"}},
    }
    assert "clusters" not in data_tables.show_manifest(manifest).to_html()
    page = data_tables.show_manifest(manifest | {"near_duplicates": near}).to_html()
    assert "1 cluster(s) of nearly equal prompts, 4 rows in them, the largest of 4" in page
    assert "30%" in page
    assert "nothing found" in data_tables.show_warnings([]).to_html()
    warning = {
        "track": "structured",
        "warning": "odd ones",
        "rows": 3,
        "of": 5,
        "meaning": "Harmless.",
    }
    assert "3 of 5" in data_tables.show_warnings([warning]).to_html()
    asked = {
        "track": "structured",
        "model": "SLM",
        "part": "text",
        "text": "<|im_start|>user <b>Rome</b>",
    }
    assert "&lt;|im_start|&gt;user &lt;b&gt;Rome" in data_tables.show_asked([asked]).to_html()
