"""What is gained by acting on an explanation? Interventions guided by it, against the same ones at random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Attribution, Card, Examples, Explanation, Measure, tensors
from pellucid.contract.errors import InputError, MethodError, NeedError
from pellucid.engine import Ask, Subject, feature
from pellucid.engine import seed as seeds
from pellucid.engine.data import Rows, rows_like
from pellucid.engine.evaluation import Evaluation, Judged, overall
from pellucid.engine.inputs import Inputs
from pellucid.engine.place import visit
from pellucid.engine.settings import whole
from pellucid.evaluation.removal_retraining import _accuracy, _means, _recipe

__all__ = ["Reward"]

ACTS = ("relabel", "mask", "prune")


@dataclass(frozen=True, kw_only=True)
class Reward(Evaluation):
    """What is gained by acting on the explanation, compared with acting on nothing but chance?

    One action is carried out as the explanation says, and, with the same effort, at random; both are judged by the
    accuracy on ``inputs``, whose true "labels" should be given (else the model's own answers stand for them).
    ``values``, of shape (1,), is the mean over ``repeats`` of the first accuracy minus the second: above 0 where the
    explanation was worth something.

    - act="relabel": the training rows are looked through, the most suspicious ``share`` of them first, and those found to
      have a wrong label get the right one ("truth"); then a network is trained anew. Suspicious is a row whose label the
      explanation supports least: the smallest sum of an attribution for that label; of examples, the row most of whose
      neighbours have another label.
    - act="mask": the ``share`` of features with the largest mean size over the training rows goes to the training mean,
      in training rows and ``inputs``, and a network is trained anew: a gain where the network leant on a shortcut that
      ``inputs`` do not have.
    - act="prune": the ``share`` of a layer's channels with the smallest mean size over ``inputs`` is set to zero, without
      training; ``layer=`` names it.

    Facts (1,): ``low`` and ``high``, a 95 % interval of the gain by Student's t over the repeats, which differ in the
    training's seed and the random choice; ``before``, the mean accuracy without any action. `parts`: ``guided`` and
    ``random`` (repeats,), ``found`` (2,), for "relabel" the share of wrong labels that each came upon.

    ``data``: a dict of "labels" of ``inputs``; for "relabel" and "mask" also "train", (X, y); for "relabel" "truth", the
    right labels of the training rows; "recipe", ``recipe(X, y, seed)``, which trains and returns a function from rows to
    scores (else a copy of the module learns by Adam); "explanation", the held method's own.

    Args:
        of: the explanation that is acted on: a method or its name.
        act: "relabel", "mask" or "prune".
        share: of training rows, features or channels.
        features: for "mask", what is one feature; as for occlusion.
        repeats: seeds of training and of the random choice.
        epochs: of the training without a recipe.

    Cost: explanations of the training rows, and 3 ``repeats`` trainings.
    Known failure: a gain says that the explanation pointed at the right place for this defect, not that it is right. An
    act on data without a defect has nothing to gain.
    Source: Fan, Xiong, Li & Wang 2021, §I-C (reward); the experiments are ours.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).eval()
        >>> x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
        >>> method = px.evaluation.Reward(act="prune", share=0.5)
        >>> px.explain(net, x, method, layer="1", data={"labels": net(x).argmax(1)}).facts["before"].item()
        1.0
    """

    act: str = "relabel"
    share: float = 0.2
    features: str | tuple[Any, ...] = "auto"
    repeats: int = 5
    epochs: int = 40

    wants: ClassVar[tuple[str, ...]] = ("attribution", "examples")
    own: ClassVar[tuple[str, ...]] = ("labels", "train", "truth", "recipe")
    card: ClassVar[Card] = Card(
        name="reward-quality",
        title="Reward of an explanation",
        question="What is gained by acting on the explanation, compared with acting on chance?",
        form="measure",
        scope="global",
        citation="fan2021interpretability",
        needs=("gradient", "labels"),
        taxonomy={"002": "evaluation/reward"},
        claims=("seeded",),
        trial={"of": "feature-ablation", "act": "mask", "repeats": 2, "epochs": 1, "share": 0.5},
        cost="explanations of the training rows, and 15 trainings",
        supports=("that this explanation helped to mend this defect, where the interval is above 0",),
        limits=("other defects", "whether a person acts as the explanation says"),
    )

    def split(self, data: Any) -> tuple[dict[str, Any], Any]:
        """Rows with labels alone are what to train on, and belong to this measurement."""
        return super().split(data) if isinstance(data, Mapping) else ({"train": data}, None)

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        if self.act not in ACTS:
            raise MethodError(f"The 'act' must be one of {ACTS}", got=repr(self.act))
        whole(repeats=(self.repeats, 2), epochs=(self.epochs, 1))
        if isinstance(self.share, bool) or not isinstance(self.share, int | float) or not 0 < self.share < 1:
            raise MethodError("The 'share' must be a number between 0 and 1", got=repr(self.share))
        if (self.act == "prune") != (ask.layer is not None):
            wanted = "name the layer to prune" if self.act == "prune" else "be left out: inputs and labels are acted on"
            raise MethodError(f"The 'layer' must {wanted}", got=str(ask.layer))
        needed = {"relabel": ("train", "truth"), "mask": ("train",), "prune": ("labels",)}[self.act]
        if missing := [name for name in needed if own.get(name) is None]:
            raise NeedError(f"To {self.act} needs {missing[0]!r}", got=", ".join(own) or "none", hint="data={...}")
        if self.act == "prune" and ask.subject.module is None:
            raise NeedError("To prune needs a torch module", got=type(ask.subject.model).__name__)
        if self.act != "prune":
            train = rows_like(own["train"], ask.inputs, labels=True)
            if own.get("truth") is not None and len(own["truth"]) != train.inputs.rows:
                raise InputError(f"The 'truth' must be {train.inputs.rows} labels", got=str(len(own["truth"])))
            if "recipe" not in own and ask.subject.module is None:
                raise NeedError("A 'model' that is no module needs a recipe to train it", got="no 'recipe'")
        if own.get("labels") is not None and len(own["labels"]) != ask.inputs.rows:
            raise InputError(f"The 'labels' must be {ask.inputs.rows}, one per row", got=str(len(own["labels"])))

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        own, _ = self.split(ask.data)
        labels = own.get("labels")
        if labels is None:  # then the network's own answers stand for the truth
            ask.target  # noqa: B018
            assert ask.output is not None
            flat = ask.output.reshape(ask.inputs.rows, -1)
            labels = flat.argmax(1) if flat.shape[1] > 1 else flat[:, 0].detach()
        acting = {"relabel": self.relabel, "mask": self.mask, "prune": self.prune}[self.act]
        cells, found = acting(subject, ask, judged, own, torch.as_tensor(labels))
        each = cells[:, 0] - cells[:, 1]
        said = overall(each)
        facts = {"low": said["low"], "high": said["high"], "before": float(cells[:, 2].mean())}
        return Measure(
            values=each.mean()[None],
            better="higher",
            unit="accuracy",
            facts={k: torch.tensor([v], dtype=torch.float64) for k, v in facts.items()},
            parts={"guided": cells[:, 0], "random": cells[:, 1], **({} if found is None else {"found": found})},
        )

    def relabel(
        self, subject: Subject, ask: Ask, judged: Judged, own: Mapping[str, Any], labels: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Accuracies (repeats, 3): as guided, at random, without the action; and the wrong labels that were found."""
        train = rows_like(own["train"], ask.inputs, labels=True)
        assert train.labels is not None
        truth = torch.as_tensor(own["truth"]).to(train.labels)
        doubt = suspicion(self.on(judged, train, train.labels), train.labels)
        count = round(self.share * train.inputs.rows)
        recipe = own.get("recipe") or _recipe(subject, train.inputs, self.epochs)
        rows, found = [], []
        for repeat in range(self.repeats):
            chosen = (doubt.argsort(descending=True, stable=True), self.order(ask, repeat, train.inputs.rows))
            line = []
            for some in (*(order[:count] for order in chosen), chosen[0][:0]):
                mended = train.labels.clone()
                mended[some] = truth[some]
                line.append(self.judged(recipe, train.inputs, mended, ask.inputs, labels, ask.seed + repeat))
            wrong = train.labels != truth
            found.append([float(wrong[order[:count]].sum()) / max(1, int(wrong.sum())) for order in chosen])
            rows.append(line)
        return torch.tensor(rows, dtype=torch.float64), torch.tensor(found, dtype=torch.float64).mean(0)

    def mask(
        self, subject: Subject, ask: Ask, judged: Judged, own: Mapping[str, Any], labels: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The same, with features masked in training rows and inputs."""
        train = rows_like(own["train"], ask.inputs, labels=True)
        assert train.labels is not None
        said = self.on(judged, train, None)
        if not isinstance(said, Attribution):
            raise MethodError("To mask needs an attribution of the inputs", got=said.form)
        places = feature.features(self.features, train.inputs)
        sizes = places.gather(tuple(v.detach() for v in tensors(said.values))).abs().double().mean(0).cpu()
        count, fill = max(1, round(self.share * places.count)), _means(train.inputs)
        recipe = own.get("recipe") or _recipe(subject, train.inputs, self.epochs)
        rows = []
        for repeat in range(self.repeats):
            line = []
            guided, random = sizes.argsort(descending=True, stable=True), self.order(ask, repeat, places.count)
            for gone in (guided[:count], random[:count], guided[:0]):
                kept = torch.ones(places.count, dtype=torch.bool)
                kept[gone] = False
                learnt, tried = (masked(x, self.features, kept, fill) for x in (train.inputs, ask.inputs))
                line.append(self.judged(recipe, learnt, train.labels, tried, labels, ask.seed + repeat))
            rows.append(line)
        return torch.tensor(rows, dtype=torch.float64), None

    def prune(
        self, subject: Subject, ask: Ask, judged: Judged, own: Mapping[str, Any], labels: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The same, with channels of the layer set to zero and nothing trained."""
        if not isinstance(judged.result, Attribution) or len(judged.parts) != 1:
            raise MethodError("To prune needs an attribution of one layer", got=judged.result.form)
        values = judged.parts[0].detach().double().cpu()
        sizes = values.transpose(0, 1).flatten(1).abs().mean(1)
        count = max(1, round(self.share * len(sizes)))
        rows = []
        for repeat in range(self.repeats):
            guided, random = sizes.argsort(stable=True), self.order(ask, repeat, len(sizes))
            cuts = (guided[:count], random[:count], guided[:0])
            rows.append([_accuracy(without(subject, ask, gone), labels) for gone in cuts])
        return torch.tensor(rows, dtype=torch.float64), None

    def on(self, judged: Judged, train: Rows, wanted: Tensor | None) -> Explanation:
        """What the held method says of the training rows, for their labels where these are wanted."""
        index = judged.ask.target.index
        target = None if index is not None else judged.ask.wanted
        asked = replace(judged.ask, inputs=train.inputs, wanted=target, output=None, _target=None)
        if wanted is not None:
            asked = replace(asked, wanted=wanted.long())
        found: Explanation = judged.method.explain(judged.subject, asked, judged.state)
        return found

    def order(self, ask: Ask, repeat: int, count: int) -> Tensor:
        """A random order, by the seed alone."""
        return torch.from_numpy(seeds.generator(ask.seed, b"reward", repeat).permutation(count))

    def judged(self, recipe: Any, learnt: Inputs, said: Tensor, tried: Inputs, labels: Tensor, seed: int) -> float:
        """The accuracy of a network that is trained on these rows."""
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
            predict = recipe(learnt.wrap_all(), said, seed)
        with torch.no_grad():
            scores = torch.as_tensor(predict(tried.wrap_all())).detach()
        return _accuracy(scores.reshape(tried.rows, -1), labels)


def suspicion(said: Explanation, labels: Tensor) -> Tensor:
    """How little an explanation supports each row's label, (rows,)."""
    if isinstance(said, Attribution):
        return -torch.stack([v.detach().double().flatten(1).sum(1).cpu() for v in tensors(said.values)]).sum(0)
    if isinstance(said, Examples) and isinstance(said.items, Tensor) and not said.items.is_floating_point():
        return (labels.cpu()[said.items.cpu()] != labels.cpu()[:, None]).double().mean(1)
    raise MethodError("To relabel needs an attribution, or examples given by their number", got=said.form)


def masked(inputs: Inputs, spec: Any, kept: Tensor, fill: tuple[Tensor, ...]) -> Inputs:
    """The rows with some features at the fill."""
    places = feature.features(spec, inputs)
    inside = places.among(torch.arange(inputs.rows), kept.expand(inputs.rows, -1))
    return inputs.with_floats([torch.where(m, x, f) for m, x, f in zip(inside, inputs.floats, fill, strict=True)])


def without(subject: Subject, ask: Ask, gone: Tensor) -> Tensor:
    """The scores (rows, classes) with channels of the layer at zero."""
    assert subject.module is not None
    assert ask.layer is not None

    def cut(values: Tensor) -> Tensor:
        changed = values.clone()
        changed[:, gone.to(values.device)] = 0
        return changed

    with torch.no_grad():
        output = visit(lambda: subject.scores(ask.inputs), subject.module, edit={ask.layer: cut}).output
    return output.detach().reshape(ask.inputs.rows, -1)
