from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tape import Tape, draws
from torch import Tensor

from inrcodec import graphs
from inrcodec import train_fields as train_fields_module
from inrcodec.errors import OptionError, PriorError
from inrcodec.lattice import field_shapes
from inrcodec.synthesis import detail, post
from inrcodec.train_fields import (
    WINDOW,
    Batch,
    FieldOptions,
    _begin,
    _inner,
    _window,
    export,
    fast_objective,
    import_weights,
    init_weights,
    train_fields,
    weighted_objective,
)

OPTIONS = FieldOptions(
    channels=(1, 2, 1, 2, 1), widths=(5, 4), hidden=6, middle=4, features=3, analysis=4, filter=3, batch=2,
    guess_steps=6, fit_steps=14, decoder_steps=5, decoder_batches=2, coarse_steps=5, coarse_batches=2, schedule_steps=4,
    analysis_steps=3, detail_steps=5, detail_batches=2, post_steps=3, post_batches=2,
    deltas_steps=2,
    fit_length=4, slots=4, threads=1, log_every=5, checkpoint_every=3,
)  # fmt: skip


class Noise:
    """Random pictures, 12 high and 20 wide, as a pure function of seed and step."""

    fingerprint = "noise"

    def __init__(self, stop_at: int = -1) -> None:
        self.stop_at = stop_at

    def batch(self, seed: int, step: int, count: int, part: slice = slice(None)) -> Tensor:
        if step == self.stop_at:
            raise KeyboardInterrupt
        generator = torch.Generator().manual_seed(1000 * seed + step)
        level = torch.rand(count, 1, 1, 3, generator=generator)
        return (0.2 * torch.rand(count, 12, 20, 3, generator=generator) + 0.8 * level)[part]


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    options = replace(
        OPTIONS,
        guess_steps=60,
        fit_steps=0,
        decoder_steps=0,
        coarse_steps=0,
        schedule_steps=0,
        analysis_steps=0,
        detail_steps=0,
        post_steps=0,
        deltas_steps=0,
        log_every=20,
        guess_rate=1e-2,
    )
    train_fields(options, Noise(), tmp_path)
    losses = [float(row.split(",")[2]) for row in (tmp_path / "log.csv").read_text().splitlines()[1:]]
    assert losses[-1] < 0.7 * losses[0]


def test_an_interrupted_run_gives_the_same_prior(tmp_path: Path) -> None:
    whole = train_fields(OPTIONS, Noise(), tmp_path / "whole")
    for stop_at in (4, 16, 21, 26, 32, 38, 43):  # in every phase
        with pytest.raises(KeyboardInterrupt):
            train_fields(OPTIONS, Noise(stop_at), tmp_path / "parts")
    parts = train_fields(OPTIONS, Noise(), tmp_path / "parts")
    assert whole is not None and parts is not None
    assert all(np.array_equal(whole.tensors[k], parts.tensors[k]) for k in whole.tensors)
    logs = [(tmp_path / name / "log.csv").read_text().splitlines() for name in ("whole", "parts")]
    assert [row.split(",")[:3] for row in logs[0]] == [row.split(",")[:3] for row in logs[1]]


def test_training_is_the_same_if_its_parts_are_replayed(
    tmp_path: Path, taped: list[Tape], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a GPU does it: nothing that is recorded depends on anything that changes but its arguments."""
    monkeypatch.setattr(train_fields_module, "PIECEWISE", "none")
    options = replace(OPTIONS, fit_steps=9, schedule_steps=1, deltas_steps=0)
    replayed = train_fields(options, Noise(), tmp_path / "replayed")
    assert len(taped) > 9 and not any(map(draws, taped))
    monkeypatch.setattr(graphs, "RECORDS", "cuda")
    called = train_fields(options, Noise(), tmp_path / "called")
    assert replayed is not None and called is not None
    assert all(np.array_equal(replayed.tensors[k], called.tensors[k]) for k in called.tensors)


def test_a_run_can_start_from_a_prior(tmp_path: Path) -> None:
    first = train_fields(OPTIONS, Noise(), tmp_path / "first")
    assert first is not None
    second = train_fields(
        replace(
            OPTIONS,
            guess_steps=0,
            fit_steps=1,
            decoder_steps=0,
            coarse_steps=0,
            schedule_steps=0,
            analysis_steps=0,
            detail_steps=0,
            post_steps=0,
            deltas_steps=0,
            fit_rate=1e-6,
        ),
        Noise(),
        tmp_path / "second",
        start=first,
    )
    assert second is not None
    before, after = import_weights(first), import_weights(second)
    assert max(float((before[k] - after[k]).abs().max()) for k in before) < 3e-3
    with pytest.raises(OptionError, match="other fields"):
        train_fields(replace(OPTIONS, channels=(1, 2, 1, 2, 2)), Noise(), tmp_path / "third", start=first)


def test_another_run_or_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    train_fields(replace(OPTIONS, fit_steps=0), Noise(), tmp_path)
    with pytest.raises(OptionError, match="fit_steps"):
        train_fields(OPTIONS, Noise(), tmp_path)
    path = tmp_path / "checkpoint-0.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(PriorError, match="not a checkpoint"):
        train_fields(OPTIONS, Noise(), tmp_path)


def test_phase_4_needs_coarse_levels() -> None:
    with pytest.raises(OptionError, match="3 levels"):
        replace(OPTIONS, channels=(1, 2, 3))


def test_a_schedule_that_is_far_from_right_is_learnt(tmp_path: Path) -> None:
    options = replace(
        OPTIONS, guess_steps=0, fit_steps=0, decoder_steps=0, coarse_steps=0, analysis_steps=0, detail_steps=0,
        post_steps=0, deltas_steps=0, fit_length=8, batch=4, log_every=6, schedule_steps=24, schedule_rate=0.15,
    )  # fmt: skip
    slow = {"fit.step": torch.full((5, 2), 0.03), "fit.temperature": torch.tensor([0.3, 0.2])}
    start = export(tmp_path / "start.safetensors", "start", init_weights(options) | slow, options, {})
    prior = train_fields(options, Noise(), tmp_path, start=start)
    losses = [float(row.split(",")[2]) for row in (tmp_path / "log.csv").read_text().splitlines()[1:]]
    assert losses[-1] < losses[0] - 0.3  # of log J
    assert prior is not None
    changed = {name for name, tensor in prior.tensors.items() if not np.array_equal(tensor, start.tensors.get(name, 0))}
    assert changed == {"fit.step", "fit.temperature", "fit.step_slope", "fit.temperature_slope"}


def test_a_schedule_can_be_given(tmp_path: Path) -> None:
    options = replace(OPTIONS, guess_steps=1, fit_steps=0, decoder_steps=0, coarse_steps=0, schedule_steps=0)
    first = train_fields(options, Noise(), tmp_path / "first")
    second = train_fields(replace(options, schedule=(0.1, 0.01, 0.4, 0.2)), Noise(), tmp_path / "second", start=first)
    assert second is not None
    assert np.allclose(second.tensors["fit.step"], [[0.1, 0.01]] * 5)
    assert np.allclose(second.tensors["fit.temperature"], [0.4, 0.2])


def test_windows_show_the_same_place_turned_in_the_same_way() -> None:
    seen = torch.randn(1, 5, WINDOW + 7, WINDOW + 20, generator=torch.Generator().manual_seed(0))
    finer = seen[:, :3].repeat_interleave(2, 2).repeat_interleave(2, 3)
    corners = set()
    for step in range(40):
        missing, part = _window(finer, seen, step)
        assert part.shape == (1, 5, WINDOW, WINDOW)
        assert torch.equal(missing, part[:, :3].repeat_interleave(2, 2).repeat_interleave(2, 3))
        corners.add(tuple(float(part[0, 0, y, x]) for y in (0, -1) for x in (0, -1)))
    assert len(corners) > 30


@pytest.mark.parametrize("name", ["detail", "post"])
def test_the_inner_part_of_a_window_does_not_depend_on_what_is_outside(name: str) -> None:
    generator, q = torch.Generator().manual_seed(0), torch.full((1, 1), 0.3)
    weights = _begin(OPTIONS, None).weights
    weights[f"{name}.out"] = torch.randn(weights[f"{name}.out"].shape, generator=generator)
    seen = torch.randn(1, weights[f"{name}.in"].shape[1], WINDOW + 8, WINDOW + 20, generator=generator)
    scale, added = (2, detail) if name == "detail" else (1, post)
    window = added(weights, seen[:, :, 5 : 5 + WINDOW, 9 : 9 + WINDOW], q)
    whole = added(weights, seen, q)[:, :, scale * 5 :, scale * 9 :][:, :, : scale * WINDOW, : scale * WINDOW]
    inner = _inner(weights, name, window)
    assert inner.numel() > 0 and torch.allclose(inner, _inner(weights, name, whole), atol=1e-4)
    assert not torch.allclose(window, whole, atol=1e-2)


def test_level_0_stays_interpolating(tmp_path: Path) -> None:
    prior = train_fields(OPTIONS, Noise(), tmp_path)
    assert prior is not None and prior.tensors["field.kernel"][0, 0] == 0


def test_the_fast_objective_is_the_plain_one() -> None:
    """Same value and gradients by the fields, with a quality for each picture."""
    weights = init_weights(OPTIONS)
    fields = [torch.randn(2, *s).requires_grad_() for s in field_shapes(12, 20, OPTIONS.channels)]
    batch = Batch.of(torch.rand(2, 3, 12, 20) - 0.5, torch.tensor([30, 210]))
    arguments = (batch, torch.tensor(0.3), OPTIONS, [torch.rand_like(z) for z in fields])
    plain = weighted_objective(weights, fields, *arguments).sum()
    expected = torch.autograd.grad(plain, fields)
    fast, found = fast_objective(weights, fields, *arguments)
    assert float(fast) == pytest.approx(float(plain.detach()), rel=1e-5)
    for a, b in zip(expected, found, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-5 * float(a.abs().max()))
