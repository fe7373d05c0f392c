# %% [markdown]
# # 5. Learning the masks
#
# **You will see** how good masks are found. You write the paper's Algorithm 1 out, line
# by line, with plain PyTorch, and get the same masks as `dmbp.explain`. On the way you
# learn what the objective looks like, what the gradient of a mask is, and where the
# masks start.
#
# **You need** lesson 4: the split of a score into $y^+$, $y^-$, $y^\sim$ and $u$, and
# `masked_backward`.
#
# **Time**: 60 minutes to read; twice that to type along and do the exercises.

# %%
from collections import OrderedDict
from functools import partial

import matplotlib.pyplot as plt
import torch
from torch import nn

import dmbp
import linreg
from dmbp.datasets import sample_pairs
from dmbp.networks import pretrained
from dmbp.plot import BLUE, DIVERGING, GREY, RED

# %%
plt.rcParams["figure.constrained_layout.use"] = True


def close(one, other):
    return torch.allclose(one, other, rtol=1e-12, atol=1e-12)


# %% [markdown]
# We work with a network of three hidden layers with ten units each. It has three
# outputs, and we ask for output 1.

# %%
torch.manual_seed(10)
network = nn.Sequential(
    OrderedDict(
        layer1=nn.Linear(6, 10),
        relu1=nn.ReLU(),
        layer2=nn.Linear(10, 10),
        relu2=nn.ReLU(),
        layer3=nn.Linear(10, 10),
        relu3=nn.ReLU(),
        output=nn.Linear(10, 3),
    )
)
network = network.double()

# %%
for layer in (network.layer1, network.layer2, network.layer3, network.output):
    nn.init.kaiming_normal_(layer.weight)
x = torch.randn(1, 6).double()
target = 1
sites = ("relu1", "relu2", "relu3")

lin = linreg.trace(network, x).linearize(x)
y = lin.score(target)[0]
u = network.output.bias.detach()[target]
assert dmbp.find_sites(lin.graph) == sites

# %% [markdown]
# ## Eq. (10): an objective that is a maximum
#
# What are good masks? The paper wants three things: much evidence for the answer, so a
# large $y^+$; much evidence against it, so a very negative $y^-$; and little nuisance,
# so a $y^\sim$ near zero. It puts them into one number, which learning makes small:
#
# $$\min_\sigma \; y^-(\sigma) - y^+(\sigma) + |y^\sim(\sigma)|$$
#
# This objective has a simple form that the paper does not mention. The three parts
# always sum to $y$, so we can put $y - y^+ - y^-$ in the place of $y^\sim$. If $y^\sim$
# is positive, its absolute value is $y^\sim$ itself, and the objective becomes
# $y - 2 y^+$. If $y^\sim$ is negative, its absolute value is $-y^\sim$, and the
# objective becomes $2 y^- - y$. The larger of the two is always the right one:
#
# $$\begin{aligned}
# &y^- - y^+ + |y^\sim| \\
# &= \max(y - 2 y^+, \; 2 y^- - y)
# \end{aligned}$$
#
# We check this on a whole grid of possible values of $y^+$ and $y^-$. `loss_all` is the
# objective as `dmbp` computes it.

# %%
side = torch.linspace(-1, 1, 101).double()
positive, negative = torch.meshgrid(side + 0.9, side - 0.2, indexing="xy")
nuisance = y - positive - negative

objective = negative - positive + nuisance.abs()
maximum = torch.maximum(y - 2 * positive, 2 * negative - y)
assert close(objective, maximum)
assert close(dmbp.optimize.loss_all(y, positive, negative), objective)

# %% [markdown]
# So at any moment only *one* side is learning. Where $y^\sim > 0$, only $y^+$ is in the
# objective, and it is pushed up. Where $y^\sim < 0$, only $y^-$ is in it, and it is
# pushed down. (In the picture below, $y^\sim > 0$ is the part below the dashed line.) Let
# us watch `dmbp.explain`, which learns the masks in 200 steps, and
# which remembers the parts of the score after each step.

# %%
learned = dmbp.explain(network, x, target, progress=False)
path_positive = learned.history["positive"][:, 0]
path_negative = learned.history["negative"][:, 0]
assert len(path_positive) == 201

# %% tags=["hide-input"]
figure, ax = plt.subplots(figsize=(5.8, 4.6))
ax.axline((0, y.item()), slope=-1, color="black", ls="--", label="no nuisance")
surface = (positive.numpy(), negative.numpy(), objective.numpy())
lines = ax.contour(*surface, 10, colors="#a0a0a0", linestyles="-", linewidths=0.8)
ax.clabel(lines, fontsize=8)
ax.plot(path_positive, path_negative, color=RED, lw=1.2, label="the steps of explain")
ax.plot(path_positive[0], path_negative[0], "o", color=RED, mfc="white", ms=8)
ax.set(xlabel="y⁺", ylabel="y⁻", xlim=(-0.1, 1.9), ylim=(-1.2, 0.8))
ax.set_title(f"lines of equal objective, y = {y:.2f}")
legend = ax.legend(loc="upper right")

# %% [markdown]
# The objective is a valley. On its floor, the dashed line, there is no nuisance, and it
# goes down to the lower right. Learning starts at the circle, goes down a slope to the
# floor, and then follows the valley in a zigzag. It has to: on one side of the floor only
# $y^+$ is pushed, on the other side only $y^-$.
#
# ## Eqs. (11), (20): a masked backward pass, and the gradient of a mask
#
# To learn, we need $y^+$ and $y^-$ as functions of the masks. Eq. (11), together with
# the biases of Eq. (14), says how to get $y^+$ from one backward pass in which the
# gradient that arrives at each site is multiplied by its mask:
#
# $$\begin{aligned}
# y^+(\sigma) &= \nabla_x F^+(x)^\top x \\
# &\quad + \sum_l \nabla_{b_l} F^+(x)^\top b_l
# \end{aligned}$$
#
# Here are the hook and the pass again, exactly as in lesson 4.


# %%
def mask_gradient(mask, gate, inputs, output):
    """A forward hook: the gradient that arrives at this output goes on times mask."""
    output.register_hook(lambda gradient: mask * gradient)


# %%
def masked_backward(network, x, target, masks):
    """The gradients of a score by x and by each bias; at each site times its mask."""
    hooks = []
    for site, mask in masks.items():
        gate = network.get_submodule(site)
        hooks.append(gate.register_forward_hook(partial(mask_gradient, mask)))
    leaf = x.clone().requires_grad_()
    biases = dict(network.named_parameters())
    biases = {name: bias for name, bias in biases.items() if name.endswith("bias")}
    score = network(leaf)[:, target].sum()
    leaves = [leaf, *biases.values()]
    by_x, *by_bias = torch.autograd.grad(score, leaves, create_graph=True)
    for hook in hooks:
        hook.remove()
    return by_x, dict(zip(biases, by_bias, strict=True))


# %% [markdown]
# `constants` is from lesson 2. It collects what each bias adds. (For a batch norm this
# is its shift. Our network has none, but the digit network has, further down.)


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
# And this is Eq. (11): gradient times input, and gradient times bias, summed. The
# result is $P(\sigma)$ of lesson 4. ($y^+$ in the equation still contains $u$.)


# %%
def masked_score(network, x, target, masks):
    """P(masks): the shares of the input and of all constants, summed."""
    by_x, by_bias = masked_backward(network, x, target, masks)
    score = (by_x * x).sum()
    for name, constant in constants(network).items():
        score = score + (by_bias[name] * constant).sum()
    return score


# %% [markdown]
# We try it with random masks. They are leaves of autograd, because we want a gradient
# with respect to them. The split of `dmbp` has the same parts, down to the share of
# every single bias. (It is made with `unmasked="both"`, which leaves $u$ in both sides,
# as lesson 4 explained.)

# %%
sigma = {}
for site in sites:
    sigma[site] = torch.rand(1, 10).double().requires_grad_()
fixed = {site: mask.detach() for site, mask in sigma.items()}
others = {site: 1 - mask for site, mask in fixed.items()}
split = dmbp.decompose(lin, fixed, target, unmasked="both")
assert close(split.positive[0], masked_score(network, x, target, fixed))
assert close(split.negative[0], masked_score(network, x, target, others))

# %%
by_x, by_bias = masked_backward(network, x, target, sigma)
ledger = split.ledger("positive")
assert close(ledger.input_share[0], (by_x * x).sum())
for name, constant in constants(network).items():
    assert close(ledger[name].total[0], (by_bias[name] * constant).sum())

# %% [markdown]
# Now the gradient of a mask. PyTorch can find it: $P$ was made by a backward pass, and
# with `create_graph=True` PyTorch can differentiate this pass once more. That is what
# Algorithm 1 does.

# %%
score = masked_score(network, x, target, sigma)
by_autograd = torch.autograd.grad(score, sigma.values())

# %% [markdown]
# But there is also a formula, and it is short. Eq. (20) of the paper stops the backward
# pass at a layer $l$. There it takes the gradient that arrives at the output of the
# gates, times their masks, times what the gates give:
#
# $$y^+(\sigma) = [\nabla_{h_l} F^+(x) \odot \sigma_l]^\top h_l$$
#
# Two remarks, so that the equation holds to the last digit. First, the biases of later
# layers are not in it, and have to be added. Second, $h_l$ must be the value in the
# *masked* network, before its own mask. To check the equation we keep the gradients
# that arrive. One more hook does this. We register it before the hook of the mask, so
# that it sees each gradient before the mask is applied.

# %%
arriving = {}


def keep_gradient(site, gate, inputs, output):
    """A forward hook: the gradient that arrives at this output is kept."""
    output.register_hook(lambda gradient: arriving.update({site: gradient.detach()}))


hooks = []
for site in sites:
    gate = network.get_submodule(site)
    hooks.append(gate.register_forward_hook(partial(keep_gradient, site)))
_, by_bias = masked_backward(network, x, target, sigma)
for hook in hooks:
    hook.remove()

# %% [markdown]
# For the values we walk through the network in two copies at once: `h` is the network
# itself, which decides about the gates, and `masked_h` is the masked network.

# %%
values = {}
h = x
masked_h = x
layers = (network.layer1, network.layer2, network.layer3)
for site, layer in zip(sites, layers, strict=True):
    gates = layer(h) > 0
    values[site] = (gates * layer(masked_h)).detach()
    h = layer(h).relu()
    masked_h = fixed[site] * values[site]

# %% [markdown]
# Eq. (20) at each of the three layers, with the later biases:

# %%
later = {
    "relu1": ("layer2.bias", "layer3.bias", "output.bias"),
    "relu2": ("layer3.bias", "output.bias"),
    "relu3": ("output.bias",),
}
for site in sites:
    equation20 = (arriving[site] * fixed[site] * values[site]).sum()
    added = [(by_bias[name] * constants(network)[name]).sum() for name in later[site]]
    assert close(equation20 + sum(added), split.positive[0])

# %% [markdown]
# In this equation $\sigma_l$ appears once, and nothing else in it depends on
# $\sigma_l$: what arrives has not met these masks yet, and $h_l$ was taken before them.
# So $P$ is linear in $\sigma_l$, and we can read its derivative off:
#
# $$\frac{\partial P}{\partial \sigma_l} = \nabla_{h_l} F^+(x) \odot h_l$$
#
# In words: what arrives, times what was there. One pass forward and one pass back give
# it for all masks at once. `dmbp` computes it so, which is cheaper than to
# differentiate a backward pass.

# %%
by_formula = [arriving[site] * values[site] for site in sites]
assert close(torch.cat(by_formula), torch.cat(by_autograd))

# %% tags=["hide-input"]
figure, ax = plt.subplots(figsize=(8.4, 3.2))
ax.bar(range(30), torch.cat(by_autograd, dim=1)[0].numpy(), color="#b5b5b5")
ax.plot(torch.cat(by_formula, dim=1)[0].numpy(), ".", color="black")
ax.set(xlabel="mask (ten of each layer)", ylabel="∂P/∂σ")
title = ax.set_title("bars: autograd; dots: what arrives × what was there")

# %% [markdown]
# Where there is no bar, the unit is closed. (It could also be that nothing behind it is
# open.) Such masks are never learnt.

# %%
h = x
for layer, gradient in zip(layers, by_autograd, strict=True):
    assert torch.equal(gradient == 0, layer(h) <= 0)
    h = layer(h).relu()

# %% [markdown]
# ## Appendix B.1: where the masks start
#
# A mask must stay between 0 and 1. So what is learnt is not the mask itself but its
# *logit* $\theta$, which may be any number, and the mask is
# $\sigma = \mathrm{sigmoid}(\theta)$. Where should the logits start? The paper goes
# backward through the network, with the positive pass and the negative pass side by
# side, and looks at the two gradients that arrive at each unit. If both are positive,
# the unit raises the score, whichever side it is on. So it starts on the positive side.
# If both are negative, it starts on the negative side. If they disagree, or if one is
# zero, it starts in the middle:
#
# $$\theta_l^i = \begin{cases}
# 2 & \text{if } \nabla_{h_l}^i F^+ > 0, \; \nabla_{h_l}^i F^- > 0 \\
# -2 & \text{if } \nabla_{h_l}^i F^+ < 0, \; \nabla_{h_l}^i F^- < 0 \\
# 0 & \text{otherwise}
# \end{cases}$$
#
# Here $i$ is the number of the unit in its layer. A logit of 2 is a mask of 0.88, a
# logit of −2 is a mask of 0.12.


# %%
def first_logits(plus, minus):
    """Appendix B.1 at one site: from the two gradients that arrive."""
    both_positive = (plus > 0) & (minus > 0)
    both_negative = (plus < 0) & (minus < 0)
    return 2.0 * both_positive.double() - 2.0 * both_negative.double()


def gated_weights(layer, h):
    """Ŵ of a layer to which h comes in."""
    gates = (layer(h) > 0).double()
    return gates.T * layer.weight.detach()  # row i times gate i


# %% [markdown]
# The sweep goes from the last layer to the first. At each site: look at what arrives,
# set the masks, multiply by them, and go on through the layer.

# %%
h1 = network.relu1(network.layer1(x))
h2 = network.relu2(network.layer2(h1))
W_hat = {
    "relu1": gated_weights(network.layer1, x),
    "relu2": gated_weights(network.layer2, h1),
    "relu3": gated_weights(network.layer3, h2),
}

# %%
start = {}
arrived = {}
plus = network.output.weight.detach()[[target]]  # the row w, as a batch of one
minus = plus
for site in ("relu3", "relu2", "relu1"):
    arrived[site] = (plus, minus)
    start[site] = first_logits(plus, minus)
    mask = start[site].sigmoid()
    plus = (mask * plus) @ W_hat[site]
    minus = ((1 - mask) * minus) @ W_hat[site]

# %% [markdown]
# `dmbp.initial_logits` makes the same sweep, in any network:

# %%
found = dmbp.initial_logits(lin, sites, target)
for site in sites:
    assert torch.equal(found[site], start[site])

# %% tags=["hide-input"]
shapes = {"relu3": "^", "relu2": "o", "relu1": "s"}
colours = {"cmap": DIVERGING, "vmin": -2, "vmax": 2, "ec": GREY}
figure, ax = plt.subplots(figsize=(5.8, 4.4))
for site, shape in shapes.items():
    plus, minus = arrived[site]
    logits = start[site][0].numpy()
    points = (plus[0].numpy(), minus[0].numpy())
    ax.scatter(*points, 50, logits, marker=shape, label=site, **colours)
ax.set(xlabel="∇F⁺ that arrives", ylabel="∇F⁻ that arrives")
ax.set_title("red: θ = 2, blue: θ = −2, white: θ = 0")
legend = ax.legend()

# %% [markdown]
# At the last gates, `relu3`, both passes still bring the same gradient, the row of
# weights of the output. So all these units are decided. Further back the passes have
# met different masks, and for most units they disagree.

# %%
assert (start["relu3"] != 0).all()
for site in ("relu2", "relu1"):
    plus, minus = arrived[site]
    assert (plus * minus < 0).sum() > 5

# %% [markdown]
# Why is this a good start? By Eq. (20) a large mask on a positive gradient raises
# $y^+$, *if* $h_l \ge 0$. The paper takes this for granted, since $h_l$ comes out of a
# ReLU. In the masked network it need not be true (exercise 2).
#
# ## Algorithm 1: written out, and how far it reaches
#
# All parts are there. This is the whole algorithm of the paper's Appendix B, on one
# screen, and each line says which of the paper's lines it is. It takes the logits of
# Appendix B.1 (`start`), the objective (`loss`), and what is to be taken off both sides
# (`u`; with zero it is Algorithm 1 to the letter).


# %%
def algorithm_1(network, x, target, start, loss, u):
    theta = leaves(start)  # line 1
    optimizer = torch.optim.RMSprop(theta.values(), lr=0.01)
    y = network(x)[0, target].detach()  # line 2
    for _ in range(200):  # line 3
        masks, others = both_sides(theta)
        y_plus = masked_score(network, x, target, masks) - u  # lines 4 and 5
        y_minus = masked_score(network, x, target, others) - u  # lines 6 and 7
        objective = loss(y, y_plus, y_minus)  # lines 8 and 9
        optimizer.zero_grad()
        objective.backward(inputs=list(theta.values()))  # line 10
        optimizer.step()  # line 11
    masks, others = both_sides(theta)  # line 12 ends the loop
    return masks, both_maps(network, x, target, masks, others)  # line 13


# %% [markdown]
# Three helpers make it short enough for the screen: copies of the logits that autograd
# can follow, the masks of the two passes, and the map of line 13.


# %%
def leaves(start):
    """The logits to start from, as leaves of autograd."""
    return {site: logits.clone().requires_grad_() for site, logits in start.items()}


def both_sides(theta):
    """The masks of the positive pass, and those of the negative pass."""
    masks = {site: logits.sigmoid() for site, logits in theta.items()}
    others = {site: 1 - mask for site, mask in masks.items()}
    return masks, others


def both_maps(network, x, target, masks, others):
    """∇F⁺ ⊙ x + ∇F⁻ ⊙ x."""
    positive, _ = masked_backward(network, x, target, masks)
    negative, _ = masked_backward(network, x, target, others)
    return (positive * x + negative * x).detach()


# %% [markdown]
# Lines 8 and 9 are the objective. The paper compares three of them in its Table 1.


# %%
def loss_all(y, y_plus, y_minus):
    y_rest = y - y_plus - y_minus  # line 8
    return y_minus - y_plus + y_rest.abs()  # line 9


def loss_plus_minus(y, y_plus, y_minus):
    return y_minus - y_plus


def loss_plus(y, y_plus, y_minus):
    return -y_plus


# %% [markdown]
# Now run it, with each objective, and compare with `dmbp.explain`. `explain` knows the
# objectives by a name, but it also takes a function of your own.

# %%
losses = {"+": loss_plus, "+-": loss_plus_minus, "all": loss_all}
for name, loss in losses.items():
    masks, a = algorithm_1(network, x, target, start, loss, u)
    for given in (name, loss):
        result = dmbp.explain(network, x, target, loss=given, progress=False)
        assert torch.allclose(result.attribution, a, rtol=0, atol=1e-10)
        for site in sites:
            mask = result.masks[site]
            assert torch.allclose(mask, masks[site], rtol=0, atol=1e-10)

# %% [markdown]
# They agree in every mask. They also agree if we keep to the letter of the paper and
# leave $u$ in both sides:

# %%
masks, a = algorithm_1(network, x, target, start, loss_all, u=0.0)
result = dmbp.explain(network, x, target, unmasked="both", progress=False)
assert torch.allclose(result.attribution, a, rtol=0, atol=1e-10)
for site in sites:
    assert torch.allclose(result.masks[site], masks[site], rtol=0, atol=1e-10)

# %% [markdown]
# `explain` is faster, because it uses the formula for the gradient of a mask.
# `dmbp.masked_scores` gives the two scores as functions of the logits, with this
# gradient. We compare it with line 10, at random logits:

# %%
scores = dmbp.masked_scores(lin, sites, target)
for loss in losses.values():
    theta = {site: torch.randn(1, 10).double().requires_grad_() for site in sites}
    masks, others = both_sides(theta)
    y_plus = masked_score(network, x, target, masks) - u
    y_minus = masked_score(network, x, target, others) - u
    line10 = torch.autograd.grad(loss(y, y_plus, y_minus), theta.values())

    fast = torch.autograd.grad(loss(y, *scores(theta)), theta.values())
    assert close(torch.cat(fast), torch.cat(line10))

# %% [markdown]
# Line 11 is RMSprop, an optimiser of PyTorch, with a learning rate of 0.01. It keeps an
# average $v$ of the squared gradients, and divides each gradient by the root of this
# average ($\mathcal L$ is the objective, and $\epsilon$ a tiny number against division
# by zero):
#
# $$\begin{aligned}
# v &\leftarrow 0.99\, v + 0.01 \left(\partial \mathcal L / \partial \theta\right)^2 \\
# \theta &\leftarrow \theta - \frac{0.01}{\sqrt v + \epsilon}\,
# \partial \mathcal L / \partial \theta
# \end{aligned}$$
#
# Because of this division, the size of a gradient hardly matters, only how it changes.
# In the first step $v$ is 0.01 times the squared gradient, so every logit moves by 0.1.
# If the gradient stays the same, $v$ is $1 - 0.99^k$ times its square after step $k$. So
# a logit moves in 200 steps by
#
# $$\sum_{k=1}^{200} \frac{0.01}{\sqrt{1 - 0.99^k}} = 3.17$$
#
# If the gradient grows, it moves by more than that. If the gradient keeps changing its
# sign, it moves by less. This is not far: from $\theta = 2$ it is not even sure to come
# to $\theta = -2$. So the start decides much. We see it in the digit network, with its
# many masks.

# %%
reach = sum(0.01 / (1 - 0.99**k) ** 0.5 for k in range(1, 201))
assert abs(reach - 3.17) < 0.005

# %%
digits = pretrained("digit-pairs").double()
pair = sample_pairs().images[:1].double()
graph = linreg.trace(digits, pair)
results = {}
for loss in ("none", "+", "+-", "all"):
    results[loss] = dmbp.explain(graph, pair, 3, loss=loss, progress=False)

# %%
first_masks = results["all"].initial
last_masks = results["all"].masks
begin = torch.cat([mask.logit().flatten() for mask in first_masks.values()])
end = torch.cat([mask.logit().flatten() for mask in last_masks.values()])
distance = (end - begin).abs()
moved = distance > 1e-6
most = distance[moved].quantile(0.9)
furthest = distance[moved].max()
assert most < reach < furthest < 5

# %% tags=["hide-input"]
figure, ax = plt.subplots(figsize=(7.2, 3.6))
for theta, colour in ((-2, BLUE), (0, GREY), (2, RED)):
    from_here = moved & ((begin - theta).abs() < 1)
    counts, edges = end[from_here].histogram(80, range=(-6.0, 6.0))
    ax.stairs(counts.numpy(), edges.numpy(), color=colour, lw=1.6)
    ax.axvline(theta, color=colour, ls=":")
ax.set(xlabel="logit θ after 200 steps", ylabel="masks that moved")
title = ax.set_title("by where they started (dotted)")

# %% [markdown]
# Masks that started at 2 (red) have mostly gone on to larger logits, and masks that
# started at −2 (blue) to smaller ones. Most of those that started in the middle (grey)
# have chosen a side, and are more than 1 away from it. Few have crossed over from red to
# blue or from blue to red. And nine in ten have moved by less than 3.17.

# %%
from_positive = end[moved & (begin > 1)]
from_negative = end[moved & (begin < -1)]
from_middle = end[moved & (begin.abs() < 1)]
assert (from_positive > 2).double().mean() > 0.75
assert (from_negative < -2).double().mean() > 0.75
assert (from_middle.abs() > 1).double().mean() > 0.75
assert (from_positive > 0).double().mean() > 0.85
assert (from_negative < 0).double().mean() > 0.85

# %% [markdown]
# And this is how the parts of the score grow while the masks of "3" are learnt:

# %% tags=["hide-input"]
history = results["all"].history
lines = {
    "y⁺, for a 3": (history["positive"], RED),
    "y⁻, against a 3": (history["negative"], BLUE),
    "y~, the nuisance": (history["nuisance"], GREY),
}
figure, ax = plt.subplots(figsize=(6.4, 3.4))
for label, (part, colour) in lines.items():
    ax.plot(part[:, 0].numpy(), color=colour, label=label)
ax.set(xlabel="step", ylabel="part of the score")
legend = ax.legend()

# %% [markdown]
# ## Table 1: the losses of the ablation
#
# What is each term of the objective good for? The paper's Table 1 compares three
# objectives. We compare their maps of the picture with a 3 and a 9, all for "3":
#
# $$\begin{aligned}
# \text{DMBP}^{+} &: \; -y^+ \\
# \text{DMBP}^{+,-} &: \; y^- - y^+ \\
# \text{DMBP}^{All} &: \; y^- - y^+ + |y^\sim|
# \end{aligned}$$
#
# First a check: `masked_backward` with the learnt masks gives the maps of `explain`.

# %%
for result in results.values():
    others = {site: 1 - mask for site, mask in result.masks.items()}
    a = both_maps(digits, pair, 3, result.masks, others)
    assert torch.allclose(result.attribution, a, rtol=1e-9, atol=1e-12)

# %% tags=["hide-input"]
figure, axes = plt.subplots(1, 4, figsize=(12, 4.4))
for ax, (loss, result) in zip(axes, results.items(), strict=True):
    a = result.attribution[0, 0]
    limit = a.abs().quantile(0.995).item()
    drawn = ax.imshow(a.numpy(), cmap=DIVERGING, vmin=-limit, vmax=limit)
    label = "share of the score per pixel"
    bar = {"orientation": "horizontal", "extend": "both", "label": label}
    figure.colorbar(drawn, ax=ax, **bar)
    parts = (result.split.positive, result.split.negative, result.split.nuisance)
    form = "y⁺ = {:.1f}, y⁻ = {:.1f}\ny~ = {:.1f}"
    numbers = form.format(*torch.cat(parts).tolist())
    numbers = numbers.replace("-", "−")
    ax.set(title=f'loss="{loss}"\n{numbers}', xticks=[], yticks=[])

# %% [markdown]
# From left to right (each map has a scale of its own):
#
# - `"none"` learns nothing. All masks are 1, and the map is that of Eq. (5).
# - `"+"` asks only for more $y^+$. It gets it, but now the 9 is red as well, and the
#   price is a large negative nuisance.
# - `"+-"` also asks for a more negative $y^-$. It finds what speaks against a 3, but
#   the nuisance is still large.
# - `"all"` leaves next to nothing in the nuisance.

# %%
positive = torch.cat([result.split.positive for result in results.values()])
negative = torch.cat([result.split.negative for result in results.values()])
nuisance = torch.cat([result.split.nuisance for result in results.values()])
assert positive.argmax() == 1
assert negative.argmin() == 2
assert nuisance[3].abs() < 0.5
assert nuisance[1] < nuisance[2] < -10

plain = graph.linearize(pair).weight(3) * pair
assert torch.allclose(results["none"].attribution, plain, rtol=1e-9, atol=1e-12)

nine = [result.attribution[..., 32:].sum() for result in results.values()]
assert nine[1] > 0
assert nine[2] < 0
assert nine[3] < 0

# %% [markdown]
# The paper measures this on thousands of pictures. Later lessons say what we could
# measure.
#
# ## Exercises
#
# 1. By how much has each logit of the small network moved after a single step? Why does
#    the size of the gradient not matter?
# 2. Find a unit whose value in the network masked by `sigma`, before its own mask, is
#    negative.
# 3. Start the small network from masks of ½ (`start=`) and not from those of Appendix
#    B.1. Which objective ends lower?
# 4. **Change a number and look.** Learn the masks of the "3" with `iterations=20` and
#    with `iterations=100`. How do $y^+$, $y^-$ and $y^\sim$ differ from those of 200
#    steps? Does the map? (If you have a few minutes, go on to 600.)
# 5. **Do it to your own network.** Run `dmbp.explain(model, x, target)` on a network of
#    yours, and print `result.summary()`. Then run `algorithm_1` of this page on it. Are
#    the maps the same?

# %% tags=["hide-cell"]
# 1. By 0.1, or not at all where the gradient g is zero. Since v = 0.01 g², the step is
# 0.01 g / √v = ±0.1, and g cancels.
one = dmbp.explain(network, x, target, iterations=1, progress=False)
steps = [(one.masks[site].logit() - start[site]).abs() for site in sites]
steps = torch.cat(steps, dim=1)
by_a_tenth = (steps - 0.1).abs() < 1e-4
not_at_all = steps < 1e-12
assert (by_a_tenth | not_at_all).all()
assert by_a_tenth.sum() > 10

# %% tags=["hide-cell"]
# 2. All that comes into an open unit has been masked, so that W h + b may change its
# sign. Then a large mask lowers y⁺.
h1 = network.relu1(network.layer1(x))
z2 = network.layer2(h1)
masked_z2 = network.layer2(fixed["relu1"] * h1)
assert ((z2 > 0) & (masked_z2 < 0)).any()

# %% tags=["hide-cell"]
# 3. That from Appendix B.1, by a little: by less than 0.05.
half = {site: torch.full_like(logits, 0.5) for site, logits in start.items()}
other = dmbp.explain(network, x, target, start=half, progress=False).split
from_half = loss_all(y, other.positive, other.negative)
from_b1 = loss_all(y, path_positive[-1], path_negative[-1])
assert from_b1 < from_half < from_b1 + 0.05

# %% tags=["hide-cell"]
# 4. The first steps of 200 are the same steps, so nothing new is in these numbers: both
# sides go on growing, and the nuisance stays small. The map settles. After 100 steps it
# is nearly that of 200, but for its scale.
final = results["all"]
pixels = [final.attribution.flatten()]
for steps in (20, 100):
    short = dmbp.explain(graph, pair, 3, iterations=steps, progress=False)
    assert torch.allclose(short.split.positive, final.history["positive"][steps])
    assert short.split.positive < final.split.positive
    assert short.split.negative > final.split.negative
    assert short.split.nuisance.abs() < 0.5
    pixels.append(short.attribution.flatten())
alike = torch.corrcoef(torch.stack(pixels))[0]
print("correlation with the map of 200 steps:", alike[1:])
assert alike[1] < 0.9
assert alike[2] > 0.95

# %% tags=["hide-cell"]
# 5. They are the same.
yours = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
yours = yours.double().eval()
example = torch.rand(1, 1, 8, 8, dtype=torch.float64)
result = dmbp.explain(yours, example, 1, progress=False)
lin_yours = linreg.trace(yours, example).linearize(example)
logits = dmbp.initial_logits(lin_yours, result.masks, 1)
bias = yours[3].bias.detach()[1]
_, a = algorithm_1(yours, example, 1, logits, loss_all, bias)
assert torch.allclose(result.attribution, a, rtol=0, atol=1e-10)
