"""PASCAL VOC2012 as it is distributed: JPEGImages, Annotations, ImageSets/Main."""

from __future__ import annotations

from pathlib import Path

from dmbp.datasets.items import Item, PhotoFile, Pictures, Skipped, existing, first_found, read_lines
from dmbp.errors import DmbpError
from dmbp.extras import install, needs
from dmbp.models.voc_networks import VOC_CLASSES

FAMILY = "VOC2012"
INDEX = {name: index for index, name in enumerate(VOC_CLASSES)}


class Unusable(Exception):
    """Why a picture is left out."""


def voc(folder: Path, split: str = "val", difficult: bool = False) -> Pictures:
    """The pictures that ImageSets/Main/`split`.txt names, each with all classes that its annotation tells, in order.

    `folder` is VOC2012, or one that holds it or VOCdevkit/VOC2012. A class counts where at least one of its objects is
    not marked `difficult`, as in VOC's classification task, or, with `difficult`, where there is any object of it. The
    network sees the middle square of the picture; classes are those of the whole. A picture without annotation, with a
    class that VOC does not have, or without any class that counts, is skipped. Raises `DmbpError` without such a split.
    """
    root = first_found([folder / "VOCdevkit/VOC2012", folder / "VOC2012"]) or folder
    existing(root / "JPEGImages", "VOC2012's JPEGImages, Annotations and ImageSets")
    listed = root / "ImageSets" / "Main" / f"{split}.txt"
    if not listed.is_file():
        known = sorted(path.stem for path in listed.parent.glob("*.txt") if "_" not in path.stem)
        raise DmbpError(f"{listed}: there is no such split; here are: {', '.join(known) or 'none'}")
    items: list[Item] = []
    skipped: list[Skipped] = []
    for line in read_lines(listed):
        name = line.split()[0]
        photo = root / "JPEGImages" / f"{name}.jpg"
        try:
            items.append(Item(name, _targets(root / "Annotations" / f"{name}.xml", difficult), PhotoFile(photo)))
        except Unusable as reason:
            skipped.append(Skipped(name, str(reason)))
    return Pictures(FAMILY, tuple(items), tuple(skipped))


def _targets(path: Path, difficult: bool) -> tuple[int, ...]:
    objects = _objects(path)
    if unknown := next((name for name, _ in objects if name not in INDEX), None):
        raise Unusable(f"its annotation names a class that VOC does not have, {unknown!r}")
    counted = {INDEX[name] for name, hard in objects if difficult or not hard}
    if not counted:
        raise Unusable("all its objects are marked difficult" if objects else "its annotation names no object")
    return tuple(sorted(counted))


def _objects(path: Path) -> list[tuple[str, bool]]:
    """Each object's class, and whether it is marked difficult."""
    parse = needs("defusedxml.ElementTree", install("eval")).parse  # annotations may come from anybody
    try:
        root = parse(path).getroot()
    except FileNotFoundError:
        raise Unusable("it has no annotation") from None
    except Exception as error:  # of XML, and what defusedxml forbids
        raise Unusable(f"its annotation cannot be read: {type(error).__name__}: {error}") from None
    return [
        ((node.findtext("name") or "").strip(), (node.findtext("difficult") or "0").strip() == "1")
        for node in root.iter("object")
    ]
