"""Training a prior with lattice fields: network, rate model and first guess together.

Phase 1, guess: the fields are the analysis network's, the loss is J (see `fit`) through softly rounded,
noisy values, and all weights follow its gradient, as in learned image coding.

Phase 2, fit: a pool of batches is fitted, one step per visit, exactly as `fit.refine` does it, and in the last third of
a fit network and rate model follow the same gradient (at fields that are optimal for the weights, the partial
derivative is the total one: first-order meta-learning). A batch that has had all its steps makes
place for a new one, whose guess trains the analysis network alone. In every fourth slot, pictures are
halved (2x2 means) before they are fitted, and the filter for detail, which has no say at pixel centres, learns
to make the x2 decode the picture before.

Phase 3, decoder: a set of batches is fitted, and all that decodes learns at the fields, rounded by trial as in a file,
as if they were given: rate model and filters fast, the network slowly, lest the fits no longer suit it. Then the next
set is fitted with what has been learnt. No step goes through a fit, so steps cost little.

Phase 4, coarse: a set of batches is guessed once, and only the rate models of strides 8 and more learn. Crops of 128
have a handful of such cells, whole pictures hundreds, most of them with neighbours: `size` should be that of pictures.

Phase 5, schedule: step sizes and temperatures of the fit, and how they change with the quality, are learnt through
whole fits of `fit_length` steps, rounded by trial, by antithetic evolution (Salimans et al., 2017): each batch is
fitted twice, from the same guess and with the same noise, with each picture's schedule multiplied and divided by the
same random factors, and the schedule follows the differences of log J.

Phase 6, analysis: the analysis network alone learns to guess for what the others have become.

Phase 7, detail: a set of batches of halved pictures is fitted once, and only the filter for detail learns, from the
squared error of the x2 decode over what it would be without the filter, so that every picture counts the same. A step
looks at a window of each picture of a batch, mirrored and transposed at random.

Phase 8, post: likewise the post-filter, at pixel centres of pictures that are not halved.

Phase 9, deltas: pictures are fitted as for a file, and what the prior expects of their deltas is counted, or the units
of these, if it has none yet (see `expect`). A step is a batch.

Each picture has a quality of its own, uniformly drawn. J is weighted with a power of lambda, which makes low qualities
count a little more, and weights learn from its square root, so that smooth pictures count, too (`emphasis`). All that
is drawn is a pure function of (seed, step): a run goes on after a kill as if nothing had happened. Under `torchrun`
each process has its share of every batch.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.nn import functional

from inrcodec import fit, rate
from inrcodec.analysis import analyse, init_analysis
from inrcodec.deltas import pack_deltas
from inrcodec.errors import OptionError, PriorError
from inrcodec.expect import counted, expectations
from inrcodec.graphs import Recorded
from inrcodec.image import write_atomically
from inrcodec.lattice import field_shapes
from inrcodec.objective import objective
from inrcodec.options import MAX_QUALITY_INDEX, Device, conditioning, lagrangian
from inrcodec.prior import Architecture, Prior, save_prior
from inrcodec.processes import check_agreement, process, sum_over_processes
from inrcodec.render import reach
from inrcodec.rounding import by_trial
from inrcodec.siren import init_siren
from inrcodec.synthesis import (
    HALO,
    before_detail,
    before_post,
    detail,
    init_between,
    init_filter,
    post,
    synthesize,
    synthesize_finer,
)
from inrcodec.tile import FieldModel
from inrcodec.train import Progress, Tasks

FORMAT = 3  # of a checkpoint
LOG_HEADER = "step,phase,loss,seconds\n"
PHASES = ("guess", "fit", "decoder", "coarse", "schedule", "analysis", "detail", "post", "deltas")
FREE = ("device", "threads", "log_every", "checkpoint_every")  # may differ when a run goes on
HOT, COLD = 0.4, 0.18  # temperature of the soft rounding at the start and end of phase 1
PIECEWISE = "cpu"  # the type of device that is fastest with one picture after the other
CLIP = 1.0  # norm of the gradient
PASSES = 2  # of rounding by trial
LEARNT_FROM = 0.65  # part of a fit in phase 2 after which the weights learn from it
COARSE = 3  # level of stride 8
PACES = {"rate": 4.0, "filter": 1.0, "detail": 1.0}  # by which rates are multiplied in phase 3
NETWORK_PACE = 0.3  # likewise, of all others
SCHEDULE = ("fit.step", "fit.temperature")
SLOPES = {f"{name}_slope": name for name in SCHEDULE}  # by q, of their logarithms
SPREAD = 0.15  # standard deviation of the log of phase 5's factors
TYPICAL_LAMBDA = 300.0  # at which losses are bits
LEAST_ERROR = 1e-5  # squared, of colours in -0.5..0.5, below which a picture does not count for more in phases 7 and 8
WINDOW = 96  # cells along the sides of a window in phases 7 and 8
LEAST_LOSS = 1e-3  # of a picture, below which it does not count for more
BALANCE = 0.65  # power of lambda that weights J: 0.5 makes qualities count about equally, more the lower ones more
UNIT = 6.0  # lambda of squared error by one unit of any field, at first: what is best where rounding errors are uniform

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class FieldOptions:
    """How to train a prior with fields."""

    channels: tuple[int, ...] = (1, 3, 3, 3, 3, 3)  # of the field at stride 2**level
    widths: tuple[int, ...] = (32, 32)  # sine layers
    omegas: tuple[float, ...] = (2.0, 1.0)
    hidden: int = 24  # of the rate model: first layer
    middle: int = 16  # second layer
    filter: int = 48  # features of the filters
    detail_layers: int = 4  # in between, of the filter for detail
    post_filter: int = 24  # features of the post-filter, which a prior has from phase 8 on
    post_layers: int = 4  # in between
    features: int = 16  # what a level tells the next finer one
    analysis: int = 32  # features of the analysis network
    batch: int = 8  # pictures per step
    guess_steps: int = 8000  # of phase 1
    fit_steps: int = 6000  # of phase 2
    decoder_steps: int = 4000  # of phase 3
    decoder_rounds: int = 2  # sets of batches that it takes
    decoder_batches: int = 24  # of each
    decoder_rate: float = 3e-4  # of Adam in phase 3; falls along a cosine in each round
    coarse_steps: int = 0  # of phase 4
    coarse_batches: int = 50  # that are guessed for it
    coarse_rate: float = 3e-3  # of Adam in phase 4; falls along a cosine
    schedule_steps: int = 0  # of phase 5
    schedule_rate: float = 0.02  # of Adam in phase 5, of logs; falls along a cosine
    analysis_steps: int = 0  # of phase 6
    analysis_rate: float = 5e-4  # of Adam in phase 6; falls along a cosine
    detail_steps: int = 0  # of phase 7
    detail_batches: int = 100  # that are fitted for it
    detail_rate: float = 2e-3  # of Adam in phase 7; falls along a cosine
    post_steps: int = 0  # of phase 8
    post_batches: int = 100  # that are fitted for it
    post_rate: float = 2e-3  # of Adam in phase 8; falls along a cosine
    deltas_steps: int = 0  # of phase 9
    fit_length: int = 40  # steps that a batch is fitted in phases 2, 3, 5, 7, 8 and 9
    schedule: tuple[float, float, float, float] | None = None  # first and last step of fits, temperatures; None: as is
    slots: int = 8  # batches that are fitted in turn
    guess_rate: float = 4e-3  # of Adam in phase 1; falls along a cosine after 40 % of it
    fit_rate: float = 2e-4  # of Adam in phase 2; falls along a cosine
    seed: int = 0
    device: Device = Device.AUTO
    threads: int = 0  # of the CPU; 0 leaves torch's choice
    log_every: int = 100  # steps
    checkpoint_every: int = 500  # steps

    def __post_init__(self) -> None:
        counts = (
            "batch",
            "fit_length",
            "slots",
            "detail_layers",
            "post_filter",
            "post_layers",
            "decoder_rounds",
            "decoder_batches",
            "coarse_batches",
            "detail_batches",
            "post_batches",
            "log_every",
            "checkpoint_every",
        )
        for name in counts:
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, not {getattr(self, name)}")
        if min(self._phases) < 0 or self.steps < 1:
            raise OptionError("the steps of the phases must be at least 0, and one of them above")
        if self.coarse_steps and len(self.channels) <= COARSE:
            raise OptionError(f"{len(self.channels)} levels are no more than the {COARSE} that phase 4 leaves alone")
        Architecture(self.omegas, False, self.channels)

    @property
    def steps(self) -> int:
        """Of all phases."""
        return sum(self._phases)

    @property
    def _phases(self) -> tuple[int, ...]:
        return tuple(getattr(self, f"{phase}_steps") for phase in PHASES)

    def phase(self, step: int) -> tuple[int, int]:
        """Which phase a step is in, and how many steps of it are before."""
        done = step
        for number, steps in enumerate(self._phases):
            if done < steps:
                return number, done
            done -= steps
        raise IndexError(step)


@dataclass(frozen=True)
class _State:
    step: int
    weights: Weights
    first: Weights  # moments of Adam
    second: Weights
    pool: Weights  # "slot/what/level": fields and mean squares of the batches being fitted
    loss: Tensor  # summed since the last report
    seconds: float = 0.0


class Batch(NamedTuple):
    """Pictures and how good each is to be."""

    pictures: Tensor  # (B, 3, H, W)
    q: Tensor  # (B, 1)
    lam: Tensor  # (B,) lambda

    @classmethod
    def of(cls, pictures: Tensor, qualities: Tensor) -> Batch:
        """Of quality indices (B,)."""
        indices = [int(i) for i in qualities]
        q, lam = (torch.tensor([f(i) for i in indices], device=pictures.device) for f in (conditioning, lagrangian))
        return cls(pictures, q[:, None], lam)

    @property
    def weight(self) -> Tensor:
        """Of J in bits, in the loss: (B,)."""
        return (self.lam / TYPICAL_LAMBDA) ** BALANCE / (self.pictures.shape[2] * self.pictures.shape[3])

    @property
    def indices(self) -> list[int]:
        """Of the quality, (B,)."""
        return [round((1 - q / conditioning(0)) * MAX_QUALITY_INDEX / 2) for q in self.q[:, 0].tolist()]

    def halved(self) -> Batch:
        """Means of 2x2 pixels."""
        return self._replace(pictures=functional.avg_pool2d(self.pictures, 2))


class _Behind(NamedTuple):
    """A filter behind the first one, as phases 7 and 8 train it."""

    before: Callable[..., tuple[Tensor, Tensor]]  # the picture without it, and what it sees
    adds: Callable[[Weights, Tensor, Tensor], Tensor]  # to the picture
    scale: int  # pixels of the picture per cell of what it sees, along an axis


BEHIND = {"detail": _Behind(before_detail, detail, 2), "post": _Behind(before_post, post, 1)}


def init_weights(options: FieldOptions) -> Weights:
    """Random float weights; every field starts as a rough Laplacian pyramid: luma, then two chroma directions.

    Of every level and channel, one unit adds about UNIT lambda of squared error to the picture, at every quality.
    """
    generator = torch.Generator().manual_seed(options.seed)
    total = sum(options.channels)
    weights = init_siren(total + 2, options.widths, 3, options.omegas, generator)
    last = f"siren.{len(options.omegas)}.weight"
    weights[last] = 0.1 * weights[last]
    weights["siren.0.weight"][:, -2:] = 0
    colours = torch.tensor([[0.15, 0.15, 0.15], [0.12, 0.0, -0.12], [0.08, -0.12, 0.08]])
    skip = [
        colours[i] if i < 3 else 0.02 * torch.randn(3, generator=generator) for c in options.channels for i in range(c)
    ]
    weights["skip.weight"] = torch.stack(skip, 1)
    levels = torch.tensor([level for level, c in enumerate(options.channels) for _ in range(c)])
    energy = weights["skip.weight"].square().sum(0) * 255**2 * 4.0**levels  # of a gain of 1, the kernel's left out
    weights["field.gain"] = 0.5 * (UNIT * 2**7.6 / energy).log()
    weights["field.slope"] = torch.full((total,), 0.5 * 4.5 * math.log(2))  # lambda is 2 ** (7.6 + 4.5 q)
    weights["field.kernel"] = torch.tensor([[0.0, 0.5]] * len(options.channels))
    for filter_name in ("filter", "detail"):
        weights |= init_filter(filter_name, 3 + sum(options.channels[:2]), options.filter, generator)
    weights |= init_between("detail", options.filter, options.detail_layers, generator)
    weights |= rate.init_rate(options.channels, options.hidden, options.middle, options.features, generator)
    return weights | init_analysis(options.channels, options.analysis, generator)


def guess_loss(
    weights: Weights, batch: Batch, temperature: Tensor, options: FieldOptions, noises: list[Tensor]
) -> Tensor:
    """`weighted_objective` of the analysis network's fields."""
    fields = analyse(weights, batch.pictures, batch.q, options.channels, options.omegas)
    return weighted_objective(weights, fields, batch, temperature, options, noises)


def weighted_objective(
    weights: Weights,
    fields: list[Tensor],
    batch: Batch,
    temperature: Tensor,
    options: FieldOptions,
    noises: list[Tensor],
    finer: Tensor | None = None,
) -> Tensor:
    """J of noisily rounded fields in bits per pixel, weighted by quality, (B,).

    finer (B, 3, 2 H, 2 W): the pictures before they were halved; adds the error of the x2 decode, for the filter alone.
    """
    rounded = _noisily(fields, temperature, noises)
    return weighted_error_and_bits(weights, rounded, batch, options, finer)


def weighted_error_and_bits(
    weights: Weights, fields: list[Tensor], batch: Batch, options: FieldOptions, finer: Tensor | None = None
) -> Tensor:
    """J of fields as they are, and the error of the x2 decode, weighted as `weighted_objective` says, (B,)."""
    squared = (synthesize(weights, fields, batch.q, options.omegas) - batch.pictures).square().sum((1, 2, 3))
    losses = (squared * 255**2 / batch.lam + rate.rate(weights, fields, batch.q).sum(1)) * batch.weight
    if finer is not None:
        alone = {k: v if k.startswith("detail.") else v.detach() for k, v in weights.items()}
        between = synthesize_finer(alone, [z.detach() for z in fields], batch.q, options.omegas) - finer
        losses = losses + between.square().sum((1, 2, 3)) * 255**2 / (TYPICAL_LAMBDA * between[0, 0].numel())
    return losses


def emphasis(losses: Tensor) -> Tensor:
    """By which pictures' losses (B,) are multiplied: smooth ones, where there is little to lose, count, too.

    The gradient is that of twice the square root.
    """
    return losses.detach().clamp_min(LEAST_LOSS).rsqrt()


def train_fields(
    options: FieldOptions,
    tasks: Tasks,
    folder: Path,
    *,
    name: str = "fields",
    start: Prior | None = None,
    notes: Mapping[str, object] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Prior | None:
    """The trained prior, also in `folder / "prior.safetensors"`, beside `log.csv` and a checkpoint.

    A run whose folder holds a checkpoint goes on from there. `start` is a prior to begin with instead of
    random weights. With several processes the first writes and returns the prior, the others None.
    OptionError where the folder belongs to another run; PriorError where the checkpoint is damaged.
    """
    number, world = process()
    if options.batch % world:
        raise OptionError(f"{world} processes cannot share a batch of {options.batch} pictures equally")
    if options.threads:
        torch.set_num_threads(options.threads)
    device = fit.torch_device(options.device)
    run = {key: value for key, value in asdict(options).items() if key not in FREE}
    run |= {"format": FORMAT, "pictures": tasks.fingerprint, "start": start.id.hex() if start else None}
    run = json.loads(json.dumps(run))
    mine = folder / f"checkpoint-{number}.safetensors"
    state = _resume(mine, run) or _begin(options, start)
    weights, first, second, pool = ({k: v.to(device) for k, v in getattr(state, part).items()} for part in PARTS)
    state = replace(state, weights=weights, first=first, second=second, pool=pool, loss=state.loss.to(device))
    check_agreement(state.step, device)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.csv"
    rows = log.read_text().splitlines(keepends=True) if log.exists() and state.step else [LOG_HEADER]
    rows = rows[:1] + [row for row in rows[1:] if int(row.split(",")[0]) <= state.step]
    spent, began, first_step = state.seconds, time.monotonic(), state.step

    @lru_cache(max(options.slots, options.decoder_batches))
    def batch(at: int) -> Batch:
        """This process's share of a step's pictures."""
        share = slice(number, None, world)
        pictures = tasks.batch(options.seed, at, options.batch, share).to(device).permute(0, 3, 1, 2) - 0.5
        qualities = torch.randint(0, 256, (options.batch,), generator=torch.Generator().manual_seed(options.seed + at))
        return Batch.of(pictures, qualities[share])

    learning = _Learning(options)
    for step in range(state.step, options.steps):
        with _repeatable(device):
            state = _settled(_stepped(state, learning, batch, number, device))
        state = replace(state, seconds=spent + time.monotonic() - began)
        if (step + 1) % options.log_every == 0 or step + 1 == options.steps:
            count = (step + 1) % options.log_every or options.log_every
            loss = float(state.loss) / count
            if not math.isfinite(loss):
                raise OptionError(f"training diverged before step {step + 1}: the rates are too much")
            state = replace(state, loss=torch.zeros_like(state.loss))
            phase, _ = options.phase(step)
            if number == 0:
                rows.append(f"{step + 1},{PHASES[phase]},{loss:.5f},{state.seconds:.1f}\n")
                write_atomically(log, "".join(rows).encode(), overwrite=True)
                if progress:
                    pace = (state.seconds - spent) / (step + 1 - first_step)
                    progress(Progress(step + 1, options.steps, phase, 1.0, loss, math.nan,
                                      state.seconds, pace * (options.steps - step - 1)))  # fmt: skip
        if (step + 1) % options.checkpoint_every == 0 or step + 1 == options.steps:
            write_atomically(mine, _pack(state, run), overwrite=True)
    if number:
        return None
    record = {
        "method": __doc__.split("\n")[0] if __doc__ else "",
        "run": run,
        "seconds": round(state.seconds),
        **(notes or {}),
    }
    return export(folder / "prior.safetensors", name, state.weights, options, record)


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """Inside, a GPU adds in the same order each time. A CPU always does."""
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without which cuBLAS does not
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def export(
    path: Path, name: str, weights: Mapping[str, Tensor], options: FieldOptions, notes: Mapping[str, object]
) -> Prior:
    """The prior of float weights, written to `path`."""
    architecture = Architecture(options.omegas, False, options.channels)
    return save_prior(path, name, architecture, _tensors(weights), notes, overwrite=True)


def _tensors(weights: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """A prior's, of float weights."""
    tensors = {k: v.detach().cpu().numpy() for k, v in weights.items() if not k.startswith("rate.")}
    return tensors | rate.to_integers(weights)


def import_weights(prior: Prior) -> Weights:
    """The float weights of a prior, and what it expects of deltas: what `export` wrote, but for rounding."""
    kept = {k: v for k, v in prior.tensors.items() if v.dtype == "float32" or k.startswith("deltas.")}
    return {k: torch.from_numpy(v.copy()) for k, v in kept.items()} | rate.to_floats(prior.tensors)


def _begin(options: FieldOptions, start: Prior | None) -> _State:
    weights = import_weights(start) if start else init_weights(options)
    if options.schedule or "fit.step" not in weights:
        first, last, hot, cold = options.schedule or (0.04, 0.0015, 0.22, 0.1)
        weights |= {"fit.step": torch.tensor([[first, last]] * len(options.channels))}
        weights |= {"fit.temperature": torch.tensor([hot, cold])}
        weights = {name: tensor for name, tensor in weights.items() if name not in SLOPES}
    weights |= {name: torch.zeros_like(weights[of]) for name, of in SLOPES.items() if name not in weights}
    generator = torch.Generator().manual_seed(options.seed)
    features, seen = weights["detail.in"].shape[:2]
    missing = options.detail_layers - len(weights["detail.mid"]) // features
    if missing > 0:
        more = init_between("detail", features, missing, generator)
        weights |= {name: torch.cat([weights[name], part]) for name, part in more.items()}
    if options.post_steps and "post.in" not in weights:
        weights |= init_filter("post", seen, options.post_filter, generator)
        weights |= init_between("post", options.post_filter, options.post_layers, generator)
    if start and (start.architecture.channels, start.architecture.omegas) != (
        options.channels,
        options.omegas,
    ):
        raise OptionError(f"prior {start.name} has other fields or layers than the options")
    zeros = [{k: torch.zeros_like(v) for k, v in weights.items()} for _ in range(2)]
    return _State(0, weights, zeros[0], zeros[1], {}, torch.zeros(()))


def _settled(state: _State) -> _State:
    """The state in the layout that a checkpoint brings back: convolutions of another give other last bits."""
    parts = {part: {k: _in_order(v) for k, v in getattr(state, part).items()} for part in PARTS}
    return replace(state, **parts)  # type: ignore[arg-type]


def _in_order(tensor: Tensor) -> Tensor:
    """With the strides of a new tensor, those of sides of 1 included, which `contiguous` leaves alone."""
    plain = _strides(tensor.shape)
    return tensor if tensor.stride() == plain else tensor.clone(memory_format=torch.contiguous_format)


@lru_cache
def _strides(shape: torch.Size) -> tuple[int, ...]:
    return torch.empty(shape, device="meta").stride()


class _Learning:
    """The gradients of all phases, recorded where the device is a GPU."""

    def __init__(self, options: FieldOptions) -> None:
        self.options = options
        self.guess = Recorded(partial(self._guess, _trainable))
        self.analysis = Recorded(partial(self._guess, _guessing))
        self.visit = Recorded(self._visit)
        self.follow = Recorded(self._follow)
        self.decode = Recorded(self._decode)
        self.behind = {name: Recorded(partial(self._behind, name)) for name in BEHIND}
        self.before = dict[str, tuple[Tensor, Tensor, Tensor, Tensor]]()
        """Of the batches of phases 7 and 8: what is missing without the filter that learns, the mean of its squares,
        what the filter sees, and q."""
        self.first = Recorded(self._first)
        self.slopes = Recorded(self._slopes)
        self.rates = Recorded(self._rates)
        self.costs = [Recorded(partial(self._costs, levels)) for levels in range(len(options.channels) + 1)]

    def _guess(
        self,
        learners: Callable[[Weights], list[str]],
        weights: Weights,
        batch: Batch,
        temperature: Tensor,
        noises: list[Tensor],
    ) -> tuple[Tensor, Weights]:
        """Loss of the guess, and its gradients by the weights that learn from it."""
        leaves = _leaves(weights)
        losses = guess_loss(leaves, batch, temperature, self.options, noises)
        return losses.detach().sum(), _by_name((losses * emphasis(losses)).sum(), leaves, learners(leaves))

    def _first(self, weights: Weights, batch: Batch) -> list[Tensor]:
        """The guess."""
        with torch.no_grad():
            return analyse(weights, batch.pictures, batch.q, self.options.channels, self.options.omegas)

    def _visit(
        self,
        weights: Weights,
        fields: list[Tensor],
        batch: Batch,
        temperature: Tensor,
        noises: list[Tensor],
        finer: list[Tensor],
    ) -> tuple[Tensor, Weights, list[Tensor]]:
        """Loss, and its gradients by all that decodes and by the fields; finer is empty or one."""
        leaves, values = _leaves(weights), [z.detach().requires_grad_() for z in fields]
        losses = weighted_objective(leaves, values, batch, temperature, self.options, noises, *finer)
        names, factors = _decoding(leaves), emphasis(losses)
        both = _gradients((losses * factors).sum(), [leaves[name] for name in names] + values)
        slopes = [slope / factors[:, None, None, None] for slope in both[len(names) :]]
        return losses.detach().sum(), dict(zip(names, both, strict=False)), slopes

    def _follow(
        self, weights: Weights, fields: list[Tensor], batch: Batch, temperature: Tensor, noises: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Loss, and its gradients by the fields."""
        return fast_objective(weights, fields, batch, temperature, self.options, noises)

    def _decode(
        self, weights: Weights, fields: list[Tensor], batch: Batch, finer: list[Tensor]
    ) -> tuple[Tensor, Weights]:
        """Loss of fields as they are, and its gradients by all that decodes."""
        leaves = _leaves(weights)
        losses = weighted_error_and_bits(leaves, fields, batch, self.options, *finer)
        return losses.detach().sum(), _by_name((losses * emphasis(losses)).sum(), leaves, _decoding(leaves))

    def _behind(
        self, name: str, weights: Weights, missing: Tensor, squares: Tensor, seen: Tensor, q: Tensor
    ) -> tuple[Tensor, Weights]:
        """Squared error over what it is without a filter behind the first one, and its gradients by that filter."""
        names = [key for key in _trainable(weights) if key.startswith(f"{name}.")]
        leaves = {k: v.detach().requires_grad_(k in names) for k, v in weights.items()}
        error = BEHIND[name].adds(leaves, seen, q) - missing
        loss = (_inner(weights, name, error).square().mean((1, 2, 3)) / (squares + LEAST_ERROR)).sum()
        return loss.detach(), _by_name(loss, leaves, names)

    def _slopes(self, weights: Weights, fields: list[Tensor], batch: Batch) -> list[Tensor]:
        """The gradient of J by fields as they are."""
        slopes = loss_and_slopes(weights, fields, batch, self.options)[1]
        return [slope / batch.weight[:, None, None, None] for slope in slopes]

    def _rates(self, weights: Weights, fields: list[Tensor], batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """`rate.distributions` of all levels."""
        with torch.no_grad():
            return rate.distributions(weights, fields, batch.q)

    def _costs(self, levels: int, weights: Weights, fields: list[Tensor], batch: Batch) -> tuple[Tensor, list[Tensor]]:
        """`objective.costs` of pictures that each have a quality of their own, in whole."""
        with torch.no_grad():
            error = (synthesize(weights, fields, batch.q, self.options.omegas) - batch.pictures).square().sum(1)
            found = zip(fields, rate.distributions(weights, fields, batch.q, levels), strict=False)
            bits = [rate.laplace_bits(z - mean, log_scale).sum(1) for z, (mean, log_scale) in found]
            return error * (255**2 / batch.lam)[:, None, None], bits


def _leaves(weights: Weights) -> Weights:
    names = _trainable(weights)
    return {k: v.detach().requires_grad_(k in names) for k, v in weights.items()}


def _trainable(weights: Weights) -> list[str]:
    return [name for name in sorted(weights) if not name.startswith(("fit.", "deltas."))]


def _guessing(weights: Weights) -> list[str]:
    return [name for name in _trainable(weights) if name.startswith("analysis.")]


def _decoding(weights: Weights) -> list[str]:
    return [name for name in _trainable(weights) if not name.startswith("analysis.")]


def _stepped(
    state: _State, learning: _Learning, drawn: Callable[[int], Batch], number: int, device: torch.device
) -> _State:
    """The state after one step."""
    step, options, weights, pool = state.step, learning.options, state.weights, state.pool
    generator = torch.Generator(device).manual_seed((options.seed * 1_000_003 + step) * 1024 + number)
    paces = dict[str, float]()
    index, done = options.phase(step)
    phase = PHASES[index]
    gradients: Weights
    if phase == "guess":
        part = step / options.guess_steps
        batch, temperature = drawn(step), torch.full((), HOT + (COLD - HOT) * part, device=device)
        loss, gradients = learning.guess(weights, batch, temperature, _noises(batch, options, generator))
        pace = options.guess_rate * min(1.0, (step + 1) / 200) * _cosine(max(0.0, (part - 0.4) / 0.6))
    elif phase == "analysis":
        batch, temperature = drawn(step), torch.full((), COLD, device=device)
        loss, gradients = learning.analysis(weights, batch, temperature, _noises(batch, options, generator))
        pace = options.analysis_rate * min(1.0, (done + 1) / 50) * _cosine(done / options.analysis_steps)
    elif phase == "schedule":
        loss, gradients = _evolved(weights, drawn(step), learning, generator)
        pace = options.schedule_rate * _cosine(done / options.schedule_steps)
    elif phase == "coarse":
        key = f"coarse {done % options.coarse_batches}"
        if done < options.coarse_batches:
            batch = drawn(step)
            fields = learning.first(weights, batch)[COARSE:]
            pool = (dict(pool) if done else {}) | {f"{key}/fields/{i}": z.round() for i, z in enumerate(fields)}
            pool[f"{key}/conditioning"] = batch.q
        fields = [pool[f"{key}/fields/{i}"] for i in range(len(options.channels) - COARSE)]
        leaves = _leaves(weights)
        loss = rate.coarse_rate(leaves, fields, pool[f"{key}/conditioning"], COARSE).sum() / fields[0][0, 0].numel()
        pace = options.coarse_rate * min(1.0, (done + 1) / 50) * _cosine(done / options.coarse_steps)
        kinds = tuple(f"rate.{level}." for level in range(COARSE, len(options.channels)))
        names = [name for name in _decoding(weights) if name.startswith(kinds) and ".trunk" not in name]
        gradients = _by_name(loss, leaves, names)
    elif phase in BEHIND:
        batches, steps, rate_of_phase = (getattr(options, f"{phase}_{what}") for what in ("batches", "steps", "rate"))
        key = f"{phase} {done % batches}"
        if key not in learning.before:  # nothing that is before the filter changes
            whole = drawn(step - done + done % batches)
            batch = whole.halved() if BEHIND[phase].scale == 2 else whole
            if done < batches:
                fields = _as_in_a_file(weights, batch, learning, generator)
                pool = (dict(pool) if done else {}) | {f"{key}/fields/{i}": z for i, z in enumerate(fields)}
            fields = [pool[f"{key}/fields/{i}"] for i in range(len(options.channels))]
            with torch.no_grad():
                without, seen = BEHIND[phase].before(weights, fields, batch.q, options.omegas)
            rest = whole.pictures - without
            learning.before[key] = rest, rest.square().mean((1, 2, 3)), seen, batch.q
        rest, mean, seen, q = learning.before[key]
        missing, around = _window(rest, seen, step)
        loss, gradients = learning.behind[phase](weights, missing, mean, around, q)
        pace = rate_of_phase * min(1.0, (done + 1) / 50) * _cosine(done / steps)
    elif phase == "deltas":
        loss, counts = _counted(weights, drawn(step), options, step, device)
        pool = {f"deltas/{kind}": part + (pool[f"deltas/{kind}"] if done else 0) for kind, part in counts.items()}
        if done + 1 == options.deltas_steps:
            summed = sum_over_processes({kind: pool[f"deltas/{kind}"] for kind in counts})
            found = {kind: part.cpu().numpy().astype(np.float64) for kind, part in summed.items()}
            more = expectations(_tensors(weights), found, options.deltas_steps * options.batch)
            state = replace(state, weights=weights | {k: torch.from_numpy(v).to(device) for k, v in more.items()})
        gradients, pace = {}, 0.0
    elif phase == "decoder":
        length = -(-options.decoder_steps // options.decoder_rounds)
        done %= length
        number_of_batch = done % options.decoder_batches
        batch, finer = _halved(drawn(step - done + number_of_batch), number_of_batch)
        if done < options.decoder_batches:
            pool = pool if done else {}
            fields = _as_in_a_file(weights, batch, learning, generator)
            pool = dict(pool) | {f"decoder {number_of_batch}/fields/{i}": z for i, z in enumerate(fields)}
        fields = [pool[f"decoder {number_of_batch}/fields/{i}"] for i in range(len(options.channels))]
        loss, gradients = learning.decode(weights, fields, batch, finer)
        pace = options.decoder_rate * min(1.0, (done + 1) / 50) * _cosine(done / length)
        paces = {name: PACES.get(name.split(".")[0], NETWORK_PACE) for name in gradients}
    else:
        slot, turn = done % options.slots, done // options.slots
        age = (turn + slot * options.fit_length // options.slots) % options.fit_length
        key, born = f"{slot}", step - options.slots * min(age, turn)
        batch, finer = _halved(drawn(born), slot)
        noises = _noises(batch, options, generator)
        pace = options.fit_rate * min(1.0, (done + 1) / 100) * _cosine(done / options.fit_steps)
        if born == step:  # a new batch: its guess
            loss, gradients = learning.analysis(weights, batch, torch.full((), COLD, device=device), noises)
            fields = learning.first(weights, batch)
            pool = dict(pool) | {f"{key}/fields/{i}": z.clone() for i, z in enumerate(fields)}
            pool |= {f"{key}/squares/{i}": torch.zeros(len(z), device=device) for i, z in enumerate(fields)}
        else:
            part = age / max(1, options.fit_length - 1)
            temperature, sizes = fit.schedule(weights, batch.q, part)
            fields = [pool[f"{key}/fields/{i}"] for i in range(len(options.channels))]
            if part >= LEARNT_FROM:
                loss, gradients, slopes = learning.visit(weights, fields, batch, temperature, noises, finer)
            else:
                gradients = {}
                loss, slopes = learning.follow(weights, fields, batch, temperature, noises)
            count = batch.q.new_full((), min(age, turn))  # steps this batch has had, its guess not counted: 1, 2, ...
            squares = [pool[f"{key}/squares/{i}"] for i in range(len(fields))]
            moved = _descended(fields, slopes, squares, sizes, count, _least(batch))
            for kind, tensors in zip(("fields", "squares"), moved, strict=True):
                pool = dict(pool) | {f"{key}/{kind}/{i}": tensor for i, tensor in enumerate(tensors)}
    summed = sum_over_processes({"loss": loss.detach()} | gradients)
    state = replace(state, step=step + 1, pool=pool, loss=state.loss + summed.pop("loss") / options.batch)
    return _learnt(state, summed, options.batch, pace, paces) if summed else state


def _counted(
    weights: Weights, batch: Batch, options: FieldOptions, step: int, device: torch.device
) -> tuple[Tensor, Weights]:
    """Bits of the deltas per pixel, and what `expect` counts, summed over a batch's pictures."""
    prior = Prior("", Architecture(options.omegas, False, options.channels), _tensors(weights), b"")
    model, summed, bits = FieldModel.of(prior, device), Weights(), 0
    for number, index in enumerate(batch.indices):
        pixels = ((batch.pictures[number].permute(1, 2, 0) + 0.5) * 255).cpu().numpy()
        fitted = fit.fit_together(prior, [fit.Given(pixels, index)], options.fit_length, device, step)[0]
        found = counted(prior, model, fitted, batch.q[number : number + 1])
        summed = {k: torch.from_numpy(v).float().to(device) + summed.get(k, 0) for k, v in found.items()}
        bits += 8 * sum(map(len, pack_deltas(fitted[1], prior.tensors)))
    return batch.q.new_full((), bits / batch.pictures[0, 0].numel()), summed


def _as_in_a_file(weights: Weights, batch: Batch, learning: _Learning, generator: torch.Generator) -> list[Tensor]:
    """`_fitted`, rounded by trial."""
    fields = _fitted(weights, batch, learning, generator)
    found = [z.round() for z in fields]
    for _ in range(PASSES):
        found = by_trial(
            fields,
            found,
            lambda tried, levels: learning.costs[levels](weights, tried, batch),
            lambda tried: learning.slopes(weights, tried, batch),
            lambda tried: learning.rates(weights, tried, batch),
        )
    return found


def _window(missing: Tensor, seen: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """The same part of what is missing, (B, 3, H, W) or twice as fine, and of what is seen, (B, C, H, W), turned so."""
    generator = torch.Generator().manual_seed(step)
    height, width = seen.shape[2:]
    scale = missing.shape[2] // height
    top, left = (int(torch.randint(max(1, size - WINDOW + 1), (), generator=generator)) for size in (height, width))
    finer = missing[:, :, scale * top : scale * (top + WINDOW), scale * left : scale * (left + WINDOW)]
    mirrored = [axis for axis in (2, 3) if torch.rand((), generator=generator) < 0.5]
    parts = [part.flip(mirrored) for part in (finer, seen[:, :, top : top + WINDOW, left : left + WINDOW])]
    finer, seen = (part.mT for part in parts) if torch.rand((), generator=generator) < 0.5 else parts
    return finer.contiguous(), seen.contiguous()


def _inner(weights: Weights, name: str, samples: Tensor) -> Tensor:
    """Of what a filter says of a window, (B, 3, H, W) or twice as fine, what does not depend on what is outside."""
    scale = BEHIND[name].scale
    margin, whole = scale * (reach(weights, name) + HALO), scale * WINDOW
    rows, columns = (slice(margin, size - margin) if size == whole else slice(size) for size in samples.shape[2:])
    return samples[:, :, rows, columns]


def _evolved(weights: Weights, batch: Batch, learning: _Learning, generator: torch.Generator) -> tuple[Tensor, Weights]:
    """Log J summed over the pictures, mean of two fits, and an estimate of its gradient by the schedule's numbers."""
    plain = weights | {name: torch.zeros_like(weights[name]) for name in SLOPES}
    values = {name: fit.at_quality(weights, name, batch.q) for name in SCHEDULE}
    away = {
        name: SPREAD * torch.randn(value.shape, generator=generator, device=value.device)
        for name, value in values.items()
    }
    start, losses = generator.get_state(), []
    for sign in (1, -1):
        generator.set_state(start)
        beside = plain | {name: values[name] * torch.exp(sign * factor) for name, factor in away.items()}
        fields = _as_in_a_file(beside, batch, learning, generator)
        error, bits = learning.costs[len(fields)](weights, fields, batch)
        losses.append((error.sum((1, 2)) + sum(part.sum((1, 2)) for part in bits)).log())
    slope = (losses[0] - losses[1]) / (2 * SPREAD**2)
    by = {name: torch.einsum("b,b...->b...", slope, factor) for name, factor in away.items()}
    gradients = {name: each.sum(0) for name, each in by.items()}
    gradients |= {f"{name}_slope": torch.einsum("b,b...->...", batch.q[:, 0], each) for name, each in by.items()}
    return torch.stack(losses).mean(0).sum(), gradients


def _fitted(weights: Weights, batch: Batch, learning: _Learning, generator: torch.Generator) -> list[Tensor]:
    """Fields after a whole fit of `fit_length` steps."""
    options = learning.options
    fields = learning.first(weights, batch)
    squares = [z.new_zeros(len(z)) for z in fields]
    least, noise = _least(batch), fit.noises(fields, generator)
    for step in range(options.fit_length):
        temperature, sizes = fit.schedule(weights, batch.q, step / max(1, options.fit_length - 1))
        _, slopes = learning.follow(weights, fields, batch, temperature, next(noise))
        fields, squares = _descended(fields, slopes, squares, sizes, batch.q.new_full((), step + 1), least)
    return fields


def _descended(
    fields: list[Tensor],
    gradients: list[Tensor],
    squares: list[Tensor],
    sizes: Tensor,
    count: Tensor,
    least: Tensor,
) -> tuple[list[Tensor], list[Tensor]]:
    """Fields and mean squares of all levels after step `count` of sizes (B, levels)."""
    levels = zip(fields, gradients, squares, sizes.unbind(1), strict=True)
    moved = [fit.descend(z.detach(), gradient, square, size, count, least) for z, gradient, square, size in levels]
    return [z for z, _ in moved], [square for _, square in moved]


def fast_objective(
    weights: Weights,
    fields: list[Tensor],
    batch: Batch,
    temperature: Tensor,
    options: FieldOptions,
    noises: list[Tensor],
) -> tuple[Tensor, list[Tensor]]:
    """The sum of `weighted_objective` and its gradients by the fields, without any by the weights."""
    fields = [z.detach().requires_grad_() for z in fields]
    rounded = _noisily(fields, temperature, noises)
    loss, by_rounded = loss_and_slopes(weights, rounded, batch, options)
    return loss, list(torch.autograd.grad(rounded, fields, by_rounded))


def loss_and_slopes(
    weights: Weights, fields: list[Tensor], batch: Batch, options: FieldOptions
) -> tuple[Tensor, list[Tensor]]:
    """The sum of `weighted_error_and_bits` and its gradients by fields as they are."""
    if batch.pictures.device.type != PIECEWISE:  # which is fastest with one large graph
        fixed = {k: v.detach() for k, v in weights.items()}
        with torch.enable_grad():
            values = [z.detach().requires_grad_() for z in fields]
            loss = weighted_error_and_bits(fixed, values, batch, options).sum()
        return loss.detach(), _gradients(loss, values)
    total = batch.pictures.new_zeros(())
    slopes = [torch.empty_like(z) for z in fields]
    for at, (found, gradients) in enumerate(_objectives(weights, fields, batch, options)):
        total = total + batch.weight[at] * found
        for whole, gradient in zip(slopes, gradients, strict=True):
            whole[at : at + 1] = batch.weight[at] * gradient
    return total, slopes


def _objectives(
    weights: Weights, fields: list[Tensor], batch: Batch, options: FieldOptions
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """`objective` of each picture."""
    model = FieldModel({k: v.detach() for k, v in weights.items()}, options.omegas, options.channels)
    for at, lam in enumerate(batch.lam.tolist()):
        part = slice(at, at + 1)
        yield objective(model, [z[part] for z in fields], batch.pictures[part], batch.q[part], lam)


def _least(batch: Batch) -> Tensor:
    """`fit.descend`'s, for gradients of the loss: (B,)."""
    return fit.least_gradient(batch.q) * batch.weight


def _noises(batch: Batch, options: FieldOptions, generator: torch.Generator) -> list[Tensor]:
    """Uniform in [0, 1), shaped like the fields."""
    count, _, height, width = batch.pictures.shape
    shapes = field_shapes(height, width, options.channels)
    return [torch.rand(count, *shape, generator=generator, device=batch.pictures.device) for shape in shapes]


def _noisily(fields: list[Tensor], temperature: Tensor, noises: list[Tensor]) -> list[Tensor]:
    return [fit.noisy_round(z, temperature, noise) for z, noise in zip(fields, noises, strict=True)]


def _halved(batch: Batch, number: int) -> tuple[Batch, list[Tensor]]:
    """Every fourth batch as means of 2x2 pixels, and its pictures as they were."""
    return (batch.halved(), [batch.pictures]) if number % 4 == 3 else (batch, [])


def _by_name(loss: Tensor, weights: Weights, names: list[str]) -> Weights:
    """Gradients of a loss by some of the weights."""
    return dict(zip(names, _gradients(loss, [weights[name] for name in names]), strict=True))


def _gradients(loss: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, leaves, strict=True)]


def _cosine(part: float) -> float:
    """From 1 to 0.02 as `part` runs from 0 to 1."""
    return max(0.02, 0.5 * (1 + math.cos(math.pi * part)))


@torch.no_grad()
def _learnt(state: _State, gradients: Weights, count: int, pace: float, paces: Mapping[str, float]) -> _State:
    """The state after a step of Adam with betas 0.9 and 0.99, of rates `pace` times those of `paces` (1).

    Gradients are sums of `count`; their mean is clipped.
    """
    names = list(gradients)
    means = torch._foreach_div([_in_order(g) for g in gradients.values()], count)
    clipped = (CLIP / (torch.nn.utils.get_total_norm(means) + 1e-9)).clamp_max(1)
    slopes = torch._foreach_mul(means, clipped)
    if "field.kernel" in gradients:
        slopes[names.index("field.kernel")][0, 0] = 0  # level 0 interpolates: its values are those at pixel centres
    first = torch._foreach_lerp([state.first[name] for name in names], slopes, 0.1)
    second = torch._foreach_lerp([state.second[name] for name in names], torch._foreach_mul(slopes, slopes), 0.01)
    scale = pace * math.sqrt(1 - 0.99**state.step) / (1 - 0.9**state.step)
    spread = torch._foreach_add(torch._foreach_sqrt(second), 1e-8)
    moves = torch._foreach_mul(torch._foreach_div(first, spread), [-scale * paces.get(name, 1.0) for name in names])
    # What the schedule counts is logs.
    before = [
        state.weights[name].detach().log() if name in SCHEDULE else state.weights[name].detach() for name in names
    ]
    after = dict(zip(names, torch._foreach_add(before, moves), strict=True))
    after |= {name: after[name].exp() for name in SCHEDULE if name in after}
    return replace(
        state,
        weights=state.weights | after,
        first=state.first | dict(zip(names, first, strict=True)),
        second=state.second | dict(zip(names, second, strict=True)),
    )


PARTS = ("weights", "first", "second", "pool")


def _pack(state: _State, run: Mapping[str, object]) -> bytes:
    tensors = {f"{part}/{k}": v.detach().cpu().contiguous() for part in PARTS for k, v in getattr(state, part).items()}
    counters = {"step": state.step, "loss": float(state.loss), "seconds": state.seconds}
    return save(tensors, {"run": json.dumps(run), "counters": json.dumps(counters)})


def _resume(path: Path, run: Mapping[str, object]) -> _State | None:
    """The mirror image of `_pack`; None where there is no file."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        size = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + size])["__metadata__"]
        found, counters, tensors = json.loads(metadata["run"]), json.loads(metadata["counters"]), load(data)
        parts: dict[str, Weights] = {part: {} for part in PARTS}
        for name, tensor in tensors.items():
            part, key = name.split("/", 1)
            parts[part][key] = tensor
        state = _State(counters["step"], **parts, loss=torch.tensor(counters["loss"]), seconds=counters["seconds"])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise PriorError(f"{path}: not a checkpoint ({type(error).__name__}: {error})") from None
    changed = [key for key in run if found.get(key) != run[key]]
    if changed:
        differences = ", ".join(f"{key} {found.get(key)}, now {run[key]}" for key in changed)
        raise OptionError(f"{path.parent}: holds another run ({differences}); use another folder")
    return state
