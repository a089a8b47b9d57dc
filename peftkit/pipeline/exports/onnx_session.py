"""Exported graphs in onnxruntime: their scores, checks of them, and graphs with weights of 8 bits."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

from peftkit import training
from peftkit.config import kind_of
from peftkit.config.console import log
from peftkit.metrics.calibration import probabilities
from peftkit.models.pooling import columns_of
from peftkit.pipeline.comparison import max_difference
from peftkit.pipeline.evaluate import output_reader, score_answers
from peftkit.pipeline.exports.base import Exported, ExportSource, answers, compare, latency_of

MODEL, INT8 = "model.onnx", "model_int8.onnx"


class OnnxModel(nn.Module):
    """A graph in onnxruntime, called as a model of transformers; its outputs are attributes of what it returns."""

    def __init__(self, file: Path, config: PretrainedConfig) -> None:
        import onnxruntime

        super().__init__()
        self.config = config
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.input_names = [each.name for each in self.session.get_inputs()]
        self.output_names = [each.name for each in self.session.get_outputs()]

    def forward(self, **inputs: torch.Tensor) -> SimpleNamespace:
        values = {name: inputs[name].cpu().numpy() for name in self.input_names}
        found = self.session.run(None, values)
        pairs = zip(self.output_names, found, strict=True)
        return SimpleNamespace(**{name: torch.from_numpy(each).to(inputs["input_ids"].device) for name, each in pairs})


def graph_reader(source: ExportSource) -> Any:
    """Return the function that reads the scores of a batch from a graph in the place of the run's model."""
    reader = output_reader(source.bundle)
    if not isinstance(reader, training.OutputReader):
        return _read_embeddings
    return reader if reader.verbalizer_ids is None else training.OutputReader("logits")


def _read_embeddings(model: nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
    """Return embeddings (examples, columns, dim)."""
    return torch.stack([model(**inputs).embeddings for inputs in columns_of(batch)], dim=1)


def shape_difference(model: nn.Module, batches: Sequence[Mapping[str, torch.Tensor]]) -> float:
    """Return the largest difference of outputs between a padded batch and its examples alone."""
    batch, *alone = batches
    found, worst = vars(model(**batch)), 0.0
    for row, inputs in enumerate(alone):
        mask = batch["attention_mask"][row].bool()
        for name, single in vars(model(**inputs)).items():
            many = found[name][row]
            if single.shape[1:] != many.shape:  # scores of tokens
                many = many[mask]
            worst = max(worst, max_difference(single[0].numpy(), many.numpy()))
    return worst


def probability_difference(source: ExportSource, outputs: Mapping[str, torch.Tensor]) -> float:
    """Return how much the probabilities of a graph differ from those of its logits at the temperature of the run."""
    if "probabilities" not in outputs:
        return 0.0
    several = kind_of(source.config.task).several_labels
    expected = probabilities(outputs["logits"].numpy(), source.run.temperature, several)
    return max_difference(expected, outputs["probabilities"].numpy())


def write_int8(source: ExportSource, folder: Path, written: Exported) -> dict[str, Any]:
    """Write a graph with weights of 8 bits, and return by how much its answers and scores differ from the graph's.

    onnxruntime rounds each matrix by output channel, and its inputs while the graph runs (dynamic quantization).
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet_exporter():
        # weights take 7 of 8 bits: sums of products overflow on CPUs without VNNI, where answers would be others
        settings = {"per_channel": True, "reduce_range": True, "weight_type": QuantType.QInt8}
        quantize_dynamic(folder / MODEL, folder / INT8, **settings)
    rounded = replace(written, model=OnnxModel(folder / INT8, written.model.config))
    before, after = (answers(source, each, generates=False) for each in (written, rounded))
    found = compare(source, before, after)
    scores = {
        name: {
            each: entry["value"]
            for each, entry in score_answers(source.config, source.bundle, part, source.encoded).items()
        }
        for name, part in (("fp32", before), ("int8", after))
        if source.encoded.has_label.any()
    }
    same = "" if found.same_predictions is None else f", {found.same_predictions:.1%} of predictions are the same"
    log(f"!! {INT8}: {found.compared} differ by {found.max_difference:.2g} at most{same}")
    for name in scores.get("fp32", ()):
        log(f"!! {INT8}: {name} {scores['fp32'][name]:.4f} -> {scores['int8'][name]:.4f}")
    size, latency = (folder / INT8).stat().st_size, latency_of(source, rounded)
    log(f"   {INT8}: {size / 1e6:.1f} MB; {latency:.3g} ms for an example")
    return {"file": INT8, **asdict(found), "scores": scores, "bytes": size, "latency_ms": latency}


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silence what the exporters log about optional packages and advise, and warnings about names of axes."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", None)]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
