"""By which different strategies does the network reach this class? Many explanations at once, grouped by likeness."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.attribution.spectral import Groups, groups
from pellucid.contract import Attribution, Card, Method, as_method, tensors
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import Ask, Subject, batch, needs
from pellucid.engine.data import Rows, rows_like
from pellucid.engine.feature import Features, features
from pellucid.engine.inputs import Inputs

__all__ = ["SpRAy"]

LEAST = 4  # rows in which groups are looked for
BLOCK = 256  # rows explained at once, of which the cells alone are kept
GRAIN = 2.0**-30  # maps are rounded to this, so that the last bits of a sum don't choose a neighbour
LAYOUTS = ("tsne", "spectral")


@dataclass(frozen=True, kw_only=True)
class SpRAy(Method):
    """By which different strategies does the network reach this class, and does a small group of rows have its own?

    Each row of ``data`` is explained by ``of`` for the class in question (rows of that class alone, where ``data`` has
    labels). An explanation is summed up in cells, and scaled so that their sizes add up to 1: what counts is where, not how
    much. Rows whose explanations are alike, ``neighbours`` nearest, are joined in a graph; the eigenvalues of its Laplacian
    ``1 - D^(-1/2) A D^(-1/2)`` count its groups: the widest gap comes after as many eigenvalues as there are groups, and
    k-means on their eigenvectors finds these. A row of ``inputs`` belongs to the group of the explanation nearest to its
    own.

    ``values``: the mean scaled explanation of the row's group, each cell's share spread evenly over the cell, in shares of
    the explanation, with its signs: positive raised the class's score. ``parts``, for each row those of its class: ``map``
    (rows, groups, cells) mean explanations; ``share``, ``conductance``, ``candidate`` (rows, groups); ``group``
    (rows, data) and ``place`` (rows, data, 2): the group of each data row, -1 for those of another class, and a layout in
    the plane; ``eigenvalue`` (rows, least ones). Groups come largest first; entries of groups that there are not are 0.

    A group that is not the largest and whose ``conductance``, the share of its edges that leads to other groups, is at most
    ``apart`` is a ``candidate``: a strategy of its own for few rows, such as a watermark that gives the class away. Whether
    it is a wrong one, a person has to see. Facts: ``score``; the row's ``group``, its ``share``, ``conductance`` and
    ``candidate``; ``distance``, of its explanation from the nearest in the data (0 for the data's own rows, at most 2);
    ``groups``; ``eigengap``; ``candidates``.

    Args:
        of: the explanation that is grouped: a method or its name.
        side: images are summed up in at most side × side cells; sequences by step, others not at all.
        neighbours: how many nearest rows a row is joined to; there are at most rows / (neighbours + 1) groups, unless
            ``clusters`` says otherwise.
        clusters: how many groups, or None for as many as the widest gap says.
        most: the most groups that are looked for.
        apart: the largest conductance of a candidate.
        layout: "tsne" of the explanations, or "spectral" (the two eigenvectors after the first).

    Cost: an explanation of every data row for each class asked about; time rows³, memory rows² for the graph.
    Known failures: groups can differ in where the object stands, not in what is seen; a method whose maps are noise has
    groups of noise; the gap is narrow, and the number of groups a guess, where strategies merge into each other.
    Source: Lapuschkin, Wäldchen, Binder, Montavon, Samek & Müller 2019, Methods (spectral relevance analysis); number of
    neighbours, scaling and the bound on a candidate's conductance are our own.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(4, 2)).eval()
        >>> rows = torch.cat([torch.eye(4)[[0]] + torch.rand(9, 4) / 9, torch.eye(4)[[1]] + torch.rand(5, 4) / 9])
        >>> method = px.attribution.SpRAy(of="gradient-x-input", neighbours=3, clusters=2)
        >>> px.explain(net, rows, method, target=0, data=rows).facts["group"].int().tolist()
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    """

    of: str | Method = "lrp-composites"
    side: int = 16
    neighbours: int = 8
    clusters: int | None = None
    most: int = 10
    apart: float = 0.05
    layout: str = "tsne"

    card: ClassVar[Card] = Card(
        name="spray",
        title="Spectral relevance analysis (SpRAy)",
        question="By which different strategies does the network reach this class, and has a small group of rows its own?",
        form="attribution",
        scope="global",
        citation="lapuschkin2019unmasking",
        needs=("gradient", "data"),
        taxonomy={
            "000": "behavioural/functional/gradients",
            "001": "visualization/back-propagation",
            "002": "post-hoc/saliency/decomposition",
            "003": "passive/attribution/global",
        },
        claims=("rowwise", "deterministic"),
        trial={"of": "gradient-x-input", "layout": "spectral", "neighbours": 4},
        cost="an explanation of every data row for each class asked about",
        supports=(
            "the rows fall into groups whose explanations look alike, of these sizes",
            "which rows to look at for a strategy that only a few of them share",
        ),
        limits=(
            "whether a strategy is a wrong one: a person has to look at its rows",
            "strategies that look the same in the explanations, or that the data have no rows of",
        ),
    )

    @property
    def claims(self) -> tuple[str, ...]:
        held = as_method(self.of).claims
        return tuple(c for c in self.card.claims if c in held)

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        held = self._check()
        data = rows_like(ask.data, ask.inputs)
        given = ask.data if "data" in held.card.needs else None
        needs.check(held.card, subject, ask.inputs, given, ask.layer)
        if data.inputs.rows < LEAST:
            raise InputError(f"The 'data' must hold at least {LEAST} rows", got=str(data.inputs.rows))
        target = ask.target
        classes, kind = None, torch.zeros(ask.inputs.rows, dtype=torch.long)
        if target.index is not None:
            classes, kind = target.index.cpu().unique(return_inverse=True)
        chosen = [_of_class(data, None if classes is None else int(c)) for c in ([0] if classes is None else classes)]
        ask = replace(ask, data=given)
        inner = held.prepare(ask.subject, ask)
        own, like = self._cells(ask, held, inner, ask.inputs, ask.wanted if classes is None else target.index)
        found: list[_Strategies] = []
        with ask.progress.bar(sum(map(len, chosen)), self.card.title) as tell:
            for number, items in enumerate(chosen):
                wanted = ask.wanted if classes is None else torch.full((len(items),), int(classes[number]))
                maps, _ = self._cells(ask, held, inner, data.inputs.take(items), wanted, tell)
                found.append(self._group(maps, items))
        return _result(self, ask, own, kind, found, like, data.inputs.rows)

    def _check(self) -> Method:
        for name, least in (("side", 1), ("neighbours", 1), ("most", 1), ("clusters", 1)):
            value = getattr(self, name)
            if name == "clusters" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"The '{name}' must be an int of at least {least}", got=repr(value))
        if isinstance(self.apart, bool) or not isinstance(self.apart, int | float) or not 0 <= self.apart <= 1:
            raise InputError("The 'apart' must be a share from 0 to 1", got=repr(self.apart))
        if self.layout not in LAYOUTS:
            raise InputError(f"The 'layout' must be one of {LAYOUTS}", got=repr(self.layout))
        held = as_method(self.of)
        if held.card.form != "attribution" or held.card.scope == "global":
            raise MethodError(
                "The 'of' must be a method that gives each row an attribution of its own",
                got=f"{held.card.name}, {held.card.scope} {held.card.form}",
                hint="of='lrp-composites'",
            )
        return held

    def _cells(
        self, ask: Ask, held: Method, inner: Any, rows: Inputs, wanted: Any, tell: Any = None
    ) -> tuple[Tensor, _Cells]:
        """The explanations of rows, summed up in cells and scaled, (rows, cells), and how values fall into these."""
        kept, cells = [], None
        for start in range(0, rows.rows, BLOCK):
            number = torch.arange(start, min(rows.rows, start + BLOCK))
            some = wanted[number.to(wanted.device)] if isinstance(wanted, Tensor) else wanted
            asked = replace(
                ask, inputs=rows.take(number), wanted=some, output=None, _target=None, progress=batch.Progress()
            )
            result = held.explain(ask.subject, asked, inner)
            values = tuple(tensors(result.values))
            cells = cells or _Cells.of(values, self.side)
            kept.append(cells.total(values))
            if tell is not None:
                tell(len(number))
        found = torch.cat(kept)
        size = found.abs().sum(1, keepdim=True)
        scaled = found / torch.where(size > 0, size, torch.ones_like(size))
        assert cells is not None
        return (scaled / GRAIN).round() * GRAIN, replace(cells, form=result.values)

    def _group(self, maps: Tensor, items: Tensor) -> _Strategies:
        if self.clusters is not None and self.clusters >= len(items):
            raise InputError(
                f"The 'clusters' must be fewer than the rows to be grouped, {len(items)}", got=str(self.clusters)
            )
        made = groups(maps, neighbours=self.neighbours, most=self.most, count=self.clusters, layout=self.layout)
        mean = torch.stack([maps[made.group == g].mean(0) for g in range(len(made.size))])
        return _Strategies(items, maps, made, mean)


@dataclass(frozen=True, eq=False)
class _Cells:
    """Which cell each value belongs to, one for each tensor of values, and the structure in which they came."""

    parts: tuple[Features, ...]
    shapes: tuple[tuple[int, ...], ...]
    form: Any = None

    @classmethod
    def of(cls, values: tuple[Tensor, ...], side: int) -> _Cells:
        parts = []
        for v in values:
            kind: Any = "token" if v.dim() == 3 else "element"
            if v.dim() == 4:
                kind = ("grid", min(side, *v.shape[2:]))
            parts.append(features(kind, Inputs((v[:1],), single=True)))
        return cls(tuple(parts), tuple(tuple(v.shape[1:]) for v in values))

    def total(self, values: tuple[Tensor, ...]) -> Tensor:
        """The sums over cells, (rows, cells)."""
        return torch.cat([part.gather((v,)) for part, v in zip(self.parts, values, strict=True)], 1)

    def spread(self, sums: Tensor) -> Any:
        """Each cell's sum evenly over its values, in the structure in which explanations come."""
        found, at = [], 0
        like = tensors(self.form)
        for part, shape, v in zip(self.parts, self.shapes, like, strict=True):
            rows = Inputs((torch.ones(len(sums), *shape, dtype=torch.float64),), single=True)
            count = part.gather((rows.tensors[0][:1],))
            found.append(part.spread(sums[:, at : at + part.count] / count, rows)[0].to(v))
            at += part.count
        if isinstance(self.form, Tensor):
            return found[0]
        kept = iter(found)
        if isinstance(self.form, dict):
            return {k: next(kept) for k in self.form}
        return tuple(next(kept) if isinstance(v, Tensor) else None for v in self.form)

    def pictured(self, maps: Tensor) -> Tensor:
        """Maps (..., cells) as squares of cells where there is one image."""
        one = len(self.shapes) == 1 and len(self.shapes[0]) == 3
        side = round(self.parts[0].count ** 0.5)
        return maps.reshape(*maps.shape[:-1], side, side) if one else maps


@dataclass(frozen=True, eq=False)
class _Strategies:
    """Data rows `items` with their `maps`, in groups with their `mean` (groups, cells)."""

    items: Tensor
    maps: Tensor
    made: Groups
    mean: Tensor


def _of_class(data: Rows, label: int | None) -> Tensor:
    """The rows with this label, or all where there are no labels or no classes."""
    if data.labels is None or label is None:
        return torch.arange(data.inputs.rows)
    items = (data.labels.cpu() == label).nonzero()[:, 0]
    if len(items) < LEAST:
        raise InputError(
            f"The 'data' must hold at least {LEAST} rows of the class explained, {label}",
            got=str(len(items)),
            hint="data=X without labels, to explain that class for all rows",
        )
    return items


def _result(
    method: SpRAy, ask: Ask, own: Tensor, kind: Tensor, found: list[_Strategies], cells: _Cells, rows: int
) -> Attribution:
    """What the groups of each class say of each row; `rows` is how many the data have."""
    group = torch.zeros(len(own), dtype=torch.long)
    distance = torch.zeros(len(own), dtype=torch.float64)
    for number, one in enumerate(found):
        mine = (kind == number).nonzero()[:, 0]
        if len(mine):
            away = torch.cdist(own[mine], one.maps, p=1.0)
            distance[mine], nearest = away.min(1)
            group[mine] = one.made.group[nearest]
    many = method.clusters or min(method.most, rows)
    share = _pad([one.made.size.double() / len(one.items) for one in found], many)
    leaving = _pad([one.made.conductance for one in found], many)
    candidate = (share > 0) & (leaving <= method.apart) & (torch.arange(many) > 0)
    mean, row = _pad([one.mean for one in found], many), torch.arange(len(own))
    parts = {
        "map": cells.pictured(mean)[kind],
        "share": share[kind],
        "conductance": leaving[kind],
        "candidate": candidate.double()[kind],
        "group": torch.stack([_at(one.items, one.made.group, rows, -1) for one in found])[kind],
        "place": torch.stack([_at(one.items, one.made.place, rows, 0) for one in found])[kind],
        "eigenvalue": torch.stack([_least(one.made.eigenvalues, min(method.most + 1, rows)) for one in found])[kind],
    }
    facts = {
        "score": ask.score.detach().cpu(),
        "group": group.double(),
        **{name: parts[name][row, group] for name in ("share", "conductance", "candidate")},
        "distance": distance,
        "groups": torch.tensor([float(len(one.made.size)) for one in found])[kind],
        "eigengap": torch.tensor([one.made.gap for one in found], dtype=torch.float64)[kind],
        "candidates": candidate.sum(1).double()[kind],
    }
    return Attribution(values=cells.spread(mean[kind, group]), parts=parts, facts=facts)


def _pad(rows: list[Tensor], length: int) -> Tensor:
    """Tensors of different lengths one above the other, filled up with zeros at their ends."""
    return torch.stack([torch.cat([r, r.new_zeros(length - len(r), *r.shape[1:])]) for r in rows])


def _at(items: Tensor, values: Tensor, rows: int, fill: int) -> Tensor:
    """Values of some data rows in a tensor of all of them."""
    found = values.new_full((rows, *values.shape[1:]), fill)
    found[items] = values
    return found


def _least(values: Tensor, count: int) -> Tensor:
    """Eigenvalues, where there are too few followed by the last."""
    return torch.cat([values, values[-1:].expand(count)])[:count]
