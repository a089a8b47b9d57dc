"""Scenes (who, did what, to what, where, when) and the sentences that express them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from peftkit.data.miniglue.lexicon import (
    ACTIONS,
    OPPOSITE_BASES,
    PASSIVE,
    PEOPLE,
    PLACES,
    QUALITIES,
    THINGS,
    TIMES,
    WordSampler,
)


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


def render(scene: Scene, words: WordSampler, vary: float = 0.0, general: bool = False) -> str:
    """Return a sentence for a scene; with probability `vary` each word becomes its synonym, and the order changes.

    `general` names what the thing is one of, and a person instead of the profession.
    """
    who = scene.who[1] if words.chance(vary) else scene.who[0]
    thing = scene.thing[1] if words.chance(vary) else scene.thing[0]
    if general:
        who, thing = ("person" if words.chance(0.5) else who), scene.thing[2]
    if scene.quality and not general:
        thing = f"{scene.quality[1] if words.chance(vary) else scene.quality[0]} {thing}"
    subject, target = f"the {who}", f"{article(thing)} {thing}" if general else f"the {thing}"
    verb = scene.action[2] if scene.reversed else scene.action[1] if words.chance(vary) else scene.action[0]
    tail = [part for part in (scene.place, scene.time) if part]
    if words.chance(0.5):
        tail.reverse()
    form = _form(words, bool(tail), vary)
    if form == "passive":
        core = f"{target} {'was not' if scene.negated else 'was'} {passive(verb)} by {subject}"
    elif form == "cleft":
        core = f"it was {subject} who {_predicate(scene, verb)} {target}"
    else:
        core = f"{subject} {_predicate(scene, verb)} {target}"
    if form == "front" and tail:
        return sentence(f"{tail[0]}, {' '.join([core, *tail[1:]])}")
    return sentence(" ".join([core, *tail]))


def with_facet_changed(scene: Scene, words: WordSampler, facet: str) -> Scene:
    """Return the scene with one facet changed."""
    if facet == "who":
        return replace(scene, who=words.other(PEOPLE, scene.who))
    if facet == "action":
        return replace(scene, action=words.other(ACTIONS, scene.action))
    if facet == "thing":
        return replace(scene, thing=words.other(THINGS, scene.thing))
    if facet == "place":
        return replace(scene, place=words.other(PLACES, scene.place))
    if facet == "time":
        return replace(scene, time=words.other(TIMES, scene.time))
    if facet == "opposite":
        return replace(scene, reversed=not scene.reversed)
    if facet == "negation":
        return replace(scene, negated=not scene.negated)
    raise ValueError(f"a scene has no facet {facet}")


def passive(verb: str) -> str:
    return PASSIVE.get(verb, verb.replace("agreed to take", "accepted"))


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


def _predicate(scene: Scene, verb: str) -> str:
    if not scene.negated:
        return verb
    bases = {action[0]: action[3] for action in ACTIONS} | OPPOSITE_BASES
    return f"did not {bases[verb]}" if verb in bases else f"never {verb}"
