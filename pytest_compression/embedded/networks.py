"""Architectures of the embedded models, one a family."""

from typing import Any

from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)


def causal_model(size: int) -> PreTrainedModel:
    """Llama-like: rotary positions, RMS norm, SwiGLU, grouped-query attention, tied head."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size,
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


def masked_model(size: int) -> PreTrainedModel:
    """BERT-like: learned positions, post-norm, GELU, tied head."""
    return BertForMaskedLM(
        BertConfig(
            vocab_size=size,
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=64,
            type_vocab_size=1,
            pad_token_id=0,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )


def seq2seq_model(size: int) -> PreTrainedModel:
    """T5-like (version 1.1): relative positions, RMS norm, gated GELU."""
    shape: dict[str, Any] = {
        "vocab_size": size,
        "d_model": 128,
        "d_kv": 32,
        "d_ff": 256,
        "num_layers": 3,
        "num_decoder_layers": 3,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": True,
        "dropout_rate": 0.0,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }
    return T5ForConditionalGeneration(T5Config(**shape))
