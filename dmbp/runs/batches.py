"""Many images: batches that fit the memory, one explanation for each image, and a long run that can be resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from tqdm.auto import tqdm

from dmbp.errors import DmbpError
from dmbp.explanation import explain
from dmbp.files import writable
from dmbp.learning.options import Options, OptionWords, takes_options
from dmbp.progress import hidden
from dmbp.result import Result, by_input
from dmbp.runs.loss_code import loss_record
from dmbp.runs.memory import available, footprint, is_out_of_memory
from dmbp.runs.pictures import Pictures
from dmbp.runs.several import fitting, graph_of, stacked
from dmbp.runs.shelf import WAY_OUT, Shelf, digest
from linreg import LinregError, OperatorGraph
from linreg.capture.example import Fixed
from linreg.numerals import whole_number
from linreg.surroundings import plain
from linreg.target import Mean, Target, cotangent, held

MARGIN = 1.5  # what libraries and the allocator take beyond the tensors
SHARE = 0.6  # of the free memory that a batch may take
ENOUGH = 2**28  # bytes: a larger batch is no faster on a CPU
LEAST, MOST = 4, 256  # images: a batch of less gains, one of more does not, on any network

Images = Tensor | Iterable[Tensor | Mapping[str, Tensor]] | Mapping[str, Tensor]
Targets = Target | Iterable[int | Tensor]


@dataclass(frozen=True, eq=False)
class Explained:
    """The explanation of one image: the split of its score, and its maps, on the CPU and shaped like the image.

    `target` is the class, or the weights w of the output, that y is the score of; the maps are ∇⁺ ⊙ x, ∇⁻ ⊙ x and
    their sum (`dmbp.Result.attribution`), and the complete map, with channels summed (`dmbp.Result.complete`), by name
    where the network has several inputs;
    `iterations` counts the updates of this image's masks.
    """

    index: int
    target: int | Tensor
    y: float
    positive: float
    negative: float
    nuisance: float
    unmasked: float
    attribution: Any
    positive_attribution: Any
    negative_attribution: Any
    complete: Any
    iterations: int

    def __repr__(self) -> str:
        target = self.target if isinstance(self.target, int) else f"weights {tuple(self.target.shape)}"
        scores = (f"{part}={getattr(self, part):.6g}" for part in SCORES)
        return f"Explained(index={self.index}, target={target}, {', '.join(scores)}, iterations={self.iterations})"


SCORES = ("y", "positive", "negative", "nuisance", "unmasked")
MAPS = ("attribution", "positive_attribution", "negative_attribution", "complete")


@dataclass(frozen=True, eq=False)
class Question:
    """One image x (*input_shape), on the network's device, and the weights w of its score."""

    index: int
    x: Any
    target: int | Tensor
    weights: Tensor

    @cached_property
    def made(self) -> dict[str, str]:
        return {"image": digest(self.x), "target": digest(self.weights)}


@takes_options
def explain_all(
    model: nn.Module | OperatorGraph,
    images: Images,
    targets: Targets = None,
    *,
    fixed: Fixed = None,
    options: Options | None = None,
    batch_size: int | None = None,
    out: str | Path | None = None,
    pieces: int | None = None,
    progress: bool = True,
    **words: Unpack[OptionWords],
) -> Iterator[Explained]:
    """Explain each of many images of one shape, in order, as `dmbp.explain` does one (to rounding).

    `images` is a tensor (M, …), a sequence or Dataset, or any iterable of tensors (…) or (1, …), read as they are
    needed; a DataLoader or an iterable of batches of these; or pairs (x, y) of an image and its class, which is its
    target if `targets` says none. Of a network of several inputs it is a dict of tensors (M, …) by name, or an iterable
    of dicts of tensors (…); what is `fixed` (see `linreg.trace`) may be one for all. `targets` is one target for all (a
    class, weights, None for the one score that there is), an iterable of one for each image, or a region with a mask
    for each. The options are told in `Options`; words of their own change those that `options` gives as one value.

    The model is traced once, on the first batch, with `pieces` as in `dmbp.explain`. `batch_size` None takes as many
    images as fit the free memory, but no more than make it faster; where memory runs out nevertheless, batches are
    halved. A network of one batch size gets that (trace a module that takes no single image with `batch_size`).

    With `out` each image's values are written to that folder, NNNNNN.npz, as soon as its batch is done, and an image
    that is there already is read, not computed: Ctrl-C loses the batch at hand and nothing else, and the same call goes
    on from there. A loss of one's own is told from another by its name and code (see `loss_record`).

    Raises DmbpError before any computation for an option that is none, for a file in `out` that is broken, or was made
    from another network or with other options, and with `out` for a loss whose code cannot be told from another; and
    names an image that is none, before its batch is computed.

    >>> import dmbp, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    >>> torch.nn.utils.vector_to_parameters(torch.tensor([1, 2, 1, -2, 0.5, 0, 1, 1, 10]), model.parameters())
    >>> for one in dmbp.explain_all(model, torch.tensor([[1.0, 1.0], [2.0, 3.0]]), iterations=5):
    ...     print(f"image {one.index}: y = {one.y}, a = {one.attribution.tolist()}")
    image 0: y = 13.5, a = [1.0, 2.0]
    image 1: y = 18.5, a = [2.0, 6.0]
    """
    options, batch_size = Options.of(options, words), _batch_size(batch_size)
    pictures = Pictures(images, model, fixed)
    shelf = None if out is None else _shelf(Path(out), options)

    def explained() -> Iterator[Explained]:
        tensors = iter(pictures)
        if not (first := list(islice(tensors, batch_size or 1))):
            return
        graph = graph_of(model, first, fixed, pieces)
        size = _size(graph, batch_size)
        bar = tqdm(total=pictures.count, desc="explaining images", disable=hidden(progress), miniters=0)
        batches = Batches(graph, options, shelf and shelf.of(graph), bar, size)
        try:
            yield from batches.run(_questions(graph, chain(first, tensors), pictures, targets))
        finally:
            bar.close()

    return explained()


def _size(graph: OperatorGraph, wanted: int | None) -> int | None:
    size = graph.batch or wanted
    if wanted not in (None, size):
        raise DmbpError(f"this network takes batches of {size} images only: leave out batch_size={wanted}")
    return size


def _batch_size(given: Any) -> int | None:
    size = whole_number(given)
    if given is not None and (size is None or size < 1):
        raise DmbpError(f"the batch size must be a whole number of at least 1, or None, not {given!r}")
    return size


def _shelf(folder: Path, options: Options) -> Shelf:
    made = {**options.record(), "loss": loss_record(options.loss)}
    return Shelf(writable(folder.absolute()), json.loads(json.dumps(made)))


@dataclass(eq=False)
class Batches:
    """The questions of one run, some at a time; `size` is None until one image shows how much memory it takes."""

    graph: OperatorGraph
    options: Options
    shelf: Shelf | None
    bar: tqdm[Any]
    size: int | None

    def run(self, questions: Iterator[Question]) -> Iterator[Explained]:
        while window := list(islice(questions, self.size or 1)):
            kept = {q.index: found for q in window if (found := self._kept(q))}
            if self.size is None and not kept:
                self.size = self._fitting(window[0])
                window += islice(questions, self.size - 1)
                kept = {q.index: found for q in window if (found := self._kept(q))}
            computed = self._computed([q for q in window if q.index not in kept])
            for question in window:
                value = kept.get(question.index) or next(computed)
                self.bar.update()
                yield value

    def _kept(self, question: Question) -> Explained | None:
        arrays = self.shelf and self.shelf.find(question.index, **question.made)
        if not self.shelf or not arrays:
            return None
        try:
            return _from_arrays(arrays)
        except KeyError as error:
            path = self.shelf.path(question.index)
            raise DmbpError(f"{path} lacks {error}: another version of dmbp wrote it; {WAY_OUT}") from error

    def _computed(self, questions: list[Question]) -> Iterator[Explained]:
        while questions:
            batch = questions[: self.size]
            values = self._within_memory(batch, self._explain, batch)
            if values is None:
                self.size = max(1, len(batch) // 2)
                continue
            for question, value in zip(batch, values, strict=True):
                if self.shelf:
                    self.shelf.keep(value.index, _to_arrays(value), **question.made)
            yield from values
            questions = questions[len(batch) :]

    def _explain(self, questions: list[Question]) -> list[Explained]:
        """Of a batch; that of a network with one batch size is filled up with copies."""
        rows = questions + questions[-1:] * ((self.graph.batch or 0) - len(questions))
        return _split(self._result(rows, callback=self._tick()), questions)

    @plain()
    def _result(self, questions: list[Question], **changed: Any) -> Result:
        x, weights = stacked([q.x for q in questions]), torch.stack([q.weights for q in questions])
        result = explain(self.graph, x, weights, options=self.options, progress=False, **changed)
        if result.interrupted:
            raise KeyboardInterrupt
        return result

    def _fitting(self, question: Question) -> int:
        """How many images make a batch, by what one of them takes."""
        one, device = [question], self.graph.device
        needed = self._within_memory(one, footprint, lambda: self._result(one, iterations=1, compiled=False))
        free = available(device)
        return LEAST if free is None else batch_size_within(int(needed * MARGIN), int(free * SHARE), device)

    def _within_memory(self, batch: list[Question], compute: Callable[..., Any], *arguments: Any) -> Any:
        """What `compute` gives, None where memory runs out; raises DmbpError where a smaller batch is no way out."""
        try:
            return compute(*arguments)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1 or self.graph.batch:
                least = f"a batch of {self.graph.batch}" if self.graph.batch else "alone"
                raise DmbpError(
                    f"image {batch[0].index}: the memory of {self.graph.device} is too small for it, {least}: free "
                    "some, take smaller images or float32, or name fewer `sites`"
                ) from error
        # Only now are the tensors of the failed call gone: the exception held them.
        if self.graph.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _tick(self) -> Callable[..., None] | None:
        """Shows the iteration within the batch, where there is something to be seen."""
        if self.bar.disable:
            return None

        def tick(iteration: int, *_: Any) -> None:
            self.bar.set_postfix_str(f"iteration {iteration + 1} of {self.options.iterations}", refresh=False)
            self.bar.update(0)

        return tick


def batch_size_within(image: int, free: int, device: torch.device) -> int:
    """How many images of so many bytes make a batch: as many as fit, but no more than gain."""
    gains = max(LEAST, ENOUGH // max(1, image)) if device.type == "cpu" else MOST
    return max(1, min(free // max(1, image), gains, MOST))


@plain()
def _split(result: Result, questions: Sequence[Question]) -> list[Explained]:
    held: dict[str, Any] = {part: getattr(result.split, part).tolist() for part in SCORES}
    maps = (result.attribution, result.positive, result.negative, result.complete)
    held |= dict(zip(MAPS, tree_map(Tensor.cpu, maps), strict=True))
    return [
        Explained(
            index=question.index, target=question.target, iterations=int(result.updates[n]),
            **{name: tree_map(lambda m, n=n: m[n].clone(), values) if name in MAPS else values[n]
               for name, values in held.items()},
        )
        for n, question in enumerate(questions)
    ]  # fmt: skip


def _to_arrays(value: Explained) -> dict[str, np.ndarray]:
    held = by_input({field.name: getattr(value, field.name) for field in fields(value)})
    return {name: v.numpy(force=True) if isinstance(v, Tensor) else np.array(v) for name, v in held.items()}


def _from_arrays(arrays: Mapping[str, np.ndarray]) -> Explained:
    held: dict[str, Any] = {}
    for field in fields(Explained):
        parts = [name.partition("/") for name in arrays if name.startswith(f"{field.name}/")]
        if parts:  # of several inputs
            held[field.name] = {of: torch.from_numpy(arrays[f"{name}/{of}"]) for name, _, of in parts}
            continue
        value = arrays[field.name]
        whole = field.name in MAPS or (field.name == "target" and value.dtype.kind == "f")
        held[field.name] = torch.from_numpy(value) if whole else value.item()
    return Explained(**held)


def _each_target(targets: Targets, shape: tuple[int, ...]) -> Iterable[Target]:
    """The targets one after another, without end where one serves all; a region's masks of the images are one each."""
    if isinstance(targets, Mean) and isinstance(targets.where, Tensor) and targets.where.dim() == len(shape):
        return [replace(targets, where=mask) for mask in targets.where]
    if isinstance(targets, Tensor) and targets.is_floating_point() and tuple(targets.shape) == shape:
        return repeat(targets)
    try:
        iter(targets)  # type: ignore[arg-type]
    except TypeError:  # None and numbers
        return repeat(targets)  # type: ignore[arg-type]
    return targets  # type: ignore[return-value]


def _questions(
    graph: OperatorGraph, images: Iterator[Tensor], pictures: Pictures, targets: Targets
) -> Iterator[Question]:
    """Each image with its target, in the network's terms. Raises DmbpError, with the index, where one does not fit."""
    single, shape = replace(graph, batch=None), graph.shape(graph.output)
    output = torch.zeros(1, *shape, dtype=graph.dtype, device=graph.device)
    each, count, scores = _each_target(targets, shape), pictures.count, output.numel()
    if count is not None and isinstance(each, Sized) and len(each) != count:
        raise DmbpError(f"there are {count} images, and {len(each)} targets")
    rest = iter(each)
    for n, image in enumerate(images):
        try:
            target, label = next(rest), pictures.label()
        except StopIteration:
            raise DmbpError(f"image {n} has no target: there are {n} targets only") from None
        try:
            if targets is None and label is not None and scores > 1:
                target = _class(label)
            question = _question(single, n, image, target, output)
        except LinregError as error:
            raise DmbpError(f"image {n}: {error}") from error
        yield question


def _class(label: Any) -> int:
    """The class that the y of a pair (x, y) is."""
    index = whole_number(label)
    if index is None:
        raise LinregError(f"the second of its pair is {label!r}, no class: say with `targets` which score to explain")
    return index


@plain()
def _question(graph: OperatorGraph, n: int, image: Any, target: Target, output: Tensor) -> Question:
    x = fitting(graph, image)
    weights = cotangent(target, output)[0]
    given = held(target)
    of_classes = isinstance(given, Tensor) and not given.is_floating_point()
    is_class = isinstance(given, int) or of_classes
    return Question(n, x, int(given) if is_class else weights.to("cpu", copy=True), weights)  # type: ignore[arg-type]
