# %% [markdown]
# # 2. Biases and their ledger
#
# Tutorial 1 left a debt: the map of its residual network summed to 7.47, and the score was 10.79. The difference comes
# from biases. This page carries every bias to the score by hand, lets `linreg` write all of them into a *ledger*, and
# pays the debt. It needs tutorial 1: gates as diagonal matrices, `linreg.trace`, `linearize` and `matrix`.

# %%
from functools import partial

import matplotlib.pyplot as plt
import torch
from torch import nn

import linreg
from dmbp.datasets import sample_pairs
from dmbp.networks import pretrained
from dmbp.plot import BLUE, DIVERGING
from linreg.plot import waterfall

torch.manual_seed(53)
close = partial(torch.allclose, rtol=1e-12, atol=1e-14)

# %% [markdown]
# ## Eqs. (12), (17): a line that misses the origin
#
# $$h_l = \phi(W_l h_{l-1} + b_l), \qquad
# y = w^\top \phi\left(W_3\left[\phi(W_2[\phi(W_1 x + b_1)] + b_2)\right]\right)$$
#
# Eq. (17) is such a network with three hidden layers. For brevity the paper gives no bias to the last of them, nor to
# the output. Most networks have both, so ours has both. With its gates frozen it is *affine*, $y = c \cdot x + \beta$:
# the gradient is c, and $\beta$ is what is then missing from y.
#
# Walk from the origin through x and on: the score is a line with kinks, and the affine function at x is its tangent.
# Followed back to the origin, the tangent arrives at $\beta$, which is not the network's own score there.

# %%
layers = [nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1)]
network = nn.Sequential(*layers).double()
W1, b1, W2, b2, W3, b3, w, b = (nn.init.normal_(p, std=0.5).detach() for p in network.parameters())
x = torch.tensor([[0.8, 0.5]], dtype=torch.float64)
y = w[0] @ (W3 @ (W2 @ (W1 @ x[0] + b1).clamp(min=0) + b2).clamp(min=0) + b3).clamp(min=0) + b[0]
assert close(network(x)[0, 0], y)

lin = linreg.trace(network, x).linearize(x)
ledger, c = lin.ledger(0), torch.func.grad(lambda x: network(x).sum())(x).detach()
assert close(ledger.bias_share, y - (c * x).sum())
k = torch.linspace(-1, 3, 401, dtype=torch.float64)[:, None]
figure, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
ax.plot(k.numpy(), network(k * x).detach().numpy(), color="black", lw=2, label="network")
ax.plot(k.numpy(), (k * (c * x).sum() + ledger.bias_share).numpy(), color=BLUE, ls="--", label="affine function at x")
ax.plot(1, y, "o", color="white", mec="black", ms=9, label="x")
ax.plot(0, ledger.bias_share, "s", color=BLUE, ms=8, label=r"$\beta$, the share of all biases")
ax.set(xlabel="k, where the input is k x", ylabel="score y")
ax.legend(frameon=False)

# %% [markdown]
# ## Eqs. (13), (18), (19): gates on the inputs
#
# $$y = \hat w^\top [\hat W_L \dots \hat W_2 W_1]\, x + \sum_{l=2}^L \hat w^\top [\hat W_L \dots \hat W_l]\, b_{l-1},
# \qquad \hat W_l = W_l\,\mathrm{diag}(\mathcal H(h_{l-1} + b_{l-1}))$$
#
# Beware of the letters. In Eqs. (2) and (12) $h_l$ comes after the gate; here, as in Appendix A, it comes before gate
# and bias: $h_l = W_l\,\phi(h_{l-1} + b_{l-1})$. In Eq. (3) the gates stand on the left of $W_l$, on its outputs, and
# blank rows; here those of the layer *before* stand on its right, on its inputs, and blank columns; $W_1$ is bare. One
# network, cut in two ways: `matrix` gives both, from gate to gate, or from layer to layer. (Under Eq. (13) the paper
# has $\hat w = \hat w\,\mathrm{diag}(\mathcal H(h_L))$; read $w\,\mathrm{diag}(\dots)$, as in its appendix.)

# %%
h1 = W1 @ x[0]  # Eq. (18), line by line; Eq. (19) is Eq. (13) once more
g1 = (h1 + b1 > 0).double()
h2 = W2 @ (g1 * (h1 + b1))
g2 = (h2 + b2 > 0).double()
h3 = W3 @ (g2 * (h2 + b2))
g3 = (h3 + b3 > 0).double()  # the paper has no b_3
U1, U2, U3 = torch.diag(g1) @ W1, torch.diag(g2) @ W2, torch.diag(g3) @ W3  # Ŵ of Eq. (3)
V1, V2, V3, v = W1, W2 @ torch.diag(g1), W3 @ torch.diag(g2), w @ torch.diag(g3)  # Ŵ and ŵ of Eq. (13)
assert close(V3 @ V2 @ W1 @ x[0] + V3 @ V2 @ b1 + V3 @ b2, h3)  # Eq. (18)
for matrix, start, stop in (U1, "input", "1"), (U2, "1", "3"), (U3, "3", "5"):
    assert close(lin.matrix(stop, start=start), matrix)
for matrix, start, stop in (V1, "input", "0"), (V2, "0", "2"), (V3, "2", "4"), (v, "4", "6"):
    assert close(lin.matrix(stop, start=start), matrix)
figure, axes = plt.subplots(1, 3, figsize=(9.8, 3.7), layout="constrained")
for ax, matrix, name in zip(axes, (W2, U2, V2), ("$W_2$", "gated as in Eq. (3)", "as in Eq. (13)"), strict=True):
    drawn = ax.imshow(matrix.numpy(), cmap=DIVERGING, vmin=-1.2, vmax=1.2)
    ax.set(title=name, xlabel="unit of layer 1", ylabel="unit of layer 2", xticks=range(8), yticks=range(8))
figure.colorbar(drawn, ax=axes, label="weight", shrink=0.85)

# %% [markdown]
# ## Eq. (14): the ledger
#
# $$y = \nabla_x F(x)^\top x + \sum_{l=1}^L \nabla_{b_l} F(x)^\top b_l$$
#
# A term is a bias times its gradient. `lin.ledger` keeps one for each parameter, by its name, with the share of every
# unit. Three other ways lead there: PyTorch's own gradients, and the products of Eq. (13) and of Eq. (3).
#
# Which biases are in the sum? The paper says $b_1$ to $b_{L-1}$ (Eq. 13), $b_1$ to $b_L$ (Eq. 14), and $b_0$ to $b_L$
# (Algorithm 1). With L hidden layers and an output, the first lacks the last hidden layer's, and both lack the
# output's. There is no $b_0$, but L + 1 is how many there are. `ledger` has them all.

# %%
gradients = torch.autograd.grad(network(x).sum(), [layer.bias for layer in layers[::2]])
terms = [gradient * bias for gradient, bias in zip(gradients, (b1, b2, b3, b), strict=True)]
by_inputs = (v @ V3 @ V2)[0] * b1, (v @ V3)[0] * b2, v[0] * b3, b
by_outputs = (w @ U3 @ U2)[0] * g1 * b1, (w @ U3)[0] * g2 * b2, w[0] * g3 * b3, b
for way in (terms, by_inputs, by_outputs):
    for name, term in zip(("0.bias", "2.bias", "4.bias", "6.bias"), way, strict=True):
        assert close(ledger[name].values[0], term)
figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.2), layout="constrained", sharey=True, width_ratios=(3, 1))
waterfall(ledger, left)
for column, count in enumerate((2, 3, 4)):  # how many of the four biases each sum has
    reached = (c * x).sum() + sum(term.sum() for term in terms[:count])
    assert (y - reached - sum(list(ledger.by_node().values())[count:])).abs() < 1e-12 * ledger.magnitude
    right.plot([column] * (count + 1), range(count + 1), "o-", color="black", ms=9)
    right.plot([column] * (4 - count), range(count + 1, 5), "o", color="white", mec="black", ms=9)
right.set(xticks=range(3), xticklabels=("Eq. 13", "Eq. 14", "Alg. 1"), xlim=(-0.5, 2.5), title="filled: in the sum")

# %% [markdown]
# ## Eq. (3) once more: a gate with an offset of its own
#
# $$\phi(z) = s \odot z + t$$
#
# A ReLU has $t = 0$ everywhere. ReLU6, $\min(\max(z, 0), 6)$, has a third piece, with $s = 0$ and $t = 6$. That 6 is a
# constant like any bias, though no parameter holds it. Without it the sum fails, here by the largest bar.

# %%
clipped, far = nn.Sequential(layers[0], nn.ReLU6(), layers[6]), 20 * x
z = W1 @ far[0] + b1
s, t = ((z > 0) & (z < 6)).double(), 6 * (z >= 6).double()
assert close(clipped(far)[0], w @ (s * z + t) + b)
book = linreg.trace(clipped, far).linearize(far).ledger(0)
assert close(book["1.offset"].values[0], w[0] * t)
assert close(book.by_kind()["offset"], clipped(far)[0] - w @ (s * z) - b)
waterfall(book, plt.subplots(figsize=(8, 2.8), layout="constrained")[1])

# %% [markdown]
# ## Eq. (14) on a trained network: what was missing
#
# $$y = \nabla_x F(x)^\top x + \sum_k \nabla_{t_k} F(x)^\top t_k, \qquad
# t = \mathrm{bias} - \mathrm{weight} \cdot \mathrm{mean} / \sqrt{\mathrm{variance} + \epsilon}$$
#
# But for its last layer, this network has batch norms in place of biases. Each adds a *shift* t to its channels.

# %%
digits, pair = pretrained("digit-pairs").double(), sample_pairs().images[:1].double()
seen = linreg.trace(digits, pair).linearize(pair)
book, three = seen.ledger(3), digits(pair)[0, 3]
missing = three - (torch.func.grad(lambda pair: digits(pair)[0, 3])(pair) * pair).sum()
found = {"classify.bias": digits.classify.bias[3]}
for name, norm in digits.named_modules():
    if isinstance(norm, nn.BatchNorm2d):
        shift = norm.bias - norm.weight * norm.running_mean / (norm.running_var + norm.eps).sqrt()
        term = torch.autograd.grad(three, norm.bias, retain_graph=True)[0] * shift
        assert torch.allclose(book[f"{name}.shift"].channels[0], term, rtol=1e-10, atol=1e-13 * book.magnitude.item())
        found[f"{name}.shift"] = term.sum()
assert found.keys() == set(book.labels)
assert (sum(found.values()) - missing).abs() < 1e-12 * book.magnitude
certificate = seen.certificate(3)
assert certificate.completeness_error < certificate.bound < 1e-9 < min(abs(share) for share in found.values())
assert close(certificate.margins[0].nearest, digits.stem[0](pair).abs().min())
print(certificate.summary())
figure, (left, right) = plt.subplots(1, 2, figsize=(12.5, 5), layout="constrained", sharey=True)
waterfall(book, left)
table = torch.full((len(book.labels) + 2, 64), torch.nan)
for row, channels in enumerate(book.by_channel().values(), 1):
    table[row, : channels.shape[1]] = channels[0]
drawn = right.imshow(table.numpy(), cmap=DIVERGING, vmin=-1.3, vmax=1.3, aspect="auto", interpolation="nearest")
right.set(xlabel="channel", title="the same terms by channel (grey: none)", fc="#e0e0e0")
figure.colorbar(drawn, ax=right, label="share of the score")

# %% [markdown]
# 7.47 + 3.32 = 10.79: debt paid. The channels show what sums hide: shifts of both signs that cancel. And how exactly is
# it paid? The certificate says how much it is off, and how much rounding could do: far less than a forgotten bias. It
# also says how close each gate is to its kink, for completeness does not notice a gate that flips there.
#
# Tutorial 3 opens what we passed over: convolutions, batch norm, pooling and residual sums as matrices.
#
# ## Exercises
#
# 1. A bias is the weight of an input that is always 1. Build `layers[0]`, ReLU, `layers[6]` so, and read $\beta$ off c.
# 2. Go from x to 1.001 x, in the same region. Which terms of the ledger change, and by how much?
# 3. Which of LeakyReLU, hardtanh and ReLU6 has offsets, and what is it about a piece that makes one?

# %% tags=["hide-cell"]
# 1. The layer hands the 1 on, by a unit that is always open. The weight of the 1 in c is the sum of all biases.
free = nn.Sequential(nn.Linear(3, 9, bias=False), nn.ReLU(), nn.Linear(9, 1, bias=False)).double()
free[0].weight.data = torch.cat([torch.cat([W1, b1[:, None]], 1), torch.tensor([[0.0, 0.0, 1.0]])])
free[2].weight.data = torch.cat([w, b[:, None]], 1)
one = torch.cat([x, torch.ones(1, 1)], 1)
assert close(linreg.trace(free, one).linearize(one).weight(0)[0, 2], (w[0] * g1) @ b1 + b[0])

# 2. Only c·x, and by one in a thousand: gates, gradients and biases are as before.
near = lin.graph.linearize(1.001 * x).ledger(0)
assert close(near.input_share, 1.001 * (c * x).sum())
assert all(torch.equal(a.values, b.values) for a, b in zip(near.terms, ledger.terms, strict=True))

# 3. Hardtanh and ReLU6: a piece whose line φ(z) = s z + t misses the origin.
for gate, offset in ((nn.LeakyReLU(), 0 * t), (nn.Hardtanh(), z.sign() * (z.abs() >= 1)), (nn.ReLU6(), t)):
    kinds = linreg.trace(nn.Sequential(layers[0], gate, layers[6]), far).linearize(far).ledger(0).by_kind()
    assert close(kinds.get("offset", torch.zeros(1).double()), w @ offset)
