"""One recorded forward pass: outputs, score, places and the operations in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.contract.errors import InputError, ModelModeError, TargetError, UnsupportedOperation, WrapperError
from pellucid.engine.rules.places import Address, Place, Watcher
from pellucid.engine.rules.record import Edge, Op, Record, Recorder
from pellucid.engine.rules.rewrite import Rewrite

Inputs = Tensor | Sequence[Any] | Mapping[str, Any]


class _Stop(BaseException):
    """The last place needed has been seen. Not an Exception, so that no model catches it."""


class Trace:
    """Run `forward` once on copies of `inputs` and keep what a backward walk needs.

    `inputs` is a tensor, a tuple (positional) or a dict (keyword arguments). Floating tensors become fresh leaves;
    the model receives copies, so the caller's bytes stay whatever the model does. `score` turns the output, or the
    value at `start`, into one number per row; its operations are recorded like the model's. With `stop`, the
    forward pass ends at the last place needed; a place without a call number is then the first call.
    """

    def __init__(
        self,
        model: nn.Module | None,
        inputs: Inputs,
        forward: Callable[..., Any] | None = None,
        *,
        places: Sequence[str] = (),
        score: Callable[[Any], Tensor] | None = None,
        start: str | None = None,
        stop: bool = False,
        keep: Callable[[str], bool] = lambda name: True,
        locate: bool = True,
    ) -> None:
        call = model if forward is None else forward
        if call is None:
            raise InputError("A trace needs a model or a forward function", got="neither", hint="model=...")
        modules = {} if model is None else {id(m): n for n, m in reversed(list(model.named_modules()))}
        if model is not None:
            refuse_wrappers(model)
        elif places or start is not None:
            raise InputError("Places need the model they are in", got="model=None", hint="model=...")
        wanted = list(dict.fromkeys([*places, *([] if start is None else [start])]))
        addresses = [Address.parse(name, model) for name in wanted if model is not None]
        recorder = Recorder(modules, keep, locate)
        self.watcher = Watcher(addresses, recorder.watch)
        self.output: Any = None
        self.score: Tensor | None = None
        rewrite = Rewrite()
        with torch.inference_mode(False), torch.enable_grad():
            args, kwargs = self._enter(inputs)
            with rewrite, recorder:
                self._run(call, args, kwargs, recorder, stop)
                if not stop:
                    self.watcher.check()
                if score is not None:
                    self.score = score(self.output if start is None else self.places[start].value)
        self.rewrites = rewrite.used
        self.record = Record(recorder)
        if self.score is not None:
            _check_score(self.score)

    @property
    def ops(self) -> list[Op]:
        """Every recorded operation, in the order it ran."""
        return self.record.ops

    @property
    def places(self) -> dict[str, Place]:
        """Value and edge of each requested place, by name."""
        return self.watcher.found

    def restore(self) -> None:
        """Undo what a table wrote on the record."""
        for op in self.ops:
            op.restore()

    def _enter(self, inputs: Inputs) -> tuple[list[Any], dict[str, Any]]:
        """Copies of the inputs: floating tensors carry a gradient, others are copied alone."""
        if isinstance(inputs, Tensor):
            inputs = (inputs,)
        named = isinstance(inputs, Mapping)
        self.values: list[Any] = list(inputs.values()) if isinstance(inputs, Mapping) else list(inputs)
        self.edges: list[Edge | None] = []
        given: list[Any] = []
        for x in self.values:
            copy = x.detach().clone() if isinstance(x, Tensor) else x
            if isinstance(x, Tensor) and x.is_floating_point():
                copy = copy.requires_grad_().clone() if x.is_inference() else x.detach().requires_grad_().clone()
                self.edges.append((copy.grad_fn, 0))
            else:
                self.edges.append(None)
            given.append(copy)
        if isinstance(inputs, Mapping) and named:
            return [], dict(zip(inputs, given, strict=True))
        return given, {}

    def _run(
        self, call: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], recorder: Recorder, stop: bool
    ) -> None:
        watcher = self.watcher

        def halt() -> None:
            if watcher.complete:
                raise _Stop

        recorder.halt = halt if stop and watcher.addresses else None
        try:
            with watcher:
                self.output = call(*args, **kwargs)
        except _Stop:
            pass
        finally:
            recorder.halt = None


def pair(trace: Trace, other: Trace) -> None:
    """Line up the operations of two runs of one model, so that rules can compare them (`op.twin`).

    Runs that take different branches are refused.
    """
    for x, y in zip_longest(trace.ops, other.ops):
        if x is None or y is None or (x.name, x.line) != (y.name, y.line):
            raise UnsupportedOperation(
                "The two runs of the model part ways", got=f"{x} against {y}", hint="a method without a reference"
            )
        x.twin = y


def refuse_wrappers(model: nn.Module) -> None:
    """Modules that hide their operations, or that would change their own buffers when run, are named and refused."""
    for name, module in model.named_modules():
        kind = type(module).__name__
        if isinstance(module, torch.jit.ScriptModule):
            raise WrapperError("A scripted or traced module hides its operations", got=f"'{name}' ({kind})",
                               hint="the eager module it was made from")  # fmt: skip
        if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
            raise WrapperError("A compiled module hides its operations", got=f"'{name}' ({kind})",
                               hint="the eager module, model._orig_mod")  # fmt: skip
        if type(module).__module__.startswith(("torch.ao.nn.quantized", "torch.nn.quantized")):
            raise WrapperError("A quantised module has no gradient", got=f"'{name}' ({kind})",
                               hint="the float model it was made from")  # fmt: skip
        if isinstance(module, nn.DataParallel) and module.device_ids:
            raise WrapperError("A parallel wrapper runs its copies in other threads", got=f"'{name}' ({kind})",
                               hint="model.module")  # fmt: skip
        if module.training and getattr(module, "running_mean", None) is not None:
            raise ModelModeError("Running the model would move its batch statistics", got=f"'{name}' in training mode",
                                 hint="model.eval()")  # fmt: skip


def _check_score(score: Any) -> None:
    if not isinstance(score, Tensor) or score.dim() != 1 or not score.is_floating_point():
        got = f"shape {tuple(score.shape)} of {score.dtype}" if isinstance(score, Tensor) else type(score).__name__
        raise TargetError("The score must be one floating number per row, shape (N,)", got=got,
                          hint="lambda output: output[:, 0]")  # fmt: skip
