"""A server answers as job=predict does, whatever shares a batch, and refuses anything else with one sentence."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pytest
from helpers import commands
from helpers.asgi import JSON, Reply, running
from safetensors import safe_open

from peftkit.config import UserError
from peftkit.config.sections import Serve
from peftkit.data.miniglue import miniglue
from peftkit.pipeline.serving import answers, server
from peftkit.pipeline.serving.app import Service
from peftkit.pipeline.serving.runs import ServedRun, load_runs
from peftkit.pipeline.serving.server import open_socket, serve_until_stopped

T = TypeVar("T")
COLUMNS = {"sst2": ["sentence"], "stsb": ["sentence1", "sentence2"]}
SETTINGS = Serve("127.0.0.1", 0, 0.003, 400, 8, 20_000, 16, 0.5)
PAGE = Path(answers.__file__).parent / "page"


@pytest.fixture(scope="module")
def trained(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return the folder of a run, trained once a module: trained("bert", "lora", "task=sst2")."""
    return commands.trained_once(checkpoints, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def runs(trained: Callable[..., Path]) -> dict[str, ServedRun]:
    return load(*(trained("bert", "lora", f"task={task}") for task in COLUMNS))


def load(*folders: Path, more: tuple[str, ...] = ()) -> dict[str, ServedRun]:
    named = f"run={folders[0]}" if len(folders) == 1 else f"runs=[{','.join(map(str, folders))}]"
    return load_runs(commands.choose(["job=serve", "source=offline", named, *more])[0])


def service(runs: dict[str, ServedRun], **settings: Any) -> Service:
    return Service(runs, replace(SETTINGS, **settings), 8)


def ask(served: Service, *bodies: Any) -> list[Reply]:
    """Return the replies to bodies that are sent at once."""

    async def send() -> list[Reply]:
        async with running(served.application()) as client:
            return list(await asyncio.gather(*map(client.post, bodies)))

    return asyncio.run(send())


def predicted(folder: Path, examples: list[dict[str, Any]], scratch: Path, *more: str) -> list[dict[str, Any]]:
    (scratch / "in.jsonl").write_text("".join(json.dumps(each) + "\n" for each in examples))
    commands.predict(folder, scratch / "in.jsonl", f"output={scratch}/out.jsonl", "train.bf16=false", *more)
    return [json.loads(line) for line in (scratch / "out.jsonl").read_text().splitlines()]


def agree(answer: dict[str, Any], expected: dict[str, Any]) -> None:
    """Check an answer against a line of job=predict."""
    for name in ("prediction", "suggestion"):
        if isinstance(expected.get(name), float):
            assert answer[name] == pytest.approx(expected[name], abs=1e-4)
        else:
            assert answer.get(name) == expected.get(name)
    if expected.get("scores") is None:
        assert answer["scores"] is None
        return
    assert flat(answer["scores"]) == pytest.approx(flat(expected["scores"]), abs=1e-4)
    if "confidence" in expected:
        assert answer["confidence"] == pytest.approx(expected["confidence"], abs=1e-4)
        shares = {name.removeprefix("probability_"): each for name, each in expected.items() if "probability_" in name}
        assert answer["probabilities"] == pytest.approx(shares, abs=1e-4)


def flat(scores: Any) -> list[float]:
    return [number for each in scores for number in flat(each)] if isinstance(scores, list) else [scores or 0.0]


def test_concurrent_requests_to_two_runs_share_batches_and_get_the_answers_of_job_predict(
    runs: dict[str, ServedRun], trained: Callable[..., Path], tmp_path: Path
) -> None:
    bodies, expected = [], []
    for task, columns in COLUMNS.items():
        examples = [{name: row[name] for name in columns} for row in miniglue(task)["validation"][:4]]
        if task == "sst2":
            examples += [{"sentence": "the film " * 40}, {"sentence": " "}]
        expected += predicted(trained("bert", "lora", f"task={task}"), examples, tmp_path)
        bodies += [{"run": task, "examples": [each]} for each in examples]
    served = service(runs)
    for reply, line in zip(ask(served, *bodies), expected, strict=True):
        assert reply.status == 200
        (answer,) = reply.json["predictions"]
        agree(answer, line)
        assert answer["truncated"] == (line.get("sentence", "").count("film ") == 40)
    metrics = served.measures.text().decode()
    assert 'peftkit_requests_total{status="200"} 10.0' in metrics and "peftkit_queue 0.0" in metrics
    # 9 of them have a text; of batches of up to 8, one has examples of both runs
    assert "peftkit_batch_examples_sum 9.0" in metrics and "peftkit_batch_examples_count 9.0" not in metrics


SST2 = {"run": "sst2", "examples": [{"sentence": "fine"}]}
HOSTILE: list[tuple[Any, int, str]] = [
    (b"", 400, "the body is not JSON"),
    (b"{", 400, "the body is not JSON"),
    (b"[]", 400, "the body is not an object"),
    (b"[" * 9000, 400, "nested too deeply"),
    (b'{"examples": ' + b"[" * 5000 + b"]" * 5000 + b"}", 400, "nested too deeply"),
    (b'{"run": "sst2", "examples": [{"sentence": "\xff"}]}', 400, "not UTF-8 at byte 43"),
    (b'{"run": "sst2", "examples": [{"sentence": NaN}]}', 400, "JSON has no NaN"),
    (b'{"run": "sst2", "examples": [{"sentence": 1e999}]}', 400, "a number with a fraction, not a text"),
    (b'{"run": "sst2", "examples": [{"sentence": ' + b"9" * 5000 + b"}]}", 400, "a number has 5000 digits"),
    ('\ufeff{"run": "sst2", "examples": []}'.encode(), 400, "examples is not a list"),  # a byte order mark
    (b'{"run": "sst2", "run": "stsb", "examples": []}', 400, "an object has run twice"),
    (b'{"run": "sst2", "examples": [{"sentence": "a", "sentence": "b"}]}', 400, "an object has sentence twice"),
    (rb'{"run": "sst2", "examples": [{"sentence": "\ud800"}]}', 400, "a surrogate without its pair"),
    (b" " * 20_001, 413, "more than 20000 bytes"),
    ({"examples": [{"sentence": "a"}]}, 400, "run is missing; the runs are sst2, stsb"),
    ({**SST2, "run": ["sst2"]}, 400, "run: a list of texts, not the name of a run"),
    ({**SST2, "run": "sst3"}, 404, "unknown run sst3; did you mean sst2?"),
    ({**SST2, "texts": []}, 400, "unknown field texts"),
    ({**SST2, "examples": {}}, 400, "examples is not a list"),
    ({**SST2, "examples": []}, 400, "examples is not a list"),
    ({**SST2, "examples": ["a film"]}, 400, r"examples[0]: a text, not an object with sentence"),
    ({**SST2, "examples": [{}]}, 400, "examples[0] lacks sentence"),
    ({**SST2, "examples": [{"sentence": "a", "label": 1}]}, 400, "label is unknown; run sst2 reads sentence"),
    ({**SST2, "examples": [{"sentence": None}]}, 400, "not a text"),
    ({**SST2, "examples": [{"sentence": 5}]}, 400, "examples[0].sentence: a whole number, not a text"),
    ({**SST2, "examples": [{"sentence": True}]}, 400, "true or false, not a text"),
    ({**SST2, "examples": [{"sentence": ["a"]}]}, 400, "a list of texts, not a text"),
    ({**SST2, "examples": [{"sentence": {"a": 1}}]}, 400, "an object with the fields a, not a text"),
    ({**SST2, "examples": [{"sentence": "x" * 401}]}, 413, "examples[0] has more than 400 characters"),
    ({**SST2, "examples": [{"sentence": "x"}] * 9}, 413, "9 examples are more than 8"),
]


def test_hostile_requests_are_refused_with_one_sentence(runs: dict[str, ServedRun]) -> None:
    served = service(runs)
    *replies, last = ask(served, *(body for body, _, _ in HOSTILE), SST2)
    for reply, (body, status, message) in zip(replies, HOSTILE, strict=True):
        assert (reply.status, "\n" in reply.json["error"]) == (status, False), (body, reply.body)
        assert message in reply.json["error"], body
        assert len(reply.json["error"]) < 400 and reply.headers["content-type"] == "application/json"
    assert last.status == 200


def test_no_depth_and_no_number_of_fields_is_too_much(runs: dict[str, ServedRun]) -> None:
    before, after = b'{"run": "sst2", "examples": [{"sentence": ', b"}]}"
    nested = [before + b"[" * depth + b"]" * depth + after for depth in range(100, 1100, 50)]
    fields = ",".join(f'"{number}": 1' for number in range(100_000)).encode()
    many = [b"{" + fields + b"}", b"{" + fields + b',"7": 1}', before + b"{" + fields + b"}" + after]
    started = time.process_time()
    for reply in ask(service(runs, max_bytes=10**7), *nested, *many):
        assert reply.status == 400 and len(reply.json["error"]) < 400
    assert time.process_time() - started < 20


def test_other_requests_are_refused_too(runs: dict[str, ServedRun]) -> None:
    async def send() -> None:
        served = service(runs, timeout=0.1)
        async with running(served.application()) as client:
            body = json.dumps(SST2).encode()
            slow = await client.send("POST", "/predict", [body[:5], body[5:]], JSON, pause=0.09)
            chunked = await client.send("POST", "/predict", [b" " * 9000] * 4, JSON)
            huge = await client.post(b"", {"content-length": "9" * 30})
            form = await client.post(body, {"content-type": "application/x-www-form-urlencoded"})
            rebound = await client.post(body, {"host": "elsewhere.example"})
            assert [each.status for each in (slow, chunked, huge, form, rebound)] == [408, 413, 413, 415, 403]
            assert all(len(each.json) == 1 and "\n" not in each.json["error"] for each in (slow, huge, form, rebound))
            assert [(await client.get(path)).status for path in ("/predict", "/runs/", "/../x")] == [405, 404, 404]
            assert [(await client.get("/health", {"host": host})).status for host in ("[::1]:8000", "")] == [200, 403]

    asyncio.run(send())


def test_a_full_queue_refuses_with_a_time_to_retry_and_the_rest_is_answered(runs: dict[str, ServedRun]) -> None:
    replies = ask(service(runs), *[{**SST2, "examples": SST2["examples"] * 6}] * 4)
    assert sorted(each.status for each in replies) == [200, 200, 429, 429]
    refused = next(each for each in replies if each.status == 429)
    assert refused.headers["retry-after"] == "1" and "12 of 16 examples wait" in refused.json["error"]


def test_an_example_that_fails_does_not_fail_those_of_its_batch(
    runs: dict[str, ServedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = answers._encode

    def failing(run: ServedRun, examples: Any) -> Any:
        if any("bad" in example.cells[0] for example in examples):
            raise UserError("it is bad") if len(examples) == 1 else RuntimeError("a batch with it")
        return encode(run, examples)

    monkeypatch.setattr(answers, "_encode", failing)
    good, bad = ask(service(runs), SST2, {**SST2, "examples": [{"sentence": "bad"}]})
    assert (good.status, bad.status, bad.json["error"]) == (200, 400, "examples[0]: it is bad")


def test_a_batch_that_fails_as_a_whole_fails_its_requests_only(
    runs: dict[str, ServedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    split = answers._batches
    monkeypatch.setattr(answers, "_batches", lambda examples, size: 1 / 0)
    served = service(runs)

    async def send() -> tuple[Reply, Reply]:
        async with running(served.application()) as client:
            failed = await client.post(SST2)
            monkeypatch.setattr(answers, "_batches", split)
            return failed, await client.post(SST2)

    failed, answered = asyncio.run(send())
    assert (failed.status, answered.status, served.queue.pending) == (500, 200, 0)
    assert "the server failed on this batch" in failed.json["error"]


def test_batches_of_similar_lengths_cost_the_least() -> None:
    def cost(counts: list[int], sizes: list[int]) -> float:
        starts = [sum(counts[:place]) for place in range(len(counts))]
        return sum(answers.BATCH_COST + sizes[start] * count for start, count in zip(starts, counts, strict=True))

    draw = random.Random(0)
    for _ in range(20):
        sizes = sorted((draw.choice((30, 100, 400, 1500)) + draw.randrange(50) for _ in range(9)), reverse=True)
        cuts = [[0, *(n + 1 for n in range(8) if bits >> n & 1), 9] for bits in range(2**8)]
        ways = [[end - start for start, end in pairwise(cut)] for cut in cuts]
        found = answers.batch_counts(sizes, 5)
        assert sum(found) == 9 and max(found) <= 5
        assert cost(found, sizes) == min(cost(way, sizes) for way in ways if max(way) <= 5)


def test_a_script_in_a_text_stays_text(runs: dict[str, ServedRun]) -> None:
    script = "<script>alert(1)</script>"
    answered, refused = ask(service(runs), {**SST2, "examples": [{"sentence": script}]}, {**SST2, "run": script})
    assert answered.status == 200 and refused.status == 404
    for reply in (answered, refused):
        assert reply.headers["content-type"] == "application/json"
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")


def test_the_page_loads_nothing_from_elsewhere_and_never_sets_markup(runs: dict[str, ServedRun]) -> None:
    async def read() -> list[Reply]:
        async with running(service(runs).application()) as client:
            return [await client.get(path) for path in ("/", "/page.css", "/page.js")]

    page, style, script = (each.body.decode() for each in asyncio.run(read()))
    assert "http" not in (page + script).replace("http-equiv", "") and "url(" not in style
    assert not [
        word for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(") if word in script
    ]
    assert "label.htmlFor" in script and 'type="submit"' in page and 'aria-live="polite"' in page


def test_runs_are_listed_with_what_a_client_needs(runs: dict[str, ServedRun]) -> None:
    async def read() -> Any:
        async with running(service(runs).application()) as client:
            return (await client.get("/runs")).json

    found = asyncio.run(read())
    assert [(run["name"], run["columns"], run["kind"]) for run in found["runs"]] == [
        ("sst2", ["sentence"], "classification"), ("stsb", ["sentence1", "sentence2"], "regression"),
    ]  # fmt: skip
    assert found["limits"] == {"max_characters": 400, "max_examples": 8}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_server_answer_what_it_took_and_refuse_the_rest(
    runs: dict[str, ServedRun], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    compute, reached = answers.answer_batch, threading.Event()

    def slow(examples: Any) -> Any:
        reached.set()
        time.sleep(0.5)
        return compute(examples)

    monkeypatch.setattr(answers, "answer_batch", slow)
    served, found = service(runs, timeout=5), {}
    opened = open_socket(served.settings)
    port = opened.getsockname()[1]

    def post(name: str, connection: http.client.HTTPConnection | None = None) -> None:
        connection = connection or http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("POST", "/predict", json.dumps(SST2), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        found[name] = reply.status, json.loads(reply.read())

    def clients() -> None:
        wait_for(port)
        taken = threading.Thread(target=post, args=("taken",))
        taken.start()
        reached.wait(20)
        os.kill(os.getpid(), number)
        time.sleep(0.05)
        post("late")
        taken.join()

    before = signal.signal(number, signal.SIG_DFL)  # SIGINT is ignored where the tests run in the background
    thread = threading.Thread(target=clients)
    thread.start()
    try:
        assert serve_until_stopped(served, opened) == number
    finally:
        signal.signal(number, before)
    thread.join()
    assert found["taken"][0] == 200 and len(found["taken"][1]["predictions"]) == 1
    assert found["late"] == (503, {"error": "the server is stopping"})
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def wait_for(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return
        except OSError:
            time.sleep(0.05)


def test_connections_without_a_request_are_closed(runs: dict[str, ServedRun]) -> None:
    def idle(port: int) -> tuple[bytes, float]:
        started = time.monotonic()
        return exchange(port, b"POST /predict HTTP/1.1\r\nHost: local"), time.monotonic() - started

    reply, seconds = while_served(service(runs, timeout=1), idle)
    assert reply == b"" and seconds < 10


def while_served(served: Service, client: Callable[[int], T]) -> T:
    """Return what a client returns, which gets the port of a server that runs until then."""
    opened, found = open_socket(served.settings), []
    port = opened.getsockname()[1]

    def run() -> None:
        try:
            wait_for(port)
            found.append(client(port))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=run)
    thread.start()
    serve_until_stopped(served, opened)
    thread.join()
    return found[0]


def exchange(port: int, *parts: bytes) -> bytes:
    """Send bytes over a connection of their own, in parts, and return all bytes until its end."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(0.02)
        reply = b""
        while received := connection.recv(1 << 16):
            reply += received
        return reply


HEAD = b"Host: localhost\r\nConnection: close\r\n"
HEALTH = b"GET /health HTTP/1.1\r\n" + HEAD + b"\r\n"
CHUNKED = b"POST /predict HTTP/1.1\r\n" + HEAD + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
NO_HTTP: list[tuple[list[bytes], int, str]] = [
    ([b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"], 400, "not valid HTTP"),  # the start of TLS
    ([b"GET /health HTTP/1.1\r\n\r\n"], 400, "not valid HTTP"),  # no host
    ([b"GET / HTTP/1.1\r\n" + HEAD + b"X: y\r\n" * 20_000], 400, "its headers are too long"),
    ([CHUNKED, b"zz\r\n\r\n"], 400, "not valid HTTP"),
    ([CHUNKED, b'5\r\n{"exa\r\n'], 408, "the body did not arrive within 1 seconds"),  # without an end
    ([b"BREW /predict HTTP/1.1\r\n" + HEAD + b"\r\n"], 405, "Method Not Allowed"),
    ([b"GET /%00%ff/%2e%2e/x HTTP/1.1\r\n" + HEAD + b"\r\n"], 404, "Not Found"),
]


def test_what_is_not_http_is_refused_as_json_and_the_server_goes_on(runs: dict[str, ServedRun]) -> None:
    def attack(port: int) -> list[bytes]:
        return [exchange(port, *parts) for parts, _, _ in NO_HTTP] + [exchange(port, HEALTH)]

    *replies, last = while_served(service(runs, timeout=1), attack)
    for reply, (parts, status, message) in zip(replies, NO_HTTP, strict=True):
        head, _, body = reply.partition(b"\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} ".encode()) and b"application/json" in head, (parts[0][:40], head)
        assert message in json.loads(body)["error"], parts[0][:40]
        assert head.lower().count(b"x-content-type-options: nosniff") == 1 == head.lower().count(b"no-store"), head
    assert last.endswith(b'{"status":"ok"}')


def test_an_answer_that_has_begun_is_not_followed_by_another_one(runs: dict[str, ServedRun]) -> None:
    form = CHUNKED.replace(b"application/json", b"text/plain").replace(b"Connection: close\r\n", b"")
    reply = while_served(service(runs, timeout=1), lambda port: exchange(port, form, b"1\r\n \r\n", b"zz\r\n\r\n"))
    assert reply.startswith(b"HTTP/1.1 415 ") and reply.count(b"HTTP/1.1") == 1


def test_too_many_connections_are_refused_until_others_end(
    runs: dict[str, ServedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 4)

    def crowd(port: int) -> list[bytes]:
        others = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(4)]
        replies = [exchange(port, HEALTH)]
        for each in others:
            each.close()
        while not replies[-1].startswith(b"HTTP/1.1 200 ") and len(replies) < 100:  # the server notices it later
            replies.append(exchange(port, HEALTH))
        return replies

    refused, *_, answered = while_served(service(runs, timeout=5), crowd)
    assert refused.startswith(b"HTTP/1.1 503 ") and b'{"error":"the server has 4 connections; try' in refused
    assert b"nosniff" in refused and b"default-src 'none'" in refused
    assert answered.startswith(b"HTTP/1.1 200 ")


def test_an_address_that_cannot_be_opened_is_refused_with_another_one() -> None:
    with open_socket(SETTINGS) as opened:
        opened.listen()
        port = opened.getsockname()[1]
        with pytest.raises(UserError, match=f"127.0.0.1 port {port} cannot be opened .*; use serve.port={port + 1}"):
            open_socket(replace(SETTINGS, port=port))
    with pytest.raises(UserError, match=r"serve.host=203.0.113.9 .*|203.0.113.9 port"):
        open_socket(replace(SETTINGS, host="203.0.113.9"))


def test_what_cannot_be_served_is_refused_before_anything_loads(trained: Callable[..., Path]) -> None:
    folder = trained("bert", "lora", "task=stsb")
    for overrides, message in (
        ([], "job=serve needs a run folder"),
        (["serve.port=70000", "serve.prt=1"], "serve.port"),
        ([f"run={folder}", f"runs=[{folder}]"], "run= is a single run"),
        ([f"runs=[{folder},{folder}]"], "names a folder twice"),
        ([f"run={folder}", "serve.max_examples=500"], "serve.max_queue=256 is less than"),
        ([f"run={folder}", "predict.abstain=0.8"], "predict.abstain is for classification"),
    ):
        assert message in " ".join(commands.check(["job=serve", *overrides])), overrides
    assert "serve.port= is not for job=predict" in " ".join(
        commands.check(["job=predict", f"run={folder}", "input=x", "serve.port=1"])
    )


FILM = "the film is great ."
KINDS: dict[str, tuple[str, str, list[str], list[dict[str, Any]], list[dict[str, Any]]]] = {
    "text_to_text": ("t5", "lora", ["task=sst2"], [], [{"sentence": FILM}, {"sentence": "a dull one"}, {"sentence": ""}]),
    "number_as_text": ("t5", "ia3", ["task=stsb"], [], [{"sentence1": FILM, "sentence2": "it is good"}]),
    "decoder": ("gpt2", "adapter", ["task=sst2"], [], [{"sentence": FILM}, {"sentence": "the film " * 60}]),
    "whole": ("bert", "full", ["task=mnli"], [], [{"premise": FILM, "hypothesis": "it is good"}]),
    "prompted": ("gpt2", "zero_shot", ["task=sst2"], [], [{"sentence": FILM}, {"sentence": "a dull one"}]),
    "multilabel": (
        "bert", "lora", ["task=multilabel", "task.text=[text]", "task.label=labels", "calibration.holdout=0.3"],
        [{"text": f"the film {n}", "labels": [["good"], ["long", "good"], []][n % 3]} for n in range(24)],
        [{"text": FILM}, {"text": "the film is long ."}],
    ),
    "token_classification": (
        "bert", "ia3", ["task=token_classification", "task.text=[tokens]", "task.label=tags"],
        [{"tokens": ["the", "film", "of", "rome"], "tags": ["O", "O", "O", "B-LOC"]} for _ in range(24)],
        [{"tokens": ["the", "film"]}, {"tokens": ["a"] * 90}],
    ),
    "question_answering": (
        "bert", "lora", ["task=question_answering", "task.text=[question,context]", "task.label=answers", "task.max_length=32", "task.stride=8"],
        [{"question": "what is great ?", "context": FILM, "answers": {"text": ["film"], "answer_start": [4]}}] * 24,
        [{"question": "what is great ?", "context": FILM}, {"question": "what ?", "context": "the film is good . " * 12}],
    ),
    "causal_lm": (
        "gpt2", "lora", ["task=causal_lm", "task.text=[text]", "task.label=more", "task.max_target_length=4"],
        [{"text": f"the film {n}", "more": ["is great", "is bad"][n % 2]} for n in range(24)], [{"text": "the film"}, {"text": "it was the film"}],
    ),
    "seq2seq": (
        "t5", "lora", ["task=seq2seq", "task.text=[text]", "task.label=more", "task.max_target_length=4"],
        [{"text": f"the film {n}", "more": ["is great", "is bad"][n % 2]} for n in range(24)], [{"text": "the film"}, {"text": ""}],
    ),
    "instructions": (
        "gpt2", "lora", ["task=instructions", "task.text=[messages]", "task.label=null", "task.max_target_length=4"],
        [{"messages": [{"role": "user", "content": f"the film {n}"}, {"role": "assistant", "content": f"is great {n % 2}"}]} for n in range(24)],
        [{"messages": [{"role": "user", "content": "the film"}]}, {"messages": [{"role": "user", "content": "it"}]}],
    ),
    "preferences": (
        "gpt2", "lora", ["task=preferences", "task.max_target_length=4"],
        [{"prompt": f"the film {n}", "chosen": "is great", "rejected": "is bad"} for n in range(24)], [{"prompt": "the film"}, {"prompt": "it"}],
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_answers_as_job_predict(trained: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    model, method, overrides, rows, examples = KINDS[kind]
    if rows:
        file = tmp_path / "data.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        overrides = [*overrides, f"task.dataset={file}"]
    folder = trained(model, method, *overrides)
    expected = predicted(folder, examples, tmp_path)
    together, *alone = ask(
        service(load(folder), max_characters=5000), {"examples": examples}, *({"examples": [each]} for each in examples)
    )
    for answer, single, line in zip(together.json["predictions"], alone, expected, strict=True):
        agree(answer, line)
        agree(single.json["predictions"][0], line)


@pytest.mark.slow
def test_runs_of_one_checkpoint_share_its_memory_whatever_their_method(
    trained: Callable[..., Path], tmp_path: Path
) -> None:
    methods = ["ia3", "full", "bitfit", "linear_probe"]
    folders = [trained("bert", method, "task=sst2") for method in methods]
    folders += [trained("bert", "lora", f"task={task}") for task in ("sst2", "stsb")]
    runs = load(*folders)
    assert list(runs) == [*(f"sst2-{method}" for method in methods), "sst2-lora", "stsb"]
    assert runs["sst2-lora"].bundle.model is runs["stsb"].bundle.model

    def pointers(name: str) -> set[int]:
        return {each.data_ptr() for each in runs[name].bundle.model.parameters() if each.numel() > 1000}

    assert all(
        len(pointers(name) & pointers("sst2-ia3")) > 8 for name in ("sst2-bitfit", "sst2-lora", "sst2-linear_probe")
    )
    examples = [{"sentence": row["sentence"]} for row in miniglue("sst2")["validation"][:3]]
    bodies = [{"run": name, "examples": examples} for name in runs if name != "stsb"]
    for folder, reply in zip(folders, ask(service(runs, max_queue=99), *bodies), strict=False):
        for answer, line in zip(reply.json["predictions"], predicted(folder, examples, tmp_path), strict=True):
            agree(answer, line)


@pytest.mark.slow
def test_unsure_answers_are_left_to_a_person_by_the_threshold_of_each_run(
    trained: Callable[..., Path], tmp_path: Path
) -> None:
    folders = [trained("bert", "lora", f"task={task}", "calibration.holdout=0.3") for task in ("sst2", "mnli")]
    runs = load(*folders, more=("predict.abstain=0.52",))
    for folder, (name, run) in zip(folders, runs.items(), strict=True):
        columns = run.columns
        examples = [{column: row[column] for column in columns} for row in next(iter(miniglue(name).values()))[:8]]
        lines = predicted(folder, examples, tmp_path, "predict.abstain=0.52")
        (reply,) = ask(service(runs), {"run": name, "examples": examples})
        for answer, line in zip(reply.json["predictions"], lines, strict=True):
            agree(answer, line)
            assert "suggestion" in answer
    with pytest.raises(UserError, match="no threshold reaches it"):
        load(*folders, more=("predict.target_accuracy=1",))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_is_stopped_or_killed_leaves_no_client_waiting(
    trained: Callable[..., Path], number: signal.Signals
) -> None:
    folder = trained("bert", "lora", "task=sst2")
    command = [sys.executable, "-m", "peftkit", "job=serve", f"run={folder}", "source=offline", "serve.port=0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    line = next(each for each in server.stderr if each.startswith("http://"))
    port, ended = int(line.split("/")[2].rpartition(":")[2]), []
    wait_for(port)

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            while True:
                body = json.dumps({"examples": [{"sentence": FILM}]})
                connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
                reply = connection.getresponse()
                ended.append((reply.status, len(json.loads(reply.read()))))
        except (OSError, http.client.HTTPException) as error:
            ended.append((0, type(error).__name__))

    threads = [threading.Thread(target=client) for _ in range(16)]
    for thread in threads:
        thread.start()
    while len(ended) < 50:
        time.sleep(0.05)
    server.send_signal(number)
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    last = server.stderr.read()
    assert server.wait(60) == (143 if number == signal.SIGTERM else -9)
    assert {each for each in ended if each[0]} <= {(200, 2), (503, 1)} and sum(not each[0] for each in ended) == 16
    assert ("stopped by SIGTERM" in last) == (number == signal.SIGTERM) and "Traceback" not in last


@pytest.mark.slow
def test_the_adapter_of_a_decoder_has_the_layout_that_vllm_reads(trained: Callable[..., Path], tmp_path: Path) -> None:
    """As vllm/lora/peft_helper.py and vllm/lora/models.py check it: no head, no DoRA, only lora_A and lora_B."""
    model, method, overrides, rows, _ = KINDS["instructions"]
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = trained(model, method, *overrides, f"task.dataset={file}") / "adapter"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and not config["modules_to_save"] and not config["use_dora"]
    assert config["bias"] == "none" and config["r"] > 0 and config["lora_alpha"] > 0
    with safe_open(folder / "adapter_model.safetensors", "pt") as weights:
        assert all(re.fullmatch(r"base_model\.model\..+\.lora_[AB]\.weight", name) for name in weights.keys())  # noqa: SIM118
    assert (folder / "tokenizer_config.json").is_file() and (folder / "chat_template.jinja").is_file()
