"""Forwards as people write them: loops, lists, slices, sizes read off the data, writes in place, shared layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from approx import EXACT, values
from nets import Lambda, randomised
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from triad import check_adjoint, check_completeness, check_dot_test, check_jacobian, check_value

import linreg
from linreg import LinregError


class Loops(nn.Module):
    """A ModuleList, a ParameterList, a comprehension, and one layer used at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Identity()) for _ in range(3))
        self.shifts = nn.ParameterList(torch.randn(4) for _ in range(3))
        self.shared = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for step, shift in zip(self.steps, self.shifts, strict=True):
            x = F.relu(self.shared(step(x) + shift)) + x
        return sum(branch(x) / 2**k for k, branch in enumerate(self.steps))  # type: ignore[return-value]


class Recurrent(nn.Module):
    """A recurrence over a line of vectors, from a state of zeros: (N, time, 3) to (N, time, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        state, states = x.new_zeros(x.shape[0], 4), []
        for step in range(x.shape[1]):
            state = F.relu(self.cell(torch.cat([x[:, step], state], 1)))
            states.append(state)
        return torch.stack(states, 1)


class Kept(nn.Module):
    """The same, each state written to its place in a result that was made beforehand."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        result = torch.zeros(x.shape[0], x.shape[1], 4, dtype=x.dtype)
        for step in range(x.shape[1]):
            before = result[:, step - 1] if step else torch.zeros_like(result[:, 0])
            result[:, step] = F.relu(self.cell(torch.cat([x[:, step], before], -1)))
        return result


class UNet(nn.Module):
    """Down, up to the size of what came down, and side by side with it; in 1, 2 or 3 dimensions."""

    def __init__(self, dims: int, up: str) -> None:
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        back = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]
        norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1]
        self.down = nn.Sequential(conv(2, 4, 3, stride=2, padding=1), norm(4), nn.ReLU())
        self.deep = conv(4, 4, 1)
        self.back = nn.Sequential(back(4, 2, 3, stride=2, padding=1, output_padding=1, groups=2), norm(2), nn.ReLU())
        self.up = up
        self.head = conv(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.deep(self.down(x)))
        h = self.back(h) if self.up == "transposed" else h[:, :2]
        h = F.interpolate(h, size=x.shape[2:], mode=self.up if self.up != "transposed" else "nearest")
        return self.head(torch.cat([x, h], 1))


class Frozen(nn.Module):
    """Batch norm as detectors freeze it: arithmetic on buffers (torchvision's FrozenBatchNorm2d)."""

    def __init__(self) -> None:
        super().__init__()
        for name, value in {"weight": 1.5, "bias": 0.3, "running_mean": -0.4, "running_var": 2.0}.items():
            self.register_buffer(name, value * torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, mean, var = (b.reshape(1, -1, 1, 1) for b in self.buffers())
        scale = weight * (var + 1e-5).rsqrt()
        return F.relu(x * scale + (bias - mean * scale))


def patches(x: Tensor) -> Tensor:
    """As einops' rearrange does: "b c (h p) (w q) -> b (h w) (p q c)"."""
    b, c, h, w = x.shape
    parts = x.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1)
    return F.relu(parts.reshape(b, (h // 2) * (w // 2), 4 * c))


def coordinates(x: Tensor) -> Tensor:
    """CoordConv: the position beside the data."""
    rows = torch.linspace(-1, 1, x.shape[2], dtype=x.dtype).view(1, 1, -1, 1).expand(x.shape[0], 1, -1, x.shape[3])
    columns = torch.linspace(-1, 1, x.shape[3], dtype=x.dtype).repeat(x.shape[0], 1, x.shape[2], 1)
    return F.relu(torch.cat([x, rows, columns], 1)).mean((2, 3), dtype=x.dtype)


def widened(x: Tensor) -> Tensor:
    """A shortcut to more channels by zeros, and to fewer positions by strides (ResNet's option A)."""
    short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2))
    long = torch.zeros_like(short)
    long[:, :3] = x[:, :, 1::2, 1::2]
    return F.relu(short - 2 * long)


def spectral(norm: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return nn.Sequential(norm(nn.Linear(4, 5)), nn.ReLU(), norm(nn.Linear(5, 3)))


PICTURE = (3, 4, 6)
FORWARDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "loops": (Loops, (4,)),
    "a recurrence": (Recurrent, (4, 3)),
    "a recurrence that keeps its states": (Kept, (4, 3)),
    "U-Net, lines": (partial(UNet, 1, "linear"), (2, 8)),
    "U-Net": (partial(UNet, 2, "bilinear"), (2, 5, 6)),
    "U-Net, bicubic": (partial(UNet, 2, "bicubic"), (2, 5, 6)),
    "U-Net, transposed": (partial(UNet, 2, "transposed"), (2, 5, 6)),
    "U-Net, volumes": (partial(UNet, 3, "trilinear"), (2, 4, 3, 4)),
    "U-Net, volumes, transposed": (partial(UNet, 3, "transposed"), (2, 4, 2, 4)),
    "frozen batch norm": (Frozen, PICTURE),
    "patches": (lambda: Lambda(patches), PICTURE),
    "coordinates": (lambda: Lambda(coordinates), PICTURE),
    "widened": (lambda: Lambda(widened), PICTURE),
    "views of others": (lambda: Lambda(lambda x: F.relu(x).view_as(x).expand_as(x.repeat(1, 3, 1, 1))), (1, 4, 2)),
    "means": (lambda: Lambda(lambda x: F.relu(x - x.mean((1, 2, 3), keepdim=True)) / x.shape[1] ** 0.5), PICTURE),
    "an ensemble": (
        lambda: Lambda(lambda x, a, b: torch.stack([F.relu(a(x)), F.relu(b(x))], -1).mean(-1),
                       a=nn.Linear(4, 3), b=nn.Linear(4, 3)), (4,),
    ),
    "spectral norm": (partial(spectral, nn.utils.parametrizations.spectral_norm), (4,)),
    "weight norm": (partial(spectral, nn.utils.parametrizations.weight_norm), (4,)),
    "spectral norm, the old one": (partial(spectral, nn.utils.spectral_norm), (4,)),
}  # fmt: skip


def build(name: str) -> tuple[nn.Module, Tensor]:
    make, shape = FORWARDS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return randomised(make().double()).eval(), values(3, *shape)


@pytest.mark.parametrize("name", FORWARDS)
def test_forward(name: str) -> None:
    """The graph is the model, at batches of any size; and its adjoint and ledger are right."""
    model, x = build(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    graph = linreg.trace(model, x[:2])
    assert graph.batch is None and all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    for batch in (x[:1], x):
        torch.testing.assert_close(graph(batch), model(batch).detach(), **EXACT)
    for check in (check_value, check_dot_test, check_jacobian, check_adjoint, check_completeness):
        check(model, x, graph.linearize(x))


def test_checkpoint_is_no_operator() -> None:
    """Autograd has no vjp through one, so the oracle is the same network without."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double().eval()
    lin = linreg.trace(Lambda(lambda x, m: checkpoint(m, x, use_reentrant=False), m=plain), values(2, 4)).linearize(
        values(3, 4)
    )
    assert [node.name for node in lin.graph.nodes] == ["m.0", "m.1", "m.2"]
    for check in (check_value, check_jacobian, check_adjoint, check_completeness):
        check(plain, values(3, 4), lin)


@pytest.mark.parametrize(
    ("function", "shape", "why"),
    [
        (lambda x: x.relu()[[1, 0]], (4,), "images of a batch apart|mixes the images"),
        (lambda x: x.relu()[:, x.argmax(1)], (4,), "by the values of its data|images of a batch"),
        (lambda x: x.cumsum(0), (4,), "batch"),
        (lambda x: x.repeat_interleave(2, 0), (4,), "batch"),
        (lambda x: x.index_add(1, torch.tensor([0, 1]), x[:, :2], alpha=2), (4,), "multiply by alpha beforehand"),
        (lambda x: torch.einsum("ni,nj->nij", x, x), (4,), "data"),
        (lambda x: torch.einsum("ni,jn->ji", x, torch.eye(2).double()), (4,), "batch"),
        (lambda x: torch.lerp(x, 2 * x, x), (4,), "data"),
        (lambda x: torch.addcmul(x, x, x), (4,), "data"),
        (lambda x: torch.addcdiv(x, x, x), (4,), "divi"),
        (lambda x: F.grid_sample(x, x.mean(1)[:, :, :2, None].expand(-1, -1, -1, 2)), (2, 3, 4), "depend|data"),
        (lambda x: x.relu() + torch.randn(4, generator=torch.Generator().manual_seed(0)).double(), (4,), "random"),
    ],
)
def test_what_is_not_linear_is_refused(function: Callable[[Tensor], Tensor], shape: tuple[int, ...], why: str) -> None:
    with pytest.raises(LinregError, match=why):
        linreg.trace(Lambda(function), values(2, *shape))
