"""Plain PEFT beside peftkit on the same tiny model, fault by fault: why peftkit goes another way there.

Each test pins down the fault itself, by numbers or by the exception. So a PEFT release that mends one makes its test
fail here, which tells us that peftkit's own way may go. What AdaLoRA's schedule does once it is wired is in test_jobs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.commands import check, compose_config
from helpers.soft_prompt_models import LONG, MODELS, SHORT, answer, batch, build, wrapped
from omegaconf import OmegaConf
from peft import (
    AdaLoraConfig,
    BOFTConfig,
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    OFTConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
    prepare_model_for_kbit_training,
)
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from peftkit.config import RunConfig, UserError
from peftkit.methods import apply_method, load_adapter, merge_adapter
from peftkit.models.checkpoints import locate
from peftkit.models.load import load_model
from peftkit.models.tokenizer import load_tokenizer
from peftkit.pipeline.build import instantiate_method

THEIRS = {"prompt": PromptTuningConfig, "prefix": PrefixTuningConfig}


def plain(name: str, kind: str) -> Any:
    """Return PEFT's own soft prompt on the model that `wrapped` gives ours."""
    torch.manual_seed(1)
    config = THEIRS[kind](task_type=MODELS[name][2], num_virtual_tokens=3)
    return get_peft_model(build(name), config).eval()


@pytest.mark.parametrize(
    ("kind", "side", "given"),
    [("prompt", "right", False), ("prompt", "left", False), ("prompt", "left", True), ("prefix", "left", False)],
)
def test_gpt2_classification_reads_its_padding(kind: str, side: str, given: bool) -> None:
    """On the right PEFT's prompt pools a pad; on the left pads count as positions, even where positions are given."""
    alone, both = batch("gpt2-cls", [SHORT]), batch("gpt2-cls", [LONG, SHORT], side)
    if given:  # PEFT's prefix takes them and is right then
        both["position_ids"] = (both["attention_mask"].cumsum(-1) - 1).clamp(min=0)

    def distance(model: Any) -> float:
        with torch.no_grad():
            return float((model(**both).logits[1] - model(**alone).logits[0]).abs().max())

    assert distance(plain("gpt2-cls", kind)) > 1e-2
    assert distance(wrapped("gpt2-cls", kind)) < 1e-5


def test_gpt2_classification_with_a_prompt_pools_the_position_of_the_last_pad() -> None:
    model, inputs = plain("gpt2-cls", "prompt"), batch("gpt2-cls", [LONG, SHORT])
    pooled = model(**inputs).logits[1]
    base = model.get_base_model()
    states = torch.cat([model.get_prompt(2), base.transformer.wte(inputs["input_ids"])], dim=1)
    mask = torch.cat([torch.ones(2, 3, dtype=torch.long), inputs["attention_mask"]], dim=1)
    by_position = base.score(base.transformer(inputs_embeds=states, attention_mask=mask).last_hidden_state)[1]
    last_token, last_pad = 3 + len(SHORT) - 1, 3 + len(LONG) - 1
    torch.testing.assert_close(pooled, by_position[last_pad], rtol=0, atol=1e-5)
    assert not torch.allclose(pooled, by_position[last_token], atol=1e-2)


def test_bert_qa_with_a_prompt_trains_on_unshifted_spans() -> None:
    inputs, start, end = batch("bert-qa", [LONG, SHORT]), torch.tensor([1, 1]), torch.tensor([2, 2])

    def loss_at(out: Any, shift: int) -> torch.Tensor:
        return (cross_entropy(out.start_logits, start + shift) + cross_entropy(out.end_logits, end + shift)) / 2

    theirs = plain("bert-qa", "prompt")(**inputs, start_positions=start, end_positions=end)
    assert theirs.start_logits.shape == (2, 3 + len(LONG))
    torch.testing.assert_close(theirs.loss, loss_at(theirs, 0))  # the span is now three positions further
    assert abs(theirs.loss - loss_at(theirs, 3)) > 0.1
    ours = wrapped("bert-qa", "prompt")(**inputs, start_positions=start, end_positions=end)
    assert ours.start_logits.shape == (2, len(LONG))
    torch.testing.assert_close(ours.loss, loss_at(ours, 0))


def test_bert_qa_loses_which_tokens_are_the_questions() -> None:
    """PEFT's model for questions names token_type_ids among its arguments and hands them to nobody."""
    inputs = batch("bert-qa", [LONG])
    inputs["token_type_ids"] = (torch.arange(len(LONG)) > 2).long()[None]
    base = answer(build("bert-qa"), inputs)
    fresh = {"r": 2, "target_modules": ["query"]}  # LoRA's B is zero: nothing changes yet
    theirs = get_peft_model(build("bert-qa"), LoraConfig(task_type="QUESTION_ANS", **fresh)).eval()
    ours = apply_method(build("bert-qa"), LoraConfig(**fresh), "question_answering").eval()
    with torch.no_grad():
        assert (answer(theirs, inputs) - base).abs().max() > 1e-3
        torch.testing.assert_close(answer(ours, inputs), base, rtol=0, atol=1e-6)
    assert any("qa_outputs" in name for name, weight in ours.named_parameters() if weight.requires_grad)


def test_bert_token_classification_with_a_prompt_raises() -> None:
    inputs = batch("bert-token", [LONG, SHORT])
    labels = inputs["input_ids"] % 3
    with pytest.raises(ValueError, match=r"input batch_size \(18\) to match target batch_size \(12\)"):
        plain("bert-token", "prompt")(**inputs, labels=labels)
    assert torch.isfinite(wrapped("bert-token", "prompt")(**inputs, labels=labels).loss)


@pytest.mark.parametrize(
    ("kind", "error", "says"),
    [("prompt", NotImplementedError, "input embeddings"), ("prefix", RuntimeError, "must match the size")],
)
def test_t5_classification_rejects_prompt_and_prefix(kind: str, error: type[Exception], says: str) -> None:
    inputs = batch("t5-cls", [LONG, SHORT])
    with pytest.raises(error, match=says):
        plain("t5-cls", kind)(**inputs)
    assert wrapped("t5-cls", kind)(**inputs).logits.shape == (2, 2)


@pytest.mark.parametrize("kind", THEIRS)
@pytest.mark.parametrize("name", ["bert-cls", "gpt2-cls"])
def test_disabling_a_soft_prompt_of_a_classifier_raises(name: str, kind: str) -> None:
    inputs = batch(name, [LONG, SHORT])
    theirs, ours = plain(name, kind), wrapped(name, kind)
    with pytest.raises(UnboundLocalError), theirs.disable_adapter():
        theirs(**inputs)
    with ours.disable_adapter():
        torch.testing.assert_close(answer(ours, inputs), answer(build(name), inputs), rtol=0, atol=1e-5)


def test_t5_prefix_reaches_the_decoder_only() -> None:
    """Li and Liang 2021, section 4.2: encoder and decoder have a prefix each."""
    inputs = batch("t5-lm", [LONG, SHORT])
    with torch.no_grad():
        base = build("t5-lm")(**inputs)

    def moved(model: Any) -> tuple[float, float]:
        with torch.no_grad():
            out = model(**inputs)
        encoder = (out.encoder_last_hidden_state - base.encoder_last_hidden_state)[0]
        return float(encoder.abs().max()), float((out.logits - base.logits).abs().max())

    encoder, decoder = moved(plain("t5-lm", "prefix"))
    assert encoder < 1e-4 and decoder > 0.1
    encoder, decoder = moved(wrapped("t5-lm", "prefix"))
    assert encoder > 0.1 and decoder > 0.1


def test_a_fresh_head_in_4_bits_asserts(checkpoints: dict[str, Path]) -> None:
    inputs = batch("bert-cls", [LONG, SHORT])

    def lora(base: Any) -> Any:
        config = LoraConfig(task_type="SEQ_CLS", target_modules=["query"])
        return get_peft_model(prepare_model_for_kbit_training(base), config)

    four_bits = BitsAndBytesConfig(load_in_4bit=True)
    theirs = AutoModelForSequenceClassification.from_pretrained(checkpoints["bert"], quantization_config=four_bits)
    with pytest.raises(AssertionError):
        lora(theirs)(**{name: values.to(theirs.device) for name, values in inputs.items()})
    words = ["model=bert", "source=offline", f"model.checkpoint={checkpoints['bert']}"]
    run = RunConfig.from_config(OmegaConf.to_container(compose_config(words), resolve=True))
    source = locate(run.model, run.source)
    ours = load_model(
        run.model, source, load_tokenizer(source), "classification", ["no", "yes"], {"load_in_4bit": True}
    )
    moved = {name: values.to(ours.device) for name, values in inputs.items()}
    assert lora(ours)(**moved).logits.shape == (2, 2)


@pytest.mark.parametrize(("method", "config"), [("boft", BOFTConfig), ("oft", OFTConfig)])
def test_oft_and_boft_cannot_wrap_gpt2(method: str, config: type) -> None:
    with pytest.raises(TypeError, match="Conv1D"):
        get_peft_model(build("gpt2-cls"), config(task_type="SEQ_CLS", target_modules=["c_attn"]))
    (sentence,) = check([f"method={method}", "model=gpt2"])
    assert "Conv1D; use method=lora" in sentence
    with pytest.raises(UserError, match=f"{method} does not fit gpt2: .* use method=lora"):
        apply_method(build("gpt2-cls"), config(target_modules=["c_attn"]))


def test_oft_takes_its_blocks_number_or_their_size_and_not_both() -> None:
    with pytest.raises(ValueError, match=r"either r .* or oft_block_size"):
        OFTConfig(r=8, oft_block_size=32)
    with pytest.raises(ValueError, match="must be non-zero"):
        OFTConfig(r=0, oft_block_size=0)
    settings = OmegaConf.to_container(compose_config(["method=oft"]).method.config)
    with pytest.raises(UserError, match=r"method\.config: .*either r .* or oft_block_size"):
        instantiate_method({**settings, "r": 8})
    assert instantiate_method({**settings, "r": 8, "oft_block_size": 0}).r == 8


def test_adalora_needs_its_number_of_steps() -> None:
    with pytest.raises(ValueError, match="does not work when `total_step` is None"):
        AdaLoraConfig(task_type="SEQ_CLS")
    # peftkit knows how many there are: test_jobs.test_adalora_moves_its_ranks_over_the_steps_of_the_run
    assert "total_step" not in compose_config(["method=adalora"]).method.config


def test_adalora_on_t5_cannot_infer_once_it_is_loaded(tmp_path: Path) -> None:
    inputs = batch("t5-lm", [LONG, SHORT])
    config = AdaLoraConfig(task_type="SEQ_2_SEQ_LM", total_step=10, target_modules=["q", "v"])
    model = get_peft_model(build("t5-lm"), config).eval()
    model.save_pretrained(str(tmp_path))
    theirs = PeftModel.from_pretrained(build("t5-lm"), str(tmp_path)).eval()
    with pytest.raises(AttributeError, match="trainable_adapter_name"):
        theirs(**inputs)
    ours = load_adapter(build("t5-lm"), tmp_path).eval()
    torch.testing.assert_close(ours(**inputs).logits, model(**inputs).logits)


def test_ia3_on_bert_also_meets_the_attentions_output() -> None:
    theirs = get_peft_model(build("bert-cls"), IA3Config(task_type="SEQ_CLS"))
    assert sum("attention.output.dense.ia3_l" in name for name, _ in theirs.named_parameters()) == 2
    ours = apply_method(build("bert-cls"), IA3Config())
    assert not any("attention.output" in name and "ia3_l" in name for name, _ in ours.named_parameters())
    assert sum("ia3_l" in name for name, _ in ours.named_parameters()) == 6  # three targets in each of two layers


def test_a_config_with_omegaconf_in_it_cannot_be_saved(tmp_path: Path) -> None:
    from hydra.utils import instantiate

    settings = {"_target_": "peft.LoraConfig", "r": 4, "rank_pattern": {"query": 2}}
    with pytest.raises(TypeError, match="not JSON serializable"):
        instantiate(OmegaConf.create(settings)).save_pretrained(str(tmp_path))
    instantiate_method(settings).save_pretrained(str(tmp_path))
    assert LoraConfig.from_pretrained(str(tmp_path)).rank_pattern == {"query": 2}


def test_merging_ln_tuning_leaves_the_head_under_names_that_none_loads() -> None:
    def tuned() -> Any:
        return apply_method(build("gpt2-cls"), LNTuningConfig())

    assert "score.modules_to_save.default.weight" in tuned().merge_and_unload().state_dict()
    assert merge_adapter(tuned()).state_dict().keys() == build("gpt2-cls").state_dict().keys()


def test_all_linear_wraps_a_layer_of_distilbert_that_peft_saves_whole() -> None:
    def small() -> Any:
        return DistilBertForSequenceClassification(DistilBertConfig(vocab_size=50, dim=32, n_layers=2, n_heads=2))

    config = {"target_modules": "all-linear", "task_type": "SEQ_CLS"}
    with pytest.raises(TypeError, match="modules_to_save cannot be applied"):  # by its name it is a classifier
        get_peft_model(small(), LoraConfig(**config))
    ours = apply_method(small(), LoraConfig(**config))
    trained = {name for name, weight in ours.named_parameters() if weight.requires_grad}
    assert not any("pre_classifier" in name and "lora_" in name for name in trained)
    assert {name.rpartition(".")[2] for name in trained if "pre_classifier" in name} == {"weight", "bias"}


def test_merging_gives_the_head_of_roberta_a_weight_that_it_has_none_of() -> None:
    def tuned() -> Any:
        settings = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
        torch.manual_seed(0)
        return apply_method(
            RobertaForSequenceClassification(RobertaConfig(vocab_size=50, **settings)), IA3Config()
        ).eval()

    with pytest.raises(AttributeError, match="has no attribute 'weight'"):
        tuned().merge_and_unload()
    ids = torch.randint(3, 50, (2, 6), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(merge_adapter(tuned())(ids).logits, tuned()(ids).logits, rtol=0, atol=1e-6)
