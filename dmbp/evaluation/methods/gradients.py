"""Methods made of gradients of the network itself: at the picture, near it, or on a path to it.

Index letters: N pictures, i points of a path or samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from dmbp.evaluation.methods.method import BATCH, Method, gradient, path_sum
from dmbp.evaluation.worded import option

PAPER = "the paper, Section 3: the map of all gradient-based methods"
OURS = "ours"
TOGETHER = "pictures that go through the network together"


@dataclass(frozen=True)
class ND(Method):
    """c ⊙ x with c = ∇ₓ y: what the paper calls ND, not disentangled (Eq. 5), and in its Table 2 Grad.

    On a piecewise-linear network it is the part of the score that comes straight from pixels.
    """

    label: ClassVar[str] = "nd"
    title: ClassVar[str] = "Not disentangled (ND), gradient × input"
    source: ClassVar[str] = "the paper, Eq. 5"
    times_x: ClassVar[str] = "yes"
    colours: ClassVar[str] = "own values"
    sign: ClassVar[str] = "signed"

    def attribute(self, network: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        return gradient(network, x, target) * x


@dataclass(frozen=True)
class Gradient(Method):
    """c = ∇ₓ y, with its sign, colours apart.

    Simonyan et al. take its absolute value and the largest over the colours, which leaves no sign to rank by, and is
    not done here. The paper's Grad is c ⊙ x: `ND`.
    """

    label: ClassVar[str] = "gradient"
    title: ClassVar[str] = "Gradient"
    source: ClassVar[str] = "Simonyan et al. (2014)"
    times_x: ClassVar[str] = "no"
    colours: ClassVar[str] = "own values (there: the largest)"
    sign: ClassVar[str] = "signed (there: absolute)"

    def attribute(self, network: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        return gradient(network, x, target)


@dataclass(frozen=True)
class IntegratedGradients(Method):
    """(x − x₀) ⊙ ∫₀¹ ∇f(x₀ + α (x − x₀)) dα, with x₀ = `baseline` everywhere; it sums to f(x) − f(x₀).

    "gausslegendre" is Captum's rule, and these are Captum's numbers; "riemann" is the paper's sum, of the right ends of
    `steps` equal intervals.
    """

    label: ClassVar[str] = "ig"
    title: ClassVar[str] = "Integrated Gradients (IG)"
    source: ClassVar[str] = "Sundararajan et al. (2017)"
    times_x: ClassVar[str] = "x − x₀"
    colours: ClassVar[str] = "own values"
    sign: ClassVar[str] = "signed"

    steps: int = option(50, "gradients on the path", "Captum")
    rule: str = option("gausslegendre", "how the integral is summed: gausslegendre or riemann", "Captum")
    baseline: float = option(0.0, "x₀, in the network's input space: 0 is its mean colour", "Captum")
    batch_size: int = option(BATCH, TOGETHER, OURS, decides=False)

    def __post_init__(self) -> None:
        self._check_numbers("steps", "batch_size")
        self._check_word("rule", RULES)

    def attribute(self, network: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        start = torch.full_like(x, self.baseline)
        places, weights = (torch.from_numpy(each).to(x) for each in RULES[self.rule](self.steps))
        column = (-1, *[1] * (x.dim() - 1))

        def points(n: int) -> Iterator[tuple[Tensor, Tensor]]:
            for alpha, weight in zip(places.split(self.batch_size), weights.split(self.batch_size), strict=True):
                yield start[n] + alpha.view(column) * (x[n] - start[n]), weight.view(column)

        sums = [path_sum(network, points(n), int(k)) for n, k in enumerate(target)]
        return torch.stack(sums) * (x - start)


@dataclass(frozen=True)
class SmoothGrad(Method):
    """x ⊙ (1/n) Σ_i ∇f(x + noise_i): the mean gradient of n noisy copies, by default times the picture.

    The noise is normal, of `spread` times the range of the picture's own values. Each picture meets the same draws.
    """

    label: ClassVar[str] = "smoothgrad"
    title: ClassVar[str] = "SmoothGrad (SG)"
    source: ClassVar[str] = "Smilkov et al. (2017)"
    times_x: ClassVar[str] = "yes (there: an option)"
    colours: ClassVar[str] = "own values"
    sign: ClassVar[str] = "signed (there: absolute, to draw)"

    samples: int = option(50, "noisy copies", "Smilkov et al., Section 3: beyond 50 little is gained")
    spread: float = option(0.15, "σ of the noise, in ranges of the picture", "PAIR's saliency; there 0.1 to 0.2")
    times_input: bool = option(True, "whether the mean is multiplied by x", PAPER)
    seed: int = option(0, "of the noise", OURS)
    batch_size: int = option(BATCH, TOGETHER, OURS, decides=False)

    def __post_init__(self) -> None:
        self._check_numbers("samples", "batch_size")
        self._check_numbers("seed", least=0)
        self._check_positive("spread")

    def attribute(self, network: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        weight = x.new_full((1,) * x.dim(), 1 / self.samples)

        def points(n: int) -> Iterator[tuple[Tensor, Tensor]]:
            generator = torch.Generator().manual_seed(self.seed)
            sigma = self.spread * (x[n].max() - x[n].min())
            for _ in range(self.samples):  # one by one, so that the draws do not hang on batch_size
                noise = torch.randn(x.shape[1:], generator=generator, dtype=torch.float64).to(x)
                yield (x[n] + sigma * noise)[None], weight

        sums = [path_sum(network, _batches(points(n), self.batch_size), int(k)) for n, k in enumerate(target)]
        mean = torch.stack(sums)
        return mean * x if self.times_input else mean


@dataclass(frozen=True)
class BlurIG(Method):
    """−∫ ∇f(x_σ) ⊙ ∂x_σ/∂σ dσ from σ = 0 to `max_sigma`, with x_σ the picture blurred by a Gaussian.

    As PAIR's saliency sums it, whose numbers these are: left ends of `steps` equal intervals, ∂x_σ/∂σ by a difference
    of `grad_step`, a Gaussian cut at 4 σ, zeros beyond the border. Here it blurs in float64, and explains the score of
    the class, where PAIR's examples take the softmax. It sums to about f(x) − f(x blurred by `max_sigma`).
    """

    label: ClassVar[str] = "blur-ig"
    title: ClassVar[str] = "Blur Integrated Gradients (BIG)"
    source: ClassVar[str] = "Xu et al. (2020)"
    times_x: ClassVar[str] = "−∂x_σ/∂σ"
    colours: ClassVar[str] = "own values"
    sign: ClassVar[str] = "signed"

    steps: int = option(100, "blurred pictures on the path", "PAIR's saliency")
    max_sigma: float = option(50.0, "σ of the last blur, in pixels", "PAIR's saliency")
    grad_step: float = option(0.01, "the difference in σ of which ∂x_σ/∂σ is made", "PAIR's saliency")
    batch_size: int = option(BATCH, TOGETHER, OURS, decides=False)

    def __post_init__(self) -> None:
        self._check_numbers("steps", "batch_size")
        self._check_positive("max_sigma", "grad_step")

    def attribute(self, network: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        sigmas = [i * self.max_sigma / self.steps for i in range(self.steps + 1)]

        def points(n: int) -> Iterator[tuple[Tensor, Tensor]]:
            exact = x[n].double().cpu()
            for sigma, after in pairwise(sigmas):
                here = gaussian_blur(exact, sigma)
                slope = (gaussian_blur(exact, sigma + self.grad_step) - here) / self.grad_step
                yield here.to(x)[None], (-(after - sigma) * slope).to(x)[None]

        return torch.stack(
            [path_sum(network, _batches(points(n), self.batch_size), int(k)) for n, k in enumerate(target)]
        )


def gaussian_blur(picture: Tensor, sigma: float) -> Tensor:
    """(C, *picture) blurred along each axis of the picture, cut at 4 σ, with zeros beyond the border, as scipy does."""
    for _ in range(picture.dim() - 1):
        matrix = torch.from_numpy(_toeplitz(picture.shape[1], sigma))
        picture = torch.tensordot(picture, matrix, dims=([1], [1]))  # what is done comes last: in the end, as before
    return picture


@lru_cache(maxsize=512)
def _toeplitz(size: int, sigma: float) -> np.ndarray:
    radius = int(4 * sigma + 0.5)
    steps = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 / sigma**2 * steps**2) if radius else np.ones(1)
    weights = np.concatenate([weights / weights.sum(), np.zeros(1)])  # what lies beyond the radius reads the zero
    distance = np.abs(np.arange(size)[:, None] - np.arange(size))
    return weights[np.where(distance <= radius, distance + radius, 2 * radius + 1)]


def _batches(points: Iterator[tuple[Tensor, Tensor]], batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    held: list[tuple[Tensor, Tensor]] = []
    for point in points:
        held.append(point)
        if len(held) == batch_size:
            yield _joined(held)
            held = []
    if held:
        yield _joined(held)


def _joined(held: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    points, weights = zip(*held, strict=True)
    return torch.cat(points), torch.cat(weights)


def _gauss_legendre(steps: int) -> tuple[np.ndarray, np.ndarray]:
    places, weights = np.polynomial.legendre.leggauss(steps)
    return (1 + places) / 2, weights / 2


def _riemann(steps: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(1, steps + 1) / steps, np.full(steps, 1 / steps)


RULES: dict[str, Callable[[int], tuple[np.ndarray, np.ndarray]]] = {
    "gausslegendre": _gauss_legendre,
    "riemann": _riemann,
}
