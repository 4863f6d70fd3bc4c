import httpx
import pytest

from swaplib.demo.scripted_teacher import make_teacher, teaching


def test_its_server_stops_even_when_its_user_fails():
    with pytest.raises(KeyError), teaching(make_teacher(False)) as address:
        body = {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]}
        answer = httpx.post(f"{address}/chat/completions", json=body)
        assert answer.json()["choices"][0]["message"]["content"] == "I do not know this task."
        raise KeyError
    with pytest.raises(httpx.ConnectError):
        httpx.post(f"{address}/chat/completions", json=body)
