"""Elimination evolving: why an evolved instruction or its answer is rejected (Xu et al. 2023, section 3.3)."""

from __future__ import annotations

import re

from peftkit.generation.evol_prompts import HEAD
from peftkit.generation.filters import normalize_text
from peftkit.generation.generators import Reply
from peftkit.generation.rejection import Rejection, incomplete

APOLOGY = re.compile(
    r"\b(?:sorry|apologi[sz]e|as an ai\b|(?:can ?not|can't|unable to) (?:help|assist|answer|do that))", re.IGNORECASE
)
APOLOGY_LENGTH = 80  # words; a longer answer does more than apologize
PROMPT_PHRASES = (
    "evolved task", "evolved instruction", "given task", "first task", "second task", "strong model", "###",
)  # fmt: skip
_STOP = (
    "a an and any are as at be been but by can could did do does for from had has have he her his i if in into is it "
    "its me my no nor not of on or our out she so than that the their them then there these they this those to too up "
    "us was we were what when where which who whom why will with would you your yes well"
)
STOP_WORDS = frozenset(_STOP.split())


def parse_evolution(reply: Reply, origin: str) -> str | Rejection:
    """Return the instruction in a reply, or why it is eliminated: unchanged, or a phrase of the prompt in it."""
    if (cut := incomplete(reply)) is not None:
        return cut
    text = reply.text.strip().removeprefix(HEAD).strip()
    if not text:
        return Rejection("empty_reply")
    if normalize_text(text) == normalize_text(origin):
        return Rejection("unchanged")
    for phrase in PROMPT_PHRASES:
        if phrase in text.lower() and phrase not in origin.lower():
            return Rejection("words_of_the_prompt", phrase)
    return text


def check_difference(reply: Reply) -> Rejection | None:
    """Return a rejection where the model finds both tasks equal; a reply without an answer counts as different."""
    if re.match(r"\W*(?:equal|the same)\b", reply.text, re.IGNORECASE):
        return Rejection("nothing_new", reply.text.strip()[:80])
    return incomplete(reply) if reply.finish == "refused" else None


def check_answer(reply: Reply) -> Rejection | None:
    """Return why an answer shows that the model cannot do the task."""
    if (cut := incomplete(reply)) is not None:
        return cut
    text = reply.text.strip()
    words = re.findall(r"\w+", text.lower())
    if not text:
        return Rejection("empty_reply")
    if (apology := APOLOGY.search(text)) is not None and len(words) < APOLOGY_LENGTH:
        return Rejection("cannot_answer", apology[0])
    return Rejection("says_nothing", text[:80]) if STOP_WORDS.issuperset(words) else None
