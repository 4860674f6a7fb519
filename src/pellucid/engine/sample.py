"""A table as a sample of the inputs: grids along its columns, and the model's scores at changed copies of its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pellucid.contract.errors import InputError, LayerError, NumericalError
from pellucid.engine import score
from pellucid.engine.ask import Ask
from pellucid.engine.data import rows_like
from pellucid.engine.inputs import Inputs
from pellucid.engine.target import Target

Points = Callable[[Tensor, Tensor], Tensor]
BLOCK = 1 << 24  # bytes of scores that are held at once


class _Several(Target):
    """The scores of several classes at once, so that one pass of the model serves every row that is explained."""

    def score(self, output: Tensor, rows: Tensor | None = None) -> Tensor:
        if self.index is None:
            return super().score(output)[:, None].double()
        return output.flatten(1)[:, self.index.to(output.device)].double()


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows of a table with the question asked about them.

    `table` is (rows, columns), `weights` (rows,) sum to one. What is explained differs between the rows of the call
    where their classes do: `kinds` distinct scores are taken at once, and `kind` (N,) says which is whose.
    """

    ask: Ask
    table: Tensor
    weights: Tensor
    kind: Tensor
    kinds: int

    @property
    def rows(self) -> int:
        """How many rows the sample has."""
        return self.table.shape[0]

    def about(self, table: Tensor) -> Sample:
        """The same question about other rows, of equal weight."""
        table = table.to(self.table)
        asked = replace(self.ask, inputs=Inputs((table,), single=True))
        share = torch.full((len(table),), 1 / len(table), dtype=torch.float64)
        return replace(self, ask=asked, table=table, weights=share)

    def blocks(self, count: int, points: Points, label: str = "") -> Iterator[tuple[Tensor, Tensor]]:
        """`count` scores per row at `points(rows, steps)`: some rows after the other, with scores (rows, count, kinds)."""
        size = max(1, min(BLOCK, self.ask.memory // 8) // (8 * count * self.kinds))
        for start in range(0, self.rows, size):
            rows = torch.arange(start, min(self.rows, start + size))
            yield rows, self._scores(rows, count, points, label)

    def scores(self, count: int, points: Points, label: str = "") -> Tensor:
        """All of these scores at once, (rows, count, kinds) in double precision on the CPU."""
        return torch.cat([found for _, found in self.blocks(count, points, label)])

    def plain(self) -> Tensor:
        """The scores of the rows as they are, (rows, kinds)."""
        return self.scores(1, lambda rows, steps: self.table[rows.to(self.table.device)])[:, 0]

    def _scores(self, rows: Tensor, count: int, points: Points, label: str) -> Tensor:
        found = torch.empty(len(rows), count, self.kinds, dtype=torch.float64)
        first = int(rows[0])

        def fold(here: Tensor, steps: Tensor, scores: Tensor) -> None:
            found[here - first, steps] = scores.detach().cpu()

        score.sweep(self.ask, count, lambda r, s: (points(r, s),), fold, label=label, rows=rows.tolist())
        if not bool(torch.isfinite(found).all()):
            raise NumericalError(
                "The model's scores must be finite where columns of the 'data' are changed",
                got="NaN or infinity",
                hint="data whose columns may be combined, or a method that stays near the data",
            )
        return found


def sample(ask: Ask, *, least: int = 2) -> Sample:
    """The rows in `data`, which may come with weights as {"rows": X, "weights": w}, refused before the model runs."""
    if ask.layer is not None:
        raise LayerError(
            "The 'layer' must be left out: effects are those of the input's columns", got=str(ask.layer), hint="None"
        )
    given, weights = ask.data, None
    if isinstance(given, Mapping) and set(given) == {"rows", "weights"}:
        given, weights = given["rows"], given["weights"]
    table = rows_like(given, ask.inputs).inputs.tensors[0]
    if table.shape[0] < least:
        raise InputError(f"The 'data' must hold at least {least} rows", got=f"{table.shape[0]}")
    share = _weights(weights, table.shape[0])
    target, rows = ask.target, ask.inputs.rows
    classes, kind = None, torch.zeros(rows, dtype=torch.long)
    if target.index is not None:
        classes, kind = target.index.cpu().unique(return_inverse=True)
    several = _Several(classes, target.function, target.place, target.name)
    asked = replace(ask, inputs=Inputs((table,), single=True), output=None, _target=several)
    return Sample(asked, table, share, kind, 1 if classes is None else len(classes))


def _weights(given: object, rows: int) -> Tensor:
    if given is None:
        return torch.full((rows,), 1 / rows, dtype=torch.float64)
    weights = torch.as_tensor(given, dtype=torch.float64).detach().cpu()
    good = weights.shape == (rows,) and bool(torch.isfinite(weights).all()) and bool((weights >= 0).all())
    if not good or int((weights > 0).sum()) < 2:
        raise InputError(
            f"The 'weights' of the data must be {rows} numbers of at least 0, two of them above",
            got=f"shape {tuple(weights.shape)}",
        )
    return weights / weights.sum()


@dataclass(frozen=True, eq=False)
class Grid:
    """Values along each column, (columns, points), in order; a column with fewer repeats its last. `count` (columns,)."""

    values: Tensor
    count: Tensor

    @property
    def points(self) -> int:
        """How many values a column has at most."""
        return self.values.shape[1]

    def hats(self, column: int, x: Tensor) -> Tensor:
        """Weights (rows, points) by which values on the grid are interpolated linearly at x, the ends held beyond it."""
        here = self.values[column, : int(self.count[column])]
        out = torch.zeros(len(x), self.points, dtype=torch.float64)
        x = x.detach().cpu().double().clamp(float(here[0]), float(here[-1]))
        right = torch.searchsorted(here, x).clamp(0, len(here) - 1)
        left = (right - 1).clamp(min=0)
        width = here[right] - here[left]
        share = torch.where(width > 0, (x - here[left]) / width.clamp(min=1e-300), torch.ones_like(x))
        rows = torch.arange(len(x))
        out[rows, left] = 1 - share
        out[rows, right] += share
        return out

    def read(self, curves: Tensor, table: Tensor) -> Tensor:
        """Curves (kinds, columns, points) read at the rows of a table, (rows, kinds, columns)."""
        read = [self.hats(j, table[:, j]) @ curves[:, j].T for j in range(table.shape[1])]
        return torch.stack(read, -1)

    def outside(self, table: Tensor) -> Tensor:
        """How many of a row's values lie beyond the grid, (rows,)."""
        x = table.detach().cpu().double()
        return ((x < self.values[:, 0]) | (x > self.values[:, -1])).sum(1)


def grid(table: Tensor, points: int, spacing: str = "quantile") -> Grid:
    """All values of a column that has no more than `points`; else that many, by rank in the data or equally far apart.

    Those by rank are values of the data themselves, so that no interval between two of them is empty.
    """
    found: list[Tensor] = []
    for column in table.detach().cpu().double().T:
        distinct = column.unique()
        if len(distinct) > points:
            if spacing == "uniform":
                distinct = torch.linspace(float(distinct[0]), float(distinct[-1]), points, dtype=torch.float64)
            else:
                rank = torch.linspace(0, len(column) - 1, points, dtype=torch.float64).round().long()
                distinct = column.sort().values[rank].unique()
        found.append(distinct)
    most = max(map(len, found))
    filled = [torch.cat([v, v[-1:].expand(most - len(v))]) for v in found]
    return Grid(torch.stack(filled), torch.tensor([len(v) for v in found]))


def put(table: Tensor, rows: Tensor, columns: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    """Copies of these rows in which one column (or several, one after the other) holds these values, one per row."""
    rows = rows.to(table.device)
    out, each = table[rows], torch.arange(len(rows), device=table.device)
    for column, value in zip(columns, values, strict=True):
        out[each, column.to(table.device)] = value.to(out)
    return out
