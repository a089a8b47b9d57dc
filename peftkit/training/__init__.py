"""Training: HF's Trainer and TRL's, losses, callbacks, scores of a model's outputs, and costs."""

from peftkit.compat.trainer import reset_preparation
from peftkit.training.answers import Decoding, generate_answers, generate_batch
from peftkit.training.arguments import own_trackers, precision_of, training_arguments
from peftkit.training.callbacks import SparseCheckpointsCallback
from peftkit.training.domains import DomainAdversarialLoss, DomainConfusionLoss, DomainLoss, GroupDROLoss
from peftkit.training.loop import (
    ModelScores,
    NonFiniteScoresError,
    TrainingSummary,
    batch_scores,
    fast_steps,
    fit,
    mixed_batch_logits,
    peak_memory,
    predict_scores,
    return_memory,
    used_memory,
)
from peftkit.training.losses import (
    TEACHER_COLUMN,
    ContrastiveLoss,
    CountedLoss,
    Distillation,
    WeightedBinaryCrossEntropy,
    WeightedCrossEntropy,
    WeightedLoss,
)
from peftkit.training.multitask import MultiTaskModel, MultiTaskTrainer, model_loss
from peftkit.training.outputs import DOMAIN_COLUMN, OutputReader
from peftkit.training.trainer import ScoringTrainer, scores_of
from peftkit.training.trl import dpo_trainer, sft_trainer, sft_unsupported_reason

__all__ = [
    "DOMAIN_COLUMN",
    "TEACHER_COLUMN",
    "ContrastiveLoss",
    "CountedLoss",
    "Decoding",
    "Distillation",
    "DomainAdversarialLoss",
    "DomainConfusionLoss",
    "DomainLoss",
    "GroupDROLoss",
    "ModelScores",
    "MultiTaskModel",
    "MultiTaskTrainer",
    "NonFiniteScoresError",
    "OutputReader",
    "ScoringTrainer",
    "SparseCheckpointsCallback",
    "TrainingSummary",
    "batch_scores",
    "WeightedBinaryCrossEntropy",
    "WeightedCrossEntropy",
    "WeightedLoss",
    "dpo_trainer",
    "fast_steps",
    "fit",
    "generate_answers",
    "generate_batch",
    "mixed_batch_logits",
    "model_loss",
    "peak_memory",
    "precision_of",
    "predict_scores",
    "reset_preparation",
    "return_memory",
    "scores_of",
    "sft_unsupported_reason",
    "sft_trainer",
    "own_trackers",
    "training_arguments",
    "used_memory",
]
