"""Language modeling: training blocks, and bits per byte of passages."""

import re
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value

from peftkit.config import UserError, refusal
from peftkit.config.progress import advance
from peftkit.data.batches import BlockCollator, CorruptedBlocks, pack_in_order
from peftkit.data.formats.base import Encoded, Format, Predictions
from peftkit.data.offline_corpus import (
    TokenPair,
    mask_tokens,
    random_spans_mask,
    replace_spans,
    span_corrupt,
    token_groups,
    word_starts,
)
from peftkit.data.passages import CorpusReader

WORD = re.compile(r"\S+")
MEAN_WORDS_PER_SPAN = 2.0  # about three tokens
PACKING_BATCH = 256  # documents that share blocks


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
    collator_class = BlockCollator
    training_has_noise = True

    @property
    def output_kind(self) -> str:
        return "masked" if self.architecture == "encoder" else "likelihoods"

    def encode_training(self, examples: Dataset, seed: int) -> Encoded:
        """Tokenize documents and cut them into blocks on disk; the last block of a document is shorter."""
        self._check()
        columns = ["input_ids", "position_ids"] if self.task.packing else ["input_ids"]
        features = Features({**dict.fromkeys(columns, List(Value("int32"))), "length": Value("int32")})
        blocks = examples.map(
            self._cut_blocks, batched=True, batch_size=PACKING_BATCH, remove_columns=examples.column_names,
            features=features, load_from_cache_file=False,
        )  # fmt: skip
        if not len(blocks):
            raise UserError("the text has no block of two tokens to train on; use more text")
        lengths = blocks.data.column("length").to_numpy()  # four bytes per block, without Python's integers
        corrupted: Any = CorruptedBlocks(blocks, self._corrupted, seed)  # a torch dataset; other formats use datasets
        return Encoded(corrupted, lengths, 0, None, np.ones(len(examples), dtype=bool))

    def encode(self, examples: Dataset) -> Encoded:
        """Mask words of each passage, the same for every tokenizer; `labels` are their bytes (passages,).

        `positions` are the mask of scored tokens, and the bytes of unknown tokens.
        """
        self._check()
        out = self.tokenizer(
            list(examples["text"]), add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )  # fmt: skip
        limit = min(self.tokenizer.model_max_length, 1 << 20) - 2  # less the special tokens
        passages = [
            self._masked(text, ids[:limit], spans[:limit])
            for text, ids, spans in zip(examples["text"], out["input_ids"], out["offset_mapping"], strict=True)
        ]
        sizes = np.array([size for _, _, size, _ in passages])
        table = {
            "input_ids": [inputs for inputs, *_ in passages],
            "attention_mask": [[1] * len(inputs) for inputs, *_ in passages],
            "labels": [targets for _, targets, *_ in passages],
        }
        positions = [
            (np.array([token not in (-100, self.tokenizer.unk_token_id) for token in targets]), unknown)
            for _, targets, _, unknown in passages
        ]
        return Encoded(
            Dataset.from_dict(table),
            [len(inputs) for inputs, *_ in passages],
            sum(len(ids) > limit for ids in out["input_ids"]),
            sizes,
            sizes > 0,
            positions=positions,
        )

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
        task, longest = self.task, self.tokenizer.model_max_length
        is_seq2seq, sentinels = self.architecture == "seq2seq", len(self._sentinels)
        spans = task.max_length * (task.noise_density or 0) / (task.mean_noise_span_length or 1)
        for is_wrong, message in (
            (
                self.architecture == "encoder" and self.tokenizer.mask_token_id is None,
                "the tokenizer has no mask token, so words cannot be masked; use model=gpt2 or model=t5",
            ),
            (
                self.architecture == "encoder" and None in (self.tokenizer.cls_token_id, self.tokenizer.sep_token_id),
                "the tokenizer has no [CLS] and [SEP] around a text; use model=gpt2 or model=t5",
            ),
            (
                is_seq2seq and not sentinels,
                "the tokenizer has no sentinels (<extra_id_0>), which replace spans; use model=t5",
            ),
            (
                not is_seq2seq and task.max_length > longest,
                f"the model reads {longest} tokens; set task.max_length={longest}",
            ),
            (
                is_seq2seq and round(spans) > sentinels,
                f"a block of {task.max_length} tokens would have {spans:.0f} spans, and there are {sentinels} "
                "sentinels; set task.max_length=128",
            ),
        ):
            if is_wrong:
                raise UserError(message)

    @cached_property
    def _sentinels(self) -> list[int]:
        known = self.tokenizer.get_vocab()
        return [known[f"<extra_id_{number}>"] for number in range(100) if f"<extra_id_{number}>" in known]

    @cached_property
    def _special_ids(self) -> set[int]:
        return set(self.tokenizer.all_special_ids)

    @cached_property
    def _replacements(self) -> np.ndarray:
        """The ids that replace selected tokens: all but special tokens, which Devlin et al. include."""
        return np.array(sorted(set(self.tokenizer.get_vocab().values()) - self._special_ids))

    @cached_property
    def _word_starts(self) -> np.ndarray | None:
        return word_starts(self.tokenizer) if self.task.whole_words else None

    @property
    def _start_id(self) -> int:
        """The token before the text of a decoder: end of text for GPT-2, beginning of text for Llama."""
        first = self.tokenizer.bos_token_id
        return self.end_id if first is None else first

    def _cut_blocks(self, rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Return the blocks of documents; with `packing`, position ids that restart with each document."""
        advance(len(rows["text"]))
        streams = self.tokenizer(rows["text"], add_special_tokens=False, verbose=False)["input_ids"]
        is_encoder, is_decoder = self.architecture == "encoder", self.is_decoder
        block = self.task.max_length - (2 if is_encoder else 0)
        end = self.tokenizer.sep_token_id if is_encoder else self.end_id
        if is_decoder or self.task.join_documents:
            streams = [[*ids, end] for ids in streams]
        if self.task.join_documents:
            streams = [[token for ids in streams for token in ids]]
        if is_decoder:  # GPT-2 predicts the first token of a document too, after an end-of-text token
            streams = [[self._start_id, *ids] for ids in streams]
        parts = [ids[start : start + block] for ids in streams for start in range(0, len(ids), block)]
        parts = [part for part in parts if len(part) > 1]
        if self.task.packing:
            return pack_in_order(parts, block, end)
        if is_encoder:  # blocks of unknown tokens only have nothing to predict
            parts = [part for part in parts if not self._special_ids.issuperset(part)]
        return {"input_ids": parts, "length": [len(part) for part in parts]}

    def _corrupted(self, block: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        ids, positions = block["input_ids"], block.get("position_ids")
        if positions is not None:  # the first token of a document has no context
            targets = [token if position else -100 for token, position in zip(ids, positions, strict=True)]
            return {"input_ids": ids, "position_ids": positions, "labels": targets}
        inputs, targets = self._pair(ids, rng)
        return {"input_ids": inputs, "attention_mask": [1] * len(inputs), "labels": targets}

    def _pair(self, ids: list[int], rng: np.random.Generator) -> TokenPair:
        share = self.task.noise_density or 0.0
        if self.is_decoder:
            return ids, ids
        if self.architecture == "seq2seq":
            return span_corrupt(
                ids, self._sentinels, rng, share, self.task.mean_noise_span_length or 1, eos=self.end_id
            )
        inputs = [self.tokenizer.cls_token_id, *ids, self.tokenizer.sep_token_id]
        groups = token_groups(inputs, self._special_ids, self._word_starts)
        return mask_tokens(inputs, rng, share, self.tokenizer.mask_token_id, self._replacements, groups)

    def _masked(self, text: str, ids: list[int], spans: list[tuple[int, int]]) -> tuple[list[int], list[int], int, int]:
        """Return the inputs and targets of a passage, the bytes of the targets, and of those the unknown bytes."""
        read = text[: spans[-1][1]] if spans else ""  # words after the truncation are not predicted
        if self.is_decoder:
            return [self._start_id, *ids], [-100, *ids], len(read.encode()), 0
        chosen = self._chosen(text)
        size = sum(len(character.encode()) for character, is_chosen in zip(read, chosen, strict=False) if is_chosen)
        unknown = sum(
            len(text[index].encode())
            for token, (start, end) in zip(ids, spans, strict=True)
            if token == self.tokenizer.unk_token_id
            for index in range(start, end)
            if chosen[index]
        )
        hidden = [bool(chosen[start:end].any()) for start, end in spans]
        if self.architecture == "encoder":
            masked = [self.tokenizer.mask_token_id if mask else token for token, mask in zip(ids, hidden, strict=True)]
            targets = [token if mask else -100 for token, mask in zip(ids, hidden, strict=True)]
            inputs = [self.tokenizer.cls_token_id, *masked, self.tokenizer.sep_token_id]
            return inputs, [-100, *targets, -100], size, unknown
        try:
            pair = replace_spans(ids, np.array(hidden, dtype=bool), self._sentinels, self.end_id)
        except ValueError as error:
            wrong = "a passage has more spans than the tokenizer has sentinels"
            raise UserError(refusal(wrong, "task.max_length=128", verb="set")) from error
        return *pair, size, unknown

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
