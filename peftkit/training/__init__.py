"""Training: HF's Trainer and TRL's, losses, callbacks, scores of a model's outputs, and what they cost."""

from __future__ import annotations

from peftkit.compat.trainer import reset_preparation
from peftkit.training.arguments import precision_of, supports_bf16, training_arguments
from peftkit.training.callbacks import Schedule
from peftkit.training.contrastive import ContrastiveLoss
from peftkit.training.distillation import TEACHER_COLUMN, Distillation
from peftkit.training.loop import ModelScores, TrainingSummary, fit, generate, mixed_batch_logits, predict
from peftkit.training.outputs import OutputReader
from peftkit.training.resources import peak_memory
from peftkit.training.trainer import ScoringTrainer, TrainerSetup, make_trainer
from peftkit.training.trl import dpo_trainer, sft_obstacle, sft_trainer

__all__ = [
    "TEACHER_COLUMN",
    "ContrastiveLoss",
    "Distillation",
    "ModelScores",
    "OutputReader",
    "Schedule",
    "ScoringTrainer",
    "TrainerSetup",
    "TrainingSummary",
    "dpo_trainer",
    "fit",
    "generate",
    "make_trainer",
    "mixed_batch_logits",
    "peak_memory",
    "precision_of",
    "predict",
    "reset_preparation",
    "sft_obstacle",
    "sft_trainer",
    "supports_bf16",
    "training_arguments",
]
