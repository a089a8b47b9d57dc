"""Private parts of TRL's trainers (1.16) that peftkit overrides."""

from __future__ import annotations

import inspect

from trl import DPOTrainer, SFTTrainer
from trl.trainer.base_trainer import _BaseTrainer

from peftkit.compat.trainer import PreparedPreferences, QuietTrainer


def test_every_override_has_a_method_to_override() -> None:
    for name in ("create_model_card", "_send_telemetry"):
        assert name in vars(QuietTrainer) and name in vars(_BaseTrainer), name
    for name in ("_prepare_dataset", "_precompute_ref_logps"):
        assert name in vars(PreparedPreferences) and name in vars(DPOTrainer), name
    assert next(iter(inspect.signature(DPOTrainer._precompute_ref_logps).parameters)) == "self"


def test_logged_metrics_wait_in_a_private_dictionary() -> None:
    for trainer in (SFTTrainer, DPOTrainer):
        source = inspect.getsource(trainer)
        assert 'self._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}' in source
        assert 'self._metrics[mode]["num_tokens"]' in source
