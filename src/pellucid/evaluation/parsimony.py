"""How much of an explanation is enough? Its size swept against what it still explains, and where to stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Card, Measure, Method, Rules
from pellucid.contract.errors import MethodError
from pellucid.engine import Ask, Subject
from pellucid.engine.ask import predict
from pellucid.engine.coalition import Game
from pellucid.engine.evaluation import Evaluation, Judged, along, overall, players, ranking, wilson
from pellucid.engine.target import Target
from pellucid.evaluation.proxy import explained, number_of

__all__ = ["FidelityParsimony"]

FIDELITIES = ("auto", "answer", "score")
CHOICES = ("elbow", "least")
DENSE = 16


@dataclass(frozen=True, kw_only=True)
class FidelityParsimony(Evaluation):
    """How many features, rules or tests are enough, and what does each more of them buy?

    Sweeps the size k of an explanation against its fidelity over the inputs, with 95 % intervals.

    - Attributions: only the k features with the largest figures (by size) are kept, the others are filled.
      ``fidelity="answer"``: the share of rows that get the answer they had (Wilson's interval); "score": the mean of
      ``1 - |f(x) - f(x_k)| / |f(x) - f(x_0)|``, at least 0 a row (Student's t; 1 where nothing changes the score).
    - Rules: the method is fitted anew with ``setting`` = k; the share of rows where rules and network agree (Wilson), or,
      for numbers, R².

    ``values`` (1,) is the chosen size. ``choose="elbow"``: where the best fidelity so far lies highest above the straight
    line from the smallest to the largest size; "least": the smallest size that reaches ``enough``, or the size of the
    best fidelity where none does. Facts: ``fidelity`` of the choice; ``enough``, 1 where it reaches ``enough``. `parts`,
    all (sizes,): ``along``, the sizes; ``fidelity``, ``fidelity_low``, ``fidelity_high``; ``frontier``, the best fidelity
    of this size or a smaller one, which is the Pareto frontier.

    Args:
        of: the explanation that is swept: a method, or its name, of attributions or rules.
        sizes: the sizes; none: for attributions all up to 16 features and then half as many more each, for rules 1 to 8.
        setting: which setting of the rules is their size.
        fidelity: "answer", "score", or "auto": "answer" where the network has several classes and no target is given.
        choose: "elbow" or "least".
        enough: the fidelity that "least" asks for.
        features: what counts as one feature, as for occlusion.
        baseline: what takes the place of the others.

    Cost: that of ``of``, and a forward per size; for rules, a fit per size.
    Known failure: kept features alone are unlike any input, so that fidelity can rise late; an elbow always exists, also on
    a straight line (then the smallest size is chosen): look at the curve.
    Source: a field guide's trade-off between fidelity and parsimony (Ras, Xie, van Gerven & Doran 2022, §5); sweep,
    elbow (after Satopää et al. 2011) and intervals are ours.

    Example:
        >>> import torch, pellucid as px
        >>> x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
        >>> model = lambda v: v[:, :3].sum(1, keepdim=True)
        >>> px.explain(model, x, px.evaluation.FidelityParsimony(of="feature-ablation", choose="least")).values.item()
        3.0
    """

    of: str | Method = "gradient-x-input"
    sizes: tuple[int, ...] = ()
    setting: str = "max_depth"
    fidelity: str = "auto"
    choose: str = "elbow"
    enough: float = 0.95
    features: str | tuple[Any, ...] = "auto"
    baseline: float | str = 0.0

    wants: ClassVar[tuple[str, ...]] = ("attribution", "rules")
    card: ClassVar[Card] = Card(
        name="fidelity-parsimony-tradeoff",
        title="Fidelity against parsimony",
        question="How many features, rules or tests are enough, and what does each more of them buy?",
        form="measure",
        scope="global",
        citation="ras2022explainable",
        needs=("predictions",),
        data_types=("any",),
        taxonomy={"001": "evaluation/fidelity", "002": "evaluation/complexity"},
        claims=("deterministic",),
        trial={"of": "feature-ablation", "sizes": (0, 1, 2)},
        cost="that of the explanation, and a forward per size",
        supports=("how much of this explanation must be read for most of what it explains on these rows",),
        limits=("what a person finds simple", "sizes for rows unlike these"),
    )

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        for name, known in (("fidelity", FIDELITIES), ("choose", CHOICES)):
            if getattr(self, name) not in known:
                raise MethodError(f"The '{name}' must be one of {known}", got=repr(getattr(self, name)))
        if isinstance(self.enough, bool) or not isinstance(self.enough, int | float) or not 0 < self.enough <= 1:
            raise MethodError("The 'enough' must be a number above 0, at most 1", got=repr(self.enough))
        whole = isinstance(self.sizes, tuple) and all(type(k) is int and k >= 0 for k in self.sizes)
        if not whole or list(self.sizes) != sorted(set(self.sizes)) or len(self.sizes) == 1:
            raise MethodError("The 'sizes' must be two or more rising ints of at least 0", got=repr(self.sizes))
        held = self.held()
        if held.card.form == "rules" and self.setting not in {f.name for f in fields(held)}:  # type: ignore[arg-type]
            raise MethodError(
                f"The 'setting' must be one of {held.card.name!r}: {', '.join(f.name for f in fields(held))}",  # type: ignore[arg-type]
                got=repr(self.setting),
            )

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        if isinstance(judged.result, Rules):
            sizes, table, unit = self.of_rules(subject, judged)
        else:
            sizes, table, unit = self.of_features(judged)
        frontier = table[0].cummax(0).values
        chosen = self.chosen(sizes, frontier)
        met = (frontier[chosen] >= self.enough).double()
        parts = {"along": sizes, "fidelity": table[0], "fidelity_low": table[1], "fidelity_high": table[2]}
        return Measure(
            values=sizes[chosen : chosen + 1].double(),
            better="lower",
            unit=unit,
            facts={"fidelity": table[0, chosen : chosen + 1].clone(), "enough": met[None]},
            parts=parts | {"frontier": frontier},
            source={"along": unit},
        )

    def of_features(self, judged: Judged) -> tuple[Tensor, Tensor, str]:
        """Sizes, fidelity with its interval (3, sizes), and what is counted."""
        judged.ask.target  # noqa: B018
        output = judged.ask.output
        assert output is not None
        game, figures = players(judged, self.features, self.baseline)
        sizes = torch.tensor([k for k in self.sizes or _sizes(game.players) if k <= game.players])
        order = ranking(figures.abs())
        classes = output.reshape(len(output), -1)
        by_answer = classes.shape[1] > 1 and judged.ask.wanted is None
        if self.fidelity == "answer" or (self.fidelity == "auto" and by_answer):
            game = replace(game, ask=replace(game.ask, _target=Same(index=answers(output))))
            kept = along(game, order, sizes, gone=False, label=self.card.title)
            low, high = wilson(kept.sum(0), len(kept))
            return sizes, torch.stack([kept.mean(0), low, high]), "features"
        return sizes, self.recovered(game, order, sizes), "features"

    def recovered(self, game: Game, order: Tensor, sizes: Tensor) -> Tensor:
        """Which share of the score's way from the fill the kept features go, with its interval (3, sizes)."""
        points = torch.cat([sizes, torch.tensor([0, game.players])])
        scores = along(game, order, points, gone=False, label=self.card.title)
        kept, empty, full = scores[:, :-2], scores[:, -2:-1], scores[:, -1:]
        way = (full - empty).abs()
        share = torch.where(way > 0, 1 - (full - kept).abs() / torch.where(way > 0, way, 1.0), (full == kept).double())
        found = [overall(column) for column in share.clamp(min=0).T]
        rows = [[f["mean"], f.get("low", f["mean"]), f.get("high", f["mean"])] for f in found]
        nothing = float("nan")
        return torch.tensor([[nothing if v is None else v for v in row] for row in rows], dtype=torch.float64).T

    def of_rules(self, subject: Subject, judged: Judged) -> tuple[Tensor, Tensor, str]:
        """The same for rules that are fitted anew at each size."""
        ask, rows = judged.ask, judged.ask.inputs
        output = predict(subject, rows, ask.memory).reshape(rows.rows, -1)
        by_class = output.shape[1] > 1 and ask.wanted is None
        sizes, found = self.sizes or tuple(range(1, 9)), []
        columns = torch.cat([x.detach().flatten(1).cpu() for x in rows.floats], 1)
        for size in sizes:
            method = replace(judged.method, **{self.setting: size})  # type: ignore[type-var]
            result = method.explain(subject, ask, method.prepare(subject, ask))
            said = result.predict(columns)
            if by_class:
                hits = (said == output.argmax(1).cpu()).sum().double()
                found.append(torch.stack([hits / len(said), *wilson(hits, len(said))]))
            else:
                found.append(explained(said, number_of(ask, output)[:, None].cpu()))
        return torch.tensor(sizes), torch.stack(found, 1), self.setting.replace("_", " ")

    def chosen(self, sizes: Tensor, frontier: Tensor) -> int:
        """Which size to take, by its place."""
        if self.choose == "least":
            enough = frontier >= min(self.enough, float(frontier.max()))
            return int(enough.double().argmax())
        wide, tall = (sizes - sizes[0]).double() / float(sizes[-1] - sizes[0] or 1), frontier - frontier[0]
        above = tall / max(float(tall[-1]), 1e-300) - wide if float(tall[-1]) > 0 else -wide
        return int((above >= above.max() - 1e-9).double().argmax())


@dataclass(frozen=True, eq=False)
class Same(Target):
    """1 where the answer is the class in `index`, else 0."""

    def score(self, output: Tensor, rows: Tensor | None = None) -> Tensor:
        assert self.index is not None
        own = self.index if rows is None else self.index[rows.to(self.index.device)]
        return (answers(output) == own.to(output.device)).to(output.dtype)


def answers(output: Tensor) -> Tensor:
    """The class of each row; of a single score, whether it is above zero."""
    flat = output.detach().reshape(output.shape[0], -1)
    return (flat[:, 0] > 0).long() if flat.shape[1] == 1 else flat.argmax(1)


def _sizes(most: int) -> tuple[int, ...]:
    """All up to 16, and then half as many more each time."""
    found = [*range(min(most, DENSE) + 1)]
    while found[-1] < most:
        found.append(min(most, found[-1] * 3 // 2))
    return tuple(found)
