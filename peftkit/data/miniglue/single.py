"""Labelled single sentences of miniglue: acceptability and sentiment."""

from __future__ import annotations

from typing import Any

from peftkit.data.miniglue.lexicon import ACTIONS, NAMES, PEOPLE, PLACES, THINGS, WordSampler
from peftkit.data.miniglue.scenes import draw_scene, render, sentence

Row = dict[str, Any]
GOOD = ["great", "wonderful", "funny", "superb", "moving", "clever", "charming", "delightful", "gripping", "fresh", "touching",
        "brilliant"]  # fmt: skip
BAD = ["bad", "boring", "dull", "dreadful", "awful", "silly", "predictable", "tedious", "clumsy", "stale", "lifeless",
       "terrible"]  # fmt: skip
PARTS = [
    "film",
    "plot",
    "acting",
    "script",
    "movie",
    "story",
    "direction",
    "dialogue",
    "comedy",
    "cast",
    "ending",
    "music",
]
VERY = ["very", "really", "quite", "extremely", "truly", "rather", "incredibly", "thoroughly"]
PLURAL = [("children", "child"), ("students", "student"), ("doctors", "doctor"), ("farmers", "farmer"), ("women", "woman"),
          ("singers", "singer"), ("drivers", "driver"), ("visitors", "visitor")]  # fmt: skip
REFLEXIVE = [("boy", "himself", "herself"), ("girl", "herself", "himself"), ("king", "himself", "themselves"),
             ("queen", "herself", "themselves")]  # fmt: skip
ALONE = ["slept", "arrived", "laughed", "vanished", "coughed", "smiled", "fell", "waited"]  # take no object
NEEDY = ["devoured", "resembled", "abandoned", "possessed"]  # need one


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
    label = int(words.chance(0.68))
    shapes = [_agreement, _reflexive, _object, _order, _auxiliary, _determiner, _scene]
    held_out = [_question, _tense]
    pool = held_out if words.stage != "train" and words.chance(0.2) else shapes
    return {"sentence": sentence(words.random.choice(pool)(words, bool(label))), "label": label}


def _agreement(words: WordSampler, sound: bool) -> str:
    many, one = words.pick(PLURAL)
    action, thing = words.pick(ACTIONS), words.pick(THINGS)[0]
    is_many = words.chance(0.5)
    verb = action[3] if is_many == sound else action[4]
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
    if words.chance(0.5):
        return f"the {who} {words.pick(ALONE)}" + ("" if sound else f" the {thing}") + f" {words.pick(PLACES)}"
    return f"the {who} {words.pick(NEEDY)}" + (f" the {thing}" if sound else "") + f" {words.pick(PLACES)}"


def _order(words: WordSampler, sound: bool) -> str:
    who, thing, action = words.pick(PEOPLE)[0], words.pick(THINGS)[0], words.pick(ACTIONS)[0]
    place = words.pick(PLACES)
    if sound:
        return f"the {who} quickly {action} the {thing} {place}"
    return words.random.choice(
        [f"the {who} the {thing} quickly {action} {place}", f"{who} the {action} the {thing} quickly {place}",
         f"the {who} {action} quickly {place} thing the {thing}"]
    )  # fmt: skip


def _auxiliary(words: WordSampler, sound: bool) -> str:
    name, action, thing = words.pick(NAMES), words.pick(ACTIONS), words.pick(THINGS)[0]
    modal = words.random.choice(["will", "can", "must", "should"])
    if sound:
        return f"{name} {modal} {action[3]} the {thing} and {words.other(NAMES, name)} {modal} too"
    wrong = words.random.choice([f"{modal} {action[0]}", f"has {action[3]}", f"{modal} has {action[3]}"])
    return f"{name} {wrong} the {thing} and {words.other(NAMES, name)} {modal} too"


def _determiner(words: WordSampler, sound: bool) -> str:
    many, one = words.pick(PLURAL)
    phrase = words.random.choice(
        ["many {}", "several {}", "these {}"] if sound == words.chance(0.5) else ["every {}", "this {}"]
    )
    is_many = phrase.split()[0] in ("many", "several", "these")
    noun = many if is_many == sound else one
    return f"{phrase.format(noun)} {words.pick(ALONE)} {words.pick(PLACES)}"


def _scene(words: WordSampler, sound: bool) -> str:
    text = render(draw_scene(words), words)[:-1]
    if sound:
        return text[0].lower() + text[1:]
    tokens = (text[0].lower() + text[1:]).split()
    place = tokens.index("the")
    return " ".join(tokens[:place] + tokens[place + 1 : place + 2] + ["the"] + tokens[place + 2 :])


def _question(words: WordSampler, sound: bool) -> str:
    name, action = words.pick(NAMES), words.pick(ACTIONS)
    if sound:
        return f"what did {name} say that the {words.pick(PEOPLE)[0]} {action[0]}"
    return f"what did {name} wonder who {action[0]} {words.pick(PLACES)}"


def _tense(words: WordSampler, sound: bool) -> str:
    name, action, thing = words.pick(NAMES), words.pick(ACTIONS), words.pick(THINGS)[0]
    return f"{'tomorrow' if sound else 'yesterday'} {name} will {action[3]} the {thing}"


def opinion(words: WordSampler) -> str:
    """Return one opinion in several phrasings, for unlabelled text."""
    is_good = words.chance(0.5)
    mine, other = (GOOD, BAD) if is_good else (BAD, GOOD)
    part = words.pick(PARTS)
    return (
        f"The {part} was {words.pick(VERY)} {words.pick(mine)}. It was {words.pick(mine)}, not {words.pick(other)}. "
        f"People {'loved' if is_good else 'hated'} such a {words.pick(mine)} {part}."
    )
