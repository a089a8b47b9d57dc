"""Turn TRL's DPOTrainer into one that scores, orders, logs and resumes like every other trainer of peftkit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from torch import nn
from transformers import PretrainedConfig, TrainingArguments

from peftkit.schema import UserError
from peftkit.train.trainer import ScoringTrainer

ONE_EACH = "TRL takes a process a GPU; say accelerate launch -m peftkit ..., or CUDA_VISIBLE_DEVICES=0"


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
        if args.n_gpu > 1:
            raise UserError(ONE_EACH)
        arguments = preference_arguments(args, beta=beta, loss_type=[loss], label_smoothing=smoothing)
        return _trainer_class()(args=arguments, model=model, processing_class=tokenizer, **settings)  # type: ignore[no-any-return]

    return make


def preference_arguments(arguments: TrainingArguments, **more: Any) -> Any:
    """Return TRL's arguments: all as they are, none of TRL's own defaults, nothing cut and the reference known."""
    from trl import DPOConfig

    same = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(TrainingArguments) if field.init}
    return DPOConfig(**same, **more, max_length=None, precompute_ref_log_probs=True)


class _Asked(nn.Module):
    """Stands where TRL wants a reference, which was asked before training: else it adds a copy of the adapter."""

    config = PretrainedConfig()

    def forward(self) -> None:
        raise RuntimeError("the reference was asked before training")


@lru_cache(maxsize=1)
def _trainer_class() -> type:
    from trl import DPOTrainer  # six seconds

    class PreferenceTrainer(ScoringTrainer, DPOTrainer):
        """DPOTrainer's loss over rows that are tokenised and hold what the reference says."""

        def __init__(self, model: nn.Module, **settings: Any) -> None:
            trained = [(weight, weight.data) for weight in model.parameters() if weight.requires_grad]
            super().__init__(model=model, ref_model=_Asked(), **settings)
            for weight, data in trained:  # over a quantised base TRL rounds them to bf16, where small steps vanish
                weight.data = data.to(weight.device)
            self.ref_model = None

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
            return dataset

        def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            for metrics in self._metrics.values():
                metrics.pop("num_tokens", None)  # a resumed run would count from nothing; ours are in the result
            super().log(logs, *args, **kwargs)

        def create_model_card(self, *_: Any, **__: Any) -> None:
            """Write none: the run folder has its own."""

        def _send_telemetry(self) -> None:
            """Tell nobody."""

    return PreferenceTrainer
