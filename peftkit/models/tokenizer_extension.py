"""The settings of extended tokenizers, by kind: WordPiece, byte-level BPE, unigram, and SentencePiece's BPE."""

import copy
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase, TokenizersBackend

from peftkit.config import UserError, refusal

# WordPiece or WordLevel; byte-level BPE; SentencePiece's two models, of T5 and of Llama 2
WORD_LEVEL, BYTE_LEVEL, UNIGRAM, SPACE_BPE = "words", "bytes", "unigram", "spaces"
SPACE = "▁"  # SentencePiece's symbol for the space before a word
UNKNOWN_PENALTY = 10.0  # of an unknown character, below the least likely piece: SentencePiece's kUnkPenalty
SCORE_MARGIN = 1e-4  # nats per saved piece, added to make a term likelier than its pieces
# GPT-2's own pattern (Radford et al. 2019, section 2.2), built into tokenizers' ByteLevel
GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


class VocabularyEntry(NamedTuple):
    """A vocabulary entry that a term needs: the text that it encodes, and the token as written in the vocabulary."""

    text: str
    token: str
    term: str


def tokenizer_kind(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the kind of the tokenizer: WORD_LEVEL, BYTE_LEVEL or UNIGRAM.

    Raises:
        UserError: it is none of these.
    """
    settings = json.loads(backend(tokenizer).to_str())
    model, pattern = settings["model"]["type"], _word_pattern(settings["pre_tokenizer"])
    kinds = {"WordPiece": WORD_LEVEL, "WordLevel": WORD_LEVEL, "Unigram": UNIGRAM} | (
        {"BPE": BYTE_LEVEL} if pattern is not None else {"BPE": SPACE_BPE} if _marks_spaces(settings) else {}
    )
    if model not in kinds:
        steps = (settings["pre_tokenizer"] or {}).get("type", "none")
        wrong = f"its tokenizer is a {model} with the pre-tokenizer {steps}, which cannot be extended"
        others = (f"model={name} ~model.checkpoint" for name in ("bert", "gpt2", "t5"))
        raise UserError(refusal(wrong, *others))
    return kinds[model]


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
    settings = json.loads(backend(tokenizer).to_str())
    vocab = settings["model"]["vocab"]
    # tokens outside the vocabulary, such as Llama 3's and Qwen's special tokens, would get new ids after the terms
    vocab.update({token["content"]: token["id"] for token in settings["added_tokens"]})
    names, last = [*unused, *(entry.token for entry in entries)], max(tokenizer.get_vocab().values())
    vocab.update({name: number for number, name in enumerate(names, start=last + 1)})
    settings["model"]["ignore_merges"] = True
    split = backend(tokenizer).pre_tokenizer.pre_tokenize_str
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
    settings = json.loads(backend(tokenizer).to_str())
    pieces = settings["model"]["vocab"]
    scores = dict(pieces)
    rarest = min(scores.values())
    added = {token["id"]: token["content"] for token in settings["added_tokens"]}
    names = [added[number] for number in range(len(pieces), max(tokenizer.get_vocab().values()) + 1)]
    # no less likely: the rarest piece sets the score of unknown characters
    pieces += [[name, rarest] for name in (*names, *unused)]
    for entry in entries:
        old = [token.value for token in backend(tokenizer).model.tokenize(entry.token)]
        score = sum(scores.get(piece, rarest - UNKNOWN_PENALTY) for piece in old)
        pieces.append([entry.token, max(rarest, score + SCORE_MARGIN * (len(old) - 1))])
    if any(SPACE in entry.token[1:] for entry in entries):
        _disable_space_splitting(settings)
    return _rebuilt(tokenizer, settings)


def _extend_space_bpe(
    tokenizer: PreTrainedTokenizerBase, unused: list[str], entries: list[VocabularyEntry]
) -> PreTrainedTokenizerBase:
    """Add terms to the vocabulary of a BPE over whole texts, whose spaces are symbols.

    Each term is split from its text before the BPE, which needs no merges for a part that is in the vocabulary.
    """
    settings = json.loads(backend(tokenizer).to_str())
    names, last = [*unused, *(entry.token for entry in entries)], max(tokenizer.get_vocab().values())
    settings["model"]["vocab"].update({token["content"]: token["id"] for token in settings["added_tokens"]})
    settings["model"]["vocab"].update({name: number for number, name in enumerate(names, start=last + 1)})
    settings["model"]["ignore_merges"] = True
    terms = sorted({entry.term.replace(" ", SPACE) for entry in entries}, key=lambda term: (-len(term), term))
    ends = [re.escape(term) + (r"(?![\p{L}\p{N}])" if term[-1].isalnum() else "") for term in terms]
    pattern = rf"(?:{SPACE}|(?<![\p{{L}}\p{{N}}{SPACE}]))(?:{'|'.join(ends)})"
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    steps = settings["pre_tokenizer"]
    before = [] if steps is None else steps["pretokenizers"] if steps["type"] == "Sequence" else [steps]
    settings["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*before, split]}
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
    SPACE_BPE: _extend_space_bpe,
}


def with_tag(tokenizer: PreTrainedTokenizerBase, tags: Sequence[str], tag: str) -> PreTrainedTokenizerBase:
    """Return a tokenizer with tags as special tokens, one of which precedes each input, after a [CLS] or <s> there."""
    found = Tokenizer.from_str(backend(tokenizer).to_str())
    found.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in tags])
    single, pair = _template(found, tag, "a"), _template(found, tag, "a", "b")
    names = {piece.rpartition(":")[0] for piece in (*single, *pair) if not piece.startswith("$")}
    template = TemplateProcessing(single=single, pair=pair, special_tokens=[(n, found.token_to_id(n)) for n in names])
    settings = json.loads(found.to_str())
    steps = settings["post_processor"] or {}
    steps = [each for each in steps.get("processors", [steps]) if each.get("type") == "ByteLevel"]  # trims offsets
    found.post_processor = template
    settings["post_processor"] = json.loads(found.to_str())["post_processor"]
    if steps:
        settings["post_processor"] = {"type": "Sequence", "processors": [*steps, settings["post_processor"]]}
    return _rebuilt(tokenizer, settings)


def _template(tokenizer: Tokenizer, tag: str, first: str, second: str | None = None) -> list[str]:
    """Return the pieces of an input of one or two texts, each with its token type, and the tag among them."""
    found = tokenizer.encode(first, second)
    pieces = [
        f"{token if number is None else ('$A', '$B')[number]}:{kind}"
        for token, number, kind in zip(found.tokens, found.sequence_ids, found.type_ids, strict=True)
    ]
    pieces = [each for each, before in zip(pieces, ["", *pieces], strict=False) if each != before or each[0] != "$"]
    pieces.insert(0 if pieces[0].startswith("$") else 1, f"{tag}:0")
    return pieces


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


def _marks_spaces(settings: dict[str, Any]) -> bool:
    """Return whether a normalizer or pre-tokenizer replaces spaces by SentencePiece's symbol, as in Llama 2."""
    return SPACE in json.dumps([settings["normalizer"], settings["pre_tokenizer"]], ensure_ascii=False)


def backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    return tokenizer.backend_tokenizer  # type: ignore[attr-defined, no-any-return]
