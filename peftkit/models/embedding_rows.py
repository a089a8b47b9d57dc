"""Embedding rows of new tokens: their initialization, the file that holds them, and a model with them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from peftkit.compat.transformers import keep_untied
from peftkit.config import Refusal, UserError, error_summary
from peftkit.config.json_files import read_json, safetensors_error
from peftkit.models.vocabulary import NewToken

RECORD_FILE, ROWS_FILE = "vocabulary.json", "rows.safetensors"
MADE_AGAIN = "make the folder again with job=extend"
MADE_FOR_THIS = "make one for this model with job=extend, or drop vocab"


@dataclass(frozen=True)
class Vocabulary:
    """Which embedding rows are new: `count` from `first` on, of `rows` in total.

    The checkpoint has the first `base_rows`; rows after the new ones are padding to a multiple.
    """

    first: int
    count: int
    rows: int
    base_rows: int
    base: str  # the checkpoint that is extended
    revision: str | None

    @property
    def ids(self) -> list[int]:
        return list(range(self.first, self.first + self.count))


@torch.no_grad()
def initial_rows(
    model: PreTrainedModel, tokens: Sequence[NewToken], known: int, rule: str, seed: int
) -> dict[str, torch.Tensor]:
    """Return the initial rows (tokens, dim) of the new tokens, on the CPU in fp32.

    They belong to the input embeddings, and to an output layer that is not tied to them. Rules: `pieces`, the mean of
    the rows of a token's old pieces; `mean`, that of all `known` tokens' rows; `normal`, a sample of the normal
    distribution fitted to those (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models");
    `random`, a normal sample around zero with the standard deviation of the model's config. A token without any known
    piece gets the mean of all. `rest.input` and the like are that mean (1, dim), for padding rows: with zeros their
    logit would be 0, the highest of a model whose logits are all negative.
    """
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, table in vocabulary_tensors(model).items():
        old = table[:known].detach().float().cpu().reshape(known, -1)
        chosen = "mean" if name == "bias" and rule != "pieces" else rule
        std = float(getattr(model.config, "initializer_range", None) or old.std())
        found[name] = _rows(old, tokens, chosen, std, generator).reshape(-1, *table.shape[1:])
        found[f"rest.{name}"] = old.mean(dim=0).reshape(1, *table.shape[1:])
    return found


def vocabulary_tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the tensors with a row per token: `input`; of an output layer `output`, unless tied, and `bias`.

    Raises:
        UserError: the embeddings of an encoder and a decoder differ, as after merging an adapter on one of them.
    """
    found: dict[str, Any] = {"input": model.get_input_embeddings().weight}
    for target, source in model.get_expanded_tied_weights_keys(all_submodels=True).items():
        other = model.get_submodule(target.rpartition(".")[0])
        if isinstance(other, nn.Embedding) and not torch.equal(other.weight, model.get_parameter(source)):
            wrong = f"{target} differs from {source}, so that tokens cannot be added"
            raise UserError(Refusal(f"{wrong}; use another checkpoint, or drop vocab", "~vocab"))
    output: Any = model.get_output_embeddings()
    if output is not None and not is_tied(model):
        found["output"] = output.weight
    if getattr(output, "bias", None) is not None:
        found["bias"] = output.bias
    return found


def is_tied(model: PreTrainedModel) -> bool:
    """Return whether the output layer shares the weights of the input embeddings."""
    output: Any = model.get_output_embeddings()
    return output is not None and output.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


def save_rows(folder: Path, vocabulary: Vocabulary, weights: dict[str, torch.Tensor]) -> None:
    """Write the rows and their record into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / ROWS_FILE)
    (folder / RECORD_FILE).write_text(json.dumps(vocabulary.__dict__, indent=1) + "\n", encoding="utf-8")


def read_vocabulary(folder: Path) -> Vocabulary:
    """Return the record of the rows in a folder.

    Raises:
        UserError: there is none.
    """
    file = folder / RECORD_FILE
    if not file.is_file():
        raise UserError(f"{folder} has no {RECORD_FILE}; use a folder that job=extend wrote")
    try:
        return Vocabulary(**read_json(file, MADE_AGAIN))
    except TypeError as error:
        raise UserError(f"{file}: {error_summary(error)}; {MADE_AGAIN}") from error


@torch.no_grad()
def add_new_rows(model: PreTrainedModel, folder: Path) -> list[int]:
    """Add the rows of a folder to a model, newly loaded from the base; return the new tokens' ids.

    Old rows stay bitwise identical. The same folder always gives the same model: no row is sampled.
    """
    vocabulary, weights = read_vocabulary(folder), _read_rows(folder)
    old = model.get_input_embeddings().weight.shape[0]
    if old > vocabulary.first:
        wrong = (
            f"vocab={folder} has rows from {vocabulary.first} on, but the model has {old} rows, so they belong to "
            "another model"
        )
        raise UserError(Refusal(f"{wrong}; {MADE_FOR_THIS}", "~vocab"))
    output = model.get_output_embeddings()
    if output is not None and not is_tied(model):
        # T5 v1.1's is declared tied by its class in transformers 5: resizing would tie it, and PEFT train it as tied
        keep_untied(model, output)
    model.resize_token_embeddings(vocabulary.rows, mean_resizing=False)
    for name, table in vocabulary_tensors(model).items():
        table[old:] = weights[f"rest.{name}"].to(table) if f"rest.{name}" in weights else table[:old].mean(dim=0)
        if name in weights:
            table[vocabulary.first : vocabulary.first + vocabulary.count] = weights[name].to(table)
    return vocabulary.ids


def padding_rows(folder: Path) -> dict[str, torch.Tensor]:
    """Return what an artifact needs in addition to the trained rows: padding rows, and those of a bias."""
    return {name: rows for name, rows in _read_rows(folder).items() if name.startswith("rest.") or name == "bias"}


def _read_rows(folder: Path) -> dict[str, torch.Tensor]:
    if (reason := safetensors_error(folder / ROWS_FILE)) is not None:
        raise UserError(f"{folder / ROWS_FILE} cannot be read: {reason}; {MADE_AGAIN}")
    return load_file(folder / ROWS_FILE)


def _rows(
    old: torch.Tensor, tokens: Sequence[NewToken], rule: str, std: float, generator: torch.Generator
) -> torch.Tensor:
    mean = old.mean(dim=0)
    if rule in ("pieces", "mean"):
        known = [token.pieces if rule == "pieces" else [] for token in tokens]
        return torch.stack([old[pieces].mean(dim=0) if pieces else mean for pieces in known])
    noise = torch.randn(len(tokens), old.shape[1], generator=generator)
    if rule == "random":
        return std * noise
    # with the factors U S V of the centered rows, V S N / sqrt(n) has their covariance
    _, singular, directions = torch.linalg.svd(old - mean, full_matrices=False)
    return mean + (noise[:, : len(singular)] * singular / len(old) ** 0.5) @ directions
