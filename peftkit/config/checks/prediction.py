"""Checks of the section `predict` against the runs that predict."""

from collections.abc import Iterator
from pathlib import Path

from peftkit.config.checks.rules import messages_of
from peftkit.config.checks.run_folders import readable_config
from peftkit.config.errors import refusal
from peftkit.config.json_files import read_json
from peftkit.config.kinds import kind_of
from peftkit.config.run import RunConfig


def prediction_errors(run: RunConfig) -> list[str]:
    """Return a message for each setting that a run has no confidence or no held-out examples for."""
    chosen, target = run.predict, run.predict.target_accuracy
    if run.job not in ("predict", "serve") or (chosen.abstain is None and target is None):
        return []
    folders = [run.run] if run.run is not None else run.runs or []
    return [
        *messages_of(
            (
                chosen.abstain is not None and target is not None,
                refusal(
                    "predict.target_accuracy chooses the threshold that predict.abstain sets",
                    "~predict.abstain",
                    "~predict.target_accuracy",
                ),
            ),
            (
                run.job == "predict" and run.run is None and target is not None,
                refusal(
                    "predict.target_accuracy chooses a threshold for one run, runs= has several",
                    "predict.abstain=0.8 ~predict.target_accuracy",
                ),
            ),
        ),
        *(message for folder in folders for message in _run_errors(run, Path(folder))),
    ]


def _run_errors(run: RunConfig, folder: Path) -> Iterator[str]:
    """Yield a message for a run of another kind or without calibration; unfinished runs have a message already."""
    config = readable_config(folder)
    if config is None:
        return
    kind, key = kind_of(config.task), "abstain" if run.predict.abstain is not None else "target_accuracy"
    if not kind.has_label_probabilities and run.run is not None:
        wrong = f"predict.{key} is for classification, {folder} is a run of {kind.name}"
        yield refusal(wrong, f"~predict.{key}")
    elif (
        key == "target_accuracy"
        and (run.run is not None or run.job == "serve")
        and kind.has_label_probabilities
        and not read_json(folder / "result.json", "").get("calibration")
    ):
        wrong = (
            f"predict.target_accuracy needs examples that the run held out, {folder} has none: train it again with "
            "calibration.holdout=0.1"
        )
        yield refusal(wrong, "predict.abstain=0.8 ~predict.target_accuracy")
