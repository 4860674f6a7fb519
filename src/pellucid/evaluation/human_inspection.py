"""Do people find maps plausible? Each is accepted or rejected with a reason, by people who don't know whose it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pellucid.contract import Measure
from pellucid.contract.errors import InputError
from pellucid.evaluation.human import Panel, Question, Stimulus, Study
from pellucid.evaluation.human_analysis import analyse
from pellucid.evaluation.human_answers import Answers
from pellucid.inert import clean

__all__ = ["REASONS", "analyse_plausibility", "plausibility_study"]

REASONS = (
    "It marks what I would look at",
    "It misses what I would look at",
    "It marks other things as well",
    "It marks borders or patterns of the picture, whatever is in it",
    "It is too blurred or too noisy to tell",
)
ALWAYS = "A map that looks right need not be right: what is asked here is what you find, not what the network did."
FAILED = (
    "Plausible is not faithful: some of these maps did not pass the check that they depend on what the network learnt."
)
PREFIX = "Plausible is not faithful"


def plausibility_study(
    maps: Mapping[str, Sequence[Panel]],
    *,
    participants: int,
    sanity: Mapping[str, Any] | None = None,
    cases: Sequence[Panel] = (),
    reasons: Sequence[str] = REASONS,
    title: str = "Do these maps look right?",
    design: str = "crossed",
    seed: int = 0,
) -> Study:
    """Which methods' maps do people find plausible, and why?

    A queue of maps in an order of chance, without the methods' names: each is accepted or rejected, with reasons. Nobody
    is told which method failed: a note at the head says that some did, and `analyse_plausibility` says which.

    Args:
        maps: method → a panel for each case, such as `shown` makes.
        participants, title, design, seed: as of `Study`.
        sanity: method → the result of "model-randomization-test" (or another with the fact ``fails``) on its maps, or
            whether it failed. None, or a method that is missing there: not checked, which is said, too.
        cases: what is shown beside them, one panel for each case.
        reasons: what may be ticked.

    Known failure: people accept what they expect. Plausibility says nothing of faithfulness; methods that fail the sanity
    check, and so show the picture rather than the network, are often found the most plausible.
    Source: Adebayo et al. 2018, §1, on how far looking at maps can mislead.

    Example:
        >>> made = {name: [Panel(lines=("a",)), Panel(lines=("b",))] for name in ("x", "y")}
        >>> plausibility_study(made, participants=2, sanity={"x": True, "y": False}).warnings[1][:25]
        'Plausible is not faithful'
    """
    lengths = {len(panels) for panels in [*maps.values(), *([cases] if cases else [])]}
    if len(lengths) != 1 or lengths == {0}:
        raise InputError("The 'maps' must have one panel for each case", got=str(sorted(lengths)))
    if unknown := sorted(set(sanity or {}) - set(maps)):
        raise InputError("The 'sanity' must be of methods among the maps", got=clean(repr(unknown))[:80])
    verdicts = {name: failed((sanity or {}).get(name)) for name in maps}
    asked = (
        Question(
            name="verdict", text="Does this map look right to you?", options=("Yes, I accept it", "No, I reject it")
        ),
        Question(name="reasons", text="Why?", options=tuple(reasons), kind="several"),
        Question(name="remark", text="Anything else?", kind="remark"),
    )
    stimuli = [
        Stimulus(
            case=f"case {i + 1}",
            condition=name,
            panels=(*((cases[i],) if cases else ()), panels[i]),
            questions=asked,
            about={"failed": verdicts[name]},
        )
        for name, panels in maps.items()
        for i in range(lengths.copy().pop())
    ]
    made = Study(
        title=title,
        intro=("You will see maps of what mattered to a network. Say of each whether it looks right to you, and why.",),
        conditions=tuple(maps),
        stimuli=tuple(stimuli),
        participants=participants,
        design=design,
        seed=seed,
        warnings=(ALWAYS, *((FAILED,) if any(verdicts.values()) else ())),
    )
    made.check()
    return made


def failed(result: Any) -> bool | None:
    """Whether a sanity check failed: of a measure, whether most rows did; None where there is nothing to tell it by."""
    if result is None or isinstance(result, bool):
        return result
    if isinstance(result, Measure) and "fails" in result.facts:
        told = result.facts["fails"].double()
        told = told[torch.isfinite(told)]
        return bool(told.mean() >= 0.5) if len(told) else None
    raise InputError(
        "The 'sanity' of a method must be whether it failed, or a measure with the fact 'fails'",
        got=type(result).__name__,
        hint='px.explain(model, inputs, "model-randomization-test")',
    )


def analyse_plausibility(study: Study, answers: Answers) -> Measure:
    """How many of each method's maps do people accept, how far do they agree, and was that method sane at all?

    Returns:
        As `Study.analyse`: ``values`` (methods,) are shares accepted, with ``low`` and ``high``; facts also hold
        ``failed``: 1 where the sanity check failed, 0 where it passed, NaN where there was none. `parts`: ``agreement``
        (Fleiss), and ``reasons`` (methods, reasons), how often each was ticked. ``source["study"]["warnings"]`` says, for
        each method whose check failed or is missing, that plausible is not faithful.
    """
    found = analyse(study, answers, "verdict")
    reasons = study.question("reasons").options
    verdicts, ticked = [], np.zeros((len(study.conditions), len(reasons)))
    for way, name in enumerate(study.conditions):
        verdicts.append(next(s.about["failed"] for s in study.stimuli if s.condition == name))
        own = [a.given["reasons"] for a in answers.answers if study.stimuli[a.stimulus].condition == name]
        for given in own:
            ticked[way, list(given)] += 1 / len(own)
    warnings = []
    for name, verdict, value in zip(study.conditions, verdicts, found.values.tolist(), strict=True):
        if verdict is not False:
            said = "its maps do not depend on what the network learnt" if verdict else "its sanity check was not made"
            told = "no map was judged" if np.isnan(value) else f"{100 * value:.0f} % accepted"
            warnings.append(f"{PREFIX}: {clean(name)} ({told}): {said}.")
    about = {**found.source["study"], "warnings": [*study.warnings, *warnings], "reasons": list(reasons)}
    flags = [float("nan") if v is None else float(v) for v in verdicts]
    return found.replace(
        unit="share accepted",
        better="neither",
        facts={**found.facts, "failed": torch.tensor(flags, dtype=torch.float64)},
        parts={**found.parts, "reasons": torch.from_numpy(ticked)},
        source={**found.source, "study": about},
    )
