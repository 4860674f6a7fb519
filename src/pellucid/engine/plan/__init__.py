"""How can a network be run many times, faster, with the same result? A cached plan of its evaluation-mode operations.

    plan = get(model, (images,))                       # None where there can be none; `explain_none` says why
    scores = plan(images)                              # differentiable to the images
    halves = get(model, (images,), cut="layer4")
    activation = halves.below(images)                  # no gradient graph
    scores = halves.above(activation.requires_grad_()) # differentiable to the activation

A plan is a recorded graph with batch-norm folded, sums and ReLUs joined to the convolution before them, memory layout
chosen, fused kernels on a CPU, and weights of its own that ask for no gradient; `kind="forward"` runs in inference mode.
The user's model is read and run, never edited. What is doubtful is refused: hooks, training mode, data-dependent
branches, operations whose result depends on the batch, models that draw random numbers or change themselves.

Every plan is compared with the model when it is made, at one row and at two: outputs within 1e-4 of the largest
(float32) or 1e-10 (float64), and, for `kind="gradient"`, the gradients to the inputs. Values agree with the model's up
to such rounding; a ReLU within rounding of zero may decide differently, as it may between two float32 runs on
different machines.

Cost of making one: a copy of the weights (up to three of a convolution's, in the orders its kernels read), some
milliseconds of tracing, and a run of the model on one row (and back) and on two, with as many of the plan. `worth`
says whether so many passes repay it. Reverse-mode derivatives of any order work; forward-mode and `torch.func.vmap`
do not.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pellucid.contract.errors import InputError, LayerError, PellucidError
from pellucid.engine.plan import check
from pellucid.engine.plan.fuse import between, compile_steps, normalise, pruned, simplify
from pellucid.engine.plan.program import Program
from pellucid.engine.plan.stem import Stem, stem_of
from pellucid.engine.plan.trace import Refused, Traced, trace
from pellucid.engine.plan.watch import Watch, obstacle

Kind = Literal["gradient", "forward"]

# Plans kept for one model; each holds a copy of the weights.
_KEPT = 4
# Measured: making a plan costs about this many one-row forward-and-backward passes, and each pass saves this share.
_PASSES_TO_MAKE, _SHARE_SAVED = 8, 0.25


class PlanExpired(PellucidError, RuntimeError):
    """The model changed after its plan was made."""


class Plan:
    """A faster way to run one model on inputs of one shape. Any number of rows; safe to call from several threads."""

    def __init__(self, kind: Kind, cut: str | None, watch: Watch, key: tuple[Any, ...]) -> None:
        self.kind, self.cut = kind, cut
        self._watch, self._key = watch, key
        self._whole: Program | None = None
        self._below: Program | None = None
        self._above: Program | None = None
        self._stem: Stem | None = None
        self._graph: Traced | None = None

    def __call__(self, *inputs: Tensor) -> Any:
        """The model's output. Differentiable to the inputs for `kind="gradient"`, unless the plan is cut."""
        self._check(inputs)
        if self._whole is None:
            return self.above(self.below(*inputs), *inputs)
        if self.kind == "gradient":
            return self._whole(*inputs)
        with torch.inference_mode():
            return self._whole(*inputs)

    @property
    def closed(self) -> bool:
        """Whether `above` needs the activation alone: no path goes round the cut."""
        return self._above is not None and len(self._above.inputs) == 1

    def below(self, *inputs: Tensor) -> Tensor:
        """The activation at the cut, without a gradient graph."""
        if self._below is None:
            raise LayerError("This plan is not cut", hint="cut='name of a module' in plan.get")
        self._check(inputs)
        with torch.inference_mode() if self.kind == "forward" else torch.no_grad():
            activation: Tensor = self._below(*inputs)
        return activation

    def above(self, activation: Tensor, *inputs: Tensor) -> Any:
        """The output from the activation at the cut; the inputs too where `closed` is False."""
        if self._above is None:
            raise LayerError("This plan is not cut", hint="cut='name of a module' in plan.get")
        self._check(inputs)
        if not self.closed and len(inputs) + 1 != len(self._above.inputs):
            raise InputError(f"A path goes round {self.cut!r}", hint="giving the model's inputs after the activation")
        given = (activation,) if self.closed else (activation, *inputs)
        if self.kind == "gradient":
            return self._above(*given)
        with torch.inference_mode():
            return self._above(*given)

    @property
    def stem(self) -> Stem | None:
        """The first affine step on the input apart from the rest, where the network begins with one."""
        return self._stem

    @property
    def graph(self) -> Traced | None:
        """The steps of a forward plan, or of its part above the cut; None where a step writes in place.

        They hold while the model stays as it is: `check` says so.
        """
        return self._graph

    def check(self) -> None:
        """Raise `PlanExpired` where the model changed since the plan was made."""
        self._check(())

    def _check(self, inputs: tuple[Tensor, ...]) -> None:
        if not self._watch.same(values=False):
            raise PlanExpired("The model changed while a plan of it was in use", hint="plan.get again")
        if inputs and _describe(inputs) != self._key:
            raise InputError(
                "The inputs are unlike those this plan was made for",
                got=", ".join(f"{tuple(each.shape)} {each.dtype} on {each.device}" for each in inputs),
            )


@dataclass(slots=True)
class _Shelf:
    """The plans of one model, or the reasons why there are none, while the model stays as it is."""

    model: weakref.ref[nn.Module]
    watch: Watch
    plans: OrderedDict[tuple[Any, ...], Plan | str] = field(default_factory=OrderedDict)


_shelves: dict[int, _Shelf] = {}
_building = threading.RLock()


def get(model: nn.Module, inputs: tuple[Tensor, ...], kind: Kind = "gradient", cut: str | None = None) -> Plan | None:
    """A plan for inputs of this shape (any number of rows), made now or before; None where there can be none."""
    found = _find(model, inputs, kind, cut)
    return found if isinstance(found, Plan) else None


def explain_none(model: nn.Module, inputs: tuple[Tensor, ...], kind: Kind = "gradient", cut: str | None = None) -> str:
    """Why `get` gives None, in words; empty where it gives a plan."""
    found = _find(model, inputs, kind, cut)
    return found if isinstance(found, str) else ""


def forget(model: nn.Module) -> None:
    """Drop all plans of a model: for a caller who knows that it changed."""
    with _building:
        _shelves.pop(id(model), None)


def worth(model: nn.Module, passes: int) -> bool:
    """Whether a new plan would save more than it costs, for so many one-row passes.

    Only networks with convolutions gain much: their batch-norms, sums, ReLUs and layouts are what plans improve.
    """
    convolutional = any(isinstance(module, nn.modules.conv._ConvNd) for module in model.modules())
    return convolutional and passes * _SHARE_SAVED > _PASSES_TO_MAKE


def _find(model: nn.Module, inputs: tuple[Tensor, ...], kind: Kind, cut: str | None) -> Plan | str:
    reason = _unfit(inputs)
    if reason:
        return reason
    with _building:
        shelf = _shelves.get(id(model))
        if shelf is None or shelf.model() is not model or not shelf.watch.same():
            _shelves.pop(id(model), None)
            reason = obstacle(model)
            if reason:
                return reason
            shelf = _new_shelf(model)
        key = (*_describe(inputs), kind, cut)
        if key not in shelf.plans:
            shelf.plans[key] = _make(model, inputs, kind, cut, shelf.watch)
            if not shelf.watch.same():
                shelf.plans[key] = "its forward changes its own weights, buffers or attributes"
                _shelves.pop(id(model), None)
        shelf.plans.move_to_end(key)
        while len(shelf.plans) > _KEPT:
            shelf.plans.popitem(last=False)
        return shelf.plans[key]


def _new_shelf(model: nn.Module) -> _Shelf:
    key = id(model)
    shelf = _Shelf(weakref.ref(model, lambda _: _shelves.pop(key, None)), Watch(model))
    _shelves[key] = shelf
    return shelf


def _unfit(inputs: tuple[Tensor, ...]) -> str | None:
    """Why these inputs cannot be planned for."""
    if not inputs or not all(type(each) in (Tensor, nn.Parameter) and each.dim() for each in inputs):
        return "its inputs are not plain tensors with a batch axis"
    if len({len(each) for each in inputs}) > 1 or not len(inputs[0]):
        return "its inputs have no common number of rows"
    if len({each.device for each in inputs}) > 1:
        return "its inputs lie on several devices"
    if any(each.dtype in (torch.float16, torch.bfloat16) for each in inputs):
        return "in half precision rounding hides whether two ways of computing agree"
    if torch.is_autocast_enabled(inputs[0].device.type):
        return "mixed precision is switched on"
    return None


def _describe(inputs: tuple[Tensor, ...]) -> tuple[Any, ...]:
    return tuple((each.shape[1:], each.dtype, each.device) for each in inputs)


def _make(model: nn.Module, inputs: tuple[Tensor, ...], kind: Kind, cut: str | None, watch: Watch) -> Plan | str:
    """Record, rewrite, compare; from the fastest rewriting to the plainest until one agrees."""
    inputs = tuple(each.detach() for each in inputs)
    random = check.RandomState(inputs[0].device)
    try:
        with torch.inference_mode(False):
            traced = trace(model, inputs)
            pure = normalise(traced)
            reference = check.Reference(model, inputs, gradients=kind == "gradient" and cut is None)
            if random.moved():
                return "its forward draws random numbers"
            attempts = _attempts(inputs)
            for number, (quick, compiled) in enumerate(attempts):
                try:
                    plan = Plan(kind, cut, watch, _describe(inputs))
                    _fill(plan, traced, pure, len(inputs[0]), quick=quick, compiled=compiled)
                    reference.compare(plan)
                    return plan
                except (Refused, RuntimeError, NotImplementedError, AttributeError) as error:
                    if number + 1 == len(attempts):
                        raise Refused(str(error)) from error
    except Refused as refusal:
        return str(refusal)
    except Exception as error:  # tracing runs the user's code on stand-ins, which may raise anything
        return f"it cannot be recorded ({type(error).__name__}: {error})"
    finally:
        random.restore()
    return "no way of running it agreed with it"


def _attempts(inputs: tuple[Tensor, ...]) -> list[tuple[bool, bool]]:
    """(layout changed, kernels of this processor) from fastest to plainest."""
    single = any(each.dtype is torch.float32 for each in inputs) and inputs[0].device.type == "cpu"
    return [(True, True), (True, False), (False, False)] if single else [(False, False)]


def _fill(plan: Plan, traced: Traced, pure: bool, batch: int, *, quick: bool, compiled: bool) -> None:
    """Give the plan its programs."""

    def program(part: Traced, gradient: bool) -> Program:
        if compiled:
            compile_steps(part, batch, gradient=gradient)
        return Program(part)

    gradient = plan.kind == "gradient"
    if plan.cut is None:
        whole = between(traced)
        simplify(whole, pure=pure, quick=quick)
        plan._stem = stem_of(whole, batch, compiled=compiled) if gradient and pure else None
        plan._whole = program(whole, gradient)
        plan._graph = None if gradient or not pure else pruned(whole)
        return
    if not pure:
        raise Refused("a cut network must have no in-place step left")
    calls = traced.places.get(plan.cut)
    if not calls:
        raise Refused(f"{plan.cut!r} is no module that is called while it runs")
    if len(calls) > 1 or calls[0] is None:
        raise Refused(f"{plan.cut!r} is called more than once, or its output is not one tensor")
    below, above = between(traced, end=calls[0]), between(traced, start=calls[0])
    for part in (below, above):
        simplify(part, pure=pure, quick=quick)
    # No gradient goes below the cut.
    plan._below, plan._above = program(below, gradient=False), program(above, gradient)
    plan._graph = None if gradient else pruned(above)
