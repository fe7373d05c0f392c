# %% [markdown]
# # 1. A ReLU network is linear here
#
# A ReLU network is made of matrices and of gates that are open or closed. At one input every gate has decided, and what
# is left is a product of matrices: a linear function. This page builds that product by hand, for a network small enough
# to be seen whole, and then lets `linreg` do it. Equations are those of
# [Ruiz, Agudo and Moreno-Noguer (2021)](https://doi.org/10.1109/ICCV48922.2021.00094).

# %%
from functools import partial

import matplotlib.pyplot as plt
import torch
from torch import nn

import linreg
from dmbp.datasets import sample_pairs
from dmbp.networks import pretrained
from dmbp.plot import DIVERGING

torch.manual_seed(161)  # a network of which all pieces can be seen
close = partial(torch.allclose, rtol=1e-12, atol=1e-14)

# %% [markdown]
# ## Eqs. (1), (2): the network
#
# $$y = F(x) = w^\top [f_L \circ \dots \circ f_1(x)], \qquad h_l = f_l(h_{l-1}) = \phi(W_l h_{l-1}), \qquad
# \phi(\cdot) = \max(\cdot, 0)$$
#
# $h_0$ is the input x, L the number of hidden layers, and y the *score*. Here: two inputs, two hidden layers of eight
# units, and no biases (they come in tutorial 2). In this project claims are made in `float64`, where rounding does not
# hide a mistake.

# %%
network = nn.Sequential(
    nn.Linear(2, 8, bias=False), nn.ReLU(), nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 1, bias=False)
).double()
W1, W2, w = (network[i].weight.detach() for i in (0, 2, 4))
x = torch.tensor([[0.8, 0.5]], dtype=torch.float64)

h1 = (W1 @ x[0]).clamp(min=0)
h2 = (W2 @ h1).clamp(min=0)
y = w[0] @ h2
assert close(network(x)[0, 0], y)

# %% [markdown]
# Over the plane of its inputs the function is a tent of flat pieces. Colours tell which gates are open (they repeat,
# for want of 34): within one wedge the network is one linear function, and its lines of equal score are straight.

# %%
side = torch.linspace(-1, 1, 401, dtype=torch.float64)
plane = torch.cartesian_prod(side, side)
first = plane @ W1.T > 0
second = (plane @ W1.T).clamp(min=0) @ W2.T > 0
pattern = torch.cat([first, second], 1).unique(dim=0, return_inverse=True)[1]

figure, ax = plt.subplots(figsize=(5.6, 4.8), layout="constrained")
ax.imshow(pattern.view(401, 401).T.numpy() % 20, extent=(-1, 1, -1, 1), origin="lower", cmap="tab20", alpha=0.55)
heights = network(plane).detach().view(401, 401).T
lines = ax.contour(side.numpy(), side.numpy(), heights.numpy(), 12, colors="black", linewidths=0.8)
ax.clabel(lines, fontsize=8)
ax.plot(*x[0].tolist(), "o", color="white", mec="black", ms=9)
ax.annotate("x", x[0].tolist(), (8, -4), textcoords="offset points", fontsize=13)
ax.set(title=f"{pattern.max().item() + 1} linear regions; lines of equal score", xlabel="$x_1$", ylabel="$x_2$")

# %% [markdown]
# ## Eq. (3): a gate is a diagonal matrix
#
# $$h_l = \hat W_l h_{l-1}, \qquad \hat W_l = \mathrm{diag}(\mathcal H(W_l h_{l-1}))\, W_l$$
#
# $\mathcal H$ is the Heaviside step, with $\mathcal H(0) = 0$: at the kink the closed side wins. A closed unit takes
# its row out of $W_l$. `linreg.trace` makes a graph of the network, `linearize` freezes its gates at x, and `matrix`
# gives $\hat W$ of any stretch of it, from the input unless `start` says otherwise; nodes are called like the modules,
# `"1"` and `"3"` being the ReLUs.

# %%
gates1, gates2 = (W1 @ x[0] > 0).double(), (W2 @ h1 > 0).double()
What1, What2 = torch.diag(gates1) @ W1, torch.diag(gates2) @ W2
assert close(What2 @ What1 @ x[0], h2)

graph = linreg.trace(network, x)
lin = graph.linearize(x)
assert close(lin.matrix("1"), What1)
assert close(lin.matrix("3", start="1"), What2)
print(lin.summary())

# %%
figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.6), layout="constrained")
names = ("$W_2$", r"diag$(\mathcal{H}(W_2 h_1))$", r"$\hat W_2$: the rows of open units")
for ax, matrix, name in zip(axes, (W2, torch.diag(gates2), What2), names, strict=True):
    drawn = ax.imshow(matrix.numpy(), cmap=DIVERGING, vmin=-1, vmax=1)
    ax.set(title=name, xlabel="unit of $h_1$", xticks=range(8), yticks=range(8))
axes[0].set_ylabel("unit of $h_2$")
figure.colorbar(drawn, ax=axes, label="weight", shrink=0.85)

# %% [markdown]
# ## Eq. (4): the network is a product of matrices
#
# $$y = w^\top [\hat W_L \dots \hat W_2 \hat W_1]\, x = w^\top H_L\, x$$
#
# $H_L$ is `lin.matrix("3")`, from the input to the last gate, and $c = w^\top H_L$ is `lin.weight(0)`, for output 0,
# the only one, and shaped like the batch x. Since the network is linear here, $c$ is also its gradient, which PyTorch
# finds in its own way.

# %%
H = What2 @ What1
c = w[0] @ H
leaf = x.clone().requires_grad_()
(gradient,) = torch.autograd.grad(network(leaf).sum(), leaf)
assert close(lin.matrix("3"), H)
assert close(lin.weight(0)[0], c)
assert close(gradient[0], c)
assert close(c @ x[0], y)

# %% [markdown]
# How far does this function reach? To the edges of the region of x: there it differs from the network by exactly
# nothing. Beyond them it differs, but where the two happen to cross, as on a ray to the left.

# %%
apart = heights - (plane @ c).view(401, 401).T
same = (pattern == pattern[(plane - x).norm(dim=1).argmin()]).view(401, 401).T
assert apart[same].abs().max() < 1e-12 < 1e-3 < apart[~same].abs().max()

figure, ax = plt.subplots(figsize=(6, 4.8), layout="constrained")
limit = apart.abs().max().item()
drawn = ax.imshow(apart.numpy(), extent=(-1, 1, -1, 1), origin="lower", cmap=DIVERGING, vmin=-limit, vmax=limit)
ax.contour(side.numpy(), side.numpy(), same.double().numpy(), [0.5], colors="black", linewidths=1.5)
ax.plot(*x[0].tolist(), "o", color="white", mec="black", ms=9)
ax.annotate("x", x[0].tolist(), (8, -4), textcoords="offset points", fontsize=13)
ax.set(title="network minus the linear function at x\n(outlined: the region of x)", xlabel="$x_1$", ylabel="$x_2$")
figure.colorbar(drawn, label="difference, in units of y")

# %% [markdown]
# ## Eq. (5): an attribution map
#
# $$a(x) = [w^\top H_L] \odot x = \nabla_x F(x) \odot x$$
#
# Every input gets its term of the sum $y = \sum_i c_i x_i$, its *share* of the score: an amount, in units of y. The
# same two lines work for a trained residual network and a picture of a 3 and a 9; the first matrix of that one would
# have 268 million entries, so nobody builds it.

# %%
a = lin.weight(0) * x
assert close(a.sum(), y)

digits, pair = pretrained("digit-pairs").double(), sample_pairs().images[:1].double()
seen = linreg.trace(digits, pair).linearize(pair)
leaf = pair.clone().requires_grad_()
(gradient,) = torch.autograd.grad(digits(leaf)[0, 3], leaf)
attribution = seen.weight(3) * pair
assert torch.allclose(attribution, gradient * pair, rtol=1e-9, atol=1e-12)
print(f'the score of "3" is {seen.score(3).item():.2f}, and the map sums to {attribution.sum().item():.2f}')

# %%
figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.8), layout="constrained")
axes[0].imshow(pair[0, 0].numpy(), cmap="gray")
limit = attribution.abs().quantile(0.995).item()
drawn = axes[1].imshow(attribution[0, 0].numpy(), cmap=DIVERGING, vmin=-limit, vmax=limit)
figure.colorbar(drawn, ax=axes[1], label="share of the score per pixel", extend="both")
for ax, name in zip(axes, ("x", 'a(x) = c ⊙ x, for "3"'), strict=True):
    ax.set(title=name, xticks=[], yticks=[])

# %% [markdown]
# Two things are wrong with it. It does not sum to the score, because this network has biases: tutorial 2 finds what is
# missing. And it is noise, with red and blue side by side everywhere: tutorial 4 begins to take that apart.
#
# ## Exercises
#
# 1. Without biases the regions are cones: $F(2x) = 2F(x)$. Which step of the argument needs a *positive* factor?
# 2. Move x until the first gate flips. Does y jump there? Does c?
# 3. How many rows of $H_L$ are zero, and what is the rank of $H_L$ at most, given how many gates are open?

# %% tags=["hide-cell"]
# 1. φ(k z) = k φ(z) for k > 0 only; a negative factor closes what was open.
assert close(network(2 * x), 2 * network(x))
assert not torch.allclose(network(-2 * x), -2 * network(x), rtol=1e-3)

# 2. y is continuous, c jumps. Go to the nearest boundary along a unit's weight, a little short of it and beyond.
z = W1 @ x[0]
unit = (z.abs() / W1.norm(dim=1)).argmin()
edge = x - z[unit] / W1[unit].norm() ** 2 * W1[unit]
short, beyond = (graph.linearize(edge + k * 1e-9 * z[unit].sign() * W1[unit]) for k in (1, -1))
assert torch.allclose(short.output, beyond.output, atol=1e-7)
assert (short.weight(0) - beyond.weight(0)).abs().max() > 1e-3

# 3. The row of a closed unit of the last layer is zero; the rank is at most that of any factor, and 2 inputs bound it.
assert H.ne(0).any(1).sum() <= gates2.sum()
assert torch.linalg.matrix_rank(H) <= min(2, gates1.sum(), gates2.sum())
