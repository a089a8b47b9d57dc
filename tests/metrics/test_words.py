"""Words and the scores of texts are those of independent implementations, in five scripts."""

from __future__ import annotations

import random
import re
import string
import unicodedata
from collections import Counter

import pytest
from rouge_score import rouge_scorer
from rouge_score.tokenize import tokenize

from peftkit.metrics import score
from peftkit.metrics.words import answer_words, rouge_l_scores, text_words

# letters of each script, those of Devanagari and Thai with vowel signs, and the marks of its sentences
SCRIPTS = {
    "Latin": (["a", "the", "film", "Zoë", "Ngữ", "naïve", "x2", "25"], " ", ",.;!?'\"-()"),
    "Devanagari": (["कि", "की", "में", "हिन्दी", "फ़िल्म", "अच्छी", "२५"], " ", "।,?"),
    "Arabic": (["كتاب", "كِتَاب", "فيلم", "جيّد", "می‌خواهم", "٢٥"], " ", "،؟."),
    "Han": (list("这部电影很好看不差二〇"), "", "，。！？《》"),
    "Thai": (["ห", "นั", "ง", "ดี", "ม", "า", "ก", "ไ", "ม่"], "", "."),
}


def drawn(script: str, seed: int, count: int = 60) -> list[tuple[str, str]]:
    """Return pairs of texts, the second a change of the first, with punctuation, in NFC or NFD."""
    draw = random.Random(seed)
    letters, space, signs = SCRIPTS[script]
    pairs = []
    for _ in range(count):
        words = draw.choices(letters, k=draw.randrange(1, 12))
        other = [draw.choice([word, word, draw.choice(letters)]) for word in words if draw.random() < 0.9] or words
        first, second = (space.join(each) + draw.choice(signs) for each in (words, other))
        pairs.append((first, unicodedata.normalize(draw.choice(["NFC", "NFD"]), second)))
    return pairs


def reference_words(script: str, text: str) -> list[str]:
    """Return words by the categories and names of characters: the definition, one character at a time."""
    words: list[str] = []
    joins = was_alone = False
    for letter in unicodedata.normalize("NFC", text).lower():
        category = unicodedata.category(letter)
        if words and joins and (category[0] == "M" or letter == "\u200c"):
            words[-1] += letter
        elif category[0] in "LN":
            alone = (script in ("Han", "Thai") and category[0] == "L") or letter == "〇"
            if joins and not alone and not was_alone:
                words[-1] += letter
            else:
                words.append(letter)
            joins, was_alone = True, alone
        else:
            joins = False
    return words


class Reference:
    """A tokenizer for rouge-score."""

    def __init__(self, script: str) -> None:
        self.script = script

    def tokenize(self, text: str) -> list[str]:
        return reference_words(self.script, text)


def squad_f1(reference: str, text: str, by_letter: bool = False) -> float:
    """Return the F1 of SQuAD's evaluation script, with the punctuation and the segments of MLQA's."""

    def words(each: str) -> list[str]:
        each = unicodedata.normalize("NFC", each).lower()
        each = "".join(c for c in each if c not in string.punctuation and unicodedata.category(c)[0] != "P")
        if by_letter:
            return reference_words("Thai", each)
        return re.sub(r"\b(a|an|the)\b", " ", each).split()

    expected, found = words(reference), words(text)
    common = sum((Counter(expected) & Counter(found)).values())
    if not expected or not found:
        return float(expected == found)
    return 2 * common / (len(expected) + len(found))


def of(name: str, reference: str, text: str) -> float:
    return float(score([name], [text], [[reference]])[name]["value"])


@pytest.mark.parametrize("script", SCRIPTS)
def test_scores_are_those_of_rouge_score_and_squad(script: str) -> None:
    scorer = rouge_scorer.RougeScorer(["rougeL"], tokenizer=Reference(script))
    for first, second in drawn(script, seed=1):
        assert text_words(second) == reference_words(script, second)
        assert of("rouge_l", first, second) == scorer.score(first, second)["rougeL"].fmeasure
        if answer_words(first) and set(answer_words(first)) - {"a", "the"} and set(answer_words(second)) - {"a", "the"}:
            expected = squad_f1(first, second, by_letter=script in ("Han", "Thai"))
            assert of("token_f1", first, second) == pytest.approx(expected), (first, second)


@pytest.mark.parametrize("script", SCRIPTS)
def test_equal_texts_score_one_and_different_texts_less(script: str) -> None:
    letters = SCRIPTS[script][0]
    for name in ("rouge_l", "token_f1", "exact_match"):
        for first, second in drawn(script, seed=2, count=20):
            assert of(name, first, first) == of(name, first, unicodedata.normalize("NFD", first)) == 1.0
            if Counter(reference_words(script, first)) != Counter(reference_words(script, second)):
                assert of(name, first, f"{second}{letters[2]}") < 1.0 or name == "token_f1"
        assert all(of(name, one, two) < 1.0 for one in letters for two in letters if one != two)


def test_words_of_ascii_are_those_of_rouge_score() -> None:
    draw = random.Random(0)
    for _ in range(2000):
        text = "".join(draw.choices(string.printable, k=draw.randrange(12)))
        assert text_words(text) == tokenize(text, None) or not tokenize(text, None)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("A", "The"), ("A", ""), ("!", "?"), ("👍", "👎"), ("great 👍🏽", "great 👍🏿"), ("🇩🇪", "🇫🇷"), ("गया", "गयी"), ("שָׁלוֹם", "שְׁלוֹם"),
        ("北京大学", "北京大雪"), ("ガ", "カ"), ("မြန်မာ", "မြန်မာ့"), ("ខ្មែរ", "ខ្មែ"), ("ລາວ", "ລາ"), ("i\u0307", "i"), ("०", "१"),
    ],
)  # fmt: skip
def test_different_texts_score_below_one(first: str, second: str) -> None:
    assert all(of(name, first, second) < 1.0 for name in ("rouge_l", "token_f1", "exact_match"))
    assert all(of(name, first, first) == 1.0 for name in ("rouge_l", "token_f1", "exact_match"))


def test_what_is_invisible_does_not_count() -> None:
    pairs = [
        ("", " "),
        ("北京 大学", "北京大学。"),
        ("\u200fשלום\u200e", "שלום"),
        ("\ufeffword", "wo\u00adrd"),
        ("한글", "한글"),
    ]
    assert all(of(name, *pair) == 1.0 for pair in pairs for name in ("rouge_l", "token_f1", "exact_match"))


def test_two_empty_texts_are_equal() -> None:
    assert rouge_l_scores([], [[], ["a"]]) == [1.0, 0.0]
