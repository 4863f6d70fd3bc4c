import jsonschema
import pytest
import raw_rows

from swaplib.data.tool_schemas import fits_type, format_signature, parse_tool, to_openai, to_schema

WHO = {"type": "str, optional, default 'me'", "description": "Who.", "default": "me"}
TOOL = {**raw_rows.TOOL, "parameters": {**raw_rows.TOOL["parameters"], "who": WHO}}
SCHEMA = {
    "type": "object",
    "properties": {
        "radius": {"type": "number", "description": "The radius."},
        "unit": {"type": "string", "enum": ["cm", "m"], "default": "cm"},
        "points": {"type": "array", "items": {"type": "integer"}},
    },
    "required": ["radius", "points"],
}


def test_a_signature_shows_types_defaults_and_what_is_optional_without_copying_the_types_words():
    assert format_signature(parse_tool(TOOL)) == (
        "area: Area of a circle.\n"
        "- radius (float): The radius.\n"
        '- unit (str, optional, default "cm"): The unit.\n'
        "- pair (Tuple[int, int], optional): Two.\n"
        '- who (str, optional, default "me"): Who.'
    )


@pytest.mark.parametrize(
    "raw",
    [
        {"name": "area", "description": "Area.", "parameters": SCHEMA},
        {
            "type": "function",
            "function": {"name": "area", "description": "Area.", "parameters": SCHEMA},
        },
    ],
)
def test_a_tool_as_json_schema_is_read_and_written_back_unchanged(raw):
    tool = parse_tool(raw)
    assert format_signature(tool) == (
        "area: Area.\n"
        "- radius (float): The radius.\n"
        '- unit (str, optional, default "cm"): One of "cm", "m".\n'
        "- points (List[int]): "
    )
    assert to_openai(tool)["function"] == {
        "name": "area",
        "description": "Area.",
        "parameters": SCHEMA,
    }


def test_what_a_parameter_refers_to_stays_with_the_tool():
    parameters = {
        "type": "object",
        "properties": {"place": {"$ref": "#/$defs/place"}},
        "required": ["place"],
        "additionalProperties": False,
        "$defs": {"place": {"enum": ["Rome", "Oslo"]}},
    }
    tool = parse_tool({"name": "f", "parameters": parameters})
    assert to_openai(tool)["function"]["parameters"] == parameters
    jsonschema.validate({"place": "Rome"}, to_openai(tool)["function"]["parameters"])


@pytest.mark.parametrize(
    "change",
    [
        {"properties": ["radius"]},
        {"properties": {"radius": {"type": {"a": 1}}}},
        {"properties": {"radius": {"enum": 5}}},
        {"properties": {"radius": {"anyOf": 5}}},
        {"required": True},
    ],
)
def test_parameters_that_are_no_json_schema_name_the_tool(change):
    with pytest.raises(ValueError, match="tool f: its parameters are no JSON Schema"):
        parse_tool({"name": "f", "parameters": SCHEMA | change})


def test_a_tool_of_xlam_may_have_parameters_named_type_and_properties():
    parameters = {
        "type": {"type": "str", "description": "t"},
        "properties": {"type": "List[str]", "description": "p"},
    }
    tool = parse_tool({"name": "f", "parameters": parameters})
    assert list(to_openai(tool)["function"]["parameters"]["properties"]) == ["type", "properties"]


def test_what_has_a_default_or_is_optional_is_not_required():
    function = to_openai(parse_tool(TOOL))["function"]
    assert function["parameters"]["required"] == ["radius"]
    assert function["parameters"]["properties"]["unit"] == {
        "type": "string",
        "description": "The unit.",
        "default": "cm",
    }


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("int", 5, 5.5),
        ("float", 5, "5"),
        ("str", "5", 5),
        ("bool", True, 1),
        ("List[int]", [1, 2], ["1"]),
        ("list", [1, "a"], "1"),
        ("List[List[str]]", [["a"]], ["a"]),
        ("List[Union[int, float]]", [1, 2.5], ["a"]),
        ("Tuple[float, float]", [1.5, 2], [1]),
        ("List[Tuple[int, int]]", [[1, 2]], [[1]]),
        ("set", [1], 1),
        ("Dict", {"a": 1}, [1]),
        ("Callable[[float], float]", "x**2", 2),
        ("Optional[int]", None, "a"),
    ],
)
def test_python_types_as_json_schema(kind, right, wrong):
    schema = to_schema(kind)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(right, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema)


@pytest.mark.parametrize(
    ("value", "kind", "is_right"),
    [
        (5, "float", True),
        (5.5, "int", False),
        (True, "int", False),
        (None, "str", False),
        ("5", "int", False),
        ([1], "List[float]", True),
        ({}, "list", False),
        ("x", "Any", True),
        (None, "Optional[str]", True),
    ],
)
def test_whether_a_value_is_of_the_declared_type(value, kind, is_right):
    assert fits_type(value, {"type": kind}) is is_right


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"name": 7, "parameters": {}}, "a tool with a name"),
        ({"name": "", "parameters": {}}, "a tool with a name"),
        ("area", "a tool with a name"),
        ({"name": "f", "parameters": 5}, "tool f: expected an object of parameters, found 5"),
        ({"name": "f", "parameters": []}, "tool f: expected an object of parameters"),
        (
            {"name": "f", "description": 5, "parameters": {}},
            "tool f: expected a text as its description",
        ),
        (
            {"name": "f", "parameters": {"x": {"description": "no type"}}},
            "tool f, parameter x: expected an object with a",
        ),
        ({"name": "f", "parameters": {"x": None}}, "tool f, parameter x"),
        (
            {"name": "f", "parameters": {"x": {"type": "int", "description": [1]}}},
            "tool f, parameter x: expected a text",
        ),
    ],
)
def test_a_malformed_tool_says_what_was_expected_where(raw, message):
    with pytest.raises(ValueError, match=message):
        parse_tool(raw)


@pytest.mark.parametrize(
    "raw", [{"name": "f"}, {"type": "function", "function": {"name": "f", "parameters": None}}]
)
def test_a_tool_without_parameters_is_read(raw):
    assert to_openai(parse_tool(raw))["function"]["parameters"] == {
        "type": "object",
        "properties": {},
        "required": [],
    }


def test_properties_with_a_list_of_required_ones_are_a_schema_without_a_type():
    tool = parse_tool(
        {"name": "f", "parameters": {"properties": {"x": {"type": "number"}}, "required": ["x"]}}
    )
    assert format_signature(tool) == "f: \n- x (float): "


def test_types_by_their_names_in_json_schema_keep_what_they_say():
    parameters = {
        "x": {"type": "number"},
        "y": {"type": "string, optional"},
        "z": {"type": "typing.List[int]"},
    }
    properties = to_openai(parse_tool({"name": "f", "parameters": parameters}))["function"][
        "parameters"
    ]["properties"]
    assert properties == {
        "x": {"type": "number"},
        "y": {"type": "string"},
        "z": {"type": "array", "items": {"type": "integer"}},
    }


def test_a_schema_that_takes_anything_takes_anything():
    assert fits_type(None, {"type": "Optional"})
    assert fits_type("x", {"type": "Any", "schema": {"anyOf": [True, {"type": "integer"}]}})


def test_a_parameter_without_a_description_is_read():
    assert (
        format_signature(parse_tool({"name": "f", "parameters": {"x": {"type": "int"}}}))
        == "f: \n- x (int): "
    )
