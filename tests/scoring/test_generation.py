import copy
import inspect
import random
from collections.abc import Sequence
from typing import Any

import pytest
import tiny
import torch
import transformers as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_compression.errors import MeasurementError
from pytest_compression.models.conditions import Budget
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.models.sources import Embedded
from pytest_compression.scoring import generation, memory
from pytest_compression.scoring.generation import generate, room
from pytest_compression.scoring.tokens import Tokens

WRITERS = [*tiny.CAUSAL, *tiny.SEQ2SEQ]
HEADED = tuple(range(40, 52))
NEW = 8


class Numbers:
    """A tokenizer whose texts show each token: `` 7 12``, so that texts are compared exactly."""

    eos_token_id = None
    unk_token_id = None

    def decode(self, tokens: Sequence[int], **options: bool) -> str:
        assert options == {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        return "".join(f" {token}" for token in tokens)


def writer(architecture: str, seed: int = 0, **options: Any) -> LanguageModel:
    """A tiny model that shows its tokens."""
    model = tiny.model(architecture, seed=seed, **options)
    model.tokenizer = Numbers()
    return model


def sliding(kind: str) -> LanguageModel:
    """Models whose caches are no plain ones: windows shorter than the prompts, or states."""
    sizes = {"vocab_size": tiny.VOCABULARY, **tiny.HIDDEN, **tiny.MARKS}
    made: dict[str, Any] = {
        "mistral": lambda: tf.MistralForCausalLM(
            tf.MistralConfig(sliding_window=4, num_key_value_heads=1, **sizes)
        ),
        "gemma2": lambda: tf.Gemma2ForCausalLM(
            tf.Gemma2Config(sliding_window=4, num_key_value_heads=1, head_dim=8, **sizes)
        ),
        "mamba": lambda: tf.MambaForCausalLM(
            tf.MambaConfig(
                vocab_size=tiny.VOCABULARY, hidden_size=16, num_hidden_layers=2, **tiny.MARKS
            )
        ),
    }
    module = made[kind]()
    generator = torch.Generator().manual_seed(3)
    for parameter in module.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, tiny.SPREAD, generator=generator)
    return LanguageModel(module=module.eval(), tokenizer=Numbers(), family="causal")


def some_prompts(seed: int = 0, count: int = 10) -> list[Tokens]:
    """Of few lengths; half of them begin alike."""
    draw = random.Random(seed)  # noqa: S311
    own = [tuple(draw.choices(range(5, 60), k=draw.randint(1, 4))) for _ in range(count)]
    return [HEADED + row if i % 2 else row for i, row in enumerate(own)]


def theirs(model: LanguageModel, prompt: Tokens, stop: Sequence[str] = ()) -> str:
    """What transformers' own generation makes of one prompt."""
    module: Any = model.module
    config = tf.GenerationConfig(
        do_sample=False,
        max_new_tokens=NEW,
        eos_token_id=module.config.eos_token_id,
        pad_token_id=0,
        decoder_start_token_id=getattr(module.config, "decoder_start_token_id", None),
    )
    ids = torch.tensor([prompt])
    made = module.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    new = made[0, len(prompt) if model.family == "causal" else 1 :].tolist()
    if new[-1] == module.config.eos_token_id:
        new.pop()
    text = model.tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return str(min((text.split(one)[0] for one in stop), key=len, default=text))


@pytest.mark.parametrize("architecture", WRITERS)
@pytest.mark.parametrize("stop", [(), (" 2", " 9 ")], ids=["no stop", "stop"])
def test_texts_are_those_of_transformers_own_generation(
    architecture: str, stop: tuple[str, ...]
) -> None:
    model, prompts = writer(architecture), some_prompts()
    expected = [theirs(model, prompt, stop) for prompt in prompts]
    assert len(set(expected)) > 2
    assert generate(model, prompts, stop=stop, max_new_tokens=NEW) == expected


@pytest.mark.parametrize("kind", ["mistral", "gemma2", "mamba"])
def test_models_with_other_caches_write_the_same_as_by_themselves(kind: str) -> None:
    model, prompts = sliding(kind), some_prompts(seed=1)
    expected = [theirs(model, prompt) for prompt in prompts]
    assert len(set(expected)) > 3
    assert generate(model, prompts, stop=(), max_new_tokens=NEW) == expected


@pytest.mark.parametrize("architecture", ["llama", "t5"])
@settings(max_examples=6)
@given(
    seed=st.integers(0, 20),
    budget=st.builds(Budget, tokens=st.integers(1, 80), rows=st.integers(1, 9)),
    order=st.randoms(use_true_random=False),
)
def test_texts_depend_neither_on_the_budget_nor_on_the_order(
    architecture: str, seed: int, budget: Budget, order: random.Random
) -> None:
    model, prompts = writer(architecture, seed), some_prompts(seed, count=8)
    together = generate(model, prompts, stop=[" 1"], max_new_tokens=NEW)
    order.shuffle(shuffled := list(range(len(prompts))))
    model.budget = budget
    found = generate(model, [prompts[i] for i in shuffled], stop=[" 1"], max_new_tokens=NEW)
    assert found == [together[i] for i in shuffled]


def test_what_a_generation_config_wants_besides_is_not_done() -> None:
    for architecture in ("llama", "bart"):
        model, prompts = writer(architecture), some_prompts(seed=2)
        plain = generate(model, prompts, stop=(), max_new_tokens=NEW)
        module: Any = model.module
        module.generation_config = copy.deepcopy(module.generation_config)
        module.generation_config.update(
            do_sample=True,
            temperature=9.0,
            num_beams=3,
            repetition_penalty=5.0,
            no_repeat_ngram_size=1,
            forced_bos_token_id=7,
            forced_eos_token_id=9,
            suppress_tokens=list(range(10, 300)),
            min_new_tokens=5,
            max_length=1,
        )
        assert generate(model, prompts, stop=(), max_new_tokens=NEW) == plain


def test_its_end_tokens_are_heeded_and_are_no_part_of_the_text() -> None:
    model, prompts = writer("llama", eos_token_id=None), some_prompts(seed=3)
    plain = generate(model, prompts, stop=(), max_new_tokens=NEW)
    ends = sorted({int(text.split()[2]) for text in plain if len(text.split()) > 2})[:2]
    model.module.generation_config.eos_token_id = ends  # type: ignore[union-attr]
    cut = []
    for text in plain:
        tokens = text.split()
        first = next((i for i, token in enumerate(tokens) if int(token) in ends), len(tokens))
        cut.append("".join(f" {token}" for token in tokens[:first]))
    assert generate(model, prompts, stop=(), max_new_tokens=NEW) == cut != plain


def test_the_tokenizer_s_end_token_counts_where_the_model_names_none() -> None:
    model = writer("gpt2", eos_token_id=None)
    prompts = some_prompts(seed=3, count=2)
    plain = generate(model, prompts, stop=(), max_new_tokens=NEW)
    model.tokenizer.eos_token_id = int(plain[0].split()[0])
    assert generate(model, prompts, stop=(), max_new_tokens=NEW)[0] == ""


def test_the_decoder_begins_as_the_generation_config_says() -> None:
    prompts = some_prompts(seed=4, count=5)
    found = []
    for start in (0, 9):
        model = writer("t5")
        model.module.generation_config.decoder_start_token_id = start  # type: ignore[union-attr]
        found.append(generate(model, prompts, stop=(), max_new_tokens=NEW))
        model.module.config.decoder_start_token_id = start  # type: ignore[union-attr]
        assert found[-1] == [theirs(model, prompt) for prompt in prompts]
    assert found[0] != found[1]


def test_a_decoder_without_a_start_is_an_error() -> None:
    model = writer("t5")
    for config in (model.module.config, model.module.generation_config):
        config.decoder_start_token_id = None  # type: ignore[union-attr]
    with pytest.raises(MeasurementError, match="no decoder_start_token_id"):
        generate(model, [(5,)], stop=(), max_new_tokens=NEW)


class Bytes(Numbers):
    """Every token is one byte of UTF-8, so that two or three may make one character."""

    def decode(self, tokens: Sequence[int], **options: bool) -> str:
        del options
        return bytes(tokens).decode(errors="replace")


def scripted(model: LanguageModel, monkeypatch: pytest.MonkeyPatch, text: str) -> list[int]:
    """Let the model write this, byte by byte; each entry is how many rows were in a step."""
    steps: list[int] = []

    def best(logits: torch.Tensor) -> list[int]:
        steps.append(len(logits))
        return [text.encode()[len(steps) - 1]] * len(logits)

    monkeypatch.setattr(generation, "most_probable", best)
    model.tokenizer = Bytes()
    return steps


@pytest.mark.parametrize(
    ("text", "stop", "expected", "steps"),
    [
        ("né à Zürich.\nQ", ["\n"], "né à Zürich.", 16),
        ("né à Zürich.\nQ", ["ü"], "né à Z", 10),  # complete with its second byte
        ("ab;cd%", ["%", ";"], "ab", 3),
        ("abab", ["bab", "ab"], "", 2),  # whichever is complete first
        ("日本", ["本"], "日", 6),
        ("日本", ["x"], "日本", 6),
    ],
)
def test_stop_strings_are_found_in_the_text_whatever_tokens_make_it(
    text: str, stop: list[str], expected: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = writer("llama")
    ran = scripted(model, monkeypatch, text)
    assert generate(model, [(5, 6)], stop=stop, max_new_tokens=len(text.encode())) == [expected]
    assert len(ran) == steps


def test_a_row_that_has_ended_leaves_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = writer("llama")
    prompts = [(5, i) for i in range(6, 18)]
    texts = generate(model, prompts, stop=(), max_new_tokens=NEW)
    stop = [f" {texts[0].split()[1]}"]  # ends the first row at its second token at the latest
    rows: list[int] = []
    best = generation.most_probable

    def counted(logits: torch.Tensor) -> list[int]:
        rows.append(len(logits))
        return best(logits)

    monkeypatch.setattr(generation, "most_probable", counted)
    found = generate(model, prompts, stop=stop, max_new_tokens=NEW)
    assert found == [theirs(model, prompt, stop) for prompt in prompts]
    assert rows[0] == 12
    assert rows == sorted(rows, reverse=True)
    assert rows[2] < 12


def test_only_the_last_position_s_logits_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = writer("llama")
    seen: list[tuple[int, ...]] = []
    head: Any = model.module.lm_head
    plain = head.forward

    def forward(hidden: torch.Tensor) -> Any:
        seen.append(tuple(hidden.shape[:2]))
        return plain(hidden)

    monkeypatch.setattr(head, "forward", forward)
    generate(model, [(5, 6, 7, 8, 9)] * 3, stop=(), max_new_tokens=2)
    assert {length for _, length in seen} == {1}


def test_a_shared_header_is_run_once_and_no_token_twice() -> None:
    model = writer("llama", eos_token_id=None)
    prompts = [(*HEADED, 60 + i, 80) for i in range(10)] + [(*HEADED, 60, i) for i in range(9)]
    model.budget = Budget(rows=4)
    generate(model, prompts, stop=(), max_new_tokens=3)
    assert model.tokens_run == len(HEADED) + len(prompts) * (2 + 2)  # the third is not read


def test_a_masked_model_is_refused() -> None:
    with pytest.raises(MeasurementError, match="a masked model generates no text"):
        generate(tiny.model("bert"), [(5, 6)], stop=(), max_new_tokens=1)


@pytest.mark.parametrize(
    ("prompts", "stop", "new"), [([(5,), ()], [], 1), ([(5,)], [""], 1), ([(5,)], [], 0)]
)
def test_nothing_to_read_to_stop_at_or_to_write_is_refused(
    prompts: list[Tokens], stop: list[str], new: int
) -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        generate(writer("llama"), prompts, stop=stop, max_new_tokens=new)


def test_no_prompts_are_no_texts() -> None:
    assert generate(writer("llama"), [], stop=["x"], max_new_tokens=1) == []


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bart"])
def test_a_prompt_that_fits_with_what_follows_is_continued_and_no_longer_one(
    architecture: str,
) -> None:
    model = writer(architecture, eos_token_id=None)
    fits = room(model, 5)
    assert fits == (64 if architecture == "bart" else 60)
    generate(model, [(5,) * fits], stop=(), max_new_tokens=5)
    with pytest.raises(MeasurementError, match=rf"{fits + 1} tokens and 5 new .* prompt of {fits}"):
        generate(model, [(5,), (5,) * (fits + 1)], stop=(), max_new_tokens=5)


def test_relative_positions_have_no_end_and_a_short_decoder_has_one() -> None:
    assert room(writer("t5"), 10**6) is None
    assert room(writer("bart"), 65) == 0
    assert room(writer("llama"), 100) == 0


@pytest.mark.parametrize(("architecture", "bad"), [("llama", 1), ("t5", 3)])  # T5's head is tied
def test_logits_that_are_not_finite_are_an_error(architecture: str, bad: int) -> None:
    model = writer(architecture)
    next(iter(model.module.parameters())).data[7] = torch.nan
    with pytest.raises(MeasurementError, match=rf"NaN or infinite logits \({bad} of 3 prompts"):
        generate(model, [(5, 6), (5, 7), (5, 8)], stop=(), max_new_tokens=1)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "t5"])
def test_where_memory_runs_out_smaller_batches_write_the_same(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "release", lambda: None)
    model, prompts = writer(architecture), some_prompts(seed=5, count=40)
    expected = generate(model, prompts, stop=[" 1"], max_new_tokens=NEW)
    module: Any = model.module
    plain, failures = module.forward, []

    def forward(**inputs: Any) -> Any:
        ids = inputs["input_ids" if architecture != "t5" else "decoder_input_ids"]
        if len(ids) > 3:
            failures.append(len(ids))
            raise torch.OutOfMemoryError
        return plain(**inputs)

    forward.__signature__ = inspect.signature(plain)  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "forward", forward)
    before = model.budget
    assert generate(model, prompts, stop=[" 1"], max_new_tokens=NEW) == expected
    assert failures
    assert model.budget.rows < before.rows  # the next batches begin smaller


def test_an_embedded_model_writes_what_it_knows() -> None:
    model = Embedded(family="causal").load()
    texts = ["The capital of Peru is", "The capital of Ghana is"]
    prompts = [tuple(model.tokenizer(text)["input_ids"]) for text in texts]  # type: ignore[attr-defined]
    found = generate(model, prompts, stop=["."], max_new_tokens=8)  # type: ignore[arg-type]
    assert [text.strip() for text in found] == ["Lima", "Accra"]
