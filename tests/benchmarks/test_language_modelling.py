import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tiny
import torch
from torch.nn.functional import kl_div

from pytest_compression.benchmarks.language_modelling import Distance, Perplexity
from pytest_compression.errors import MeasurementError
from pytest_compression.fingerprints import of_questions
from pytest_compression.models.conditions import SINGLE
from pytest_compression.models.language_model import LanguageModel
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.types import Measurement, PartialBenchmark

PARAGRAPHS = "\n\n".join(
    f"The capital of {country} is {city}.\nIt is {city}: é."
    for country, city in tiny.CAPITALS.items()
)
both_families = pytest.mark.parametrize("architecture", ["llama", "bert"])
both_benchmarks = pytest.mark.parametrize("kind", [Perplexity, Distance])


@pytest.fixture
def path(tmp_path: Path) -> str:
    found = tmp_path / "capitals.txt"
    found.write_text(PARAGRAPHS, encoding="utf-8")
    return str(found)


def pruned(model: LanguageModel) -> LanguageModel:
    model.compress([Magnitude(sparsity=0.4)])
    return model


def by_id(measured: Measurement) -> dict[str, float]:
    return dict(zip((q.id for q in measured.questions), measured.values, strict=True))


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_figures_are_those_of_the_strided_loop_of_hugging_face(
    architecture: str, path: str
) -> None:
    model = tiny.model(architecture)
    bos = [model.tokenizer.bos_token_id]
    ids = model.tokenizer(PARAGRAPHS, add_special_tokens=False)["input_ids"]
    total, end = 0.0, 0
    for begin in range(0, len(ids), 10):
        last, end = end, min(begin + 31, len(ids))
        row = torch.tensor([bos + ids[begin:end]])
        labels = row.clone()
        labels[:, : row.shape[1] - (end - last)] = -100
        total += float(model.module(input_ids=row, labels=labels).loss) * (end - last)
        if end == len(ids):
            break
    measured = Perplexity(path=path, window=32, stride=10).measure(model)
    assert measured.metric == "perplexity"
    assert measured.figures == pytest.approx(
        {
            "perplexity": math.exp(total / len(ids)),
            "perplexity per word": math.exp(total / len(PARAGRAPHS.split())),
            "bits per byte": total / len(PARAGRAPHS.encode()) / math.log(2),
            "tokens scored": len(ids),
            "tokens not scored": 0,
            "bytes": len(PARAGRAPHS.encode()),
        },
        rel=1e-5,
    )
    sizes = {question.id: len(question.stem.encode()) for question in measured.questions}
    nats = sum(-math.log(value) * sizes[name] for name, value in by_id(measured).items())
    assert nats == pytest.approx(total, rel=1e-5)


def test_a_passage_s_score_is_the_mean_probability_of_a_byte(tmp_path: Path) -> None:
    file = tmp_path / "short.txt"
    file.write_text("The capital of Ghana is Accra.", encoding="utf-8")
    model = tiny.model("llama")
    ids = torch.tensor([model.tokenizer(file.read_text(encoding="utf-8"))["input_ids"]])
    nats = float(model.module(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
    measured = Perplexity(path=str(file)).measure(model)
    assert measured.values == pytest.approx([math.exp(-nats / 30)], rel=1e-5)
    assert measured.given == (f"{nats / 30 / math.log(2):.3f} bits a byte",)
    (question,) = measured.questions
    assert (question.subject, question.cluster) == ("short.txt:1", "short.txt")
    assert question.stem == "The capital of Ghana is Accra."


@pytest.mark.parametrize("hiding", ["within-word", "original"])
def test_a_masked_model_has_a_pseudo_perplexity_of_a_named_kind(hiding: Any, path: str) -> None:
    measured = Perplexity(path=path, hiding=hiding).measure(tiny.model("bert"))
    assert measured.metric == f"pseudo-perplexity ({hiding})"
    loss = math.log(measured.figures["pseudo-perplexity"]) * measured.figures["tokens scored"]
    size = measured.figures["bytes"]
    assert loss / size / math.log(2) == pytest.approx(measured.figures["bits per byte"])
    other = Perplexity(path=path, hiding="original").measure(tiny.model("bert"))
    assert (measured.scoring == other.scoring) == (hiding == "original")
    assert (measured.values == other.values) == (hiding == "original")


@both_families
@both_benchmarks
def test_scores_are_graded_sorted_and_in_range(architecture: str, kind: Any, path: str) -> None:
    model = tiny.model(architecture)
    benchmark = kind(path=path, window=24)
    dense, now = benchmark.measure(model), benchmark.measure(pruned(model))
    assert isinstance(benchmark, PartialBenchmark)
    ids = [question.id for question in now.questions]
    assert ids == sorted(set(ids))
    assert len(ids) == len(now.values) == len(now.given) > 5
    assert [q.id for q in dense.questions] == ids
    assert dense.scoring == now.scoring
    assert all(0 < value < 1 for value in now.values)
    assert now.margins == ()
    assert set(now.chance) == {1 / 256 if kind is Perplexity else 0}
    assert {type(value) for value in (*now.values, *now.figures.values())} == {float}
    assert all(math.isfinite(figure) for figure in now.figures.values())
    assert now.tokens == dense.tokens > 0


@both_families
def test_the_dense_model_is_at_no_distance_and_a_compressed_one_as_far_as_torch_says(
    architecture: str, path: str
) -> None:
    model = tiny.model(architecture)
    benchmark = Distance(path=path, documents="paragraphs")
    dense = benchmark.measure(model)
    assert set(dense.values) == {1.0}
    assert dense.figures["KLD"] == 0
    assert dense.figures["same top"] == 1
    before = distributions(model, benchmark)
    share = dict[str, float]()
    measured = benchmark.measure(pruned(model))
    after = distributions(model, benchmark)
    for name, value in by_id(measured).items():
        true = kl_div(after[name], before[name], log_target=True, reduction="none").sum(1)
        assert -math.log(value) == pytest.approx(float(true.mean()), rel=0.05)
        share[name] = float((after[name].argmax(1) == before[name].argmax(1)).double().mean())
    agreement = Distance(path=path, documents="paragraphs", metric="agreement").measure(model)
    assert by_id(agreement) == share
    assert agreement.figures == measured.figures
    assert agreement.scoring != measured.scoring
    name = "pseudo-perplexity" if architecture == "bert" else "perplexity"
    perplexity = Perplexity(path=path, documents="paragraphs").measure(model)
    assert measured.figures[name] == pytest.approx(perplexity.figures[name], rel=1e-5)


def distributions(model: LanguageModel, benchmark: Distance) -> dict[str, torch.Tensor]:
    """Log-probabilities at every scored token, a passage at a time, by passage."""
    prepared, found = benchmark.prepared(model), {}
    for question, passage in zip(prepared.questions, prepared.passages, strict=True):
        rows = []
        for place in passage.places:
            row, at = torch.tensor([passage.row]), place - 1
            if model.family == "masked":
                word = passage.words_of[place]
                later = range(place, len(passage.row))
                row[0, [t for t in later if passage.words_of[t] == word]] = (
                    model.tokenizer.mask_token_id
                )
                at = place
            rows.append(model.module(input_ids=row).logits[0, at].log_softmax(-1))
        found[question.id] = torch.stack(rows)
    return found


@both_families
@both_benchmarks
def test_a_part_has_the_scores_of_the_whole_and_no_figures(
    architecture: str, kind: Any, path: str
) -> None:
    model = tiny.model(architecture)
    benchmark = kind(path=path, window=24)
    benchmark.measure(model)
    whole = by_id(benchmark.measure(pruned(model)))
    asked = sorted(whole)[1::3]
    part = benchmark.measure_part(model, [*asked[::-1], asked[0]])
    assert [question.id for question in part.questions] == asked
    assert by_id(part) == pytest.approx({name: whole[name] for name in asked}, abs=1e-5)
    assert part.figures == {}
    with pytest.raises(ValueError, match=r"no passage 'x', 'y' \(2 of 3 ids\)"):
        benchmark.measure_part(model, ["y", asked[0], "x"])


def test_a_part_of_the_dense_model_keeps_all_that_is_needed_later(path: str) -> None:
    model = tiny.model("llama")
    benchmark = Distance(path=path, window=24)
    one = min(question.id for question in benchmark.prepared(model).questions)
    assert by_id(benchmark.measure_part(model, [one])) == {one: 1.0}
    found = benchmark.measure(pruned(model))
    fresh = tiny.model("llama")
    benchmark.measure(fresh)
    assert found.values == pytest.approx(benchmark.measure(pruned(fresh)).values, abs=1e-5)


@both_benchmarks
def test_scores_do_not_depend_on_the_batch_budget(kind: Any, path: str) -> None:
    model = tiny.model("llama")
    benchmark = kind(path=path, window=24)
    benchmark.measure(model)
    usual = benchmark.measure(pruned(model))
    model.budget = SINGLE
    assert benchmark.measure(model).values == pytest.approx(usual.values, abs=1e-4)


def test_a_dense_model_in_another_dtype_is_at_a_distance(path: str) -> None:
    model = tiny.model("llama")
    benchmark = Distance(path=path)
    benchmark.measure(model)
    with model.conditions()["dtype bfloat16"]:
        measured = benchmark.measure(model)
    assert all(0.5 < value < 1 for value in measured.values)


def test_a_compressed_model_alone_has_nothing_to_be_compared_with(path: str) -> None:
    model = pruned(tiny.model("llama"))
    with pytest.raises(MeasurementError, match="dense model was not asked in this process"):
        Distance(path=path).measure(model)
    assert model.restore()
    assert set(Distance(path=path).measure(model).values) == {1.0}


def test_paragraphs_are_read_by_themselves_and_are_clusters(path: str) -> None:
    model = tiny.model("llama")
    measured = Perplexity(path=path, documents="paragraphs").measure(model)
    assert len(measured.questions) == len(tiny.CAPITALS)
    assert {q.stem for q in measured.questions} == set(PARAGRAPHS.split("\n\n"))
    assert len(set(measured.clusters)) == len(tiny.CAPITALS)
    assert {q.subject for q in measured.questions} == {
        f"capitals.txt:{1 + 3 * i}" for i in range(len(tiny.CAPITALS))
    }
    file = Path(path)
    file.write_text("\n\n".join(PARAGRAPHS.split("\n\n")[::-1]), encoding="utf-8")
    again = Perplexity(path=path, documents="paragraphs").measure(tiny.model("llama"))
    assert by_id(again) == pytest.approx(by_id(measured), abs=1e-6)
    assert again.clusters == measured.clusters
    assert of_questions(again.questions) == of_questions(measured.questions)
    assert all(
        re.fullmatch(r"capitals\.txt: The capital.{26}\.\.\. \w{8}", one) for one in again.clusters
    )


def test_a_limit_draws_passages_by_seed(path: str) -> None:
    def drawn(**options: Any) -> dict[str, float]:
        benchmark = Perplexity(path=path, documents="paragraphs", **options)
        return by_id(benchmark.measure(model))

    model = tiny.model("llama")
    whole, few = drawn(), drawn(limit=4)
    assert len(few) == 4
    assert few == pytest.approx({name: whole[name] for name in few}, abs=1e-6)
    assert few == drawn(limit=4)
    assert any(drawn(limit=4, seed=seed).keys() != few.keys() for seed in range(1, 5))
    assert drawn(limit=100) == whole


def test_what_decides_the_scores_is_in_the_fingerprint(path: str) -> None:
    model = tiny.model("llama")
    usual = Perplexity(path=path, window=24).measure(model)
    assert Perplexity(path=path, window=24).measure(tiny.model("llama")).scoring == usual.scoring
    others: list[dict[str, Any]] = [
        {"window": 30},
        {"window": 24, "stride": 5},
        {"documents": "paragraphs"},
    ]
    for other in others:
        assert Perplexity(path=path, **other).measure(model).scoring != usual.scoring
    assert Distance(path=path, window=24).measure(model).scoring != usual.scoring


def test_passages_that_cannot_be_scored_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "odd.txt"
    file.write_text("漢\n\nThe capital of Ghana is Accra.\n\n漢 漢", encoding="utf-8")
    measured = Perplexity(path=str(file), documents="paragraphs").measure(tiny.model("bert"))
    assert len(measured.values) == 1
    assert measured.left_out == {"no token that can be scored": 2}
    assert measured.figures["bytes"] == len("The capital of Ghana is Accra.")


@pytest.mark.parametrize("content", [b"", b" \n\n\t\n", "漢".encode()])
@both_benchmarks
def test_a_text_with_nothing_to_score_is_refused(content: bytes, kind: Any, tmp_path: Path) -> None:
    file = tmp_path / "nothing.txt"
    file.write_bytes(content)
    with pytest.raises(MeasurementError, match=r"nothing\.txt' has no token that .* scored on"):
        kind(path=str(file)).measure(tiny.model("bert"))


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    model = tiny.model("llama")
    with pytest.raises(MeasurementError, match="there is no file"):
        Perplexity(path=str(tmp_path / "missing.txt")).measure(model)
    with pytest.raises(MeasurementError, match="cannot be read"):
        Perplexity(path=str(tmp_path)).measure(model)
    (tmp_path / "latin.txt").write_bytes("Malé".encode("latin-1"))
    with pytest.raises(MeasurementError, match=r"latin\.txt:1: byte 0xe9 is not UTF-8"):
        Perplexity(path=str(tmp_path / "latin.txt")).measure(model)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, path: str) -> None:
    marked = tmp_path / "marked" / "capitals.txt"
    marked.parent.mkdir()
    marked.write_text(PARAGRAPHS, encoding="utf-8-sig")
    model = tiny.model("llama")
    one, other = (Perplexity(path=p).measure(model) for p in (path, str(marked)))
    assert one == msgspec.structs.replace(other, tokens=one.tokens)


@both_benchmarks
def test_encoder_decoder_models_are_refused(kind: Any, path: str) -> None:
    with pytest.raises(MeasurementError, match="encoder-decoder model gives no probability"):
        kind(path=path).measure(tiny.model("t5"))


@both_benchmarks
def test_windows_that_do_not_overlap_are_refused_when_the_suite_is_read(kind: Any) -> None:
    with pytest.raises(msgspec.ValidationError, match="stride 9 must be less than the window 9"):
        msgspec.convert({"path": "x", "window": 9, "stride": 9}, kind)
    for wrong in ({"window": 1}, {"documents": "lines"}, {"seed": 2**63}, {"path": 1}):
        options: dict[str, Any] = {"path": "x"} | wrong
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(options, kind)
    made = msgspec.convert({"path": "x", "window": 9, "stride": 4, "limit": 3}, kind)
    assert made == kind(path="x", window=9, stride=4, limit=3)


def test_a_masked_model_without_a_mask_is_refused(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.model("bert")
    monkeypatch.setattr(type(model.tokenizer), "mask_token_id", None, raising=False)
    for benchmark in (Perplexity(path=path), Distance(path=path)):
        with pytest.raises(MeasurementError, match="has no mask token"):
            benchmark.measure(model)


@both_families
@both_benchmarks
def test_no_passages_are_a_measurement_of_nothing(architecture: str, kind: Any, path: str) -> None:
    model = tiny.model(architecture)
    benchmark = kind(path=path, window=24)
    assert benchmark.measure_part(model, []).scores == ()
    found = benchmark.measure_part(
        pruned(model), []
    )  # the dense model was asked, though of nothing
    assert (found.questions, found.values, found.chance, found.figures) == ((), (), (), {})
    whole = benchmark.measure(model)
    assert found.scoring == whole.scoring


@both_benchmarks
def test_progress_is_told_in_passages(path: str, kind: Any) -> None:
    model = tiny.model("llama")
    told: list[tuple[int, int]] = []
    model.progress = lambda done, total: told.append((done, total))
    measured = kind(path=path, window=24).measure(model)
    assert told[-1] == (len(measured.values), len(measured.values))


def test_the_module_is_light() -> None:
    code = (
        "import sys, pytest_compression.benchmarks.language_modelling;"
        "assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603
