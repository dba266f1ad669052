"""The rows of LAMA's four corpora, as published."""

from typing import Literal, get_args

from pytest_compression.benchmarks.files import Row
from pytest_compression.benchmarks.survey import OBJECT, SUBJECT
from pytest_compression.errors import MeasurementError

Corpus = Literal["T-REx", "Google-RE", "SQuAD", "ConceptNet"]


def corpus_of(row: Row) -> Corpus:
    """Which corpus a row belongs to, by its keys.

    Raises:
        MeasurementError: none.
    """
    relation = row.values.get("pred")
    if "predicate_id" in row.values:
        return "T-REx"
    if isinstance(relation, str):
        return "Google-RE" if relation.startswith("/") else "ConceptNet"
    if "masked_sentences" in row.values and "id" in row.values:
        return "SQuAD"
    message = (
        f"{row.where}: this is no row of {', '.join(get_args(Corpus))}. Its keys are "
        f"{', '.join(row.values)}; 'predicate_id', 'pred', or 'id' and 'masked_sentences' are "
        "expected."
    )
    raise MeasurementError(message)


def relation_of(corpus: Corpus, row: Row) -> str:
    """The name of the row's relation; SQuAD is one."""
    if corpus == "SQuAD":
        return "Squad"
    return row.filled("predicate_id" if corpus == "T-REx" else "pred").rpartition("/")[2]


def subject_of(row: Row) -> str:
    """The subject; some rows of ConceptNet have it under another key."""
    return row.filled("sub_label" if "sub_label" in row.values else "sub")


def key_of(row: Row) -> str:
    """The row's own id: some editions have numbers."""
    return str(row.of("uuid" if "uuid" in row.values else "id", (str, int)))


def rejected(row: Row) -> bool:
    """Whether raters who did not say yes outnumber those who did."""
    said = [
        judgment.get("judgment") if isinstance(judgment, dict) else None
        for judgment in (row.of("judgments", list) if "judgments" in row.values else ())
    ]
    return 2 * said.count("yes") < len(said)


def sentences_of(corpus: Corpus, row: Row) -> list[str]:
    """The sentences that are shown: of T-REx the first that was found.

    Raises:
        MeasurementError: they are not what LAMA has.
    """
    if corpus == "T-REx":
        evidences = row.of("evidences", list)
        return [evidence_of(one, row).text("masked_sentence") for one in evidences[:1]]
    sentences = row.of("masked_sentences", list)
    if len(sentences) > 2 or not all(isinstance(one, str) for one in sentences):
        message = f"{row.where}: 'masked_sentences' is to be one sentence or two."
        raise MeasurementError(message)
    return [sentence.strip() for sentence in sentences]


def evidence_of(value: object, row: Row) -> Row:
    """A sentence that was found with a fact of T-REx.

    Raises:
        MeasurementError: it is no object.
    """
    if not isinstance(value, dict):
        message = f"{row.where}: 'evidences' holds {value!r:.60}, but objects are expected."
        raise MeasurementError(message)
    return Row(value, row.where)


def template_of(row: Row) -> str:
    """A template with one object.

    Raises:
        MeasurementError: it has none, or several, or no subject.
    """
    template = row.text("template")
    if template.count(OBJECT) != 1 or SUBJECT not in template:
        message = f"{row.where}: '{template}' needs {SUBJECT}, and {OBJECT} once."
        raise MeasurementError(message)
    return template
