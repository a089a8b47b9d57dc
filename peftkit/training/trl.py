"""TRL's SFTTrainer and DPOTrainer with the scores, order of examples, log and resumption of ScoringTrainer."""

import dataclasses
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase, TrainingArguments

from peftkit.compat.trainer import NoTelemetryMixin, PretokenizedDPOMixin
from peftkit.config import UserError
from peftkit.training.trainer import ScoringTrainer, is_adalora


def sft_trainer(
    tokenizer: PreTrainedTokenizerBase, *, args: TrainingArguments, model: Any, **settings: Any
) -> ScoringTrainer:
    """Return SFTTrainer combined with ScoringTrainer; where SFTTrainer is unsupported, a plain ScoringTrainer.

    SFTTrainer computes its loss over examples that peftkit tokenized and truncated.

    Raises:
        UserError: one process has several GPUs; TRL needs one process per GPU.
    """
    if sft_unsupported_reason(model, args) is not None:
        trainer = ScoringTrainer(args=args, model=model, **settings)
        # The losses of transformers' models support division by the tokens of all accumulated batches; GPT-2 does not
        # declare it (no loss_type). AdaLoRA adds a term to the loss of each batch, which would not be divided.
        base = type(model.get_base_model() if hasattr(model, "get_base_model") else model)
        trainer.model_accepts_loss_kwargs = base.__module__.startswith("transformers.") and not is_adalora(model)
        return trainer
    from trl import SFTConfig, SFTTrainer  # six seconds

    class InstructionTrainer(_TRLTrainer, SFTTrainer):  # type: ignore[misc]
        """ScoringTrainer with SFTTrainer's loss."""

    trainer = InstructionTrainer(
        args=trl_arguments(SFTConfig, args, dataset_kwargs={"skip_prepare_dataset": True}),
        model=model,
        processing_class=tokenizer,
        **settings,
    )
    trainer.model_accepts_loss_kwargs = True  # TRL divides by the tokens of all accumulated batches
    return trainer


def sft_unsupported_reason(model: Any, arguments: TrainingArguments) -> str | None:
    """Return why SFTTrainer's loss does not support a model, None if it does.

    SFTTrainer multiplies the last hidden states with the weight of the output layer chunk by chunk, so that the logits
    over the vocabulary never exist at once. This ignores what a method adds to the output layer or to the loss.
    """
    if is_adalora(model):
        return "AdaLoRA adds an orthogonality regularizer to the model's loss"
    if _changes_head(model):
        return "the method changes the output layer"
    if arguments.label_smoothing_factor:
        return "label smoothing needs the logits of the whole vocabulary"
    return None


def dpo_trainer(
    tokenizer: PreTrainedTokenizerBase, own: dict[str, Any], *, args: TrainingArguments, model: Any, **settings: Any
) -> ScoringTrainer:
    """Return DPOTrainer joined with ScoringTrainer (Rafailov et al. 2023).

    Args:
        own: TRL's beta, loss_type and label_smoothing.
        settings: the dataset has the columns that `chosen_and_rejected` collates, including the log-likelihoods of the
            reference.

    Raises:
        UserError: the method changes the output layer, of which TRL uses only the weight; or one process has several
            GPUs.
    """
    if _changes_head(model):
        raise UserError("TRL's DPO ignores what a method adds to the output layer; remove lm_head from method.config")
    from trl import DPOConfig, DPOTrainer  # six seconds

    class PreferenceTrainer(_TRLTrainer, PretokenizedDPOMixin, DPOTrainer):  # type: ignore[misc]
        """ScoringTrainer with DPOTrainer's loss over tokenized examples with the reference's log-likelihoods."""

    settings |= {"model": model, "ref_model": _PrecomputedReference(), "processing_class": tokenizer}
    trainer = PreferenceTrainer(args=trl_arguments(DPOConfig, args, precompute_ref_log_probs=True, **own), **settings)
    trainer.ref_model = None
    return trainer


def trl_arguments(kind: type, arguments: TrainingArguments, **own: Any) -> Any:
    """Return the arguments as TRL's `kind`, without TRL's defaults and without truncation.

    Raises:
        UserError: one process has several GPUs; TRL needs one process per GPU.
    """
    if arguments.n_gpu > 1:
        raise UserError(
            "TRL needs one process for each GPU; use accelerate launch -m peftkit ..., or set CUDA_VISIBLE_DEVICES=0"
        )
    same = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(TrainingArguments) if field.init}
    return kind(**same, **own, max_length=None)


class _TRLTrainer(NoTelemetryMixin, ScoringTrainer):
    """ScoringTrainer as a mixin, before a trainer of TRL in the bases of a class."""

    def __init__(self, *, model: nn.Module, **settings: Any) -> None:
        trained = [(weight, weight.data) for weight in model.parameters() if weight.requires_grad]
        super().__init__(model=model, **settings)
        for weight, data in trained:  # TRL casts them to bf16 over a quantized base, where small steps underflow
            weight.data = data.to(weight.device)


class _PrecomputedReference(nn.Module):
    """A placeholder for the reference: its likelihoods are in the dataset, and without it TRL copies the adapter."""

    config = PretrainedConfig()

    def forward(self) -> None:
        raise RuntimeError("the reference's likelihoods were computed before training")


def _changes_head(model: Any) -> bool:
    return type(model.get_output_embeddings()) is not nn.Linear
