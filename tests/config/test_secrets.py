"""Secrets of the environment are recognized by value, wherever they are in a config."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.commands import check

from peftkit.config import error_summary
from peftkit.config.secrets import secret_errors, secret_fields, without_secrets

VALUE = "planted-secret-0123"


@pytest.mark.parametrize(
    "variable", ["MY_TOKEN", "apiKey", "CLIENT_SECRET", "DB_PASSWORD", "PGPASSFILE", "AWS_CREDENTIALS"]
)
@pytest.mark.parametrize(
    "config",
    [
        {"task": {"dataset": f"user/{VALUE}"}},
        {"generate": {"request": {"a": [{"b": {"c": VALUE}}]}}},
        {"task": {"verbalizer": {VALUE: "good"}}},
        {"task": {"labels": ["a", VALUE]}},
        {"out": f"outputs/{VALUE}/x"},
    ],
)
def test_a_secret_is_found_and_not_shown(config: Any, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, VALUE)
    messages = list(secret_errors(config))
    assert messages and all(variable in message and VALUE not in message for message in messages)


@pytest.mark.parametrize(
    ("variable", "value"), [("MY_TOKEN", "true"), ("TOKENIZERS_PARALLELISM", "false"), ("HOME", "/home/me-myself")]
)
def test_short_values_and_other_variables_are_no_secrets(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert list(secret_errors({"out": value, "train": {"bf16": True}})) == []


@pytest.mark.parametrize(
    "text",
    [
        "hf_" + "aB3" * 12,
        "sk-proj-aB3dEfGhIjKlMnOpQrStUv",
        "sk-ant-api03-abcdEFGH1234ijklMNOP5678",
        "ghp_" + "aB3" * 12,
        "AKIAABCDEFGHIJKLMNOP",
    ],
)
def test_a_text_that_looks_like_a_token_is_refused_and_not_shown(text: str) -> None:
    for typed in (f"collator.header={text}", f"task.dataset=https://user:{text}@example.org/x.jsonl", f"out={text}"):
        (message,) = check([typed])
        assert "contains an access token" in message and text not in message
    assert without_secrets(f"wrong key {text}!") == "wrong key ***!"


@pytest.mark.parametrize("text", ["sk-learn-pipelines-for-everyone", "risk-management1234567890123456", "hf_models"])
def test_names_are_no_tokens(text: str) -> None:
    assert list(secret_errors({"out": text})) == [] and without_secrets(text) == text


def test_what_is_typed_contains_no_secret_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", VALUE)
    for typed in ("out=${oc.env:MY_TOKEN}", f"out={VALUE}", "generate.request.a={b:[${oc.env:MY_TOKEN}]}"):
        (message,) = check([typed])
        assert "contains the value of the environment variable MY_TOKEN" in message and VALUE not in message


def test_secrets_of_an_error_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", VALUE)
    assert without_secrets(f"wrong key {VALUE}!") == "wrong key ***!"


def test_the_summary_of_an_error_has_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", VALUE)
    assert error_summary(RuntimeError(f"401 for {VALUE}\nmore")) == "401 for ***"


def test_fields_of_a_request_are_secrets_at_any_depth() -> None:
    fields = {
        "extra": [{"headers": {"Authorization": "x", "X-Api-Key": "y"}}],
        "max_tokens": 3,
        "stop_token_ids": [1],
        "auth_token": "z",
    }
    assert list(secret_fields(fields)) == ["extra.headers.Authorization", "extra.headers.X-Api-Key", "auth_token"]
