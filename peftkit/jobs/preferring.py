"""Turn the model that a run began with into what it says of pairs of answers: the reference of their rewards."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from peftkit import train
from peftkit.data.files import read_file
from peftkit.data.formats import REFERENCE, Encoded, Preferences, format_of
from peftkit.data.preferred import pair_of, text_or_turns
from peftkit.jobs.answers import answer
from peftkit.jobs.console import say
from peftkit.jobs.prepare import Parts, predictor
from peftkit.models.load import load_model, load_tokenizer
from peftkit.schema import FILES, Run, UserError
from peftkit.scores import Scores
from peftkit.source import Source


@dataclass(frozen=True)
class Reference:
    """Log-likelihoods (pairs, 2) of chosen and rejected answers, by the names of their rows; none for other kinds."""

    likelihoods: dict[str, np.ndarray] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)

    def beside(self, name: str, encoded: Encoded) -> Encoded:
        """Return encoded rows with what the reference says of them."""
        if name not in self.likelihoods:
            return encoded
        rows = encoded.rows
        for column, values in zip(REFERENCE, self.likelihoods[name].T, strict=True):
            rows = rows.add_column(column, values.tolist())
        return replace(encoded, rows=rows)


def ask(run: Run, source: Source, tables: Mapping[str, Dataset | None], words: Source | None = None) -> Reference:
    """Ask the base of a run that learns from preferences, before any method is applied, in the run's precision.

    It is in memory for this one pass alone. A method that is switched off would say the same; a model whose own weights
    train has no other way back. A run of another kind has no reference, and nothing is loaded. `words` is where the
    tokenizer is, else with the base.
    """
    if run.task.kind != "preferences":
        return Reference()
    say(f"   the reference, {source.name}, is asked about every pair")
    tokenizer = load_tokenizer(words or source)
    task_format = format_of(run.task, run.model.family, None, tokenizer)
    model: Any = load_model(run.model, source, tokenizer, run.task.kind, None, run.method.quantization).eval()
    if run.method.quantization is None and torch.accelerator.is_available():  # a quantised base lies there already
        model.to(torch.accelerator.current_accelerator())
    started = time.perf_counter()
    encoded = {name: task_format.encode(table) for name, table in tables.items() if table is not None}
    size = run.train["per_device_eval_batch_size"]
    precision = train.precision_of(run.train)
    found = {name: _likelihoods(model, each, task_format.collator(), size, precision) for name, each in encoded.items()}
    return Reference(found, {"reference_seconds": time.perf_counter() - started})


def states(model: Any, batch: Mapping[str, Any]) -> torch.Tensor:
    """Run a batch to its last states alone, for what TRL keeps of it: its head goes over them a chunk at a time."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base.base_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])[0]  # type: ignore[no-any-return]


def predict(run: Run, trained: Run, folder: Path) -> None:
    """Tell the margin of each pair of a file, or write an answer to each prompt of a file, or to one text."""
    from peftkit.jobs.use import answer_table, check_room, hand_over, load_parts

    given, prompt = Path(str(run.input)), trained.task.text[0]
    table = read_file(given) if given.suffix in FILES else Dataset.from_dict({prompt: [str(run.input)]})
    if prompt not in table.column_names:
        raise UserError(f"{given} lacks the column {prompt} that the run reads; rename columns of the file")
    check_room(table, given)
    if set(trained.task.text) <= set(table.column_names):
        columns = [list(table[column]) for column in trained.task.text]
        rows: list[Any] = [pair_of(list(values), str(given)) for values in zip(*columns, strict=True)]
        places = [place for place, row in enumerate(rows) if all(row)]
        said: Any = _margins(run, trained, folder, [rows[place] for place in places]) if places else []
    else:
        rows = [text_or_turns(value) for value in table[prompt]]
        places = [place for place, row in enumerate(rows) if row]
        parts = load_parts(trained, folder)
        said = _written(run, trained, parts, [rows[place] for place in places]) if places else []
    labels: list[Any] = [None] * len(table)
    scores: list[Any] = [None] * len(table)
    for place, (label, numbers) in zip(places, said, strict=True):
        labels[place], scores[place] = label, numbers
    hand_over(run, answer_table(table, labels, scores), len(table) - len(places))


def _margins(run: Run, trained: Run, folder: Path, rows: list[Any]) -> list[tuple[float, list[float]]]:
    """Return each pair's margin, and the rewards of both answers."""
    from peftkit.jobs.use import base_source, in_batches_of, load_parts, words_of

    table = Dataset.from_dict(dict(zip(trained.task.text, zip(*rows, strict=True), strict=True)))
    trained = in_batches_of(run, trained)
    reference = ask(trained, base_source(trained, folder), {"rows": table}, words_of(trained, folder))
    parts = load_parts(trained, folder)
    encoded = reference.beside("rows", parts.format.encode(table))
    with predictor(trained, parts) as trainer:
        answers, _ = answer(parts, trainer, encoded)
    if encoded.truncated:
        say(f"{encoded.truncated} of {len(rows)} pairs were too long and were cut")
    return [(float(m), row[:2].tolist()) for m, row in zip(answers.predictions, answers.scores, strict=True)]


def _written(run: Run, trained: Run, parts: Parts, prompts: list[Any]) -> list[tuple[str, None]]:
    """Return what the model writes after each prompt, greedily."""
    from peftkit.jobs.use import in_batches_of

    assert isinstance(parts.format, Preferences)
    ids, tokenizer = parts.format.prompts(prompts), parts.tokenizer
    with predictor(in_batches_of(run, trained), parts) as trainer:
        written, _ = train.generate(
            trainer, ids, tokenizer.pad_token_id, parts.format.longest, tokenizer.eos_token_id
        )  # fmt: skip
    return [(text.strip(), None) for text in tokenizer.batch_decode(written, skip_special_tokens=True)]


@torch.no_grad()
def _likelihoods(model: Any, encoded: Encoded, collate: Any, size: int, precision: str) -> np.ndarray:
    """Return (pairs, 2), from the batches that `train.predict` makes, so that an untrained adapter's are the same."""
    found: np.ndarray = np.zeros((len(encoded.lengths), 2), dtype=np.float32)
    order = np.argsort(-np.asarray(encoded.lengths), kind="stable")
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    for first in range(0, len(order), size):
        rows = order[first : first + size]
        batch = collate([encoded.rows[int(row)] for row in rows])
        batch = {name: value.to(model.device) for name, value in batch.items()}
        with torch.autocast(model.device.type, kind, enabled=kind is not None):
            found[rows] = Scores("preferences")(model, batch).float().cpu().numpy()
    return found
