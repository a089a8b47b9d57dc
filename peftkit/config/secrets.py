"""Secrets: no file, folder name or request may contain one of the environment, or a text that looks like one."""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

VARIABLE = re.compile(r"TOKEN|KEY|SECRET|PASS|CREDENTIAL", re.IGNORECASE)  # in the name of a variable
FIELD = re.compile(r"api.?key|secret|passw|authorization|bearer|credential|cookie|(^|[-_])token$", re.IGNORECASE)
MIN_LENGTH = 8  # shorter values, such as true, are no secrets
TOKEN = re.compile(  # of the Hub, OpenAI and those like it, GitHub, GitLab, AWS, Slack and Google
    r"\b(hf_[A-Za-z0-9]{30,}|sk-(?:[a-z]+\d*-){0,2}(?=[A-Za-z_]*\d)\w{20,}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|"
    r"glpat-[\w-]{20,}|AKIA[0-9A-Z]{16}|xox[abprs]-[\w-]{10,}|AIza[\w-]{35})"
)


def secret_errors(config: Any, key: str = "") -> Iterator[str]:
    """Yield a message for each text in a config, at any depth, that contains a secret; it does not show the secret."""
    secrets = _secrets()
    yield from (
        f"{where} contains the value of the environment variable {secrets[secret]}, and neither files nor requests may "
        "contain secrets; remove it"
        for where, text in _texts(config, key)
        for secret in secrets
        if secret in text
    )
    yield from (
        f"{where} contains an access token ({found[1][:4]}...), and neither files nor requests may contain secrets; "
        "remove it, and set it as an environment variable"
        for where, text in _texts(config, key)
        if (found := TOKEN.search(text)) is not None and not any(secret in text for secret in secrets)
    )


def without_secrets(text: str) -> str:
    """Return a text with *** in place of secrets."""
    for secret in _secrets():
        text = text.replace(secret, "***")
    return TOKEN.sub("***", text)


def _secrets() -> dict[str, str]:
    """Return the variable of each secret."""
    return {value: name for name, value in os.environ.items() if VARIABLE.search(name) and len(value) >= MIN_LENGTH}


def secret_fields(values: Any) -> Iterator[str]:
    """Yield each name of a request's fields, at any depth, that is the name of a secret."""
    for key, value in values.items() if isinstance(values, Mapping) else ():
        if FIELD.search(str(key)):
            yield str(key)
        for item in value if isinstance(value, list | tuple) else [value]:
            yield from (f"{key}.{name}" for name in secret_fields(item))


def _texts(node: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield key or "a key", str(name)
            yield from _texts(value, f"{key}.{name}".lstrip("."))
    elif isinstance(node, list | tuple):
        for item in node:
            yield from _texts(item, key)
    elif node is not None:
        yield key, str(node)
