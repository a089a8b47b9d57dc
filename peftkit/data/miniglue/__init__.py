"""miniglue: the columns, labels and splits of all GLUE tasks, generated from templates."""

import random
import re
import zlib
from collections.abc import Callable, Iterator

from peftkit.data.miniglue import pairs
from peftkit.data.miniglue.lexicon import (
    ACTIONS,
    BAD,
    GOOD,
    INTRANSITIVE,
    NAMES,
    PARTS,
    PEOPLE,
    PLACES,
    PLURAL,
    REFLEXIVE,
    THINGS,
    TRANSITIVE,
    VERY,
    WordSampler,
    article,
    change_facets,
    draw_scene,
    render_scene,
    sentence,
)
from peftkit.data.miniglue.pairs import Example
from peftkit.data.miniglue.shifts import DOMAINS, with_domains

__all__ = ["DOMAINS", "TASKS", "TEST_EXAMPLES", "miniglue", "sentences", "with_domains"]

TEST_EXAMPLES = 100


def miniglue(
    task: str, train_examples: int = 640, validation_examples: int = 200, seed: int = 0
) -> dict[str, list[Example]]:
    """Return the splits of one task, in the format of nyu-mll/glue; test labels are hidden (-1), AX's are not.

    A quarter of the words and some sentence forms do not occur in train, so that memorization is not enough.
    """
    if task not in TASKS:
        raise ValueError(f"miniglue has no task {task}; it has {', '.join(TASKS)}")
    suffixes = ["_matched", "_mismatched"] if task == "mnli" else [""]
    held_out = {"validation": validation_examples, "test": TEST_EXAMPLES}
    sizes = {f"{part}{suffix}": size for part, size in held_out.items() for suffix in suffixes}
    sizes = {"test": validation_examples} if task == "ax" else {"train": train_examples, **sizes}
    seen: set[tuple] = set()
    return {name: _examples(task, name, size, seed, seen) for name, size in sizes.items()}


def sentences(count: int, seed: int = 0) -> Iterator[str]:
    """Return unlabeled documents of several sentences with all words, for pretraining."""
    words = WordSampler(random.Random(zlib.crc32(f"sentences-{seed}".encode())), "all")
    return (_document(words) for _ in range(count))


def _examples(task: str, split: str, size: int, seed: int, seen: set[tuple]) -> list[Example]:
    seeded = random.Random(zlib.crc32(f"{task}-{split}-{seed}".encode()))
    words = WordSampler(seeded, "train" if split == "train" else "validation")
    examples: list[Example] = []
    while len(examples) < size:
        example = pairs.mnli(words, mismatched=True) if split.endswith("_mismatched") else TASKS[task](words)
        key = tuple(value for name, value in example.items() if name != "label")
        if key not in seen:
            seen.add(key)
            hidden = {"label": type(example["label"])(-1)} if split.startswith("test") and task != "ax" else {}
            examples.append({**example, **hidden, "idx": len(examples)})
    return examples


def _document(words: WordSampler) -> str:
    draw = words.random.random()
    if draw < 0.25:
        return _opinion(words)
    scene = draw_scene(words)
    lines = [render_scene(scene, words), render_scene(scene, words, vary=0.7)]
    if draw < 0.5:
        lines.append(render_scene(change_facets(scene, words, "reversed", "negated"), words))
    elif draw < 0.75:
        thing, synonym, category = words.pick(THINGS)
        lines.append(sentence(f"{article(thing)} {thing}, or {synonym}, is {article(category)} {category}"))
    else:
        lines += [render_scene(scene, words, vary=0.5, general=True), render_scene(draw_scene(words), words)]
    return " ".join(lines)


def _opinion(words: WordSampler) -> str:
    """Return one opinion in several phrasings."""
    is_good = words.chance(0.5)
    fitting, opposite = (GOOD, BAD) if is_good else (BAD, GOOD)
    part = words.pick(PARTS)
    return (
        f"The {part} was {words.pick(VERY)} {words.pick(fitting)}. It was {words.pick(fitting)}, not {words.pick(opposite)}. "
        f"People {'loved' if is_good else 'hated'} such a {words.pick(fitting)} {part}."
    )


def sst2(words: WordSampler) -> Example:
    """Sentiment of the decisive clause: negation, contrast and conditions invert single words."""
    label = int(words.chance(0.52))
    good, bad = words.pick(GOOD), words.pick(BAD)
    fitting, opposite = (good, bad) if label else (bad, good)
    part = words.pick(PARTS)
    second = words.other(PARTS, part)
    very = words.pick(VERY) + " " if words.chance(0.4) else ""
    forms = [
        f"the {part} is {very}{fitting}",
        f"the {part} is {very}{fitting} and the {second} is {words.pick(GOOD if label else BAD)}",
        f"the {part} is not {opposite}",
        f"the {part} is never {opposite} and far from {words.pick(BAD if label else GOOD)}",
        f"although the {part} is {opposite}, the {second} makes it a {very}{fitting} experience",
        f"i expected a {opposite} {part}, but it turned out {very}{fitting}",
        f"the {second} is anything but {opposite}",
    ]
    held_out = [
        f"despite a {opposite} {second}, this is a {very}{fitting} {part}",
        f"nobody could call the {part} {opposite}",
        f"what seems {opposite} at first becomes {very}{fitting} in the end",
    ]
    pool = held_out if words.stage != "train" and words.chance(0.4) else forms
    return {"sentence": words.random.choice(pool) + " .", "label": label}


def cola(words: WordSampler) -> Example:
    """Seven in ten are acceptable; each unacceptable sentence has an acceptable form of the same shape."""
    acceptable = words.chance(0.68)
    shapes = [_agreement, _reflexive, _object, _order, _auxiliary, _determiner, _scene]
    pool = [_question, _tense] if words.stage != "train" and words.chance(0.2) else shapes
    return {"sentence": sentence(words.random.choice(pool)(words, acceptable)), "label": int(acceptable)}


def _agreement(words: WordSampler, acceptable: bool) -> str:
    many, one = words.pick(PLURAL)
    action, thing = words.pick(ACTIONS), words.pick(THINGS)[0]
    is_many = words.chance(0.5)
    verb = action[3 if is_many == acceptable else 4]
    extra = f" near the {words.pick(PEOPLE)[0]}" if words.chance(0.4) else ""
    return (
        f"the {many if is_many else one}{extra} {verb} the {thing} {'every day' if words.chance(0.5) else 'with care'}"
    )


def _reflexive(words: WordSampler, acceptable: bool) -> str:
    noun, right, wrong = words.pick(REFLEXIVE)
    verb = words.random.choice(["admired", "hurt", "described", "saw"])
    return f"the {noun} {words.pick(PLACES)} {verb} {right if acceptable else wrong}"


def _object(words: WordSampler, acceptable: bool) -> str:
    who, thing = words.pick(PEOPLE)[0], words.pick(THINGS)[0]
    verbs, has_object = (INTRANSITIVE, not acceptable) if words.chance(0.5) else (TRANSITIVE, acceptable)
    return f"the {who} {words.pick(verbs)}{f' the {thing}' if has_object else ''} {words.pick(PLACES)}"


def _order(words: WordSampler, acceptable: bool) -> str:
    who, thing, action = words.pick(PEOPLE)[0], words.pick(THINGS)[0], words.pick(ACTIONS)[0]
    place = words.pick(PLACES)
    wrong = [
        f"the {who} the {thing} quickly {action} {place}",
        f"{who} the {action} the {thing} quickly {place}",
        f"the {who} {action} quickly {place} thing the {thing}",
    ]
    return f"the {who} quickly {action} the {thing} {place}" if acceptable else words.random.choice(wrong)


def _auxiliary(words: WordSampler, acceptable: bool) -> str:
    name, action, thing = words.pick(NAMES), words.pick(ACTIONS), words.pick(THINGS)[0]
    modal = words.random.choice(["will", "can", "must", "should"])
    wrong = [f"{modal} {action[0]}", f"has {action[3]}", f"{modal} has {action[3]}"]
    verb = f"{modal} {action[3]}" if acceptable else words.random.choice(wrong)
    return f"{name} {verb} the {thing} and {words.other(NAMES, name)} {modal} too"


def _determiner(words: WordSampler, acceptable: bool) -> str:
    many, one = words.pick(PLURAL)
    is_many = acceptable == words.chance(0.5)
    determiner = words.random.choice(["many", "several", "these"] if is_many else ["every", "this"])
    return f"{determiner} {many if is_many == acceptable else one} {words.pick(INTRANSITIVE)} {words.pick(PLACES)}"


def _scene(words: WordSampler, acceptable: bool) -> str:
    text = render_scene(draw_scene(words), words)[:-1]
    text = text[0].lower() + text[1:]
    return text if acceptable else re.sub(r"\bthe (\S+)", r"\1 the", text, count=1)


def _question(words: WordSampler, acceptable: bool) -> str:
    name, action = words.pick(NAMES), words.pick(ACTIONS)
    ending = (
        f"say that the {words.pick(PEOPLE)[0]} {action[0]}"
        if acceptable
        else f"wonder who {action[0]} {words.pick(PLACES)}"
    )
    return f"what did {name} {ending}"


def _tense(words: WordSampler, acceptable: bool) -> str:
    name, action, thing = words.pick(NAMES), words.pick(ACTIONS), words.pick(THINGS)[0]
    return f"{'tomorrow' if acceptable else 'yesterday'} {name} will {action[3]} the {thing}"


TASKS: dict[str, Callable[[WordSampler], Example]] = {
    "cola": cola,
    "sst2": sst2,
    "mrpc": pairs.mrpc,
    "qqp": pairs.qqp,
    "stsb": pairs.stsb,
    "mnli": pairs.mnli,
    "qnli": pairs.qnli,
    "rte": pairs.rte,
    "wnli": pairs.wnli,
    "ax": pairs.mnli,
}
