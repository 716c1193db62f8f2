"""What a CUDA graph does, on a CPU: what a function asks of tensors is taped once and done again to the same memory.

What the host decides meanwhile is decided for good, as with a graph, and looking at values is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")

LOOKS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::unique")


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Everything that is asked of tensors inside. RuntimeError where values are looked at."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.asked: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name().split(".")[0] in LOOKS:
            raise RuntimeError(f"{func.name()} looks at values")
        found = func(*args, **(kwargs or {}))
        self.asked.append((func, args, kwargs or {}, found))
        return found

    def replay(self) -> None:
        """All of it once more; results lie where they lay."""
        with torch._C._AutoDispatchBelowAutograd():  # where it was taped
            for func, args, kwargs, found in self.asked:
                again = func(*args, **kwargs)
                for old, new in zip(tree_leaves(found), tree_leaves(again), strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


def record(compute: Callable[[], T]) -> tuple[Tape, T]:
    """In place of `graphs.record`."""
    tape = Tape()
    with tape:
        results = compute()
    return tape, results


def draws(tape: Tape) -> bool:
    """Whether random numbers are drawn, which a replay would draw anew."""
    return any(torch.Tag.nondeterministic_seeded in func.tags for func, *_ in tape.asked)
