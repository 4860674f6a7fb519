"""Does a map show the picture rather than the decision? The tests of image recovery on the network and untrained twins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Attribution, Card, Measure, tensors
from pellucid.contract.errors import LayerError, MethodError
from pellucid.engine import Ask, Subject, batch
from pellucid.engine.ask import shape_key
from pellucid.engine.evaluation import Evaluation, Judged, replace_model
from pellucid.engine.gradient import gradient
from pellucid.engine.inputs import Inputs
from pellucid.engine.settings import whole
from pellucid.evaluation import redrawing
from pellucid.evaluation.similarity import pearson

__all__ = ["ImageRecovery"]

BEYOND = 1.02  # how far past the boundary an attack's step aims, by the linear account of it


@dataclass(frozen=True, kw_only=True)
class ImageRecovery(Evaluation):
    """Does this map show the picture itself, whatever the network has learnt and whichever class is asked for?

    ``values`` is Pearson's correlation between the map and the picture, over all pixels and channels, from -1 to 1: near 1
    the map is a copy of the picture. NaN where either is constant.

    Facts: ``cosine``, that of the angle between map and picture, and ``away``, its sine: the share of the map that is not
    the picture; ``untrained`` and ``untrained_away``, the same of the same architecture with all weights drawn anew, the
    mean over draws, with ``untrained_error``, the standard error of ``untrained``; ``class_distance``, the distance of the
    maps of the explained and of each other class, every map scaled to length 1: 0 where the map does not depend on the
    class, 1.41 where maps have nothing in common, 2 where one is minus the other, the mean over ``others`` classes;
    ``untrained_class_distance``; ``attack_distance``, that of the maps of the picture and of a near picture made to get
    another class, each for the class it is given; ``attack_size``, how far away that is, as a share of the picture's
    length; ``attack_found``, 1 where its class is another. What is said of classes is NaN where no class is explained.

    Args:
        of: the map that is measured: a method or its name.
        draws: untrained twins.
        others: other classes, those with the highest scores first.
        attack: steps of the search for a picture with another class; 0 leaves it out.

    Cost: that of ``of``, times 2 + ``others`` and ``draws`` (1 + ``others``); ``attack`` forwards and backwards.
    Known failure: where the picture is itself the evidence, as for a linear template, a right map looks like it: compare
    with ``untrained``, and with the plain gradient.
    Source: Nie, Zhang & Patel 2018, §3 (theory), §4 (random and trained networks, classes, attacks); guided
    backpropagation recovers pictures by its backward rectifier, deconvnets by max-pooling alone. The attack
    is DeepFool's step towards the nearest class, as theirs is not told.

    Example:
        >>> import torch, pellucid as px
        >>> hidden = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4000), torch.nn.ReLU())
        >>> net = torch.nn.Sequential(hidden, torch.nn.Linear(4000, 3)).eval()
        >>> _ = [torch.nn.init.normal_(p) for p in net.parameters()]
        >>> found = px.explain(net, torch.rand(1, 1, 4, 4), px.evaluation.ImageRecovery(draws=2))
        >>> bool(found.facts["cosine"] > 0.9), bool(found.facts["class_distance"] < 0.3)
        (True, True)
    """

    of: Any = "guided-backprop"
    draws: int = 3
    others: int = 2
    attack: int = 20

    asks_again: ClassVar[bool] = True

    card: ClassVar[Card] = Card(
        name="gbp-image-recovery-theory",
        title="Image recovery",
        question="Does this map show the picture itself rather than the decision?",
        form="measure",
        scope="local",
        citation="nie2018theoretical",
        needs=("gradient", "image"),
        data_types=("image",),
        taxonomy={"001": "visualization/backpropagation/evaluation", "002": "evaluation/sanity-checks"},
        claims=("rowwise", "seeded"),
        trial={"of": "vanilla-gradient", "draws": 4, "others": 1, "attack": 3},
        cost="the explanation 13 times, 20 forwards and backwards",
        supports=("how much of this map is a copy of its picture, and how much changes with the class",),
        limits=("whether what is not the picture is right",),
    )

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        whole(draws=(self.draws, 2), others=(self.others, 1), attack=(self.attack, 0))
        if ask.layer is not None:
            raise LayerError("The 'layer' must be left out: maps are compared with the picture", got=str(ask.layer))

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        images = ask.inputs.floats[0]
        found = self.flat(judged.result, images)
        picture = images.detach().cpu().double().flatten(1)
        classes = self.classes(ask)
        facts = {
            "cosine": cosine(found, picture),
            "away": away(found, picture),
            "class_distance": self.between(judged, subject, found, classes, images),
            **self.untrained(judged, subject, picture, classes, images),
            **self.attacked(judged, subject, images),
        }
        values = pearson(found, picture)
        return Measure(values=values, better="lower", unit="correlation with the picture", facts=facts)

    def flat(self, result: Any, images: Tensor) -> Tensor:
        """A map as (rows, values) in float64; one that is coarser or finer than the picture is refused."""
        assert isinstance(result, Attribution)
        parts = tensors(result.values)
        if len(parts) != 1 or parts[0].dim() != 4 or parts[0].shape[2:] != images.shape[2:]:
            raise MethodError(
                "The attribution must be a map over the pixels of the picture",
                got=", ".join(str(tuple(p.shape)) for p in parts),
            )
        return parts[0].detach().expand_as(images).cpu().double().flatten(1)

    def classes(self, ask: Ask) -> Tensor | None:
        """The other classes of each row, by their scores (rows, others); None where no class is explained."""
        index, output = ask.target.index, ask.output
        if index is None or output is None or output.reshape(len(output), -1).shape[1] < 2:
            return None
        scores = output.detach().reshape(len(output), -1).scatter(1, index[:, None], -torch.inf)
        return scores.argsort(dim=1, descending=True, stable=True)[:, : min(self.others, scores.shape[1] - 1)]

    def asked(
        self, judged: Judged, subject: Subject, wanted: Any, images: Tensor, inputs: Inputs | None = None
    ) -> Tensor:
        """The held method's map of another model, class or picture."""
        asked = replace(
            judged.ask, subject=subject, wanted=wanted, inputs=inputs or judged.ask.inputs, output=None, _target=None,
            model_hash="" if subject is not judged.subject else judged.ask.model_hash,
        )  # fmt: skip
        asked.__dict__.pop("keys", None)
        state = judged.state if subject is judged.subject else judged.method.prepare(subject, asked)
        return self.flat(judged.method.explain(subject, asked, state), images)

    def between(self, judged: Judged, subject: Subject, own: Tensor, classes: Tensor | None, images: Tensor) -> Tensor:
        """The mean distance from this class's map to the others'."""
        if classes is None:
            return torch.full((len(own),), torch.nan, dtype=torch.float64)
        each = [distance(own, self.asked(judged, subject, column, images)) for column in classes.T]
        return torch.stack(each).mean(0)

    def untrained(
        self, judged: Judged, subject: Subject, picture: Tensor, classes: Tensor | None, images: Tensor
    ) -> dict[str, Tensor]:
        """The same of twins whose weights were drawn anew."""
        assert subject.module is not None
        alike, rest, apart = [], [], []
        target = judged.ask.target
        wanted = target.index if target.index is not None else judged.ask.wanted
        for draw in range(self.draws):
            twin = redrawing.duplicate(subject.module)
            for names in redrawing.layers(twin).values():
                redrawing.redraw(twin, names, "initial", judged.ask.seed, draw)
            other = replace_model(subject, twin)
            own = self.asked(judged, other, wanted, images)
            alike.append(pearson(own, picture))
            rest.append(away(own, picture))
            apart.append(self.between(judged, other, own, classes, images))
        return {
            "untrained": torch.stack(alike).nanmean(0),
            "untrained_error": _error(torch.stack(alike)),
            "untrained_away": torch.stack(rest).nanmean(0),
            "untrained_class_distance": torch.stack(apart).nanmean(0),
        }

    def attacked(self, judged: Judged, subject: Subject, images: Tensor) -> dict[str, Tensor]:
        """How far the map moves when the picture is changed until it is given another class."""
        output = judged.ask.output
        none = torch.full((len(images),), torch.nan, dtype=torch.float64)
        if not self.attack or output is None or output.dim() != 2 or output.shape[1] < 2:
            return {"attack_distance": none, "attack_size": none, "attack_found": none}
        moved, turned = nearest(judged.ask, self.attack)
        before = self.asked(judged, subject, None, images)
        after = self.asked(judged, subject, None, images, judged.ask.inputs.with_floats([moved]))
        length = images.flatten(1).norm(dim=1)
        size = ((moved - images).flatten(1).norm(dim=1) / length).cpu().double()
        return {
            "attack_distance": distance(before, after),
            "attack_size": size,
            "attack_found": turned.cpu().double(),
        }


def nearest(ask: Ask, steps: int) -> tuple[Tensor, Tensor]:
    """A near picture of each row that the model gives another class, and whether one was found.

    Each step goes to where the margin to the nearest other class would vanish if it were linear, and a little beyond.
    """
    found: list[tuple[Tensor, Tensor]] = []

    def work(start: int, stop: int) -> tuple[Tensor, Tensor]:
        inputs = ask.inputs.take(torch.arange(start, stop))
        picture = inputs.floats[0]
        with torch.no_grad():
            own = ask.subject.scores(inputs).argmax(1, keepdim=True)

        def margin(output: Tensor) -> Tensor:
            others = output.scatter(1, own, -torch.inf).amax(1)
            return output.gather(1, own)[:, 0] - others

        turned = torch.zeros(len(picture), dtype=torch.bool, device=picture.device)
        for _ in range(steps):
            seen = gradient(ask.subject, inputs.with_floats([picture]), margin)
            turned, slope = seen.score < 0, seen.grads[0]
            size = slope.flatten(1).square().sum(1).clamp(min=1e-30)
            step = -BEYOND * seen.score / size
            step = torch.where(turned | (size <= 1e-30), 0.0, step)
            picture = picture + step.reshape(-1, 1, 1, 1) * slope
        with torch.no_grad():
            last = margin(ask.subject.scores(inputs.with_floats([picture])))
        return picture, last < 0

    batch.run(
        ask.inputs.rows,
        work,
        lambda start, stop, result: found.append(result),
        memory=ask.memory,
        cost=(ask.subject.module, ("nearest other class", shape_key(ask.inputs))),
        device=ask.inputs.device,
        progress=ask.progress,
    )
    return torch.cat([moved for moved, _ in found]), torch.cat([turned for _, turned in found])


def _unit(maps: Tensor) -> Tensor:
    """Maps (rows, values) of length 1; NaN where a map is zero everywhere."""
    size = maps.norm(dim=1, keepdim=True)
    return torch.where(size > 0, maps / size, torch.nan)


def _error(draws: Tensor) -> Tensor:
    """The standard error of the mean over draws (draws, rows); draws that are NaN are left out."""
    count = draws.isfinite().sum(0)
    square = (draws - draws.nanmean(0)).square().nansum(0) / (count - 1).clamp(min=1)
    return torch.where(count > 1, (square / count.clamp(min=1)).sqrt(), torch.nan)


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """That of the angle between maps (rows, values)."""
    return (_unit(first) * _unit(second)).sum(1).clamp(-1, 1)


def away(found: Tensor, picture: Tensor) -> Tensor:
    """The sine of the angle: the length of what is left of a map of length 1 without its part along the picture."""
    one, two = _unit(found), _unit(picture)
    return (one - (one * two).sum(1, keepdim=True) * two).norm(dim=1)


def distance(first: Tensor, second: Tensor) -> Tensor:
    """The distance of two maps that are scaled to length 1, from 0 to 2."""
    return (_unit(first) - _unit(second)).norm(dim=1)
