import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from inrcodec.errors import OutputExistsError, PriorError
from inrcodec.prior import (
    Architecture,
    Prior,
    bundled_priors,
    find_prior,
    parse_prior,
    prior_by_id,
    read_prior,
    save_prior,
)


def rewritten(prior: Prior, tensors: dict[str, np.ndarray] | None = None, **meta: object) -> bytes:
    """The file of a prior with some tensors or metadata replaced."""
    size = int.from_bytes(prior.data[:8], "little")
    header = json.loads(json.loads(prior.data[8 : 8 + size])["__metadata__"]["inrcodec"])
    return save({**load(prior.data), **(tensors or {})}, {"inrcodec": json.dumps(header | meta)})


def test_a_saved_prior_reads_back(network_prior: Prior, tmp_path: Path) -> None:
    path = tmp_path / "copy.safetensors"
    written = save_prior(path, "copy", network_prior.architecture, network_prior.tensors, {"steps": 3})
    found = read_prior(path)
    assert (found.name, found.architecture, found.notes) == ("copy", network_prior.architecture, {"steps": 3})
    assert found.id == written.id and len(found.id) == 8
    assert all(np.array_equal(found.tensors[k], v) for k, v in network_prior.tensors.items())
    with pytest.raises(OutputExistsError):
        save_prior(path, "copy", network_prior.architecture, network_prior.tensors)


def test_masks_say_what_survived(network_prior: Prior) -> None:
    assert network_prior.mask(0).all()
    assert not network_prior.mask(1).all()
    assert not network_prior.tensors["siren.1.weight"][~network_prior.mask(1)].any()


def test_the_id_changes_with_any_bit(network_prior: Prior) -> None:
    other = rewritten(network_prior, name="other")
    assert parse_prior(other, "other").id != network_prior.id


@pytest.mark.parametrize(
    ("case", "match"),
    [
        ({"format": 2}, "format 2"),
        ({"omegas": []}, "sine layers"),
        ({"omegas": [20.0]}, "values per sample"),
        ({"omegas": "ab"}, "not an inrcodec prior"),
        ({"channels": [0]}, "channels"),
        ({"channels": [1]}, "inputs"),
        ({"coordinates": False}, "coordinates"),
        ({"notes": 4}, "not an inrcodec prior"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(network_prior: Prior, case: dict[str, object], match: str) -> None:
    with pytest.raises(PriorError, match=match):
        parse_prior(rewritten(network_prior, **case), "x")  # type: ignore[arg-type]


def test_tensors_that_do_not_fit_are_refused(network_prior: Prior) -> None:
    t = network_prior.tensors
    nan = t["siren.0.bias"].copy()
    nan[0] = np.nan
    cases = {
        "finite": {"siren.0.bias": nan},
        "units": {
            "siren.0.weight": np.zeros((1025, 2), np.float32),
            "siren.0.bias": np.zeros(1025, np.float32),
        },
        "inputs": {"siren.1.weight": np.zeros((12, 5), np.float32)},
        "float32": {"siren.0.weight": t["siren.0.weight"].astype(np.float64)},
        "0 or 1": {"siren.1.mask": t["siren.1.mask"] + np.uint8(2)},
        "pruned": {"siren.1.mask": np.zeros_like(t["siren.1.mask"])},
    }
    for match, change in cases.items():
        with pytest.raises(PriorError, match=match):
            parse_prior(rewritten(network_prior, change), "x")


@pytest.mark.parametrize(
    "data", [b"", b"\xff" * 8, b"\x00" * 40, b"not a prior at all", (2).to_bytes(8, "little") + b"{}"]
)
def test_bytes_that_are_no_prior_are_refused(data: bytes) -> None:
    with pytest.raises(PriorError, match="x"):
        parse_prior(data, "x")


def test_every_truncation_is_refused(network_prior: Prior) -> None:
    for size in range(0, len(network_prior.data), 97):
        with pytest.raises(PriorError):
            parse_prior(network_prior.data[:size], "x")


def test_priors_are_found_by_file_and_by_name(network_prior: Prior, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(network_prior.data)
    assert find_prior(path).id == network_prior.id
    for bundled in bundled_priors():
        assert find_prior(bundled.stem).id == read_prior(bundled).id
    with pytest.raises(PriorError, match="bundled"):
        find_prior("no-such-prior")
    with pytest.raises(PriorError, match="cannot read"):
        read_prior(tmp_path / "missing.safetensors")


def test_bundled_priors_are_found_by_id() -> None:
    assert {"photo", "sparse-siren"} <= {path.stem for path in bundled_priors()}
    for path in bundled_priors():
        assert prior_by_id(read_prior(path).id).name == path.stem
    with pytest.raises(PriorError, match="00000000"):
        prior_by_id(bytes(8))


def test_an_architecture_needs_inputs() -> None:
    assert Architecture((1.0,), False, (1, 3)).in_features == 6
    assert Architecture((1.0,)).in_features == 2
    with pytest.raises(PriorError):
        Architecture((1.0,), coordinates=False)
