# %% [markdown]
# # 2. Biases and their ledger
#
# **You will see** where a network's biases go. Lesson 1 left a debt: the map of its
# trained network summed to 7.47, but the score was 10.79. You carry each bias to the
# score by hand, and `linreg` writes all of them into a *ledger*. (In bookkeeping this is
# the book in which every amount has a line.) In the end the debt is paid to the last
# digit.
#
# **You need** lesson 1: gates as diagonal matrices, and `trace`, `linearize` and
# `matrix` of `linreg`.
#
# **Time**: 35 minutes to read; twice that to type along and do the exercises.

# %%
from collections import OrderedDict
from textwrap import fill

import matplotlib.pyplot as plt
import torch
from torch import nn

import linreg
from dmbp.datasets import sample_pairs
from dmbp.networks import pretrained
from dmbp.plot import BLUE, DIVERGING
from linreg.plot import waterfall

plt.rcParams["figure.constrained_layout.use"] = True


def close(one, other):
    return torch.allclose(one, other, rtol=1e-12, atol=1e-14)


# %% [markdown]
# ## Eqs. (12), (17): a line that misses the origin
#
# Now each layer adds a bias before its gates. This is Eq. (12):
#
# $$\begin{aligned}
# z_l &= W_l h_{l-1} + b_l \\
# h_l &= \phi(z_l)
# \end{aligned}$$
#
# With three hidden layers the score is then
#
# $$\begin{aligned}
# y = w^\top \phi\big(&W_3\, \phi(W_2\, \phi(W_1 x + b_1) \\
# &+ b_2) + b_3\big) + b
# \end{aligned}$$
#
# This is Eq. (17) of the paper, with one difference. The paper leaves out the last two
# biases, $b_3$ and $b$, to save space. Most networks have them, so ours has them too.

# %%
torch.manual_seed(53)
network = nn.Sequential(
    OrderedDict(
        layer1=nn.Linear(2, 8),
        relu1=nn.ReLU(),
        layer2=nn.Linear(8, 8),
        relu2=nn.ReLU(),
        layer3=nn.Linear(8, 8),
        relu3=nn.ReLU(),
        output=nn.Linear(8, 1),
    )
)
network = network.double()
for parameter in network.parameters():
    nn.init.normal_(parameter, std=0.5)

# %%
W1, b1 = network.layer1.parameters()
W2, b2 = network.layer2.parameters()
W3, b3 = network.layer3.parameters()
w, b = network.output.parameters()
w = w[0]
x = torch.tensor([[0.8, 0.5]], dtype=torch.float64)

z1 = W1 @ x[0] + b1
z2 = W2 @ z1.relu() + b2
z3 = W3 @ z2.relu() + b3
y = w @ z3.relu() + b
assert close(network(x)[0], y)

# %% [markdown]
# With its gates frozen, such a network is no longer $y = c \cdot x$. It is *affine*:
# there is a constant behind the linear part,
#
# $$y = c \cdot x + \beta$$
#
# where $c$ is the gradient, as before, and $\beta$ is what is then still missing from
# $y$. It comes from the biases, all of them together. The ledger of `linreg`, which we
# open below, knows $\beta$ as `bias_share`.

# %%
leaf = x.clone().requires_grad_()
(c,) = torch.autograd.grad(network(leaf).sum(), leaf)
beta = (y - (c * x).sum()).detach()

lin = linreg.trace(network, x).linearize(x)
ledger = lin.ledger(0)
assert close(lin.weight(0), c)
assert close(ledger.bias_share, beta)

# %% [markdown]
# Let us look at it along one line, through the origin and $x$. A place on it is the input
# $k\, x$, with a number $k$ that goes from −1 to 3: the origin is $k = 0$, and $x$ is
# $k = 1$.

# %%
k = torch.linspace(-1, 3, 401, dtype=torch.float64)[:, None]
walk = network(k * x).detach()
tangent = k * (c * x).sum() + beta

# %% tags=["hide-input"]
figure, ax = plt.subplots(figsize=(6.4, 4))
ax.plot(k.numpy(), walk.numpy(), color="black", lw=2, label="network")
ax.plot(k.numpy(), tangent.numpy(), color=BLUE, ls="--", label="affine function at x")
ax.plot(1, y.item(), "o", color="white", mec="black", ms=9, label="x")
ax.plot(0, beta.item(), "s", color=BLUE, ms=8, label=r"$\beta$, of all biases")
ax.set(xlabel="k, where the input is k x", ylabel="score y")
legend = ax.legend(frameon=False)

# %% [markdown]
# The network is the black line with kinks. The affine function at $x$ is its tangent
# there. Follow the tangent back to the origin, where the input is zero: it arrives at
# $\beta$. The network itself is somewhere else at the origin, because other gates are
# open there.

# %%
at_x = (k - 1).abs().argmin()
at_origin = k.abs().argmin()
assert close(walk[at_x], tangent[at_x])
assert close(tangent[at_origin], beta)
assert (walk[at_origin] - beta).abs() > 0.1

# %% [markdown]
# ## Eqs. (13), (18), (19): gates on the inputs
#
# We want to carry each bias to the score. Take the layers one after the other. What
# arrives at the gates of layer 1 is $z_1 = W_1 x + b_1$. The gates of layer 1 let
# through $\mathrm{diag}(\mathcal H(z_1))\, z_1$, and this is what layer 2 multiplies.
# So it is handy to put the gates of a layer together with the matrix of the *next*
# layer:
#
# $$\begin{aligned}
# \check W_l &= W_l\, \mathrm{diag}(\mathcal H(z_{l-1})) \\
# z_l &= \check W_l\, z_{l-1} + b_l
# \end{aligned}$$
#
# Compare this with lesson 1. There, in Eq. (3), the gates stood on the left of a
# matrix, on its outputs, and set whole rows to zero: $\hat W_l$. Here they stand on the
# right, on its inputs, and set whole columns to zero: $\check W_l$. It is the same
# network. Only the place where we cut it into layers is another one: behind the gates, or
# in front of them. The last gates go to the output,
# $\check w^\top = w^\top \mathrm{diag}(\mathcal H(z_L))$.

# %%
open1 = (z1 > 0).double()
open2 = (z2 > 0).double()
open3 = (z3 > 0).double()

W2_check = W2 @ torch.diag(open1)
W3_check = W3 @ torch.diag(open2)
w_check = w @ torch.diag(open3)

# %%
W1_hat = torch.diag(open1) @ W1
W2_hat = torch.diag(open2) @ W2
W3_hat = torch.diag(open3) @ W3

# %% tags=["hide-input"]
matrices = {
    "$W_2$": W2,
    "gates on the outputs, Eq. (3)": W2_hat,
    "gates on the inputs, Eq. (13)": W2_check,
}
figure, axes = plt.subplots(1, 3, figsize=(10.4, 3.7))
for ax, (name, matrix) in zip(axes, matrices.items(), strict=True):
    drawn = ax.imshow(matrix.detach().numpy(), cmap=DIVERGING, vmin=-1.2, vmax=1.2)
    ax.set(title=name, xlabel="unit of layer 1", xticks=range(8), yticks=range(8))
axes[0].set_ylabel("unit of layer 2")
colorbar = figure.colorbar(drawn, ax=axes, label="weight", shrink=0.85)

# %% [markdown]
# `matrix` gives both. For $\hat W_l$ ask for the way from gates to gates, for
# $\check W_l$ ask for the way from layer to layer.

# %%
assert close(lin.matrix("relu1"), W1_hat)
assert close(lin.matrix("relu2", start="relu1"), W2_hat)
assert close(lin.matrix("relu3", start="relu2"), W3_hat)

assert close(lin.matrix("layer1"), W1)
assert close(lin.matrix("layer2", start="layer1"), W2_check)
assert close(lin.matrix("layer3", start="layer2"), W3_check)
assert close(lin.matrix("output", start="layer3")[0], w_check)

# %% [markdown]
# Now put each $z_l$ into the equation of the next one. This is what Appendix A does in
# Eq. (18). In our letters it is
#
# $$\begin{aligned}
# z_1 &= W_1 x + b_1 \\
# z_2 &= \check W_2 W_1 x + \check W_2 b_1 + b_2 \\
# z_3 &= \check W_3 \check W_2 W_1 x + \check W_3 \check W_2 b_1 \\
# &\quad + \check W_3 b_2 + b_3
# \end{aligned}$$

# %%
assert close(W2_check @ W1 @ x[0] + W2_check @ b1 + b2, z2)

to_z3 = W3_check @ W2_check @ W1
assert close(to_z3 @ x[0] + W3_check @ W2_check @ b1 + W3_check @ b2 + b3, z3)

# %% [markdown]
# The output comes last, and with it Eq. (13), which is also Eq. (19). The input goes
# through all the matrices. A bias goes through those that come after it:
#
# $$\begin{aligned}
# y &= \check w^\top [\check W_L \dots \check W_2 W_1]\, x \\
# &\quad + \sum_{l=2}^L \check w^\top [\check W_L \dots \check W_l]\, b_{l-1} \\
# &\quad + \check w^\top b_L + b
# \end{aligned}$$
#
# The last two terms belong to the two biases that the paper leaves out.

# %%
share_of_x = w_check @ to_z3 @ x[0]
share_of_b1 = w_check @ W3_check @ W2_check @ b1
share_of_b2 = w_check @ W3_check @ b2
share_of_b3 = w_check @ b3
assert close(share_of_x, (c * x).sum())
assert close(share_of_b1 + share_of_b2 + share_of_b3 + b, beta)
assert close(share_of_x + share_of_b1 + share_of_b2 + share_of_b3 + b, y)

# %% [markdown]
# If you read the paper beside this page, three of its letters may confuse you.
#
# - It writes $\hat W_l$ for both matrices, ours $\hat W_l$ and ours $\check W_l$.
# - Its $h_l$ is what *leaves* the gates in Eqs. (2) and (12). In Appendix A it is what
#   arrives before the bias is added: our $z_l - b_l$.
# - Below Eq. (13) it has $\hat w = \hat w\, \mathrm{diag}(\mathcal H(h_L))$. Read
#   $w\, \mathrm{diag}(\dots)$ on the right, as in its appendix.
#
# ## Eq. (14): the ledger
#
# There is a shorter way to say all this. The row that stands before a bias in the sum
# above is the gradient of the score with respect to that bias. So each bias has the
# share *gradient times bias*, just as each input has the share gradient times input:
#
# $$y = \nabla_x F(x)^\top x + \sum_{l=1}^L \nabla_{b_l} F(x)^\top b_l$$
#
# `lin.ledger` keeps these shares: one term for each parameter that adds something,
# under the parameter's name. The `values` of a term have a number for each unit. We
# compute the same terms in three other ways. First, by PyTorch's own gradients:

# %%
biases = {
    "layer1.bias": b1,
    "layer2.bias": b2,
    "layer3.bias": b3,
    "output.bias": b,
}
gradients = torch.autograd.grad(network(x).sum(), biases.values())
by_autograd = [g * bias for g, bias in zip(gradients, biases.values(), strict=True)]

# %% [markdown]
# Second, by the products of Eq. (13), with gates on the inputs. Third, by those of Eq.
# (3), with gates on the outputs: there a bias must pass its own gate first.

# %%
by_inputs = [
    (w_check @ W3_check @ W2_check) * b1,
    (w_check @ W3_check) * b2,
    w_check * b3,
    b,
]
by_outputs = [
    (w @ W3_hat @ W2_hat) * open1 * b1,
    (w @ W3_hat) * open2 * b2,
    w * open3 * b3,
    b,
]

# %%
for shares in (by_autograd, by_inputs, by_outputs):
    for name, share in zip(biases, shares, strict=True):
        assert close(ledger[name].values[0], share)

# %% [markdown]
# Which biases belong in the sum? The paper gives three answers. Eq. (13) has $b_1$ to
# $b_{L-1}$. Eq. (14) has $b_1$ to $b_L$. Algorithm 1 has $b_0$ to $b_L$. With $L$
# hidden layers and an output there are $L + 1$ biases. So Eq. (13) leaves out two of
# them, and Eq. (14) leaves out the output's. There is no $b_0$, but $b_0$ to $b_L$ are
# $L + 1$ names, which is the right number. The ledger has every bias that there is.
#
# In our network the three sums have 2, 3 and all 4 biases. We check that each of them
# misses the score by the biases that it leaves out. (`ledger.magnitude` is the sum of all
# terms without their signs. Rounding errors grow with it.)

# %%
totals = [share.sum() for share in by_autograd]
totals_in_ledger = list(ledger.by_node().values())
for count in (2, 3, 4):
    reached = (c * x).sum() + sum(totals[:count])
    left_out = sum(totals_in_ledger[count:])
    assert (y - reached - left_out).abs() < 1e-12 * ledger.magnitude

# %% tags=["hide-input"]
figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.2), width_ratios=(3, 1))
waterfall(ledger, left)
right.sharey(left)
right.tick_params(labelleft=False)
for column, count in enumerate((2, 3, 4)):
    inside = range(count + 1)
    outside = range(count + 1, 5)
    right.plot([column] * len(inside), inside, "o-", color="black", ms=9)
    right.plot([column] * len(outside), outside, "o", color="white", mec="black", ms=9)
right.set(xticks=range(3), xticklabels=("Eq. 13", "Eq. 14", "Alg. 1"), xlim=(-0.5, 2.5))
title = right.set_title("filled: in the sum")

# %% [markdown]
# Read the left picture from top to bottom. It starts with what the input gives,
# $c \cdot x$. Each bar then adds or takes away the share of one bias, from where the
# bar before has ended. The last bar is the score.
#
# ## Eq. (3) once more: a gate with an offset of its own
#
# Not every constant is a bias. A gate may add one as well. The ReLU6 is
# $\min(\max(z, 0), 6)$. It is made of three straight pieces: 0, then $z$, then 6. On
# each piece it is a straight line, with a *slope* $s$ and an *offset* $t$:
#
# $$\phi(z) = s \odot z + t$$
#
# A closed unit has $s = 0$ and $t = 0$, an open one has $s = 1$ and $t = 0$, and a
# *full* one has $s = 0$ and $t = 6$. That 6 is a constant like any bias, though no
# parameter of the network holds it. (For a ReLU, $s$ is the step of Eq. (3), and $t$ is
# always zero.)
#
# We try it on a smaller network, made of the first layer, a ReLU6 and the output. Its
# input is $20\, x$: so far from the origin some units are full.

# %%
clipped = nn.Sequential(
    OrderedDict(
        layer1=network.layer1,
        relu6=nn.ReLU6(),
        output=network.output,
    )
)
far = 20 * x
z = W1 @ far[0] + b1
s = ((z > 0) & (z < 6)).double()
t = 6 * (z >= 6).double()
assert close(clipped(far)[0], w @ (s * z + t) + b)

# %% [markdown]
# The ledger has a line for the offsets of the gates, here `relu6.offset`. Without this
# line the sum would be wrong by the largest bar of the picture.

# %%
clipped_ledger = linreg.trace(clipped, far).linearize(far).ledger(0)
assert close(clipped_ledger["relu6.offset"].values[0], w * t)

without_offsets = w @ (s * z) + b
offsets = clipped_ledger.by_kind()["offset"]
assert close(offsets, clipped(far)[0] - without_offsets)

others = [clipped_ledger[name].total for name in ("layer1.bias", "output.bias")]
others.append(clipped_ledger.input_share)
assert offsets.abs() > torch.cat(others).abs().max()

# %% tags=["hide-input"]
figure, ax = plt.subplots(figsize=(8, 2.8))
ax = waterfall(clipped_ledger, ax)

# %% [markdown]
# ## Eq. (14) on a trained network: what was missing
#
# Back to the debt of lesson 1. Its network has almost no biases: only its last layer
# has one. In place of biases it has *batch norms*. In `eval` mode a batch norm
# subtracts a stored mean from each channel, divides by a stored standard deviation,
# multiplies by a weight, and adds a bias. All these are fixed numbers, so that it too
# is a straight line, with a slope $s$ and an offset $t$ for each channel:
#
# $$\begin{aligned}
# \mathrm{BN}(z) &= s \odot z + t \\
# s &= \mathrm{weight} \,/ \sqrt{\mathrm{variance} + \epsilon} \\
# t &= \mathrm{bias} - s \odot \mathrm{mean}
# \end{aligned}$$
#
# The offset of a batch norm is often called its *shift*. The function below collects
# what each part of a network adds. We use it again in later lessons.


# %%
def constants(network):
    """What each bias adds: itself, or the whole shift of a batch norm."""
    found = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            s = module.weight / (module.running_var + module.eps).sqrt()
            found[f"{name}.bias"] = (module.bias - s * module.running_mean).detach()
        elif getattr(module, "bias", None) is not None:
            found[f"{name}.bias"] = module.bias.detach()
    return found


# %% [markdown]
# The gradient with respect to a batch norm's bias is also the gradient with respect to
# its shift, because the bias is one part of the shift. So the share of a shift is this
# gradient times the shift.

# %%
digits = pretrained("digit-pairs").double()
pair = sample_pairs().images[:1].double()
leaf = pair.clone().requires_grad_()
score = digits(leaf)[0, 3]
(gradient,) = torch.autograd.grad(score, leaf, retain_graph=True)
missing = score - (gradient * pair).sum()

shares = {}
for name, constant in constants(digits).items():
    bias = digits.get_parameter(name)
    (by_bias,) = torch.autograd.grad(score, bias, retain_graph=True)
    shares[name] = by_bias * constant

# %% [markdown]
# Now we compare with the ledger, line by line. It calls a batch norm's constant `shift`
# and not `bias`. Each unit of a convolutional layer is a pixel of a channel; `channels`
# is the share of each whole channel. In the next cell we add up.

# %%
lin_digits = linreg.trace(digits, pair).linearize(pair)
digits_ledger = lin_digits.ledger(3)
rounding = 1e-13 * digits_ledger.magnitude.item()
for name, share in shares.items():
    label = name
    if name != "classify.bias":
        label = name.replace(".bias", ".shift")
    found = digits_ledger[label].channels[0]
    assert torch.allclose(found, share, rtol=1e-10, atol=rounding)
assert len(shares) == len(digits_ledger.labels)

# %%
total = sum(share.sum() for share in shares.values())
from_pixels = (gradient * pair).sum()
assert (total - missing).abs() < 10 * rounding
print(f"pixels {from_pixels.item():.2f} and constants {total.item():.2f}")
print(f"make {score.item():.2f}")

# %%
numbers = torch.stack([from_pixels, total, score])
in_the_text = torch.tensor([7.47, 3.32, 10.79])
assert (numbers - in_the_text).abs().max() < 0.005

# %% tags=["hide-input"]
channels = torch.full((len(digits_ledger.labels) + 2, 64), torch.nan)
for row, values in enumerate(digits_ledger.by_channel().values(), 1):
    channels[row, : values.shape[1]] = values[0]
figure, (left, right) = plt.subplots(1, 2, figsize=(12.5, 5), sharey=True)
waterfall(digits_ledger, left)
colours = {"cmap": DIVERGING, "vmin": -1.3, "vmax": 1.3}
colours |= {"aspect": "auto", "interpolation": "nearest"}
drawn = right.imshow(channels.numpy(), **colours)
right.set(xlabel="channel", fc="#e0e0e0")
right.set_title("the same terms by channel (grey: none)")
colorbar = figure.colorbar(drawn, ax=right, label="share of the score")

# %% [markdown]
# 7.47 from the pixels and 3.32 from the constants make 10.79: the debt is paid. On the
# right you see the same lines of the ledger, channel by channel. There is much more red
# and blue than the bars on the left would tell: within a line, shifts of both signs
# cancel. Without their signs the channels make more than six times what the bars make.

# %%
by_line = sum(share.sum().abs() for share in shares.values())
by_channel = sum(share.abs().sum() for share in shares.values())
assert by_channel > 6 * by_line

# %% [markdown]
# How exactly is the debt paid? The *certificate* answers. It says by how much the sum
# misses the score, and by how much rounding alone could make it miss. Both are far
# smaller than the smallest line of the ledger. So if we had forgotten a line, we would
# have noticed.

# %%
certificate = lin_digits.certificate(3)
smallest = min(share.sum().abs() for share in shares.values())
assert certificate.completeness_error < certificate.bound
assert certificate.bound < 1e-9 < smallest
for line in certificate.summary().splitlines():
    print(fill(line, 88))

# %% [markdown]
# The last sentence is about a mistake that the sum does not notice: a gate so near to its
# kink that rounding turns it. (At the kink both pieces have the same value.) So the
# certificate also compares how far each gate is from its kink with how far rounding can
# reach there. (What it calls *selections* are the choices of the max pooling. Them it
# does not check.) How near the first gates come to their kink, we can check by hand:

# %%
nearest = digits.stem[0](pair).abs().min()
assert close(certificate.margins[0].nearest, nearest)

# %% [markdown]
# Lesson 3 opens what we have passed over: convolutions, batch norms, pooling and
# residual sums, as matrices.
#
# ## Exercises
#
# 1. A bias is the weight of an input that is always 1. Build `layer1`, a ReLU and
#    `output` in this way, as a network without biases but with three inputs. (How does
#    the 1 come to the output?) Read $\beta$ off its $c$.
# 2. Go from $x$ to $1.001\, x$, which is in the same region. Which terms of the ledger
#    change, and by how much?
# 3. Which of LeakyReLU, hardtanh and ReLU6 have offsets? What is it about a piece that
#    makes an offset?
# 4. **Change a number and look.** Replace $x$ by $0.1\, x$ and by $0.01\, x$. What is
#    $\beta$ now? Which point of the black line is this in the picture of the walk?
# 5. **Do it to your own network.** Print `lin.ledger(target).summary()` and
#    `lin.certificate(target).summary()` for a network of yours. Do pixels or biases
#    carry the score? Which are the three largest lines?

# %% tags=["hide-cell"]
# 1. One more unit, which is always open, hands the 1 on to the output. The weight of
# the third input is then the share of all biases.
free1 = nn.Linear(3, 9, bias=False).double()
free2 = nn.Linear(9, 1, bias=False).double()
hand_on = torch.tensor([[0.0, 0.0, 1.0]])
free1.weight.data = torch.cat([torch.cat([W1, b1[:, None]], dim=1), hand_on]).detach()
free2.weight.data = torch.cat([w, b])[None].detach()
free = nn.Sequential(free1, nn.ReLU(), free2)
with_one = torch.cat([x, torch.ones(1, 1)], dim=1)
c_free = linreg.trace(free, with_one).linearize(with_one).weight(0)
assert close(c_free[0, 2], ((w * open1) @ b1 + b)[0])

# %% tags=["hide-cell"]
# 2. Only c·x changes, by one in a thousand. Gates, gradients and biases are as before.
near_ledger = lin.graph.linearize(1.001 * x).ledger(0)
assert close(near_ledger.input_share, 1.001 * (c * x).sum())
for name in biases:
    assert torch.equal(near_ledger[name].values, ledger[name].values)

# %% tags=["hide-cell"]
# 3. Hardtanh and ReLU6. A piece has an offset if its line misses the origin.
outside = (z.abs() >= 1).double()
cases = (
    (nn.LeakyReLU(), 0 * t),
    (nn.Hardtanh(), z.sign() * outside),
    (nn.ReLU6(), t),
)
for gate, offset in cases:
    gated = nn.Sequential(network.layer1, gate, network.output)
    kinds = linreg.trace(gated, far).linearize(far).ledger(0).by_kind()
    assert close(kinds.get("offset", torch.zeros(1).double()), w @ offset)

# %% tags=["hide-cell"]
# 4. It is F(0), the score at the origin: so near to it the gates are those of the
# origin itself, where only biases are left. On the black line it is the point k = 0.
for factor in (0.1, 0.01):
    tiny_ledger = lin.graph.linearize(factor * x).ledger(0)
    assert close(tiny_ledger.bias_share, network(0 * x)[0])

# %% tags=["hide-cell"]
# 5. Yours will differ. This is how to take the three largest lines, out of four here,
# and how to check the output's line by hand.
yours = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
yours = yours.extend([nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)])
yours = yours.double().eval()
example = torch.rand(1, 1, 8, 8, dtype=torch.float64)
lin_yours = linreg.trace(yours, example).linearize(example)
terms = sorted(lin_yours.ledger(1).terms, key=lambda term: -term.total.abs().item())
for term in terms[:3]:
    print(term.name, term.total.item())
assert close(lin_yours.ledger(1)["7.bias"].total[0], yours[7].bias[1])
assert lin_yours.certificate(1).completeness_error < 1e-12
