"""Pretraining of the small GPT-2 or T5 of source=offline, with its losses."""

import json

from peftkit.config import RunConfig, UserError, refusal
from peftkit.models import offline
from peftkit.pipeline.sources import ensure_mini


def pretrain(config: RunConfig) -> None:
    """Pretrain the offline substitute of the model once; print its held-out loss and that of a unigram model."""
    kind = config.model.stand_in
    if kind not in offline.MINI_MODELS:
        raise UserError(refusal(f"model={config.model.name}: nothing to pretrain", "model=gpt2", "model=t5"))
    folder = ensure_mini(kind)
    entry = json.loads((folder / "pretraining.json").read_text(encoding="utf-8"))
    print(
        f"{kind}: {entry['parameters'] / 1e6:.1f} M parameters, {entry['tokens'] / 1e6:.1f} M tokens",
        f"held-out loss {entry['held_out_loss']:.3f} nats per token, a unigram model {entry['unigram_loss']:.3f}",
        f"-> {folder}",
        sep="\n",
    )
