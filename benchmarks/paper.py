"""The experiments of Meta-SparseINR (Lee, Tack, Lee, Shin, NeurIPS 2021), with this project's own training.

    python benchmarks/glyphs.py glyphs
    python benchmarks/paper.py run imagenette=FOLDER faces=FOLDER glyphs=glyphs --size full --out RUN
    python benchmarks/paper.py show RUN/paper.csv --published POINTS.csv --out benchmarks
    python benchmarks/paper.py paths RUN
    python benchmarks/paper.py settings RUN [RUN ...]

A FOLDER holds the folders train and test. `run` appends a row to RUN/paper.csv as soon as it is measured; started
again, it skips those that are there and goes on with a training run where it was. `--methods`, `--seeds` and `--rounds`
leave out the others. `paper_batched.py` does the same, faster. `show` prints the tables and draws one plot per data
set. `paths RUN` counts how many of the surviving weights are of any use, and `settings` prints the rows of runs with
other settings, and the settings.

Other settings than the size's are tried in a RUN of their own: `--train outer_rate=1e-4 dense_steps=2000` changes
fields of `TrainOptions`, `--side` is of the pictures, `--fit-rate` of the fit's Adam, and `--validation 100` takes that
many training pictures away from training and measures on them: the test pictures stay unseen while settings are chosen.

Each method is measured where it has as many weights as are left after a round of pruning: see `METHODS`. From its
initial parameters every test picture is fitted by one of two protocols: "adam", 100 steps of Adam, or "sgd", the two
steps of the inner loop that it was meta-learned through. The score is the mean PSNR of the pictures, in dB.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vmap

from inrcodec.dataset import Dataset, open_dataset
from inrcodec.errors import OptionError
from inrcodec.fit import torch_device
from inrcodec.grid import pixel_grid
from inrcodec.maml import Parameters, adam_step, picture_loss
from inrcodec.prior import Prior, read_prior
from inrcodec.prune import apply_masks, count_surviving, full_masks, prune, useful
from inrcodec.siren import init_siren
from inrcodec.train import TrainOptions, train

METHODS = {
    "Meta-SparseINR": "meta-learned, then rounds of pruning the smallest weights, with meta-learning after each",
    "Random Pruning": "the same, but any weights are pruned",
    "Dense-Narrow": "a narrower network, meta-learned from scratch like the dense one",
    "MAML+OneShot": "the dense meta-learned network, pruned once, half way through the fit",
    "MAML+IMP": "the same, pruned by 20 % at even intervals during the fit",
    "Scratch": "the narrower network, not meta-learned",
}
PRUNED_IN_FIT = ("MAML+OneShot", "MAML+IMP")  # by Adam only, as published: two steps leave no time for it
SIDES = {"imagenette": (178, 200), "faces": (89, 89), "glyphs": (178, 178)}  # pixels of a crop, of the shorter side


@dataclass(frozen=True)
class Protocol:
    """How a test picture is fitted."""

    adam: bool  # otherwise SGD
    steps: int
    rate: float  # learning rate


@dataclass(frozen=True)
class Size:
    """How large the experiments are."""

    train: TrainOptions  # of the sparse network; its rounds are those that are trained
    rounds: tuple[int, ...]  # that are measured
    side: int | None  # pixels of a picture's side; None: the data set's own
    pictures: int | None  # to measure on, drawn by the seed; None: all
    adam: Protocol
    validation: int = 0  # training pictures set aside, and measured on instead of the test set; 0: none

    @property
    def protocols(self) -> dict[str, Protocol]:
        """Both protocols by name."""
        return {"adam": self.adam, "sgd": Protocol(False, self.train.inner_steps, self.train.inner_rate)}


ADAM = Protocol(True, 100, 1e-4)  # as published
# 67 units, because narrower networks come within 2 % of what those rounds leave. The first omega is as much smaller
# than the published one as the pictures are; the others are not, see PAPER.md.
SMALL = TrainOptions(
    hidden=67,
    omega=60.0,
    hidden_omega=200.0,
    outer_rate=1e-4,
    dense_steps=500,
    rounds=13,
    round_steps=100,
)
SIZES = {
    "small": Size(
        replace(SMALL, threads=1, compile=True, checkpoint_every=200),
        rounds=(4, 8, 11, 13),
        side=48,
        pictures=16,
        adam=ADAM,
    ),
    # For a GPU and `paper_batched.py`: as small, with ten times the steps.
    "gpu": Size(
        replace(SMALL, dense_steps=5000, round_steps=1000),
        rounds=(4, 8, 11, 13),
        side=48,
        pictures=64,
        adam=ADAM,
    ),
    "full": Size(TrainOptions(), rounds=tuple(range(4, 21)), side=None, pictures=None, adam=ADAM),
}


@dataclass(frozen=True)
class Row:
    """One method with one number of weights, fitted by one protocol."""

    data: str
    seed: int
    method: str
    round: int
    width: int  # units of a sine layer
    weights: int  # that survive
    percent: float  # of the dense network's
    protocol: str
    pictures: int
    psnr: float  # dB, mean of the pictures' own

    @property
    def key(self) -> tuple[object, ...]:
        """What is measured, without the result."""
        return self.data, self.seed, self.method, self.round, self.protocol


def dense_weights(width: int, layers: int) -> int:
    """Weights of a SIREN without pruning: 2 inputs, `layers` sine layers of `width` units, 3 outputs."""
    return 2 * width + (layers - 1) * width**2 + 3 * width


def surviving(options: TrainOptions, number: int) -> int:
    """Weights that are left after a round of pruning."""
    left = dense_weights(options.hidden, options.layers)
    for _ in range(number):
        left -= int(left * options.fraction)
    return left


def narrow_width(options: TrainOptions, number: int) -> int:
    """Units of the dense network whose number of weights is closest to what a round leaves."""
    target = surviving(options, number)
    return min(range(1, options.hidden + 1), key=lambda width: abs(dense_weights(width, options.layers) - target))


def prunings(method: str, number: int, steps: int, fraction: float) -> dict[int, float]:
    """Which fraction of the surviving weights is removed after which step of a fit."""
    if method == "MAML+OneShot":
        return {steps // 2: 1 - (1 - fraction) ** number}
    if method == "MAML+IMP":
        return {int(i * steps / (number + 1)): fraction for i in range(1, number + 1)}
    return {}


def gradients(
    parameters: Parameters, masks: Parameters, coordinates: Tensor, pictures: Tensor, omegas: tuple[float, ...]
) -> Parameters:
    """Of the loss of each picture (B, N, 3) in its own parameters; all others are (B, *shape)."""
    each: Parameters = vmap(grad(picture_loss), in_dims=(0, 0, None, 0, None))(
        parameters, masks, coordinates, pictures, omegas
    )
    return each


def fit(
    parameters: Parameters,
    masks: Parameters,
    coordinates: Tensor,
    pictures: Tensor,
    omegas: tuple[float, ...],
    protocol: Protocol,
    removed: Mapping[int, float],
    compiled: bool = False,
) -> tuple[Parameters, Parameters]:
    """Parameters and masks after fitting pictures (B, N, 3), each from its own: all tensors are (B, *shape)."""
    gradient_of = torch.compile(gradients) if compiled else gradients
    first, second = ({name: torch.zeros_like(value) for name, value in parameters.items()} for _ in range(2))
    for step in range(1, protocol.steps + 1):
        gradient = gradient_of(parameters, masks, coordinates, pictures, omegas)
        if protocol.adam:
            parameters, first, second = adam_step(parameters, gradient, first, second, step, protocol.rate)
        else:
            parameters = {name: value - protocol.rate * gradient[name] for name, value in parameters.items()}
        if step in removed:
            each = [prune(_nth(parameters, i), _nth(masks, i), removed[step]) for i in range(len(pictures))]
            masks = _stacked(each)
    return apply_masks(parameters, masks), masks


def _nth(stack: Mapping[str, Tensor], index: int) -> Parameters:
    return {name: value[index] for name, value in stack.items()}


def _stacked(each: Sequence[Mapping[str, Tensor]]) -> Parameters:
    return {name: torch.stack([tensors[name] for tensors in each]) for name in each[0]}


def _of(prior: Prior) -> tuple[Parameters, Parameters]:
    """Parameters and masks of a prior."""
    names = [f"siren.{i}.{part}" for i in range(prior.layers) for part in ("weight", "bias")]
    parameters = {name: torch.tensor(prior.tensors[name]) for name in names}
    return parameters, {f"siren.{i}.weight": torch.tensor(prior.mask(i)) for i in range(prior.layers)}


@dataclass(frozen=True)
class Experiment:
    """All methods on one data set with one seed."""

    data: str
    seed: int
    size: Size
    source: Path  # holds train and test
    runs: Path  # where training runs are kept

    def measure(self, method: str, number: int, protocol: str, at_once: int = 4) -> Row:
        """The score of a method with the weights of a round; trains what it needs."""
        options = self.size.train
        removed = prunings(method, number, self.size.protocols[protocol].steps, options.fraction)
        scores, masks = self._fitted(self._initial(method, number), protocol, removed, at_once)
        width = len(masks["siren.0.weight"])
        weights = sum(int(mask.sum()) for mask in masks.values())
        percent = 100 * weights / dense_weights(options.hidden, options.layers)
        return Row(
            self.data, self.seed, method, number, width, weights, round(percent, 3), protocol, len(scores),
            round(fmean(scores), 3),
        )  # fmt: skip

    def _fitted(
        self,
        each: Sequence[tuple[Parameters, Parameters]],
        protocol: str,
        removed: Mapping[int, float],
        at_once: int = 4,
    ) -> tuple[list[float], Parameters]:
        """The PSNR of every picture in dB, fitted from parameters and masks of its own; the masks of one of them."""
        options = self.size.train
        device = torch_device(options.device)
        tests = (self.test - 0.5).flatten(1, 2)  # (pictures, N, 3)
        coordinates = torch.from_numpy(pixel_grid(*self.test.shape[1:3])).to(device)
        scores: list[float] = []
        for begin in range(0, len(tests), at_once):
            part = slice(begin, begin + at_once)
            pictures = tests[part].to(device)
            parameters = {name: value.to(device) for name, value in _stacked([p for p, _ in each[part]]).items()}
            masks = {name: value.to(device) for name, value in _stacked([m for _, m in each[part]]).items()}
            parameters, masks = fit(
                parameters,
                masks,
                coordinates,
                pictures,
                options.inner.omegas,
                self.size.protocols[protocol],
                removed,
                options.compile,
            )
            losses = vmap(picture_loss, in_dims=(0, 0, None, 0, None))(
                parameters, masks, coordinates, pictures, options.inner.omegas
            )
            scores += (-10 * losses.log10()).tolist()
        return scores, _nth(masks, 0)

    @cached_property
    def test(self) -> Tensor:
        """The pictures that are measured on, (pictures, H, W, 3) in [0, 1]."""
        pictures = self._pictures("validation" if self.size.validation else "test")
        return pictures.batch(self.seed, 0, min(self.size.pictures or len(pictures.names), len(pictures.names)))

    def _pictures(self, part: str) -> Dataset:
        crop, shorter = SIDES[self.data]
        side, aside = self.size.side or crop, self.size.validation
        folder = self.source / ("test" if part == "test" else "train")
        pictures = open_dataset(folder, side, side, resize=round(shorter * side / crop))
        if part != "test" and aside:
            cut = len(pictures.names) - aside
            pictures = replace(pictures, names=pictures.names[cut:] if part == "validation" else pictures.names[:cut])
        return pictures

    def _initial(self, method: str, number: int) -> list[tuple[Parameters, Parameters]]:
        """Parameters and masks from which each of the test pictures is fitted."""
        options = replace(self.size.train, seed=self.seed)
        narrow = narrow_width(options, number)
        if method == "Scratch":
            generator = torch.Generator().manual_seed(self.seed)
            shape = 2, (narrow,) * options.layers, 3, options.inner.omegas
            draws = [init_siren(*shape, generator) for _ in self.test]
            return [(parameters, full_masks(parameters)) for parameters in draws]
        if method == "Dense-Narrow":
            prior = self._trained(f"narrow-{number}", replace(options, hidden=narrow, rounds=0))
        else:
            prior = self._trained("dense", replace(options, rounds=0))
            if method not in PRUNED_IN_FIT:
                name = "random" if method == "Random Pruning" else "sparse"
                self._trained(name, replace(options, dense_steps=0, random_pruning=name == "random"), prior)
                prior = read_prior(self._folder(name) / f"round-{number}.safetensors")
        return [_of(prior)] * len(self.test)

    def _trained(self, name: str, options: TrainOptions, start: Prior | None = None) -> Prior:
        prior = train(options, self._pictures("train"), self._folder(name), name=name, start=start)
        assert prior is not None, "one process trains here"
        return prior

    def _folder(self, name: str) -> Path:
        return self.runs / f"{self.data}-{self.seed}" / name


def run(folders: Mapping[str, Path], size: Size, out: Path, seeds: Sequence[int], methods: Sequence[str]) -> None:
    """Append the rows that are not in `out / "paper.csv"` yet, all data sets of a seed before the next seed."""
    out.mkdir(parents=True, exist_ok=True)
    results = out / "paper.csv"
    if not results.exists():
        results.write_text(",".join(field.name for field in fields(Row)) + "\n", "utf-8")
    done = {row.key for row in read_rows(results)}
    for seed in seeds:
        for data, source in folders.items():
            experiment = Experiment(data, seed, size, source, out / "runs")
            for method in methods:
                for number in size.rounds:
                    for protocol in size.protocols:
                        if protocol == "sgd" and method in PRUNED_IN_FIT:
                            continue
                        if (data, seed, method, number, protocol) in done:
                            continue
                        row = experiment.measure(method, number, protocol)
                        with results.open("a", encoding="utf-8", newline="") as file:
                            csv.writer(file, lineterminator="\n").writerow(asdict(row).values())
                        print(*asdict(row).values(), flush=True)


def paths(runs: Path) -> None:
    """Print a line per round of every sparse network in a folder of training runs."""
    print("| run | round | weights | on a path | of each layer |\n" + "|---" * 5 + "|")
    for folder in sorted(path.parent for path in runs.glob("*/sparse/round-1.safetensors")):
        for number in range(1, len(list(folder.glob("round-*.safetensors"))) + 1):
            prior = read_prior(folder / f"round-{number}.safetensors")
            masks = _of(prior)[1]
            alive, of_use = count_surviving(masks)[0], [int(mask.sum()) for mask in useful(masks).values()]
            each = " + ".join(map(str, of_use))
            print(f"| {folder.parent.name} | {number} | {alive} | {sum(of_use)} | {each} |")


SETTINGS = ("omega", "hidden_omega", "outer_rate", "dense_steps", "round_steps")  # that `settings` prints


def settings(runs: Sequence[Path]) -> None:
    """Print a line of CSV per score of Meta-SparseINR and Dense-Narrow in some runs, with what they were trained by."""
    print(*SETTINGS, *(field.name for field in fields(Row)), sep=",")
    for out in runs:
        for row in read_rows(out / "paper.csv"):
            folder = {"Meta-SparseINR": "dense", "Dense-Narrow": f"narrow-{row.round}"}.get(row.method)
            if folder:
                prior = read_prior(out / "runs" / f"{row.data}-{row.seed}" / folder / "round-0.safetensors")
                print(*(prior.notes["run"][name] for name in SETTINGS), *asdict(row).values(), sep=",")


def read_rows(path: Path) -> list[Row]:
    """The rows of a file that `run` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Row(
                data=row["data"],
                seed=int(row["seed"]),
                method=row["method"],
                round=int(row["round"]),
                width=int(row["width"]),
                weights=int(row["weights"]),
                percent=float(row["percent"]),
                protocol=row["protocol"],
                pictures=int(row["pictures"]),
                psnr=float(row["psnr"]),
            )
            for row in csv.DictReader(file)
        ]


def table(rows: Sequence[Row], data: str, protocol: str) -> str:
    """Mean PSNR over the seeds and its standard deviation, in Markdown: a line per method, a column per round."""
    chosen = [row for row in rows if (row.data, row.protocol) == (data, protocol)]
    numbers = sorted({row.round for row in chosen})
    left = {row.round: row.percent for row in chosen if row.method == "Meta-SparseINR"}
    lines = [
        "| surviving weights |" + "".join(f" {left[number]:.1f} % |" for number in numbers),
        "|---" * (len(numbers) + 1) + "|",
    ]
    for method in METHODS:
        cells = [[row.psnr for row in chosen if (row.method, row.round) == (method, number)] for number in numbers]
        if any(cells):
            lines.append(f"| {method} |" + "".join(f" {_spread(cell)} |" for cell in cells))
    margins = [margin(chosen, number) for number in numbers]
    return "\n".join([*lines, "| *least margin* |" + "".join(f" *{value:+.2f}* |" for value in margins)])


def _spread(scores: Sequence[float]) -> str:
    if not scores:
        return ""
    return f"{fmean(scores):.2f}" + (f" ± {stdev(scores):.2f}" if len(scores) > 1 else "")


def margin(rows: Sequence[Row], number: int) -> float:
    """By how many dB Meta-SparseINR is above the best other method in a round, in the seed where it is least."""
    seeds = {row.seed for row in rows if row.round == number}
    margins = []
    for seed in seeds:
        scores = {row.method: row.psnr for row in rows if (row.seed, row.round) == (seed, number)}
        margins.append(scores.pop("Meta-SparseINR") - max(scores.values()))
    return min(margins)


def comparison(rows: Sequence[Row], protocol: str, most: float = 20.0) -> str:
    """Meta-SparseINR against each other method at or below `most` percent of the weights, in Markdown.

    A column per seed: the mean difference in dB, and in how many of the comparisons it is above.
    """
    chosen = [row for row in rows if row.protocol == protocol and row.percent <= most]
    sparse = {(row.data, row.seed, row.round): row.psnr for row in chosen if row.method == "Meta-SparseINR"}
    seeds = sorted({row.seed for row in chosen})
    lines = [
        "| above | on |" + "".join(f" seed {seed} |" for seed in seeds) + " in all |",
        "|---" * (len(seeds) + 3) + "|",
    ]
    for method in METHODS:
        for data in dict.fromkeys(row.data for row in chosen):
            same = [row for row in chosen if (row.method, row.data) == (method, data) and method != "Meta-SparseINR"]
            ahead = {
                seed: [sparse[data, seed, row.round] - row.psnr for row in same if row.seed == seed] for seed in seeds
            }
            cells = "".join(f" {_ahead(differences)} |" for differences in ahead.values())
            if same:
                lines.append(
                    f"| {method} | {data} |{cells} {_ahead([one for each in ahead.values() for one in each])} |"
                )
    return "\n".join(lines)


def _ahead(differences: Sequence[float]) -> str:
    if not differences:
        return ""
    return f"{fmean(differences):+.2f} ({sum(one > 0 for one in differences)} of {len(differences)})"


def read_published(path: Path) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """Points (percent of the dense network's weights, dB) of each (data set, method) in the paper's figure."""
    names = {"Imagenette": "imagenette", "CelebA": "faces", "SDF": "glyphs"}
    curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            score = next(value for name, value in row.items() if name.startswith("psnr"))
            if score:
                point = float(row["pct_of_dense"]), float(score)
                curves.setdefault((names[row["dataset"]], row["method"]), []).append(point)
    return curves


def plot(rows: Sequence[Row], data: str, path: Path, published: Mapping[Any, list[tuple[float, float]]]) -> None:
    """Both protocols of one data set side by side, the published points of Adam dashed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), sharex=True, layout="constrained")
    for axis, protocol in zip(axes, ("adam", "sgd"), strict=True):
        for colour, method in enumerate(METHODS):
            chosen = [row for row in rows if (row.data, row.method, row.protocol) == (data, method, protocol)]
            points = []
            for number in sorted({row.round for row in chosen}):
                same = [row for row in chosen if row.round == number]
                scores = [row.psnr for row in same]
                points.append((same[0].percent, fmean(scores), stdev(scores) if len(scores) > 1 else 0.0))
            if points:
                x, y, spread = zip(*points, strict=True)
                axis.errorbar(x, y, spread, color=f"C{colour}", marker="o", capsize=3, label=method)
            if protocol == "adam" and (data, method) in published:
                x, y = zip(*published[data, method], strict=True)
                axis.plot(x, y, color=f"C{colour}", linestyle="--", alpha=0.5)
        axis.set_xscale("log")
        axis.set_xticks(ticks := (1, 2, 5, 10, 20, 40), ticks)
        axis.minorticks_off()
        axis.set_xlabel("surviving weights (%)")
        axis.set_ylabel("PSNR (dB)")
        axis.set_title(f"{data}: {'100 steps of Adam' if protocol == 'adam' else '2 steps of SGD'}")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def show(results: Path, published: Path | None, out: Path) -> None:
    """Print the tables and draw the plots."""
    rows = read_rows(results)
    curves = read_published(published) if published else {}
    for data in dict.fromkeys(row.data for row in rows):
        for protocol in ("adam", "sgd"):
            print(f"\n{data}, {protocol}\n\n{table(rows, data, protocol)}")
        plot(rows, data, out / f"paper-{data}.png", curves)
    for protocol in ("adam", "sgd"):
        print(f"\nMeta-SparseINR minus the others, {protocol}\n\n{comparison(rows, protocol)}")


def main() -> None:
    """Run the experiments, or show what they gave."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    options = size_options("small")
    options.add_argument("data", nargs="+", help=f"NAME=FOLDER; names: {', '.join(SIDES)}")
    options.add_argument("--side", type=int, help="pixels of a picture's side")
    first = commands.add_parser("run", help="train and measure", parents=[options])
    first.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    third = commands.add_parser("paths", help="weights of the sparse networks that are of any use")
    third.add_argument("run", type=Path, help="RUN of the command run")
    fourth = commands.add_parser("settings", help="rows of runs with other settings")
    fourth.add_argument("runs", type=Path, nargs="+", help="RUN of the command run")
    second = commands.add_parser("show", help="print tables, draw plots")
    second.add_argument("results", type=Path)
    second.add_argument("--published", type=Path, help="CSV with the points of the paper's figure")
    second.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.command == "show":
        show(arguments.results, arguments.published, arguments.out)
        return
    if arguments.command == "paths":
        paths(arguments.run / "runs")
        return
    if arguments.command == "settings":
        settings(arguments.runs)
        return
    folders, size = sources(arguments.data), size_of(arguments)
    size = replace(size, side=arguments.side or size.side)
    run(folders, size, arguments.out, arguments.seeds, arguments.methods)


def sources(words: Sequence[str]) -> dict[str, Path]:
    """The data sets on the command line."""
    folders = dict(word.split("=", 1) for word in words if "=" in word)
    if len(folders) < len(words) or not folders.keys() <= SIDES.keys():
        raise OptionError(f"expected NAME=FOLDER with {', '.join(SIDES)}, found {' '.join(words)}")
    return {name: Path(folder) for name, folder in folders.items()}


def size_options(default: str) -> argparse.ArgumentParser:
    """The options that `size_of` reads, and where results go and which seeds they have."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--size", choices=SIZES, default=default)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--rounds", type=int, nargs="+", help="those of the size that are measured; default: all")
    options.add_argument("--pictures", type=int, help="to measure on, drawn by the seed")
    options.add_argument("--train", nargs="+", default=[], metavar="OPTION=NUMBER", help="other TrainOptions")
    options.add_argument("--fit-rate", type=float, help="of the fit's Adam")
    options.add_argument("--validation", type=int, default=0, help="training pictures to set aside and measure on")
    return options


def size_of(arguments: argparse.Namespace) -> Size:
    """The size of that name, with what the command line changes."""
    size = SIZES[arguments.size]
    kinds: dict[str, Callable[[str], float]] = {
        "int": int, "float": float, "float | None": float, "bool": lambda word: bool(int(word))
    }  # fmt: skip
    numbers = {field.name: kinds[str(field.type)] for field in fields(TrainOptions) if field.type in kinds}
    changes: dict[str, Any] = {}
    for word in arguments.train:
        name, _, value = word.partition("=")
        if name not in numbers:
            raise OptionError(f"expected OPTION=NUMBER with {', '.join(numbers)}, found {word}")
        changes[name] = numbers[name](value)
    return replace(
        size,
        train=replace(size.train, **changes),
        rounds=tuple(arguments.rounds or size.rounds),
        pictures=arguments.pictures or size.pictures,
        adam=replace(size.adam, rate=arguments.fit_rate or size.adam.rate),
        validation=arguments.validation,
    )


if __name__ == "__main__":
    main()
