"""Turn texts into vectors: a file's, part by part in constant memory, or one text's."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peftkit.config import TEXT_FILES, Embed, ModelConfig, RunConfig, UserError
from peftkit.config.source import Source
from peftkit.data.collate import padding_collator
from peftkit.data.formats.base import tokenize
from peftkit.data.streaming import TextRecord, stream_texts
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

ROWS, LETTERS = 4096, 1 << 22  # of a part, whose texts are sorted by length: so many at most


@dataclass(frozen=True)
class Encoder:
    """What reads the vectors of texts."""

    model: Any
    tokenizer: Any
    reads: Vectors
    max_length: int
    batch_size: int
    bf16: bool
    source: Source

    @property
    def width(self) -> int:
        whole = int(self.model.config.hidden_size)
        return min(self.reads.width or whole, whole)


@dataclass(frozen=True)
class Found:
    """Vectors (texts, width), which of them count (texts,), and how many texts were cut."""

    vectors: np.ndarray
    known: np.ndarray
    truncated: int


def embed(run: RunConfig) -> None:
    """Write the vectors of a file's rows, in their order, or print or write that of one text.

    Raises:
        UserError: the file cannot be read, the model has no such layer, or its method lies outside of its layers.
    """
    if not is_main_process():  # one process reads one file
        return
    settings = run.embed
    assert settings is not None  # its section is in config.yaml
    started, clock = datetime.now(timezone.utc).isoformat(timespec="seconds"), time.perf_counter()
    given = Path(str(run.input))
    is_file = given.suffix in TEXT_FILES
    rows = stream_texts(given, settings.column) if is_file else iter([TextRecord(None, str(run.input))])
    encoder = _encoder(run, settings)
    if not is_file and run.output is None:
        found = encode(encoder, [str(run.input)])
        vector = found.vectors[0].tolist() if found.known[0] else None
        print(json.dumps({"text": run.input, "vector": vector}, ensure_ascii=False))
        _tell(run, 1, int(not found.known[0]), found.truncated, encoder, None)
        return
    target = Path(run.output or f"{given.with_suffix('')}.vectors.parquet")
    truncated = empty = 0
    with VectorFileWriter(target) as file:
        for part in _parts(rows):
            found = encode(encoder, [row.text for row in part])
            truncated, empty = truncated + found.truncated, empty + int((~found.known).sum())
            numbers = range(file.rows, file.rows + len(part))
            has_ids = part[0].id is not None
            ids = [row.id if has_ids else number for row, number in zip(part, numbers, strict=True)]
            file.add(ids, [row.text for row in part], found.vectors, found.known)
        if file.rows == 0:
            raise UserError(f"{given}: there are no rows in it; fill it, or name another file")
    facts = {
        "input": str(given) if is_file else None,
        "rows": file.rows,
        "without_text": empty,
        "truncated": truncated,
        "max_length": encoder.max_length,
        "width": encoder.width,
        "pooling": encoder.reads.pooling,
        "layer": encoder.reads.layer,
        "normalize": encoder.reads.normalize,
        "model": {**asdict(encoder.source), "folder": None},
        "run": run.run,
        "vocab": run.vocab,
        "seconds": time.perf_counter() - clock,
        "meta": run_folder.meta(run.seed, device_name(), "bf16" if encoder.bf16 else "fp32", started)
        | {"status": "finished"},
    }
    run_folder.write_text(target.with_name(f"{target.name}.json"), json.dumps(facts, indent=1) + "\n")
    _tell(run, file.rows, empty, truncated, encoder, target)


@torch.no_grad()
def encode(encoder: Encoder, texts: list[str]) -> Found:
    """Return the vectors of texts in their order, whatever batches they stand in: the longest are read first.

    A text of spaces alone, or without any token, has no vector: zeros stand in its place.
    """
    model, device = encoder.model, next(encoder.model.parameters()).device
    rows = [row for row, text in enumerate(texts) if text.strip()]
    tokens = tokenize(encoder.tokenizer, [[texts[row] for row in rows]], encoder.max_length) if rows else {}
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
            found = encoder.reads.of(model, inputs).float().cpu().numpy()
        there = [rows[place] for place in places]
        vectors[there], known[there] = found, True
    if not np.isfinite(vectors).all():
        raise ValueError("the model's vectors are no numbers; look at its training, or try without train.bf16=true")
    return Found(vectors, known, sum(cut))


def _encoder(run: RunConfig, settings: Embed) -> Encoder:
    """Load what the run names: a finished run, words of job=extend, or a model as it is."""
    folder = None if run.run is None else Path(run.run)
    if folder is None:
        found = _of_model(run.model, run.source, run.vocab)
    elif extend.is_vocabulary(folder):
        made = RunConfig.from_config((run_folder.read_result(folder) or {})["run"]["config"])
        found = _of_model(made.model, made.source, str(folder))
    else:
        found = _of_run(folder)
    model, tokenizer, source, pooling, longest = found
    layers, layer = model.config.num_hidden_layers, settings.layer
    if layer is not None and not -layers - 1 <= layer <= layers:
        raise UserError(f"embed.layer={layer} is none of 0, the embeddings, to {layers}; say embed.layer=-1")
    if settings.pooling not in (None, pooling):
        log(f"!! the vectors are pooled by {settings.pooling}; what the model was made for is {pooling}")
    if (settings.truncate_dim or 1) > model.config.hidden_size:
        raise UserError(
            f"embed.truncate_dim={settings.truncate_dim} is more than the model's {model.config.hidden_size}; drop it"
        )
    wanted = settings.max_length or longest
    places = getattr(model.config, "max_position_embeddings", None) or wanted
    if torch.cuda.is_available() and not getattr(model, "is_quantized", False):
        model.to("cuda")
    return Encoder(
        model=model.eval(),
        tokenizer=tokenizer,
        reads=Vectors(settings.pooling or pooling, layer, settings.normalize, settings.truncate_dim),
        max_length=longest if settings.max_length is None else min(wanted, places),
        batch_size=int(run.train.get("per_device_eval_batch_size") or 64),
        bf16=bool(run.train.get("bf16")),
        source=source,
    )


Loaded = tuple[Any, Any, Source, str, int]  # a model, its tokenizer, where it is from, its pooling, its longest text


def _of_model(choice: ModelConfig, kind: str, vocab: str | None) -> Loaded:
    source = find_model(choice, kind)
    if sentence := source.substitution("MODEL"):
        log(f"!! {sentence}")
    tokenizer = load_tokenizer(tokenizer_source(vocab, source))
    model = load_model(choice, source, tokenizer, "retrieval", None)
    if vocab is not None:
        grow(model, Path(vocab))
    return model, tokenizer, source, model.config.vector_pooling, longest_text(source, tokenizer, model.config)


def _of_run(folder: Path) -> Loaded:
    """Load a trained model; of one with a head, what lies below it, which adapters and soft prompts are a part of."""
    trained = recorded_config(folder)
    parts, source = load_bundle(trained, folder), base_source(trained, folder)
    if sentence := source.substitution("MODEL"):
        log(f"!! {sentence}")
    model, longest = parts.model, trained.task.max_length
    if trained.task.kind == "retrieval":
        return model, parts.tokenizer, source, model.config.vector_pooling, longest
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise UserError(
            "PEFT's own soft prompts lie outside of the model that vectors are read from; train method=prompt or prefix"
        )
    return stack_of(model), parts.tokenizer, source, vector_pooling(trained.model, source), longest


def _parts(rows: Iterable[TextRecord]) -> Iterator[list[TextRecord]]:
    """Yield rows together, so that no file needs more memory than its longest texts."""
    part: list[TextRecord] = []
    letters = 0
    for row in rows:
        part.append(row)
        letters += len(row.text)
        if len(part) >= ROWS or letters >= LETTERS:
            yield part
            part, letters = [], 0
    if part:
        yield part


def _tell(run: RunConfig, rows: int, empty: int, truncated: int, encoder: Encoder, target: Path | None) -> None:
    if empty:
        zeros = target is not None and target.suffix == ".npy"
        log(f"{empty} of {rows} rows have no text; they have {'zeros for a' if zeros else 'no'} vector")
    if truncated:
        log(f"{truncated} of {rows} texts were longer than {encoder.max_length} tokens and were cut")
    if target is not None:
        reads = encoder.reads
        layer = "" if reads.layer is None else f" of layer {reads.layer}"
        log(f"{rows} vectors of {encoder.width}, {reads.pooling}{layer} -> {target}, {target.name}.json")
