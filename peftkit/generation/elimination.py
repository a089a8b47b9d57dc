"""Turn an evolved instruction or its answer into the reason why the evolution failed (Xu et al. 2023, section 3.3)."""

from __future__ import annotations

import re

from peftkit.generation.evol_prompts import HEAD
from peftkit.generation.filters import normalize_text
from peftkit.generation.generators import Reply
from peftkit.generation.parse import Rejection, incomplete

SORRY = re.compile(
    r"\b(?:sorry|apologi[sz]e|as an ai\b|(?:can ?not|can't|unable to) (?:help|assist|answer|do that))", re.IGNORECASE
)
SHORT = 80  # words of an answer that only apologises
LEAKS = ("evolved task", "evolved instruction", "given task", "first task", "second task", "strong model", "###")
_STOP = (
    "a an and any are as at be been but by can could did do does for from had has have he her his i if in into is it "
    "its me my no nor not of on or our out she so than that the their them then there these they this those to too up "
    "us was we were what when where which who whom why will with would you your yes well"
)
STOP_WORDS = frozenset(_STOP.split())


def parse_evolution(reply: Reply, before: str) -> str | Rejection:
    """Return the instruction in a reply, or the rule that eliminates it: nothing new, or words of the prompt in it."""
    text = reply.text.strip()
    text = text[len(HEAD) :].strip() if text.startswith(HEAD) else text
    if (fault := incomplete(reply)) is not None:
        return fault
    if not text:
        return Rejection("empty_reply")
    if normalize_text(text) == normalize_text(before):
        return Rejection("unchanged")
    said = text.lower()
    for leak in LEAKS:
        if leak in said and leak not in before.lower():
            return Rejection("words_of_the_prompt", leak)
    return text


def check_difference(reply: Reply) -> Rejection | None:
    """Return a fault where the two were found equal; one of which nothing was said counts as different."""
    if re.match(r"\W*(?:equal|the same)\b", reply.text, re.IGNORECASE):
        return Rejection("nothing_new", reply.text.strip()[:80])
    return incomplete(reply) if reply.finish == "refused" else None


def check_answer(reply: Reply) -> Rejection | None:
    """Return why an answer shows that the model cannot do the task."""
    if (fault := incomplete(reply)) is not None:
        return fault
    text = reply.text.strip()
    words = re.findall(r"\w+", text.lower())
    if not text:
        return Rejection("empty_reply")
    if (found := SORRY.search(text)) is not None and len(words) < SHORT:
        return Rejection("cannot_answer", found[0])
    if all(word in STOP_WORDS for word in words):
        return Rejection("says_nothing", text[:80])
    return None
