# %% [markdown]
# # 3. Convolution, batch norm, residuals and pooling as matrices
#
# **You will see** that the layers of a convolutional network are matrices like any
# other. Only the way they are filled is special. You build each of these matrices by a
# few lines of code, compare it with the one that `linreg` finds, and multiply a whole
# small network out of them.
#
# **You need** lesson 1 (gates, $\hat W_l$, `matrix`) and lesson 2 (the ledger, and the
# two places of the gates).
#
# **Time**: 45 minutes to read; twice that to type along and do the exercises.

# %%
from collections import OrderedDict
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

# %%
plt.rcParams["figure.constrained_layout.use"] = True


def close(one, other):
    return torch.allclose(one, other, rtol=1e-12, atol=1e-14)


# %% [markdown]
# ## Eq. (15): a convolution is a matrix
#
# The input of this lesson is a picture of a 3, of only 8×8 pixels. It is so small that
# we can draw every matrix whole.

# %%
pictures = sample_pairs().images.double()
three = pictures[2:3, :, 14:38, 5:29]
x = nn.functional.avg_pool2d(three, 3)
assert x.shape == (1, 1, 8, 8)

# %% [markdown]
# A convolutional layer has the same form as the layers of lesson 1. The paper writes
# $*$ for the convolution, and this is its Eq. (15):
#
# $$\begin{aligned}
# h_l &= \phi(W_l * h_{l-1}) \\
# &= \mathcal H(W_l * h_{l-1}) \odot (W_l * h_{l-1})
# \end{aligned}$$
#
# The step $\mathcal H$ gives a 1 or a 0 for each pixel of each map: the gates. (We pass
# over the bias, which is added as in lesson 2.)
#
# What kind of function is a convolution? Take one pixel of the result. It is a sum: each
# pixel of the input under the filter, times the weight of the filter at that place. All
# other pixels of the input count with weight 0. So one pixel of the result is one *row
# of weights* times the input. The whole result is a matrix times the input, with one
# row for each pixel of the result. We call this matrix $T$, or $T_l$ for layer $l$.

# %%
torch.manual_seed(2636)
one_filter = nn.Conv2d(1, 1, kernel_size=3, padding=1, bias=False).double()
result = one_filter(x)[0, 0]


def row_of(i, j):
    """The row of T that makes pixel (i, j): the filter, laid on an empty picture."""
    row = torch.zeros(10, 10, dtype=torch.float64)  # 8×8, and the padding around it
    row[i : i + 3, j : j + 3] = one_filter.weight[0, 0].detach()
    return row[1:9, 1:9]


for i, j in product(range(8), repeat=2):
    assert close((row_of(i, j) * x[0, 0]).sum(), result[i, j])

# %% tags=["hide-input"]
figure, axes = plt.subplots(1, 4, figsize=(11, 2.8))
axes[0].imshow(x[0, 0].numpy(), cmap="gray")
axes[0].set(title="the input", xticks=[], yticks=[])
for ax, place in zip(axes[1:], ((3, 2), (3, 3), (0, 7)), strict=True):
    drawn = ax.imshow(row_of(*place).numpy(), cmap=DIVERGING, vmin=-0.4, vmax=0.4)
    ax.set(title=f"the row of pixel {place}", xticks=[], yticks=[])
colorbar = figure.colorbar(drawn, ax=axes, label="weight")

# %% [markdown]
# Beside the input you see three rows of $T$, each drawn as a picture of 8×8 pixels.
# From one pixel to the next, the filter moves on by one column. At the border a part of
# it hangs over; what it would see there is padding, which is zero, and the weights are
# left out.
#
# With several maps there is such a matrix for each pair of an input map and an output
# map. The function below builds them all. Row $(o, i, j)$ makes pixel $(i, j)$ of map
# $o$. Column $(m, p, q)$ belongs to pixel $(p, q)$ of input map $m$. The entry is a
# weight of the filter if the filter, laid on $(i, j)$, reaches $(p, q)$. We first fill an
# array with these six indices. Its last line makes a matrix of it: $(o, i, j)$ become the
# rows, $(m, p, q)$ the columns.


# %%
def convolution_matrix(conv, side):
    """T of a 3×3 convolution with padding 1, of maps of side × side pixels."""
    shape = (conv.out_channels, side, side, conv.in_channels, side, side)
    T = torch.zeros(shape, dtype=torch.float64)
    for i, j, p, q in product(range(side), repeat=4):
        down = p - i + 1
        right = q - j + 1
        if 0 <= down <= 2 and 0 <= right <= 2:
            T[:, i, j, :, p, q] = conv.weight.detach()[:, :, down, right]
    return T.flatten(3).flatten(0, 2)


# %% [markdown]
# Now the network of this lesson. It has two convolutions. The second one sits in a
# *residual block*, which adds its input to what it makes. We write the block as the
# paper's text does, $\phi(W h) + h$.


# %%
class PaperBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv2 = nn.Conv2d(2, 2, kernel_size=3, padding=1)
        self.relu2 = nn.ReLU()

    def forward(self, h):
        return self.relu2(self.conv2(h)) + h


# %%
def small_network(block):
    layers = OrderedDict(
        conv1=nn.Conv2d(1, 2, kernel_size=3, padding=1),
        norm1=nn.BatchNorm2d(2),
        relu1=nn.ReLU(),
        maxpool=nn.MaxPool2d(2),
        block=block(),
        meanpool=nn.AvgPool2d(2),
        flatten=nn.Flatten(),
        output=nn.Linear(8, 1),
    )
    return nn.Sequential(layers).double().eval()


# %% [markdown]
# We give it random weights. Its batch norm gets a mean and a variance, as if it had seen
# some data.

# %%
torch.manual_seed(2636)
small = small_network(PaperBlock)
for values in (*small.parameters(), small.norm1.running_mean):
    nn.init.normal_(values, std=0.5)
small.norm1.running_var.fill_(0.3)

h1 = small.relu1(small.norm1(small.conv1(x))).detach()
pooled = small.maxpool(h1)
z2 = small.block.conv2(pooled).detach()

# %% [markdown]
# For once we ask `trace` not to fuse batch norms into convolutions (`fuse=False`). The
# section on batch norms says what this means. The gates of `relu2` are then a diagonal
# matrix, exactly as in lesson 1, and set rows of $T_2$ to zero.

# %%
lin = linreg.trace(small, x, fuse=False).linearize(x)
T1 = convolution_matrix(small.conv1, side=8)
T2 = convolution_matrix(small.block.conv2, side=4)
open2 = (z2 > 0).double().flatten()
W2_hat = torch.diag(open2) @ T2

assert close(lin.matrix("conv1"), T1)
assert close(lin.matrix("block.conv2", start="maxpool"), T2)
assert close(lin.matrix("block.relu2", start="maxpool"), W2_hat)

# %% tags=["hide-input"]
figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.6))
draw_matrix(lin, "block.conv2", "maxpool", left)
left.set_title("a convolution of two maps to two")
draw_matrix(lin, "block.relu2", "maxpool", right)
title = right.set_title("the same with its gates")

# %% [markdown]
# The thin lines part the maps: the upper left quarter leads from input map 0 to output
# map 0. Since the filter moves on by one column from row to row, its weights draw
# diagonals. And since each line of the picture repeats this, there are diagonals within
# a diagonal of blocks. Such a matrix is called *doubly block Toeplitz*. On the right
# the rows of the closed units are blank: all zero. (The colour bar writes an entry as a
# derivative, ∂ output / ∂ input, because that is what an entry of a matrix is.)
#
# ## Eq. (14): batch norm is a diagonal matrix and a shift
#
# In lesson 2 we wrote a batch norm as a slope and an offset for each channel:
#
# $$\mathrm{BN}(z) = s \odot z + t$$
#
# As a matrix, the slope is diagonal: each channel's $s$ stands once for each of the 64
# pixels of that channel. The offset, or shift, is a line of the ledger, as in Eq. (14).

# %%
norm = small.norm1
s = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
t = (norm.bias - s * norm.running_mean).detach()
norm_matrix = torch.diag(s.repeat_interleave(64))
assert close(lin.matrix("norm1", start="conv1"), norm_matrix)

# %% [markdown]
# A convolution and the batch norm *after* it can be fused into one convolution:
# multiply the filters of each channel by $s$, and take $s\, b + t$ as the bias. `trace`
# does so unless you forbid it. The ledger of the fused network still has both
# constants, each on a line of its own.

# %%
fused = linreg.trace(small, x).linearize(x)
assert close(fused.matrix("norm1"), norm_matrix @ T1)

(gradient,) = torch.autograd.grad(small(x).sum(), norm.bias)
ledger = fused.ledger(0)
assert close(ledger["conv1.bias"].channels[0], gradient * s * small.conv1.bias)
assert close(ledger["norm1.shift"].channels[0], gradient * t)

# %% [markdown]
# A batch norm *before* a convolution with padding is another matter, and a good example
# of how an innocent step goes wrong. Fused, its shift would become a part of the
# convolution's bias, the same at every pixel. But in the network the padding comes
# after the shift: the zeros around the picture are not shifted. So along the border the
# fused network is wrong. We build one and try.

# %%
early = nn.Sequential(
    OrderedDict(
        norm=nn.BatchNorm2d(1),
        conv=nn.Conv2d(1, 1, kernel_size=3, padding=1),
    )
)
early = early.double().eval()
early.norm.running_mean.fill_(0.5)
right_result = linreg.trace(early, x).linearize(x).output
assert close(right_result, early(x))

# %%
weight = early.conv.weight.detach()
early_s = (1 + early.norm.eps) ** -0.5
early_t = -0.5 * early_s
fused_bias = early.conv.bias.detach() + early_t * weight.sum()
wrong_result = torch.conv2d(x, early_s * weight, fused_bias, padding=1)

# %% [markdown]
# How wrong is it? At each pixel by the shift, times those weights of the filter that
# hang over the border there.

# %%
inside = convolution_matrix(early.conv, side=8).sum(dim=1)
hanging_over = weight.sum() - inside
error = (wrong_result - right_result).flatten()
assert close(error, early_t * hanging_over)

# %% tags=["hide-input"]
results = {
    "batch norm, then convolution": right_result,
    "wrongly fused": wrong_result,
    "the difference": wrong_result - right_result,
}
figure, axes = plt.subplots(1, 3, figsize=(10, 3.2))
for ax, (name, result) in zip(axes, results.items(), strict=True):
    picture = result[0, 0].detach().numpy()
    drawn = ax.imshow(picture, cmap=DIVERGING, vmin=-0.6, vmax=0.6)
    ax.set(title=name, xticks=[], yticks=[])
colorbar = figure.colorbar(drawn, ax=axes, label="value")

# %% [markdown]
# `linreg` does not make this mistake. It keeps such a batch norm as a node of its own.
# The other one, behind `conv1`, is in one node with its convolution.

# %%
assert "batch norm" in str(linreg.trace(early, x).summary())
assert "batch norm" not in str(linreg.trace(small, x).summary())

# %% [markdown]
# ## Eq. (3) for residual layers: add the identity
#
# A residual block adds its input to what it makes. What is the matrix that leaves its
# input as it is? The identity, $I$. So the paper writes its residual layer as
#
# $$\begin{aligned}
# h_l &= \phi(W_l h_{l-1}) + h_{l-1} \\
# &= (\hat W_l + I)\, h_{l-1}
# \end{aligned}$$

# %%
I = torch.eye(32, dtype=torch.float64)
assert close(lin.matrix("block.add", start="maxpool"), W2_hat + I)

# %% [markdown]
# The experiments of the paper use the ResNets of torchvision, and their blocks are
# different: the gate comes *after* the sum, $\phi(W h + h)$. Then the gates set rows of
# the identity to zero as well.


# %%
class TorchvisionBlock(PaperBlock):
    def forward(self, h):
        return self.relu2(self.conv2(h) + h)


# %%
other = small_network(TorchvisionBlock)
other.load_state_dict(small.state_dict())
lin_other = linreg.trace(other, x).linearize(x)
open_other = (z2 + pooled > 0).double().flatten()
matrix = torch.diag(open_other) @ (T2 + I)
assert close(lin_other.matrix("block.relu2", start="maxpool"), matrix)

# %% tags=["hide-input"]
figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.6))
draw_matrix(lin, "block.add", "maxpool", left)
left.set_title("the paper's block")
draw_matrix(lin_other, "block.relu2", "maxpool", right)
title = right.set_title("torchvision's block")

# %% [markdown]
# On the left the red diagonal is complete. It is the identity, and where a gate is open
# the middle weight of the filter is added to the 1. On the right the diagonal has gaps:
# where a gate is closed, the 1 is gone as well.

# %%
assert (torch.diag(W2_hat + I) > 0.5).all()
closed = open_other == 0
assert closed.any()
assert (torch.diag(matrix)[closed] == 0).all()
assert (torch.diag(matrix)[~closed] > 0.5).all()

# %% [markdown]
# ## Eqs. (4), (13): pooling, and the whole network in two ways
#
# Max pooling takes the largest pixel of each window of 2×2. Which one this is, is
# decided at $x$, just as the gates are. From then on it is a matrix, $M_\text{max}$,
# with a single 1 in each row: at the largest pixel of the window. If several are
# equally large, it takes the first. (Behind a ReLU this is no rare case: some windows
# are all zeros.)

# %%
M_max = torch.zeros(2, 4, 4, 2, 8, 8, dtype=torch.float64)
for o, i, j in product(range(2), range(4), range(4)):
    window = h1[0, o, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten().tolist()
    first_largest = window.index(max(window))
    down, right = divmod(first_largest, 2)
    M_max[o, i, j, o, 2 * i + down, 2 * j + right] = 1
M_max = M_max.view(32, 128)
assert torch.equal(lin.matrix("maxpool", start="relu1"), M_max)
assert (pooled == 0).any()

# %% [markdown]
# Average pooling decides nothing. Its matrix, $M_\text{mean}$, has a quarter at each
# pixel of a window, whatever the input is.

# %%
M_mean = torch.zeros(2, 2, 2, 2, 4, 4, dtype=torch.float64)
for o, i, j in product(range(2), range(4), range(4)):
    M_mean[o, i // 2, j // 2, o, i, j] = 1 / 4
M_mean = M_mean.view(8, 32)
assert close(lin.matrix("meanpool", start="block.add"), M_mean)

# %% [markdown]
# Now all parts are there. With $\hat W_1$ for the first convolution, its batch norm and
# its gates, the whole network is
#
# $$y = w^\top M_\text{mean}\, (\hat W_2 + I)\, M_\text{max}\, \hat W_1\, x + \beta$$
#
# where $\beta$ is the share of all constants, which the ledger knows.

# %%
open1 = torch.diag((h1 > 0).double().flatten())
W1_hat = open1 @ norm_matrix @ T1
w = small.output.weight.detach()[0]
H = M_mean @ (W2_hat + I) @ M_max @ W1_hat

assert close(lin.matrix("relu1"), W1_hat)
assert close(lin.matrix("meanpool"), H)
beta = lin.ledger(0).bias_share
assert close(w @ H @ x.flatten() + beta, small(x)[0])

# %% tags=["hide-input"]
factors = {
    "$w^T$": w[None],
    r"$M_{\mathrm{mean}}$": M_mean,
    r"$\hat W_2 + I$": W2_hat + I,
    r"$M_{\mathrm{max}}$": M_max,
    r"$\hat W_1$": W1_hat,
    "$x$": x.view(64, 1),
}
widths = (12, 32, 32, 128, 64, 12)
figure, axes = plt.subplots(1, 6, figsize=(11, 4.4), width_ratios=widths)
for ax, (name, matrix) in zip(axes, factors.items(), strict=True):
    scaled = (matrix / matrix.abs().max()).numpy()
    ax.imshow(scaled, cmap=DIVERGING, vmin=-1, vmax=1, interpolation="nearest")
    rows, columns = matrix.shape
    ax.set(title=name, xticks=[], yticks=[], xlabel=f"{rows}×{columns}")

# %% [markdown]
# The product of these six pictures, read from right to left, is the share of the input
# in the score. (Each matrix has a scale of its own.)
#
# As in lesson 2, the network can be cut in the other way too, from layer to layer. Then
# the gates of layer 1 stand to the right of the second convolution, with the pooling in
# between, as in Eq. (13):

# %%
assert close(lin.matrix("block.conv2", start="norm1"), T2 @ M_max @ open1)

# %% [markdown]
# ## Eq. (16): a mask is as large as the maps
#
# The method of the paper, which lesson 4 begins with, gives each unit a *mask*: a
# number between 0 and 1. What leaves the gate of the unit is multiplied by it. Here we
# only look at where the masks sit. In a convolutional layer each pixel of each map has
# its own, so the masks $\sigma_l$ are as large as the maps $h_l$:
#
# $$\begin{aligned}
# h_l = \sigma_l &\odot \mathcal H(W_l * h_{l-1}) \\
# &\odot (W_l * h_{l-1})
# \end{aligned}$$
#
# (In Eq. (16) the paper writes $\Sigma_l$ for these maps of masks. We keep this letter
# for a matrix: $\Sigma_l$ has the same masks on its diagonal.)
#
# We mask the gates `relu2` with random numbers, `sigma`. (So here $h_2$ is what leaves
# these gates, before the block adds its input.) We run the rest of the network by hand.
# We run it again with $1 - \sigma$ in place of $\sigma$, and once more
# with zeros.


# %%
def score_with(mask):
    """The score of the small network with a mask behind relu2."""
    block = mask * z2.relu() + pooled
    return small.output(small.meanpool(block).flatten(1))[0]


sigma = torch.rand(1, 2, 4, 4, dtype=torch.float64)
with_sigma = score_with(sigma)
with_rest = score_with(1 - sigma)
with_zeros = score_with(0)

# %% [markdown]
# `dmbp.decompose` takes masks by the name of their place, and gives the parts of the
# score that lesson 4 is about. What is left of the score when all masks are zero is a
# part of its own, `unmasked`. It is subtracted from the positive and the negative part.

# %%
split = decompose(lin, {"block.relu2": sigma}, 0)
assert close(split.unmasked, with_zeros)
assert close(split.positive, with_sigma - with_zeros)
assert close(split.negative, with_rest - with_zeros)

# %% tags=["hide-input"]
h2 = z2.relu()
masked_maps = {
    "$h_2$": h2,
    r"$\sigma_2 \odot h_2$": sigma * h2,
    r"$(1 - \sigma_2) \odot h_2$": (1 - sigma) * h2,
}
figure, axes = plt.subplots(1, 3, figsize=(10.5, 2.2))
for ax, (name, maps) in zip(axes, masked_maps.items(), strict=True):
    both = torch.cat([maps[0, 0], maps[0, 1]], dim=1)
    drawn = ax.imshow(both.numpy(), cmap=DIVERGING, vmin=-1, vmax=1)
    ax.axvline(3.5, color="black", lw=1)
    ax.set(title=name, yticks=[], xticks=(1.5, 5.5), xticklabels=("map 0", "map 1"))
colorbar = figure.colorbar(drawn, ax=axes, label="value")

# %% [markdown]
# The paper does not multiply the maps on their way forward. It multiplies the
# *gradients* on their way back, at the same places, and the outcome is the same: a
# diagonal matrix in a product of matrices does not mind from which end we multiply.
#
# In PyTorch this takes a hook. A *forward hook* is a function that PyTorch calls when a
# module has computed its output; it gets the module, its inputs and its output. Ours has
# the mask as one more argument, which `partial` fills in beforehand. It tells autograd:
# when the gradient of this output arrives, multiply it by the mask and go on. We will use
# this hook in many of the later lessons.
#
# What does the gradient of the masked network contain? The positive part, and also what
# no mask touches: the way through the identity. `dmbp` has taken that out of the positive
# part, so we add it again.


# %%
def mask_gradient(mask, gate, inputs, output):
    """A forward hook: the gradient that arrives at this output goes on times mask."""
    output.register_hook(lambda gradient: mask * gradient)


# %%
relu2 = small.block.relu2
hook = relu2.register_forward_hook(partial(mask_gradient, sigma))
leaf = x.clone().requires_grad_()
(masked_gradient,) = torch.autograd.grad(small(leaf).sum(), leaf)
hook.remove()

positive = split.ledger("positive").weight
unmasked = split.ledger("unmasked").weight
assert close(positive + unmasked, masked_gradient)

# %% [markdown]
# In a residual block it matters where the mask sits. On the paper's block, a mask at
# the gates leaves the identity beside them alone: $\Sigma \hat W + I$. A mask at the
# sum masks both: $\Sigma (\hat W + I)$. (In `dmbp.explain` you choose between them by
# `sites="gates"` and `sites="blocks"`.) `matrices` gives sparse matrices of SciPy, which
# `toarray` writes out in full. It takes nothing out: its positive matrix is that of the
# whole masked network, with the identity.

# %%
Sigma = torch.diag(sigma.flatten())
at_gates = matrices.matrices(lin, {"block.relu2": sigma}, "block.add", "maxpool")
assert close(torch.from_numpy(at_gates.positive.toarray()), Sigma @ W2_hat + I)

at_sum = matrices.matrices(lin, {"block.add": sigma}, "block.add", "maxpool")
assert close(torch.from_numpy(at_sum.positive.toarray()), Sigma @ (W2_hat + I))

# %% [markdown]
# ## Exercises
#
# 1. A 3×3 convolution with padding 1 makes 16 maps of a picture of 64×64 pixels. How
#    many entries has its $T$, and how many of them are not zero?
# 2. What is the matrix of a *transposed* convolution with the same weights?
# 3. With which padding may a batch norm be fused into the convolution *after* it?
# 4. **Change a number and look.** Give `conv2` the kernel size 1 and no padding, and draw
#    its matrix with `draw_matrix`. What does it look like now? (`convolution_matrix` is
#    for 3×3 filters, so the cell that calls it for `T2` will stop.)
# 5. **Do it to your own network.** Print `linreg.trace(model, x).summary()` and look
#    for the words `batch norm`. Which batch norms of your network were not fused, and
#    why?

# %% tags=["hide-cell"]
# 1. 268 million, and one in 465 is not zero: along each side of a map there are
# 3·64 − 2 pairs of an output pixel and an input pixel that meet.
picture = torch.rand(1, 1, 64, 64)
wide = nn.Conv2d(1, 16, kernel_size=3, padding=1)
T = linreg.trace(wide, picture).linearize(picture).matrix(format="csr")
assert T.shape == (16 * 64**2, 64**2)
assert T.count_nonzero() == 16 * (3 * 64 - 2) ** 2
assert round(16 * 64**4 / T.count_nonzero()) == 465

# %% tags=["hide-cell"]
# 2. The transposed matrix.
back = nn.ConvTranspose2d(2, 2, kernel_size=3, padding=1).double()
back.weight = small.block.conv2.weight
assert close(linreg.trace(back, pooled).linearize(pooled).matrix(), T2.T)

# %% tags=["hide-cell"]
# 3. With none, or with one that repeats pixels of the picture: what it puts around the
# picture is then shifted too.
early.conv.padding_mode = "circular"
around = nn.CircularPad2d(1)(x)
result = torch.conv2d(around, early_s * weight, fused_bias)
assert close(linreg.trace(early, x)(x), result)

early.conv.padding_mode = "zeros"
early.conv.padding = 0
result = torch.conv2d(x, early_s * weight, fused_bias)
assert close(linreg.trace(early, x)(x), result)

# %% tags=["hide-cell"]
# 4. Each pixel of the result sees one pixel of each map: four diagonals, one in each
# quarter, with one weight each.
point = nn.Conv2d(2, 2, kernel_size=1).double()
matrix = linreg.trace(point, pooled).linearize(pooled).matrix()
pixel_identity = torch.eye(16, dtype=torch.float64)
assert close(matrix, torch.kron(point.weight.detach()[:, :, 0, 0], pixel_identity))

# %% tags=["hide-cell"]
# 5. Those that do not come right behind a convolution or a linear layer, as in a
# DenseNet, where the batch norm comes first. This network has one of each kind.
yours = nn.Sequential(
    nn.Conv2d(1, 2, kernel_size=3, padding=1),
    nn.BatchNorm2d(2),
    nn.ReLU(),
    nn.BatchNorm2d(2),
    nn.Conv2d(2, 2, kernel_size=3, padding=1),
)
summary = str(linreg.trace(yours.double().eval(), x).summary())
assert summary.count("batch norm") == 1
