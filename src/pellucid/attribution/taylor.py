"""What takes the score from zero to where it is? A first-order expansion around a point where the score is zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import MethodError
from pellucid.engine import Ask, Subject, gradient, score
from pellucid.engine.decomposition import start, wrap
from pellucid.engine.gradient import Floats, Gradient
from pellucid.engine.settings import whole

__all__ = ["SimpleTaylor"]

SEARCHES = ("gradient", "line")
REFINEMENTS = 60
JUMP = 1e-3  # of the score: how near to zero the score must come for a change of sign to be a root


@dataclass(frozen=True, kw_only=True)
class SimpleTaylor(Method):
    """Which inputs take the score from zero, at a root nearby, to what it is here?

    ``values[i] = dS/dx_i(r) · (x_i - r_i)`` at a root r, S(r) = 0, in score units; positive raises the score. The values
    of a row sum to S(x) up to terms of higher order: the fact ``residual`` is S(x) minus their sum, with its sign.

    The root is the first change of sign that a search meets: along the gradient at x, in steps of ``reach / points`` of
    Newton's step ``S(x) / |dS/dx|²``; or on the line to a baseline. Then the interval is narrowed. ``root_found`` is 1
    where a root was found. Where no sign change was met, or one at which the score jumps over zero, it is 0, and the
    expansion is around the visited point with the smallest |S|, ``root_score`` saying how far that is from zero (S(r) is
    then part of the residual). ``root_distance`` is |x - r|.

    Args:
        search: "gradient", or "line" to the baseline.
        baseline: of the line: a number, or "zero", "mean", "blur", "min", "max"; ``data=`` gives it itself.
        points: scores asked for in the first search.
        reach: how many of Newton's steps a search along the gradient goes.

    Cost: two forwards and backwards, ``points`` forwards and a few more to narrow the interval.
    Known failures: the root found decides the map, and is seldom an input that anybody would have seen; in piecewise linear
    networks a root lies in another linear piece, and the residual is large; a class score may have no root on the way.
    Source: Bach et al. 2015, §"Taylor-type decomposition", eqs. 14-16; Montavon et al. 2017, §2.2.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(3, 1).double().eval()
        >>> result = px.explain(net, torch.ones(1, 3).double(), "simple-taylor-decomposition")
        >>> bool(result.facts["residual"].abs() < 1e-12), result.facts["root_found"].tolist()
        (True, [1.0])
    """

    search: str = "gradient"
    baseline: float | str = 0.0
    points: int = 32
    reach: float = 4.0

    card: ClassVar[Card] = Card(
        name="simple-taylor-decomposition",
        title="Taylor decomposition at a root",
        question="Which inputs take the score from zero, at a root nearby, to what it is here?",
        form="attribution",
        scope="local",
        citation="bach2015pixel",
        needs=("gradient",),
        taxonomy={
            "000": "behavioural/functional/layer-wise-relevance",
            "001": "visualization/back-propagation",
            "002": "post-hoc/saliency/relevance",
            "003": "passive/attribution/local",
        },
        claims=("rowwise", "deterministic", "dummy", "symmetric", "spelling invariant", "score scale"),
        trial={"points": 8},
        cost="2 forwards and backwards, some 50 forwards",
        supports=("each input's share of the score, where the residual is small",),
        limits=("shares of the score where no root was found or the residual is large",),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        self._check()
        here = gradient.once(ask, self.card.title)
        way = self._way(ask, here)
        far = self.reach if self.search == "gradient" else 1.0
        at, found = _root(ask, here, way, torch.linspace(0, far, self.points + 1, dtype=torch.float64)[1:])
        root, slopes = _along(here.values, way, at), tuple(torch.zeros_like(v) for v in here.values)
        scores = torch.zeros_like(at)

        def fold(row: Tensor, _: Tensor, seen: Gradient) -> None:
            scores[row] = seen.score.double().cpu()
            for s, g in zip(slopes, seen.grads, strict=True):
                s[row.to(s.device)] = g

        gradient.sweep(ask, 1, lambda row, _: tuple(r[row] for r in root), fold, label=self.card.title)
        values = tuple(s * (v - r) for s, v, r in zip(slopes, here.values, root, strict=True))
        total = torch.stack([v.flatten(1).double().sum(1).cpu() for v in values]).sum(0)
        apart = [(v - r).flatten(1).double().cpu() for v, r in zip(here.values, root, strict=True)]
        facts = {
            "score": here.score.double().cpu(),
            "residual": here.score.double().cpu() - total,
            "root_found": found.double(),
            "root_score": scores,
            "root_distance": torch.cat(apart, 1).norm(dim=1),
        }
        return Attribution(values=wrap(ask, values), baseline=wrap(ask, root), facts=facts)

    def _check(self) -> None:
        if self.search not in SEARCHES:
            raise MethodError(f"The 'search' must be one of {SEARCHES}", got=repr(self.search))
        whole(points=(self.points, 1))
        if not 0 < self.reach < float("inf"):
            raise MethodError("The 'reach' must be a positive number", got=repr(self.reach))

    def _way(self, ask: Ask, here: Gradient) -> Floats:
        """The step from x that is taken t times."""
        if self.search == "line":
            return tuple(b - v for b, v in zip(start(ask, self.baseline), here.values, strict=True))
        steep = sum(g.flatten(1).double().square().sum(1) for g in here.grads)
        assert isinstance(steep, Tensor)
        step = torch.where(steep > 0, -here.score.double() / steep, torch.zeros_like(steep))
        return tuple((g.double() * _column(step, g)).to(g.dtype) for g in here.grads)


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.device).reshape(-1, *[1] * (like.dim() - 1))


def _along(origin: Floats, way: Floats, at: Tensor) -> Floats:
    return tuple(v + (w.double() * _column(at, w)).to(v.dtype) for v, w in zip(origin, way, strict=True))


def _root(ask: Ask, here: Gradient, way: Floats, grid: Tensor) -> tuple[Tensor, Tensor]:
    """For each row, where on its way the score is zero, or else nearest to zero; and whether a sign change was met."""
    rows = ask.inputs.rows
    scores = torch.cat([here.score.double().cpu()[:, None], _ask(ask, here, way, grid.expand(rows, -1))], 1)
    places = torch.cat([torch.zeros(1, dtype=grid.dtype), grid]).expand(rows, -1)
    crossed = scores[:, :1] * scores[:, 1:] <= 0
    found = crossed.any(1)
    last = crossed.double().argmax(1, keepdim=True) + 1
    low, high = (places.gather(1, k)[:, 0].clone() for k in (last - 1, last))
    under, over = (scores.gather(1, k)[:, 0].clone() for k in (last - 1, last))
    nearest = places.gather(1, scores.abs().argmin(1, keepdim=True))[:, 0]
    best, least = high.clone(), over.clone()
    for turn in range(REFINEMENTS):
        open_ = (found & (least != 0) & (high - low > 1e-15 * high.abs())).nonzero()[:, 0]
        if not len(open_):
            break
        a, b, fa, fb = low[open_], high[open_], under[open_], over[open_]
        between = torch.where(fa == fb, (a + b) / 2, (a * fb - b * fa) / (fb - fa)) if turn % 2 == 0 else (a + b) / 2
        seen = _ask(ask, here, way, between[:, None], open_.tolist())[:, 0]
        same = seen * fa > 0
        low[open_], under[open_] = torch.where(same, between, a), torch.where(same, seen, fa)
        high[open_], over[open_] = torch.where(same, b, between), torch.where(same, fb, seen)
        closer = seen.abs() < least[open_].abs()
        best[open_], least[open_] = torch.where(closer, between, best[open_]), torch.where(closer, seen, least[open_])
    found &= least.abs() <= JUMP * scores[:, 0].abs()  # else the score jumps over zero
    return torch.where(found, best, nearest), found


def _ask(ask: Ask, here: Gradient, way: Floats, at: Tensor, rows: list[int] | None = None) -> Tensor:
    """Scores on the way of each of these rows, as far as `at` (rows, steps) says."""
    chosen = list(range(ask.inputs.rows)) if rows is None else rows
    index = {row: i for i, row in enumerate(chosen)}
    found = torch.zeros_like(at, dtype=torch.float64)

    def line(row: Tensor) -> Tensor:
        return torch.tensor([index[r] for r in row.tolist()])

    def points(row: Tensor, step: Tensor) -> Floats:
        values = tuple(v[row] for v in here.values)
        return _along(values, tuple(w[row] for w in way), at[line(row), step])

    def fold(row: Tensor, step: Tensor, scores: Tensor) -> None:
        found[line(row), step] = scores.double().cpu()

    score.sweep(ask, at.shape[1], points, fold, rows=chosen)
    return found
