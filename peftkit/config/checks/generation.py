"""Checks of the section `generate`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from peftkit.config.checks.rules import broken
from peftkit.config.endings import FILES
from peftkit.config.kinds import ENCODER, kind_of
from peftkit.config.run import Generate, RunConfig
from peftkit.config.suggestions import nearest
from peftkit.paths import group_files

VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")  # the name of an environment variable, unlike a key itself
SECRET = re.compile(r"api.?key|secret|password|authorization|bearer", re.IGNORECASE)
NO_SECRET = "is refused: a run folder keeps no secret; set generate.key_env=NAME"


def generation_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for each setting that the generator lacks, or that the job ignores."""
    settings, task = run.generate, run.task
    if run.job not in ("generate", "judge") and not run.generates_data:
        names = ("seeds", "base_url", "endpoint_model", *(() if kind_of(task).generators else ("model",)))
        for name in names:
            if getattr(settings, name) is not None:
                yield f"generate.{name}= is not for job={run.job}; use job=generate, or drop it"
        if run.job == "evaluate" and task.dataset in kind_of(task).generators:
            yield f"task.dataset={task.dataset} generates training data; set task.dataset=outputs/generate/..."
        return
    yield from _endpoint_errors(settings) if settings.generator == "endpoint" else _local_errors(run)
    if run.job != "judge":
        yield from _data_errors(run)
    elif settings.seeds is not None:
        yield f"generate.seeds= is not for job={run.job}; drop it"
    if settings.max_cost is not None and None in (settings.price_in, settings.price_out):
        yield "generate.max_cost needs prices; set generate.price_in= and generate.price_out=, per million tokens"


def _data_errors(run: RunConfig) -> Iterator[str]:
    settings, dataset = run.generate, run.task.dataset
    if run.generates_data and dataset != settings.algorithm:
        yield (
            f"task.dataset={dataset} does not match generate.algorithm={settings.algorithm}; "
            f"set generate.algorithm={dataset}"
        )
    if settings.seeds is not None and not Path(settings.seeds).is_file():
        yield f"generate.seeds={settings.seeds}: no such file; null uses the seed tasks that peftkit ships"
    tasks = [name for name in group_files("task", run.config_dir) if not name.startswith("_")]
    for name in settings.decontaminate:
        is_path = Path(name).suffix in (*FILES, ".txt") or "/" in name
        if not Path(name).exists() and (is_path or name not in tasks):
            hint = "" if is_path else nearest(name, tasks)
            yield f"generate.decontaminate={name}: no such file, folder or task{hint}"


def _endpoint_errors(settings: Generate) -> Iterator[str]:
    fields = settings.request
    secrets = [name for name in fields if SECRET.search(str(name))]
    is_unbounded = "max_tokens" in fields and not (fields["max_tokens"] or fields.get("max_completion_tokens"))
    needs = "generate.generator=endpoint needs"
    yield from broken(
        (find_spec("openai") is None, f"{needs} the package openai; pip install 'peftkit[endpoint]'"),
        (settings.base_url is None, f"{needs} an address; set generate.base_url=http://127.0.0.1:8000/v1"),
        (
            settings.endpoint_model is None,
            f"{needs} a model; set generate.endpoint_model=NAME, the server's name for it",
        ),
        (
            not VARIABLE.fullmatch(settings.key_env),  # not shown: it may be the key itself
            "generate.key_env takes the name of a variable, as OPENAI_API_KEY; a run folder keeps no key",
        ),
        (secrets, f"generate.request.{(secrets or [''])[0]} {NO_SECRET}"),
        (
            (settings.max_tokens or settings.max_cost) and is_unbounded,
            "a limit needs a longest reply; set generate.request.max_completion_tokens=2048 too",
        ),
        (settings.quantization is not None, "generate.quantization is for generate.generator=local; drop it"),
    )
    if settings.base_url is None:
        return
    address = urlsplit(settings.base_url)
    if address.scheme not in ("http", "https") or not address.hostname:
        yield "generate.base_url is not an address; set generate.base_url=http://127.0.0.1:8000/v1"
    elif address.username or address.password or address.query:
        yield f"generate.base_url {NO_SECRET}"
    elif address.hostname.endswith("openai.com") and not os.environ.get(settings.key_env):
        yield f"{address.hostname} needs a key; put it into the environment: export {settings.key_env}=..."


def _local_errors(run: RunConfig) -> Iterator[str]:
    settings, generator = run.generate, run.generate.model or ""
    for name in ("base_url", "endpoint_model", "request"):
        if getattr(settings, name):
            yield f"generate.{name} is for an endpoint; set generate.generator=endpoint, or drop it"
    yield from broken(
        (
            generator.startswith(("/", "./", "../", "~")) and not Path(generator).is_dir(),
            f"generate.model={generator}: no such folder; name a checkpoint's, or a Hub id",
        ),
        (
            run.model.family == ENCODER and settings.model is None,
            f"model={run.model.name} is an encoder, which generates no text; use model=gpt2 or model=t5",
        ),
    )
