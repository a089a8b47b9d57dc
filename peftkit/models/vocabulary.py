"""Extension of a tokenizer by terms that become single tokens; existing token ids are unchanged."""

import copy
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer
from tokenizers.normalizers import ByteLevel
from transformers import PreTrainedTokenizerBase, TokenizersBackend

from peftkit.config import UserError

WORD_LEVEL, BYTE_LEVEL, UNIGRAM = "words", "bytes", "unigram"  # WordPiece or WordLevel; byte-level BPE; SentencePiece
SPACE = "▁"  # SentencePiece's symbol for the space before a word
UNKNOWN_PENALTY = 10.0  # of an unknown character, below the least likely piece: SentencePiece's kUnkPenalty
SCORE_MARGIN = 1e-4  # nats per saved piece, added to make a term likelier than its pieces
# GPT-2's own pattern (Radford et al. 2019, section 2.2), built into tokenizers' ByteLevel
GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


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


class VocabularyEntry(NamedTuple):
    """A vocabulary entry that a term needs: the text that it encodes, and the token as written in the vocabulary."""

    text: str
    token: str
    term: str


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


def tokenizer_kind(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the kind of the tokenizer: WORD_LEVEL, BYTE_LEVEL or UNIGRAM.

    Raises:
        UserError: it is none of these.
    """
    settings = json.loads(_backend(tokenizer).to_str())
    model, pattern = settings["model"]["type"], _word_pattern(settings["pre_tokenizer"])
    kinds = {"WordPiece": WORD_LEVEL, "WordLevel": WORD_LEVEL, "Unigram": UNIGRAM} | (
        {} if pattern is None else {"BPE": BYTE_LEVEL}
    )
    if model not in kinds:
        raise UserError(f"its tokenizer is a {model} that cannot be extended; use model=bert, model=gpt2 or model=t5")
    return kinds[model]


def piece_counts(tokenizer: PreTrainedTokenizerBase, words: Sequence[str], batch: int = 10_000) -> list[int]:
    """Return the number of tokens of each word after a space."""
    before = " " if tokenizer_kind(tokenizer) == BYTE_LEVEL else ""
    texts = [before + word for word in words]
    parts = (texts[first : first + batch] for first in range(0, len(texts), batch))
    return [len(ids) for part in parts for ids in tokenizer(part, add_special_tokens=False)["input_ids"]]


def normalized_term(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return a text with the tokenizer's normalization (an uncased one: lower case) and single spaces."""
    normalizer = _backend(tokenizer).normalizer
    return " ".join((normalizer.normalize_str(text) if normalizer else text).split())


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
    }[kind]
    return [
        VocabularyEntry(text, token, term) for text, token in entries if _backend(tokenizer).token_to_id(token) is None
    ]


def _pieces_of(tokenizer: PreTrainedTokenizerBase, entry: VocabularyEntry, kind: str) -> list[int]:
    ids = (
        [token.id for token in _backend(tokenizer).model.tokenize(entry.token)]
        if kind == UNIGRAM  # as written in the vocabulary: every text starts with a space
        else tokenizer(entry.text, add_special_tokens=False)["input_ids"]
    )
    return [number for number in ids if number != tokenizer.unk_token_id]


def _extend_words(
    tokenizer: PreTrainedTokenizerBase, unused: list[str], entries: list[VocabularyEntry]
) -> PreTrainedTokenizerBase:
    """Add terms as added tokens: WordPiece's vocabulary has no spaces and no punctuation within a word."""
    extended = copy.deepcopy(tokenizer)
    extended.add_tokens([AddedToken(name, normalized=False) for name in unused])
    # single_word, or the token "art" would match in "article"; normalized, or "Art" would not match
    extended.add_tokens([AddedToken(entry.token, single_word=True, normalized=True) for entry in entries])
    return extended


def _extend_bytes(
    tokenizer: PreTrainedTokenizerBase, unused: list[str], entries: list[VocabularyEntry]
) -> PreTrainedTokenizerBase:
    """Add terms to the vocabulary of a byte-level BPE, where a word in the vocabulary needs no merges.

    Not as added tokens: these would lose the space before them in decoding, and match within words.
    """
    settings = json.loads(_backend(tokenizer).to_str())
    vocab = settings["model"]["vocab"]
    # tokens outside the vocabulary, such as Llama 3's and Qwen's special tokens, would get new ids after the terms
    vocab.update({token["content"]: token["id"] for token in settings["added_tokens"]})
    names, last = [*unused, *(entry.token for entry in entries)], max(tokenizer.get_vocab().values())
    vocab.update({name: number for number, name in enumerate(names, start=last + 1)})
    settings["model"]["ignore_merges"] = True
    split = _backend(tokenizer).pre_tokenizer.pre_tokenize_str
    several = sorted(
        {entry.term for entry in entries if len(split(f" {entry.term}")) > 1}, key=lambda term: (-len(term), term)
    )
    # with add_prefix_space every split part of a text would get a space
    if several and "'add_prefix_space': True" not in str(settings["pre_tokenizer"]):
        ends = [re.escape(term) + (r"(?![\p{L}\p{N}])" if term[-1].isalnum() else "") for term in several]
        pattern = f" ?(?:{'|'.join(ends)})|{_word_pattern(settings['pre_tokenizer'])}"
        settings["pre_tokenizer"] = {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        }
    return _rebuilt(tokenizer, settings)


def _extend_unigram(
    tokenizer: PreTrainedTokenizerBase, unused: list[str], entries: list[VocabularyEntry]
) -> PreTrainedTokenizerBase:
    """Add terms to a unigram's pieces, each as likely as the rarest old piece or as its own pieces, whichever is more.

    A unigram uses the likeliest segmentation of a whole word, so a term inside a longer word is a token too,
    unless the word has a likelier segmentation. Of two nested terms the longer wins: it saves more pieces.
    """
    settings = json.loads(_backend(tokenizer).to_str())
    pieces = settings["model"]["vocab"]
    scores = dict(pieces)
    rarest = min(scores.values())
    added = {token["id"]: token["content"] for token in settings["added_tokens"]}
    names = [added[number] for number in range(len(pieces), max(tokenizer.get_vocab().values()) + 1)]
    # no less likely: the rarest piece sets the score of unknown characters
    pieces += [[name, rarest] for name in (*names, *unused)]
    for entry in entries:
        old = [token.value for token in _backend(tokenizer).model.tokenize(entry.token)]
        score = sum(scores.get(piece, rarest - UNKNOWN_PENALTY) for piece in old)
        pieces.append([entry.token, max(rarest, score + SCORE_MARGIN * (len(old) - 1))])
    if any(SPACE in entry.token[1:] for entry in entries):
        _disable_space_splitting(settings)
    return _rebuilt(tokenizer, settings)


def _disable_space_splitting(settings: dict[str, Any]) -> None:
    """Disable splitting at spaces before the unigram model: no old piece contains a space, but a term may."""
    old = settings["normalizer"] or {"type": "Sequence", "normalizers": []}
    normalizers = [
        *(old["normalizers"] if old["type"] == "Sequence" else [old]),
        {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
        {"type": "Strip", "strip_left": True, "strip_right": True},
    ]
    # Metaspace's own decoder drops every space of a text's first token, also those of a term
    decoders = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]
    settings |= {
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": False},
        "decoder": {"type": "Sequence", "decoders": decoders},
    }


EXTEND: dict[str, Callable[[PreTrainedTokenizerBase, list[str], list[VocabularyEntry]], PreTrainedTokenizerBase]] = {
    WORD_LEVEL: _extend_words,
    BYTE_LEVEL: _extend_bytes,
    UNIGRAM: _extend_unigram,
}


def _rebuilt(tokenizer: PreTrainedTokenizerBase, settings: dict[str, Any]) -> PreTrainedTokenizerBase:
    """Return the tokenizer with new settings, as a `TokenizersBackend`, which loads all of them.

    GPT2Tokenizer and T5Tokenizer would load the vocabulary only, and rebuild the rest.
    """
    tokens = {str(token): token for token in tokenizer.added_tokens_decoder.values()}
    special = {name: tokens.get(str(token), token) for name, token in tokenizer.special_tokens_map.items()}
    more = [token for token in tokenizer.all_special_tokens if token not in tokenizer.special_tokens_map.values()]
    return TokenizersBackend(
        tokenizer_object=Tokenizer.from_str(json.dumps(settings)),
        **special,
        extra_special_tokens=[tokens.get(token, token) for token in more],
        model_max_length=tokenizer.model_max_length,
        model_input_names=tokenizer.model_input_names,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        chat_template=tokenizer.chat_template,
    )


def _word_pattern(pre_tokenizer: Any) -> str | None:
    """Return the pattern by which a byte-level BPE splits a text into words; None if its pre-tokenizer is unknown."""
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer])
    kinds = [step and step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return GPT2_WORDS if steps[0].get("use_regex", True) else None
    if kinds == ["Split", "ByteLevel"] and steps[0]["behavior"] == "Isolated":
        return steps[0]["pattern"].get("Regex")  # type: ignore[no-any-return]
    return None


def _backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    return tokenizer.backend_tokenizer  # type: ignore[attr-defined, no-any-return]
