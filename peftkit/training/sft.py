"""Turn a decoder and its instructions into the trainer that tunes it: TRL's SFTTrainer, where its loss is right."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase, TrainingArguments

from peftkit.training.trainer import ScoringTrainer, is_ada
from peftkit.training.trl_mixin import TRLTrainerMixin, trl_arguments


def plain_loss(model: Any, arguments: TrainingArguments) -> str | None:
    """Tell why a model is trained with its own loss, None where SFTTrainer's own is the same.

    SFTTrainer multiplies the last hidden states with the output layer's weight itself, piece by piece, so that the
    scores over a whole vocabulary are never there at once. What a method adds to the output layer, or to the loss that
    the model returns, it would pass over.
    """
    if is_ada(model):
        return "AdaLoRA keeps its directions apart in the model's own loss"
    if type(model.get_output_embeddings()) is not nn.Linear:
        return "the method changes the output layer"
    if arguments.label_smoothing_factor:
        return "smoothed labels want all scores"
    return None


def instruction_trainer(tokenizer: PreTrainedTokenizerBase, **settings: Any) -> ScoringTrainer:
    """Return our trainer joined with SFTTrainer, or ours alone where `plain_loss` tells why.

    Raises:
        UserError: one process sees several GPUs, over which TRL trains in several processes alone.
    """
    arguments: TrainingArguments = settings["args"]
    if plain_loss(settings["model"], arguments) is not None:
        trainer = ScoringTrainer(**settings)
        # such a loss can be divided by the tokens of all batches that add up; GPT-2's does not say so (no loss_type).
        # AdaLoRA adds its term to each batch's loss, which nothing would then divide by how many add up
        takes_tokens = _base(settings["model"]).__module__.startswith("transformers.")
        trainer.model_accepts_loss_kwargs = takes_tokens and not is_ada(settings["model"])
        return trainer
    return _trainer_class()(processing_class=tokenizer, **settings)  # type: ignore[no-any-return]


def _base(model: Any) -> type:
    return type(model.get_base_model() if hasattr(model, "get_base_model") else model)


@lru_cache(maxsize=1)
def _trainer_class() -> type:
    from trl import SFTConfig, SFTTrainer

    class InstructionTrainer(TRLTrainerMixin, SFTTrainer):  # type: ignore[misc]
        """SFTTrainer's loss over rows that are tokenised already, and cut and counted by us."""

        def __init__(self, *, args: TrainingArguments, **settings: Any) -> None:
            chosen = trl_arguments(SFTConfig, args, dataset_kwargs={"skip_prepare_dataset": True})
            super().__init__(args=chosen, **settings)
            self.model_accepts_loss_kwargs = True  # TRL's loss is that over the tokens of all batches that add up

    return InstructionTrainer
