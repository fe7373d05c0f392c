"""What one explanation of the command line is of: an input, a class, and perhaps the class that it is set against."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dmbp.cli.question import Question, ask
from dmbp.cli.where import Class
from dmbp.datasets.items import ENDINGS
from dmbp.errors import DmbpError
from dmbp.files import slug
from linreg.target import Target, cotangent


@dataclass(frozen=True, eq=False)
class Aim:
    """A score of a question: of class `index`, less that of class `against` where there is one."""

    question: Question
    index: Class
    against: Class = None

    @cached_property
    def target(self) -> Target:
        """The target as `explain` takes it: w is 1 at the one class and −1 at the other."""
        own = self.question.target(self.index)
        if self.against is None:
            return own
        output = self.question.graph(self.question.x)
        return cotangent(own, output) - cotangent(self.question.target(self.against), output)

    @property
    def name(self) -> str:
        """ "cat (281) rather than dog (207)"."""
        rather = "" if self.against is None else f" rather than {self.question.named(self.against)}"
        return f"{self.question.named(self.index)}{rather}"

    @property
    def stem(self) -> str:
        """The files' name: input and network without folders and endings, first names and ids of classes, and where."""
        question = self.question
        files = [re.split(r"[/\\]", name)[-1] for name in (question.name, question.model.name)]
        parts = [slug(re.sub(r"\.(py\b|\w{3,4}$)", "", file)) for file in files]
        parts += self._class(self.index)
        if self.against is not None:
            parts += ["rather-than", *self._class(self.against)]
        return "-".join(part for part in (*parts, slug(question.where.words)) if part)

    def _class(self, index: Class) -> list[str]:
        label = slug(self.question.label(index).partition(",")[0])
        return [label, "" if index is None or label.split("-")[-1] == str(index) else str(index)]


def aims(options: argparse.Namespace) -> list[Aim]:
    """All that is asked for, before anything is learned: each input with each of its targets.

    Raises DmbpError for whatever is wrong with any of them.
    """
    found: list[Aim] = []
    known: dict[str, Question] = {}
    for image, row in _inputs(options.image, options.row):
        one = argparse.Namespace(**vars(options) | {"image": image, "row": row})
        question = ask(one, known)
        against = _against(question, options.rather_than)
        found += [Aim(question, target, against) for target in question.targets if against is None or target != against]
        if not any(aim.question is question for aim in found):
            raise DmbpError(f"--rather-than {options.rather_than}: a class is to be set against another than itself")
    return found


def _against(question: Question, name: str | None) -> Class:
    if name is None:
        return None
    if question.targets == (None,):
        raise DmbpError("--rather-than needs a network with classes; this one gives one score for each input")
    return question.model.index(name, question.graph.shape(question.graph.output)[0])


def _inputs(names: list[str] | None, row: int | None) -> Iterator[tuple[str | None, int | None]]:
    """Each input with its row, None for the default one; of a folder its pictures, or the one that --row counts."""
    if not names:
        yield None, row
    for name in names or ():
        if not name.strip() or not Path(name).is_dir():  # the path of no name is the folder one is in
            yield name, row
            continue
        pictures = sorted(str(path) for path in Path(name).iterdir() if path.suffix.lower() in ENDINGS)
        if not pictures:
            raise DmbpError(f"{name} is a folder without pictures ({', '.join(sorted(ENDINGS))})")
        if row is not None and row >= len(pictures):
            raise DmbpError(f"{name}: there is no picture {row} of {len(pictures)}, counted from 0 by name")
        for picture in pictures if row is None else pictures[row : row + 1]:
            yield picture, None
