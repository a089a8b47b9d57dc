"""Labeled pairs of miniglue: paraphrase, similarity, entailment, answers and pronouns."""

from dataclasses import replace
from typing import Any

from peftkit.data.miniglue.lexicon import (
    BASES,
    FACETS,
    MEETINGS,
    NAMES,
    NUMBERS,
    PASSIVE,
    PEOPLE,
    REASONS,
    THINGS,
    Scene,
    WordSampler,
    change_facets,
    draw_scene,
    render_scene,
    sentence,
)

Example = dict[str, Any]
QUESTIONS = {  # the short and the long form; the answer to "who" is the subject
    "where": ("Where", "In which place"),
    "when": ("When", "At what time"),
    "why": ("Why", "For what reason"),
    "who": ("Who", "By whom"),
}
WEIGHTS = {"who": 1.1, "action": 1.5, "thing": 1.2, "place": 0.6, "time": 0.6}  # of the 5 points of similarity


def mrpc(words: WordSampler) -> Example:
    """Paraphrases in two thirds of the pairs; the other pairs differ in one fact."""
    same = words.chance(0.66)
    first, second = _meeting(words, same) if words.chance(0.3) else _paraphrase(words, same)
    return {"sentence1": first, "sentence2": second, "label": int(same)}


def qqp(words: WordSampler) -> Example:
    """Duplicate questions, and questions that differ in one facet or in what they request."""
    same = words.chance(0.42)
    scene = draw_scene(words)
    first = words.random.choice(list(QUESTIONS))
    other, second = scene, first
    if not same and words.chance(0.5):
        second = words.random.choice([word for word in QUESTIONS if word != first])
    elif not same:
        facets = ("action", "reversed") if first == "who" else ("who", "action", "reversed")
        other = change_facets(scene, words, words.random.choice(facets))
    return {
        "question1": _question(scene, first, words),
        "question2": _question(other, second, words, varies=True),
        "label": int(same),
    }


def stsb(words: WordSampler) -> Example:
    """The score is the weight of the equal facets; the opposite action or a negation halves it."""
    scene = draw_scene(words, full=True)
    different = words.random.sample(list(WEIGHTS), words.random.choice([0, 0, 1, 1, 2, 3, 4, 5]))
    other = change_facets(scene, words, *different)
    score = sum(weight for facet, weight in WEIGHTS.items() if facet not in different)
    if "action" not in different and words.chance(0.2):
        other, score = change_facets(other, words, words.random.choice(["reversed", "negated"])), score / 2
    if words.chance(0.5):
        scene, other = replace(scene, quality=None), replace(other, quality=None)
    return {
        "sentence1": render_scene(scene, words),
        "sentence2": render_scene(other, words, vary=0.6),
        "label": round(score * 5) / 5,
    }


def mnli(words: WordSampler, mismatched: bool = False) -> Example:
    """Premise and hypothesis; the mismatched split has another genre."""
    label = words.random.choice([0, 1, 2])
    premise, hypothesis = _inference(words, label)
    if mismatched:
        opening = words.random.choice(
            ["Dear friend, you should know that", "Well, as I was told,", "The report states that"]
        )
        premise = f"{opening} {premise[0].lower()}{premise[1:]}"
    return {"premise": premise, "hypothesis": hypothesis, "label": label}


def rte(words: WordSampler) -> Example:
    """Entailment or not, with neutral and contradiction as one class; premises are longer than in MNLI."""
    label = int(words.chance(0.5))
    premise, hypothesis = _inference(words, words.random.choice([1, 2]) if label else 0)
    more = render_scene(draw_scene(words), words)
    premise = f"{premise} {more}" if words.chance(0.5) else f"{more} {premise}"
    return {"sentence1": premise, "sentence2": hypothesis, "label": label}


def qnli(words: WordSampler) -> Example:
    """Whether the sentence contains the answer; a wrong one describes the same event without the answer."""
    label = int(words.chance(0.5))
    scene = draw_scene(words)
    question, facet, other = words.random.choice([("where", "place", "time"), ("when", "time", "place")])
    facts: dict[str, Any] = {name: words.pick(FACETS[name]) for name in (facet, other)}
    described = replace(scene, **facts)
    if label:
        unanswered = replace(scene, **{**facts, facet: None})
        described = unanswered if words.chance(0.5) else change_facets(described, words, "who")
    elif words.chance(0.4):
        described = replace(scene, **{**facts, other: None})
    text = _because(render_scene(described, words, vary=0.4), words.pick(REASONS) if words.chance(0.4) else None)
    return {"question": _question(scene, question, words), "sentence": text, "label": label}


def wnli(words: WordSampler) -> Example:
    """Winograd schemas: one word of the ending decides what the pronoun refers to."""
    template, endings = words.pick(_SCHEMAS)
    ending, means_first = words.random.choice(endings)
    if template.startswith("{thing}"):
        first, second, pronoun = f"the {words.pick(THINGS)[0]}", f"the {words.pick(_HOLDERS)}", "it"
    else:
        first = words.pick(NAMES)
        is_man = NAMES.index(first) % 2
        second = words.random.choice([name for name in NAMES[is_man::2] if name != first])
        pronoun = "he" if is_man else "she"
    label = int(words.chance(0.5))
    answer = first if means_first == bool(label) else second
    text = template.format(thing=first, a=first, b=second, end=ending.format(x=pronoun))
    return {"sentence1": sentence(text), "sentence2": sentence(ending.format(x=answer)), "label": label}


_HOLDERS = ["suitcase", "box", "drawer", "cupboard", "bag", "trunk", "basket", "chest"]
_SCHEMAS = [
    ("{thing} does not fit into {b} because {end}", [("{x} is too big", True), ("{x} is too small", False)]),
    ("{thing} fell through {b} because {end}", [("{x} was too heavy", True), ("{x} was too weak", False)]),
    ("{a} thanked {b} because {end}", [("{x} had received help", True), ("{x} had given help", False)]),
    ("{a} could not beat {b} because {end}", [("{x} was too slow", True), ("{x} was too strong", False)]),
    (
        "{a} asked {b} for advice because {end}",
        [("{x} did not know what to do", True), ("{x} had much experience", False)],
    ),
    ("{a} apologized to {b} because {end}", [("{x} had made a mistake", True), ("{x} had been hurt", False)]),
    ("{a} lent money to {b} because {end}", [("{x} was rich", True), ("{x} was poor", False)]),
    (
        "{a} could not hear {b} because {end}",
        [("{x} was far away from the voice", True), ("{x} spoke too softly", False)],
    ),
]


def _paraphrase(words: WordSampler, same: bool) -> tuple[str, str]:
    scene = draw_scene(words)
    facets = ["reversed", "negated", "thing", "who", "action"] + (["place"] if scene.place else [])
    other = scene if same else change_facets(scene, words, words.random.choice(facets))
    return render_scene(scene, words), render_scene(other, words, vary=0.6 if same else 0.3)


def _meeting(words: WordSampler, same: bool) -> tuple[str, str]:
    """Two people: swapped roles change the meaning but not the words, so that word overlap does not help."""
    past, synonym = words.pick(MEETINGS)
    a = words.pick(PEOPLE)
    b = words.other(PEOPLE, a)
    number = words.pick(NUMBERS)
    forms = (
        [
            f"the {b[0]} was {past} by the {a[0]} {number} times",
            f"the {a[1]} {synonym} the {b[0]} {number} times",
        ]
        if same
        else [
            f"the {b[0]} {past} the {a[0]} {number} times",
            f"the {a[0]} was {past} by the {b[0]} {number} times",
            f"the {a[0]} {past} the {b[0]} {words.other(NUMBERS, number)} times",
        ]
    )
    return sentence(f"the {a[0]} {past} the {b[0]} {number} times"), sentence(words.random.choice(forms))


def _inference(words: WordSampler, label: int) -> tuple[str, str]:
    """Return a premise and a hypothesis: entailed (0), neutral (1) or contradicted (2).

    Negations, opposite verbs, reasons and general words come with every label, so that no word predicts the label.
    """
    scene = replace(draw_scene(words), negated=words.chance(0.4), reversed=words.chance(0.3))
    reason = words.pick(REASONS) if words.chance(0.4) else None
    premise = _because(render_scene(scene, words), reason)
    # a negated event entails neither a shorter nor a more general one
    conclusion = scene
    if not scene.negated:
        conclusion = replace(scene, place=scene.place if words.chance(0.4) else None, time=None, quality=None)
    general = not scene.negated and words.chance(0.35)
    kept = reason if scene.negated or words.chance(0.5) else None
    change = words.random.choice(["reason", "reason", "who", "action", "thing"]) if label == 1 else ""
    if change == "reason":
        kept = words.other(REASONS, reason)
    elif label == 1:
        conclusion, general = change_facets(conclusion, words, change), False
    elif label == 2:
        flips_verb = not scene.negated and not general and words.chance(0.4)
        conclusion = change_facets(conclusion, words, "reversed" if flips_verb else "negated")
    return premise, _because(render_scene(conclusion, words, vary=0.5, general=general), kept)


def _because(text: str, reason: str | None) -> str:
    return text if reason is None else f"{text[:-1]} {reason}."


def _question(scene: Scene, interrogative: str, words: WordSampler, varies: bool = False) -> str:
    synonym = int(varies and words.chance(0.6))
    who, thing, verb = scene.who[synonym], scene.thing[synonym], scene.action[2 if scene.reversed else 0]
    short, long = QUESTIONS[interrogative]
    if interrogative == "who":
        return (
            f"{short} {verb} the {thing}?"
            if words.chance(0.5)
            else f"{long} was the {thing} {PASSIVE.get(verb, verb)}?"
        )
    return f"{long if varies and words.chance(0.6) else short} did the {who} {BASES[verb]} the {thing}?"
