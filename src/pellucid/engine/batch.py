"""Jobs in chunks under a byte budget: measured on the first job, halved when memory runs out, with progress."""

from __future__ import annotations

import contextlib
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pellucid.contract.errors import InputError, MemoryBudgetError

Result = TypeVar("Result")

DEFAULT_CPU = 1 << 30
LARGEST_CHUNK = 4096
# The C library returns larger blocks to the system, and taking them anew costs page faults.
LARGEST_TENSOR = 32 << 20
# Beyond so many jobs a larger chunk saves nothing, and tensors that leave the cores' caches cost a sixth of the time.
ENOUGH, CACHED_TENSOR = 64, 4 << 20
# Kernels have workspaces of their own, and the allocator holds freed blocks back: measured, about as much again.
USABLE = 0.4
_COSTS: weakref.WeakKeyDictionary[nn.Module, dict[Any, tuple[int, int]]] = weakref.WeakKeyDictionary()
_UNITS = {"kb": 1 << 10, "kib": 1 << 10, "mb": 1 << 20, "mib": 1 << 20, "gb": 1 << 30, "gib": 1 << 30}


def budget(memory: int | str | None, device: torch.device) -> int:
    """The byte budget of a call: what the caller said, or a default for the device."""
    if memory is None:
        if device.type == "cuda":
            return int(0.5 * torch.cuda.mem_get_info(device)[0])
        return DEFAULT_CPU
    if isinstance(memory, str) and memory.strip().isdecimal():  # as the command line gives it
        return budget(int(memory), device)
    if isinstance(memory, str):
        number = memory.rstrip("kKmMgGiIbB ")
        unit = memory[len(number) :].strip().lower()
        with contextlib.suppress(ValueError, OverflowError):
            if unit in _UNITS:
                return budget(int(float(number) * _UNITS[unit]), device)
    if not isinstance(memory, int) or isinstance(memory, bool) or memory <= 0:
        raise InputError("The 'memory' must be a number of bytes", got=repr(memory), hint="memory=2**30, or '1GiB'")
    return memory


class Meter(TorchDispatchMode):
    """Counts the bytes of tensors that are alive at once, and remembers the most."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import its compiler, a second, only to keep it away from this class

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, Any] = {}
        self.now = self.peak = self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {s._cdata for s in _storages((args, kwargs))}
        for storage in _storages(out):
            if storage._cdata not in given:  # a view, of a weight for example, takes no memory of its own
                self._add(storage)
        return out

    def _add(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.alive and self.alive[key]() is storage:
            return

        def gone(_: Any) -> None:
            if self.alive.pop(key, None) is not None:
                self.now -= size

        self.alive[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)
        self.largest = max(self.largest, size)


def _storages(values: Any) -> list[Any]:
    return [x.untyped_storage() for x in tree_leaves(values) if isinstance(x, Tensor) and x.layout == torch.strided]


class Progress:
    """A bar on standard error, in a terminal only, and only for what takes longer than two seconds."""

    def __init__(self, wanted: Any = False) -> None:
        self.wanted = wanted

    @contextlib.contextmanager
    def bar(self, total: int, label: str) -> Iterator[Callable[[int], Any]]:
        if callable(self.wanted):
            done = [0]

            def tell(n: int) -> None:
                done[0] += n
                self.wanted(done[0], total, label)

            yield tell
        elif not self.wanted or not sys.stderr.isatty():
            yield lambda n: None
        else:
            from tqdm.auto import tqdm

            with tqdm(total=total, desc=label, delay=2, leave=False, file=sys.stderr) as bar:
                yield bar.update


def run(
    jobs: int,
    work: Callable[[int, int], Result],
    fold: Callable[[int, int, Result], None],
    *,
    memory: int,
    cost: tuple[nn.Module | None, Any],
    device: torch.device,
    progress: Progress | None = None,
    label: str = "",
    size: tuple[int, int] | None = None,
) -> None:
    """Do jobs 0..jobs-1 in chunks: `work(start, stop)` computes, `fold` takes the result in order.

    The bytes of one job are measured once per `cost` key, and the job is then done again in its chunk: numbers depend in
    their last bits on what they are computed beside, and the first call must give the same bits as the next. When memory
    runs out all the same, the chunk is halved and done again. So `work` must have no effect of its own. `size` says what
    one job takes, in all and in its largest tensor, where that is known; then nothing is measured.
    """
    done = 0
    with (progress or Progress()).bar(jobs, label) as tell:
        size = size or _known(cost)
        if size is None:
            with _measure(device) as meter:
                result = work(0, 1)
            if jobs == 1:
                fold(0, 1, result)
                tell(1)
                done = 1
            del result
            size = _remember(cost, meter())
        chunk = _chunk(*size, memory)
        while done < jobs:
            stop = min(jobs, done + chunk)
            try:
                result = work(done, stop)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or chunk == 1:
                    raise
                chunk = max(1, chunk // 2)
                continue
            fold(done, stop, result)
            del result
            tell(stop - done)
            done = stop


def _chunk(size: int, largest: int, memory: int) -> int:
    """Jobs at once, where one takes `size` bytes in all and `largest` in its largest tensor."""
    if size > memory:
        raise MemoryBudgetError(
            "The 'memory' must hold at least one row",
            got=f"{memory / 2**20:.1f} MiB where one row takes about {size / 2**20:.1f} MiB",
            hint=f"memory={size * 2}",
        )
    cached = max(ENOUGH, CACHED_TENSOR // largest)
    return int(max(1, min(LARGEST_CHUNK, USABLE * memory // size, LARGEST_TENSOR // largest, cached)))


def _known(cost: tuple[nn.Module | None, Any]) -> tuple[int, int] | None:
    module, key = cost
    return None if module is None else _COSTS.get(module, {}).get(key)


_REMEMBER = threading.Lock()


def _remember(cost: tuple[nn.Module | None, Any], size: tuple[int, int]) -> tuple[int, int]:
    module, key = cost
    if module is not None:
        with _REMEMBER:
            _COSTS.setdefault(module, {})[key] = size
    return size


@contextlib.contextmanager
def _measure(device: torch.device) -> Iterator[Callable[[], tuple[int, int]]]:
    """Bytes at once and in the largest tensor, as at least 1; on an accelerator the latter does not matter."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: (max(1, torch.cuda.max_memory_allocated(device) - before), 1)
    else:
        meter = Meter()
        with meter:
            yield lambda: (max(1, meter.peak), max(1, meter.largest))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError) and not isinstance(error, MemoryBudgetError)
    ) or any(words in str(error) for words in ("can't allocate memory", "out of memory", "DefaultCPUAllocator"))
