# %% [markdown]
# # 8. Beyond ReLU
#
# Nothing so far needed the ReLU itself. It needed only that each unit is a straight line
# near its input. So are units with two slopes, units that stop at a bound, and units
# that choose the largest of several numbers. Smooth curves are straight nowhere, and
# are taken by pieces.
#
# **You will see** what each of these units is frozen to, where its constants stand in
# the ledger, what a max pooling is as a matrix, and how near a network of straight
# pieces comes to the smooth network that it stands for.
#
# **You need** lesson 1 (gates), lesson 2 (the ledger) and lesson 4 (masks).
#
# **Time**: about 40 minutes to read. The page runs in ten seconds.

# %%
from collections import OrderedDict

import matplotlib.pyplot as plt
import torch
from torch import nn

import dmbp
import linreg
from dmbp.datasets import sample_pairs
from linreg.plot import waterfall

torch.manual_seed(8)
plt.rcParams["figure.constrained_layout.use"] = True


def close(one, other):
    return torch.allclose(one, other, rtol=1e-12, atol=1e-13)


# %% [markdown]
# ## Eq. (3): a gate has a slope and an offset
#
# $$\phi(z) = s \odot z + t$$
#
# A gate takes the number z that arrives, and hands on a straight line of it: a slope s
# times z, and an offset t. A ReLU has the slopes 0 and 1, and no offset. Here are others:
#
# - LeakyReLU has the slopes α and 1, and PReLU learns an α for each channel. The
#   absolute value |z| is one with α = −1. None of them has an offset.
# - ReLU6 and hardtanh stop at bounds. There the slope is 0 and the offset is the bound.
#
# At a kink, where two pieces meet, the closed side wins: the piece with the slope 0, and
# for LeakyReLU the piece of negative z.

# %%
z = torch.tensor([[-8.0], [-3.0], [0.0], [3.0], [8.0]], dtype=torch.float64)
gates = {
    "LeakyReLU, α = 0.25": nn.LeakyReLU(0.25),
    "|z|: PReLU, α = −1": nn.PReLU(init=-1.0).double(),
    "ReLU6": nn.ReLU6(),
    "hardtanh": nn.Hardtanh(),
}
slopes = {
    "LeakyReLU, α = 0.25": [0.25, 0.25, 0.25, 1, 1],
    "|z|: PReLU, α = −1": [-1, -1, -1, 1, 1],
    "ReLU6": [0, 0, 0, 1, 0],
    "hardtanh": [0, 0, 1, 0, 0],
}

# %%
offsets = {
    "LeakyReLU, α = 0.25": [0, 0, 0, 0, 0],
    "|z|: PReLU, α = −1": [0, 0, 0, 0, 0],
    "ReLU6": [0, 0, 0, 0, 6],
    "hardtanh": [-1, -1, 0, 1, 1],
}
for name, gate in gates.items():
    lin = linreg.trace(gate, z).linearize(z)
    assert lin.weight(0).flatten().tolist() == slopes[name]
    assert lin.ledger(0).bias_share.tolist() == offsets[name]

# %% [markdown]
# In the figure a dashed line is what the gate is frozen to at one point. It goes on
# beyond the piece, straight, and passes the vertical axis at the offset t.

# %% tags=["hide-input"]
line = torch.linspace(-9, 9, 721, dtype=torch.float64)[:, None]
figure, axes = plt.subplots(1, 4, figsize=(12, 3.3), sharey=True)
for ax, (name, gate) in zip(axes, gates.items(), strict=True):
    ax.plot(line.numpy(), gate(line).detach().numpy(), color="0.75", lw=5)
    for k in (1, 4):
        frozen = slopes[name][k] * line + offsets[name][k]
        label = f"frozen at {z[k].item():g}"
        ax.plot(line.numpy(), frozen.numpy(), "--", label=label)
    ax.set(title=name, xlabel="z", ylabel="φ(z)", ylim=(-3.5, 10.5))
legend = axes[0].legend(loc="upper left")

# %% [markdown]
# ## Eq. (13): an offset is a bias that comes and goes
#
# $$y = c^\top x + \sum_l \nabla_{b_l} F^\top b_l + \sum_l \nabla_{h_l} F^\top t_l$$
#
# On one linear region an offset is a constant like any bias, with a line of its own in
# the ledger. On the next region it may be gone. $\nabla_{h_l} F$ is the gradient of the
# score with respect to what leaves the gates, and the offset is a part of that. We put
# two kinds of gates into one network and follow the numbers by hand.

# %%
network = nn.Sequential(
    OrderedDict(
        layer1=nn.Linear(2, 6),
        relu6=nn.ReLU6(),
        layer2=nn.Linear(6, 6),
        hardtanh=nn.Hardtanh(),
        output=nn.Linear(6, 1),
    )
).double()
x = torch.tensor([[8.0, 8.0]], dtype=torch.float64)


def weights_of(network):
    return [parameter.detach() for parameter in network.parameters()]


W1, b1, W2, b2, w, b = weights_of(network)

# %%
z1 = W1 @ x[0] + b1
s1 = ((z1 > 0) & (z1 < 6)).double()
t1 = 6 * (z1 >= 6).double()
h1 = s1 * z1 + t1

z2 = W2 @ h1 + b2
s2 = (z2.abs() < 1).double()
t2 = z2.sign() * (z2.abs() >= 1)
h2 = s2 * z2 + t2

y = w[0] @ h2 + b[0]
assert close(network(x)[0, 0], y)

# %% [markdown]
# The offsets of the second layer are read by w. Those of the first go through the second
# layer, with its gates on the outputs.

# %%
lin = linreg.trace(network, x).linearize(x)
ledger = lin.ledger(0)
assert close(ledger["hardtanh.offset"].values[0], w[0] * t2)
gradient1 = (w[0] * s2) @ W2
assert close(ledger["relu6.offset"].values[0], gradient1 * t1)
assert close(ledger.total[0], y)

# %% tags=["hide-input"]
figure, ax = plt.subplots(figsize=(8, 3.2))
drawn = waterfall(ledger, ax)

# %% [markdown]
# Without its offsets this score would have the other sign. So a method that forgets them
# does not only miss the sum, it may tell the opposite.

# %%
all_offsets = ledger.by_kind()["offset"]
assert ledger.total < 0
assert ledger.total - all_offsets > 0

# %% [markdown]
# And the masks? A mask sits behind its gate. It multiplies what the gate hands on, the
# offset included.

# %%
sigma1 = torch.rand(6, dtype=torch.float64)
sigma2 = torch.rand(6, dtype=torch.float64)
masked1 = sigma1 * (s1 * z1 + t1)
masked2 = sigma2 * (s2 * (W2 @ masked1 + b2) + t2)
masks = {"relu6": sigma1[None], "hardtanh": sigma2[None]}
split = dmbp.decompose(lin, masks, 0)
assert close(split.positive[0], w[0] @ masked2)

# %% [markdown]
# ## Eq. (4): the largest of some is a matrix of zeros and ones
#
# $$\begin{gathered}
# h_j = \max_{i \in \Omega_j} x_i = x_{i(j)}, \\
# \hat W_{ji} = 1 \text{ for } i = i(j), \text{ else } 0
# \end{gathered}$$
#
# Max pooling and maxout choose: output j takes the largest of the inputs in its window
# $\Omega_j$. On one region the choice $i(j)$ is fixed. So it is a matrix with a
# single 1 in each row, and of two equal inputs the first is chosen. There are no slopes
# and no offsets, and there is no mask either, unless you name the node with `sites`.

# %%
picture = sample_pairs().images[:1, :, 20:28, 14:22].double()
pixels = picture.flatten()
numbered = torch.arange(64).view(8, 8)
windows = numbered.unfold(0, 2, 2).unfold(1, 2, 2).reshape(16, 4)
chosen = torch.zeros(16, 64, dtype=torch.float64)
for j, window in enumerate(windows):
    largest = pixels[window].argmax()
    chosen[j, window[largest]] = 1
pooling = linreg.trace(nn.MaxPool2d(2), picture)
assert torch.equal(pooling.linearize(picture).matrix(), chosen)

# %% tags=["hide-input"]
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), width_ratios=(1, 2.4))
left.imshow(picture[0, 0].numpy(), cmap="gray", vmin=0, vmax=1)
at = chosen.argmax(1).numpy()
left.plot(at % 8, at // 8, "s", mfc="none", mec="C1", mew=2, ms=15)
left.set(title="x, chosen pixels outlined", xticks=[], yticks=[])
right.imshow(chosen.numpy(), cmap="Greys", aspect="auto")
right.set(title="the matrix: a single 1 (black) in each row")
labels = right.set(xlabel="pixel i, row by row", ylabel="window j")

# %% [markdown]
# ## Eq. (3) once more: a curve, by pieces
#
# $$\begin{gathered}
# \phi(z) = s_i z + t_i \\
# \text{between the knots } k_i \text{ and } k_{i+1}, \\
# |\phi(z) - f(z)| \le \varepsilon
# \end{gathered}$$
#
# Sigmoid and tanh are straight nowhere, so `linreg.trace` refuses them. Its message says
# where they are, and what the way out is: with `nonlinear="pwl"` the curve f is replaced
# by straight pieces. What cannot be taken by pieces, like softmax, stays refused.

# %%
smooth = nn.Sequential(
    OrderedDict(
        layer1=nn.Linear(2, 6),
        tanh=nn.Tanh(),
        layer2=nn.Linear(6, 6),
        sigmoid=nn.Sigmoid(),
        output=nn.Linear(6, 1),
    )
).double()


def message_of(module, **options):
    try:
        linreg.trace(module, x, **options)
    except linreg.LinregError as error:
        return str(error)
    return ""


# %%
refused = message_of(smooth)
print(refused.splitlines()[0])
assert "node 'tanh', aten.tanh" in refused
assert 'nonlinear="pwl"' in refused

# %%
still_refused = message_of(nn.Softmax(1), nonlinear="pwl")
print(still_refused.splitlines()[0])
assert "logits" in still_refused

# %% [markdown]
# The pieces join *knots*, points on the curve. Beyond the first and the last knot, φ is
# the asymptote of the curve. The function below makes the slopes and offsets from the
# knots, for curves that end at 1 on the right and at `low` on the left.


# %%
def piece_at(z, knots, f, low):
    """Slope and offset at z of the chords of f, with the asymptotes beyond them."""
    heights = f(knots)
    heights[0] = low
    heights[-1] = 1
    slopes = heights.diff() / knots.diff()
    offsets = heights[:-1] - slopes * knots[:-1]
    flat = torch.zeros(1, dtype=torch.float64)
    slopes = torch.cat([flat, slopes, flat])
    offsets = torch.cat([heights[:1], offsets, heights[-1:]])
    piece = torch.searchsorted(knots, z)
    return slopes[piece], offsets[piece]


# %% [markdown]
# The largest error ε is not measured but proved: between two knots, the distance from
# the curve to its chord is largest where the curve is parallel to the chord. At 36,001
# points we see that ε is reached, and nowhere exceeded.

# %%
z = torch.linspace(-9, 9, 36001, dtype=torch.float64)[:, None]
curves = {"tanh": (nn.Tanh(), -1), "sigmoid": (nn.Sigmoid(), 0)}
made = {}
for name, (f, low) in curves.items():
    graph = linreg.trace(f, z[::9000], nonlinear="pwl", pieces=6)
    (unit,) = graph.approximation.interpolants.values()
    phi = graph(z)
    s, t = piece_at(z, unit.breaks, f, low)
    assert close(phi, s * z + t)
    largest = (phi - f(z)).abs().max()
    assert 0.999 * unit.max_error < largest <= unit.max_error + 1e-15
    made[name] = (f(z), phi, unit.max_error)

# %% tags=["hide-input"]
figure, axes = plt.subplots(
    2,
    2,
    figsize=(9.4, 5),
    sharex=True,
    height_ratios=(2, 1),
)
for (above, below), (name, values) in zip(axes.T, made.items(), strict=True):
    curve, phi, largest = values
    above.plot(z.numpy(), curve.numpy(), color="0.75", lw=5, label=f"f = {name}")
    above.plot(z.numpy(), phi.numpy(), label="φ, 6 pieces")
    above.legend(loc="upper left")
    below.plot(z.numpy(), (phi - curve).numpy())
    below.hlines([-largest, largest], -9, 9, color="C1", ls="--")
    below.set(xlabel="z", xlim=(-6, 6), ylabel="φ − f, ±ε")

# %% [markdown]
# ## Eqs. (9), (14): exact for the pieces, near to the curve
#
# $$\begin{gathered}
# |F_\phi(x) - F(x)| \\
# \le |w|^\top (\varepsilon_2 + s_2 |W_2|\, \varepsilon_1), \\
# \varepsilon_l \propto n^{-2}
# \end{gathered}$$
#
# $F_\phi$ is the network with φ in the place of f. For it all identities of these
# lessons hold to rounding: c, the ledger, the split. How far it is from the smooth F is
# another matter. The error $\varepsilon_1$ of the first units passes $W_2$ and at most
# the steepest slope $s_2$ of the second units, which add their own $\varepsilon_2$. With
# n pieces for each unit, ε falls as $1/n^2$.
#
# The gradient does worse. The gradient of F is smooth, while c is a staircase: constant
# on each region. With twice as many pieces its error is only halved.

# %%
W1, b1, W2, b2, w, b = weights_of(smooth)
points = torch.randn(300, 2, dtype=torch.float64, requires_grad=True)
(gradient,) = torch.autograd.grad(smooth(points).sum(), points)
points = points.detach()
exact = smooth(points)[:, 0].detach()
sigma1 = torch.rand(300, 6, dtype=torch.float64)
sigma2 = torch.rand(300, 6, dtype=torch.float64)
masks = {"tanh": sigma1, "sigmoid": sigma2}

# %% [markdown]
# First the exact part, at 300 points and for any number of pieces: score, gradient and
# split by hand, as above.


# %%
def by_hand(tanh, sigmoid):
    """Score, gradient and masked score of the network of pieces."""
    z1 = points @ W1.T + b1
    s1, t1 = piece_at(z1, tanh.breaks, torch.tanh, -1)
    h1 = s1 * z1 + t1
    z2 = h1 @ W2.T + b2
    s2, t2 = piece_at(z2, sigmoid.breaks, torch.sigmoid, 0)
    y = (s2 * z2 + t2) @ w[0] + b[0]
    c = (((w * s2) @ W2) * s1) @ W1
    z2_masked = (sigma1 * h1) @ W2.T + b2
    positive = (sigma2 * (s2 * z2_masked + t2)) @ w[0]
    return y, c, positive


# %%
def with_pieces(n):
    """The library's network of n pieces a unit, opened at all points, and its units."""
    graph = linreg.trace(smooth, points, nonlinear="pwl", pieces=n)
    units = graph.approximation.interpolants
    return graph.linearize(points), units["tanh"], units["sigmoid"]


lin, tanh, sigmoid = with_pieces(8)
y, c, positive = by_hand(tanh, sigmoid)
assert close(lin.ledger(0).total, y)
assert close(lin.weight(0), c)
assert close(dmbp.decompose(lin, masks, 0).positive, positive)

# %% [markdown]
# Then the distance to the smooth network, for more and more pieces.

# %%
counts = (4, 8, 16, 32, 64, 128)
errors = []
for n in counts:
    _, tanh, sigmoid = with_pieces(n)
    y, c, _ = by_hand(tanh, sigmoid)
    steepest = sigmoid.slopes.max()
    passed_on = steepest * W2.abs().sum(1) * tanh.max_error
    bound = w[0].abs() @ (sigmoid.max_error + passed_on)
    error_y = (y - exact).abs().max()
    error_c = (c - gradient).abs().max()
    assert error_y <= bound
    errors.append([tanh.max_error, sigmoid.max_error, bound, error_y, error_c])
errors = torch.tensor(errors, dtype=torch.float64)

# %% [markdown]
# If an error is proportional to $n^{-p}$, then doubling n divides it by $2^p$. The mean
# over all doublings tells p: about 2 for the values, about 1 for the gradient.

# %%
powers = (errors[:-1] / errors[1:]).log2().mean(0)
print("powers of 1/n:", [round(p, 2) for p in powers.tolist()])
assert (powers[:3] - 2).abs().max() < 0.1
assert (powers[3] - 2).abs() < 0.4
assert (powers[4] - 1).abs() < 0.4

# %% tags=["hide-input"]
figure, ax = plt.subplots(figsize=(6.4, 4.2))
rows = {
    "ε of tanh": "C0o:",
    "ε of sigmoid": "C1s:",
    "y: what the two prove": "k--",
    "y: its error at 300 points": "k^-",
    "c: its error there": "C4D-",
}
for (name, style), row in zip(rows.items(), errors.T, strict=True):
    ax.loglog(counts, row.numpy(), style, label=name)
ax.set(xlabel="pieces n of each unit", ylabel="largest error")
legend = ax.legend()

# %% [markdown]
# From point to point in the figure the error of c is halved, and all others become a
# quarter of what they were.
#
# With this the tour of the method is complete. Lesson 9 asks what one may believe of
# its maps.
#
# ## Exercises
#
# 1. Build a maxout layer of `nn.Linear`, `nn.Unflatten` and `nn.MaxPool1d`. Which rows
#    of its weights does c see?
# 2. How many pieces does tanh need for an ε below $10^{-4}$? Read it off the figure.
# 3. What are the first and the last piece of SiLU, $z \cdot \mathrm{sigmoid}(z)$?
# 4. **Change a number and look.** In the network with ReLU6 and hardtanh, move x from
#    (8, 8) to (1, 1). Which lines of the ledger vanish, and which stay?
# 5. **Do it to your own network.** Trace a network of yours that has no ReLU. If it is
#    refused, do what the message says, and print `graph.approximation`. Which unit has
#    the largest ε?

# %% tags=["hide-cell"]
# 1. Of each three rows, the one whose output is largest.
first = nn.Linear(2, 6).double()
last = nn.Linear(2, 1).double()
by_threes = nn.Unflatten(1, (2, 3))
maxout = nn.Sequential(first, by_threes, nn.MaxPool1d(3), nn.Flatten(), last)
largest = first(x).view(2, 3).argmax(1)
rows = first.weight[largest + torch.tensor([0, 3])]
c = linreg.trace(maxout, x).linearize(x).weight(0)
assert close(c, last.weight @ rows)

# %% tags=["hide-cell"]
# 2. The line of tanh passes 10⁻⁴ a little beyond 128.
graph = linreg.trace(nn.Tanh(), x, nonlinear="pwl", pieces=132)
assert graph.approximation.interpolants["tanh"].max_error < 1e-4
assert errors[-1, 0] > 1e-4

# %% tags=["hide-cell"]
# 3. They are its asymptotes, 0 and z.
silu = linreg.trace(nn.SiLU(), x, nonlinear="pwl")
far = torch.tensor([[-50.0, 50.0]], dtype=torch.float64)
assert silu(far).tolist() == [[0, 50]]

# %% tags=["hide-cell"]
# 4. At (1, 1) no ReLU6 is at its bound, so that line sums to 0. Biases stay always.
near = torch.ones(1, 2, dtype=torch.float64)
ledger = linreg.trace(network, near).linearize(near).ledger(0)
assert ledger["relu6.offset"].total == 0
assert ledger["layer1.bias"].total != 0
# 5. Units have equally many pieces, so it is the one with the most curved f.
graph = linreg.trace(smooth, x, nonlinear="pwl", pieces=8)
units = graph.approximation.interpolants
assert units["tanh"].max_error > units["sigmoid"].max_error
