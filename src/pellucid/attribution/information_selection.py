"""Which few features tell what the model will say? A network that picks them, trained on the model's own answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.attribution.bottleneck import check_number, check_output
from pellucid.attribution.selection import Pair, train
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError, NeedError, TargetError
from pellucid.engine import Ask, Subject, feature, fill, predict, score, seed
from pellucid.engine.data import rows_like
from pellucid.engine.inputs import Inputs
from pellucid.engine.target import Target

__all__ = ["LearningToExplain"]

Facts = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class LearningToExplain(Method):
    """Which few features of this row tell most of what the model says about it?

    Two networks are trained together on the rows of ``data=``: one gives every feature of x a chance p_i(x), from which k
    features S are drawn, the other, Q, sees these alone and predicts the model's answer. Both maximise

    ``E[sum_c P(c | x) log Q(c | x_S)]``, at most -H(Y | X), and with H(Y) added a lower bound of the information
    I(X_S; Y), in nats. P are the model's probabilities. Draws are k Gumbel-softmax samples, merged by their maximum;
    features that are not drawn are at their mean over the data.

    ``values = 1 - (1 - p_i)^k``, the chance that feature i is among k draws, from 0 to 1 and without a sign; every value
    of a feature carries the feature's chance. ``parts["chosen"]`` marks the k likeliest features, S. With ``target=`` a
    class, P is its probability against all others, and a pair of networks is trained for each class asked for.

    Facts of each row: ``log_likelihood``, sum_c P log Q for S, and ``entropy``, H(Y | x), which it can't exceed the
    negative of; ``decoder_agrees`` and ``model_agrees``, whether Q, and the model itself, given S alone, say what the model
    says given all. Of the rows of data kept from training: ``held_out_agreement`` and ``held_out_model_agreement``, the
    shares of the same, and ``information``, the lower bound.

    Args:
        chosen: how many features to choose, k.
        features: what counts as one feature: "element", "column", "token", "channel", "pixel", ("grid", cells per axis),
            ("patch", side), or groups of columns ((0, 1), (2,)). "auto": columns of tables, the second axis of
            sequences, a grid of 8 × 8 for images.
        steps: steps of Adam.
        batch: rows per step.
        hidden: width of the two layers of the network that chooses; twice that of Q.
        temperature: of the Gumbel-softmax; small ones are nearly yes or no, and hard to train.
        rate: the step size of Adam.
        decay: what the sum of squared weights costs, in nats.
        held_out: the share of the data that is kept from training, to measure on.
        output: what the model returns: "logits" (log-probabilities will do) or "probabilities".

    Cost: 1 forward per row of data and of those held out, and the training of two small networks; then 2 forwards
    a row.
    Known failure: the choice itself may tell the answer, so that Q is right about features that mean nothing to the
    model: `model_agrees` is low then (Jethani et al. 2021). Without `decay` training often ends there, where features
    count only together. Both networks see flat rows: large images need many of them.
    Source: Chen, Song, Wainwright & Jordan 2018, §3; decay as in their code. Departs from it: columns are standardised, so
    that what is not chosen is at its mean instead of 0; chances instead of a mask of k ones; no batch norm.

    Example:
        >>> import torch, pellucid as px
        >>> x = torch.arange(300.0).sin().reshape(100, 3)
        >>> method = px.attribution.LearningToExplain(chosen=1, steps=99, batch=50, hidden=16, rate=0.01)
        >>> result = px.explain(lambda v: torch.stack([-9 * v[:, 1], 9 * v[:, 1]], 1), x[:5], method, data=x)
        >>> result.values.argmax(1).tolist()
        [1, 1, 1, 1, 1]
    """

    chosen: int = 4
    features: str | tuple[Any, ...] = "auto"
    steps: int = 1000
    batch: int = 1000
    hidden: int = 100
    temperature: float = 0.1
    rate: float = 1e-3
    decay: float = 1e-3
    held_out: float = 0.2
    output: str = "logits"

    card: ClassVar[Card] = Card(
        name="l2x",
        title="Learning to explain",
        question="Which few features of this row tell most of what the model says about it?",
        form="attribution",
        scope="local",
        citation="chen2018learning",
        needs=("predictions", "data"),
        taxonomy={
            "002": "post-hoc/saliency/mutual information",
            "003": "passive/attribution/local",
        },
        claims=("rowwise", "seeded"),
        trial={"chosen": 2, "steps": 3, "batch": 8, "hidden": 8, "features": "element"},
        cost="1 forward per row of data, a training of two small networks, and 2 forwards",
        supports=("the chosen features alone predict the model's answer as often as `held_out_agreement` says",),
        limits=(
            "that the model uses the chosen features: others may tell the same, where `model_agrees` is low",
            "for or against: chances have no sign",
            "rows unlike the data that the chooser was trained on",
        ),
    )

    def prepare(self, subject: Subject, ask: Ask) -> dict[int | None, _Trained]:
        """A chooser and a decoder for the whole answer, or for each class asked for."""
        self._check(ask)
        if ask.layer is None:
            self._features(fill.explained(ask))  # refused before the model runs
        rows = rows_like(ask.data, ask.inputs).inputs
        order = torch.from_numpy(seed.generator(ask.seed, b"held out", 0).permutation(rows.rows))
        apart = max(1, round(self.held_out * rows.rows))
        if rows.rows - apart < 2:
            raise InputError("The 'data' must hold 3 rows, to train on some and measure on others", got=str(rows.rows))
        answers = self._answers(predict(subject, rows, ask.memory), ask)
        held = rows if ask.layer is None else Inputs((predict(subject, rows, ask.memory, ask.layer),), (), True)
        laid, flat = self._features(held), _flat(held)
        parts = zip(laid.labels, held.floats, strict=True)
        label = torch.cat([part.expand(1, *x.shape[1:]).flatten() for part, x in parts])
        label = torch.where(label == feature.NOWHERE, laid.count, label)
        measured, trained = order[:apart].to(flat.device), order[apart:].to(flat.device)
        found: dict[int | None, _Trained] = {}
        for one in [None] if ask.wanted is None else sorted(set(_classes(ask).tolist())):
            pair = train(
                flat[trained],
                _told(answers[trained], one),
                label,
                laid.count,
                chosen=self.chosen,
                steps=self.steps,
                batch=self.batch,
                hidden=self.hidden,
                temperature=self.temperature,
                rate=self.rate,
                decay=self.decay,
                number=ask.seed,
                name=str(one).encode(),
                progress=ask.progress,
            )
            about = _about(ask, rows.take(measured))
            figures = _measure(about, held.take(measured), answers[measured], one, pair, self.chosen)
            found[one] = _Trained(pair, _shares(figures, _told(answers[measured], one)), len(trained))
        return found

    def explain(self, subject: Subject, ask: Ask, state: dict[int | None, _Trained]) -> Attribution:
        """The chances of each row's features, and how far the likeliest ones tell the answer."""
        held = fill.explained(ask)
        if ask.output is None:
            ask.record(predict(subject, ask.inputs, ask.memory))
        assert ask.output is not None
        answers, laid = self._answers(ask.output, ask), self._features(held)
        # What was learnt of the whole answer tells of it also where a measurement asks again about the class it settled on.
        wanted = [None] * held.rows if None in state else _classes(ask).tolist()
        chances = torch.zeros(held.rows, laid.count, dtype=torch.float64, device=held.device)
        marks, facts = torch.zeros_like(chances), Facts()
        for one, trained in state.items():
            rows = torch.tensor([i for i, w in enumerate(wanted) if w == one], device=held.device)
            part, about = held.take(rows), _about(ask, ask.inputs.take(rows))
            figures = _measure(about, part, answers[rows], one, trained.pair, self.chosen)
            figures |= {k: torch.full((len(rows),), v, dtype=torch.float64) for k, v in trained.shares.items()}
            for name, value in figures.items():
                facts.setdefault(name, torch.zeros(held.rows, dtype=torch.float64))[rows.cpu()] = value.double().cpu()
            chances[rows] = trained.pair.chances(_flat(part), self.chosen)
            marks[rows] = trained.pair.choose(_flat(part), self.chosen)
        chosen = laid.spread(marks, held)
        return Attribution(
            values=held.wrap(laid.spread(chances, held)),
            facts=facts,
            parts={"chosen" if len(chosen) == 1 else f"chosen {i}": part for i, part in enumerate(chosen)},
            source={"rows_trained_on": next(iter(state.values())).rows},
        )

    def _check(self, ask: Ask) -> None:
        for name in ("chosen", "steps", "batch", "hidden"):
            check_number(name, getattr(self, name), 1, whole=True)
        for name in ("temperature", "rate", "held_out"):
            check_number(name, getattr(self, name), 0, strict=True)
        check_number("decay", self.decay, 0)
        if self.held_out >= 1:
            raise MethodError("The 'held_out' must be a share below 1", got=repr(self.held_out))
        check_output(self.output)
        if ask.wanted is not None and not isinstance(ask.wanted, Tensor):
            raise TargetError(
                "The 'target' must be None, for the whole answer, or a class, against all others", got=repr(ask.wanted)
            )

    def _features(self, held: Inputs) -> feature.Features:
        """The features, which must be the same in every row: the networks learn what each of them means."""
        laid = feature.features(self.features, held)
        if any(labels.shape[0] != 1 for labels in laid.labels):
            raise InputError(
                "The 'features' must be the same in every row", got=repr(self.features), hint="('grid', 8)"
            )
        if self.chosen > laid.count:
            raise MethodError(f"The 'chosen' must be at most {laid.count}, all features", got=repr(self.chosen))
        return laid

    def _answers(self, output: Tensor, ask: Ask) -> Tensor:
        """The model's probabilities (rows, classes), in float64."""
        ask.check_finite(output, 0)
        if output.dim() != 2 or output.shape[1] < 2:
            raise NeedError(
                "The model must give scores of two classes or more, (rows, classes)", got=f"shape {tuple(output.shape)}"
            )
        if self.output == "logits":
            return output.double().softmax(1)
        total = output.double().sum(1, keepdim=True)
        if bool((output < 0).any()) or bool(((total - 1).abs() > 1e-2).any()):
            raise NeedError(
                "With output='probabilities' a row of the model's output must be positive and sum to 1",
                got=f"sums up to {float(total.max()):.3g}",
                hint="output='logits'",
            )
        return output.double() / total


@dataclass(frozen=True, eq=False)
class _Trained:
    """Both networks, what they reach on rows that they were not trained on, and how many rows they were trained on."""

    pair: Pair
    shares: dict[str, float]
    rows: int


def _about(ask: Ask, inputs: Inputs) -> Ask:
    """The same question about other rows, whose own predicted classes will be asked for."""
    return replace(ask, inputs=inputs, wanted=None, data=None, output=None, _target=None)


def _measure(ask: Ask, held: Inputs, answers: Tensor, wanted: int | None, pair: Pair, chosen: int) -> Facts:
    """What the chosen features of these rows tell the decoder, and the model itself."""
    flat, told = _flat(held), _told(answers, wanted)
    marks = pair.choose(flat, chosen)
    read, said = pair.read(flat, marks), torch.zeros(held.rows, dtype=torch.float64)
    sizes = [x[0].numel() for x in held.floats]
    seen = (part.bool() for part in pair.seen(marks).split(sizes, 1))
    usual = pair.mean.split(sizes)
    masked = tuple(
        torch.where(s.reshape(x.shape), x, m.to(x.dtype).reshape(1, *x.shape[1:]))
        for x, s, m in zip(held.floats, seen, usual, strict=True)
    )

    def keep(rows: Tensor, steps: Tensor, number: Tensor) -> None:
        said[rows] = number.double().cpu()

    asked = replace(ask, _target=Target(function=lambda output: output.argmax(1)))
    score.sweep(asked, 1, lambda rows, steps: tuple(x[rows.to(x.device)] for x in masked), keep)
    return {
        "log_likelihood": (told * read).sum(1),
        "entropy": _entropy(told),
        "decoder_agrees": (read.argmax(1) == told.argmax(1)).double(),
        "model_agrees": (said == answers.argmax(1).cpu()).double(),
    }


def _shares(figures: Facts, told: Tensor) -> dict[str, float]:
    """Means over rows that were kept from training; the information is H(Y) + E log Q."""
    return {
        "held_out_agreement": float(figures["decoder_agrees"].mean()),
        "held_out_model_agreement": float(figures["model_agrees"].mean()),
        "information": float(_entropy(told.mean(0, keepdim=True))[0] + figures["log_likelihood"].mean()),
    }


def _told(answers: Tensor, wanted: int | None) -> Tensor:
    """The answer that is to be told: all classes, or the class that is asked for and the rest."""
    if wanted is None:
        return answers
    one = answers[:, wanted]
    return torch.stack([one, answers.sum(1) - one], 1).clamp(min=0)


def _entropy(chances: Tensor) -> Tensor:
    """In nats, (N,)."""
    return torch.special.entr(chances).sum(1)


def _classes(ask: Ask) -> Tensor:
    """The class asked for in each row."""
    index = ask.target.index
    if index is None:
        raise NeedError("The model must give scores of two classes or more, (rows, classes)", got="one score per row")
    return index.cpu()


def _flat(held: Inputs) -> Tensor:
    """All values side by side, (N, values), in float64."""
    return torch.cat([x.flatten(1).double() for x in held.floats], 1)
