import re
from collections.abc import Callable
from typing import Any

import pytest
import tiny
import transformers as tf

from pytest_compression.errors import ModelError, RecipeError
from pytest_compression.models.families import family_of, named_layers, role, targeted

OUTPUT_PROJECTIONS = {
    "albert": "attention.dense",
    "bart": "out_proj",
    "bert": "attention.output.dense",
    "distilbert": "attention.out_lin",
    "electra": "attention.output.dense",
    "gpt2": "attn.c_proj",
    "gpt_neox": "attention.dense",
    "llama": "self_attn.o_proj",
    "marian": "out_proj",
    "opt": "self_attn.out_proj",
    "roberta": "attention.output.dense",
    "t5": "Attention.o",
}

SPLITS = {  # layers of attention, of feed-forward, and of neither, over two layers a stack
    "albert": (4, 2, 2),  # one layer, shared; the projection of embeddings, the head's transform
    "bart": (2 * 4 + 2 * 8, 8, 0),
    "bert": (8, 4, 1),
    "distilbert": (8, 4, 1),
    "electra": (8, 4, 2),
    "gpt2": (4, 4, 0),
    "gpt_neox": (4, 4, 0),
    "llama": (8, 6, 0),
    "marian": (2 * 4 + 2 * 8, 8, 0),
    "opt": (8, 4, 2),  # projections of embeddings, in and out
    "roberta": (8, 4, 1),
    "t5": (2 * 4 + 2 * 8, 12, 0),
}

every_architecture = pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))


def names(architecture: str, targets: Any) -> list[str]:
    return list(targeted(tiny.network(architecture), [targets]))


@every_architecture
def test_the_family_is_read_from_the_configuration(architecture: str) -> None:
    config = tiny.network(architecture).config
    assert family_of(config) == tiny.FAMILIES[architecture]


@pytest.mark.parametrize(
    "config", [tf.BertConfig(is_decoder=True), tf.RobertaConfig(is_decoder=True)]
)
def test_a_masked_type_configured_as_decoder_is_causal(config: Any) -> None:
    assert family_of(config) == "causal"


@pytest.mark.parametrize("config", [tf.ViTConfig(), tf.CLIPVisionConfig()])
def test_what_is_no_language_model_is_refused(config: Any) -> None:
    with pytest.raises(ModelError, match=f"type '{config.model_type}' is none of"):
        family_of(config)


@every_architecture
def test_the_numbers_of_layers_in_each_set_are_as_counted_by_hand(architecture: str) -> None:
    attention, feed_forward, neither = SPLITS[architecture]
    assert len(names(architecture, "attention")) == attention
    assert len(names(architecture, "feed-forward")) == feed_forward
    assert len(names(architecture, "all")) == attention + feed_forward + neither


@every_architecture
def test_attention_and_feed_forward_do_not_overlap_and_lie_within_all(architecture: str) -> None:
    attention, feed_forward = names(architecture, "attention"), names(architecture, "feed-forward")
    assert not set(attention) & set(feed_forward)
    assert set(attention) | set(feed_forward) <= set(names(architecture, "all"))


@every_architecture
def test_every_layer_of_a_block_is_in_one_of_the_two(architecture: str) -> None:
    in_blocks = [n for n in names(architecture, "all") if re.search(r"\.\d+\.", n)]
    assert in_blocks
    assert {role(name) for name in in_blocks} == {"qkv", "projection", "feed-forward"}


@every_architecture
def test_attention_is_its_inputs_and_its_output_projection(architecture: str) -> None:
    projections = [
        n for n in names(architecture, "all") if n.endswith(OUTPUT_PROJECTIONS[architecture])
    ]
    assert projections
    assert names(architecture, "projection") == projections
    attention = names(architecture, "attention")
    assert sorted(names(architecture, "qkv") + projections) == sorted(attention)


@pytest.mark.parametrize(
    ("architecture", "part"),
    [("bart", "encoder_attn"), ("marian", "encoder_attn"), ("t5", "EncDecAttention")],
)
def test_cross_attention_is_attention(architecture: str, part: str) -> None:
    cross = [name for name in names(architecture, "all") if part in name]
    assert len(cross) == 8
    assert set(cross) <= set(names(architecture, "attention"))


@every_architecture
@pytest.mark.parametrize("tied", [True, False])
def test_the_output_head_is_no_target(architecture: str, *, tied: bool) -> None:
    network: Any = tiny.network(architecture, tie_word_embeddings=tied)
    layers, _, head = named_layers(network)
    assert layers[head] is network.get_output_embeddings()
    assert head not in targeted(network, ["all"])
    assert len(layers) == len(targeted(network, ["all"])) + 2  # and the embeddings
    assert list(targeted(network, ["head"])) == [head]


@every_architecture
def test_the_token_embeddings_are_a_target_of_their_own(architecture: str) -> None:
    network: Any = tiny.network(architecture)
    (found,) = targeted(network, ["embeddings"]).values()
    assert found is network.get_input_embeddings()
    assert not any(layer is found for layer in targeted(network, ["all"]).values())


def test_sets_and_patterns_add_up_and_what_is_ignored_is_left_out() -> None:
    network = tiny.network("llama")
    chosen = targeted(network, ["feed-forward", "*.q_proj", "head"], ["*.1.*"])
    assert list(chosen) == [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.mlp.gate_proj",
        "model.layers.0.mlp.up_proj",
        "model.layers.0.mlp.down_proj",
        "lm_head",
    ]
    assert list(targeted(network, ["*embed_tokens", "lm_h??d"])) == [
        "model.embed_tokens",
        "lm_head",
    ]


@pytest.mark.parametrize(
    ("targets", "ignore", "said"),
    [
        (["attention", "*.nothing"], [], "no layer of this model is '*.nothing'"),
        (["all"], ["*.nothing"], "no layer of this model fits '*.nothing'"),
        (["qkv"], ["*"], "all layers that are 'qkv' are to be ignored"),
    ],
)
def test_what_means_no_layer_is_refused(targets: list[str], ignore: list[str], said: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(said)):
        targeted(tiny.network("llama"), targets, ignore)


def test_albert_s_shared_layer_comes_once() -> None:
    shallow, deep = tiny.network("albert"), tiny.network("albert", num_hidden_layers=12)
    assert list(named_layers(deep)[0]) == list(named_layers(shallow)[0])


def test_gpt2_s_turned_layers_are_linear_layers() -> None:
    kinds = {type(layer).__name__ for layer in targeted(tiny.network("gpt2"), ["all"]).values()}
    assert kinds == {"Conv1D"}


BODY: dict[str, Any] = {"vocab_size": 64, "num_hidden_layers": 1, **tiny.HIDDEN}
LATENT: dict[str, Any] = {
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 4,
    "v_head_dim": 4,
    "n_routed_experts": 2,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 1,
}
TWO_WAYS: dict[str, Any] = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": False,
}
OTHER_NAMES: dict[str, tuple[Callable[[], Any], set[str], set[str]]] = {
    "deberta": (
        lambda: tf.DebertaForMaskedLM(tf.DebertaConfig(**BODY, **TWO_WAYS)),
        {"in_proj", "pos_proj", "pos_q_proj"},
        {"output.dense"},
    ),
    "deberta-v2": (
        lambda: tf.DebertaV2ForMaskedLM(tf.DebertaV2Config(**BODY, **TWO_WAYS)),
        {"query_proj", "key_proj", "value_proj", "pos_key_proj", "pos_query_proj"},
        {"output.dense"},
    ),
    "deepseek_v3": (
        lambda: tf.DeepseekV3ForCausalLM(tf.DeepseekV3Config(**BODY, **LATENT)),
        {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"},
        {"self_attn.o_proj"},
    ),
    "deepseek_v2": (
        lambda: tf.DeepseekV2ForCausalLM(tf.DeepseekV2Config(**BODY, **LATENT)),
        {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"},
        {"self_attn.o_proj"},
    ),
    "ctrl": (
        lambda: tf.CTRLLMHeadModel(
            tf.CTRLConfig(vocab_size=64, n_embd=16, dff=32, n_layer=1, n_head=2)
        ),
        {"Wq", "Wk", "Wv"},
        {"multi_head_attention.dense"},
    ),
    "longformer": (
        lambda: tf.LongformerForMaskedLM(tf.LongformerConfig(attention_window=4, **BODY)),
        {"query", "key", "value", "query_global", "key_global", "value_global"},
        {"output.dense"},
    ),
    "led": (
        lambda: tf.LEDForConditionalGeneration(
            tf.LEDConfig(vocab_size=64, attention_window=4, **tiny.TWO_STACKS)
        ),
        {"query", "key", "value", "query_global", "key_global", "value_global"}
        | {"q_proj", "k_proj", "v_proj"},
        {"self_attn.output", "self_attn.out_proj", "encoder_attn.out_proj"},
    ),
    "prophetnet": (
        lambda: tf.ProphetNetForConditionalGeneration(
            tf.ProphetNetConfig(
                vocab_size=64,
                hidden_size=16,
                num_encoder_layers=1,
                num_decoder_layers=1,
                num_encoder_attention_heads=2,
                num_decoder_attention_heads=2,
                encoder_ffn_dim=32,
                decoder_ffn_dim=32,
            )
        ),
        {"query_proj", "key_proj", "value_proj"},
        {"attn.out_proj", "attn.relative_pos_embeddings"},
    ),
    "funnel": (
        lambda: tf.FunnelForMaskedLM(
            tf.FunnelConfig(vocab_size=64, block_sizes=[1], d_model=16, n_head=2, d_inner=32)
        ),
        {"q_head", "k_head", "v_head"},
        {"attention.post_proj"},
    ),
}


@pytest.mark.parametrize(
    ("make", "inputs", "outputs"),
    [pytest.param(*each, id=kind) for kind, each in OTHER_NAMES.items()],
)
def test_what_makes_queries_keys_and_values_goes_by_many_names(
    make: Callable[[], Any], inputs: set[str], outputs: set[str]
) -> None:
    network = make()
    assert {name.split(".")[-1] for name in targeted(network, ["qkv"])} == inputs
    projections = targeted(network, ["projection"])
    assert projections
    for name in projections:
        assert name.endswith(tuple(outputs)), name
    assert all(any(name.endswith(end) for name in projections) for end in outputs)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("transformer.h.3.attn.c_attn", "qkv"),
        ("transformer.h.3.attn.attention.k_proj", "qkv"),
        ("model.layers.0.self_attn.g_proj", "projection"),
        ("model.layers.0.self_attn.o_b_proj", "projection"),
        ("encoder.layers.0.self_attn.project_q", "qkv"),
        ("encoder.layers.0.attention.self.w2e_query", "qkv"),
        ("model.layers.0.attn.Wqkv", "qkv"),
        ("model.layers.0.attn.Wo", "projection"),
        ("rwkv.blocks.0.feed_forward.value", "feed-forward"),
        ("transformer.h.3.crossattention.q_attn", "qkv"),
        ("transformer.h.3.mlp.c_proj", "feed-forward"),
        ("transformer.h.3.self_attention.query_key_value", "qkv"),
        ("bert.encoder.layer.0.attention.self.query", "qkv"),
        ("bert.encoder.layer.0.intermediate.dense", "feed-forward"),
        ("bert.encoder.layer.0.output.dense", "feed-forward"),
        ("cls.predictions.transform.dense", "all"),
        ("lm_head.dense", "all"),
        ("vocab_transform", "all"),
        ("model.decoder.project_in", "all"),
        ("decoder.block.1.layer.2.DenseReluDense.wi_0", "feed-forward"),
        ("decoder.block.1.layer.2.DenseReluDense.wo", "feed-forward"),
        ("encoder.block.0.layer.0.SelfAttention.o", "projection"),
    ],
)
def test_a_layer_s_role_is_read_from_its_name(name: str, expected: str) -> None:
    assert role(name) == expected
