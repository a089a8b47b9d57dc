"""Turn TRL's DPOTrainer into one that scores, orders, logs and resumes like every other trainer of peftkit."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from torch import nn
from transformers import PretrainedConfig, TrainingArguments

from peftkit.config import UserError
from peftkit.training.trainer import ScoringTrainer
from peftkit.training.trl_mixin import TRLTrainerMixin, trl_arguments


def preference_trainer(tokenizer: Any, beta: float, loss: str, smoothing: float) -> Callable[..., ScoringTrainer]:
    """Return what makes a trainer by direct preference optimisation, with `loss` under TRL's name, for `make_trainer`.

    Its rows come as `chosen_and_rejected` takes them, with the reference's log-likelihoods in columns of their own.

    Raises (when it is called):
        UserError: the method changes the head, by whose weights alone TRL computes likelihoods; or one process sees
            several GPUs, over which TRL trains in several processes alone.
    """

    def make(args: TrainingArguments, model: nn.Module, **settings: Any) -> ScoringTrainer:
        if type(model.get_output_embeddings()) is not nn.Linear:  # type: ignore[operator]
            raise UserError(
                "TRL's DPO would pass over what the method adds to the head; leave lm_head out of method.config"
            )
        own = {"beta": beta, "loss_type": [loss], "label_smoothing": smoothing, "precompute_ref_log_probs": True}
        return _trainer_class()(args=args, own=own, model=model, processing_class=tokenizer, **settings)  # type: ignore[no-any-return]

    return make


class _Asked(nn.Module):
    """Stands where TRL wants a reference, which was asked before training: else it adds a copy of the adapter."""

    config = PretrainedConfig()

    def forward(self) -> None:
        raise RuntimeError("the reference was asked before training")


@lru_cache(maxsize=1)
def _trainer_class() -> type:
    from trl import DPOConfig, DPOTrainer  # six seconds

    class PreferenceTrainer(TRLTrainerMixin, DPOTrainer):  # type: ignore[misc]
        """DPOTrainer's loss over rows that are tokenised and hold what the reference says."""

        def __init__(self, *, args: TrainingArguments, own: dict[str, Any], **settings: Any) -> None:
            super().__init__(args=trl_arguments(DPOConfig, args, **own), ref_model=_Asked(), **settings)
            self.ref_model = None

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
            return dataset

    return PreferenceTrainer
