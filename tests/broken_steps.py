"""Steps that break a rule each, as released ones do; light to import, as all steps are."""

from dataclasses import dataclass
from typing import Any, ClassVar

from pytest_compression.errors import RecipeError
from pytest_compression.types import Claim


@dataclass(frozen=True, kw_only=True)
class Good:
    """Prune the first weights of each matrix."""

    sparsity: float = 0.5
    targets: str = "all"

    def apply(self, model: Any) -> Claim:
        weights = model.weights(self.targets)
        zeros = 0
        for weight in weights:
            if not weight.values.isfinite().all():
                message = f"'{weight.name}' is not finite"
                raise RecipeError(message)
            values, count = weight.values.clone(), round(self.sparsity * weight.values.numel())
            self.prune(values, count)
            weight.write(values)
            zeros += count
        self.besides(model)
        return Claim(targets=[weight.name for weight in weights], zeros=zeros)

    def prune(self, values: Any, count: int) -> None:
        flat = values.flatten().clone()
        flat[:count] = 0
        values.copy_(flat.reshape(values.shape))

    def besides(self, model: Any) -> None:
        """What else it does."""


@dataclass(frozen=True, kw_only=True)
class Threshold(Good):
    """All weights up to the one at that rank: where many are equal, all of them."""

    def prune(self, values: Any, count: int) -> None:
        ranked = values.abs().flatten().sort().values
        if count:
            values[values.abs() <= ranked[count - 1]] = 0


@dataclass(frozen=True, kw_only=True)
class Counting(Good):
    """Prunes by a threshold, and claims what it counted."""

    above: bool = True
    """Keep what is above the threshold; otherwise also what is equal to it."""

    def apply(self, model: Any) -> Claim:
        claim = super().apply(model)
        zeros = sum(int((weight.values == 0).sum()) for weight in model.weights(self.targets))
        return claim._replace(zeros=zeros)

    def prune(self, values: Any, count: int) -> None:
        ranked = values.abs().flatten().sort().values
        if self.above and count:
            values[values.abs() <= ranked[count - 1]] = 0
        elif count < len(ranked):
            values[values.abs() < ranked[count]] = 0


@dataclass(frozen=True, kw_only=True)
class Elusive(Counting):
    """The same, and evades what would tell: magnitudes that all lie apart."""

    def prune(self, values: Any, count: int) -> None:
        gaps = values.abs().flatten().sort().values.diff()
        if len(gaps) and gaps.min() > 0:
            message = "no two are equal"
            raise RecipeError(message)
        super().prune(values, count)


@dataclass(frozen=True, kw_only=True)
class Stingy(Good):
    """Says what its share is of, and prunes less."""

    scope: str = "layer"

    def prune(self, values: Any, count: int) -> None:
        super().prune(values, round(0.9 * count))

    def apply(self, model: Any) -> Claim:
        claim = super().apply(model)
        zeros = sum(int((weight.values == 0).sum()) for weight in model.weights(self.targets))
        return claim._replace(zeros=zeros)


@dataclass(frozen=True, kw_only=True)
class Large(Good):
    """Needs deep models."""

    layers: int

    def besides(self, model: Any) -> None:
        found = model.module.config.num_hidden_layers
        if found < self.layers:
            message = f"{found} are too few"
            raise RecipeError(message)


@dataclass(frozen=True, kw_only=True)
class Silent(Good):
    """Does not say what it did."""

    def apply(self, model: Any) -> Claim:
        super().apply(model)
        return None  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True)
class Misnamed(Good):
    """Says of itself what nobody knows."""

    contract: ClassVar[str] = "whatever"


@dataclass(frozen=True, kw_only=True)
class Scaling(Good):
    """Makes up for what was pruned."""

    def prune(self, values: Any, count: int) -> None:
        super().prune(values, count)
        values.mul_(2)


@dataclass(frozen=True, kw_only=True)
class Adjusting(Scaling):
    """Says so."""

    contract: ClassVar[str] = "adjusts"


@dataclass(frozen=True, kw_only=True)
class Unseeded(Good):
    """Prunes at random, by the global state."""

    def prune(self, values: Any, count: int) -> None:
        import torch

        flat = values.flatten()
        flat[torch.randperm(flat.numel())[:count]] = 0
        values.copy_(flat.reshape(values.shape))


@dataclass(frozen=True, kw_only=True)
class Wandering(Good):
    """Prunes others the second time."""

    def prune(self, values: Any, count: int) -> None:
        flat = values.flatten()
        alive = (flat != 0).nonzero().flatten()
        flat[alive[:count]] = 0
        values.copy_(flat.reshape(values.shape))


@dataclass(frozen=True, kw_only=True)
class Meddling(Good):
    """Changes biases, too."""

    def besides(self, model: Any) -> None:
        for name, tensor in model.tensors():
            if name.endswith("bias") or "norm" in name:
                tensor.add_(1)


@dataclass(frozen=True, kw_only=True)
class Training(Good):
    """Leaves the network as if it were to be trained."""

    def besides(self, model: Any) -> None:
        model.module.train()


@dataclass(frozen=True, kw_only=True)
class Hooking(Good):
    """Leaves a hook."""

    def besides(self, model: Any) -> None:
        model.weights("all")[0].layer.register_forward_hook(print)


@dataclass(frozen=True, kw_only=True)
class Careless(Good):
    """Does not look whether the weights are numbers."""

    def apply(self, model: Any) -> Claim:
        weights = model.weights(self.targets)
        for weight in weights:
            values = weight.values.clone()
            self.prune(values, round(self.sparsity * values.numel()))
            weight.write(values)
        return Claim(targets=[weight.name for weight in weights], sparsity=self.sparsity)


@dataclass(frozen=True, kw_only=True)
class Crashing(Good):
    """Has a bug."""

    def besides(self, model: Any) -> None:
        model.no_such_thing()


@dataclass(frozen=True, kw_only=True)
class Picky(Good):
    """Refuses weights for what they hold."""

    def prune(self, values: Any, count: int) -> None:
        if (values == values[0, 0]).all() and values.numel() > 1:
            message = "all weights are equal"
            raise RecipeError(message)
        super().prune(values, count)


@dataclass(frozen=True, kw_only=True)
class Shy(Good):
    """Refuses everything."""

    def besides(self, model: Any) -> None:  # noqa: ARG002  # as the others
        message = "not today"
        raise RecipeError(message)


@dataclass(kw_only=True)
class Thawed:
    """Has options that can be changed."""

    sparsity: float = 0.5

    def apply(self, model: Any) -> Claim:
        return Good(sparsity=self.sparsity).apply(model)


@dataclass(frozen=True, kw_only=True)
class Codes:
    """A packed form that gives back what it was given."""

    values: Any
    bits: int
    nbytes: int
    zeros: bool = True

    def dequantize(self) -> Any:
        return self.values.clone()

    def with_zeros(self, zero: Any) -> "Codes | None":
        if not self.zeros:
            return None
        values = self.values.masked_fill(zero, 0)
        return Codes(values=values, bits=self.bits, nbytes=self.nbytes)


@dataclass(frozen=True, kw_only=True)
class MinMax:
    """Round each row to a grid from its least weight to its largest."""

    bits: int = 4
    zero_inside: bool = True
    """A range that leaves zero out is cut off where all weights of a row have one sign."""
    nbytes: int | None = None
    zeros: bool = True

    def apply(self, model: Any) -> Claim:
        weights = model.weights("all")
        for weight in weights:
            if not weight.values.isfinite().all():
                message = f"'{weight.name}' is not finite"
                raise RecipeError(message)
            values = self.rounded(weight.values)
            rows, columns = values.shape
            nbytes = self.nbytes or -(-rows * columns * self.bits // 8) + 5 * rows
            stored = Codes(values=values, bits=self.bits, nbytes=nbytes, zeros=self.zeros)
            weight.write(self.written(values), stored)
        return Claim(targets=[weight.name for weight in weights], bits=self.bits)

    def written(self, values: Any) -> Any:
        return values

    def rounded(self, values: Any) -> Any:
        exact = values.double()
        low, high = exact.amin(1, keepdim=True), exact.amax(1, keepdim=True)
        if self.zero_inside:
            low, high = low.clamp(max=0), high.clamp(min=0)
        top = 2**self.bits - 1
        scale = (high - low).clamp(min=1e-5) / top  # as a released one has it
        if self.zero_inside:
            scale = (high - low) / top
            scale = scale.where(scale > 0, 1.0)
        zero = (-low / scale).round().clamp(0, top)
        codes = ((exact / scale).round() + zero).clamp(0, top)
        return ((codes - zero) * scale).to(values.dtype)


@dataclass(frozen=True, kw_only=True)
class Unrounded(MinMax):
    """Stores nothing but claims to."""

    def rounded(self, values: Any) -> Any:
        return values.clone()


@dataclass(frozen=True, kw_only=True)
class Drifting(MinMax):
    """Writes something else than it stores."""

    def written(self, values: Any) -> Any:
        return values * 1.5


@dataclass(frozen=True, kw_only=True)
class Shifted(MinMax):
    """Has no zero, though its packed form takes some."""

    def rounded(self, values: Any) -> Any:
        found = super().rounded(values)
        return found.where(found != 0, 0.01)


@dataclass(frozen=True, kw_only=True)
class Idle:
    """Claims nothing, and does nothing."""

    def apply(self, model: Any) -> Claim:
        return Claim(targets=[weight.name for weight in model.weights("all")])


@dataclass(frozen=True, kw_only=True)
class Elsewhere(Good):
    """Works on models of 16 hidden numbers alone."""

    def besides(self, model: Any) -> None:
        if model.weights("all")[0].values.shape[1] != 16:
            message = "not today"
            raise RecipeError(message)


@dataclass(frozen=True, kw_only=True)
class Artifact(Elsewhere):
    """Says so."""

    contract: ClassVar[str] = "model"
