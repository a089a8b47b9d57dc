"""The offline pretraining corpus, and causal, span-corrupted and masked blocks."""

import hashlib
import math
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from peftkit.data import miniglue

TokenPair = tuple[list[int], list[int]]  # input tokens, target tokens

GENERATED_DOCUMENTS = 24_000  # with the manual, about as many tokens as two CPU cores train on in 90 seconds
HELD_OUT_DOCUMENTS = 600
HELD_OUT_TOPICS = 10  # one topic in ten of the Python manual
MASKED_SHARE, REPLACED_SHARE = 0.8, 0.1  # shares of the selected tokens; the rest stay unchanged


@lru_cache(maxsize=1)
def offline_documents(seed: int = 0) -> tuple[list[str], list[str]]:
    """Return disjoint training and held-out documents: generated ones and the Python manual.

    Half of the generated documents are in lower case, like the text of some tasks (SST-2).
    """
    rng = random.Random(seed)
    generated = [
        document.lower() if rng.random() < 0.5 else document
        for document in dict.fromkeys(miniglue.sentences(GENERATED_DOCUMENTS + HELD_OUT_DOCUMENTS, seed))
    ]
    held_out, train = generated[:HELD_OUT_DOCUMENTS], generated[HELD_OUT_DOCUMENTS:]
    for number, paragraphs in enumerate(python_manual()):
        (train if number % HELD_OUT_TOPICS else held_out).extend(paragraphs)
    rng.shuffle(train)
    return train, held_out


def python_manual() -> list[list[str]]:
    """Return the English paragraphs of the language reference that CPython includes, topic by topic.

    Topics overlap; a paragraph belongs to the first one only.
    """
    from pydoc_data.topics import topics

    seen: set[str] = set()
    manual = []
    for name in sorted(topics):
        manual.append([p for p in dict.fromkeys(_prose(topics[name])) if p not in seen])
        seen.update(manual[-1])
    return manual


def _prose(topic: str) -> Iterator[str]:
    """Yield paragraphs of whole sentences: no headings, code, grammar or markup."""
    for paragraph in re.split(r"\n\s*\n", topic):
        text = re.sub(r"(\w-)\n\s*", r"\1", paragraph.strip())  # words broken at a hyphen
        text = re.sub(r"^(\* |\d+\. |\[\d+\] )|\[\d+\]", "", text)  # bullets and footnote marks
        text = re.sub(r"\s+", " ", re.sub(r'[*"“”]', "", text)).strip()
        text = re.sub("[‘’]", "'", text)
        letters = sum(c.isalpha() or c in " ,.'" for c in text)
        if len(text) >= 40 and text[0].isupper() and text[-1] == "." and letters >= 0.93 * len(text):
            yield text


def documents_fingerprint(documents: Iterable[str]) -> str:
    """Return a short hash of the documents in their order; Python's manual, and so the corpus, differs by version."""
    return hashlib.sha256(b"".join(document.encode() + b"\0" for document in documents)).hexdigest()[:12]


def causal_pairs(token_ids: Iterable[list[int]], block: int, eos: int) -> list[TokenPair]:
    """Return blocks for next-token prediction: each is its own target, which the model shifts."""
    return [(ids, ids) for ids in pack(token_ids, block, eos)]


def span_pairs(
    token_ids: Iterable[list[int]], block: int, eos: int, sentinel_ids: Sequence[int], seed: int = 0
) -> list[TokenPair]:
    """Return span-corrupted blocks; all inputs have one length, and so have all targets."""
    rng = np.random.default_rng(seed)
    return [span_corrupt(ids, sentinel_ids, rng, eos=eos) for ids in pack(token_ids, block, eos)]


def masked_pairs(
    token_ids: Iterable[list[int]], block: int, first: int, last: int, mask: int, seed: int = 0, share: float = 0.15
) -> list[TokenPair]:
    """Return blocks between the tokens `first` and `last` with a share of tokens masked; other targets are -100.

    Every selected token becomes the mask, unlike in training (Devlin et al. 2019, section 3.1), and every block has
    the same number of them. `last` also separates documents, and is never selected.
    """
    rng = np.random.default_rng(seed)
    pairs = []
    for ids in pack(token_ids, block, last):
        tokens = np.array(ids)
        chosen = rng.choice(np.flatnonzero(tokens != last), size=max(1, round(share * block)), replace=False)
        targets = np.full(len(ids), -100)
        targets[chosen], tokens[chosen] = tokens[chosen], mask
        pairs.append(([first, *tokens.tolist(), last], [-100, *targets.tolist(), -100]))
    return pairs


def pack(token_ids: Iterable[list[int]], block: int, eos: int) -> list[list[int]]:
    """Concatenate documents with `eos` after each, and cut them into blocks; the last one is padded with `eos`."""
    stream = [token for document in token_ids for token in (*document, eos)]
    stream.extend([eos] * (-len(stream) % block))
    return [stream[start : start + block] for start in range(0, len(stream), block)]


def span_corrupt(
    ids: Sequence[int],
    sentinel_ids: Sequence[int],
    rng: np.random.Generator,
    noise_density: float = 0.15,
    mean_noise_span_length: float = 3.0,
    *,
    eos: int,
) -> TokenPair:
    """Replace spans by sentinels; return the remaining and the removed tokens, each with `eos` at the end.

    Raffel et al. 2020, section 3.1.4. As in their code, a block starts with kept tokens and ends with a removed span,
    so the targets need no final sentinel.

    Raises:
        ValueError: there are more spans than sentinels, or fewer than two tokens.
    """
    return replace_spans(
        ids, random_spans_mask(len(ids), rng, noise_density, mean_noise_span_length), sentinel_ids, eos
    )


def replace_spans(ids: Sequence[int], noise: np.ndarray, sentinel_ids: Sequence[int], eos: int) -> TokenPair:
    """Replace the spans of a mask (tokens,) by sentinels, as `span_corrupt` does.

    Raises:
        ValueError: there are more spans than sentinels.
    """
    starts = noise & ~np.concatenate(([False], noise[:-1]))
    if starts.sum() > len(sentinel_ids):
        raise ValueError(f"{starts.sum()} spans but {len(sentinel_ids)} sentinels; use a smaller block")
    tokens, sentinels = np.array(ids), sentinel_ids[: starts.sum()]
    inputs: np.ndarray = np.insert(tokens[~noise], np.cumsum(~noise)[starts], sentinels)
    targets: np.ndarray = np.insert(tokens[noise], np.flatnonzero(starts[noise]), sentinels)
    return [*inputs.tolist(), eos], [*targets.tolist(), eos]


def random_spans_mask(
    length: int, rng: np.random.Generator, noise_density: float, mean_noise_span_length: float
) -> np.ndarray:
    """Return a mask (length,) that is True on noise: T5's random_spans_noise_mask, exact in density and span count."""
    if length < 2:
        raise ValueError(f"cannot remove a span from {length} tokens; use blocks of at least 2")
    noise_tokens = min(max(round(length * noise_density), 1), length - 1)
    spans = min(max(round(noise_tokens / mean_noise_span_length), 1), noise_tokens, length - noise_tokens)
    segments = [_segments(tokens, spans, rng) for tokens in (length - noise_tokens, noise_tokens)]
    return np.repeat(np.tile([False, True], spans), np.stack(segments, axis=1).ravel())


def _segments(total: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return `count` random lengths of at least 1 with the sum `total`, all combinations equally likely."""
    cuts = np.sort(rng.choice(total - 1, size=count - 1, replace=False)) + 1
    return np.diff(np.concatenate(([0], cuts, [total])))


def mask_tokens(
    ids: Sequence[int],
    rng: np.random.Generator,
    share: float,
    mask_id: int,
    replacements: np.ndarray,
    groups: np.ndarray,
) -> TokenPair:
    """Select a share of the tokens of a block; return the inputs and the targets, -100 where not selected.

    80 % of the selected tokens become the mask, 10 % a random one of `replacements`, and 10 % stay unchanged (Devlin et
    al. 2019, section 3.1). Tokens with equal numbers in `groups` (tokens,) are selected together, those with -1 never.
    """
    units = np.unique(groups[groups >= 0])
    inputs, targets = np.array(ids), np.full(len(ids), -100)
    if len(units):
        budget, order = max(1, round(share * int((groups >= 0).sum()))), rng.permutation(units)
        sizes = np.cumsum([np.count_nonzero(groups == unit) for unit in order])
        selected = np.flatnonzero(np.isin(groups, order[: int(np.searchsorted(sizes, budget)) + 1]))
        targets[selected] = inputs[selected]
        draws = rng.random(len(selected))
        inputs[selected[draws < MASKED_SHARE]] = mask_id
        replaced = selected[(draws >= MASKED_SHARE) & (draws < MASKED_SHARE + REPLACED_SHARE)]
        inputs[replaced] = rng.choice(replacements, size=len(replaced))
    return inputs.tolist(), targets.tolist()


def word_starts(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Return whether each token (vocabulary,) starts a word, for WordPiece, byte-level BPE and SentencePiece."""
    pieces: Any = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    prefix = next((mark for mark in ("Ġ", "▁") if sum(str(piece).startswith(mark) for piece in pieces) > 100), None)
    # WordPiece marks the pieces that continue a word instead
    return np.array([str(piece).startswith(prefix) if prefix else not str(piece).startswith("##") for piece in pieces])


def token_groups(ids: Sequence[int], special: set[int], starts: np.ndarray | None = None) -> np.ndarray:
    """Return the index of each token (tokens,), or of its word with `starts` of `word_starts`; -1 where special."""
    is_start = np.ones(len(ids), dtype=bool) if starts is None else starts[np.array(ids, dtype=int)]
    is_start[:1] = True
    return np.where([token in special for token in ids], -1, np.cumsum(is_start))


def unigram_loss(train_ids: Iterable[int], held_out_ids: Iterable[int], vocab_size: int) -> float:
    """Return the nats per held-out token of a unigram model with add-one smoothing."""
    counts = np.bincount(np.fromiter(train_ids, dtype=np.int64), minlength=vocab_size) + 1
    return float(math.log(counts.sum()) - np.log(counts[np.fromiter(held_out_ids, dtype=np.int64)]).mean())
