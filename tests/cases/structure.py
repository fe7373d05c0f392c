"""What moves values about: shapes, slices, padding, indices, writes in place."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases.case import CHANNELS, IMAGES, INDEX, LINE, PLANE, ROW, Case, halves, layer, writing

aten = torch.ops.aten
PAIRS, MASK = torch.tensor([[0, 3], [1, 1]]), torch.tensor([True, False, True, True])


def doubled(x: Tensor) -> None:
    x[:, 2:] += x[:, :2]
    x[:, :, 0] *= 2


def filled(x: Tensor) -> Tensor:
    """Writes into what is zero, has a value, and is not set at all."""
    zeros = x.new_zeros(x.shape[0], 6, 5, 6)
    zeros[:, 1:5] = x
    values = torch.full_like(x, 0.5)
    values[:, ::2] -= x[:, :2]
    empty = torch.empty_like(x)
    empty[:, :2], empty[:, 2:] = x[:, 2:], 1.5
    return torch.cat([zeros, values, empty], 1)


CASES = {
    # structure
    "view": Case(lambda x: x.view(x.shape[0], 2, -1), PLANE),
    "view as inferred": Case(lambda x: x.view(-1, 120), PLANE),
    "unsafe view": Case(lambda x: aten._unsafe_view(x, [IMAGES, 20, 6]), PLANE),
    "reshape": Case(lambda x: x.transpose(1, 2).reshape(x.shape[0], -1, 3), PLANE),
    "flatten": Case(layer(nn.Flatten, 2), PLANE),
    "unflatten": Case(layer(nn.Unflatten, 1, (2, 2)), PLANE),
    "unsqueeze": Case(lambda x: x.unsqueeze(1), PLANE),
    "squeeze": Case(lambda x: x.squeeze(1), (1, 5)),
    "squeeze, copied": Case(lambda x: torch.squeeze_copy(x, 1), (1, 5)),
    "squeeze all": Case(lambda x: x.squeeze(), (1, 5, 1)),
    "repeat": Case(lambda x: x.repeat(1, 2, 1), LINE),
    "expand": Case(lambda x: x.expand(-1, 4, -1), (1, 5)),
    "permute": Case(lambda x: x.permute(0, 3, 1, 2), PLANE),
    "transpose": Case(lambda x: x.transpose(-1, 1), PLANE),
    "movedim": Case(lambda x: x.movedim(1, -1), PLANE),
    "swapaxes": Case(lambda x: x.swapaxes(1, 2), PLANE),
    "pixel shuffle": Case(layer(nn.PixelShuffle, 2), PLANE),
    "pixel unshuffle": Case(layer(nn.PixelUnshuffle, 2), (2, 4, 6)),
    "channel shuffle": Case(layer(nn.ChannelShuffle, 2), PLANE),
    "flip": Case(lambda x: x.flip(1, -1), PLANE),
    "roll": Case(lambda x: x.roll((1, -2), (1, 3)), PLANE),
    "slice": Case(lambda x: x[:, 1:, ::2, -2:], PLANE),
    "select": Case(lambda x: x[:, 2], PLANE),
    "narrow": Case(lambda x: x.narrow(1, 1, 2), PLANE),
    "split": Case(lambda x: 2 * x.split(3, 1)[0][:, :1] - x.split(3, 1)[1], PLANE),
    "split with sizes": Case(lambda x: x.split([1, 3], 1)[1], PLANE),
    "chunk": Case(lambda x: x.chunk(2, 1)[1], PLANE),
    "unbind": Case(lambda x: x.unbind(1)[3], PLANE),
    "unsafe split": Case(lambda x: torch.unsafe_split(x, 3, 1)[1], PLANE),
    "unsafe chunk": Case(lambda x: torch.unsafe_chunk(x, 2, 2)[0], PLANE),
    "concatenate": Case(lambda x: torch.cat([x, *halves(x)], 1), PLANE),
    "concatenate, by another name": Case(lambda x: aten.concat([x, x], 2), PLANE),
    "concatenate a constant": Case(lambda x: torch.cat([x, CHANNELS[None], -x], 2), (4, 1, 1), images=1),
    "concatenate a token": Case(lambda x: torch.cat([ROW.expand(x.shape[0], 1, 4), 2 * x], 1), (2, 4)),
    "concatenate what is made for each image": Case(
        lambda x: torch.cat([x, torch.ones(x.shape[0], 2).double()], 1), (3,)
    ),
    "stack": Case(lambda x: torch.stack(halves(x), 2), PLANE),
    "pad": Case(lambda x: F.pad(x, (1, 2, 0, 3)), PLANE),
    "pad with a value": Case(lambda x: F.pad(x, (1, 2, 0, 3), value=-1.5), PLANE),
    "pad with −∞": Case(lambda x: F.pad(x, (1, 1), value=-torch.inf).amax(3) - F.relu(x).sum(3), PLANE),
    "pad, images named": Case(lambda x: F.pad(x, (1, 0, 0, 2, 0, 1, 0, 0)), PLANE),
    "pad of nothing": Case(lambda x: F.pad(x, ()) * 2.0, PLANE),
    "pad, cropping": Case(lambda x: F.pad(x, (-1, 2), value=0.5), PLANE),
    "pad with zeros by its own name": Case(lambda x: aten.constant_pad_nd(x, [1, 1], 0.25), PLANE),
    "pad, reflecting": Case(layer(nn.ReflectionPad2d, (2, 1, 1, 0)), PLANE),
    "pad, replicating": Case(layer(nn.ReplicationPad2d, 2), PLANE),
    "pad, circular": Case(lambda x: F.pad(x, (1, 2, 0, 1), mode="circular"), PLANE),
    "copy": Case(writing(lambda x: x[:, :2].copy_(x[:, 2:3])), PLANE),
    "tile": Case(lambda x: x.tile(2), LINE),
    "repeat each": Case(lambda x: x.repeat_interleave(2, 1), PLANE),
    "repeat each as often as told": Case(lambda x: 2 * x.repeat_interleave(torch.tensor([1, 0, 2, 3]), 1), LINE),
    "rotate": Case(lambda x: x.rot90(1, (2, 3)), PLANE),
    "flip left and right": Case(torch.fliplr, PLANE),
    "diagonal": Case(lambda x: x.diagonal(1, 1, 2), PLANE),
    "diagonal embedded": Case(lambda x: x.diag_embed(), LINE),
    "lower triangle": Case(lambda x: x.tril(), PLANE),
    "upper triangle": Case(lambda x: x.triu(1), PLANE),
    "windows": Case(
        lambda x: x.unfold(2, 4, 2), LINE, twin=lambda x: torch.stack([x[..., :4], x[..., 2:6], x[..., 4:8]], 2)
    ),
    "windows as columns": Case(layer(nn.Unfold, (2, 3), padding=1, stride=2), PLANE),
    "columns added up": Case(layer(nn.Fold, (4, 5), 2, padding=1), (8, 30)),
    "stack sideways": Case(lambda x: torch.hstack([x, CHANNELS[:, 0].T.expand(x.shape[0], 4)]), (4,)),
    "stack in depth": Case(lambda x: torch.dstack([x, 2 * x]), LINE),
    "stack columns": Case(lambda x: torch.column_stack([x, 2 * x]), LINE),
    # indices
    "index": Case(lambda x: x[:, [2, -1, 0]], PLANE),
    "index by a mask": Case(lambda x: 3 * x[:, MASK] - 1, PLANE),
    "index twice": Case(lambda x: x[:, PAIRS, [[1], [0]]], PLANE),
    "index behind": Case(lambda x: x[..., INDEX], PLANE),
    "index_select": Case(lambda x: x.index_select(2, INDEX), PLANE),
    "gather": Case(lambda x: x.gather(1, INDEX[:3].expand(x.shape[0], 3)), (4,)),
    "take along": Case(lambda x: torch.take_along_dim(x, INDEX[None, :, None], 1), LINE),
    "write a number": Case(writing(lambda x: x[:, 0].fill_(1.5)), PLANE),
    "write zeros": Case(writing(lambda x: x[:, :, 1:3].zero_()), PLANE),
    "write data": Case(writing(lambda x: x[:, :2].copy_(x[:, 2:] * 2)), PLANE),
    "write in part": Case(writing(doubled), PLANE),
    "write into constants": Case(filled, PLANE),
    "write a diagonal": Case(lambda x: torch.diagonal_scatter(x, x[:, :, 0, :5], 1, 2, 3), PLANE),
    "write at the end": Case(lambda x: torch.slice_scatter(x, 2 * x[..., :5], -1, 1), PLANE),
    "write at indices": Case(writing(lambda x: x[:, [0, 2]].relu_()), PLANE),
    "write a constant at indices": Case(writing(lambda x: x.__setitem__((slice(None), [2, 0]), CHANNELS[:2])), PLANE),
    "write data at indices": Case(writing(lambda x: x.__setitem__((slice(None), [2, 0]), 2 * x[:, :2])), PLANE),
    "add at indices": Case(lambda x: aten.index_put(x, [None, INDEX], 2 * x[:, :1], True), LINE),
    "add a constant at indices": Case(lambda x: aten.index_put(x, [None, INDEX], ROW[:1], True), LINE),
    "index_add": Case(lambda x: torch.zeros_like(x).index_add(1, INDEX, x) + x.index_add(1, INDEX, 3 * x), PLANE),
    "index_copy": Case(lambda x: x.index_copy(1, INDEX[1:], 2 * x[:, :3]), PLANE),
    "index_fill": Case(lambda x: x.index_fill(1, INDEX, 0.5), PLANE),
    "scatter": Case(lambda x: x.scatter(1, INDEX[1:].expand(x.shape[0], 3), 2 * x[:, :3]), (4,)),
    "scatter a number": Case(lambda x: x.scatter(1, INDEX[1:].expand(x.shape[0], 3), 0.5), (4,)),
    "scatter_reduce, a mean": Case(
        lambda x: torch.ones_like(x).scatter_reduce(1, INDEX.expand(x.shape[0], 4), x, "mean", include_self=False), (4,)
    ),
    "scatter_reduce, a maximum": Case(
        lambda x: torch.zeros_like(x).scatter_reduce(1, INDEX.expand(x.shape[0], 4), 2 * x, "amax"), (4,)
    ),
    "index_reduce, a minimum": Case(
        lambda x: torch.ones_like(x).index_reduce(1, INDEX, x, "amin", include_self=False), PLANE
    ),
    "index_reduce, a mean": Case(lambda x: torch.ones_like(x).index_reduce(1, INDEX, x, "mean"), PLANE),
    "scatter_add": Case(lambda x: torch.ones_like(x).scatter_add(1, INDEX.expand(x.shape[0], 4), x), (4,)),
}  # fmt: skip
