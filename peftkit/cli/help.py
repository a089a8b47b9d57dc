"""Turn the shipped YAML into the help page: the cookbook first, then every part and key with its own comment."""

from __future__ import annotations

from pathlib import Path

from peftkit import paths

JOBS = {
    "finetune": "train, score and record (the default)",
    "plan": "what it would train, cost and need, before any step",
    "evaluate": "score a run folder on its own or another task: run=DIR task=ax",
    "predict": "label a file or one text: run=DIR input=FILE",
    "merge": "fold an adapter into its base: run=DIR",
    "forgetting": "measure what a run's model forgot of its language, the method off, on and between: run=DIR",
    "downstream": "train a task from a run of language modelling and from its base: run=DIR model=bert task=sst2",
    "extend": "make terms tokens, listed or mined: extend.terms=FILE, extend.corpus=FILE_OR_FOLDER; then vocab=FOLDER",
    "embed": "write the vectors of texts: input=FILE output=vectors.parquet; of a trained model: run=DIR",
    "generate": "grow tasks out of seeds, with a local model or an endpoint: recipe=self_instruct, evol_instruct",
    "judge": "let a model compare answers, against the references: run=DIR, or of two runs: runs=[A,B]",
    "pretrain": "make the small GPT-2 or T5 that source=offline uses",
    "leaderboard": "compare all results under out, and those of others: results=[DIR,...]",
    "submission": "write the zip that the GLUE benchmark's site takes, from the best runs under out",
}


def help_text() -> str:
    """Return the help page."""
    recipes = {name: header(file) for name, file in paths.recipes().items()}
    conf = paths.conf_folder()
    parts = "\n\n".join(
        f"{group.upper()}S   {group}=NAME\n"
        + _rows({f.stem: header(f) for f in sorted((conf / group).glob("[!_]*.yaml"))})
        for group in ("model", "method", "task")
    )
    return f"""peftkit: fine-tune BERT, GPT-2 and T5, and find out which method to use.

COOKBOOK   python -m peftkit recipe=NAME [key=value ...]
{_rows(recipes)}

JOBS   job=NAME
{_rows(JOBS)}

{parts}

KEYS   key=value
{_keys(conf / "config.yaml")}

EXAMPLES
  python -m peftkit recipe=lora_glue                        LoRA on every GLUE task, then the table
  python -m peftkit recipe=lora_glue task=sst2 seed=3       one task
  python -m peftkit -m task=mrpc method=lora,ia3 seed=0,1   a comparison
  python -m peftkit recipe=lora_glue task=mrpc job=plan     before any step
  python -m peftkit recipe=lora_glue --cfg job              the composed config
  python -m peftkit job=leaderboard                         all results so far

FLAGS
  -m, --multirun     run every combination of values with commas
  -cd DIR            your own parts (DIR/model, DIR/method, DIR/task) and recipes (DIR/recipes)
  --cfg job          print the composed config and stop
  --version, --help"""


def header(file: Path) -> str:
    """Return the first comment of a YAML file that speaks to people."""
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("#") and not line.startswith("# @package"):
            return line.removeprefix("#").strip()
    return ""


def _rows(entries: dict[str, str]) -> str:
    width = max(map(len, entries), default=0)
    return "\n".join(f"  {name:<{width}}  {text}".rstrip() for name, text in entries.items())


def _keys(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    body = text[text.index("job:") : text.index("hydra:\n")]
    return "\n".join(f"  {line}" for line in body.rstrip().splitlines())
