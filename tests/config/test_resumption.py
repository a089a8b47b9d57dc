"""Options of HF's Trainer with which a resumed run would not end as one that was not interrupted are refused."""

from __future__ import annotations

import dataclasses

import pytest
from helpers.commands import check
from transformers import TrainingArguments

REFUSED = {
    "save_only_model=true": "drop it",
    "ignore_data_skip=true": "drop it",
    "restore_callback_states_from_checkpoint=false": "drop it",
    "dataloader_in_order=false": "drop it",
    "dataloader_persistent_workers=true": "drop it",
    "enable_jit_checkpoint=true": "use train.save_strategy=steps",
    "save_on_each_node=true": "use out=",
    "push_to_hub=true": "use hf upload",
    "resume_from_checkpoint=elsewhere": "the same command resumes",
}


@pytest.mark.parametrize("typed", REFUSED)
def test_an_option_that_breaks_resuming_is_refused(typed: str) -> None:
    (message,) = check(["task=sst2", "source=offline", f"train.{typed}"])
    assert message.startswith(f"train.{typed.partition('=')[0]} is set by peftkit; {REFUSED[typed]}")


def test_every_option_of_checkpoints_and_uploads_has_been_decided() -> None:
    """A version of transformers with another one needs a decision: refused, or resumed exactly."""
    resumed = {"save_strategy", "save_steps", "save_total_limit", "load_best_model_at_end", "auto_find_batch_size"}
    refused = {typed.partition("=")[0] for typed in REFUSED} | {
        "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push", "hub_revision",
    }  # fmt: skip
    words = ("save", "checkpoint", "hub", "resume", "restore", "skip", "find", "best")
    named = {field.name for field in dataclasses.fields(TrainingArguments) if any(word in field.name for word in words)}
    others = {
        "activation_checkpointing", "activation_checkpointing_kwargs", "gradient_checkpointing",
        "gradient_checkpointing_kwargs", "ddp_find_unused_parameters", "skip_memory_metrics", "metric_for_best_model",
    }  # fmt: skip
    assert named - others == (resumed | refused) - {"dataloader_in_order", "dataloader_persistent_workers"}
