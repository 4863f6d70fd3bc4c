"""A nested JSON Schema is shown in a prompt to its last key, and calls are checked against it."""

import json

import jsonschema
import pytest

from swaplib.data.nested_schemas import list_nested, name_type, resolve
from swaplib.data.tool_schemas import format_signature, parse_tool, to_openai

PARTY = {
    "name": "book_table",
    "description": "Book a table.",
    "parameters": {
        "type": "object",
        "$defs": {
            "guest": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "description": "The full name."},
                    "diet": {"enum": ["any", "vegan"], "default": "any"},
                    "seats": {"type": "array", "items": {"type": "integer"}},
                },
                "required": ["name"],
            },
            "hour": {"type": "string", "description": "HH:MM."},
        },
        "properties": {
            "at": {"$ref": "#/$defs/hour"},
            "guests": {
                "type": "array",
                "description": "Who comes.",
                "items": {"$ref": "#/$defs/guest"},
            },
            "place": {
                "type": "object",
                "properties": {
                    "room": {"type": "string"},
                    "window": {
                        "type": "object",
                        "properties": {"side": {"type": "string", "enum": ["north", "south"]}},
                        "required": ["side"],
                    },
                },
                "required": ["room"],
            },
            "pay": {
                "anyOf": [
                    {
                        "type": "object",
                        "description": "By card.",
                        "properties": {"card": {"type": "string"}},
                        "required": ["card"],
                    },
                    {"type": "null"},
                ]
            },
            "tags": {"type": "array", "items": {"enum": ["loud", "quiet"]}},
            "notes": {"type": "object", "additionalProperties": {"type": "string"}},
            "host": {"allOf": [{"$ref": "#/$defs/guest"}], "description": "Who invites."},
        },
        "required": ["at", "guests"],
    },
}


def test_every_key_of_a_nested_schema_is_shown_with_type_need_and_values():
    assert format_signature(parse_tool(PARTY)) == (
        "book_table: Book a table.\n"
        "- at (str): HH:MM.\n"
        "- guests (List[dict]): Who comes.\n"
        "  each:\n"
        "  - name (str): The full name.\n"
        '  - diet (str, optional, default "any"): One of "any", "vegan".\n'
        "  - seats (List[int], optional):\n"
        "- place (dict, optional): \n"
        "  - room (str):\n"
        "  - window (dict, optional):\n"
        '    - side (str): One of "north", "south".\n'
        "- pay (Union[dict, None], optional): \n"
        "  either dict: By card.\n"
        "  - card (str):\n"
        "- tags (List[str], optional): \n"
        '  each: One of "loud", "quiet".\n'
        "- notes (dict, optional): \n"
        "  - any other key (str)\n"
        "- host (dict, optional): Who invites.\n"
        "  - name (str): The full name.\n"
        '  - diet (str, optional, default "any"): One of "any", "vegan".\n'
        "  - seats (List[int], optional):"
    )


def test_the_api_is_sent_the_schema_as_it_came():
    sent = to_openai(parse_tool(PARTY))["function"]["parameters"]
    assert sent == PARTY["parameters"]
    jsonschema.validate({"at": "19:00", "guests": [{"name": "Ann"}]}, sent)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"at": "19:00", "guests": [{"diet": "any"}]}, sent)


@pytest.mark.parametrize(
    "schema", [{"$ref": "#/$defs/a"}, {"$ref": "#/nowhere"}, {"$ref": "http://x.org/y"}, True, None]
)
def test_a_reference_that_leads_nowhere_or_in_a_circle_is_anything(schema):
    root = {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}
    assert resolve(schema, root) == {}
    assert name_type(schema, root) == "Any"
    assert list_nested(schema, root) == []


def test_a_schema_that_holds_itself_is_shown_to_a_depth():
    tree = {"type": "object", "properties": {"left": {"$ref": "#/$defs/tree"}}}
    lines = list_nested({"$ref": "#/$defs/tree"}, {"$defs": {"tree": tree}})
    assert lines == ["  " * depth + "- left (dict, optional):" for depth in range(1, 5)]


def test_flat_parameters_have_no_line_besides_their_own():
    flat = {"type": "string", "enum": ["a"], "default": "a"}
    assert (
        list_nested(flat, {})
        == list_nested({"type": "array", "items": {"type": "string"}}, {})
        == []
    )
    assert list_nested(json.loads('{"anyOf": [{"type": "string"}, {"type": "null"}]}'), {}) == []
