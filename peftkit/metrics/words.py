"""The words of texts in any script, as text metrics and filters compare them, and ROUGE-L."""

import unicodedata
from collections.abc import Sequence

import regex

# scripts without spaces between words (LB=SA: Thai, Lao, Khmer, Burmese and others), and pictographs
_SINGLE = (
    r"[[[\p{scx=Han}\p{scx=Hira}\p{scx=Kana}\p{scx=Bopo}\p{sc=Yiii}\p{sc=Java}\p{sc=Bali}\p{LB=SA}]&&[\p{L}\p{Nl}]]"
    r"\p{So}]"
)
# marks, joiners, tags of flags and skin tones belong to the character before them
_EXTENSIONS = r"[\p{M}\u200c\u200d\U000e0020-\U000e007f\U0001f3fb-\U0001f3ff]*"
_CHARACTER = rf"{_SINGLE}{_EXTENSIONS}"
INVISIBLE = regex.compile(
    r"[\u00ad\u061c\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]"
)  # hyphen, directions, BOM
WORD = regex.compile(rf"(?V1){_CHARACTER}|(?:[[\p{{L}}\p{{N}}]--{_SINGLE}]{_EXTENSIONS})+|\p{{M}}+")
CHUNK = regex.compile(rf"(?V1){_CHARACTER}|[^\s\u200b{_SINGLE}]+")
PUNCTUATION = regex.compile(r"[\p{P}$+<=>^`|~]")  # SQuAD's, and that of other scripts as in MLQA
ARTICLES = {"a", "an", "the"}


def text_words(text: str) -> list[str]:
    """Return the lower-cased words of a text in NFC; without letters and digits, its other characters.

    A word of Chinese, Japanese and other scripts without spaces is a character; so is a pictograph. Of ASCII text they
    are the tokens of rouge_score.
    """
    folded = _folded(text)
    return WORD.findall(folded) or CHUNK.findall(folded)


def answer_words(text: str) -> list[str]:
    """Return the words of an answer as SQuAD compares them: lower case, without punctuation and English articles.

    Where nothing else is left, articles count, and else punctuation.
    """
    folded = _folded(text)
    words = CHUNK.findall(PUNCTUATION.sub("", folded))
    return [word for word in words if word not in ARTICLES] or words or CHUNK.findall(folded)


def rouge_l_scores(words: Sequence[str], others: Sequence[Sequence[str]]) -> list[float]:
    """Return the ROUGE-L F-measures of the words of a text with those of each other one (Lin 2004, section 3).

    They are bitwise identical to rouge_score, except that two texts without words are equal. A row of the table of the
    longest common subsequence is the bits of an integer (Hyyrö 2004).
    """
    positions: dict[str, int] = {}
    for position, word in enumerate(words):
        positions[word] = positions.get(word, 0) | 1 << position
    unmatched = (1 << len(words)) - 1
    scores = []
    for other in others:
        row = unmatched
        for word in other:
            if (matched := row & positions.get(word, 0)) != 0:
                row = ((row + matched) | (row - matched)) & unmatched
        common = (~row & unmatched).bit_count()
        precision, recall = common / max(len(words), 1), common / max(len(other), 1)
        score = 2 * precision * recall / (precision + recall) if common else 0.0
        scores.append(score if words or other else 1.0)
    return scores


def _folded(text: str) -> str:
    """Return a text in NFC and lower case, without invisible characters such as marks of direction."""
    return unicodedata.normalize("NFC", INVISIBLE.sub("", unicodedata.normalize("NFC", text)).lower())
