"""A finished run, read from its folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.config import UserError
from peftkit.results import run_folder

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class RunResult:
    """A run: its folder and what result.json records."""

    folder: Path

    @cached_property
    def record(self) -> dict[str, Any]:
        """The whole result.json.

        Raises:
            UserError: there is none.
        """
        record = run_folder.read_result(self.folder)
        if record is None:
            raise UserError(f"{self.folder} has no result.json; name a run folder")
        return record

    @property
    def scores(self) -> dict[str, float]:
        """The scores by metric."""
        return {name: entry["value"] for name, entry in self.record["scores"].items()}

    @property
    def costs(self) -> dict[str, Any]:
        """Trained weights, bytes, seconds, tokens and steps."""
        return dict(self.record["costs"])

    @property
    def status(self) -> str:
        """finished, failed or interrupted."""
        return str(self.record["meta"]["status"])

    def predictions(self) -> pd.DataFrame:
        """Return id, split, label, prediction and scores of each validation example."""
        import pyarrow.parquet as pq

        return pq.read_table(self.folder / "predictions.parquet").to_pandas()
