"""Turn a decoder and its instructions into the trainer that tunes it: TRL's SFTTrainer, where its loss is right."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase, TrainingArguments

from peftkit.schema import UserError
from peftkit.train.preference import ONE_EACH
from peftkit.train.trainer import ScoringTrainer


def plain_loss(model: Any, arguments: TrainingArguments) -> str | None:
    """Tell why a model is trained with its own loss, None where SFTTrainer's own is the same.

    SFTTrainer multiplies the last hidden states with the output layer's weight itself, piece by piece, so that the
    scores over a whole vocabulary are never there at once. What a method adds to the output layer, or to the loss that
    the model returns, it would pass over.
    """
    if _is_ada(model):
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
        trainer.model_accepts_loss_kwargs = takes_tokens and not _is_ada(settings["model"])
        return trainer
    if arguments.n_gpu > 1:
        raise UserError(ONE_EACH)
    return _joined()(processing_class=tokenizer, **settings)


def _is_ada(model: Any) -> bool:
    return hasattr(getattr(model, "base_model", None), "update_and_allocate")


def _base(model: Any) -> type:
    return type(model.get_base_model() if hasattr(model, "get_base_model") else model)


@lru_cache(maxsize=1)
def _joined() -> type[ScoringTrainer]:
    from trl import SFTConfig, SFTTrainer

    class InstructionTrainer(ScoringTrainer, SFTTrainer):  # type: ignore[misc]
        """SFTTrainer on rows that are tokenised already, with our order of rows, predictions, schedules and log."""

        def __init__(self, *, model: nn.Module, args: TrainingArguments, **settings: Any) -> None:
            # max_length: rows are cut by us, and counted; skip_prepare_dataset: nothing else is done to them
            own = {"max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}}
            chosen = SFTConfig(**{**args.to_dict(), "hub_token": args.hub_token, **own})
            # of a base in 4 bits TRL trains the adapter itself in bf16, where small steps vanish; elsewhere it is fp32
            kept = {weight: weight.data for weight in model.parameters() if weight.requires_grad}
            super().__init__(model=model, args=chosen, **settings)
            for weight, values in kept.items():
                weight.data = values.to(weight.device)
            self.model_accepts_loss_kwargs = True  # TRL's loss is that over the tokens of all batches that add up

        def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            for metrics in self._metrics.values():
                metrics.pop("num_tokens", None)  # a resumed run would count from nothing; ours are in the result
            super().log(logs, *args, **kwargs)

        def create_model_card(self, *args: Any, **kwargs: Any) -> None:
            """Write none: ours lies beside the artefact."""

        def _send_telemetry(self) -> None:
            """Tell nobody what trains here."""

    return InstructionTrainer
