"""Measures of continued pretraining: bits per byte on its own and on general text, and the effect of new tokens."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peftkit.config import RunConfig, TaskConfig
from peftkit.config.source import Source
from peftkit.data.formats import Encoded, Predictions
from peftkit.data.offline_corpus import offline_documents
from peftkit.data.passages import passage_dataset, split_passages
from peftkit.methods import embedding_rows
from peftkit.models.embedding_rows import read_vocabulary
from peftkit.models.load import load_tokenizer
from peftkit.pipeline.build import TrainingBundle

GENERAL = "offline, held out: generated sentences and Python's language reference"
PASSAGES = 200  # of the general text, evenly spread
TERMS, NEIGHBOURS = 20, 5
WORD = re.compile(r"\S+")


def general_text(bundle: TrainingBundle, task: TaskConfig) -> Encoded:
    """Return encoded text that is unrelated to the corpus, to measure forgetting."""
    rows = passage_dataset([(str(number), text) for number, text in enumerate(_general())])
    whole = split_passages(rows, replace(task, max_eval_samples=None))
    return bundle.format.encode(whole.select(range(0, len(whole), -(-len(whole) // PASSAGES))))


@lru_cache(maxsize=1)
def _general() -> list[str]:
    return offline_documents()[1]


def bits_per_byte(answers: Predictions) -> float:
    """Return bits per byte over all passages together."""
    assert answers.likelihoods is not None
    nats, sizes = answers.likelihoods
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
    found["fresh_head"] = bool(getattr(plain_model(bundle.model), "fresh_head", None))
    if config.vocab is not None:
        texts = list(held_out["text"])
        old, new = count_pieces(load_tokenizer(base), texts), count_pieces(bundle.tokenizer, texts)
        found["pieces"] = {"before": old, "after": new}
        found["neighbours"] = nearest_tokens(bundle, Path(config.vocab))
    return found


def plain_model(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def count_pieces(tokenizer: Any, texts: list[str]) -> dict[str, float]:
    """Return how a tokenizer splits texts: tokens per word (between spaces), share of words split, and tokens."""
    words = split = tokens = 0
    offsets = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    for text, spans in zip(texts, offsets, strict=True):
        word_of: np.ndarray = np.zeros(len(text) + 1, dtype=int)
        for number, match in enumerate(WORD.finditer(text), start=1):
            word_of[slice(*match.span())] = number
        counts = Counter(int(word_of[end - 1]) for start, end in spans if end > start)
        counts.pop(0, None)  # spaces
        words += int(word_of.max())
        split += sum(count > 1 for count in counts.values())
        tokens += len(spans)
    return {"pieces_a_word": tokens / max(words, 1), "split_words": split / max(words, 1), "tokens": tokens}


@torch.no_grad()
def nearest_tokens(bundle: TrainingBundle, vocab: Path) -> list[dict[str, Any]]:
    """Return the tokens whose embedding rows are nearest to those of the most frequent new terms, by cosine."""
    rows = torch.nn.functional.normalize(embedding_rows(bundle.model).float(), dim=-1)
    new, known = set(read_vocabulary(vocab).ids), max(bundle.tokenizer.get_vocab().values()) + 1
    found = []
    for entry in sorted(_terms(bundle, vocab), key=lambda entry: -(entry["count"] or 0))[:TERMS]:
        number = entry["ids"][0]
        cosines = rows[:known] @ rows[number]
        cosines[entry["ids"]] = -1  # itself, with the space before it and without
        best = cosines.topk(NEIGHBOURS)
        names = bundle.tokenizer.convert_ids_to_tokens(best.indices.tolist())
        found.append(
            {
                "term": entry["term"],
                "neighbours": [
                    {"token": name, "cosine": float(cosine), "is_new": int(place) in new}
                    for name, cosine, place in zip(names, best.values, best.indices, strict=True)
                ],
            }
        )
    return found


def _terms(bundle: TrainingBundle, vocab: Path) -> list[dict[str, Any]]:
    """Return the terms that job=extend recorded in its folder, or the new tokens where nothing is recorded."""
    file = vocab / "result.json"
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))["terms"]["added"]  # type: ignore[no-any-return]
    ids = read_vocabulary(vocab).ids
    names = bundle.tokenizer.convert_ids_to_tokens(ids)
    return [{"term": name, "ids": [number], "count": None} for name, number in zip(names, ids, strict=True)]
