"""Training a prior: Meta-SparseINR as published.

Source: Lee, Tack, Lee, Shin, "Meta-learning Sparse Implicit Neural
Representations", NeurIPS 2021, and its code. The result is an initial SIREN from
which any picture like those of the training set is fitted in few steps, and in
which few weights are left. Two things alternate:

* Meta-learning: outer steps of `maml`, on the mean outer loss of a batch of
  pictures. `dense_steps` of them, with all weights, are round 0.
* Pruning: each of the `rounds` that follow first removes the `fraction` smallest
  of the surviving weights of all layers together, then goes on for `round_steps`.

A removed weight is exactly zero ever after: its gradient is zero (`maml`), and
Adam's moments are cleared with it. Elsewhere the moments go on from round to round.
The paper's code starts them afresh once, before round 1; so does a run that begins
with the dense prior of another and has no dense steps of its own.

As in `render`, the network's values are sRGB / 255 - 0.5 and its inputs the pixel
centres of `grid`. A mean squared error m is therefore a PSNR of -10 log10 m dB.

A run lives in a folder and is continued by starting it again (`train`). Under
`torchrun` the processes share out the pictures of each batch and add up their
gradients (see `processes`).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from inrcodec.errors import OptionError, OutputError, PriorError
from inrcodec.fit import torch_device
from inrcodec.grid import pixel_grid
from inrcodec.image import write_atomically
from inrcodec.maml import InnerLoop, Parameters, adam_step, meta_gradient
from inrcodec.options import Device
from inrcodec.prior import Architecture, Prior, read_prior, save_prior
from inrcodec.processes import check_agreement, process, sum_over_processes
from inrcodec.prune import apply_masks, count_surviving, full_masks, prune
from inrcodec.siren import init_siren

__all__ = ["Progress", "Tasks", "TrainOptions", "train"]

FORMAT = 1  # of a checkpoint
LOG_HEADER = "step,round,surviving,loss,psnr,seconds\n"
# Options that may differ when a run goes on: they say how it is computed, not what
FREE = ("device", "threads", "compile", "tasks_at_once", "log_every", "checkpoint_every")
COUNTERS = ("step", "unreported", "seconds", "log_size")  # of a state; the rest of it is tensors


class Tasks(Protocol):
    """Where pictures come from: `dataset.Dataset`, or anything that draws them as a pure function."""

    @property
    def fingerprint(self) -> str:
        """Differs whenever the pictures differ."""

    def batch(self, seed: int, step: int, count: int, part: slice = ...) -> Tensor:
        """`part` of the `count` pictures of a step, float32 in [0, 1], shape (pictures, H, W, 3)."""


@dataclass(frozen=True)
class TrainOptions:
    """How to train a prior. The defaults are the paper's."""

    hidden: int = 256  # units of a sine layer
    layers: int = 4  # sine layers
    omega: float = 200.0  # frequency factor of the first sine layer
    hidden_omega: float | None = None  # of the others; None: the same
    inner_steps: int = 2  # SGD steps from the prior to a picture
    inner_rate: float = 1e-2  # learning rate of those
    outer_rate: float = 1e-5  # learning rate of Adam
    batch: int = 3  # pictures per outer step
    dense_steps: int = 150_000  # outer steps before the first pruning
    rounds: int = 20  # of pruning
    round_steps: int = 30_000  # outer steps after each pruning
    fraction: float = 0.2  # of the surviving weights, removed at the start of each round
    random_pruning: bool = False  # of any surviving weights, not the smallest: what the paper compares with
    seed: int = 0  # of the initial parameters and of the batches
    device: Device = Device.AUTO
    threads: int = 0  # of the CPU, for one operation; 0 leaves torch's choice
    compile: bool = False  # by torch.compile: same up to rounding, faster after a minute, needs a C++ compiler
    tasks_at_once: int = 0  # pictures differentiated together, memory is linear in it; 0: the batch
    log_every: int = 100  # outer steps per row of the log and call of `progress`
    checkpoint_every: int = 1000  # outer steps; a kill costs no more than these

    def __post_init__(self) -> None:
        counts = ("hidden", "layers", "inner_steps", "batch", "round_steps", "steps")
        for name in (*counts, "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("dense_steps", "rounds", "seed", "threads", "tasks_at_once"):
            if getattr(self, name) < 0:
                raise OptionError(f"{name} must be at least 0, not {getattr(self, name)}")
        for name in ("omega", "hidden_omega", "inner_rate", "outer_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise OptionError(f"{name} must be above 0, not {value}")
        if not 0 < self.fraction < 1:
            raise OptionError(f"fraction must be above 0 and below 1, not {self.fraction}")

    @property
    def inner(self) -> InnerLoop:
        """The inner loop."""
        others = self.omega if self.hidden_omega is None else self.hidden_omega
        return InnerLoop((self.omega, *[others] * (self.layers - 1)), self.inner_steps, self.inner_rate)

    @property
    def steps(self) -> int:
        """Outer steps of the whole run."""
        return self.dense_steps + self.rounds * self.round_steps

    def round_of(self, step: int) -> int:
        """The round that outer step 0, 1, ... belongs to."""
        return max(0, (step - self.dense_steps) // self.round_steps + 1)

    def starts_round(self, step: int) -> bool:
        """Whether weights are pruned before this outer step."""
        return self.round_of(step) > self.round_of(step - 1)


@dataclass(frozen=True)
class Progress:
    """Where a run is. Loss and PSNR are those after the inner steps, means since the last report."""

    step: int  # outer steps done
    steps: int  # of the whole run
    round: int  # 0 is the dense one
    surviving: float  # fraction of the weights
    loss: float  # mean squared error
    psnr: float  # dB, mean of the pictures' own
    seconds: float  # spent so far, interruptions not counted
    seconds_left: float  # at the speed so far


@dataclass(frozen=True)
class _State:
    """All that the rest of a run depends on. Batches depend on the step alone: there is no random state."""

    step: int  # outer steps done
    parameters: Parameters
    masks: Parameters  # bool
    first: Parameters  # moments of Adam
    second: Parameters
    scores: Tensor  # (2,): loss and PSNR in dB, summed over the steps since the last report
    unreported: int = 0  # those steps
    seconds: float = 0.0  # spent so far
    log_size: int = len(LOG_HEADER)  # bytes of the log that belong to this state


def train(
    options: TrainOptions,
    tasks: Tasks,
    folder: Path,
    *,
    name: str = "siren",
    start: Prior | None = None,
    notes: Mapping[str, object] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Prior | None:
    """The prior of the last round, which is also in `folder / "round-R.safetensors"`.

    The run begins with the weights and masks of `start`, or else with random weights, none of them pruned.
    The folder gets such a file for every round R (0 is dense), `log.csv` and a checkpoint. Where it holds a
    checkpoint already the run goes on from there, to the same result as without the interruption: bit for
    bit on a CPU with the same number of threads. `notes` join those in the prior's metadata.

    With several processes each must see the same folder. The first writes, reports to `progress` and returns
    the prior; the others return None.

    OptionError where the folder belongs to a run with other options, pictures or start, or where training
    diverges; PriorError where its checkpoint is damaged or `start` is another network than the options ask
    for; OutputError where it cannot be written.
    """
    rank, world = process()
    if options.batch < world:
        raise OptionError(f"{world} processes cannot share a batch of {options.batch} pictures")
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch_device(options.device)
    begins = {"pictures": tasks.fingerprint, "start": start.id.hex() if start else None}
    recorder = _Recorder(options, begins, folder, name, dict(notes or {}), progress)
    state = recorder.resume(_initial_state(options, start))
    state = _with_tensors(state, {key: tensor.to(device) for key, tensor in _tensors(state).items()})
    check_agreement(state.step, device)
    if rank == 0:
        recorder.start(state)

    coordinates = None  # (N, 2), once the size of the pictures is known
    for step in range(state.step, options.steps):
        if options.starts_round(step):
            state = _pruned(state, options)
        pictures = tasks.batch(options.seed, step, options.batch, slice(rank, None, world)).to(device) - 0.5
        if coordinates is None:
            coordinates = torch.from_numpy(pixel_grid(*pictures.shape[1:3])).to(device)
        state = _stepped(state, coordinates, pictures.flatten(1, 2), options)
        if rank == 0:
            state = recorder.record(state)
    return read_prior(recorder.prior_path(options.rounds)) if rank == 0 else None


def _initial_state(options: TrainOptions, start: Prior | None) -> _State:
    generator = torch.Generator().manual_seed(options.seed)
    parameters = init_siren(2, (options.hidden,) * options.layers, 3, options.inner.omegas, generator)
    masks = full_masks(parameters)
    if start:
        shapes = {name: start.tensors[name].shape if name in start.tensors else None for name in parameters}
        same = shapes == {name: tuple(value.shape) for name, value in parameters.items()}
        if start.architecture != Architecture(omegas=options.inner.omegas) or not same:
            omegas = ", ".join(f"{omega:g}" for omega in options.inner.omegas)
            asked = f"{options.layers} sine layers of {options.hidden} units and omega {omegas}"
            raise PriorError(f"prior {start.name} is not a SIREN with {asked}, so no such run can begin with it")
        parameters = {name: torch.tensor(start.tensors[name]) for name in parameters}
        masks = {f"siren.{i}.weight": torch.tensor(start.mask(i)) for i in range(start.layers)}
    first, second = ({name: torch.zeros_like(value) for name, value in parameters.items()} for _ in range(2))
    return _State(0, parameters, masks, first, second, torch.zeros(2))


def _pruned(state: _State, options: TrainOptions) -> _State:
    """The state at the start of a round: fewer weights, and nothing of the removed ones left in Adam."""
    scores = state.parameters
    if options.random_pruning:
        generator = torch.Generator().manual_seed(options.seed + state.step)
        scores = {
            name: torch.rand(mask.shape, generator=generator).to(mask.device) for name, mask in state.masks.items()
        }
    masks = prune(scores, state.masks, options.fraction)
    return replace(
        state,
        masks=masks,
        parameters=apply_masks(state.parameters, masks),
        first=apply_masks(state.first, masks),
        second=apply_masks(state.second, masks),
    )


def _stepped(state: _State, coordinates: Tensor, pictures: Tensor, options: TrainOptions) -> _State:
    """The state after one outer step, of which this process does the pictures (B, N, 3)."""
    inner, at_once = options.inner, options.tasks_at_once or None
    function = torch.compile(meta_gradient) if options.compile else meta_gradient
    gradient, losses = function(state.parameters, state.masks, coordinates, pictures, inner, at_once)
    scores = torch.stack([losses.sum(), (-10 * losses.log10()).sum()])  # (2,)
    sums = sum_over_processes({"scores": scores, **gradient})
    means = {name: total / options.batch for name, total in sums.items()}
    scores = means.pop("scores")
    parameters, first, second = adam_step(
        state.parameters, means, state.first, state.second, state.step + 1, options.outer_rate
    )
    return replace(
        state,
        step=state.step + 1,
        parameters=parameters,
        first=first,
        second=second,
        scores=state.scores + scores,
        unreported=state.unreported + 1,
    )


class _Recorder:
    """The folder of a run: its checkpoint, log and priors. Every process reads, the first one writes."""

    def __init__(
        self,
        options: TrainOptions,
        begins: dict[str, str | None],
        folder: Path,
        name: str,
        notes: dict[str, object],
        progress: Callable[[Progress], None] | None,
    ) -> None:
        fixed = {key: value for key, value in asdict(options).items() if key not in FREE}
        self.run = {"format": FORMAT, **fixed, **begins}  # what makes it this run
        self.options, self.folder, self.progress = options, folder, progress
        self.name, self.notes = name, notes
        self.checkpoint, self.log = folder / "checkpoint.safetensors", folder / "log.csv"

    def prior_path(self, number: int) -> Path:
        """Where the prior of a round is."""
        return self.folder / f"round-{number}.safetensors"

    def resume(self, initial: _State) -> _State:
        """The state in the checkpoint, or `initial` where there is none."""
        try:
            return self._unpack(self.checkpoint.read_bytes(), initial)
        except FileNotFoundError:
            return initial
        except OSError as error:
            raise PriorError(f"{self.checkpoint}: cannot read the checkpoint: {error.strerror}") from None

    def start(self, state: _State) -> None:
        """Make the folder, cut the log back to what belongs to the state, start the clock."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            rows = self.log.read_bytes()[: state.log_size] if self.log.exists() else b""
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot use the folder of the run: {error.strerror}") from None
        write_atomically(self.log, rows or LOG_HEADER.encode(), overwrite=True)
        self.start_step, self.spent, self.began = state.step, state.seconds, time.monotonic()

    def record(self, state: _State) -> _State:
        """Write what is due after an outer step; return the state, its clock and scores up to date."""
        ends_round = self.options.starts_round(state.step)  # the next one does, or would
        state = replace(state, seconds=self.spent + time.monotonic() - self.began)
        if state.step % self.options.log_every == 0 or ends_round:
            report = self._report(state)
            log_size = self._append(report)
            state = replace(state, scores=torch.zeros_like(state.scores), unreported=0, log_size=log_size)
            if ends_round:
                self._write_prior(state, report)
            if self.progress:
                self.progress(report)
        if state.step % self.options.checkpoint_every == 0 or ends_round:
            write_atomically(self.checkpoint, self._pack(state), overwrite=True)
        return state

    def _report(self, state: _State) -> Progress:
        """Where the run is. OptionError if its numbers are no longer finite."""
        loss, psnr = (state.scores / state.unreported).tolist()
        if not math.isfinite(loss):
            rates = f"inner_rate {self.options.inner_rate:g} and outer_rate {self.options.outer_rate:g}"
            raise OptionError(f"training diverged before step {state.step}: {rates} are too much")
        alive, weights = count_surviving(state.masks)
        pace = (state.seconds - self.spent) / (state.step - self.start_step)  # seconds per step
        return Progress(
            step=state.step,
            steps=self.options.steps,
            round=self.options.round_of(state.step - 1),
            surviving=alive / weights,
            loss=loss,
            psnr=psnr,
            seconds=state.seconds,
            seconds_left=pace * (self.options.steps - state.step),
        )

    def _append(self, report: Progress) -> int:
        """Bytes of the log with one more row. It is on the disk before a checkpoint counts on it."""
        row = f"{report.step},{report.round},{report.surviving:.6f},{report.loss:.6g},{report.psnr:.3f}"
        try:
            with self.log.open("ab") as log:
                log.write(f"{row},{report.seconds:.1f}\n".encode())
                log.flush()
                os.fsync(log.fileno())
                return log.tell()
        except OSError as error:
            raise OutputError(f"{self.log}: cannot write the log: {error.strerror}") from None

    def _write_prior(self, state: _State, report: Progress) -> None:
        tensors = {name: value.cpu().numpy() for name, value in state.parameters.items()}
        for name, mask in state.masks.items():
            tensors[name.replace(".weight", ".mask")] = mask.to(torch.uint8).cpu().numpy()
        notes = {
            "method": "Meta-SparseINR (Lee, Tack, Lee, Shin, NeurIPS 2021)",
            "run": self.run,
            "round": report.round,
            "step": report.step,
            "surviving": report.surviving,
            "psnr": report.psnr,
            **self.notes,
        }
        architecture = Architecture(omegas=self.options.inner.omegas)
        save_prior(self.prior_path(report.round), self.name, architecture, tensors, notes, overwrite=True)

    def _pack(self, state: _State) -> bytes:
        """A checkpoint: safetensors, with the run and the counters as JSON in its metadata."""
        counters = {key: getattr(state, key) for key in COUNTERS}
        metadata = {"run": json.dumps(self.run), "counters": json.dumps(counters)}
        return save({key: tensor.cpu() for key, tensor in _tensors(state).items()}, metadata)

    def _unpack(self, data: bytes, initial: _State) -> _State:
        """The mirror image of `_pack`. OptionError for another run, PriorError for damaged bytes."""
        try:
            size = int.from_bytes(data[:8], "little")
            metadata = json.loads(data[8 : 8 + size])["__metadata__"]
            run, counters = json.loads(metadata["run"]), json.loads(metadata["counters"])
            tensors = load(data)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            found = f"{type(error).__name__}: {error}"
            raise PriorError(f"{self.checkpoint}: not a checkpoint ({found})") from None
        changed = [key for key in self.run if run.get(key) != self.run[key]]
        if changed:
            differences = ", ".join(f"{key} {run.get(key)}, now {self.run[key]}" for key in changed)
            raise OptionError(f"{self.folder}: holds another run ({differences}); use another folder")
        layout = {key: (tensor.shape, tensor.dtype) for key, tensor in tensors.items()}
        if layout != {key: (tensor.shape, tensor.dtype) for key, tensor in _tensors(initial).items()}:
            raise PriorError(f"{self.checkpoint}: does not hold the tensors that its options ask for")
        return _with_tensors(replace(initial, **{key: counters[key] for key in COUNTERS}), tensors)


def _tensors(state: _State) -> dict[str, Tensor]:
    """Every tensor of a state under a name of its own."""
    tensors = {"scores": state.scores}
    for part in ("parameters", "masks", "first", "second"):
        tensors |= {f"{part}/{name}": tensor for name, tensor in getattr(state, part).items()}
    return tensors


def _with_tensors(state: _State, tensors: Mapping[str, Tensor]) -> _State:
    """The mirror image of `_tensors`: a state like this one, with these tensors."""
    return replace(
        state,
        scores=tensors["scores"],
        parameters={name: tensors[f"parameters/{name}"] for name in state.parameters},
        masks={name: tensors[f"masks/{name}"] for name in state.masks},
        first={name: tensors[f"first/{name}"] for name in state.first},
        second={name: tensors[f"second/{name}"] for name in state.second},
    )
