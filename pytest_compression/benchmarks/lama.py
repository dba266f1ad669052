"""LAMA: T-REx, Google-RE, SQuAD and ConceptNet, as published.

Petroni et al. 2019, https://arxiv.org/abs/1909.01066. The data are CC BY-NC 4.0 and do not come
with this package. With a template one question is asked for each (subject, object); without, the
row's sentences are shown, the one without the blank as a segment of its own, and of several
``[MASK]`` the first is scored while all are masked.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from pytest_compression.benchmarks.files import Row, Seed, jsonl, there, under
from pytest_compression.benchmarks.lama_rows import (
    Corpus,
    corpus_of,
    key_of,
    rejected,
    relation_of,
    sentences_of,
    subject_of,
    template_of,
)
from pytest_compression.benchmarks.survey import (
    IN_WORD,
    PLACES,
    Fact,
    Metric,
    Prompt,
    Survey,
    ask,
    from_template,
    lost,
    refuse_vocabulary,
    survey,
)
from pytest_compression.errors import MeasurementError, OptionError, nearest
from pytest_compression.scoring.tokens import BLANK, parted
from pytest_compression.types import Measurement

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel

FOLDERS = ("TREx", "Google_RE", "Squad", "ConceptNet")
TEMPLATES = "relations.jsonl"

GOOGLE_RE = {
    "place_of_birth": "[X] was born in [Y] .",
    "date_of_birth": "[X] (born [Y]).",
    "place_of_death": "[X] died in [Y] .",
}
"""The templates of LAMA's own script; its files have none."""

LONGEST = 100
"""Words; LAMA shows no longer sentences."""

REJECTED = "a fact that its raters rejected"
NO_BLANK = f"no {BLANK} in the row"
LENGTHY = f"sentences of more than {LONGEST} words"
IN_NAME = "an answer that stands in the subject's name"

SEVERAL = f"rows with several {BLANK}s"
SECOND = f"rows with {BLANK} in the second sentence only"


@dataclass(frozen=True, kw_only=True)
class Lama:
    """Which rows are asked, and how they are scored."""

    path: str
    """LAMA's ``data`` directory, one corpus of it, or one file."""
    templates: str | None = None
    """``relations.jsonl``; looked for beside the data if not given."""
    corpora: Annotated[tuple[Corpus, ...], Meta(min_length=1)] | None = None
    relations: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    """Such as ``P19``, ``place_of_birth``, ``Squad`` or ``HasSubevent``; all if not given."""
    prompts: Literal["template", "sentence"] = "template"
    """What T-REx and Google-RE are asked: the relation's template, or the first sentence that was
    found with the fact. SQuAD and ConceptNet have sentences only."""
    metric: Metric = "ranked"
    """Rank the relation's objects; or a place in the vocabulary: first, among the first ``k``, or
    one over the rank. Then only answers of one token are asked."""
    k: Annotated[int, Meta(ge=1)] = PLACES
    vocabulary: str | None = None
    """A file of words, one a line, that answers compete with; the model's own if not given."""
    uhn: bool = False
    """Leave out facts whose object stands in the subject's name, the first rule of LAMA-UHN
    (Poerner et al. 2020, https://arxiv.org/abs/1911.03681)."""
    limit: Annotated[int, Meta(ge=1)] | None = None
    """At most so many questions a relation, drawn by ``seed``."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        """Refuse options that would do nothing."""
        refuse_vocabulary(self)
        if self.prompts == "sentence" and self.templates is not None:
            message = "templates are not read where prompts are sentences"
            raise OptionError(message, option="templates")

    def sources(self) -> Iterator[Path]:
        """The files that the answers depend on."""
        yield from under(self.path, template_file(self), self.vocabulary)

    def survey(self) -> Survey:
        """What is asked, and what of the files is not.

        Raises:
            MeasurementError: a file or row is not LAMA's, or a relation is not there.
        """
        reader = Reader(self)
        facts = list(reader.facts())
        known = {fact.relation for fact in facts} | reader.met
        for relation in self.relations or ():
            if relation not in known:
                message = f"'{self.path}' has no relation '{relation}'. {nearest(relation, known)}"
                raise MeasurementError(message)
        made = survey(facts, self.metric, self.limit, self.seed)
        if not made.questions:
            reasons = "; ".join(f"{reason} ({n})" for reason, n in made.left_out.items())
            message = f"'{self.path}' has no question: {reasons or 'no rows of these corpora'}."
            raise MeasurementError(message)
        counts = {name: float(count) for name, count in reader.counts.items()}
        return made._replace(figures=made.figures | counts)

    def measure(self, model: "LanguageModel") -> Measurement:
        """Ask a model, compressed or not.

        Raises:
            MeasurementError: the files are not as published, or nothing can be asked.
        """
        return self._asked(model, None)

    def measure_part(self, model: "LanguageModel", ids: Collection[str]) -> Measurement:
        """Ask only the questions with these ids.

        Raises:
            ValueError: there is no question with one of the ids.
        """
        return self._asked(model, ids)

    def _asked(self, model: "LanguageModel", ids: Collection[str] | None) -> Measurement:
        if self not in model.memo:
            model.memo[self] = self.survey()
        return ask(model, model.memo[self], self, ids)


class Reader:
    """Reads files to facts, and counts what it meets."""

    def __init__(self, options: Lama) -> None:
        self.options = options
        self.path = there(options.path, kind="file or directory")
        self.counts = Counter({"rows": 0, SEVERAL: 0, SECOND: 0})
        self.met: set[str] = set()
        """Relations, also those that were not asked for."""
        self.templates = dict(GOOGLE_RE)
        if options.prompts == "template" and (found := template_file(options)):
            rows = jsonl(there(str(found), kind="file of templates"))
            self.templates |= {row.text("relation"): template_of(row) for row in rows}

    def files(self) -> list[Path]:
        """The files to read, sorted.

        Raises:
            MeasurementError: there are none, or some are in a folder that is not known.
        """
        if self.path.is_file():
            return [self.path]
        named = template_file(self.options)
        inside = {path.parent for path in self.path.glob("*/*.jsonl") if path != named}
        known = {plain(name) for name in FOLDERS}
        if unknown := sorted(path.name for path in inside if plain(path.name) not in known):
            message = (
                f"'{self.path}' has folders that are none of LAMA's: {', '.join(unknown)}. Known: "
                f"{', '.join(FOLDERS)}. Name one folder or file in 'path', or move the others away."
            )
            raise MeasurementError(message)
        folders = sorted(inside) or [self.path]
        found = [path for folder in folders for path in sorted(folder.glob("*.jsonl"))]
        found = [path for path in found if path.name != TEMPLATES]
        if not found:
            message = (
                f"'{self.path}' has none of LAMA's files: a folder {', '.join(FOLDERS)}, or "
                "files that end in .jsonl, are expected."
            )
            raise MeasurementError(message)
        return found

    def facts(self) -> Iterator[Fact]:
        """The facts of the chosen corpora and relations, also those that make no question."""
        for path in self.files():
            for row in jsonl(path):
                corpus = corpus_of(row)
                if self.options.corpora is not None and corpus not in self.options.corpora:
                    continue
                relation = relation_of(corpus, row)
                self.met.add(relation)
                if self.options.relations is None or relation in self.options.relations:
                    self.counts["rows"] += 1
                    yield self.fact(corpus, relation, row)

    def fact(self, corpus: Corpus, relation: str, row: Row) -> Fact:
        """One row's fact."""
        named = corpus != "SQuAD"
        subject = subject_of(row) if named else ""
        answer = row.filled("obj_label")
        if rejected(row):
            return lost(relation, answer, REJECTED)
        if corpus in ("T-REx", "Google-RE") and self.options.prompts == "template":
            prompt = from_template(self.template(relation, row), subject) or IN_WORD
        else:
            prompt = self.from_sentences(sentences_of(corpus, row))
        if isinstance(prompt, str):
            return lost(relation, answer, prompt)
        in_name = self.options.uhn and named and answer.lower() in subject.lower()
        return Fact(
            relation=relation,
            key=key_of(row),
            subject=subject or f"{prompt.stem} ... {prompt.end}".strip(),
            object=answer,
            prompt=prompt,
            excluded=IN_NAME if in_name else "",
        )

    def template(self, relation: str, row: Row) -> str:
        """The relation's template.

        Raises:
            MeasurementError: it has none.
        """
        if relation not in self.templates:
            message = (
                f"{row.where}: relation '{relation}' has no template. Name LAMA's {TEMPLATES} in "
                "'templates', or ask 'prompts: sentence'."
            )
            raise MeasurementError(message)
        return self.templates[relation]

    def from_sentences(self, sentences: list[str]) -> Prompt | str:
        """The sentence with the first blank, and its neighbour; or why there is no question."""
        with_blank = [i for i, sentence in enumerate(sentences) if BLANK in sentence]
        self.counts[SEVERAL] += sum(sentence.count(BLANK) for sentence in sentences) > 1
        if not with_blank:
            return NO_BLANK
        self.counts[SECOND] += with_blank[0] == 1
        if sum(len(sentence.split()) for sentence in sentences) > LONGEST:
            return LENGTHY
        first = with_blank[0]
        found = parted(sentences[first], BLANK)
        if found is None:
            return IN_WORD
        before, behind = " ".join(sentences[:first]), " ".join(sentences[first + 1 :])
        return Prompt(*found, before=before, behind=behind)


def template_file(options: Lama) -> Path | None:
    """The file of templates that was named, or one beside the data or above them."""
    if options.templates is not None:
        return Path(options.templates).expanduser()
    path = Path(options.path).expanduser()
    folders = (path, *path.absolute().parents[:2])
    return next((f / TEMPLATES for f in folders if (f / TEMPLATES).is_file()), None)


def plain(name: str) -> str:
    """A folder's name as all editions spell it."""
    return name.casefold().replace("_", "")
