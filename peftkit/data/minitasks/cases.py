"""Cases sampled from miniglue's word lists: an input and its one correct output."""

from __future__ import annotations

from dataclasses import replace

from peftkit.data.miniglue import scenes
from peftkit.data.miniglue.lexicon import ACTIONS, NAMES, PEOPLE, PLACES, QUALITIES, THINGS, TIMES, WordSampler
from peftkit.data.miniglue.single import BAD, GOOD, PARTS, sst2

Case = tuple[str, str]
FILLERS = ("please", "simply", "kindly", "surely", "now")  # ignored in an instruction
TIMES_OVER = {"two": 2, "three": 3, "four": 4}
COUNTED = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
SLOTS: dict[str, list[str]] = {  # values of the slots of a wording
    "times": list(TIMES_OVER),
    "who": [who for who, _, _ in PEOPLE],
    "thing": [thing for thing, _, _ in THINGS],
    "part": PARTS,
    "quality": [*GOOD, *BAD],
}
IRREGULAR = {"child": "children", "thief": "thieves", "policeman": "policemen"}


def normalize_instruction(text: str) -> str:
    """Return an instruction in lower case and without fillers."""
    return " ".join(word for word in text.lower().split() if word not in FILLERS)


def word_at(words: WordSampler, place: int) -> Case:
    chosen = _distinct_words(words, words.random.randrange(2, 6))
    return " ".join(chosen), chosen[place]


def opposite(words: WordSampler) -> Case:
    pairs = [(one, other) for one, _, other in QUALITIES] + [(one, other) for one, _, other, _, _ in ACTIONS]
    pair = words.pick(pairs)
    return pair if words.chance(0.5) else (pair[1], pair[0])


def synonym(words: WordSampler) -> Case:
    one, other, _ = words.pick([*PEOPLE, *THINGS, *QUALITIES])
    return one, other


def parity(words: WordSampler, label: str) -> Case:
    return str(2 * words.random.randrange(1, 50) + (label == "odd")), label


def sentiment(words: WordSampler, label: str) -> Case:
    while (row := sst2(words))["label"] != (label == "positive"):
        pass
    return str(row["sentence"]), label


def first_of_two(words: WordSampler) -> Case:
    pair = _distinct_words(words, 2)
    return ", ".join(pair), min(pair)


def count(words: WordSampler) -> Case:
    chosen = _distinct_words(words, words.random.randrange(2, 8))
    return " ".join(chosen), COUNTED[len(chosen) - 1]


def plural(words: WordSampler) -> Case:
    noun = _noun(words)
    return noun, IRREGULAR.get(noun, f"{noun}s")


def category(words: WordSampler) -> Case:
    thing, _, kind = words.pick(THINGS)
    return thing, kind


def yes_no_question(words: WordSampler, label: str) -> Case:
    scene = scenes.draw_scene(words, full=True)
    assert scene.place is not None and scene.time is not None  # a full scene has both
    report = scenes.render(scene, words)
    kept = label == "yes"
    place, time = (
        value if kept else words.other(known, value) for value, known in ((scene.place, PLACES), (scene.time, TIMES))
    )
    who = scene.who[0] if kept else words.other(PEOPLE, scene.who)[0]
    question = words.random.choice([f"Was it {place}?", f"Was it {time}?", f"Was it the {who}?"])
    return f"{report} {question}", label


def scene_detail(words: WordSampler, name: str) -> Case:
    """Return a scene and one attribute of it (who, thing, place or time), as the scene's sentence spells it."""
    scene = scenes.draw_scene(words, full=True)
    value = getattr(scene, name)
    return scenes.render(scene, words), value if isinstance(value, str) else f"the {value[0]}"


def repeated(words: WordSampler, times: str) -> Case:
    noun = _noun(words)
    return noun, " ".join([noun] * TIMES_OVER[times])


def larger(words: WordSampler) -> Case:
    one, other = words.random.sample(range(1, 100), 2)
    return f"{one} and {other}", str(max(one, other))


def backwards(words: WordSampler) -> Case:
    chosen = _distinct_words(words, words.random.randrange(2, 5))
    return " ".join(chosen), " ".join(reversed(chosen))


def infinitive(words: WordSampler) -> Case:
    action = words.pick(ACTIONS)
    return action[0], action[3]


def person_or_thing(words: WordSampler, label: str) -> Case:
    return words.pick(PEOPLE if label == "person" else THINGS)[words.random.randrange(2)], label


def negation(words: WordSampler, label: str) -> Case:
    return scenes.render(replace(scenes.draw_scene(words), negated=label == "yes"), words), label


def conjunction(words: WordSampler) -> Case:
    pair = _distinct_words(words, 2)
    return ", ".join(pair), " and ".join(pair)


def next_number(words: WordSampler) -> Case:
    place = words.random.randrange(len(COUNTED) - 1)
    return COUNTED[place], COUNTED[place + 1]


def first_name(words: WordSampler, label: str) -> Case:
    return words.pick(NAMES[label == "man" :: 2]), label


def scene_sentence(words: WordSampler, who: str, thing: str) -> Case:
    scene = scenes.draw_scene(words)
    people = {name: entry for entry in PEOPLE for name in entry[:1]}
    things = {name: entry for entry in THINGS for name in entry[:1]}
    return "", scenes.render(replace(scene, who=people[who], thing=things[thing], quality=None), words)


def _noun(words: WordSampler) -> str:
    return words.pick([*PEOPLE, *THINGS])[0]


def _distinct_words(words: WordSampler, count: int) -> list[str]:
    """Return `count` different nouns of one word."""
    singles = [noun for noun, _, _ in (*PEOPLE, *THINGS) if " " not in noun]
    return words.random.sample(singles, count)
