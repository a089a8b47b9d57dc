"""Full training of word embeddings: gradients and optimizer states of those rows only that the examples use.

Most tokens of a vocabulary occur in no example of a task. The gradient of their rows is zero in every step, so that
AdamW multiplies them by 1 - rate x weight decay and nothing else; this is done to all of them at once. The embeddings
are half of MiniLM's weights, and 70 % of those of XLM-R.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch import nn
from transformers import TrainerCallback

from peftkit.training.trainer import ScoringTrainer

OPTIMIZERS = ("adamw_torch", "adamw_torch_fused")  # a zero gradient changes a row by the weight decay only
MAX_SHARE = 0.5  # of the vocabulary that is used; above it, little is saved
ROWS = 100_000  # of a dataset, read at once
ROWS_IN_CACHE = 256  # of embeddings


@contextmanager
def used_rows(trainer: ScoringTrainer) -> Iterator[None]:
    """Train only the used rows of the trainer's word embeddings, where this changes no result.

    Inside of the block, the parameter of the embeddings has the used rows only, shape (rows, hidden size). State dicts
    have all rows. `trainer.added_ids` are the token ids that batches have beside those of the training examples; where
    they are not known (None), all rows are trained.
    """
    embedding = _trained_embedding(trainer)
    ids = None if embedding is None else _used_ids(trainer, embedding)
    if embedding is None or ids is None or len(ids) > MAX_SHARE * embedding.num_embeddings:
        yield
        return
    rows = _Rows(embedding, ids)
    trainer.add_callback(rows)
    try:
        yield
    finally:
        rows.restore()
        trainer.remove_callback(rows)


class _Rows(TrainerCallback):
    """Word embeddings of which some rows are trained."""

    def __init__(self, embedding: nn.Embedding, ids: torch.Tensor) -> None:
        self.embedding, self.all, self.ids = embedding, embedding.weight, ids
        self.decays: list[float] = []  # factors of the steps since all rows were written
        self.is_written = False
        embedding.register_buffer("all_rows", self.all.detach(), persistent=False)
        positions = torch.full((len(self.all),), -1, device=ids.device).index_copy_(
            0, ids, torch.arange(len(ids)).to(ids)
        )
        embedding.register_buffer("positions", positions, persistent=False)
        padding = -1 if embedding.padding_idx is None else int(positions[embedding.padding_idx])
        self.padding = None if padding < 0 else padding
        embedding.weight = nn.Parameter(self.all.detach()[ids])
        embedding.forward = self._forward  # type: ignore[method-assign]
        self.hooks = [
            embedding.register_state_dict_post_hook(partial(self._save)),  # torch sets an attribute of it
            embedding.register_load_state_dict_pre_hook(self._load),
        ]

    def _forward(self, ids: torch.Tensor) -> torch.Tensor:
        if not self.embedding.training:  # texts of the evaluation have other tokens, too
            self._write()
            return nn.functional.embedding(ids, self.all)
        self.is_written = False
        index: Any = self.embedding.positions
        return nn.functional.embedding(index[ids], self.embedding.weight, self.padding)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **settings: Any) -> None:
        """Note the weight decay of the rows that are not used."""
        weight = self.embedding.weight
        for group in settings["optimizer"].param_groups:
            if group["weight_decay"] and weight.grad is not None and any(each is weight for each in group["params"]):
                self.decays.append(1 - group["lr"] * group["weight_decay"])

    @torch.no_grad()
    def _write(self) -> None:
        """Make all rows those of the last step."""
        if not self.is_written:
            for part in self.all.detach().split(ROWS_IN_CACHE):
                for decay in self.decays:  # one by one: rounding must not depend on when checkpoints are written
                    part.mul_(decay)
            self.all[self.ids] = self.embedding.weight
            self.decays, self.is_written = [], True

    def _save(self, module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
        self._write()
        state[f"{prefix}weight"] = self.all.detach()

    @torch.no_grad()
    def _load(self, module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        if (saved := state.get(f"{prefix}weight")) is not None:
            self.all.copy_(saved)
            self.decays, self.is_written = [], False
            state[f"{prefix}weight"] = self.all.detach()[self.ids]

    def restore(self) -> None:
        self._write()
        for hook in self.hooks:
            hook.remove()
        del self.embedding.forward, self.embedding.all_rows, self.embedding.positions
        self.embedding.weight = self.all


def _trained_embedding(trainer: ScoringTrainer) -> nn.Embedding | None:
    """Return the word embeddings that may be trained by rows, None if they may not."""
    model: Any = trainer.model
    arguments, embedding = trainer.args, model.get_input_embeddings()
    if trainer.schedule is not None:  # it freezes and unfreezes the parameters that it was given
        return None
    if type(embedding) is not nn.Embedding or embedding.max_norm or embedding.scale_grad_by_freq or embedding.sparse:
        return None
    weight = embedding.weight
    names = [name for name, each in model.named_parameters(remove_duplicate=False) if each is weight]
    is_plain = weight.requires_grad and len(names) == 1 and not model.config.is_encoder_decoder
    is_simple = arguments.world_size == 1 and not (arguments.fp16 or arguments.torch_compile or arguments.deepspeed)
    return embedding if is_plain and is_simple and arguments.optim in OPTIMIZERS else None


def _used_ids(trainer: ScoringTrainer, embedding: nn.Embedding) -> torch.Tensor | None:
    """Return all token ids that the model is trained on, sorted; None if they are not known."""
    dataset = trainer.train_dataset
    if trainer.added_ids is None or not isinstance(dataset, Dataset):
        return None
    used = np.zeros(embedding.num_embeddings, dtype=bool)
    used[[each for each in trainer.added_ids if each < len(used)]] = True
    names = [name for name in dataset.column_names if name.endswith("input_ids")]
    for part in dataset.select_columns(names).with_format("arrow").iter(ROWS):
        for column in part.columns:
            while pa.types.is_nested(column.type):
                column = column.combine_chunks().flatten()
            used[column.to_numpy()] = True
    return torch.from_numpy(np.flatnonzero(used)).to(embedding.weight.device)
