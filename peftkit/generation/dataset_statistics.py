"""Statistics of generated tasks for the dataset card: lengths, verbs and objects, similarity to the seeds."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import dropwhile, takewhile
from statistics import mean, median
from typing import Any

from peftkit.generation.novelty import nearest_text, rouge_tokens
from peftkit.generation.tasks import Task

# the verbs that imperative instructions begin with; others are not counted
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
_FILLERS = "please then and now can could would you to"
VERBS, ARTICLES, ENDS, FILLERS = (frozenset(words.split()) for words in (_VERBS, _ARTICLES, _ENDS, _FILLERS))
BARS = 20  # of the histogram
MOST_VERBS, MOST_NOUNS = 20, 4  # shown


def dataset_statistics(tasks: Sequence[Task], seeds: Sequence[Task]) -> dict[str, Any]:
    """Return the section `kept` of result.json."""
    similarity = nearest_seed(tasks, seeds)
    pairs = [pair for task in tasks if (pair := verb_and_noun(task.instruction)) is not None]
    return {
        "instances": sum(len(task.instances) for task in tasks),
        "classifications": sum(task.is_classification for task in tasks),
        "lengths": lengths(tasks),
        "with_verb": len(pairs),
        "verbs": _ranked_verbs(pairs),
        "nearest_seed": {
            "mean": mean(similarity or [0.0]),
            "max": max(similarity, default=0.0),
            "histogram": histogram(similarity),
        },
    }


def lengths(tasks: Sequence[Task]) -> dict[str, dict[str, float]]:
    """Return mean, median, minimum and maximum in words of instructions, non-empty inputs, and outputs."""
    instances = [instance for task in tasks for instance in task.instances]
    texts = {
        "instruction": [task.instruction for task in tasks],
        "input": [instance.input for instance in instances if instance.input],
        "output": [instance.output for instance in instances],
    }
    counts = {name: [len(text.split()) for text in values] for name, values in texts.items() if values}
    return {
        name: {"mean": round(mean(sizes), 2), "median": median(sizes), "min": min(sizes), "max": max(sizes)}
        for name, sizes in counts.items()
    }


def verb_and_noun(instruction: str) -> tuple[str, str | None] | None:
    """Return the verb of an imperative, and the last word before a preposition or a comma, which is mostly its object.

    It uses word lists and no parser: a verb is one of VERBS at the start of a clause; questions have none.
    """
    for clause in re.split(r"[,.:;!?()\n]+", instruction.lower()):
        verb, *words = [*dropwhile(FILLERS.__contains__, re.findall(r"[a-z][a-z'-]*", clause)), ""]
        if verb in VERBS:
            phrase = [word for word in takewhile(lambda word: word not in ENDS, words[:-1]) if word not in ARTICLES]
            return verb, phrase[-1] if phrase else None
    return None


def nearest_seed(tasks: Sequence[Task], seeds: Sequence[Task]) -> list[float]:
    """Return each task's ROUGE-L to the most similar seed."""
    tokens = [rouge_tokens(seed.instruction) for seed in seeds]
    matches = (nearest_text(task.instruction, tokens) for task in tasks)
    return [0.0 if match is None else match.score for match in matches]


def histogram(scores: Sequence[float]) -> list[int]:
    """Return the number of scores in each of BARS equal parts of 0 to 1."""
    counts = Counter(min(int(score * BARS), BARS - 1) for score in scores)
    return [counts[bar] for bar in range(BARS)]


def _ranked_verbs(pairs: Sequence[tuple[str, str | None]]) -> list[dict[str, Any]]:
    """Return the most frequent verbs, each with its most frequent objects; ties in alphabetical order."""
    verbs = _ranked(Counter(verb for verb, _ in pairs))[:MOST_VERBS]
    nouns = {verb: Counter(noun for other, noun in pairs if other == verb and noun) for verb, _ in verbs}
    return [{"verb": verb, "count": count, "nouns": dict(_ranked(nouns[verb])[:MOST_NOUNS])} for verb, count in verbs]


def _ranked(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
