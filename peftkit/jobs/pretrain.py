"""Turn the offline corpus into the small GPT-2 or T5 that stands in for the real one offline."""

from __future__ import annotations

import json

from peftkit.config import RunConfig, UserError
from peftkit.models import offline
from peftkit.pipeline.pretraining import ensure_mini
from peftkit.results.console import is_main_process


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

