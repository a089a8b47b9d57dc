"""Language modeling: training blocks, and bits per byte of passages."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, List, Value

from peftkit.config import UserError
from peftkit.data.collate import seq2seq_collator, stack_blocks
from peftkit.data.formats.base import Encoded, Format, Predictions
from peftkit.data.masking import mask_tokens, single_tokens, whole_words, word_starts
from peftkit.data.offline_corpus import TokenPair, random_spans_mask, span_corrupt
from peftkit.data.passages import CorpusReader

WORD = re.compile(r"\S+")
MEAN_WORDS_PER_SPAN = 2.0  # about three tokens
PACKING_BATCH = 256  # documents that share blocks


class NoisedBlocks(torch.utils.data.Dataset):
    """Blocks with new noise in each epoch, a function of (seed, epoch, block), so that a resumed run reads the same."""

    def __init__(
        self, blocks: Dataset, add_noise: Callable[[Any, np.random.Generator], dict[str, Any]], seed: int
    ) -> None:
        self.blocks, self.add_noise, self.seed, self.epoch = blocks, add_noise, seed, 0

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, number: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, self.epoch, int(number)])
        return self.add_noise(self.blocks[int(number)], rng)


@dataclass(frozen=True)
class LanguageModelingFormat(Format):
    """Continued pretraining with the model's own objective.

    BERT predicts masked tokens (Devlin et al. 2019, section 3.1), GPT-2 the next token, T5 corrupted spans (Raffel et
    al. 2020, section 3.1.4). Blocks have at most `task.max_length` tokens of one document, unless `task.packing` or
    `task.join_documents` is set.

    The metric is bits per byte, which is comparable across vocabularies: the predicted words depend on the text and not
    on the tokenizer, and only their bytes count. BERT predicts all tokens of a word at once, with their number given; a
    token of several words is masked where one of them is. An unknown token costs eight bits per byte of its text.
    """

    reader = CorpusReader

    @property
    def output_kind(self) -> str:
        return "masked" if self.architecture == "encoder" else "likelihoods"

    def encode_training(self, examples: Dataset, seed: int) -> Encoded:
        """Tokenize documents and cut them into blocks on disk; the last block of a document is shorter."""
        self._check()
        columns = ("input_ids", *(["position_ids"] if self.task.packing else []))
        kinds = Features({**{name: List(Value("int32")) for name in columns}, "length": Value("int32")})
        blocks = examples.map(
            self._cut, batched=True, batch_size=PACKING_BATCH, remove_columns=examples.column_names, features=kinds,
            load_from_cache_file=False,
        )  # fmt: skip
        if not len(blocks):
            raise UserError("the text has no block of two tokens to train on; use more text")
        lengths = blocks.data.column("length").to_numpy()  # four bytes per block, without Python's integers
        noised: Any = NoisedBlocks(blocks, self._noised, seed)  # a torch dataset; other formats use datasets
        return Encoded(noised, lengths, 0, None, np.ones(len(examples), dtype=bool))

    def encode(self, examples: Dataset) -> Encoded:
        """Mask words of each passage, the same for every tokenizer; `labels` are their bytes (passages,).

        `positions` are the mask of scored tokens, and the bytes of unknown tokens.
        """
        self._check()
        room = self._room()
        out = self.tokenizer(
            list(examples["text"]), add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )  # fmt: skip
        columns: dict[str, list] = {"input_ids": [], "attention_mask": [], "labels": []}
        sizes, unknown_bytes, cut = [], [], 0
        for text, whole, offsets in zip(examples["text"], out["input_ids"], out["offset_mapping"], strict=True):
            ids, spans = whole[:room], offsets[:room]
            cut += len(whole) > room
            (inputs, targets), size = self._masked(text, ids, spans)
            for column, values in zip(columns, (inputs, [1] * len(inputs), targets), strict=True):
                columns[column].append(values)
            sizes.append(size)
            unknown_bytes.append(self._unknown_bytes(text, ids, spans))
        positions = [
            (np.array([token >= 0 and token != self.tokenizer.unk_token_id for token in targets]), unknown)
            for targets, unknown in zip(columns["labels"], unknown_bytes, strict=True)
        ]
        lengths = [len(ids) for ids in columns["input_ids"]]
        has_label = np.array(sizes) > 0
        return Encoded(Dataset.from_dict(columns), lengths, cut, np.array(sizes), has_label, None, positions)

    def collator(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        pad = seq2seq_collator(self.tokenizer)
        return lambda examples: stack_blocks(examples) if "position_ids" in examples[0] else pad(examples)

    def unpad(self, scores: np.ndarray, encoded: Encoded) -> list[np.ndarray]:
        """Return the log-likelihoods (tokens,) of the scored tokens, and last that of the unknown bytes."""
        return [
            np.append(row[: len(seen)][seen], -unknown * np.log(256))
            for row, (seen, unknown) in zip(scores, encoded.positions, strict=True)
        ]

    def decode(self, scores: list[np.ndarray], encoded: Encoded, texts: list[str] | None = None) -> Predictions:
        """Return the bits per byte of each passage; the scores are nats and bytes."""
        nats, sizes = np.array([-float(row.sum()) for row in scores]), np.asarray(encoded.labels)
        summary = [np.array(pair) for pair in zip(nats, sizes, strict=True)]
        return Predictions(nats / np.log(2) / np.maximum(sizes, 1), summary, (nats, sizes))

    def label_counts(self, encoded: Encoded) -> dict[str, Any]:
        if encoded.labels is None:
            return {"blocks": len(encoded.lengths), "tokens": encoded.tokens}
        return {"tokens": int(sum(seen.sum() for seen, _ in encoded.positions)), "bytes": int(encoded.labels.sum())}

    def _check(self) -> None:
        if self.architecture == "encoder" and self.tokenizer.mask_token_id is None:
            raise UserError("the tokenizer has no mask token, so no word can be masked; use model=gpt2 or model=t5")
        if self.architecture == "seq2seq" and not self._sentinels:
            raise UserError("the tokenizer has no sentinels (<extra_id_0>), which replace spans; use model=t5")
        if self.architecture != "seq2seq" and self.task.max_length > self.tokenizer.model_max_length:
            longest = self.tokenizer.model_max_length
            raise UserError(f"the model reads {longest} tokens; set task.max_length={longest}")
        spans = self.task.max_length * (self.task.noise_density or 0) / (self.task.mean_noise_span_length or 1)
        if self.architecture == "seq2seq" and round(spans) > len(self._sentinels):
            raise UserError(
                f"a block of {self.task.max_length} tokens would have {spans:.0f} spans, and there are "
                f"{len(self._sentinels)} sentinels; set task.max_length=128"
            )

    def _room(self) -> int:
        """Return the maximum number of text tokens beside the special tokens."""
        return min(self.tokenizer.model_max_length, 1 << 20) - 2

    @cached_property
    def _sentinels(self) -> list[int]:
        known = self.tokenizer.get_vocab()
        return [known[f"<extra_id_{number}>"] for number in range(100) if f"<extra_id_{number}>" in known]

    @cached_property
    def _special(self) -> set[int]:
        return set(self.tokenizer.all_special_ids)

    @cached_property
    def _known(self) -> np.ndarray:
        """The ids that replace swapped tokens: all but special tokens, which Devlin et al. include."""
        return np.array(sorted(set(self.tokenizer.get_vocab().values()) - self._special))

    @cached_property
    def _starts(self) -> np.ndarray:
        return word_starts(self.tokenizer)

    @property
    def _start(self) -> int:
        """The token before the text of a decoder: end of text for GPT-2, beginning of text for Llama."""
        first = self.tokenizer.bos_token_id
        return self.tokenizer.eos_token_id if first is None else first

    def _frame(self, ids: list[int]) -> list[int]:
        """Return a block with the special tokens that the model was pretrained with."""
        if self.architecture == "encoder":
            return [self.tokenizer.cls_token_id, *ids, self.tokenizer.sep_token_id]
        return ids

    def _cut(self, rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Return the blocks of documents; with `packing`, position ids that restart with each document."""
        documents = self.tokenizer(rows["text"], add_special_tokens=False, verbose=False)["input_ids"]
        block = self.task.max_length - (2 if self.architecture == "encoder" else 0)
        if self.task.packing:
            return self._packed(documents, block)
        parts = [part for part in self._parts(documents, block) if len(part) > 1]
        if self.architecture == "encoder":  # blocks of unknown tokens only have nothing to predict
            parts = [part for part in parts if not self._special.issuperset(part)]
        return {"input_ids": parts, "length": [len(part) for part in parts]}

    def _parts(self, documents: list[list[int]], block: int) -> Iterator[list[int]]:
        end = self.tokenizer.sep_token_id if self.architecture == "encoder" else self.tokenizer.eos_token_id
        # GPT-2 predicts the first token of a document too, after an end-of-text token
        streams = [[self._start, *ids, end] for ids in documents] if self.architecture == "decoder" else documents
        if self.task.join_documents:
            joined = [token for ids in documents for token in (*ids, end)]
            streams = [[self._start, *joined] if self.architecture == "decoder" else joined]
        for stream in streams:
            yield from (stream[start : start + block] for start in range(0, len(stream), block))

    def _packed(self, documents: list[list[int]], block: int) -> dict[str, list[Any]]:
        """Return blocks of whole parts of documents; the rest of a block is padding without labels."""
        end = self.tokenizer.eos_token_id
        ids: list[list[int]] = []
        positions: list[list[int]] = []
        for part in (part for part in self._parts(documents, block) if len(part) > 1):
            if not ids or len(ids[-1]) + len(part) > block:
                ids.append([])
                positions.append([])
            ids[-1] += part
            positions[-1] += range(len(part))
        lengths = [len(row) for row in ids]
        return {
            "input_ids": [row + [end] * (block - len(row)) for row in ids],
            "position_ids": [starts + [0] * (block - len(starts)) for starts in positions],
            "length": lengths,
        }

    def _noised(self, block: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        ids = list(block["input_ids"])
        if "position_ids" in block:
            positions = list(block["position_ids"])
            # the first token of a document has no context
            targets = [token if position else -100 for token, position in zip(ids, positions, strict=True)]
            return {"input_ids": ids, "position_ids": positions, "labels": targets}
        inputs, targets = self._pair(ids, rng)
        return {"input_ids": inputs, "attention_mask": [1] * len(inputs), "labels": targets}

    def _pair(self, ids: list[int], rng: np.random.Generator) -> TokenPair:
        share = self.task.noise_density or 0.0
        if self.architecture == "decoder":
            return ids, ids
        if self.architecture == "seq2seq":
            return span_corrupt(
                ids, self._sentinels, rng, share, self.task.mean_noise_span_length or 1, eos=self.tokenizer.eos_token_id
            )
        framed = self._frame(ids)
        if self.task.whole_words:
            groups = whole_words(framed, self._starts, self._special)
        else:
            groups = single_tokens(framed, self._special)
        return mask_tokens(framed, rng, share, self.tokenizer.mask_token_id, self._known, groups)

    def _masked(self, text: str, ids: list[int], spans: list[tuple[int, int]]) -> tuple[TokenPair, int]:
        """Return the inputs and targets of a passage, and the bytes of the targets."""
        if self.architecture == "decoder":
            read = text[: spans[-1][1]] if spans else ""
            return ([self._start, *ids], [-100, *ids]), len(read.encode())
        chosen = self._chosen(text)
        hidden = [bool(chosen[start:end].any()) for start, end in spans]
        # words after the truncation are not predicted
        size = sum(len(text[at].encode()) for at in np.flatnonzero(chosen[: spans[-1][1]])) if spans else 0
        if self.architecture == "encoder":
            masked = [self.tokenizer.mask_token_id if mask else token for token, mask in zip(ids, hidden, strict=True)]
            targets = [token if mask else -100 for token, mask in zip(ids, hidden, strict=True)]
            return (self._frame(masked), [-100, *targets, -100]), size
        inputs: list[int] = []
        targets = []
        sentinels = iter(self._sentinels)
        for (before, is_hidden), token in zip(pairwise([False, *hidden]), ids, strict=True):
            if is_hidden and not before:
                if (sentinel := next(sentinels, None)) is None:
                    raise UserError(
                        "a passage has more spans than the tokenizer has sentinels; set task.max_length=128"
                    )
                inputs.append(sentinel)
                targets.append(sentinel)
            (targets if is_hidden else inputs).append(token)
        end = self.tokenizer.eos_token_id
        return ([*inputs, end], [*targets, end]), size

    def _chosen(self, text: str) -> np.ndarray:
        """Return whether the word of each character (characters + 1,) is predicted, a function of the text only."""
        words = [match.span() for match in WORD.finditer(text)]
        rng, share = np.random.default_rng(zlib.crc32(text.encode())), self.task.noise_density or 0.0
        if len(words) < 2:
            chosen = np.arange(len(words))
        elif self.architecture == "encoder":
            chosen = rng.choice(len(words), size=max(1, round(share * len(words))), replace=False)
        else:
            chosen = np.flatnonzero(random_spans_mask(len(words), rng, share, MEAN_WORDS_PER_SPAN))
        mask: np.ndarray = np.zeros(len(text) + 1, dtype=bool)
        for number in chosen:
            mask[slice(*words[number])] = True
        return mask

    def _unknown_bytes(self, text: str, ids: list[int], spans: list[tuple[int, int]]) -> int:
        """Return the bytes of predicted text that the tokenizer encodes as unknown tokens."""
        if self.tokenizer.unk_token_id not in ids or self.architecture == "decoder":
            return 0
        chosen = self._chosen(text)
        characters = [
            index
            for token, (start, end) in zip(ids, spans, strict=True)
            if token == self.tokenizer.unk_token_id
            for index in range(start, end)
        ]
        return sum(len(text[index].encode()) for index in characters if chosen[index])
