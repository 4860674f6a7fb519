"""A model plus how to call it: which output, class and feature names, preprocessing. Refuses what hides its operations."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pellucid.contract.errors import InputError, ModelModeError, NeedError, OutputSelectionError, WrapperError
from pellucid.engine import fingerprint
from pellucid.engine.inputs import Inputs

_HASHES: weakref.WeakKeyDictionary[nn.Module, tuple[Any, str]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A module, or any callable giving scores, with how to call it.

    Args:
        model: an `nn.Module`, or a callable from the inputs to scores (N, classes) as tensor or array.
        output: which output is explained: a key of a dict or attribute of an object, an index of a tuple, or a callable
            from the model's output to a tensor. Needed where the model returns more than one tensor.
        classes: class names, in the order of the output.
        features: feature names, in the order of the input's columns (or channels); for token ids, the word of each.
        preprocess: applied to the inputs, and differentiated through, before the model.
        call: how to call the model where `model(*inputs)` or `model(**inputs)` is not right: `call(model, value)` gets
            the inputs in the structure in which they were given.
        plan: `True` runs the network by a faster exact plan from the first call on, which takes seconds to make and serves
            until a weight changes; `False` never does; by default a call that makes enough passes does.
        allow_train: explain a model that is in training mode in evaluation mode; its mode is put back afterwards.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(4, 2).eval()
        >>> px.explain(px.Subject(net, classes=("no", "yes")), torch.ones(1, 4), "vanilla-gradient").values.shape
        torch.Size([1, 4])
    """

    model: Any
    output: str | int | Callable[[Any], Tensor] | None = None
    classes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    preprocess: Callable[[Any], Any] | None = None
    call: Callable[[Any, Any], Any] | None = None
    plan: bool | None = None
    allow_train: bool = False

    def __init__(self, model: Any, **settings: Any) -> None:
        defaults = {k: getattr(type(self), k) for k in type(self).__dataclass_fields__ if k != "model"}
        if unknown := sorted(set(settings) - set(defaults)):
            raise InputError(f"The settings of Subject must be among {sorted(defaults)}", got=", ".join(unknown))
        settings = {k: tuple(map(str, v)) if k in ("classes", "features") else v for k, v in settings.items()}
        for name, value in {**defaults, **settings, "model": model}.items():
            object.__setattr__(self, name, value)

    @property
    def module(self) -> nn.Module | None:
        """The module, unwrapped from data-parallel wrappers; `None` for a plain callable."""
        model = self.model
        while isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        return model if isinstance(model, nn.Module) else None

    def raw(self, inputs: Inputs) -> Any:
        """The model's own output."""
        model = self.module if self.module is not None else self.model
        value: Any = inputs
        if self.preprocess is not None or self.call is not None:
            value = inputs.wrap_all()
            value = self.preprocess(value) if self.preprocess is not None else value
        if self.call is not None:
            return self.call(model, value)
        if isinstance(value, Inputs):
            return value.call(model)
        if isinstance(value, Mapping):
            return model(**value)
        return model(*value) if isinstance(value, tuple | list) else model(value)

    def scores(self, inputs: Inputs) -> Tensor:
        """The explained output, (N, ...), checked."""
        return self.select(self.raw(inputs), inputs)

    def pick(self, raw: Any) -> Any:
        """The part of what the model returned that `output` names, as it is."""
        return _pick(raw, self.output)

    def select(self, raw: Any, inputs: Inputs) -> Tensor:
        """The tensor to explain out of whatever the model returned."""
        value = self.pick(raw)
        if not isinstance(value, Tensor):
            value = _tensor(value, inputs)
        if not value.is_floating_point():
            raise NeedError(
                "The model must return scores, such as logits or probabilities",
                got=f"values of type {value.dtype}",
                hint="the function that computes the scores instead of the labels",
            )
        if value.dim() == 0 or value.shape[0] != inputs.rows:
            raise InputError(
                f"The model must return one row per input row, {inputs.rows}", got=f"shape {tuple(value.shape)}"
            )
        return value

    def state_hash(self) -> str:
        """A hash of all parameters and buffers, kept until one of them changes."""
        module = self.module
        if module is None:
            return ""
        stamp = fingerprint.of_module(module)
        known = _HASHES.get(module)
        if known is None or known[0] != stamp:
            tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
            digest = hashlib.blake2b(type(module).__qualname__.encode(), digest_size=16)
            for name, x in sorted(tensors.items()):
                digest.update(f"{name}{tuple(x.shape)}{x.dtype}".encode())
                digest.update(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
            known = _HASHES[module] = (stamp, digest.hexdigest())
        return known[1]


def as_subject(model: Any) -> Subject:
    """Wrap a model, and refuse what cannot be explained truthfully."""
    subject = model if isinstance(model, Subject) else Subject(model)
    module = subject.module
    if module is None:
        if not callable(subject.model):
            raise InputError(
                "The 'model' must be a torch module, a Subject or a callable", got=type(subject.model).__name__
            )
        return subject
    for name, part in module.named_modules():
        kind, where = type(part), f" ({name})" if name else ""
        if (
            isinstance(part, torch.jit.ScriptModule)
            or hasattr(part, "_orig_mod")
            or part._compiled_call_impl is not None
        ):
            raise WrapperError(
                "The 'model' must be an eager module: inside a compiled, traced or scripted one operations are hidden",
                got=kind.__name__ + where,
                hint="the module it was made from; or, for methods that need predictions alone, lambda x: model(x)",
            )
        if ".quantized" in kind.__module__ or (isinstance(part, torch.fx.GraphModule) and "quantized" in repr(part)):
            raise WrapperError("The 'model' must not be quantised", got=kind.__name__ + where, hint="the float model")
        if "FullyShardedDataParallel" in kind.__name__:
            raise WrapperError("The 'model' must not be sharded", got=kind.__name__ + where, hint="the module inside")
    training = [name or "the model" for name, part in module.named_modules() if part.training]
    if training and not subject.allow_train:
        raise ModelModeError(
            "The 'model' must be in evaluation mode: in training mode dropout and batch norm make its answers random",
            got=f"training mode in {', '.join(training[:3])}{' …' if len(training) > 3 else ''}",
            hint="model.eval(), or Subject(model, allow_train=True) to explain it in evaluation mode",
        )
    return subject


def _pick(raw: Any, output: Any) -> Any:
    if callable(output):
        return output(raw)
    if output is None:
        if isinstance(raw, Tensor | np.ndarray) or (
            isinstance(raw, Sequence) and raw and isinstance(raw[0], float | list)
        ):
            return raw
        raise OutputSelectionError(
            "The model returns several things: 'output' must say which one to explain",
            got=f"{type(raw).__name__} with {_choices(raw)}",
            hint=f"Subject(model, output={_first(raw)})",
        )
    try:
        return raw[output]
    except (KeyError, IndexError, TypeError):
        if isinstance(output, str) and isinstance(getattr(raw, output, None), Tensor):
            return getattr(raw, output)
    raise OutputSelectionError(
        "The 'output' must name a part of what the model returns",
        got=f"{output!r} where the model gives {type(raw).__name__} with {_choices(raw)}",
    )


def _parts(raw: Any) -> list[Any]:
    if isinstance(raw, Mapping):
        return list(raw.keys())
    if isinstance(raw, tuple | list):
        return list(range(len(raw)))
    return [k for k, v in vars(raw).items() if isinstance(v, Tensor)] if hasattr(raw, "__dict__") else []


def _choices(raw: Any) -> str:
    return "parts " + ", ".join(map(repr, _parts(raw))) if _parts(raw) else "no tensor"


def _first(raw: Any) -> str:
    return repr(_parts(raw)[0]) if _parts(raw) else "lambda out: ..."


def _tensor(value: Any, inputs: Inputs) -> Tensor:
    try:
        array = np.asarray(value)
        if array.dtype.kind == "f":
            return torch.from_numpy(np.ascontiguousarray(array)).to(inputs.device)
        if array.dtype.kind in "iub":
            return torch.from_numpy(array.astype(np.int64))
    except (TypeError, ValueError):
        pass
    raise OutputSelectionError("The model must return a tensor or an array", got=type(value).__name__)
