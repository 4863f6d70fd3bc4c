import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swaplib.models.names import CAPTURED, ModelName, parse_models


def list_parts(base: str):
    """Every set of parts that goes with a base: is_captured, is_full, is_native, shots."""
    captured, full = (
        (False, True) if base == "slm_ft" else (False,),
        (False,) if base == "azure" else (False, True),
    )
    return itertools.product(captured, full, (False, True), range(9))


MODELS = [
    ModelName(base, *parts) for base in ("azure", "slm", "slm_ft") for parts in list_parts(base)
]
ALL_NAMES = [str(model) for model in MODELS]


def test_a_name_that_was_written_is_read_back_as_it_was():
    assert [ModelName.parse(str(model)) for model in MODELS] == MODELS
    assert len(set(ALL_NAMES)) == len(MODELS)


@given(
    st.lists(
        st.sampled_from(["azure", "slm", "slm_ft", "captured", "full", "native", "shots4", "shots"])
    )
)
def test_whatever_is_read_is_written_back_as_it_was(words):
    text = "-".join(words)
    try:
        assert str(ModelName.parse(text)) == text
    except ValueError as error:
        assert "expected one of azure, slm, slm_ft" in str(error)
    else:
        assert text in ALL_NAMES


@given(st.text())
def test_any_text_is_a_known_name_or_refused_with_the_known_forms(text):
    if text not in ALL_NAMES:
        with pytest.raises(
            ValueError, match=r"azure, slm, slm_ft.*-captured.*-full.*-native.*-shots1 to -shots8"
        ):
            ModelName.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpt", "unknown model 'gpt'"),
        ("", "unknown model ''"),
        ("slm_ft ", "unknown model 'slm_ft '"),
        ("SLM", "unknown model 'SLM'"),
        ("slm-", "unknown model 'slm-'"),
        ("slm-shots", "unknown model 'slm-shots'"),
        ("slm-shots0", "unknown model 'slm-shots0'"),
        ("slm-shots04", "unknown model 'slm-shots04'"),
        ("slm-shots٤", "unknown model"),
        ("slm-shots4-shots4", "unknown model"),
        ("slm-shots4-native", "unknown model 'slm-shots4-native'.* in this order"),
        ("slm-native-full", "unknown model 'slm-native-full'.* in this order"),
        ("slm-shots9", "no model 'slm-shots9': a prompt takes 0 to 8 examples, not 9"),
        (
            "slm-captured",
            "no model 'slm-captured': captured rows make an adapter, and only slm_ft has one",
        ),
        ("azure-captured", "captured rows make an adapter"),
        ("azure-full", "no model 'azure-full': only a local checkpoint"),
    ],
)
def test_what_is_no_name_is_refused_in_words(text, message):
    with pytest.raises(ValueError, match=message):
        ModelName.parse(text)


@pytest.mark.parametrize(
    "parts", [{"base": "gpt"}, {"base": "slm", "shots": -1}, {"base": "azure", "is_full": True}]
)
def test_parts_that_do_not_go_together_are_refused_however_they_are_put(parts):
    with pytest.raises(ValueError, match="expected one of azure, slm, slm_ft"):
        ModelName(**parts)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("azure", "azure (hosted)"),
        ("azure-native", "azure-native (hosted, native tool calls)"),
        ("slm", "slm (local)"),
        ("slm-shots1", "slm-shots1 (local, 1 example)"),
        ("slm-shots4", "slm-shots4 (local, 4 examples)"),
        ("slm-full", "slm-full (local, not quantised)"),
        ("slm_ft-captured", "slm_ft-captured (local, adapter, captured rows)"),
    ],
)
def test_a_name_as_a_person_reads_it(text, label):
    assert ModelName.parse(text).label == label


def test_only_the_hosted_model_is_hosted_however_it_is_asked():
    assert {model.base for model in MODELS if model.is_hosted} == {"azure"}
    assert all(model.is_hosted for model in MODELS if model.base == "azure")


def test_the_adapter_of_a_model_is_the_tracks_or_the_one_of_captured_rows():
    assert ModelName.parse("slm_ft-full-shots2").name_adapter("toolcall") == "toolcall"
    assert CAPTURED.name_adapter("toolcall") == "toolcall-captured"
    assert ModelName("slm").name_adapter("toolcall") is None


def test_models_are_read_in_their_order_and_take_the_examples_that_they_do_not_name():
    assert list(map(str, parse_models("slm_ft, azure", 4))) == ["slm_ft-shots4", "azure-shots4"]
    assert list(map(str, parse_models("slm,slm-shots2"))) == ["slm", "slm-shots2"]
    assert list(map(str, parse_models("slm,slm_ft-shots2", 2))) == ["slm-shots2", "slm_ft-shots2"]


@pytest.mark.parametrize(
    ("models", "shots", "message"),
    [
        ("slm, slm", 0, "names a model twice"),
        ("slm,slm-shots4", 4, "names a model twice"),
        (
            "slm,slm-shots4",
            2,
            "shots=2 and the model 'slm-shots4' ask for different examples: say it in one place",
        ),
        ("slm", 9, "0 to 8"),
        ("slm,", 0, "unknown model ''"),
    ],
)
def test_models_that_cannot_be_asked_for_together_are_refused(models, shots, message):
    with pytest.raises(ValueError, match=message):
        parse_models(models, shots)
