"""Verification of a trained run: the reloaded artifact gives the same scores, and padding does not change them.

For a quantized base, the predictions of the merged checkpoint are compared as well. In a separate process, `serve`
reads requests, loads their run folders and writes the scores, one line of JSON per request.
"""

import json
import os
import sys
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from datasets import Dataset

from peftkit import training
from peftkit.compat.openmp import shared_cores
from peftkit.config import RunConfig, is_prompted
from peftkit.config.console import is_main_process, log
from peftkit.config.imports import end_imports
from peftkit.config.own_code import open_code, opened_packages
from peftkit.config.progress import stage
from peftkit.config.shared import sharing
from peftkit.data.formats import Encoded, Predictions
from peftkit.methods import count_parameters, is_mergeable, merge_adapter
from peftkit.pipeline import verifier_process
from peftkit.pipeline.artifacts import load_bundle
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.comparison import EXAMPLES, TOLERANCE, flat, fp32_scores, max_difference
from peftkit.pipeline.evaluate import predictor
from peftkit.pipeline.libraries import configure_libraries
from peftkit.results.model_card import describe_merge
from peftkit.results.run_result import RunResult

BATCH, MERGED_EXAMPLES = 8, 200


class VerificationError(Exception):
    """A check of the trained model failed; the message states the difference."""


def fork_verifier() -> None:
    """Fork the verifier process where this one has only imported what it needs."""
    if is_main_process():
        verifier_process.fork(serve)


def start_verifier() -> None:
    """Start the verifier process where none was forked, so that its imports are done when it is needed."""
    if is_main_process():
        verifier_process.start()


@stage("verifying the saved model")
def verify_run(
    config: RunConfig, bundle: TrainingBundle, table: Any, folder: Path, names: list[str] | None
) -> dict[str, Any]:
    """Compare a run's reloaded artifact with its model on some examples of a split; return the differences.

    Both compute the same batches in fp32, whatever the precision of the run, each in its process at the same time.

    Raises:
        VerificationError: the scores of the saved artifact differ from the trained model's, or an example's scores
            depend on the padding of its batch.
    """
    examples = table.select(range(min(EXAMPLES, len(table))))
    request = {"folder": str(folder.resolve()), "rows": examples.to_list(), "allow_code": opened_packages()}
    request["threads"] = torch.get_num_threads()
    number = verifier_process.send(request) if is_main_process() else None
    encoded = bundle.format.encode(examples)
    inputs = list(encoded.inputs)
    scores = _fp32_batches(bundle, inputs)  # all processes of a distributed run take part
    padded, reloaded = _padding_difference(bundle, inputs, scores, encoded), 0.0
    if padded > TOLERANCE["fp32"]:
        raise VerificationError(f"an example's scores change by {padded:.2g} with the padding of its batch")
    in_fp32 = flat(bundle, scores, encoded)
    if number is not None:
        response = verifier_process.receive(number)
        if "error" in response:
            raise VerificationError(f"the saved artifact cannot be loaded in a fresh process: {response['error']}")
        if response["label_names"] != names:
            raise VerificationError(f"the saved artifact has labels {response['label_names']}, not {names}")
        reloaded = max_difference(in_fp32, np.asarray(response["scores"]))
    if reloaded > TOLERANCE["fp32"]:
        raise VerificationError(f"the saved artifact's scores differ from the trained model's by {reloaded:.2g}")
    differences = {"rows": len(examples), "reload_difference": reloaded, "padding_difference": padded}
    if config.method.quantization:
        rounded = flat(bundle, _scores(config, bundle, encoded), encoded)
        differences["rounding_difference"] = max_difference(in_fp32, rounded)
    return differences


def _scores(config: RunConfig, bundle: TrainingBundle, encoded: Encoded) -> np.ndarray:
    """Return the scores (inputs, ...) of a model in the precision of the run."""
    return training.predict_scores(predictor(config, bundle), encoded.inputs, encoded.lengths).scores


def _fp32_batches(bundle: TrainingBundle, inputs: list[dict[str, Any]]) -> np.ndarray:
    """Return the scores (inputs, ...) in fp32, computed in batches of `BATCH` and padded with -100."""
    batches = [fp32_scores(bundle, inputs[first : first + BATCH]) for first in range(0, len(inputs), BATCH)]
    sizes = np.max([batch.shape[1:] for batch in batches], axis=0).astype(int)
    scores = np.full((len(inputs), *sizes), -100, dtype=np.float32)
    for index, row in enumerate(row for batch in batches for row in batch):
        scores[(index, *(slice(size) for size in row.shape))] = row
    return scores


def padding_difference(bundle: TrainingBundle, examples: Any) -> float:
    """Return the largest difference of fp32 scores between examples in batches of one and in a padded batch."""
    encoded = bundle.format.encode(examples.select(range(min(BATCH, len(examples)))))
    inputs = list(encoded.inputs)
    return _padding_difference(bundle, inputs, fp32_scores(bundle, inputs), encoded)


def _padding_difference(
    bundle: TrainingBundle, inputs: list[dict[str, Any]], scores: np.ndarray, encoded: Encoded
) -> float:
    """Return the largest difference between `scores` of the first batch and those of its inputs alone."""
    single = scores.copy()
    for index, each in enumerate(inputs[:BATCH]):
        found = fp32_scores(bundle, [each])[0]
        single[(index, *(slice(size) for size in found.shape))] = found
    return max_difference(flat(bundle, single, encoded), flat(bundle, scores, encoded))


def _response(request: dict[str, Any]) -> dict[str, Any]:
    run = RunResult(Path(request["folder"]))
    torch.set_num_threads(request["threads"])
    try:
        with open_code(request["allow_code"]), shared_cores():
            return _scored(run, request["rows"])
    except Exception as error:  # the run that sent the request fails with it
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}


def _scored(run: RunResult, rows: list[dict[str, Any]]) -> dict[str, Any]:
    configure_libraries(run.config.source)
    bundle = load_bundle(run)
    predictor(run.config, bundle)  # moves the model to the device of the run
    encoded = bundle.format.encode(Dataset.from_list(rows))
    scores = flat(bundle, _fp32_batches(bundle, list(encoded.inputs)), encoded)
    names, loaded = run.label_names, bundle.model.config  # the config of a text-to-text model has no label names
    if bundle.format.verbalizer_ids is None and bundle.format.names is not None:
        names = [loaded.id2label[number] for number in range(loaded.num_labels)]
    return {"scores": scores.astype(float).tolist(), "label_names": names}


@stage("comparing with the merged model")
def check_merge(config: RunConfig, bundle: TrainingBundle, table: Any, folder: Path) -> dict[str, Any] | None:
    """Compare the trained model with its merged checkpoint on the first examples of a split; None if it cannot merge.

    The adapter was trained on weights rounded to 4 or 8 bits and is merged into their dequantized values, so that only
    the arithmetic differs. If the base does not fit into memory in full precision, the reason is recorded. All
    processes of a distributed run must call this.
    """
    if config.method.quantization is None or is_prompted(config) or not is_mergeable(bundle.model):
        return None
    try:
        found = _compare(config, bundle, table.select(range(min(MERGED_EXAMPLES, len(table)))), folder)
    except (torch.OutOfMemoryError, MemoryError) as error:
        found = {"rows": 0, "reason": (str(error) or "no memory").splitlines()[0]}
    log(f"   {describe_merge(found)}")
    return found


def _compare(config: RunConfig, bundle: TrainingBundle, examples: Any, folder: Path) -> dict[str, Any]:
    encoded = bundle.format.encode(examples)
    trained = _decoded(config, bundle, encoded)
    _check_memory(5 * count_parameters(bundle.model).total)
    full = load_bundle(RunResult(folder), quantized=False)
    full.model = merge_adapter(full.model)
    merged = _decoded(config, full, encoded)
    pairs = zip(trained.scores, merged.scores, strict=True)
    differences = np.concatenate([np.ravel(np.abs(after - before)) for before, after in pairs])
    is_number = bundle.format.output_kind != "spans" and bundle.format.names is None
    predictions = zip(trained.predictions, merged.predictions, strict=True)
    changed = sum(not np.array_equal(before, after) for before, after in predictions)
    return {
        "rows": len(examples),
        "max_difference": float(np.nanmax(differences)),
        "mean_difference": float(np.nanmean(differences)),
        "changed_predictions": None if is_number else changed,
        "dtype": str(full.model.dtype).removeprefix("torch."),
    }


def _decoded(config: RunConfig, bundle: TrainingBundle, encoded: Encoded) -> Predictions:
    """Return a model's predictions for encoded examples, in the precision of the run, without generating text."""
    return bundle.format.decode(bundle.format.unpad(_scores(config, bundle, encoded), encoded), encoded)


def _check_memory(needed: int) -> None:
    """Raise an error if the weights do not fit, before the kernel kills the run. Only Linux reports free memory.

    Raises:
        MemoryError: the weights do not fit.
    """
    file = Path("/proc/meminfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), needed)
    if free < needed:
        raise MemoryError(f"the full base needs {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free")


@sharing()
def serve(requests: IO[str], responses: IO[str]) -> None:
    """Write a line of JSON for each line until the requests end."""
    for line in requests:
        request = json.loads(line)
        responses.write(json.dumps({**_response(request), "number": request["number"]}) + "\n")
        responses.flush()


def main() -> None:
    """Serve from stdin to stdout; other output of this process goes to stderr."""
    responses = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    end_imports()
    serve(sys.stdin, responses)
