"""Which task shows whether an explanation helps? Choices between two, foretelling the network, and real decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch

from pellucid.contract import Context, Measure
from pellucid.contract.errors import InputError
from pellucid.evaluation.human import Panel, Question, Stimulus, Study
from pellucid.evaluation.human_analysis import mean
from pellucid.evaluation.human_answers import Answers
from pellucid.evaluation.human_statistics import Estimate
from pellucid.inert import clean

__all__ = [
    "analyse_gap",
    "application_study",
    "counterfactual_study",
    "forward_simulation_study",
    "preference_study",
]

SAID = "What will the network answer?"


def preference_study(
    explanations: Mapping[str, Sequence[Panel]],
    *,
    participants: int,
    cases: Sequence[Panel] = (),
    text: str = "Which explanation tells you better why the network answered so?",
    neither: bool = False,
    title: str = "Which explanation is better?",
    intro: tuple[str, ...] = (),
    design: str = "crossed",
    seed: int = 0,
) -> Study:
    """Which of several explanations do people prefer, two at a time?

    Each pair of methods is shown for each case, side by side, as A and B; which stands where is balanced over people.
    ``study.analyse(answers)`` gives each method's strength (Bradley & Terry).

    Args:
        explanations: method → a panel for each case, such as `shown` makes; panels must not name the method.
        participants, title, intro, design, seed: as of `Study`. With "within", each person meets each case with one pair.
        cases: what is shown beside them, one panel for each case.
        text: what is asked.
        neither: whether "no difference" may be chosen, which counts as half a choice of each.

    Liking an explanation is not understanding the network by it: see `forward_simulation_study`.
    Source: Doshi-Velez & Kim 2017, §3.2 (binary forced choice).

    Example:
        >>> made = {name: [Panel(lines=(f"{name} {i}",)) for i in range(2)] for name in ("x", "y", "z")}
        >>> len(preference_study(made, participants=4).stimuli)
        6
    """
    count = _same_length({**explanations, **({"cases": cases} if cases else {})})
    if len(explanations) < 2:
        raise InputError("The 'explanations' must be of at least two methods", got=str(len(explanations)))
    asked = (Question(name="choice", text=text, kind="side", options=("No difference",) if neither else ()),)
    stimuli = [
        Stimulus(
            case=_case(i),
            condition=f"{one} or {other}",
            panels=(cases[i],) if cases else (),
            questions=asked,
            sides=(explanations[one][i], explanations[other][i]),
            names=(one, other),
        )
        for i in range(count)
        for one, other in combinations(explanations, 2)
    ]
    conditions = tuple(f"{one} or {other}" for one, other in combinations(explanations, 2))
    return _study(title, intro, conditions, stimuli, participants, design, seed)


def forward_simulation_study(
    cases: Sequence[Panel],
    explanations: Mapping[str, Sequence[Panel] | None],
    answers: Sequence[int],
    classes: Sequence[str],
    *,
    participants: int,
    text: str = SAID,
    title: str = "What will the network answer?",
    intro: tuple[str, ...] = (),
    design: str = "within",
    seed: int = 0,
) -> Study:
    """Can people foretell what the network answers, with an explanation and without?

    A person sees the input and, in some conditions, an explanation, and says what the network will answer: right is what
    it does answer, not what is true. Explanations must not tell the answer: `shown` leaves it out.

    Args:
        cases: the inputs, one panel each.
        explanations: condition → a panel for each case, or None for none: the control, which should come first.
        answers: what the network answers, class numbers.
        classes: the answers to choose from.
        participants, text, title, intro, design, seed: as of `Study`.

    Known failure: an explanation that gives the answer away (a map of only that class's parts) helps without explaining:
    the counterfactual task is harder to pass so. Source: Doshi-Velez & Kim 2017, §3.2 (forward simulation).

    Example:
        >>> seen = [Panel(lines=("a",)), Panel(lines=("b",))]
        >>> study = forward_simulation_study(seen, {"without": None, "with": seen}, [0, 1], ["cat", "dog"], participants=4)
        >>> study.conditions
        ('without', 'with')
    """
    given = {"cases": cases, "answers": answers}
    count = _same_length(given | {k: v for k, v in explanations.items() if v is not None})
    asked = (Question(name="answer", text=text, options=tuple(classes)),)
    stimuli = [
        Stimulus(
            case=_case(i),
            condition=way,
            panels=(cases[i], *(() if panels is None else (panels[i],))),
            questions=asked,
            right={"answer": int(answers[i])},
        )
        for i in range(count)
        for way, panels in explanations.items()
    ]
    return _study(title, intro, tuple(explanations), stimuli, participants, design, seed)


def counterfactual_study(
    cases: Sequence[Panel],
    explanations: Mapping[str, Sequence[Panel] | None],
    changed: Sequence[Panel],
    before: Sequence[int],
    after: Sequence[int],
    classes: Sequence[str],
    *,
    participants: int,
    title: str = "What will the network answer now?",
    intro: tuple[str, ...] = (),
    design: str = "within",
    seed: int = 0,
) -> Study:
    """Can people tell what the network answers when the input is changed?

    A person sees the input, what the network answered, an explanation in some conditions, and the changed input, and says
    what the network answers to that one.

    Args:
        cases, changed: the inputs before and after, one panel each.
        before, after: what the network answers to them.
        explanations, classes, participants, title, intro, design, seed: as for `forward_simulation_study`; explanations are
            those of the input before.

    Take as many changes that change the answer as ones that do not. Source: Doshi-Velez & Kim 2017, §3.2.
    """
    given = {"cases": cases, "changed": changed, "before": before, "after": after}
    count = _same_length(given | {k: v for k, v in explanations.items() if v is not None})
    asked = (Question(name="answer", text=SAID, options=tuple(classes)),)
    stimuli = []
    for i in range(count):
        for way, panels in explanations.items():
            said = Panel(heading="The network answered", lines=(classes[int(before[i])],))
            now = Panel(
                heading="Now the input is changed", lines=changed[i].lines, image=changed[i].image, alt=changed[i].alt
            )
            stimuli.append(
                Stimulus(
                    case=_case(i),
                    condition=way,
                    panels=(cases[i], said, *(() if panels is None else (panels[i],)), now),
                    questions=asked,
                    right={"answer": int(after[i])},
                    about={"changes": int(before[i] != after[i])},
                )
            )
    return _study(title, intro, tuple(explanations), stimuli, participants, design, seed)


def application_study(
    cases: Sequence[Panel],
    aids: Mapping[str, Sequence[Sequence[Panel]] | None],
    truth: Sequence[int],
    decisions: Sequence[str],
    *,
    participants: int,
    advice: Sequence[int] | None = None,
    groups: Sequence[str] | None = None,
    text: str = "What do you decide?",
    title: str = "Decisions with and without help",
    intro: tuple[str, ...] = (),
    design: str = "within",
    seed: int = 0,
) -> Study:
    """Do people who have the task decide better, faster or more fairly with an explanation than without?

    The task is the real one and its right answer the truth. ``study.analyse(answers)`` tells accuracy and time of each aid
    and what it changes beside the first; of ``answers.where(study, advice_right=0)``, how often wrong advice is found out;
    `analyse_gap`, by how much groups are treated differently. How sure people are is asked too (``"sure"``).

    Args:
        cases: what decisions are about, one panel each.
        aids: condition → the panels of each case (its prediction, its explanation), or None for no aid, which should come
            first. Let one condition show the advice without an explanation: else what the advice does is put down to the
            explanation.
        truth: the right decision of each case, its number.
        decisions: what may be decided.
        advice: what the network advises, numbers.
        groups: the group each case belongs to, where `analyse_gap` is wanted.
        participants, text, title, intro, design, seed: as of `Study`.

    Known failure: people learn from case to case; "between" is safer where an aid teaches. Source: Doshi-Velez & Kim 2017,
    §3.1.

    Example:
        >>> seen = [Panel(lines=(f"case {i}",)) for i in range(4)]
        >>> aids = {"alone": None, "advice": [[Panel(lines=("yes",))]] * 4}
        >>> application_study(seen, aids, [0, 1, 0, 1], ["yes", "no"], participants=8, advice=[0] * 4).stimuli[2].about
        {'advice': 0, 'advice_right': 0}
    """
    given: dict[str, Any] = {"cases": cases, "truth": truth, **{k: v for k, v in aids.items() if v is not None}}
    given |= {k: v for k, v in {"advice": advice, "groups": groups}.items() if v is not None}
    count = _same_length(given)
    sure = ("1 – a guess", "2", "3", "4", "5 – certain")
    asked = (
        Question(name="decision", text=text, options=tuple(decisions)),
        Question(name="sure", text="How sure are you?", options=sure, kind="scale"),
    )
    stimuli = []
    for i in range(count):
        about: dict[str, Any] = (
            {} if advice is None else {"advice": int(advice[i]), "advice_right": int(advice[i] == truth[i])}
        )
        about |= {} if groups is None else {"group": groups[i]}
        for way, panels in aids.items():
            stimuli.append(
                Stimulus(
                    case=_case(i),
                    condition=way,
                    panels=(cases[i], *(() if panels is None else panels[i])),
                    questions=asked,
                    right={"decision": int(truth[i])},
                    about=about,
                )
            )
    return _study(title, intro, tuple(aids), stimuli, participants, design, seed)


def analyse_gap(study: Study, answers: Answers, question: str = "decision", *, option: int = 0) -> Measure:
    """By how much more often do people choose an option for one group than for the other, under each condition?

    For each person and condition: the share of cases of the first group (in the order of the cases) that got the option,
    minus that of the second; ``values`` are means over people with intervals by Student's t, NaN where no person saw both
    groups under it. `parts`: ``effect``, each condition's gap minus the first's, over people who met both.

    The groups' cases should be alike but for the group: what else differs counts as discrimination here.
    """
    names = list(dict.fromkeys(s.about["group"] for s in study.stimuli if "group" in s.about))
    if len(names) != 2:
        raise InputError("The 'study' must have two groups", got=str(len(names)), hint="application_study(groups=...)")
    by: dict[tuple[int, str, str], list[float]] = {}
    for a in answers.answers:
        s = study.stimuli[a.stimulus]
        if question in a.given and "group" in s.about:
            by.setdefault((a.participant, s.condition, s.about["group"]), []).append(float(a.given[question] == option))
    own: dict[str, dict[int, float]] = {way: {} for way in study.conditions}
    for person in answers.participants:
        for way in study.conditions:
            sides = [by.get((person, way, name)) for name in names]
            if sides[0] and sides[1]:
                own[way][person] = sum(sides[0]) / len(sides[0]) - sum(sides[1]) / len(sides[1])
    gaps, first = [_over(list(own[way].values())) for way in study.conditions], own[study.conditions[0]]
    changes = [_over([v - first[p] for p, v in own[way].items() if p in first]) for way in study.conditions[1:]]
    tensor = {k: torch.tensor([getattr(e, k) for e in gaps], dtype=torch.float64) for k in ("value", "low", "high")}
    parts = {
        "effect" + end: torch.tensor([float("nan"), *(getattr(e, k) for e in changes)], dtype=torch.float64)
        for k, end in (("value", ""), ("low", "_low"), ("high", "_high"))
    }
    told = {
        "title": study.title,
        "people": len(answers.participants),
        "groups": names,
        "question": question,
        "option": option,
        "simulated": answers.simulated,
    }
    return Measure(
        values=tensor.pop("value"),
        unit="difference in share",
        facts=tensor,
        parts=parts,
        source={"study": told},
        context=Context(features=study.conditions),
    )


def _over(values: Sequence[float]) -> Estimate:
    import numpy as np

    return mean(np.array(values), np.arange(len(values)))


def _study(
    title: str,
    intro: tuple[str, ...],
    conditions: tuple[str, ...],
    stimuli: Sequence[Stimulus],
    participants: int,
    design: str,
    seed: int,
) -> Study:
    made = Study(
        title=title,
        intro=intro,
        conditions=conditions,
        stimuli=tuple(stimuli),
        participants=participants,
        design=design,
        seed=seed,
    )
    made.check()
    return made


def _case(number: int) -> str:
    return f"case {number + 1}"


def _same_length(given: Mapping[str, Any]) -> int:
    """How many cases there are, where all lists have as many."""
    lengths = {name: len(value) for name, value in given.items()}
    if len(set(lengths.values())) != 1 or not min(lengths.values()):
        told = ", ".join(f"{clean(name)[:20]} {length}" for name, length in lengths.items())
        raise InputError("The lists must be of one length, one entry for each case", got=told[:160])
    return next(iter(lengths.values()))
