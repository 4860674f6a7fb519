"""Does an explanation change when what the network has learnt is destroyed? Weights drawn anew, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pellucid.contract import Attribution, Card, Measure
from pellucid.contract.errors import MethodError
from pellucid.engine import Ask, Subject
from pellucid.engine.evaluation import Evaluation, Judged
from pellucid.engine.settings import whole
from pellucid.evaluation import redrawing, similarity

__all__ = ["ModelRandomisationTest"]

ORDERS = ("cascading", "independent")
TAXONOMY = {
    "000": "evaluation/faithfulness",
    "001": "evaluation/sanity",
    "002": "evaluation/sanity-checks",
    "003": "passive/attribution/evaluation",
}


@dataclass(frozen=True, kw_only=True)
class ModelRandomisationTest(Evaluation):
    """Does the explanation change when the network's weights are replaced by random ones?

    Layers are drawn anew from the output to the input, in a copy of the model: "cascading" keeps those before, so that
    the last point is a network that knows nothing; "independent" draws one layer at a time. After each step the same
    rows and targets are explained again. Similarity to the first explanation is Spearman's rank correlation of values
    (channels of images summed); ``values`` is its mean over all steps, from -1 to 1: near 0 passes, near 1 means that
    the map does not depend on what was learnt.

    Facts: the means over steps of ``rank_signed`` (equal to ``values``), ``rank_absolute``, of sizes, and for images
    ``ssim`` and ``hog``, of sizes scaled to 0…1; ``error``, the standard error of ``values`` over draws; ``fails``, 1
    where ``values`` exceed ``limit``; ``undefined``, the share of steps left out because a map was constant. `parts`:
    ``curve`` (rows, points) and the same for each similarity, from the untouched copy (a control: 1) to the last layer;
    ``share`` (points,) of the layers. ``source["layers"]`` lists the layers in that order.

    Args:
        of: the explanation that is measured: a method or its name.
        order: "cascading" or "independent".
        layers: modules, from the output to the input; None: every layer, by when a forward pass takes its weights.
        draw: "initial", as PyTorch's layers start (uniform within ±1/√fan-in; norms one and zero; running statistics
            stay), or "permuted", each weight tensor's own values in random order.
        draws: random networks; results are means over them.
        limit: the similarity above which a row fails. A convention of ours: the source draws curves only.

    Cost: that of ``of``, times 1 + layers × draws, plus 1.
    Known failures: maps times the input look alike by size wherever the input is zero, so read the signed comparison
    (Adebayo et al. 2018, §4); a random network still is a prior on images, so that a method may keep some similarity and
    be right (Sundararajan & Taly 2018). To pass is not to be faithful.
    Source: Adebayo, Gilmer, Muelly, Goodfellow, Hardt & Kim 2018, §3.1, §4.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
        >>> found = px.explain(net, torch.randn(2, 6), "model-randomization-test", layer=None)
        >>> found.source["layers"], found.parts["curve"].shape
        (['2', '0'], torch.Size([2, 3]))
    """

    order: str = "cascading"
    layers: tuple[str, ...] | None = None
    draw: str = "initial"
    draws: int = 3
    limit: float = 0.5

    quality: ClassVar[str] = "sanity"

    card: ClassVar[Card] = Card(
        name="model-randomization-test",
        title="Model randomisation test",
        question="Does the explanation change when the network's weights are replaced by random ones?",
        form="measure",
        scope="local",
        citation="adebayo2018sanity",
        needs=("gradient",),
        taxonomy=TAXONOMY,
        claims=("rowwise", "seeded"),
        trial={"of": "vanilla-gradient", "draws": 2},
        cost="the explanation once per layer and draw",
        supports=("how much of this map would be there if the network had learnt nothing",),
        limits=("whether the map is right: passing only says that it depends on the weights",),
    )

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        for name, allowed in (("order", ORDERS), ("draw", redrawing.WAYS)):
            if getattr(self, name) not in allowed:
                raise MethodError(f"The '{name}' must be one of {allowed}", got=repr(getattr(self, name)))
        whole(draws=(self.draws, 2))
        if self.layers is not None:
            if isinstance(self.layers, str) or not self.layers:
                raise MethodError("The 'layers' must be a tuple of names, or None", got=repr(self.layers))
            assert ask.subject.module is not None
            redrawing.layers(ask.subject.module, self.layers)

    def asks(self, judged: Judged) -> tuple[int, int]:
        module = judged.subject.module
        layers = self.layers or (redrawing.layers(module) if module is not None else ())
        count = 1 + self.draws * len(layers)
        return count, count

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        twin = self.twin(subject)
        chosen = redrawing.from_the_top(subject, ask, twin)
        if self.layers is not None:
            chosen = redrawing.layers(twin, self.layers)
        names = list(chosen)
        start = similarity.compare(judged.values, self.asked(judged, twin))
        curves = {k: torch.full((self.draws, len(v), len(names) + 1), torch.nan).double() for k, v in start.items()}
        for draw in range(self.draws):
            for name, found in start.items():
                curves[name][draw, :, 0] = found
            for step, model in enumerate(self.randomised(subject, chosen, ask.seed, draw), 1):
                for name, found in similarity.compare(judged.values, self.asked(judged, model)).items():
                    curves[name][draw, :, step] = found
        return self.told(curves, names)

    def twin(self, subject: Subject) -> nn.Module:
        """A copy of the model that may be written to."""
        assert subject.module is not None
        return redrawing.duplicate(subject.module)

    def asked(self, judged: Judged, model: nn.Module) -> Any:
        """The held method's values about another model."""
        found = judged.elsewhere(model)
        assert isinstance(found, Attribution)
        return found.values

    def randomised(
        self, subject: Subject, chosen: Mapping[str, list[str]], seed: int, draw: int
    ) -> Iterator[nn.Module]:
        """The copy after each layer was drawn anew."""
        twin = self.twin(subject)
        for names in chosen.values():
            if self.order == "independent":
                twin = self.twin(subject)
            redrawing.redraw(twin, names, self.draw, seed, draw)
            yield twin

    def told(self, curves: Mapping[str, Tensor], names: list[str]) -> Measure:
        """Means over steps and draws, with what they were made of."""
        each = {name: curve[:, :, 1:].nanmean(2) for name, curve in curves.items()}
        facts = {name: found.nanmean(0) for name, found in each.items()}
        main, first = facts["rank_signed"], each["rank_signed"]
        undefined = curves["rank_signed"][:, :, 1:].isnan().double().mean((0, 2))
        facts |= {"error": first.std(0) / self.draws**0.5, "undefined": undefined}
        facts["fails"] = torch.where(main.isnan(), torch.nan, (main > self.limit).double())
        parts = {name: curve.nanmean(0) for name, curve in curves.items()}
        parts = {"curve": parts["rank_signed"], "share": torch.linspace(0, 1, len(names) + 1).double(), **parts}
        unit = "rank correlation"
        return Measure(values=main, better="lower", unit=unit, facts=facts, parts=parts, source={"layers": names})
