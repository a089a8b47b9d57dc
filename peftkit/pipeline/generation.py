"""Shared by jobs that call a generator: its model, the session with its journal, and evaluation sets to exclude."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from peftkit.config import RunConfig, TaskConfig, UserError, error_summary, refuse
from peftkit.config.checks.untrusted import read_option
from peftkit.config.console import log
from peftkit.config.secrets import secret_errors, without_secrets
from peftkit.config.source import Source, fingerprint
from peftkit.data import minitasks
from peftkit.generation.client import GenerationClient, Journal
from peftkit.generation.contamination import EvaluationSets, file_texts, iter_texts
from peftkit.generation.generators import Generator, offline
from peftkit.paths import group_files
from peftkit.results import run_folder

# job=generate with an endpoint runs without torch, so imports that load it are inside the functions


def resolve_generator(config: RunConfig) -> Source:
    """Return the model that generates, without loading it.

    The offline GPT-2 and T5 generate no useful text: in Self-Instruct the offline generator replaces them, which
    answers only its prompts.
    """
    settings, model = config.generate, config.model
    if settings.generator == "endpoint":
        return Source("endpoint", str(settings.endpoint_model))
    from peftkit.models.checkpoints import locate
    from peftkit.pipeline.artifacts import find_model
    from peftkit.pipeline.libraries import configure_libraries

    configure_libraries(config.source)
    if settings.model is not None:
        model = replace(model, checkpoint=settings.model, revision="main", stand_in="gpt2-mini", keep_layers=None)
    if config.job != "judge" and settings.algorithm == "self_instruct":
        found = locate(model, config.source)
        if found.kind == "offline" and found.folder is None:
            return Source("offline", offline.NAME, offline.offline_revision(minitasks), found.substituted_for)
    return find_model(model, config.source)


@contextmanager
def generation_session(
    config: RunConfig, model: Source, folder: Path, files: Sequence[str], result: dict[str, Any]
) -> Iterator[GenerationClient]:
    """Yield a client whose journal is in a locked folder; at the end, write the result with its status.

    Args:
        files: files that the job writes, the result file last; force=true deletes them first.
        result: filled by the job, which may set the status.
    """
    settings, device, precision = config.generate, "endpoint", "unknown"
    if settings.generator != "endpoint":
        from peftkit.pipeline.sources import device_name

        device, precision = device_name(), "quantized" if settings.quantization else "fp32"
    meta = run_folder.meta(config.seed, device, precision)
    result |= {"run": {"config": config.to_dict(), "overrides": [*config.overrides]}, "meta": meta}
    with ExitStack() as stack:
        for name in files if config.force else ():
            (folder / name).unlink(missing_ok=True)
        try:
            journal = stack.enter_context(closing(Journal(folder / "journal.jsonl")))
            generator = _load_generator(config, model, bool(journal.rows))
            client = GenerationClient(generator, journal, settings, config.seed)
            if journal.rows:
                log(f"continuing in {folder}: {client.usage['requests']:,} replies so far")
            yield client
            meta["status"] = "finished" if meta["status"] == "running" else meta["status"]
        except BaseException as error:
            meta |= {"status": "failed", "reason": without_secrets(error_summary(error))}
            raise
        finally:
            text = json.dumps({"schema": run_folder.SCHEMA, **result}, indent=1, default=str)
            run_folder.write_text(folder / files[-1], text + "\n")


def _load_generator(config: RunConfig, model: Source, has_answered: bool) -> Generator:
    """Return the generator, with its model loaded.

    Args:
        has_answered: whether the endpoint has answered in this run already.
    """
    settings = config.generate
    if settings.generator == "endpoint":
        from peftkit.generation.generators.endpoint import EndpointGenerator

        return EndpointGenerator(settings, _key(config), has_answered)
    if (model.kind, model.name) == ("offline", offline.NAME):
        return offline.OfflineGenerator(minitasks)
    import torch

    from peftkit.generation.generators.local import LocalGenerator
    from peftkit.models.load import load_language_model
    from peftkit.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(model)
    loaded, why_no_head = load_language_model(model, tokenizer, settings.quantization)
    if why_no_head and not loaded.config.is_encoder_decoder:
        raise UserError(
            f"{model.name} cannot generate: {why_no_head}; set generate.model= to a causal or seq2seq checkpoint"
        )
    if torch.cuda.is_available() and not settings.quantization:
        loaded = loaded.to("cuda")  # type: ignore[arg-type]
    return LocalGenerator(loaded, tokenizer, settings.batch, settings.chat, settings.generation)


def _key(config: RunConfig) -> str | None:
    """Return the API key, None for a server that the recipe names unless the user types the name of the key."""
    key = os.environ.get(config.generate.key_env)
    typed = {override.lstrip("+").partition("=")[0] for override in config.overrides}
    if key and typed.isdisjoint(("generate.base_url", "generate.key_env")):
        log(
            f"no key is sent to {config.generate.base_url}, which the recipe names; "
            f"to send it, set generate.key_env={config.generate.key_env}"
        )
        return None
    return key


@dataclass(frozen=True)
class EvaluationSet:
    """A record of an evaluation set that was read."""

    name: str
    revision: str
    rows: int
    warning: str  # about data that replaces it; empty if it was read itself


def load_evaluation_sets(names: list[str], config: RunConfig) -> tuple[EvaluationSets, list[EvaluationSet]]:
    """Read files, folders and tasks whose examples must not be in generated data, and return a record of each."""
    sets, records = EvaluationSets(), []
    for name in names:
        before, path = sets.examples, Path(name)
        if path.exists():
            sets.add(name, file_texts(path))
            files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
            revision, warning = ",".join(map(fingerprint, files)), ""
        else:
            from peftkit.data.tables import evaluation_tables
            from peftkit.pipeline.libraries import configure_libraries

            configure_libraries(config.source)
            tables, origin = evaluation_tables(
                load_task_config(name, config.config_dir), config.data_root, config.source
            )
            for split, table in tables.items():
                sets.add(f"{name}/{split}", (list(iter_texts(dict(row))) for row in table))
            revision, warning = origin.revision or origin.name, origin.substitution(f"EVALUATION SET {name}")
        records.append(EvaluationSet(name, revision, sets.examples - before, warning))
    return sets, records


def load_task_config(name: str, config_dir: str | None = None) -> TaskConfig:
    """Return a task of conf/task or of -cd DIR by name."""
    files = group_files("task", config_dir)

    def load(option: str, below: tuple[str, ...] = ()) -> Any:
        refuse((option in below, f"task={name}: its defaults lead back to itself; remove that entry"))
        part: Any = read_option("task", option, files[option], files)
        bases = [load(str(base), (*below, option)) for base in part.pop("defaults", []) if base != "_self_"]
        return OmegaConf.merge(*bases, part)

    values: Any = OmegaConf.to_container(OmegaConf.create({"task": load(name)}), resolve=True)
    refuse(*((True, message) for message in secret_errors(values)))
    return TaskConfig(**values["task"])
