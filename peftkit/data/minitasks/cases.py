"""Cases sampled from miniglue's word lists: an input and its one correct output."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from peftkit.data.miniglue import sst2
from peftkit.data.miniglue.lexicon import (
    ACTIONS,
    BAD,
    GOOD,
    PARTS,
    PEOPLE,
    PLACES,
    QUALITIES,
    THINGS,
    TIMES,
    WordSampler,
    change_facets,
    draw_scene,
    render_scene,
)

Case = tuple[str, str]
FILLERS = ("please", "simply", "kindly", "surely", "now")  # ignored in an instruction
REPETITIONS = {"two": 2, "three": 3, "four": 4}
NUMBER_WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
SLOTS: dict[str, list[str]] = {  # values of the slots of a text
    "times": list(REPETITIONS),
    "who": [who for who, _, _ in PEOPLE],
    "thing": [thing for thing, _, _ in THINGS],
    "place": PLACES,
    "time": TIMES,
    "part": PARTS,
    "quality": [*GOOD, *BAD],
}
IRREGULAR = {"child": "children", "thief": "thieves", "policeman": "policemen"}


def of_words(words: WordSampler, count: int, answer: Callable[[list[str]], str], separator: str = " ") -> Case:
    """Return `count` different nouns of one word each, and the answer to them."""
    nouns = [noun for noun, _, _ in (*PEOPLE, *THINGS) if " " not in noun]
    chosen = words.random.sample(nouns, count)
    return separator.join(chosen), answer(chosen)


def of_noun(words: WordSampler, answer: Callable[[str], str]) -> Case:
    noun = words.pick([*PEOPLE, *THINGS])[0]
    return noun, answer(noun)


def of_entry(words: WordSampler, entries: Sequence[tuple[str, ...]], given: int, answer: int) -> Case:
    """Return two columns of an entry of a word list."""
    entry = words.pick(entries)
    return entry[given], entry[answer]


def opposite(words: WordSampler) -> Case:
    one, _, other, *_ = words.pick([*QUALITIES, *ACTIONS])
    return (one, other) if words.chance(0.5) else (other, one)


def sentiment(words: WordSampler, label: str) -> Case:
    while (row := sst2(words))["label"] != (label == "positive"):
        pass
    return str(row["sentence"]), label


def yes_no_question(words: WordSampler, label: str) -> Case:
    scene = draw_scene(words, full=True)
    report = render_scene(scene, words)
    described = change_facets(scene, words, "place", "time", "who") if label == "no" else scene
    questions = [f"Was it {described.place}?", f"Was it {described.time}?", f"Was it the {described.who[0]}?"]
    return f"{report} {words.random.choice(questions)}", label


def scene_detail(words: WordSampler, name: str) -> Case:
    """Return a scene and one attribute of it (who, thing, place or time), as in the sentence."""
    scene = draw_scene(words, full=True)
    value = getattr(scene, name)
    return render_scene(scene, words), value if isinstance(value, str) else f"the {value[0]}"


def larger(words: WordSampler) -> Case:
    one, other = words.random.sample(range(1, 100), 2)
    return f"{one} and {other}", str(max(one, other))


def next_number(words: WordSampler) -> Case:
    index = words.random.randrange(len(NUMBER_WORDS) - 1)
    return NUMBER_WORDS[index], NUMBER_WORDS[index + 1]


def scene_sentence(words: WordSampler, who: str, thing: str) -> Case:
    entries = {entry[0]: entry for entry in (*PEOPLE, *THINGS)}
    scene = replace(draw_scene(words), who=entries[who], thing=entries[thing], quality=None)
    return "", render_scene(scene, words)
