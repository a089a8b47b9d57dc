"""Merged checkpoints: written only if the model, loaded from them, has the scores of the model before merging."""

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn

from peftkit.config import UserError, error_summary, kind_of
from peftkit.config.console import log
from peftkit.data.datasets import load_task_dataset
from peftkit.methods import merge_adapter
from peftkit.models.custom_code import write_code
from peftkit.models.heads import is_above_base
from peftkit.paths import sync
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.comparison import EXAMPLES, TOLERANCE, flat, fp32_scores, max_difference
from peftkit.pipeline.export import describe_artifact, export_sentence_files
from peftkit.results.model_card import model_card
from peftkit.results.run_result import RunResult

INPUTS, TOKENS = 4, 16  # random tokens, where no example can be read


def write_merged(run: RunResult, bundle: TrainingBundle, folder: Path, standalone: bool = False) -> bool:
    """Merge the adapter of a run's model into its base, and write a checkpoint; `bundle` must not be used afterwards.

    Args:
        standalone: it answers in a pipeline of transformers as the run, see `standalone_tokenizer`, `divide_logits`.

    Returns:
        Whether the logits are divided by the temperature of the run.

    Raises:
        UserError: the method's weights cannot be merged, or the checkpoint, loaded again, has other scores.
    """
    examples = _examples(run)

    def score(model: Any) -> np.ndarray:
        if examples is None:
            return random_token_scores(model)
        encoded = bundle.format.encode(examples)
        return flat(bundle, fp32_scores(replace(bundle, model=model), list(encoded.inputs)), encoded)

    def save_rest(part: Path) -> None:
        export_sentence_files(bundle, part)
        tokenizer.save_pretrained(str(part))
        card = model_card(run.record, describe_artifact(part, "merged", ".", None))
        (part / "README.md").write_text(card, encoding="utf-8")

    before, tokenizer, temperature = score(bundle.model), bundle.tokenizer, 1.0
    merged = merge_adapter(bundle.model)
    if standalone:
        tokenizer, temperature = standalone_tokenizer(run, tokenizer), divide_logits(run, merged)
    write_checkpoint(merged, before / temperature, score, folder, save_rest)
    return temperature != 1


def standalone_tokenizer(run: RunResult, tokenizer: Any) -> Any:
    """Return a copy of a run's tokenizer; that of a classifier truncates to `task.max_length`."""
    found = copy.copy(tokenizer)
    if kind_of(run.config.task).has_sequence_head:
        found.model_max_length = min(found.model_max_length, run.config.task.max_length)
    return found


@torch.no_grad()
def divide_logits(run: RunResult, model: Any) -> float:
    """Divide the weights of a classifier's output layer, and with them its logits, by the temperature of its run.

    Returns:
        The divisor: 1 where the run is not calibrated, or the model has no such layer.
    """
    if not kind_of(run.config.task).has_label_probabilities:
        return 1.0
    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and is_above_base(model, name) and module.out_features == model.num_labels
    ]
    for weight in layers[-1].parameters() if layers else ():
        weight.div_(run.temperature)
    return run.temperature if layers else 1.0


def write_checkpoint(
    model: Any, before: np.ndarray, score: Callable[[Any], np.ndarray], folder: Path, save_rest: Callable[[Path], None]
) -> None:
    """Write a model, and the files that `save_rest` adds, as a checkpoint.

    Raises:
        UserError: the model, loaded from it, has other scores than `before`; nothing is written.
    """
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"output={folder} is an adapter, which would be loaded over the merged model; use another folder"
        )
    part = folder.absolute().with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        model.save_pretrained(str(part))
        write_code(model, part)
        save_rest(part)
        difference = max_difference(before, score(type(model).from_pretrained(str(part)).eval()))
        if not difference <= TOLERANCE["fp32"]:  # also NaN
            raise UserError(
                f"the merged model's scores differ by {difference:.2g} from those of the model with its adapter, "
                "so that nothing is written; use the adapter folder"
            )
        _move_files(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    log(f"   the scores of the merged model, loaded again, differ by {difference:.2g} at most")


def _move_files(part: Path, folder: Path) -> None:
    """Move a checkpoint into a folder that may have an earlier one, with weights in other files."""
    for pattern in ("config.json", "model*.safetensors*", "pytorch_model*.bin*"):
        for file in folder.glob(pattern):
            file.unlink()
    # config.json comes last: with it, the folder is a whole checkpoint
    for file in sorted(part.rglob("*"), key=lambda file: (file == part / "config.json", file)):
        if file.is_file():
            sync(file)
            target = folder / file.relative_to(part)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
    sync(folder)


@torch.no_grad()
def random_token_scores(model: Any) -> np.ndarray:
    """Return the outputs of a model for random tokens, flattened; they are the same for each call."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(vocabulary, (INPUTS, TOKENS), generator=torch.Generator().manual_seed(0)).to(model.device)
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids), **more)[0].float().cpu().numpy().ravel()


def _examples(run: RunResult) -> Dataset | None:
    """Return examples of the run's task; None, which is stated, if they cannot be read any more."""
    config = run.config
    source = "offline" if run.record["audit"]["sources"]["data"]["kind"] == "offline" else config.source
    try:
        splits = load_task_dataset(config.task, config.data_root, source).splits
    except (UserError, OSError) as error:
        log(f"!! the examples of the run cannot be read ({error_summary(error)}): random tokens are compared instead")
        return None
    table = splits[config.task.splits["validation"][0]]
    return table.select(range(min(EXAMPLES, len(table))))
