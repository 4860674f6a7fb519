"""Does a network that is trained anew, without what an explanation calls important, do worse?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from pellucid.contract import Card, Measure, tensors
from pellucid.contract.errors import InputError, LayerError, MethodError, NeedError
from pellucid.engine import Ask, Subject, feature
from pellucid.engine.cells import Cells
from pellucid.engine.data import rows_like
from pellucid.engine.evaluation import Evaluation, Judged, random_order, ranking, replace_model
from pellucid.engine.inputs import Inputs
from pellucid.engine.settings import whole

__all__ = ["RemoveAndRetrain"]

WAYS = ("remove", "keep")
Recipe = Callable[[Any, Tensor, int], Any]


@dataclass(frozen=True, kw_only=True)
class RemoveAndRetrain(Evaluation):
    """Does a network that is trained anew, without the features called most important, do worse than without others?

    For each share t, the t most important features of every row, of the training rows and of ``inputs``, go to the mean
    of the training rows (way="remove", ROAR), or all others do (way="keep", KAR). A network is trained from scratch on
    what is left, and its accuracy on the changed ``inputs`` is taken; so with random orders of the features. ``values``,
    of shape (1,), is the mean over shares and repeats of random accuracy minus the explanation's ("remove"), or of the
    explanation's minus random ("keep"): above 0 where the explanation is better than chance. Where outputs have one
    column, R² stands for accuracy.

    `parts`: ``curve`` and ``random`` (1, 1 + shares), the mean accuracies, the first with nothing changed; ``share``;
    ``accuracy`` and ``random_accuracy`` (repeats, 1 + shares). Fact ``standard_error`` of ``values``, over the repeats.

    ``data`` is (X, y) to train on, or a dict with "train", (X, y), and further:

    - "recipe": ``recipe(X, y, seed)`` trains and returns a function from rows to scores. Without it, a copy of the module
      starts from fresh weights and learns by Adam for ``epochs``.
    - "labels" of ``inputs``; else what the model itself says of them.
    - "store", a folder: each trained cell is written there as one small file, at once and whole, so that a run that was
      killed goes on where it stopped and ends with the same bytes. Cells belong to the model, the data and the settings;
      a changed recipe needs another folder.
    - "explanation": the held method's own data.

    Args:
        of: the explanation that is measured: a method or its name.
        way: "remove" or "keep".
        shares: t, between 0 and 1.
        features: what is removed at once; as for occlusion, "auto" is a grid of 8 × 8 for images.
        repeats: networks per share and order, of different seeds.
        epochs: of the training without a recipe.

    Cost: that of ``of`` for all rows, and (2 shares + 1) ``repeats`` trainings.
    Known failure: features that repeat each other: removing one leaves its twin, and a good explanation may look no better
    than chance. Where features go may itself tell the class; "keep" shows that.
    Source: Hooker, Erhan, Kindermans & Kim 2019, §3; KAR: its appendix.

    Example:
        >>> import torch, pellucid as px
        >>> net, x = torch.nn.Linear(4, 2).eval(), torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
        >>> method = px.evaluation.RemoveAndRetrain(shares=(0.5,), repeats=2, epochs=2)
        >>> px.explain(net, x, method, data=(x, net(x).argmax(1))).parts["curve"].shape
        torch.Size([1, 2])
    """

    way: str = "remove"
    shares: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    features: str | tuple[Any, ...] = "auto"
    repeats: int = 3
    epochs: int = 40

    own: ClassVar[tuple[str, ...]] = ("train", "labels", "recipe", "store")
    card: ClassVar[Card] = Card(
        name="roar",
        title="Remove and retrain",
        question="Does a network trained anew without what is called important do worse?",
        form="measure",
        scope="global",
        citation="hooker2019benchmark",
        needs=("predictions", "labels"),
        taxonomy={"001": "evaluation/fidelity", "003": "evaluation/remove and retrain"},
        claims=("seeded",),
        exempt={"predictions alone": "a model that is no module needs a recipe to train it, which the kit has not"},
        trial={"of": "feature-ablation", "shares": (0.5,), "repeats": 2, "epochs": 1},
        cost="explanations of all rows, and 33 trainings",
        supports=("whether what is called important holds more of what can be learnt than random features do",),
        limits=("what this network itself uses", "the merit of single rows' explanations"),
    )

    def split(self, data: Any) -> tuple[dict[str, Any], Any]:
        """What to train on belongs to this measurement, not to the held method."""
        return super().split(data) if isinstance(data, Mapping) else ({"train": data}, None)

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        if self.way not in WAYS:
            raise MethodError(f"The 'way' must be one of {WAYS}", got=repr(self.way))
        whole(repeats=(self.repeats, 2), epochs=(self.epochs, 1))
        good = isinstance(self.shares, tuple) and self.shares and all(0 < t < 1 for t in self.shares)
        if not good:
            raise MethodError("The 'shares' must be a tuple of numbers between 0 and 1", got=repr(self.shares))
        if ask.layer is not None:
            raise LayerError("The 'layer' must be left out: inputs are removed, and trained on", got=str(ask.layer))
        if "train" not in own:
            raise NeedError("The 'data' must hold what to train on", got=", ".join(own), hint="data={'train': (X, y)}")
        if not ask.inputs.explained:
            got = ", ".join(str(x.dtype) for x in ask.inputs.tensors)
            raise InputError("The 'inputs' must have a floating tensor, whose features can be removed", got=got)
        if "recipe" not in own and ask.subject.module is None:
            raise NeedError("A 'model' that is no module needs a recipe to train it", hint="data={'recipe': function}")
        if "recipe" in own and not callable(own["recipe"]):
            raise InputError("The 'recipe' must be a function of X, y and a seed", got=type(own["recipe"]).__name__)
        rows_like(own["train"], ask.inputs, labels=True)

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        own, _ = self.split(ask.data)
        train = rows_like(own["train"], ask.inputs, labels=True)
        assert train.labels is not None
        held_out, says = own.get("labels"), ask.output
        assert says is not None
        if held_out is None:
            flat = says.reshape(len(says), -1)
            held_out = flat.argmax(1) if flat.shape[1] > 1 else flat[:, 0]
        held_out = torch.as_tensor(held_out)
        if held_out.shape[:1] != (ask.inputs.rows,):
            raise InputError(f"The 'labels' must be {ask.inputs.rows}, one per row", got=str(tuple(held_out.shape)))
        inputs = train.inputs
        wanted = None if ask.target.index is not None else judged.ask.wanted
        asked = replace(judged.ask, inputs=inputs, wanted=wanted, output=None, _target=None)
        values = tensors(judged.method.explain(subject, asked, judged.state).values)
        work = _Work(
            method=self,
            fill=_means(inputs),
            train=_Ranked.of(inputs, train.labels, self.features, values, asked),
            test=_Ranked.of(ask.inputs, held_out, self.features, judged.parts, ask),
            recipe=own.get("recipe") or _recipe(subject, inputs, self.epochs),
            store=_store(own.get("store"), self, ask, asked, train.labels, held_out),
            seed=ask.seed,
        )
        label, cells = self.card.title, []
        with ask.progress.bar(self.repeats * (2 * len(self.shares) + 1), label) as tell:
            for repeat in range(self.repeats):
                whole = work.cell("explanation", 0.0, repeat)
                tell(1)
                row = [[whole], [whole]]
                for share in self.shares:
                    for place, order in enumerate(("explanation", "random")):
                        row[place].append(work.cell(order, share, repeat))
                        tell(1)
                cells.append(row)
        return self._result(torch.tensor(cells, dtype=torch.float64))

    def _result(self, cells: Tensor) -> Measure:
        """From accuracies (repeats, 2, 1 + shares), the explanation's first."""
        sign = 1.0 if self.way == "remove" else -1.0
        each = sign * (cells[:, 1, 1:] - cells[:, 0, 1:]).mean(1)
        return Measure(
            values=each.mean()[None],
            better="higher",
            unit="accuracy",
            facts={"standard_error": (each.std() / self.repeats**0.5)[None]},
            parts={
                "curve": cells[:, 0].mean(0)[None],
                "random": cells[:, 1].mean(0)[None],
                "share": torch.tensor([0.0, *self.shares], dtype=torch.float64),
                "accuracy": cells[:, 0],
                "random_accuracy": cells[:, 1],
            },
        )


@dataclass(frozen=True, eq=False)
class _Ranked:
    """Rows with labels and the figures of their features."""

    inputs: Inputs
    labels: Tensor
    features: feature.Features
    figures: Tensor
    keys: list[bytes]

    @classmethod
    def of(cls, inputs: Inputs, labels: Tensor, spec: Any, values: list[Tensor], ask: Ask) -> _Ranked:
        found = feature.features(spec, inputs)
        return cls(inputs, labels, found, found.gather(tuple(values)), ask.keys)

    def changed(self, order: str, share: float, way: str, fill: tuple[Tensor, ...], seed: int) -> Inputs:
        """The rows with a share of their features at the fill."""
        count = self.features.count
        ranks = ranking(self.figures) if order == "explanation" else random_order(seed, self.keys, count)
        first = torch.zeros(ranks.shape, dtype=torch.bool).scatter_(1, ranks[:, : round(share * count)], True)
        present = ~first if way == "remove" or share == 0 else first
        inside = self.features.among(torch.arange(self.inputs.rows), present)
        return self.inputs.with_floats(
            [torch.where(m, x, f.to(x)) for m, x, f in zip(inside, self.inputs.floats, fill, strict=True)]
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class _Work:
    """What every cell needs: one cell is one training and its accuracy."""

    method: RemoveAndRetrain
    fill: tuple[Tensor, ...]
    train: _Ranked
    test: _Ranked
    recipe: Recipe
    store: Cells
    seed: int

    def cell(self, order: str, share: float, repeat: int) -> float:
        """The accuracy, read from the store where it is there."""
        made = self.store.get(f"{order}-{share:g}-{repeat}", lambda: {"accuracy": [self.made(order, share, repeat)]})
        return made["accuracy"][0]

    def made(self, order: str, share: float, repeat: int) -> float:
        """Train on what is left, and take the accuracy."""
        settings = (order, share, self.method.way, self.fill, self.seed + repeat)
        train, test = self.train.changed(*settings), self.test.changed(*settings)
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(self.seed + repeat)
            answers = self.recipe(train.wrap_all(), self.train.labels, self.seed + repeat)
        with torch.no_grad():
            scores = torch.as_tensor(answers(test.wrap_all()))
            scores = scores.reshape(len(scores), -1)
        return _accuracy(scores, self.test.labels)


def _store(folder: Any, method: RemoveAndRetrain, ask: Ask, asked: Ask, labels: Tensor, held_out: Tensor) -> Cells:
    config = {k: v for k, v in method.config().items() if k not in ("shares", "repeats")}
    parts = (f"{ask.seed}{ask.model_hash}", ask.inputs.fingerprint(), asked.inputs.fingerprint(), repr(ask.wanted))
    return Cells.of(folder, config, parts, (labels, held_out))


def _means(inputs: Inputs) -> tuple[Tensor, ...]:
    """The mean of the training rows: of each column of a table, each channel of images, each width of sequences."""
    axes = {2: (0,), 3: (0, 1)}
    return tuple(x.mean(axes.get(x.dim(), (0, *range(2, x.dim()))), keepdim=True) for x in inputs.floats)


def _accuracy(scores: Tensor, labels: Tensor) -> float:
    """The share of right classes; R² where there is one column."""
    labels = labels.to(scores.device)
    if scores.shape[1] > 1:
        return float((scores.argmax(1) == labels).double().mean())
    away = labels.double() - labels.double().mean()
    left = labels.double() - scores[:, 0].double()
    return float(1 - (left**2).sum() / (away**2).sum().clamp(min=1e-300))


def _recipe(subject: Subject, inputs: Inputs, epochs: int) -> Recipe:
    """A copy of the module learns from fresh weights, by Adam, in shuffled batches of 64."""
    assert subject.module is not None

    def learn(rows: Any, labels: Tensor, seed: int) -> Callable[[Any], Tensor]:
        module = copy.deepcopy(subject.module)
        assert module is not None
        _afresh(module, torch.Generator().manual_seed(seed))
        own = replace_model(subject, module)
        given = _like(inputs, rows)
        weights = [p.requires_grad_(True) for p in module.parameters() if p.is_floating_point()]
        step = torch.optim.Adam(weights, lr=1e-2)
        shuffle = torch.Generator().manual_seed(seed)
        for _ in range(epochs):
            for chosen in torch.randperm(given.rows, generator=shuffle).split(64):
                step.zero_grad()
                scores = own.scores(given.take(chosen)).reshape(len(chosen), -1)
                loss = (
                    functional.cross_entropy(scores, labels[chosen].to(scores.device).long())
                    if scores.shape[1] > 1
                    else functional.mse_loss(scores[:, 0], labels[chosen].to(scores))
                )
                loss.backward()
                step.step()
        return lambda x: own.scores(_like(inputs, x))

    return learn


def _like(inputs: Inputs, rows: Any) -> Inputs:
    return replace(inputs, tensors=tuple(tensors(rows)))


def _afresh(module: nn.Module, generator: torch.Generator) -> None:
    """New weights: matrices and kernels by He et al., scales one, shifts zero, statistics forgotten."""
    with torch.no_grad():
        for name, p in module.named_parameters():
            if p.dim() > 1:
                fan = p[0].numel()
                p.copy_(torch.randn(p.shape, generator=generator).to(p) * (2 / fan) ** 0.5)
            else:
                p.fill_(1.0 if name.endswith("weight") else 0.0)
        for name, b in module.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                b.fill_(float(name.endswith("running_var")))
