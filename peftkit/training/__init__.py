"""Turn a model and its batches into a trained model, its scores, or what it writes."""

from __future__ import annotations

from peftkit.training.arguments import has_bf16, precision_of, training_arguments
from peftkit.training.callbacks import Schedule
from peftkit.training.contrastive import ContrastiveLoss
from peftkit.training.distillation import TEACHER, Distillation
from peftkit.training.dpo import preference_trainer
from peftkit.training.loop import Fit, Predictions, fit, forget_preparation, generate, mixed_scores, predict
from peftkit.training.resources import peak_memory
from peftkit.training.sft import instruction_trainer, plain_loss
from peftkit.training.trainer import ScoringTrainer, make_trainer

__all__ = [
    "TEACHER",
    "ContrastiveLoss",
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
    "preference_trainer",
    "training_arguments",
]
