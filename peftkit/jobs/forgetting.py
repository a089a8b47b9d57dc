"""Forgetting: the language modeling loss of a finished run with its method disabled, enabled and interpolated."""

import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peftkit.compat.peft import disabled_adapters
from peftkit.config import Refusal, RunConfig, UserError, is_prompted, refuse
from peftkit.config.console import is_main_process, log
from peftkit.config.files import ending_of
from peftkit.config.source import Source
from peftkit.data.cells import parse_cells, text_of
from peftkit.data.datasets import TaskDataset, load_task_dataset
from peftkit.data.offline_corpus import (
    TokenPair,
    causal_pairs,
    documents_fingerprint,
    masked_pairs,
    offline_documents,
    pack,
    span_pairs,
)
from peftkit.data.streaming import stream_texts
from peftkit.data.tables import read_file
from peftkit.leaderboard.stats import task_score
from peftkit.methods.scaling import WeightPairs, adapter_pairs, scaled, weight_pairs
from peftkit.models.heads import shared_modules, with_tuned_module
from peftkit.models.load import load_language_model
from peftkit.models.offline import mean_loss, sentinel_ids
from peftkit.models.pooling import state_drift, token_states
from peftkit.pipeline.artifacts import base_source, load_bundle, run_tokenizer_source
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.examples import score_reference, score_splits
from peftkit.pipeline.sources import warn_substitutions
from peftkit.pipeline.verify import VerificationError
from peftkit.results import run_folder
from peftkit.results.run_result import RunResult

SCALES = (0.0, 0.25, 0.5, 0.75, 1.0)
LOSS_TOLERANCE = 1e-5  # nats per token, in fp32, between a disabled method and its base
BLOCK_TOKENS = 128  # the block size that the offline models are pretrained with
MAX_BLOCKS = 200  # evenly spaced over the text; the offline text has fewer
BATCH_BLOCKS = 8  # the logits of a batch over GPT-2's vocabulary take 200 MB
MEASURES = {"encoder": "masked_lm_loss", "decoder": "causal_lm_loss", "seq2seq": "span_corruption_loss"}
DRIFT = "state_drift"


@dataclass(frozen=True)
class TextMeasurement:
    """A text in blocks of equal length, and the measure computed on it."""

    measure: str
    pairs: list[TokenPair]
    tokens: int  # that have a target
    states: torch.Tensor | None  # token states of the base model, if the measure is their drift

    def measure_on(self, model: PreTrainedModel) -> float:
        """Return the loss in nats per token, in fp32, or the drift of the states from those of the base."""
        if self.states is None:
            return mean_loss(model, self.pairs, BATCH_BLOCKS, in_fp32=True)
        return state_drift(self.states, token_states(model, [ids for ids, _ in self.pairs], BATCH_BLOCKS))


def forgetting(config: RunConfig) -> Path:
    """Measure a finished run's language modeling, print the table, and return the run folder."""
    measure_forgetting(config)
    folder = Path(str(config.run))
    print_forgetting(folder)
    return folder


def print_forgetting(folder: Path) -> None:
    """Print what was measured of a run."""
    if is_main_process():
        print("\n".join(_table(RunResult(folder).record["forgetting"])))
        log(f"-> {folder / 'result.json'}")


def measure_forgetting(config: RunConfig, scales: Sequence[float] = SCALES) -> None:
    """Measure a finished run's language modeling before and after training and in between; record it in result.json.

    Args:
        scales: of the run's change; 1, the run itself, is always among them.

    Raises:
        UserError: the text or the run's data cannot be read, or the method does not modify its base.
        VerificationError: the method cannot be disabled.
    """
    run = RunResult.finished(config.run)
    folder, trained = run.folder, run.config
    refuse(
        (is_prompted(trained), f"{folder}: no weights were trained; use a run with trained weights"),
        (trained.vocab is not None, f"{folder}: has tokens that its base lacks (vocab=); use a run without new tokens"),
    )
    text, documents = read_text(config)
    data = load_scored_examples(config, run)
    warn_substitutions(run.source, data.source)
    source = base_source(run)
    reference = score_reference(trained, source, data.splits, run_tokenizer_source(run))
    bundle, base_model, no_head = _load(run, source)
    measurement = _text_measurement(base_model, bundle, documents, trained.model.family, no_head)
    if no_head is not None:
        log(f"!! {no_head}: measures the drift of token states (1 - cosine) instead of a loss")
    base = measurement.measure_on(base_model)
    tuned, pairs = _tuned_model(base_model, bundle)
    with bundle.model.disable_adapter() if isinstance(bundle.model, PeftModel) else scaled(pairs or [], 0):
        before = measurement.measure_on(tuned)
    _check_equals_base(abs(before - base), "disabled")

    def score() -> float:
        with tempfile.TemporaryDirectory() as scratch:
            return task_score(score_splits(trained, bundle, data, Path(scratch, "scores.parquet"), reference)[0])

    curve = []
    for scale in sorted({*scales, 1.0}) if pairs is not None else (0.0, 1.0):
        with _scaled_to(scale, pairs, bundle.model):
            curve.append({"scale": scale, "loss": measurement.measure_on(tuned), "score": score()})
        if scale == 0:
            _check_equals_base(abs(curve[-1]["loss"] - before), "scaled to 0")
    record = {
        "measure": measurement.measure,
        "unit": "1 - cosine" if measurement.measure == DRIFT else "nats per token",
        "reason": no_head,
        "text": text,
        "text_revision": documents_fingerprint(documents),
        "tokens": measurement.tokens,
        "before": before,
        "after": next(point["loss"] for point in curve if point["scale"] == 1),
        "off_difference": abs(before - base),
        "curve": curve,
        "curve_reason": None if pairs is not None else f"{trained.method.name} cannot be interpolated",
    }
    if is_main_process():
        with run_folder.updated_result(folder, run.record) as result:
            result["forgetting"] = record


def read_text(config: RunConfig) -> tuple[str, list[str]]:
    """Return the name and the documents of the text: lines or column text of a file; by default the offline text."""
    if config.input is None:
        return "offline, held out: generated sentences and Python's language reference", offline_documents()[1]
    file = Path(config.input)
    if ending_of(file) == ".txt":
        texts = [record.text for record in stream_texts(file, "text")]
    else:
        table = read_file(file)
        refuse(("text" not in table.column_names, f"{file}: no column text; rename the column that has the texts"))
        texts = parse_cells(table["text"], text_of, f"{file}: column text")
    documents = [text.strip() for text in texts if text.strip()]
    message = f"{file}: no text in it; use another file, or drop input= for the offline text"
    refuse((not documents, Refusal(message, "~input")))
    return file.name, documents


def load_scored_examples(config: RunConfig, run: RunResult, trained_on: bool = False) -> TaskDataset:
    """Load the examples that the run was scored on; also those that it was `trained_on`."""
    recorded, task = run.record["audit"]["sources"]["data"], run.config.task
    if not trained_on:
        task = replace(task, splits={**task.splits, "train": None})
    held_out = run.config.calibration.holdout if trained_on else None
    domains = run.config.domains
    data = load_task_dataset(task, config.data_root, config.source, recorded["revision"], 0, held_out, domains)
    if data.source.revision != recorded["revision"]:
        raise UserError(
            f"{run.folder}: scored on {recorded['name']} {recorded['revision']}, the data is {data.source.name} "
            f"{data.source.revision}; set source= and data_root= as for the run"
        )
    names = {task.splits["train"], *task.splits["validation"]}  # without those of other domains, or of calibration
    return replace(data, splits={name: table for name, table in data.splits.items() if name in names})


def _load(run: RunResult, source: Source) -> tuple[TrainingBundle, PreTrainedModel, str | None]:
    """Load the run and its base language model, on a GPU if there is one; also the reason if that has no loss."""
    message = f"{run.folder}: has fewer attention heads than its base; use the run that it was pruned from"
    bag = f"{run.folder}: {run.config.method.name} has no layers of a language model; use a run with trained weights"
    refuse((run.config.prune.heads is not None, message), (run.config.method.traits.has_own_model, bag))
    bundle, quantization = load_bundle(run), run.config.method.quantization
    if isinstance(bundle.model, PeftModel) and not isinstance(bundle.model.base_model, BaseTuner):
        raise UserError(
            "PEFT's soft prompts are not part of the base, so its language model cannot use them; "
            "use a run of method=prompt or method=prefix"
        )
    base_model, no_head = load_language_model(source, bundle.tokenizer, quantization)
    if torch.cuda.is_available() and not quantization:  # a quantized base is already there
        base_model.to("cuda")  # type: ignore[arg-type]
        bundle.model.to("cuda")
    return bundle, base_model, no_head


def _text_measurement(
    base_model: Any, bundle: TrainingBundle, documents: list[str], family: str, no_head: str | None
) -> TextMeasurement:
    """Split the text into blocks with the targets of the base's pretraining objective."""
    tokenizer, has_head = bundle.tokenizer, no_head is None
    family = "seq2seq" if base_model.config.is_encoder_decoder else family
    first, last, end = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.eos_token_id
    separator, frame = (last, 2) if family == "encoder" else (end, 0)  # an encoder's block has two special tokens
    encoded = tokenizer(documents, add_special_tokens=False, verbose=False)
    stream = [token for ids in encoded["input_ids"] for token in (*ids, separator)]
    block = min(BLOCK_TOKENS, _max_text_tokens(base_model, tokenizer, bundle.model) - frame)
    if len(stream) < min(16, block):
        raise UserError(f"input=: the text has {len(stream)} tokens, too few to measure a loss on; use a longer one")
    block = min(block, len(stream))
    streams = [stream[: len(stream) // block * block - 1]]  # only full blocks; the last one ends with the separator
    if family == "encoder" and has_head:
        pairs = masked_pairs(streams, block, first, last, tokenizer.mask_token_id)
    elif family == "encoder":  # without a head there are no predictions, so inputs are not corrupted
        pairs = [([first, *ids, last], ids) for ids in pack(streams, block, last)]
    elif family == "seq2seq" and has_head:
        pairs = span_pairs(streams, block, end, sentinel_ids(tokenizer))
    else:
        pairs = causal_pairs(streams, block, end)
    pairs = pairs[:: -(-len(pairs) // MAX_BLOCKS)]
    if not has_head:
        inputs = [ids for ids, _ in pairs]
        return TextMeasurement(DRIFT, pairs, sum(map(len, inputs)), token_states(base_model, inputs, BATCH_BLOCKS))
    tokens = sum(token >= 0 for _, targets in pairs for token in targets) - (len(pairs) if family == "decoder" else 0)
    return TextMeasurement(MEASURES[family], pairs, tokens, None)


def _max_text_tokens(model: Any, tokenizer: PreTrainedTokenizerBase, tuned: Any) -> int:
    """Return the number of text tokens the model accepts; virtual tokens take up positions."""
    positions = getattr(model.config, "max_position_embeddings", None) or BLOCK_TOKENS
    prompt = getattr(tuned.active_peft_config, "num_virtual_tokens", 0) if isinstance(tuned, PeftModel) else 0
    return int(min(positions, tokenizer.model_max_length) - prompt)


def _tuned_model(base_model: PreTrainedModel, bundle: TrainingBundle) -> tuple[PreTrainedModel, WeightPairs | None]:
    """Return the language model with the tuned layers, and the weight pairs that interpolate the method."""
    is_peft = isinstance(bundle.model, PeftModel)
    plain = bundle.model.get_base_model() if is_peft else bundle.model
    base, part = shared_modules(base_model, plain)
    pairs = adapter_pairs(bundle.model) if is_peft else weight_pairs(part, base)
    return with_tuned_module(base_model, plain).eval(), pairs


def _scaled_to(scale: float, pairs: WeightPairs | None, model: Any) -> AbstractContextManager[None]:
    """Return a context with a scale of the method's change; a method without weight pairs has 0 and 1 only."""
    if scale == 1:
        return nullcontext()
    return disabled_adapters(model) if pairs is None else scaled(pairs, scale)


def _check_equals_base(difference: float, how: str) -> None:
    if not difference <= LOSS_TOLERANCE:
        raise VerificationError(f"the model with its method {how} differs from its base by {difference:.2g}")


def _table(record: dict[str, Any]) -> list[str]:
    return [
        f"{record['measure']} ({record['unit']}) on {record['tokens']} tokens of text {record['text']}",
        f"before {record['before']:.4f}   after {record['after']:.4f}   "
        f"change {record['after'] - record['before']:+.4f}   "
        f"difference of the disabled method from the base {record['off_difference']:.1g}",
        f"scale {'drift' if record['measure'] == DRIFT else 'loss':>7}   score",
        *(f"{point['scale']:5.2f} {point['loss']:7.4f} {point['score']:7.4f}" for point in record["curve"]),
        *([record["curve_reason"]] if record["curve_reason"] else []),
    ]
