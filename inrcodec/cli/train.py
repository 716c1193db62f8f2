"""`train-prior` and `train-fields`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inrcodec.cli.app import (
    DeviceOption,
    ForceOption,
    JsonOption,
    QuietOption,
    Reporter,
    VerboseOption,
    app,
    console,
    progress_bar,
)
from inrcodec.options import Device

if TYPE_CHECKING:
    from inrcodec.prior import Prior
    from inrcodec.train import Progress as TrainingProgress


@app.command(
    "train-prior",
    epilog="Example:  inrcodec train-prior photos/ -o mine.safetensors --hidden 96 --omega 60 --size 64",
)
def train_prior(
    dataset: Annotated[Path, typer.Argument(help="Folder of pictures, searched recursively.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The prior to write.")] = Path("prior.safetensors"),
    folder: Annotated[
        Path | None,
        typer.Option("--run", help="Folder of checkpoint, log and each round's prior. Default: OUTPUT.run"),
    ] = None,
    size: Annotated[int, typer.Option(help="Side of the training crops, in pixels.")] = 178,
    resize: Annotated[int, typer.Option(help="Shorter side before cropping; 0 keeps the picture's own.")] = 200,
    random_crops: Annotated[bool, typer.Option("--random-crops/--centre-crops", help="Where crops are taken.")] = False,
    hidden: Annotated[int, typer.Option(help="Units per sine layer.")] = 256,
    layers: Annotated[int, typer.Option(help="Sine layers.")] = 4,
    omega: Annotated[float, typer.Option(help="Frequency factor of the first sine layer.")] = 200.0,
    hidden_omega: Annotated[float | None, typer.Option(help="Of the others. Default: the same.")] = None,
    inner_steps: Annotated[int, typer.Option(help="SGD steps from the prior to a picture.")] = 2,
    inner_rate: Annotated[float, typer.Option(help="Learning rate of those.")] = 1e-2,
    outer_rate: Annotated[float, typer.Option(help="Learning rate of Adam.")] = 1e-5,
    batch: Annotated[int, typer.Option(help="Pictures per outer step.")] = 3,
    dense_steps: Annotated[int, typer.Option(help="Outer steps before the first pruning.")] = 150_000,
    rounds: Annotated[int, typer.Option(help="Rounds of pruning.")] = 20,
    round_steps: Annotated[int, typer.Option(help="Outer steps after each pruning.")] = 30_000,
    fraction: Annotated[float, typer.Option(help="Of the surviving weights, pruned per round.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Of initial weights and batches.")] = 0,
    device: DeviceOption = Device.AUTO,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: all.")] = 0,
    force: ForceOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a sparse prior on a folder of pictures (Meta-SparseINR); run it again to go on after an interruption."""
    from inrcodec.image import check_output, write_atomically

    check_output(output, overwrite=force)
    from inrcodec.dataset import Crop, open_dataset
    from inrcodec.processes import processes
    from inrcodec.train import TrainOptions, train

    options = TrainOptions(
        hidden=hidden, layers=layers, omega=omega, hidden_omega=hidden_omega, inner_steps=inner_steps,
        inner_rate=inner_rate, outer_rate=outer_rate, batch=batch, dense_steps=dense_steps, rounds=rounds,
        round_steps=round_steps, fraction=fraction, seed=seed, device=device, threads=threads,
    )  # fmt: skip
    crops = open_dataset(dataset, size, size, resize=resize, crop=Crop.RANDOM if random_crops else Crop.CENTRE)
    run = folder or output.with_suffix(".run")

    notes = {"pictures": len(crops.names)}
    report = Reporter(as_json, quiet, verbose)
    with progress_bar("training", report.shows_progress) as bar, processes(options.device):
        prior = train(options, crops, run, name=output.stem, notes=notes, progress=_progress(bar, report))
    if prior is not None:  # the first of several processes
        write_atomically(output, prior.data, overwrite=force)
        _say_prior(report, output, prior, run, f"{len(crops.names)} pictures, {options}")


@app.command(
    "train-fields", epilog="Example:  inrcodec train-fields photos/ -o mine.safetensors --start photo --fit-steps 500"
)
def train_fields(
    dataset: Annotated[Path, typer.Argument(help="Folder of pictures, searched recursively.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The prior to write.")] = Path("fields.safetensors"),
    folder: Annotated[
        Path | None, typer.Option("--run", help="Folder of checkpoint and log. Default: OUTPUT.run")
    ] = None,
    start: Annotated[str | None, typer.Option(help="Prior to begin with; default: random weights.")] = None,
    size: Annotated[int, typer.Option(help="Side of the training crops, in pixels.")] = 128,
    batch: Annotated[int, typer.Option(help="Pictures per step.")] = 8,
    guess_steps: Annotated[int, typer.Option(help="Steps that train everything through the first guess.")] = 8000,
    fit_steps: Annotated[int, typer.Option(help="Steps that train network and rate model at fitted fields.")] = 6000,
    decoder_steps: Annotated[int, typer.Option(help="Steps that train all that decodes at given fits.")] = 4000,
    decoder_rounds: Annotated[int, typer.Option(help="Sets of fits that these take, one after the other.")] = 2,
    decoder_batches: Annotated[int, typer.Option(help="Batches that are fitted for each set.")] = 24,
    coarse_steps: Annotated[
        int, typer.Option(help="Steps that train the rate of coarse levels alone, at last; for a large --size.")
    ] = 0,
    coarse_batches: Annotated[int, typer.Option(help="Batches that are guessed for them.")] = 50,
    schedule_steps: Annotated[
        int, typer.Option(help="Steps that train the fit's step sizes and temperatures, after all others.")
    ] = 0,
    schedule_rate: Annotated[float, typer.Option(help="Learning rate of these.")] = 0.02,
    analysis_steps: Annotated[int, typer.Option(help="Steps that train the first guess alone, then.")] = 0,
    detail_steps: Annotated[int, typer.Option(help="Steps that train what is decoded between pixels, at the end.")] = 0,
    detail_batches: Annotated[int, typer.Option(help="Batches that are fitted for them.")] = 100,
    detail_layers: Annotated[int, typer.Option(help="Layers in between, of the filter for these, at least.")] = 4,
    post_steps: Annotated[int, typer.Option(help="Steps that train the post-filter, after all others.")] = 0,
    post_batches: Annotated[int, typer.Option(help="Batches that are fitted for them.")] = 100,
    deltas_steps: Annotated[
        int, typer.Option(help="Batches that tell what pictures change in the prior, at last.")
    ] = 0,
    schedule: Annotated[
        tuple[float, float, float, float] | None,
        typer.Option(help="First and last step size of the fit, first and last temperature.", metavar="A B C D"),
    ] = None,
    fit_length: Annotated[int, typer.Option(help="Steps that a batch is fitted.")] = 40,
    slots: Annotated[int, typer.Option(help="Batches that are fitted in turn.")] = 8,
    guess_rate: Annotated[float, typer.Option(help="Learning rate of the guess steps.")] = 4e-3,
    fit_rate: Annotated[float, typer.Option(help="Learning rate of the fit steps.")] = 2e-4,
    decoder_rate: Annotated[float, typer.Option(help="Learning rate of the decoder steps.")] = 3e-4,
    seed: Annotated[int, typer.Option(help="Of initial weights and batches.")] = 0,
    device: DeviceOption = Device.AUTO,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: all.")] = 0,
    force: ForceOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a prior with lattice fields, as the default prior has them; run it again to go on after an interruption."""
    from inrcodec.image import check_output, write_atomically
    from inrcodec.prior import find_prior

    check_output(output, overwrite=force)
    first = find_prior(start) if start else None
    from inrcodec.dataset import Crop, open_dataset
    from inrcodec.processes import processes
    from inrcodec.train_fields import FieldOptions
    from inrcodec.train_fields import train_fields as train

    options = FieldOptions(
        batch=batch, guess_steps=guess_steps, fit_steps=fit_steps, decoder_steps=decoder_steps,
        decoder_rounds=decoder_rounds, decoder_batches=decoder_batches, coarse_steps=coarse_steps,
        coarse_batches=coarse_batches, schedule_steps=schedule_steps, analysis_steps=analysis_steps,
        detail_steps=detail_steps, detail_batches=detail_batches, detail_layers=detail_layers, post_steps=post_steps,
        post_batches=post_batches, deltas_steps=deltas_steps, fit_length=fit_length, schedule=schedule, slots=slots,
        guess_rate=guess_rate, fit_rate=fit_rate, decoder_rate=decoder_rate, schedule_rate=schedule_rate, seed=seed,
        device=device, threads=threads,
    )  # fmt: skip
    crops = open_dataset(dataset, size, size, crop=Crop.RANDOM)
    run = folder or output.with_suffix(".run")
    notes = {"pictures": len(crops.names)}
    report = Reporter(as_json, quiet, verbose)
    with progress_bar("training", report.shows_progress) as bar, processes(options.device):
        prior = train(options, crops, run, name=output.stem, start=first, notes=notes, progress=_progress(bar, report))
    if prior is not None:  # the first of several processes
        write_atomically(output, prior.data, overwrite=force)
        _say_prior(report, output, prior, run, f"{len(crops.names)} pictures, {options}")


def _progress(bar: Callable[[int, int], None] | None, report: Reporter) -> Callable[[TrainingProgress], None]:
    """What shows how far training is: the bar, if there is one, and a line per report."""

    def progress(state: TrainingProgress) -> None:
        if bar:
            bar(state.step, state.steps)
        if report.shows_progress:
            left = time.strftime("%H:%M:%S", time.gmtime(state.seconds_left))
            text = f"step {state.step}/{state.steps} round {state.round} surviving {state.surviving:.3f}"
            console().print(f"{text} loss {state.loss:.5f}, {left} left")

    return progress


def _say_prior(report: Reporter, output: Path, prior: Prior, run: Path, detail: str) -> None:
    facts = {"output": str(output), "id": prior.id.hex(), "bytes": len(prior.data), "run": str(run)}
    report(facts, f"{output}: prior {prior.id.hex()}, {len(prior.data)} bytes; log and checkpoint in {run}", detail)
