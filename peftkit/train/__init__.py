"""Turn a model and its batches into a trained model, its scores, or what it writes."""

from __future__ import annotations

from peftkit.train.arguments import has_bf16, precision_of, training_arguments
from peftkit.train.callbacks import Schedule
from peftkit.train.contrast import Contrast
from peftkit.train.distill import TEACHER, Distillation
from peftkit.train.instruct import instruction_trainer, plain_loss
from peftkit.train.loop import Fit, Predictions, fit, forget_preparation, generate, mixed_scores, predict
from peftkit.train.spent import peak_memory
from peftkit.train.trainer import ScoringTrainer, make_trainer

__all__ = [
    "TEACHER",
    "Contrast",
    "Distillation",
    "Fit",
    "Predictions",
    "Schedule",
    "ScoringTrainer",
    "fit",
    "forget_preparation",
    "generate",
    "has_bf16",
    "instruction_trainer",
    "make_trainer",
    "mixed_scores",
    "peak_memory",
    "plain_loss",
    "precision_of",
    "predict",
    "training_arguments",
]
