"""Failing endpoints are retried or end the run, and the key is never shown."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from helpers.scripted import SETTINGS, fill, written
from helpers.scripted_server import serving

from peftkit.config import UserError
from peftkit.generation.generators import GenerationPrompt, GeneratorError, Reply, Request
from peftkit.generation.generators.endpoint import EndpointGenerator, retry_after
from peftkit.generation.self_instruct import self_instruct

PROMPT = GenerationPrompt(
    "Say whether it is one.\n", ("Task: Sing.\nClassification: No\n",), "Task: Hum.\nClassification:", ("\nTask:",), 8
)
Body = dict[str, Any]


def endpoint(address: str, key: str | None = "sk-secret", has_answered: bool = False, **more: Any) -> EndpointGenerator:
    settings = replace(
        SETTINGS, generator="endpoint", base_url=address, endpoint_model="scripted", **{"retries": 3, **more}
    )
    return EndpointGenerator(settings, key, has_answered, first_delay=0.01)


def send(generator: EndpointGenerator, count: int = 1) -> list[Reply]:
    requests = [Request(number, PROMPT, seed=number) for number in range(count)]
    replies = [reply for group in generator.replies(requests) for reply in group]
    return sorted(replies, key=lambda reply: reply.number)


def first(count: int, fault: Body) -> Callable[[int, Body], Body | None]:
    return lambda number, body: fault if number < count else None


def test_a_request_has_the_prompts_settings_and_a_reply_its_token_counts() -> None:
    with serving(pool=50) as server:
        (reply,) = send(endpoint(server.address, request={"seed": None, "presence_penalty": 1.5}))
    (seen,) = server.seen
    assert seen["path"] == "/v1/chat/completions" and seen["key"] == "Bearer sk-secret"
    assert seen["body"] == {
        "model": "scripted", "messages": [{"role": "user", "content": PROMPT.text()}], "max_tokens": 8, "temperature": 0.0,
        "top_p": 1.0, "stop": ["\nTask:"], "presence_penalty": 1.5,
    }  # fmt: skip
    assert (reply.text, reply.finish, reply.attempts, reply.tokens_out) == ("No", "stop", 1, 1)
    assert reply.tokens_in == len(PROMPT.text().split())


def test_chat_false_uses_text_completions() -> None:
    with serving(pool=50) as server:
        (reply,) = send(endpoint(server.address, chat=False))
    assert server.seen[0]["path"] == "/v1/completions" and server.seen[0]["body"]["prompt"] == PROMPT.text()
    assert reply.text == "No"


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 429},
        {"status": 500},
        {"status": 503, "headers": {"retry-after-ms": "20"}},
        {"status": 408},
        {"raw": '{"choices": [{"mess'},
        {"raw": "<html>busy</html>", "headers": {"Content-Type": "text/html"}},
        {"raw": "{}"},
        {"raw": '{"choices": []}'},
        {"raw": '{"choices": [{"message": {"content": 3}}]}'},
        {"wait": 1.0},
        {"broken_off": 0},
        {"broken_off": 40},
        {"broken_off": 400},
    ],
    ids=lambda fault: "-".join(map(str, fault.values()))[:20],
)
def test_transient_failures_are_retried(fault: Body) -> None:
    with serving(first(2, fault), pool=50) as server:
        (reply,) = send(endpoint(server.address, timeout=0.3))
    assert (reply.text, reply.attempts, len(server.seen)) == ("No", 3, 3)


def test_a_permanent_failure_ends_with_its_reason() -> None:
    with serving(lambda number, body: {"status": 500, "message": "out of order"}, pool=50) as server:
        with pytest.raises(
            GeneratorError, match=r"no reply in 4 attempts, .* 500 .*out of order.*; the same command continues"
        ):
            send(endpoint(server.address))
        assert len(server.seen) == 4
    with pytest.raises(GeneratorError, match=r"Connection error"):
        send(endpoint(server.address))  # the server is closed


def test_retry_after_applies_to_all_threads() -> None:
    times: list[float] = []

    def fault(number: int, body: Body) -> Body | None:
        times.append(time.monotonic())
        return {"status": 429, "headers": {"Retry-After": "1"}} if number == 0 else None

    with serving(fault, pool=50) as server:
        assert len(send(endpoint(server.address, batch=1), count=3)) == 3
    assert times[1] - times[0] >= 0.95 and times[3] - times[1] < 0.9


def test_a_long_wait_and_an_exhausted_quota_end_the_run() -> None:
    for fault, sentence in (
        ({"status": 429, "headers": {"Retry-After": "4000"}}, "requests a wait of 4000 s"),
        ({"status": 429, "code": "insufficient_quota"}, "quota is exhausted"),
    ):
        with serving(first(9, fault), pool=50) as server, pytest.raises(GeneratorError, match=sentence):
            send(endpoint(server.address))
        assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({}, None), ({"retry-after": "2.5"}, 2.5), ({"retry-after": "soon"}, None), ({"retry-after-ms": "250"}, 0.25)],
)
def test_retry_after_is_read_in_all_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds
    assert 3 <= (retry_after({"retry-after": formatdate(time.time() + 5, usegmt=True)}) or 0) <= 5


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (401, "generate.key_env=OPENAI_API_KEY: the endpoint refuses the key"),
        (404, "endpoint_model=scripted: not found"),
        (400, "refuses the request .*bad field"),
    ],
)
def test_user_errors_are_raised_at_once_without_the_key(status: int, sentence: str) -> None:
    fault = {"status": status, "message": "bad field or key sk-secret"}
    with serving(first(9, fault), pool=50) as server, pytest.raises(UserError, match=sentence) as refused:
        send(endpoint(server.address))
    assert "sk-secret" not in str(refused.value) and len(server.seen) == 1


def test_a_refused_prompt_does_not_stop_the_others() -> None:
    with serving(first(1, {"status": 400, "message": "too long"}), pool=50) as server:
        replies = send(endpoint(server.address, has_answered=True, batch=1), count=2)
    assert [reply.finish for reply in replies] == ["refused", "stop"]
    assert str(replies[0].note).startswith("400: ") and "too long" in str(replies[0].note)


def test_empty_and_cut_replies_are_returned() -> None:
    faults: list[Body] = [{"text": None}, {"text": "Yes and", "finish": "length"}, {"text": "Yes", "uncounted": True}]
    with serving(lambda number, body: faults[number], pool=50) as server:
        empty, cut, uncounted = send(endpoint(server.address, batch=1), count=3)
    assert (empty.text, empty.finish, empty.attempts) == ("", "stop", 1)
    assert (cut.text, cut.finish) == ("Yes and", "length")
    # one token per byte is an upper bound
    assert (uncounted.tokens_in, uncounted.tokens_out) == (len(PROMPT.text()), 3)


def test_replies_in_flight_are_kept_after_a_permanent_failure() -> None:
    together = threading.Barrier(4)

    def fault(number: int, body: Body) -> Body:
        together.wait(10)
        return {"status": 401} if body["seed"] == 0 else {"wait": 0.2}

    with serving(fault, pool=50) as server:
        found: list[int] = []
        with pytest.raises(UserError):
            for group in endpoint(server.address, batch=4).replies([Request(n, PROMPT, n) for n in range(4)]):
                found += [reply.number for reply in group]
    assert sorted(found) == [1, 2, 3]


def test_a_failing_server_leads_to_the_same_data_as_a_working_one(tmp_path: Path) -> None:
    def fault(number: int, body: Body) -> Body | None:
        if number % 7 == 3:
            return {"status": 429 if number % 2 else 500, "headers": {"retry-after-ms": "10"}}
        if number % 11 == 5:
            return {"raw": "{"}
        return {"wait": 0.05} if number % 13 == 8 else None

    for name, fault_of in (("good", lambda number, body: None), ("bad", fault)):
        with serving(fault_of, pool=1500) as server:
            _, client, _ = fill(tmp_path / name, self_instruct, endpoint(server.address), num_instructions=25)
        assert client.usage["attempts"] == len(server.seen)
        entries = [
            entry for row in map(json.loads, (tmp_path / name / "journal.jsonl").open()) for entry in row["replies"]
        ]
        assert len({entry["number"] for entry in entries}) == len(entries) == client.usage["requests"]
    assert written(tmp_path / "good") == written(tmp_path / "bad")
    assert "sk-secret" not in "".join(file.read_text() for file in tmp_path.rglob("*.jsonl"))


def test_a_budget_holds_with_parallel_requests(tmp_path: Path) -> None:
    with serving(pool=1500) as server:
        _, client, ended = fill(
            tmp_path,
            self_instruct,
            endpoint(server.address),
            num_instructions=500,
            max_tokens=40_000,
        )
    assert ended == "max_tokens" and 10_000 < client.usage["tokens_in"] + client.usage["tokens_out"] <= 40_000


def test_without_a_key_no_variable_of_openai_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"OPENAI_API_KEY": "planted-1", "OPENAI_ORG_ID": "planted-2", "OPENAI_CUSTOM_HEADERS": "X-A: planted-3"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    headers = endpoint("http://127.0.0.1:9/v1", key=None)._client.default_headers
    assert "planted" not in str(headers) and os.environ["OPENAI_ORG_ID"] == "planted-2"
