"""Turn the offline corpus into the small GPT-2 or T5 that stands in for the real one offline."""

from __future__ import annotations

import json
import time
from functools import lru_cache
from pathlib import Path

from peftkit.config import RunConfig, UserError
from peftkit.data import offline_corpus
from peftkit.models import offline
from peftkit.paths import cache_folder
from peftkit.results.console import is_main_process, log


def pretrain(run: RunConfig) -> None:
    """Pretrain the stand-in of the chosen model once, and show its held-out loss beside a unigram model's."""
    kind = run.model.stand_in
    if kind not in offline.MINIS:
        raise UserError(f"model={run.model.name} needs no pretraining; try model=gpt2 or model=t5")
    folder = ensure_mini(kind)
    facts = json.loads((folder / "pretraining.json").read_text())
    if is_main_process():
        print(f"{kind}: {facts['parameters'] / 1e6:.1f} M parameters, {facts['tokens'] / 1e6:.1f} M tokens")
        print(f"held-out loss {facts['held_out_loss']:.3f} nats a token, a unigram model {facts['unigram_loss']:.3f}")
        print(f"-> {folder}")


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
    offline.pretrain(kind, tokenizer, pairs, held, folder, unigram_loss=unigram)
    return folder


@lru_cache(maxsize=1)
def _corpus() -> tuple[list[str], list[str], str]:
    train, held_out = offline_corpus.offline_documents()
    return train, held_out, offline_corpus.documents_fingerprint(train)
