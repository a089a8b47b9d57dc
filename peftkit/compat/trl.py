"""Private parts of TRL's trainers, as mixins that go before them in a class's bases."""

from __future__ import annotations

from typing import Any


class QuietTrainer:
    """A TRL trainer that writes no model card, sends no telemetry and logs no count of tokens."""

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        for metrics in self._metrics.values():  # type: ignore[attr-defined]
            metrics.pop("num_tokens", None)  # a resumed run would restart the count; result.json has the right one
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Do nothing: peftkit writes the model card."""

    def _send_telemetry(self) -> None:
        """Do nothing."""


class PreparedPreferences:
    """A DPOTrainer whose dataset is tokenized and has the reference's log-likelihoods already."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
        return dataset
