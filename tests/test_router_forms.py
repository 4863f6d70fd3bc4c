"""Requests in words and with tools are two questions: a route answers the one it was chosen on."""

import json

import openai
import pytest
from routes import always, hosted_at, list_calls, open_openai, served_route, write_route
from servers import serving
from test_router_serve import ask
from test_tool_api import AREA

from swaplib.files import write_json
from swaplib.report import route_report
from swaplib.routing.answers import read_known
from swaplib.routing.route_file import audit_of, path_of, read_audit, read_route
from swaplib.serving.openai_format import ChatRequest
from swaplib.serving.routed import RoutedRequest
from swaplib.serving.tool_api import read_request

CHAT = [{"role": "user", "content": "Area of a circle of 5 cm?"}]
PLAIN = {"tools": openai.omit, "tool_choice": openai.omit}
IN_WORDS = {"tools": [AREA], "tool_choice": "none"}


def make_request(**body) -> RoutedRequest:
    read = ChatRequest(messages=CHAT, **body)
    return RoutedRequest(read, read_request(read), None, 0.0)


@pytest.mark.parametrize("choice", ["none", "auto", "required"])
def test_offered_tools_are_known_whether_they_may_be_called_or_not(choice):
    known = read_known("toolcall", make_request(tools=[AREA], tool_choice=choice))
    assert [tool["function"]["name"] for tool in known.tools] == ["area"]
    assert known.request == CHAT[0]["content"]


def test_earlier_turns_of_the_user_and_results_of_tools_name_values_and_instructions_do_not():
    call = {"id": "c1", "type": "function", "function": {"name": "area", "arguments": "{}"}}
    turns = [
        {"role": "system", "content": "For example u-1."},
        {"role": "user", "content": "I am u-2."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "order o-3"},
        {"role": "user", "content": "Send it."},
    ]
    read = ChatRequest(messages=turns, tools=[AREA])
    known = read_known("toolcall", RoutedRequest(read, read_request(read), None, 0.0))
    assert known.request == "I am u-2.\n\norder o-3\n\nSend it."


def test_a_request_without_tools_or_schema_tells_nothing():
    assert not read_known("toolcall", make_request()).has_facts


def test_tools_of_a_structured_answer_are_known_and_a_schema_goes_before_them():
    assert read_known("structured", make_request(**IN_WORDS)).tools
    schema = {"type": "object", "properties": {"total": {"type": "number"}}}
    form = {"type": "json_schema", "json_schema": {"name": "bill", "schema": schema}}
    known = read_known("structured", make_request(response_format=form))
    assert (known.schema, known.tools) == (schema, ())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "accepted", "refused"),
    [("slm", (PLAIN, IN_WORDS), {}), ("slm-native", ({},), PLAIN)],
)
def test_a_request_in_another_form_goes_to_the_hosted_llm(settings, slm, model, accepted, refused):
    with serving(always("so be it")) as (root, exchanges):
        at = hosted_at(settings, root)
        with served_route(at, slm, write_route(at, slm, model=model)) as served:
            client = open_openai(served)
            for body in accepted:
                assert ask(client, max_tokens=4, **body).headers["x-swap-route"] == "slm"
            assert list_calls(exchanges) == []
            other = ask(client, max_tokens=4, **refused)
    route = json.loads(other.content)["route"]
    assert (route["answered_by"], route["validator"]) == ("hosted", "request")
    assert "choose one for" in route["reason"]


@pytest.mark.slow
def test_tools_that_may_not_be_called_are_not_sent_to_the_hosted_llm(settings, slm):
    with serving(always("so be it")) as (root, exchanges):
        at = hosted_at(settings, root)
        route = write_route(at, slm, threshold=0.0, model="slm")
        with served_route(at, slm, route) as served:
            answer = ask(open_openai(served), max_tokens=4, **IN_WORDS)
    assert answer.headers["x-swap-route"] == "hosted"
    [call] = list_calls(exchanges)
    assert not {"tools", "tool_choice"} & set(call.json())


def test_a_route_that_is_chosen_again_and_is_the_same_keeps_its_audit(settings, slm):
    first = read_route(write_route(settings, slm))
    again = read_route(write_route(settings, slm, run={"run_id": "another"}))
    assert first.key == again.key
    assert read_route(write_route(settings, slm, threshold=-1.0)).key != first.key


def test_09_shows_what_the_audit_has_counted(settings, slm):
    path = path_of(settings, "toolcall")
    route = read_route(write_route(settings, slm))
    assert read_audit(settings, "toolcall") is None
    assert "nobody has audited" in route_report.show_audit(None, route).to_html()
    counted = {
        "route_sha256": route.key,
        "since": "2026-11-26",
        "outcomes": {"agreed": 3, "disagreed": 9, "hosted_errors": 1},
        "n": 12,
        "agreed": 3,
        "rate": 0.25,
        "interval": [0.09, 0.53],
        "val_interval": [0.89, 0.98],
        "is_drifting": True,
    }
    write_json(audit_of(path), counted)
    shown = route_report.show_audit(read_audit(settings, "toolcall"), route).to_html()
    assert "0.25 [0.09, 0.53] of 12" in shown
    assert "[0.89, 0.98]" in shown
    assert "yes: run 01 to 09 with new rows" in shown
    assert "hosted_errors 1" in shown
    write_json(audit_of(path), counted | {"route_sha256": "0" * 64, "is_drifting": False})
    assert (
        "an earlier route"
        in route_report.show_audit(read_audit(settings, "toolcall"), route).to_html()
    )
