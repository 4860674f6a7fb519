"""Which few rows, with their explanations, show the most of what the network goes by? Submodular pick (SP-LIME)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.attribution.surrogate import Lime
from pellucid.contract import Card, Examples, Method, as_method, tensors
from pellucid.contract.errors import MethodError
from pellucid.engine import Ask, Subject, feature, fill, needs
from pellucid.engine.feature import Features
from pellucid.engine.settings import whole, whole_or_none

__all__ = ["SubmodularPick"]

POOLS = ("mean", "sum")
SPARSE = Lime(select=5)


@dataclass(frozen=True, kw_only=True)
class SubmodularPick(Method):
    """Which few of these rows should be looked at, so that their explanations show most of what the network goes by?

    Every row of the inputs is explained by ``of``, which gives a matrix W (rows, features). A feature's importance is
    ``I_j = sqrt(Σ_i |W_ij|)``, and a set V of rows covers ``c(V) = Σ_j 1[some i in V has W_ij ≠ 0] I_j``. Rows are added
    one at a time, each the one that adds most (the first of equals), until there are ``budget`` of them or nothing is left
    to cover; c(V) is then at least 1 - 1/e = 63 % of what the best ``budget`` rows cover.

    ``items`` (1, B) number rows of the inputs, in the order in which they were chosen; ``weights`` (1, B) is the share of
    all importance that each one adds; ``labels`` the class explained, ``rows`` the rows themselves. Facts, one figure
    for the whole call: ``coverage``, the share covered; ``best_possible``, a share that no ``budget`` rows can exceed, so
    that the pick is at least coverage / best_possible of the best; ``features_covered``; ``candidates``, rows with an
    explanation. For tables ``source["adds"]`` lists the columns that each row adds.

    Args:
        of: the explanation, a method or its name; its own data are the call's ``data``.
        budget: how many rows to choose at most, B.
        keep: count only so many of a row's features, those largest in size; all that are not 0 by default. Needed
            where ``of`` gives every feature a value, or one row covers everything.
        features: what is a column of W, the same in all rows: see `Lime`. ``data={"groups": masks}`` overrules it.
        pool: how a feature's values make one figure: "mean" fits methods that repeat a feature's figure at each of its
            values, as LIME and Shapley values do, "sum" those that share it out, as integrated gradients do.

    Cost: that of ``of`` on every row.
    Known failure: a feature counts as shown however small or of whichever sign, so that rows that disagree about a feature
    cover it as well as one; and what no explanation holds is not missed.
    Source: Ribeiro, Singh & Guestrin 2016, §4 (eq. 3-4, algorithm 2).

    Example:
        >>> import torch, pellucid as px
        >>> rows = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> result = px.explain(lambda x: x.sum(1, keepdim=True), rows, SubmodularPick(of="feature-ablation", budget=2))
        >>> result.items.tolist()
        [[0, 2]]
    """

    of: str | Method = SPARSE
    budget: int = 5
    keep: int | None = None
    features: str | tuple[Any, ...] = "auto"
    pool: str = "mean"

    card: ClassVar[Card] = Card(
        name="sp-lime",
        title="Submodular pick",
        question="Which few of these rows should be looked at to see most of what the network goes by?",
        form="examples",
        scope="global",
        citation="ribeiro2016should",
        needs=("predictions",),
        data_types=("any",),
        taxonomy={"001": "visualization/perturbation/lime", "003": "passive/attribution/global"},
        claims=("seeded",),
        trial={"of": Lime(samples=80, exact=False, select=2), "budget": 2},
        cost="that of the explanation on every row: 1001 forwards each",
        supports=("that these rows' explanations name this share of the features that explanations name at all",),
        limits=(
            "whether the chosen explanations are right: they are as good as the method that is held",
            "rows that the explanations do not tell apart, and features that no explanation names",
        ),
    )

    @property
    def claims(self) -> tuple[str, ...]:
        return tuple(c for c in as_method(self.of).claims if c in ("seeded", "deterministic"))

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Examples:
        held = self._check()
        needs.check(held.card, subject, ask.inputs, ask.data, ask.layer)
        columns = self._features(ask)
        result = held.explain(subject, ask, held.prepare(subject, ask))
        matrix = self._matrix(tensors(result.values), columns)
        explained = matrix.isfinite().all(1)
        matrix = self._kept(matrix.where(explained[:, None], 0.0))
        importance = matrix.abs().sum(0).sqrt()
        total = importance.sum().clamp(min=1e-300)
        chosen, gains, best = pick(matrix != 0, importance, self.budget)
        seen = (matrix[chosen] != 0).any(0)
        facts = {
            "coverage": importance[seen].sum() / total,
            "best_possible": best / total,
            "features_covered": seen.sum().double(),
            "candidates": explained.sum().double(),
        }
        items, labels = torch.tensor([chosen], dtype=torch.long), ask.explained_class
        return Examples(
            items=items,
            weights=torch.tensor([gains], dtype=torch.float64) / total,
            labels=None if labels is None else labels.cpu()[items],
            rows=ask.inputs.take(items[0]).wrap_all() if not ask.inputs.single else ask.inputs.tensors[0][items],
            role="representative",
            facts={name: figure.reshape(1) for name, figure in facts.items()},
            source={"weights": "coverage added", **_adds(ask, matrix, chosen)},
        )

    def _check(self) -> Method:
        whole(budget=(self.budget, 1))
        whole_or_none(keep=(self.keep, 1))
        if self.pool not in POOLS:
            raise MethodError(f"The 'pool' must be one of {POOLS}", got=repr(self.pool))
        held = as_method(self.of)
        if held.card.form != "attribution":
            raise MethodError("The method in 'of' must give an attribution", got=held.card.form, hint="of='lime'")
        return held

    def _features(self, ask: Ask) -> Features:
        """The columns of W, refused where they are not the same in all rows."""
        values = fill.explained(ask)
        if isinstance(ask.data, Mapping) and "groups" in ask.data:
            columns = feature.groups(ask.data["groups"], values)
        else:
            columns = feature.features(self.features, values)
        if any(labels.shape[0] > 1 for labels in columns.labels):
            raise MethodError(
                "The 'features' must be the same in all rows, so that rows can cover each other's",
                got=repr(self.features),
                hint="('grid', 8) instead of superpixels",
            )
        return columns

    def _matrix(self, values: list[Tensor], columns: Features) -> Tensor:
        """One figure for each row and feature, in float64."""
        shapes = [tuple(labels.shape[1:]) for labels in columns.labels]
        fits = len(values) == len(shapes) and all(
            v.dim() == len(s) + 1 and all(b in (1, a) for a, b in zip(v.shape[1:], s, strict=True))
            for v, s in zip(values, shapes, strict=True)
        )
        if not fits:
            raise MethodError(
                "The attribution must have the shape of the explained place, so that its features can be told apart",
                got=", ".join(str(tuple(v.shape)) for v in values),
            )
        figures = columns.gather(tuple(values))
        if self.pool == "sum":
            return figures
        return figures / columns.gather(tuple(torch.ones_like(v[:1]) for v in values)).clamp(min=1)

    def _kept(self, matrix: Tensor) -> Tensor:
        """The matrix with only the `keep` largest figures of each row, the first of equals."""
        if self.keep is None or self.keep >= matrix.shape[1]:
            return matrix
        order = matrix.abs().argsort(dim=1, descending=True, stable=True)[:, : self.keep]
        return torch.zeros_like(matrix).scatter(1, order, matrix.gather(1, order))


def pick(present: Tensor, importance: Tensor, budget: int) -> tuple[list[int], list[float], Tensor]:
    """Rows of `present` (rows, features) in greedy order with what each adds, and what no `budget` rows can exceed.

    At every stage the best set covers at most what is covered already and the `budget` largest gains (their sum is never
    too small, as gains only shrink); the least of these bounds holds.
    """
    chosen: list[int] = []
    gains: list[float] = []
    left, best = importance.clone(), importance.sum()
    while True:
        gain = present.double() @ left
        covered = importance.sum() - left.sum()
        best = torch.minimum(best, covered + gain.topk(min(budget, len(gain))).values.sum())
        row = int(gain.argmax())
        if len(chosen) == min(budget, len(gain)) or not gain[row] > 0:
            return chosen, gains, best
        chosen.append(row)
        gains.append(float(gain[row]))
        left = left.where(~present[row], 0.0)


def _adds(ask: Ask, matrix: Tensor, chosen: list[int]) -> dict[str, Any]:
    """For tables, the columns that each chosen row shows and no row before it."""
    if not ask.inputs.single or ask.layer is not None or ask.inputs.tensors[0].dim() != 2:
        return {}
    seen, found = torch.zeros(matrix.shape[1], dtype=torch.bool), []
    for row in chosen:
        fresh = (matrix[row] != 0) & ~seen
        found.append(fresh.nonzero()[:, 0].tolist())
        seen |= fresh
    return {"adds": found}
