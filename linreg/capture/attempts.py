"""The ways in which a network may be captured, in turn: for any batch, image by image, for one batch size."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from linreg.approximation import apart
from linreg.capture.agreement import (
    TOLERANCE,
    Differs,
    Uneven,
    close,
    compare,
    compare_batch,
    compare_program,
    other_batches,
)
from linreg.capture.example import Arguments
from linreg.capture.export import NotExported, export, run
from linreg.capture.fuse import fuse_batch_norm
from linreg.capture.names import name_calls
from linreg.capture.outputs import NoOutput, check_kind, pick
from linreg.capture.private import watched_hooks
from linreg.capture.program import Batch, Program
from linreg.capture.reference import Reference
from linreg.capture.refuse import Arranged
from linreg.errors import LinregError
from linreg.graph import OperatorGraph

Observed = Sequence[tuple[Arguments, Tensor]]  # batches, and what the model gives for each
SCALES = (-0.1, 10.0, 1000.0)
AGAIN = (NotExported, Arranged, Uneven)  # refusals that are a matter of the batch, perhaps


@dataclass(frozen=True, eq=False)
class Attempts:
    """A model in eval mode, which may be run and written to, an example (N, …), and the options of `trace`.

    `within` says that what the model gives is what a module within it gives: parts may be merged with images there.
    """

    model: nn.Module
    example: Arguments
    output: str | int | None
    pieces: int | None
    fuse: bool
    within: bool = False

    def graph(self) -> OperatorGraph:
        """The graph of the first way in which the model can be captured.

        Raises LinregError where there is none: why the first failed, unless it is that torch.export cannot capture the
        model for any batch; then why it cannot for one, or whichever of the two knows the line.
        """
        takes_all = self._run_first()
        first: LinregError | None = None
        if takes_all:
            try:
                return self._for_any_batch()
            except LinregError as error:
                if self.example.shared != self.example.fixed:
                    with suppress(LinregError):  # what is fixed may look each image's own, by its size alone
                        return replace(self, example=self.example.sharing_all())._for_any_batch()
                if not isinstance(error, AGAIN):
                    raise
                first = error
        alone = self._alone(takes_all)
        if alone:
            try:
                return self._image_by_image(alone)
            except LinregError as error:
                first = first or error
        if takes_all and isinstance(first, NotExported):
            return self._for_one_size(first)
        raise first or LinregError("the model gives one image something else alone than in a batch")

    def graph_up_to(self, name: str | int | None) -> OperatorGraph:
        """The graph of what leads to the output; where it is none of the model's, to the call whose node has its name.

        What the model gives there nobody can observe: the exported program is compared with the model, and the graph
        with that program. Raises LinregError where there is neither, and where the model is not captured for any batch.
        """
        if not isinstance(name, str) or name != self.output:  # a module's, which the model gives by now
            return self.graph()
        try:
            pick(run(self.model, self.example), self.output, alone=True)
        except NoOutput as error:
            none = error
        else:
            return self.graph()
        example = self.example.at_least_two()
        exported = export(self.model, example, open_batch=True)
        whole = Program(exported, 0, Batch.OPEN, self.pieces, example.held_places)
        calls = name_calls(whole.all_calls, example.inputs.nodes.values())
        ends = next((call for call, called in calls.items() if called == name), None)
        if ends is None:
            near = get_close_matches(name, calls.values(), n=3) or list(calls.values())[-3:]
            raise LinregError(f"{none}; or a node that no module owns, such as {', '.join(map(repr, near))}")
        batches = [(example, run(self.model, example)), *other_batches(self.model, example)]
        for batch, value in batches:
            compare_program(whole, batch, value)
        program = replace(whole, ends=ends)
        return self._made(program, [(batch, Reference(program, {})(*batch.values)) for batch, _ in batches])

    def _run_first(self) -> bool:
        """Whether the model takes the example at once, and not only each image alone.

        Before all else: why a model fails is not for the exporter to say.
        """
        with watched_hooks(self.model):
            try:
                result = run(self.model, self.example)
            except LinregError:
                if len(self.example) == 1:
                    raise
                with suppress(LinregError):
                    run(self.model, self.example.mapped(lambda x: x[:1]))
                    return False
                raise
        check_kind(result)
        return True

    def _coarse(self) -> LinregError | None:
        """An error that says so, where the model itself is not what it is in double precision."""
        example, dtype = self.example, self.example.first.dtype
        if dtype == torch.float64:
            return None
        try:
            expected, _ = pick(run(self.model, example), self.output, alone=True)
            exact, _ = pick(run(copy.deepcopy(self.model).double(), example.mapped(_doubled)), self.output, alone=True)
        except (LinregError, RuntimeError, TypeError):
            return None
        if exact.dim() == 0 or close(exact, expected.double(), TOLERANCE[dtype] / 10):
            return None
        why = f"{dtype} is too coarse for this network: in it the model itself differs from what it gives in double"
        return LinregError(f"{why} precision, and so would its graph: trace model.double() with an example.double()")

    def _for_any_batch(self) -> OperatorGraph:
        example = self.example.at_least_two()
        exported = export(self.model, example, open_batch=True)
        others = other_batches(self.model, example)
        expected, place = pick(run(self.model, example), self.output)
        observed = [(batch, pick(value, self.output, alone=len(batch) == 1)[0]) for batch, value in others]
        return self._made(
            Program(exported, place, Batch.OPEN, self.pieces, example.held_places), [(example, expected), *observed]
        )

    def _for_one_size(self, before: NotExported) -> OperatorGraph:
        """The batch size is no matter of this one; the one before may still be the one that knows the line."""
        try:
            exported = export(self.model, self.example, open_batch=False)
        except NotExported as error:
            telling = before if before.telling and not error.telling else error
            raise telling from telling.__cause__
        expected, place = pick(run(self.model, self.example), self.output)
        program = Program(exported, place, Batch.FIXED, self.pieces, self.example.held_places)
        return self._made(program, [(self.example, expected)])

    def _alone(self, takes_all: bool) -> Observed:
        """The first and last image, each with what the model gives for it alone, and both in a batch.

        Nothing where it gives an image something else alone than among others, at any of some scales: a model may use
        their number as a threshold.
        """
        images = self.example.at_least_two() if takes_all else self.example
        observed = self._at(images, takes_all)
        scaled = (images.mapped(_times(scale), fixed=_as_it_is) for scale in SCALES)
        same = observed and all(self._at(each, takes_all) for each in scaled)
        return observed if same else ()

    def _at(self, images: Arguments, takes_all: bool) -> Observed:
        ends = images.mapped(lambda x: x[[0, -1]])
        each = [ends.mapped(lambda x: x[:1]), ends.mapped(lambda x: x[1:])]
        try:
            single = [pick(run(self.model, image), self.output, alone=True)[0] for image in each]
            batch = self._together(images, single[0]) if takes_all else None
        except LinregError:
            return ()
        if batch is not None and self.within:
            batch = _parted(batch, len(images), single)
        first = single[0] if batch is None else batch
        shape = first.shape[1:] if batch is not None or first.shape[:1] == (1,) else first.shape
        if any(value.numel() != shape.numel() for value in single):
            return ()
        values = torch.cat([value.reshape(1, *shape) for value in single])
        if batch is not None and values.isfinite().all() and not _agree(batch, images, values):
            return ()
        return [*zip(each, values.split(1), strict=True), (ends, values)]

    def _together(self, images: Arguments, first: Tensor) -> Tensor | None:
        """What the model gives for several images; None where it takes one only, or the first of them."""
        try:
            batch, _ = pick(run(self.model, images), self.output)
        except LinregError:
            if len(self.example) > 1:
                raise
            return None
        one = len(self.example) == 1 and batch.shape == first.shape and close(batch, first)
        return None if one else batch

    def _image_by_image(self, observed: Observed) -> OperatorGraph:
        one = self.example.mapped(lambda x: x[:1])
        exported = export(self.model, one, open_batch=False)
        _, place = pick(run(self.model, one), self.output, alone=True)
        if one.shared != one.fixed:
            observed = observed[:-1]  # the graph takes one choice of the fixed inputs, and a batch holds several
        return self._made(Program(exported, place, Batch.ONE, self.pieces, one.held_places), observed)

    def _made(self, program: Program, observed: Observed) -> OperatorGraph:
        """The graph of a program, which gives what was observed; `translate` brings symbolic shapes, slow to import."""
        from linreg.capture.translate import translate

        example, expected = observed[0]
        graph, origins = translate(program, example)
        if self.fuse:
            graph = fuse_batch_norm(graph)
        try:
            _verify(graph, program, origins, observed)
        except Differs as error:
            raise self._coarse() or error from None
        interpolants = graph.approximation.interpolants
        if not interpolants:
            return graph
        images = len(self.example)
        if program.batch is Batch.ONE:
            example, expected = observed[-1]
            images = len(example)
        return replace(graph, approximation=apart(interpolants, graph(example.given)[:images], expected[:images]))


def _parted(batch: Tensor, images: int, ends: Sequence[Tensor]) -> Tensor:
    """A batch's result by images, (N, P, …), where it has the P parts of each merged with the batch, (N · P, …).

    `ends` are the results for the first and the last image alone, (P, …); parts may lie before images or behind them.
    """
    one = ends[0]
    if one.dim() == 0 or len(batch) == images or batch.shape != (images * len(one), *one.shape[1:]):
        return batch
    by_image = batch.reshape(images, *one.shape)
    if close(by_image[[0, -1]], torch.stack(list(ends))):
        return by_image
    return batch.reshape(len(one), images, *one.shape[1:]).transpose(0, 1)


def _times(scale: float) -> Callable[[Tensor], Tensor]:
    return lambda x: scale * x


def _as_it_is(value: Tensor) -> Tensor:
    return value


def _doubled(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


def _agree(batch: Tensor, images: Arguments, ends: Tensor) -> bool:
    """Whether a batch's result is one for each image, and these for the first and the last."""
    return len(batch) == len(images) and close(batch[[0, -1]], ends)


def _verify(graph: OperatorGraph, program: Program, origins: dict[str, str], observed: Observed) -> None:
    """Raise LinregError unless the graph gives what the model was observed to give, on the first batch in each node.

    A graph with interpolants must give what the program gives with these in place of its calls, and the program itself
    what the model gives.
    """
    interpolants = graph.approximation.interpolants
    exact = Reference(program, {})
    reference = Reference(program, {origins[name]: interpolant for name, interpolant in interpolants.items()})
    (example, expected), *others = observed
    wanted = reference(*example.values).reshape(expected.shape) if interpolants else expected
    compare(graph, wanted, example, reference, origins)
    if interpolants and not close(exact(*example.values).reshape(expected.shape), expected):
        raise LinregError("the exported program does not reproduce the model's output: please report this network")
    for batch, value in others:
        if interpolants:
            compare_batch(exact.of_batch(batch), batch, value)
            value = reference.of_batch(batch)
        compare_batch(_given(graph, batch), batch, value)


def _given(graph: OperatorGraph, batch: Arguments) -> Tensor:
    """What the graph gives for a batch. Raises LinregError where its operators take another number of images only."""
    try:
        return graph(batch.given)
    except RuntimeError as error:
        first = str(error).partition("\n")[0]
        raise LinregError(f"the graph does not take {len(batch)} images at once: {first}") from error
