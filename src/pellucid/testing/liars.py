"""A lie for every check: methods, and ways to call them, that are broken on purpose. A check that misses one is blind."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pellucid.contract import Attribution, Method
from pellucid.engine import Ask, Subject, explain
from pellucid.testing.case import Verb, change, module_of
from pellucid.testing.twins import HonestNoise, HonestPath


@dataclass(frozen=True, kw_only=True)
class Liar:
    """A broken method, or an honest one called by a broken verb, and the honest twin that the check must let pass.

    Args:
        name: what it does wrong.
        check: the check that must catch it.
        method, verb: what is tried, and how it is called.
        twin: tried by `pellucid.explain` on the same fixture, it must pass.
        fixture: where the lie shows.
    """

    name: str
    check: str
    method: type[Method]
    verb: Verb = explain
    twin: type[Method] = HonestPath
    fixture: str = "mlp"


_LIARS: list[Liar] = []


def lie(check: str, *, fixture: str = "mlp", twin: type[Method] = HonestPath, **card: Any) -> Callable[[Any], Any]:
    """Enter a class as a liar; `card` changes entries of its card. The class stays out of the catalogue."""

    def enter(cls: Any) -> Any:
        name = "liar-" + "".join("-" + c.lower() if c.isupper() else c for c in cls.__name__).strip("-")
        cls.card = dataclasses.replace(twin.card, name=name, **card)
        _LIARS.append(Liar(name=name, check=check, method=cls, twin=twin, fixture=fixture))
        return cls

    return enter


def enter(liar: Liar) -> None:
    """Enter a liar that was made in another way."""
    _LIARS.append(liar)


def speak(check: str, *, fixture: str = "mlp", method: type[Method] = HonestPath) -> Callable[[Verb], Verb]:
    """Enter a function as a lying verb."""

    def enter(verb: Verb) -> Verb:
        name = verb.__name__.replace("_", "-")
        _LIARS.append(Liar(name=name, check=check, method=method, verb=verb, twin=method, fixture=fixture))
        return verb

    return enter


def liars() -> dict[str, tuple[Liar, ...]]:
    """The liars by the check that must catch them."""
    import pellucid.testing.lies  # noqa: F401 - importing it enters the rest

    found: dict[str, list[Liar]] = {}
    for liar in _LIARS:
        found.setdefault(liar.check, []).append(liar)
    return {k: tuple(v) for k, v in found.items()}


def changed(result: Any, act: Callable[[Tensor], Tensor]) -> Any:
    """A result whose values went through `act`."""
    return result.replace(values=change(result.values, act))


# --- what a result holds --------------------------------------------------------------------------------------------


@lie("well formed", fixture="double")
@dataclass(frozen=True, kw_only=True)
class SinglePrecision(HonestPath):
    """Gives single precision for double."""

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Any:
        return changed(super().explain(subject, ask, state), lambda v: v.float())


@lie("well formed", fixture="overlapping-pool")
@dataclass(frozen=True, kw_only=True)
class SwapsAxes(HonestPath):
    """Gives images with height and width swapped."""

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Any:
        return changed(super().explain(subject, ask, state), lambda v: v.transpose(-1, -2))


@lie("well formed")
@dataclass(frozen=True, kw_only=True)
class DividesByZero(HonestPath):
    """Gives values that are not finite."""

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Any:
        return changed(super().explain(subject, ask, state), lambda v: v / (v - v))


@lie("facts")
@dataclass(frozen=True, kw_only=True)
class OneFactForAll(HonestPath):
    """Reports one figure for the whole batch."""

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Any:
        result = super().explain(subject, ask, state)
        return result.replace(facts={k: v.mean().reshape(1) for k, v in result.facts.items()})


@lie("facts")
@dataclass(frozen=True, kw_only=True)
class InfiniteFact(HonestPath):
    """Reports a ratio to zero."""

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Any:
        result = super().explain(subject, ask, state)
        return result.replace(facts={"ratio": result.facts["score"] / 0.0})


@lie("source")
@dataclass(frozen=True, kw_only=True)
class StaleSource(HonestPath):
    """Says of every model that it is the same one."""

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Any:
        return super().explain(subject, ask, state).replace(source={"model_hash": "0000"})


@lie("rowwise")
@dataclass(frozen=True, kw_only=True)
class NormalisesBatch(HonestPath):
    """Divides by the largest value of the whole batch."""

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Any:
        return changed(super().explain(subject, ask, state), lambda v: v / v.abs().max())


@lie("rowwise", twin=HonestNoise)
@dataclass(frozen=True, kw_only=True)
class NoiseByPosition(HonestNoise):
    """Draws noise that belongs to the place in the batch instead of the row."""

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Any:
        ask.__dict__["keys"] = [bytes([i]) * 16 for i in range(ask.inputs.rows)]
        return super().explain(subject, ask, state)


@lie("chunks")
@dataclass(frozen=True, kw_only=True)
class DependsOnChunk(HonestPath):
    """Takes fewer steps where memory is short."""

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Any:
        fewer = HonestPath(steps=self.steps if ask.memory > 1 << 24 else 3)
        return fewer.explain(subject, ask, state)


@lie("reproducible")
@dataclass(frozen=True, kw_only=True)
class GlobalNoise(HonestPath):
    """Draws from the global generator."""

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Any:
        return changed(super().explain(subject, ask, state), lambda v: v + 1e-3 * torch.randn_like(v))


@lie("reproducible")
@dataclass(frozen=True, kw_only=True)
class DrawsAnyway(HonestPath):
    """Draws by the seed, and claims that nothing is drawn."""

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Any:
        return changed(super().explain(subject, ask, state), lambda v: v + 1e-3 * ask.seed)


@lie("seed used", twin=HonestNoise)
@dataclass(frozen=True, kw_only=True)
class IgnoresSeed(HonestNoise):
    """Draws, but always with the same seed."""

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Any:
        return super().explain(subject, dataclasses.replace(ask, seed=0), state)


@lie("precision")
@dataclass(frozen=True, kw_only=True)
class HalfInside(HonestPath):
    """Rounds to half precision on the way."""

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Any:
        half = ask.inputs.dtype == torch.float32
        return changed(super().explain(subject, ask, state), lambda v: v.half().to(v.dtype) if half else v)


@lie("persistent")
@dataclass(frozen=True, kw_only=True)
class ForgetsSettings(HonestPath):
    """Leaves its settings out of the configuration."""

    def config(self) -> dict[str, Any]:
        return {"method": self.card.name}


@lie("persistent")
@dataclass(frozen=True, kw_only=True)
class Unsaveable(HonestPath):
    """Keeps a result that a file can't hold."""

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Any:
        return super().explain(subject, ask, state).replace(baseline=nn.Identity())


@lie("predictions alone", needs=("predictions",))
@dataclass(frozen=True, kw_only=True)
class SaysPredictionsSuffice(HonestPath):
    """Claims to need predictions alone, and differentiates."""


# --- what a call leaves behind --------------------------------------------------------------------------------------


@lie("no trace")
@dataclass(frozen=True, kw_only=True)
class WritesToInputs(HonestPath):
    """Changes the caller's rows."""

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Any:
        ask.inputs.floats[0].mul_(1.01)
        return super().explain(subject, ask, state)


@lie("no trace")
@dataclass(frozen=True, kw_only=True)
class TouchesWeights(HonestPath):
    """Adds to a weight and takes it away again, which loses bits."""

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Any:
        weight = next(module_of(subject).parameters())
        with torch.no_grad():
            weight.add_(1000.0).sub_(1000.0)
        return super().explain(subject, ask, state)


@lie("no trace")
@dataclass(frozen=True, kw_only=True)
class GoesRound(HonestPath):
    """Computes with the parts of the model, so that its own hooks never fire."""

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Any:
        x = ask.inputs.floats[0].clone().requires_grad_()
        with torch.enable_grad():
            y = x
            for part in module_of(subject).children():
                y = part.forward(y)
            (slope,) = torch.autograd.grad(y.amax(1).sum(), x)
        return Attribution(values=slope)


@speak("no trace")
def leaves_hook(model: Any, *args: Any, **kwargs: Any) -> Any:
    """Registers a hook and forgets it."""
    module_of(model).register_forward_hook(lambda part, given, out: None)
    return explain(model, *args, **kwargs)


@speak("no trace")
def leaves_gradients(model: Any, *args: Any, **kwargs: Any) -> Any:
    """Leaves gradients on the parameters."""
    result = explain(model, *args, **kwargs)
    for x in module_of(model).parameters():
        x.grad = torch.zeros_like(x)
    return result


@speak("no trace")
def keeps_activation(model: Any, *args: Any, **kwargs: Any) -> Any:
    """Leaves an attribute on a module."""
    result = explain(model, *args, **kwargs)
    module_of(model).last_values = result.values
    return result


@speak("no trace")
def draws_globally(model: Any, *args: Any, **kwargs: Any) -> Any:
    """Moves the global generator on."""
    torch.rand(1)
    return explain(model, *args, **kwargs)


@speak("no trace")
def stops_gradients(model: Any, *args: Any, **kwargs: Any) -> Any:
    """Freezes the parameters for speed."""
    module_of(model).requires_grad_(False)
    return explain(model, *args, **kwargs)


@speak("no trace after an error")
def marks_busy(model: Any, *args: Any, **kwargs: Any) -> Any:
    """Puts a mark on the model and takes it off only where all went well."""
    module_of(model).busy = True  # type: ignore[assignment]
    result = explain(model, *args, **kwargs)
    del module_of(model).busy
    return result


@speak("no trace after an interrupt")
def cleans_after_errors_alone(model: Any, *args: Any, **kwargs: Any) -> Any:
    """Cleans up after errors, and Ctrl-C is none."""
    module_of(model).busy = True  # type: ignore[assignment]
    try:
        result = explain(model, *args, **kwargs)
    except Exception:
        del module_of(model).busy
        raise
    del module_of(model).busy
    return result


@speak("no trace after an interrupt")
def swallows_interrupt(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
    """Takes Ctrl-C for a failed row."""
    try:
        return explain(model, inputs, *args, **kwargs)
    except KeyboardInterrupt:
        return Attribution(values=torch.zeros_like(inputs))


_SHARED: dict[str, Any] = {}


@speak("threads")
def shares_state(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
    """Carries the inputs of a call in one place for all threads."""
    _SHARED["inputs"] = inputs
    time.sleep(0.001)
    return explain(model, _SHARED["inputs"], *args, **kwargs)


@lie("memory")
@dataclass(frozen=True, kw_only=True)
class Hoards(HonestPath):
    """Keeps every result for later."""

    _kept: ClassVar[list[Any]] = []

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Any:
        result = super().explain(subject, ask, state)
        self._kept.append(result.values)
        del self._kept[:-400]
        return result


@lie("memory")
@dataclass(frozen=True, kw_only=True)
class HoldsModel(HonestPath):
    """Keeps the last model it saw."""

    _last: ClassVar[dict[str, Any]] = {}

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Any:
        self._last["model"] = subject.module
        return super().explain(subject, ask, state)


@speak("caller's modes")
def trusts_gradient_mode(model: Any, *args: Any, **kwargs: Any) -> Any:
    """Gives zero where the caller has switched gradients off."""
    result = explain(model, *args, **kwargs)
    return result if torch.is_grad_enabled() else changed(result, torch.zeros_like)
