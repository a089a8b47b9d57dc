"""Word lists of miniglue, and a sampler that holds some words out of training."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class WordSampler:
    """A sampler of words: `stage` train never samples the held-out quarter, validation samples it half of the time."""

    random: random.Random
    stage: str  # train, validation, or all (unlabelled text)

    def pick(self, entries: Sequence[T]) -> T:
        known = [entry for number, entry in enumerate(entries) if number % 4 != 3]
        held_out = [entry for number, entry in enumerate(entries) if number % 4 == 3]
        if self.stage == "train" or not held_out:
            return self.random.choice(known)
        if self.stage == "all":
            return self.random.choice(list(entries))
        return self.random.choice(held_out if self.random.random() < 0.5 else known)

    def other(self, entries: Sequence[T], than: T) -> T:
        """Pick an entry that is not the given one."""
        while (entry := self.pick(entries)) == than:
            pass
        return entry

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability


# (word, synonym, what it is one of)
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
}
OPPOSITE_BASES = {
    "sold": "sell", "lost": "lose", "broke": "break", "displayed": "display", "criticized": "criticize",
    "destroyed": "destroy", "gave away": "give away", "hated": "hate", "rejected": "reject", "stained": "stain",
    "closed": "close", "lowered": "lower", "forgot": "forget", "threw away": "throw away", "stopped": "stop",
    "attacked": "attack",
}  # fmt: skip
MEETINGS = [  # between two people: (past, passive, synonym)
    ("called", "called", "phoned"), ("helped", "helped", "assisted"), ("warned", "warned", "alerted"),
    ("thanked", "thanked", "expressed gratitude to"), ("followed", "followed", "went after"),
    ("hired", "hired", "employed"), ("blamed", "blamed", "accused"), ("saved", "saved", "rescued"),
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
