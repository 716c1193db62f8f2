"""What holds Meta-SparseINR back in the small experiments: trials of a minute or two each.

    python benchmarks/paper.py run imagenette=FOLDER --size small --seeds 1 --rounds 8 --validation 100 --out RUN \\
        --methods Meta-SparseINR Dense-Narrow
    python benchmarks/paper_trials.py FOLDER RUN/runs/imagenette-1 > paper-trials.csv

The networks of a run are meta-learned longer, at another outer rate, or pruned otherwise from round 8 on. To be quick,
pictures are 32 x 32: 400 to learn from and 8 others to measure on. All are training pictures, most of which the run has
seen.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from paper import ADAM, SIDES, SIZES, Protocol, fit
from torch import Tensor
from torch.func import vmap

from inrcodec.dataset import open_dataset
from inrcodec.grid import pixel_grid
from inrcodec.maml import Parameters, adam_step, meta_gradient, picture_loss
from inrcodec.prior import read_prior
from inrcodec.prune import apply_masks, count_surviving, full_masks, prune, prune_useless_first, useful
from inrcodec.siren import init_siren

OPTIONS = SIZES["small"].train
OMEGAS = OPTIONS.inner.omegas
SIDE, LEARNT, MEASURED = 32, 400, 8


class Network:
    """Parameters and masks with the state of Adam, and how to go on."""

    def __init__(self, name: str, parameters: Parameters, masks: Parameters, pictures: Tensor, seed: int) -> None:
        self.name, self.parameters, self.masks, self.pictures, self.seed = name, parameters, masks, pictures, seed
        self.first, self.second = ({key: torch.zeros_like(p) for key, p in parameters.items()} for _ in range(2))
        self.grid, self.steps = torch.from_numpy(pixel_grid(SIDE, SIDE)), 0

    def prune(self, how: object) -> None:
        """Remove a fifth of the weights."""
        remove = prune_useless_first if how == "useless first" else prune
        self.masks = remove(self.parameters, self.masks, OPTIONS.fraction)
        self.parameters, self.first, self.second = (
            apply_masks(tensors, self.masks) for tensors in (self.parameters, self.first, self.second)
        )

    def learn(self, steps: int, rate: float = OPTIONS.outer_rate) -> None:
        """Outer steps of meta-learning."""
        draw = np.random.default_rng(self.seed + 1000 * self.steps)
        for _ in range(steps):
            batch = self.pictures[MEASURED:][draw.choice(LEARNT, OPTIONS.batch, replace=False)]
            gradient, _ = meta_gradient(self.parameters, self.masks, self.grid, batch, OPTIONS.inner)
            mean = {key: value / OPTIONS.batch for key, value in gradient.items()}
            self.steps += 1
            self.parameters, self.first, self.second = adam_step(
                self.parameters, mean, self.first, self.second, self.steps, rate
            )

    def report(self, trial: str) -> None:
        """A line of CSV: after which further steps, and the PSNR in dB by both protocols."""
        pictures = self.pictures[:MEASURED]
        parameters, masks = (
            {key: value.expand(MEASURED, *value.shape) for key, value in tensors.items()}
            for tensors in (self.parameters, self.masks)
        )
        scores = []
        for protocol in (ADAM, Protocol(False, OPTIONS.inner_steps, OPTIONS.inner_rate)):
            fitted = fit(parameters, masks, self.grid, pictures, OMEGAS, protocol, {})
            losses = vmap(picture_loss, in_dims=(0, 0, None, 0, None))(*fitted, self.grid, pictures, OMEGAS)
            scores.append(f"{fmean((-10 * losses.log10()).tolist()):.2f}")
        counts = count_surviving(self.masks)[0], count_surviving(useful(self.masks))[0]
        print(trial, self.name, *counts, self.steps, *scores, sep=",", flush=True)


def main() -> None:
    """All trials."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("data", type=Path, help="Imagenette: a folder that holds train")
    parser.add_argument("run", type=Path, help="holds the folders narrow-8 and sparse")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    crop, shorter = SIDES["imagenette"]
    files = open_dataset(arguments.data / "train", SIDE, SIDE, resize=round(shorter * SIDE / crop))
    chosen = np.random.default_rng(7).permutation(len(files.names))[: MEASURED + LEARNT]
    alone = [replace(files, names=(files.names[index],)) for index in chosen]
    pictures = torch.cat([data.batch(0, 0, 1) for data in alone]).flatten(1, 2) - 0.5  # (408, N, 3)

    def trained(name: str, path: str, seed: int) -> Network:
        prior = read_prior(arguments.run / path)
        parameters = {key: torch.tensor(value) for key, value in prior.tensors.items() if not key.endswith("mask")}
        masks = {f"siren.{i}.weight": torch.tensor(prior.mask(i)) for i in range(prior.layers)}
        return Network(name, parameters, masks, pictures, seed)

    print("trial,network,weights,useful,steps,adam,sgd")
    for name, path in (
        ("narrow 27", "narrow-8/round-0"),
        ("sparse 8", "sparse/round-8"),
        ("sparse 13", "sparse/round-13"),
    ):
        network = trained(name, f"{path}.safetensors", 5)
        network.report("longer")
        for steps in (150, 250):
            network.learn(steps)
            network.report("longer")
    drawn = init_siren(2, (15,) * OPTIONS.layers, 3, OMEGAS, torch.Generator().manual_seed(1))
    network = Network("narrow 15", drawn, full_masks(drawn), pictures, 1)
    for steps in (500, 400):
        network.learn(steps)
        network.report("longer")
    for name, path in (("narrow 27", "narrow-8/round-0"), ("sparse 8", "sparse/round-8")):
        network = trained(name, f"{path}.safetensors", 5)
        network.learn(200, 1e-4)
        network.report("rate 1e-4")
    for how in ("smallest", "useless first"):
        network = trained("sparse 8", "sparse/round-8.safetensors", 9)
        for number in range(9, OPTIONS.rounds + 1):
            network.prune(how)
            network.learn(OPTIONS.round_steps)
            network.name = f"sparse {number}"
            if number % 2:
                network.report(how)


if __name__ == "__main__":
    main()
