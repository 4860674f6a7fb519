"""The farthest attention under which the answer stays: distributions, their divergence, and a search that keeps a bound."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pellucid.contract.errors import InputError

__all__: list[str] = []

LEAST = 1e-3  # what is left of the length of steps at the end
HALVINGS = 12
TINY = 1e-30
SCORES = ("logits", "probabilities")

Judge = Callable[[Tensor], tuple[Tensor, Tensor]]  # weights to (divergence, change of the output), one entry per job
Found = tuple[Tensor, Tensor, Tensor]  # divergence, weights, change of the output


def divergence(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """The Jensen-Shannon divergence in nats of distributions along the last axis, their mean by `share`, (jobs,)."""
    middle = (first + second) / 2
    logs = middle.clamp(min=TINY).log()
    each = [(p * (p.clamp(min=TINY).log() - logs)).sum(-1) for p in (first, second)]
    return (share * (each[0] + each[1]) / 2).flatten(1).sum(1)


def distance(first: Tensor, second: Tensor) -> Tensor:
    """Total variation between probabilities (jobs, classes), from 0 to 1."""
    return (first - second).abs().sum(1) / 2


def probabilities(output: Tensor, scores: str) -> Tensor:
    """The classes' probabilities (rows, classes) of "logits" or "probabilities"; one column is the second of two."""
    if output.dim() != 2:
        raise InputError(
            "The model must give one row of scores per input row, whose probabilities can be compared",
            got=f"shape {tuple(output.shape)}",
            hint="Subject(model, output=lambda out: out.logits[:, -1])",
        )
    if output.shape[1] == 1:
        chance = output.sigmoid() if scores == "logits" else output
        return torch.cat([1 - chance, chance], 1)
    return output.softmax(1) if scores == "logits" else output


def permuted(real: Tensor, noise: Tensor) -> Tensor:
    """Each distribution's weights in another order, among its entries that are not zero; `noise` draws the order."""
    none = (real == 0).to(noise)
    here = none.argsort(dim=-1, stable=True)  # what may be looked at first, in its own order
    there = (noise + 2 * none).argsort(dim=-1, stable=True)
    return torch.zeros_like(real).scatter(-1, here, real.gather(-1, there))


def weights_of(logits: Tensor, real: Tensor, share: Tensor) -> Tensor:
    """Attention by these logits where a distribution counts and may look; the model's own where it does not count."""
    free = logits.masked_fill(real == 0, -torch.inf).softmax(-1)
    return torch.where(share[..., None] > 0, free, real)


def shorten(real: Tensor, far: Tensor, judge: Judge, bound: float) -> Found:
    """The way from the model's own weights to `far`, as far as the output's change stays within the bound."""
    with torch.no_grad():
        end = torch.ones(len(real)).to(real)
        near = torch.where(judge(far)[1] <= bound, end, torch.zeros_like(end))
        for _ in range(HALVINGS):
            middle = (near + end) / 2
            inside = judge(_between(real, far, middle))[1] <= bound
            near, end = torch.where(inside, middle, near), torch.where(inside, end, middle)
        weights = _between(real, far, near)
        weights = torch.where((near == 0).reshape(-1, 1, 1, 1), real, weights)
        reached, moved = judge(weights)
        return reached, weights, moved


def ascend(real: Tensor, logits: Tensor, share: Tensor, judge: Judge, bound: float, steps: int, rate: float) -> Found:
    """From these logits up the divergence along the bound; the farthest weights that keep it.

    Each step goes up the divergence; where the bound is broken, along it, and back towards it by what the change's slope
    says. Steps have a length of `rate` logits, falling to a thousandth.
    """
    best = shorten(real, weights_of(logits, real, share), judge, bound)
    for step in range(steps):
        with torch.inference_mode(False), torch.enable_grad():
            here = logits.detach().requires_grad_()
            weights = weights_of(here, real, share)
            reached, moved = judge(weights)
            up = torch.autograd.grad(reached.sum(), here, retain_graph=True)[0].flatten(1)
            off = torch.autograd.grad(moved.sum(), here)[0].flatten(1) if moved.requires_grad else torch.zeros_like(up)
        best = better(best, (reached.detach(), weights.detach(), moved.detach()), bound)
        size, length = off.square().sum(1, keepdim=True).clamp(min=TINY), rate * LEAST ** (step / steps)
        beyond = (moved.detach()[:, None] - bound).clamp(min=0)
        along = torch.where(beyond > 0, up - (up * off).sum(1, keepdim=True) * off / size, up)
        go, back = _short(along, length, exact=True), _short(-beyond * off / size, 2 * length)
        logits = here.detach() + (go + back).reshape(here.shape)
    return better(best, shorten(real, weights_of(logits, real, share), judge, bound), bound)


def _short(steps: Tensor, length: float, *, exact: bool = False) -> Tensor:
    """Steps (jobs, n) cut to this length, or brought to it."""
    size = steps.norm(dim=1, keepdim=True).clamp(min=TINY)
    return steps * (length / size if exact else (length / size).clamp(max=1))


def better(first: Found, second: Found, bound: float) -> Found:
    """For each job the second where it keeps the bound and reaches farther."""
    wins = (second[2] <= bound) & (second[0] > first[0])
    wide = wins.reshape(-1, 1, 1, 1)
    return (
        torch.where(wins, second[0], first[0]),
        torch.where(wide, second[1], first[1]),
        torch.where(wins, second[2], first[2]),
    )


def _between(real: Tensor, far: Tensor, share: Tensor) -> Tensor:
    return real + share.reshape(-1, 1, 1, 1) * (far - real)
