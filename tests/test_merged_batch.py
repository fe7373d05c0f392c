"""Models whose values are not arranged by images: captured at one image, and the graph applied to any number."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from agrees import assert_agrees
from approx import EXACT, values
from nets import Lambda, seeded
from torch import Tensor, nn

import linreg
from linreg import LinregError

Part = Callable[[], nn.Module]


def mlp(*sizes: int) -> Part:
    """Linear layers with ReLU between them."""

    def build() -> nn.Module:
        layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
        return nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))[:-1]

    return build


def stem() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))


# ---- frames, views, points or tokens merged with the batch, and parted again ----


def frames(x: Tensor, f: nn.Module, g: nn.Module) -> Tensor:
    B, T, C, H, W = x.shape
    return g(f(x.view(B * T, C, H, W)).view(B, T, -1).mean(1))


def views(x: Tensor, f: nn.Module, g: nn.Module) -> Tensor:
    h = f(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    return g(h.flatten(2).amax(1))


def points(x: Tensor, f: nn.Module, g: nn.Module) -> Tensor:
    return g(f(x.reshape(-1, 3)).reshape(len(x), -1, 5).relu().amax(1))


def tokens(x: Tensor, f: nn.Module, g: nn.Module) -> Tensor:
    return g(f(x.reshape(-1, x.shape[-1]))).view(x.shape[0], -1)


def time_major(x: Tensor, f: nn.Module) -> Tensor:
    """As einops' `b t c -> (t b) c`, and back."""
    h = f(x.permute(1, 0, 2).reshape(-1, 4))
    return h.view(3, -1, 5).permute(1, 0, 2).flatten(1)


def resampled(x: Tensor, f: nn.Module) -> Tensor:
    h = F.pad(x.flatten(0, 1), (1, 1, 1, 1), mode="reflect")
    h = F.interpolate(F.avg_pool2d(f(h), 2), scale_factor=2, mode="bilinear")
    return F.pixel_shuffle(h, 2).view(len(x), -1)


def along_time(x: Tensor, f: nn.Module, g: nn.Module) -> Tensor:
    h = f(x.flatten(0, 1)).view(len(x), -1, 4)
    return g(h.transpose(1, 2)).mean(2)


def thresholds(x: Tensor, f: nn.Module) -> Tensor:
    h = f(x.flatten(0, 1))
    h = torch.where(h > 0.3, h, 0.1 * h) * (h < 2)
    return h.view(len(x), -1).sort(1).values[:, -7:]


def pair(x: Tensor, f: nn.Module) -> Tensor:
    """Two pictures in one batch."""
    h = f(torch.cat([x[:, 0], x[:, 1]]))
    return (h[: len(x)] - h[len(x) :]).abs()


# ---- something else before the batch ----


def recurrence(x: Tensor, f: nn.Module, g: nn.Module) -> Tensor:
    h, states = torch.zeros(x.shape[0], 5, dtype=x.dtype), []
    for step in x.permute(1, 0, 2):
        h = (f(step) + 0.5 * h).relu()
        states.append(h)
    return g(torch.stack(states).mean(0))


def positions(x: Tensor, f: nn.Module) -> Tensor:
    places = torch.arange(3, dtype=x.dtype).view(3, 1, 1)
    return f(x.transpose(0, 1) + places).relu().sum(0)


def heads(x: Tensor, f: nn.Module) -> Tensor:
    return torch.stack([f(x[:, t]).relu() for t in range(3)], 0).max(0).values


def written(x: Tensor, f: nn.Module) -> Tensor:
    out = torch.zeros(3, x.shape[0], 5, dtype=x.dtype)
    for t in range(3):
        out[t] = f(x[:, t]).relu()
    return out.cumsum(0)[1:].sum(0)


def contracted(x: Tensor, f: nn.Module) -> Tensor:
    return torch.einsum("tbc,ct->bt", f(x.transpose(0, 1)).relu(), torch.ones(5, 3, dtype=x.dtype).triu())


def scores_of_steps(x: Tensor, f: nn.Module) -> Tensor:
    return f(x.transpose(0, 1)).relu().transpose(0, 1)


def from_the_left(x: Tensor, f: nn.Module) -> Tensor:
    mixing = torch.arange(6, dtype=x.dtype).view(2, 3)
    h = f(x.transpose(0, 1)).relu()
    return (mixing @ h.flatten(1)).view(2, len(x), 5).sum(0)


SMALL = {"f": mlp(4, 5)}
CASES: dict[str, tuple[Callable[..., Tensor], dict[str, Part], tuple[int, ...]]] = {
    "frames": (frames, {"f": stem, "g": mlp(16, 2)}, (2, 3, 2, 6, 6)),
    "frames of one image": (frames, {"f": stem, "g": mlp(16, 2)}, (1, 3, 2, 6, 6)),
    "views": (views, {"f": stem, "g": mlp(16, 5, 2)}, (2, 3, 2, 6, 6)),
    "points": (points, {"f": lambda: nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5)), "g": mlp(5, 2)}, (2, 7, 3)),
    "tokens": (tokens, {"f": mlp(3, 5), "g": lambda: nn.PReLU(5)}, (2, 7, 3)),
    "time major": (time_major, SMALL, (2, 3, 4)),
    "resampled": (resampled, {"f": lambda: nn.Conv2d(2, 8, 3)}, (2, 3, 2, 4, 4)),
    "along time": (along_time, {"f": mlp(5, 4), "g": lambda: nn.Conv1d(4, 3, 2)}, (2, 6, 5)),
    "thresholds": (thresholds, SMALL, (2, 3, 4)),
    "pair": (pair, SMALL, (2, 2, 4)),
    "recurrence": (recurrence, {"f": mlp(4, 5), "g": mlp(5, 2)}, (2, 3, 4)),
    "positions": (positions, SMALL, (2, 3, 4)),
    "heads": (heads, SMALL, (2, 3, 4)),
    "written": (written, SMALL, (2, 3, 4)),
    "contracted": (contracted, SMALL, (2, 3, 4)),
    "scores of steps": (scores_of_steps, SMALL, (2, 3, 4)),
    "from the left": (from_the_left, SMALL, (2, 3, 4)),
}


def model_of(case: str) -> tuple[nn.Module, Tensor]:
    function, parts, shape = CASES[case]
    return seeded(lambda: Lambda(function, **{name: part() for name, part in parts.items()})), values(*shape)


@pytest.mark.parametrize("case", CASES)
def test_values_that_are_not_arranged_by_images(case: str) -> None:
    model, x = model_of(case)
    graph = assert_agrees(model, x)
    assert graph.batch is None and graph.one_by_one
    assert repr(graph).endswith("each image by itself)") and repr(graph).startswith("OperatorGraph((N, ")


def test_frames_are_what_the_loop_over_them_gives() -> None:
    """The loop is arranged by images, so it is captured for any batch at once; masks and regions are the same."""
    model, x = model_of("frames")
    f, g = model.f, model.g
    loop = Lambda(lambda x, f, g: g(torch.stack([f(x[:, t]).flatten(1) for t in range(3)], 1).mean(1)), f=f, g=g)
    merged, apart = linreg.trace(model, x).linearize(x), linreg.trace(loop, x).linearize(x)
    assert merged.graph.one_by_one and not apart.graph.one_by_one
    for target in (0, 1):
        torch.testing.assert_close(merged.weight(target), apart.weight(target), **EXACT)
        torch.testing.assert_close(merged.ledger(target).total, apart.ledger(target).total, **EXACT)


def test_gates_of_merged_frames_are_places_of_masks() -> None:
    model, x = model_of("frames")
    graph = linreg.trace(model, x)
    gates = [node for node in graph.nodes if node.is_gate]
    assert [gate.shape for gate in gates] == [(3, 4, 4, 4)]
    share = graph.linearize(x).open_fraction(gates[0].name)
    with torch.no_grad():
        inner = model.f[2](model.f[1](model.f[0](x.flatten(0, 1))))  # type: ignore[index]
    assert share == (inner > 0).double().mean().item()


# ---- models that take one image only ----


ONLY_ONE: dict[str, Callable[..., Tensor]] = {
    "a fixed batch of one": lambda x, f: f(x.view(1, 4)).relu(),
    "the first image": lambda x, f: f(x[0]).relu()[None],
    "without a batch": lambda x, f: f(x.view(4)).relu(),
    "a loop over one": lambda x, f: torch.cat([f(image[None]).relu() for (image,) in [x.unbind(0)]]),
}


@pytest.mark.parametrize("case", ONLY_ONE)
def test_a_model_of_one_image_takes_any_number(case: str) -> None:
    model = seeded(lambda: Lambda(ONLY_ONE[case], f=nn.Linear(4, 5)))
    graph = assert_agrees(model, values(1, 4))
    assert graph.batch is None and graph.one_by_one


def test_an_example_of_several_images_for_a_model_of_one() -> None:
    model = seeded(lambda: Lambda(ONLY_ONE["a fixed batch of one"], f=nn.Linear(4, 5)))
    assert_agrees(model, values(3, 4))


# ---- one score for each image, whatever their number ----


SQUEEZED: dict[str, Callable[..., Tensor]] = {
    "all": lambda x, f: f(x).squeeze(),
    "the last": lambda x, f: f(x).squeeze(-1),
    "of a picture": lambda x, f: f(x)[:, :, None, None].squeeze(),
    "within": lambda x, f: 2 * f(x).squeeze().relu() - 1,
}


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("case", SQUEEZED)
def test_one_score_by_squeeze(case: str, images: int) -> None:
    model, x = seeded(lambda: Lambda(SQUEEZED[case], f=mlp(4, 5, 1)())), values(images, 4)
    graph = assert_agrees(model, x)
    assert graph(x).shape == (images,)


# ---- wrappers ----


class StarArgs(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.net(*args, **kwargs)


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "star": StarArgs,
    "two of them": lambda net: StarArgs(StarArgs(net)),
    "moving average": lambda net: torch.optim.swa_utils.AveragedModel(net),
    "compiled": lambda net: torch.compile(net),  # type: ignore[return-value]
    "compiled within": lambda net: StarArgs(torch.compile(net)),  # type: ignore[arg-type]
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch._dynamo, as it is loaded
@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_takes_what_its_model_takes(name: str) -> None:
    net, x = seeded(mlp(4, 5, 2)), values(1, 4)
    plain, graph = linreg.trace(net, x), linreg.trace(WRAPPERS[name](net), x)
    assert graph.batch is None and not graph.one_by_one and len(graph.nodes) == len(plain.nodes)
    torch.testing.assert_close(graph(values(5, 4)), plain(values(5, 4)), **EXACT)


# ---- what stays refused: the images are not kept apart ----


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.relu() - x.mean(0),
        lambda x: x.view(-1).relu(),
        lambda x: torch.cat([x, x]).relu(),
        lambda x: x.flatten(0).cumsum(0).view(len(x), -1),
        lambda x: x.transpose(0, 1).relu(),
        lambda x: F.hardtanh(x.flatten(0), -len(x), 1e3).view(x.shape),
        lambda x: x.clamp(max=torch.full((), x.shape[0])),
    ],
)
@pytest.mark.parametrize("images", [1, 3])
def test_what_mixes_images_is_refused(function: Callable[[Tensor], Tensor], images: int) -> None:
    """Even where one image alone would have a graph: the model's value in a batch is another."""
    with pytest.raises(LinregError):
        graph = linreg.trace(Lambda(function), values(images, 4))
        assert graph.batch == images, "a graph of this number of images alone is right"
        raise LinregError


def test_a_smooth_unit_behind_merged_frames_is_named() -> None:
    model = Lambda(lambda x: x.flatten(0, 1).sigmoid().view(x.shape))
    with pytest.raises(LinregError, match=r"^cannot take node 'sigmoid', aten\.sigmoid: it is smooth"):
        linreg.trace(model, values(2, 3, 4))
    graph = linreg.trace(model, values(2, 3, 4), nonlinear="pwl", pieces=64)
    assert (graph(values(2, 3, 4)) - values(2, 3, 4).sigmoid()).abs().max() < 1e-2


# ---- several inputs, fixed ones, and modules within ----


class Clips(nn.Module):
    """Frames merged with the batch, beside a table and under a mask; scores behind a softmax."""

    def __init__(self, time_first: bool = False) -> None:
        super().__init__()
        self.stem, self.head, self.table, self.soft = stem(), nn.Linear(16, 2), nn.Linear(3, 2), nn.Softmax(-1)
        self.time_first = time_first

    def frames(self, x: Tensor) -> Tensor:
        if self.time_first:
            return self.stem(x.transpose(0, 1).flatten(0, 1)).view(x.shape[1], len(x), -1).transpose(0, 1)
        return self.stem(x.flatten(0, 1)).view(*x.shape[:2], -1)

    def forward(self, x: Tensor, table: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        h = self.frames(x)
        h = h.mean(1) if mask is None else (h * mask[..., None]).sum(1) / mask.sum(-1, keepdim=True)
        y = self.head(h)
        return self.soft(y) if table is None else y + self.table(table).relu()


class Each(Clips):
    """A score of each frame, and the mean of their softmaxes."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        h = self.frames(x)
        if self.time_first:
            h = h.transpose(0, 1)
        return self.soft(self.head(h.flatten(0, 1))).view(*h.shape[:2], -1).mean(0 if self.time_first else 1)


@pytest.mark.parametrize("kind", ["two inputs", "shared mask", "own mask", "own mask of two"])
def test_several_inputs_and_fixed_ones_go_together_with_merged_frames(kind: str) -> None:
    """Values and weights of each image are autograd's on the model itself, and the ledger sums to the score."""
    model, x, table = seeded(Clips), values(2, 3, 2, 6, 6), values(2, 3, seed=1)
    masks = torch.tensor([[1.0, 0, 2], [1, 3, 0]]).double()
    given: dict[str, Tensor] = {"x": x, "table": table}
    if kind != "two inputs":
        given["mask"] = masks[0] if kind == "shared mask" else masks
    fixed = [name for name in given if name == "mask"] + (["table"] if kind == "own mask of two" else [])
    graph = linreg.trace(model, given, fixed=fixed or None)
    assert graph.one_by_one and graph.batch is None
    own = kind.startswith("own")
    for images in ([0], [1]) if own else ([0, 1], [1]):
        part = {name: value if name == "mask" and not own else value[images] for name, value in given.items()}
        lin = graph.linearize(part)
        data = [part[name].clone().requires_grad_() for name in ("x", "table") if name not in fixed]
        words = {**part, **dict(zip((n for n in ("x", "table") if n not in fixed), data, strict=True))}
        y = model(**words)
        torch.testing.assert_close(lin.output, y.detach(), **EXACT)
        weights = lin.weight(1)
        found = weights if isinstance(weights, dict) else {"x": weights}
        for name, slope in zip(found, torch.autograd.grad(y[:, 1].sum(), data), strict=True):
            torch.testing.assert_close(found[name], slope, **EXACT)
        torch.testing.assert_close(lin.ledger(1).total, y[:, 1].detach(), **EXACT)
    if own:
        with pytest.raises(
            LinregError, match=r"captured image by image, and its fixed input '(mask|table)' is another"
        ):
            graph.linearize(given)
        same = {name: value[:1].expand_as(value) if name in fixed else value for name, value in given.items()}
        torch.testing.assert_close(graph(same), model(**same).detach(), **EXACT)


@pytest.mark.parametrize("time_first", [False, True])
def test_a_module_that_is_given_merged_frames_may_be_the_end(time_first: bool) -> None:
    """Its value for each frame, (N, T, K), is what it gives the loop over frames."""
    model, x = seeded(lambda: Each(time_first)), values(2, 3, 2, 6, 6)
    graph = linreg.trace(model, x, output="head")
    assert graph.one_by_one
    x = values(3, 3, 2, 6, 6, seed=2).requires_grad_()
    expected = torch.stack([model.head(model.stem(x[:, t]).flatten(1)) for t in range(3)], 1)
    lin = graph.linearize(x.detach())
    torch.testing.assert_close(lin.output, expected.detach(), **EXACT)
    weights = values(3, 2, seed=4)
    (slope,) = torch.autograd.grad((expected * weights).sum(), x)
    torch.testing.assert_close(lin.weight(weights), slope, **EXACT)


@pytest.mark.parametrize("case", ["frames", "views", "points", "thresholds", "heads"])
def test_the_module_of_such_a_graph_is_traced_again(case: str) -> None:
    model, x = model_of(case)
    assert_agrees(linreg.trace(model, x).to_module(), x)
