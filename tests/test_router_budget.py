"""A route's calls a day: booked before they are sent, over restarts, kills and processes."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

import httpx
import openai
import pytest
from kills import kill_at_step
from routes import CALL, REFUSE, always, hosted_at, list_calls, open_openai, served_route
from routes import write_route as write
from servers import completion, refusal, serving
from test_tool_api import AREA, CHAT

from swaplib.routing.daily_budget import BudgetBroken, BudgetSpent, DailyBudget
from swaplib.serving.server_process import find_free_port

ASKED = {
    "model": "slm",
    "messages": CHAT,
    "max_tokens": 4,
    "tools": [AREA],
    "tool_choice": "required",
}


def book(path, limit: int, n: int = 1) -> int:
    """Book calls as a server would; returns how many it got."""

    async def book_all() -> int:
        budget, booked = DailyBudget(path, limit), 0
        with suppress(BudgetSpent):
            for _ in range(n):
                await budget.book()
                booked += 1
        return booked

    return asyncio.run(book_all())


def today(days: int = 0) -> str:
    return (datetime.now(UTC).date() + timedelta(days=days)).isoformat()


def test_no_call_is_booked_beyond_the_limit_also_after_a_restart(tmp_path):
    path = tmp_path / "toolcall_router.budget.json"
    assert book(path, 3, 2) == 2
    assert json.loads(path.read_text()) == {"day": today(), "calls": 2}
    assert book(path, 3, 5) == 1
    assert book(path, 3) == 0
    assert book(path, 4) == 1  # a limit that was raised
    assert book(path, 2) == 0
    assert json.loads(path.read_text())["calls"] == 4


def test_a_new_day_has_new_calls_and_a_clock_set_back_gives_none(tmp_path):
    path = tmp_path / "b.json"
    path.write_text(json.dumps({"day": today(-1), "calls": 9}))
    assert book(path, 9) == 1
    assert json.loads(path.read_text()) == {"day": today(), "calls": 1}
    path.write_text(json.dumps({"day": today(1), "calls": 8}))
    assert book(path, 9, 5) == 1
    assert json.loads(path.read_text()) == {"day": today(1), "calls": 9}


def test_a_spent_budget_says_when_the_day_ends(tmp_path):
    with pytest.raises(BudgetSpent, match="the day's budget of 0 calls") as caught:
        asyncio.run(DailyBudget(tmp_path / "b.json", 0).book())
    now = datetime.now(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    assert abs((midnight - now).total_seconds() - caught.value.seconds) < 3


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"day": "2026-11-26"}',
        '{"day": "2026-11-26", "calls": -1}',
        '{"day": "2026-11-26", "calls": true}',
        '{"day": "2026-11-26", "calls": "1"}',
        '{"day": "today", "calls": 1}',
        '{"day": 20261126, "calls": 1}',
        '{"day": "2026-11-26", "calls": 1, "more": 1}',
        "\xff",
    ],
)
def test_a_broken_file_is_named_and_never_reset(tmp_path, content):
    path = tmp_path / "toolcall_router.budget.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=re.escape(str(path))):
        DailyBudget(path, 5).check()
    with pytest.raises(BudgetBroken, match=re.escape(str(path))):
        book(path, 5)
    assert path.read_text(encoding="latin-1") == content


def test_a_kill_at_any_step_forgets_no_call_that_was_sent(tmp_path):
    path, sent = tmp_path / "b.json", tmp_path / "sent"

    def work():
        for _ in range(3):
            book(path, 100)
            with sent.open("a") as file:
                file.write("x")

    step, was_killed = 0, True
    while was_killed:
        was_killed = kill_at_step(step, work)
        step += 1
        n_sent = len(sent.read_text()) if sent.exists() else 0
        booked = json.loads(path.read_text())["calls"] if path.exists() else 0
        assert booked >= n_sent
    assert step > 6
    assert booked - n_sent <= step  # at most the one in flight of each kill
    assert book(path, booked + 1, 5) == 1


BOOKING = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_router_budget import book
print(book(Path(sys.argv[1]), 60, 50))
"""


def test_processes_share_a_budget(tmp_path):
    command = [sys.executable, "-c", BOOKING, tmp_path / "b.json", os.path.dirname(__file__)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    booked = [int(process.communicate(timeout=120)[0]) for process in running]
    assert sum(booked) == 60
    assert json.loads((tmp_path / "b.json").read_text())["calls"] == 60


@pytest.mark.slow
def test_a_spent_budget_is_429_once_and_with_fail_open_the_slms_answer(settings, slm):
    with serving(always(CALL)) as (root, exchanges):
        at = hosted_at(settings, root)
        file = write(at, slm, REFUSE)
        with served_route(at, slm, file, daily_calls=1) as served:
            client = openai.OpenAI(base_url=served, api_key="any", max_retries=2)
            first = client.chat.completions.create(**ASKED)
            with pytest.raises(openai.RateLimitError) as caught:
                client.chat.completions.create(**ASKED)
        with served_route(at, slm, file, daily_calls=1, fail_open=True) as served:
            raw = open_openai(served).chat.completions.with_raw_response.create(**ASKED)
    assert first.choices[0].message.content == CALL
    assert len(list_calls(exchanges)) == 1
    assert caught.value.code == "hosted_budget_spent"
    headers = caught.value.response.headers
    assert headers["x-should-retry"] == "false"
    assert 0 < int(headers["retry-after"]) <= 86_401
    assert headers["x-swap-route"] == "hosted"
    assert raw.headers["x-swap-route"] == "slm"
    reason = json.loads(raw.content)["route"]["reason"]
    assert reason.startswith("confidence: mean_logprob")
    assert reason.endswith("the day's budget of 1 calls to the hosted LLM is spent")


@pytest.mark.slow
def test_retries_count_and_the_last_ones_are_not_made(settings, slm):
    script = iter([refusal(500), refusal(500), completion(CALL)])
    with serving(lambda exchange: next(script)) as (root, exchanges):
        at = hosted_at(settings, root)
        at_start = len(exchanges)  # the check of the endpoint is no call
        with (
            served_route(at, slm, write(at, slm, REFUSE), daily_calls=2) as served,
            pytest.raises(openai.RateLimitError, match="budget of 2 calls"),
        ):
            open_openai(served).chat.completions.create(**ASKED)
    assert at_start == 0
    assert len(list_calls(exchanges)) == 2


@pytest.mark.slow
def test_a_budget_that_breaks_while_serving_is_an_error_that_names_it(settings, slm):
    with serving(always(CALL)) as (root, exchanges):
        at = hosted_at(settings, root)
        file = write(at, slm, REFUSE)
        budget = file.with_name("toolcall_router.budget.json")
        with served_route(at, slm, file, daily_calls=9) as served:
            budget.write_text("{")
            answer = httpx.post(f"{served}/chat/completions", json=ASKED, timeout=60)
        with (
            pytest.raises(ValueError, match=re.escape(str(budget))),
            served_route(at, slm, file, daily_calls=9),
        ):
            pass
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "hosted_budget_broken"
    assert str(budget) in answer.json()["error"]["message"]
    assert list_calls(exchanges) == []
    assert budget.read_text() == "{"


@contextmanager
def serving_by_command(settings, slm, route, *options: str):
    """`swap serve --route` in a process of its own; yields it and its address."""
    port = find_free_port()
    model = ["--model", str(slm.checkpoint.path), "--port", str(port), "--route", str(route)]
    env = os.environ | {
        "AZURE_ENDPOINT": settings.azure_endpoint,
        "AZURE_API_KEY": settings.azure_api_key,
        "AZURE_DEPLOYMENT": settings.azure_deployment,
        "SWAP_HOME": str(settings.swap_home),
    }
    command = [sys.executable, "-m", "swaplib.cli", "serve", *model, "--api-key", "", *options]
    process = subprocess.Popen(command, env=env)
    root = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert process.poll() is None
            with suppress(httpx.TransportError):
                httpx.get(f"{root}/health", timeout=5)
                break
            time.sleep(0.5)
        yield process, f"{root}/v1"
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again_goes_on_with_its_budget(settings, slm):
    hosted, statuses = serving(always(CALL)), []
    with hosted as (root, exchanges):
        at = hosted_at(settings, root)
        file = write(at, slm, REFUSE)
        for _ in range(2):
            with serving_by_command(at, slm, file, "--daily-calls", "3") as (process, served):
                for _ in range(2):
                    answer = httpx.post(f"{served}/chat/completions", json=ASKED, timeout=60)
                    statuses.append(answer.status_code)
                process.kill()
    assert statuses == [200, 200, 200, 429]
    assert len(list_calls(exchanges)) == 3


@pytest.mark.slow
def test_options_of_a_route_need_one(slm):
    command = [sys.executable, "-m", "swaplib.cli", "serve", "--model", slm.checkpoint.path]
    done = subprocess.run([*command, "--daily-calls", "3"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "need --route" in done.stderr
