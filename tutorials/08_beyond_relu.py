# %% [markdown]
# # 8. Beyond ReLU
#
# Nothing so far needed the ReLU itself, only that each unit is a straight line near its input. So are units with two
# slopes, with an offset, and those that choose. Curves are not, and are taken by pieces. Needed: tutorials 1, 2, 4.

# %%
import matplotlib.pyplot as plt
import torch
from torch import nn

import dmbp
import linreg
from dmbp.datasets import sample_pairs
from linreg.plot import waterfall

torch.manual_seed(8)
EXACT = {"rtol": 1e-12, "atol": 1e-13}

# %% [markdown]
# ## Eq. (3): a gate has a slope and an offset
#
# $$\phi(z) = s \odot z + t$$
#
# LeakyReLU has the slopes $\alpha$ and 1, PReLU learns an $\alpha$ for each channel, $|z|$ has $\alpha = -1$; $t$ is 0.
# ReLU6 and hardtanh stop at bounds: there $s = 0$, and $t$ is the bound. At a kink the closed side wins, of LeakyReLU
# that of $z < 0$. Dashed is what each unit is frozen to at two points: a line through $t$ on the vertical axis.

# %%
z = torch.tensor([[-8.0], [-3.0], [0.0], [3.0], [8.0]], dtype=torch.float64)
units = (  # each with its slopes and offsets at these five points
    ("LeakyReLU, α = 0.25", nn.LeakyReLU(0.25), [0.25, 0.25, 0.25, 1, 1], [0, 0, 0, 0, 0]),
    ("|z|: PReLU, α = −1", nn.PReLU(init=-1.0).double(), [-1, -1, -1, 1, 1], [0, 0, 0, 0, 0]),
    ("ReLU6", nn.ReLU6(), [0, 0, 0, 1, 0], [0, 0, 0, 0, 6]),
    ("hardtanh", nn.Hardtanh(), [0, 0, 1, 0, 0], [-1, -1, 0, 1, 1]),
)
line = torch.linspace(-9, 9, 721, dtype=torch.float64)[:, None]
figure, axes = plt.subplots(1, 4, figsize=(12, 3.3), layout="constrained", sharey=True)
for ax, (name, unit, s, t) in zip(axes, units, strict=True):
    lin = linreg.trace(unit, z).linearize(z)
    s, t = torch.tensor([s, t], dtype=torch.float64)[..., None]
    assert torch.equal(lin.weight(0), s) and torch.equal(lin.ledger(0).bias_share, t[:, 0])
    ax.plot(line.numpy(), unit(line).detach().numpy(), color="0.75", lw=5)
    for k in (1, 4):
        ax.plot(line.numpy(), (s[k] * line + t[k]).numpy(), "--", label=f"frozen at {z[k].item():g}")
    ax.set(title=name, xlabel="z", ylabel="φ(z)", ylim=(-3.5, 10.5))
axes[0].legend(loc="upper left")

# %% [markdown]
# ## Eq. (13): an offset is a bias that comes and goes
#
# $$y = c^\top x + \sum_l g_l^\top b_l + \sum_l \gamma_l^\top t_l$$
#
# Each offset is a constant on this region, with a line in the ledger; $\gamma_l$ is the gradient behind the gate.
# Without the offsets this score would have the other sign. A mask sits behind them: it multiplies $s \odot z + t$.

# %%
model = nn.Sequential(nn.Linear(2, 6), nn.ReLU6(), nn.Linear(6, 6), nn.Hardtanh(), nn.Linear(6, 1)).double()
(W1, b1), (W2, b2), (w, b3) = ((model[i].weight.detach(), model[i].bias.detach()) for i in (0, 2, 4))
x = torch.tensor([[8.0, 8.0]], dtype=torch.float64)
z1 = W1 @ x[0] + b1
s1, t1 = ((z1 > 0) & (z1 < 6)).double(), 6 * (z1 >= 6).double()
z2 = W2 @ (s1 * z1 + t1) + b2
s2, t2 = (z2.abs() < 1).double(), z2.sign() * (z2.abs() >= 1)
lin = linreg.trace(model, x).linearize(x)
ledger = lin.ledger(0)
assert torch.allclose(ledger["1.offset"].values[0], w[0] * s2 @ W2 * t1, **EXACT)
assert torch.allclose(ledger["3.offset"].values[0], w[0] * t2, **EXACT)
assert torch.allclose(ledger.total, model(x)[:, 0], **EXACT)
assert ledger.total < 0 < ledger.total - ledger.by_kind()["offset"]
m1, m2 = torch.rand(2, 6, dtype=torch.float64)
positive = w[0] @ (m2 * (s2 * (W2 @ (m1 * (s1 * z1 + t1)) + b2) + t2))
assert torch.allclose(dmbp.decompose(lin, {"1": m1[None], "3": m2[None]}, 0).positive, positive, **EXACT)
waterfall(ledger).figure

# %% [markdown]
# ## Eq. (4): the largest of some is a matrix of zeros and ones
#
# $$z_j = \max_{i \in \mathcal N_j} x_i = x_{i(j)}, \qquad \hat W_{ji} = [\, i = i(j) \,]$$
#
# Max pooling and maxout choose. On one region the choice is fixed, a matrix with a single 1 in each row; of two equal
# ones the first is chosen. There are no slopes and no offsets, and no mask either, unless `sites` names the node.

# %%
picture = sample_pairs().images[:1, :, 20:28, 14:22].double()
chosen = torch.zeros(16, 64, dtype=torch.float64)
for j, window in enumerate(torch.arange(64).view(8, 8).unfold(0, 2, 2).unfold(1, 2, 2).reshape(16, 4).tolist()):
    chosen[j, max(window, key=picture.flatten().__getitem__)] = 1
assert torch.equal(linreg.trace(nn.MaxPool2d(2), picture).linearize(picture).matrix(), chosen)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained", width_ratios=(1, 2.4))
left.imshow(picture[0, 0].numpy(), cmap="gray", vmin=0, vmax=1)
left.plot(chosen.argmax(1).numpy() % 8, chosen.argmax(1).numpy() // 8, "s", mfc="none", mec="C1", mew=2, ms=15)
left.set(title="x, chosen pixels outlined", xticks=[], yticks=[])
right.imshow(chosen.numpy(), cmap="Greys", aspect="auto")
right.set(title="the matrix: a single 1 (black) in each row", xlabel="pixel i, row by row", ylabel="window j")

# %% [markdown]
# ## Eq. (3): a curve, by pieces
#
# $$\phi(z) = s_i z + t_i \text{ between the knots } k_i \text{ and } k_{i+1}, \qquad |\phi(z) - f(z)| \le \varepsilon$$
#
# Sigmoid and tanh are straight nowhere, so `linreg.trace` refuses them; the message says where, and the way out. With
# `nonlinear="pwl"` chords join knots on the curve, and beyond these $\phi$ is the asymptotes. $\varepsilon$ is proved:
# the gap to a chord is largest where the curve is parallel to it. What has no pieces, like softmax, stays refused.

# %%
smooth = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 6), nn.Sigmoid(), nn.Linear(6, 1)).double()
messages = []
for module, options in ((smooth, {}), (nn.Softmax(1), {"nonlinear": "pwl"})):
    try:
        linreg.trace(module, x, **options)
    except linreg.LinregError as error:
        messages.append(str(error))
print(*messages, sep="\n")
assert "node '1', aten.tanh" in messages[0] and 'nonlinear="pwl"' in messages[0] and "logits" in messages[1]


def frozen(z, knots, f, low):
    """Slopes and offsets at z of the chords of f, with the asymptotes `low` and 1 beyond them."""
    heights = torch.cat([knots[:1] * 0 + low, f(knots[1:-1]), knots[:1] * 0 + 1])
    slopes = heights.diff() / knots.diff()
    offsets = torch.cat([heights[:1], heights[:-1] - slopes * knots[:-1], heights[-1:]])
    piece = torch.searchsorted(knots, z)
    return nn.functional.pad(slopes, (1, 1))[piece], offsets[piece]


z = torch.linspace(-9, 9, 36001, dtype=torch.float64)[:, None]
figure, axes = plt.subplots(2, 2, figsize=(9.4, 5), layout="constrained", sharex=True, height_ratios=(2, 1))
for (above, below), f, low in zip(axes.T, (nn.Tanh(), nn.Sigmoid()), (-1, 0), strict=True):
    graph = linreg.trace(f, z[::9000], nonlinear="pwl", pieces=6)
    (unit,) = graph.approximation.interpolants.values()
    (s, t), phi = frozen(z, unit.breaks, f, low), graph(z)
    assert torch.allclose(phi, s * z + t, **EXACT)
    assert 0.999 * unit.max_error < (phi - f(z)).abs().max() <= unit.max_error + 1e-15  # reached, and never exceeded
    above.plot(z.numpy(), f(z).numpy(), color="0.75", lw=5, label=f"f = {unit.unit}")
    above.plot(z.numpy(), phi.numpy(), label="φ, 6 pieces")
    above.legend(loc="upper left")
    below.plot(z.numpy(), (phi - f(z)).numpy())
    below.hlines([-unit.max_error, unit.max_error], -9, 9, color="C1", ls="--")
    below.set(xlabel="z", xlim=(-6, 6), ylabel="φ − f, ±ε")

# %% [markdown]
# ## Eqs. (9), (14): exact for its pieces, near to the curve
#
# $$|F_\phi(x) - F(x)| \le |w|^\top (\varepsilon_2 + s_2 |W_2| \varepsilon_1), \qquad \varepsilon_l \propto n^{-2}$$
#
# All identities hold to rounding for $F_\phi$, the network with $\phi$ in the place of $f$. How far it is from $F$ is
# another matter: $\varepsilon_1$ passes $W_2$ and the steepest slope $s_2$ of the second unit, which adds its own. With
# twice the pieces $n$ the errors of values are a quarter, that of the gradient $c$, a staircase now, only half.

# %%
(W1, b1), (W2, b2), (w, b3) = ((smooth[i].weight.detach(), smooth[i].bias.detach()) for i in (0, 2, 4))
points = torch.randn(300, 2, dtype=torch.float64, requires_grad=True)
(gradient,) = torch.autograd.grad(smooth(points).sum(), points)
points, (m1, m2) = points.detach(), torch.rand(2, 300, 6, dtype=torch.float64)
counts, errors = (4, 8, 16, 32, 64, 128), []
for n in counts:
    graph = linreg.trace(smooth, points, nonlinear="pwl", pieces=n)
    lin, (one, two) = graph.linearize(points), graph.approximation.interpolants.values()
    s1, t1 = frozen(points @ W1.T + b1, one.breaks, torch.tanh, -1)
    h1 = s1 * (points @ W1.T + b1) + t1
    s2, t2 = frozen(h1 @ W2.T + b2, two.breaks, torch.sigmoid, 0)
    y = (s2 * (h1 @ W2.T + b2) + t2) @ w[0] + b3
    assert torch.allclose(lin.weight(0), (w * s2 @ W2 * s1) @ W1, **EXACT)
    assert torch.allclose(lin.ledger(0).total, y, **EXACT)
    positive = (m2 * (s2 * ((m1 * h1) @ W2.T + b2) + t2)) @ w[0]
    assert torch.allclose(dmbp.decompose(lin, {"1": m1, "3": m2}, 0).positive, positive, **EXACT)
    bound = w[0].abs() @ (two.max_error + two.slopes.max() * W2.abs().sum(1) * one.max_error)
    apart = [(y - smooth(points)[:, 0]).abs().max().item(), (lin.weight(0) - gradient).abs().max().item()]
    assert apart[0] <= bound
    errors.append([one.max_error, two.max_error, bound.item(), *apart])
errors = torch.tensor(errors)
powers = (errors[:-1] / errors[1:]).log2().mean(0)  # of 1/n
assert ((powers - torch.tensor([2, 2, 2, 2, 1])).abs() < torch.tensor([0.1, 0.1, 0.1, 0.4, 0.4])).all()
figure, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
names = ("ε of tanh", "ε of sigmoid", "y: what the two prove", "y: its error at 300 points", "c: its error there")
for name, row, style in zip(names, errors.T, ("C0o:", "C1s:", "k--", "k^-", "C4D-"), strict=True):
    ax.loglog(counts, row.numpy(), style, label=name)
ax.set(xlabel="pieces n of each unit", ylabel="largest error, in units of f, y or c")
ax.legend()

# %% [markdown]
# From point to point in the figure c's error is halved, and all else quartered. Here ends the tour of the method.
#
# ## Exercises
#
# 1. Build a maxout layer of `nn.Linear`, `nn.Unflatten` and `nn.MaxPool1d`. Which rows of W does c see?
# 2. How many pieces does tanh need for $\varepsilon < 10^{-4}$? Read it off the figure.
# 3. What are the first and the last piece of SiLU, $z \cdot \sigma(z)$?

# %% tags=["hide-cell"]
# 1. Those of the largest of each three.
first, last = nn.Linear(2, 6), nn.Linear(2, 1)
maxout = nn.Sequential(first, nn.Unflatten(1, (2, 3)), nn.MaxPool1d(3), nn.Flatten(), last).double()
rows = first(x).view(2, 3).argmax(1) + torch.tensor([0, 3])
assert torch.allclose(linreg.trace(maxout, x).linearize(x).weight(0), last.weight @ first.weight[rows], **EXACT)
# 2. Its line passes 10⁻⁴ a little beyond 128. And for 3. they are 0 and z, its asymptotes.
tanh, silu = (linreg.trace(unit, x, nonlinear="pwl", pieces=132) for unit in (nn.Tanh(), nn.SiLU()))
assert tanh.approximation.interpolants["tanh"].max_error < 1e-4 < errors[-1, 0]
assert silu(torch.tensor([[-50.0, 50.0]]).double()).tolist() == [[0, 50]]
