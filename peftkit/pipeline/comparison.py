"""Comparison of models by their scores of the same examples."""

from typing import Any

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel

from peftkit.compat.transformers import compute_in_fp32
from peftkit.data.formats import Encoded
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.evaluate import output_reader

EXAMPLES = 16
# absolute up to scores of magnitude 1, else relative; bf16 rounding depends on the shape of the batch
TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2, "fp16": 3e-2}


def flat(bundle: TrainingBundle, scores: np.ndarray, encoded: Encoded) -> np.ndarray:
    return np.nan_to_num(np.concatenate([row.ravel() for row in bundle.format.unpad(scores, encoded)]))


@torch.no_grad()
def fp32_scores(bundle: TrainingBundle, inputs: list[dict[str, Any]], **more: Any) -> np.ndarray:
    """Return the scores of one batch, computed in fp32 also by 4-bit weights; `more` are further inputs."""
    model = extract_model_from_parallel(bundle.model, keep_fp32_wrapper=False).eval()
    device = next(model.parameters()).device
    batch = {name: value.to(device) for name, value in bundle.format.collator()(inputs).items() if value is not None}
    with compute_in_fp32(model):
        return output_reader(bundle)(model, {**batch, **more}).float().cpu().numpy()


def max_difference(first: np.ndarray, second: np.ndarray) -> float:
    """Return the largest difference, relative to the magnitude of scores above one."""
    return float((np.abs(first - second) / np.maximum(1.0, np.abs(first))).max())
