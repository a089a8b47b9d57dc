"""Extension of a tokenizer by terms that become single tokens; existing token ids are unchanged."""

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers.normalizers import ByteLevel
from transformers import PreTrainedTokenizerBase

from peftkit.models.tokenizer_extension import (
    BYTE_LEVEL,
    EXTEND,
    SPACE,
    SPACE_BPE,
    UNIGRAM,
    WORD_LEVEL,
    VocabularyEntry,
    backend,
    tokenizer_kind,
)


@dataclass(frozen=True)
class NewToken:
    """One new token: its id, its term, and the ids of the old tokens that it replaces."""

    id: int
    text: str  # as in the vocabulary
    term: str
    pieces: list[int]  # without unknown tokens; empty if all were unknown


@dataclass(frozen=True)
class Extension:
    """The extended tokenizer, its new tokens, and the rejected terms, each with its reason."""

    tokenizer: PreTrainedTokenizerBase
    tokens: list[NewToken]
    refused: list[tuple[str, str]]


def extend_tokenizer(tokenizer: PreTrainedTokenizerBase, terms: Sequence[str], embedding_rows: int) -> Extension:
    """Add terms as tokens, with ids from `embedding_rows` on, the number of the model's embedding rows.

    Embedding rows beyond the tokenizer's last id, as in T5 (32,128 for 32,100 tokens), get `<unused_...>` tokens. In
    WordPiece a term is an added token that matches whole words only. In byte-level BPE and unigram it joins the
    vocabulary with and without the space before it, so that decoding restores the text.

    Raises:
        UserError: the tokenizer is none of these.
    """
    kind = tokenizer_kind(tokenizer)
    last = max(tokenizer.get_vocab().values())
    first = max(embedding_rows, last + 1)
    unused = [f"<unused_{number}>" for number in range(last + 1, first)]
    accepted, refused = _split_terms(tokenizer, terms)
    while True:
        entries = [entry for term in accepted for entry in _new_entries(tokenizer, term, kind)]
        extended = EXTEND[kind](tokenizer, unused, entries)
        overlapped = {term for term in accepted if not _is_whole(extended, term)}
        if not overlapped:
            break
        refused += [(term, "the tokenizer still splits it") for term in accepted if term in overlapped]
        accepted = [term for term in accepted if term not in overlapped]
    tokens = [
        NewToken(number, entry.token, entry.term, _pieces_of(tokenizer, entry, kind))
        for number, entry in enumerate(entries, start=first)
    ]
    return Extension(extended, tokens, refused)


def piece_counts(tokenizer: PreTrainedTokenizerBase, words: Sequence[str], batch: int = 10_000) -> list[int]:
    """Return the number of tokens of each word after a space."""
    before = " " if tokenizer_kind(tokenizer) == BYTE_LEVEL else ""
    texts = [before + word for word in words]
    parts = (texts[first : first + batch] for first in range(0, len(texts), batch))
    return [len(ids) for part in parts for ids in tokenizer(part, add_special_tokens=False)["input_ids"]]


def normalized_term(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return a text with the tokenizer's normalization (an uncased one: lower case) and single spaces."""
    normalizer = backend(tokenizer).normalizer
    normal = normalizer.normalize_str(text) if normalizer else text
    return " ".join(normal.replace(SPACE, " ").split())  # Llama 2's normalizer replaces spaces


def _split_terms(tokenizer: PreTrainedTokenizerBase, terms: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the normalized terms, and those that need no token or cannot be one, with the reason."""
    accepted: dict[str, None] = {}
    refused = []
    special = sorted(tokenizer.all_special_tokens)
    for term in terms:
        normal, used = normalized_term(tokenizer, term), next((token for token in special if token in term), None)
        faults = (
            (not term.strip(), "it is blank"),
            (not normal, "it is blank after normalization"),
            (used is not None, f"it contains the special token {used}"),
            (normal in accepted, f"it is a duplicate of {normal}"),
            (_is_token(tokenizer, normal), "it is already one token"),
        )
        reason = next((reason for is_fault, reason in faults if is_fault), None)
        if reason is None:
            accepted[normal] = None
        else:
            refused.append((term, reason))
    return list(accepted), refused


def _is_token(tokenizer: PreTrainedTokenizerBase, term: str) -> bool:
    """Return whether a term is one known token after a word."""
    before, after = tokenizer(["so", f"so {term}"], add_special_tokens=False)["input_ids"]
    return len(after) == len(before) + 1 and after[:-1] == before and after[-1] != tokenizer.unk_token_id


def _is_whole(tokenizer: PreTrainedTokenizerBase, term: str) -> bool:
    """Return whether a term is one token at the start of a text and after a word."""
    return _is_token(tokenizer, term) and len(tokenizer(term, add_special_tokens=False)["input_ids"]) == 1


def _new_entries(tokenizer: PreTrainedTokenizerBase, term: str, kind: str) -> list[VocabularyEntry]:
    """Return the tokens of a term that are not in the vocabulary."""
    joined = term.replace(" ", SPACE)
    entries = {
        WORD_LEVEL: [(term, term)],
        BYTE_LEVEL: [(text, ByteLevel().normalize_str(text)) for text in (f" {term}", term)],
        UNIGRAM: [(term, SPACE + joined), (term, joined)],
        SPACE_BPE: [(term, SPACE + joined), (term, joined)],
    }[kind]
    return [
        VocabularyEntry(text, token, term) for text, token in entries if backend(tokenizer).token_to_id(token) is None
    ]


def _pieces_of(tokenizer: PreTrainedTokenizerBase, entry: VocabularyEntry, kind: str) -> list[int]:
    ids = (
        [token.id for token in backend(tokenizer).model.tokenize(entry.token)]
        if kind in (UNIGRAM, SPACE_BPE)  # as written in the vocabulary: every text starts with a space
        else tokenizer(entry.text, add_special_tokens=False)["input_ids"]
    )
    return [number for number in ids if number != tokenizer.unk_token_id]
