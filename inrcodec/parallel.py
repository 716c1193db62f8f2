"""A CPU's threads, each with a piece of its own.

On small tensors torch's own threads cost more than they give, so pieces of a picture are shared out instead. What
each piece allocates and frees is kept for the next.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch

T = TypeVar("T")

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's names, in malloc.h
KEPT = 128 << 20  # bytes at the end of a heap that are not given back
MAPPED = 8 << 20  # bytes of a block from which on it is mapped by itself: more than a tile or stripe has

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
    """Inside, a CPU's threads share out the pieces, instead of each small product among them. Freed memory is kept."""
    if device.type != "cpu":
        yield
        return
    with _freed_memory_kept():
        threads = torch.get_num_threads()
        if threads == 1:
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


@contextmanager
def _freed_memory_kept() -> Iterator[None]:
    """Inside, glibc keeps what is freed for what is allocated next; at the end it is given back to the system.

    By itself it maps blocks of a tile's size anew each time: the system clears every page, and each return of one
    interrupts the other threads. That takes a quarter of a fit. Its thresholds are the process's and stay as they are
    set here; other C libraries are left alone.
    """
    libc = _glibc()
    if libc:
        libc.mallopt(M_MMAP_THRESHOLD, MAPPED)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT)
    try:
        yield
    finally:
        if libc:
            libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is glibc."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "gnu_get_libc_version") else None
