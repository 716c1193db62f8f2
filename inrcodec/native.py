"""The arithmetic of a fit on a CPU, compiled: `_kernels` with tensors in and out.

It is there if there was a C compiler when the package was installed. Otherwise, and on other devices, PyTorch does
the same in `objective`, in two to three times the time; tests compare the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

try:
    from inrcodec import _kernels
except ImportError:
    _kernels = None  # type: ignore[assignment]

__all__ = ["Rate", "available", "convolved", "sines", "sines_backward"]


def available(device: torch.device) -> bool:
    """Whether it can be used for what lies on a device."""
    return _kernels is not None and device.type == "cpu"


def sines(x: Tensor, layers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """What a SIREN says at n places of planes (C, n), and the cosines where it has sines, (units, n).

    layers: matrix and bias of each, omega included; the last matrix is of the last sines and of x.
    """
    values = x.new_empty(len(layers[-1]), x.shape[1])
    cosines = x.new_empty(sum(len(bias) for bias in layers[1:-1:2]), x.shape[1])
    _kernels.siren(x.numpy(), tuple(part.numpy() for part in layers), values.numpy(), cosines.numpy())
    return values, cosines


def sines_backward(by_values: Tensor, layers: Sequence[Tensor], cosines: Tensor) -> Tensor:
    """The gradient by x, (C, n), given that by the values, (N, n).

    layers: the transposed matrices, the last layer's first; the first layer's is of values, too.
    """
    by_x = by_values.new_empty(len(layers[-1]), by_values.shape[1])
    _kernels.siren_backward(by_values.numpy(), tuple(part.numpy() for part in layers), cosines.numpy(), by_x.numpy())
    return by_x


def convolved(
    planes: Tensor,
    kernel: Tensor,
    bias: Tensor | None = None,
    kept: Tensor | None = None,
    rectified: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """What a 3x3 kernel (N, C, 3, 3) makes of planes (C, h + 2, w + 2): (N, h, w), in `out` if there is one.

    It is zero where `kept` (N, h, w) is not positive, and, if rectified, wherever it would be negative.
    """
    height, width = planes.shape[1:]
    out = planes.new_empty(len(kernel), height - 2, width - 2) if out is None else out
    _kernels.convolve(planes.numpy(), kernel.numpy(), _array(bias), _array(kept), rectified, out.numpy())
    return out


@dataclass(frozen=True, eq=False)
class Rate:
    """The rate model of a level at one quality, in the forms that a stripe wants."""

    parts: tuple[Tensor, ...]

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], level: int, bias: Tensor) -> Rate:
        """From the weights of a model; bias (hidden,) at the quality."""
        name = f"rate.{level}."
        causal, mid, head = (weights[name + part] for part in ("causal", "mid", "head"))
        forwards = [weights[name + part] for part in ("mid", "mid_bias", "head", "head_bias")]
        above, back = causal.new_empty(0), causal.new_empty(0)
        if f"{name}above" in weights:
            phases = weights[name + "above"].view(len(bias), 2, 2, -1)  # hidden, row and column of the phase, features
            above = phases.permute(1, 2, 0, 3)
            back = phases.permute(1, 3, 2, 0).flatten(2)  # row, features, column and hidden
            bias = (bias[:, None] + weights[name + "above_bias"].view(len(bias), 4)).T.reshape(2, 2, -1)
        parts = (causal, bias, *forwards, head.T, mid.T, causal.T, above, back)
        return cls(tuple(part.contiguous() for part in parts))

    def gradients(
        self, values: Tensor, trunk: Tensor | None, mask: Tensor | None, by_values: Tensor, by_trunk: Tensor | None
    ) -> float:
        """Bits of a stripe of values (C, h, w), times a mask (h, w); to their gradients by values and trunk is added.

        trunk (features, ceil(h / 2), ceil(w / 2)), None at the coarsest level.
        """
        return self._called(values, trunk, mask, True, by_values, by_trunk)

    def distributions(self, values: Tensor, trunk: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and log scale of a stripe of values (C, h, w), each of that shape."""
        mean, log_scale = values.new_empty(values.shape), values.new_empty(values.shape)
        self._called(values, trunk, None, False, mean, log_scale)
        return mean, log_scale

    def _called(
        self,
        values: Tensor,
        trunk: Tensor | None,
        mask: Tensor | None,
        gradients: bool,
        one: Tensor,
        two: Tensor | None,
    ) -> float:
        parts = tuple(part.numpy() for part in self.parts)
        arrays = values.numpy(), _array(trunk), parts, _array(mask)
        return _kernels.rate(*arrays, gradients, one.numpy(), _array(two))


def _array(part: Tensor | None) -> NDArray[np.float32] | None:
    return None if part is None else part.numpy()
