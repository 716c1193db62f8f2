"""A CPU's threads, each with a piece of its own.

On small tensors torch's own threads cost more than they give, so pieces of a picture are shared out instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch

T = TypeVar("T")

_pool: ContextVar[ThreadPoolExecutor | None] = ContextVar("_pool", default=None)


def in_parallel(tasks: Iterable[Callable[[], T]]) -> Iterator[T]:
    """What each task gives, by the threads of `one_thread_per_piece` if there are any. Without gradients."""
    pool = _pool.get()

    def run(task: Callable[[], T]) -> T:
        with torch.no_grad():  # which every thread has to say for itself
            return task()

    return map(run, tasks) if pool is None else pool.map(run, tasks)


@contextmanager
def one_thread_per_piece(device: torch.device) -> Iterator[None]:
    """Inside, a CPU's threads share out the pieces, instead of each small product among them."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        token = _pool.set(pool)
        try:
            yield
        finally:
            _pool.reset(token)
            torch.set_num_threads(threads)
