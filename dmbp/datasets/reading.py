"""A data set by name, as the command line takes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from dmbp.datasets.folders import folder_of_pictures, foolbox
from dmbp.datasets.imagenet import imagenet
from dmbp.datasets.items import Choice, Pictures
from dmbp.datasets.pairs import digit_items, photo_pairs
from dmbp.datasets.voc import voc
from dmbp.errors import DmbpError
from dmbp.extras import install

DIGIT_PAIRS = 500  # how many are drawn where no count is given


@dataclass(frozen=True)
class Wanted:
    """What a reader of a data set is asked for; `rest` is what stands behind the name's colon."""

    rest: str
    classes: Sequence[str] | None
    choice: Choice
    split: str | None
    difficult: bool


def load_data(
    spec: str,
    classes: Sequence[str] | None = None,
    choice: Choice | None = None,
    *,
    split: str | None = None,
    difficult: bool = False,
) -> Pictures:
    """The pictures that `spec` names, for a network whose classes are called `classes`, or the chosen ones of them.

    - `digit-pairs`: pairs of MNIST's digits (extra `train`), `choice.count` of them drawn with its seed, of `split`
      "test" (the default) or "train";
    - `imagenet:FOLDER`: ImageNet's validation set as it is distributed (see `imagenet`);
    - `voc:FOLDER`: PASCAL VOC2012, of `split` "val" (the default) or another one (see `voc`, `difficult` too);
    - `folder:PATH`: a folder with labels.csv, a CSV file, or a folder for each class (see `folder_of_pictures`);
    - `foolbox`: the 20 photographs that the package foolbox ships (extra `photos`);
    - `photo-pairs:SPEC`: two pictures of any of these side by side (see `photo_pairs`).

    Pictures are listed, and not yet read. Raises `DmbpError` for a name, folder, class or choice that is none.

    >>> from dmbp.datasets import Choice, load_data
    >>> load_data("digit-pairs", choice=Choice(count=3))
    Pictures('digit-pairs': 3 pictures)
    """
    name, colon, rest = spec.partition(":")
    if name in WITH_REST and not rest:
        raise DmbpError(f"the data set {name} needs {WITH_REST[name]}")
    if name not in _READERS or bool(colon) != (name in WITH_REST):
        near = get_close_matches(name, _READERS, n=1, cutoff=0.5)
        hint = f"; near: {near[0]}" if near and near[0] != name else ""
        raise DmbpError(f"unknown data set {spec!r}{hint}; expected {EXPECTED}")
    wanted = Wanted(rest, classes, choice or Choice(), split, difficult)
    if split is not None and name not in SPLIT:
        raise DmbpError(f"the data set {name} has no splits; leave out {split!r}")
    return _READERS[name](wanted)


def _digit_pairs(wanted: Wanted) -> Pictures:
    if wanted.choice.per_class is not None:
        raise DmbpError("digit pairs are drawn, not chosen by class: give a count")
    split = wanted.split or "test"
    return digit_items(wanted.choice.count or DIGIT_PAIRS, split, wanted.choice.seed)  # type: ignore[arg-type]


def _photo_pairs(wanted: Wanted) -> Pictures:
    singles = load_data(wanted.rest, wanted.classes, Choice(per_class=wanted.choice.per_class, seed=wanted.choice.seed))
    return Choice(count=wanted.choice.count).of(photo_pairs(singles, wanted.choice.seed))


def _listed(read: Callable[[Wanted], Pictures]) -> Callable[[Wanted], Pictures]:
    return lambda wanted: wanted.choice.of(read(wanted))


_READERS: dict[str, Callable[[Wanted], Pictures]] = {
    "digit-pairs": _digit_pairs,
    "foolbox": _listed(lambda _: foolbox()),
    "imagenet": _listed(lambda wanted: imagenet(Path(wanted.rest))),
    "voc": _listed(lambda wanted: voc(Path(wanted.rest), wanted.split or "val", wanted.difficult)),
    "folder": _listed(lambda wanted: folder_of_pictures(Path(wanted.rest), wanted.classes)),
    "photo-pairs": _photo_pairs,
}
WITH_REST = {
    "imagenet": "the folder of its validation pictures, as they are distributed: imagenet:FOLDER",
    "voc": "the folder VOC2012, with JPEGImages, Annotations and ImageSets as they are distributed, and the package "
    f"defusedxml ({install('eval')}): voc:FOLDER",
    "folder": "a folder of pictures with labels.csv, a CSV file, or a folder for each class: folder:PATH",
    "photo-pairs": "the data set whose pictures are put side by side: photo-pairs:DATA, such as photo-pairs:foolbox",
}
SPLIT = {"digit-pairs", "voc"}
EXPECTED = "digit-pairs, foolbox, imagenet:FOLDER, voc:FOLDER, folder:PATH or photo-pairs:SPEC"
