"""How much of the score is due to this phrase or region alone? Contextual decomposition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import Ask, Subject, contextual, feature, fill
from pellucid.engine.decomposition import wrap

__all__ = ["ContextualDecomposition"]

BIASES = ("apart", "share")


@dataclass(frozen=True, kw_only=True)
class ContextualDecomposition(Method):
    """How much of the score is due to this group of features, without what it does together with the others?

    Every value of the network is carried in two parts, ``g = β + γ``: β is due to the group, γ to everything else.
    Linear operations map both, ``β' = Wβ + |Wβ| / (|Wβ| + |Wγ|) · bias``; a rectifier gives ``β' = relu(β)`` and
    ``γ' = relu(β + γ) - relu(β)``; max-pooling takes the parts of the winner. Before a sigmoid or tanh the bias stays a
    part of its own, each part gets its average change of the value over the two orders, and a product of a gate and a
    signal gives β the terms that hold nothing of γ. The value of a feature is its group's β of the score, in score units;
    positive raises the score. All values of a feature carry the same figure: they are one figure, not shares of it.

    Phrases and regions are given as ``data={"groups": mask}``, integers like the inputs, equal numbers together; words
    by ``layer=`` the embedding.

    Facts: ``score``; ``output_bias``, what the last operation's bias adds to the score, kept apart from all groups;
    ``decomposition_gap``, the largest |β + γ + output bias - score| over the groups, which is rounding;
    ``interaction``, the score less the output bias less the sum of the groups' β: what none has alone.

    Args:
        features: what counts as one feature, as for feature ablation: "element", "column", "token", "channel", "pixel",
            ("grid", n), ("patch", n), ("superpixels", n), groups of columns, or "auto".
        output_bias: "apart" leaves the last bias out of every group; "share" shares it out like the others.

    Cost: per feature one recorded forward pass, and about three passes' worth of parts.
    Known failure: β of a group depends on where biases are put, so that figures of groups need not add up; the rectifier
    puts the group first, which favours it. Softmax, layer norm and products of two signals other than gates are refused.
    Source: Murdoch, Liu & Yu 2018, §3.2; Singh, Murdoch & Yu 2019, §3. Where both parts of a value are zero, a bias is
    the group's if the group is the whole input, else the others'.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Linear(3, 2).eval()
        >>> found = px.explain(net, torch.ones(1, 3), "contextual-decomposition", target=0)
        >>> torch.allclose(found.values[0], net.weight[0])
        True
    """

    features: str | tuple[Any, ...] = "auto"
    output_bias: str = "apart"

    card: ClassVar[Card] = Card(
        name="contextual-decomposition",
        title="Contextual decomposition",
        question="How much of the score is due to this phrase or region, without what it does together with others?",
        form="attribution",
        scope="local",
        citation="murdoch2018beyond",
        needs=("gradient", "backward rules"),
        taxonomy={
            "000": "structural/decomposition",
            "001": "model-specific",
            "002": "post-hoc/saliency/decomposition",
            "003": "passive/attribution/local",
        },
        claims=("rowwise", "deterministic", "dummy", "symmetric", "spelling invariant", "score scale"),
        trial={"features": "element"},
        cost="about 4 forwards per feature",
        supports=(
            "how a phrase or a region pushes the score by itself, and by how much the whole differs from its parts",
        ),
        limits=("shares of the score: the figures need not add up", "what happens if the group is removed"),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        check(self.output_bias)
        held = fill.explained(ask)
        found = grouped(self.features, ask.data, held)
        jobs = torch.arange(held.rows * found.count)
        rows, which = jobs // found.count, jobs % found.count
        seen = contextual.split(
            ask,
            rows,
            lambda chunk: found.inside(rows[chunk], which[chunk]),
            output_bias=self.output_bias,
            label=self.card.title,
        )
        group, gap = (v.reshape(held.rows, found.count) for v in (seen.group, seen.gap))
        constant, score = (v.reshape(held.rows, found.count)[:, 0] for v in (seen.constant, seen.score))
        facts = {
            "score": score.double(),
            "output_bias": constant.double(),
            "decomposition_gap": gap.amax(1).double(),
            "interaction": (score - constant - group.sum(1)).double(),
        }
        return Attribution(values=wrap(ask, found.spread(group, held)), facts=facts)


def check(output_bias: str) -> None:
    """Refuse a word for the last bias that is none."""
    if output_bias not in BIASES:
        raise MethodError(f"The 'output_bias' must be one of {BIASES}", got=repr(output_bias))


def grouped(spec: Any, data: Any, held: Any) -> feature.Features:
    """The features: those described, or those of `data={"groups": mask}`."""
    if data is None:
        return feature.features(spec, held)
    if not isinstance(data, Mapping) or set(data) != {"groups"}:
        raise InputError("The 'data' must be {'groups': mask} or None", got=type(data).__name__)
    if spec != "auto":
        raise InputError("The 'features' must be left out where 'data' holds groups", got=repr(spec), hint="'auto'")
    return feature.groups(data["groups"], held)
