"""What does the network owe to a column, also by way of others? The column is taken out of the whole table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pellucid.attribution.effect_curve import TAXONOMY
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, NeedError, TargetError
from pellucid.engine import Ask, Subject, seed
from pellucid.engine.ask import predict
from pellucid.engine.data import rows_like
from pellucid.engine.inputs import Inputs
from pellucid.engine.sample import Sample, sample

__all__ = ["IndirectInfluence", "OrthogonalProjection"]

MEASURES = ("accuracy", "consistency", "score")
FEWEST = 5  # rows in a group of equal numbers
DEPTH = 4  # of the tree that tries to tell the groups
TIES = b"ties"


@dataclass(frozen=True, kw_only=True)
class IndirectInfluence(Method):
    """What do the network's answers owe to a column, also by way of others that give it away?

    A column j is obscured: the rows of ``data`` are grouped by its value, and in every other column each group gets the
    same distribution, at each quantile the median of the groups' values, so that the column no longer tells the group.
    Column j itself becomes its median. ``values`` (rows, columns): how much worse the answers get, or how far they move;
    all rows of one score share them. ``parts["direct"]`` is what setting column j alone to its median does, as usual: a
    column with much influence and little direct influence acts through others, its proxies. `error` is the standard error
    over the data.

    measure: "accuracy", the accuracy that is lost (``data=(X, y)``; negative where it rises); "consistency", the share of
    rows whose predicted class changes; "score", the root mean square change of the explained score, in its units.

    How well a column is gone is measured: ``parts["ber"]`` is the balanced error rate of a small decision tree that tells
    the groups from the other columns after repair, on rows that it was not fitted to, ``ber_before`` before it, and
    ``chance`` that of guessing. Facts: ``score``; ``left_over``, by how much ``ber`` falls short of ``chance`` at most;
    ``standard_error``, the largest.

    Args:
        measure: "accuracy", "consistency" or "score".
        groups: of a column with more values, this many groups of about equal size; else each value is a group.
        repair: how far values are moved towards the common distribution, from 0 to 1 (as they are, obscured).

    Cost: 2 × columns + 1 forwards a data row, and 4 small trees a column.
    Known failure: each column is repaired by itself, so that what only several tell together stays, which ``ber`` shows;
    rows that never occur are asked.
    Source: Adler, Falk, Friedler, Nix, Rybeck, Scheidegger, Smith & Venkatasubramanian 2018, §3–5; repair: Feldman et al.
    2015, §5. Where groups are even in number, few-valued columns take the lower middle value below the median and the upper
    above, so that no new values arise, and equal values go by a fixed shuffled order. The tree is our
    measure of what the paper bounds for any classifier.

    Example:
        >>> import torch, pellucid as px
        >>> flag = torch.tensor([0.0, 1.0]).repeat(20)
        >>> table = torch.stack([flag, flag], 1)  # the second column is a proxy, and the only one that is read
        >>> net = lambda x: torch.stack([0.5 - x[:, 1], x[:, 1] - 0.5], 1)
        >>> found = px.explain(net, table[:1], "indirect-influence-auditing", data=(table, flag.long()))
        >>> found.parts["direct"][0].tolist(), found.values[0].tolist()
        ([0.0, 0.5], [0.5, 0.5])
    """

    measure: str = "consistency"
    groups: int = 10
    repair: float = 1.0

    card: ClassVar[Card] = Card(
        name="indirect-influence-auditing",
        title="Indirect influence (gradient feature auditing)",
        question="What do the network's answers owe to a column, also by way of others that give it away?",
        form="attribution",
        scope="global",
        citation="adler2018auditing",
        needs=("predictions", "table", "data"),
        data_types=("table",),
        taxonomy=TAXONOMY,
        claims=("rowwise", "deterministic", "implementation invariant", "spelling invariant"),
        trial={"measure": "score", "groups": 2},
        cost="2 × columns + 1 forwards a data row",
        supports=("without what the table tells of this column, answers change by so much",),
        limits=(
            "whether the network reads the column itself: `direct` tells that",
            "what only several columns together tell of it, where the error rate after repair is below chance",
        ),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        self._check()
        labels = rows_like(ask.data, ask.inputs).labels if not isinstance(ask.data, dict) else None
        if self.measure == "accuracy" and labels is None:
            raise NeedError("The measure 'accuracy' needs labels", got="examples alone", hint="data=(X, y)")
        about = sample(ask)
        if self.measure != "score" and (ask.output is None or ask.output.dim() != 2 or ask.output.shape[1] < 2):
            raise TargetError(
                f"The measure {self.measure!r} must have classes to predict", got="one score", hint="measure='score'"
            )
        table = about.table.detach().cpu().double()
        plain = self._answers(about, table)
        found: dict[str, list[Tensor]] = {name: [] for name in ("values", "error", "direct")}
        rates: list[list[float]] = []
        with ask.progress.bar(table.shape[1], self.card.title) as tell:
            for j in range(table.shape[1]):
                group = grouped(table[:, j], self.groups)
                ties = torch.from_numpy(seed.generator(0, TIES, j).random(len(table)))
                hidden = obscured(table, j, group, self.groups, self.repair, ties)
                alone = table.clone()
                alone[:, j] = hidden[:, j]
                value, error = self._change(about, plain, self._answers(about, hidden), labels)
                direct, _ = self._change(about, plain, self._answers(about, alone), labels)
                for name, figure in (("values", value), ("error", error), ("direct", direct)):
                    found[name].append(figure)
                many = int(group.max()) + 1
                rates.append([told(hidden, j, group), told(table, j, group), (many - 1) / many])
                tell(1)
        rate = torch.tensor(rates, dtype=torch.float64).T
        parts = {"direct": torch.stack(found["direct"], 1)[about.kind]}
        for name, values in zip(("ber", "ber_before", "chance"), rate, strict=True):
            parts[name] = values.expand(len(about.kind), -1).clone()
        left = (rate[2] - rate[0]).clamp(min=0).max().expand(len(about.kind)).clone()
        return _result(ask, about, found, parts, {"left_over": left})

    def _check(self) -> None:
        if self.measure not in MEASURES:
            raise InputError(f"The 'measure' must be one of {MEASURES}", got=repr(self.measure))
        if isinstance(self.groups, bool) or not isinstance(self.groups, int) or self.groups < 2:
            raise InputError("The 'groups' must be an int of at least 2", got=repr(self.groups))
        if isinstance(self.repair, bool) or not isinstance(self.repair, int | float) or not 0 <= self.repair <= 1:
            raise InputError("The 'repair' must be a share from 0 to 1", got=repr(self.repair))

    def _answers(self, about: Sample, table: Tensor) -> Tensor:
        """The scores (rows, kinds), or the predicted classes (rows, kinds), which are the same for all kinds."""
        moved = table.to(about.table)
        if self.measure == "score":
            return about.about(moved).plain()
        asked = replace(about.ask, inputs=Inputs((moved,), single=True))
        classes = predict(asked.subject, asked.inputs, asked.memory).argmax(1).cpu()
        return classes[:, None].expand(-1, about.kinds)

    def _change(self, about: Sample, before: Tensor, after: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """The figure and its standard error, (kinds,)."""
        if self.measure == "score":
            return root_mean_square(about, before - after)
        if self.measure == "accuracy":
            assert labels is not None
            right = labels.cpu()[:, None]
            return mean(about, (before == right).double() - (after == right).double())
        return mean(about, (before != after).double())


@dataclass(frozen=True, kw_only=True)
class OrthogonalProjection(Method):
    """How far does the score move when everything that follows a column in a straight line is taken out of the table?

    For each column j in turn, all columns of ``data`` are projected on the complement of the centred column,
    ``x'_k = x_k - b_kj (x_j - mean x_j)`` with the slope b_kj of column k on column j, so that none correlates with it any
    more; column j itself becomes its mean. ``values[j] = sqrt(mean (S(x) - S(x'))²)``, in score units; for a linear score
    with weights w that is ``|w_j + Σ_k w_k b_kj| × std(x_j)``. ``parts["slope"]`` is the slope of the change S(x) - S(x')
    on column j, with the sign of its whole effect; ``parts["direct"]`` the figure with column j alone set to its mean.
    `error` is the standard error over the data; all rows of one score share their figures.

    Facts: ``score``; ``left_over``, the largest correlation of any column with the one taken out, 0 up to rounding;
    ``standard_error``, the largest.

    Args:
        degree: powers of the column that are taken out as well: 2 takes out parabolas.

    Cost: 2 × columns + 1 forwards a data row.
    Known failure: dependence of other shapes stays; projected rows may never occur.
    Source: Adebayo & Kagal 2016, §3; the figure is that of its regression case. Columns are centred first, without which
    a correlation would remain; powers stand for its basis expansion.

    Example:
        >>> import torch, pellucid as px
        >>> column = torch.linspace(-1, 1, 11)
        >>> table = torch.stack([column, 2 * column], 1)  # the second column follows the first, which is not read
        >>> found = px.explain(lambda x: x[:, 1:], table[:1], "iterative-orthogonal-projection", data=table)
        >>> found.parts["direct"][0, 0].item(), found.parts["slope"][0, 0].round(decimals=4).item()
        (0.0, 2.0)
    """

    degree: int = 1

    card: ClassVar[Card] = Card(
        name="iterative-orthogonal-projection",
        title="Orthogonal projection (FairML)",
        question="How far does the score move when all that follows this column is taken out of the table?",
        form="attribution",
        scope="global",
        citation="adebayo2016iterative",
        needs=("predictions", "table", "data"),
        data_types=("table",),
        taxonomy=TAXONOMY,
        claims=("rowwise", "deterministic", "implementation invariant", "spelling invariant", "score scale"),
        cost="2 × columns + 1 forwards a data row",
        supports=("without what follows this column in a straight line, the score moves by so much",),
        limits=(
            "whether the network reads the column itself: `direct` tells that",
            "dependence that is not a straight line, or a polynomial of the chosen degree",
        ),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        if isinstance(self.degree, bool) or not isinstance(self.degree, int) or not 1 <= self.degree <= 9:
            raise InputError("The 'degree' must be an int from 1 to 9", got=repr(self.degree))
        about = sample(ask)
        table = about.table.detach().cpu().double()
        plain = about.plain()
        found: dict[str, list[Tensor]] = {name: [] for name in ("values", "error", "direct", "slope")}
        left = 0.0
        with ask.progress.bar(table.shape[1], self.card.title) as tell:
            for j in range(table.shape[1]):
                rest = projected(table, j, self.degree, about.weights)
                alone = table.clone()
                alone[:, j] = rest[:, j]
                moved = plain - about.about(rest.to(about.table)).plain()
                value, error = root_mean_square(about, moved)
                direct, _ = root_mean_square(about, plain - about.about(alone.to(about.table)).plain())
                figures = {"values": value, "error": error, "direct": direct}
                for name, figure in {**figures, "slope": slope(table[:, j], moved, about.weights)}.items():
                    found[name].append(figure)
                left = max(left, correlated(rest, table, j, about.weights))
                tell(1)
        parts = {name: torch.stack(found[name], 1)[about.kind] for name in ("direct", "slope")}
        return _result(ask, about, found, parts, {"left_over": torch.full((len(about.kind),), left)})


def grouped(column: Tensor, most: int) -> Tensor:
    """Group numbers from 0: each value of a column with few, else groups of about equal size, equal values together."""
    values, group = column.unique(return_inverse=True)
    if len(values) <= most:
        return group
    many = max(2, min(most, len(column) // FEWEST))
    column = column.contiguous()
    edges = column.sort().values[torch.arange(1, many) * len(column) // many]
    return torch.searchsorted(edges, column, right=True).unique(return_inverse=True)[1]


def obscured(table: Tensor, j: int, group: Tensor, few: int, repair: float, ties: Tensor) -> Tensor:
    """The table in which no other column by itself tells the groups; column j is its median. Equal values go by `ties`."""
    out = table.clone()
    for k in range(table.shape[1]):
        x = table[:, k]
        common = x.median().expand(len(x)) if k == j else repaired(x, group, len(x.unique()) <= few, ties)
        out[:, k] = torch.lerp(x, common, repair)
    return out


def repaired(x: Tensor, group: Tensor, few: bool, ties: Tensor) -> Tensor:
    """Each value moved to the median, over the groups, of the groups' values at its own quantile."""
    members = [(group == g).nonzero()[:, 0] for g in range(int(group.max()) + 1)]
    ordered = [m[np.lexsort((ties[m].numpy(), x[m].numpy()))] for m in members]
    out = torch.empty_like(x)
    for mine in ordered:
        many = len(mine)
        at = torch.stack([x[m][(2 * torch.arange(many) + 1) * len(m) // (2 * many)] for m in ordered]).sort(0).values
        low, high = at[(len(at) - 1) // 2], at[len(at) // 2]
        lower = 2 * torch.arange(many) + 1 < many
        out[mine] = torch.where(lower, low, high) if few else (low + high) / 2
    return out


def told(table: Tensor, j: int, group: Tensor) -> float:
    """The balanced error rate of a tree that tells the groups from all columns but j, each half by the other's tree."""
    from sklearn.tree import DecisionTreeClassifier

    others = np.delete(table.numpy(), j, 1)
    many = int(group.max()) + 1
    if many < 2 or not others.shape[1]:
        return (many - 1) / many
    # Every other row of each group, so that both halves hold all groups.
    half = torch.zeros(len(group), dtype=torch.bool)
    for g in range(many):
        half[(group == g).nonzero()[::2, 0]] = True
    wrong = torch.zeros(len(group), dtype=torch.float64)
    for mine in (half, ~half):
        if not bool(mine.any()) or not bool((~mine).any()):
            return (many - 1) / many
        tree = DecisionTreeClassifier(max_depth=DEPTH, min_samples_leaf=2, class_weight="balanced", random_state=0)
        tree.fit(others[mine.numpy()], group[mine].numpy())
        guess = torch.from_numpy(tree.predict(others[(~mine).numpy()]))
        wrong[~mine] = (guess != group[~mine]).double()
    return float(torch.stack([wrong[group == g].mean() for g in range(many)]).mean())


def projected(table: Tensor, j: int, degree: int, weights: Tensor) -> Tensor:
    """The table without what its columns have in common with powers of column j; means stay."""
    centre = (weights[:, None] * table).sum(0)
    spread = (weights * (table[:, j] - centre[j]) ** 2).sum().sqrt()
    if not spread > 1e-12 * (1 + centre[j].abs()):
        return table.clone()
    scaled = (table[:, j] - centre[j]) / spread
    powers = torch.stack([scaled**p for p in range(1, degree + 1)], 1)
    powers = powers - (weights[:, None] * powers).sum(0)
    root = weights.sqrt()[:, None]
    slopes = torch.linalg.pinv(root * powers, rtol=1e-10) @ (root * (table - centre))
    rest = table - powers @ slopes
    rest[:, j] = centre[j]
    return rest


def correlated(rest: Tensor, table: Tensor, j: int, weights: Tensor) -> float:
    """The largest correlation of a column of `rest` with column j, beside the spread that the column had before."""

    def centred(x: Tensor) -> Tensor:
        return x - (weights[:, None] * x).sum(0)

    before, after = centred(table), centred(rest)
    spread = (weights[:, None] * before**2).sum(0).sqrt()
    found = (weights[:, None] * after * before[:, j : j + 1]).sum(0).abs()
    return (
        float((found / (spread * spread[j]).clamp(min=1e-300))[spread > 0].max()) if bool((spread > 0).any()) else 0.0
    )


def slope(column: Tensor, moved: Tensor, weights: Tensor) -> Tensor:
    """The slope of changes (rows, kinds) on a column, 0 where that does not vary."""
    off = column - (weights * column).sum()
    size = (weights * off**2).sum()
    return (weights * off) @ moved / size if size > 0 else torch.zeros(moved.shape[1], dtype=torch.float64)


def mean(about: Sample, x: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted mean of (rows, kinds) and its standard error."""
    weights = about.weights[:, None]
    centre = (weights * x).sum(0)
    lost = float((weights**2).sum())
    return centre, ((weights * (x - centre) ** 2).sum(0) * lost / (1 - lost)).sqrt()


def root_mean_square(about: Sample, x: Tensor) -> tuple[Tensor, Tensor]:
    """The root of the mean square, and its standard error to first order."""
    square, error = mean(about, x**2)
    root = square.sqrt()
    return root, torch.where(root > 0, error / (2 * root).clamp(min=1e-300), torch.zeros_like(root))


def _result(
    ask: Ask, about: Sample, found: dict[str, list[Tensor]], parts: dict[str, Tensor], facts: dict[str, Tensor]
) -> Attribution:
    values, error = (torch.stack(found[name], 1)[about.kind] for name in ("values", "error"))
    measured = {"score": ask.score.detach().cpu(), **facts, "standard_error": error.amax(1)}
    return Attribution(values=values.to(about.table), error=error.to(about.table), parts=parts, facts=measured)
