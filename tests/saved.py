"""Model directories and GGUF files as somebody might have saved them."""

import json
from pathlib import Path
from typing import Any

import gguf
import tiny
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import load_file, save_file
from torch import Tensor

from pytest_compression.models.language_model import LanguageModel

WEIGHTS = "model.safetensors"


def saved(folder: Path, architecture: str = "llama", **options: Any) -> Path:
    """A complete model directory."""
    return written(tiny.model(architecture, **options), folder)


def written(model: LanguageModel, folder: Path) -> Path:
    """A model as it is now, as ``transformers`` writes it."""
    model.module.save_pretrained(folder)  # type: ignore[operator]
    model.tokenizer.save_pretrained(folder)
    return folder


def rewritten(folder: Path, **changes: Any) -> Path:
    """The same with other entries in its configuration."""
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) | changes
    file.write_text(json.dumps(config), encoding="utf-8")
    return folder


def tensors_changed(folder: Path, change: Any) -> Path:
    """The same with other tensors, as ``change`` leaves them."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def pickled(folder: Path) -> Path:
    """The same with its weights in a pickle."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    return folder


def rotated(weight: Tensor, heads: int) -> Any:
    """Query and key rows in the order in which llama.cpp stores them."""
    turned = weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2)
    return turned.reshape(weight.shape).numpy()


def write_gguf(model: LanguageModel, file: Path, kind: Kind = Kind.F32) -> None:
    """A llama as llama.cpp would write it, with its tokenizer; vectors in single precision."""
    config: Any = model.module.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config.vocab_size)
    spoken = json.loads(model.tokenizer.backend_tokenizer.to_str())
    tokens = sorted(spoken["model"]["vocab"], key=spoken["model"]["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if t in ("<pad>", "<s>", "</s>") else 1 for t in tokens])
    writer.add_token_merges([" ".join(pair) for pair in spoken["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.tensors():
        values = tensor.numpy()
        if "q_proj" in name:
            values = rotated(tensor, config.num_attention_heads)
        if "k_proj" in name:
            values = rotated(tensor, config.num_key_value_heads)
        stored = names.get_name(name, try_suffixes=(".weight",))
        assert stored is not None
        if values.ndim > 1 and kind != Kind.F32:
            writer.add_tensor(stored, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(stored, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
