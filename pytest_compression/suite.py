"""A suite file: YAML to a validated :class:`~pytest_compression.types.Suite`.

Everything is checked here, before a model is loaded: unknown keys, names, types and ranges are
refused with file, line, key and the nearest known name.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from pytest_compression import registry
from pytest_compression.document import Document, Keys, read
from pytest_compression.errors import OptionError, PluginError, SuiteError, nearest
from pytest_compression.option_errors import alternatives, described, fields_of, said
from pytest_compression.types import (
    Assurance,
    Expectation,
    Gate,
    OnImprovement,
    OnInconclusive,
    Part,
    Recipe,
    Suite,
    TrialSpec,
)

DENSE = "dense"
CONTRACT = "contract"
"""The item under each variant that checks its recipe, if the suite wants it."""
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
SECTIONS = ("version", "models", "recipes", "benchmarks", "gate", "overrides", "contracts")
DEFAULT_SOURCE = "pretrained"

Share = Annotated[float, Meta(ge=0, le=1)]
Nats = Annotated[float, Meta(ge=0, le=0.5)]
Alpha = Annotated[float, Meta(gt=0, lt=0.5)]
Power = Annotated[float, Meta(ge=0.5, lt=1)]


class GateKeys(Struct, frozen=True, kw_only=True):
    """What may be said of a gate, in any of the three places."""

    min_retention: Share | UnsetType = UNSET
    relation_floors: dict[str, Share] | UnsetType = UNSET
    max_forgotten: Share | UnsetType | None = UNSET
    assurance: Assurance | UnsetType = UNSET
    margin: Share | UnsetType = UNSET
    alpha: Alpha | UnsetType = UNSET
    power: Power | UnsetType = UNSET
    inconclusive: OnInconclusive | UnsetType | None = UNSET
    improvement: OnImprovement | UnsetType = UNSET
    near_tie: Nats | UnsetType = UNSET


class Override(GateKeys, frozen=True, kw_only=True):
    """Gate settings for the trials whose names match."""

    model: str = "*"
    recipe: str = "*"
    benchmark: str = "*"
    expect: Expectation = "pass"
    reason: str = ""

    def matches(self, model: str, recipe: str, benchmark: str) -> bool:
        """Whether all three patterns (``*``, ``?``, ``[...]``) match."""
        return (
            fnmatchcase(model, self.model)
            and fnmatchcase(recipe, self.recipe)
            and fnmatchcase(benchmark, self.benchmark)
        )


GATE_KEYS = tuple(GateKeys.__struct_fields__)


def load(path: Path) -> Suite:
    """Read and validate a suite file.

    Raises:
        SuiteError: naming file, line and key.
    """
    return _Reader(read(path)).suite()


def narrowed(gate: Gate, keys: GateKeys) -> Gate:
    """The gate with what the keys set."""
    changes = {key: value for key in GATE_KEYS if (value := getattr(keys, key)) is not UNSET}
    return msgspec.structs.replace(gate, **changes)


class _Reader:
    """Turns one document into a suite; every check fails by :meth:`refuse`."""

    def __init__(self, document: Document) -> None:
        self.document = document

    def refuse(self, keys: Keys, message: str) -> NoReturn:
        raise SuiteError(self.document.at(keys, message))

    def suite(self) -> Suite:
        root = self.mapping((), SECTIONS)
        if repr(root.get("version")) != "1":  # not true, nor 1.0
            self.refuse(("version",), "version: 1 is needed at the top of a suite file.")
        models = {
            name: self.part("models", ("models", name), default=DEFAULT_SOURCE)
            for name in self.section("models")
        }
        benchmarks = {
            name: self.part("benchmarks", ("benchmarks", name))
            for name in self.section("benchmarks")
        }
        gate = narrowed(Gate(), self.convert(("gate",), root.get("gate", {}), GateKeys))
        recipes, gates = self.recipes(root, gate)
        trials = [
            TrialSpec(model=model, recipe=recipe, benchmark=benchmark, gate=gates[recipe])
            for model, recipe, benchmark in itertools.product(models, recipes, benchmarks)
        ]
        return Suite(
            models=models,
            recipes=recipes,
            benchmarks=benchmarks,
            trials=tuple(self.overridden(root.get("overrides", []), trials)),
            contracts=self.contracts(root.get("contracts", False)),
        )

    def contracts(self, wanted: Any) -> bool:
        """Whether each recipe has an item that checks it."""
        if not isinstance(wanted, bool):
            self.refuse(("contracts",), "'contracts' is true or false.")
        if wanted and CONTRACT in self.document.data["benchmarks"]:
            message = f"with 'contracts: true' no benchmark may be called '{CONTRACT}'; rename it."
            self.refuse(("benchmarks", CONTRACT), message)
        return wanted

    # Recipes and their sweeps

    def recipes(
        self, root: Mapping[str, Any], gate: Gate
    ) -> tuple[dict[str, Recipe], dict[str, Gate]]:
        recipes = {DENSE: Recipe(name=DENSE)}
        gates = {DENSE: gate}
        for written in self.section("recipes") if "recipes" in root else ():
            keys = ("recipes", written)
            if written == DENSE:
                self.refuse(
                    keys, "every model has the recipe 'dense' already; choose another name."
                )
            for name, steps in self.variants(keys, written):
                if name in recipes:
                    self.refuse(keys, f"two recipes come out as '{name}'; rename one.")
                recipes[name] = Recipe(name=name, steps=steps)
                own = {k: v for k, v in self.document.get(keys).items() if k in GATE_KEYS}
                gates[name] = narrowed(gate, self.convert(keys, own, GateKeys))
        return recipes, gates

    def variants(self, keys: Keys, name: str) -> Iterator[tuple[str, tuple[Part, ...]]]:
        """The recipe, or one for each combination of the values that its steps sweep."""
        body = self.mapping(keys)
        if "use" in body and isinstance(body.get("steps"), list):
            message = "'use' is a recipe of one step, and 'steps' lists several; write one of both."
            self.refuse((*keys, "steps"), message)
        if "steps" in body and "use" not in body:  # beside 'use' it is an option of that step
            self.mapping(keys, ("steps", *GATE_KEYS))
            if not isinstance(body["steps"], list) or not body["steps"]:
                self.refuse((*keys, "steps"), "'steps' is a list of one or more steps.")
            places: list[Keys] = [(*keys, "steps", i) for i in range(len(body["steps"]))]
        else:
            places = [keys]
        choices = [list(self.step(place)) for place in places]
        for chosen in itertools.product(*choices):
            labels = [label for labels, _ in chosen for label in labels]
            steps = tuple(part for _, part in chosen)
            yield "-".join([name, *labels]), steps

    def step(self, keys: Keys) -> Iterator[tuple[list[str], Part]]:
        """A step for each combination of swept values, with the values' labels."""
        body = dict(self.mapping(keys))
        swept = self.mapping((*keys, "sweep")) if "sweep" in body else {}
        if "sweep" in body and not swept:
            self.refuse((*keys, "sweep"), "'sweep' is empty.")
        for option, values in swept.items():
            if option in body:
                self.refuse((*keys, "sweep", option), f"'{option}' is both set and swept.")
            if not isinstance(values, list) or not values:
                self.refuse((*keys, "sweep", option), f"'{option}' sweeps a list of values.")
        for positions in itertools.product(*(range(len(values)) for values in swept.values())):
            chosen = dict(zip(swept, positions, strict=True))
            values = [swept[option][position] for option, position in chosen.items()]
            labels = [re.sub(r"[^A-Za-z0-9.]+", "-", str(value)).strip("-") for value in values]
            yield labels, self.part("modifiers", keys, swept=chosen)

    # Parts: what is used, with its options

    def part(
        self,
        kind: registry.Kind,
        keys: Keys,
        *,
        default: str | None = None,
        swept: Mapping[str, int] | None = None,
    ) -> Part:
        """Check ``use`` and the options, some by place in a sweep, against the named class."""
        swept = swept or {}
        body = dict(self.mapping(keys))
        use = body.pop("use", default)
        body.pop("sweep", None)
        if kind == "modifiers" and len(keys) == 2:  # a recipe of one step holds its gate too
            body = {key: value for key, value in body.items() if key not in GATE_KEYS}
        if not isinstance(use, str):
            known = ", ".join(sorted(registry.known(kind)))
            self.refuse(keys, f"'use' is missing: it names one of the {kind} ({known}).")
        try:
            names = registry.option_names(kind, use)
        except PluginError as error:
            self.refuse((*keys, "use"), str(error))
        for option, position in swept.items():
            body[option] = self.document.get((*keys, "sweep", option, position))
        for option in body:
            if option not in names:
                place = (*keys, "sweep", option) if option in swept else (*keys, option)
                self.refuse(place, f"'{use}' has no option '{option}'. {nearest(option, names)}")
        part = Part(use=use, options=body)
        try:
            registry.build(kind, part)
        except msgspec.ValidationError as error:
            self.refuse_type(keys, error, registry.resolve(kind, use), swept)
        return part

    # Overrides

    def overridden(self, listed: Any, trials: list[TrialSpec]) -> list[TrialSpec]:
        if not isinstance(listed, list):
            self.refuse(("overrides",), "'overrides' is a list.")
        for position, body in enumerate(listed):
            keys = ("overrides", position)
            override = self.convert(keys, body, Override)
            if override.expect == "fail" and not override.reason:
                self.refuse(keys, "'expect: fail' needs a 'reason'.")
            hits = [override.matches(t.model, t.recipe, t.benchmark) for t in trials]
            if not any(hits):
                self.refuse(keys, "no trial matches this override; correct its names or remove it.")
            recipes = {t.recipe for t, hit in zip(trials, hits, strict=True) if hit}
            if override.expect == "fail" and recipes == {DENSE}:
                self.refuse(keys, "the dense model is the reference and cannot be a control.")
            trials = [
                self.changed(trial, override, body) if hit else trial
                for trial, hit in zip(trials, hits, strict=True)
            ]
        return trials

    def changed(self, trial: TrialSpec, override: Override, body: Mapping[str, Any]) -> TrialSpec:
        changes: dict[str, Any] = {"gate": narrowed(trial.gate, override)}
        if "expect" in body:
            changes |= {"expect": override.expect, "reason": override.reason}
        if trial.recipe == DENSE and changes.get("expect") == "fail":
            changes["expect"] = "pass"  # a pattern such as "*" does not mean the dense model
        return msgspec.structs.replace(trial, **changes)

    # Shapes and types

    def section(self, key: str) -> Mapping[str, Any]:
        if key not in self.document.data:
            self.refuse((), f"'{key}' is missing.")
        body = self.mapping((key,))
        if not body:
            self.refuse((key,), f"'{key}' is empty.")
        for name in body:
            if not NAME.fullmatch(name):
                self.refuse(
                    (key, name),
                    f"'{name}' cannot be a name: letters, digits, '.', '_' and '-' only, so "
                    "that it can be selected and stored.",
                )
        return body

    def mapping(self, keys: Keys, known: tuple[str, ...] | None = None) -> Mapping[str, Any]:
        body = self.document.get(keys)
        if not isinstance(body, dict):
            self.refuse(keys, f"expected keys with values, got {type(body).__name__}.")
        for key in body:
            if known is not None and key not in known:
                self.refuse((*keys, key), f"unknown key '{key}'. {nearest(key, known)}")
        return body

    def convert(self, keys: Keys, body: Any, to: type[Any]) -> Any:
        """A Struct from plain values; unknown keys and wrong types are refused."""
        names = to.__struct_fields__
        for key in body if isinstance(body, dict) else ():
            if key not in names:
                self.refuse((*keys, key), f"unknown key '{key}'. {nearest(key, names)}")
        floors = body.get("relation_floors") if isinstance(body, dict) else None
        for relation, floor in floors.items() if isinstance(floors, dict) else ():
            place = (*keys, "relation_floors", relation)
            try:
                msgspec.convert(floor, Share)
            except msgspec.ValidationError as error:  # as one mapping it would name no key
                self.refuse_type(place, error, Share)
        try:
            return msgspec.convert(body, to)
        except msgspec.ValidationError as error:
            self.refuse_type(keys, error, to)

    def refuse_type(
        self,
        keys: Keys,
        error: msgspec.ValidationError,
        of: Any,
        swept: Mapping[str, int] | None = None,
    ) -> NoReturn:
        """Say in the suite's words what msgspec says with ``$.key[0]`` of a value of a type."""
        text, _, path = str(error).partition(" - at `$")
        steps = re.findall(r"\.([^.\[\]`]+)|\[(\d+)\]|\[\.\.\.\]", path)
        inner = [int(i) if i else k or None for k, i in steps]
        known = tuple(itertools.takewhile(lambda key: key is not None, inner))
        named = tuple(key for key in known if key is not None)

        def place(*more: str) -> Keys:
            whole = (*named, *more)
            first = whole[0] if whole else None
            if isinstance(first, str) and first in (swept or {}):
                return (*keys, "sweep", first, (swept or {})[first], *whole[1:])
            return (*keys, *whole)

        whole = len(named) == len(inner)
        fields = fields_of(of, inner)
        if found := re.fullmatch(r"Object (contains unknown|missing required) field `(.*)`", text):
            key = found[2]
            if found[1] == "missing required":
                message = f"'{key}' is missing: {described(alternatives(of, [*inner, key]))}."
                self.refuse(place(), message)
            owner = f"'{named[-1]}'" if named else "it"
            self.refuse(
                place(key) if whole else place(),
                f"{owner} has no option '{key}'. {nearest(key, fields)}",
            )
        if isinstance(error.__cause__, ValueError):
            quoted = [f for f in fields if f"'{f}'" in text and self.document.has(place(f))]
            blamed = quoted if len(quoted) == 1 else []
            if isinstance(error.__cause__, OptionError):
                blamed = [error.__cause__.option]
            self.refuse(place(*blamed) if whole else place(), said(text, "", []))
        written = self.document.source(place()) if whole else ""
        self.refuse(place(), said(text, written, alternatives(of, inner)))
