"""What a measurement of another method is: it holds the method, and measures the explanation that this one gives."""

from __future__ import annotations

import abc
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from pellucid.contract import Attribution, Explanation, Measure, Method, as_method, tensors
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine import coalition, deadline, impute, needs
from pellucid.engine import seed as seeds
from pellucid.engine.ask import Ask
from pellucid.engine.coalition import Game
from pellucid.engine.inputs import Inputs
from pellucid.engine.settings import whole
from pellucid.engine.subject import Subject

OWN = "explanation"
NORMAL = 1.959963984540054  # two-sided 95 %
# Truth values held at once while features go one after the other.
MASKS = 1 << 26


@dataclass(eq=False)
class Judged:
    """A method, the question it was asked, what it answered, and how to ask it again."""

    method: Method
    subject: Subject
    ask: Ask
    result: Explanation
    read: Callable[[Explanation, Ask], Explanation] | None = None  # how an answer is made fit to be measured
    seconds: float = math.nan  # that fitting and explaining took

    @cached_property
    def state(self) -> Any:
        """What the method fitted."""
        return self.method.prepare(self.subject, self.ask)

    @property
    def values(self) -> Any:
        """The attribution's values."""
        assert isinstance(self.result, Attribution)
        return self.result.values

    @property
    def parts(self) -> list[Tensor]:
        """The attribution's tensors."""
        return tensors(self.values)

    def again(self, inputs: Inputs, rows: Tensor, seed: int | None = None) -> Explanation:
        """The method's answer about other inputs, one for each entry of `rows`, whose targets they keep."""
        asked = self.ask.derived(inputs, rows, passes=inputs.rows)
        asked = asked if seed is None else replace(asked, seed=seed)
        deadline.check()
        return self._read(self.method.explain(self.subject, asked, self.state), asked)

    def elsewhere(self, model: Any) -> Explanation:
        """The method's answer about another model, for the same inputs and targets; nothing fitted carries over.

        A `Subject` is asked as it is; of a bare model it is assumed that it is called as the first one is.
        """
        subject = model if isinstance(model, Subject) else replace_model(self.subject, model)
        settled, wanted = self.ask.target, self.ask.wanted
        wanted = settled.index if settled.index is not None else wanted
        asked = replace(self.ask, subject=subject, wanted=wanted, output=None, memo=None, _target=None, model_hash="")
        deadline.check()
        return self._read(self.method.explain(subject, asked, self.method.prepare(subject, asked)), asked)

    def inside(self) -> Judged:
        """The same about the values of the explained layer as the input; the method fits anew what it fits."""
        asked = self.ask.inside()
        return Judged(self.method, asked.subject, asked, self.result, self.read)

    def _read(self, found: Any, asked: Ask) -> Explanation:
        result: Explanation = found if self.read is None else self.read(found, asked)
        return result


def replace_model(subject: Subject, model: Any) -> Subject:
    """The same way of calling, with another model."""
    return type(subject)(model, **{k: getattr(subject, k) for k in Subject.__dataclass_fields__ if k != "model"})


@dataclass(frozen=True, kw_only=True)
class Evaluation(Method, abc.ABC):
    """Base of the measurements of another method, `of`.

    Subclasses say in `wants` which forms they can measure and give `measure`; `check` refuses settings and inputs before
    any work. `ask.data` is the held method's; a measurement that needs data of its own takes a dict, in which
    "explanation" is the held method's and the other names, `own`, are the measurement's.
    """

    of: str | Method = "gradient-x-input"

    wants: ClassVar[tuple[str, ...]] = ("attribution",)
    own: ClassVar[tuple[str, ...]] = ()
    # "simplicity" says nothing of being right; a figure of "sanity" above `limit` fails a test that every map should pass.
    quality: ClassVar[str] = ""

    @property
    def claims(self) -> tuple[str, ...]:
        """What the card claims, where the held method does: nothing is surer than what it measures."""
        held, own = as_method(self.of).claims, self.card.claims
        if "deterministic" in held:
            return own if "rowwise" in held else tuple(c for c in own if c != "rowwise")
        kept = {c for c in own if c != "deterministic"} | ({"seeded"} & {*held})
        return tuple(c for c in sorted(kept) if c != "rowwise" or "rowwise" in held)

    @abc.abstractmethod
    def measure(self, subject: Subject, ask: Ask, judged: Judged) -> Measure:
        """The measurement of what the held method answered."""

    def asks(self, judged: Judged) -> tuple[int, int]:
        """How often, at least, measuring asks the method again about all rows, and how often it fits it anew."""
        return 0, 0

    def check(self, ask: Ask, own: Mapping[str, Any]) -> None:
        """Raise where settings, inputs or the measurement's own data are wrong."""

    def explain(self, subject: Subject, ask: Ask, state: Any) -> Measure:
        """Explain by the held method, then measure."""
        held = self.held()
        own, given = self.split(ask.data)
        self.check(ask, own)
        needs.check(held.card, subject, ask.inputs, given, ask.layer)
        asked = replace(self.question(ask, own), data=given)
        started = time.perf_counter()
        judged = Judged(held, subject, asked, held.explain(subject, asked, prepared := held.prepare(subject, asked)))
        judged.state, judged.seconds = prepared, time.perf_counter() - started
        for name in ("output", "_target", "path"):
            setattr(ask, name, getattr(asked, name))
        return self.measure(subject, ask, judged)

    def question(self, ask: Ask, own: Mapping[str, Any]) -> Ask:
        """What the held method is asked, where that is not what the measurement is."""
        return ask

    def held(self) -> Method:
        """The method that is measured, refused where this measurement can't read its form."""
        found = as_method(self.of)
        if found.card.form not in self.wants:
            raise MethodError(
                f"{self.card.title} measures methods whose form is {' or '.join(self.wants)}",
                got=f"'{found.card.name}', which gives {found.card.form}",
            )
        return found

    def split(self, data: Any) -> tuple[dict[str, Any], Any]:
        """The measurement's own data by name, and the held method's."""
        if not self.own or not isinstance(data, Mapping) or not set(data) & {*self.own, OWN}:
            return {}, data
        if unknown := sorted(set(data) - {*self.own, OWN}):
            raise InputError(f"The 'data' must have names among {(*self.own, OWN)}", got=", ".join(unknown))
        return {k: v for k, v in data.items() if k != OWN}, data.get(OWN)


def players(judged: Judged, spec: str | tuple[Any, ...], baseline: float | str = 0.0) -> tuple[Game, Tensor]:
    """The game of the explained place's features, and each feature's figure (rows, players): the sum of its values."""
    holes = baseline == impute.NAME
    found = coalition.game(replace(judged.ask, data=None), spec, 0.0 if holes else baseline)
    found = impute.Imputed.of(found) if holes else found
    parts = judged.parts
    if [tuple(p.shape) for p in parts] != [tuple(x.shape) for x in found.held.floats]:
        raise MethodError(
            "The attribution must have the shape of the explained place to be measured feature by feature",
            got=", ".join(str(tuple(p.shape)) for p in parts),
        )
    return found, found.features.gather(tuple(parts))


def random_order(seed: int, keys: list[bytes], count: int) -> Tensor:
    """One order of the features for each row, drawn from the seed and the row's content: (rows, count)."""
    orders = [seeds.generator(seed, key, 0).permutation(count) for key in keys]
    return torch.stack([torch.from_numpy(order) for order in orders])


def ranking(figures: Tensor, *, most_first: bool = True) -> Tensor:
    """Each row's features (rows, players) by their figures; equal ones in the order of their numbers."""
    return figures.argsort(dim=1, descending=most_first, stable=True)


def along(game: Game, order: Tensor, counts: Tensor, *, gone: bool = True, label: str = "") -> Tensor:
    """The scores (rows, points) with the first `counts` features of each row's order gone, or, if not `gone`, alone."""
    rank = torch.empty(order.shape, dtype=torch.int32)
    rank.scatter_(1, order, torch.arange(game.players, dtype=torch.int32).expand_as(order))
    counts = counts.to(torch.int32)[:, None]
    found = torch.empty(len(order), len(counts), dtype=torch.float64)
    size = max(1, MASKS // (len(counts) * game.players))
    for start in range(0, len(order), size):
        rows = torch.arange(start, min(start + size, len(order)))
        own = rank[start : start + size, None]
        found[rows] = game.worth(own >= counts if gone else own < counts, rows=rows, label=label)
    return found


def check_references(references: int) -> None:
    """Refuse a number of random orders that tells no standard error."""
    whole(references=(references, 0))
    if references == 1:
        raise MethodError("The 'references' must be 0, for none, or at least 2", got="1")


def beside(own: Tensor, areas: list[Tensor], sign: float) -> dict[str, Tensor]:
    """What random orders tell: their mean, its standard error, by how much and how often one's own is better, by `sign`."""
    if not areas:
        return {}
    drawn = torch.stack(areas)
    mean = drawn.mean(0)
    return {
        "random": mean,
        "gain": sign * (own - mean),
        "random_error": drawn.std(0) / len(areas) ** 0.5,
        "beats_random_orders": (sign * (own - drawn) > 0).double().mean(0),
    }


def overall(values: Tensor) -> dict[str, Any]:
    """The mean over rows with its 95 % interval by Student's t, as plain data; rows that are not finite are listed."""
    from scipy.stats import t

    flat = values.detach().double().cpu()
    good = torch.isfinite(flat)
    kept, count = flat[good], int(good.sum())
    found: dict[str, Any] = {"rows": count, "excluded": (~good).nonzero()[:, 0].tolist()}
    found["mean"] = float(kept.mean()) if count else None
    if count > 1:
        half = float(t.ppf(0.975, count - 1)) * float(kept.std()) / count**0.5
        found |= {"low": float(kept.mean()) - half, "high": float(kept.mean()) + half}
    return found


def wilson(hits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Wilson's 95 % interval of shares, of which `hits` out of `count` were met."""
    p, z = hits.double() / count, NORMAL**2 / count
    middle = (p + z / 2) / (1 + z)
    half = (z * p * (1 - p) + z**2 / 4).sqrt() / (1 + z)
    return (middle - half).clamp(min=0).minimum(p), (middle + half).clamp(max=1).maximum(p)  # up to rounding


def by_class(values: Tensor, classes: Tensor | None) -> dict[str, Any]:
    """`overall` of each explained class's rows, by its number as text, where classes were explained."""
    if classes is None:
        return {}
    own = classes.cpu()
    return {str(int(c)): overall(values[(own == c).to(values.device)]) for c in own.unique()}
