"""An explanation as a rule that predicts the network's answers: how often is the rule wrong, and where?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from pellucid.contract import Card, Measure, Rules
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import Ask, Subject, seed
from pellucid.engine.ask import predict
from pellucid.engine.evaluation import Evaluation, Judged, overall, players, wilson
from pellucid.engine.inputs import Inputs
from pellucid.engine.settings import whole
from pellucid.evaluation.complexity_rules import side_by_side
from pellucid.evaluation.parsimony import answers

__all__ = ["MetaPredictor"]

PLACES = ("inputs", "near")
INVARIANCES = ("", "rotation", "mirror", "shift")
Said = Callable[[Inputs], Tensor]


@dataclass(frozen=True, kw_only=True)
class MetaPredictor(Evaluation):
    """How often is the explanation wrong, when it is read as a rule about what the network answers?

    A rule B says for which inputs the network f gives an answer, and is as faithful as its expected error
    ``E[B(x) ≠ f(x)]`` over a stated distribution of x is small. ``values`` (N,) is that error around each row, as a share
    of the draws; facts ``low`` and ``high`` are Wilson's 95 % interval. What the rule is, and over what, in this order:

    - ``invariance``, or ``data={"transform": t}``: the rule "the answer stays as it is when the row is changed so".
      Pictures are rotated by up to ± ``extent`` × 180°, mirrored, or shifted by up to ``extent`` of their sides (zeros
      come in); ``t(x, u)`` changes rows x (N, ...) by uniform draws u (N,) in [0, 1).
    - ``data={"rule": b}``: a claim of one's own; ``b(x)`` gives the class of each row (N,).
    - ``of`` with form rules: what the rules say.

      Both over the ``inputs`` themselves (global: one draw, and the interval that counts is that over rows), or "near"
      them: with normal noise of ``noise`` × each column's standard deviation.
    - ``of`` with form attribution (local): values as amounts, so that without the features in A the score is
      ``f(x) - Σ_A φ``. Each feature is kept with even chances, or filled; the rule says whether the score stays above
      half its way from the fill to the row. A score that adds its features up is predicted without an error.

    ``source["overall"]``: the mean error of all rows with its 95 % interval; ``source["chance"]``: the error of a rule that
    says as often the same, but knows nothing. ``source["rule"]`` says which of the four was judged.

    Args:
        of: the explanation that is read as a rule.
        where: "inputs" or "near".
        samples: draws around each row.
        noise: of "near", as a share of each column's standard deviation over the inputs.
        invariance: "rotation", "mirror" or "shift".
        extent: how far pictures are rotated or shifted, from 0 to 1.
        features: what counts as one feature of an attribution, as for occlusion.
        baseline: what takes the place of features that are not kept.

    Cost: that of ``of``, and a forward per row and draw.
    Known failure: a rule that says little can be right about it: read the error beside ``chance``. Rotated pictures have
    corners that no picture has.
    Source: Fong & Vedaldi 2017, §3, equations 1 to 4; the halfway event of attributions and the intervals are ours.

    Example:
        >>> import torch, pellucid as px
        >>> net, x = torch.nn.Linear(4, 1, bias=False).eval(), torch.randn(3, 4)
        >>> px.explain(net, x, px.evaluation.MetaPredictor(of="gradient-x-input")).values.tolist()
        [0.0, 0.0, 0.0]
    """

    where: str = "inputs"
    samples: int = 100
    noise: float = 0.1
    invariance: str = ""
    extent: float = 1.0
    features: str | tuple[Any, ...] = "auto"
    baseline: float | str = 0.0

    wants: ClassVar[tuple[str, ...]] = ("attribution", "rules")
    own: ClassVar[tuple[str, ...]] = ("rule", "transform")
    card: ClassVar[Card] = Card(
        name="meta-predictor-explanation",
        title="Explanations as rules about the network",
        question="How often is the explanation wrong, read as a rule about the network's answers?",
        form="measure",
        scope="local",
        citation="fong2017interpretable",
        needs=("predictions",),
        taxonomy={"001": "evaluation/fidelity", "002": "evaluation/consistency"},
        claims=("rowwise", "seeded", "spelling invariant"),
        trial={"of": "feature-ablation", "samples": 12},
        cost="that of the explanation, and 100 forwards",
        supports=("how often this reading of the explanation predicts the network, on the stated draws",),
        limits=("draws of another kind", "that the network follows the rule for the reason it gives"),
    )

    @property
    def claims(self) -> tuple[str, ...]:
        """Noise near the inputs is as wide as these are apart, so that a row's depends on the others."""
        return tuple(c for c in super().claims if c != "rowwise" or self.where == "inputs")

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        for name, known in (("where", PLACES), ("invariance", INVARIANCES)):
            if getattr(self, name) not in known:
                raise MethodError(f"The '{name}' must be one of {known}", got=repr(getattr(self, name)))
        whole(samples=(self.samples, 2))
        for name, most in (("noise", math.inf), ("extent", 1.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
                raise MethodError(f"The '{name}' must be a number above 0, at most {most:g}", got=repr(value))
        if len([n for n in (own.get("rule"), own.get("transform"), self.invariance) if n]) > 1:
            raise MethodError("There must be one claim at a time", got="several of rule, transform and invariance")
        for name in self.own:
            if name in own and not callable(own[name]):
                raise InputError(f"The '{name}' in 'data' must be a function", got=type(own[name]).__name__)
        if self.invariance and [x.dim() for x in ask.inputs.floats] != [4]:
            got = ", ".join(f"shape {tuple(x.shape)}" for x in ask.inputs.tensors)
            raise InputError("The 'invariance' needs pictures (rows, channels, height, width)", got=got)

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Measure:
        own, _ = self.split(ask.data)
        if not own and not self.invariance:
            return super().explain(subject, ask, state)
        self.check(ask, own)
        ask.target  # noqa: B018 - the network's answers; the target plays no part otherwise
        if "rule" in own:
            return self.of_rule(subject, ask, lambda held: torch.as_tensor(own["rule"](held.wrap_all())), "given")
        return self.of_claim(subject, ask, own.get("transform") or self._changed, self.invariance or "transform")

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        if not isinstance(judged.result, Rules):
            return self.of_amounts(judged)
        structure = judged.result.structure
        return self.of_rule(subject, ask, lambda held: structure.predict(side_by_side(held.floats)), "rules")

    def of_claim(self, subject: Subject, ask: Ask, change: Callable[..., Tensor], name: str) -> Measure:
        """How often the answer does not stay when rows are changed."""
        if len(ask.inputs.floats) != 1:
            raise InputError("The rows to be changed must be one floating tensor", got=f"{len(ask.inputs.floats)}")
        assert ask.output is not None
        x, before, met = ask.inputs.floats[0], answers(ask.output).cpu(), []
        for number in range(self.samples):
            u = seed.uniform(ask.seed, ask.keys, [number] * len(x), (1,), x)[:, 0]
            moved = torch.as_tensor(change(x.clone(), u))
            if moved.shape != x.shape:
                raise InputError(
                    f"The 'transform' must give rows of shape {tuple(x.shape)}", got=f"{tuple(moved.shape)}"
                )
            met.append(answers(predict(subject, ask.inputs.with_floats([moved.to(x)]), ask.memory)).cpu())
        return _told(before[:, None].expand(-1, self.samples), torch.stack(met, 1), f"invariance: {name}")

    def of_rule(self, subject: Subject, ask: Ask, says: Said, name: str) -> Measure:
        """How often a rule about classes is wrong, on the inputs or near them."""
        said, met = [], []
        for number in range(1 if self.where == "inputs" else self.samples):
            held = ask.inputs if self.where == "inputs" else ask.inputs.with_floats(self._near(ask, number))
            found = says(held).detach().cpu()
            if found.shape != (held.rows,) or found.is_floating_point():
                raise InputError(
                    f"The rule must give {held.rows} whole numbers, the class of each row",
                    got=f"{found.dtype} of shape {tuple(found.shape)}",
                    hint="'proxy-fidelity' for rules that tell a number",
                )
            said.append(found.long())
            met.append(answers(predict(subject, held, ask.memory)).cpu())
        return _told(torch.stack(said, 1), torch.stack(met, 1), f"{name}, {self.where}")

    def of_amounts(self, judged: Judged) -> Measure:
        """How often values, taken as amounts, mistake on which side of halfway the score is."""
        game, figures = players(judged, self.features, self.baseline)
        ask = judged.ask
        drawn = [seed.generator(ask.seed, key, 1).random((self.samples, game.players)) < 0.5 for key in ask.keys]
        kept = torch.stack([torch.from_numpy(d) for d in drawn])
        ends = torch.stack([torch.zeros(game.players, dtype=torch.bool), torch.ones(game.players, dtype=torch.bool)])
        empty, full = game.worth(ends, label=self.card.title).T
        found = game.worth(kept, label=self.card.title)
        halfway = ((empty + full) / 2)[:, None]
        side = (full > empty)[:, None]
        additive = full[:, None] - (figures[:, None] * ~kept).sum(2)
        # A score on the line itself counts as below for both, up to rounding.
        small = 1e-9 * (1 + full.abs() + empty.abs())[:, None]
        above = [((s - halfway > small) == side) | (s - halfway).abs().le(small) & ~side for s in (additive, found)]
        return _told(above[0].long(), above[1].long(), "amounts")

    def _near(self, ask: Ask, number: int) -> list[Tensor]:
        parts = []
        for place, x in enumerate(ask.inputs.floats):
            noise = seed.normal(
                ask.seed, ask.keys, [number * len(ask.inputs.floats) + place] * len(x), tuple(x.shape[1:]), x
            )
            parts.append(x + self.noise * x.std(0, unbiased=False) * noise)
        return parts

    def _changed(self, x: Tensor, u: Tensor) -> Tensor:
        """Pictures rotated, mirrored or shifted."""
        if self.invariance == "mirror":
            return x.flip(3)
        turn = (2 * u - 1) * self.extent * (math.pi if self.invariance == "rotation" else 2)
        one, none = torch.ones_like(u), torch.zeros_like(u)
        if self.invariance == "shift":
            table = [one, none, turn, none, one, none]
        else:
            ratio = x.shape[2] / x.shape[3]  # places run from -1 to 1 along both sides, whatever these are
            table = [turn.cos(), -turn.sin() * ratio, none, turn.sin() / ratio, turn.cos(), none]
        grid = functional.affine_grid(torch.stack(table, 1).reshape(-1, 2, 3), list(x.shape), align_corners=False)
        return functional.grid_sample(x, grid, align_corners=False)


def _told(said: Tensor, met: Tensor, rule: str) -> Measure:
    """The measurement of what a rule said and what was met, (rows, draws)."""
    wrong = (said != met).double()
    error, draws = wrong.mean(1), wrong.shape[1]
    low, high = wilson(wrong.sum(1), draws)
    many = int(max(said.max(), met.max())) + 1
    shares = [torch.bincount(side.flatten(), minlength=many).double() / side.numel() for side in (said, met)]
    told = overall(error)
    if draws == 1:
        told["low"], told["high"] = (float(bound) for bound in wilson(wrong.sum(), len(wrong)))
    return Measure(
        values=error,
        better="lower",
        unit="share of draws",
        facts={"low": low, "high": high},
        source={"overall": told, "chance": float(1 - (shares[0] * shares[1]).sum()), "rule": rule},
    )
