"""Correct, covering, and no more complex than needed: three figures of any explanation, and which none beats in all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Card, Measure, Method, Rules, as_method
from pellucid.contract.errors import InputError, MethodError, PellucidError
from pellucid.engine import Ask, Subject, explain, predict, seed
from pellucid.engine.evaluation import Evaluation, Judged, overall, players
from pellucid.engine.settings import whole
from pellucid.evaluation.complexity_rules import side_by_side, speaking
from pellucid.evaluation.coverage import ruled
from pellucid.evaluation.proxies import reason

__all__ = ["ThreeC", "three_c"]

FIGURES = ("correctness", "coverage", "complexity")
BETTER = ("higher", "higher", "lower")
NOTHING = 1e-6  # of the largest: a smaller figure is no term


@dataclass(frozen=True, kw_only=True)
class ThreeC(Evaluation):
    """How correct is the explanation, how much of the model's behaviour does it cover, and how complex is it?

    An attribution is read as the sum that it claims to be, ``g(z) = v(nobody) + Σ φ_j z_j``, and held against the score
    v(z) with only the features of z there, at random z (``probes``) and at the input itself. Facts by row:
    ``correctness``, R² of g at the probes; ``coverage``, the share of probes that g meets within ``tolerance`` of the
    scores' range; ``complexity``, how many features have a figure that is not nothing.

    Of rules, over all ``inputs``, (1,): ``correctness``, how often they say what the network says where they say
    anything; ``coverage``, the share of rows for which they do (rules abstain by the class -1, or NaN); ``complexity``,
    their conditions, or their size where these can't be counted.

    ``values`` is the correctness: 1 for an exact surrogate, whose coverage is 1, too.

    Args:
        of: the explanation that is measured: a method or its name.
        features: what is one feature of an attribution; as for occlusion.
        baseline: what stands where a feature is not there.
        probes: random coalitions.
        tolerance: how far off a probe may be, as a share of the range of the scores at the probes.

    Cost: that of ``of``, and ``probes`` + 2 forwards.
    Known failure: features that are taken away leave inputs that never occur. Complexities of different forms are counted
    in different units, and are no more than what there is to read.
    Source: Cui, Lee & Hsieh 2019, an integrative framework of correctness, completeness and complexity; the probes of an
    attribution are this library's reading.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(3, 1).double().eval()
        >>> found = px.explain(net, torch.ones(1, 3).double(), px.evaluation.ThreeC(of="feature-ablation"))
        >>> [round(found.facts[name].item(), 6) for name in ("correctness", "coverage", "complexity")]
        [1.0, 1.0, 3.0]
    """

    features: str | tuple[Any, ...] = "auto"
    baseline: float | str = 0.0
    probes: int = 64
    tolerance: float = 0.05

    wants: ClassVar[tuple[str, ...]] = ("attribution", "rules")
    card: ClassVar[Card] = Card(
        name="three-c-evaluation",
        title="Correctness, coverage, complexity",
        question="How correct is the explanation, how much of the behaviour does it cover, and how complex is it?",
        form="measure",
        scope="local",
        citation="cui2019integrative",
        needs=("predictions",),
        taxonomy={"001": "evaluation/fidelity"},
        claims=("rowwise", "seeded", "spelling invariant"),
        trial={"of": "feature-ablation", "probes": 8},
        cost="that of the explanation, and 66 forwards",
        supports=("how well the explanation, read as a model, stands in for the network around these rows",),
        limits=("whether a person understands it",),
    )

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        whole(probes=(self.probes, 2))
        value = self.tolerance
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise MethodError("The 'tolerance' must be a number of at least 0", got=repr(value))

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        rules = isinstance(judged.result, Rules)
        facts = self.of_rules(subject, judged) if rules else self.of_attribution(judged)
        told = {"overall": {name: overall(fact) for name, fact in facts.items()}}
        unit = "share of answers" if rules else "R²"
        return Measure(values=facts["correctness"].clone(), better="higher", unit=unit, facts=facts, source=told)

    def of_attribution(self, judged: Judged) -> dict[str, Tensor]:
        """The sum that the figures claim, against the score, by row."""
        game, figures = players(judged, self.features, self.baseline)
        figures, count = figures.detach().double().cpu(), game.players
        keys, like = judged.ask.keys, torch.zeros(1, dtype=torch.float64)
        drawn = seed.uniform(judged.ask.seed, keys, [0] * len(keys), (self.probes, count + 1), like)
        present = drawn[..., :count] < drawn[..., count:]  # of every size alike
        ends = torch.tensor([[False] * count, [True] * count])
        asked = torch.cat([present, ends.expand(len(keys), 2, count)], 1)
        scores = game.worth(asked, label=self.card.title)
        said = scores[:, -2:-1] + (asked.double() * figures[:, None]).sum(2)
        truth, said = scores[:, [*range(self.probes), -1]], said[:, [*range(self.probes), -1]]
        spread = ((truth - truth.mean(1, keepdim=True)) ** 2).sum(1)
        missed = ((truth - said) ** 2).sum(1)
        reach = truth.amax(1) - truth.amin(1)
        rounding = 1e-9 * (truth.abs().amax(1) + 1e-300)
        right = torch.where(spread > 0, 1 - missed / spread.clamp(min=1e-300), (missed <= rounding**2).double())
        close = (truth - said).abs() <= (self.tolerance * reach + rounding)[:, None]
        sizes = figures.abs()
        terms = (sizes > NOTHING * sizes.amax(1, keepdim=True)).sum(1)
        return {"correctness": right, "coverage": close.double().mean(1), "complexity": terms.double()}

    def of_rules(self, subject: Subject, judged: Judged) -> dict[str, Tensor]:
        """What the rules say of the inputs, where they say anything."""
        rules, ask = judged.result, judged.ask
        assert isinstance(rules, Rules)
        columns = side_by_side(ask.inputs.floats)
        said, spoken = rules.structure.predict(columns).cpu(), ruled(rules, columns) == 1
        output = predict(subject, ask.inputs, ask.memory).reshape(ask.inputs.rows, -1).cpu()
        if said.is_floating_point():
            truth, own = output[spoken, 0].double(), said[spoken].double()
            spread = float(((truth - truth.mean()) ** 2).sum())
            right = 1 - float(((truth - own) ** 2).sum()) / spread if spread else float(torch.equal(truth, own))
        else:
            right = float((output.argmax(1) == said)[spoken].double().mean()) if bool(spoken.any()) else 0.0
        counted = speaking(rules.structure, columns)
        size = counted.get("conditions", float(max(rules.structure.size().values(), default=0)))
        found = {"correctness": right, "coverage": float(spoken.double().mean()), "complexity": size}
        return {k: torch.tensor([v], dtype=torch.float64) for k, v in found.items()}


def three_c(
    model: Any,
    inputs: Any,
    methods: Any,
    *,
    target: Any = None,
    data: Any = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Measure:
    """Which explanations are correct, covering and simple, so that no other beats them in all three?

    Args:
        model, inputs, target, data, seed: as for `px.explain`; data goes to the methods whose cards ask for it.
        methods: names or values, or a dict from labels to them.
        settings: of `ThreeC`, besides ``of``.

    Returns:
        A measure: ``values`` (methods, 3) of correctness, coverage and complexity; `parts`: ``low`` and ``high``, 95 %
        intervals of the means over rows, and ``pareto`` (methods,), 1 for those that no other equals or betters in all
        three and betters in one. ``source["panels"]`` names methods and figures, and what was refused and why.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(3, 1, bias=False).double().eval()
        >>> found = three_c(net, torch.ones(2, 3).double() * 2, ["feature-ablation", "vanilla-gradient"])
        >>> found.parts["pareto"].tolist()
        [1.0, 0.0]
    """
    chosen = labelled(methods)
    cells, refused = torch.full((len(chosen), 3, 3), torch.nan, dtype=torch.float64), dict[str, str]()
    for i, (label, method) in enumerate(chosen.items()):
        try:
            given = data if {"data", "labels"} & set(method.card.needs) else None
            found = explain(model, inputs, ThreeC(of=method, **(settings or {})), target=target, data=given, seed=seed)
        except PellucidError as error:
            refused[label] = reason(error)
            continue
        for j, name in enumerate(FIGURES):
            said = found.source["overall"][name]
            mean = torch.nan if said["mean"] is None else said["mean"]
            cells[i, j] = torch.tensor([mean, said.get("low", torch.nan), said.get("high", torch.nan)])
    told = {
        "title": "Correctness, coverage, complexity",
        "methods": list(chosen),
        "figures": list(FIGURES),
        "better": list(BETTER),
        "reasons": {label: {"": why} for label, why in refused.items()},
        "marked": "no other is as good in all three and better in one",
    }
    return Measure(
        values=cells[..., 0],
        unit="each figure's own",
        parts={"low": cells[..., 1], "high": cells[..., 2], "pareto": pareto(cells[..., 0], BETTER)},
        source={"method": "three-c-evaluation", "settings": dict(settings or {}), "seed": seed, "panels": told},
    )


def labelled(methods: Any) -> dict[str, Any]:
    """Methods by label."""
    if isinstance(methods, str | Method):
        methods = [methods]
    if isinstance(methods, Mapping) and "method" not in methods:
        found = {str(k): as_method(v) for k, v in methods.items()}
    else:
        values = [as_method(v) for v in methods]
        found = {m.card.name if sum(m.card.name == o.card.name for o in values) < 2 else repr(m): m for m in values}
    if not found:
        raise InputError("The 'methods' must name at least one", got="none")
    return found


def pareto(values: Tensor, better: tuple[str, ...]) -> Tensor:
    """1 for lines (methods, figures) that no other equals or betters everywhere and betters somewhere; 0 with NaN."""
    signs = torch.tensor([1.0 if b == "higher" else -1.0 for b in better], dtype=torch.float64)
    v = values.double() * signs
    known = v.isfinite().all(1)
    least = (v[None] >= v[:, None]).all(2) & known[None]
    more = (v[None] > v[:, None]).any(2)
    return (known & ~(least & more).any(1)).double()
