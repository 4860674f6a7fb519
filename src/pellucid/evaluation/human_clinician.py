"""Do explanations help those who must decide about patients? True ones, another method's, and sham ones, told by nobody."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.contract import Attribution, Measure
from pellucid.contract.errors import InputError
from pellucid.contract.storage import as_path, write
from pellucid.engine import seed as seeds
from pellucid.engine.settings import whole
from pellucid.evaluation.human import KEY, Panel, Question, Stimulus, Study, scale
from pellucid.evaluation.human_analysis import analyse, by_person
from pellucid.evaluation.human_answers import Answers
from pellucid.evaluation.human_statistics import participants_needed

__all__ = ["analyse_clinicians", "clinician_study", "notebook", "sham"]

RATINGS = ("correct", "useful")
ALONE = "no aid"
CONSENT = (
    "Cases are shown without names, dates or numbers of patients. Write none into remarks.",
    "Some explanations may be of no use, or misleading on purpose. Nobody is treated by what is answered here.",
)


def sham(result: Attribution, *, seed: int = 0) -> Attribution:
    """What would an explanation look like that says nothing? The same map, elsewhere.

    Each row's values are moved around the edges by a distance of chance, at least a quarter of every side, and mirrored or
    not: as strong, as smooth and as focused as the true map, but elsewhere. For columns and tokens the values are put into
    another order, in which no value stays where it was if there are at least two.

    Example:
        >>> import torch, pellucid as px
        >>> true = px.Attribution(values=torch.tensor([[1.0, 2.0, 3.0]]))
        >>> bool((sham(true).values != true.values).all())
        True
    """
    if not isinstance(result, Attribution) or not isinstance(result.values, Tensor):
        raise InputError("The 'result' must be an attribution of one input", got=type(result).__name__)
    rows = [_moved(row, seeds.generator(seed, b"sham", i)) for i, row in enumerate(result.values.detach().cpu())]
    found: Attribution = result.replace(values=torch.stack(rows), error=None, parts={}, facts={})
    return found


def _moved(row: Tensor, draw: np.random.Generator) -> Tensor:
    if row.dim() < 3:
        flat, count = row.flatten(), row.numel()
        step = int(draw.integers(1, count)) if count > 1 else 0
        order = draw.permutation(count)
        back = np.empty(count, dtype=int)
        back[order] = np.roll(order, step)  # along one ring through all places, so that none stays
        return flat[torch.from_numpy(back)].reshape(row.shape)
    axes = list(range(1, row.dim()))
    for axis in axes:
        size = row.shape[axis]
        quarter = size // 4
        row = row.roll(int(draw.integers(max(1, quarter), max(2, size - quarter + 1))) if size > 1 else 0, axis)
        row = row.flip(axis) if draw.random() < 0.5 else row
    return row


def clinician_study(
    cases: Sequence[Panel],
    explanations: Mapping[str, Sequence[Panel]],
    decisions: Sequence[str],
    truth: Sequence[int],
    *,
    participants: int | None = None,
    advice: Sequence[int] | None = None,
    difference: float = 1.0,
    title: str = "Assessing explanations",
    intro: tuple[str, ...] = (),
    design: str = "crossed",
    seed: int = 0,
) -> Study:
    """Do clinicians decide better with an explanation, and do they tell a true one from a sham?

    Each case is met without aid and with each explanation, in an order of chance, blinded: what is decided, how right the
    explanation looks and how useful it is (1 to 7; for no aid, of the case as shown), and how sure one is.

    Args:
        cases: without anything that identifies a patient; nothing here can check that.
        explanations: name → a panel for each case. One of them should be `sham`'s.
        decisions, truth: what may be decided, and what is right.
        participants: None: as many as find a difference of ``difference`` points in a mean rating with a power of 80 %, if
            single ratings spread by 1.5 and people's differences by 1 point, rounded up so that all orders are balanced.
        advice: what the network advises; shown with every explanation, and not without aid.
        title, intro, seed: as of `Study`.
        design: "crossed", everyone meets everything, which agreement (ICC) needs; "within", each case once.

    Known failure: with "crossed", people remember cases; leave days between sessions, or take "within".
    Source: Tjoa & Guan 2021, §IV, who ask for such studies; Shrout & Fleiss 1979, for agreement.
    """
    conditions = (ALONE, *explanations)
    lengths = {len(cases), len(truth), *map(len, explanations.values()), *(() if advice is None else (len(advice),))}
    if len(lengths) != 1 or not cases or not explanations or ALONE in explanations:
        raise InputError(
            "The 'explanations' must have one panel for each case, and names of their own", got=str(lengths)
        )
    if participants is None:
        block = len(conditions) * (1 + len(conditions) % 2)
        met = len(cases) if design == "crossed" else max(1, len(cases) // len(conditions))
        needed = participants_needed(difference, spread=1.5, person=1.0, answers=met)
        participants = -(-needed // block) * block
    whole(participants=(participants, 1))
    asked = (
        Question(name="decision", text="What do you decide?", options=tuple(decisions)),
        scale("correct", "What is shown points to what matters in this case.", "not at all", "entirely"),
        scale("useful", "What is shown helps me to decide.", "not at all", "very much"),
        scale("sure", "How sure are you of your decision?", "a guess", "certain"),
        Question(name="remark", text="Anything else?", kind="remark"),
    )
    stimuli = []
    for i, case in enumerate(cases):
        said = () if advice is None else (Panel(heading="The network advises", lines=(decisions[advice[i]],)),)
        about = {} if advice is None else {"advice": int(advice[i]), "advice_right": int(advice[i] == truth[i])}
        for name in conditions:
            shown = (case,) if name == ALONE else (case, *said, explanations[name][i])
            stimuli.append(
                Stimulus(
                    case=f"case {i + 1}",
                    condition=name,
                    panels=shown,
                    questions=asked,
                    right={"decision": int(truth[i])},
                    about=about,
                )
            )
    made = Study(
        title=title,
        intro=(*intro, *CONSENT),
        conditions=conditions,
        stimuli=tuple(stimuli),
        participants=participants,
        design=design,
        seed=seed,
    )
    made.check()
    return made


def analyse_clinicians(study: Study, answers: Answers, *, against: str) -> dict[str, Measure]:
    """What did clinicians decide and think, and was the sham found out?

    Args:
        study, answers: of `clinician_study`.
        against: the condition that ratings are compared with: the sham.

    Returns:
        Measures by question: "decision" (share right; `effect` beside no aid) and each rating (`effect` beside ``against``,
        by each person's own difference). ``parts["agreement"]`` is ICC(2,1) of complete ratings, Fleiss' kappa of
        decisions. A rating's ``source["study"]["found_out"]`` says, by condition, whether its interval lies above 0.
    """
    if against not in study.conditions:
        raise InputError(f"The 'against' must be one of {study.conditions}", got=repr(against))
    found = {"decision": analyse(study, answers, "decision")}
    others = [c for c in study.conditions if c not in (against, ALONE)]
    for name in (*RATINGS, "sure"):
        told = analyse(study, answers, name)
        rows = [(a.participant, study.stimuli[a.stimulus].condition, a.given[name]) for a in answers.answers]
        effects = {c: _beside(rows, c, against) for c in others}
        above = {c: bool(e.low > 0) for c, e in effects.items()}
        ends = {
            "effect" + end: torch.tensor(
                [getattr(effects[c], key) if c in effects else float("nan") for c in study.conditions],
                dtype=torch.float64,
            )
            for key, end in (("value", ""), ("low", "_low"), ("high", "_high"))
        }
        parts = {k: v for k, v in told.parts.items() if not k.startswith("mixed")}
        source = {**told.source, "study": {**told.source["study"], "against": against, "found_out": above}}
        found[name] = told.replace(parts={**parts, **ends}, source=source, better="higher")
    return found


def _beside(rows: Sequence[tuple[int, str, int]], one: str, other: str) -> Any:
    from pellucid.evaluation.human_analysis import mean

    person, ways, given = (np.array(v) for v in zip(*rows, strict=True))
    both = np.intersect1d(person[ways == one], person[ways == other])
    kept = np.isin(person, both)
    own = [by_person(given[kept & (ways == w)].astype(float), person[kept & (ways == w)])[0] for w in (one, other)]
    return mean(own[0] - own[1], both)


def notebook(study: Study, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write ``analysis.ipynb`` beside an exported study: it reads the answers in ``answers/`` and analyses them."""
    asked = dict.fromkeys(q.name for s in study.stimuli for q in s.questions if q.kind != "remark")
    cells = [
        "from pathlib import Path\nfrom pellucid.evaluation import Study\n"
        f'study = Study.load("{KEY}", "questionnaire.html")\nanswers = study.read("answers")\n'
        "len(answers.participants), study.balance(answers)",
        *(f'study.analyse(answers, "{name}")' for name in asked),
        'Path("answers.csv").write_text(answers.csv(study), encoding="utf-8")',
    ]
    made: list[dict[str, Any]] = [
        {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": c, "id": f"cell-{i}"}
        for i, c in enumerate(cells)
    ]
    body = {"cells": made, "metadata": {"language_info": {"name": "python"}}, "nbformat": 4, "nbformat_minor": 5}
    return write(as_path(folder) / "analysis.ipynb", json.dumps(body, indent=1).encode(), overwrite=overwrite)
