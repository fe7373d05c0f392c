# %% [markdown]
# # 1. A ReLU network is linear here
#
# **You will see** that a ReLU network, looked at from one input, is a linear function:
# a product of matrices. You build that product by hand, for a network that is small
# enough to be seen whole. Then `linreg` builds it for you. At the end you have your
# first attribution map.
#
# **You need** PyTorch (`nn.Module`, and what a gradient is) and the product of two
# matrices. No other lesson comes before this one.
#
# **Time**: 30 minutes to read; twice that to type along and do the exercises.
#
# Two packages go with these lessons. `linreg` opens a network at one input and shows the
# linear function inside. `dmbp` is the method of the paper that all lessons follow, by
# [Ruiz, Agudo and Moreno-Noguer (2021)](https://doi.org/10.1109/ICCV48922.2021.00094).
# It also brings the pictures and the trained networks. The equations are those of the
# paper, and keep their numbers.
#
# Every lesson is a script. It checks what it says: wherever you see `assert`, the script
# would stop if the line were not true. The code that only draws is folded away. You can
# open it, but you lose nothing if you do not.

# %% [markdown]
# ## Symbols
#
# All lessons use the same letters. Each is explained where it first appears, so you can
# leave the table folded now. Come back to it when you meet a letter that you have
# forgotten.
#
# <details>
# <summary>Show the table</summary>
#
# | symbol | in words | first in lesson |
# |---|---|---|
# | $x$ | the input: a vector, or a picture | 1 |
# | $F$ and $y = F(x)$ | the network as a function, and its *score*: one number | 1 |
# | $L$ and $l$ | how many hidden layers there are, and the number of one of them | 1 |
# | $f_l$ | layer $l$ as a function | 1 |
# | $W_l$, $b_l$ | the weights and the biases of layer $l$ | 1, 2 |
# | $w$, $b$ | the weights and the bias of the output | 1, 2 |
# | $z_l$ | what arrives at the gates of layer $l$, for instance $W_l h_{l-1} + b_l$ | 1 |
# | $h_l$ | what leaves the gates of layer $l$; $h_0$ is $x$ | 1 |
# | $\phi$ | a gate: the ReLU, unless the lesson says otherwise | 1 |
# | $\mathcal H$ | the step: 1 for a positive number, else 0 | 1 |
# | $\hat W_l$ | $W_l$ with its gates on its outputs: the rows of closed units are 0 | 1 |
# | $H_L$ | the product of all $\hat W_l$: from the input to the last gates | 1 |
# | $\top$ | transposed: a column written as a row | 1 |
# | $\circ$ | one function after another: $f_2 \circ f_1$ takes $f_1$ first, then $f_2$ | 1 |
# | $c$ | the weight that each input has in the score, near $x$; it is the gradient | 1 |
# | $\odot$ | the product element by element, `*` in PyTorch | 1 |
# | $a(x)$ | the attribution map: one number for each input | 1 |
# | $\nabla_x F$ | the gradient of $F$ with respect to $x$; in the same way for $b_l$ and $h_l$ | 1 |
# | $i$, $j$, $k$ | numbers that count: pixels, units, steps; each page says which | 1 |
# | $\check W_l$, $\check w$ | $W_l$ and $w$ with the gates of the layer before on their inputs | 2 |
# | $\beta$ | the share that all biases together have in the score | 2 |
# | $s$, $t$ | a slope and an offset: a gate, or a batch norm, is $s \odot z + t$ | 2 |
# | $\epsilon$ | a tiny number that prevents a division by zero | 2 |
# | $T_l$ | the matrix of a convolution | 3 |
# | $M_\text{max}$, $M_\text{mean}$ | the matrices of a max pooling and an average pooling | 3 |
# | $I$ | the identity matrix | 3 |
# | $\sigma_l$, $\Sigma_l$ | the masks of layer $l$, and the same as a diagonal matrix | 3 |
# | $\hat b_l$ | $b_l$ with its gates: 0 for each closed unit | 4 |
# | $\hat W_l^+$, $\hat W_l^-$ | the two parts into which the masks split $\hat W_l$ | 4 |
# | $H_L^+$, $H_L^-$, $H_L^\sim$ | the parts of $H_L$: positive, negative, nuisance | 4 |
# | $y^+$, $y^-$, $y^\sim$ | the parts of the score: for, against, and the rest | 4 |
# | $h^+$, $h^-$, $h^\sim$ | the parts of a value on its way through the network | 4 |
# | $P(\sigma)$ | the score of the network with the masks $\sigma$ put in | 4 |
# | $F^+$, $F^-$ | the network with the masks $\sigma$, and with $1 - \sigma$ | 4 |
# | $u$ | $P(0)$: what no mask touches | 4 |
# | $\mathcal L$ | the objective that learning makes small | 5 |
# | $\theta_l$ | the logits of the masks: $\sigma_l = \mathrm{sigmoid}(\theta_l)$ | 5 |
# | $v$ | the average of squared gradients that RMSprop keeps | 5 |
# | $d$, $y_d$ | how many gates a path passes; the share of all paths of $d$ gates | 6 |
# | $y^+_l$, $y^-_l$, $y^\sim_l$ | what enters $y^+$ and $y^-$, and what turns mixed, at site $l$ | 6 |
# | $\nabla^+$, $\nabla^-$, $\nabla^\sim$ | the gradients of $F^+$ and $F^-$, and what is left of $c$ | 7 |
# | $c^+$, $c^-$ | the parts of a map's $c$ that raise and that lower the score | 7 |
# | $\gamma_k$ | the weights of Grad-CAM's channels | 7 |
# | $\psi$ | FullGrad's absolute value, stretched to the range from 0 to 1 | 7 |
# | $\alpha$ | the slope of a leaky gate for negative numbers | 8 |
# | $f$, $F_\phi$ | a smooth curve, and a network with pieces in its place | 8 |
# | $\Omega_j$ | the window of a max pooling from which output $j$ takes the largest | 8 |
# | $k_i$, $n$ | the knots between pieces, and how many pieces there are | 8 |
# | $\varepsilon$ | the largest error of a curve that is taken by pieces | 8 |
# | $H_l$, $\beta_l$ | what the input and what the constants give: $h_l = H_l\, x + \beta_l$ | 9 |
# | $K$, $r_l$ | a constant that channels hand on, and the filter that reads it | 9 |
# | $q$, $a_l(q)$ | a place of a layer, and what the layer's biases give of the score there | 9 |
# | $\Lambda_l$ | the hat that spreads a place over the pixels around it | 9 |
# | $\mathcal N$ | the normal distribution, by its mean and its variance | 9 |
# | $\rho$ | a rank correlation | 9 |
# | $S$, $e(x)$ | Sobel's filter, and the edges that it finds in $x$ | 9 |
# | $p_i$, $n$ | the probability of a class after $i$ of $n$ steps of insertion | 9 |
# | $x'$, $y'$, $c'$ | another input; score and gradient on the other side of a wall | 11 |
# | $z_k$ | what arrives at gate $k$, one number; $k$ goes through the gates of all layers | 11 |
# | $g_k$, $\beta_k$ | the gradient of $z_k$, and what the constants give of it | 11 |
# | $\kappa$ | how many times $g_k$ the gradient $c$ jumps at a wall | 11 |
# | $\tau$ | how far along a line from one input to another: from 0 to 1 | 11 |
#
# </details>

# %%
from collections import OrderedDict

import matplotlib.pyplot as plt
import torch
from torch import nn

import linreg
from dmbp.datasets import sample_pairs
from dmbp.networks import pretrained
from dmbp.plot import DIVERGING

plt.rcParams["figure.constrained_layout.use"] = True

# %% [markdown]
# Computers round. All claims in these lessons are made with 64-bit numbers (`float64`),
# whose rounding errors are so small that they cannot hide a mistake. `close` asks
# whether two tensors are equal but for that rounding.


# %%
def close(one, other):
    return torch.allclose(one, other, rtol=1e-12, atol=1e-14)


# %% [markdown]
# ## Eqs. (1), (2): the network
#
# The network of the paper is a chain of layers. A layer takes what the layer before it
# gives, $h_{l-1}$, and multiplies it by its matrix of weights, $W_l$. Then come the
# gates: a ReLU sets each negative number to zero. This is Eq. (2):
#
# $$\begin{aligned}
# h_l &= f_l(h_{l-1}) = \phi(W_l h_{l-1}) \\
# \phi(z) &= \max(z, 0)
# \end{aligned}$$
#
# There are $L$ such layers, and the first one gets the input: $h_0 = x$. The output has
# one weight for each unit of the last layer. These weights are the vector $w$. As a row,
# $w^\top$, they make a single number out of $h_L$. We call this number the *score*. This
# is Eq. (1), where $\circ$ means that one function comes after another, the rightmost
# first:
#
# $$y = F(x) = w^\top [f_L \circ \dots \circ f_1(x)]$$
#
# Our network has two inputs, so that we can draw them as a plane. It has two hidden
# layers of eight units (neurons), and no biases. Biases come in lesson 2.

# %%
torch.manual_seed(161)
network = nn.Sequential(
    OrderedDict(
        layer1=nn.Linear(2, 8, bias=False),
        relu1=nn.ReLU(),
        layer2=nn.Linear(8, 8, bias=False),
        relu2=nn.ReLU(),
        output=nn.Linear(8, 1, bias=False),
    )
)
network = network.double()
x = torch.tensor([[0.8, 0.5]], dtype=torch.float64)

# %% [markdown]
# Now we compute the score by hand. `x` is a batch with one input, as PyTorch wants it;
# `x[0]` is the input itself. We write $z_l$ for what arrives at the gates of layer $l$.

# %%
W1 = network.layer1.weight.detach()
W2 = network.layer2.weight.detach()
w = network.output.weight.detach()[0]

z1 = W1 @ x[0]
h1 = z1.clamp(min=0)
z2 = W2 @ h1
h2 = z2.clamp(min=0)
y = w @ h2
assert close(network(x)[0, 0], y)

# %% [markdown]
# A unit whose $z$ is positive is *open*: its gate lets the number through. The others
# are *closed*. Which units are open depends on the input. We try all inputs on a fine
# grid, note for each of them which of the sixteen gates are open, and count how many
# different patterns there are. `unique` finds the different patterns and numbers them;
# `region` holds, for each input, the number of its pattern.

# %%
side = torch.linspace(-1, 1, 401, dtype=torch.float64)
plane = torch.cartesian_prod(side, side)
z1_plane = plane @ W1.T
z2_plane = z1_plane.clamp(min=0) @ W2.T
is_open = torch.cat([z1_plane > 0, z2_plane > 0], dim=1)
patterns, region = is_open.unique(dim=0, return_inverse=True)
heights = network(plane).detach().view(401, 401)
assert len(patterns) == 34

# %% tags=["hide-input"]
AREA = {"extent": (-1, 1, -1, 1), "origin": "lower"}


def mark_input(ax):
    ax.plot(0.8, 0.5, "o", color="white", mec="black", ms=9)
    ax.annotate("x", (0.8, 0.5), (8, -4), textcoords="offset points", fontsize=13)
    ax.set(xlabel="first input", ylabel="second input")


figure, ax = plt.subplots(figsize=(5.6, 4.8))
colours = region.view(401, 401).T % 20
ax.imshow(colours.numpy(), cmap="tab20", alpha=0.55, **AREA)
grid = side.numpy()
lines = ax.contour(grid, grid, heights.T.numpy(), 12, colors="black", linewidths=0.8)
ax.clabel(lines, fontsize=8)
mark_input(ax)
title = ax.set_title(f"{len(patterns)} linear regions; lines of equal score")

# %% [markdown]
# Each colour is one pattern of open gates. (There are more patterns than colours, so
# some colours appear twice.) The inputs that share a pattern are called a *linear
# region*. Look at the black lines, which join inputs of equal score: inside a region
# they are straight, parallel and evenly spaced, as they are for a linear function. They
# bend only where the colour changes. (At the bottom there are no lines, because there the
# score hardly changes: it stays between two neighbouring lines, 0 and 0.025.)

# %%
bottom = heights[100:301, 0]
assert bottom.min() > 0
assert bottom.max() < 0.025

# %% [markdown]
# ## Eq. (3): a gate is a diagonal matrix
#
# Why is the network linear inside a region? Because there each gate has made its
# choice. An open gate multiplies by 1, a closed gate multiplies by 0. So all gates of a
# layer together are a diagonal matrix of ones and zeros. The paper writes it with the
# step function $\mathcal H$, which is 1 for positive numbers and 0 for all others.
# (What about zero itself? We take $\mathcal H(0) = 0$: there the gate is closed.
# PyTorch does the same.) The layer and its gates are then one matrix, $\hat W_l$:
#
# $$\begin{aligned}
# h_l &= \hat W_l h_{l-1} \\
# \hat W_l &= \mathrm{diag}(\mathcal H(W_l h_{l-1}))\, W_l
# \end{aligned}$$
#
# In the code $\hat W_1$ is called `W1_hat`.

# %%
open1 = (z1 > 0).double()
open2 = (z2 > 0).double()
W1_hat = torch.diag(open1) @ W1
W2_hat = torch.diag(open2) @ W2
assert close(W1_hat @ x[0], h1)
assert close(W2_hat @ h1, h2)

# %% tags=["hide-input"]
matrices = {
    "$W_2$": W2,
    r"diag$(\mathcal{H}(W_2 h_1))$": torch.diag(open2),
    r"$\hat W_2$: the rows of open units": W2_hat,
}
figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.6))
for ax, (name, matrix) in zip(axes, matrices.items(), strict=True):
    drawn = ax.imshow(matrix.numpy(), cmap=DIVERGING, vmin=-1, vmax=1)
    ax.set(title=name, xlabel="unit of $h_1$", xticks=range(8), yticks=range(8))
axes[0].set_ylabel("unit of $h_2$")
axes[1].set_xlabel("unit of $z_2$")
colorbar = figure.colorbar(drawn, ax=axes, label="weight", shrink=0.85)

# %% [markdown]
# Read the picture from left to right: the matrix of the layer, its gates, and their
# product. A closed unit takes its whole row out of the matrix.
#
# Now let `linreg` do the same. `trace` reads the network and makes a graph of it, in
# which each module is a node with the name that we gave it. `linearize` runs the
# network at `x` and freezes all gates as they are there. `matrix` then gives the matrix
# of any stretch of the network: from the input to a node, or from the node `start` to
# another node. In the table that `summary` makes, `open` is the share of open gates.

# %%
graph = linreg.trace(network, x)
lin = graph.linearize(x)
assert close(lin.matrix("relu1"), W1_hat)
assert close(lin.matrix("relu2", start="relu1"), W2_hat)
print(lin.summary())

# %% [markdown]
# ## Eq. (4): the network is a product of matrices
#
# Put the layers behind each other. The score is $w$, times the last matrix, times the
# one before, and so on down to the first, times the input:
#
# $$\begin{aligned}
# y &= w^\top [\hat W_L \dots \hat W_2 \hat W_1]\, x \\
# &= w^\top H_L\, x
# \end{aligned}$$
#
# $H_L$ is the product of all the gated matrices: it leads from the input to the last
# gates. Multiply by $w^\top$ too, and you have a row with one number for each input,
# which we call $c$. The network, here, is nothing but $y = c \cdot x$.

# %%
H = W2_hat @ W1_hat
c = w @ H
assert close(c @ x[0], y)

assert close(lin.matrix("relu2"), H)
assert close(lin.weight(0)[0], c)

# %% [markdown]
# `lin.weight(0)` asks for the $c$ of output 0. (Our network has only this one.) It has
# the shape of the batch `x`.
#
# A linear function $c \cdot x$ has the gradient $c$. So PyTorch must find the same
# numbers when we ask it for the gradient of the score:

# %%
leaf = x.clone().requires_grad_()
(gradient,) = torch.autograd.grad(network(leaf).sum(), leaf)
assert close(gradient[0], c)

# %% [markdown]
# How far does this linear function reach? We compare it with the network at all inputs
# of the plane. `here` marks the inputs that lie in the same region as $x$: those with
# the pattern of the grid point nearest to $x$. The loop takes one region after the other.

# %%
linear = (plane @ c).view(401, 401)
difference = heights - linear
nearest = (plane - x).norm(dim=1).argmin()
here = (region == region[nearest]).view(401, 401)
assert difference[here].abs().max() < 1e-12
for number in range(len(patterns)):
    there = (region == number).view(401, 401)
    if number != region[nearest]:
        assert difference[there].abs().max() > 1e-5

# %% tags=["hide-input"]
figure, ax = plt.subplots(figsize=(6, 4.8))
limit = difference.abs().max().item()
colours = {"cmap": DIVERGING, "vmin": -limit, "vmax": limit}
drawn = ax.imshow(difference.T.numpy(), **colours, **AREA)
border = here.T.double().numpy()
ax.contour(grid, grid, border, [0.5], colors="black", linewidths=1.5)
mark_input(ax)
ax.set_title("network minus the linear function at x\n(outlined: the region of x)")
colorbar = figure.colorbar(drawn, label="difference, in units of the score")

# %% [markdown]
# Inside the region of $x$, the outlined wedge, the two are the same: the difference is
# zero but for rounding, as the first assertion says. In each other region they differ, as
# the second one says. Just below the wedge the difference is so small that it looks
# white, but it is not zero. And on the left, where red turns into blue, there is a white
# line: there the network and the linear function happen to have the same value.
#
# ## Eq. (5): an attribution map
#
# In the sum $y = \sum_i c_i x_i$ each input has one term. This term is its *share* of
# the score: an amount, in the same units as the score, which can be positive or
# negative. All shares together are the attribution map $a(x)$:
#
# $$a(x) = [w^\top H_L] \odot x = \nabla_x F(x) \odot x$$

# %%
a = lin.weight(0) * x
assert close(a.sum(), y)

# %% [markdown]
# The same lines work for a real network. This one is a residual network that was
# trained on pictures with two digits. It has ten outputs, one for each digit. We show
# it a picture of a 3 and a 9, and ask for the score of "3". (A large network rounds more
# often, so here we compare a little less strictly than `close` does.)

# %%
digits = pretrained("digit-pairs").double()
pair = sample_pairs().images[:1].double()
lin_digits = linreg.trace(digits, pair).linearize(pair)
attribution = lin_digits.weight(3) * pair

leaf = pair.clone().requires_grad_()
(gradient,) = torch.autograd.grad(digits(leaf)[0, 3], leaf)
assert torch.allclose(attribution, gradient * pair, rtol=1e-9, atol=1e-12)

# %% [markdown]
# For this network `matrix` would be no good idea. The matrix of its first layer alone
# has one row for each number that the layer gives and one column for each pixel: 268
# million entries. `weight` never builds a matrix.

# %%
first_layer = digits.stem[0](pair)
assert first_layer.numel() * pair.numel() == 268_435_456

# %%
score = digits(pair)[0, 3].item()
sum_of_shares = attribution.sum().item()
print(f'The score of "3" is {score:.2f}.')
print(f"The shares of all pixels sum to {sum_of_shares:.2f}.")
assert abs(score - 10.79) < 0.005
assert abs(sum_of_shares - 7.47) < 0.005

# %% tags=["hide-input"]
figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.8))
axes[0].imshow(pair[0, 0].numpy(), cmap="gray")
axes[0].set_title("x")
limit = attribution.abs().quantile(0.995).item()
colours = {"cmap": DIVERGING, "vmin": -limit, "vmax": limit}
drawn = axes[1].imshow(attribution[0, 0].numpy(), **colours)
axes[1].set_title('a(x) = c ⊙ x, for "3"')
figure.colorbar(drawn, ax=axes[1], label="share of the score per pixel", extend="both")
for ax in axes:
    ax.set(xticks=[], yticks=[])

# %% [markdown]
# Two things are wrong with this map.
#
# - It does not sum to the score. The reason is that this network has biases. Lesson 2
#   finds what is missing.
# - It is noisy: red and blue lie side by side within each digit. Lesson 4 begins to
#   take the noise apart.
#
# ## Exercises
#
# 1. Without biases $F(2x) = 2F(x)$, and the regions are wedges with their tip at the
#    origin. Why? And why is $F(-2x)$ not $-2F(x)$?
# 2. Move $x$ straight to the nearest place where a gate of layer 1 turns, and a little
#    further. Does $y$ jump there? Does $c$?
# 3. You know how many gates of each layer are open. How many rows of $H_L$ can be
#    different from zero at most? How large can the rank of $H_L$ be?
# 4. **Change a number and look.** Give the network 16 units in each hidden layer in
#    place of 8. Are there more regions? Does anything else on this page stop being
#    true?
# 5. **Do it to your own network.** Take any ReLU network of yours, in `eval` mode and
#    `float64`, and one input. Is `lin.weight(target)` the gradient? What do the shares
#    of the input sum to, and what is the score?

# %% tags=["hide-cell"]
# 1. In each layer a positive factor can be taken out: φ(k z) = k φ(z) for k > 0. So no
# z changes its sign on the way from the origin through x: all of this ray lies in one
# region. A negative factor closes what was open in layer 1, and opens what was closed.
ray = torch.linspace(0.1, 10, 100, dtype=torch.float64)[:, None] * x
assert ((ray @ W1.T > 0) == (z1 > 0)).all()
assert (((ray @ W1.T).relu() @ W2.T > 0) == (z2 > 0)).all()
assert ((-2 * x @ W1.T > 0) == (z1 < 0)).all()
assert close(network(2 * x), 2 * network(x))
assert not torch.allclose(network(-2 * x), -2 * network(x), rtol=1e-3)

# %% tags=["hide-cell"]
# 2. y is continuous, c jumps. The way to a unit's border is along its own row of
# weights: against the row if z is positive. We go to the nearest border, and look a
# little before and a little behind it.
distances = z1.abs() / W1.norm(dim=1)
unit = distances.argmin()
row = W1[unit]
edge = x - z1[unit] / (row @ row) * row
step = 1e-9 * z1[unit].sign() * row
before = graph.linearize(edge + step)
behind = graph.linearize(edge - step)
assert torch.allclose(before.output, behind.output, atol=1e-7)
assert (before.weight(0) - behind.weight(0)).abs().max() > 1e-3

# %% tags=["hide-cell"]
# 3. The row of a closed unit is zero, so at most the 4 open units of layer 2 are left.
# The rank of a product is at most that of each factor: no more than the open gates of a
# layer, and no more than the two inputs. So here it is 2 at most. Both are reached.
rows = H.ne(0).any(dim=1).sum()
assert rows == open2.sum() == 4
assert torch.linalg.matrix_rank(H) == min(2, open1.sum(), open2.sum())

# %% tags=["hide-cell"]
# 4. There are more regions. The equations all hold. The numbers that belong to this one
# network change: 34, sixteen gates, the half of them that is open, and where in the
# pictures the lines and the white places are.
wide1 = nn.Linear(2, 16, bias=False).double()
wide2 = nn.Linear(16, 16, bias=False).double()
wide_z1 = wide1(plane)
wide_z2 = wide2(wide_z1.clamp(min=0))
wide_patterns = torch.cat([wide_z1 > 0, wide_z2 > 0], dim=1).unique(dim=0)
assert len(wide_patterns) > 34

# %% tags=["hide-cell"]
# 5. It is the gradient. If the network has biases, the shares do not sum to the score.
# These eight lines are for a network called `yours` with an input called `example`.
yours = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
yours = yours.double().eval()
example = torch.rand(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
lin_yours = linreg.trace(yours, example.detach()).linearize(example.detach())
(gradient,) = torch.autograd.grad(yours(example)[0, 1], example)
assert close(lin_yours.weight(1), gradient)
missing = lin_yours.score(1) - (lin_yours.weight(1) * example.detach()).sum()
assert missing.abs() > 1e-3
