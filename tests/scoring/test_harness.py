"""lm-eval's interface, against lm-eval's own ``HFLM`` on copies of the same models."""

import copy
import math
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM
from torch import nn

from pytest_compression.errors import MeasurementError, ModelError
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.scoring.harness import HarnessLM
from pytest_compression.scoring.pairs import PairEncoder

CLOSE = 1e-4
"""Nats a request."""
LONG = "The capital of Ghana is Accra. In Peru, it is Lima, not Chad! " * 4
"""More than the 64 tokens that the tiny models read."""
PAIRS = [
    ("The capital of Ghana is", " Accra"),
    ("The capital of Ghana is", " New Town North"),
    ("The capital of Ghana is ", "Accra"),  # the space goes to the answer
    ("The capital of Ghana is", " A"),
    ("Japan", "."),
    ("", "Paris is the capital"),
    ("", " Lima"),
    ("<s>The capital", " of"),  # the begin mark is written out
    ("   ", "Chad"),
    ("Häuser", " übrig"),
]
READS = ["gpt2", "gpt_neox", "llama", "opt", "bart", "t5"]


def request(
    *arguments: Any, kind: str = "loglikelihood", task: str = "t", doc: int = 0
) -> Instance:
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0, metadata=(task, doc, 1))


def rolling(text: str) -> Instance:
    return request(text, kind="loglikelihood_rolling")


def generation(prompt: str, **options: Any) -> Instance:
    return request(prompt, {"until": ["\n"], "max_gen_toks": 8} | options, kind="generate_until")


def hflm(model: LanguageModel, **options: Any) -> Any:
    """lm-eval's own; of a copy, for it ties weights."""
    module: Any = copy.deepcopy(model.module)
    return HFLM(pretrained=module, tokenizer=model.tokenizer, **{"batch_size": 4} | options)


@cache
def asked(architecture: str) -> tuple[HarnessLM, Any]:
    """Ours and lm-eval's, of the same weights."""
    model = tiny.model(architecture)
    return HarnessLM(model), hflm(model)


def assert_same(ours: list[tuple[float, bool]], theirs: list[tuple[float, bool]]) -> None:
    assert [total for total, _ in ours] == pytest.approx([t for t, _ in theirs], abs=CLOSE)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


# The same figures as lm-eval's own


@pytest.mark.parametrize("architecture", READS)
def test_log_likelihoods_are_those_of_hflm(architecture: str) -> None:
    ours, theirs = asked(architecture)
    pairs = [pair for pair in PAIRS if architecture != "bart" or not pair[0].startswith("<s>")]
    requests = [request(*pair) for pair in pairs]
    assert_same(ours.loglikelihood(requests), theirs.loglikelihood(requests, disable_tqdm=True))


TEXTS = st.lists(
    st.sampled_from(["The", " capital", " of", "Ghana", " ", "  ", "\n", "ä", "1", ".", " is"]),
    max_size=8,
).map("".join)


@pytest.mark.parametrize("architecture", ["llama", "t5"])
@given(context=TEXTS, continuation=TEXTS.filter(str.strip))
def test_pairs_become_the_tokens_of_hflm(
    architecture: str, context: str, continuation: str
) -> None:
    _, theirs = asked(architecture)
    model = tiny.model(architecture)
    (found,) = PairEncoder(model.tokenizer, model.family, {}).encoded([(context, continuation)])
    seen: list[Any] = []
    spy = SimpleNamespace(
        tok_encode=theirs.tok_encode,
        prefix_token_id=theirs.prefix_token_id,
        _encode_pair=theirs._encode_pair,
        _loglikelihood_tokens=lambda requests, **_: seen.extend(requests),
    )
    super(HFLM, theirs).loglikelihood.__func__(spy, [request(context, continuation)], True)  # noqa: FBT003
    assert found == tuple(map(tuple, seen[0][1:]))


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bart"])
def test_prompts_that_are_too_long_are_cut_as_hflm_cuts_them_and_counted(architecture: str) -> None:
    model = tiny.model(architecture)
    ours, theirs = HarnessLM(model), hflm(model)
    assert ours.max_length == theirs.max_length == 64
    requests = [
        request(LONG, " Accra", doc=1),
        request(LONG, " New Town", doc=1),
        request("Short", " Accra", doc=2),
        request(LONG + "Chad", " Lima", doc=3),
    ]
    assert_same(ours.loglikelihood(requests), theirs.loglikelihood(requests, disable_tqdm=True))
    assert ours.cut == {("t", 1), ("t", 3)}
    strict = HarnessLM(model, overlong="refuse")
    assert strict.loglikelihood([requests[2]])
    with pytest.raises(MeasurementError, match=r"task .t.: a prompt of .* write overlong: cut"):
        strict.loglikelihood(requests)


@pytest.mark.parametrize(("architecture", "room"), [("llama", 63), ("bart", 64)])
def test_the_longest_prompt_that_fits_is_not_cut(architecture: str, room: int) -> None:
    ours = HarnessLM(tiny.model(architecture))
    for length in (room, room + 1):  # a causal model reads the first of two answer tokens, too
        context = tuple(range(length))
        assert ours.fitting(request("The", ""), context, (5, 6)) == context[-room:]
        assert bool(ours.cut) == (length > room)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "opt", "bart"])
def test_no_more_is_read_than_the_model_has_positions_for(architecture: str) -> None:
    model = tiny.model(architecture)
    with pytest.raises(MeasurementError, match=r"max_length is 65, .* has only 64 positions"):
        HarnessLM(model, max_length=65)
    assert HarnessLM(model, max_length=64).max_length == 64
    assert HarnessLM(tiny.model("t5"), max_length=4096).max_length == 4096  # it has no such end


def test_a_configuration_that_promises_too_many_positions_is_not_believed() -> None:
    model = tiny.model("llama")
    module: Any = model.module
    module.config.n_positions = 128
    ours = HarnessLM(model)
    assert ours.max_length == 64
    assert len(ours.loglikelihood([request(LONG, " Accra")])) == 1
    assert ours.cut == {("t", 0)}


def test_an_answer_longer_than_the_model_reads_is_refused() -> None:
    ours, _ = asked("llama")
    with pytest.raises(MeasurementError, match=r"task .t.: an answer of .* reads 64"):
        ours.loglikelihood([request("The capital", " " + LONG)])
    with pytest.raises(MeasurementError, match="an answer of 0 tokens"):
        ours.loglikelihood([request("The capital", "")])


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bart", "t5"])
def test_texts_longer_than_the_context_are_rolled_as_by_hflm(architecture: str) -> None:
    ours, theirs = asked(architecture)
    requests = [rolling(text) for text in ("Accra", LONG, LONG * 2 + "Lima", "The capital")]
    found = ours.loglikelihood_rolling(requests)
    assert found == pytest.approx(
        theirs.loglikelihood_rolling(requests, disable_tqdm=True), abs=5e-4
    )


def test_a_text_without_tokens_has_no_log_likelihood() -> None:
    ours = HarnessLM(tiny.model("gpt2"))
    ours.pairs.ids = lambda texts, **_: dict.fromkeys(texts, ())  # type: ignore[method-assign]
    assert ours.loglikelihood_rolling([rolling("")]) == [0]


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_generated_texts_are_those_of_hflm(architecture: str) -> None:
    model = tiny.model(architecture)
    ours, theirs = HarnessLM(model), hflm(model, batch_size=1)
    requests = [
        generation("The capital of Ghana is"),
        generation("Paris", until=["a", "e"]),
        generation("Japan", until="o", max_gen_toks=20),
        generation(LONG, until=[]),
        generation("Chad", do_sample=False, temperature=0.7),
    ]
    expected = theirs.generate_until(requests, disable_tqdm=True)
    assert ours.generate_until(requests) == expected
    assert any(expected)
    assert ours.cut == {("t", 0)}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"do_sample": True, "temperature": 0.8}, "asks for samples"),
        ({"temperature": 0.8}, "asks for samples"),
        ({"num_beams": 4}, "asks for 'num_beams'"),
        ({"max_gen_toks": 64}, "asks for 64 new tokens, but the model reads 64"),
    ],
)
def test_generations_that_are_not_greedy_or_do_not_fit_are_refused(
    options: dict[str, Any], words: str
) -> None:
    ours, _ = asked("llama")
    with pytest.raises(MeasurementError, match=words):
        ours.generate_until([generation("The", **options)])


# What lm-eval's own does wrongly


@pytest.mark.parametrize("architecture", tiny.MASKED)
def test_masked_models_are_refused(architecture: str) -> None:
    with pytest.raises(MeasurementError, match="a masked model predicts none"):
        HarnessLM(tiny.model(architecture))


def test_a_compressed_head_stays_as_it_was_given() -> None:
    model = tiny.model("gpt2")
    module: Any = model.module
    assert module.lm_head.weight is module.transformer.wte.weight
    module.lm_head.weight = nn.Parameter(torch.zeros_like(module.lm_head.weight))
    ask = [request("The capital of Ghana is", " A")]
    ((total, _),) = HarnessLM(model).loglikelihood(ask)
    assert total == pytest.approx(-math.log(tiny.VOCABULARY) * 2)
    assert not module.lm_head.weight.any()
    ((undone, _),) = hflm(model).loglikelihood(ask, disable_tqdm=True)
    assert abs(undone - total) > 0.1  # HFLM tied it again


def test_an_end_mark_that_a_causal_tokenizer_appends_is_no_answer() -> None:
    tokenizer = copy.deepcopy(tiny.tokenizer("causal"))
    plain = PairEncoder(tokenizer, "causal", {}).encoded([("The capital", " of")])
    from tokenizers.processors import TemplateProcessing

    marks = [("<s>", 1), ("</s>", 2)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=marks
    )
    assert tokenizer("The")["input_ids"][-1] == 2
    assert PairEncoder(tokenizer, "causal", {}).encoded([("The capital", " of")]) == plain
    written = PairEncoder(tokenizer, "causal", {}).ids(["The</s>"])["The</s>"]
    assert written[-1] == 2


def test_the_cache_of_lm_eval_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="another model would be given them"):
        CachingLM(HarnessLM(tiny.model("gpt2")), str(tmp_path / "cache.db"))


# As lm-eval makes and asks it


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny model."""
    path = tmp_path_factory.mktemp("model")
    model = tiny.model("llama")
    module: Any = model.module
    module.save_pretrained(path)
    model.tokenizer.save_pretrained(path)
    return path


def test_it_is_loaded_from_model_args(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cls: Any = get_model("pytest-compression")
    assert cls is HarnessLM
    made = cls.create_from_arg_string(
        f"pretrained={folder},dtype=float32,max_length=40",
        {"batch_size": 1, "max_batch_size": None, "device": "cuda:0"},
    )
    ask = [request("The capital of Ghana is", " Accra")]
    ours, _ = asked("llama")
    assert made.loglikelihood(ask) == ours.loglikelihood(ask)
    assert made.max_length == 40
    with pytest.raises(ModelError, match="CUDA"):
        cls.create_from_arg_string(f"pretrained={folder},device=cuda:0", {"device": "cpu"})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("pretrained=x,dtpye=float32", "no argument 'dtpye'. Did you mean 'dtype'"),
        (
            "pretrained=x,dtype=int8",
            "model_args: dtype: 'int8' is none of bfloat16, float16, float32",
        ),
        ("dtype=float32", "name a model: pretrained=DIR"),
        ("pretrained=x,overlong=drop", "model_args: overlong: 'drop' is none of cut, refuse"),
        ("pretrained=x,max_length=long", "model_args: max_length: Expected `int"),
        ("pretrained=./nowhere", "there is no directory './nowhere'"),
    ],
)
def test_wrong_model_args_are_refused(arguments: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        HarnessLM.create_from_arg_string(arguments)


def test_a_conversation_is_written_by_the_template_of_the_tokenizer() -> None:
    model = tiny.model("llama")
    model.tokenizer = copy.deepcopy(model.tokenizer)
    ours = HarnessLM(model)
    talk = [{"role": "user", "content": "Capital of Ghana?"}]
    with pytest.raises(MeasurementError, match="chat template cannot be applied"):
        ours.apply_chat_template(talk)
    ours.tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    theirs = hflm(model)
    for history, prompts in (
        (talk, True),
        ([*talk, {"role": "assistant", "content": "It is"}], False),
    ):
        found = ours.apply_chat_template(history, add_generation_prompt=prompts)
        assert found == theirs.apply_chat_template(history, add_generation_prompt=prompts)
    assert ours.chat_template(chat_template=True) == ours.tokenizer.chat_template
    assert "/" not in ours.tokenizer_name


def test_texts_are_tokenized_once_a_model() -> None:
    model = tiny.model("llama")
    ask = [request(*pair) for pair in PAIRS]
    first = HarnessLM(model).loglikelihood(ask)
    again = HarnessLM(model)
    again.pairs.tokenizer = SimpleNamespace(bos_token_id=1, eos_token_id=2, decode=str)
    assert again.loglikelihood(ask) == first


def test_the_fingerprint_is_of_tokens_and_of_what_is_done_to_long_prompts() -> None:
    model = tiny.model("llama")
    ask = [request("The capital", " of"), rolling(LONG), generation("Paris")]
    one = HarnessLM(model).fingerprint(ask)
    assert one == HarnessLM(tiny.model("llama", seed=1)).fingerprint(ask)
    others = {
        HarnessLM(model).fingerprint(ask[:2]),
        HarnessLM(model).fingerprint([request("The capital", " is"), *ask[1:]]),
        HarnessLM(model, overlong="refuse").fingerprint(ask),
        HarnessLM(model, max_length=32).fingerprint(ask),
    }
    assert len(others | {one}) == 5


def test_the_class_is_known_to_lm_eval_with_all_others() -> None:
    code = (
        "import pytest_compression.scoring.harness\n"
        "from lm_eval.api.registry import model_registry\n"
        "print({'hf', 'vllm', 'pytest-compression'} <= set(model_registry.keys()))\n"
    )
    done = subprocess.run(  # noqa: S603  # our own code
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True"
