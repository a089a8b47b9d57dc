"""miniglue: the columns, labels and splits of all GLUE tasks, generated from templates."""

import random
import re
import zlib
from collections.abc import Callable, Iterator

from peftkit.data.miniglue import pairs
from peftkit.data.miniglue.lexicon import (
    ACTIONS,
    ALONE,
    BAD,
    GOOD,
    NAMES,
    NEEDY,
    PARTS,
    PEOPLE,
    PLACES,
    PLURAL,
    REFLEXIVE,
    THINGS,
    VERY,
    WordSampler,
    article,
    change_facets,
    draw_scene,
    render_scene,
    sentence,
)
from peftkit.data.miniglue.pairs import Row

TEST_ROWS = 100


def miniglue(task: str, train_rows: int = 640, validation_rows: int = 200, seed: int = 0) -> dict[str, list[Row]]:
    """Return the splits of one task, shaped as nyu-mll/glue's; test labels are hidden (-1), AX's are not.

    A quarter of the words and some sentence forms do not occur in train, so that memorizing fails.
    """
    if task not in TASKS:
        raise ValueError(f"miniglue has no task {task}; it has {', '.join(TASKS)}")
    suffixes = ["_matched", "_mismatched"] if task == "mnli" else [""]
    held_out = {"validation": validation_rows, "test": TEST_ROWS}
    sizes = {f"{part}{suffix}": size for part, size in held_out.items() for suffix in suffixes}
    sizes = {"test": validation_rows} if task == "ax" else {"train": train_rows, **sizes}
    seen: set[tuple] = set()
    return {name: _examples(task, name, size, seed, seen) for name, size in sizes.items()}


def sentences(count: int, seed: int = 0) -> Iterator[str]:
    """Return unlabelled documents of several sentences with all words, for pretraining."""
    words = WordSampler(random.Random(zlib.crc32(f"sentences-{seed}".encode())), "all")
    return (_document(words) for _ in range(count))


def _examples(task: str, split: str, size: int, seed: int, seen: set[tuple]) -> list[Row]:
    seeded = random.Random(zlib.crc32(f"{task}-{split}-{seed}".encode()))
    words = WordSampler(seeded, "train" if split == "train" else "validation")
    rows: list[Row] = []
    while len(rows) < size:
        row = pairs.mnli(words, mismatched=True) if split.endswith("_mismatched") else TASKS[task](words)
        key = tuple(value for name, value in row.items() if name != "label")
        if key not in seen:
            seen.add(key)
            hidden = {"label": type(row["label"])(-1)} if split.startswith("test") and task != "ax" else {}
            rows.append({**row, **hidden, "idx": len(rows)})
    return rows


def _document(words: WordSampler) -> str:
    kind = words.random.random()
    if kind < 0.25:
        return _opinion(words)
    scene = draw_scene(words)
    lines = [render_scene(scene, words), render_scene(scene, words, vary=0.7)]
    if kind < 0.5:
        lines.append(render_scene(change_facets(scene, words, "reversed", "negated"), words))
    elif kind < 0.75:
        thing, synonym, category = words.pick(THINGS)
        lines.append(sentence(f"{article(thing)} {thing}, or {synonym}, is {article(category)} {category}"))
    else:
        lines += [render_scene(scene, words, vary=0.5, general=True), render_scene(draw_scene(words), words)]
    return " ".join(lines)


def _opinion(words: WordSampler) -> str:
    """Return one opinion in several phrasings."""
    is_good = words.chance(0.5)
    mine, other = (GOOD, BAD) if is_good else (BAD, GOOD)
    part = words.pick(PARTS)
    return (
        f"The {part} was {words.pick(VERY)} {words.pick(mine)}. It was {words.pick(mine)}, not {words.pick(other)}. "
        f"People {'loved' if is_good else 'hated'} such a {words.pick(mine)} {part}."
    )


def sst2(words: WordSampler) -> Row:
    """Sentiment of the decisive clause: negation, contrast and conditions invert single words."""
    label = int(words.chance(0.52))
    good, bad = words.pick(GOOD), words.pick(BAD)
    mine, other = (good, bad) if label else (bad, good)
    part = words.pick(PARTS)
    second = words.other(PARTS, part)
    very = words.pick(VERY) + " " if words.chance(0.4) else ""
    forms = [
        f"the {part} is {very}{mine}",
        f"the {part} is {very}{mine} and the {second} is {words.pick(GOOD if label else BAD)}",
        f"the {part} is not {other}",
        f"the {part} is never {other} and far from {words.pick(BAD if label else GOOD)}",
        f"although the {part} is {other}, the {second} makes it a {very}{mine} experience",
        f"i expected a {other} {part}, but it turned out {very}{mine}",
        f"the {second} is anything but {other}",
    ]
    held_out = [
        f"despite a {other} {second}, this is a {very}{mine} {part}",
        f"nobody could call the {part} {other}",
        f"what seems {other} at first becomes {very}{mine} in the end",
    ]
    pool = held_out if words.stage != "train" and words.chance(0.4) else forms
    return {"sentence": words.random.choice(pool) + " .", "label": label}


def cola(words: WordSampler) -> Row:
    """Seven in ten are acceptable; each unacceptable sentence has an acceptable form of the same shape."""
    sound = words.chance(0.68)
    shapes = [_agreement, _reflexive, _object, _order, _auxiliary, _determiner, _scene]
    pool = [_question, _tense] if words.stage != "train" and words.chance(0.2) else shapes
    return {"sentence": sentence(words.random.choice(pool)(words, sound)), "label": int(sound)}


def _agreement(words: WordSampler, sound: bool) -> str:
    many, one = words.pick(PLURAL)
    action, thing = words.pick(ACTIONS), words.pick(THINGS)[0]
    is_many = words.chance(0.5)
    verb = action[3 if is_many == sound else 4]
    extra = f" near the {words.pick(PEOPLE)[0]}" if words.chance(0.4) else ""
    return (
        f"the {many if is_many else one}{extra} {verb} the {thing} {'every day' if words.chance(0.5) else 'with care'}"
    )


def _reflexive(words: WordSampler, sound: bool) -> str:
    noun, right, wrong = words.pick(REFLEXIVE)
    verb = words.random.choice(["admired", "hurt", "described", "saw"])
    return f"the {noun} {words.pick(PLACES)} {verb} {right if sound else wrong}"


def _object(words: WordSampler, sound: bool) -> str:
    who, thing = words.pick(PEOPLE)[0], words.pick(THINGS)[0]
    verbs, has_object = (ALONE, not sound) if words.chance(0.5) else (NEEDY, sound)
    return f"the {who} {words.pick(verbs)}{f' the {thing}' if has_object else ''} {words.pick(PLACES)}"


def _order(words: WordSampler, sound: bool) -> str:
    who, thing, action = words.pick(PEOPLE)[0], words.pick(THINGS)[0], words.pick(ACTIONS)[0]
    place = words.pick(PLACES)
    wrong = [
        f"the {who} the {thing} quickly {action} {place}",
        f"{who} the {action} the {thing} quickly {place}",
        f"the {who} {action} quickly {place} thing the {thing}",
    ]
    return f"the {who} quickly {action} the {thing} {place}" if sound else words.random.choice(wrong)


def _auxiliary(words: WordSampler, sound: bool) -> str:
    name, action, thing = words.pick(NAMES), words.pick(ACTIONS), words.pick(THINGS)[0]
    modal = words.random.choice(["will", "can", "must", "should"])
    wrong = [f"{modal} {action[0]}", f"has {action[3]}", f"{modal} has {action[3]}"]
    verb = f"{modal} {action[3]}" if sound else words.random.choice(wrong)
    return f"{name} {verb} the {thing} and {words.other(NAMES, name)} {modal} too"


def _determiner(words: WordSampler, sound: bool) -> str:
    many, one = words.pick(PLURAL)
    is_many = sound == words.chance(0.5)
    determiner = words.random.choice(["many", "several", "these"] if is_many else ["every", "this"])
    return f"{determiner} {many if is_many == sound else one} {words.pick(ALONE)} {words.pick(PLACES)}"


def _scene(words: WordSampler, sound: bool) -> str:
    text = render_scene(draw_scene(words), words)[:-1]
    text = text[0].lower() + text[1:]
    return text if sound else re.sub(r"\bthe (\S+)", r"\1 the", text, count=1)


def _question(words: WordSampler, sound: bool) -> str:
    name, action = words.pick(NAMES), words.pick(ACTIONS)
    ending = (
        f"say that the {words.pick(PEOPLE)[0]} {action[0]}" if sound else f"wonder who {action[0]} {words.pick(PLACES)}"
    )
    return f"what did {name} {ending}"


def _tense(words: WordSampler, sound: bool) -> str:
    name, action, thing = words.pick(NAMES), words.pick(ACTIONS), words.pick(THINGS)[0]
    return f"{'tomorrow' if sound else 'yesterday'} {name} will {action[3]} the {thing}"


TASKS: dict[str, Callable[[WordSampler], Row]] = {
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
