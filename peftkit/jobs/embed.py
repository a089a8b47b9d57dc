"""Vectors of texts: of a file, streamed in constant memory, or of one text on the command line."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peftkit.config import TEXT_FILES, Embed, ModelConfig, RunConfig, UserError
from peftkit.config.source import Source
from peftkit.data.collate import padding_collator
from peftkit.data.formats.base import tokenize
from peftkit.data.streaming import TextRecord, stream_texts
from peftkit.data.text_batches import batch_by_letters
from peftkit.data.vector_file import VectorFileWriter
from peftkit.jobs import extend
from peftkit.models.embedding_rows import grow
from peftkit.models.load import load_model, load_tokenizer
from peftkit.models.pooling import Vectors, stack_of
from peftkit.models.sentence import longest_text, vector_pooling
from peftkit.pipeline.inference import base_source, load_bundle, recorded_config
from peftkit.pipeline.sources import device_name, find_model, tokenizer_source
from peftkit.results import run_folder
from peftkit.results.console import is_main_process, log

TEXTS, LETTERS = 4096, 1 << 22  # of a block that is sorted by length, at most


@dataclass(frozen=True)
class Encoder:
    """A model that returns vectors, with its tokenizer, pooling and limits."""

    model: Any
    tokenizer: Any
    vectors: Vectors
    max_length: int
    batch_size: int
    bf16: bool
    source: Source

    @property
    def width(self) -> int:
        whole = int(self.model.config.hidden_size)
        return min(self.vectors.width or whole, whole)


@dataclass(frozen=True)
class Embeddings:
    """Vectors (texts, width), whether each text has one (texts,), and the number of truncated texts."""

    vectors: np.ndarray
    known: np.ndarray
    truncated: int


@dataclass
class Counts:
    texts: int = 0
    without_text: int = 0
    truncated: int = 0

    def add(self, embeddings: Embeddings) -> None:
        self.texts += len(embeddings.known)
        self.without_text += int((~embeddings.known).sum())
        self.truncated += embeddings.truncated


def embed(config: RunConfig) -> None:
    """Write the vectors of the texts of a file, in their order, or print the vector of one text.

    Raises:
        UserError: the file cannot be read, the model lacks the layer, or the method changes none of its layers.
    """
    if not is_main_process():  # one process reads one file
        return
    settings = config.embed
    assert settings is not None  # its section is in config.yaml
    clock, file = time.perf_counter(), Path(str(config.input))
    is_file = file.suffix in TEXT_FILES
    texts = stream_texts(file, settings.column) if is_file else iter([TextRecord(None, str(config.input))])
    encoder = load_encoder(config, settings)
    meta = run_folder.meta(config.seed, device_name(), "bf16" if encoder.bf16 else "fp32") | {"status": "finished"}
    counts, target = Counts(), None
    if not is_file and config.output is None:
        embeddings = encode(encoder, [str(config.input)])
        counts.add(embeddings)
        vector = embeddings.vectors[0].tolist() if embeddings.known[0] else None
        print(json.dumps({"text": config.input, "vector": vector}, ensure_ascii=False))
    else:
        target = Path(config.output or f"{file.with_suffix('')}.vectors.parquet")
        _write_vectors(target, encoder, texts, counts)
        facts = {
            "input": str(file) if is_file else None,
            "rows": counts.texts,
            "without_text": counts.without_text,
            "truncated": counts.truncated,
            "max_length": encoder.max_length,
            "width": encoder.width,
            "pooling": encoder.vectors.pooling,
            "layer": encoder.vectors.layer,
            "normalize": encoder.vectors.normalize,
            "model": {**asdict(encoder.source), "folder": None},
            "run": config.run,
            "vocab": config.vocab,
            "seconds": time.perf_counter() - clock,
            "meta": meta,
        }
        run_folder.write_text(target.with_name(f"{target.name}.json"), json.dumps(facts, indent=1) + "\n")
    _report(counts, encoder, target)


def _write_vectors(target: Path, encoder: Encoder, texts: Iterable[TextRecord], counts: Counts) -> None:
    """Write the vectors with the ids of the texts, or their numbers if the file has no ids."""
    with VectorFileWriter(target) as file:
        for batch in batch_by_letters(texts, LETTERS, TEXTS, lambda record: record.text):
            embeddings = encode(encoder, [record.text for record in batch])
            has_ids = batch[0].id is not None
            ids = [record.id if has_ids else counts.texts + n for n, record in enumerate(batch)]
            file.add(ids, [record.text for record in batch], embeddings.vectors, embeddings.known)
            counts.add(embeddings)
        if counts.texts == 0:
            raise UserError("input=FILE: the file has no texts; use another file")


@torch.no_grad()
def encode(encoder: Encoder, texts: list[str]) -> Embeddings:
    """Return the vectors of texts in their order; batches go from the longest to the shortest.

    A text without tokens has a vector of zeros.
    """
    model, device = encoder.model, next(encoder.model.parameters()).device
    numbers = [number for number, text in enumerate(texts) if text.strip()]
    tokens = tokenize(encoder.tokenizer, [[texts[n] for n in numbers]], encoder.max_length) if numbers else {}
    cut, lengths = tokens.pop("truncated", []), [len(ids) for ids in tokens.get("input_ids", [])]
    vectors: np.ndarray = np.zeros((len(texts), encoder.width), dtype=np.float32)
    known: np.ndarray = np.zeros(len(texts), dtype=bool)
    order = [place for place in np.argsort(lengths, kind="stable")[::-1] if lengths[place]]
    collate = padding_collator(encoder.tokenizer)
    for first in range(0, len(order), encoder.batch_size):
        places = order[first : first + encoder.batch_size]
        batch = collate([{name: values[place] for name, values in tokens.items()} for place in places])
        inputs = {name: values.to(device) for name, values in batch.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=encoder.bf16):
            pooled = encoder.vectors.of(model, inputs).float().cpu().numpy()
        batch_numbers = [numbers[place] for place in places]
        vectors[batch_numbers], known[batch_numbers] = pooled, True
    if not np.isfinite(vectors).all():
        raise ValueError("the vectors contain NaN or inf; check the training, or drop train.bf16=true")
    return Embeddings(vectors, known, sum(cut))


@dataclass(frozen=True)
class _Loaded:
    model: Any
    tokenizer: Any
    source: Source
    pooling: str  # of the model's training
    max_length: int


def load_encoder(config: RunConfig, settings: Embed) -> Encoder:
    """Load a finished run, a vocabulary of job=extend, or a pretrained model."""
    folder = None if config.run is None else Path(config.run)
    if folder is None:
        loaded = _load_pretrained(config.model, config.source, config.vocab)
    elif extend.is_vocabulary(folder):
        recorded = RunConfig.from_config(run_folder.read_finished(folder)["run"]["config"])
        loaded = _load_pretrained(recorded.model, recorded.source, str(folder))
    else:
        loaded = _load_run(folder)
    if warning := loaded.source.substitution("MODEL"):
        log(f"!! {warning}")
    model, layer = loaded.model, settings.layer
    layers, width = model.config.num_hidden_layers, model.config.hidden_size
    if layer is not None and not -layers - 1 <= layer <= layers:
        raise UserError(f"embed.layer={layer}: expected 0 (the embeddings) to {layers}, or -1 for the last")
    if settings.pooling not in (None, loaded.pooling):
        log(f"!! embed.pooling={settings.pooling}: the model was trained with {loaded.pooling}")
    if (settings.truncate_dim or 1) > width:
        raise UserError(f"embed.truncate_dim={settings.truncate_dim}: the model's vectors have {width}; drop it")
    max_length = settings.max_length or loaded.max_length
    if settings.max_length is not None:
        max_length = min(max_length, getattr(model.config, "max_position_embeddings", None) or max_length)
    if torch.cuda.is_available() and not getattr(model, "is_quantized", False):
        model.to("cuda")
    return Encoder(
        model=model.eval(),
        tokenizer=loaded.tokenizer,
        vectors=Vectors(settings.pooling or loaded.pooling, layer, settings.normalize, settings.truncate_dim),
        max_length=max_length,
        batch_size=int(config.train.get("per_device_eval_batch_size") or 64),
        bf16=bool(config.train.get("bf16")),
        source=loaded.source,
    )


def _load_pretrained(choice: ModelConfig, kind: str, vocab: str | None) -> _Loaded:
    source = find_model(choice, kind)
    tokenizer = load_tokenizer(tokenizer_source(vocab, source))
    model = load_model(choice, source, tokenizer, "retrieval", None)
    if vocab is not None:
        grow(model, Path(vocab))
    return _Loaded(model, tokenizer, source, model.config.vector_pooling, longest_text(source, tokenizer, model.config))


def _load_run(folder: Path) -> _Loaded:
    """Load a trained model; if it has a head, the base below it with its adapters and soft prompts."""
    trained = recorded_config(folder)
    bundle, source, max_length = load_bundle(trained, folder), base_source(trained, folder), trained.task.max_length
    if trained.task.kind == "retrieval":
        return _Loaded(bundle.model, bundle.tokenizer, source, bundle.model.config.vector_pooling, max_length)
    if trained.method.traits.lengthens_text:
        raise UserError(
            f"method={trained.method.name} changes no layer of the base, which computes the vectors; use method=prompt"
        )
    return _Loaded(stack_of(bundle.model), bundle.tokenizer, source, vector_pooling(trained.model, source), max_length)


def _report(counts: Counts, encoder: Encoder, target: Path | None) -> None:
    if counts.without_text:
        vector = "zeros for a vector" if target is not None and target.suffix == ".npy" else "no vector"
        log(f"{counts.without_text} of {counts.texts} texts are empty; they have {vector}")
    if counts.truncated:
        log(f"{counts.truncated} of {counts.texts} texts were truncated to {encoder.max_length} tokens")
    if target is not None:
        vectors = encoder.vectors
        layer = "" if vectors.layer is None else f" of layer {vectors.layer}"
        log(f"{counts.texts} vectors of {encoder.width}, {vectors.pooling}{layer} -> {target}, {target.name}.json")
