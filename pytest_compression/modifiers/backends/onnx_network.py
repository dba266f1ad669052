"""Networks whose graphs ONNX Runtime runs, to be asked as those of transformers are.

They take whole rows, all of the same length: there is neither padding nor a cache, so that whoever
asks has to run each row from its beginning.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import (
    BaseModelOutput,
    CausalLMOutput,
    MaskedLMOutput,
    Seq2SeqLMOutput,
)

from pytest_compression.types import Family

ERRORS_ONLY = 3
"""ONNX Runtime's level of logging."""


class Session:
    """A graph that is loaded, with as many threads as torch has."""

    def __init__(self, file: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = ERRORS_ONLY
        self.session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
        self.names = [one.name for one in self.session.get_inputs()]

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """What the graph gives for all of its inputs."""
        fed = {name: inputs[name].contiguous().numpy() for name in self.names}
        (found,) = self.session.run(None, fed)
        return torch.from_numpy(found)


class Network(nn.Module):
    """What all families have.

    The layers stand under their names, with the tensors that the graphs hold, so that they can be
    measured; none of them is called.
    """

    def __init__(self, dense: Any, sessions: Mapping[str, Session]) -> None:
        super().__init__()
        self.config = dense.config
        self.generation_config = getattr(dense, "generation_config", None)
        self.dtype = torch.float32
        self.sessions = dict(sessions)
        self.tensors = nn.ParameterList()
        """Those of no layer."""
        self.embeddings = self.head = ""
        """Names of these layers, once they are placed."""

    def place(self, name: str, layer: nn.Module) -> None:
        """Put a layer under its dotted name."""
        *path, last = name.split(".")
        parent: nn.Module = self
        for part in path:
            if part not in parent._modules:  # noqa: SLF001  # what add_module fills
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(last, layer)

    def keep_positions(self, dense: nn.Module) -> None:
        """Tell how many positions there are, as whoever asks a network looks for it."""
        for name, layer in dense.named_modules():
            if isinstance(layer, nn.Embedding) and name.endswith("position_embeddings"):
                self.place(name, nn.Embedding(layer.num_embeddings, 0, layer.padding_idx))

    def get_output_embeddings(self) -> nn.Module | None:
        """What stands for the output head; nobody calls it, so that nothing can be handed less."""
        return self.get_submodule(self.head) if self.head else None

    def get_input_embeddings(self) -> nn.Module | None:
        """What stands for the token embeddings."""
        return self.get_submodule(self.embeddings) if self.embeddings else None


class CausalNetwork(Network):
    """Tokens to logits of the next ones."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        use_cache: bool | None = None,  # noqa: ARG002, FBT001  # asked of every model
    ) -> CausalLMOutput:
        """``[rows, tokens]`` to logits ``[rows, tokens, vocabulary]``."""
        refuse_padding(attention_mask)
        return CausalLMOutput(logits=self.sessions["model"]({"input_ids": input_ids}))


class MaskedNetwork(Network):
    """Tokens, and their segments, to logits in their places."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> MaskedLMOutput:
        """``[rows, tokens]`` to logits ``[rows, tokens, vocabulary]``."""
        refuse_padding(attention_mask)
        kinds = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        inputs = {"input_ids": input_ids, "token_type_ids": kinds}
        return MaskedLMOutput(logits=self.sessions["model"](inputs))


class EncoderPart(nn.Module):
    """The first half of an encoder-decoder."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> BaseModelOutput:
        """``[rows, tokens]`` to states ``[rows, tokens, hidden]``."""
        refuse_padding(attention_mask)
        return BaseModelOutput(last_hidden_state=self.session({"input_ids": input_ids}))


class Seq2SeqNetwork(Network):
    """What the encoder made of a context, and tokens, to logits of the next ones."""

    def get_encoder(self) -> EncoderPart:
        """The first half."""
        return EncoderPart(self.sessions["encoder"]).eval()

    def forward(
        self,
        decoder_input_ids: Tensor,
        encoder_outputs: BaseModelOutput | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        use_cache: bool | None = None,  # noqa: ARG002, FBT001  # asked of every model
    ) -> Seq2SeqLMOutput:
        """``[rows, tokens]`` to logits ``[rows, tokens, vocabulary]``.

        Args:
            decoder_input_ids: what the decoder reads.
            encoder_outputs: with states ``[rows, read, hidden]``; else of ``input_ids``.
            input_ids: what the encoder reads, ``[rows, read]``.
            attention_mask: ones.
            use_cache: there is none.
        """
        refuse_padding(attention_mask)
        if encoder_outputs is None:
            encoder_outputs = self.get_encoder()(input_ids)
        inputs = {"states": encoder_outputs[0], "decoder_input_ids": decoder_input_ids}
        return Seq2SeqLMOutput(logits=self.sessions["decoder"](inputs))


NETWORKS: dict[Family, type[Network]] = {
    "causal": CausalNetwork,
    "masked": MaskedNetwork,
    "seq2seq": Seq2SeqNetwork,
}


def refuse_padding(attention_mask: Tensor | None) -> None:
    """Take a mask that hides nothing, and no other.

    Raises:
        ValueError: it hides something, or is no plain mask of rows.
    """
    if attention_mask is not None and (attention_mask.dim() != 2 or not attention_mask.all()):
        message = "these graphs take rows without padding, and masks of ones only"
        raise ValueError(message)
