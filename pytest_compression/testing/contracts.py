"""A step is tried on small models: first on chosen ones, then on drawn ones.

On each it is applied, restored and applied again. It may refuse a model by a
:class:`~pytest_compression.errors.CompressionError`, but by its shape or dtype, not by the weights
that it happens to hold, and never the first one, which is as plain as can be.
"""

import dataclasses
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import hypothesis
import msgspec
import torch
from hypothesis import HealthCheck, Phase

from pytest_compression.errors import CompressionError
from pytest_compression.testing.properties import (
    OF_ANY,
    OF_PRUNERS,
    OF_QUANTIZERS,
    Applied,
    ContractError,
    Property,
    State,
    require,
)
from pytest_compression.testing.specimens import (
    FAMILIES,
    Architecture,
    Filling,
    Plan,
    Size,
    Specimen,
    build,
)
from pytest_compression.testing.strategies import plans
from pytest_compression.types import Claim, Family

Kind = Literal["pruner", "quantizer", "modifier"]
Exactness = Literal["exact", "adjusts", "model"]
"""What a step says of itself by the class attribute ``contract``: it prunes or rounds and changes
nothing else (if it says nothing); it also adjusts other weights, as training and second-order
methods do; it suits one model alone, as a checkpoint does, and is tried on no other."""

ALL: tuple[Family, ...] = ("causal", "masked", "seq2seq")
PLAIN: tuple[Filling, ...] = ("normal",)
ODD: tuple[tuple[Filling, ...], ...] = (
    ("constant",),
    ("few values", "one sign", "grid", "wide", "zeros"),
)
"""What is tried on each architecture before anything is drawn."""
ROWS, TOKENS = 4, 32
"""What a step calibrates on or learns from here, at most: it is to be tried, not to be good."""
COURSE = {"steps": 12, "epochs": 1}
"""How long it learns, at most, by the names of the options that say so."""


def exactness(step: Any) -> Exactness:
    """What a step says of itself.

    Raises:
        ContractError: it says something else.
    """
    said: Exactness = msgspec.convert(getattr(type(step), "contract", "exact"), Exactness)
    return said


def brief(step: Any) -> tuple[Any, bool]:
    """The step with less to calibrate on or to learn from, and whether it does either."""
    less: dict[str, Any] = {
        field.name: msgspec.structs.replace(
            given, samples=min(ROWS, given.samples), length=min(TOKENS, given.length)
        )
        for field in dataclasses.fields(step)
        if hasattr(given := getattr(step, field.name), "batches")
    }
    if less:
        for name, most in COURSE.items():
            given = getattr(step, name, None)
            if isinstance(given, int):
                less[name] = min(most, given)
    return dataclasses.replace(step, **less), bool(less)


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What one step has to keep, and on which models."""

    step: Any
    kind: Kind
    """What it must be at least; ``modifier`` takes it for what it claims."""
    architectures: tuple[Architecture, ...]
    more: tuple[Property, ...] = ()
    """What else it promises."""
    twice_is_once: bool = False
    """Whether applying it again changes nothing."""
    examples: int = 20
    """How many models are drawn."""
    learns: bool = False
    """Whether it depends on what the models compute, so that it may refuse broken ones."""
    tokenizer: Any = None
    """In place of the embedded models' own."""

    def check(self) -> None:
        """Try the step on all models.

        Raises:
            ContractError: saying which rule was broken on which model.
        """
        require_options(self.step)
        for architecture in self.architectures:
            self.on(Plan(architecture=architecture, fillings=PLAIN), must=True)
            for fillings in ODD:
                plan = Plan(architecture=architecture, fillings=fillings, size=Size(layers=1))
                self.on(plan, must=False)
        settings = hypothesis.settings(
            max_examples=self.examples,
            deadline=None,
            derandomize=True,  # a gate says the same each time
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )

        @settings
        @hypothesis.given(plans(self.architectures))
        def drawn(plan: Plan) -> None:
            self.on(plan, must=False)

        drawn()

    def on(self, plan: Plan, *, must: bool) -> None:
        """Try the step on one model, which it must take, or may refuse."""
        try:
            self.look(plan, must=must)
        except ContractError as error:
            message = (
                f"{type(self.step).__name__} breaks the contract of a {self.kind} on {plan}: "
                f"{error}"
            )
            raise ContractError(message) from error

    def look(self, plan: Plan, *, must: bool) -> None:
        """Apply, check, restore, and apply again."""
        model = build(plan, self.tokenizer)
        dense = State.of(model)
        try:
            done = self.apply(model, dense, seed=1)
        except CompressionError as refusal:
            require(not must, f"it refuses the plainest of models ({refusal})")
            self.require_reason(plan, refusal)
            return
        for property_ in self.properties(done.claim):
            property_(done)
        after = State.of(model)
        if self.twice_is_once:
            self.apply(model, after, seed=1)
            changed = State.of(model).difference(after)
            require(not changed, f"applied a second time it changes {changed}.")
        require_restored(model, dense)
        self.apply(model, dense, seed=2)
        changed = State.of(model).difference(after)
        require(
            not changed,
            f"applied to the same weights again it makes {changed} otherwise: seed what is drawn, "
            "and not by torch's global state.",
        )
        if must:
            self.require_refusals(plan, done.claim)

    def apply(self, model: Specimen, before: State, seed: int) -> Applied:
        """Apply the step once.

        Args:
            model: as it is before.
            before: the same, copied.
            seed: of torch's global state.

        Raises:
            CompressionError: it refuses the model.
            ContractError: it fails otherwise, or changes its options.
        """
        options = msgspec.to_builtins(self.step)
        model.compressed = True
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                claim = self.step.apply(model)
            except CompressionError:
                raise
            except Exception as error:
                message = (
                    f"it raises {type(error).__name__} ({error}). What it cannot do it must refuse "
                    "by a RecipeError."
                )
                raise ContractError(message) from error
        require(msgspec.to_builtins(self.step) == options, "apply() changes its own options.")
        return Applied(step=self.step, claim=claim, before=before, model=model)

    def properties(self, claim: Claim) -> Iterator[Property]:
        """What has to hold of a step that claims this."""
        yield from OF_ANY
        zeros = claims_zeros(claim)
        if self.kind == "pruner":
            require(zeros, "it claims no zeros: Claim(sparsity=...), zeros=... or pattern=...")
        if self.kind == "quantizer":
            require(claim.bits is not None, "it claims no bits: Claim(bits=...)")
        if exactness(self.step) == "exact":
            if claim.bits is not None:
                yield from OF_QUANTIZERS
            elif zeros:
                yield from OF_PRUNERS
        yield from self.more

    def require_reason(self, plan: Plan, refusal: CompressionError) -> None:
        """A model may be refused for its shape, but not for weights that others are as good as."""
        plain = dataclasses.replace(plan, fillings=PLAIN)
        if self.learns or plan == plain:
            return
        other = build(plain, self.tokenizer)
        try:
            self.apply(other, State.of(other), seed=1)
        except CompressionError:
            return
        message = f"it refuses these weights ({refusal}), and no others of the same shapes."
        raise ContractError(message)

    def require_refusals(self, plan: Plan, claim: Claim) -> None:
        """A model that is broken already is refused: there is no order, and no range."""
        bad = [math.nan]
        if claim.bits is not None:
            bad.append(math.inf)
        elif not claims_zeros(claim):
            return
        for value in bad:
            model = build(plan, self.tokenizer)
            for weight in model.linear():
                weight.values[0, 0] = value
            try:
                self.apply(model, State.of(model), seed=1)
            except CompressionError:
                continue
            message = f"it takes weights that hold {value}: refuse them by a RecipeError."
            raise ContractError(message)


def claims_zeros(claim: Claim) -> bool:
    """Whether a step says that it pruned."""
    return any(said is not None for said in (claim.sparsity, claim.zeros, claim.pattern))


def require_options(step: Any) -> None:
    """A step is a frozen dataclass, and a suite can write all of its options."""
    kind = type(step)
    parameters = getattr(kind, "__dataclass_params__", None)
    require(
        parameters is not None and parameters.frozen,
        f"{kind.__name__} must be a dataclass with frozen=True: its fields are its options.",
    )
    try:
        read = msgspec.convert(msgspec.to_builtins(step), kind)
    except (msgspec.ValidationError, TypeError) as error:
        message = f"{kind.__name__} has options that no suite can write: {error}."
        raise ContractError(message) from error
    require(read == step, f"{kind.__name__} is another step when a suite writes its options.")


def require_restored(model: Specimen, dense: State) -> None:
    """The dense model comes back bit by bit."""
    require(model.restore(), "the dense model cannot be restored after it.")
    changed = State.of(model).difference(dense)
    require(not changed, f"restoring the dense model does not bring back {changed}.")


def architectures_of(families: Collection[Family]) -> tuple[Architecture, ...]:
    """The architectures that stand for some families."""
    return tuple(name for name, family in FAMILIES.items() if family in families)
