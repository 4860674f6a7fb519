"""The advice: filter by question and access, try what is left, measure the best, rank, and give the reason for each."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from pellucid.advice import access, evidence, ranking, table, trial
from pellucid.advice.answer import Advice, Refusal, Suggestion, seconds
from pellucid.advice.questions import Question, asked
from pellucid.advice.ranking import Found
from pellucid.advice.trial import Expired, Tried, Trying, Watched
from pellucid.contract import Method, registered
from pellucid.contract.errors import InputError, PellucidError
from pellucid.engine import Subject, as_subject
from pellucid.engine.inputs import Inputs, as_inputs

__all__ = ["PRESETS", "advise"]

PRESETS = {
    "time-critical": "an answer while something waits: the quickest first, within half a second unless a deadline is given",
    "decision-critical": "a decision someone must answer for: one row's reasons, the best of each kind of evidence first",
    "science": "what the network does in general: methods that look at the whole of it first",
}
# Seconds that a time-critical explanation may take, and that one trial may take where no deadline is given.
HURRY, TRIAL = 0.5, 1.0
# Share of the advice's own time that is kept for comparing what was found.
RESERVED = 0.35
CONTRAST = " Any attribution tells why one class rather than another, with target=px.margin(towards, against)."
# A second run of the same may take longer; so much is kept free of the deadline.
SAFETY = 1.25


@dataclass(kw_only=True)
class Wish:
    """What the caller asked for, checked."""

    audience: str | None
    preset: str | None
    deadline: float | None
    patience: float
    started: float = field(default_factory=lambda: trial.clock())
    late: dict[str, float] = field(default_factory=dict)  # seconds of what is not in time

    def left(self) -> float:
        """Seconds that advising may still take."""
        return self.patience - (trial.clock() - self.started)

    @property
    def times(self) -> int:
        """How often a method is timed: a deadline is held against the longest of several."""
        return 1 if self.deadline is None else 3

    def meets(self, took: float) -> bool:
        """Whether an explanation that takes so long is in time."""
        return self.deadline is None or took * SAFETY <= self.deadline


def advise(
    model: Any,
    inputs: Any,
    question: str | None = None,
    audience: str | None = None,
    deadline: float | None = None,
    data: Any = None,
    *,
    preset: str | None = None,
    target: Any = None,
    layer: str | None = None,
    seed: int = 0,
    patience: float = 30.0,
) -> Advice:
    """Which explanation should I ask for? The methods that fit, best first, each with its reason, cost and evidence.

    Methods are left out that answer another question, that need what the call does not give, or that refuse the model when
    they are tried on its first row: an operation without a rule, no attention, no pooled head. What is left is timed on
    the caller's own rows, and the foremost attributions are compared by what their explanations predict about the model
    (`px.compare`). Every method of the catalogue is either suggested or refused with its reason.

    Args:
        model, inputs, target, layer, seed: as for `px.explain`. Rows of tokens are explained at the embedding, where the
            model has one.
        question: your words, or the name of one of the kinds `pellucid.advice.KINDS`: "which inputs", "which inputs in
            general", "why not", "which examples", "what rule", "what do hidden parts mean", "say it in words", "can it be
            believed".
        audience: "layperson": few parts, cases and rules first; "engineer": methods without chance first; "auditor":
            reproducible methods that state their own error first.
        deadline: seconds in which all rows must be explained. Sampling methods that measure their own error are offered
            with fewer draws where all of them take too long. Where nothing is quick enough, `statement` says so and names
            the quickest.
        data: what methods may learn from; without it, those that need it are refused.
        preset: "time-critical", "decision-critical" or "science", see `pellucid.advice.PRESETS`.
        patience: seconds that the advice itself may take. Trials are stopped where the model is called next, so a method
            that works long without it may overrun. What there was no time to try comes last, or is refused if there is a
            deadline.

    Example:
        >>> import torch, pellucid as px
        >>> found = px.advise(lambda x: x[:, :2], torch.ones(1, 3), "Which inputs mattered?", patience=5.0)
        >>> "feature-ablation" in found.names, [r.reason[:24] for r in found.refused if r.name == "smoothgrad"]
        (True, ['SmoothGrad needs gradien'])
    """
    wish = _wish(audience, preset, deadline, patience)
    subject, rows = Watched.of(as_subject(model)), as_inputs(inputs)
    layer = layer or access.place(subject, rows)
    methods = registered()
    wanted = asked(question, [m.card for m in methods.values()])
    output, forward, row = trial.forward(subject, rows)
    about = {"data": access.guide_kind(rows), "problem": access.problem(output)}
    networks = access.families(subject)
    listed = {name: table.Listing.of((name, *m.card.covers), networks, **about) for name, m in methods.items()}
    refused, open_ = _sift(methods, wanted, subject, rows, data, layer)
    # Under a short patience, what the field guide lists for such a call comes first, then what is quick: methods that the
    # conformance kit needs no cheaper settings for.
    open_.sort(key=lambda m: (listed[m.card.name].tier, bool(m.card.trial), -wanted.fits[m.card.name], m.card.name))
    trying = Trying(subject=subject, rows=rows, target=target, layer=layer, data=data, seed=seed)
    found = _tried(open_, trying, wish, forward, refused)
    order = ranking.order(found, wanted, wish, listed, {})
    standing = evidence.standings(
        as_subject(model),
        rows,
        {f.name: f.tried for f in order if f.tried is not None},
        target=target,
        data=data,
        seed=seed,
        left=wish.left(),
        row=row,
    )
    order = ranking.order(found, wanted, wish, listed, standing)
    suggestions = tuple(
        ranking.suggestion(f, wish, rows.rows, forward, standing.get(f.name), listed[f.name]) for f in order
    )
    told = {
        "question": question,
        "kind": wanted.kind.name if wanted.kind else None,
        "audience": audience,
        "preset": preset,
        "deadline": wish.deadline,
        "rows": rows.rows,
        "layer": layer,
        **about,
        "networks": sorted(networks),
        "forward_seconds": forward,
    }
    return Advice(
        statement=_statement(wanted, suggestions, refused, wish, rows.rows, forward),
        suggestions=suggestions,
        refused=tuple(Refusal(name=name, reason=refused[name]) for name in sorted(refused)),
        asked=told,
    )


def _wish(audience: Any, preset: Any, deadline: Any, patience: Any) -> Wish:
    for name, value, known in (("audience", audience, ranking.AUDIENCES), ("preset", preset, PRESETS)):
        if value is not None and value not in known:
            raise InputError(f"The '{name}' must be one of {', '.join(map(repr, known))}", got=repr(value))
    if deadline is None and preset == "time-critical":
        deadline = HURRY
    for name, value in (("deadline", deadline), ("patience", patience)):
        good = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
        if not good and not (name == "deadline" and value is None):
            raise InputError(f"The '{name}' must be a number of seconds above 0", got=repr(value), hint=f"{name}=0.5")
    return Wish(audience=audience, preset=preset, deadline=deadline, patience=patience)


def _sift(
    methods: Any, wanted: Question, subject: Subject, rows: Inputs, data: Any, layer: str | None
) -> tuple[dict[str, str], list[type[Method]]]:
    """The methods that can't be meant or can't work, with the reason; and the others."""
    refused: dict[str, str] = {}
    left = []
    for name, method in methods.items():
        reason = wanted.misses(method.card) or access.obstacle(method.card, subject, rows, data, layer)
        if reason:
            refused[name] = reason
        else:
            left.append(method)
    return refused, left


def _tried(
    methods: list[type[Method]],
    trying: Trying,
    wish: Wish,
    forward: float,
    refused: dict[str, str],
) -> list[Found]:
    """Each method tried; what refuses the model or comes too late goes to `refused`."""
    found = []
    kept = RESERVED * wish.patience if any(m.card.form == "attribution" for m in methods) else 0.0
    for kind in methods:
        name = kind.card.name
        if wish.deadline is not None and not wish.meets(forward):
            refused[name] = f"one forward pass of the rows alone takes {seconds(forward)}"
        elif wish.left() <= kept:
            if wish.deadline is None:
                found.append(Found(method=kind(), tried=None, layer=trying.layer))
            else:
                refused[name] = f"there was no time to try it: advice may take {seconds(wish.patience)}"
        else:
            one = _try(kind(), trying, wish)
            if isinstance(one, str):
                refused[name] = one
            else:
                found.append(one)
    return found


def _try(method: Method, trying: Trying, wish: Wish) -> Found | str:
    """One method with its defaults, and with less where that is too slow and the method knows its own error."""
    usual = TRIAL if method.card.trial else 2 * TRIAL  # what is quick once loaded may load for long
    allowance = min(max(wish.deadline or 0.0, usual), wish.left())
    try:
        tried = trying.warm(trying.first(method, allowance), allowance, wish.times)
        took = tried.all_rows(trying.rows.rows)
        if wish.meets(took):
            return Found(method=method, tried=tried)
        wish.late[method.card.name] = took
        reason = f"it takes about {seconds(took)}"
    except Expired:
        if wish.deadline is None:
            return Found(method=method, tried=None, layer=trying.layer, stopped=allowance)
        reason = f"it takes more than {seconds(allowance)}"
    except PellucidError as error:
        return error.problem + (f": got {error.got}" if error.got else "")
    except Exception as error:  # one method's fault must not take the advice down
        return f"it failed with {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    assert wish.deadline is not None
    less = _less(method, trying, wish)
    return less or f"{reason}, and there are {seconds(wish.deadline)}"


def _less(method: Method, trying: Trying, wish: Wish) -> Found | None:
    """The most draws that are in time, of a method that says how far they leave it off."""
    for smaller in trial.cheaper(method):
        allowance = min(wish.deadline or 0.0, wish.left())
        if allowance <= 0:
            return None
        try:
            tried: Tried = trying.warm(trying.first(smaller, allowance), allowance, wish.times)
        except Expired:
            continue
        except PellucidError:
            return None
        if not trial.has_error(tried.result):
            return None
        if wish.meets(tried.all_rows(trying.rows.rows)):
            return Found(method=smaller, tried=tried, reduced=True)
    return None


def _statement(
    wanted: Question,
    suggestions: tuple[Suggestion, ...],
    refused: dict[str, str],
    wish: Wish,
    rows: int,
    forward: float,
) -> str:
    """What came out, in a sentence or two."""
    what = "1 row" if rows == 1 else f"{rows} rows"
    more = CONTRAST if wanted.kind is not None and wanted.kind.name == "why not" else ""
    if suggestions:
        first = suggestions[0]
        return f"Take {first.card.title} ({first.name}), {first.cost} for {what}. {first.why}{more}"
    if wish.deadline is not None:
        late = {n: r for n, r in refused.items() if r.startswith(("it takes", "one forward"))}
        if not wish.meets(forward):
            return (
                f"Nothing explains {what} within {seconds(wish.deadline)}: one forward pass takes {seconds(forward)}."
            )
        if late:
            quick = min(late, key=lambda n: (wish.late.get(n, math.inf), n))
            return f"Nothing explains {what} within {seconds(wish.deadline)}: the quickest is {quick}, {late[quick]}."
    return "No method of the catalogue fits; `refused` gives the reason for each." + more
