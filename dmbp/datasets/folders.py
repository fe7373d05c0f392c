"""Pictures of one's own: in class folders, or in any folder with a CSV of labels; and the photographs of foolbox."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from dmbp.datasets.items import Item, PhotoFile, Pictures, Skipped, existing, picture_files, read_lines
from dmbp.errors import DmbpError
from dmbp.extras import install

TABLE, LIST = "labels.csv", "classes.txt"
COLUMNS = ("picture", "labels")
SEPARATOR = ";"  # names of classes hold commas


def folder_of_pictures(path: Path, classes: Sequence[str] | None) -> Pictures:
    """The pictures of a folder with `labels.csv`, of a CSV file, or of class folders, in this order of preference.

    A CSV has the columns `picture`, a path from the CSV's folder, and `labels`, ids or names of classes, parted by
    semicolons. A class folder is called by the name or id of its class; with `classes.txt` beside them, by one of its
    lines, whose number, from 0, is the class. `classes` are the network's names of its classes. A picture that is
    missing is skipped. Raises `DmbpError` for a class that is not known.
    """
    table = path if path.suffix.lower() == ".csv" else path / TABLE
    if table.is_file():
        return _from_table(table, classes)
    existing(path, f"a folder with {TABLE}, or with a folder for each class, or a CSV file")
    return _class_folders(path, classes)


def _from_table(table: Path, classes: Sequence[str] | None) -> Pictures:
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DmbpError(f"{table}: {error}") from error
    if rows and not set(COLUMNS) <= set(rows[0]):
        raise DmbpError(f"{table}: expected the columns {', '.join(COLUMNS)}, got {', '.join(map(str, rows[0]))}")
    items: list[Item] = []
    skipped: list[Skipped] = []
    for number, row in enumerate(rows, start=2):  # line 1 has the columns' names
        name, words = row["picture"] or "", [word for word in (row["labels"] or "").split(SEPARATOR) if word.strip()]
        targets = tuple(dict.fromkeys(_index(word, classes, f"{table}, line {number}") for word in words))
        photo = table.parent / name
        if not name or not photo.is_file():
            skipped.append(Skipped(name or f"line {number}", "there is no such picture"))
        elif not targets:
            skipped.append(Skipped(name, "it has no label"))
        else:
            items.append(Item(name, targets, PhotoFile(photo)))
    return Pictures(table.parent.name, tuple(items), tuple(skipped))


def _class_folders(folder: Path, classes: Sequence[str] | None) -> Pictures:
    listed = folder / LIST
    names = read_lines(listed) if listed.is_file() else classes
    items: list[Item] = []
    skipped: list[Skipped] = []
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = picture_files(inner)
        if not files:
            skipped.append(Skipped(inner.name, "a folder without pictures"))
            continue
        target = _index(inner.name, names, f"the folder {inner}")
        items += [Item(f"{inner.name}/{file.name}", (target,), PhotoFile(file)) for file in files]
    return Pictures(folder.name, tuple(items), tuple(skipped))


def _index(word: str, names: Sequence[str] | None, where: str) -> int:
    """The class that a word means: a name, in any case, or one of the names that a label parts by commas, or an id."""
    wanted = word.strip().casefold()
    labels = [label.casefold() for label in names or ()]
    found = [k for k, label in enumerate(labels) if wanted in (label, *re.split(r"\s*,\s*", label))]
    if len(found) == 1:
        return found[0]
    if wanted.isdecimal() and not found:
        return int(wanted)
    if found:
        raise DmbpError(f"{where}: {word!r} is a name of several classes, {', '.join(map(str, found))}; give the id")
    known = f"expected an id or a name such as {', '.join(list(names)[:3])}" if names else "expected an id"
    raise DmbpError(f"{where}: {word!r} is no class of this network; {known}")


def foolbox() -> Pictures:
    """The 20 photographs of ImageNet's classes that the package foolbox ships, which is not imported for it.

    A file is called imagenet_NN_CLASS.jpg. Raises `DmbpError` where the package, or its pictures, are not there.
    """
    spec = find_spec("foolbox")
    if spec is None or spec.origin is None:
        raise DmbpError(f'the data set "foolbox" needs the package foolbox: {install("photos")}')
    files = sorted(Path(spec.origin).with_name("data").glob("imagenet_*.jpg"))
    found = [(file, re.fullmatch(r"imagenet_\d+_(\d+)", file.stem)) for file in files]
    items = [Item(file.name, (int(label[1]),), PhotoFile(file)) for file, label in found if label]
    if not items:
        raise DmbpError(f"{Path(spec.origin).parent}: this foolbox ships no pictures imagenet_NN_CLASS.jpg")
    return Pictures("foolbox", tuple(items))
