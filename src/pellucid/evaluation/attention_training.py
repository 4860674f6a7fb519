"""Does attention hold something that other weights do not? The tests of "Attention is not not explanation", by training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pellucid.contract import Card, Measure, Method
from pellucid.contract.errors import InputError, LayerError, MethodError, NeedError, TargetError
from pellucid.engine import Ask, Subject, attention, guard
from pellucid.engine.ask import predict
from pellucid.engine.attention import Map
from pellucid.engine.cells import Cells
from pellucid.engine.data import Rows, rows_like
from pellucid.engine.evaluation import replace_model
from pellucid.engine.inputs import Inputs
from pellucid.engine.layout import lay
from pellucid.engine.settings import whole
from pellucid.evaluation import attention_networks as networks
from pellucid.evaluation import redrawing
from pellucid.evaluation.attention_search import SCORES, distance, divergence, probabilities
from pellucid.evaluation.retraining import right

__all__ = ["AttentionIsNotNotExplanation"]

OWN = ("train", "labels", "factory", "store")
Factory = Callable[[int], nn.Module]


@dataclass(frozen=True, eq=False)
class Looked:
    """A model's attention over some rows, and the tokens' values at the explained place."""

    map: Map  # without its memory: where it is
    weights: Tensor  # (rows, heads, queries, keys)
    share: Tensor  # (rows, heads, queries)
    values: Tensor  # (rows, tokens, width)
    extra: int

    def tokens(self, weights: Tensor) -> Tensor:
        """Weights as one distribution over the place's own tokens, (rows, tokens)."""
        mean = (self.share[..., None] * weights).sum((1, 2))[:, self.extra :]
        return mean / mean.sum(1, keepdim=True).clamp(min=1e-12)


@dataclass(frozen=True, kw_only=True)
class AttentionIsNotNotExplanation(Method):
    """Does this attention hold something about the task that uniform or other weights do not?

    Four tests, each by training networks of the same architecture on ``train`` and trying them on ``inputs``:

    - uniform: networks whose attention is held uniform, beside networks that learn theirs. Where both are as good, the
      task does not need attention, and nothing can be said of it.
    - seeds: how far attention differs among networks that differ in their first weights alone.
    - guided: a network without context, one tanh layer on each token, is told with which weights to mix tokens: uniform
      ones, ones that it learns, or this model's own, held fixed. ``values``, of shape (1,), is the mean accuracy with this
      model's attention minus that with uniform weights: above 0 where attention holds what the task needs.
    - adversaries: networks that are trained to answer as the model does with attention far from its own, by the loss
      ``TVD(answers) - strength · KL(own attention || the model's)``.

    Facts, each of shape (1,): ``standard_error`` of ``values`` over seeds; ``accuracy``, the model's; ``learned`` and
    ``uniform``, of networks with free and with uniform attention, ``attention_gain``, their difference, with
    ``attention_gain_error``; ``guided``, ``guided_uniform``, ``guided_learned``; ``seed_divergence`` and ``seed_change``,
    the mean Jensen-Shannon divergence (nats) of attention and total variation of answers between model and seeds.
    `parts`: the same by seed (``learned_by_seed``, …) and by row (``divergence_by_row`` (seeds, rows)); for each strength
    ``adversary_divergence``, ``adversary_change``, ``adversary_accuracy``, all on ``inputs``, and ``adversary_guided``, the
    accuracy guided by its attention; ``strength``; ``uniform_divergence``, of the model's attention from uniform.

    ``data`` is (X, y) to train on, or a dict with "train", (X, y), and further "labels" of ``inputs`` (else the model's own
    answers count as right); "factory", ``factory(seed)`` giving an untrained network (else copies of the model, drawn
    anew); "store", a folder that keeps each trained cell, so that a run that was killed goes on where it stopped. Cells
    belong to the model, the data and the settings; a changed factory needs another folder.

    Args:
        block: which attention layer, counted from the first or, if negative, from the last.
        seeds: networks of each kind.
        epochs: of each training, by Adam in batches of 64.
        rate: its step.
        width: of the network without context.
        strengths: of the adversaries.
        scores: whether the model gives "logits" (one column: those of a probability) or "probabilities".

    Cost: ``seeds`` × (2 trainings of the network, 3 of the small one), and 1 + ``seeds`` for each strength.
    Known failure: networks that train badly tell nothing: read ``learned`` beside ``accuracy``. Recurrent states hold other
    words, so attention over states may be good at words that it does not name.
    Source: Wiegreffe & Pinter 2019, §3.2 (uniform), §3.3 (seeds), §3.4 (guided), §4 (adversaries, eq. 1).

    Example:
        >>> import torch, pellucid as px
        >>> body = torch.nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        >>> net = torch.nn.Sequential(body, torch.nn.Flatten(), torch.nn.Linear(12, 2)).eval()
        >>> X, y = torch.randn(20, 3, 4), torch.arange(20) % 2
        >>> method = px.evaluation.AttentionIsNotNotExplanation(seeds=2, epochs=1, strengths=(0.1,))
        >>> px.explain(net, X[:4], method, data=(X, y)).parts["adversary_divergence"].shape
        torch.Size([1])
    """

    block: int = -1
    seeds: int = 3
    epochs: int = 20
    rate: float = 0.01
    width: int = 32
    strengths: tuple[float, ...] = (0.0, 0.001, 0.01, 0.1)
    scores: str = "logits"

    card: ClassVar[Card] = Card(
        name="attention-is-not-not-explanation",
        title="Attention is not not explanation",
        question="Does this attention hold something about the task that other weights do not?",
        form="measure",
        scope="global",
        citation="wiegreffe2019attention",
        needs=("gradient", "backward rules", "labels"),
        data_types=("sequence", "tokens"),
        taxonomy={"001": "visualization/attention/evaluation"},
        claims=("seeded",),
        trial={"seeds": 2, "epochs": 1, "strengths": (0.1,), "width": 4},
        cost="10 trainings of the network and 21 of a small one",
        supports=("whether the attention is needed for the task, and whether it tells another network where to look",),
        limits=("why a single row got its answer",),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Measure:
        own = ask.data if isinstance(ask.data, Mapping) and "train" in ask.data else {"train": ask.data}
        train = self._check(ask, own)
        assert train.labels is not None
        test = self._looked(ask, ask.inputs, ask.wanted)
        assert ask.output is not None
        labels = self._labels(ask, own)
        work = _Work(
            method=self,
            subject=subject,
            ask=ask,
            train=train,
            labels=labels,
            looked=(self._looked(ask, train.inputs, None if ask.target.index is not None else ask.wanted), test),
            factory=own.get("factory") or factory(subject),
            cells=self._cells(own.get("store"), ask, train, labels),
        )
        return self._told(work, right(ask.output, labels))

    def _check(self, ask: Ask, own: Mapping[str, Any]) -> Rows:
        whole(seeds=(self.seeds, 2), epochs=(self.epochs, 1), width=(self.width, 1))
        good = isinstance(self.strengths, tuple) and self.strengths and all(s >= 0 for s in self.strengths)
        if not good:
            raise MethodError("The 'strengths' must be a tuple of numbers from 0", got=repr(self.strengths))
        if isinstance(self.rate, bool) or not isinstance(self.rate, int | float) or not 0 < self.rate <= 1:
            raise MethodError("The 'rate' must be a number above 0 and up to 1", got=repr(self.rate))
        if self.scores not in SCORES:
            raise MethodError(f"The 'scores' must be one of {SCORES}", got=repr(self.scores))
        if unknown := sorted(set(own) - {*OWN}):
            raise InputError(f"The 'data' must have names among {OWN}", got=", ".join(unknown))
        if not callable(own.get("factory", print)):
            raise InputError("The 'factory' must be a function of a seed", got=type(own["factory"]).__name__)
        if ask.unit_place is not None:
            raise TargetError("The 'target' must be a score of the model's output", got=f"a unit of {ask.unit_place}")
        rows = rows_like(own["train"], ask.inputs, labels=True)
        assert rows.labels is not None
        if rows.labels.is_floating_point() or len(rows.labels.unique()) < 2:
            raise InputError(
                "The labels in 'data' must be whole numbers of two or more classes", got=str(rows.labels.dtype)
            )
        return rows

    def _labels(self, ask: Ask, own: Mapping[str, Any]) -> Tensor:
        """What is right for `inputs`."""
        if (given := own.get("labels")) is None:
            assert ask.output is not None
            return probabilities(ask.output, self.scores).argmax(1)
        found = torch.as_tensor(given)
        if found.shape != (ask.inputs.rows,):
            raise InputError(f"The 'labels' must be {ask.inputs.rows}, one per row", got=str(tuple(found.shape)))
        return found

    def _looked(self, ask: Ask, inputs: Inputs, wanted: Any) -> Looked:
        """The model's attention over these rows."""
        known: list[Map] = []

        def act(seen: attention.Seen) -> tuple[Tensor, ...]:
            known[:] = seen.maps
            if not -len(known) <= self.block < len(known):
                raise InputError(f"The 'block' must be one of {len(known)} attention layers", got=str(self.block))
            return known[self.block].asked(), known[self.block].weights, *seen.values

        asked = ask if inputs is ask.inputs else replace(ask, inputs=inputs, wanted=wanted, output=None, _target=None)
        asked.__dict__.pop("keys", None)
        share, weights, *values = attention.read(asked, act, self.card.title, located=True).parts
        found = known[self.block]
        networks.reachable(found)
        laid = [(v, layout) for v in values if (layout := lay(weights.shape[3], v)) is not None and layout.grid is None]
        if len(laid) != 1:
            raise NeedError(
                f"The attention's {weights.shape[3]} tokens must lie over the steps of one sequence",
                got=", ".join(str(tuple(v.shape[1:])) for v in values) + " a row",
                hint="layer= the place where tokens enter the attention, such as the embedding",
            )
        place, layout = laid[0]
        heads = weights.shape[1]
        spread = (share[:, None] / heads).expand(-1, heads, -1)
        return Looked(found, weights, spread, place.reshape(*place.shape[:2], -1), layout.extra)

    def _cells(self, folder: Any, ask: Ask, train: Rows, labels: Tensor) -> Cells:
        config = {k: v for k, v in self.config().items() if k not in ("seeds", "strengths")}
        parts = (f"{ask.seed}{ask.model_hash}{ask.layer}", ask.inputs.fingerprint(), train.inputs.fingerprint())
        assert train.labels is not None
        return Cells.of(folder, config, parts, (train.labels, labels))

    def _told(self, work: _Work, accuracy: float) -> Measure:
        """Every training in turn, and what comes of them."""
        guides = ("model", "uniform", "learned")
        with work.ask.progress.bar(self.seeds * 5 + len(self.strengths), self.card.title) as tell:
            by_seed: dict[str, list[Any]] = {"learned": [], "uniform": [], "rows": [], "moved": []}
            by_guide: dict[str, list[float]] = {guide: [] for guide in guides}
            for number in range(self.seeds):
                free, held = work.network(number, uniform=False), work.network(number, uniform=True)
                by_seed["learned"] += free["accuracy"]
                by_seed["uniform"] += held["accuracy"]
                by_seed["rows"].append(free["divergence"])
                by_seed["moved"].append(free["change"])
                tell(2)
                for guide in guides:
                    by_guide[guide] += work.guided(guide, number)["accuracy"]
                    tell(1)
            adversaries = []
            for strength in self.strengths:
                adversaries.append(work.adversary(strength))
                tell(1)
        return self._measure(work, accuracy, by_seed, by_guide, adversaries)

    def _measure(
        self,
        work: _Work,
        accuracy: float,
        by_seed: Mapping[str, list[Any]],
        by_guide: Mapping[str, list[float]],
        adversaries: list[dict[str, list[float]]],
    ) -> Measure:
        own = {name: torch.tensor(found, dtype=torch.float64) for name, found in by_seed.items()}
        guided = {name: torch.tensor(found, dtype=torch.float64) for name, found in by_guide.items()}
        gain, needed = guided["model"] - guided["uniform"], own["learned"] - own["uniform"]
        root = self.seeds**0.5
        figures = {
            "standard_error": gain.std() / root,
            "accuracy": torch.tensor(accuracy, dtype=torch.float64),
            "learned": own["learned"].mean(),
            "uniform": own["uniform"].mean(),
            "attention_gain": needed.mean(),
            "attention_gain_error": needed.std() / root,
            "guided": guided["model"].mean(),
            "guided_uniform": guided["uniform"].mean(),
            "guided_learned": guided["learned"].mean(),
            "seed_divergence": own["rows"].mean(),
            "seed_change": own["moved"].mean(),
        }
        parts = {
            "learned_by_seed": own["learned"],
            "uniform_by_seed": own["uniform"],
            "divergence_by_row": own["rows"],
            **{f"guided_{name}_by_seed": found for name, found in guided.items()},
            "strength": torch.tensor(self.strengths, dtype=torch.float64),
            "uniform_divergence": work.from_uniform(),
        }
        for name in ("divergence", "change", "accuracy", "guided"):
            means = [torch.tensor(a[name], dtype=torch.float64).mean() for a in adversaries]
            parts[f"adversary_{name}"] = torch.stack(means)
        facts = {name: value[None] for name, value in figures.items()}
        return Measure(values=gain.mean()[None], better="higher", unit="accuracy", facts=facts, parts=parts)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Work:
    """What every cell needs; `looked` is the model's attention over the training rows and over `inputs`."""

    method: AttentionIsNotNotExplanation
    subject: Subject
    ask: Ask
    train: Rows
    labels: Tensor
    looked: tuple[Looked, Looked]
    factory: Factory
    cells: Cells

    def network(self, number: int, *, uniform: bool) -> dict[str, list[float]]:
        """A network with free or uniform attention: its accuracy, and how far it is from the model."""

        def make() -> dict[str, list[float]]:
            seed = self.ask.seed + number
            trained = self.fresh(seed)
            trained.learn(self.train, seed, self.method.epochs, self.method.rate, uniform=uniform)
            return self.tried(trained, uniform=uniform)

        return self.cells.get(f"network-{'uniform' if uniform else 'learned'}-{number}", make)

    def guided(self, guide: str, number: int) -> dict[str, list[float]]:
        """The accuracy of the network without context with the weights of this guide."""

        def make() -> dict[str, list[float]]:
            given: list[Tensor | None] = [None, None]
            if guide != "learned":
                given = [
                    x.tokens(networks.uniform(x.weights) if guide == "uniform" else x.weights) for x in self.looked
                ]
            return {"accuracy": [self.told(given, number)]}

        return self.cells.get(f"guided-{guide}-{number}", make)

    def adversary(self, strength: float) -> dict[str, list[float]]:
        """A network that answers as the model does with other attention, and how well its attention guides."""

        def make() -> dict[str, list[float]]:
            seed, (train, _) = self.ask.seed, self.looked
            trained = self.fresh(seed)
            with torch.no_grad():
                answers = self.probabilities(predict(self.subject, self.train.inputs, self.ask.memory))

            def loss(chosen: Tensor, output: Tensor, weights: Tensor) -> Tensor:
                real = train.weights[chosen]
                apart = weights * (weights.clamp(min=1e-12).log() - real.clamp(min=1e-12).log())
                away = (train.share[chosen] * apart.sum(-1)).flatten(1).sum(1)
                return (distance(self.probabilities(output), answers[chosen]) - strength * away).mean()

            trained.learn(self.train, seed, self.method.epochs, self.method.rate, loss=loss)
            found = self.tried(trained)
            both = (self.train.inputs, self.ask.inputs)
            given = [x.tokens(trained.look(rows)[1]) for x, rows in zip(self.looked, both, strict=True)]
            return {**found, "guided": [self.told(given, number) for number in range(self.method.seeds)]}

        return self.cells.get(f"adversary-{strength:g}-{self.method.seeds}", make)

    def fresh(self, seed: int) -> networks.Trained:
        """An untrained network of the factory."""
        with guard.generators(), torch.inference_mode(False):
            torch.random.default_generator.manual_seed(seed)
            module = self.factory(seed)
        if not isinstance(module, nn.Module):
            raise InputError("The 'factory' must give a torch module", got=type(module).__name__)
        return networks.Trained(self.ask, replace_model(self.subject, module), module, self.looked[1].map)

    def tried(self, trained: networks.Trained, *, uniform: bool = False) -> dict[str, list[float]]:
        """A trained network on `inputs`."""
        output, weights = trained.look(self.ask.inputs, uniform=uniform)
        test = self.looked[1]
        assert self.ask.output is not None
        if weights.shape != test.weights.shape:
            got = f"weights of shape {tuple(weights.shape[1:])} for the model's {tuple(test.weights.shape[1:])}"
            raise LayerError("The 'factory' must give networks with the model's attention", got=got)
        moved = distance(self.probabilities(output), self.probabilities(self.ask.output))
        return {
            "accuracy": [right(output, self.labels)],
            "divergence": divergence(weights, test.weights, test.share).tolist(),
            "change": moved.tolist(),
        }

    def told(self, given: list[Any], number: int) -> float:
        """The accuracy on `inputs` of the network without context that mixes tokens by the weights given."""
        train, test = self.looked
        assert self.train.labels is not None
        classes = max(2, int(self.train.labels.max()) + 1)
        made = (self.method.width, classes, self.method.epochs, self.method.rate, self.ask.seed + number)
        allowed = [x.tokens(x.weights) > 0 for x in self.looked]
        output = networks.without_context((train.values, test.values), given, allowed, self.train.labels, *made)
        return right(output, self.labels)

    def probabilities(self, output: Tensor) -> Tensor:
        """Of an output, as the settings say it is."""
        return probabilities(output, self.method.scores)

    def from_uniform(self) -> Tensor:
        """How far the model's attention is from uniform on each of the `inputs`."""
        test = self.looked[1]
        return divergence(test.weights, networks.uniform(test.weights), test.share).double()


def factory(subject: Subject) -> Factory:
    """Copies of the model whose weights are drawn anew."""

    def make(seed: int) -> nn.Module:
        assert subject.module is not None
        module = redrawing.duplicate(subject.module)
        for names in redrawing.layers(module).values():
            redrawing.redraw(module, names, "initial", seed, 0)
        return module

    return make
