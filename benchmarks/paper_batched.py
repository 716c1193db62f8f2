"""The experiments of `paper.py` with gradients that are written out: all runs at once on a GPU, one per core on a CPU.

    python benchmarks/paper_batched.py pack imagenette=FOLDER faces=FOLDER glyphs=FOLDER --side 48 --out PICTURES.npz
    python benchmarks/paper_batched.py run PICTURES.npz --size small --processes 2 --at-once 4 --out RUN
    python benchmarks/paper_batched.py run PICTURES.npz --size gpu --minutes 4 --out RUN

`pack` reduces the pictures as `paper.py` does. `run` appends a row to RUN/paper.csv as soon as it is measured and
keeps every prior in RUN/runs, as `paper.py run` does. At its time limit it stops; started again it skips the rows that
are there, and trains again only what was not finished.

A run is one data set with one seed. Its networks are small and its batches too, so that a GPU would wait for launches;
but all runs do the same. A network is a vector here (D numbers), the parameters of R runs are (R, D), those of P
pictures (P, D), and every operation does all of them. An outer step is recorded once as a CUDA graph and replayed. A
CPU is faster with what stays in its cache: with `--processes`, each takes one run after the other.
The gradients are written out, those through the inner steps by Pearlmutter's product with the Hessian; tests compare
them with `maml`, and the training with `train`. Everything is drawn as it is there.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import paper
import torch
from numpy.typing import NDArray
from torch import Tensor

from inrcodec.fit import torch_device
from inrcodec.graphs import record
from inrcodec.grid import pixel_grid
from inrcodec.maml import Parameters, adam_step
from inrcodec.prior import Architecture, read_prior, save_prior
from inrcodec.siren import init_siren
from inrcodec.train import TrainOptions

ROUNDED_TO = 4  # units: a GPU multiplies matrices faster whose rows are multiples of 16 bytes
PARTS = 8  # of the pixels, in the gradient of a weight: a sum over all of them would keep few processors busy
REPORT_EVERY = 250  # outer steps


class OutOfTime(Exception):
    """The time limit of a run has come."""


@dataclass(frozen=True)
class Network:
    """How a SIREN of 2 inputs and 3 outputs lies in a vector: weights (out, in) and biases of one layer after another.

    The units of a sine layer are rounded up. Those that were added have weights and biases of zero for ever, and
    count as removed.
    """

    width: int  # units of a sine layer that are used
    omegas: tuple[float, ...]  # of each sine layer

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(out, in) of each layer."""
        units = -(-self.width // ROUNDED_TO) * ROUNDED_TO
        return [(units, 2), *[(units, units)] * (len(self.omegas) - 1), (3, units)]

    @property
    def size(self) -> int:
        """D."""
        return sum(out * (into + 1) for out, into in self.shapes)

    def split(self, vectors: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Weight (P, out, in) and bias (P, out) of each layer, as views of the vectors (P, D)."""
        parts = iter(torch.split(vectors, [n for out, into in self.shapes for n in (out * into, out)], dim=1))
        return [(next(parts).view(-1, *shape), next(parts)) for shape in self.shapes]

    @property
    def factors(self) -> Tensor:
        """What each number is multiplied by, (D,): its layer's omega, 1 in the last."""
        vector = torch.empty(1, self.size)
        for (weights, biases), omega in zip(self.split(vector), (*self.omegas, 1.0), strict=True):
            weights[:], biases[:] = omega, omega
        return vector[0]

    @property
    def weights(self) -> Tensor:
        """Which numbers are weights, (D,): the others are biases."""
        vector = torch.empty(1, self.size, dtype=torch.bool)
        for weights, biases in self.split(vector):
            weights[:], biases[:] = True, False
        return vector[0]

    def pack(self, each: Sequence[Parameters]) -> Tensor:
        """Vectors (R, D) of the parameters of networks; what was added is zero."""
        vectors = torch.zeros(len(each), self.size)
        for i, (weights, biases) in enumerate(self.split(vectors)):
            for row, parameters in enumerate(each):
                weight = parameters[f"siren.{i}.weight"]
                out, into = weight.shape
                weights[row, :out, :into], biases[row, :out] = weight, parameters[f"siren.{i}.bias"]
        return vectors

    def unpack(self, vectors: Tensor) -> list[Parameters]:
        """The mirror image of `pack`, on the CPU."""
        used = [(self.width, 2), *[(self.width, self.width)] * (len(self.omegas) - 1), (3, self.width)]
        parts = [
            (w[:, :out, :into], b[:, :out]) for (w, b), (out, into) in zip(self.split(vectors.cpu()), used, strict=True)
        ]
        return [
            {
                f"siren.{i}.{name}": value[row].clone()
                for i, part in enumerate(parts)
                for name, value in zip(("weight", "bias"), part, strict=True)
            }
            for row in range(len(vectors))
        ]

    def init(self, generator: torch.Generator) -> Parameters:
        """Random parameters."""
        return init_siren(2, (self.width,) * len(self.omegas), 3, self.omegas, generator)


@dataclass(frozen=True)
class Pass:
    """What the gradient of a picture's loss leaves for products with the Hessian; a tensor per layer, (P, N, units)."""

    loss: Tensor  # (P,): mean squared error
    weights: list[Tensor]  # (P, out, in), times omega in sine layers
    inputs: list[Tensor]
    cosines: list[Tensor]  # of sine layers
    pulls: list[Tensor]  # derivatives of the loss in the outputs of sine layers
    deltas: list[Tensor]  # and in the sums of weighted inputs and bias


class Loss:
    """The mean squared error of networks (P, D) at the pixels of a picture each: its derivatives.

    sin(omega (W h + b)) is sin(W' h + b') with W' = omega W, so omegas occur only in factors of vectors.
    """

    def __init__(self, network: Network, coordinates: Tensor) -> None:
        self.network, self.coordinates = network, coordinates  # (N, 2)
        self.factors = network.factors.to(coordinates.device)  # (D,)

    def outputs(self, vectors: Tensor) -> Tensor:
        """Values of the networks, (P, N, 3)."""
        hidden = self._inputs(vectors)
        *sines, (weight, bias) = self.network.split(vectors * self.factors)
        for sine, offset in sines:
            hidden = torch.baddbmm(offset[:, None], hidden, sine.mT).sin_()
        return torch.baddbmm(bias[:, None], hidden, weight.mT)

    def gradient(self, vectors: Tensor, pictures: Tensor) -> tuple[Tensor, Pass]:
        """The gradient (P, D) of the loss on pictures (P, N, 3), by back-propagation."""
        layers = self.network.split(vectors * self.factors)
        weights, inputs, cosines = [weight for weight, _ in layers], [self._inputs(vectors)], []
        for weight, bias in layers[:-1]:
            phase = torch.baddbmm(bias[:, None], inputs[-1], weight.mT)
            inputs.append(phase.sin())
            cosines.append(phase.cos_())
        error = torch.baddbmm(layers[-1][1][:, None], inputs[-1], weights[-1].mT) - pictures  # (P, N, 3)
        deltas, pulls = [error * (2 / error[0].numel())], list[Tensor]()
        for weight, cosine in zip(weights[:0:-1], cosines[::-1], strict=True):
            pulls.insert(0, torch.bmm(deltas[0], weight))
            deltas.insert(0, pulls[0] * cosine)
        pairs = zip(deltas, inputs, strict=True)
        gradient = _joined([(_over_pixels(delta, hidden), delta.sum(1)) for delta, hidden in pairs])
        return gradient * self.factors, Pass(error.square().mean((1, 2)), weights, inputs, cosines, pulls, deltas)

    def curvature(self, at: Pass, vectors: Tensor) -> Tensor:
        """The Hessian times vectors (P, D): how the gradient changes along them (Pearlmutter 1994), line by line."""
        changes = self.network.split(vectors * self.factors)
        inputs: list[Tensor] = []  # the changes of Pass.inputs but the first, which has none; and so on
        phases: list[Tensor] = []
        for i, (change, offset) in enumerate(changes):
            phase = torch.baddbmm(offset[:, None], at.inputs[i], change.mT)
            if i:
                phase.baddbmm_(inputs[-1], at.weights[i].mT)
            phases.append(phase)
            if i < len(at.cosines):
                inputs.append(phase * at.cosines[i])
        deltas = [phases.pop() * (2 / at.deltas[-1][0].numel())]
        for i in range(len(phases), 0, -1):
            pull = torch.bmm(deltas[0], at.weights[i]).baddbmm_(at.deltas[i], changes[i][0])
            bend = (at.pulls[i - 1] * at.inputs[i]).mul_(phases[i - 1])  # the cosine's change is -sine
            deltas.insert(0, pull.mul_(at.cosines[i - 1]).sub_(bend))
        parts = []
        for i, delta in enumerate(deltas):
            weight = _over_pixels(delta, at.inputs[i])
            if i:
                weight += _over_pixels(at.deltas[i], inputs[i - 1])
            parts.append((weight, delta.sum(1)))
        return _joined(parts) * self.factors

    def _inputs(self, vectors: Tensor) -> Tensor:
        return self.coordinates.expand(len(vectors), -1, -1)


def _over_pixels(deltas: Tensor, inputs: Tensor) -> Tensor:
    """The gradient of weights (P, out, in) from (P, N, out) and (P, N, in)."""
    parts = math.gcd(deltas.shape[1], PARTS)
    count, pixels = deltas.shape[:2]
    deltas, inputs = (each.reshape(count * parts, pixels // parts, -1) for each in (deltas, inputs))
    return torch.bmm(deltas.mT, inputs).view(count, parts, deltas.shape[2], -1).sum(1)


def _joined(layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The mirror image of `Network.split`."""
    return torch.cat([part.flatten(1) for layer in layers for part in layer], dim=1)


def meta_gradient(
    loss: Loss, vectors: Tensor, masks: Tensor, pictures: Tensor, steps: int, rate: float
) -> tuple[Tensor, Tensor]:
    """As in `maml` for runs (R, D) with pictures (R, B, N, 3): gradients (R, D), mean of a batch; losses (R, B)."""
    runs, batch = pictures.shape[:2]
    adapted, masks = (each[:, None].expand(-1, batch, -1).flatten(0, 1) for each in (vectors, masks))  # (R * B, D)
    pictures = pictures.flatten(0, 1)
    passes = []
    for _ in range(steps):
        gradient, at = loss.gradient(adapted, pictures)
        passes.append(at)
        adapted = adapted - rate * gradient * masks
    gradient, last = loss.gradient(adapted, pictures)
    gradient *= masks
    for at in reversed(passes):
        gradient = gradient - rate * loss.curvature(at, gradient) * masks
    return gradient.view(runs, batch, -1).mean(1), last.loss.view(runs, batch)


def pruned(network: Network, scores: Tensor, masks: Tensor, fraction: float) -> Tensor:
    """As `prune` for each of (R, D): masks without the surviving weights of the smallest scores."""
    weights = network.weights.to(masks.device) & masks
    order = torch.where(weights, scores.abs(), torch.inf).argsort(dim=1, stable=True)
    removed = (weights.sum(1, keepdim=True).double() * fraction).long()  # (R, 1)
    ranks = torch.arange(network.size, device=masks.device)
    return masks & torch.empty_like(masks).scatter_(1, order, ranks >= removed)


@dataclass(frozen=True)
class Pictures:
    """The pictures of several data sets, uint8, (pictures, H, W, 3) each."""

    train: dict[str, NDArray[np.uint8]]
    test: dict[str, NDArray[np.uint8]]

    @classmethod
    def read(cls, path: Path, aside: int = 0) -> Pictures:
        """From the file that `pack` wrote, the last `aside` training pictures in place of the test pictures."""
        parts: dict[str, dict[str, NDArray[np.uint8]]] = {"train": {}, "test": {}}
        with np.load(path, allow_pickle=False) as file:
            for key in file.files:
                data, part = key.split("/")
                parts[part][data] = file[key]
        if aside:
            parts["test"] = {data: pictures[-aside:] for data, pictures in parts["train"].items()}
            parts["train"] = {data: pictures[:-aside] for data, pictures in parts["train"].items()}
        return cls(**parts)

    def only(self, data: str) -> Pictures:
        """Those of one data set."""
        return Pictures({data: self.train[data]}, {data: self.test[data]})


def pack(folders: Mapping[str, Path], side: int, most: int | None, path: Path) -> None:
    """Write the pictures at their final size: all test pictures, at most `most` for training."""
    arrays = {}
    for data, source in folders.items():
        experiment = paper.Experiment(data, 0, replace(paper.SIZES["gpu"], side=side), source, Path())
        for part in ("train", "test"):
            pictures = experiment._pictures(part)
            count = len(pictures.names)
            if part == "train" and most:  # spread over the list, which is in the order of names
                chosen = np.linspace(0, count - 1, min(most, count)).round().astype(int)
            else:
                chosen = np.arange(count)
            arrays[f"{data}/{part}"] = np.stack([pictures._cropped(i, np.zeros(2)) for i in chosen.tolist()])
    np.savez_compressed(path, allow_pickle=False, **arrays)


def drawn(seed: int, step: int, count: int, available: int) -> NDArray[np.int64]:
    """Which pictures `Dataset.batch` draws."""
    return np.random.default_rng([seed, step]).choice(available, count, replace=count > available)


class Training:
    """Outer steps of all runs of a network at once, in place.

    `pictures` (all, N, 3) are those of all data sets; `schedule` (steps, R, B) says which of them a step takes.
    """

    def __init__(
        self,
        loss: Loss,
        options: TrainOptions,
        vectors: Tensor,
        masks: Tensor,
        pictures: Tensor,
        schedule: Tensor,
    ) -> None:
        self.loss, self.options, self.pictures, self.schedule = loss, options, pictures, schedule
        self.vectors, self.masks = vectors.clone(), masks.clone()  # (R, D)
        self.first, self.second = torch.zeros_like(vectors), torch.zeros_like(vectors)  # moments of Adam
        self.step = torch.zeros((), dtype=torch.float64, device=vectors.device)  # outer steps done
        self.psnr = torch.zeros(len(vectors), device=vectors.device)  # dB, summed since it was read
        self.replay: Callable[[], None] | None = None

    @property
    def state(self) -> list[Tensor]:
        """What a step changes."""
        return [self.vectors, self.first, self.second, self.step, self.psnr]

    def advance(self) -> None:
        """One outer step. Nothing in it looks at values on the host."""
        chosen = self.schedule.index_select(0, self.step.long()[None])[0]  # (R, B)
        batch = self.pictures.index_select(0, chosen.flatten()).view(*chosen.shape, *self.pictures.shape[1:])
        inner = self.options.inner
        gradient, losses = meta_gradient(self.loss, self.vectors, self.masks, batch, inner.steps, inner.rate)
        self.step += 1
        moved = adam_step(
            {"": self.vectors}, {"": gradient}, {"": self.first}, {"": self.second}, self.step, self.options.outer_rate
        )
        for place, value in zip((self.vectors, self.first, self.second), moved, strict=True):
            place.copy_(value[""])
        self.psnr += (-10 * losses.log10()).mean(1)

    def record(self) -> None:
        """From now on a step is the replay of a recording, if there is a GPU and it can be recorded."""
        self.replay = self.advance
        if self.vectors.device.type != "cuda":
            return
        before = [place.clone() for place in self.state]
        try:
            self.replay = record(self.advance)[0].replay
        except RuntimeError as error:
            print(f"not recorded, slower: {error}", flush=True)
        for place, value in zip(self.state, before, strict=True):
            place.copy_(value)

    def prune(self, random_seeds: Sequence[int] | None) -> None:
        """Remove the smallest weights, or by the random numbers of `train` those of a run's seed + step."""
        scores = self.vectors
        if random_seeds is not None:
            step = int(self.step)
            scores = self.loss.network.pack([self._random(seed + step) for seed in random_seeds]).to(scores)
        self.masks.copy_(pruned(self.loss.network, scores, self.masks, self.options.fraction))
        for tensor in (self.vectors, self.first, self.second):
            tensor *= self.masks

    def _random(self, seed: int) -> Parameters:
        generator = torch.Generator().manual_seed(seed)
        shapes = self.loss.network.init(torch.Generator())
        return {
            name: torch.rand(value.shape, generator=generator) if name.endswith("weight") else torch.ones_like(value)
            for name, value in shapes.items()
        }

    def run(self, steps: int, report: Callable[[int, float], None]) -> None:
        """So many steps. `report` gets the steps done and the mean PSNR in dB since the last report."""
        if self.replay is None:
            self.record()
        assert self.replay is not None, "a recording or the step itself"
        for begin in range(0, steps, REPORT_EVERY):
            count = min(REPORT_EVERY, steps - begin)
            for _ in range(count):
                self.replay()
            psnr = self.psnr.mean().item() / count
            self.psnr.zero_()
            report(begin + count, psnr)
            if not math.isfinite(psnr):
                raise FloatingPointError("training diverged")


def fit(
    loss: Loss,
    vectors: Tensor,
    masks: Tensor,
    pictures: Tensor,
    protocol: paper.Protocol,
    removed: Mapping[int, float],
) -> tuple[Tensor, Tensor]:
    """As `paper.fit` for networks (P, D) and pictures (P, N, 3): the PSNR of each in dB, and the masks it ends with."""
    first, second = {"": torch.zeros_like(vectors)}, {"": torch.zeros_like(vectors)}
    for step in range(1, protocol.steps + 1):
        gradient = loss.gradient(vectors, pictures)[0] * masks
        if protocol.adam:
            moved, first, second = adam_step({"": vectors}, {"": gradient}, first, second, step, protocol.rate)
            vectors = moved[""] * masks
        else:
            vectors = vectors - protocol.rate * gradient
        if step in removed:
            masks = pruned(loss.network, vectors, masks, removed[step])
            vectors = vectors * masks
    return -10 * (loss.outputs(vectors) - pictures).square().mean((1, 2)).log10(), masks


class Experiments:
    """All methods on all data sets with all seeds. A run is (data set, seed), the seed changing faster."""

    def __init__(
        self,
        size: paper.Size,
        pictures: Pictures,
        seeds: Sequence[int],
        out: Path,
        at_once: int,  # pictures fitted together
        deadline: float,  # of time.monotonic()
    ) -> None:
        self.size, self.options, self.out = size, size.train, out
        self.at_once, self.deadline = at_once, deadline
        self.device = torch_device(self.options.device)
        self.runs = [(data, seed) for data in pictures.train for seed in seeds]
        self.began = time.monotonic()
        height, width = next(iter(pictures.train.values())).shape[1:3]
        self.coordinates = torch.from_numpy(pixel_grid(height, width)).to(self.device)  # (N, 2)
        self.training = self._values(list(pictures.train.values()))  # (all, N, 3)
        chosen = []
        for data, seed in self.runs:
            count = len(pictures.test[data])
            some = min(size.pictures or count, count)
            chosen.append(pictures.test[data][drawn(seed, 0, some, count)])
        self.tests = self._values(chosen)  # (P, N, 3)
        self.run_of = torch.repeat_interleave(torch.arange(len(chosen)), torch.tensor([len(some) for some in chosen]))
        self.schedule = self._schedule(pictures)  # (steps, R, B)
        self.results = out / "paper.csv"
        if not self.results.exists():
            self.results.write_text(",".join(field.name for field in fields(paper.Row)) + "\n", "utf-8")
        self.done = {row.key for row in paper.read_rows(self.results)}

    def run(self, methods: Sequence[str]) -> None:
        """Measure what is not yet. The comparison that matters comes first."""
        if "Meta-SparseINR" in methods:
            self._rounds("Meta-SparseINR", "sparse")
        if "Dense-Narrow" in methods:
            for number in self.size.rounds:
                if self._missing("Dense-Narrow", number):
                    network = self._network(paper.narrow_width(self.options, number))
                    vectors, masks = self._begun(network, f"narrow-{number}")
                    self._measure("Dense-Narrow", number, network, vectors[self.run_of], masks[self.run_of])
        for method in paper.PRUNED_IN_FIT:
            for number in self.size.rounds:
                if method in methods and self._missing(method, number):
                    network = self._network(self.options.hidden)
                    vectors, masks = self._begun(network, "dense")
                    self._measure(method, number, network, vectors[self.run_of], masks[self.run_of])
        if "Scratch" in methods:
            for number in self.size.rounds:
                if self._missing("Scratch", number):
                    network = self._network(paper.narrow_width(self.options, number))
                    vectors = network.pack(list(self._scratch(network))).to(self.device)
                    self._measure("Scratch", number, network, vectors, self._full(network, len(vectors)))
        if "Random Pruning" in methods:
            self._rounds("Random Pruning", "random")

    def _rounds(self, method: str, name: str) -> None:
        """Rounds of pruning and training; each is measured when it is done."""
        if not any(self._missing(method, number) for number in self.size.rounds):
            return
        network, options = self._network(self.options.hidden), self.options
        training = self._training(network, *self._begun(network, "dense"))
        for number in range(1, max(self.size.rounds) + 1):
            training.prune([seed for _, seed in self.runs] if name == "random" else None)
            training.run(options.round_steps, partial(self._report, name, number))
            self._save(network, name, number, training.vectors, training.masks)
            if number in self.size.rounds:
                self._measure(method, number, network, training.vectors[self.run_of], training.masks[self.run_of])

    def _begun(self, network: Network, name: str) -> tuple[Tensor, Tensor]:
        """Vectors and masks (R, D) of a network meta-learned without pruning: those that were kept, or else trained."""
        paths = [self._path(run, name, 0) for run in self.runs]
        if all(path.exists() for path in paths):
            vectors = network.pack([paper._of(read_prior(path))[0] for path in paths]).to(self.device)
            return vectors, self._full(network, len(vectors))
        initial = network.pack([network.init(torch.Generator().manual_seed(seed)) for _, seed in self.runs])
        training = self._training(network, initial.to(self.device), self._full(network, len(initial)))
        training.run(self.options.dense_steps, partial(self._report, name, 0))
        self._save(network, name, 0, training.vectors, training.masks)
        return training.vectors, training.masks

    def _measure(self, method: str, number: int, network: Network, vectors: Tensor, masks: Tensor) -> None:
        """Append the rows of all runs; vectors and masks are (P, D)."""
        loss = Loss(network, self.coordinates)
        for protocol in self._missing(method, number):
            how = self.size.protocols[protocol]
            removed = paper.prunings(method, number, how.steps, self.options.fraction)
            scores, counts = [], []
            weights = network.weights.to(self.device)
            for begin in range(0, len(self.tests), self.at_once):
                part = slice(begin, begin + self.at_once)
                psnr, left = fit(loss, vectors[part], masks[part], self.tests[part], how, removed)
                scores.append(psnr.cpu())
                counts.append((left & weights).sum(1).cpu())
                self._check_time()
            psnr, count = torch.cat(scores), torch.cat(counts)
            for index, (data, seed) in enumerate(self.runs):
                own, alive = psnr[self.run_of == index], int(count[self.run_of == index][0])
                percent = 100 * alive / paper.dense_weights(self.options.hidden, self.options.layers)
                row = paper.Row(
                    data, seed, method, number, network.width, alive, round(percent, 3), protocol, len(own),
                    round(own.double().mean().item(), 3),
                )  # fmt: skip
                if row.key not in self.done:
                    with self.results.open("a", encoding="utf-8", newline="") as file:
                        csv.writer(file, lineterminator="\n").writerow(asdict(row).values())
                    self.done.add(row.key)
                    print(*asdict(row).values(), flush=True)

    def _missing(self, method: str, number: int) -> list[str]:
        """The protocols by which a method is to be measured in a round, and is not in every run."""
        protocols = ["adam"] if method in paper.PRUNED_IN_FIT else list(self.size.protocols)
        return [name for name in protocols if any((*run, method, number, name) not in self.done for run in self.runs)]

    def _scratch(self, network: Network) -> Iterator[Parameters]:
        for index, (_, seed) in enumerate(self.runs):
            generator = torch.Generator().manual_seed(seed)
            for _ in range(int((self.run_of == index).sum())):
                yield network.init(generator)

    def _network(self, width: int) -> Network:
        return Network(width, self.options.inner.omegas)

    def _full(self, network: Network, count: int) -> Tensor:
        """Masks (count, D) under which all survives but the units that were added."""
        ones = {name: torch.ones_like(value) for name, value in network.init(torch.Generator()).items()}
        return network.pack([ones]).bool().expand(count, -1).to(self.device)

    def _training(self, network: Network, vectors: Tensor, masks: Tensor) -> Training:
        loss = Loss(network, self.coordinates)
        return Training(loss, self.options, vectors, masks, self.training, self.schedule)

    def _schedule(self, pictures: Pictures) -> Tensor:
        """Which of all training pictures each outer step takes of each run, as `Dataset.batch` draws them."""
        options = self.options
        steps = max(options.dense_steps, options.rounds * options.round_steps)
        counts = [len(pictures.train[data]) for data, _ in self.runs]
        draws = {
            key: np.stack([drawn(key[0], step, options.batch, key[1]) for step in range(steps)])
            for key in {(seed, count) for (_, seed), count in zip(self.runs, counts, strict=True)}
        }
        sizes = [len(each) for each in pictures.train.values()]
        begins = dict(zip(pictures.train, np.cumsum(sizes) - sizes, strict=True))
        each = [draws[seed, count] + begins[data] for (data, seed), count in zip(self.runs, counts, strict=True)]
        return torch.from_numpy(np.stack(each, axis=1)).to(self.device)

    def _values(self, pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Pictures in -0.5..0.5, (all, N, 3)."""
        return (torch.from_numpy(np.concatenate(pictures)).to(self.device).float() / 255 - 0.5).flatten(1, 2)

    def _save(self, network: Network, name: str, number: int, vectors: Tensor, masks: Tensor) -> None:
        architecture = Architecture(network.omegas)
        left = network.unpack(masks)
        for run, parameters, alive in zip(self.runs, network.unpack(vectors), left, strict=True):
            tensors = {key: value.numpy() for key, value in parameters.items()}
            for key, mask in alive.items():
                if key.endswith("weight"):
                    tensors[key.replace("weight", "mask")] = mask.to(torch.uint8).numpy()
            path = self._path(run, name, number)
            path.parent.mkdir(parents=True, exist_ok=True)
            notes = {"run": asdict(replace(self.options, seed=run[1], hidden=network.width)), "round": number}
            save_prior(path, name, architecture, tensors, notes, overwrite=True)

    def _path(self, run: tuple[str, int], name: str, number: int) -> Path:
        return self.out / "runs" / f"{run[0]}-{run[1]}" / name / f"round-{number}.safetensors"

    def _report(self, name: str, number: int, step: int, psnr: float) -> None:
        seconds = time.monotonic() - self.began
        print(f"{seconds:6.1f} s  {name} round {number} step {step}: {psnr:.2f} dB", flush=True)
        self._check_time()

    def _check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise OutOfTime


def main() -> None:
    """Prepare pictures, or run the experiments."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    first = commands.add_parser("pack", help="pictures at their final size, in one file")
    first.add_argument("data", nargs="+", help=f"NAME=FOLDER; names: {', '.join(paper.SIDES)}")
    first.add_argument("--side", type=int, default=48, help="pixels of a picture's side")
    first.add_argument("--train", type=int, help="training pictures of a data set, at most; default: all")
    first.add_argument("--out", type=Path, required=True)
    second = commands.add_parser("run", help="train and measure", parents=[paper.size_options("gpu")])
    second.add_argument("pictures_file", type=Path, metavar="PICTURES.npz", help="that pack wrote")
    second.add_argument("--methods", nargs="+", choices=paper.METHODS, default=list(paper.METHODS))
    second.add_argument("--at-once", type=int, default=192, help="pictures fitted together; memory is linear in it")
    second.add_argument("--processes", type=int, default=0, help="for a CPU: each of one thread, a run at a time")
    second.add_argument("--minutes", type=float, default=math.inf, help="to stop after")
    second.add_argument("--tf32", action="store_true", help="multiply with 10 bits of mantissa where the GPU can")
    second.add_argument("--smoke", action="store_true", help="a few steps of everything, in a RUN of its own")
    arguments = parser.parse_args()
    if arguments.command == "pack":
        pack(paper.sources(arguments.data), arguments.side, arguments.train, arguments.out)
        return
    deadline = time.monotonic() + 60 * arguments.minutes
    torch.backends.cuda.matmul.allow_tf32 = arguments.tf32
    size = paper.size_of(arguments)
    if arguments.smoke:
        size = replace(size, train=replace(size.train, dense_steps=50, round_steps=10), pictures=4)
    arguments.out.mkdir(parents=True, exist_ok=True)
    pictures = Pictures.read(arguments.pictures_file, size.validation)
    rest = (arguments.methods, arguments.out, arguments.at_once, deadline)
    if not arguments.processes:
        measure(size, pictures, arguments.seeds, *rest)
        return
    with ProcessPoolExecutor(arguments.processes, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        begun = [
            pool.submit(measure, size, pictures.only(data), [seed], *rest)
            for seed, data in product(arguments.seeds, pictures.train)
        ]
        for each in begun:
            each.result()


def measure(
    size: paper.Size,
    pictures: Pictures,
    seeds: Sequence[int],
    methods: Sequence[str],
    out: Path,
    at_once: int,
    deadline: float,
) -> None:
    """What is still to be measured, within the time."""
    with torch.inference_mode():
        try:
            Experiments(size, pictures, seeds, out, at_once, deadline).run(methods)
        except OutOfTime:
            print("out of time; started again, it goes on", flush=True)


if __name__ == "__main__":
    main()
