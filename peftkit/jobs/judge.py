"""job=judge: a language model compares the answers of a run with the references or with those of another run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peftkit.config import RunConfig
from peftkit.config.console import log
from peftkit.config.progress import stage
from peftkit.config.source import Source
from peftkit.generation import judging
from peftkit.generation.client import GenerationClient, describe_costs
from peftkit.generation.judging import AnswerPair
from peftkit.paths import safe_name
from peftkit.pipeline.answer_pairs import pair_runs, pair_with_references
from peftkit.pipeline.generation import generation_session, resolve_generator
from peftkit.pipeline.sources import warn_substitutions
from peftkit.results import run_folder
from peftkit.results.locks import locked_folder
from peftkit.results.run_result import RunResult

REFERENCES = "the references"
IDENTITY_KEYS = ("max_answer_tokens", "chat", "quantization", "request")  # keys of generate that identify a judge
JUDGE_FILES = ("journal.jsonl", "judged.jsonl", "judge.json")
MAX_UNPARSABLE = 0.5  # share of unparsable replies; above it the results are meaningless


def judge(config: RunConfig) -> Path:
    """Judge every pair of answers in both orders; return the folder of the verdicts.

    The folder is in the run folder, or in out/judge if two runs are compared.

    Raises:
        UserError: the runs do not match, their data has changed, or the endpoint refuses.
        GeneratorError: the endpoint no longer replies.
    """
    runs = [Path(folder) for folder in ([config.run] if config.run is not None else config.runs or [])]
    is_single = len(runs) == 1
    judged = RunResult.finished(runs[0]).record if is_single else None
    pairs, hidden = pair_with_references(config, runs[0]) if is_single else (pair_runs(config, runs), 0)
    model = resolve_generator(config)
    identity, selected = _identity(config, model), pairs[: config.task.max_eval_samples]
    folder = _folder(config, runs, identity, pairs)
    first, second = [*map(_run_name, runs), REFERENCES][:2]
    result = {"first": first, "second": second, "judge": identity, "of": len(pairs), "asked_for": len(selected)}
    with locked_folder(folder):
        finished = None if config.force else _finished(folder, len(selected))
        if finished is not None:
            log(f"finished already: {folder} (force=true judges again)")
            result = finished
        else:
            warn_substitutions(model)
            if hidden:
                log(f"!! {hidden} examples have no reference and are not judged")
            compared = f"{first} vs. {second}, {len(selected)} of {len(pairs)} examples"
            log(f"{compared}, judged by {identity['name']} -> {folder}")
            with generation_session(config, model, folder, JUDGE_FILES, result) as client:
                _judge_pairs(config, client, selected, folder, result)
    if judged is not None and result["ended"] is None:  # also a finished one: the run may have been trained again
        _record(runs[0], judged, result)
    _report(result)
    if finished is None:
        log(f"-> {folder}; verdicts with their replies: {folder / 'judged.jsonl'}")
    return folder


def _judge_pairs(
    config: RunConfig, client: GenerationClient, pairs: Sequence[AnswerPair], folder: Path, result: dict[str, Any]
) -> None:
    """Judge the pairs, and write verdicts and statistics."""
    settings = config.generate
    with stage("judging", len(pairs)) as progress:

        def show_count(done: int) -> None:
            progress.done, progress.note = done, describe_costs(client.costs())

        verdicts, ended = judging.judge_pairs(pairs, client, settings.max_answer_tokens, settings.batch, show_count)
    result |= {**judging.judging_statistics(verdicts), "ended": ended, "costs": client.costs()}
    if ended is not None:
        result["meta"]["status"] = "ended"
    run_folder.write_text(
        folder / "judged.jsonl", "".join(json.dumps(each.row(), ensure_ascii=False) + "\n" for each in verdicts)
    )


def _identity(config: RunConfig, model: Source) -> dict[str, Any]:
    """Return what verdicts depend on besides the answers; the `id` identifies a judge."""
    settings = config.generate
    identity: dict[str, Any] = {
        "name": Path(model.name).name if model.kind == "folder" else model.name,
        "generator": settings.generator,
        "revision": model.revision,
        "stands_in_for": model.substituted_for,
        "wording": judging.PROMPT_ID,
        "seed": config.seed,
        **{key: getattr(settings, key) for key in IDENTITY_KEYS},
    }
    return {**identity, "id": run_folder.digest(identity)}


def _folder(config: RunConfig, runs: Sequence[Path], identity: Mapping[str, Any], pairs: Sequence[AnswerPair]) -> Path:
    """Return RUN/judged/<judge>-<id>, or out/judge/<A>--<B>-<id>; the id is a hash of the judge and all pairs.

    The number of pairs to judge is not part of the id, so that a higher number continues.
    """
    run_id = run_folder.digest([identity, [asdict(pair) for pair in pairs]])
    if len(runs) == 1:
        return runs[0] / "judged" / f"{safe_name(identity['name'].strip('/'))[-60:]}-{run_id}"
    return Path(config.out, "judge", f"{'--'.join(safe_name(_run_name(run))[-60:] for run in runs)}-{run_id}")


def _run_name(folder: Path) -> str:
    """Return the method, seed and id of a run."""
    path = folder.resolve()
    return f"{path.parent.name}-{path.name}"


def _finished(folder: Path, count: int) -> dict[str, Any] | None:
    """Return the result of a finished folder with at least this number of verdicts."""
    file = folder / "judge.json"
    result = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    return result if result and result["meta"]["status"] == "finished" and result["rows"] >= count else None


def _record(folder: Path, run: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Add the statistics to those of other judges in the run's result.json."""
    excluded = ("schema", "run", "first", "second", "meta", "ended")
    entry = {name: value for name, value in result.items() if name not in excluded}
    with run_folder.updated_result(folder, run) as recorded:
        recorded["judged"] = {**(recorded.get("judged") or {}), result["judge"]["id"]: entry}


def _report(result: Mapping[str, Any]) -> None:
    """Print the statistics, with warnings if they are unreliable."""
    rows = result["rows"]
    if result["ended"] is not None:
        log(f"!! {rows:,} of {result['asked_for']:,} examples: raise generate.{result['ended']} to continue")
    if not rows:
        return
    if (share := result["unparsable_share"]) is not None and share > MAX_UNPARSABLE:
        log(
            f"!! {share:.0%} of the replies have no verdict and count as ties: {result['judge']['name']} does not "
            "follow the requested format; these results are meaningless"
        )
    if result["cut"]:
        log(f"!! {result['cut']:,} prompts were longer than the judge's context and were truncated at their start")
    print(
        f"{result['first']} vs. {result['second']}, judged by {result['judge']['name']}",
        *(f"  {name:<14}{text}" for name, text in _table(result).items()),
        sep="\n",
    )


def _table(result: Mapping[str, Any]) -> dict[str, str]:
    low, high = result["interval"]
    p_value, bias, swapped = result["sign_test_p"], result["position_bias"], result["swapped"]
    return {
        "win rate": f"{result['win_rate']:.1%}, 95 % interval {low:.1%} to {high:.1%}; ties count half",
        "examples": f"{result['rows']:,}: {result['wins']:,} won, {result['ties']:,} tied ({result['identical']:,} "
        f"identical), {result['losses']:,} lost",
        "sign test": "no decided examples"
        if p_value is None
        else f"p = {p_value:.3g} over {result['wins'] + result['losses']:,} decided examples",
        "position bias": "no pair has two verdicts"
        if bias is None
        else f"{bias:.1%} of {swapped['pairs']:,} verdicts changed with the order "
        f"({swapped['for_the_first']:,} for the first position, {swapped['for_the_second']:,} for the second)",
        "unparsable": f"{result['unparsable']:,} of {result['replies']:,} replies; {result['by_likelihood']:,} had no "
        "verdict of their own and got the likeliest",
        "costs": describe_costs(result["costs"]),
    }
