"""Which share of what a straight line explains is each column due, where columns go together? Shares of R² over orders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.attribution.effect_curve import TAXONOMY
from pellucid.attribution.shapley import values_of
from pellucid.attribution.shapley_sampling import check_settings
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import Ask, Subject, seed
from pellucid.engine.data import as_rows
from pellucid.engine.sample import Sample, sample

__all__ = ["RegressionShares"]

# The R² of so many submodels are held at once, 2^20 of them for each score.
MOST_EXACT = 20
# A column whose variance, beside those before it, is below this share of its own says nothing new.
NOTHING_NEW = 1e-10
ORDERS = b"orders of columns"
# Bytes of the matrices that are swept at once.
BLOCK = 1 << 25
ABOUT = ("scores", "labels")


@dataclass(frozen=True, kw_only=True)
class RegressionShares(Method):
    """Which share of what a straight line explains is each column due, where columns move together?

    A linear regression of the score on the columns of ``data`` explains the share R² of the score's variance.
    ``values[j]`` is column j's part of it: the mean, over all orders in which columns may enter the regression, of what
    R² gains when j enters. The parts are not negative and add up to R². They are shares of variance, so they have no sign
    and no unit. Row n has the shares of the score explained for row n, over all rows of the data.

    ``parts``: ``first``, R² of the column alone; ``last``, what R² loses without it; ``beta``, the regression's own
    coefficients b, in standard deviations; ``net_effect``, ``b_j r_j`` with the correlation r_j of column and score, which
    adds up to R² too, but may be negative; ``share_beta``, coefficients b with ``b_j r_j`` equal to the column's share
    (NaN where r_j is zero and the share is not, and none does it); ``net_beta``, those that minimise the squares of
    ``share_j - b_j (2 r_j - Σ_k r_jk b_k)``. `error` is the standard error over the orders, zero where all were taken.

    Facts: ``score``; ``r2``; ``sum_gap``, |sum of the shares - R²|; ``standard_error``, the largest; ``orders``, 0 for all;
    ``net_gap``, the largest difference left by ``net_beta``; ``share_r2`` and ``net_r2``, the share of the variance that
    the two sets of coefficients explain themselves; ``rows`` of the data; ``converged`` with a tolerance.

    Args:
        about: "scores": what is regressed is the model's score. "labels": the numbers y in ``data=(X, y)``, whatever the
            model says of them.
        exact: up to so many columns all orders are taken, at most 20.
        orders: orders drawn beyond, in pairs of an order and its reverse.
        tolerance: double the orders until no standard error is larger, or ``max_orders`` are reached.
        max_orders: most orders under a tolerance.

    Cost: one forward per row of the data (none for labels); 2^columns small sweeps of a matrix, or orders × columns.
    Known failure: what is not linear in the columns is left out, which 1 - r2 measures; a column that the model never
    reads has a share where it goes along with one that it does; few rows explain too much.
    Source: Lipovetsky & Conklin 2001; the shares are those of Lindeman, Merenda & Gold (LMG). The source's equations for
    coefficients, ``b_j (2 r_j - (Cb)_j) = share_j``, add up to R², which only the regression's own b reach; so they have no
    solution unless its net effects are the shares already, and are met in least squares by ``net_beta``. Those of
    ``share_beta`` always hold, but they explain less: ``share_r2``, which may be negative.

    Example:
        >>> import torch, pellucid as px
        >>> rows = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
        >>> result = px.explain(lambda x: 3 * x[:, :1] + x[:, 1:], rows, "lmg-shapley-regression", data=rows)
        >>> result.values[0].round(decimals=6).tolist()
        [0.9, 0.1]
    """

    about: str = "scores"
    exact: int = 15
    orders: int = 512
    tolerance: float | None = None
    max_orders: int = 1 << 14

    card: ClassVar[Card] = Card(
        name="lmg-shapley-regression",
        title="Shapley shares of a regression",
        question="Which share of what a straight line explains is this column due, where columns move together?",
        form="attribution",
        scope="global",
        citation="lipovetsky2001analysis",
        needs=("predictions", "table", "data"),
        data_types=("table",),
        taxonomy=TAXONOMY | {"002": "post-hoc/saliency/perturbation"},
        claims=("rowwise", "seeded", "implementation invariant", "spelling invariant"),
        trial={"exact": 2, "orders": 8},
        cost="1 forward per row of the data",
        supports=("columns that carry the same information share what it explains, instead of cancelling each other",),
        limits=(
            "columns that the model uses: one that goes along with a used one has a share as well",
            "what is not linear: r2 says how much the line explains at all",
            "which way a column moves the score: a share of variance has no sign",
        ),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        check_settings(self.tolerance, orders=self.orders, max_orders=self.max_orders)
        if self.about not in ABOUT:
            raise MethodError(f"The 'about' must be one of {ABOUT}", got=repr(self.about))
        if isinstance(self.exact, bool) or not isinstance(self.exact, int) or not 0 <= self.exact <= MOST_EXACT:
            raise MethodError(f"The 'exact' must be an int from 0 to {MOST_EXACT}", got=repr(self.exact), hint="15")
        labels = _labels(ask.data) if self.about == "labels" else None
        about = sample(ask, least=3)
        answers = about.plain() if labels is None else labels[:, None]
        kind = about.kind if labels is None else torch.zeros_like(about.kind)
        together, alone = correlations(about, answers)
        shares, error, orders = self._shares(together, alone, ask.seed)
        found = coefficients(together, alone, shares)
        ones = torch.ones(len(kind), dtype=torch.float64)
        facts = {"r2": found.pop("r2"), "standard_error": error.amax(1)}
        facts |= {name: found.pop(name) for name in ("net_gap", "share_r2", "net_r2")}
        facts["sum_gap"] = (shares.sum(1) - facts["r2"]).abs()
        if self.tolerance is not None:
            facts["converged"] = (facts["standard_error"] <= self.tolerance).double()
        ask.path = about.ask.path
        x = ask.inputs.tensors[0]
        return Attribution(
            values=shares[kind].to(x),
            error=error[kind].to(x),
            parts={name: part[kind] for name, part in found.items()},
            facts={
                "score": ask.score.detach().cpu().double(),
                **{name: fact[kind] for name, fact in facts.items()},
                "orders": ones * orders,
                "rows": ones * about.rows,
            },
        )

    def _shares(self, together: Tensor, alone: Tensor, number: int) -> tuple[Tensor, Tensor, int]:
        """Shares (kinds, columns) with their standard errors, and from how many orders; 0 for all."""
        columns = len(together)
        if columns <= self.exact:
            shares = values_of(every_r2(together, alone))
            return shares, torch.zeros_like(shares), 0
        total, square = (torch.zeros_like(alone.T) for _ in range(2))
        done, more = 0, max(2, -(-self.orders // 2))
        while True:
            drawn = seed.generator(number, ORDERS, done).random((more, columns))
            size = max(1, BLOCK // (32 * columns * (columns + alone.shape[1])))
            for part in torch.from_numpy(drawn).argsort(1).split(size):
                pairs = (gains(together, alone, part) + gains(together, alone, part.flip(1))) / 2
                total, square = total + pairs.sum(0), square + (pairs**2).sum(0)
            done, more = done + more, done + more
            spread = (square - total**2 / done).clamp(min=0) / (done - 1)
            error = (spread / done).sqrt()
            settled = self.tolerance is None or float(error.max()) <= self.tolerance
            if settled or 2 * (done + more) > self.max_orders:
                return total / done, error, 2 * done


def _labels(data: Any) -> Tensor:
    """The numbers y of data=(X, y)."""
    given = data["rows"] if isinstance(data, Mapping) and set(data) == {"rows", "weights"} else data
    labels = as_rows(given, labels=True).labels
    assert labels is not None
    found = labels.detach().cpu().double()
    if found.dim() != 1 or not bool(torch.isfinite(found).all()):
        raise InputError(
            "The labels y in data=(X, y) must be finite numbers, one per row",
            got=f"shape {tuple(found.shape)}" if found.dim() != 1 else "NaN or infinity",
        )
    return found


def correlations(about: Sample, answers: Tensor) -> tuple[Tensor, Tensor]:
    """Between the columns (columns, columns), and of each with each answer (columns, kinds); zero for what is constant."""
    share, x = about.weights[:, None], about.table.detach().cpu().double()
    x, y = _standard(x, share), _standard(answers.double(), share)
    return x.T @ (share * x), x.T @ (share * y)


def _standard(values: Tensor, share: Tensor) -> Tensor:
    """Columns with mean 0 and variance 1; zero for those that don't change beyond rounding."""
    size = (share * values**2).sum(0).sqrt()
    centred = values - (share * values).sum(0)
    spread = (share * centred**2).sum(0).sqrt()
    flat = spread <= 64 * torch.finfo(torch.float64).eps * size
    return torch.where(flat, 0.0, centred / spread.where(~flat, torch.ones_like(spread)))


def _enter(together: Tensor, alone: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What R² gains when the first column enters, (..., kinds), and both matrices of the others beside it.

    `together` (..., q, q) and `alone` (..., q, kinds) are covariances beside the columns that entered before.
    """
    own, row = together[..., 0, 0], together[..., 0, 1:]
    new = own > NOTHING_NEW
    factor = torch.where(new, 1 / own.where(new, torch.ones_like(own)), torch.zeros_like(own))
    with_score = alone[..., 0, :]
    pull = (factor[..., None] * row)[..., None]
    left = together[..., 1:, 1:] - pull * row[..., None, :]
    return factor[..., None] * with_score**2, left, alone[..., 1:, :] - pull * with_score[..., None, :]


def every_r2(together: Tensor, alone: Tensor) -> Tensor:
    """R² of the regressions on all sets of columns, (kinds, 2^columns), numbered as coalitions are."""
    found = alone.new_zeros(1, alone.shape[1])
    together, alone = together[None], alone[None]
    for _ in range(together.shape[1]):
        gain, left, left_alone = _enter(together, alone)
        # All sets of the columns so far: first those without this column, then those with it.
        found = torch.cat([found, found + gain])
        together = torch.cat([together[..., 1:, 1:], left])
        alone = torch.cat([alone[..., 1:, :], left_alone])
    return found.T.contiguous()


def gains(together: Tensor, alone: Tensor, orders: Tensor) -> Tensor:
    """What R² gains as each column enters in each of these orders (orders, columns): (orders, kinds, columns)."""
    left, left_alone = together[orders[:, :, None], orders[:, None, :]], alone[orders]
    steps = []
    for _ in range(orders.shape[1]):
        gain, left, left_alone = _enter(left, left_alone)
        steps.append(gain)
    along = torch.stack(steps, 2)
    return along.new_zeros(along.shape).scatter_(2, orders[:, None].expand_as(along), along)


def coefficients(together: Tensor, alone: Tensor, shares: Tensor) -> dict[str, Tensor]:
    """The regression's own coefficients and those re-derived from the shares, each (kinds, columns), with how they fit."""
    inverse = torch.linalg.pinv(together, hermitian=True, rtol=NOTHING_NEW)
    beta, r = (inverse @ alone).T, alone.T
    r2 = (beta * r).sum(1)
    own = torch.where(r**2 > NOTHING_NEW, shares / r, torch.where(shares > NOTHING_NEW, torch.nan, 0.0))
    net = torch.stack([_net_beta(together, row, part) for row, part in zip(r, shares, strict=True)])
    gap = (shares - net * (2 * r - net @ together)).abs().amax(1)
    unique = torch.diagonal(inverse)
    # What R² loses without a column is b² / (C⁻¹)_jj; nothing where other columns say the same.
    last = torch.where(_needed(together), beta**2 / unique.clamp(min=NOTHING_NEW), 0.0)
    return {
        "first": r**2,
        "last": last,
        "beta": beta,
        "net_effect": beta * r,
        "share_beta": own,
        "net_beta": net,
        "r2": r2,
        "net_gap": gap,
        "share_r2": _r2(together, r, own),
        "net_r2": _r2(together, r, net),
    }


def _r2(together: Tensor, r: Tensor, beta: Tensor) -> Tensor:
    """The share of the variance that given coefficients explain."""
    return (beta * (2 * r - beta @ together)).sum(1)


def _needed(together: Tensor) -> Tensor:
    """Which columns the others can't replace."""
    rank = int(torch.linalg.matrix_rank(together, hermitian=True, rtol=NOTHING_NEW))
    kept = [[k for k in range(len(together)) if k != j] for j in range(len(together))]
    ranks = [
        int(torch.linalg.matrix_rank(together[k][:, k], hermitian=True, rtol=NOTHING_NEW)) if k else 0 for k in kept
    ]
    return torch.tensor([each < rank for each in ranks])


def _net_beta(together: Tensor, r: Tensor, shares: Tensor) -> Tensor:
    """The coefficients whose net effects b (2 r - C b) are nearest to the shares, from b in proportion to r."""
    from scipy.optimize import least_squares

    found, kept = torch.zeros_like(r), (shares > NOTHING_NEW).nonzero()[:, 0]
    if not len(kept):
        return found
    # A column without a share has none without a coefficient either.
    together, r, shares = together[kept][:, kept], r[kept], shares[kept]

    def effects(b: Any) -> Any:
        b = torch.from_numpy(b)
        return (b * (2 * r - together @ b) - shares).numpy()

    def slopes(b: Any) -> Any:
        b = torch.from_numpy(b)
        return (torch.diag(2 * r - together @ b) - b[:, None] * together).numpy()

    size = float(r @ together @ r)
    start = r * float(r @ r) / size if size > NOTHING_NEW else r
    found[kept] = torch.from_numpy(least_squares(effects, start.numpy(), jac=slopes, gtol=1e-12, max_nfev=300).x)
    return found
