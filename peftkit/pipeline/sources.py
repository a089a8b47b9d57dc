"""Sources of a run's model and data, and other properties that determine its result."""

import os
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from peftkit.compat.hub import download_adapter
from peftkit.config import MethodConfig, Refusal, RunConfig, UserError
from peftkit.config.console import log, number_of_processes
from peftkit.config.shared import shared
from peftkit.config.source import PICKLED, Source, fingerprint
from peftkit.config.start import found_start, weights_hash
from peftkit.data import offline_corpus
from peftkit.data.datasets import example_reader
from peftkit.models import gguf, offline, pickled
from peftkit.models.checkpoints import vector_pooling
from peftkit.models.embedding_rows import MADE_FOR_THIS, RECORD_FILE, ROWS_FILE, read_vocabulary
from peftkit.models.load import pooling_of
from peftkit.models.tokenizer import load_tokenizer
from peftkit.paths import cache_folder, safe_name
from peftkit.pipeline.main_process import write_once
from peftkit.training import precision_of

PROMPT_FOLDER = "prompt"  # the artifact of a run that trains nothing
VOCABULARY_FILES = (
    RECORD_FILE,
    ROWS_FILE,
    "tokenizer.json",
)  # of a folder of job=extend, those that determine a result


def converted_checkpoint(file: Path, revision: str) -> Path:
    """Return the folder of the checkpoint of a GGUF file, in fp32, or of pickled weights.

    It is written to the cache the first time.
    """
    is_pickled = file.name.endswith(PICKLED)
    folder = cache_folder() / f"{safe_name(file.absolute().parent.name if is_pickled else file.stem)}-{revision}"

    def convert() -> None:
        log(f"{file} is converted once to {'safetensors' if is_pickled else 'fp32'}, and cached in {folder}")
        (pickled.convert if is_pickled else gguf.dequantize)(file, folder)

    write_once(folder, folder.is_dir, convert)
    return folder


def ensure_mini(kind: str) -> Path:
    """Return the folder of the small GPT-2 or T5 of source=offline; it is pretrained first if it is not cached."""
    train, held_out = offline_corpus.offline_documents()
    folder = offline.mini_path(kind, cache_folder(), offline_corpus.documents_fingerprint(train))
    write_once(folder, (folder / "pretraining.json").is_file, partial(_pretrain_mini, kind, train, held_out, folder))
    return folder


def _pretrain_mini(kind: str, train: list[str], held_out: list[str], folder: Path) -> None:
    log(f"!! {kind} is pretrained once on offline text, about two minutes on 2 cores, and cached in {folder}")
    tokenizer = offline.train_tokenizer(kind, train)
    block, eos = offline.MINI_MODELS[kind].block, tokenizer.eos_token_id
    parts = [tokenizer(documents, add_special_tokens=False)["input_ids"] for documents in (train, held_out)]
    if kind == "gpt2-mini":
        pairs, held = (offline_corpus.causal_pairs(ids, block, eos) for ids in parts)
    else:
        pairs, held = (offline_corpus.span_pairs(ids, block, eos, offline.sentinel_ids(tokenizer)) for ids in parts)
    targets, held_targets = ([token for _, target in part for token in target] for part in (pairs, held))
    unigram = offline_corpus.unigram_loss(targets, held_targets, len(tokenizer))
    offline.pretrain_mini(kind, tokenizer, offline.PretrainingData(pairs, held, unigram), folder)


def warn_substitutions(model: Source, *data: Source) -> None:
    """Warn about a substituted model, and about substituted data."""
    sentences = model.substitution("MODEL"), *(each.substitution("DATA") for each in data)
    for sentence in dict.fromkeys(filter(None, sentences)):
        log(f"!! {sentence}")


def describe_sources(config: RunConfig, model: Source, data: Source) -> dict[str, Any]:
    """Return the sources of model and data for the result, without folders of this machine."""
    pooling = (vector_pooling if config.task.kind == "retrieval" else pooling_of)(config.model, model)
    entries = {"model": {**asdict(model), "pooling": pooling}, "data": asdict(data)}
    return {part: {name: entry[name] for name in entry if name != "folder"} for part, entry in entries.items()}


def tokenizer_source(vocab: str | None, model: Source) -> Source:
    """Return the source of the tokenizer: the base, or a folder that job=extend made for exactly this base.

    Raises:
        UserError: the folder was made for another base.
    """
    if vocab is None:
        return model
    base = read_vocabulary(Path(vocab))
    if base.revision != model.revision or (base.base != model.name and model.kind != "folder"):
        wrong = f"vocab={vocab} was made for {base.base} ({base.revision}), this is {model.name} ({model.revision})"
        raise UserError(Refusal(f"{wrong}; {MADE_FOR_THIS}", "~vocab"))
    return Source("folder", vocab, folder=vocab)


def run_tokenizer(config: RunConfig, source: Source, base: Source) -> Any:
    """Load the tokenizer of a run from a source, limited to the tokens that the run's base reads with its method."""
    virtual_tokens = prompt_positions(config.method)
    make = partial(load_tokenizer, source, None if source == base else base, virtual_tokens)
    # a kind of task may set a chat template, which is saved with the tokenizer
    key = (source, base, virtual_tokens, config.task.kind)
    return make() if source.revision is None else shared("tokenizer", key, make)


def prompt_positions(method: MethodConfig) -> int:
    """Return how many of the model's positions a method's soft prompt takes; peftkit's prefixes take none."""
    is_prompt = method.config.get("kind") in ("prompt", "p_tuning")
    takes = method.traits.lengthens_text or is_prompt
    return int(method.config.get("num_virtual_tokens") or 0) if takes else 0


def execution_setup(config: RunConfig, is_split: bool = False) -> dict[str, Any]:
    """Return what determines a result besides settings and sources: processes, precision, splits, hashes.

    Args:
        is_split: whether the validation split is a part of the training split.
    """
    found: dict[str, Any] = {
        "processes": number_of_processes(),
        "precision": precision_of(config.train),
    }
    if (is_split or config.early_stopping.patience is not None) and example_reader(config.task).is_stratified:
        found["split"] = "stratified"
    if config.caches_features:
        found["frozen_dropout"] = "off"
    if config.distill.teacher is not None:
        found["teacher"] = artifact_fingerprint("distill.teacher", Path(config.distill.teacher))
    if config.start is not None:
        found["start"] = weights_hash(found_start(config.start, config.source, download_adapter))
    return found if config.vocab is None else {**found, "vocab": fingerprint(Path(config.vocab), VOCABULARY_FILES)}


def artifact_fingerprint(key: str, run: Path) -> str:
    """Return the hash of a run's trained weights, or of its prompt.

    Args:
        key: the key that names the run folder.

    Raises:
        UserError: it has neither.
    """
    artifact = next((run / name for name in ("adapter", "model", PROMPT_FOLDER) if (run / name).is_dir()), None)
    if artifact is None:
        raise UserError(f"{key}={run} has no model, as a trial has; use a run without trial=true")
    return fingerprint(artifact, (".safetensors", "prompt.json"))


def device_name(workers: int | str | None = None) -> str:
    """Return the machine and how a run shares it, since times compare only where both are equal.

    Args:
        workers: how many runs train at the same time.
    """
    shared_by = f", {workers} runs at a time" if workers is not None else ""
    if torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name()} x {torch.cuda.device_count()}{shared_by}"
    cores, threads = os.cpu_count(), torch.get_num_threads()
    used = "" if threads == cores else f", {threads} thread{'s' * (threads > 1)}"
    return f"cpu: {torch.cpu.get_capabilities().get('cpu_name') or 'unknown'}, {cores} cores{used}{shared_by}"
