"""Turn kept tasks into what their card tells of them: lengths, verbs and nouns, how far they are from the seeds."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import mean, median
from typing import Any

from peftkit.generation.novelty import nearest_text, rouge_tokens
from peftkit.generation.tasks import Task

# the verbs that orders begin with; a verb that is not here goes uncounted, and the card says of how many
_VERBS = (
    "add adapt advise agree analyze answer argue arrange assign brainstorm break build calculate change check choose "
    "classify combine compare complete compose compress compute conjugate construct contrast convert correct count "
    "craft create critique decide decode deduce define derive describe design detect determine develop diagnose "
    "discuss distinguish divide draft edit elaborate encode enumerate estimate evaluate examine expand explain express "
    "extract fill filter find finish fix follow form format formulate generate give group guess help highlight "
    "identify illustrate imagine improve indicate infer insert interpret invent judge justify label list make mark "
    "match merge modify name narrate number offer order organize outline paraphrase pick plan play predict prepare "
    "present produce prompt proofread propose prove provide punctuate put rank rate read rearrange reason recommend "
    "reconstruct reduce reformat remove rename reorder repair rephrase replace reply report respond restate reverse "
    "review revise rewrite say score select separate shorten show simplify simulate solve sort speculate spell split "
    "state structure suggest sum summarize supply take tell test tidy transcribe transform translate turn unscramble "
    "update use verify weigh work write"
)
_ARTICLES = (
    "a an the this that these those your my our their his her its some any each every all both several few many one "
    "two three four five six seven eight nine ten following given below me us"
)
_ENDS = (
    "about above across after against along among around as at because before behind between beyond by during for from "
    "how if in inside into is are was were be of off on onto or out over per since so than that then through to toward "
    "towards under until up upon using via what when where whether which while who whom whose why with within without "
    "and but can could should would will may might must has have had do does did"
)
VERBS, ARTICLES, ENDS = (frozenset(words.split()) for words in (_VERBS, _ARTICLES, _ENDS))
PLACES = 20  # bars of the histogram


def dataset_statistics(tasks: Sequence[Task], seeds: Sequence[Task]) -> dict[str, Any]:
    """Return all that the card tells of the kept tasks."""
    near, texts = nearest_seed(tasks, seeds), [task.instruction for task in tasks]
    return {
        "instances": sum(len(task.instances) for task in tasks),
        "classifications": sum(task.is_classification for task in tasks),
        "lengths": lengths(tasks),
        "with_verb": sum(verb_and_noun(text) is not None for text in texts),
        "verbs": verbs_and_nouns(texts),
        "nearest_seed": {
            "mean": mean(near) if near else 0.0,
            "max": max(near, default=0.0),
            "histogram": histogram(near),
        },
    }


def lengths(tasks: Sequence[Task]) -> dict[str, dict[str, float]]:
    """Return mean, median, least and most words of instructions, of inputs that are not empty, and of outputs."""
    instances = [instance for task in tasks for instance in task.instances]
    texts = {
        "instruction": [task.instruction for task in tasks],
        "input": [instance.input for instance in instances if instance.input],
        "output": [instance.output for instance in instances],
    }
    return {name: _words([len(text.split()) for text in values]) for name, values in texts.items() if values}


def verbs_and_nouns(instructions: Sequence[str], most: int = 20) -> list[dict[str, Any]]:
    """Return the commonest verbs of orders, each with the commonest of its objects."""
    pairs = [pair for text in instructions if (pair := verb_and_noun(text)) is not None]
    verbs = Counter(verb for verb, _ in pairs)
    nouns = {verb: Counter(noun for other, noun in pairs if other == verb and noun) for verb in verbs}
    ranked = sorted(verbs.items(), key=lambda item: (-item[1], item[0]))[:most]
    return [{"verb": verb, "count": count, "nouns": dict(_most(nouns[verb], 4))} for verb, count in ranked]


def verb_and_noun(instruction: str) -> tuple[str, str | None] | None:
    """Return the first verb of an order, and the last word of what follows it up to a preposition or a comma.

    This is no parser: a verb is one of VERBS at the start of a clause, and a question has none.
    """
    for clause in re.split(r"[,.:;!?()\n]+", instruction.lower()):
        words = re.findall(r"[a-z][a-z'-]*", clause)
        while words and words[0] in ("please", "then", "and", "now", "can", "could", "would", "you", "to"):
            words.pop(0)
        if words and words[0] in VERBS:
            return words[0], _object(words[1:])
    return None


def nearest_seed(tasks: Sequence[Task], seeds: Sequence[Task]) -> list[float]:
    """Return each task's ROUGE-L to the seed that it is nearest to."""
    cut = [rouge_tokens(seed.instruction) for seed in seeds]
    found = (nearest_text(task.instruction, cut) for task in tasks)
    return [0.0 if match is None else match.score for match in found]


def histogram(scores: Sequence[float]) -> list[int]:
    """Return how many scores fall into each twentieth of 0 to 1."""
    bars = [0] * PLACES
    for score in scores:
        bars[min(int(score * PLACES), PLACES - 1)] += 1
    return bars


def _object(words: Sequence[str]) -> str | None:
    phrase: list[str] = []
    for word in words:
        if word in ENDS:
            break
        if word not in ARTICLES:
            phrase.append(word)
    return phrase[-1] if phrase else None


def _words(counts: Sequence[int]) -> dict[str, float]:
    return {"mean": round(mean(counts), 2), "median": median(counts), "min": min(counts), "max": max(counts)}


def _most(counts: Mapping[str, int], most: int) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]
