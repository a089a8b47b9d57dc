"""Embeddings of texts: of a file, streamed in constant memory, or of one text on the command line."""

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

from peftkit.config import TEXT_FILES, ModelConfig, RunConfig, UserError, refuse
from peftkit.config.source import Source
from peftkit.data.batches import batch_by_characters, padding_multiple
from peftkit.data.formats.base import tokenize
from peftkit.data.streaming import EmbeddingFileWriter, TextRecord, stream_texts
from peftkit.jobs import extend
from peftkit.models.checkpoints import max_text_length, vector_pooling
from peftkit.models.embedding_rows import add_new_rows
from peftkit.models.load import load_model, load_tokenizer
from peftkit.models.pooling import TextEmbedder, stack_of
from peftkit.pipeline.artifacts import base_source, load_bundle
from peftkit.pipeline.sources import device_name, find_model, tokenizer_source, warn_substitutions
from peftkit.results import run_folder
from peftkit.results.console import is_main_process, log
from peftkit.results.run_result import RunResult

BLOCK_TEXTS, BLOCK_CHARACTERS = 4096, 1 << 22  # of a block that is sorted by length, at most


@dataclass(frozen=True)
class EmbeddingModel:
    """A model that returns vectors, with its tokenizer, where it came from, pooling and limits."""

    model: Any
    tokenizer: Any
    source: Source
    vectors: TextEmbedder
    max_length: int
    batch_size: int = 64
    bf16: bool = False

    @property
    def width(self) -> int:
        whole = int(self.model.config.hidden_size)
        return min(self.vectors.dim or whole, whole)


def embed(config: RunConfig) -> None:
    """Write the vectors of the texts of a file, in their order, or print the vector of one text.

    Raises:
        UserError: the file cannot be read, the model lacks the layer, or the method changes none of its layers.
    """
    if not is_main_process():  # one process reads one file
        return
    clock, text = time.perf_counter(), str(config.input)
    file = Path(text) if Path(text).suffix in TEXT_FILES else None
    encoder = load_embedding_model(config)
    if file is None and config.output is None:
        vectors, known, cut = encode(encoder, [text])
        answer = {"text": text, "vector": vectors[0].tolist() if known[0] else None}
        print(json.dumps(answer, ensure_ascii=False))
        _report({"rows": 1, "without_text": int(not known[0]), "truncated": cut}, encoder, None)
        return
    meta = run_folder.meta(config.seed, device_name(), "bf16" if encoder.bf16 else "fp32")
    target = Path(config.output or f"{Path(text).with_suffix('')}.vectors.parquet")
    texts = [TextRecord(None, text)] if file is None else stream_texts(file, config.embed.column)
    counts = _write_vectors(target, encoder, texts)
    facts = {
        "input": None if file is None else str(file),
        **counts,
        "max_length": encoder.max_length,
        "width": encoder.width,
        "pooling": encoder.vectors.pooling,
        "layer": encoder.vectors.layer,
        "normalize": encoder.vectors.normalize,
        "model": {**asdict(encoder.source), "folder": None},
        "run": config.run,
        "vocab": config.vocab,
        "seconds": time.perf_counter() - clock,
        "meta": {**meta, "status": "finished"},
    }
    run_folder.write_text(target.with_name(f"{target.name}.json"), json.dumps(facts, indent=1) + "\n")
    _report(counts, encoder, target)


def _write_vectors(target: Path, encoder: EmbeddingModel, texts: Iterable[TextRecord]) -> Counter[str]:
    """Write the vectors with the ids of the texts, or their numbers if the file has no ids, and return the counts."""
    counts: Counter[str] = Counter()
    with EmbeddingFileWriter(target) as file:
        for batch in batch_by_characters(texts, BLOCK_CHARACTERS, BLOCK_TEXTS, lambda record: record.text):
            vectors, known, cut = encode(encoder, [record.text for record in batch])
            ids = [counts["rows"] + n if record.id is None else record.id for n, record in enumerate(batch)]
            file.add(ids, [record.text for record in batch], vectors, known)
            counts.update(rows=len(batch), without_text=int((~known).sum()), truncated=cut)
        if not counts:
            raise UserError("input=FILE: the file has no texts; use another file")
    return counts


@torch.no_grad()
def encode(encoder: EmbeddingModel, texts: list[str]) -> tuple[np.ndarray, np.ndarray, int]:
    """Encode texts in batches, from the longest to the shortest; a text without tokens has a vector of zeros.

    Returns:
        The vectors (texts, width), whether each text has one (texts,), and the number of truncated texts.
    """
    model, device = encoder.model, next(encoder.model.parameters()).device
    numbers = [number for number, text in enumerate(texts) if text.strip()]
    tokens = tokenize(encoder.tokenizer, [[texts[n] for n in numbers]], encoder.max_length) if numbers else {}
    cut, lengths = tokens.pop("truncated", []), [len(ids) for ids in tokens.get("input_ids", [])]
    vectors: np.ndarray = np.zeros((len(texts), encoder.width), dtype=np.float32)
    order = [place for place in np.argsort(lengths, kind="stable")[::-1] if lengths[place]]
    known = np.isin(np.arange(len(texts)), [numbers[place] for place in order])
    collate = DataCollatorWithPadding(encoder.tokenizer, pad_to_multiple_of=padding_multiple())
    for first in range(0, len(order), encoder.batch_size):
        places = order[first : first + encoder.batch_size]
        batch = collate([{name: values[place] for name, values in tokens.items()} for place in places])
        inputs = {name: values.to(device) for name, values in batch.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=encoder.bf16):
            vectors[[numbers[place] for place in places]] = encoder.vectors.of(model, inputs).float().cpu().numpy()
    if not np.isfinite(vectors).all():
        raise ValueError("the vectors contain NaN or inf; check the training, or drop train.bf16=true")
    return vectors, known, sum(cut)


def load_embedding_model(config: RunConfig) -> EmbeddingModel:
    """Load a finished run, a vocabulary of job=extend, or a pretrained model."""
    settings = config.embed
    if config.run is None:
        encoder = _load_pretrained(config.model, config.source, config.vocab)
    elif extend.is_vocabulary(Path(config.run)):
        recorded = RunResult.finished(config.run).config
        encoder = _load_pretrained(recorded.model, recorded.source, config.run)
    else:
        encoder = _load_run(RunResult.finished(config.run))
    warn_substitutions(encoder.source)
    model, trained = encoder.model, encoder.vectors.pooling
    layers, width = model.config.num_hidden_layers, model.config.hidden_size
    refuse(
        (
            not -layers - 1 <= (settings.layer or 0) <= layers,
            f"embed.layer={settings.layer}: expected 0 (the embeddings) to {layers}, or -1 for the last",
        ),
        (
            (settings.truncate_dim or 1) > width,
            f"embed.truncate_dim={settings.truncate_dim}: the model's vectors have {width}; drop it",
        ),
    )
    if settings.pooling not in (None, trained):
        log(f"!! embed.pooling={settings.pooling}: the model was trained with {trained}")
    max_length = encoder.max_length
    if settings.max_length is not None:
        max_length = min(
            settings.max_length, getattr(model.config, "max_position_embeddings", None) or settings.max_length
        )
    if torch.cuda.is_available() and not getattr(model, "is_quantized", False):
        model.to("cuda")
    return replace(
        encoder,
        model=model.eval(),
        vectors=TextEmbedder(settings.pooling or trained, settings.layer, settings.normalize, settings.truncate_dim),
        max_length=max_length,
        batch_size=int(config.train.get("per_device_eval_batch_size") or EmbeddingModel.batch_size),
        bf16=bool(config.train.get("bf16")),
    )


def _load_pretrained(choice: ModelConfig, kind: str, vocab: str | None) -> EmbeddingModel:
    source = find_model(choice, kind)
    tokenizer = load_tokenizer(tokenizer_source(vocab, source))
    model = load_model(choice, source, tokenizer, "retrieval", None)
    if vocab is not None:
        add_new_rows(model, Path(vocab))
    vectors = TextEmbedder(model.config.vector_pooling)
    return EmbeddingModel(model, tokenizer, source, vectors, max_text_length(source, tokenizer, model.config))


def _load_run(run: RunResult) -> EmbeddingModel:
    """Load a trained model; if it has a head, the base below it with its adapters and soft prompts."""
    bundle, trained, source = load_bundle(run), run.config, base_source(run)
    if trained.task.kind == "retrieval":
        model, pooling = bundle.model, bundle.model.config.vector_pooling
    elif trained.method.traits.lengthens_text:
        raise UserError(
            f"method={trained.method.name} changes no layer of the base, which computes the vectors; use method=prompt"
        )
    else:
        model, pooling = stack_of(bundle.model), vector_pooling(trained.model, source)
    return EmbeddingModel(model, bundle.tokenizer, source, TextEmbedder(pooling), trained.task.max_length)


def _report(counts: Mapping[str, int], encoder: EmbeddingModel, target: Path | None) -> None:
    if counts["without_text"]:
        vector = "zeros for a vector" if target is not None and target.suffix == ".npy" else "no vector"
        log(f"{counts['without_text']} of {counts['rows']} texts are empty; they have {vector}")
    if counts["truncated"]:
        log(f"{counts['truncated']} of {counts['rows']} texts were truncated to {encoder.max_length} tokens")
    if target is not None:
        vectors = encoder.vectors
        layer = "" if vectors.layer is None else f" of layer {vectors.layer}"
        log(f"{counts['rows']} vectors of {encoder.width}, {vectors.pooling}{layer} -> {target}, {target.name}.json")
