"""CUDA graphs: what is many small launches for a GPU is recorded once and replayed as one.

A fit or a training step of small pictures waits for its launches, not for the arithmetic. A function of tensors whose
shapes repeat is recorded at its first call with them. Nothing is recorded on other devices, nor where a recording
fails: then the function is simply called. A recording keeps the memory that its tensors take; `forget` gives it back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

T = TypeVar("T")

RECORDS = "cuda"  # the type of device that does
WARM_UP = 2  # calls before one is recorded
BRANCHES = 8  # tasks that a GPU has at a time


def record(compute: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
    """A graph that does what `compute` does, and where it leaves the results. RuntimeError if it cannot be recorded."""
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # where libraries choose their algorithms, and tables are filled
        for _ in range(WARM_UP):
            compute()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = compute()
    return graph, results


def side_by_side(tasks: Sequence[Callable[[], T]], device: torch.device) -> list[T]:
    """What each task gives. A GPU works at several at once, and so does a graph in which they are recorded.

    Each waits for what was asked of the GPU before, and what is asked next waits for all of them.
    """
    if len(tasks) == 1 or device.type != "cuda":
        return [task() for task in tasks]
    here, found = torch.cuda.current_stream(device), list[T]()
    streams = _branches(here.device)[: len(tasks)]
    for stream in streams:
        stream.wait_stream(here)
    for number, task in enumerate(tasks):
        with torch.cuda.stream(streams[number % len(streams)]):
            found.append(task())
    for stream in streams:
        here.wait_stream(stream)
    return found


@cache
def _branches(device: torch.device) -> list[torch.cuda.Stream]:
    return [torch.cuda.Stream(device) for _ in range(BRANCHES)]  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    results: Any
    places: list[Tensor]  # of the inputs


class Recorded(Generic[T]):
    """`compute`, a function of nested tuples, lists and dicts of tensors, and of nothing else that changes.

    It must not look at values on the host, and its results hold until it is called again.
    """

    def __init__(self, compute: Callable[..., T]) -> None:
        self._compute = compute
        self._recordings: dict[object, _Recording | None] = {}
        _alive.add(self)

    def __call__(self, *arguments: Any) -> T:
        tensors, structure = tree_flatten(arguments)
        if any(tensor.device.type != RECORDS for tensor in tensors):
            return self._compute(*arguments)
        key = tuple((tensor.shape, tensor.dtype) for tensor in tensors)
        if key not in self._recordings:
            try:
                self._recordings[key] = self._record(tensors, structure)
            except RuntimeError:  # out of memory included, which the function itself may know how to mend
                self._recordings[key] = None
        recording = self._recordings[key]
        if recording is None:
            return self._compute(*arguments)
        torch._foreach_copy_(recording.places, tensors)
        recording.graph.replay()
        results: T = recording.results
        return results

    def _record(self, tensors: list[Tensor], structure: Any) -> _Recording:
        places = [tensor.detach().clone() for tensor in tensors]
        arguments = tree_unflatten(places, structure)
        return _Recording(*record(lambda: self._compute(*arguments)), places)


_alive = WeakSet[Recorded[Any]]()


def forget() -> None:
    """Make room: what is recorded is simply called from now on."""
    for recorded in list(_alive):
        recorded._recordings = dict.fromkeys(recorded._recordings)
