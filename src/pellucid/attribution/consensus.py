"""What do networks that were trained apart agree on? Votes on each row, and the slopes that they have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, LayerError, NeedError, NumericalError, TargetError
from pellucid.engine import Ask, Subject, as_subject, gradient, predict
from pellucid.engine.data import Rows, rows_like
from pellucid.engine.evaluation import replace_model

__all__ = ["DeepConsensus"]

UNITS = ("column", "deviation")
GRAIN = 1e-6  # of a usual gradient's length: closer ones are the same


@dataclass(frozen=True, kw_only=True)
class DeepConsensus(Method):
    """Which columns do networks that were trained apart agree on, and on which rows do they agree at all?

    n networks, the model and those given, vote on the class of each row. A row is accepted where at least k vote for one
    class and no other has as many votes; adversarial rows and rows unlike the data, on which networks that were trained
    apart go different ways, tend to be rejected. For each network, the gradients of the explained score at the accepted
    rows of the data, each network's divided by their root mean square length, are grouped by k-means: the straight lines
    that it consists of. A group of the model has as partner in another network the one whose mean correlates most with
    its own; where k networks, the model among them, have one with a correlation of at least ``correlation``, it is agreed.

    ``values`` (rows, columns) are the shares, which sum to one, of the columns in the agreed groups:
    ``Σ size × |mean over the agreeing networks' group means|``, or all 0 where no group is agreed. Rows of one score share
    them. `error` is the standard error over the networks that agree, of such shares from each network alone (none for the
    model alone). ``parts``: ``networks`` (rows, n, columns), these shares; ``mean`` (rows, groups, columns), the agreed
    groups' means, with sign, largest group first; ``size`` (rows, groups), the shares of the accepted data in the model's
    groups; ``partner`` (rows, groups, n), the correlations. What doesn't exist is 0.

    Facts: for each row ``accepted`` (1 or 0), ``votes``, the share of the networks that vote for the class with most
    votes, and ``consensus``, that class, or -1 where the row is rejected; ``score``; ``agreed``, the share of the accepted
    data in groups that are agreed; ``rejected``, the share of the data that is rejected; ``networks``, n. With labels,
    ``accuracy`` of the model on the data, and ``accuracy_accepted`` of the consensus on what it accepts.

    Data: ``data={"rows": X, "networks": [...]}``, X as usual, with labels or without; networks are modules called as the
    model is, or each a `Subject`. Networks of the same weights agree about everything: train them from different seeds.
    With rows alone, the model is by itself, and nothing is checked against others.

    Args:
        agree: k, more than half of n; None: all of them.
        clusters: groups of each network, or as many as it has different gradients.
        correlation: how alike group means must be, from 0 to 1.
        per: the unit of a column: "column", as it comes, or "deviation", its standard deviation in the data.

    Cost: a forward a row and network, and a forward and a backward an accepted data row, network and class asked about.
    Known failure: networks that learnt the same flaw agree on it. Adam makes as much of columns that hardly vary as of any,
    the same way in every network, which then agree on nearly all noise along these columns.
    Source: Salman, Payrovnaziri, Liu, Rengifo-Moreno & He 2020 (arXiv 1905.05849). The networks are trained by the caller.
    The correlation is about zero, not about the mean over columns, since a slope that all columns have in common counts;
    scaling, the matching to the model's own groups and the error are ours. The starts of k-means are always the same ten.

    Example:
        >>> import torch, pellucid as px
        >>> nets = [torch.nn.Linear(3, 2).eval() for _ in range(3)]
        >>> for scale, net in enumerate(nets, 1):
        ...     _ = net.weight.data.copy_(scale * torch.tensor([[0.0, 0, 0], [3, 1, 0]]))
        >>> rows = torch.randn(20, 3)
        >>> px.explain(nets[0], rows, "deepconsensus", target=1, data={"rows": rows, "networks": nets[1:]}).values[0]
        tensor([0.7500, 0.2500, 0.0000])
    """

    agree: int | None = None
    clusters: int = 3
    correlation: float = 0.8
    per: str = "column"

    card: ClassVar[Card] = Card(
        name="deepconsensus",
        title="Consensus of networks (DeepConsensus)",
        question="Which columns do networks that were trained apart agree on, and on which rows do they agree at all?",
        form="attribution",
        scope="global",
        citation="salman2020deepconsensus",
        needs=("gradient", "table", "data"),
        data_types=("table",),
        taxonomy={
            "000": "behavioural/functional/gradients",
            "001": "visualization/back-propagation",
            "002": "post-hoc/saliency/gradients",
            "003": "passive/attribution/global",
        },
        claims=("rowwise", "deterministic"),
        trial={"clusters": 2},
        cost="a forward a row and network; a forward and a backward an accepted data row and network",
        supports=(
            "these slopes are found again by networks that were trained apart",
            "on rejected rows the class depends on which training one happened to keep",
        ),
        limits=("that what the networks agree on is right: they saw the same data",),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        data, team, least = self._check(subject, ask)
        kind, classes = torch.zeros(ask.inputs.rows, dtype=torch.long), [None]
        if (index := ask.target.index) is not None:
            found, kind = index.cpu().unique(return_inverse=True)
            classes = found.tolist()
        own = _votes(team, ask, ask.inputs)
        every = _votes(team, ask, data.inputs)
        winner, count = consensus(own, least)
        seen, _ = consensus(every, least)
        chosen = (seen >= 0).nonzero()[:, 0]
        if not len(chosen):
            raise NumericalError(
                "The networks must agree on some rows of the 'data'", got="none", hint="agree=, smaller"
            )
        scale = data.inputs.tensors[0].detach().cpu().double().std(0, correction=0)
        scale = scale if self.per == "deviation" else torch.ones_like(scale)
        with ask.progress.bar(len(classes) * len(team), self.card.title) as tell:
            made = []
            for label in classes:
                groups = []
                for member in team:
                    slopes = _slopes(ask, member, data.inputs.take(chosen), label) * scale
                    groups.append(grouped(slopes, self.clusters))
                    tell(1)
                made.append(agreed(groups, least, self.correlation, self.clusters))
        stacked = {name: torch.stack([m[name] for m in made])[kind] for name in made[0]}
        facts = {"score": ask.score.detach().cpu(), "accepted": (winner >= 0).double(), "consensus": winner}
        facts |= {"votes": count / len(team), "agreed": stacked.pop("agreed")}
        figures = {"rejected": (seen < 0).double().mean(), "networks": torch.tensor(float(len(team)))}
        if data.labels is not None:
            labels = data.labels.cpu()
            figures["accuracy"] = (every[0] == labels).double().mean()
            figures["accuracy_accepted"] = (seen[chosen] == labels[chosen]).double().mean()
        facts |= {name: x.double().expand(len(kind)).clone() for name, x in figures.items()}
        like = ask.inputs.tensors[0]
        values, error = stacked.pop("values").to(like), stacked.pop("error").to(like)
        return Attribution(values=values, error=error if len(team) > 1 else None, parts=stacked, facts=facts)

    def _check(self, subject: Subject, ask: Ask) -> tuple[Rows, list[Subject], int]:
        """The data, the networks and how many of them have to agree, refused before any of them runs."""
        if type(self.clusters) is not int or self.clusters < 1:
            raise InputError("The 'clusters' must be an int of at least 1", got=repr(self.clusters))
        if isinstance(self.correlation, bool) or not isinstance(self.correlation, int | float):
            raise InputError("The 'correlation' must be a number from 0 to 1", got=repr(self.correlation))
        if not 0 <= self.correlation <= 1:
            raise InputError("The 'correlation' must be a number from 0 to 1", got=repr(self.correlation))
        if self.per not in UNITS:
            raise InputError(f"The 'per' must be one of {UNITS}", got=repr(self.per))
        if ask.layer is not None:
            raise LayerError("The 'layer' must be left out: networks share only their inputs", got=str(ask.layer))
        if ask.unit_place is not None:
            raise TargetError("The 'target' must be a class or function of the output, not a unit", got=str(ask.wanted))
        given: Any = ask.data
        others: Sequence[Any] = ()
        if isinstance(given, Mapping) and "networks" in given:
            if set(given) != {"rows", "networks"}:
                raise InputError("The 'data' must hold 'rows' and 'networks'", got=str(sorted(map(str, given))))
            given, others = given["rows"], given["networks"]
            if not isinstance(others, Sequence) or not others:
                raise InputError("The 'networks' in 'data' must be a list of networks", got=type(others).__name__)
        team = [subject, *(_member(subject, other) for other in others)]
        least = len(team) if self.agree is None else self.agree
        if type(least) is not int or not len(team) / 2 < least <= len(team):
            raise InputError(
                f"The 'agree' must be an int, more than half of the {len(team)} networks and at most all",
                got=repr(self.agree),
            )
        return rows_like(given, ask.inputs), team, least


def _member(subject: Subject, other: Any) -> Subject:
    member = as_subject(other if isinstance(other, Subject) else replace_model(subject, other))
    if member.module is None:
        raise NeedError("The 'networks' in 'data' must be torch modules", got=type(member.model).__name__)
    return member


def _votes(team: Sequence[Subject], ask: Ask, rows: Any) -> Tensor:
    """The class that each network names for each row, (networks, rows)."""
    found, shape = [], None
    for member in team:
        output = predict(member, rows, ask.memory)
        if output.dim() != 2 or output.shape[1] < 2:
            raise TargetError(
                "The networks must have a score for each of several classes", got=f"shape {tuple(output.shape)}"
            )
        if shape is not None and output.shape != shape:
            raise InputError(
                f"The 'networks' in 'data' must have the model's {shape[1]} classes", got=f"{output.shape[1]} classes"
            )
        if not bool(torch.isfinite(output).all()):
            raise NumericalError("The networks' outputs must be finite", got="NaN or infinity")
        shape = output.shape
        found.append(output.argmax(1).cpu())
    return torch.stack(found)


def consensus(votes: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Of votes (networks, rows): the class that at least so many vote for, -1 for none, and the most votes, (rows,)."""
    counts = torch.nn.functional.one_hot(votes).sum(0)
    most, winner = counts.max(1)
    return torch.where(most >= least, winner, -1), most.double()


def _slopes(ask: Ask, member: Subject, rows: Any, label: int | None) -> Tensor:
    """Gradients of one of a network's scores at these rows, (rows, columns)."""
    wanted = ask.wanted if label is None else torch.full((rows.rows,), label)
    asked = replace(
        ask, subject=member, inputs=rows, wanted=wanted, output=None, _target=None, progress=type(ask.progress)()
    )
    return gradient.once(asked).grads[0].detach().cpu().double()


def grouped(slopes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Means (groups, columns) of groups of gradients scaled to a mean square length of 1, and their shares of the rows."""
    from sklearn.cluster import KMeans

    length = slopes.square().sum(1).mean().sqrt()
    fine = ((slopes / length if length > 0 else slopes) / GRAIN).round() * GRAIN + 0.0  # -0.0 is not another value
    different = len(fine.unique(dim=0))
    if different == 1:
        return fine[:1], torch.ones(1, dtype=torch.float64)
    fitted = KMeans(min(count, different), n_init=10, random_state=0).fit(fine.numpy())
    group = torch.from_numpy(fitted.labels_).long()
    kept = group.unique()
    first = {int(g): int((group == g).nonzero()[0, 0]) for g in kept}
    order = sorted(first, key=lambda g: (-int((group == g).sum()), first[g]))
    means = torch.stack([fine[group == g].mean(0) for g in order])
    return means, torch.tensor([float((group == g).double().mean()) for g in order], dtype=torch.float64)


def agreed(groups: Sequence[tuple[Tensor, Tensor]], least: int, limit: float, most: int) -> dict[str, Tensor]:
    """What the first network's groups have in common with their best partners in the others."""
    means, size = groups[0]
    count, columns, many = len(size), means.shape[1], len(groups)
    partner, match = torch.ones(count, many, dtype=torch.float64), means[:, None].repeat(1, many, 1)
    for m, (others, _) in enumerate(groups[1:], 1):
        alike = _unit(means) @ _unit(others).T
        partner[:, m], best = alike.max(1)
        match[:, m] = others[best]
    with_us = (partner >= limit - 1e-9).double()  # identical slopes correlate by 1 up to rounding
    kept = (with_us.sum(1) >= least).double()
    weight = with_us * kept[:, None]
    shared = (weight[:, :, None] * match).sum(1) / weight.sum(1).clamp(min=1)[:, None]
    own = _share((size[:, None, None] * weight[:, :, None] * match.abs()).sum(0))
    values = _share((size[:, None] * shared.abs()).sum(0))
    speaks = weight.sum(0) > 0
    error = torch.zeros(columns, dtype=torch.float64)
    if int(speaks.sum()) > 1:
        error = own[speaks].std(0) / int(speaks.sum()) ** 0.5
    return {
        "values": values,
        "error": error,
        "networks": own,
        "mean": _padded(shared, most),
        "size": _padded(size, most),
        "partner": _padded(partner, most),
        "agreed": (size * kept).sum(),
    }


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True).clamp(min=1e-300)


def _share(x: Tensor) -> Tensor:
    """Shares along the last axis of numbers of at least 0, or zeros."""
    total = x.sum(-1, keepdim=True)
    return torch.where(total > 0, x / total.clamp(min=1e-300), torch.zeros_like(x))


def _padded(x: Tensor, rows: int) -> Tensor:
    return torch.cat([x, x.new_zeros(rows - len(x), *x.shape[1:])])
