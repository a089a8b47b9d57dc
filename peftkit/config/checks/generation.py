"""Checks of the section `generate`."""

import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from peftkit.config.checks.rules import messages_of
from peftkit.config.endings import FILES
from peftkit.config.errors import refusal
from peftkit.config.files import ending_of
from peftkit.config.kinds import ENCODER, kind_of
from peftkit.config.run import Generate, RunConfig
from peftkit.config.secrets import secret_fields
from peftkit.config.suggestions import nearest
from peftkit.paths import exists, group_files, is_file, is_folder

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
            (
                is_judge and settings.seeds is not None,
                refusal(f"generate.seeds= is not for job={run.job}", "~generate.seeds"),
            ),
            (
                settings.max_cost is not None and None in (settings.price_in, settings.price_out),
                refusal(
                    "generate.max_cost needs prices per million tokens", "generate.price_in=1 generate.price_out=2"
                ),
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
                refusal(f"generate.{name}= is not for job={run.job}", f"~generate.{name}", "job=generate"),
            )
            for name in ("seeds", "base_url", "endpoint_model", *(() if generators else ("model",)))
        ),
        (
            run.job == "evaluate" and dataset in generators,
            refusal(f"task.dataset={dataset} generates training data", "task.dataset=outputs/generate/...", verb="set"),
        ),
    )


def _data_errors(run: RunConfig) -> Iterator[str]:
    settings, dataset = run.generate, run.task.dataset
    tasks = [name for name in group_files("task", run.config_dir) if not name.startswith("_")]
    return messages_of(
        (
            run.generates_data and dataset != settings.algorithm,
            refusal(
                f"task.dataset={dataset} does not match generate.algorithm={settings.algorithm}",
                f"generate.algorithm={dataset}",
                verb="set",
            ),
        ),
        (
            settings.seeds is not None and not is_file(settings.seeds),
            f"generate.seeds={settings.seeds}: no such file; null uses the seed tasks that peftkit includes",
        ),
        *(
            (
                name not in tasks and not exists(name),
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
    url = _parsed(settings.base_url or "http://unset")
    is_url = url.scheme in ("http", "https") and url.hostname
    has_secret = url.username or url.password or url.query
    is_openai = is_url and str(url.hostname).endswith("openai.com")
    return messages_of(
        (find_spec("openai") is None, f"{needs} the package openai; pip install 'peftkit[endpoint]'"),
        (
            settings.base_url is None,
            refusal(f"{needs} a URL", "generate.base_url=http://127.0.0.1:8000/v1", verb="set"),
        ),
        (
            settings.endpoint_model is None,
            refusal(f"{needs} a model, by the server's name for it", "generate.endpoint_model=NAME"),
        ),
        (
            not VARIABLE.fullmatch(settings.key_env),  # not shown: it may be the key itself
            "generate.key_env takes the name of a variable, such as OPENAI_API_KEY, and not the key",
        ),
        (secrets, f"generate.request.{(secrets or [''])[0]} {NO_SECRET}"),
        (
            (settings.max_tokens or settings.max_cost) and is_unbounded,
            refusal("a budget needs a maximum reply length", "generate.request.max_completion_tokens=2048"),
        ),
        (
            settings.generation,
            refusal("generate.generation is for generate.generator=local", "~generate.generation"),
        ),
        (
            settings.quantization is not None,
            refusal("generate.quantization is for generate.generator=local", "~generate.quantization"),
        ),
        (
            not is_url,
            refusal("generate.base_url is not a URL", "generate.base_url=http://127.0.0.1:8000/v1", verb="set"),
        ),
        (is_url and has_secret, f"generate.base_url {NO_SECRET}"),
        (
            is_openai and not has_secret and not os.environ.get(settings.key_env),
            f"{url.hostname} needs an API key; export {settings.key_env}=...",
        ),
    )


def _parsed(text: str) -> SplitResult:
    """Return the parts of a URL, none where it is not valid."""
    try:
        url = urlsplit(text)
        _ = url.port  # raises ValueError for any other text
    except ValueError:
        return urlsplit("")
    return urlsplit("") if re.search(r"[\s\x00-\x1f]", text) else url


def _local_errors(run: RunConfig) -> Iterator[str]:
    settings, generator = run.generate, run.generate.model or ""
    return messages_of(
        *(
            (
                getattr(settings, name),
                refusal(f"generate.{name} is for an endpoint", f"~generate.{name}", "generate.generator=endpoint"),
            )
            for name in ("base_url", "endpoint_model", "request")
        ),
        (
            generator.startswith(("/", "./", "../", "~")) and not is_folder(generator),
            refusal(f"generate.model={generator}: no such folder with a checkpoint", "~generate.model"),
        ),
        (
            run.model.family == ENCODER and settings.model is None,
            refusal(f"model={run.model.name} is an encoder, which generates no text", "model=gpt2", "model=t5"),
        ),
    )
