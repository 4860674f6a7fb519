"""Which share of the score is each column due, if setting a column also moves those that it acts on?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.attribution.causal_shapley_graph import NOISES, World, chain
from pellucid.attribution.shapley import TREES, wide
from pellucid.attribution.shapley_sampling import check_settings
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, LayerError, MethodError
from pellucid.engine import Ask, Subject, score, seed
from pellucid.engine.coalition import every
from pellucid.engine.data import rows_like

__all__ = ["CausalShapley"]

ORDERS = b"causal orders"
# Fewer draws than this leave the standard error too uncertain for all coalitions to be asked.
LEAST_UNITS = 16
# Numbers held at once: scores, and columns of the rows that are asked about.
BLOCK = 1 << 21


@dataclass(frozen=True, kw_only=True)
class CausalShapley(Method):
    """Which share of the score is each column due, if setting a column also moves the columns that it acts on?

    ``values[i]`` is the Shapley value of the game ``v(S) = E[S(X) | do(X_S = x_S)]``: the columns of S are set to the row's
    values, and the others follow by the causal graph. In score units; positive raises the score; the values sum to S(x)
    minus the mean score of the world as it is. ``parts["direct"]`` (rows, columns) is what column i changes by itself,
    ``E[S(x_i, X) | do(X_S = x_S)] - v(S)``, and ``parts["indirect"]`` what it changes through the columns that follow it,
    ``v(S + i) - E[S(x_i, X) | do(X_S = x_S)]``, each averaged as the value is: value = direct + indirect.

    Laws come from ``data=``: each component of the graph is a linear regression on its parents with what that leaves as
    noise. `error` is the standard error over draws (and orders), with ``direct_error`` and ``indirect_error`` for the
    parts; those of "data" noise, which goes through the rows in turn, are rather too large. All rows share the draws,
    which depend on ``seed`` alone.

    Facts: ``score``, ``baseline_score``, ``completeness_gap``, ``standard_error`` (root mean square), ``walks`` (0 where
    all coalitions were asked), ``degrees_of_freedom`` of the errors, ``forwards`` a row; ``converged`` with a tolerance.

    Args:
        graph: components of columns in causal order: ((0, 1), (2,)) says that 0 and 1 come before 2. Columns whose order is
            not known share a component. (): all columns in one.
        edges: which components act on which later ones, as pairs of their numbers; None: each on all later ones.
        confounded: True: the columns of a component go together because of hidden common causes, so that setting one
            leaves the others alone. False: they act on each other, so that setting one moves the others as seeing it
            would. Or one of them for each component. () with True is the Shapley value over the background ``data``, and
            with False that of conditional expectations.
        noise: "gaussian": columns are jointly normal. "data": what the regressions leave is drawn from the data's rows.
        walks: walks per row through random orders. Where their forwards suffice to ask all coalitions sixteen times,
            that is done instead.
        tolerance: go on doubling until a row's standard error is below this share of the root mean square of its values.
        max_walks: most walks, or as many forwards as theirs.

    Cost: walks × (2 × columns - 1) forwards per row.
    Known failure: a wrong graph gives wrong answers, and data alone can't tell; laws that are not linear, and columns that
    are no quantities (categories), are imitated badly.
    Source: Heskes, Sijben, Bucur & Claassen 2020, eqs. 1 to 4 and theorem 1 (chain components); draws of conditionals by
    correcting draws of all columns (Matheron's rule), so that those of different coalitions share their noise.

    Example:
        >>> import torch, pellucid as px
        >>> first = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
        >>> rows = torch.cat([first, 2 * first], 1)  # the second column is twice the first, which causes it
        >>> method = px.attribution.CausalShapley(graph=((0,), (1,)))
        >>> px.explain(lambda x: x[:, 1:], rows[1:], method, data=rows).values.round(decimals=6).tolist()
        [[1.0, 1.0]]
    """

    graph: tuple[Any, ...] = ()
    edges: tuple[Any, ...] | None = None
    confounded: bool | tuple[bool, ...] = True
    noise: str = "gaussian"
    walks: int = 512
    tolerance: float | None = None
    max_walks: int = 1 << 15

    card: ClassVar[Card] = Card(
        name="causal-shapley",
        title="Causal Shapley values",
        question="Which share of the score is this column due, also through the columns that it acts on?",
        form="attribution",
        scope="local",
        citation="heskes2020causal",
        needs=("predictions", "table", "data"),
        data_types=("table",),
        taxonomy=TREES,
        claims=(
            "rowwise",
            "seeded",
            "complete",
            "linear",
            "implementation invariant",
            "spelling invariant",
            "score scale",
        ),
        trial={"walks": 8},
        cost="walks × (2 × columns - 1) forwards",
        supports=(
            "what setting this column would do to the score, if the graph is right",
            "how much of it goes through other columns",
        ),
        limits=(
            "which graph is right: it is an assumption, and data can't confirm it",
            "laws that are not linear: the columns' answers to each other are straight lines here",
        ),
    )

    @property
    def claims(self) -> tuple[str, ...]:
        return tuple(c for c in self.card.claims if c != "linear" or self.tolerance is None)

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        check_settings(self.tolerance, walks=self.walks, max_walks=self.max_walks)
        world = self._world(ask)
        x = ask.inputs.tensors[0]
        count, columns = x.shape
        plan = _plan(world, self.walks)
        total = torch.zeros(count, 3, columns, dtype=torch.float64)
        square, units = torch.zeros_like(total), torch.zeros(count, dtype=torch.long)
        start = torch.zeros(count, dtype=torch.float64)
        full = _scores(ask, _Points(x.detach().cpu().double()[:, None], None, torch.zeros(1).long(), None), None)[
            :, 0, 0
        ]
        todo, done, more = torch.arange(count), 0, plan.units
        while len(todo):
            for gains, nobody in plan.rounds(ask, todo, full[todo], done, more):
                both = torch.cat([gains, gains.sum(2, keepdim=True)], 2)  # direct, indirect and their sum
                total[todo] += both.sum(1)
                square[todo] += (both**2).sum(1)
                start[todo] += nobody.sum(1)
            done, more = done + more, done + more
            units[todo] = done
            if self.tolerance is None or (done + more) * plan.walks_of_unit > self.max_walks:
                break
            mean, error = _moments(total, square, units)
            todo = todo[wide(mean[:, 2], error[:, 2], self.tolerance)[todo]]
        mean, error = _moments(total, square, units)
        return self._result(ask, plan, (mean, error, units), (start / units, full))

    def _world(self, ask: Ask) -> World:
        if self.noise not in NOISES:
            raise MethodError(f"The 'noise' must be one of {NOISES}", got=repr(self.noise))
        if ask.layer is not None:
            raise LayerError(
                "The 'layer' must be left out: the graph is about columns", got=str(ask.layer), hint="None"
            )
        links = chain(self.graph, self.edges, self.confounded, ask.inputs.tensors[0].shape[1])
        table = rows_like(ask.data, ask.inputs).inputs.tensors[0].detach().cpu().double()
        if len(table) < 2:
            raise InputError("The 'data' must hold at least 2 rows", got=str(len(table)))
        return World(links, table, self.noise)

    def _result(
        self, ask: Ask, plan: _Plan, found: tuple[Tensor, Tensor, Tensor], ends: tuple[Tensor, Tensor]
    ) -> Attribution:
        (mean, error, units), (nobody, full) = found, ends
        x, phi = ask.inputs.tensors[0], mean[:, 2]
        parts = {
            "direct": mean[:, 0],
            "indirect": mean[:, 1],
            "direct_error": error[:, 0],
            "indirect_error": error[:, 1],
        }
        facts = {
            "score": full,
            "baseline_score": nobody,
            "completeness_gap": (phi.sum(1) - (full - nobody)).abs(),
            "standard_error": (error[:, 2] ** 2).mean(1).sqrt(),
            "walks": (units * plan.walks_of_unit * (not plan.all)).double(),
            "degrees_of_freedom": (units - 1).double(),
            "forwards": (units * plan.cost + 1).double(),
        }
        if self.tolerance is not None:
            facts["converged"] = (~wide(mean[:, 2], error[:, 2], self.tolerance)).double()
        return Attribution(values=phi.to(x), error=error[:, 2].to(x), parts=parts, facts=facts)


def _moments(total: Tensor, square: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard error of units, given their sums and sums of squares."""
    count = units[:, None, None]
    left = square - total**2 / count
    # What two equal sums leave by rounding is no spread.
    spread = torch.where(left > 1e-13 * square, left, 0.0) / (count - 1)
    return total / count, (spread / count).sqrt()


@dataclass(frozen=True, eq=False)
class _Points:
    """Rows asked about: `base` (rows, sets, columns) plus `push` (sets, draws, columns), of each job's set.

    `moved` is the column that a job sets to the row's own value besides, or -1.
    """

    base: Tensor
    push: Tensor | None
    sets: Tensor
    moved: Tensor | None

    @property
    def draws(self) -> int:
        return 1 if self.push is None else self.push.shape[1]


def _scores(ask: Ask, asked: _Points, rows: Tensor | None) -> Tensor:
    """The scores (rows, jobs, draws) of these points."""
    x = ask.inputs.tensors[0]
    chosen = torch.arange(x.shape[0]) if rows is None else rows
    number = torch.zeros(x.shape[0], dtype=torch.long)
    number[chosen] = torch.arange(len(chosen))
    own, draws = x.detach().cpu().double(), asked.draws
    found = torch.empty(len(chosen), len(asked.sets), draws, dtype=torch.float64)

    def points(row: Tensor, step: Tensor) -> tuple[Tensor, ...]:
        job, row = step // draws, row.cpu()
        here = asked.sets[job]
        values = asked.base[number[row], here]
        if asked.push is not None:
            values = values + asked.push[here, step % draws]
        if asked.moved is not None:
            which = asked.moved[job]
            set_too = (which >= 0).nonzero()[:, 0]
            values[set_too, which[set_too]] = own[row[set_too], which[set_too]]
        return (values.to(x),)

    def fold(row: Tensor, step: Tensor, scores: Tensor) -> None:
        found[number[row], step // draws, step % draws] = scores.detach().cpu().double()

    score.sweep(ask, len(asked.sets) * draws, points, fold, label="Causal Shapley values", rows=chosen.tolist())
    return found


@dataclass(frozen=True, eq=False)
class _Plan:
    """Which coalitions are asked: all of them (`all`), or those on walks through random orders, in `units` of noise.

    `cost` is a unit's forwards for one row, `walks_of_unit` how many walks cost as much.
    """

    world: World
    all: bool
    units: int
    cost: int
    walks_of_unit: float

    def rounds(self, ask: Ask, rows: Tensor, full: Tensor, first: int, more: int) -> Any:
        """For parts of the units: what each gives (rows, units, 2, columns), direct and indirect, and v(nobody)."""
        columns = self.world.table.shape[1]
        star = self.world.drawn(ask.seed, first, more)
        drawn = seed.generator(ask.seed, ORDERS, first).random((more, columns))
        places = torch.from_numpy(drawn).argsort(1)
        sets = self.cost * columns
        size = max(1, BLOCK // (max(len(rows), columns) * sets))
        for part in torch.arange(more).split(size):
            gains = _all_coalitions if self.all else _walks
            yield gains(self.world, ask, rows, full, star[part], places[part])


def _plan(world: World, walks: int) -> _Plan:
    columns, mirrors = world.table.shape[1], world.mirrors
    of_walk = 2 * columns - 1
    # All sets but the whole, and each with one more column set alone, unless that makes the whole.
    jobs = (1 << columns) - 1 + columns * ((1 << (columns - 1)) - 1)
    units = walks * of_walk // (jobs * mirrors)
    if units < LEAST_UNITS and columns > 2:
        return _Plan(world, False, max(2, -(-walks // (2 * mirrors))), 2 * mirrors * of_walk, 2 * mirrors)
    rows = len(world.table)
    if world.noise == "data" and units >= rows:
        units -= units % rows  # whole rounds through the data have its means exactly
    return _Plan(world, True, max(2, units), jobs * mirrors, jobs * mirrors / of_walk)


def _all_coalitions(
    world: World, ask: Ask, rows: Tensor, full: Tensor, star: Tensor, places: Tensor
) -> tuple[Tensor, Tensor]:
    columns, (units, mirrors) = world.table.shape[1], star.shape[:2]
    present = every(columns)[:-1]
    last, bits = len(present), 1 << torch.arange(columns)
    alone = [(s, i) for i in range(columns) for s in range(last) if not present[s, i] and s | (1 << i) != last]
    sets = torch.tensor([*range(last), *(s for s, _ in alone)])
    moved = torch.tensor([*[-1] * last, *(i for _, i in alone)])
    pull, push = world.settled(present, star.flatten(0, 1)[None])
    x = ask.inputs.tensors[0][rows.to(ask.inputs.device)].detach().cpu().double()
    asked = _Points(torch.einsum("sij,rj->rsi", pull, x), push, sets, moved)
    found = _scores(ask, asked, rows).reshape(len(rows), len(sets), units, mirrors).mean(3)
    # Behind the worths of all sets but the whole: the whole's, and those with one column set alone.
    worth = torch.cat([found[:, :last], full[:, None, None].expand(-1, 1, units), found[:, last:]], 1)
    job = torch.full((last, columns), last)
    for number, (s, i) in enumerate(alone):
        job[s, i] = last + 1 + number
    size = present.sum(1)
    weight = torch.tensor([1.0 / (columns * math.comb(columns - 1, s)) for s in range(columns)], dtype=torch.float64)
    gains = []
    for i in range(columns):
        without = (~present[:, i]).nonzero()[:, 0]
        before, set_alone, after = worth[:, without], worth[:, job[without, i]], worth[:, without + bits[i]]
        share = weight[size[without]][:, None]
        gains.append(torch.stack([(share * (set_alone - before)).sum(1), (share * (after - set_alone)).sum(1)], 2))
    return torch.stack(gains, 3), worth[:, 0]


def _walks(world: World, ask: Ask, rows: Tensor, full: Tensor, star: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    columns, (units, mirrors) = world.table.shape[1], star.shape[:2]
    place = torch.stack([places, columns - 1 - places], 1)  # each order and its reverse
    present = place[:, :, None] < torch.arange(columns)[:, None]
    arriving = place.argsort(2)
    flat = present.flatten(0, 2)
    pull, push = world.settled(flat, star.repeat_interleave(2 * columns, 0))
    x = ask.inputs.tensors[0][rows.to(ask.inputs.device)].detach().cpu().double()
    number = torch.arange(len(flat)).reshape(units, 2, columns)
    # The last column of a walk makes the row itself, whose score is known.
    sets = torch.cat([number.flatten(), number[..., :-1].flatten()])
    moved = torch.cat([torch.full((len(flat),), -1), arriving[..., :-1].flatten()])
    found = _scores(ask, _Points(torch.einsum("sij,rj->rsi", pull, x), push, sets, moved), rows)
    before = found[:, : len(flat)].reshape(len(rows), units, 2, columns, mirrors).mean(4)
    alone = found[:, len(flat) :].reshape(len(rows), units, 2, columns - 1, mirrors).mean(4)
    end = full[:, None, None, None].expand(-1, units, 2, 1)
    after, alone = torch.cat([before[..., 1:], end], 3), torch.cat([alone, end], 3)
    steps = torch.stack([alone - before, after - alone], 3)  # rows, units, 2 ways, direct and indirect, place
    own = place[None, :, :, None].expand(len(rows), -1, -1, 2, -1)
    return steps.gather(4, own).mean(2), before[..., 0].mean(2)
