"""Facts as sentences: every phrasing of every fact, cut before the answer."""

from pytest_compression.embedded.facts import phrasings, worldfacts
from pytest_compression.embedded.facts.sentences import sentences


def test_every_fact_is_told_in_every_phrasing() -> None:
    told = sentences()
    assert len(told) == len(worldfacts())
    for fact, each in zip(worldfacts(), told, strict=True):
        assert len(each) == len(phrasings()[fact.relation])
        assert all(one.answer == fact.object and fact.subject in one.stem for one in each)
        assert all(one.text.startswith(one.stem) and one.text.endswith(one.end) for one in each)


def test_only_some_relations_may_be_told() -> None:
    chosen = sentences({"capital", "period"})
    wanted = [fact.object for fact in worldfacts() if fact.relation in ("capital", "period")]
    assert [each[0].answer for each in chosen] == wanted
