"""Checks of the section `generate`."""

import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from peftkit.config.checks.rules import messages_of
from peftkit.config.endings import FILES
from peftkit.config.files import ending_of
from peftkit.config.kinds import ENCODER, kind_of
from peftkit.config.run import Generate, RunConfig
from peftkit.config.secrets import secret_fields
from peftkit.config.suggestions import nearest
from peftkit.paths import group_files

VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")  # the name of an environment variable, unlike a key itself
NO_SECRET = "is refused: run folders must not contain secrets; set generate.key_env=NAME"


def generation_errors(run: RunConfig) -> list[str]:
    """Return a message for each setting that the generator lacks, or that the job ignores."""
    settings, is_judge = run.generate, run.job == "judge"
    if not (is_judge or run.job == "generate" or run.generates_data):
        return [*_unused_errors(run)]
    generator = _endpoint_errors(settings) if settings.generator == "endpoint" else _local_errors(run)
    return [
        *generator,
        *(() if is_judge else _data_errors(run)),
        *messages_of(
            (is_judge and settings.seeds is not None, f"generate.seeds= is not for job={run.job}; drop it"),
            (
                settings.max_cost is not None and None in (settings.price_in, settings.price_out),
                "generate.max_cost needs prices; set generate.price_in= and generate.price_out=, per million tokens",
            ),
        ),
    ]


def _unused_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for each setting of a generator that the job does not use."""
    dataset, generators = run.task.dataset, kind_of(run.task).generators
    return messages_of(
        *(
            (
                getattr(run.generate, name) is not None,
                f"generate.{name}= is not for job={run.job}; use job=generate, or drop it",
            )
            for name in ("seeds", "base_url", "endpoint_model", *(() if generators else ("model",)))
        ),
        (
            run.job == "evaluate" and dataset in generators,
            f"task.dataset={dataset} generates training data; set task.dataset=outputs/generate/...",
        ),
    )


def _data_errors(run: RunConfig) -> Iterator[str]:
    settings, dataset = run.generate, run.task.dataset
    tasks = [name for name in group_files("task", run.config_dir) if not name.startswith("_")]
    return messages_of(
        (
            run.generates_data and dataset != settings.algorithm,
            f"task.dataset={dataset} does not match generate.algorithm={settings.algorithm}; "
            f"set generate.algorithm={dataset}",
        ),
        (
            settings.seeds is not None and not Path(settings.seeds).is_file(),
            f"generate.seeds={settings.seeds}: no such file; null uses the seed tasks that peftkit includes",
        ),
        *(
            (
                name not in tasks and not Path(name).exists(),
                f"generate.decontaminate={name}: no such file, folder or task"
                + ("" if "/" in name or ending_of(Path(name)) in (*FILES, ".txt") else nearest(name, tasks)),
            )
            for name in settings.decontaminate
        ),
    )


def _endpoint_errors(settings: Generate) -> Iterator[str]:
    fields = settings.request
    secrets = list(secret_fields(fields))
    is_unbounded = "max_tokens" in fields and not (fields["max_tokens"] or fields.get("max_completion_tokens"))
    needs = "generate.generator=endpoint needs"
    url = urlsplit(settings.base_url or "http://unset")
    is_url = url.scheme in ("http", "https") and url.hostname
    has_secret = url.username or url.password or url.query
    is_openai = is_url and str(url.hostname).endswith("openai.com")
    return messages_of(
        (find_spec("openai") is None, f"{needs} the package openai; pip install 'peftkit[endpoint]'"),
        (settings.base_url is None, f"{needs} a URL; set generate.base_url=http://127.0.0.1:8000/v1"),
        (
            settings.endpoint_model is None,
            f"{needs} a model; set generate.endpoint_model=NAME, the server's name for it",
        ),
        (
            not VARIABLE.fullmatch(settings.key_env),  # not shown: it may be the key itself
            "generate.key_env takes the name of a variable, such as OPENAI_API_KEY, and not the key",
        ),
        (secrets, f"generate.request.{(secrets or [''])[0]} {NO_SECRET}"),
        (
            (settings.max_tokens or settings.max_cost) and is_unbounded,
            "a budget needs a maximum reply length; set generate.request.max_completion_tokens=2048 too",
        ),
        (settings.quantization is not None, "generate.quantization is for generate.generator=local; drop it"),
        (not is_url, "generate.base_url is not a URL; set generate.base_url=http://127.0.0.1:8000/v1"),
        (is_url and has_secret, f"generate.base_url {NO_SECRET}"),
        (
            is_openai and not has_secret and not os.environ.get(settings.key_env),
            f"{url.hostname} needs an API key; export {settings.key_env}=...",
        ),
    )


def _local_errors(run: RunConfig) -> Iterator[str]:
    settings, generator = run.generate, run.generate.model or ""
    return messages_of(
        *(
            (
                getattr(settings, name),
                f"generate.{name} is for an endpoint; set generate.generator=endpoint, or drop it",
            )
            for name in ("base_url", "endpoint_model", "request")
        ),
        (
            generator.startswith(("/", "./", "../", "~")) and not Path(generator).is_dir(),
            f"generate.model={generator}: no such folder; name a checkpoint's, or a Hub id",
        ),
        (
            run.model.family == ENCODER and settings.model is None,
            f"model={run.model.name} is an encoder, which generates no text; use model=gpt2 or model=t5",
        ),
    )
