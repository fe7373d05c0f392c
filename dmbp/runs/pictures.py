"""Images as they come: tensors, pairs with a label, batches of them, a DataLoader; each checked, one after another."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from dmbp.errors import DmbpError
from dmbp.runs.several import Several, check_like, rows_of, runs
from linreg import OperatorGraph
from linreg.capture.example import Fixed


class Pictures:
    """The images of `given`, one after another, and how many there are, where they know it.

    An item is an image (…) or (1, …), or a batch of them: those of a DataLoader are, and what the model takes as it is
    and not with a dimension more. Of a pair (x, y) it is x, and `label()` gives the y of the first image that it was
    not asked for yet, None where there is none.
    """

    def __init__(self, given: Any, model: nn.Module | OperatorGraph, fixed: Fixed = None) -> None:
        self.model, self.fixed = model, fixed
        self.loaded = isinstance(given, DataLoader)
        self.batches: bool | None = False if isinstance(given, Tensor) else None
        if self.loaded and given.batch_sampler is not None:
            self.batches = True
        # A loader's length counts batches, if it is known at all.
        items: tuple[Iterator[Any], int | None] = (iter(given), None) if self.loaded else _opened(given, model, fixed)
        self.items, self.count = items
        self.labels = deque[Any]()

    def __iter__(self) -> Iterator[Any]:
        return _checked(self._each())

    def label(self) -> Any:
        return self.labels.popleft()

    def _each(self) -> Iterator[Any]:
        for item in self.items:
            is_pair = isinstance(item, tuple | list) and bool(item) and isinstance(item[0], Tensor | Mapping)
            x, y = (item[0], item[1] if len(item) > 1 else None) if is_pair else (item, None)
            images = self._images(x)
            if images is None:
                self.labels.append(y)
                yield x
                continue
            self.count = None  # it counted batches
            for n, image in enumerate(images):
                self.labels.append(None if y is None else y[n])
                yield image

    def _images(self, x: Any) -> Iterable[Any] | None:
        """The images of a batch, a tensor or a loader's dict of tensors; None where x is no batch."""
        if isinstance(x, Mapping) and self.batches:
            return rows_of(x, self.model, self.fixed, collated=True)[0]
        return x if isinstance(x, Tensor) and self._is_batch(x) else None

    def _is_batch(self, x: Tensor) -> bool:
        """Whether the items are batches: said by the first."""
        if self.batches is None:
            if isinstance(self.model, OperatorGraph):
                self.batches = len(x.shape) > 1 and tuple(x.shape[1:]) == self.model.input_shape
            else:
                self.batches = x.dim() > 1 and len(x) > 1 and runs(self.model, x) and not runs(self.model, x[None])
        return self.batches


def _opened(images: Any, model: nn.Module | OperatorGraph, fixed: Fixed) -> tuple[Iterator[Any], int | None]:
    """The items one after another, and how many there are, where they know it."""
    if isinstance(images, Mapping):
        return rows_of(images, model, fixed)
    try:
        count = len(images) if isinstance(images, Sized) else None
        if count is not None and hasattr(images, "__getitem__"):  # a Dataset need not be iterable
            return (images[n] for n in range(count)), count
        return iter(images), count
    except TypeError:
        came = "one number" if isinstance(images, Tensor) else type(images).__name__
        raise DmbpError(f"images must be a tensor (M, …) or an iterable of tensors, not {came}") from None


def _checked(images: Iterator[Any]) -> Iterator[Any]:
    """The images, detached, as long as they are finite tensors of one shape and dtype."""
    first: Any = None
    for n, x in enumerate(images):
        if isinstance(first, Several) and isinstance(x, Tensor):
            raise DmbpError(f"image {n} is one tensor, and image 0 has the inputs {', '.join(first.values)}")
        if isinstance(x, Mapping | Several) and not isinstance(first, Tensor):
            one = x if isinstance(x, Several) else Several(dict(x))
            first = one if first is None else first
            yield check_like(n, one, first)
            continue
        if not isinstance(x, Tensor):
            raise DmbpError(f"image {n} must be a torch.Tensor, or a pair of one and its class, not {type(x).__name__}")
        first = x if first is None else first
        if x.shape != first.shape or x.dtype != first.dtype:
            raise DmbpError(
                f"image {n} is {tuple(x.shape)} of {x.dtype}, and image 0 {tuple(first.shape)} of {first.dtype}: all "
                "must be of one shape and dtype"
            )
        if not x.isfinite().all():
            raise DmbpError(f"image {n} holds NaN or infinite values: a linear region needs finite numbers")
        yield x.detach().clone()  # whoever gives them may use one buffer for all
