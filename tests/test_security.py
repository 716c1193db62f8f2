"""SECURITY.md states the limits as they are."""

from pathlib import Path

from inrcodec import bitstream, entropy, prior, render

TEXT = (Path(__file__).parent.parent / "SECURITY.md").read_text("utf-8")


def test_the_limits_are_those_of_the_code() -> None:
    limits = bitstream.Limits()
    values = [
        limits.max_pixels, limits.max_side, render.MAX_SAMPLES, bitstream.MAX_GROUPS, bitstream.MAX_CONTENT,
        prior.MAX_HEADER, prior.MAX_OMEGAS, prior.MAX_WIDTH, prior.MAX_LEVELS, prior.MAX_CHANNELS, entropy.MAX_VALUE,
    ]  # fmt: skip
    rows = [line.split("|")[2].split()[0] for line in TEXT.split("## Limits")[1].splitlines() if line.startswith("|")]
    assert rows[2:] == [f"{value:,}" for value in values]


def test_the_tests_it_names_are_there() -> None:
    for name in ("hostile", "damage", "viewer", "fuzz", "crash", "no_surprises"):
        assert f"test_{name}.py" in TEXT and (Path(__file__).parent / f"test_{name}.py").exists()
