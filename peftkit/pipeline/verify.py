"""Verification of a trained run: the reloaded artifact gives the same scores, and padding does not change them.

Over a quantized base, also how far the merged checkpoint's predictions differ from the run's. As a process of its own,
`python -m peftkit.pipeline.verify`, it reads requests from stdin, loads their run folders and writes the scores to
stdout, a line of JSON each.
"""

import atexit
import json
import os
import subprocess
import sys
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from datasets import Dataset

from peftkit import training
from peftkit.config import RunConfig, is_prompted
from peftkit.data.formats import Encoded, Predictions
from peftkit.methods import count_parameters, is_mergeable, merge_adapter
from peftkit.pipeline.artifacts import load_bundle
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.evaluate import output_reader, predictor
from peftkit.pipeline.libraries import configure_libraries
from peftkit.results.console import is_main_process, log
from peftkit.results.model_card import describe_merge
from peftkit.results.run_result import RunResult

EXAMPLES, PADDED_EXAMPLES, MERGED_EXAMPLES = 16, 8, 200
# of scores about one in size; in bf16 a batch of another shape rounds otherwise
TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2, "fp16": 3e-2}
DISTRIBUTED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class VerificationError(Exception):
    """A check of the trained model failed; the message has the difference."""


def start_verifier() -> None:
    """Start the fresh process, so that its imports are done when it is needed."""
    if is_main_process():
        _verifier_process()


def verify_run(
    config: RunConfig, bundle: TrainingBundle, table: Any, folder: Path, names: list[str] | None, precision: str
) -> dict[str, Any]:
    """Compare a run's reloaded artifact with its model on some examples of a split; return the differences.

    Raises:
        VerificationError: the scores of the saved artifact differ from the trained model's, or an example's scores
            depend on the padding of its batch.
    """
    rows = table.select(range(min(EXAMPLES, len(table))))
    answers = _flat_scores(config, bundle, rows)  # by all processes of a distributed run together
    padded, reloaded = padding_difference(bundle, rows), 0.0
    if padded > TOLERANCE["bf16" if config.method.quantization else "fp32"]:
        raise VerificationError(f"an example's scores change by {padded:.2g} with the padding of its batch")
    if is_main_process():
        answer = _request({"folder": str(folder.resolve()), "rows": rows.to_list()})
        if "error" in answer:
            raise VerificationError(f"the saved artifact cannot be loaded in a fresh process: {answer['error']}")
        if answer["label_names"] != names:
            raise VerificationError(f"the saved artifact has labels {answer['label_names']}, not {names}")
        reloaded = max_difference(answers, np.asarray(answer["scores"]))
    if reloaded > TOLERANCE[precision]:
        raise VerificationError(f"the saved artifact's scores differ from the trained model's by {reloaded:.2g}")
    return {"rows": len(rows), "reload_difference": reloaded, "padding_difference": padded}


def _flat_scores(config: RunConfig, bundle: TrainingBundle, table: Any) -> np.ndarray:
    """Return all scores of a model for examples, flattened, in the precision of the run."""
    encoded = bundle.format.encode(table)
    return flat(bundle, _scores(config, bundle, encoded), encoded)


def _scores(config: RunConfig, bundle: TrainingBundle, encoded: Encoded) -> np.ndarray:
    return training.predict_scores(predictor(config, bundle), encoded.inputs, encoded.lengths).scores


def padding_difference(bundle: TrainingBundle, rows: Any) -> float:
    """Return the largest difference of fp32 scores between an example alone and in a padded batch."""
    encoded = bundle.format.encode(rows.select(range(min(PADDED_EXAMPLES, len(rows)))))
    inputs = list(encoded.inputs)
    together = fp32_scores(bundle, inputs)
    alone = np.full_like(together, -100)
    for row, each in enumerate(inputs):
        found = fp32_scores(bundle, [each])[0]
        alone[(row, *(slice(size) for size in found.shape))] = found
    return max_difference(flat(bundle, alone, encoded), flat(bundle, together, encoded))


def flat(bundle: TrainingBundle, scores: np.ndarray, encoded: Encoded) -> np.ndarray:
    return np.nan_to_num(np.concatenate([row.ravel() for row in bundle.format.unpad(scores, encoded)]))


@torch.no_grad()
def fp32_scores(bundle: TrainingBundle, rows: list[dict[str, Any]], **more: Any) -> np.ndarray:
    """Return the scores of one batch, without the autocast that training wraps the model in; `more` are inputs."""
    model = extract_model_from_parallel(bundle.model, keep_fp32_wrapper=False).eval()
    device = next(model.parameters()).device
    batch = {name: value.to(device) for name, value in bundle.format.collator()(rows).items() if value is not None}
    return output_reader(bundle)(model, {**batch, **more}).float().cpu().numpy()


def max_difference(first: np.ndarray, second: np.ndarray) -> float:
    """Return the largest difference, relative to a score's magnitude where that is above one."""
    return float((np.abs(first - second) / np.maximum(1.0, np.abs(first))).max())


@lru_cache(maxsize=1)
def _verifier_process() -> subprocess.Popen[str]:
    """Start a process that has never seen the trained model, kept for all runs of a command."""
    process = subprocess.Popen(
        [sys.executable, "-m", "peftkit.pipeline.verify"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={name: value for name, value in os.environ.items() if name not in DISTRIBUTED},
    )  # fmt: skip
    atexit.register(process.kill)
    return process


def _request(message: dict[str, Any]) -> dict[str, Any]:
    """Return the fresh process's answer, or the reason why it has none."""
    process, line = _verifier_process(), ""
    assert process.stdin is not None and process.stdout is not None
    with suppress(OSError):
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
    if not line:
        _verifier_process.cache_clear()
    return json.loads(line) if line else {"error": f"the process ended with exit code {process.wait()}"}  # type: ignore[no-any-return]


def _response(question: dict[str, Any]) -> dict[str, Any]:
    run = RunResult(Path(question["folder"]))
    try:
        configure_libraries(run.config.source)
        bundle = load_bundle(run)
        scores = _flat_scores(run.config, bundle, Dataset.from_list(question["rows"]))
    except Exception as error:  # the run that sent the request fails with it
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    names, loaded = run.label_names, bundle.model.config  # a text-to-text model's names no labels
    if bundle.format.verbalizer_ids is None and bundle.format.names is not None:
        names = [loaded.id2label[number] for number in range(loaded.num_labels)]
    return {"scores": scores.astype(float).tolist(), "label_names": names}


def check_merge(config: RunConfig, bundle: TrainingBundle, table: Any, folder: Path) -> dict[str, Any] | None:
    """Compare, on a split's first examples, the trained model with its merged checkpoint; None where it cannot merge.

    The adapter was trained over weights rounded to 4 or 8 bits, and is merged into their dequantized values, so only
    the arithmetic differs. A base too large to load in full precision gives a reason instead. All processes of a
    distributed run call this together.
    """
    if config.method.quantization is None or is_prompted(config) or not is_mergeable(bundle.model):
        return None
    try:
        found = _compare(config, bundle, table.select(range(min(MERGED_EXAMPLES, len(table)))), folder)
    except (torch.OutOfMemoryError, MemoryError) as error:
        found = {"rows": 0, "reason": (str(error) or "no memory").splitlines()[0]}
    log(f"   {describe_merge(found)}")
    return found


def _compare(config: RunConfig, bundle: TrainingBundle, rows: Any, folder: Path) -> dict[str, Any]:
    encoded = bundle.format.encode(rows)
    trained = _decoded(config, bundle, encoded)
    _check_memory(5 * count_parameters(bundle.model).total)
    whole = load_bundle(RunResult(folder), quantized=False)
    whole.model = merge_adapter(whole.model)
    merged = _decoded(config, whole, encoded)
    pairs = zip(trained.scores, merged.scores, strict=True)
    moved = np.concatenate([np.ravel(np.abs(after - before)) for before, after in pairs])
    is_number = bundle.format.output_kind != "spans" and bundle.format.names is None
    predictions = zip(trained.predictions, merged.predictions, strict=True)
    changed = sum(not np.array_equal(before, after) for before, after in predictions)
    return {
        "rows": len(rows),
        "max_difference": float(np.nanmax(moved)),
        "mean_difference": float(np.nanmean(moved)),
        "changed_predictions": None if is_number else changed,
        "dtype": str(whole.model.dtype).removeprefix("torch."),
    }


def _decoded(config: RunConfig, bundle: TrainingBundle, encoded: Encoded) -> Predictions:
    """Return a model's predictions for encoded examples, in the precision of the run; no text is generated."""
    return bundle.format.decode(bundle.format.unpad(_scores(config, bundle, encoded), encoded), encoded)


def _check_memory(needed: int) -> None:
    """Refuse to load what does not fit, before the kernel kills the trained run. Only Linux reports free memory.

    Raises:
        MemoryError: the weights do not fit.
    """
    file = Path("/proc/meminfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), needed)
    if free < needed:
        raise MemoryError(f"the whole base takes {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} are free")


def main() -> None:
    """Answer each line of stdin with a line of stdout; whatever else is printed goes to stderr."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        answers.write(json.dumps(_response(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
