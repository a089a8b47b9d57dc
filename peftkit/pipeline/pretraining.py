"""Pretraining of the small GPT-2 and T5 of source=offline, once on each machine."""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path

from peftkit.data import offline_corpus
from peftkit.models import offline
from peftkit.paths import cache_folder
from peftkit.results.console import is_main_process, log


def ensure_mini(kind: str) -> Path:
    """Return the folder of the small model, training it first where it is not cached."""
    train, held_out, fingerprint = _corpus()
    folder = offline.mini_path(kind, cache_folder(), fingerprint)
    if (folder / "pretraining.json").is_file():
        return folder
    if not is_main_process():  # under torchrun one process trains and the others wait for its folder
        while not (folder / "pretraining.json").is_file():
            time.sleep(1)
        return folder
    log(f"!! {kind} is pretrained once on offline text, about two minutes on 2 cores, and kept in {folder}")
    tokenizer = offline.train_tokenizer(kind, train)
    ids, held_ids = (tokenizer(documents, add_special_tokens=False)["input_ids"] for documents in (train, held_out))
    block, eos = offline.MINIS[kind].block, tokenizer.eos_token_id
    if kind == "gpt2-mini":
        pairs, held = offline_corpus.causal_pairs(ids, block, eos), offline_corpus.causal_pairs(held_ids, block, eos)
    else:
        sentinels = offline.sentinel_ids(tokenizer)
        pairs, held = (offline_corpus.span_pairs(part, block, eos, sentinels) for part in (ids, held_ids))
    targets, held_targets = ([token for _, target in part for token in target] for part in (pairs, held))
    unigram = offline_corpus.unigram_loss(targets, held_targets, len(tokenizer))
    offline.pretrain(kind, tokenizer, offline.PretrainingData(pairs, held, unigram), folder)
    return folder


@lru_cache(maxsize=1)
def _corpus() -> tuple[list[str], list[str], str]:
    train, held_out = offline_corpus.offline_documents()
    return train, held_out, offline_corpus.documents_fingerprint(train)
