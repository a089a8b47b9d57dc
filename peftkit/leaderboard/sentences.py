"""Sentences that summarize the tests of a board."""

from collections import Counter
from collections.abc import Mapping, Sequence

from peftkit.leaderboard.rendering import FLAG, figure, score_name
from peftkit.leaderboard.runs import BoardEntry, grouped
from peftkit.leaderboard.transfer import transfer_sentences
from peftkit.leaderboard.verdict import BETTER, NOT_BETTER, Comparison, Ranking, Verdict, listed, rank_tasks


def headlines(
    entries: Sequence[BoardEntry],
    groups: Sequence[str],
    detectable: Mapping[tuple[str, str], float | str],
    comparisons: Sequence[Comparison] = (),
) -> dict[str, list[tuple[str, str]]]:
    """Return (task, sentence) pairs for each board; a sentence over all tasks has the task ''."""
    transfer = transfer_sentences(entries, comparisons)

    def about(board: str, task: Ranking) -> str:
        place = board, task.task
        return _sentence(task, entries, detectable.get(place)) + transfer.get(place, "")

    return {
        board: [*_overall(tasks, entries), *((each.task, about(board, each)) for each in tasks)]
        for board, tasks in grouped(rank_tasks(entries, groups), lambda each: each.board).items()
    }


def summary_sentences(entries: Sequence[BoardEntry], verdict: Verdict, title: str) -> dict[str, str]:
    """Return the sentence of each task of a board with a test, of two entries or against a baseline."""
    tested = {
        each.task
        for each in rank_tasks(entries, verdict.groups)
        if each.board == title and (each.is_tested or any(entries[n].against_baseline for n in each.ranked))
    }
    summaries = headlines(entries, verdict.groups, verdict.detectable, verdict.comparisons).get(title, [])
    return {task: text for task, text in summaries if task in tested}


def _overall(tasks: Sequence[Ranking], entries: Sequence[BoardEntry]) -> list[tuple[str, str]]:
    """Return which entries are among the best, and better than the baseline, on the most tested tasks."""
    tested = [each for each in tasks if each.is_tested and len(each.ranked) > 1]
    if len(tested) < 2:
        return []
    counts = Counter(
        name
        for each in tested
        for name in {entries[n].label for n in each.top if entries[n].against_baseline != NOT_BETTER}
    )
    useless = [each.task for each in tested if _all(NOT_BETTER, each.ranked, entries)]
    text = f"On {listed(useless)} no method is significantly better than the majority. " if useless else ""
    if counts:
        most = max(counts.values())
        names = sorted(name for name, count in counts.items() if count == most)
        text += (
            f"{listed(names)} {'is' if len(names) == 1 else 'are'} best, or not significantly different from the best, "
            f"on {most} of {len(tested)} tasks."
        )
    without = [each.task for each in tested if len(each.top) == len(each.ranked)]
    text += f" On {listed(without)} no methods differ significantly." if without else ""
    return [("", text.strip())]


def _sentence(task: Ranking, entries: Sequence[BoardEntry], detectable: float | str | None) -> str:
    if not task.ranked:
        return "no run has a valid score."
    name, *tied = (_flagged(entries[number]) for number in task.top)
    best = entries[task.top[0]]
    score = _score_text(best)
    more = _against_baseline(task, entries) + _power(best, detectable)
    if len(task.ranked) == 1:
        return f"{name} scores {score}; there is no other entry to compare with.{more}"
    if not task.is_tested:
        extreme = "highest" if best.greater_is_better else "lowest"
        return f"{name} has the {extreme} mean, {score}; differences were not tested.{more}"
    if len(task.top) == len(task.ranked):
        return f"no significant differences among {len(task.ranked)} entries; {name} has {score}.{more}"
    if not tied:
        others = "the other entry" if len(task.worse) == 1 else f"each of the other {len(task.worse)}"
        return f"{name} is best with {score}, significantly better than {others}.{more}"
    worse = f"; significantly worse: {listed([entries[number].label for number in task.worse])}" if task.worse else ""
    return (
        f"{name} has the best mean, {score}. No significant difference from the best: {listed(tied)}{worse}."
        f"{_fewest_parameters([entries[number] for number in task.top])}{more}"
    )


def _flagged(entry: BoardEntry) -> str:
    return entry.label + (f" ({FLAG})" if entry.against_baseline == NOT_BETTER else "")


def _score_text(entry: BoardEntry) -> str:
    """Return the score, and where it is a mean of several metrics, of which."""
    of = score_name(entry)
    return figure(entry, entry.score or 0) + (f" ({of})" if of.startswith("mean of ") else "")


def _power(best: BoardEntry, detectable: float | str | None) -> str:
    if detectable is None:
        return ""
    if not isinstance(detectable, str):
        detectable = f"{100 * detectable:.1f} points" if best.greater_is_better else f"{detectable:.3g}"
    return f" Minimum detectable difference (80 % power): {detectable}."


def _against_baseline(task: Ranking, entries: Sequence[BoardEntry]) -> str:
    """Return which entries are not significantly better than the baseline with a constant answer."""
    baselines = [entries[number] for number in task.baselines if entries[number].answer is not None]
    tested = [number for number in task.ranked if entries[number].against_baseline]
    if not baselines or not tested:
        return ""
    scores = " or ".join(dict.fromkeys(figure(each, each.score or 0) for each in baselines))
    name = f"the {baselines[0].method} ({scores})"
    if _all(BETTER, tested, entries):
        everyone = "It is" if len(tested) == 1 else f"All {len(tested)} are"
        return f" {everyone} significantly better than {name}."
    text = ""
    if failed := [entries[number].label for number in tested if entries[number].against_baseline == NOT_BETTER]:
        which = "None is" if len(failed) == len(tested) > 1 else ""
        text += (
            f" {which} significantly better than {name}."
            if which
            else f" Not significantly better than {name}: {listed(failed)}."
        )
    untested = [n for n in tested if entries[n].against_baseline not in (BETTER, NOT_BETTER)]
    return text + (f" Not tested against {name}: {listed([entries[n].label for n in untested])}." if untested else "")


def _all(outcome: str, numbers: Sequence[int], entries: Sequence[BoardEntry]) -> bool:
    return all(entries[number].against_baseline == outcome for number in numbers)


def _fewest_parameters(best: Sequence[BoardEntry]) -> str:
    """Return which of the best entries trains the fewest parameters."""
    known = [(entry.costs["trainable_params"], entry.label) for entry in best if "trainable_params" in entry.costs]
    if len(known) < 2:
        return ""
    least, name = min(known, key=lambda pair: pair[0])
    units = ((1e9, " billion"), (1e6, " million"), (1e3, " thousand"))
    count = next((f"{least / size:.3g}{unit}" for size, unit in units if least >= size), f"{least:.0f}")
    return f" Among these, {name} trains the fewest parameters, {count}."
