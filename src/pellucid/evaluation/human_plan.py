"""Who is shown what, and when: conditions set against cases, positions and people so that none is favoured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.engine import seed as seeds

__all__: list[str] = []

DESIGNS = ("within", "crossed", "between")
THIRDS = 3


@dataclass(frozen=True)
class Showing:
    """A stimulus by its number, and whether its two sides change places."""

    stimulus: int
    flipped: bool = False


def williams(count: int) -> NDArray[Any]:
    """Orders of `count` conditions, as many or, for odd numbers, twice as many: each is met at each place equally often,
    and follows each other one equally often."""
    first = [0]
    for step in range(1, count):
        first.append((first[-1] + (step if step % 2 else -step)) % count)
    square = (np.array(first)[None] + np.arange(count)[:, None]) % count
    return square if count % 2 == 0 else np.concatenate([square, square[:, ::-1]])


def plan(
    cells: Sequence[tuple[str, str, bool]], conditions: Sequence[str], participants: int, design: str, seed: int
) -> tuple[tuple[Showing, ...], ...]:
    """What each participant is shown, in order; `cells` are case, condition and whether there are sides.

    Participants come in blocks as large as the square. Within one, all go through the cases in the same order, so that at
    each place, and so of each case, the block meets each condition equally often.
    """
    cases = list(dict.fromkeys(case for case, _, _ in cells))
    number = {(case, way): i for i, (case, way, _) in enumerate(cells)}
    square = williams(len(conditions))
    orders = []
    for person in range(participants):
        block, place = divmod(person, len(square))
        draw = seeds.generator(seed, b"study block", block)
        names, rows = draw.permutation(len(conditions)), draw.permutation(len(square))
        row = square[rows[place]]
        rounds = len(conditions) if design == "crossed" else 1
        ranks = draw.permutation(len(cases))  # the case at each place of the first round
        own = []
        for turn in range(rounds):
            walk = np.arange(len(cases)) if turn == 0 else draw.permutation(len(cases))
            for rank in walk:
                way = row[0] if design == "between" else row[(rank + turn) % len(conditions)]
                own.append(number[cases[ranks[rank]], conditions[names[way]]])
        orders.append(own)
    flipped = _flips(orders, [sides for _, _, sides in cells], seed)
    return tuple(tuple(Showing(s, (p, s) in flipped) for s in own) for p, own in enumerate(orders))


def _flips(orders: list[list[int]], sides: list[bool], seed: int) -> set[tuple[int, int]]:
    """Of each stimulus with sides, who sees them exchanged: half of those who see it."""
    found = set()
    seen: dict[int, list[int]] = {i: [] for i, has in enumerate(sides) if has}
    for person, own in enumerate(orders):
        for stimulus in (s for s in own if s in seen):
            seen[stimulus].append(person)
    for stimulus, people in seen.items():
        draw = seeds.generator(seed, b"study sides", stimulus)
        start = int(draw.integers(2))  # who has one more, where their number is odd
        found |= {(people[k], stimulus) for k in draw.permutation(len(people))[start::2]}
    return found


def balance(seen: Sequence[tuple[str, str, float]], conditions: Sequence[str]) -> dict[str, Any]:
    """χ² tests of conditions against cases and thirds of the session; `seen` are case, condition and place, 0 to 1."""
    cases = list(dict.fromkeys(case for case, _, _ in seen))
    by_case, by_third = np.zeros((len(conditions), len(cases))), np.zeros((len(conditions), THIRDS))
    for case, way, share in seen:
        by_case[conditions.index(way), cases.index(case)] += 1
        by_third[conditions.index(way), min(THIRDS - 1, int(share * THIRDS))] += 1
    return {"conditions × cases": _test(by_case), "conditions × thirds": _test(by_third)}


def _test(table: NDArray[Any]) -> dict[str, float]:
    from scipy.stats import chi2

    table = table[table.sum(1) > 0][:, table.sum(0) > 0]
    if min(table.shape, default=0) < 2:
        return {"chi2": 0.0, "p": 1.0, "gap": 0.0}
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    value = float(((table - expected) ** 2 / expected).sum())
    freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
    return {"chi2": value, "p": float(chi2.sf(value, freedom)), "gap": float(np.abs(table - expected).max())}
