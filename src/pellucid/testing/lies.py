"""Further liars: about what is refused, about cards, about how models come, and about what the values mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.contract import Attribution, Method
from pellucid.contract.errors import (
    InputError,
    LayerError,
    ModelModeError,
    NumericalError,
    PellucidError,
    TargetError,
    WrapperError,
)
from pellucid.engine import Ask, Subject, explain
from pellucid.testing.case import Verb, leaves, module_of
from pellucid.testing.liars import Liar, changed, enter, lie, speak
from pellucid.testing.twins import HonestNeighbours, HonestPath

# --- what is refused ------------------------------------------------------------------------------------------------


def lenient(kind: type[PellucidError]) -> Verb:
    """A verb that answers by zeros where it should refuse by `kind`."""

    def verb(model: Any, inputs: Any, method: Method, **kwargs: Any) -> Any:
        try:
            return explain(model, inputs, method, **kwargs)
        except kind:
            return Attribution(values=torch.zeros(1))

    return verb


def late(model: Any, inputs: Any, method: Method, **kwargs: Any) -> Any:
    """Runs the model a few times before it looks at the arguments."""
    good = torch.ones(8, next(module_of(model).parameters()).shape[1])
    for _ in range(4):
        module_of(model)(good)
    return explain(model, inputs, method, **kwargs)


def untyped(model: Any, inputs: Any, method: Method, **kwargs: Any) -> Any:
    """Raises what no caller can tell from a bug, instead of our own errors."""
    try:
        return explain(model, inputs, method, **kwargs)
    except PellucidError as error:
        raise ValueError(str(error)) from None


def terse(model: Any, inputs: Any, method: Method, **kwargs: Any) -> Any:
    """Refuses without saying what or why."""
    try:
        return explain(model, inputs, method, **kwargs)
    except PellucidError as error:
        raise type(error)("Bad argument") from None


def _enter_refusals() -> None:
    """Each check of arguments against each way to get refusals wrong."""
    kinds: dict[str, type[PellucidError]] = {
        "bad targets": TargetError,
        "bad layers": LayerError,
        "bad inputs": InputError,
        "bad shapes": InputError,
        "bad settings": InputError,
        "missing data": PellucidError,
    }
    for check, kind in kinds.items():
        method = HonestNeighbours if check == "missing data" else HonestPath
        for name, verb in {"lenient": lenient(kind), "late": late, "untyped": untyped, "terse": terse}.items():
            enter(Liar(name=f"{name} on {check}", check=check, method=method, verb=verb, twin=method))
    for fixture, error in (
        ("dropout-in-training", ModelModeError),
        ("compiled", WrapperError),
        ("traced", WrapperError),
        ("nan-output", NumericalError),
    ):
        name = f"lenient on {fixture}"
        enter(Liar(name=name, check="answers", method=HonestPath, verb=lenient(error), fixture=fixture))


_enter_refusals()


@lie("answers", fixture="overlapping-pool")
@dataclass(frozen=True, kw_only=True)
class RefusesImages(HonestPath):
    """Refuses what its card says it can do."""

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Any:
        if ask.inputs.tensors[0].dim() == 4:
            raise InputError("The 'inputs' must be a table", got="images")
        return super().explain(subject, ask, state)


@lie("answers", fixture="nan-output")
@dataclass(frozen=True, kw_only=True)
class RefusesLate(HonestPath):
    """Works for long before it refuses."""

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Any:
        for _ in range(20):
            subject.raw(ask.inputs)
        return super().explain(subject, ask, state)


# --- cards ----------------------------------------------------------------------------------------------------------


@lie("card", citation="nobody2099nothing")
@dataclass(frozen=True, kw_only=True)
class NoSuchPaper(HonestPath):
    """Cites what is not in the bibliography."""


@lie("card", exempt={"rowise": "a slip of the pen that would switch nothing off"})
@dataclass(frozen=True, kw_only=True)
class ExemptFromNothing(HonestPath):
    """Is exempt from a check that is not there."""


@lie("card", claims=("rowwise",))
@dataclass(frozen=True, kw_only=True)
class SilentAboutChance(HonestPath):
    """Says neither that it draws nor that it doesn't."""


@lie("settings", trial={"steps": 24, "extra": 1})
@dataclass(frozen=True, kw_only=True)
class SettingWithoutDefault(HonestPath):
    """Can't be made without knowing a setting."""

    extra: int


@lie("docstring")
@dataclass(frozen=True, kw_only=True)
class TellsNothing(HonestPath):
    """Computes attributions."""


# --- how inputs and models come -------------------------------------------------------------------------------------


@lie("layouts")
@dataclass(frozen=True, kw_only=True)
class ReadsMemory(HonestPath):
    """Takes the order in memory for the order of the values."""

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Any:
        x = ask.inputs.floats[0]
        strides = torch.empty(x.shape).stride()
        return changed(super().explain(subject, ask, state), lambda v: v * torch.as_strided(x, x.shape, strides))


@speak("gradients asked")
def backward_on_inputs(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls backward() where the inputs ask for gradients, so that they and the parameters get some."""
    if any(x.requires_grad for x in leaves(inputs)):
        module_of(model)(inputs).sum().backward()
    return explain(model, inputs, *args, **kwargs)


@speak("gradients asked")
def zero_where_frozen(model: Any, *args: Any, **kwargs: Any) -> Any:
    """Gives zero where the parameters ask for no gradient."""
    result = explain(model, *args, **kwargs)
    frozen = not next(module_of(model).parameters()).requires_grad
    return changed(result, lambda v: v * 0) if frozen else result


@speak("wrappers")
def counts_replicas(model: Any, *args: Any, **kwargs: Any) -> Any:
    """Adds the values of two replicas up."""
    result = explain(model, *args, **kwargs)
    return changed(result, lambda v: 2 * v) if isinstance(model, nn.DataParallel) else result


_ANSWERED: dict[Any, Any] = {}


@speak("weights followed")
def remembers_answers(model: Any, inputs: Any, method: Method, **kwargs: Any) -> Any:
    """Gives the last answer again where model and rows are the same objects."""
    if _ANSWERED.get("model") is not model or _ANSWERED.get("inputs") is not inputs:
        _ANSWERED.update(model=model, inputs=inputs, result=explain(model, inputs, method, **kwargs))
    return _ANSWERED["result"]


@speak("training mode")
def leaves_evaluation_mode(model: Any, *args: Any, **kwargs: Any) -> Any:
    """Switches to evaluation mode and stays there."""
    if isinstance(model, Subject):
        model.model.eval()
    return explain(model, *args, **kwargs)


# --- what the values mean -------------------------------------------------------------------------------------------


class _Bent(HonestPath):
    """An honest method whose values are bent afterwards."""

    def bend(self, values: Tensor, subject: Subject, ask: Ask) -> Tensor:
        """What is done to the values."""
        raise NotImplementedError

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Any:
        result = super().explain(subject, ask, state)
        return changed(result, lambda v: self.bend(v, subject, ask))


@lie("complete")
@dataclass(frozen=True, kw_only=True)
class WrongSign(HonestPath):
    """Turns all values round, and reports the gap that this makes."""

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Any:
        result = changed(super().explain(subject, ask, state), lambda v: -v)
        change = (result.facts["score"] - result.facts["baseline_score"]).double()
        gap = (result.values.flatten(1).double().sum(1) - change).abs()
        return result.replace(facts={**result.facts, "completeness_gap": gap})


@lie("complete")
@dataclass(frozen=True, kw_only=True)
class HidesGap(HonestPath):
    """Loses a tenth of the values and reports no gap."""

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Any:
        result = changed(super().explain(subject, ask, state), lambda v: 0.9 * v)
        return result.replace(facts={**result.facts, "completeness_gap": torch.zeros(ask.inputs.rows)})


@lie("complete")
@dataclass(frozen=True, kw_only=True)
class InventsScore(HonestPath):
    """Reports as score whatever makes the sum come out."""

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Any:
        result = changed(super().explain(subject, ask, state), lambda v: 0.9 * v)
        total = result.values.flatten(1).double().sum(1)
        facts = {"score": total + result.facts["baseline_score"], "completeness_gap": torch.zeros(ask.inputs.rows)}
        return result.replace(facts={**result.facts, **facts})


@lie("score scale")
@dataclass(frozen=True, kw_only=True)
class Normalised(_Bent):
    """Scales each row to a largest value of one."""

    def bend(self, values: Tensor, subject: Subject, ask: Ask) -> Tensor:
        return values / values.flatten(1).abs().amax(1).reshape(-1, *[1] * (values.dim() - 1))


@lie("linear")
@dataclass(frozen=True, kw_only=True)
class Positive(_Bent):
    """Cuts negative values off."""

    def bend(self, values: Tensor, subject: Subject, ask: Ask) -> Tensor:
        return values.clamp(min=0)


@lie("dummy")
@dataclass(frozen=True, kw_only=True)
class Spreads(_Bent):
    """Gives every input a little of what its neighbour got."""

    def bend(self, values: Tensor, subject: Subject, ask: Ask) -> Tensor:
        return values + 1e-6 * values.roll(1, 1)


@lie("symmetric")
@dataclass(frozen=True, kw_only=True)
class PrefersLeft(_Bent):
    """Gives the first of two twins all."""

    def bend(self, values: Tensor, subject: Subject, ask: Ask) -> Tensor:
        values = values.clone()
        values[:, 0] += 1e-6 * values[:, 1]
        return values


@lie("implementation invariant")
@dataclass(frozen=True, kw_only=True)
class CountsParameters(_Bent):
    """Lets the number of weights speak."""

    def bend(self, values: Tensor, subject: Subject, ask: Ask) -> Tensor:
        return values * (1 + 1e-6 * sum(x.numel() for x in module_of(subject).parameters()))


@lie("implementation invariant")
@dataclass(frozen=True, kw_only=True)
class GuidesModules(HonestPath):
    """Stops negative gradients at rectifier modules, by hooks: the network's build decides what comes out."""

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Any:
        return _guided(self, subject, ask, state)


@lie("spelling invariant")
@dataclass(frozen=True, kw_only=True)
class SeesModulesAlone(HonestPath):
    """Stops negative gradients at rectifier modules, by hooks, and misses functions."""

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Any:
        return _guided(self, subject, ask, state)


def _guided(method: HonestPath, subject: Subject, ask: Ask, state: Any) -> Any:
    """Guided backpropagation as it is often written."""
    handles = []
    for part in module_of(subject).modules():
        if isinstance(part, nn.ReLU):
            handles.append(part.register_full_backward_hook(_positive))
    try:
        return HonestPath.explain(method, subject, ask, state)
    finally:
        for handle in handles:
            handle.remove()


def _positive(part: nn.Module, into: Any, out: Any) -> Any:
    return tuple(g.clamp(min=0) for g in into)
