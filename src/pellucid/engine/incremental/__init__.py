"""What changes in a network when a part of its input does? Only that is computed again, exactly.

    network = network_of(plan, changed=0)              # None where the plan has no graph of maps
    clean = network.clean((image,))                    # one row, all its values
    spans = network.survey(low, high)                  # which part of each map each job changes
    output = network.run(clean, spans, jobs, patch)    # the output for some jobs, from patches of the input

A part of an image that is replaced changes a part of each map after it, a little larger with every convolution, until
pooling has spread it over all. Each step is computed on that part and what it reads around it, which comes from the
values of the unchanged row. The result is what a whole pass gives, up to the rounding of kernels that are called on
other sizes. Memory: the values of one row, about twice.

Source: Nakandala, Kumar & Papakonstantinou 2019 (Krypton), incremental inference for occlusion; here by interval
arithmetic over any recorded graph, with whole values where a step is not local.
"""

from __future__ import annotations

from pellucid.engine.incremental.group import WORTH, Grouping, grouping
from pellucid.engine.incremental.local import is_map
from pellucid.engine.incremental.network import Clean, Network
from pellucid.engine.incremental.patch import Patch
from pellucid.engine.plan import Plan

__all__ = ["WORTH", "Clean", "Grouping", "Network", "Patch", "grouping", "network_of"]


def network_of(plan: Plan, changed: int) -> Network | None:
    """The network of a plan, for changes of this input, a map; None where the plan keeps no graph of it."""
    graph = plan.graph
    if graph is None:
        return None
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
    return Network(graph, changed) if is_map(inputs[changed]) else None
