"""Does an explanation change when the network has learnt other labels? Training once more, on labels in random order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pellucid.contract import Attribution, Card, Measure
from pellucid.contract.errors import InputError, MethodError, NeedError
from pellucid.engine import Ask, Subject, guard
from pellucid.engine import seed as seeds
from pellucid.engine.ask import predict
from pellucid.engine.data import Rows, rows_like
from pellucid.engine.evaluation import Evaluation, Judged, replace_model
from pellucid.engine.inputs import Inputs
from pellucid.engine.settings import whole
from pellucid.evaluation import redrawing, similarity
from pellucid.evaluation.randomisation import TAXONOMY

__all__ = ["DataRandomisationTest"]

Recipe = Callable[[Any, Tensor, int], nn.Module]


@dataclass(frozen=True, kw_only=True)
class DataRandomisationTest(Evaluation):
    """Does the explanation change when the network was trained on labels in random order?

    A network of the same architecture is trained on the same rows with their labels permuted, until it knows them by
    heart; then nothing that it found relates rows to what they are. It explains the same rows and targets. ``values`` is
    Spearman's rank correlation between both explanations' values (channels of images summed), from -1 to 1, the mean
    over draws: near 0 passes, near 1 means that the map does not depend on what the labels say.

    Facts: ``rank_signed`` (equal to ``values``), ``rank_absolute``, of sizes, for images ``ssim`` and ``hog``, of sizes
    scaled to 0…1; ``retrained``, the signed rank correlation with a network trained by the same recipe on the true
    labels: what of a difference is due to training once more; ``error``, the standard error of ``values``, where
    draws are several; ``fails``, 1 where ``values`` exceed ``limit``. NaN where a map is constant. `parts`: ``accuracy``
    (draws + 1,), on the training rows with the labels that were trained on; the last is that with the true labels.

    Data: ``data=(X, y)``, on which copies of the model are trained from new weights by the recipe here (AdamW with
    cross-entropy, in batches of 64, for at most ``epochs``, until ``least`` is reached); or, for a recipe of one's own,
    ``data={"rows": (X, y), "recipe": f}``, with "explanation" for the held method's data, where ``f(X, y, seed)`` gives
    the trained module. A single score is trained to tell label 0 from the others. Draws of the recipe
    should depend on ``seed`` alone; generators are put back afterwards.

    Args:
        of: the explanation that is measured: a method or its name.
        draws: permutations of the labels, each trained on once.
        least: the training accuracy that must be reached on permuted labels; below it the test is void and refused.
        epochs: the most epochs of the recipe here.
        rate: its learning rate.
        limit: the similarity above which a row fails. A convention of ours.

    Cost: draws + 1 trainings, and that of ``of`` times draws + 2.
    Known failures: maps times the input look alike by size wherever the input is zero, so read the signed comparison; a
    small network may be unable to learn random labels.
    Source: Adebayo, Gilmer, Muelly, Goodfellow, Hardt & Kim 2018, §3.2, §4.2; ``retrained`` is ours.

    Example:
        >>> import torch, pellucid as px
        >>> X, y = torch.randn(12, 4), torch.arange(12) % 2
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2)).eval()
        >>> found = px.explain(net, X[:2], "data-randomization-test", data=(X, y))
        >>> bool((found.parts["accuracy"] > 0.95).all())
        True
    """

    draws: int = 1
    least: float = 0.95
    epochs: int = 500
    rate: float = 0.01
    limit: float = 0.5

    own: ClassVar[tuple[str, ...]] = ("rows", "recipe")

    quality: ClassVar[str] = "sanity"

    card: ClassVar[Card] = Card(
        name="data-randomization-test",
        title="Data randomisation test",
        question="Does the explanation change when the network was trained on labels in random order?",
        form="measure",
        scope="local",
        citation="adebayo2018sanity",
        needs=("gradient", "labels"),
        taxonomy=TAXONOMY,
        claims=("rowwise", "seeded"),
        trial={"of": "vanilla-gradient", "epochs": 1, "least": 0.0},
        cost="two trainings, and the explanation three times",
        supports=("how much of this map would be there if the labels had meant nothing",),
        limits=("whether the map is right: passing only says that it depends on what was learnt",),
    )

    def split(self, data: Any) -> tuple[dict[str, Any], Any]:
        if not isinstance(data, Mapping) or not set(data) & {"rows", "recipe"}:
            return {"rows": data}, None
        return super().split(data)

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        whole(draws=(self.draws, 1), epochs=(self.epochs, 1))
        for name, low, high in (("least", 0, 1), ("rate", 0, 10), ("limit", -1, 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise MethodError(f"The '{name}' must be a number from {low} to {high}", got=repr(value))
        if "rows" not in own:
            raise InputError("The 'data' must hold the rows to train on", got="no 'rows'", hint="data={'rows': (X, y)}")
        if not callable(own.get("recipe", print)):
            raise InputError("The 'recipe' must be a function of (X, y, seed)", got=type(own["recipe"]).__name__)
        found = rows_like(own["rows"], ask.inputs, labels=True)
        assert found.labels is not None
        if found.labels.is_floating_point() or len(found.labels.unique()) < 2:
            raise InputError(
                "The labels in 'data' must be whole numbers of two or more classes", got=_told(found.labels)
            )

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        own, _ = self.split(ask.data)
        rows = rows_like(own["rows"], ask.inputs, labels=True)
        assert rows.labels is not None
        recipe: Recipe = own.get("recipe") or self.recipe(subject, rows.inputs)
        found, accuracies = [], []
        for draw in range(self.draws + 1):
            true = draw == self.draws
            order = torch.from_numpy(seeds.generator(ask.seed, b"labels", draw).permutation(len(rows.labels)))
            labels = rows.labels if true else rows.labels[order.to(rows.labels.device)]
            model = self.trained(recipe, rows, labels, ask.seed)
            accuracies.append(self.accuracy(ask, subject, model, rows, labels))
            if accuracies[-1] < self.least:
                raise NeedError(
                    f"The training must reach an accuracy of {self.least:g} on {'true' if true else 'permuted'} labels, or "
                    "the test is void",
                    got=f"{accuracies[-1]:.3f}",
                    hint="more epochs, fewer rows, or a recipe of your own",
                )
            again = judged.elsewhere(model)
            assert isinstance(again, Attribution)
            found.append(similarity.compare(judged.values, again.values))
        return self.told(found, torch.tensor(accuracies, dtype=torch.float64))

    def trained(self, recipe: Recipe, rows: Rows, labels: Tensor, seed: int) -> nn.Module:
        """What the recipe makes of copies of these rows, in evaluation mode."""
        inputs = rows.inputs.take(torch.arange(rows.inputs.rows)).wrap_all()
        with guard.generators(), torch.inference_mode(False), torch.enable_grad():
            model = recipe(inputs, labels.clone(), seed)
        if not isinstance(model, nn.Module):
            raise InputError("The 'recipe' must give a torch module", got=type(model).__name__)
        return model.eval()

    def accuracy(self, ask: Ask, subject: Subject, model: nn.Module, rows: Rows, labels: Tensor) -> float:
        """The share of rows for which the model gives these labels."""
        return right(predict(replace_model(subject, model), rows.inputs, ask.memory), labels)

    def told(self, found: list[dict[str, Tensor]], accuracies: Tensor) -> Measure:
        """Means over the draws, with the network of the true labels beside them."""
        *permuted, true = found
        facts = {name: torch.stack([f[name] for f in permuted]).mean(0) for name in true}
        values, each = facts["rank_signed"], torch.stack([f["rank_signed"] for f in permuted])
        facts["retrained"] = true["rank_signed"]
        if self.draws > 1:
            facts["error"] = each.std(0) / self.draws**0.5
        facts["fails"] = torch.where(values.isnan(), torch.nan, (values > self.limit).double())
        parts = {"accuracy": accuracies}
        return Measure(values=values, better="lower", unit="rank correlation", facts=facts, parts=parts)

    def recipe(self, subject: Subject, like: Inputs) -> Recipe:
        """Train a copy of the model, whose weights are drawn anew, on the rows it is given."""

        def train(given: Any, labels: Tensor, seed: int) -> nn.Module:
            assert subject.module is not None
            model = redrawing.duplicate(subject.module)
            for names in redrawing.layers(model).values():
                redrawing.redraw(model, names, "initial", seed, 0)
            for part in model.modules():
                if isinstance(part, nn.modules.batchnorm._BatchNorm):
                    part.reset_running_stats()
            rows = Rows(rows_like((given, labels), like).inputs, labels.to(like.device))
            torch.random.default_generator.manual_seed(seed)  # dropout; the caller's state is put back
            self.descend(replace_model(subject, model.requires_grad_(True)), model, rows, seed)
            return model.requires_grad_(False)

        return train

    def descend(self, subject: Subject, model: nn.Module, rows: Rows, seed: int) -> None:
        """AdamW on cross-entropy until an epoch's rows were all but `least` right in evaluation mode."""
        assert rows.labels is not None
        optimiser = torch.optim.AdamW(model.parameters(), lr=self.rate)
        for epoch in range(self.epochs):
            order = torch.from_numpy(seeds.generator(seed, b"batches", epoch).permutation(rows.inputs.rows))
            model.train()
            for chosen in order.split(64):
                output, wanted = fit(subject.scores(rows.inputs.take(chosen)), rows.labels[chosen])
                if output.shape[1] <= int(wanted.max()):
                    raise InputError(
                        f"The labels in 'data' must be classes of the model, from 0 to {output.shape[1] - 1}",
                        got=str(int(wanted.max())),
                    )
                loss = nn.functional.cross_entropy(output, wanted)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
            model.eval()
            with torch.no_grad():
                known = right(subject.scores(rows.inputs), rows.labels)
            if known > (1 + self.least) / 2:
                return


def fit(output: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (rows, classes) and the classes they are to name; a single score tells label 0 from all others."""
    flat = output.reshape(output.shape[0], -1)
    if flat.shape[1] == 1:
        return torch.cat([torch.zeros_like(flat), flat], 1), (labels > 0).long()
    return flat, labels.long()


def right(output: Tensor, labels: Tensor) -> float:
    """The share of rows whose class is named."""
    scores, wanted = fit(output, labels)
    return float((scores.argmax(1).cpu() == wanted.cpu()).double().mean())


def _told(labels: Tensor) -> str:
    return f"{labels.dtype} with {len(labels.unique())} different values"
