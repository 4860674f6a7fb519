"""How does the gradient itself change? Products of each row's Hessian with vectors, by differentiating twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.contract.errors import InputError, LayerError, NeedError
from pellucid.engine.ask import Ask
from pellucid.engine.gradient import needs_module
from pellucid.engine.place import visit
from pellucid.engine.rules.rewrite import Rewrite
from pellucid.engine.target import Target

Score = Callable[[Target, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Bend:
    """Some rows' scores, values and gradients (rows, numbers) at the explained place, with the graph behind them.

    The numbers of several tensors stand one after another; `split` takes them apart again.
    """

    score: Tensor
    values: Tensor
    grads: Tensor
    output: Tensor
    leaves: tuple[Tensor, ...]
    live: Tensor

    def product(self, vectors: Tensor) -> Tensor:
        """Hessian times vector for each row, (rows, numbers): one backward pass over the forward and the backward one."""
        if not self.live.requires_grad:
            return torch.zeros_like(vectors)
        with torch.enable_grad(), torch.inference_mode(False):
            found = torch.autograd.grad(self.live, self.leaves, vectors, retain_graph=True, allow_unused=True)
        return _flat([torch.zeros_like(x) if g is None else g for x, g in zip(self.leaves, found, strict=True)])

    def split(self, vectors: Tensor) -> tuple[Tensor, ...]:
        """Numbers (rows, numbers) in the tensors of the place."""
        parts = vectors.split([x[0].numel() for x in self.leaves], 1)
        return tuple(v.reshape(x.shape) for v, x in zip(parts, self.leaves, strict=True))


def bend(ask: Ask, start: int, stop: int, score: Score) -> Bend:
    """The score of rows `start` to `stop` with a gradient that can be differentiated again.

    `score` makes it of the target and the output. Fused kernels, which have no second derivative, are spelt out.
    """
    module, place, unit = needs_module(ask.subject, "second derivatives"), ask.layer, ask.unit_place
    inputs = ask.inputs.take(torch.arange(start, stop))
    with torch.enable_grad(), torch.inference_mode(False), Rewrite():
        leaves = tuple(x.detach().requires_grad_() for x in inputs.floats) if place is None else ()
        if place is None:
            if not leaves:
                raise InputError(
                    "The 'inputs' must have a floating tensor to take gradients at",
                    got=", ".join(str(x.dtype) for x in inputs.tensors),
                    hint="layer= the name of the embedding",
                )
            inputs = inputs.with_floats([x.clone() for x in leaves])
        seen = visit(lambda: ask.subject.scores(inputs), module, [] if unit is None else [unit], cut=place)
        output = seen.output if unit is None else seen.seen[unit]
        leaves = leaves or (seen.seen[place],)  # type: ignore[index]
        if leaves[0].shape[0] != stop - start:
            raise LayerError(
                f"The 'layer' {str(place)!r} must hold one entry per row along its first axis, {stop - start}",
                got=f"shape {tuple(leaves[0].shape)}",
                hint="a neighbouring module, or batch_first=True",
            )
        found = score(ask.settle_rows(output, start, stop), output)
        if not found.requires_grad:
            raise NeedError(
                "The score must depend on the input through differentiable operations",
                got="a score without a gradient",
                hint="scores instead of labels, and no .detach(), .data or numpy inside the model",
            )
        grads = torch.autograd.grad(found.sum(), leaves, create_graph=True, allow_unused=True)
        live = _flat([torch.zeros_like(x) if g is None else g for x, g in zip(leaves, grads, strict=True)])
    values = _flat([x.detach() for x in leaves])
    return Bend(found.detach(), values, live.detach(), output.detach(), leaves, live)


def extremes(product: Callable[[Tensor], Tensor], like: Tensor, steps: int = 16) -> tuple[Tensor, Tensor]:
    """The smallest and the largest eigenvalue of each row's symmetric operator, zero included, (rows,) each.

    Lanczos with full orthogonalisation; each figure is moved outwards by the residual, within which an eigenvalue lies.
    """
    rows, size = like.shape
    steps = min(steps, size)
    vector = torch.cos(torch.arange(1, size + 1, device=like.device, dtype=like.dtype)).expand(rows, size)
    basis = [vector / vector.norm(dim=1, keepdim=True)]
    table = like.new_zeros(rows, steps, steps)
    rest = like.new_zeros(rows)
    for step in range(steps):
        image = product(basis[-1])
        table[:, step, step] = (image * basis[-1]).sum(1)
        size_before = image.norm(dim=1)
        for _ in range(2):
            for old in basis:
                image = image - (image * old).sum(1, keepdim=True) * old
        rest = image.norm(dim=1)
        rest = torch.where(rest > 100 * torch.finfo(like.dtype).eps * size_before, rest, 0.0)
        if step + 1 < steps:
            table[:, step, step + 1] = table[:, step + 1, step] = rest
            basis.append(torch.where(rest[:, None] > 0, image / torch.where(rest > 0, rest, 1.0)[:, None], 0.0))
    found, vectors = torch.linalg.eigh(table)
    slack = rest[:, None] * vectors[:, -1].abs()
    return (found - slack).amin(1).clamp(max=0), (found + slack).amax(1).clamp(min=0)


def _flat(parts: list[Tensor]) -> Tensor:
    return torch.cat([x.flatten(1) if x.dim() > 1 else x[:, None] for x in parts], 1)
