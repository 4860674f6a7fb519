"""What does a sentence lose when a word is left out? Representations compared with and without it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.attribution.erasure_ways import shorter
from pellucid.contract import Attribution, Card, Method
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import Ask, Subject, batch, fill
from pellucid.engine.ask import predict, shape_key
from pellucid.engine.gradient import needs_module
from pellucid.engine.inputs import Inputs
from pellucid.engine.place import Place, parse, visit

__all__ = ["OmissionScore"]

CONFIDENCE = 1.96


@dataclass(frozen=True, kw_only=True)
class OmissionScore(Method):
    """How much does the representation of the sentence change when a word is left out?

    ``values[i] = 1 - cos(h(sentence), h(sentence without word i))``, from 0 (no change) to 2, without a unit. h is the
    model's output, or the values at a place. Words are cut out, so that the sentence gets shorter; tensors as long as
    the sentence, such as masks, are cut with it. The target plays no part.

    Facts: ``largest``, ``mean``. ``source["positions"]`` has the mean score at each position, over rows, and with
    ``data={"part of speech": (rows, words), ...}`` (nested lists of strings or numbers; None where there is no word)
    ``source["tables"]`` has the mean for each label, with a 95 % interval of the mean (normal; none for a
    single word) and the count.

    Args:
        representation: the place where h is read, such as "encoder"; empty: the model's output.
        way: "cut"; or "zero", which sets the word's embedding to zero (at ``layer=``, or in the inputs), for models
            that take one length alone.

    Cost: one forward per word, and one.
    Known failure: a word's absence moves the words after it by one position; a padded place counts as a word unless the
    model ignores it.
    Source: Kádár, Chrupała & Alishahi 2017, §4.2 (eq. 12).

    Example:
        >>> import torch, pellucid as px
        >>> net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d((1, None)), torch.nn.Flatten()).eval()
        >>> px.explain(net, torch.rand(1, 4, 3), "omission-score").values.shape
        torch.Size([1, 4, 1])
    """

    representation: str = ""
    way: str = "cut"

    card: ClassVar[Card] = Card(
        name="omission-score",
        title="Omission score",
        question="How much does the representation of the sentence change when this word is left out?",
        form="attribution",
        scope="local",
        citation="kadar2017representation",
        needs=("predictions",),
        data_types=("sequence", "tokens"),
        taxonomy={
            "000": "behavioural/functional/perturbation",
            "001": "visualization/perturbation",
            "002": "post-hoc/saliency/perturbation",
            "003": "passive/attribution/local",
        },
        claims=("rowwise", "deterministic"),
        exempt={"bad shapes": "a sentence that is twice as long is a sentence too"},
        cost="1 forward per word, and 1",
        supports=("how far the representation really moves when this word is missing",),
        limits=("why it moves: the order of the rest changes with it", "which answer the word speaks for"),
    )

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Attribution:
        if self.way not in ("cut", "zero"):
            raise MethodError("'way' must be 'cut' or 'zero'", got=repr(self.way))
        place = self._place(subject)
        if ask.layer is None:
            _sentences(ask.inputs, self.way)  # refused before the model runs
        ask.target  # noqa: B018 - the target plays no part, but a wrong one is told, and so is an output that is not finite
        held = _sentences(ask.inputs, self.way) if ask.layer is None else fill.explained(ask).floats[0]
        rows, words = held.shape[:2]
        if ask.layer is not None and held.dim() != 3:
            raise _misfit([held])
        tables = _labels(ask.data, rows, words)
        whole = ask.output if place is None else predict(subject, ask.inputs, ask.memory, place)
        assert whole is not None
        whole = whole.flatten(1).double()
        change = torch.empty(rows, words, dtype=torch.float64)

        def work(start: int, stop: int) -> Tensor:
            jobs = torch.arange(start, stop)
            row, word = jobs // words, jobs % words
            without = self._without(ask, place, held, row, word).flatten(1).double()
            if without.shape[1] != whole.shape[1]:
                raise InputError(
                    "The representation must be one vector per sentence, whatever its length",
                    got=f"{whole.shape[1]} numbers, and {without.shape[1]} without a word",
                    hint="representation= another place, or way='zero'",
                )
            return (1 - torch.cosine_similarity(whole[row.to(whole.device)], without, dim=1)).clamp(min=0).cpu()

        def fold(start: int, stop: int, found: Tensor) -> None:
            change.view(-1)[start:stop] = found

        key = ("omission", self.way, str(place), str(ask.layer), shape_key(ask.inputs))
        batch.run(
            rows * words,
            work,
            fold,
            memory=ask.memory,
            cost=(subject.module, key),
            device=ask.inputs.device,
            progress=ask.progress,
            label=self.card.title,
        )
        kind = held.dtype if held.is_floating_point() else ask.inputs.dtype
        values = change.to(dtype=kind, device=held.device)
        source: dict[str, Any] = {"positions": change.mean(0).tolist()}
        if tables:
            source["tables"] = {name: _table(change, entries) for name, entries in tables.items()}
        laid = _laid(ask, values.reshape(rows, words, *[1] * (held.dim() - 2)))
        facts = {"largest": change.amax(1), "mean": change.mean(1)}
        return Attribution(values=laid, facts=facts, source=source)

    def _place(self, subject: Subject) -> Place | None:
        """Where the representation is read, or None for the output."""
        if not self.representation:
            return None
        return parse(self.representation, needs_module(subject, "a place where the representation is read"))

    def _without(self, ask: Ask, place: Place | None, held: Tensor, row: Tensor, word: Tensor) -> Tensor:
        """The representation of each of these rows without this word."""
        inputs, module, edit = ask.inputs.take(row), ask.subject.module, {}
        if self.way == "cut":
            inputs = replace(inputs, tensors=tuple(_cut(x, word, held.shape[1]) for x in inputs.tensors))
        else:
            values = held[row.to(held.device)]
            values[torch.arange(len(row)), word] = 0
            if ask.layer is None:
                inputs = inputs.with_floats([values])
            else:
                edit = {ask.layer: lambda _: values}
        cut = shorter(held.shape[1], "way='zero'") if self.way == "cut" else contextlib.nullcontext()
        with torch.no_grad(), cut:
            if module is None or (place is None and not edit):
                return ask.subject.scores(inputs)
            read = [] if place is None else [place]
            seen = visit(lambda: ask.subject.scores(inputs), module, read, edit, stop=True)
        return seen.output if place is None else seen.seen[place]


def _sentences(inputs: Inputs, way: str) -> Tensor:
    """The words themselves: the one floating tensor (rows, words, dimensions), or the first of ids (rows, words)."""
    found = inputs.floats or inputs.tensors[:1]
    fits = found[0].dim() == 3 if inputs.explained else found[0].dim() == 2 and way == "cut"
    if len(found) != 1 or not fits or found[0].shape[1] < 2:
        raise _misfit(list(found))
    return found[0]


def _misfit(found: list[Tensor]) -> InputError:
    return InputError(
        "The 'inputs' must be sentences of at least two words: embeddings (rows, words, dimensions), or ids (rows, words)",
        got=", ".join(f"shape {tuple(x.shape)} of {x.dtype}" for x in found),
        hint="layer= the name of the embedding",
    )


def _cut(x: Tensor, word: Tensor, words: int) -> Tensor:
    """Rows (jobs, words, ...) without one word each; what is not as long as the sentence stays."""
    if x.dim() < 2 or x.shape[1] != words:
        return x
    kept = torch.arange(words) != word[:, None]
    return x[kept.to(x.device)].reshape(x.shape[0], words - 1, *x.shape[2:])


def _laid(ask: Ask, values: Tensor) -> Any:
    """The values in the structure of the inputs, at the words."""
    if ask.layer is not None or ask.inputs.single:
        return values
    if ask.inputs.explained:
        return ask.inputs.wrap([values])
    if ask.inputs.names:
        return {ask.inputs.names[0]: values}
    return (values, *[None] * (len(ask.inputs.tensors) - 1))


def _labels(data: Any, rows: int, words: int) -> dict[str, list[list[Any]]]:
    """Labels of words by name, checked; none where no data was given."""
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        raise InputError(
            "The 'data' must map a name to labels of words", got=type(data).__name__, hint='{"tag": [[...]]}'
        )
    found = {str(name): [list(entries) for entries in table] for name, table in data.items()}
    for name, table in found.items():
        if len(table) != rows or any(len(entries) != words for entries in table):
            raise InputError(
                f"The labels in 'data' must be {rows} lists of {words} each", got=f"{name!r} of other lengths"
            )
    return found


def _table(change: Tensor, labels: list[list[Any]]) -> dict[str, dict[str, float]]:
    """Mean score, its 95 % interval and the count for each label."""
    held: dict[str, list[float]] = {}
    for scores, entries in zip(change.tolist(), labels, strict=True):
        for figure, label in zip(scores, entries, strict=True):
            if label is not None:
                held.setdefault(str(label), []).append(figure)
    table = {}
    for label, figures in held.items():
        x = torch.tensor(figures, dtype=torch.float64)
        half = CONFIDENCE * float(x.std()) / len(x) ** 0.5 if len(x) > 1 else 0.0
        mean = float(x.mean())
        table[label] = {"mean": mean, "low": mean - half, "high": mean + half, "count": len(x)}
    return table
