"""Do answers turn as the words go that an explanation calls relevant? Accuracy while texts lose or gain words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Card, Measure, tensors
from pellucid.contract.errors import InputError, MethodError, TargetError
from pellucid.engine import Ask, Subject
from pellucid.engine.ask import predict
from pellucid.engine.evaluation import Evaluation, Judged, overall, random_order, ranking, wilson
from pellucid.engine.inputs import Inputs
from pellucid.engine.settings import whole, whole_or_none
from pellucid.engine.target import settle

__all__ = ["WordDeletion"]

WAYS = ("deletion", "insertion")
ORDERS = ("against", "descending", "ascending")
GROUPS = ("right", "wrong")


@dataclass(frozen=True, kw_only=True)
class WordDeletion(Evaluation):
    """Does the answer turn as the words go that the explanation calls relevant?

    The relevance is that for the label: a word's values are summed. In texts that the network reads rightly, words are
    deleted from the most relevant one on; in texts that it reads wrongly from the least relevant one on, which is what
    speaks most against the label. Deleted words stay deleted. ``values``: over the first, the first two, … words of each
    text, the share of times that the answer has turned, from right to wrong or from wrong to right: 1 where the first
    word already turns it, 0 where it never turns. With ``way="insertion"``, texts start without words and get them back,
    the most relevant one first, and ``values`` is the share of times that the answer is the label.

    Facts: ``random``, the mean of ``values`` under random orders, ``random_error``, the standard error of it; ``gain``,
    by how much the explanation's order is better; ``right``, 1 where the whole text is read rightly; ``words``;
    ``first``, after how many words the answer has turned, for insertion is the label (-1 where it never does). `parts`:
    the accuracies ``right`` and ``wrong`` (points,) of both kinds of texts after 0, 1, … words (``along``), each with
    Wilson's 95 % interval (``right_low``, …) and with that of random orders (``right_random``, …); a text whose words
    have run out stays as it is. ``curve`` (rows, points) is 1 where a row's answer is its label.
    ``source["overall"]``: the mean over texts with its 95 % interval.

    ``data={"labels": y}``, with "explanation" for the held method's data, gives the true classes; without it the
    network's own answers stand for them, and no text is wrong. A ``target`` replaces the label in what is explained;
    `px.compare` asks every method one question, so give it ``target=y`` there.
    Words are embedded: name the embedding by ``layer=``, or give vectors (rows, words, dimensions) as inputs.

    Args:
        of: the explanation that is measured: a method or its name.
        way: "deletion" or "insertion".
        order: "against", as above; or "descending" or "ascending" relevance in all texts.
        token: ``None`` sets a word's vector to zero; a number is the token id that takes its place.
        padding: the token id that is no word; of vectors, zeros are none; where the inputs have an ``attention_mask``,
            it decides.
        steps: the most words that are deleted or inserted.
        references: random orders per text.

    Cost: that of ``of``, and (``steps`` + 1) × (1 + ``references``) forwards.
    Known failure: a text without words is unlike any other, and what a network answers then is its habit: compare with
    ``random``. Where two scores are equal, the class with the lower number counts as the answer.
    Source: Arras, Horn, Montavon, Müller & Samek 2016, §4.1 (50 words at most, 10 random orders); 2017. ``values`` and
    the intervals are ours, and so is insertion.

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 2)).double().eval()
        >>> found = px.explain(net, torch.randn(2, 3, 2).double(), "word-deletion-evaluation")
        >>> found.values.shape, found.parts["along"].tolist()
        (torch.Size([2]), [0, 1, 2, 3])
    """

    way: str = "deletion"
    order: str = "against"
    token: int | None = None
    padding: int = 0
    steps: int = 50
    references: int = 4

    own: ClassVar[tuple[str, ...]] = ("labels",)
    card: ClassVar[Card] = Card(
        name="word-deletion-evaluation",
        title="Word deletion",
        question="Does the answer turn as the words go that the explanation calls relevant?",
        form="measure",
        scope="local",
        citation="arras2016explaining",
        needs=("predictions",),
        data_types=("sequence", "tokens"),
        taxonomy={"001": "evaluation/fidelity", "002": "evaluation/deletion"},
        claims=("rowwise", "seeded", "spelling invariant"),
        exempt={
            "bad shapes": "a sentence that is twice as long is a sentence too",
            "spelling invariant": "its inputs are texts, and the networks that are spelt in several ways take tables",
        },
        trial={"of": "feature-ablation", "steps": 3, "references": 2},
        cost="that of the explanation, and 255 forwards",
        supports=("how soon this answer turns along the explanation's order, next to random orders",),
        limits=("what the words mean to people", "the order's merit where words are left out in another way"),
    )

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        for name, known in (("way", WAYS), ("order", ORDERS)):
            if getattr(self, name) not in known:
                raise MethodError(f"The '{name}' must be one of {known}", got=repr(getattr(self, name)))
        whole(steps=(self.steps, 1), references=(self.references, 2))
        whole_or_none(token=(self.token, 0))
        if isinstance(self.padding, bool) or not isinstance(self.padding, int):
            raise MethodError("The 'padding' must be an int", got=repr(self.padding))
        if self.token is not None:
            _ids(ask.inputs)
        elif ask.layer is None and [x.dim() for x in ask.inputs.floats] != [3]:
            raise _misfit(ask.inputs.tensors)
        _labels(own, ask.inputs.rows)

    def question(self, ask: Ask, own: Mapping[str, Any]) -> Ask:
        """The relevance is that for the label, where there are classes."""
        labels = _labels(own, ask.inputs.rows)
        if labels is not None and ask.wanted is None:
            ask.target  # noqa: B018 - the model's answers, which tell how many classes there are
            assert ask.output is not None
            classes = ask.output.reshape(ask.inputs.rows, -1).shape[1]
            if int(labels.max()) >= max(2, classes):
                raise TargetError(
                    f"The 'labels' must be classes from 0 to {max(2, classes) - 1}", got=str(labels.max())
                )
            if classes > 1:
                ask.wanted, ask._target = labels, settle(labels, ask.output)
        return ask

    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        text, labels = _Text.of(self, judged), _labels(self.split(ask.data)[0], ask.inputs.rows)
        judged.ask.target  # noqa: B018 - so that the answers are known
        assert judged.ask.output is not None
        answers = _answers(judged.ask.output)
        labels = answers if labels is None else labels
        right, counts = answers == labels, text.words.sum(1).clamp(max=self.steps)
        figures = text.figures
        if judged.ask.wanted is None and judged.ask.explained_class is None:  # one score: low ones speak for class 0
            figures = torch.where((labels == 0)[:, None], -figures, figures)
        drawn = (random_order(ask.seed + k, ask.keys, figures.shape[1]) for k in range(self.references))
        orders = [last(order, text.words) for order in (self.ordered(figures, right), *drawn)]
        with ask.progress.bar(len(orders) * (int(counts.max()) + 1), self.card.title) as tell:
            curves = torch.stack([self.curve(text, order, labels, int(counts.max()), tell) for order in orders])
        shares = self.shares(curves, right, counts).where(counts > 0, torch.nan)
        facts = {
            "random": shares[1:].mean(0),
            "random_error": shares[1:].std(0) / self.references**0.5,
            "gain": shares[0] - shares[1:].mean(0),
            "right": right.double(),
            "words": text.words.sum(1).double(),
            "first": self.first(curves[0], right),
        }
        return Measure(
            values=shares[0],
            better="higher" if self.order == "against" else "neither",
            unit="share of the words",
            facts=facts,
            parts=self.lines(curves, right, figures.shape[1]),
            source={"overall": overall(shares[0]), "along": f"words {self.way[:-3]}ed"},
        )

    def ordered(self, figures: Tensor, right: Tensor) -> Tensor:
        """The places of each text's words in the order in which they go."""
        up = {"ascending": torch.ones_like(right), "descending": torch.zeros_like(right), "against": ~right}[self.order]
        if self.way == "insertion" and self.order == "against":
            up = torch.zeros_like(right)
        return ranking(torch.where(up[:, None], -figures, figures))

    def curve(self, text: _Text, order: Tensor, labels: Tensor, points: int, tell: Callable[[int], Any]) -> Tensor:
        """Whether each text is read as its label after 0, 1, … words: (rows, points + 1)."""
        rank, found = order.argsort(1), []
        for count in range(points + 1):
            chosen = rank < count
            found.append(_answers(text.read(~text.words | (chosen if self.way == "insertion" else ~chosen))) == labels)
            tell(1)
        return torch.stack(found, 1)

    def shares(self, curves: Tensor, right: Tensor, counts: Tensor) -> Tensor:
        """``values`` of each order, (orders, rows)."""
        number = torch.arange(curves.shape[2])
        if self.way == "insertion":
            good, used = curves, number < counts[:, None]
        else:
            good, used = curves != right[:, None], (number > 0) & (number <= counts[:, None])
        return (good & used).sum(2).double() / counts

    def first(self, curve: Tensor, right: Tensor) -> Tensor:
        """After how many words the answer turns, or is the label."""
        met = curve if self.way == "insertion" else curve != right[:, None]
        return torch.where(met.any(1), met.double().argmax(1).double(), -1.0)

    def lines(self, curves: Tensor, right: Tensor, places: int) -> dict[str, Tensor]:
        """The accuracies of both kinds of texts, to the greatest number of words that could go."""
        points = min(self.steps, places) + 1
        number = torch.arange(points).clamp(max=curves.shape[2] - 1)
        curves = curves[:, :, number]
        found: dict[str, Tensor] = {"along": torch.arange(points), "curve": curves[0].double()}
        for name, group in (("right", right), ("wrong", ~right)):
            if group.any():
                hits = curves[0, group].sum(0).double()
                low, high = wilson(hits, int(group.sum()))
                random = curves[1:, group].double().mean((0, 1))
                found |= {name: hits / int(group.sum()), f"{name}_low": low, f"{name}_high": high}
                found[f"{name}_random"] = random
        return found


@dataclass(frozen=True, eq=False)
class _Text:
    """The texts of a question: which places hold words, what each is worth, and how the network reads some of them."""

    ask: Ask
    words: Tensor
    figures: Tensor
    token: int | None

    @classmethod
    def of(cls, method: WordDeletion, judged: Judged) -> _Text:
        ask = judged.ask
        moved = ask if method.token is not None else ask.inside() if ask.layer is not None else ask
        held = _ids(ask.inputs) if method.token is not None else moved.inputs.floats[0]
        if held.dim() != 3 and method.token is None:
            raise _misfit((held,))
        found = [v for v in tensors(judged.values) if v.shape[:2] == held.shape[:2]]
        if len(found) != 1 or len(tensors(judged.values)) != 1:
            raise MethodError(
                f"The attribution must have values for the {held.shape[1]} places of each text",
                got=", ".join(str(tuple(v.shape)) for v in tensors(judged.values)),
                hint="layer= the name of the embedding",
            )
        figures = found[0].detach().cpu().double().flatten(2).sum(2) if found[0].dim() > 2 else found[0].cpu().double()
        return cls(moved, _words(ask.inputs, held, method.padding), figures, method.token)

    def read(self, present: Tensor) -> Tensor:
        """The model's output with these words alone, (rows, places) booleans."""
        inputs = self.ask.inputs
        if self.token is None:
            first = inputs.floats[0]
            kept = torch.where(present.to(first.device)[..., None], first, 0)
            inputs = inputs.with_floats([kept, *inputs.floats[1:]])
        else:
            ids = _ids(inputs)
            put = torch.where(present.to(ids.device), ids, self.token)
            inputs = replace(inputs, tensors=tuple(put if x is ids else x for x in inputs.tensors))
        return predict(self.ask.subject, inputs, self.ask.memory)


def _words(inputs: Inputs, held: Tensor, padding: int) -> Tensor:
    """Which places hold words, (rows, places)."""
    shape = tuple(held.shape[:2])
    named = dict(zip(inputs.names, inputs.tensors, strict=False)).get("attention_mask")
    if named is not None and tuple(named.shape) == shape:
        return named.cpu() != 0
    # Truth values are no ids: of a mask without a name it can't be told whether it marks words or padding.
    ids = [x for x in inputs.tensors if x.dtype in (torch.int32, torch.int64) and tuple(x.shape) == shape]
    return (ids[0].cpu() != padding) if ids else (held.flatten(2) != 0).any(2).cpu()


def _ids(inputs: Inputs) -> Tensor:
    """The token ids: the tensor ``input_ids``, or the first of integers (rows, places)."""
    named = dict(zip(inputs.names, inputs.tensors, strict=False)).get("input_ids")
    kept = [x for x in inputs.tensors if x.dtype in (torch.int32, torch.int64) and x.dim() == 2]
    if named is None and not kept:
        raise _misfit(inputs.tensors)
    return kept[0] if named is None else named


def _labels(own: Mapping[str, Any], rows: int) -> Tensor | None:
    """The true classes, (rows,), where they were given."""
    if own.get("labels") is None:
        return None
    found = torch.as_tensor(own["labels"]).detach().cpu()
    if found.shape != (rows,) or found.is_floating_point() or bool((found < 0).any()):
        raise InputError(
            f"The 'labels' must be {rows} whole numbers, one class per text",
            got=f"{found.dtype} of shape {tuple(found.shape)}",
        )
    return found.long()


def _answers(output: Tensor) -> Tensor:
    """The class of each row; of a single score, whether it is above zero."""
    flat = output.detach().reshape(output.shape[0], -1).cpu()
    return (flat[:, 0] > 0).long() if flat.shape[1] == 1 else flat.argmax(1)


def last(order: Tensor, words: Tensor) -> Tensor:
    """Each row's order with the places that hold no words behind all others."""
    return order.gather(1, (~words.gather(1, order)).long().argsort(dim=1, stable=True))


def _misfit(found: tuple[Tensor, ...]) -> InputError:
    return InputError(
        "The 'inputs' must be texts: vectors of words (rows, words, dimensions), or ids with their embedding as 'layer'",
        got=", ".join(f"shape {tuple(x.shape)} of {x.dtype}" for x in found),
        hint="layer='embedding', or token= the id that takes a word's place",
    )
