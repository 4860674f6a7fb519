"""Is the story true? Every map made afterwards is put to the test, and says on its page how it went."""

from __future__ import annotations

from typing import Any

from pellucid.contract import Explanation, Method
from pellucid.contract.errors import PellucidError
from pellucid.contract.method import from_config
from pellucid.engine import Subject, explain
from pellucid.show.facts import TRIED

__all__ = ["faithful"]

STEPS, ORDERS = 8, 8


def faithful(subject: Subject, inputs: Any, method: Method, result: Explanation, **asked: Any) -> Explanation:
    """The result with the fact ``beats_random_orders``, where it is a map whose order can be tried.

    Features are taken away in the map's order, in eight steps, and in eight random orders; the fact is the share of the
    latter under which the score stays higher. 1: what the map points to matters to the network more than chance would have
    it; about a half: the map says nothing of what the network depends on. Maps that can't be tried, as those of a layer's
    units, are given back as they are.

    Args:
        subject, inputs, method, result: what was asked, and the answer.
        asked: the other arguments of `explain`.

    Cost: the explanation once more, and 81 forwards a row.
    Source: Petsiuk, Das & Saenko 2018, §3.3, for the order; Rudin 2019 for why it is asked at all.
    """
    if result.form != "attribution":
        return result
    try:
        check = from_config({"method": "insertion-deletion", "of": method, "steps": STEPS, "references": ORDERS})
        found = explain(subject, inputs, check, **asked)
    except PellucidError:
        return result
    tried: Explanation = result.replace(facts={**result.facts, TRIED: found.facts[TRIED]})
    return tried
