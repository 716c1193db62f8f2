"""Threads, and the memory that they keep."""

import sys

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from inrcodec import parallel
from inrcodec.fit import Given, fit_together
from inrcodec.parallel import one_thread_per_piece
from inrcodec.prior import Prior

CPU = torch.device("cpu")


@pytest.mark.skipif(parallel._glibc() is None, reason="another C library")
def test_freed_blocks_of_a_tile_are_used_again_without_new_pages() -> None:
    import resource

    def faults() -> int:
        for _ in range(20):
            torch.ones(1 << 20)  # 4 MiB, 1024 pages
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    with one_thread_per_piece(CPU):
        faults()
        assert -faults() + faults() < 1024


def test_a_fit_is_the_same_with_another_c_library(
    field_prior: Prior, picture: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    ((kept, _),) = fit_together(field_prior, [Given(picture, 90)], 4, CPU)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert parallel._glibc() is None
    ((other, _),) = fit_together(field_prior, [Given(picture, 90)], 4, CPU)
    assert all(np.array_equal(a, b) for a, b in zip(kept, other, strict=True))
