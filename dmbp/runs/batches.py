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
from tqdm.auto import tqdm

from dmbp.errors import DmbpError
from dmbp.explanation import explain
from dmbp.files import writable
from dmbp.learning.options import Options, OptionWords, takes_options
from dmbp.result import Result
from dmbp.runs.loss_code import loss_record
from dmbp.runs.memory import available, footprint, is_out_of_memory
from dmbp.runs.shelf import Shelf, digest
from linreg import LinregError, OperatorGraph, trace
from linreg.capture.export import run
from linreg.capture.private import private
from linreg.target import Target, cotangent

MARGIN = 1.5  # what libraries and the allocator take beyond the tensors
SHARE = 0.6  # of the free memory that a batch may take
ENOUGH = 2**28  # bytes: a larger batch is no faster on a CPU
LEAST, MOST = 4, 256  # images: a batch of less gains, one of more does not, on any network

Images = Tensor | Iterable[Tensor]
Targets = Target | Iterable[int | Tensor]


@dataclass(frozen=True, eq=False)
class Explained:
    """The explanation of one image: the split of its score, and its maps, on the CPU and shaped like the image.

    `target` is the class, or the weights w of the output, that y is the score of; the maps are ∇⁺ ⊙ x, ∇⁻ ⊙ x and
    their sum (`dmbp.Result.attribution`), and the complete map, with channels summed (`dmbp.Result.complete`);
    `iterations` counts the updates of this image's masks.
    """

    index: int
    target: int | Tensor
    y: float
    positive: float
    negative: float
    nuisance: float
    unmasked: float
    attribution: Tensor
    positive_attribution: Tensor
    negative_attribution: Tensor
    complete: Tensor
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
    x: Tensor
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
    options: Options | None = None,
    batch_size: int | None = None,
    out: str | Path | None = None,
    progress: bool = True,
    **words: Unpack[OptionWords],
) -> Iterator[Explained]:
    """Explain each of many images of one shape, in order, as `dmbp.explain` does one (to rounding).

    `images` is a tensor (M, …), a sequence or Dataset, or any iterable of tensors (…) or (1, …), read as they are
    needed. `targets` is one target for all (a class, weights of the output, None for the one score that there is), or
    an iterable of one for each image. The options, `iterations` to `compiled`, are told in `Options`; `options` gives
    them as one value, in which those given by a word of their own are changed.

    The model is traced once, on the first batch. `batch_size` None takes as many images as fit the free memory, by the
    footprint of one, but no more than make it faster; where memory runs out nevertheless, batches are halved. A
    network that takes only one batch size gets that (trace a module that takes no single image with `batch_size`).

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
    options = Options.of(options, words)
    if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1):
        raise DmbpError(f"the batch size must be a whole number of at least 1, or None, not {batch_size!r}")
    one_by_one, count = _each(images)
    shelf = None if out is None else _shelf(Path(out), options)

    def explained() -> Iterator[Explained]:
        tensors = _checked(one_by_one)
        if not (first := list(islice(tensors, batch_size or 1))):
            return
        graph = _graph(model, first)
        size = graph.batch or batch_size
        if batch_size not in (None, size):
            raise DmbpError(f"this network takes batches of {size} images only: leave out batch_size={batch_size}")
        bar = tqdm(total=count, desc="explaining images", disable=None if progress else True, miniters=0)
        batches = Batches(graph, options, shelf and shelf.of(graph), bar, size)
        try:
            yield from batches.run(_questions(graph, chain(first, tensors), count, targets))
        finally:
            bar.close()

    return explained()


def _shelf(folder: Path, options: Options) -> Shelf:
    made = {**options.record(), "loss": loss_record(options.loss)}
    return Shelf(writable(folder), json.loads(json.dumps(made)))


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
            raise DmbpError(
                f"{path} lacks {error}: another version of dmbp wrote it; delete it, or give another folder with `out`"
            ) from error

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

    @torch.inference_mode(False)
    def _result(self, questions: list[Question], **changed: Any) -> Result:
        x, weights = torch.stack([q.x for q in questions]), torch.stack([q.weights for q in questions])
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


def _split(result: Result, questions: Sequence[Question]) -> list[Explained]:
    held: dict[str, Any] = {part: getattr(result.split, part).tolist() for part in SCORES}
    maps = (result.attribution, result.positive, result.negative, result.complete)
    held |= dict(zip(MAPS, (m.cpu() for m in maps), strict=True))
    return [
        Explained(
            index=question.index, target=question.target, iterations=int(result.updates[n]),
            **{name: values[n].clone() if name in MAPS else values[n] for name, values in held.items()},
        )
        for n, question in enumerate(questions)
    ]  # fmt: skip


def _to_arrays(value: Explained) -> dict[str, np.ndarray]:
    held = {field.name: getattr(value, field.name) for field in fields(value)}
    return {name: v.numpy(force=True) if isinstance(v, Tensor) else np.array(v) for name, v in held.items()}


def _from_arrays(arrays: Mapping[str, np.ndarray]) -> Explained:
    held: dict[str, Any] = {}
    for field in fields(Explained):
        value = arrays[field.name]
        whole = field.name in MAPS or (field.name == "target" and value.dtype.kind == "f")
        held[field.name] = torch.from_numpy(value) if whole else value.item()
    return Explained(**held)


def _each(images: Images) -> tuple[Iterator[Any], int | None]:
    """The images one after another, and how many there are, where they know it."""
    try:
        count = len(images) if isinstance(images, Sized) else None
        if count is not None and hasattr(images, "__getitem__"):  # a Dataset need not be iterable
            return (images[n] for n in range(count)), count
        return iter(images), count
    except TypeError:
        came = "one number" if isinstance(images, Tensor) else type(images).__name__
        raise DmbpError(f"images must be a tensor (M, …) or an iterable of tensors, not {came}") from None


def _each_target(targets: Targets, shape: tuple[int, ...]) -> Iterable[Target]:
    """The targets one after another, without end where one serves all."""
    if isinstance(targets, Tensor) and targets.is_floating_point() and tuple(targets.shape) == shape:
        return repeat(targets)
    try:
        iter(targets)  # type: ignore[arg-type]
    except TypeError:  # None and numbers
        return repeat(targets)  # type: ignore[arg-type]
    return targets  # type: ignore[return-value]


def _checked(images: Iterator[Any]) -> Iterator[Tensor]:
    """The images, detached, as long as they are finite tensors of one shape and dtype."""
    first: Tensor | None = None
    for n, x in enumerate(images):
        if not isinstance(x, Tensor):
            advice = ": of pairs give the first, (x for x, label in dataset)" if isinstance(x, tuple | list) else ""
            raise DmbpError(f"image {n} must be a torch.Tensor, not {type(x).__name__}{advice}")
        first = x if first is None else first
        if x.shape != first.shape or x.dtype != first.dtype:
            raise DmbpError(
                f"image {n} is {tuple(x.shape)} of {x.dtype}, and image 0 {tuple(first.shape)} of {first.dtype}: all "
                "must be of one shape and dtype"
            )
        if not x.isfinite().all():
            raise DmbpError(f"image {n} holds NaN or infinite values: a linear region needs finite numbers")
        yield x.detach()


@torch.inference_mode(False)
def _graph(model: nn.Module | OperatorGraph, images: Sequence[Tensor]) -> OperatorGraph:
    """The graph, traced on these images unless it is one."""
    if isinstance(model, OperatorGraph):
        return model
    if not isinstance(model, nn.Module):
        raise DmbpError(f"expected a torch.nn.Module or a graph traced from one, not {type(model).__name__}")
    device = next(chain(model.parameters(), model.buffers(), images)).device
    example = torch.stack([x.to(device) for x in images])
    if example.dim() > 1 and example.shape[1] == 1 and not _runs(model, example):
        example = example.squeeze(1)
    return trace(model, example)


def _runs(model: nn.Module, example: Tensor) -> bool:
    try:
        with private(model) as own:
            run(own, example)
    except LinregError:
        return False
    return True


def _questions(
    graph: OperatorGraph, images: Iterator[Tensor], count: int | None, targets: Targets
) -> Iterator[Question]:
    """Each image with its target, in the network's terms. Raises DmbpError, with the index, where one does not fit."""
    single, shape = replace(graph, batch=None), graph.shape(graph.output)
    output = torch.zeros(1, *shape, dtype=graph.dtype, device=graph.device)
    each = _each_target(targets, shape)
    if count is not None and isinstance(each, Sized) and len(each) != count:
        raise DmbpError(f"there are {count} images, and {len(each)} targets")
    rest = iter(each)
    for n, image in enumerate(images):
        x = image.to(graph.device)
        x = x[0] if x.shape == (1, *graph.input_shape) else x
        try:
            single.check(x[None])
            target = next(rest)
            weights = cotangent(target, output)[0]
        except StopIteration:
            raise DmbpError(f"image {n} has no target: there are {n} targets only") from None
        except LinregError as error:
            raise DmbpError(f"image {n}: {error}") from error
        whole = torch.as_tensor(target if target is not None else weights)
        yield Question(n, x, weights.to("cpu", copy=True) if whole.is_floating_point() else int(whole), weights)
