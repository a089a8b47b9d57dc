"""Extension of a tokenizer by terms that become single tokens; existing token ids stay."""

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

WORDS, BYTES, UNIGRAM = "words", "bytes", "unigram"  # WordPiece or WordLevel; byte-level BPE; SentencePiece
SPACE = "▁"  # SentencePiece's symbol for the space before a word
UNKNOWN_PENALTY = 10.0  # of an unknown character, below the least likely piece: SentencePiece's kUnkPenalty
LEAD = 1e-4  # nats per saved piece that make a term likelier than its pieces
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
    """The extended tokenizer, its new tokens, and the refused terms, each with its reason."""

    tokenizer: PreTrainedTokenizerBase
    tokens: list[NewToken]
    refused: list[tuple[str, str]]


class Form(NamedTuple):
    """A token that a term needs: its text, and its spelling in the vocabulary."""

    text: str
    spelling: str
    term: str


def extend_tokenizer(tokenizer: PreTrainedTokenizerBase, terms: Sequence[str], embedding_rows: int) -> Extension:
    """Add terms as tokens, with ids from `embedding_rows` on, the number of the model's embedding rows.

    Embedding rows beyond the tokenizer's last id, as T5 has (32,128 for 32,100 tokens), get `<unused_...>` tokens. In
    WordPiece a term is an added token that matches whole words only. In byte-level BPE and unigram it joins the
    vocabulary with and without the space before it, so that decoding gives the text back.

    Raises:
        UserError: the tokenizer is none of these.
    """
    kind = tokenizer_kind(tokenizer)
    last = max(tokenizer.get_vocab().values())
    first = max(embedding_rows, last + 1)
    unused = [f"<unused_{number}>" for number in range(last + 1, first)]
    accepted, refused = _split_terms(tokenizer, terms)
    while True:
        forms = [form for term in accepted for form in _new_forms(tokenizer, term, kind)]
        extended = EXTEND[kind](tokenizer, unused, forms)
        overlapped = {term for term in accepted if not _is_whole(extended, term)}
        if not overlapped:
            break
        refused += [(term, "the tokenizer still splits it") for term in accepted if term in overlapped]
        accepted = [term for term in accepted if term not in overlapped]
    tokens = [
        NewToken(number, form.spelling, form.term, _pieces_of(tokenizer, form, kind))
        for number, form in enumerate(forms, start=first)
    ]
    return Extension(extended, tokens, refused)


def tokenizer_kind(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the kind of the tokenizer: WORDS, BYTES or UNIGRAM.

    Raises:
        UserError: it is none of these.
    """
    settings = json.loads(_backend(tokenizer).to_str())
    model, pattern = settings["model"]["type"], _word_pattern(settings["pre_tokenizer"])
    kinds = {"WordPiece": WORDS, "WordLevel": WORDS, "Unigram": UNIGRAM} | ({} if pattern is None else {"BPE": BYTES})
    if model not in kinds:
        raise UserError(f"its tokenizer is a {model} that cannot be extended; use model=bert, model=gpt2 or model=t5")
    return kinds[model]


def piece_counts(tokenizer: PreTrainedTokenizerBase, words: Sequence[str], batch: int = 10_000) -> list[int]:
    """Return the number of tokens of each word after a space."""
    before = " " if tokenizer_kind(tokenizer) == BYTES else ""
    texts = [before + word for word in words]
    parts = (texts[first : first + batch] for first in range(0, len(texts), batch))
    return [len(ids) for part in parts for ids in tokenizer(part, add_special_tokens=False)["input_ids"]]


def as_read(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return a text as the tokenizer normalizes it (an uncased one: in lower case), with single spaces."""
    normalizer = _backend(tokenizer).normalizer
    return " ".join((normalizer.normalize_str(text) if normalizer else text).split())


def _split_terms(tokenizer: PreTrainedTokenizerBase, terms: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the normalized terms, and those that need no token or cannot be one, with the reason."""
    accepted: dict[str, None] = {}
    refused = []
    special = sorted(tokenizer.all_special_tokens)
    for term in terms:
        read, used = as_read(tokenizer, term), next((token for token in special if token in term), None)
        faults = (
            (not term.strip(), "it is blank"),
            (not read, "it is blank after normalization"),
            (used is not None, f"it contains the special token {used}"),
            (read in accepted, f"it is a duplicate of {read}"),
            (_is_token(tokenizer, read), "it is already one token"),
        )
        reason = next((reason for is_fault, reason in faults if is_fault), None)
        if reason is None:
            accepted[read] = None
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


def _new_forms(tokenizer: PreTrainedTokenizerBase, term: str, kind: str) -> list[Form]:
    """Return the tokens of a term that are not in the vocabulary."""
    joined = term.replace(" ", SPACE)
    forms = {
        WORDS: [(term, term)],
        BYTES: [(text, ByteLevel().normalize_str(text)) for text in (f" {term}", term)],
        UNIGRAM: [(term, SPACE + joined), (term, joined)],
    }[kind]
    return [Form(text, spelling, term) for text, spelling in forms if _backend(tokenizer).token_to_id(spelling) is None]


def _pieces_of(tokenizer: PreTrainedTokenizerBase, form: Form, kind: str) -> list[int]:
    ids = (
        [token.id for token in _backend(tokenizer).model.tokenize(form.spelling)]
        if kind == UNIGRAM  # by its spelling: here every text starts with a space
        else tokenizer(form.text, add_special_tokens=False)["input_ids"]
    )
    return [number for number in ids if number != tokenizer.unk_token_id]


def _extend_words(tokenizer: PreTrainedTokenizerBase, unused: list[str], forms: list[Form]) -> PreTrainedTokenizerBase:
    """Add terms as added tokens: WordPiece's vocabulary has no spaces and no punctuation within a word."""
    extended = copy.deepcopy(tokenizer)
    extended.add_tokens([AddedToken(name, normalized=False) for name in unused])
    # single_word, or the token "art" would match in "article"; normalized, or "Art" would not match
    extended.add_tokens([AddedToken(form.spelling, single_word=True, normalized=True) for form in forms])
    return extended


def _extend_bytes(tokenizer: PreTrainedTokenizerBase, unused: list[str], forms: list[Form]) -> PreTrainedTokenizerBase:
    """Add terms to the vocabulary of a byte-level BPE, where a word in the vocabulary needs no merges.

    Not as added tokens: these would lose the space before them in decoding, and match within words.
    """
    settings = json.loads(_backend(tokenizer).to_str())
    vocab = settings["model"]["vocab"]
    # tokens outside the vocabulary, as Llama 3's and Qwen's special tokens, would get new ids after the terms
    vocab.update({token["content"]: token["id"] for token in settings["added_tokens"]})
    names, last = [*unused, *(form.spelling for form in forms)], max(tokenizer.get_vocab().values())
    vocab.update({name: number for number, name in enumerate(names, start=last + 1)})
    settings["model"]["ignore_merges"] = True
    split = _backend(tokenizer).pre_tokenizer.pre_tokenize_str
    several = sorted(
        {form.term for form in forms if len(split(f" {form.term}")) > 1}, key=lambda term: (-len(term), term)
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
    tokenizer: PreTrainedTokenizerBase, unused: list[str], forms: list[Form]
) -> PreTrainedTokenizerBase:
    """Add terms to a unigram's pieces, each as likely as the rarest old piece or as its own pieces, whichever is more.

    A unigram uses the likeliest segmentation of a whole word, so a term inside a longer word is a token there too,
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
    for form in forms:
        old = [token.value for token in _backend(tokenizer).model.tokenize(form.spelling)]
        score = sum(scores.get(piece, rarest - UNKNOWN_PENALTY) for piece in old)
        pieces.append([form.spelling, max(rarest, score + LEAD * (len(old) - 1))])
    if any(SPACE in form.spelling[1:] for form in forms):
        _read_across_spaces(settings)
    return _rebuilt(tokenizer, settings)


def _read_across_spaces(settings: dict[str, Any]) -> None:
    """Disable splitting at spaces before the unigram model: no old piece contains a space, but a term may."""
    old = settings["normalizer"] or {"type": "Sequence", "normalizers": []}
    normalizers = [
        *(old["normalizers"] if old["type"] == "Sequence" else [old]),
        {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
        {"type": "Strip", "strip_left": True, "strip_right": True},
    ]
    # Metaspace's own decoder drops every space of a text's first token, a term's too
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


EXTEND: dict[str, Callable[[PreTrainedTokenizerBase, list[str], list[Form]], PreTrainedTokenizerBase]] = {
    WORDS: _extend_words,
    BYTES: _extend_bytes,
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
