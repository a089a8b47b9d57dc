"""The score of each label after a prompt, by a loop over single unpadded examples in plain transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


@torch.no_grad()
def label_scores(checkpoint: Path | str, prompts: list[str], words: list[str]) -> np.ndarray:
    """Return (prompts, words): nats per token of ` word` after each prompt, in fp32."""
    model: Any = AutoModelForCausalLM.from_pretrained(str(checkpoint), dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(str(checkpoint))
    rows = []
    for prompt in prompts:
        start = tokenizer(prompt)["input_ids"]
        row = []
        for word in words:
            ids = tokenizer(" " + word)["input_ids"]
            logits = model(torch.tensor([start + ids])).logits[0].double().log_softmax(-1)
            row.append(sum(logits[len(start) + place - 1, token].item() for place, token in enumerate(ids)) / len(ids))
        rows.append(row)
    return np.array(rows)
