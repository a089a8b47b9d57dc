"""Embeddings of the texts of a file, streamed in constant memory, or of one text on the command line."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DataCollatorWithPadding

from peftkit.config import TEXT_FILES, ModelConfig, Refusal, RunConfig, UserError, refusal, refuse
from peftkit.config.console import log
from peftkit.config.files import names_file
from peftkit.config.source import Source
from peftkit.data.batches import batch_by_characters, padding_multiple
from peftkit.data.formats.base import tokenize
from peftkit.data.streaming import EmbeddingFileWriter, TextRecord, stream_texts
from peftkit.jobs import extend
from peftkit.models.checkpoints import max_text_length, vector_pooling
from peftkit.models.embedding_rows import add_new_rows
from peftkit.models.load import load_model
from peftkit.models.pooling import TextEmbedder, stack_of
from peftkit.models.tokenizer import load_tokenizer
from peftkit.pipeline.artifacts import base_source, find_model, load_bundle
from peftkit.pipeline.sources import device_name, tokenizer_source, warn_substitutions
from peftkit.results import run_folder
from peftkit.results.locks import locked_file
from peftkit.results.run_result import RunResult

BLOCK_TEXTS, BLOCK_CHARACTERS = 4096, 1 << 22  # maximum size of a block that is sorted by length


@dataclass(frozen=True)
class EmbeddingModel:
    """A model that returns embeddings, with its tokenizer, source, pooling and limits."""

    model: Any
    tokenizer: Any
    source: Source
    reader: TextEmbedder
    max_length: int
    batch_size: int = 64
    bf16: bool = False

    @property
    def dim(self) -> int:
        hidden_size = int(self.model.config.hidden_size)
        return min(self.reader.dim or hidden_size, hidden_size)


def embed(config: RunConfig) -> None:
    """Write the embeddings of the texts of a file, in their order, or print the embedding of one text.

    Raises:
        UserError: the file cannot be read, the model lacks the layer, or the method does not modify its layers.
    """
    started, text = time.perf_counter(), str(config.input)
    file = Path(text) if names_file(text, TEXT_FILES) else None
    embedder = load_embedding_model(config)
    if file is None and config.output is None:
        embeddings, has_text, truncated = encode(embedder, [text])
        line = {"text": text, "vector": embeddings[0].tolist() if has_text[0] else None}
        print(json.dumps(line, ensure_ascii=False))
        _report({"rows": 1, "without_text": int(not has_text[0]), "truncated": truncated}, embedder, None)
        return
    meta = run_folder.meta(config.seed, device_name(), "bf16" if embedder.bf16 else "fp32")
    target = Path(config.output or f"{Path(text).with_suffix('')}.vectors.parquet")
    texts = [TextRecord(None, text)] if file is None else stream_texts(file, config.embed.column)
    with locked_file(target):
        counts = _write_embeddings(target, embedder, texts)
        metadata = {
            "input": None if file is None else str(file),
            **counts,
            "max_length": embedder.max_length,
            "width": embedder.dim,
            "pooling": embedder.reader.pooling,
            "layer": embedder.reader.layer,
            "normalize": embedder.reader.normalize,
            "model": {**asdict(embedder.source), "folder": None},
            "run": config.run,
            "vocab": config.vocab,
            "seconds": time.perf_counter() - started,
            "meta": {**meta, "status": "finished"},
        }
        run_folder.write_text(target.with_name(f"{target.name}.json"), json.dumps(metadata, indent=1) + "\n")
    _report(counts, embedder, target)


def _write_embeddings(target: Path, embedder: EmbeddingModel, texts: Iterable[TextRecord]) -> Counter[str]:
    """Write the embeddings with the ids of the texts, or their numbers if the file has no ids; return the counts."""
    counts: Counter[str] = Counter()
    with EmbeddingFileWriter(target) as file:
        for batch in batch_by_characters(texts, BLOCK_CHARACTERS, BLOCK_TEXTS, lambda record: record.text):
            embeddings, has_text, truncated = encode(embedder, [record.text for record in batch])
            ids = [counts["rows"] + n if record.id is None else record.id for n, record in enumerate(batch)]
            file.add(ids, [record.text for record in batch], embeddings, has_text)
            counts.update(rows=len(batch), without_text=int((~has_text).sum()), truncated=truncated)
        if not counts:
            raise UserError("input=FILE: the file has no texts; use another file")
    return counts


@torch.no_grad()
def encode(embedder: EmbeddingModel, texts: list[str]) -> tuple[np.ndarray, np.ndarray, int]:
    """Encode texts in batches, from the longest to the shortest; the embedding of a text without tokens is zero.

    Returns:
        The embeddings (texts, dim), whether each text has tokens (texts,), and the number of truncated texts.
    """
    model, device = embedder.model, next(embedder.model.parameters()).device
    numbers = [number for number, text in enumerate(texts) if text.strip()]
    tokens = tokenize(embedder.tokenizer, [[texts[n] for n in numbers]], embedder.max_length) if numbers else {}
    truncated, lengths = tokens.pop("truncated", []), [len(ids) for ids in tokens.get("input_ids", [])]
    embeddings: np.ndarray = np.zeros((len(texts), embedder.dim), dtype=np.float32)
    order = [index for index in np.argsort(lengths, kind="stable")[::-1] if lengths[index]]
    has_text = np.isin(np.arange(len(texts)), [numbers[index] for index in order])
    collate = DataCollatorWithPadding(
        embedder.tokenizer, pad_to_multiple_of=padding_multiple(embedder.tokenizer.model_max_length)
    )
    for first in range(0, len(order), embedder.batch_size):
        indices = order[first : first + embedder.batch_size]
        batch = collate([{name: values[index] for name, values in tokens.items()} for index in indices])
        inputs = {name: values.to(device) for name, values in batch.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=embedder.bf16):
            embeddings[[numbers[index] for index in indices]] = embedder.reader.of(model, inputs).float().cpu().numpy()
    if not np.isfinite(embeddings).all():
        raise ValueError("the embeddings contain NaN or inf; check the training, or drop train.bf16=true")
    return embeddings, has_text, sum(truncated)


def load_embedding_model(config: RunConfig) -> EmbeddingModel:
    """Load a finished run, a vocabulary of job=extend, or a pretrained model."""
    settings = config.embed
    if config.run is None:
        embedder = _load_pretrained(config.model, config.source, config.vocab)
    elif extend.is_vocabulary(Path(config.run)):
        recorded = RunResult.finished(config.run).config
        embedder = _load_pretrained(recorded.model, recorded.source, config.run)
    else:
        embedder = _load_run(RunResult.finished(config.run))
    warn_substitutions(embedder.source)
    model, trained = embedder.model, embedder.reader.pooling
    layers, hidden_size = model.config.num_hidden_layers, model.config.hidden_size
    refuse(
        (
            not -layers - 1 <= (settings.layer or 0) <= layers,
            Refusal(
                f"embed.layer={settings.layer}: expected 0 (the embeddings) to {layers}, or -1 for the last",
                "embed.layer=-1",
            ),
        ),
        (
            (settings.truncate_dim or 1) > hidden_size,
            refusal(
                f"embed.truncate_dim={settings.truncate_dim}: the embeddings have {hidden_size} dimensions",
                "~embed.truncate_dim",
            ),
        ),
    )
    if settings.pooling not in (None, trained):
        log(f"!! embed.pooling={settings.pooling}: the model was trained with {trained}")
    max_length = embedder.max_length
    if settings.max_length is not None:
        max_length = min(settings.max_length, embedder.tokenizer.model_max_length)
    if torch.cuda.is_available() and not getattr(model, "is_quantized", False):
        model.to("cuda")
    return replace(
        embedder,
        model=model.eval(),
        reader=TextEmbedder(settings.pooling or trained, settings.layer, settings.normalize, settings.truncate_dim),
        max_length=max_length,
        batch_size=int(config.train.get("per_device_eval_batch_size") or EmbeddingModel.batch_size),
        bf16=bool(config.train.get("bf16")),
    )


def _load_pretrained(choice: ModelConfig, kind: str, vocab: str | None) -> EmbeddingModel:
    source = find_model(choice, kind)
    tokenizer = load_tokenizer(tokenizer_source(vocab, source), None if vocab is None else source)
    model = load_model(choice, source, tokenizer, "retrieval", None)
    if vocab is not None:
        add_new_rows(model, Path(vocab))
    reader = TextEmbedder(model.config.vector_pooling)
    return EmbeddingModel(model, tokenizer, source, reader, max_text_length(source, tokenizer, model.config))


def _load_run(run: RunResult) -> EmbeddingModel:
    """Load a trained model; of a model with a head only its base, with adapters and soft prompts."""
    bundle, trained, source = load_bundle(run), run.config, base_source(run)
    if trained.task.kind == "retrieval":
        model, pooling = bundle.model, bundle.model.config.vector_pooling
    elif trained.method.traits.lengthens_text or trained.method.traits.has_own_model:
        raise UserError(
            f"method={trained.method.name} does not modify the layers of the base, so its embeddings are those of the "
            "base; use method=prompt"
        )
    else:
        model, pooling = stack_of(bundle.model), vector_pooling(trained.model, source)
    return EmbeddingModel(model, bundle.tokenizer, source, TextEmbedder(pooling), trained.task.max_length)


def _report(counts: Mapping[str, int], embedder: EmbeddingModel, target: Path | None) -> None:
    if counts["without_text"]:
        embedding = "a zero vector" if target is not None and target.suffix == ".npy" else "no embedding"
        log(f"{counts['without_text']} of {counts['rows']} texts are empty; they have {embedding}")
    if counts["truncated"]:
        log(f"{counts['truncated']} of {counts['rows']} texts were truncated to {embedder.max_length} tokens")
    if target is not None:
        reader = embedder.reader
        layer = "" if reader.layer is None else f" of layer {reader.layer}"
        what = f"{counts['rows']} embeddings of {embedder.dim} dimensions, {reader.pooling}{layer}"
        log(f"{what} -> {target}, {target.name}.json")
