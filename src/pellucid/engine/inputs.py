"""What the model is called with: one tensor, a tuple or a dict of them, seen as one list of tensors with equal rows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pellucid.contract.errors import InputError


@dataclass(frozen=True, eq=False)
class Inputs:
    """Tensors that share a row axis. Floating ones are explained; the others (token ids, masks) go along as they are."""

    tensors: tuple[Tensor, ...]
    names: tuple[str, ...] = ()
    single: bool = False

    @property
    def rows(self) -> int:
        """How many rows."""
        return self.tensors[0].shape[0]

    @property
    def explained(self) -> tuple[int, ...]:
        """Positions of the floating tensors."""
        return tuple(i for i, x in enumerate(self.tensors) if x.is_floating_point())

    @property
    def floats(self) -> tuple[Tensor, ...]:
        """The floating tensors."""
        return tuple(self.tensors[i] for i in self.explained)

    @property
    def device(self) -> torch.device:
        """Where the rows live."""
        return self.tensors[0].device

    @property
    def dtype(self) -> torch.dtype:
        """The floating type of the rows, or the default for token ids alone."""
        return self.floats[0].dtype if self.explained else torch.get_default_dtype()

    def take(self, rows: Tensor) -> Inputs:
        """The rows at these positions, in this order, copied."""
        return replace(self, tensors=tuple(x.index_select(0, rows.to(x.device)) for x in self.tensors))

    def at(self, rows: Tensor, floats: Sequence[Tensor]) -> Inputs:
        """The rows at these positions, with these values in the floating tensors."""
        kept = iter(floats)
        parts = (next(kept) if x.is_floating_point() else x.index_select(0, rows.to(x.device)) for x in self.tensors)
        return replace(self, tensors=tuple(parts))

    def with_floats(self, floats: Sequence[Tensor]) -> Inputs:
        """The same, with other values in the floating tensors."""
        tensors = list(self.tensors)
        for i, x in zip(self.explained, floats, strict=True):
            tensors[i] = x
        return replace(self, tensors=tuple(tensors))

    def wrap(self, floats: Sequence[Tensor]) -> Any:
        """Values for the floating tensors, in the structure in which the inputs came."""
        if self.single:
            return floats[0]
        if self.names:
            return {self.names[i]: v for i, v in zip(self.explained, floats, strict=True)}
        places: list[Tensor | None] = [None] * len(self.tensors)
        for i, v in zip(self.explained, floats, strict=True):
            places[i] = v
        return tuple(places)

    def wrap_all(self) -> Any:
        """All tensors, in the structure in which they came."""
        if self.single:
            return self.tensors[0]
        return dict(zip(self.names, self.tensors, strict=True)) if self.names else self.tensors

    def call(self, model: Any) -> Any:
        """Run the model on all rows."""
        if self.names:
            return model(**dict(zip(self.names, self.tensors, strict=True)))
        return model(*self.tensors)

    def lengths(self) -> Tensor | None:
        """How many steps of each row are not padding, (rows,); None where there are no token ids.

        Padding are the last steps at which ids, masks and every other tensor of whole numbers (rows, steps) are zero.
        """
        whole = [x for x in self.tensors if x.dim() == 2 and not x.is_floating_point()]
        steps = {x.shape[1] for x in whole}
        if len(steps) != 1:
            return None
        used = torch.stack([x != 0 for x in whole]).any(0)
        places = torch.arange(1, used.shape[1] + 1, device=used.device)
        return torch.where(used, places, 0).amax(1) if used.shape[1] else None

    def keys(self) -> list[bytes]:
        """A fingerprint of each row's content: equal rows draw equal noise wherever they stand, however they are padded."""
        parts = [(x.detach().float() if x.is_floating_point() else x.long()).cpu().contiguous() for x in self.tensors]
        ends, steps = self.lengths(), {x.shape[1] for x in self.tensors if x.dim() == 2 and not x.is_floating_point()}

        def content(part: Tensor, row: int) -> bytes:
            long = ends is not None and part.dim() > 1 and part.shape[1] in steps
            return (part[row, : int(ends[row])] if long and ends is not None else part[row]).numpy().tobytes()

        return [
            hashlib.blake2b(b"".join(content(p, i) for p in parts), digest_size=16).digest() for i in range(self.rows)
        ]

    def fingerprint(self) -> str:
        """A hash of all values, shapes and types."""
        digest = hashlib.blake2b(digest_size=16)
        for x in self.tensors:
            digest.update(f"{tuple(x.shape)}{x.dtype}".encode())
            digest.update(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def as_inputs(value: Any, name: str = "inputs") -> Inputs:
    """Check what the caller gave and detach it; nothing the caller holds is written to."""
    if isinstance(value, Inputs):
        return value
    single = isinstance(value, Tensor)
    names: tuple[str, ...] = ()
    if single:
        parts: tuple[Any, ...] = (value,)
    elif isinstance(value, Mapping):
        names, parts = tuple(map(str, value.keys())), tuple(value.values())
    elif isinstance(value, tuple | list):
        parts = tuple(value)
    else:
        raise InputError(
            f"The '{name}' must be a tensor, or a tuple or dict of tensors",
            got=type(value).__name__,
            hint="torch.as_tensor(...)",
        )
    return Inputs(_checked(parts, names, name), names, single)


def _checked(parts: tuple[Any, ...], names: tuple[str, ...], name: str) -> tuple[Tensor, ...]:
    tensors = []
    for i, x in enumerate(parts):
        label = f"{name}[{names[i]!r}]" if names else f"{name}[{i}]" if len(parts) > 1 else name
        if not isinstance(x, Tensor):
            raise InputError(f"The '{label}' must be a tensor", got=type(x).__name__, hint="torch.as_tensor(...)")
        if x.layout != torch.strided or x.is_complex() or x.is_quantized:
            raise InputError(f"The '{label}' must be a dense real tensor", got=f"{x.layout}, {x.dtype}")
        if x.is_meta:
            raise InputError(
                f"The '{label}' must hold values", got="a tensor on the device 'meta'", hint="x on a real one"
            )
        if x.dim() == 0 or x.shape[0] == 0:
            raise InputError(
                f"The '{label}' must have rows along its first axis, at least one",
                got=f"shape {tuple(x.shape)}",
                hint="x.unsqueeze(0) for a single example",
            )
        if x.is_floating_point() and not torch.isfinite(x).all():
            raise InputError(f"The '{label}' must be finite", got="NaN or infinity", hint="removing or filling them")
        with torch.inference_mode(False):
            tensors.append(x.clone() if x.is_inference() else x.detach())
    if not tensors:
        raise InputError(f"The '{name}' must hold at least one tensor", got="none")
    if len({x.shape[0] for x in tensors}) > 1:
        shapes = ", ".join(str(tuple(x.shape)) for x in tensors)
        raise InputError(f"The '{name}' must all have the same number of rows", got=f"shapes {shapes}")
    if len({x.device for x in tensors}) > 1:
        raise InputError(f"The '{name}' must be on one device", got=", ".join(str(x.device) for x in tensors))
    return tuple(tensors)
