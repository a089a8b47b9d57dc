"""Turn a tokenizer into one that also reads terms as tokens, each in the way of its kind, and changes no old id."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase, TokenizersBackend

from peftkit.config import UserError

WORDS, BYTES, UNIGRAM = "words", "bytes", "unigram"  # WordPiece and whole words; byte-level BPE; SentencePiece's
SPACE = "▁"  # SentencePiece's letter for the space before a word
UNKNOWN_PENALTY = 10.0  # of a letter in no piece, below the least likely piece: SentencePiece's kUnkPenalty
LEAD = 1e-4  # nats a piece saved, by which a term wins over its own pieces
# GPT-2's own pattern (Radford et al. 2019, section 2.2), which tokenizers' ByteLevel has built in
GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class NewToken:
    """One new row: its id, the term that it belongs to, and the ids of the old pieces that it stands for."""

    id: int
    text: str  # as the vocabulary spells it
    term: str
    pieces: list[int]  # without unknown ones; empty where no letter of the term was known


@dataclass(frozen=True)
class Extension:
    """What became of a list of terms: the tokenizer, its new tokens, and the terms refused, each with its reason."""

    tokenizer: PreTrainedTokenizerBase
    tokens: list[NewToken]
    refused: list[tuple[str, str]]


class Form(NamedTuple):
    """A token that a term needs: the text that it stands for, and how the vocabulary spells it."""

    text: str
    spelt: str
    term: str


def extend_tokenizer(tokenizer: PreTrainedTokenizerBase, terms: Sequence[str], rows: int) -> Extension:
    """Make terms tokens, with ids from `rows` on, the number of rows that the model has.

    Rows beyond the tokenizer's last id, as T5 has (32,128 for 32,100 tokens), stay as they are: names that no text has
    stand for them. WordPiece takes a term as an added token, whole words alone. Byte-level BPE and unigram take it in
    their own vocabulary, with the space before it and without, so that decoding gives the text back.

    Raises:
        UserError: the tokenizer is of none of these kinds.
    """
    kind = tokenizer_kind(tokenizer)
    last = max(tokenizer.get_vocab().values())
    first = max(rows, last + 1)
    unused = [f"<unused_{number}>" for number in range(last + 1, first)]
    accepted, refused = _sift(tokenizer, terms)
    while True:
        forms = [form for term in accepted for form in _new_forms(tokenizer, term, kind)]
        grown = GROW[kind](tokenizer, unused, forms)
        overlapped = {term for term in accepted if not _is_whole(grown, term)}
        if not overlapped:
            break
        refused += [(term, "the tokenizer splits it all the same") for term in accepted if term in overlapped]
        accepted = [term for term in accepted if term not in overlapped]
    tokens = [
        NewToken(number, form.spelt, form.term, _pieces_of(tokenizer, form, kind))
        for number, form in enumerate(forms, start=first)
    ]
    return Extension(grown, tokens, refused)


def tokenizer_kind(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return by which of three ways the tokenizer takes new words.

    Raises:
        UserError: there is no way for it.
    """
    settings = json.loads(_backend(tokenizer).to_str())
    model = settings["model"]["type"]
    if model in ("WordPiece", "WordLevel"):
        return WORDS
    if model == "Unigram":
        return UNIGRAM
    if model == "BPE" and _word_pattern(settings["pre_tokenizer"]) is not None:
        return BYTES
    raise UserError(f"its tokenizer is a {model} that cannot be extended; try model=bert, model=gpt2 or model=t5")


def piece_counts(tokenizer: PreTrainedTokenizerBase, words: Sequence[str], batch: int = 10_000) -> list[int]:
    """Return of how many tokens each word is where it stands after a space."""
    before = " " if tokenizer_kind(tokenizer) == BYTES else ""
    counts: list[int] = []
    for first in range(0, len(words), batch):
        part = [before + word for word in words[first : first + batch]]
        counts += [len(ids) for ids in tokenizer(part, add_special_tokens=False)["input_ids"]]
    return counts


def as_read(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return a text as the tokenizer sees it, of an uncased one in lower case, with single spaces."""
    normalizer = _backend(tokenizer).normalizer
    return " ".join((normalizer.normalize_str(text) if normalizer else text).split())


def _sift(tokenizer: PreTrainedTokenizerBase, terms: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the terms as the tokenizer reads them, and those that need no token or can be none, with the reason."""
    accepted: dict[str, None] = {}
    refused = []
    special = sorted(tokenizer.all_special_tokens)
    for term in terms:
        read = as_read(tokenizer, term)
        if not term.strip():
            refused.append((term, "it is blank"))
        elif not read:
            refused.append((term, "the tokenizer reads nothing in it"))
        elif held := next((token for token in special if token in term), None):
            refused.append((term, f"it holds {held}, which means something else to the model"))
        elif read in accepted:
            refused.append((term, f"it is there twice, read as {read}"))
        elif _is_token(tokenizer, read):
            refused.append((term, "it is one token already"))
        else:
            accepted[read] = None
    return list(accepted), refused


def _is_token(tokenizer: PreTrainedTokenizerBase, term: str) -> bool:
    """Tell whether a term is one known token after a word."""
    before, after = tokenizer(["so", f"so {term}"], add_special_tokens=False)["input_ids"]
    return len(after) == len(before) + 1 and after[:-1] == before and after[-1] != tokenizer.unk_token_id


def _is_whole(tokenizer: PreTrainedTokenizerBase, term: str) -> bool:
    """Tell whether a term is one token at the start of a text and after a word."""
    return _is_token(tokenizer, term) and len(tokenizer(term, add_special_tokens=False)["input_ids"]) == 1


def _new_forms(tokenizer: PreTrainedTokenizerBase, term: str, kind: str) -> list[Form]:
    """Return the tokens that a term needs and that are not there."""
    joined = term.replace(" ", SPACE)
    forms = {
        WORDS: [(term, term)],
        BYTES: [(text, "".join(BYTE_LETTERS[byte] for byte in text.encode())) for text in (f" {term}", term)],
        UNIGRAM: [(term, SPACE + joined), (term, joined)],
    }[kind]
    return [Form(text, spelt, term) for text, spelt in forms if _backend(tokenizer).token_to_id(spelt) is None]


def _pieces_of(tokenizer: PreTrainedTokenizerBase, form: Form, kind: str) -> list[int]:
    if kind == UNIGRAM:  # by its own spelling, since a text always begins with a space there
        ids = [token.id for token in _backend(tokenizer).model.tokenize(form.spelt)]
    else:
        ids = tokenizer(form.text, add_special_tokens=False)["input_ids"]
    return [number for number in ids if number != tokenizer.unk_token_id]


def _grow_words(tokenizer: PreTrainedTokenizerBase, unused: list[str], forms: list[Form]) -> PreTrainedTokenizerBase:
    """Add terms as tokens of their own: WordPiece's vocabulary holds no spaces and no punctuation within a word."""
    grown = copy.deepcopy(tokenizer)
    grown.add_tokens([AddedToken(name, normalized=False) for name in unused])
    # single_word, or the token art would be found in article; normalized, or Art would not be found at all
    grown.add_tokens([AddedToken(form.spelt, single_word=True, normalized=True) for form in forms])
    return grown


def _grow_bytes(tokenizer: PreTrainedTokenizerBase, unused: list[str], forms: list[Form]) -> PreTrainedTokenizerBase:
    """Add terms to the vocabulary of a byte-level BPE, where a whole word that is there needs no merges.

    Not as added tokens: these have no way to take the space before them that gives it back, and no word's end.
    """
    settings = json.loads(_backend(tokenizer).to_str())
    vocab = settings["model"]["vocab"]
    first = max(tokenizer.get_vocab().values()) + 1
    # what stands beyond the vocabulary, as Llama 3's and Qwen's special tokens, would be numbered anew behind the terms
    vocab.update({token["content"]: token["id"] for token in settings["added_tokens"]})
    vocab.update({name: first + n for n, name in enumerate([*unused, *(form.spelt for form in forms)])})
    settings["model"]["ignore_merges"] = True
    split = _backend(tokenizer).pre_tokenizer.pre_tokenize_str
    several = sorted(
        {form.term for form in forms if len(split(f" {form.term}")) > 1}, key=lambda term: (-len(term), term)
    )
    is_prefixed = "'add_prefix_space': True" in str(settings["pre_tokenizer"])
    if several and not is_prefixed:  # else every part of a text would be given a space
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


def _grow_unigram(tokenizer: PreTrainedTokenizerBase, unused: list[str], forms: list[Form]) -> PreTrainedTokenizerBase:
    """Add terms to a unigram's pieces, each as likely as the rarest old piece, or as its own pieces where that is more.

    A unigram takes the likeliest cut of a whole word, so that a term inside a longer word is a token there too, unless
    the word has a likelier cut. Of two terms, one within the other, the longer wins: the more pieces it saves the
    larger its lead.
    """
    settings = json.loads(_backend(tokenizer).to_str())
    pieces = settings["model"]["vocab"]
    scores = dict(pieces)
    rarest = min(scores.values())
    added = {token["id"]: token["content"] for token in settings["added_tokens"]}
    names = [added[number] for number in range(len(pieces), max(tokenizer.get_vocab().values()) + 1)]
    pieces += [[name, rarest] for name in (*names, *unused)]  # no less likely: the rarest decides on unknown letters
    for form in forms:
        old = [token.value for token in _backend(tokenizer).model.tokenize(form.spelt)]
        score = sum(scores.get(piece, rarest - UNKNOWN_PENALTY) for piece in old)
        pieces.append([form.spelt, max(rarest, score + LEAD * (len(old) - 1))])
    if any(SPACE in form.spelt[1:] for form in forms):
        _read_across_spaces(settings)
    return _rebuilt(tokenizer, settings)


def _read_across_spaces(settings: dict[str, Any]) -> None:
    """Cut a text nowhere before the unigram reads it: no old piece reaches over a space, but a term does."""
    old = settings["normalizer"]
    steps = [] if old is None else old["normalizers"] if old["type"] == "Sequence" else [old]
    space = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}
    strip = {"type": "Strip", "strip_left": True, "strip_right": True}
    settings["normalizer"] = {"type": "Sequence", "normalizers": [*steps, space, strip]}
    settings["pre_tokenizer"] = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": False}
    # Metaspace's own decoder drops every space of a text's first token, a term's too
    settings["decoder"] = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ],
    }


GROW: dict[str, Callable[[PreTrainedTokenizerBase, list[str], list[Form]], PreTrainedTokenizerBase]] = {
    WORDS: _grow_words,
    BYTES: _grow_bytes,
    UNIGRAM: _grow_unigram,
}


def _rebuilt(tokenizer: PreTrainedTokenizerBase, settings: dict[str, Any]) -> PreTrainedTokenizerBase:
    """Return the tokenizer with other settings, as the class that loads them all.

    GPT2Tokenizer and T5Tokenizer would read the vocabulary alone, and make the rest anew.
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
    """Return the pattern by which a byte-level BPE cuts a text into words; None where it is none that we know."""
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer])
    kinds = [step and step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return GPT2_WORDS if steps[0].get("use_regex", True) else None
    if kinds == ["Split", "ByteLevel"] and steps[0]["behavior"] == "Isolated":
        return steps[0]["pattern"].get("Regex")  # type: ignore[no-any-return]
    return None


def _backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    return tokenizer.backend_tokenizer  # type: ignore[attr-defined, no-any-return]


def _byte_letters() -> list[str]:
    """Return the letter of each byte: itself where it is printable, else the next beyond Latin-1 (GPT-2's table)."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    beyond = iter(range(256, 512))
    return [chr(byte if byte in printable else next(beyond)) for byte in range(256)]


BYTE_LETTERS = _byte_letters()
