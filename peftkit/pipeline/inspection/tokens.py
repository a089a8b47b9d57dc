"""The texts as a tokenizer reads them: lengths against the limit, unknown tokens, and scripts that it lacks."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from peftkit.data.unknown_tokens import MAX_SHARE, UnknownTokens
from peftkit.pipeline.inspection.duplicates import WORD
from peftkit.pipeline.inspection.sections import Section, Share, plural

MIN_SCRIPT = 0.01  # share of the letters, from which on a script is listed
MAX_WORDS = 2000  # the most frequent ones of each script that are tokenized
FEW_CHARACTERS, FEW_OF_SINGLE = 1.5, 0.8  # a token; the second of scripts whose words are single characters
SINGLE = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO")
MAX_TRUNCATED = 0.01  # share of examples
UNKNOWN_SHOWN = 8  # words


def length_section(lengths: np.ndarray, limit: int, positions: int, truncated: int | None = None) -> Section:
    """Return the section of the lengths in tokens, special ones included.

    Args:
        limit: of tokens that are read.
        positions: the most that the model reads.
        truncated: the number of truncated examples, where the lengths are those after truncation.
    """
    total, is_cut = len(lengths), truncated is not None
    number = int((lengths > limit).sum()) if truncated is None else truncated
    names = ("shortest", "median", "90 %", "95 %", "99 %", "longest", "limit")
    quantiles = np.quantile(lengths, [0, 0.5, 0.9, 0.95, 0.99, 1]) if total else np.zeros(6)
    sentence = f"{number:,} of {plural(total, 'example')} are longer than task.max_length={limit} and truncated"
    if number:
        wanted = 2 * limit if is_cut else int(lengths.max())
        longer = min(-(-wanted // 8) * 8, positions)
        reads = "more" if is_cut or longer < wanted else "all"
        hint = f"task.max_length={longer} reads {reads}" if longer > limit else "the model reads no more"
        sentence = f"{sentence} ({Share(number / total)}); {hint}"
    is_many = number > MAX_TRUNCATED * total
    row = tuple(round(float(each)) for each in quantiles)
    warnings, lines = ([sentence], []) if is_many else ([], [sentence])
    return Section("Lengths in tokens", warnings, lines, names, [(*row, limit)])


def unknown_section(counts: UnknownTokens | None, words: Counter[str], tokenizer: Any) -> Section:
    """Return the section of tokens that stand for text which the tokenizer does not know."""
    if counts is None:
        return Section("Unknown tokens", [], ["the tokenizer has a token for every byte, so that none is unknown"])
    sentence = (
        f"{plural(counts.unknown, 'token')} of {counts.tokens:,} ({Share(counts.share)}) stand for text that the "
        "tokenizer does not know"
    )
    found: Counter[str] = Counter()
    if counts.unknown:
        common = words.most_common(10 * MAX_WORDS)
        for (word, number), ids in zip(common, _ids(tokenizer, [word for word, _ in common]), strict=True):
            if tokenizer.unk_token_id in ids:
                found[word] = number
    rows = found.most_common(UNKNOWN_SHOWN)
    warnings = [f"{sentence}; use a checkpoint for the language of the texts"] if counts.is_high else []
    lines = [] if warnings else [sentence]
    return Section("Unknown tokens", warnings, lines, ("unknown word", "occurrences") if rows else (), rows)


def script_section(texts: Sequence[str], words: Counter[str], tokenizer: Any, name: str) -> Section:
    """Return the section of the scripts of the letters, with those of which the tokenizer has hardly any words.

    Args:
        name: of the checkpoint.
    """
    letters: Counter[str] = Counter()
    for letter, number in Counter("".join(texts)).items():
        if letter.isalpha():
            letters[script_of(letter)] += number
    total = letters.total()
    by_script: dict[str, list[str]] = defaultdict(list)
    for word, _ in words.most_common():
        if (first := next((letter for letter in word if letter.isalpha()), None)) is not None:
            by_script[script_of(first)].append(word)
    rows, warnings, has_unknown = [], [], _has_unknown(tokenizer)
    for script, number in letters.most_common():
        if number < MIN_SCRIPT * total:
            break
        chosen = by_script[script][:MAX_WORDS]
        encoded = _ids(tokenizer, chosen)
        tokens = sum(map(len, encoded))
        per_token = sum(map(len, chosen)) / max(tokens, 1)
        unknown = sum(ids.count(tokenizer.unk_token_id) for ids in encoded) / max(tokens, 1) if has_unknown else 0
        rows.append((script.lower(), Share(number / total), per_token, Share(unknown)))
        few = FEW_OF_SINGLE if script in SINGLE else FEW_CHARACTERS
        if chosen and (per_token < few or unknown > MAX_SHARE):
            warnings.append(
                f"{Share(number / total)} of the letters are {script.capitalize()}, of which the tokenizer of {name} "
                f"knows hardly any words ({per_token:.1f} characters a token, {Share(unknown)} unknown); use a "
                "checkpoint for that language, such as model=roberta model.checkpoint=FacebookAI/xlm-roberta-base"
            )
    notes = [
        f"Scripts with at least {Share(MIN_SCRIPT)} of the letters. Characters a token: of their {MAX_WORDS:,} most "
        f"frequent words; fewer than {FEW_CHARACTERS} mean that words are read letter by letter."
    ]
    return Section("Scripts", warnings, [], ("script", "letters", "characters a token", "unknown"), rows, notes)


def script_of(letter: str) -> str:
    """Return the script of a letter: the first word of its name in Unicode, such as LATIN."""
    return unicodedata.name(letter, "OTHER").split()[0].split("-")[0]


def count_words(texts: Sequence[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(WORD.findall(text))
    return counts


def _has_unknown(tokenizer: Any) -> bool:
    return tokenizer.unk_token_id is not None and tokenizer.unk_token_id != tokenizer.eos_token_id


def _ids(tokenizer: Any, words: Sequence[str]) -> list[list[int]]:
    return tokenizer(list(words), add_special_tokens=False)["input_ids"] if words else []  # type: ignore[no-any-return]
