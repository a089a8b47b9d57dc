"""format=onnx: the scores of a run as a graph for onnxruntime, with the axes of batch and sequence dynamic."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoConfig

from peftkit import training
from peftkit.config import UserError, error_summary, kind_of, refusal
from peftkit.config.errors import ExportError
from peftkit.config.families import base_type
from peftkit.methods import is_mergeable, merge_adapter
from peftkit.models.heads import config_arguments
from peftkit.models.pooling import columns_of
from peftkit.pipeline.comparison import TOLERANCE
from peftkit.pipeline.evaluate import output_reader
from peftkit.pipeline.exports.base import Exported, ExportSource, reading
from peftkit.pipeline.exports.onnx_card import write_card
from peftkit.pipeline.exports.onnx_session import (
    MODEL,
    OnnxModel,
    graph_reader,
    probability_difference,
    quiet_exporter,
    shape_difference,
    write_int8,
)
from peftkit.training.outputs import LABEL_INPUTS, label_logits

SHAPES, PADDING = 16, 7  # examples that are computed alone and in one batch, with this many more tokens of padding
MAX_BYTES = 2**31 - 2**24  # of one file: protobuf's limit, from which weights are in a file of their own


def write_onnx(source: ExportSource, folder: Path) -> Exported:
    """Write the model of a run, merged where its method can be, with its tokenizer, labels and a card.

    Raises:
        UserError: torch cannot trace the model.
        ExportError: the scores of an example depend on the shape of its batch, or its probabilities differ from these.
    """
    bundle = source.bundle
    is_merged = is_mergeable(bundle.model)
    model: Any = (merge_adapter(bundle.model) if is_merged else bundle.model).float().cpu().eval()
    batches = _batches(source)
    write_graph(ScoreGraph(source, model), batches[0], folder / MODEL)
    bundle.tokenizer.save_pretrained(str(folder))
    config = AutoConfig.for_model(base_type(model.config.model_type), **config_arguments(model.config))
    if (labels := label_texts(source)) is not None:
        config.id2label, config.label2id = dict(enumerate(labels)), {name: each for each, name in enumerate(labels)}
    config.save_pretrained(str(folder))
    with reading():
        session = OnnxModel(folder / MODEL, model.config)
        difference = shape_difference(session, batches)
        of_logits = probability_difference(source, vars(session(**batches[0])))
    if not difference <= TOLERANCE["fp32"]:
        raise ExportError(f"scores of the graph differ by {difference:.2g} with the size and the padding of a batch")
    if not of_logits <= TOLERANCE["fp32"]:
        raise ExportError(f"probabilities of the graph differ by {of_logits:.2g} from those of its logits")
    write_card(source, folder, session.input_names)
    details = {"merged": is_merged, "inputs": session.input_names, "outputs": session.output_names}
    written = Exported(session, details | {"shape_difference": difference}, reader=graph_reader(source))
    if source.settings.int8:
        written.details["int8"] = write_int8(source, folder, written)
    return written


class ScoreGraph(nn.Module):
    """The scores of a run's model as a function of token ids and masks (batch, sequence).

    Outputs, by the format of the run: logits (batch, labels) or (batch, sequence, labels), of a text-to-text model the
    log-likelihoods of its labels; probabilities (batch, labels), at the temperature of a calibrated run; start_logits
    and end_logits (batch, sequence); or embeddings (batch, dim).
    """

    def __init__(self, source: ExportSource, model: nn.Module) -> None:
        super().__init__()
        self.model, self.kind = model, kind_of(source.config.task)
        self.reader, self.temperature = output_reader(replace(source.bundle, model=model)), source.run.temperature
        ids = source.bundle.format.verbalizer_ids
        self.label_ids = None if ids is None else torch.as_tensor(ids)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        return tuple(self.outputs(inputs).values())

    def outputs(self, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Return the outputs by name."""
        if not isinstance(self.reader, training.OutputReader):
            return {"embeddings": self.reader.of(self.model, inputs)}
        if self.reader.kind == "spans":
            start, end = self.reader(self.model, dict(inputs)).unbind(dim=-1)
            return {"start_logits": start, "end_logits": end}
        logits = (
            self._label_likelihoods(inputs) if self.label_ids is not None else self.reader(self.model, dict(inputs))
        )
        if not self.kind.has_label_probabilities:
            return {"logits": logits}
        scaled = logits / self.temperature
        return {"logits": logits, "probabilities": scaled.sigmoid() if self.kind.several_labels else scaled.softmax(-1)}

    def _label_likelihoods(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return what `training.label_likelihoods` does, without its choice of positions, which cannot be traced."""
        assert self.label_ids is not None
        logits, targets = label_logits(self.model, inputs["input_ids"], inputs["attention_mask"], self.label_ids)
        likelihoods = logits.log_softmax(dim=-1).gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        return likelihoods.masked_fill(targets < 0, 0.0).sum(dim=-1).view(-1, len(self.label_ids))


def write_graph(graph: ScoreGraph, batch: Mapping[str, torch.Tensor], file: Path) -> None:
    """Trace a model on a batch of two inputs or more, and write it.

    Raises:
        UserError: torch cannot trace it, or only for batches of this size.
    """
    axes = {name: {0: "batch", 1: "sequence"} for name in batch}
    size = sum(weight.nbytes for weight in graph.parameters())
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), quiet_exporter():
            settings = {"dynamic_shapes": axes, "output_names": list(graph.outputs(batch)), "verbose": False}
            program: Any = torch.onnx.export(graph, (), kwargs=dict(batch), dynamo=True, **settings)
            program.save(str(file), external_data=size > MAX_BYTES)
    except Exception as error:  # of any stage of torch's exporter
        wrong = f"torch.onnx cannot trace {type(graph.model).__name__} ({error_summary(error)})"
        raise UserError(refusal(wrong, "format=transformers")) from error


def _batches(source: ExportSource) -> list[dict[str, torch.Tensor]]:
    """Return inputs as tensors: a batch of several examples, padded further, then each alone, unpadded."""
    task_format = source.bundle.format
    inputs = [source.encoded.inputs[row] for row in range(min(SHAPES, len(source.encoded.inputs)))]
    if len(inputs) == 1:
        inputs *= 2  # of a batch of one, the size would be fixed
    batch = columns_of(task_format.collator()(inputs))[0]
    batch = {name: values for name, values in batch.items() if name not in LABEL_INPUTS}
    alone = [
        {name: values[row : row + 1, mask] for name, values in batch.items()}
        for row, mask in enumerate(batch["attention_mask"].bool())
    ]
    more = max(0, min(PADDING, task_format.context_length - batch["input_ids"].shape[1]))
    padding = {"input_ids": task_format.tokenizer.pad_token_id}
    return [
        {name: nn.functional.pad(each, (0, more), value=padding.get(name, 0)) for name, each in batch.items()},
        *alone,
    ]


def label_texts(source: ExportSource) -> list[str] | None:
    """Return the label, or number as text, of each score; None where scores are numbers or embeddings."""
    task_format = source.bundle.format
    if task_format.names is None and task_format.verbalizer_ids is not None:
        return [str(value) for value in task_format.values]  # type: ignore[attr-defined]
    return task_format.names
