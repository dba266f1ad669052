"""Whatever is shared, packed, cut and batched: each request gets what it would get alone."""

import itertools
import random
from fractions import Fraction
from typing import Any, Final

import pytest
import tiny
import torch
import transformers as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pytest_compression.errors import MeasurementError
from pytest_compression.models.conditions import SINGLE, Budget
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.scoring import trees as engine
from pytest_compression.scoring.likelihood import Likelihood, Request, loglikelihoods
from pytest_compression.scoring.trees import CausalEngine

CLOSE: Final = 1e-5
ONE_HEAD: Final = tiny.HIDDEN | tiny.MARKS | {"num_key_value_heads": 1}
SMALL_HEADS: Final = ONE_HEAD | {"head_dim": 8}
OTHERS: Final[dict[str, Any]] = {
    "bloom": lambda **o: tf.BloomForCausalLM(
        tf.BloomConfig(hidden_size=16, n_layer=2, n_head=2, **o)
    ),
    "falcon": lambda **o: tf.FalconForCausalLM(
        tf.FalconConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, alibi=True, **tiny.MARKS | o
        )
    ),
    "gemma2": lambda **o: tf.Gemma2ForCausalLM(
        tf.Gemma2Config(sliding_window=9, final_logit_softcapping=2.0, **SMALL_HEADS | o)
    ),
    "gemma3": lambda **o: tf.Gemma3ForCausalLM(
        tf.Gemma3TextConfig(sliding_window=9, **SMALL_HEADS | o)
    ),
    "gpt_neo": lambda **o: tf.GPTNeoForCausalLM(
        tf.GPTNeoConfig(
            hidden_size=16,
            num_layers=2,
            num_heads=2,
            attention_types=[[["global", "local"], 1]],
            window_size=6,
            max_position_embeddings=64,
            **tiny.MARKS | o,
        )
    ),
    "gpt_neo_window": lambda **o: tf.GPTNeoForCausalLM(
        tf.GPTNeoConfig(
            hidden_size=16,
            num_layers=2,
            num_heads=2,
            attention_types=[[["global", "local"], 1]],
            window_size=16,
            max_position_embeddings=256,
            **tiny.MARKS | o,
        )
    ),
    "granite": lambda **o: tf.GraniteForCausalLM(
        tf.GraniteConfig(logits_scaling=3.0, **ONE_HEAD | o)
    ),
    "mamba": lambda **o: tf.MambaForCausalLM(
        tf.MambaConfig(hidden_size=16, num_hidden_layers=2, state_size=4, **tiny.MARKS | o)
    ),
    "mistral": lambda **o: tf.MistralForCausalLM(
        tf.MistralConfig(sliding_window=8, **ONE_HEAD | o)
    ),
    "mpt": lambda **o: tf.MptForCausalLM(
        tf.MptConfig(d_model=16, n_layers=2, n_heads=2, max_seq_len=512, **o)
    ),
    "phi3_long": lambda **o: tf.Phi3ForCausalLM(
        tf.Phi3Config(
            original_max_position_embeddings=24,
            rope_parameters={
                "rope_type": "longrope",
                "rope_theta": 100.0,
                "short_factor": [1.0] * 4,
                "long_factor": [4.0] * 4,
                "original_max_position_embeddings": 24,
            },
            **ONE_HEAD | {"max_position_embeddings": 96} | o,
        )
    ),
    "qwen2": lambda **o: tf.Qwen2ForCausalLM(tf.Qwen2Config(**ONE_HEAD | o)),
}
"""Positions by bias, caps and scales behind the head, windows, and recurrent states."""

TREES: Final = {
    "gpt2",
    "gpt_neox",
    "llama",
    "opt",
    "gemma2",
    "gemma3",
    "granite",
    "mistral",
    "qwen2",
}
KEEPS: Final = TREES | {"bloom", "falcon", "gpt_neo", "gpt_neo_window", "mpt"}
ARCHITECTURES: Final = [*tiny.CAUSAL, *OTHERS]
TOKEN: Final = st.integers(0, 5)


def made(architecture: str) -> LanguageModel:
    """A small model, of one of the other architectures perhaps."""
    if architecture not in OTHERS:
        return tiny.model(architecture)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny.ARCHITECTURES, architecture, OTHERS[architecture])
        patch.setitem(tiny.FAMILIES, architecture, "causal")
        return tiny.model(architecture)


def alone(model: LanguageModel, request: Request) -> Likelihood:
    """By one plain pass of the whole sequence, with all logits."""
    module: Any = model.module
    with torch.inference_mode():
        if model.family == "seq2seq":
            start = module.config.decoder_start_token_id
            logits: Tensor = module(
                input_ids=torch.tensor([request.context]),
                decoder_input_ids=torch.tensor([(start, *request.continuation[:-1])]),
            ).logits[0]
        else:
            ids = torch.tensor([request.context + request.continuation[:-1]])
            logits = module(input_ids=ids, use_cache=False).logits[0, len(request.context) - 1 :]
    values = logits.log_softmax(-1)
    tokens = tuple(float(values[k, token]) for k, token in enumerate(request.continuation))
    best = [int(row.argmax()) for row in values]
    return Likelihood(tokens, greedy=best[: len(tokens)] == list(request.continuation))


def drawn(seed: int, *, header: int = 20, questions: int = 6) -> list[Request]:
    """Questions of a few choices behind one header; some are equal, some begin others."""
    draw = random.Random(seed)  # noqa: S311
    first = tuple(draw.choices(range(3, 200), k=header))
    found = []
    for _ in range(questions):
        stem = first + tuple(draw.choices(range(3, 200), k=draw.randint(1, 7)))
        found += [
            Request(stem, tuple(draw.choices(range(3, 6), k=draw.randint(1, 5)))) for _ in range(4)
        ]
    draw.shuffle(found)
    return found


def same(found: list[Likelihood], wanted: list[Likelihood]) -> None:
    """Close in each token, and greedy alike."""
    for one, other in zip(found, wanted, strict=True):
        assert one.tokens == pytest.approx(other.tokens, abs=CLOSE)
        assert one.greedy == other.greedy


@pytest.fixture(autouse=True)
def cheap_trunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "PASS", 4)  # headers are short here, and models small
    monkeypatch.setattr(engine, "CALLS", 4 * 24 * 16**2)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_request_gets_what_it_gets_alone(architecture: str) -> None:
    model = made(architecture)
    requests = drawn(1)
    same(loglikelihoods(model, requests), [alone(model, request) for request in requests])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_a_model_can_share_is_found_out(architecture: str) -> None:
    engine = CausalEngine(made(architecture))
    assert (engine.can.trees, engine.can.trunks) == (architecture in TREES, architecture in KEEPS)


@pytest.mark.parametrize("architecture", ["mpt", "bloom", "llama", "gpt2"])
def test_in_half_precision_a_bias_by_place_is_not_taken_for_rounding(architecture: str) -> None:
    model = made(architecture)
    model.module.to(torch.bfloat16)
    assert CausalEngine(model).can.trees == (architecture in TREES)


@pytest.mark.parametrize("architecture", ["phi3_long", "gpt_neo_window", "mistral"])
def test_neighbours_that_are_longer_do_not_matter(architecture: str) -> None:
    model = made(architecture)
    requests = drawn(4, header=3, questions=20)
    longer = Request(tuple(range(3, 50)), (5, 6))
    same(loglikelihoods(model, [*requests, longer])[:-1], loglikelihoods(model, requests))
    same(loglikelihoods(model, requests), [alone(model, request) for request in requests])


@pytest.mark.parametrize("architecture", sorted(KEEPS))
def test_a_shared_header_is_run_once(architecture: str) -> None:
    model = made(architecture)
    requests = drawn(2)
    loglikelihoods(model, requests)
    rows = {request.context + request.continuation[:-1] for request in requests}
    behind = {row[: i + 1] for row in rows for i in range(20, len(row))}
    most = len(behind) if architecture in TREES else sum(len(row) - 20 for row in rows)
    assert 20 + len(behind) <= model.tokens_run <= 20 + most


@pytest.mark.parametrize("architecture", list(tiny.SEQ2SEQ))
def test_encoder_decoder_models_as_well(architecture: str) -> None:
    model = tiny.model(architecture)
    draw = random.Random(3)  # noqa: S311
    contexts = [tuple(draw.choices(range(3, 50), k=draw.randint(1, 6))) for _ in range(5)]
    requests = [
        Request(context, tuple(draw.choices(range(3, 6), k=draw.randint(1, 4))))
        for context in contexts * 4
    ]
    draw.shuffle(requests)
    same(loglikelihoods(model, requests), [alone(model, request) for request in requests])


def test_a_context_is_encoded_once_and_single_token_choices_are_one_row() -> None:
    model = tiny.model("t5")
    loglikelihoods(model, [Request((5, 6, 7), (choice,)) for choice in range(9)])
    assert model.tokens_run == 3 + 1


CONTEXTS: Final = st.lists(TOKEN, min_size=1, max_size=12).map(tuple)
REQUESTS: Final = st.lists(
    st.builds(Request, CONTEXTS, st.lists(TOKEN, min_size=1, max_size=6).map(tuple)),
    min_size=1,
    max_size=12,
)
BUDGETS: Final = st.builds(
    Budget, tokens=st.integers(1, 60), logits=st.integers(1, 4000), rows=st.integers(1, 5)
) | st.just(SINGLE)


@pytest.mark.parametrize("architecture", ["gpt2", "mistral", "t5"])
def test_neither_neighbours_nor_budgets_matter(architecture: str) -> None:
    model = made(architecture)
    known: dict[Request, Likelihood] = {}

    @settings(max_examples=40)
    @given(REQUESTS, BUDGETS)
    def holds(requests: list[Request], budget: Budget) -> None:
        model.budget = budget
        for request in requests:
            if request not in known:
                known[request] = alone(model, request)
        same(loglikelihoods(model, requests), [known[request] for request in requests])

    holds()


def test_the_same_numbers_again() -> None:
    model = tiny.model("llama")
    requests = drawn(5)
    assert loglikelihoods(model, requests) == loglikelihoods(model, requests)


def test_a_model_that_was_loaded_in_half_precision_shares_all_the_same() -> None:
    model = tiny.model("llama")
    model.module.to(torch.bfloat16)
    engine = CausalEngine(model)
    assert (engine.can.trees, engine.can.trunks, engine.can.packs) == (True, True, True)


def test_what_many_layers_round_is_not_taken_for_an_error() -> None:
    # Their logits are about 100 units of rounding apart; those of two layers, 5.
    wide = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    model = tiny.model("llama", num_hidden_layers=60, **wide)
    can = CausalEngine(model).can
    assert (can.trees, can.trunks, can.packs) == (True, True, True)


def short_of_memory(model: LanguageModel, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each pass of more tokens fail."""
    module: Any = model.module
    forward = module.forward

    def short(**inputs: Any) -> Any:
        ids: Tensor = inputs.get("decoder_input_ids", inputs.get("input_ids"))  # type: ignore[assignment]
        if ids.numel() > tokens:
            raise torch.OutOfMemoryError
        return forward(**inputs)

    monkeypatch.setattr(module, "forward", short)


@pytest.mark.parametrize(("architecture", "tokens"), [("llama", 60), ("llama", 9), ("t5", 6)])
def test_memory_that_runs_out_costs_no_question(
    architecture: str, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.model(architecture)
    requests = drawn(6)  # a header of 20 tokens, and 60 tokens in a batch
    wanted = loglikelihoods(model, requests)
    short_of_memory(model, tokens, monkeypatch)
    same(loglikelihoods(model, requests), wanted)


def test_memory_is_asked_for_in_halves_and_no_smaller_than_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny.model("llama")
    model.budget = before = Budget(tokens=64, logits=10**6, rows=256)
    requests = [Request((i, 1 + i % 5, 7), (9, i % 50)) for i in range(3, 300)]
    short_of_memory(model, 32, monkeypatch)
    loglikelihoods(model, requests)
    assert model.budget == before.times(Fraction(1, 2))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
@pytest.mark.parametrize("failing", range(1, 6))
def test_memory_that_is_short_once_denies_a_model_nothing(
    error: type[Exception], failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.model("llama")
    module: Any = model.module
    forward, passes = module.forward, itertools.count(1)

    def short(**inputs: Any) -> Any:
        if next(passes) == failing:
            raise error
        return forward(**inputs)

    monkeypatch.setattr(module, "forward", short)
    engine = CausalEngine(model)
    assert (engine.can.trees, engine.can.trunks, engine.can.packs) == (True, True, True)


def test_what_was_denied_for_want_of_memory_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny.model("llama")
    with monkeypatch.context() as patch:
        short_of_memory(model, 10, patch)
        assert not CausalEngine(model).can.packs
    assert CausalEngine(model).can.packs


def test_a_tie_is_greedy_once_at_most() -> None:
    model = tiny.model("llama")
    for parameter in model.module.parameters():
        parameter.data.zero_()
    found = loglikelihoods(model, [Request((1, 2), (token,)) for token in range(9)])
    assert sum(one.greedy for one in found) <= 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_model_is_an_error(value: float) -> None:
    model = tiny.model("llama")
    head: Any = model.module.get_output_embeddings()  # type: ignore[operator]
    head.weight.data[7] = value
    with pytest.raises(MeasurementError, match="NaN or infinite logits"):
        loglikelihoods(model, [Request((1, 2), (3,))])


def test_a_masked_model_predicts_no_continuation() -> None:
    with pytest.raises(MeasurementError, match="masked model"):
        loglikelihoods(tiny.model("bert"), [Request((1,), (2,))])


@pytest.mark.parametrize("request_", [Request((), (1,)), Request((1,), ())])
def test_something_must_be_given_and_asked(request_: Request) -> None:
    with pytest.raises(ValueError, match="context and a continuation"):
        loglikelihoods(tiny.model("llama"), [request_])


def test_nothing_is_asked_of_no_requests() -> None:
    model = tiny.model("llama")
    assert loglikelihoods(model, []) == []
    assert model.tokens_run == 0
