"""When does a faster plan of the network pay? After enough passes with the same weights and shapes, and where it is exact.

A plan costs some passes to make and saves a share of each later one. So passes are counted for each network, and the plan
is made when they have paid for it: for a long sweep at once, for single passes after a while. A change of any weight
starts the count again.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

from torch import nn

from pellucid.engine import plan
from pellucid.engine.ask import Ask, shape_key

_PASSES: weakref.WeakKeyDictionary[nn.Module, tuple[str, dict[Any, int]]] = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()


def plan_for(ask: Ask, passes: int, kind: plan.Kind, *, at_input: bool = False) -> plan.Plan | None:
    """The plan to use for so many one-row passes of this question, or None for the plain way."""
    subject, module, place = ask.subject, ask.subject.module, None if at_input else ask.layer
    plain_call = subject.preprocess is None and subject.call is None and not ask.inputs.names
    if module is None or not plain_call or ask.unit_place is not None:
        return None
    if place is not None and (place.side != "out" or place.part or place.call not in (None, 1)):
        return None
    cut = None if place is None else place.module
    key = (kind, cut, shape_key(ask.inputs))
    with _LOCK:
        stamp, counts = _PASSES.get(module, ("", {}))
        if stamp != subject.state_hash():
            plan.forget(module)
            stamp, counts = subject.state_hash(), {}
        counts[key] = counts.get(key, 0) + passes
        _PASSES[module] = (stamp, counts)
        total = counts[key]
    if not plan.worth(module, total):
        return None
    found = plan.get(module, tuple(x[:1] for x in ask.inputs.tensors), kind, cut)
    if found is not None:
        ask.path = "plan"
    return found
