# %% [markdown]
# # 3. Convolution, batch norm, residuals and pooling as matrices
#
# This page takes a small convolutional network apart: at x, every layer of it is a matrix like any other, filled by a
# rule. It needs gates and `matrix` from tutorial 1, the ledger and the two places of gates from tutorial 2.

# %%
from functools import partial
from itertools import product

import matplotlib.pyplot as plt
import torch
from torch import nn

import linreg
from dmbp import decompose, matrices
from dmbp.datasets import sample_pairs
from dmbp.plot import DIVERGING
from linreg.draw import draw_matrix

torch.manual_seed(2636)
close = partial(torch.allclose, rtol=1e-12, atol=1e-14)
x = nn.AvgPool2d(3)(sample_pairs().images[2:3, :, 14:38, 5:29].double())  # a 3, in 8×8 pixels


class Small(nn.Module):
    def __init__(self, late=False):
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU()
        self.inner, self.gate, self.late = nn.Conv2d(2, 2, 3, padding=1), nn.ReLU(), late
        self.pool, self.mean, self.last = nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Linear(8, 1)

    def forward(self, x):
        h = self.pool(self.relu(self.norm(self.conv(x))))
        z = self.inner(h)
        return self.last(self.mean(self.gate(z + h) if self.late else self.gate(z) + h).flatten(1))


def toeplitz(conv, side):
    """The matrix of a 3×3 convolution with padding 1 of maps of side × side."""
    T = torch.zeros(conv.out_channels, side, side, conv.in_channels, side, side, dtype=torch.float64)
    for i, j, u, v in product(range(side), repeat=4):
        if abs(u - i) <= 1 and abs(v - j) <= 1:
            T[:, i, j, :, u, v] = conv.weight.data[:, :, u - i + 1, v - j + 1]
    return T.flatten(3).flatten(0, 2)


small = Small().double().eval()
for values in (*small.parameters(), small.norm.running_mean):
    nn.init.normal_(values, std=0.5)
small.norm.running_var.fill_(0.3)

# %% [markdown]
# ## Eq. (15): a convolution is a matrix
#
# $$h_l = \phi(W_l * h_{l-1}) = \mathcal H(W_l * h_{l-1}) \odot (W_l * h_{l-1})$$
#
# Row (o, i, j) of its matrix makes pixel (i, j) of map o: it holds the weights of a filter in the columns of the pixels
# that the filter sees there. What would lie beyond the border is left out. From row to row the weights move on by one
# column, so each draws diagonals within a diagonal of blocks: a *doubly block Toeplitz* matrix. Gates blank its rows.

# %%
lin = linreg.trace(small, x, fuse=False).linearize(x)  # without fusing: see batch norm, below
maps = small.relu(small.norm(small.conv(x))).detach()
h = small.pool(maps)
z = small.inner(h).detach()
T1, T2 = toeplitz(small.conv, 8), toeplitz(small.inner, 4)
What2 = torch.diag((z > 0).double().flatten()) @ T2
assert close(lin.matrix("conv"), T1) and close(lin.matrix("inner", start="pool"), T2)
assert close(lin.matrix("gate", start="pool"), What2)
figure, axes = plt.subplots(1, 2, figsize=(10.5, 4.6), layout="constrained")
draw_matrix(lin, "inner", "pool", axes[0]).set_title("a convolution of two maps to two")
draw_matrix(lin, "gate", "pool", axes[1]).set_title("the same with its gates")

# %% [markdown]
# ## Eq. (16): a mask is as large as the maps
#
# $$h_l = \Sigma_l \odot \mathcal H(W_l * h_{l-1}) \odot (W_l * h_{l-1})$$
#
# It has a value in [0, 1] for each channel and position, and multiplies maps on the way forward or, with the same
# outcome, gradients on the way back. Tutorial 4 says what for, and what u is: here is only its place. (Σ is random.)

# %%
sigma = torch.rand(1, 2, 4, 4, dtype=torch.float64)
on, off, u = (small.last(small.mean(mask * z.relu() + h).flatten(1))[0] for mask in (sigma, 1 - sigma, 0))
split = decompose(lin, {"gate": sigma}, 0)
assert close(split.positive, on - u) and close(split.negative, off - u) and close(split.unmasked, u)
leaf = x.clone().requires_grad_()
with small.gate.register_full_backward_pre_hook(lambda gate, gradients: (sigma * gradients[0],)):
    (c,) = torch.autograd.grad(small(leaf).sum(), leaf)
assert close(split.ledger("positive").weight + split.ledger("unmasked").weight, c)
figure, axes = plt.subplots(1, 3, figsize=(10.5, 2.2), layout="constrained")
masks = {"$h_l$": 1, r"$\Sigma_l \odot h_l$": sigma, r"$(1 - \Sigma_l) \odot h_l$": 1 - sigma}
for ax, (name, mask) in zip(axes, masks.items(), strict=True):
    drawn = ax.imshow(torch.cat([*(mask * z.relu())[0]], 1).numpy(), cmap=DIVERGING, vmin=-1, vmax=1)
    ax.set(title=name, xticks=(1.5, 5.5), xticklabels=("channel 0", "channel 1"), yticks=[])
    ax.axvline(3.5, color="black", lw=1)
figure.colorbar(drawn, ax=axes, label="value")

# %% [markdown]
# ## Eq. (14): batch norm is a diagonal matrix and a shift
#
# $$\mathrm{BN}(z) = a \odot (z - \mu) + \beta, \qquad a = \gamma / \sqrt{v + \epsilon}$$
#
# *After* a convolution it folds into filters, $a W$, and bias, $a b + (\beta - a \mu)$; `trace` does so by default, and
# the ledger still has both constants. *Before* a convolution with zero padding it must not: the zeros come after the
# shift, but a folded bias shifts them too. It errs along the border, by the shift times the weights that hang over.

# %%
norm, fused = small.norm, linreg.trace(small, x).linearize(x)
a = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
spread = torch.diag(a.repeat_interleave(64))
(g,) = torch.autograd.grad(small(x).sum(), norm.bias)
assert close(lin.matrix("norm", start="conv"), spread) and close(fused.matrix("norm"), spread @ T1)
assert close(fused.ledger(0)["conv.bias"].channels[0], g * a * small.conv.bias)
assert close(fused.ledger(0)["norm.shift"].channels[0], g * (norm.bias - a * norm.running_mean))
early = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 1, 3, padding=1)).double().eval()
early[0].running_mean.fill_(0.5)
scale, weight = (1 + early[0].eps) ** -0.5, early[1].weight.detach()
bias = early[1].bias.detach() - 0.5 * scale * weight.sum()
folded = torch.conv2d(x, scale * weight, bias, padding=1)
kept = linreg.trace(early, x).linearize(x).output
assert close((folded - kept).flatten(), -0.5 * scale * (weight.sum() - toeplitz(early[1], 8).sum(1)))
figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
pictures = {"batch norm, then convolution": kept, "wrongly folded": folded, "difference": folded - kept}
for ax, (name, picture) in zip(axes, pictures.items(), strict=True):
    drawn = ax.imshow(picture[0, 0].numpy(), cmap=DIVERGING, vmin=-0.6, vmax=0.6)
    ax.set(title=name, xticks=[], yticks=[])
figure.colorbar(drawn, ax=axes, label="value")

# %% [markdown]
# ## Eq. (3) for residual layers: add the identity
#
# $$h_l = \phi(W_l h_{l-1}) + h_{l-1} = (\hat W_l + I)\, h_{l-1}$$
#
# This is the block of the paper's text. The ResNets of its experiments are torchvision's, with the gate after the sum,
# $\phi(W h + h)$, which blanks rows of I too. For masks it matters: on the paper's block, one at the gate leaves I
# alone, $\Sigma \hat W + I$, and one at the sum does not, $\Sigma (\hat W + I)$ (`sites="gates"` and `"blocks"`).

# %%
other = Small(late=True).double()
other.load_state_dict(small.state_dict())
late, I, Sigma = linreg.trace(other, x).linearize(x), torch.eye(32).double(), torch.diag(sigma.flatten())
assert close(lin.matrix("add", start="pool"), What2 + I)
assert close(late.matrix("gate", start="pool"), torch.diag((z + h > 0).double().flatten()) @ (T2 + I))
for site, literal in ("gate", Sigma @ What2 + I), ("add", Sigma @ (What2 + I)):
    assert close(torch.from_numpy(matrices.matrices(lin, {site: sigma}, "add", "pool").positive.toarray()), literal)
figure, axes = plt.subplots(1, 2, figsize=(10.5, 4.6), layout="constrained")
draw_matrix(lin, "add", "pool", axes[0]).set_title("the paper's block")
draw_matrix(late, "gate", "pool", axes[1]).set_title("torchvision's block")

# %% [markdown]
# ## Eqs. (4), (13): pooling, and the whole network in two ways
#
# $$y = w^\top A\, (\hat W_2 + I)\, P\, \hat W_1\, x + \sum_k g_k \cdot b_k$$
#
# Max pooling P has decided at x, as a gate has: one 1 in each row, at the largest pixel of its window, the first if
# several are (behind a ReLU some windows are all zeros). Average pooling A has four quarters, at any x. From gate to
# gate, gates stand left of a convolution; from layer to layer right of it, with P between (Eq. 13). $\hat W_1$ holds
# the batch norm; $b_k$ are all constants, $g_k = \partial y / \partial b_k$. Each matrix is drawn on its own scale.

# %%
P, A = torch.zeros(2, 4, 4, 2, 8, 8).double(), torch.zeros(2, 2, 2, 2, 4, 4).double()
for o, i, j in product(range(2), range(4), range(4)):
    window = maps[0, o, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten().tolist()
    down, right = divmod(window.index(max(window)), 2)
    P[o, i, j, o, 2 * i + down, 2 * j + right], A[o, i // 2, j // 2, o, i, j] = 1, 1 / 4
P, A, w, open1 = P.view(32, 128), A.view(8, 32), small.last.weight.detach(), torch.diag((maps > 0).double().flatten())
What1 = open1 @ spread @ T1
H = A @ (What2 + I) @ P @ What1
assert torch.equal(lin.matrix("pool", start="relu"), P) and close(lin.matrix("mean", start="add"), A)
assert close(lin.matrix("relu"), What1) and close(lin.matrix("inner", start="norm"), T2 @ P @ open1)
assert close(lin.matrix("mean"), H) and close(w @ H @ x.flatten() + lin.ledger(0).bias_share, small(x)[0])
factors = {"$w^T$": w, "$A$": A, r"$\hat W_2 + I$": What2 + I, "$P$": P, r"$\hat W_1$": What1, "$x$": x.view(64, 1)}
figure, axes = plt.subplots(1, 6, figsize=(11, 4.4), layout="constrained", width_ratios=(12, 32, 32, 128, 64, 12))
for ax, (name, matrix) in zip(axes, factors.items(), strict=True):
    ax.imshow((matrix / matrix.abs().max()).numpy(), cmap=DIVERGING, vmin=-1, vmax=1, interpolation="nearest")
    ax.set(title=name, xticks=[], yticks=[], xlabel=f"{matrix.shape[0]}×{matrix.shape[1]}")

# %% [markdown]
# ## Exercises
#
# 1. A 3×3 convolution makes 16 maps of a 64×64 picture. How many entries has T, and how many are not zero?
# 2. What is the matrix of a transposed convolution with the same weights?
# 3. With which padding may batch norm be folded into the convolution *after* it?

# %% tags=["hide-cell"]
# 1. 268 million, and one in 465: along each side 3·64 − 2 pairs of pixels meet.
picture = torch.rand(1, 1, 64, 64)
T = linreg.trace(nn.Conv2d(1, 16, 3, padding=1), picture).linearize(picture).matrix(format="csr")
assert T.shape == (16 * 64**2, 64**2) and T.count_nonzero() == 16 * (3 * 64 - 2) ** 2

# 2. The transposed one.
back = nn.ConvTranspose2d(2, 2, 3, padding=1).double()
back.weight = small.inner.weight
assert close(linreg.trace(back, h).linearize(h).matrix(), T2.T)

# 3. None, or one that repeats pixels of the picture: what it puts in is shifted too.
early[1].padding_mode = "circular"
assert close(linreg.trace(early, x)(x), torch.conv2d(nn.CircularPad2d(1)(x), scale * weight, bias))
