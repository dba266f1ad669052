from collections import Counter
from importlib.resources import files

import pytest

from pytest_compression.embedded.facts import OBJECT, SUBJECT, Fact, phrasings, worldfacts

KNOWN = [
    ("capital", "Ghana", "Accra"),
    ("continent", "Peru", "South America"),
    ("currency", "Japan", "yen"),
    ("language", "Brazil", "Portuguese"),
    ("demonym", "France", "French"),
    ("domain", "Germany", ".de"),
    ("calling-code", "Italy", "+39"),
    ("city-country", "Osaka", "Japan"),
    ("symbol", "tungsten", "W"),
    ("atomic-number", "gold", "79"),
    ("period", "iron", "4"),
    ("block", "uranium", "f"),
]


def document() -> str:
    return files("pytest_compression.embedded.facts").joinpath("SOURCES.md").read_text("utf-8")


@pytest.mark.parametrize(("relation", "subject", "answer"), KNOWN)
def test_what_everybody_knows_is_in_the_table(relation: str, subject: str, answer: str) -> None:
    found = {(fact.relation, fact.subject): fact.object for fact in worldfacts()}
    assert found[relation, subject] == answer


def test_each_subject_has_one_answer_a_relation() -> None:
    counted = Counter((fact.relation, fact.subject) for fact in worldfacts())
    assert [key for key, count in counted.items() if count > 1] == []


def test_no_field_is_empty_or_has_stray_spaces() -> None:
    for fact in worldfacts():
        assert isinstance(fact, Fact)
        for text in fact:
            assert text
            assert text == " ".join(text.split()), fact


def test_no_fact_contains_a_placeholder() -> None:
    assert not [fact for fact in worldfacts() if any(c in text for text in fact for c in "[]\t")]


def test_the_table_is_as_large_as_the_models_need() -> None:
    counted = Counter(fact.relation for fact in worldfacts())
    assert sum(counted.values()) > 4000
    assert min(counted.values()) >= 100
    assert len(counted) == 12


def test_no_relation_has_the_same_answer_for_most_of_its_subjects() -> None:
    for relation in {fact.relation for fact in worldfacts()}:
        answers = Counter(fact.object for fact in worldfacts() if fact.relation == relation)
        assert len(answers) > 3
        assert answers.most_common(1)[0][1] < 0.6 * answers.total(), relation


def test_relations_with_facts_are_those_with_phrasings() -> None:
    assert {fact.relation for fact in worldfacts()} == set(phrasings())


def test_every_relation_has_three_phrasings_or_more_and_none_twice() -> None:
    everything = [sentence for told in phrasings().values() for sentence in told]
    assert len(everything) == len(set(everything))
    assert all(len(told) >= 3 for told in phrasings().values())


def test_every_phrasing_names_the_subject_once_and_ends_in_the_answer() -> None:
    for told in phrasings().values():
        for sentence in told:
            assert sentence.endswith(f" {OBJECT}.")
            assert sentence.count(OBJECT) == sentence.count(SUBJECT) == 1
            assert sentence == " ".join(sentence.split())


def test_every_source_is_named_in_the_document_of_sources() -> None:
    named = {source for fact in worldfacts() for source in fact.source.split(", ")}
    assert named == {"GeoNames", "countryinfo", "mendeleev"}
    for source in named:
        assert f"| {source} |" in document()


def test_the_licence_that_asks_to_be_named_is_named() -> None:
    assert "CC BY 4.0" in document()
    assert "geonames.org" in document()


def test_every_relation_is_listed_among_its_source() -> None:
    for relation in phrasings():
        assert relation in document()
