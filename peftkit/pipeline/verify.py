"""Verification of a trained run: the reloaded artifact gives the same scores, and padding does not change them.

As a process of its own, `python -m peftkit.pipeline.verify`, it reads requests from stdin, loads their run folders and
writes the scores to stdout, a line of JSON each.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from peftkit import training
from peftkit.config import RunConfig
from peftkit.data.formats import Encoded
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.inference import load_bundle
from peftkit.pipeline.libraries import configure_libraries
from peftkit.pipeline.trainers import output_reader, predictor
from peftkit.results.console import is_main_process
from peftkit.results.run_result import RunResult

ROWS = 16
PADDED_ROWS = 8
# of scores about one in size; in bf16 a batch of another shape rounds otherwise
TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2, "fp16": 3e-2}


class GateError(Exception):
    """A check of the trained model failed; the message has the difference."""


def prewarm_verifier() -> None:
    """Start the fresh process, so that its imports are done when it is needed."""
    if is_main_process():
        _fresh_process()


def verify_run(
    config: RunConfig, bundle: TrainingBundle, table: Any, folder: Path, names: list[str] | None, precision: str
) -> dict[str, Any]:
    """Compare a run's reloaded artifact with its model on some examples of a split; return the differences.

    Raises:
        GateError: the saved artifact gives other scores than the trained model, or an example's scores depend on the
            padding of its batch.
    """
    rows = table.select(range(min(ROWS, len(table))))
    answers = flat_scores(config, bundle, rows)  # by all processes of a distributed run together
    padded = padding_difference(bundle, rows)
    limit = TOLERANCE["bf16" if config.method.quantization else "fp32"]
    if padded > limit:
        raise GateError(f"an example's scores change by {padded:.2g} with the padding of its batch")
    reloaded = 0.0
    if is_main_process():
        answer = _fresh_process().request({"folder": str(folder.resolve()), "rows": rows.to_list()})
        if "error" in answer:
            raise GateError(f"the saved artifact cannot be loaded in a fresh process: {answer['error']}")
        if answer["label_names"] != names:
            raise GateError(f"the saved artifact has labels {answer['label_names']}, not {names}")
        reloaded = max_difference(answers, np.asarray(answer["scores"]))
    if reloaded > TOLERANCE[precision]:
        raise GateError(f"the saved artifact's scores differ from the trained model's by {reloaded:.2g}")
    return {"rows": len(rows), "reload_difference": reloaded, "padding_difference": padded}


def flat_scores(config: RunConfig, bundle: TrainingBundle, table: Any) -> np.ndarray:
    """Return all scores of a model for examples, flattened, in the precision of the run."""
    encoded = bundle.format.encode(table)
    with predictor(config, bundle) as trainer:
        return flat(bundle, training.predict(trainer, encoded.inputs, encoded.lengths).scores, encoded)


def padding_difference(bundle: TrainingBundle, rows: Any) -> float:
    """Return the largest difference of fp32 scores between an example alone and in a padded batch."""
    encoded = bundle.format.encode(rows.select(range(min(PADDED_ROWS, len(rows)))))
    inputs = [encoded.inputs[row] for row in range(len(encoded.inputs))]
    together = _fp32_scores(bundle, inputs)
    alone = np.full_like(together, -100)
    for row, each in enumerate(inputs):
        found = _fp32_scores(bundle, [each])[0]
        place = (row, *(slice(size) for size in found.shape))
        alone[place] = found
    return max_difference(flat(bundle, alone, encoded), flat(bundle, together, encoded))


def flat(bundle: TrainingBundle, scores: np.ndarray, encoded: Encoded) -> np.ndarray:
    return np.nan_to_num(np.concatenate([row.ravel() for row in bundle.format.unpad(scores, encoded)]))


def _fp32_scores(bundle: TrainingBundle, rows: list[dict[str, Any]]) -> np.ndarray:
    """Return the scores of one batch, without the autocast that training wraps the model in."""
    import torch
    from accelerate.utils import extract_model_from_parallel

    model = extract_model_from_parallel(bundle.model, keep_fp32_wrapper=False).eval()
    device = next(model.parameters()).device
    batch = {name: value.to(device) for name, value in bundle.format.collator()(rows).items() if value is not None}
    with torch.no_grad():
        return output_reader(bundle)(model, batch).float().cpu().numpy()


def max_difference(first: np.ndarray, second: np.ndarray) -> float:
    """Return the largest difference, relative to a score's magnitude where that is above one."""
    return float((np.abs(first - second) / np.maximum(1.0, np.abs(first))).max())


class _Fresh:
    """A process that has never seen the trained model, kept for all runs of a command."""

    def __init__(self) -> None:
        alone = {name: value for name, value in os.environ.items() if name not in DISTRIBUTED}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "peftkit.pipeline.verify"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=alone,
        )  # fmt: skip
        atexit.register(self.process.kill)

    def request(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            _fresh_process.cache_clear()
            return {"error": f"the process ended with exit code {self.process.wait()}"}
        answer: dict[str, Any] = json.loads(line)
        return answer


DISTRIBUTED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@lru_cache(maxsize=1)
def _fresh_process() -> _Fresh:
    return _Fresh()


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    from datasets import Dataset

    run = RunResult(Path(question["folder"]))
    try:
        configure_libraries(run.config.source)
        bundle = load_bundle(run)
        scores = flat_scores(run.config, bundle, Dataset.from_list(question["rows"]))
    except Exception as error:  # the run that sent the request fails with it
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    return {"scores": scores.astype(float).tolist(), "label_names": _label_names(bundle, run)}


def _label_names(bundle: TrainingBundle, run: RunResult) -> list[str] | None:
    """Return the label names of the loaded model's config; of a text-to-text model those of the result."""
    if bundle.format.verbalizer_ids is not None or bundle.format.names is None:
        return run.label_names
    config = bundle.model.config
    return [config.id2label[number] for number in range(config.num_labels)]


def main() -> None:
    """Answer each line of stdin with a line of stdout; whatever else is printed goes to stderr."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        answers.write(json.dumps(_answer(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
