"""ImageNet's validation set as it is distributed: in class folders, or flat beside the development kit."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from dmbp.datasets.items import Item, PhotoFile, Pictures, Skipped, existing, first_found, picture_files, read_lines
from dmbp.errors import DmbpError

FAMILY = "ImageNet"
CLASSES = 1000
WNID = r"n\d{8}"  # a class, as WordNet names it
TRUTH, META, LIST = "ILSVRC2012_validation_ground_truth.txt", "meta.mat", "classes.txt"
EXPECTED = f"ImageNet's validation set: class folders (n01440764, …), or pictures with {TRUTH} and {META}"
KITS = ("", "data", "ILSVRC2012_devkit_t12/data")


def imagenet(folder: Path) -> Pictures:
    """The pictures in `folder` or in its `val`; a class is its place among the 1000 WNIDs in order, as in torchvision.

    Class folders are named by WNID. All 1000 tell the order by themselves; with fewer, it is read from `classes.txt`,
    one WNID a line, or `meta.mat`. Flat pictures, ILSVRC2012_val_00000001.JPEG and on, have their class in the ground
    truth's line of their number, as an id of `meta.mat`, which goes to a WNID. Both files are looked for in the folder,
    its `data`, and `ILSVRC2012_devkit_t12/data`, here and one folder up. Raises `DmbpError` where the classes cannot
    be told.
    """
    existing(folder, EXPECTED)
    place = first_found([folder / "val", folder / "ILSVRC2012_img_val"]) or folder
    folders = sorted(path for path in place.iterdir() if path.is_dir() and re.fullmatch(WNID, path.name))
    return _class_folders(folder, folders) if folders else _flat(folder, place)


def _class_folders(folder: Path, folders: list[Path]) -> Pictures:
    order = _order(folder, [path.name for path in folders])
    items: list[Item] = []
    skipped: list[Skipped] = []
    for path in folders:
        if path.name not in order:
            skipped.append(Skipped(path.name, "a folder that is none of the 1000 classes"))
            continue
        files = picture_files(path)
        items += [Item(f"{path.name}/{file.name}", (order[path.name],), PhotoFile(file)) for file in files]
        if not files:
            skipped.append(Skipped(path.name, "a class folder without pictures"))
    return Pictures(FAMILY, tuple(items), tuple(skipped))


def _order(folder: Path, found: list[str]) -> dict[str, int]:
    """The index of each WNID."""
    if listed := _near(folder, LIST):
        wnids = read_lines(listed)
        if len(set(wnids)) != CLASSES or not all(re.fullmatch(WNID, wnid) for wnid in wnids):
            raise DmbpError(f"{listed}: expected ImageNet's {CLASSES} WNIDs, one a line, got {len(set(wnids))}")
        return {wnid: index for index, wnid in enumerate(wnids)}
    if meta := _near(folder, META):
        return _sorted(_wnids(meta).values())
    if len(found) != CLASSES:
        raise DmbpError(
            f"{folder}: {len(found)} class folders do not tell which of the {CLASSES} classes each is: put {LIST}, "
            f"the {CLASSES} WNIDs in order, one a line, or {META} of the development kit beside them"
        )
    return _sorted(found)


def _flat(folder: Path, place: Path) -> Pictures:
    truth, meta = _near(folder, TRUTH), _near(folder, META)
    if truth is None or meta is None:
        raise DmbpError(f"{folder}: found neither class folders nor {TRUTH} and {META}; expected {EXPECTED}")
    wnids = _wnids(meta)
    index = _sorted(wnids.values())
    files = {number: file for file in picture_files(place) if (number := _number(file.name))}
    items: list[Item] = []
    skipped: list[Skipped] = []
    lines = read_lines(truth)
    for number, line in enumerate(lines, start=1):
        name = f"ILSVRC2012_val_{number:08d}"
        if not line.isdecimal() or int(line) not in wnids:
            raise DmbpError(f"{truth}: line {number} is {line!r}, no id of a class in {meta}")
        if number in files:
            items.append(Item(files[number].name, (index[wnids[int(line)]],), PhotoFile(files[number])))
        else:
            skipped.append(Skipped(name, "the ground truth names it, and the picture is missing"))
    unnamed = sorted(set(files) - set(range(1, len(lines) + 1)))
    skipped += [Skipped(files[number].name, "the ground truth has no line for it") for number in unnamed]
    return Pictures(FAMILY, tuple(items), tuple(skipped))


def _number(name: str) -> int | None:
    found = re.match(r"ILSVRC2012_val_(\d{8})\.", name)
    return int(found[1]) if found else None


def _wnids(meta: Path) -> dict[int, str]:
    """The WNID of each class's id: the leaves of the hierarchy, 1 to 1000, in an order that is not torchvision's."""
    from scipy.io import loadmat

    try:
        synsets: Any = np.atleast_1d(loadmat(meta, squeeze_me=True)["synsets"])
        leaves = synsets[[int(count) == 0 for count in synsets["num_children"]]]
        found = {int(k): str(wnid) for k, wnid in zip(leaves["ILSVRC2012_ID"], leaves["WNID"], strict=True)}
    except Exception as error:  # a broken file makes scipy raise nearly anything
        raise DmbpError(f"{meta}: expected {META} of ImageNet's development kit ({type(error).__name__})") from error
    if len(found) != CLASSES or not all(re.fullmatch(WNID, wnid) for wnid in found.values()):
        raise DmbpError(f"{meta}: expected {CLASSES} classes with WNIDs, got {len(found)}")
    return found


def _sorted(wnids: Iterable[str]) -> dict[str, int]:
    return {wnid: index for index, wnid in enumerate(sorted(wnids))}


def _near(folder: Path, name: str) -> Path | None:
    return first_found(place / kit / name for place in (folder, folder.parent) for kit in KITS)
