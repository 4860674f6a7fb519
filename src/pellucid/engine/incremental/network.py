"""How is a network run on parts of one row? Step by step, each on the smallest part of its result that changes.

Every step's result is either unchanged (the row's own, computed once), a patch of it, or whole. A step that is not
local, such as a linear head, gets and gives whole values. A patch is grown to a whole map where it covers nearly all
of it anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from pellucid.engine.incremental.local import Local, Read, is_map, local_of, shape_of
from pellucid.engine.incremental.mean import Mean, mean_of
from pellucid.engine.incremental.patch import Canvas, Patch, crop
from pellucid.engine.incremental.reach import SAME, Places, Reach, union
from pellucid.engine.incremental.recorded import regular, rows_first, tensors, whole_bytes
from pellucid.engine.plan.program import Call, call_of, gather
from pellucid.engine.plan.trace import Traced, variants

Margins = tuple[tuple[int, int], tuple[int, int]]  # before and after, each vertical and horizontal

# A part that covers this share of both axes is computed whole: one large kernel call is as fast, and needs no crops.
NEARLY_ALL = 0.85


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One operation: on whole values by slot, and on crops of them where it is local."""

    slot: int
    call: Call
    sources: tuple[int, ...]
    local: Local | None = None
    reads: tuple[tuple[int, Reach, float], ...] = ()
    size: tuple[int, int] = (0, 0)
    channels: int = 0
    mean: Mean | None = None
    shape_only: bool = False
    regular: bool = False
    work: float = 0.0

    @property
    def values(self) -> int:
        """How many numbers its whole result has."""
        return self.channels * self.size[0] * self.size[1]


class Clean:
    """The values of one row by slot, and the maps among them as canvases, made when first needed."""

    def __init__(self, values: list[Any], margins: dict[tuple[int, float], Margins]) -> None:
        self.values, self._margins = values, margins
        self._canvases: dict[tuple[int, float], Canvas] = {}

    def canvas(self, slot: int, fill: float) -> Canvas:
        """The map in this slot with a margin of `fill`."""
        key = (slot, fill)
        if key not in self._canvases:
            self._canvases[key] = Canvas.of(self.values[slot], *self._margins[key], fill)
        return self._canvases[key]


class Network:
    """The steps of a recorded network that depend on the input `changed`, a map; the others are done once per row."""

    def __init__(self, traced: Traced, changed: int) -> None:
        self.nodes = list(traced.graph.nodes)
        self.slots = {node: index for index, node in enumerate(self.nodes)}
        self.inputs = [self.slots[node] for node in self.nodes if node.op == "placeholder"]
        self.changed = self.inputs[changed]
        self.constants = {self.slots[n]: traced.constants[str(n.target)] for n in self.nodes if n.op == "get_attr"}
        moving = self._moving()
        self._fixed = [
            (self.slots[n], call_of(n, traced, self.slots))
            for n in self.nodes
            if n.op.startswith("call") and n not in moving
        ]
        self.steps = [self._step(node, traced) for node in self.nodes if node.op.startswith("call") and node in moving]
        self._moving_slots = {self.slots[node] for node in moving}
        self.output = gather(self.nodes[-1].args[0], self.slots)
        self.results = [self.slots[node] for node in self.nodes[-1].all_input_nodes]
        self._bytes = {slot: 0 if node.op == "output" else whole_bytes(node) for slot, node in enumerate(self.nodes)}
        self._bytes |= {slot: constant.nbytes for slot, constant in self.constants.items()}
        self._margins = self._find_margins()
        self._last = {source: step.slot for step in self.steps for source in step.sources}
        self.tail = self._find_tail()
        self.head = self.steps[: len(self.steps) - len(self.tail)]
        self.cut = self._entries(self.tail)[0] if self.tail else None

    def _find_tail(self) -> list[Step]:
        """The longest end of steps that are on whole values anyway and begin with one of them."""
        found = len(self.steps)
        for start in reversed(range(len(self.steps))):
            if self.steps[start].local is not None or self.steps[start].mean is not None:
                break
            entries = self._entries(self.steps[start:])
            if len(entries) == 1 and rows_first(self.nodes[entries[0]]):
                found = start if isinstance(variants(self.nodes[entries[0]])[0], Tensor) else found
        return self.steps[found:]

    def _entries(self, steps: Sequence[Step]) -> list[int]:
        """The values that these steps and the output need from the steps before."""
        own = {step.slot for step in steps}
        needed = {slot for step in steps for slot in step.sources} | set(self.results)
        return sorted(slot for slot in needed if slot in self._moving_slots and slot not in own)

    def _moving(self) -> set[fx.Node]:
        """Nodes whose value depends on the changed input, or on the number of rows in another way than a row each."""
        found = {self.nodes[self.changed]}
        for node in self.nodes:
            if node.op.startswith("call") and (any(s in found for s in node.all_input_nodes) or not regular(node)):
                found.add(node)
        return found

    def _step(self, node: fx.Node, traced: Traced) -> Step:
        slot, call = self.slots[node], call_of(node, traced, self.slots)
        sources = tuple(self.slots[each] for each in node.all_input_nodes)
        local = local_of(node, traced)
        if local is not None:
            channels, height, width = shape_of(node)
            reads = tuple(self._read(read) for read in local.reads)
            return Step(slot, call, sources, local, reads, (height, width), channels, work=local.work)
        one = variants(node)[0]
        work = float(getattr(getattr(node.target, "weight", None), "numel", int)())
        return Step(
            slot,
            call,
            sources,
            mean=mean_of(node, traced),
            shape_only=not tensors(one),
            regular=regular(node),
            size=(1, 1),
            channels=one.numel() if isinstance(one, Tensor) else 0,
            work=work,
        )

    def _read(self, read: Read) -> tuple[int, Reach, float]:
        if isinstance(read.source, fx.Node):
            return self.slots[read.source], read.reach, read.fill
        slot = len(self.nodes) + len(self.constants)  # a map of the step's own, beyond all nodes
        self.constants[slot] = read.source
        return slot, read.reach, read.fill

    def _find_margins(self) -> dict[tuple[int, float], Margins]:
        """How much padding each map needs on its canvas so that every crop of it lies inside."""
        found: dict[tuple[int, float], Margins] = {}
        reads = [(step.size, *read) for step in self.steps for read in step.reads]
        for slot in {self.changed, *(slot for step in self.steps for slot in (step.slot, *step.sources))}:
            if slot not in self.constants and is_map(self.nodes[slot]):
                reads.append((shape_of(self.nodes[slot])[1:], slot, SAME, 0.0))
        for size, slot, reach, fill in reads:
            length = self._length(slot)
            before, after = found.get((slot, fill), ((0, 0), (0, 0)))
            rows, columns = reach.padding
            past = reach.beyond(size, length)
            found[slot, fill] = (
                (max(before[0], rows), max(before[1], columns)),
                (max(after[0], past[0]), max(after[1], past[1])),
            )
        return found

    def channels(self, slot: int) -> int:
        """The number of channels of a map."""
        constant = self.constants.get(slot)
        return constant.shape[1] if constant is not None else shape_of(self.nodes[slot])[0]

    def _length(self, slot: int) -> tuple[int, int]:
        constant = self.constants.get(slot)
        height, width = constant.shape[2:] if constant is not None else shape_of(self.nodes[slot])[1:]
        return height, width

    def bytes_of_clean(self) -> int:
        """What the values of one row take."""
        return sum(self._bytes[slot] for slot, node in enumerate(self.nodes) if node.op != "get_attr")

    def clean(self, inputs: Sequence[Tensor]) -> Clean:
        """Run one row whole and keep all its values."""
        values: list[Any] = [None] * (len(self.nodes) + len(self.constants))
        for slot, value in zip(self.inputs, inputs, strict=True):
            values[slot] = value
        for slot, constant in self.constants.items():
            values[slot] = constant
        calls = sorted([*self._fixed, *((step.slot, step.call) for step in self.steps)], key=lambda pair: pair[0])
        for slot, call in calls:
            values[slot] = call(values)
        return Clean(values, self._margins)

    def survey(self, low: Places, high: Places) -> dict[int, tuple[Places, Places]]:
        """Which part of each map changes for each job, exactly, from the part of the input that does, by slot."""
        spans = {self.changed: (low, high)}
        for step in self.steps:
            if step.local is None or any(slot in self._moving_slots and slot not in spans for slot in step.sources):
                continue
            found = [reach.affected(*spans[slot], step.size) for slot, reach, _ in step.reads if slot in spans]
            spans[step.slot] = union(found)
        return spans

    def job_bytes(self, spans: dict[int, tuple[Places, Places]], group: Places) -> tuple[int, int]:
        """The bytes that one job of a group holds at once, at most, and those of its largest tensor."""
        alive: dict[int, float] = {}
        most = largest = 1.0
        for step in self.head:
            crops, size = 0.0, float(self._bytes[step.slot])
            if step.local is not None and step.slot in spans:
                low, high = spans[step.slot]
                extent = (high[:, group] - low[:, group]).max(1).tolist()
                # Where a part is nearly all of a map, the whole map is computed.
                sides = [min(a / NEARLY_ALL, float(b)) for a, b in zip(extent, step.size, strict=True)]
                size *= sides[0] * sides[1] / (step.size[0] * step.size[1])
                for slot, reach, _ in step.reads:
                    rows, columns = (
                        (a * b + c) / n
                        for a, b, c, n in zip(sides, reach.stride, reach.span, self._length(slot), strict=True)
                    )
                    crops += rows * columns * self._bytes[slot]
            elif not step.shape_only:
                crops = sum(self._bytes[slot] for slot in step.sources if slot in self._moving_slots)
            alive[step.slot] = size
            # A kernel may need a workspace of its own, about as large as what it reads and gives.
            most, largest = max(most, sum(alive.values()) + size + 2 * crops), max(largest, size, crops)
            for slot in step.sources:
                if self._last[slot] == step.slot and slot not in self.results:
                    alive.pop(slot, None)
        return int(most), int(largest)

    @property
    def tail_bytes(self) -> tuple[int, int]:
        """The bytes that one job holds at once from the cut on, at most, and those of its largest tensor."""
        sizes = [self._bytes[slot] for slot in (self.cut or 0, *(step.slot for step in self.tail))]
        return 1 + 2 * sum(sizes), 1 + max(sizes)

    def run(self, clean: Clean, spans: dict[int, tuple[Places, Places]], jobs: Places, patch: Patch) -> Any:
        """For these jobs, whose input is `patch` and the clean row around it: the value at the cut, else the output."""
        run = _Run(self, clean, len(jobs))
        run.found[self.changed] = patch
        for step in self.head:
            span = spans.get(step.slot)
            run.step(step, None if span is None else (span[0][:, jobs], span[1][:, jobs]))
            for slot in step.sources:
                if self._last[slot] == step.slot and slot not in self.results:
                    run.found.pop(slot, None)
        if self.cut is not None:
            return run.whole(self.cut)
        values: Any = {slot: run.whole(slot) for slot in self.results}
        return self.output(values)

    def finish(self, clean: Clean, values: Tensor) -> Any:
        """The output from values at the cut, one row for each job."""
        run = _Run(self, clean, len(values))
        assert self.cut is not None
        run.found[self.cut] = values
        for step in self.tail:
            run.step(step, None)
        found: Any = {slot: run.whole(slot) for slot in self.results}
        return self.output(found)


class _Run:
    """The values of some jobs on the way through the network, by slot; what is missing is unchanged."""

    def __init__(self, network: Network, clean: Clean, count: int) -> None:
        self.network, self.clean, self.count = network, clean, count
        self.found: dict[int, Any] = {}

    def step(self, step: Step, span: tuple[Places, Places] | None) -> None:
        """Compute one step's result, or leave it unchanged."""
        changed = [self.found[slot] for slot in step.sources if slot in self.found]
        if not changed and (step.local is not None or step.regular):
            return
        patches = bool(changed) and all(isinstance(value, Patch) for value in changed)
        if step.local is not None and span is not None and patches:
            self._local(step, step.local, *span)
        elif step.mean is not None and patches:
            self.found[step.slot] = self._mean(step, step.mean, changed[0])
        else:
            read = self.outline if step.shape_only else self.whole
            values: Any = {slot: read(slot) for slot in step.sources}
            self.found[step.slot] = step.call(values)

    def _local(self, step: Step, local: Local, low: Places, high: Places) -> None:
        size = (high - low).max(1)
        if not size.all():
            return
        limit = np.array(step.size)
        if (size >= NEARLY_ALL * limit).all():
            size, low = limit, np.zeros_like(low)
        first = np.minimum(low, (limit - size)[:, None])
        extent = int(size[0]), int(size[1])
        crops = []
        for slot, reach, fill in step.reads:
            start, count = reach.needed(first, extent)
            crops.append(crop(self.clean.canvas(slot, fill), self.found.get(slot), start, count))
        if local.crops is not None:
            part = local.crops(crops)
        else:
            values: Any = {slot: self.clean.values[slot] for slot in step.sources}
            values |= {slot: each for (slot, _, _), each in zip(step.reads, crops, strict=True)}
            part = step.call(values)
        self.found[step.slot] = part if bool((size == limit).all()) else Patch(part, first)

    def _mean(self, step: Step, mean: Mean, patch: Patch) -> Tensor:
        """The clean mean and what the patch adds to it: a small difference keeps its digits."""
        before = self.clean.canvas(step.sources[0], 0.0).crop(patch.first, patch.size).permute(0, 3, 1, 2)
        change = (patch.values - before).sum((2, 3), keepdim=mean.keep) * mean.factor
        total: Tensor = self.clean.values[step.slot] + change
        return total

    def whole(self, slot: int) -> Any:
        """The whole value of a slot with a row for each job."""
        value = self.found.get(slot)
        if value is None:
            return self.outline(slot)
        if not isinstance(value, Patch):
            return value
        first = np.zeros_like(value.first)
        return crop(self.clean.canvas(slot, 0.0), value, first, self.network._length(slot))

    def outline(self, slot: int) -> Any:
        """Something of the whole value's shape: the clean row once for each job, without copies."""
        value = self.found.get(slot)
        if value is not None and not isinstance(value, Patch):
            return value
        clean = self.clean.values[slot]
        if slot in self.network.constants or not rows_first(self.network.nodes[slot]):
            return clean
        return map_aggregate(clean, lambda leaf: _spread(leaf, self.count))


def _spread(leaf: Any, count: int) -> Any:
    return leaf.expand(count, *leaf.shape[1:]) if isinstance(leaf, Tensor) else leaf
