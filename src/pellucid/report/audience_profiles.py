"""The same explanation for different people: everything for experts, a few clues in few words for normal users."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.contract import Attribution, Explanation, Rules
from pellucid.contract.errors import InputError
from pellucid.engine.settings import whole
from pellucid.show import attribution, describe, viewer
from pellucid.show.facts import card_of
from pellucid.show.options import Options
from pellucid.show.select import only
from pellucid.show.words import clean

__all__ = ["PROFILES", "Profile", "Templates", "View", "view"]

ANY = "*"
FOR, AGAINST = "▲", "▼"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Who reads: at most so many `words` and named `terms` a row, all where they are `None`; `data` adds every figure."""

    name: str
    words: int | None = None
    terms: int | None = None
    data: bool = False


PROFILES: Mapping[str, Profile] = {
    "expert": Profile(name="expert", data=True),
    "normal user": Profile(name="normal user", words=60, terms=5),
}

Template = Callable[[Explanation, int, Profile], list[str]]


@dataclass(frozen=True, kw_only=True)
class View:
    """An explanation of one row as a profile reads it.

    `lines` are sentences and clues; `left_out` says how many did not fit the profile's words. `data`, for experts, has
    every figure and setting. `template` is the key of the template that was used: with "*" where a fallback was.
    """

    profile: str
    problem: str
    template: tuple[str, str]
    lines: tuple[str, ...]
    left_out: int = 0
    data: dict[str, Any] | None = None

    @property
    def words(self) -> int:
        """How many words it takes to read."""
        return sum(len(line.split()) for line in self.lines)

    def text(self) -> str:
        """The lines as text."""
        return "\n".join(self.lines)


class Templates:
    """How to say a problem to a reader, by (profile, problem); "*" stands for any of them.

    The nearest one is taken: (profile, problem), (profile, "*"), ("*", problem), ("*", "*"), so one presentation serves a
    reader in several problems, or several readers in one. `coverage` says which serves where.
    """

    def __init__(self, known: Mapping[tuple[str, str], Template] | None = None) -> None:
        self.known: dict[tuple[str, str], Template] = {(ANY, ANY): _account, **(known or {})}

    def add(self, profile: str, problem: str, template: Template) -> Templates:
        """The same templates with one more, or another in a place."""
        if not callable(template):
            raise InputError("A template must be a function of result, row and profile", got=type(template).__name__)
        return Templates({**self.known, (str(profile), str(problem)): template})

    def find(self, profile: str, problem: str) -> tuple[tuple[str, str], Template]:
        """The nearest template with its key."""
        keys = [(profile, problem), (profile, ANY), (ANY, problem), (ANY, ANY)]
        key = next(k for k in keys if k in self.known)
        return key, self.known[key]

    def coverage(self, profiles: Iterable[str], problems: Iterable[str]) -> dict[tuple[str, str], tuple[str, str]]:
        """For every reader and problem, the key of the template that serves; no place is empty."""
        return {(a, b): self.find(a, b)[0] for a in profiles for b in list(problems)}


def view(
    result: Explanation,
    profile: str | Profile,
    *,
    row: int = 0,
    problem: str | None = None,
    templates: Templates | None = None,
) -> View:
    """The explanation of one row for a reader, who is always named and never guessed.

    Args:
        result: any of the six forms.
        profile: "expert" (all figures and settings, every word), "normal user" (rules and clues: few terms, few words), or
            a `Profile` of yours.
        row: which row.
        problem: what the templates are chosen by; the form of the result where it is not given.
        templates: yours; without them, those of the library.

    A normal user gets the answer first, then rules, or the columns that speak for ▲ and against ▼ the answer, then how far
    to believe it; what does not fit the words is left out as whole lines, and counted.

    Example:
        >>> import torch, pellucid as px
        >>> net = px.Subject(torch.nn.Linear(2, 2).eval(), features=("age", "dose"))
        >>> found = px.explain(net, torch.ones(1, 2), "gradient-x-input")
        >>> px.report.view(found, "normal user").words <= 60, px.report.view(found, "expert").data["form"]
        (True, 'attribution')
    """
    whole(row=(row, 0))
    if row >= int(result.source.get("rows", row + 1)):
        raise InputError(f"The 'row' must be below {result.source['rows']}, the number of rows", got=str(row))
    if isinstance(profile, str) and profile not in PROFILES:
        raise InputError(f"The 'profile' must be one of {', '.join(map(repr, PROFILES))}", got=repr(profile)[:80])
    if not isinstance(profile, str | Profile):
        raise InputError("The 'profile' must be a name or a Profile", got=type(profile).__name__)
    reader = PROFILES[profile] if isinstance(profile, str) else profile
    asked = problem or result.form
    key, template = (templates or STANDARD).find(reader.name, asked)
    lines, left = _fit([clean(line, 2000) for line in template(result, row, reader) if line], reader.words)
    data = everything(result) if reader.data else None
    return View(profile=reader.name, problem=asked, template=key, lines=tuple(lines), left_out=left, data=data)


def everything(value: Any) -> Any:
    """A result with every figure as plain data, exactly: tensors as their type, shape and numbers."""
    if isinstance(value, Tensor):
        kept = value.detach().cpu()
        return {
            "dtype": str(kept.dtype).removeprefix("torch."),
            "shape": list(kept.shape),
            "values": kept.flatten().tolist(),
        }
    if isinstance(value, Explanation):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {"form": value.form, **{k: everything(v) for k, v in fields.items()}}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: everything(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): everything(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [everything(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else repr(value)


def tensor(told: Mapping[str, Any]) -> Tensor:
    """A tensor back from `everything`."""
    return torch.tensor(told["values"], dtype=getattr(torch, told["dtype"])).reshape(told["shape"])


def _fit(lines: list[str], words: int | None) -> tuple[list[str], int]:
    """The lines that fit, in order; one that does not is left out whole, and so is all that follows."""
    if words is None:
        return lines, 0
    kept: list[str] = []
    for line in lines:
        if sum(len(k.split()) for k in [*kept, line]) > words:
            break
        kept.append(line)
    return kept, len(lines) - len(kept)


def _account(result: Explanation, row: int, profile: Profile) -> list[str]:
    """For any reader of any form: the row's answer, what mattered, how far to believe it, what it can't say."""
    one = only(result, row)
    told = viewer(one).account(one, Options(rows=1))
    own = [lines[0] for lines in (told.answers, told.mattered) if lines]
    return [*own, *told.listing[: profile.terms], *told.believed, *(f"It can't tell: {c}." for c in told.cannot)]


def _expert(result: Explanation, row: int, profile: Profile) -> list[str]:
    """Settings, hashes, all rows' figures, and what may be revised."""
    told = describe(result, "engineer", rows=1 << 30).split("\n")
    card = card_of(result)
    return [*told, *(f"check before revising the model: {limit}" for limit in (card.limits if card else ()))]


def _clues(result: Explanation, row: int, profile: Profile) -> list[str]:
    """The columns that speak most for and against, one a line; of pictures and texts where it lies."""
    assert isinstance(result, Attribution)
    one = only(result, row)
    told, names = viewer(one).account(one, Options(rows=1)), result.context.features
    answer, values = told.answers[0] if told.answers else "", one.values
    if not isinstance(values, Tensor) or values.dim() != 2 or len(names) != values.shape[1]:
        return [answer, attribution.mattered(one, 0), *told.believed]
    figures = values[0].detach().cpu().double()
    order = [i for i in figures.abs().argsort(descending=True, stable=True).tolist() if figures[i] != 0]
    clues = [f"{FOR if figures[i] > 0 else AGAINST} {clean(names[i], 40)}" for i in order[: profile.terms]]
    return [answer, *clues, *told.believed]


def _rules(result: Explanation, row: int, profile: Profile) -> list[str]:
    """A few rules: first the one that the row itself meets."""
    assert isinstance(result, Rules)
    path, inputs = getattr(result.structure, "decision_path", None), result.context.inputs
    own = []
    if path is not None and isinstance(inputs, Tensor) and row < len(inputs):
        own = [path(inputs[row], result.context.features, result.context.classes)]
    told = viewer(result).account(result, Options(rows=1))
    return [*own, *told.believed] if own else [*result.text[: profile.terms], *told.believed]


STANDARD = Templates(
    {
        ("expert", ANY): _expert,
        ("normal user", "attribution"): _clues,
        ("normal user", "rules"): _rules,
    }
)
