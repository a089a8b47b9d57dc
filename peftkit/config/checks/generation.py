"""Turn a typed run into what does not go together in its section generate, before anything is asked or loaded."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from peftkit.config.checks.paths import FILES
from peftkit.config.kinds import kind_of
from peftkit.config.run import Generate, RunConfig
from peftkit.config.suggestions import nearest
from peftkit.paths import conf_folder

NAME = re.compile(r"[A-Z][A-Z0-9_]*")  # of a variable; a key is never written so
SECRET = re.compile(r"api.?key|secret|password|authorization|bearer", re.IGNORECASE)


def generating(run: RunConfig) -> list[str]:
    """Return a sentence for each."""
    settings = run.generate
    if settings is None:
        return []
    if run.job not in ("generate", "judge") and not run.grows_data:
        names = ("seeds", "base_url", "endpoint_model", *(() if run.task.kind == "instructions" else ("model",)))
        given = [name for name in names if getattr(settings, name) is not None]
        found = [f"generate.{name}= is not for job={run.job}; say job=generate, or drop it" for name in given]
        if run.job == "evaluate" and run.task.dataset in kind_of(run.task).generators:
            found.append(f"task.dataset={run.task.dataset} is grown to train on; say task.dataset=outputs/generate/...")
        return found
    found = _endpoint(settings) if settings.generator == "endpoint" else _local(run, settings)
    if run.job != "judge":
        found += _growing(run, settings)
    elif settings.seeds is not None:
        found.append(f"generate.seeds= is not for job={run.job}; drop it")
    return found + _prices(settings)


def _growing(run: RunConfig, settings: Generate) -> list[str]:
    """Complain about seeds, evaluation sets, and another algorithm than the data's."""
    found = []
    if run.grows_data and run.task.dataset != settings.algorithm:
        found.append(
            f"task.dataset={run.task.dataset} is grown by another algorithm than generate.algorithm="
            f"{settings.algorithm}; say generate.algorithm={run.task.dataset}"
        )
    if settings.seeds is not None and not Path(settings.seeds).is_file():
        found.append(f"generate.seeds={settings.seeds}: there is no such file; null takes the tasks that peftkit ships")
    tasks = [file.stem for file in sorted((conf_folder() / "task").glob("[!_]*.yaml"))]
    for name in settings.decontaminate:
        is_path = Path(name).suffix in (*FILES, ".txt") or "/" in name
        if not Path(name).exists() and (is_path or name not in tasks):
            hint = "" if is_path else nearest(name, tasks)
            found.append(f"generate.decontaminate={name}: there is no such file, folder or task{hint}")
    return found


def _prices(settings: Generate) -> list[str]:
    if settings.max_cost is None or (settings.price_in is not None and settings.price_out is not None):
        return []
    return ["generate.max_cost needs prices; say generate.price_in= and generate.price_out=, of a million tokens"]


def _endpoint(settings: Generate) -> list[str]:
    found = []
    if find_spec("openai") is None:
        found.append("generate.generator=endpoint needs the package openai; pip install 'peftkit[endpoint]'")
    if settings.base_url is None:
        found.append("generate.generator=endpoint needs an address; say generate.base_url=http://127.0.0.1:8000/v1")
    if settings.endpoint_model is None:
        found.append(
            "generate.generator=endpoint needs a model; say generate.endpoint_model=NAME, as the server calls it"
        )
    if not NAME.fullmatch(settings.key_env):  # not shown: it may be the key itself
        found.append("generate.key_env takes the name of a variable, as OPENAI_API_KEY; a run folder keeps no key")
    if names := [name for name in settings.request if SECRET.search(str(name))]:
        found.append(f"generate.request.{names[0]} is refused: a run folder keeps no secret; say generate.key_env=NAME")
    has_ceiling, fields = settings.max_tokens or settings.max_cost, settings.request
    if has_ceiling and "max_tokens" in fields and not (fields["max_tokens"] or fields.get("max_completion_tokens")):
        found.append("a ceiling needs a longest reply; say generate.request.max_completion_tokens=2048 too")
    if settings.quantization is not None:
        found.append("generate.quantization is for generate.generator=local; drop it")
    if settings.base_url is None:
        return found
    address = urlsplit(settings.base_url)
    if address.scheme not in ("http", "https") or not address.hostname:
        found.append("generate.base_url is no address; say generate.base_url=http://127.0.0.1:8000/v1")
    elif address.username or address.password or address.query:
        found.append("generate.base_url is refused: a run folder keeps no secret; say generate.key_env=NAME")
    elif address.hostname.endswith("openai.com") and not os.environ.get(settings.key_env):
        found.append(f"{address.hostname} wants a key; put it into the environment: export {settings.key_env}=...")
    return found


def _local(run: RunConfig, settings: Generate) -> list[str]:
    found = [
        f"generate.{name} is for an endpoint; say generate.generator=endpoint, or drop it"
        for name in ("base_url", "endpoint_model", "request")
        if getattr(settings, name)
    ]
    writer = settings.model or ""
    if writer.startswith(("/", "./", "../", "~")) and not Path(writer).is_dir():
        found.append(f"generate.model={writer} is no folder; name a checkpoint's, or a Hub id")
    if run.model.family == "encoder" and settings.model is None:
        found.append(f"model={run.model.name} writes no text; try model=gpt2 or model=t5")
    return found
