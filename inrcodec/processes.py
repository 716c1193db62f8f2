"""Several processes at one task, as `torchrun` starts them: who am I, and what do all of them say together.

Without torchrun everything here is the identity.

What torchrun restarts meets in a store of addresses, in which those of the dead are left (pytorch/pytorch#135712), so
each attempt has its own names there. Machines count attempts by themselves: for several of them give torchrun
TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, and each attempt gets its own store.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed.nn.functional  # its default arguments keep a group alive that is there at its import
from torch import Tensor, distributed
from torch.distributed.rendezvous import rendezvous

from inrcodec.errors import OptionError
from inrcodec.fit import torch_device
from inrcodec.options import Device


@contextmanager
def processes(device: Device = Device.AUTO, patience: timedelta | None = None) -> Iterator[None]:
    """Inside, this process is one of those that `torchrun` started. No change if it was started otherwise.

    `patience` is how long one waits for the others, by default as long as torch has it.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ and "RANK" not in os.environ:
        yield
        return
    cuda = torch_device(device).type == "cuda"
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = next(rendezvous("env://"))[0]
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        attempt = f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}"
        store = distributed.PrefixStore(attempt, store)  # type: ignore[attr-defined]
    distributed.init_process_group(
        "nccl" if cuda else "gloo", store=store, rank=rank, world_size=world, timeout=patience
    )
    try:
        yield
    finally:
        distributed.destroy_process_group()


def process() -> tuple[int, int]:
    """Number of this process, and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def sum_over_processes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor summed over the processes, in one message."""
    if process()[1] == 1:
        return dict(tensors)
    flat = torch.cat([tensor.flatten() for tensor in tensors.values()])
    distributed.all_reduce(flat)
    pieces = torch.split(flat, [tensor.numel() for tensor in tensors.values()])
    return {name: piece.view_as(tensors[name]) for name, piece in zip(tensors, pieces, strict=True)}


def gather(message: bytes, device: torch.device) -> list[bytes]:
    """The messages of all processes, in their order."""
    if process()[1] == 1:
        return [message]
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(process()[1])]
    distributed.all_gather(sizes, torch.tensor([len(message)], device=device))
    longest = max(int(size) for size in sizes)
    texts = [torch.zeros(longest, dtype=torch.uint8, device=device) for _ in sizes]
    padded = torch.tensor(list(message.ljust(longest, b"\0")), dtype=torch.uint8, device=device)
    distributed.all_gather(texts, padded)
    return [bytes(text[: int(size)].tolist()) for text, size in zip(texts, sizes, strict=True)]


def check_agreement(step: int, device: torch.device) -> None:
    """OptionError unless every process stands at the same step."""
    ends = torch.tensor([step, -step], device=device)
    if process()[1] > 1:
        distributed.all_reduce(ends, distributed.ReduceOp.MAX)
    if ends.sum():
        raise OptionError("the processes read different checkpoints: they must all see the folder of the run")
