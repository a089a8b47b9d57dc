"""Families of models: their architecture, and the names of the modules that methods and heads attach to."""

from dataclasses import dataclass
from typing import NamedTuple

from peftkit.config.kinds import DECODER, ENCODER, SEQ2SEQ

# prefixes of the model types of peftkit's own classifiers, see models/classifiers.py and models/pairs.py
MEAN_POOLING, PAIRS_APART = OWN_CLASSIFIERS = "mean_pooling_", "pairs_apart_"


class Modules(NamedTuple):
    """Regular expressions that match the full dotted names of modules in every layer.

    Args:
        query_value: projections to queries and values, or GPT-2's single one to queries, keys and values.
        attention_output: projection that ends an attention, before the residual is added.
        feed_forward_output: projection that ends a feed-forward, before the residual is added.
        layer_output: module whose output includes the residual: the norm where it comes last, otherwise the layer.
        feed_forward: module that a parallel adapter runs in parallel to. BERT splits its feed-forward in two; the
            second half also receives the input of the first, see `methods.adapter_layers.ParallelLayer`.
    """

    query_value: str
    attention_output: str
    feed_forward_output: str
    layer_output: str
    feed_forward: str

    def of_adapter(self, kind: str) -> str:
        """Return the modules that get a bottleneck adapter: houlsby, pfeiffer or parallel, see `BottleneckConfig`."""
        return {
            "houlsby": f"{self.attention_output}|{self.feed_forward_output}",
            "pfeiffer": self.layer_output,
            "parallel": self.feed_forward,
        }[kind]


class Attention(NamedTuple):
    """Names in an attention module, by which its heads are removed; `Modules.attention_output` finds its `output`.

    Args:
        inputs: projections to queries, keys and values, or the one to all three.
        output: projection that reads the outputs of all heads, side by side.
        head_size: attribute with the width of a head.
        heads: attribute with the number of heads, where the module has one.
        width: attribute with the width of all heads.
        position_biases: embedding of a position bias for each head, which only the first layer of a stack has.
    """

    inputs: tuple[str, ...]
    output: str
    head_size: str
    heads: str | None = None
    width: str | None = None
    position_biases: str | None = None


@dataclass(frozen=True)
class Family:
    """Models with the same modules. A new family is a record here and a YAML in conf/model.

    Models without a record work too; methods then need target_modules from the user where PEFT knows none.

    Args:
        name: of its YAML in conf/model.
        architecture: encoder, decoder or seq2seq.
        model_types: transformers' `config.model_type`.
        heads: modules above the base that a checkpoint may lack.
        language_model_head: modules of the pretrained head over the vocabulary.
        modules: names of the modules in its layers.
        stand_in: the small model that replaces its checkpoints offline, as `model.stand_in` names it.
        attention: names in its attention modules; without them its heads cannot be pruned.
        is_norm_first: a norm precedes the feed-forward.
        is_transposed: linear layers are transformers' Conv1D, which stores its weight transposed.
        norms: layer norms, where PEFT's LN tuning does not know them.
        ia3: targets and feed-forward modules of IA3, where PEFT's differ from the paper's.
        reserved_positions: number of learned absolute positions without a token; None where positions are relative.
        pools_mean: has a mean-pooling classifier.
        encoder_of: model type of which this is only the encoder.
        shares_position_biases: the first layer computes the position biases of all layers.
        backbone: the class of transformers that loads it without a head, for embeddings.
        suggested: another YAML in conf/model, for a family without one.
    """

    name: str
    architecture: str
    model_types: tuple[str, ...]
    heads: tuple[str, ...]
    language_model_head: tuple[str, ...]
    modules: Modules
    stand_in: str
    attention: Attention | None = None
    is_norm_first: bool = False
    is_transposed: bool = False
    norms: tuple[str, ...] = ()
    ia3: tuple[str, str] | None = None
    reserved_positions: int | None = None
    pools_mean: bool = False
    encoder_of: str | None = None
    shares_position_biases: bool = False
    backbone: str = "AutoModel"
    suggested: str | None = None


_BERT_MODULES = Modules(
    query_value=r".*\.(cross)?attention\.self\.(query|value)",
    attention_output=r".*\.(cross)?attention\.output\.dense",
    feed_forward_output=r".*\.layer\.\d+\.output\.dense",
    layer_output=r".*\.layer\.\d+\.output\.LayerNorm",
    feed_forward=r".*\.layer\.\d+\.output",
)
_BERT_ATTENTION = Attention(
    inputs=("self.query", "self.key", "self.value"),
    output="output.dense",
    head_size="self.attention_head_size",
    heads="self.num_attention_heads",
    width="self.all_head_size",
)
# PEFT's "output.dense" also matches the attention's output; IA3 (Liu et al. 2022, section 3.3) rescales keys, values
# and the inner feed-forward
_BERT_IA3 = (r".*\.self\.(key|value)|.*\.layer\.\d+\.output\.dense", r".*\.layer\.\d+\.output\.dense")
_T5_FEED_FORWARD = r"(.*\.)?(encoder\.block\.\d+\.layer\.1|decoder\.block\.\d+\.layer\.2)"
_T5_MODULES = Modules(
    query_value=r".*\.(SelfAttention|EncDecAttention)\.(q|v)",
    attention_output=r".*\.(SelfAttention|EncDecAttention)\.o",
    feed_forward_output=r".*\.DenseReluDense\.wo",
    layer_output=_T5_FEED_FORWARD,
    feed_forward=_T5_FEED_FORWARD,
)
_T5_ATTENTION = Attention(
    inputs=("q", "k", "v"),
    output="o",
    head_size="key_value_proj_dim",
    heads="n_heads",
    width="inner_dim",
    position_biases="relative_attention_bias",
)

_FAMILIES = (
    Family(
        "bert",
        ENCODER,
        ("bert", "electra", "ernie"),
        heads=("classifier", "pooler", "qa_outputs"),
        language_model_head=("cls",),
        modules=_BERT_MODULES,
        stand_in="minilm",
        attention=_BERT_ATTENTION,
        norms=("LayerNorm",),
        ia3=_BERT_IA3,
        reserved_positions=0,
        pools_mean=True,
    ),
    Family(
        "roberta",
        ENCODER,
        ("roberta", "xlm-roberta", "camembert"),
        heads=("classifier", "pooler", "qa_outputs"),
        language_model_head=("lm_head",),
        modules=_BERT_MODULES,
        stand_in="minilm",
        attention=_BERT_ATTENTION,
        norms=("LayerNorm",),
        ia3=_BERT_IA3,
        reserved_positions=2,
        pools_mean=True,
    ),
    Family(
        "distilbert",
        ENCODER,
        ("distilbert",),
        heads=("classifier", "pre_classifier", "qa_outputs"),
        language_model_head=("vocab_transform", "vocab_layer_norm", "vocab_projector"),
        modules=Modules(
            query_value=r".*\.attention\.(q_lin|v_lin)",
            attention_output=r".*\.attention\.out_lin",
            feed_forward_output=r".*\.ffn\.lin2",
            layer_output=r".*\.layer\.\d+\.output_layer_norm",
            feed_forward=r".*\.ffn",
        ),
        stand_in="minilm",
        attention=Attention(
            inputs=("q_lin", "k_lin", "v_lin"),
            output="out_lin",
            head_size="attention_head_size",
            heads="n_heads",
        ),
        norms=("LayerNorm", "sa_layer_norm", "output_layer_norm"),
        ia3=(r".*\.(k_lin|v_lin|lin2)", r".*\.lin2"),
        reserved_positions=0,
        pools_mean=True,
    ),
    Family(
        "gpt2",
        DECODER,
        ("gpt2",),
        heads=("score", "classifier", "qa_outputs"),
        language_model_head=("lm_head",),
        modules=Modules(
            query_value=r".*\.attn\.c_attn",
            attention_output=r".*\.(attn|crossattention)\.c_proj",
            feed_forward_output=r".*\.mlp\.c_proj",
            layer_output=r"(.*\.)?h\.\d+",
            feed_forward=r".*\.mlp",
        ),
        stand_in="gpt2-mini",
        attention=Attention(
            inputs=("c_attn",), output="c_proj", head_size="head_dim", heads="num_heads", width="split_size"
        ),
        is_norm_first=True,
        is_transposed=True,
        reserved_positions=0,
    ),
    Family(
        "llama",
        DECODER,
        ("llama", "mistral", "qwen2", "qwen3"),
        heads=("score", "qa_outputs"),
        language_model_head=("lm_head",),
        modules=Modules(
            query_value=r".*\.self_attn\.(q_proj|v_proj)",
            attention_output=r".*\.self_attn\.o_proj",
            feed_forward_output=r".*\.mlp\.down_proj",
            layer_output=r"(.*\.)?layers\.\d+",
            feed_forward=r".*\.mlp",
        ),
        stand_in="smollm2",
        attention=Attention(inputs=("q_proj", "k_proj", "v_proj"), output="o_proj", head_size="head_dim"),
        is_norm_first=True,
        suggested="smollm2",
    ),
    Family(
        "t5",
        SEQ2SEQ,
        ("t5",),
        heads=(),
        language_model_head=("lm_head",),
        modules=_T5_MODULES,
        stand_in="t5-mini",
        attention=_T5_ATTENTION,
        shares_position_biases=True,
        backbone="T5EncoderModel",
    ),
    Family(
        "t5_encoder",
        ENCODER,
        ("t5_encoder",),
        heads=("classifier", "qa_outputs"),
        language_model_head=(),
        modules=_T5_MODULES,
        stand_in="t5-mini",
        attention=_T5_ATTENTION,
        encoder_of="t5",
        shares_position_biases=True,
        backbone="T5EncoderModel",
    ),
)
FAMILIES: dict[str, Family] = {model_type: family for family in _FAMILIES for model_type in family.model_types}

# model types of an architecture that peftkit does not train, with the reason
UNSUPPORTED = {"xlnet": "XLNet reads its tokens in permuted orders, neither as an encoder nor as a decoder"}

OTHER_HEADS = ("qa_classifier",)  # of BigBird, which has no record
HEADS = frozenset((*OTHER_HEADS, *(name for family in _FAMILIES for name in family.heads)))
LANGUAGE_MODEL_HEADS = frozenset(name for family in _FAMILIES for name in family.language_model_head)
HEAD_SUBMODULES = frozenset(("pooler", "pre_classifier"))  # parts of heads that some checkpoints contain


def family_of(model_type: str) -> Family | None:
    """Return the family of a model type, also of peftkit's own classifiers; None where there is no record."""
    return FAMILIES.get(_without_prefix(model_type))


def declared_family(architecture: str, stand_in: str) -> Family:
    """Return the family that a YAML in conf/model declares by `family` and `stand_in`, before a checkpoint loads."""
    families = [family for family in _FAMILIES if family.architecture == architecture]
    return next((family for family in families if family.stand_in == stand_in), families[0])


def base_type(model_type: str) -> str:
    """Return transformers' model type of the base below one of peftkit's own classifiers, any other type unchanged."""
    family = family_of(model_type)
    return (family.encoder_of if family else None) or _without_prefix(model_type)


def _without_prefix(model_type: str) -> str:
    return model_type.removeprefix(MEAN_POOLING).removeprefix(PAIRS_APART)


def suggested_model(architecture: str, model_type: str = "") -> str:
    """Return the name of a YAML in conf/model for checkpoints of this type or, at least, this architecture."""
    family = family_of(model_type)
    if family is None or family.architecture != architecture:
        family = next(family for family in _FAMILIES if family.architecture == architecture)
    return family.suggested or family.name
