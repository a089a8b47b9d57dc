"""Turn a finished run into what its model has forgotten of its language, with the method off, on and in between."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peftkit.compat.peft import adapters_off
from peftkit.config import RunConfig, UserError, is_prompted
from peftkit.data.datasets import TaskDataset, load_task_dataset
from peftkit.data.files import read_file
from peftkit.data.offline_corpus import (
    Pair,
    causal_pairs,
    documents_fingerprint,
    masked_pairs,
    offline_documents,
    pack,
    span_pairs,
)
from peftkit.leaderboard.stats import task_score
from peftkit.methods.scaling import Ends, adapter_ends, scaled, weight_ends
from peftkit.models.language_model import (
    load_language_model,
    shared_parts,
    state_drift,
    token_states,
    with_tuned_part,
)
from peftkit.models.offline import mean_loss, sentinel_ids
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.evaluate import evaluate_splits
from peftkit.pipeline.inference import (
    base_source,
    load_bundle,
    recorded_config,
    recorded_source,
    run_tokenizer_source,
)
from peftkit.pipeline.reference import Reference, score_reference
from peftkit.pipeline.sources import warn_substitutions
from peftkit.pipeline.trainers import predictor
from peftkit.pipeline.verify import GateError
from peftkit.results import run_folder
from peftkit.results.console import is_main_process, log

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
TOLERANCE = 1e-5  # nats a token: what a method that is off may differ from its base by, in fp32
BLOCK = 128  # tokens, as the small models are pretrained on
BLOCKS = 200  # at most, evenly spread over the text: all of the offline one
BATCH = 8  # blocks: a batch's logits over GPT-2's vocabulary are 200 MB
MEASURES = {"encoder": "masked_lm_loss", "decoder": "causal_lm_loss", "seq2seq": "span_corruption_loss"}
DRIFT = "state_drift"


def forgetting(run: RunConfig) -> Path:
    """Measure a finished run's language before, after and in between, and write it into its result.json.

    Raises:
        UserError: the text or the run's data cannot be read, or the method changes no layer of its base.
        GateError: the method cannot be switched off.
    """
    folder = Path(str(run.run))
    trained = recorded_config(folder)
    if is_prompted(trained):
        raise UserError(f"{folder} trained nothing, so nothing is forgotten; name a run that trained")
    if trained.vocab is not None:
        raise UserError(
            f"{folder} has tokens that its base lacks (vocab=); name a run without them, to hold against it"
        )
    name, documents = _text(run)
    rows = _validation(run, trained, folder)
    warn_substitutions(recorded_source(folder), rows.source)
    source = base_source(trained, folder)
    asked = score_reference(trained, source, rows.splits, run_tokenizer_source(trained, folder))
    parts = load_bundle(trained, folder)
    _check_method(parts.model)
    untouched, reason = load_language_model(source, parts.tokenizer, trained.method.quantization)
    if torch.cuda.is_available() and not trained.method.quantization:  # a quantised base lies there already
        untouched.to("cuda")  # type: ignore[arg-type]
        parts.model.to("cuda")
    probe = _probe(untouched, parts, documents, trained.model.family, reason)
    if reason is not None:
        log(f"!! {reason}: no loss is measured, but how far its token states turn (1 - cosine)")
    base = probe.read(untouched)
    tuned, ends = _reading(untouched, parts)
    with _off(parts.model, ends):
        before = probe.read(tuned)
    _check_off(abs(before - base), "switched off")
    curve = _curve(trained, parts, ends, rows, asked, probe, tuned, before)
    found = {
        "measure": probe.measure,
        "unit": "1 - cosine" if probe.measure == DRIFT else "nats a token",
        "reason": reason,
        "text": name,
        "text_revision": documents_fingerprint(documents),
        "tokens": probe.tokens,
        "before": before,
        "after": curve[-1]["loss"],
        "off_difference": abs(before - base),
        "curve": curve,
        "curve_reason": None if ends is not None else f"{trained.method.name} has no point between off and on",
    }
    if is_main_process():
        run_folder.amend_result(folder, lambda result: result.update(forgetting=found))
        print("\n".join(_table(found)))
        log(f"-> {folder / 'result.json'}")
    return folder


@dataclass(frozen=True)
class Probe:
    """A text in blocks of one length, and what is asked of a model about it."""

    measure: str
    pairs: list[Pair]
    tokens: int  # that count
    states: torch.Tensor | None  # the untouched base's, where the measure is their drift

    def read(self, model: PreTrainedModel) -> float:
        """Return the loss in nats a token, in fp32, or the drift of the states from the base's."""
        if self.states is None:
            return mean_loss(model, self.pairs, BATCH, in_fp32=True)
        return state_drift(self.states, token_states(model, [ids for ids, _ in self.pairs], BATCH))


def _text(run: RunConfig) -> tuple[str, list[str]]:
    """Return the name of the text and its documents: a file's lines or its column text, else the offline ones."""
    if run.input is None:
        return "offline, held out: generated sentences and Python's language reference", offline_documents()[1]
    file = Path(run.input)
    if file.suffix == ".txt":
        try:
            lines = file.read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise UserError(f"{file} is not written in UTF-8; convert it: iconv -f latin1 -t utf-8 {file}") from error
    else:
        table = read_file(file)
        if "text" not in table.column_names:
            raise UserError(f"{file} has no column text; rename the one that holds the text")
        lines = ["" if text is None else str(text) for text in table["text"]]
    documents = [line.strip() for line in lines if line.strip()]
    if not documents:
        raise UserError(f"there is no text in {file}; fill it, or drop input= for the offline text")
    return file.name, documents


def _validation(run: RunConfig, trained: RunConfig, folder: Path) -> TaskDataset:
    """Load the rows that the run was scored on."""
    told: Any = run_folder.read_result(folder)
    revision = told["audit"]["sources"]["data"]["revision"]
    task = replace(trained.task, splits={**trained.task.splits, "train": None})
    rows = load_task_dataset(task, run.data_root, run.source, revision)
    if rows.source.revision != revision:
        raise UserError(
            f"{folder} was scored on {told['audit']['sources']['data']['name']} {revision}, this is "
            f"{rows.source.name} {rows.source.revision}; say source= and data_root= as the run did"
        )
    return rows


def _check_method(model: Any) -> None:
    if isinstance(model, PeftModel) and not isinstance(model.base_model, BaseTuner):
        raise UserError(
            "PEFT's own soft prompts lie outside of the base, so its language model cannot read them; "
            "train method=prompt or method=prefix"
        )


def _probe(untouched: Any, parts: TrainingBundle, documents: list[str], family: str, reason: str | None) -> Probe:
    """Cut the text into blocks as the untouched base's family is asked about them."""
    tokenizer = parts.tokenizer
    family = "seq2seq" if untouched.config.is_encoder_decoder else family
    block = min(BLOCK, _room(untouched, tokenizer, parts.model) - (2 if family == "encoder" else 0))
    end = tokenizer.sep_token_id if family == "encoder" else tokenizer.eos_token_id
    stream = [
        token
        for ids in tokenizer(documents, add_special_tokens=False, verbose=False)["input_ids"]
        for token in (*ids, end)
    ]
    if len(stream) < min(16, block):
        raise UserError(f"the text has {len(stream)} tokens, too few to measure a loss on; give input= more of it")
    block = min(block, len(stream))
    whole = [stream[: len(stream) // block * block - 1]]  # full blocks alone, the last closed by an end
    pairs = _pairs(whole, block, family, tokenizer, is_masked=reason is None)
    pairs = pairs[:: -(-len(pairs) // BLOCKS)]
    if reason is not None:
        ids = [ids for ids, _ in pairs]
        return Probe(DRIFT, pairs, sum(map(len, ids)), token_states(untouched, ids, BATCH))
    tokens = sum(token >= 0 for _, targets in pairs for token in targets) - (len(pairs) if family == "decoder" else 0)
    return Probe(MEASURES[family], pairs, tokens, None)


def _pairs(
    stream: list[list[int]], block: int, family: str, tokenizer: PreTrainedTokenizerBase, is_masked: bool
) -> list[Pair]:
    """Return what a model reads and what it is to say; one without a head to say it reads the text as it is."""
    first, last, end = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.eos_token_id
    if family == "encoder" and is_masked:
        return masked_pairs(stream, block, first, last, tokenizer.mask_token_id)
    if family == "encoder":
        return [([first, *ids, last], ids) for ids in pack(stream, block, last)]
    if family == "seq2seq" and is_masked:
        return span_pairs(stream, block, end, sentinel_ids(tokenizer))
    return causal_pairs(stream, block, end)


def _room(model: Any, tokenizer: PreTrainedTokenizerBase, tuned: Any) -> int:
    """Return how many tokens the model reads; a prompt takes places of them."""
    places = getattr(model.config, "max_position_embeddings", None) or BLOCK
    prompt = getattr(tuned.active_peft_config, "num_virtual_tokens", 0) if isinstance(tuned, PeftModel) else 0
    return int(min(places, tokenizer.model_max_length) - prompt)


def _reading(untouched: PreTrainedModel, parts: TrainingBundle) -> tuple[PreTrainedModel, Ends | None]:
    """Return the language model that reads the tuned states, and the weights by which the method is scaled."""
    is_peft = isinstance(parts.model, PeftModel)
    plain = parts.model.get_base_model() if is_peft else parts.model
    base, part = shared_parts(untouched, plain)
    ends = adapter_ends(parts.model) if is_peft else weight_ends(part, base)
    return with_tuned_part(untouched, plain).eval(), ends


@contextmanager
def _off(model: Any, ends: Ends | None) -> Iterator[None]:
    with model.disable_adapter() if isinstance(model, PeftModel) else scaled(ends or [], 0):
        yield


def _check_off(difference: float, how: str) -> None:
    if not difference <= TOLERANCE:
        raise GateError(f"the method {how} is not its base: their measures differ by {difference:.2g}")


def _curve(
    trained: RunConfig,
    parts: TrainingBundle,
    ends: Ends | None,
    rows: TaskDataset,
    asked: Reference,
    probe: Probe,
    tuned: PreTrainedModel,
    before: float,
) -> list[dict[str, float]]:
    """Return loss and validation score, under the trained head, for each share of the method's change."""
    splits = {name: asked.beside(name, parts.format.encode(table)) for name, table in rows.splits.items()}
    curve = []
    for share in SHARES if ends is not None else (0.0, 1.0):
        part = nullcontext() if share == 1 else adapters_off(parts.model) if ends is None else scaled(ends, share)
        with part, predictor(trained, parts) as trainer, tempfile.TemporaryDirectory() as scratch:
            loss = probe.read(tuned)
            scores, _ = evaluate_splits(trained, parts, trainer, splits, rows, Path(scratch) / "predictions.parquet")
        if share == 0:
            _check_off(abs(loss - before), "scaled to 0")
        curve.append({"scale": share, "loss": loss, "score": task_score(scores)})
    return curve


def _table(found: dict[str, Any]) -> list[str]:
    """Return what was found as lines for people."""
    change = found["after"] - found["before"]
    return [
        f"{found['measure']} ({found['unit']}) on {found['tokens']} tokens of text {found['text']}",
        f"before {found['before']:.4f}   after {found['after']:.4f}   change {change:+.4f}   "
        f"off against the untouched base {found['off_difference']:.1g}",
        f"scale {'drift' if found['measure'] == DRIFT else 'loss':>7}   score",
        *(f"{point['scale']:5.2f} {point['loss']:7.4f} {point['score']:7.4f}" for point in found["curve"]),
        *([found["curve_reason"]] if found["curve_reason"] else []),
    ]
