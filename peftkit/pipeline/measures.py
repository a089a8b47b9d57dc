"""Measurements of a model in addition to its scores: latency, bits per byte, and the effect of new tokens."""

import json
import re
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import nn

from peftkit.config import RunConfig, TaskConfig, UserError
from peftkit.config.source import Source
from peftkit.data.formats import Encoded, Predictions
from peftkit.data.offline_corpus import offline_documents
from peftkit.data.passages import passage_dataset, split_passages
from peftkit.methods import embedding_rows, is_mergeable, merge_adapter
from peftkit.models.embedding_rows import read_vocabulary
from peftkit.models.tokenizer import load_tokenizer
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.evaluate import predictor
from peftkit.training import ScoringTrainer

LATENCY_EXAMPLES, TIMED = 32, 5  # the first ones of a split, and those among them that are timed
GENERAL = "offline, held out: generated sentences and Python's language reference"
MAX_PASSAGES = 200  # of the general text, evenly spaced
MAX_TERMS, NEIGHBORS = 20, 5
WORD = re.compile(r"\S+")


def measure_latency(config: RunConfig, bundle: TrainingBundle, encoded: Encoded) -> dict[str, float | None]:
    """Return milliseconds per example in batches of one: the median over examples of all lengths of a split.

    The run's precision is used. The model is merged for the second number and remains merged; None if it has no
    adapter, the adapter cannot be merged, or the base is quantized.
    """
    examples, trainer = timed_examples(encoded), predictor(config, bundle)
    found: dict[str, float | None] = {"latency_ms": milliseconds(trainer, examples), "merged_latency_ms": None}
    if isinstance(bundle.model, PeftModel) and is_mergeable(bundle.model) and config.method.quantization is None:
        with suppress(UserError):
            bundle.model = merge_adapter(bundle.model)
            found["merged_latency_ms"] = milliseconds(predictor(config, bundle), examples, passes=1)
    return found


def timed_examples(encoded: Encoded) -> list[dict[str, Any]]:
    """Return the inputs of some examples, of all lengths of a split."""
    lengths = np.asarray(encoded.lengths)[:LATENCY_EXAMPLES]
    order = np.argsort(lengths, kind="stable")
    spaced = order[np.linspace(0, len(order) - 1, min(TIMED, len(order))).round().astype(int)]
    return [encoded.inputs[int(index)] for index in spaced]


def milliseconds(trainer: ScoringTrainer, examples: list[dict[str, Any]], passes: int = 2) -> float:
    """Return the median time of the last pass over an example.

    The first pass over a length builds kernels, which a merged model finds.
    """
    model, milliseconds = trainer.model.eval(), []
    for example in examples:
        inputs: Any = trainer.prepare_inputs(trainer.data_collator([example]))
        for _ in range(passes):
            started = time.perf_counter()
            trainer.score(model, inputs).float().cpu()  # to the CPU, which waits for the GPU
            passed = time.perf_counter() - started
        milliseconds.append(1000 * passed)
    return median(milliseconds)


def general_text(bundle: TrainingBundle, task: TaskConfig) -> Encoded:
    """Return encoded text that is unrelated to the corpus, on which forgetting is measured."""
    documents = [(str(number), text) for number, text in enumerate(offline_documents()[1])]
    passages = split_passages(passage_dataset(documents), replace(task, max_eval_samples=None))
    return bundle.format.encode(passages.select(range(0, len(passages), -(-len(passages) // MAX_PASSAGES))))


def mean_bits_per_byte(predictions: Predictions) -> float:
    """Return bits per byte over all passages, weighted by their bytes."""
    assert predictions.likelihoods is not None
    nats, sizes = predictions.likelihoods
    return float(nats.sum() / sizes.sum() / np.log(2))


def compare_language(
    config: RunConfig,
    bundle: TrainingBundle,
    base: Source,
    held_out: Any,
    before: dict[str, float],
    after: dict[str, float],
) -> dict[str, Any]:
    """Return `language` of result.json: bits per byte before and after, and the effect of new tokens."""
    found: dict[str, Any] = {name: {"before": before[name], "after": after[name]} for name in after}
    found["general"]["text"] = GENERAL
    found["fresh_head"] = bool(getattr(bundle.model, "new_head", None))
    if config.vocab is not None:
        texts, tokenizers = list(held_out["text"]), {"before": load_tokenizer(base), "after": bundle.tokenizer}
        found["pieces"] = {when: tokenization_counts(tokenizer, texts) for when, tokenizer in tokenizers.items()}
        found["neighbours"] = nearest_tokens(bundle, Path(config.vocab))
    return found


def tokenization_counts(tokenizer: Any, texts: list[str]) -> dict[str, float]:
    """Return tokens per word (between spaces), the share of words that are split, and the number of tokens."""
    words = split = tokens = 0
    offsets = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    for text, spans in zip(texts, offsets, strict=True):
        word_of: np.ndarray = np.zeros(len(text) + 1, dtype=int)
        for number, match in enumerate(WORD.finditer(text), start=1):
            word_of[slice(*match.span())] = number
        counts = Counter(int(word_of[end - 1]) for start, end in spans if end > start)
        words += int(word_of.max())
        split += sum(count > 1 for number, count in counts.items() if number)  # 0: spaces
        tokens += len(spans)
    return {"pieces_a_word": tokens / max(words, 1), "split_words": split / max(words, 1), "tokens": tokens}


@torch.no_grad()
def nearest_tokens(bundle: TrainingBundle, vocab: Path) -> list[dict[str, Any]]:
    """Return the tokens whose embedding rows are nearest to those of the most frequent new terms, by cosine."""
    rows = nn.functional.normalize(embedding_rows(bundle.model).float(), dim=-1)
    new, known = set(read_vocabulary(vocab).ids), max(bundle.tokenizer.get_vocab().values()) + 1
    found = []
    for entry in sorted(_terms(bundle, vocab), key=lambda entry: -(entry["count"] or 0))[:MAX_TERMS]:
        cosines = rows[:known] @ rows[entry["ids"][0]]
        cosines[entry["ids"]] = -1  # the term itself, with and without a space before it
        best = cosines.topk(NEIGHBORS)
        names = bundle.tokenizer.convert_ids_to_tokens(best.indices.tolist())
        neighbors = [
            {"token": name, "cosine": float(cosine), "is_new": int(index) in new}
            for name, cosine, index in zip(names, best.values, best.indices, strict=True)
        ]
        found.append({"term": entry["term"], "neighbours": neighbors})
    return found


def _terms(bundle: TrainingBundle, vocab: Path) -> list[dict[str, Any]]:
    """Return the terms that job=extend recorded in its folder, or the new tokens if nothing is recorded."""
    if (vocab / "result.json").is_file():
        return json.loads((vocab / "result.json").read_text(encoding="utf-8"))["terms"]["added"]  # type: ignore[no-any-return]
    ids = read_vocabulary(vocab).ids
    names = bundle.tokenizer.convert_ids_to_tokens(ids)
    return [{"term": name, "ids": [number], "count": None} for name, number in zip(names, ids, strict=True)]
