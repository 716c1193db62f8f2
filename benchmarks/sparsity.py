"""The network behind the fields: pruned from a wider one, or dense from the start, at equal numbers of weights.

    python benchmarks/sparsity.py photos/ --csv sparsity.csv [--trained --rate 5e-4]

Crops are fitted with the bundled prior. At their rounded fields, networks with filters are trained from nothing: a wide
one, which is then pruned by magnitude in rounds, as Meta-SparseINR does, and a narrow one, for as many steps in
all. What counts is J per pixel of other crops after fits of their own with each network, values rounded.

With `--trained`, both begin as the bundled network, the wide one with further units that have no say at first: which is
better where it is used is seen then.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from fitting import crops
from torch import Tensor

from inrcodec import fit
from inrcodec.analysis import analyse
from inrcodec.objective import objective
from inrcodec.options import conditioning, lagrangian, quality_index
from inrcodec.prior import find_prior
from inrcodec.prune import apply_masks, count_surviving, full_masks, prune
from inrcodec.siren import init_siren
from inrcodec.synthesis import init_filter, synthesize
from inrcodec.tile import FieldModel

FRACTION = 0.2  # of the surviving weights, removed before each round but the last, which removes what is left to remove
BATCH = 2  # crops


@dataclass(frozen=True, eq=False)
class Given:
    """A crop (1, 3, H, W) with a quality and the rounded fields of its fit."""

    target: Tensor
    index: int
    fields: list[Tensor]

    @property
    def q(self) -> Tensor:
        """The conditioning, (1, 1)."""
        return torch.full((1, 1), conditioning(self.index))


def fitted(model: FieldModel, target: Tensor, index: int, steps: int) -> Given:
    """A crop after a fit."""
    q = torch.full((1, 1), conditioning(index))
    with torch.no_grad():
        fields = analyse(model.weights, target, q, model.channels, model.omegas)
    aim, generator = fit.Aim(model, target, q, lagrangian(index)), torch.Generator().manual_seed(index)
    (fields,) = fit.refine([aim], [fields], steps, [generator])
    return Given(target, index, [z.round() for z in fields])


def cost(model: FieldModel, given: Given) -> float:
    """J per pixel."""
    return (
        float(objective(model, given.fields, given.target, given.q, lagrangian(given.index))[0])
        / given.target[0, 0].numel()
    )


@dataclass(eq=False)
class Student:
    """A network with a filter that learns at given fields."""

    model: FieldModel  # whatever does not learn
    learnt: dict[str, Tensor]
    masks: dict[str, Tensor]
    rate: float  # of Adam, first step; falls along a line to a twentieth

    @classmethod
    def new(cls, model: FieldModel, widths: Sequence[int], seed: int, rate: float) -> Student:
        """With random weights."""
        generator = torch.Generator().manual_seed(seed)
        weights = init_siren(sum(model.channels) + 2, widths, 3, model.omegas, generator)
        masks = full_masks(weights)
        features, seen = model.weights["filter.in"].shape[:2]
        weights |= init_filter("filter", seen, features, generator)
        return cls(model, weights | {"skip.weight": model.weights["skip.weight"].clone()}, masks, rate)

    @classmethod
    def grown(cls, model: FieldModel, widths: Sequence[int], seed: int, rate: float) -> Student:
        """The model's own network, and as many units more as are missing, of which its own see nothing yet."""
        student = cls.new(model, widths, seed, rate)
        for name, weights in student.learnt.items():
            own = model.weights[name]
            if name.startswith("siren.") and own.ndim == 2:
                weights[: len(own), own.shape[1] :] = 0
            weights[tuple(map(slice, own.shape))] = own
        return student

    def pruned_to(self, count: int) -> None:
        """Remove a fraction of the surviving weights, or fewer if so many are to survive."""
        own = {name: self.learnt[name] for name in self.masks}
        now = count_surviving(self.masks)[0]
        self.masks = prune(own, self.masks, max(min(FRACTION, 1 - count / now), 0))

    def train(self, data: Sequence[Given], steps: int, generator: torch.Generator) -> None:
        """Adam on the error at the fields, weighted so that qualities count about equally, as in `train_fields`."""
        leaves = {name: value.clone().requires_grad_() for name, value in apply_masks(self.learnt, self.masks).items()}
        adam = torch.optim.Adam(leaves.values(), self.rate)
        for step in range(steps):
            adam.param_groups[0]["lr"] = self.rate * (1 - 0.95 * step / steps)
            weights: Mapping[str, Tensor] = self.model.weights | apply_masks(leaves, self.masks)
            loss = torch.zeros(())
            for at in torch.randint(len(data), (BATCH,), generator=generator).tolist():
                given = data[at]
                error = (synthesize(weights, given.fields, given.q, self.model.omegas) - given.target).square().mean()
                loss = loss + error / lagrangian(given.index) ** 0.5
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
        self.learnt = {name: leaf.detach() for name, leaf in leaves.items()}

    def done(self) -> FieldModel:
        """The model with what has been learnt."""
        return replace(self.model, weights=self.model.weights | apply_masks(self.learnt, self.masks))


def main() -> None:
    """Print a line per network and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--crops", type=int, default=48, help="to learn from")
    parser.add_argument("--others", type=int, default=8, help="crops to measure on")
    parser.add_argument("--side", type=int, default=128, help="pixels")
    parser.add_argument("--qualities", type=float, nargs="+", default=[15, 60], help="to measure at")
    parser.add_argument("--fit", type=int, default=60, help="steps of the fits")
    parser.add_argument("--steps", type=int, default=2000, help="of training")
    parser.add_argument("--narrow", type=int, nargs=2, default=[32, 32])
    parser.add_argument("--wide", type=int, nargs=2, default=[64, 64])
    parser.add_argument("--rate", type=float, default=2e-3, help="of Adam, first step")
    parser.add_argument("--trained", action="store_true", help="begin with the bundled network")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--csv", type=Path, help="file to write the rows to, too")
    arguments = parser.parse_args()
    model = FieldModel.of(find_prior("photo"), torch.device("cpu"))
    pictures = [
        torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255 - 0.5
        for pixels in crops(arguments.folder, arguments.crops + arguments.others, arguments.side, 0)
    ]
    rng = np.random.default_rng(0)
    learnt, others = pictures[arguments.others :], pictures[: arguments.others]
    data = [fitted(model, target, int(rng.integers(256)), arguments.fit) for target in learnt]
    indices = [quality_index(quality) for quality in arguments.qualities]
    rows: list[tuple[object, ...]] = []

    def measure(name: str, seed: int, found: FieldModel, surviving: int) -> None:
        costs = [np.mean([cost(found, fitted(found, t, i, arguments.fit)) for t in others]) for i in indices]
        rows.append((name, seed, surviving, *(f"{value:.4f}" for value in costs)))
        print("".join(f"{value!s:>24}" for value in rows[-1]), flush=True)

    print(
        "".join(
            f"{value!s:>24}" for value in ("network", "seed", "weights", *(f"J, Q{q:g}" for q in arguments.qualities))
        )
    )
    begin = Student.grown if arguments.trained else Student.new
    if arguments.trained:
        own = {name: part for name, part in model.weights.items() if name.startswith("siren.")}
        measure("bundled", 0, model, count_surviving(full_masks(own))[0])
    for seed in arguments.seeds:
        narrow = begin(model, arguments.narrow, seed, arguments.rate)
        count = count_surviving(narrow.masks)[0]
        narrow.train(data, arguments.steps, torch.Generator().manual_seed(seed))
        measure("dense, narrow", seed, narrow.done(), count)
        wide, generator = begin(model, arguments.wide, seed, arguments.rate), torch.Generator().manual_seed(seed)
        wide.train(data, arguments.steps // 2, generator)
        measure("dense, wide", seed, wide.done(), count_surviving(wide.masks)[0])
        rounds = int(np.ceil(np.log(count / count_surviving(wide.masks)[0]) / np.log(1 - FRACTION)))
        for _ in range(rounds):
            wide.pruned_to(count)
            wide.train(data, arguments.steps // 2 // rounds, generator)
        measure("pruned from wide", seed, wide.done(), count_surviving(wide.masks)[0])
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            csv.writer(file).writerows(
                [("network", "seed", "weights", *(f"J_Q{q:g}" for q in arguments.qualities)), *rows]
            )


if __name__ == "__main__":
    main()
