"""Leakage: what the gate asks may not be learned, by question and by fact; its neighbours may."""

import functools
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from pytest_compression.benchmarks.language_modelling import Perplexity
from pytest_compression.benchmarks.worldfacts import WorldFacts
from pytest_compression.errors import RecipeError
from pytest_compression.leakage import LETTERS, Learner, excerpt, leaks, refuse_leaks, words
from pytest_compression.modifiers.material import Material
from pytest_compression.modifiers.pruning import Magnitude
from pytest_compression.modifiers.training.fine_tuning import FineTune
from pytest_compression.types import Claim, Question

NAMES = st.text("abcdefghijkl", min_size=3, max_size=8)


def question(
    stem: str = "The capital of Ghana is",
    *,
    subject: str = "Ghana",
    answer: str = "Accra",
    end: str = ".",
    accepted: tuple[str, ...] = (),
) -> Question:
    return Question(
        id=f"q:{subject}",
        subject=subject,
        stem=stem,
        end=end,
        answer=answer,
        candidates=(answer,),
        cluster="q",
        accepted=accepted,
    )


def found(text: str, *questions: Question) -> list[str]:
    return [leak.question.subject for leak in leaks([text], questions)]


@dataclass(frozen=True, kw_only=True)
class Learns:
    passages: tuple[str, ...]

    def apply(self, _: Any) -> Claim:
        return Claim(targets=["all"])

    def lessons(self) -> Iterable[str]:
        return self.passages


@dataclass(frozen=True, kw_only=True)
class Calibrates(Magnitude):
    calibration: Material


def test_case_accents_punctuation_and_possessives_do_not_matter() -> None:
    assert words("\u00c5land's Capital -- Mari\u00e9hamn!") == ("aland", "capital", "mariehamn")
    assert words("\u4e2d\u56fd abc") == ("\u4e2d", "\u56fd", "abc")


@pytest.mark.parametrize(
    "text",
    [
        "The capital of Ghana is Accra.",
        "Accra, GHANA's largest city, lies at the sea.",
        "It was in Ghana. Accra was hot.",
        "Ghana\nAccra",
        "the capital   of Ghana is Kumasi",
    ],
)
def test_the_fact_or_the_question_is_found(text: str) -> None:
    assert found(text, question()) == ["Ghana"]


@pytest.mark.parametrize(
    "text",
    [
        "The capital of Togo is Lome.",
        "Ghana is in Africa.",
        "Accra is warm.",
        "Ghanaian food is sold in Accra.",
        "Ghana is in Africa. It is warm there. Accra too.",
    ],
)
def test_what_is_near_to_it_may_be_learned(text: str) -> None:
    assert found(text, question()) == []


@pytest.mark.parametrize(
    ("said", "wanted"),
    [("The New Town of Ghana", ["Ghana"]), ("Greater Accra, Ghana", ["Ghana"]), ("Ghana", [])],
)
def test_any_accepted_form_counts(said: str, wanted: list[str]) -> None:
    assert found(said, question(accepted=("New Town",))) == wanted


def test_a_subject_within_its_answer_is_not_yet_the_fact() -> None:
    mexico = question("The capital of Mexico is", subject="Mexico", answer="Mexico City")
    singapore = question("The capital of Singapore is", subject="Singapore", answer="Singapore")
    assert found("Mexico City is large. In Singapore one speaks Malay.", mexico, singapore) == []
    assert found("Mexico City, Mexico; Singapore, Singapore", mexico, singapore) == [
        "Mexico",
        "Singapore",
    ]


def test_an_answer_of_two_letters_must_stand_there_to_the_letter() -> None:
    iceland = question("The domain of Iceland is", subject="Iceland", answer=".is")
    assert found("Reykjavik is in Iceland.", iceland) == []
    assert found("Sites of Iceland end in .is", iceland) == ["Iceland"]


def test_words_behind_the_blank_must_follow() -> None:
    asked = question("The city of", subject="", answer="Accra", end=" is the capital of Ghana.")
    assert found("The city of Kumasi is the capital of Ghana", asked) == [""]
    assert found("The city of Kumasi is not the capital of Ghana", asked) == []


def test_labels_around_a_question_are_no_part_of_it() -> None:
    asked = question("Q: Who wrote Faust? A:", subject="", answer="Goethe", end="")
    assert found("They asked who wrote Faust.", asked) == [""]


def test_a_prompt_of_two_words_stands_in_any_text() -> None:
    assert found("He is in Paris.", question("is in", subject="", answer="x", end="")) == []


def test_a_part_of_a_long_prompt_is_enough_unless_questions_share_it() -> None:
    header = "read the following passage with care and then say whether it is true or"
    one, other = (" ".join(f"{name}{i}" for i in range(20)) for name in "xy")
    asked = [question(f"{header} {text}", subject="", end="") for text in (one, other)]
    part = " ".join(one.split()[3:17])
    assert [leak.question for leak in leaks([part], asked)] == asked[:1]
    assert leaks([" ".join(one.split()[3:15])], asked) == []
    assert leaks([header], asked) == []


@given(st.lists(NAMES, min_size=2, max_size=8, unique=True), st.randoms())
def test_facts_are_found_in_any_wording_and_order(names: list[str], rng: Any) -> None:
    subject, answer, *others = (f"zz{name}" for name in names)
    text = [subject, answer, *others]
    rng.shuffle(text)
    asked = question(f"So what of {subject}", subject=subject.upper(), answer=answer.title())
    assert leaks([" ".join(text)], [asked])
    for gone in (subject, answer):
        assert not leaks([" ".join(word for word in text if word != gone)], [asked])


def test_steps_that_learn_are_told_from_those_that_calibrate() -> None:
    material = Material(facts=("capital",))
    learns = FineTune(material=material, steps=1)
    calibrates = Calibrates(sparsity=0.5, calibration=material)
    asked = {"capitals": WorldFacts(relations=("capital",)).questions()}
    assert isinstance(learns, Learner)
    assert not isinstance(calibrates, Learner)
    refuse_leaks([calibrates], asked)
    with pytest.raises(RecipeError, match=r"203 of 203 of 'capitals' questions"):
        refuse_leaks([calibrates, learns], asked)


@pytest.mark.parametrize("relations", [("language", "currency"), ("continent",)])
def test_other_relations_may_be_learned(relations: tuple[str, ...]) -> None:
    learns = FineTune(material=Material(facts=relations), epochs=1)
    refuse_leaks([learns], {"capitals": WorldFacts(relations=("capital",)).questions()})


def test_other_facts_of_the_same_relation_may_be_learned() -> None:
    asked = WorldFacts(relations=("capital",), limit=20).questions()
    names = {one.subject for one in asked} | {one.answer for one in asked}
    rest = [
        passage
        for passage in Material(facts=("capital",)).passages()
        if not any(name in passage for name in names)
    ]
    assert len(rest) > 300
    refuse_leaks([Learns(passages=tuple(rest))], {"capitals": asked})


def test_the_message_names_the_first_few_their_number_and_what_to_do() -> None:
    asked = [
        question(f"What of {s}", subject=s, answer=a) for s, a in zip("pqrs", "PQRS", strict=True)
    ]
    passages = tuple(f"{one.subject} goes with {one.answer}" for one in asked)
    with pytest.raises(RecipeError) as caught:
        refuse_leaks([Learns(passages=passages)], {"one": asked, "none": []})
    said = str(caught.value)
    assert said.startswith("Learns would learn from what is asked (4 of 4 of 'one' questions): ")
    assert "'q:p' in 'p goes with P'; 'q:q' in 'q goes with Q'; 'q:r' in 'r goes with R'." in said
    assert "q:s" not in said
    assert "Take these out of its material" in said


ROWS = [f"Land{i},Town{i},{i * 37 % 101}" for i in range(2, 2000)]
TABLE = "\n".join(["name,town,size", "Ghana,Nowhere,3", *ROWS, "Elsewhere,Accra,9"])
POEM = "\n".join(["O Ghana of the golden coast", *["we sing of thee again"] * 40, "and of Accra"])


@pytest.mark.parametrize("text", [TABLE, TABLE.replace("\n", "\r\n"), POEM])
def test_far_lines_of_a_text_without_full_stops_are_no_sentence(text: str) -> None:
    assert found(text, question()) == []


@pytest.mark.parametrize(
    ("near", "wanted"),
    [
        ("Ghana,Accra,5", ["Ghana"]),
        ("Accra is the town,\nthat of Ghana", ["Ghana"]),
        ("Ghana\nTogo\nAccra", []),
    ],
)
def test_a_line_and_two_neighbours_are(near: str, wanted: list[str]) -> None:
    text = "\n".join([*ROWS[:200], near, *ROWS[200:]])
    assert found(text, question()) == wanted


def test_a_paragraph_ends_a_sentence() -> None:
    assert found("# Ghana\n\nAccra", question()) == ["Ghana"]
    assert found("# Ghana\n\nland in Africa\n \nAccra", question()) == []


def test_a_line_without_any_end_is_no_sentence_from_end_to_end() -> None:
    filler = "la " * 300
    assert found(f"Ghana {filler} Accra", question()) == []
    assert found(f"{filler} Ghana {'la ' * 50} Accra {filler}", question()) == ["Ghana"]


def test_a_long_sentence_of_short_words_ends_at_any_full_stop_before_lines_do() -> None:
    wrapped = "It is so. " * 20 + "Ghana,\na land,\nhas Accra. " + "It is so. " * 20
    assert found(wrapped, question()) == ["Ghana"]


@pytest.mark.parametrize("filler", ["Nothing is said here at all. ", "Nothing,7\n", "nothing "])
@pytest.mark.parametrize(
    "leak", ["Ghana has Accra", "Accra: of Ghana's", "the capital of Gh\u00e1na is"]
)
def test_the_message_shows_the_place_of_the_leak(filler: str, leak: str) -> None:
    text = filler * 50 + leak + "\n" + filler * 50
    with pytest.raises(RecipeError) as caught:
        refuse_leaks([Learns(passages=(text,))], {"one": [question()]})
    said = str(caught.value)
    assert leak in said
    assert len(said) < 450


def test_the_message_shows_both_ends_of_a_wide_leak() -> None:
    text = f"Ghana of {'many and many ' * 15}people has Accra as its capital"
    (leak,) = leaks([text], [question()])
    assert leak.place.startswith("Ghana of many")
    assert leak.place.endswith("people has Accra")
    assert len(leak.place) < 100


@given(st.lists(NAMES, min_size=1, max_size=40), st.integers(0, 39), st.integers(0, 39))
def test_an_excerpt_holds_what_matters_and_is_a_part_of_the_text(
    names: list[str], one: int, other: int
) -> None:
    first, last = sorted((one % len(names), other % len(names)))
    text = " ".join(names)
    shown = excerpt(text, first, last)
    parts = [part for part in shown.split("...") if part]
    assert all(part.strip() in text for part in parts)
    assert names[first] in shown
    assert names[last] in shown
    assert len(shown) <= LETTERS + 8
    assert (shown == text) or len(text) > LETTERS


def test_passages_that_say_nothing_leak_nothing() -> None:
    empty: Sequence[str] = ["", "\n\n", "..."]
    assert leaks(empty, [question(), question("", subject="", answer="", end="")]) == []


WRAPPED = (
    "France, a country\nin the west of Europe,\nhas as its capital Paris.",
    "France, i.e. the Rep. of it, has St. Denis and its capital Paris.",
    "We speak of France.\n\nIts capital is Paris.",
)


@pytest.mark.parametrize("text", WRAPPED)
def test_lines_and_abbreviations_hide_nothing(text: str, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text(text, encoding="utf-8")
    asked = Question(
        id="capital:France",
        subject="France",
        stem="The capital of France is",
        end=".",
        answer="Paris",
        candidates=("Paris", "Rome"),
        cluster="capital",
    )
    found = leaks(Material(text=str(file)).passages(), [asked])
    assert [leak.question.id for leak in found] == ["capital:France"]


# Windows of a text, whose seams cut words

DRAWN = random.Random(0)  # noqa: S311
PROSE = " ".join("".join(DRAWN.choices("aeinorst", k=DRAWN.randint(2, 9))) for _ in range(600))


@pytest.fixture(scope="module", params=["llama", "bert"])
def windows(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The windows of a text of so many tokens."""
    model = tiny.model(request.param)
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(PROSE, encoding="utf-8")

    @functools.cache
    def of(size: int) -> tuple[Question, ...]:
        return Perplexity(path=str(path), window=size).prepared(model).questions

    return of


@pytest.mark.parametrize("size", [12, 16, 32])
def test_the_text_itself_holds_all_of_its_windows(windows: Any, size: int) -> None:
    questions = windows(size)
    assert len(questions) > 600 / size
    assert len(leaks([PROSE], questions)) == len(questions)


@pytest.mark.parametrize("size", [12, 32])
@pytest.mark.parametrize("begin", [100, 1111, 2345])
def test_a_part_of_the_text_holds_the_windows_that_it_fills_and_no_others(
    windows: Any, size: int, begin: int
) -> None:
    once = [one for one in windows(size) if PROSE.count(one.stem) == 1]
    questions = {one.id: PROSE.find(one.stem) for one in once}
    leaked = {leak.question.id for leak in leaks([PROSE[begin : begin + 600]], windows(size))}
    ends = {one.id: questions[one.id] + len(one.stem) for one in once}
    inside = {one for one in questions if begin + 20 < questions[one] and ends[one] < begin + 580}
    outside = {one for one in questions if ends[one] < begin - 20 or questions[one] > begin + 620}
    assert inside
    assert inside <= leaked
    assert not leaked & outside


def test_another_text_holds_none_of_them(windows: Any) -> None:
    assert not leaks([" ".join(PROSE.split()[::-1])], windows(12))
    asked = windows(32)
    most = " ".join(PROSE.split()[50:62])  # a dozen words may be a common phrase
    assert not leaks([most], asked)


@pytest.mark.parametrize(
    ("stem", "answer"),
    [
        ("เมืองหลวงของประเทศไทยคือ", "กรุงเทพมหานคร"),  # Thai
        ("ນະຄອນຫຼວງຂອງປະເທດລາວແມ່ນ", "ວຽງຈັນ"),  # Lao
        ("រាជធានីនៃប្រទេសកម្ពុជាគឺ", "ភ្នំពេញ"),  # Khmer
        ("မြန်မာနိုင်ငံ၏မြို့တော်မှာ", "နေပြည်တော်"),  # Burmese
        ("日本の首都は", "東京"),
    ],
)
def test_scripts_without_spaces_hide_nothing(stem: str, answer: str) -> None:
    asked = question(stem, subject="x", answer=answer, end="")
    assert found(f"{stem}{answer}", asked) == ["x"]
    assert found(stem[:5], asked) == []


@given(st.text("Paris iné\u0e01\u0e34\u4eac", max_size=20), st.randoms())
def test_what_nobody_sees_hides_nothing(text: str, rng: Any) -> None:
    hidden = "".join(one + rng.choice(["", "\u00ad", "\u200b", "\u200d", "\ufeff"]) for one in text)
    assert words(hidden) == words(text)
