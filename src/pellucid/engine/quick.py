"""When does a faster plan of the network pay? Where this call alone makes enough passes, or where the caller says so.

The choice depends on nothing but the call, so that the same call gives the same bits again.
"""

from __future__ import annotations

import threading
import weakref

from torch import nn

from pellucid.engine import plan
from pellucid.engine.ask import Ask

_SEEN: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()
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
    if subject.plan is False or (subject.plan is None and not plan.worth(module, max(passes, ask.passes))):
        return None
    with _LOCK:
        if _SEEN.get(module) != ask.model_hash:
            plan.forget(module)  # also for edits that the plan's own watch can't see
            _SEEN[module] = ask.model_hash
    found = plan.get(module, tuple(x[:1] for x in ask.inputs.tensors), kind, cut)
    if found is not None:
        ask.path = "plan"
    return found
