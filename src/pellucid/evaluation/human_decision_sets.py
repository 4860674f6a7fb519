"""Which kinds of complexity slow people down? Rule sets of exactly the wanted size, with tasks whose answers are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.contract.errors import InputError
from pellucid.engine import seed as seeds
from pellucid.engine.settings import whole
from pellucid.evaluation.human import Panel, Question, Stimulus, Study, scale

__all__ = ["Complexity", "DecisionSet", "Line", "decision_set", "decision_set_study"]

TASKS = ("verification", "simulation", "counterfactual")
TRIES = 400
# Things one can see of an animal nobody knows, what may be said of several at once, and what it may be fed.
SEEN = (
    "blinking coughing dancing drooling dozing fidgeting frowning glowing growling grinning gulping hiccuping hissing "
    "hopping humming itching jumping kicking limping mumbling nodding panting pointing purring rocking shaking shivering "
    "sighing singing sneezing sniffing snoring spinning squinting stretching swaying sweating tapping trembling trotting "
    "twitching waving whistling winking wheezing wobbling yawning yodelling"
)
TERMS = SEEN.split()
CHUNKS = "merry gloomy brisk drowsy peevish wistful restless bashful jaunty sullen gallant timid".split()  # noqa: SIM905
OUTPUTS = "apples bread carrots dates eggs figs grapes honey kale lentils".split()  # noqa: SIM905


@dataclass(frozen=True, kw_only=True)
class Complexity:
    """How complex a rule set is.

    `lines` rules of `terms` parts each. `chunks` of these parts are new concepts, each made of two things that are met
    nowhere else: `explicit` ones have a name and a line that defines it, implicit ones are written out where they stand.
    `repeats`: how often a thing is mentioned again in another rule, all together: mentions minus different things.
    """

    lines: int
    terms: int = 2
    chunks: int = 0
    repeats: int = 0
    explicit: bool = True

    @property
    def name(self) -> str:
        """In words."""
        kind = "named" if self.explicit else "unnamed"
        return f"{self.lines} lines of {self.terms}, {self.chunks} {kind} chunks, {self.repeats} repeats"


@dataclass(frozen=True, kw_only=True)
class Line:
    """A rule: if all of its terms hold, then `output`. Terms are things seen, or numbers of chunks."""

    terms: tuple[str | int, ...]
    output: str


@dataclass(frozen=True, kw_only=True)
class DecisionSet:
    """Rules of which exactly one must hold, and concepts: each the two things of which it is made."""

    lines: tuple[Line, ...]
    chunks: tuple[tuple[str, str], ...] = ()
    explicit: bool = True

    @property
    def atoms(self) -> tuple[str, ...]:
        """All things that rules and concepts mention."""
        own = [t for line in self.lines for t in line.terms if isinstance(t, str)]
        return tuple(dict.fromkeys([*own, *(thing for pair in self.chunks for thing in pair)]))

    def outputs(self, seen: frozenset[str]) -> list[str]:
        """What every rule that holds says, where these things are seen: each rule is tried."""
        return [line.output for line in self.lines if all(self._holds(t, seen) for t in line.terms)]

    def _holds(self, term: str | int, seen: frozenset[str]) -> bool:
        return term in seen if isinstance(term, str) else all(thing in seen for thing in self.chunks[term])

    def text(self) -> tuple[str, ...]:
        """One line for each definition and rule."""
        told = [f"{CHUNKS[i]} means {a} and {b}" for i, (a, b) in enumerate(self.chunks)] if self.explicit else []
        for line in self.lines:
            parts = [t if isinstance(t, str) else self._chunk(t) for t in line.terms]
            told.append(f"if {' and '.join(parts)} then {line.output}")
        return tuple(told)

    def _chunk(self, number: int) -> str:
        return CHUNKS[number] if self.explicit else "({} and {})".format(*self.chunks[number])

    def complexity(self) -> Complexity:
        """How complex it is, counted."""
        mentioned = [t for line in self.lines for t in line.terms if isinstance(t, str)]
        used = {t for line in self.lines for t in line.terms if isinstance(t, int)}
        return Complexity(
            lines=len(self.lines),
            terms=max(len(line.terms) for line in self.lines),
            chunks=len(used),
            repeats=len(mentioned) - len(set(mentioned)),
            explicit=self.explicit,
        )


def decision_set(wanted: Complexity, *, seed: int = 0) -> DecisionSet:
    """A rule set of exactly this complexity, by chance otherwise.

    Every rule says something else; no thing is twice in a rule; a rule never holds only where another does too. Refused
    are complexities that no rule set has, such as more repeats than places to repeat in.

    Example:
        >>> print("; ".join(decision_set(Complexity(lines=2, terms=2, repeats=1)).text()).count("and"))
        2
    """
    whole(lines=(wanted.lines, 1), terms=(wanted.terms, 1), chunks=(wanted.chunks, 0), repeats=(wanted.repeats, 0))
    places = wanted.lines * wanted.terms
    plain = places - wanted.chunks
    different = plain - wanted.repeats
    if wanted.lines > len(OUTPUTS) or wanted.chunks > min(len(CHUNKS), places):
        raise InputError(
            f"The 'wanted' must have at most {len(OUTPUTS)} lines, and chunks up to {min(len(CHUNKS), places)}",
            got=wanted.name,
        )
    if (plain and different < 1) or different * wanted.lines < plain or different + 2 * wanted.chunks > len(TERMS):
        raise InputError(
            "The 'wanted' must leave as many different things as rules have places for, and no more than there are words",
            got=f"{wanted.name}: {different} different things in {plain} places",
            hint="fewer repeats, or more terms",
        )
    for attempt in range(TRIES):
        found = _attempt(wanted, different, seeds.generator(seed, wanted.name.encode(), attempt))
        if found is not None:
            return found
    raise InputError("The 'wanted' must be a complexity that a rule set can have", got=wanted.name, hint="more terms")


def _attempt(wanted: Complexity, different: int, draw: np.random.Generator) -> DecisionSet | None:
    """One rule set by chance, or None where the draw does not come out."""
    words = list(draw.permutation(TERMS))
    pairs = tuple((str(words.pop()), str(words.pop())) for _ in range(wanted.chunks))
    lines: list[list[str | int]] = [[] for _ in range(wanted.lines)]
    order = draw.permutation(wanted.lines)
    for number in range(wanted.chunks):
        lines[order[number % wanted.lines]].append(number)
    times = np.ones(different, dtype=int)
    for _ in range(wanted.repeats):
        room = np.flatnonzero(times < wanted.lines)
        if not len(room):
            return None
        times[draw.choice(room)] += 1
    # What is met most often is placed first, in the rules with the most room: this succeeds wherever anything does.
    for count, word in zip(sorted(times.tolist(), reverse=True), words, strict=False):
        room = wanted.terms - np.array([len(line) for line in lines])
        chosen = np.lexsort((draw.random(wanted.lines), -room))[:count]
        if (room[chosen] < 1).any():
            return None
        for at in chosen:
            lines[at].append(str(word))
    outputs = draw.permutation(OUTPUTS)[: wanted.lines]
    made = DecisionSet(
        lines=tuple(
            Line(terms=tuple(line[i] for i in draw.permutation(len(line))), output=str(out))
            for line, out in zip(lines, outputs, strict=True)
        ),
        chunks=pairs,
        explicit=wanted.explicit,
    )
    needed = [_needed(made, line) for line in made.lines]
    apart = not any(a <= b for i, a in enumerate(needed) for j, b in enumerate(needed) if i != j)
    return made if apart else None


def _needed(rules: DecisionSet, line: Line) -> frozenset[str]:
    """The things that must be seen for a rule to hold."""
    return frozenset(thing for t in line.terms for thing in ((t,) if isinstance(t, str) else rules.chunks[t]))


def case(rules: DecisionSet, draw: np.random.Generator) -> tuple[frozenset[str], str]:
    """Things seen such that exactly one rule holds, and what it says. Rules' own things, and others at even odds."""
    target = rules.lines[int(draw.integers(len(rules.lines)))]
    for attempt in range(TRIES):
        share = 0.5 if attempt < TRIES // 2 else 0.2
        more = frozenset(thing for thing in rules.atoms if draw.random() < share)
        seen = _needed(rules, target) | (more if attempt < TRIES - 1 else frozenset())
        if rules.outputs(seen) == [target.output]:
            return seen, target.output
    raise AssertionError("a rule's own things alone make no other rule hold")


def change(
    rules: DecisionSet, seen: frozenset[str], draw: np.random.Generator, *, alters: bool
) -> tuple[str, str] | None:
    """What one sees beside or no longer, such that again exactly one rule holds, which says something else or the same."""
    before = rules.outputs(seen)
    found = []
    for thing in rules.atoms:
        after = rules.outputs(seen ^ {thing})
        if len(after) == 1 and (after != before) == alters:
            found.append((thing, after[0]))
    if not found and alters:
        found = _swaps(rules, seen, before)
    elif not found:  # in small sets everything matters but what no rule mentions
        found = [(thing, before[0]) for thing in TERMS if thing not in rules.atoms]
    return found[int(draw.integers(len(found)))] if found else None


def _swaps(rules: DecisionSet, seen: frozenset[str], before: list[str]) -> list[tuple[str, str]]:
    """Changes of two things at once, where one alone alters nothing: told as "a, and no longer b"."""
    found = []
    for one in sorted(seen & set(rules.atoms)):
        for other in (t for t in rules.atoms if t not in seen):
            after = rules.outputs((seen - {one}) | {other})
            if len(after) == 1 and after != before:
                found.append((f"{other}|{one}", after[0]))
    return found


def decision_set_study(
    complexities: Sequence[Complexity],
    *,
    participants: int,
    task: str = "verification",
    tasks: int = 4,
    title: str = "What is it fed?",
    design: str = "crossed",
    seed: int = 0,
) -> tuple[Study, Mapping[str, Sequence[float]]]:
    """How do length, new concepts and repetition of rules change how fast and how rightly people use them?

    Every screen shows rules of one complexity and what is seen of an animal, and asks, by ``task``:

    - "verification": it was fed so: do the rules say so? (yes, no: half each)
    - "simulation": what do the rules say it is fed?
    - "counterfactual": if something about it were otherwise, would the rules say something else? (half each)

    and how hard that was (1 to 7). Exactly one rule holds; right answers are worked out by trying every rule.

    Args:
        complexities: the conditions.
        participants, title, design, seed: as of `Study`.
        task: see above; use one study for each.
        tasks: screens of each complexity; even, so that both answers are right equally often.

    Returns:
        The study, and the factors (``lines``, ``terms``, ``chunks``, ``explicit``, ``repeats``) of its conditions, for
        `analyse_slopes(study, answers, factors)`: by how much each slows people down.

    Known failure: made-up rules about animals nobody knows leave knowledge out on purpose: how people fare with rules about
    what they know may differ. Source: Narayanan, Chen, He, Kim, Gershman & Doshi-Velez 2018 (verification); Lage et al.
    2019, for the other two.

    Example:
        >>> study, factors = decision_set_study([Complexity(lines=2), Complexity(lines=6)], participants=4)
        >>> len(study.stimuli), factors["lines"]
        (8, [2.0, 6.0])
    """
    whole(tasks=(tasks, 2))
    if task not in TASKS or tasks % 2:
        raise InputError(f"The 'task' must be one of {TASKS}, and 'tasks' be even", got=f"{task!r}, {tasks}")
    if not complexities or len({c.name for c in complexities}) < len(complexities):
        raise InputError("The 'complexities' must be different ones", got=str(len(complexities)))
    stimuli = []
    for wanted in complexities:
        for number in range(tasks):
            stimuli.append(_stimulus(wanted, task, number, seed))
    factors = {
        name: [float(getattr(c, name)) for c in complexities]
        for name in ("lines", "terms", "chunks", "explicit", "repeats")
    }
    intro = (
        "You will see rules for feeding animals that nobody knows yet, and what is seen of one animal.",
        "What is not listed is not seen. Exactly one rule holds each time. Be as quick as you can without guessing.",
    )
    made = Study(
        title=title,
        intro=intro,
        conditions=tuple(c.name for c in complexities),
        stimuli=tuple(stimuli),
        participants=participants,
        design=design,
        seed=seed,
    )
    made.check()
    return made, factors


def _stimulus(wanted: Complexity, task: str, number: int, seed: int) -> Stimulus:
    """One screen; for odd numbers the right answer is "no"."""
    yes = number % 2 == 0
    for attempt in range(TRIES):
        rules = decision_set(wanted, seed=seed * 1_000_003 + number * TRIES + attempt)
        draw = seeds.generator(seed, f"{wanted.name} {task} {number}".encode(), attempt)
        seen, output = case(rules, draw)
        panels = [Panel(heading="Rules", lines=rules.text()), Panel(heading="Seen", lines=(_listed(seen, draw),))]
        if task == "simulation":
            options = tuple(sorted(line.output for line in rules.lines))
            asked = Question(name="answer", text="What do the rules say it is fed?", options=options)
            right = options.index(output)
        elif task == "verification":
            others = [line.output for line in rules.lines if line.output != output] or [
                o for o in OUTPUTS if o != output
            ]
            said = output if yes else others[int(draw.integers(len(others)))]
            asked = Question(name="answer", text=f"It was fed {said}. Do the rules say so?", options=("Yes", "No"))
            right = int(not yes)
        else:
            found = change(rules, seen, draw, alters=yes)
            if found is None:
                continue
            told = f"It was fed {output}, as the rules say. {_otherwise(found[0], seen)}"
            text = f"{told} Would the rules then say something else?"
            asked, right = Question(name="answer", text=text, options=("Yes", "No")), int(not yes)
        hard = scale("difficulty", "How hard was that?", "very easy", "very hard")
        if len(asked.options) < 2:
            raise InputError(
                "The 'complexities' must have at least 2 lines for the task of simulation", got=wanted.name
            )
        return Stimulus(
            case=f"task {number + 1}",
            condition=wanted.name,
            panels=tuple(panels),
            questions=(asked, hard),
            right={"answer": right},
        )
    raise InputError(
        f"The complexity must allow for a {task} task whose answer is {'yes' if yes else 'no'}", got=wanted.name
    )


def _listed(seen: frozenset[str], draw: np.random.Generator) -> str:
    return ", ".join(np.array(sorted(seen))[draw.permutation(len(seen))].tolist())


def _otherwise(told: str, seen: frozenset[str]) -> str:
    """The change in words."""
    first, _, gone = told.partition("|")
    if gone:
        return f"Suppose it were {first}, and not {gone}."
    return f"Suppose it were not {first}." if first in seen else f"Suppose it were {first}, too."
