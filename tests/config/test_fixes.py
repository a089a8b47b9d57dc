"""The fix in a refusal is typed, and that refusal is gone; refusals without one are listed."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from helpers.commands import apply_fix, check

from peftkit.config import SECTIONS, RunConfig
from peftkit.config.errors import refusal

PACKAGE = Path(__file__).parents[2] / "peftkit"
CHECKS = PACKAGE / "config" / "checks"
KEYS = "|".join([*(field.name for field in fields(RunConfig)), *SECTIONS])
SUGGESTION = re.compile(rf"\b(?:use|set|drop|or|and|to|by|type|with|at) (?:\w+=\S+ )*(?:{KEYS})(?:\.[\w.]+)?=")
LISTED = Path(__file__).with_name("refusals_without_fix.txt")
COMMANDS = """
method=lorra
method=[lora]
method=[lora,ia3]
model=brt
task=mprc
recipe=lora_gleu
sed=3
seed=[1,2]
model.pooling=[cls]
task=sst2 task.domain=a domains.leave_out=[b,"c d"]
train.num_train_epochs=[1,2]
learning_rate=1
epochs=3
model.checkpont=x
tsk.text=[a]
task.words={a:b}
train.num_train_epoch=3
method.config.lora_alfa=3
method.config._target_=peft.LoraConfi
train.report_to=tensorbord
task.metrics=accuracy
task.metrics=[acuracy]
-m task.metrics=accuracy,f1
search=[0.3,1]
seed.x=1
train.weight_decay=inf
generate.max_tokens=99999999999999999999
method.config.layers_to_transform=-1
source=embedded
source=ofline
claim=small_date
task.loss_type=sigmod task=preferences
extend.init=pices job=extend
search.lr_multipliers=[0]
search.learning_rates=[1e-3,1e-3]
search.learning_rates=[1e-3] search.lr_multipliers=[1,3]
search.config.r=8
search.config.r=[8,8]
search.config.r=[0,8]
search.config.lora_dropout=[2]
search.config.rr=[4]
search.config._partial_=[true]
trial=true search.learning_rates=[1e-3] search.config.r=[4]
method=ia3 method.loraplus_lr_ratio=16
method=lora method.loraplus_lr_ratio=0
plan.memory_gb=0 job=plan
plan.measure=true
job=bench task=sst2 bench.variants=[tainer]
job=bench task=sst2 bench.variants=[]
job=bench task=sst2 bench.baseline=trainr
job=bench task=sst2 bench.variants=[loop,peftkit]
job=bench task=sst2 train.gradient_accumulation_steps=2
job=bench task=sst2 search.learning_rates=[1e-3,1e-4]
job=bench task=sst2 method=adapter
job=bench task=sst2 model=t5
job=bench task=squad
bench.seeds=3
model.keep_layers=[3,1]
task.matryoshka_dims=[0]
generate.instruction_length=[5,3]
task.labels=[a]
task=sst2 task.class_weights={positve:2}
task=sst2 task.class_weights={positive:0}
task=sst2 task.class_weights=balanced task.sampling=balanced
task=sst2 task.class_weights=balanced model=t5
task=sst2 task.focal_gamma=2 method=adalora
task=sst2 task.focal_gamma=2 train.label_smoothing_factor=0.1
task=sst2 task.sampling=balanced train.train_sampling_strategy=sequential
task=sst2 train.train_sampling_strategy=token_budgt
task=sst2 train.accelerator_config={use_seedable_sampler:false}
task=retrieval task.dataset=x.jsonl train.train_sampling_strategy=token_budget
task=stsb task.sampling=balanced
task=sst2 task.label=[a,b]
task=stsb task.label_order=[a]
task.text=[]
task.metrics=[]
model=gpt2 model.pooling=mean
model=t5 task=preferences
model=bert task=preferences
model=t5_encoder model.pooling=cls
model=t5 model.keep_layers=[0,1]
model.keep_layers=[0] method=lora
trial=true search.lr_multipliers=[1,3]
train.bf16=true train.fp16=true
train.eval_strategy=epoch
calibration.holdout=0.1 task=stsb
calibration.holdout=0.1 task=sst2 task.folds=5
calibration.thresholds=true calibration.holdout=0.1 task=sst2
calibration.thresholds=true task=multilabel task.dataset=x.jsonl task.text=[text] task.label=labels
task=sst2 task.folds=1
task=sst2 task.fold=-1 task.folds=5
task=sst2 task.folds=5 task.fold=5
task=sst2 task.fold=1
task=sst2 task.folds=5 task.max_eval_samples=9
task=sst2 task.folds=5 job=plan
task=sst2 task.folds=5 trial=true
task=squad task.folds=5
task=squad task.domain=a
task=sst2 domains.leave_out=a
task=sst2 task.domain=label
task=sst2 task.shift=[label] source=hub
task=sst2 task.shift=[lable] source=offline
task=sst2 task.domain=a domains.leave_out=b domains.target=c domains.target_labels=5
task=sst2 task.domain=a domains.target_labels=5
task=sst2 task.domain=a domains.target=b
task=sst2 task.domain=a domains.leave_out=all trial=true
task=sst2 task.domain=a domains.leave_out=all job=plan
task=sst2 task.domain=a domains.leave_out=all calibration.holdout=0.1
task=sst2 task.domain=a domains.leave_out=b task.folds=5
task=sst2 task.domain=a domains.target=b domains.target_labels=5 task.sampling=balanced
task=sst2 task.domain=a domains.objective=adversrial
task=sst2 task.domain=a domains.objective=group_dro model=t5
task=sst2 task.domain=a domains.objective=group_dro method=adalora
task=sst2 task.domain=a domains.objective=group_dro task.focal_gamma=2
task=sst2 task.domain=a domains.objective=group_dro train.gradient_accumulation_steps=2
task=sst2 task.domain=a domains.objective=adversarial method=linear_probe
task=sst2 task.domain=a domains.objective=confusion method=untuned
task=sst2 task.domain=a domains.objective=group_dro domains.step_size=0
job=bench task=sst2 task.domain=a domains.objective=group_dro
job=predict input=a run=x predict.abstain=80
job=serve run=x serve.port=70000
job=serve run=x serve.max_batch_delay=2
job=serve run=x serve.max_examples=500
job=serve run=x serve.host=' '
job=serve run=x runs=[y]
job=predict run=x input=a serve.port=1
job=predict input=a run=x predict.target_accuracy=2
predict.abstain=0.8
early_stopping.patience=3 train.eval_strategy=no
early_stopping.patience=3 train.eval_strategy=steps train.save_strategy=epoch
method=adalora distill.teacher=x
start=x method=zero_shot model=gpt2
start=x search.config.r=[4,8]
job=continual
job=continual tasks=[mrpc,rte] task.folds=3
task=preferences model=gpt2 train.label_smoothing_factor=0.1
task=preferences model=gpt2 method=adalora
task=preferences model=gpt2 method=few_shot
task=preferences model=gpt2 task.loss_type=robust
task=preferences model=gpt2 task.label_smoothing=0.1
model=gpt2 distill.teacher=x distill.alpha=0.3 task=seq2seq
task.packing=true task=sst2
task=language_modeling task.packing=true task.join_documents=true
task=language_modeling model=gpt2 task.whole_words=true
task=language_modeling task.splits.validation=[a,b]
task=language_modeling train.dataloader_persistent_workers=true
task=language_modeling task.template=a
task=language_modeling task.id=a
task=instructions model=gpt2 task.text=[a,b]
task=instructions model=gpt2 task.label=a
task=instructions model=gpt2 task.template=a task.label=a
task=retrieval task.text=[a,b] train.per_device_train_batch_size=1
task=sst2 task.stride=3
task=sst2 task.label=null
task=sst2 task.text=[a,b,c]
task=sst2 task.splits.trian=x
task=sst2 task.splits.validation=dev
task=mnli task.metrics=[f1]
task=sst2 task.prompt='a'
method=zero_shot model=gpt2 task.prompt='a'
method=zero_shot model=gpt2 task.packing=true
method=zero_shot model=gpt2 task.template="'{sentence}'"
method=zero_shot model=gpt2 method.config.shots=2
method=few_shot model=gpt2 method.config.shots=0
method=zero_shot model=gpt2 task=stsb task.verbalizer={0:No}
method=zero_shot model=gpt2 task=regression task.dataset=x.csv task.text=[a] task.label=b
method=zero_shot model=gpt2 task=seq2seq method.config.calibrate=true
method=few_shot model=gpt2 task=causal_lm task.text=[a]
job=predict task=sst2 input=a run=x
job=evaluate run=x task.prompt=a
job=ood run=x
job=ood run=x task=cola ood.shuffle=true
job=export run=x
job=export run=x format=transformer
job=export run=x format=transformers output=peftkit
job=finetune results=[x]
job=finetune run=x
job=finetune runs=[x]
job=finetune input=x
job=finetune output=x
job=finetune extend.terms=x
job=downstream run=x task=language_modeling
job=combine
job=combine runs=[x,y] weights=[1]
job=combine runs=[x] combine.method=cat
job=combine runs=[x,y] combine.method=tie
job=combine runs=[x,y] combine.method=ties
job=combine runs=[x,y] combine.density=0.5
job=combine runs=[x,y] combine.majority_sign_method=total
job=combine runs=[x,y] combine.svd_rank=8
job=combine runs=[x,y] combine.method=cat combine.extract_rank=8
weights=[1]
job=judge run=x runs=[x,y]
job=judge runs=[x,x]
job=judge run=x generate.seeds=x
generate.seeds=x
generate.base_url=http://x
job=generate recipe=self_instruct model=bert
job=generate recipe=self_instruct generate.base_url=http://x
job=generate recipe=self_instruct generate.algorithm=evol_instruc
job=generate recipe=self_instruct generate.generator=endpoint
job=generate recipe=self_instruct generate.generator=endpoint generate.base_url=x generate.endpoint_model=y
job=generate recipe=self_instruct generate.max_cost=1
job=embed input=a output=x.npy run=x vocab=y
vocab=x method=ia3
task=sst2 model.pairs=apart
task=mrpc model=gpt2 model.pairs=apart
task=mrpc model=minilm method=mean_embedding model.pairs=apart
task=squad model.pairs=apart
task=mrpc task.domain=a model=minilm model.pairs=apart domains.objective=adversarial
tasks=[sst2,mrpc] multitask.tags=true model=t5
tasks=[sst2,mrpc] multitask.tags=true method=ia3
job=push run=x
job=push run=x repo=name
job=push run=x repo=a/b push.revision=a..b
job=push run=x repo=a/b push.what=adaptor
job=push run=x repo=a/b push.base_model=a--b/c
task.dataset='my data, v=2.csv' task=classification
task=squad method=peft method.config._target_=peft.PromptTuningConfig
""".strip().splitlines()


@pytest.mark.parametrize(
    "line", [pytest.param(line, marks=pytest.mark.slow if number % 3 else ()) for number, line in enumerate(COMMANDS)]
)
def test_the_fix_of_a_refusal_corrects_it(line: str) -> None:
    command = shlex.split(line)
    flags, overrides = command[: command[0] == "-m"], command[command[0] == "-m" :]
    errors = check(overrides, multirun=bool(flags))
    fixes = [(error, fix) for error in errors for fix in getattr(error, "fix", ())]
    assert fixes, errors
    for error, fix in fixes:
        changed = apply_fix(overrides, fix)
        left = check([each for each in changed if each != "-m"], multirun="-m" in [*flags, *changed])
        assert str(error) not in left, fix


def test_a_fix_is_rendered() -> None:
    assert refusal("a is wrong", "a=1", "~a") == "a is wrong; use a=1, or drop it"
    assert refusal("this is wrong", "a=1 b=2 ~c", verb="set") == "this is wrong; set a=1 b=2 and drop c"
    assert refusal("a and b exclude each other", "~a ~b").fix == ("~a ~b",)


def messages_without_fix() -> Iterator[str]:
    """Yield the plain texts of rules and generators in config/checks, and of errors elsewhere that name an override."""
    for file in sorted(PACKAGE.rglob("*.py")):
        if file.parent != CHECKS:
            yield from _errors_with_override(file)
    for file in sorted(CHECKS.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            is_rule = isinstance(node, ast.Tuple) and len(node.elts) == 2
            found = node.elts[1] if is_rule else node.value if isinstance(node, ast.Yield) else None
            if isinstance(found, ast.Tuple):
                found = found.elts[-1]
            text = ast.unparse(found) if isinstance(found, (ast.JoinedStr, ast.Constant)) else ""
            if " " in text:
                yield f"{file.name}: {text[:90]}"


def _errors_with_override(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        if node.func.id not in ("UserError", "refuse"):
            continue
        for found in [each.elts[-1] if isinstance(each, ast.Tuple) else each for each in node.args]:
            text = ast.unparse(found) if isinstance(found, (ast.JoinedStr, ast.Constant)) else ""
            if SUGGESTION.search(text):
                yield f"{file.relative_to(PACKAGE)}: {text[:90]}"


def test_refusals_without_a_fix_are_listed_with_a_reason() -> None:
    lines = [line.rsplit(" | ", 1) for line in LISTED.read_text(encoding="utf-8").splitlines()]
    assert all(len(line) == 2 and line[1] for line in lines)
    assert sorted({line[0] for line in lines}) == sorted(set(messages_without_fix()))
