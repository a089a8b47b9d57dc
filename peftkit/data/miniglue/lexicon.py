"""Words of miniglue, some of them held out of training, and scenes made of them, with their sentences."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class WordSampler:
    """A sampler of words: `stage` train never samples the held-out quarter, validation samples it half of the time."""

    random: random.Random
    stage: str  # train, validation, or all (unlabeled text)

    def pick(self, entries: Sequence[T]) -> T:
        if self.stage == "all":
            return self.random.choice(entries)
        held_out = entries[3::4]
        takes_held_out = self.stage == "validation" and held_out and self.chance(0.5)
        return self.random.choice(held_out if takes_held_out else [e for n, e in enumerate(entries) if n % 4 != 3])

    def other(self, entries: Sequence[T], than: T | None) -> T:
        """Pick an entry that is not the given one."""
        while (entry := self.pick(entries)) == than:
            pass
        return entry

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability


# (word, synonym, hypernym)
PEOPLE = [
    ("doctor", "physician", "person"), ("teacher", "instructor", "person"), ("lawyer", "attorney", "person"),
    ("singer", "vocalist", "person"), ("farmer", "grower", "person"), ("child", "kid", "person"),
    ("thief", "robber", "person"), ("painter", "artist", "person"), ("cook", "chef", "person"),
    ("soldier", "trooper", "person"), ("writer", "author", "person"), ("policeman", "officer", "person"),
    ("student", "pupil", "person"), ("driver", "chauffeur", "person"), ("guard", "watchman", "person"),
    ("sailor", "seaman", "person"), ("tailor", "dressmaker", "person"), ("judge", "magistrate", "person"),
    ("visitor", "guest", "person"), ("scientist", "researcher", "person"),
]  # fmt: skip
THINGS = [
    ("car", "automobile", "vehicle"), ("sofa", "couch", "piece of furniture"), ("novel", "storybook", "book"),
    ("violin", "fiddle", "musical instrument"), ("coat", "overcoat", "piece of clothing"), ("hammer", "mallet", "tool"),
    ("ring", "gold band", "piece of jewelry"), ("bicycle", "bike", "vehicle"), ("rug", "carpet", "piece of furniture"),
    ("photo", "photograph", "picture"), ("jar", "glass pot", "container"), ("motorbike", "motorcycle", "vehicle"),
    ("apple pie", "apple tart", "dessert"), ("purse", "handbag", "container"), ("laptop", "notebook computer", "machine"),
    ("ship", "vessel", "vehicle"), ("gun", "firearm", "weapon"), ("cup", "mug", "container"),
    ("piano", "grand piano", "musical instrument"), ("axe", "hatchet", "tool"),
]  # fmt: skip
# (past, synonym, opposite, base, third person)
ACTIONS = [
    ("bought", "purchased", "sold", "buy", "buys"), ("found", "discovered", "lost", "find", "finds"),
    ("repaired", "fixed", "broke", "repair", "repairs"), ("hid", "concealed", "displayed", "hide", "hides"),
    ("praised", "applauded", "criticized", "praise", "praises"), ("built", "constructed", "destroyed", "build", "builds"),
    ("received", "obtained", "gave away", "receive", "receives"), ("loved", "adored", "hated", "love", "loves"),
    ("accepted", "agreed to take", "rejected", "accept", "accepts"), ("cleaned", "washed", "stained", "clean", "cleans"),
    ("opened", "unlocked", "closed", "open", "opens"), ("raised", "lifted", "lowered", "raise", "raises"),
    ("remembered", "recalled", "forgot", "remember", "remembers"), ("kept", "retained", "threw away", "keep", "keeps"),
    ("started", "switched on", "stopped", "start", "starts"), ("protected", "defended", "attacked", "protect", "protects"),
]  # fmt: skip
PASSIVE = {
    "hid": "hidden",
    "broke": "broken",
    "gave away": "given away",
    "forgot": "forgotten",
    "threw away": "thrown away",
    "agreed to take": "accepted",
}
BASES = {action[0]: action[3] for action in ACTIONS} | {  # of verbs and their opposites, not of synonyms
    "sold": "sell", "lost": "lose", "broke": "break", "displayed": "display", "criticized": "criticize",
    "destroyed": "destroy", "gave away": "give away", "hated": "hate", "rejected": "reject", "stained": "stain",
    "closed": "close", "lowered": "lower", "forgot": "forget", "threw away": "throw away", "stopped": "stop",
    "attacked": "attack",
}  # fmt: skip
MEETINGS = [  # between two people: (past and passive, synonym)
    ("called", "phoned"), ("helped", "assisted"), ("warned", "alerted"), ("thanked", "expressed gratitude to"),
    ("followed", "went after"), ("hired", "employed"), ("blamed", "accused"), ("saved", "rescued"),
]  # fmt: skip
QUALITIES = [  # (adjective, synonym, opposite)
    ("big", "large", "small"), ("old", "ancient", "new"), ("expensive", "costly", "cheap"), ("heavy", "weighty", "light"),
    ("beautiful", "lovely", "ugly"), ("clean", "spotless", "dirty"), ("strange", "odd", "ordinary"),
    ("fragile", "delicate", "sturdy"), ("wet", "soaked", "dry"), ("shiny", "gleaming", "dull"),
]  # fmt: skip
PLACES = [
    "in the kitchen", "at the station", "in the garden", "near the river", "at the market", "in the library",
    "on the bridge", "at the harbor", "in the museum", "outside the theater", "in the village", "at the airport",
    "behind the church", "in the workshop", "on the beach", "at the hospital",
]  # fmt: skip
TIMES = [
    "yesterday", "on Monday", "last week", "in the morning", "on Friday", "two days ago", "in June", "last night",
    "in the evening", "at noon", "on Sunday", "a month ago", "in winter", "before dawn", "last year", "after lunch",
]  # fmt: skip
REASONS = [
    "because the weather was bad", "for a friend", "with great care", "in front of a crowd", "without any help",
    "to please the family", "after a long discussion", "for very little money",
]  # fmt: skip
NAMES = [  # women and men in turn
    "Anna", "Peter", "Maria", "John", "Sarah", "David", "Laura", "Tom", "Emma", "Paul", "Nina", "Mark", "Julia", "Oscar",
    "Clara", "Simon",
]  # fmt: skip
NUMBERS = ["two", "three", "four", "seven", "five", "six", "ten", "nine"]
GOOD = ["great", "wonderful", "funny", "superb", "moving", "clever", "charming", "delightful", "gripping", "fresh", "touching",
        "brilliant"]  # fmt: skip
BAD = ["bad", "boring", "dull", "dreadful", "awful", "silly", "predictable", "tedious", "clumsy", "stale", "lifeless",
       "terrible"]  # fmt: skip
PARTS = [
    "film", "plot", "acting", "script", "movie", "story", "direction", "dialogue", "comedy", "cast", "ending", "music",
]  # fmt: skip
VERY = ["very", "really", "quite", "extremely", "truly", "rather", "incredibly", "thoroughly"]
PLURAL = [("children", "child"), ("students", "student"), ("doctors", "doctor"), ("farmers", "farmer"), ("women", "woman"),
          ("singers", "singer"), ("drivers", "driver"), ("visitors", "visitor")]  # fmt: skip
REFLEXIVE = [("boy", "himself", "herself"), ("girl", "herself", "himself"), ("king", "himself", "themselves"),
             ("queen", "herself", "themselves")]  # fmt: skip
INTRANSITIVE = ["slept", "arrived", "laughed", "vanished", "coughed", "smiled", "fell", "waited"]
TRANSITIVE = ["devoured", "resembled", "abandoned", "possessed"]
FACETS: dict[str, Sequence[Any]] = {"who": PEOPLE, "action": ACTIONS, "thing": THINGS, "place": PLACES, "time": TIMES}


@dataclass(frozen=True)
class Scene:
    """An event; words are tuples of synonyms, so that wording and meaning vary separately."""

    who: tuple[str, str, str]
    action: tuple[str, str, str, str, str]
    thing: tuple[str, str, str]
    quality: tuple[str, str, str] | None
    place: str | None
    time: str | None
    negated: bool = False
    reversed: bool = False  # the opposite action


def draw_scene(words: WordSampler, full: bool = False) -> Scene:
    """Draw a scene; with `full`, every facet is set."""
    return Scene(
        who=words.pick(PEOPLE),
        action=words.pick(ACTIONS),
        thing=words.pick(THINGS),
        quality=words.pick(QUALITIES) if full or words.chance(0.4) else None,
        place=words.pick(PLACES) if full or words.chance(0.7) else None,
        time=words.pick(TIMES) if full or words.chance(0.6) else None,
    )


def render_scene(scene: Scene, words: WordSampler, vary: float = 0.0, general: bool = False) -> str:
    """Return a sentence for a scene; with probability `vary` each word becomes its synonym, and the order changes.

    `general` replaces the thing by its hypernym, and half of the professions by "person".
    """
    who = scene.who[1] if words.chance(vary) else scene.who[0]
    thing = scene.thing[1] if words.chance(vary) else scene.thing[0]
    if general:
        who, thing = ("person" if words.chance(0.5) else who), scene.thing[2]
    if scene.quality and not general:
        thing = f"{scene.quality[1] if words.chance(vary) else scene.quality[0]} {thing}"
    subject, target = f"the {who}", f"{article(thing)} {thing}" if general else f"the {thing}"
    verb = scene.action[2] if scene.reversed else scene.action[1] if words.chance(vary) else scene.action[0]
    adverbials = [part for part in (scene.place, scene.time) if part]
    tail = adverbials[::-1] if words.chance(0.5) else adverbials
    form = _form(words, bool(tail), vary)
    denied = f"did not {BASES[verb]}" if verb in BASES else f"never {verb}"
    predicate = denied if scene.negated else verb
    cores = {
        "passive": f"{target} {'was not' if scene.negated else 'was'} {PASSIVE.get(verb, verb)} by {subject}",
        "cleft": f"it was {subject} who {predicate} {target}",
    }
    core = cores.get(form, f"{subject} {predicate} {target}")
    return sentence(" ".join([f"{tail[0]},", core, *tail[1:]] if form == "front" else [core, *tail]))


def change_facets(scene: Scene, words: WordSampler, *facets: str) -> Scene:
    """Return the scene with other entries of FACETS, or with `negated` or `reversed` inverted."""
    for facet in facets:
        old: Any = getattr(scene, facet)
        changed: Any = words.other(FACETS[facet], old) if facet in FACETS else not old
        scene = replace(scene, **{facet: changed})
    return scene


def sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def _form(words: WordSampler, has_tail: bool, vary: float) -> str:
    """Choose the sentence form; the cleft does not occur in train."""
    forms = ["plain", "plain", "front"] if has_tail else ["plain"]
    if words.chance(0.25 + vary / 2):
        forms = ["passive"]
    if words.stage != "train" and words.chance(0.2):
        forms = ["cleft"]
    return words.random.choice(forms)
