"""A step is tried on small models: first on chosen ones, then on drawn ones.

On each it is applied, restored and applied again. It may refuse a model by a
:class:`~pytest_compression.errors.CompressionError`, but by its shape or dtype, not by the weights
that it happens to hold, and never the first one, which is as plain as can be and as large as the
step needs.
"""

import dataclasses
import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import hypothesis
import msgspec
import torch
from hypothesis import HealthCheck, Phase

from pytest_compression.errors import CompressionError
from pytest_compression.testing.counts import require_as_many, require_share
from pytest_compression.testing.options import by_itself, exactness, require_options
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
from pytest_compression.testing.sizes import SIZES
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
ALL: tuple[Family, ...] = ("causal", "masked", "seq2seq")
PLAIN: tuple[Filling, ...] = ("normal",)
ODD: tuple[tuple[Filling, ...], ...] = (
    ("constant",),
    ("few values", "one sign", "grid", "wide", "zeros"),
)
"""What is tried on each architecture before anything is drawn."""


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
    sizes: tuple[Size, ...] = SIZES
    """Of the plain model that it must take: the first on which it has an effect."""

    def check(self) -> None:
        """Try the step on all models.

        Raises:
            ContractError: saying which rule was broken on which model.
        """
        require_options(self.step)
        fitted = {architecture: self.fitted(architecture) for architecture in self.architectures}
        for own, plan in fitted.values():
            own.on(plan, must=True)
            for fillings in ODD:
                odd = dataclasses.replace(plan, fillings=fillings)
                small = dataclasses.replace(odd, size=Size(layers=1))
                if not own.on(small, must=False):
                    own.on(odd, must=False)
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
            own, _ = fitted[plan.architecture]
            own.on(plan, must=False)

        drawn()

    def fitted(self, architecture: Architecture) -> tuple["Contract", Plan]:
        """What is checked on an architecture, and the first plain model that serves.

        Raises:
            ContractError: the step refuses all of them.
        """
        other = by_itself(self.step)
        refusals, idle = list[CompressionError](), list[tuple[Contract, Plan]]()
        steps = [self.step] if other is None else [self.step, other]
        for step in steps:
            own = dataclasses.replace(self, step=step)
            for size in self.sizes:
                plan = Plan(architecture=architecture, fillings=PLAIN, size=size)
                model = build(plan, self.tokenizer)
                before = State.of(model)
                try:
                    with self.named(plan):
                        own.apply(model, before, seed=1)
                except CompressionError as refusal:
                    refusals.append(refusal)
                    continue
                if has_effect(model, before):
                    return own, plan
                idle.append((own, plan))
        if idle:
            return idle[0]
        with self.named(Plan(architecture=architecture, fillings=PLAIN, size=self.sizes[0])):
            message = (
                f"it refuses the plainest of models ({refusals[0]}), and larger ones, too. What "
                'suits one model alone says contract: ClassVar[str] = "model".'
            )
            raise ContractError(message)

    @contextmanager
    def named(self, plan: Plan) -> Iterator[None]:
        """Say of a broken rule who breaks it, and on which model."""
        try:
            yield
        except ContractError as error:
            message = (
                f"{type(self.step).__name__} breaks the contract of a {self.kind} on {plan}: "
                f"{error}"
            )
            raise ContractError(message) from error

    def on(self, plan: Plan, *, must: bool) -> bool:
        """Try the step on one model, which it must take, or may refuse; whether it took it."""
        with self.named(plan):
            return self.look(plan, must=must)

    def look(self, plan: Plan, *, must: bool) -> bool:
        """Apply, check, restore, and apply again; False if it refuses the model."""
        model = build(plan, self.tokenizer)
        dense = State.of(model)
        try:
            done = self.apply(model, dense, seed=1)
        except CompressionError as refusal:
            require(not must, f"it refuses a model that it took before ({refusal})")
            self.require_reason(plan, refusal)
            return False
        for property_ in self.properties(done.claim):
            property_(done)
        after = State.of(model)
        if must:
            require(has_effect(model, dense), "it took no effect: the model is what it was.")
        if self.is_exact_pruner(done.claim):
            self.require_count(plan, done)
        self.require_same_again(model, dense, after)
        if must:
            self.require_refusals(plan, done.claim)
        return True

    def require_same_again(self, model: Specimen, dense: State, after: State) -> None:
        """It does the same to the same weights, and the dense ones come back in between."""
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

    def is_exact_pruner(self, claim: Claim) -> bool:
        """Whether it sets weights to zero and does nothing else."""
        return exactness(self.step) == "exact" and claim.bits is None and claims_zeros(claim)

    def require_count(self, plan: Plan, done: Applied) -> None:
        """It prunes as many as of weights that all differ, and as its options say."""
        model = build(
            Plan(architecture=plan.architecture, size=plan.size, fillings=("distinct",)),
            self.tokenizer,
        )
        try:
            apart = self.apply(model, State.of(model), seed=1)
        except CompressionError as refusal:
            if plan.dtype != torch.float32:  # single precision is not for it
                return
            message = f"it refuses weights of which no two are equal ({refusal}), and takes others."
            raise ContractError(message) from refusal
        require_share(apart)
        require_as_many(done, apart)

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


def has_effect(model: Specimen, before: State) -> bool:
    """Whether a step changed anything, or packed it."""
    return bool(model.stored) or bool(State.of(model).difference(before))


def claims_zeros(claim: Claim) -> bool:
    """Whether a step says that it pruned."""
    return any(said is not None for said in (claim.sparsity, claim.zeros, claim.pattern))


def require_restored(model: Specimen, dense: State) -> None:
    """The dense model comes back bit by bit."""
    require(model.restore(), "the dense model cannot be restored after it.")
    changed = State.of(model).difference(dense)
    require(not changed, f"restoring the dense model does not bring back {changed}.")


def architectures_of(families: Collection[Family]) -> tuple[Architecture, ...]:
    """The architectures that stand for some families."""
    return tuple(name for name, family in FAMILIES.items() if family in families)
