"""A finished run, read from its folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.config import RunConfig, UserError, error_summary
from peftkit.config.checks.untrusted import stored_errors
from peftkit.config.own_code import import_allowed, opened_packages
from peftkit.config.shipped_files import damaged_file
from peftkit.config.source import Source
from peftkit.metrics.calibration import score_thresholds
from peftkit.results import run_folder

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class RunResult:
    """A run: its folder and what result.json records."""

    folder: Path

    @classmethod
    def finished(cls, folder: str | Path | None) -> RunResult:
        """Return the run of a folder.

        Raises:
            UserError: there is no result, the run is not finished, or an earlier version of peftkit wrote it.
        """
        run = cls(Path(str(folder)))
        meta = run.record["meta"]
        if meta["status"] != "finished":
            raise UserError(f"{folder}: {meta['status']}, {meta['reason']}; finish that run first")
        return run

    @property
    def exists(self) -> bool:
        return (self.folder / "result.json").is_file()

    @cached_property
    def record(self) -> dict[str, Any]:
        """The content of result.json.

        Raises:
            UserError: there is none.
        """
        record = run_folder.read_result(self.folder)
        if record is None:
            hint = "set run= to a run folder (outputs/glue/mrpc/.../seed-0-...)"
            raise UserError(f"{self.folder}: no result.json in it; {hint}")
        return record

    def check_files(self, *parts: str) -> None:
        """Check that files of the run, or of folders in it, are those that it recorded.

        Raises:
            UserError: one is missing or has another content.
        """
        if (wrong := damaged_file(self.folder, self.record.get("files"), parts)) is not None:
            raise UserError(f"{wrong}; train the run again")

    @cached_property
    def config(self) -> RunConfig:
        """The config of the run; the code of its method is imported, if it is the user's own and opened.

        Raises:
            UserError: it sets what only the command line may set.
        """
        stored = self.record["run"]["config"]
        if errors := list(stored_errors(stored, opened_packages())):
            raise UserError(f"{self.folder / 'result.json'}: {'; '.join(errors)}")
        # runs that do not record it split at random, and their validation examples are found again by that split
        config = RunConfig.from_config({**stored, "task": {"stratify": False, **stored["task"]}})
        import_allowed(str(config.method.config["_target_"]))  # PEFT loads only methods that are registered
        return config

    @property
    def tasks(self) -> dict[str, RunResult]:
        """The run of each task by its name, of a run of several tasks; empty otherwise."""
        found = self.record.get("tasks") or {}
        return {name: RunResult(self.folder / str(each["folder"])) for name, each in found.items()}

    @property
    def label_names(self) -> list[str] | None:
        """The names of the labels, None if the task has none."""
        return self.record["audit"]["label_names"]  # type: ignore[no-any-return]

    @property
    def source(self) -> Source:
        """The source of the base."""
        entry = self.record["audit"]["sources"]["model"]
        return Source(**{name: value for name, value in entry.items() if name != "pooling"})

    @property
    def temperature(self) -> float:
        """The temperature that its scores are divided by for calibrated probabilities, 1 where it is not calibrated.

        Raises:
            UserError: it is not a number above 0.
        """
        found = (self.record.get("calibration") or {}).get("temperature", 1.0)
        if not 0 < found < float("inf"):
            raise UserError(
                f"{self.folder / 'result.json'}: calibration.temperature={found}: expected a number above 0; "
                "train the run again"
            )
        return float(found)

    @property
    def score_thresholds(self) -> tuple[float, ...] | None:
        """The scores from which each label is predicted, None without fitted thresholds.

        Raises:
            UserError: the labels have other thresholds than probabilities.
        """
        found = (self.record.get("calibration") or {}).get("thresholds")
        if found is None:
            return None
        if list(found) != self.label_names or not all(0 < each < 1 for each in found.values()):
            raise UserError(
                f"{self.folder / 'result.json'}: calibration.thresholds={found}: expected a number between 0 and 1 for "
                "each label; train the run again"
            )
        return score_thresholds([*found.values()], self.temperature)

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
        """Return each validation example: id, split, label, prediction, scores, names, probabilities and texts.

        Raises:
            UserError: the file is damaged.
        """
        import pyarrow.parquet as pq

        file = self.folder / "predictions.parquet"
        self.check_files(file.name)
        try:
            return pq.read_table(file).to_pandas()
        except (OSError, ValueError) as error:  # pyarrow's errors are among these
            raise UserError(f"{file} cannot be read: {error_summary(error)}; train the run again") from error
