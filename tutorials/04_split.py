# %% [markdown]
# # 4. Splitting the score exactly
#
# **You will see** a score split into three parts: what speaks for the answer, what
# speaks against it, and the rest. The split is made by *masks*, one number between 0
# and 1 for each hidden unit. Whatever the masks are, the three parts add up to the
# score. You choose the masks by hand here. Lesson 5 learns them.
#
# **You need** lesson 1 ($\hat W_l$ and $H_L$) and lesson 2 (biases). It helps to have
# read the last section of lesson 3, about where masks sit.
#
# **Time**: 40 minutes to read; twice that to type along and do the exercises.

# %%
from collections import OrderedDict
from functools import partial
from itertools import product

import matplotlib.pyplot as plt
import torch
from torch import nn

import dmbp
import linreg
from dmbp import matrices
from dmbp.datasets import sample_pairs
from dmbp.networks import pretrained
from dmbp.plot import BLUE, DIVERGING, GREY, RED

# %%
plt.rcParams["figure.constrained_layout.use"] = True


def close(one, other):
    return torch.allclose(one, other, rtol=1e-12, atol=1e-12)


# %% [markdown]
# The map of lesson 1 was noisy. The paper's explanation is this: the score is made of
# evidence for the answer, of evidence against it, and of much that has no effect,
# because it cancels. In the map all three lie on top of each other. If we could tell
# them apart, we could leave the last one out.
#
# ## Eq. (8): one layer becomes two
#
# Take a network with three hidden layers of six units each.

# %%
torch.manual_seed(2490)
network = nn.Sequential(
    OrderedDict(
        layer1=nn.Linear(5, 6),
        relu1=nn.ReLU(),
        layer2=nn.Linear(6, 6),
        relu2=nn.ReLU(),
        layer3=nn.Linear(6, 6),
        relu3=nn.ReLU(),
        output=nn.Linear(6, 1),
    )
)
network = network.double()

# %%
for layer in (network.layer1, network.layer2, network.layer3, network.output):
    nn.init.kaiming_normal_(layer.weight)
x = torch.tensor([[0.9, -0.4, 0.7, 1.2, -0.8]], dtype=torch.float64)
lin = linreg.trace(network, x).linearize(x)
y = network(x).detach()[0, 0]

# %% [markdown]
# Each hidden unit gets a mask. The masks of layer $l$ are the numbers $\sigma_l$. A
# unit with the mask 0.9 goes to the positive side with nine tenths of its value, and to
# the negative side with one tenth. We choose the masks freely. `dmbp` wants them by the
# name of the gates that they mask, and with a batch dimension, like everything in
# PyTorch.

# %%
sigma1 = torch.tensor([[0.9, 0.2, 0.7, 0.1, 0.8, 0.3]], dtype=torch.float64)
sigma2 = torch.tensor([[0.1, 0.9, 0.8, 0.6, 0.2, 0.7]], dtype=torch.float64)
sigma3 = torch.tensor([[0.8, 0.3, 0.1, 0.9, 0.6, 0.4]], dtype=torch.float64)
masks = {"relu1": sigma1, "relu2": sigma2, "relu3": sigma3}
other_masks = {site: 1 - mask for site, mask in masks.items()}

# %% [markdown]
# A mask multiplies a row of the gated matrix $\hat W_l$. All masks of a layer are a
# diagonal matrix $\Sigma_l$. With $I - \Sigma_l$ for the other side, one matrix becomes
# two. This is Eq. (8):
#
# $$\begin{aligned}
# \hat W_l &= \hat W_l^+ + \hat W_l^- \\
# &= \Sigma_l \hat W_l + (I - \Sigma_l)\, \hat W_l \\
# \Sigma_l &= \mathrm{diag}(\sigma_l)
# \end{aligned}$$
#
# The function below puts the gates on the weights and the biases of a layer. ($\hat b_l$
# is $b_l$ with a zero for each closed unit.)


# %%
def gated(layer, h):
    """Ŵ and b̂ of a layer to which h comes in."""
    gates = torch.diag((layer(h) > 0).double())
    return gates @ layer.weight.detach(), gates @ layer.bias.detach()


W1_hat, b1_hat = gated(network.layer1, x[0])
h1 = W1_hat @ x[0] + b1_hat
W2_hat, b2_hat = gated(network.layer2, h1)
h2 = W2_hat @ h1 + b2_hat
W3_hat, b3_hat = gated(network.layer3, h2)

# %%
Sigma1 = torch.diag(sigma1[0])
Sigma2 = torch.diag(sigma2[0])
Sigma3 = torch.diag(sigma3[0])
I = torch.eye(6, dtype=torch.float64)

W1_plus = Sigma1 @ W1_hat
W2_plus = Sigma2 @ W2_hat
W3_plus = Sigma3 @ W3_hat
W1_minus = (I - Sigma1) @ W1_hat
W2_minus = (I - Sigma2) @ W2_hat
W3_minus = (I - Sigma3) @ W3_hat
assert close(W2_plus + W2_minus, W2_hat)

# %% [markdown]
# `dmbp.masked` puts masks into a frozen network. What you get is again a frozen
# network, whose matrices you can look at.

# %%
positive_side = dmbp.masked(lin, masks)
negative_side = dmbp.masked(lin, other_masks)
assert close(lin.matrix("relu2", start="relu1"), W2_hat)
assert close(positive_side.matrix("relu2", start="relu1"), W2_plus)
assert close(negative_side.matrix("relu2", start="relu1"), W2_minus)

# %% tags=["hide-input"]
halves = {"Ŵ₂": W2_hat, "Σ₂ Ŵ₂": W2_plus, "(I − Σ₂) Ŵ₂": W2_minus}
figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.2))
for ax, (name, matrix) in zip(axes, halves.items(), strict=True):
    drawn = ax.imshow(matrix.numpy(), cmap=DIVERGING, vmin=-1.2, vmax=1.2)
    ax.set(title=name, xlabel="unit of $h_1$", xticks=range(6), yticks=range(6))
axes[0].set_ylabel("unit of $h_2$")
numbers = sigma2[0].tolist()
axes[1].set_yticks(range(6), [f"σ = {number:.1f}" for number in numbers])
axes[2].set_yticks(range(6), [f"1 − σ = {1 - number:.1f}" for number in numbers])
colorbar = figure.colorbar(drawn, ax=axes, label="weight")

# %% [markdown]
# The rows of the closed units are blank on all sides. In the other rows, what is strong
# on one side is weak on the other.
#
# ## Eqs. (6), (9): a product of sums has mixed terms
#
# The network is the product of its layers, and each layer is now a sum of two. What is
# a product of sums? Multiply out $(p + m)(p' + m')$: you get $pp'$ and $mm'$, but also
# the *mixed* terms $pm'$ and $mp'$. It is the same with matrices. With three layers
# there are $2^3 = 8$ products, one for each choice of a sign in each layer:

# %%
first_layer = {"+": W1_plus, "−": W1_minus}
second_layer = {"+": W2_plus, "−": W2_minus}
third_layer = {"+": W3_plus, "−": W3_minus}
H_of = {}
for one, two, three in product("+−", repeat=3):
    H_of[one + two + three] = third_layer[three] @ second_layer[two] @ first_layer[one]
assert close(sum(H_of.values()), lin.matrix("relu3"))

# %% [markdown]
# The product with only plus signs is $H_L^+$, the one with only minus signs is $H_L^-$.
# The paper splits $H_L$ so, in Eqs. (6) and (9):
#
# $$w^\top H_L\, x = w^\top (H_L^+ + H_L^- + H_L^\sim)\, x$$
#
# $$\begin{aligned}
# H_L^+ &= \Sigma_L \hat W_L \dots \Sigma_1 \hat W_1 \\
# H_L^- &= (I - \Sigma_L) \hat W_L \dots (I - \Sigma_1) \hat W_1
# \end{aligned}$$
#
# It calls $H_L^\sim$ the *nuisance*, and leaves it as the rest. Now we can say what it
# is: the sum of all the mixed products, $2^L - 2$ in number.

# %%
H_plus = H_of["+++"]
H_minus = H_of["−−−"]
w = network.output.weight.detach()[0]
mixed = [H for signs, H in H_of.items() if "+" in signs and "−" in signs]
H_mixed = sum(mixed)
assert len(mixed) == 2**3 - 2
assert close(H_plus + H_minus + H_mixed, lin.matrix("relu3"))

# %% [markdown]
# `dmbp.matrices` finds the three matrices without going through all the products, and,
# if you ask for it, each of the products too.

# %%
found = matrices.matrices(lin, masks, "relu3")
assert close(torch.from_numpy(found.positive.toarray()), H_plus)
assert close(torch.from_numpy(found.negative.toarray()), H_minus)
assert close(torch.from_numpy(found.nuisance.toarray()), H_mixed)

patterns = matrices.sign_patterns(lin, masks, "relu3")
assert len(patterns) == 8
for signs, H in patterns.items():
    assert close(H, H_of[signs])

# %% tags=["hide-input"]
heights = [(w @ H @ x[0]).item() for H in H_of.values()]
colours = [RED, GREY, GREY, GREY, GREY, GREY, GREY, BLUE]
figure, ax = plt.subplots(figsize=(7.2, 3.4))
ax.bar(list(H_of), heights, color=colours)
ax.axhline(0, color="black", lw=0.8)
ax.set(xlabel="signs of layers 1, 2, 3", ylabel="share of the score")
ax.tick_params(axis="x", labelsize=13)
title = ax.set_title("red: wᵀ H⁺ x, blue: wᵀ H⁻ x, grey, all together: wᵀ H~ x")

# %% [markdown]
# The eight bars add up to $w^\top H_L\, x$. The grey ones together are larger than the
# red one, and more than twice as large as the blue one. This is so because our masks are
# arbitrary: masks that know nothing about the network leave much in the nuisance. With
# good masks the grey bars cancel, and a large red bar and a large blue bar remain.

# %%
shares = [(w @ H @ x[0]).item() for H in (H_plus, H_minus, H_mixed)]
assert abs(shares[2]) > abs(shares[0])
assert abs(shares[2]) > 2 * abs(shares[1])

# %% [markdown]
# ## Eqs. (9), (14): the parts of the score, and what no mask touches
#
# Now the biases. We put the masks into the frozen network and keep all its biases. Its
# score is then a function of the masks, which we call $P(\sigma)$. It is a function of
# the input too. Where we think of the input, we call the masked network $F^+$ if the
# masks are $\sigma$, and $F^-$ if they are $1 - \sigma$. So $P(\sigma)$ and $F^+(x)$ are
# two names of one number. By Eq. (14) it is the sum of gradient times input and of
# gradient times bias:
#
# $$\begin{aligned}
# P(\sigma) &= \nabla_x F^+(x)^\top x \\
# &\quad + \sum_l \nabla_{b_l} F^+(x)^\top b_l
# \end{aligned}$$
#
# The positive part of the score is the masked network's score with $\sigma$, the
# negative part is its score with $1 - \sigma$. What is left, Algorithm 1 calls the
# nuisance:
#
# $$\begin{aligned}
# y^+ &= P(\sigma) \\
# y^- &= P(1 - \sigma) \\
# y^\sim &= y - y^+ - y^-
# \end{aligned}$$


# %%
def masked_forward(sigma1, sigma2, sigma3):
    """P: the score of the frozen network with these masks."""
    h = sigma1 * (x @ W1_hat.T + b1_hat)
    h = sigma2 * (h @ W2_hat.T + b2_hat)
    h = sigma3 * (h @ W3_hat.T + b3_hat)
    return (h @ w + b)[0]


b = network.output.bias.detach()
y_plus = masked_forward(sigma1, sigma2, sigma3)
y_minus = masked_forward(1 - sigma1, 1 - sigma2, 1 - sigma3)
y_rest = y - y_plus - y_minus
assert close(masked_forward(1, 1, 1), y)

# %% [markdown]
# There is one catch. The bias of the output comes after the last gate, so no mask
# touches it. It is in $y^+$ in full, and in $y^-$ in full, and therefore once with a
# minus sign in $y^\sim$. The same happens to each path around all masks, like the
# identity in $\phi(W h + b) + h$. All such terms together are what is left if all masks
# are zero:
#
# $$u = P(0)$$
#
# In our network this is just the bias of the output.

# %%
u = masked_forward(0, 0, 0)
assert close(u, b[0])

# %% [markdown]
# What should we do with $u$? Algorithm 1, taken to the letter, counts it twice, and the
# paper does not discuss it. In `dmbp` you get this with `unmasked="both"`. If you say
# nothing, or `unmasked="nuisance"`, it takes the view that what no mask touches is
# evidence for neither side. It subtracts $u$ from both sides, so that it is counted once,
# in $y^\sim$. So when `dmbp` reports $y^+$, and in the later lessons, $y^+$ is
# $P(\sigma) - u$, and $y^-$ is $P(1 - \sigma) - u$.

# %%
both = dmbp.decompose(lin, masks, unmasked="both")
assert close(both.positive[0], y_plus)
assert close(both.negative[0], y_minus)
assert close(both.nuisance[0], y_rest)

once = dmbp.decompose(lin, masks)
assert close(once.positive[0], y_plus - u)
assert close(once.negative[0], y_minus - u)
assert close(once.nuisance[0], y_rest + 2 * u)
assert close(once.unmasked[0], u)

# %% tags=["hide-input"]
touched = torch.stack([y_plus - u, y_minus - u, y_rest + u])
bars = {"color": [RED, BLUE, GREY], "width": 0.36}
hatched = {"color": "white", "ec": "black", "hatch": "///", "width": 0.36}
times_u = {"nuisance": (0, 0, 1), "both": (1, 1, -1)}
figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4), sharey=True)
for ax, (option, times) in zip(axes, times_u.items(), strict=True):
    ax.bar([-0.19, 0.81, 1.81], touched.numpy(), **bars)
    drawn = ax.bar([0.19, 1.19, 2.19], [u.item() * k for k in times], **hatched)
    ax.axhline(0, color="black", lw=0.8)
    ax.set(xticks=range(3), xticklabels=("y⁺", "y⁻", "y~"))
    ax.set_title(f'unmasked="{option}"')
axes[0].set_ylabel(f"share of y = {y:.2f}")
label = f"u = {u:.2f}, touched by no mask"
legend = figure.legend([drawn], [label], loc="outside lower center", frameon=False)

# %% [markdown]
# Each part of the score is the sum of its two bars, a coloured one and a hatched one.
#
# ## Eq. (9) once more: the nuisance computed
#
# Algorithm 1 finds the nuisance as a difference. A difference always adds up, so it
# cannot tell us whether we made a mistake. We would like to compute $y^\sim$ without a
# look at $y$. To add up all mixed products takes too long: a chain of 11 masked layers
# has 2,046 of them. But there is a short way. We carry three vectors through the network
# at once: $h^+$, which has met only plus signs so far, $h^-$, which has met only minus
# signs, and $h^\sim$, which is mixed. The weights of a layer make $z^+$, $z^-$ and
# $z^\sim$ of them (how exactly, we say below). Then the masks sort:
#
# $$\begin{aligned}
# h^+ &\leftarrow \Sigma\, z^+ \\
# h^- &\leftarrow (I - \Sigma)\, z^- \\
# h^\sim &\leftarrow \Sigma\, (z^- + z^\sim) + (I - \Sigma)(z^+ + z^\sim)
# \end{aligned}$$
#
# In words: what was all minus and now meets a plus becomes mixed, what was all plus and
# now meets a minus becomes mixed, and what is mixed stays mixed.
#
# How do we start? At the input nothing is decided, so both sides hold $x$. The three
# must sum to the network's own value, $x$, so the third one starts as $-x$. A bias
# starts in the same way in its own layer, because it meets the masks from there on: it
# is $b$, $b$ and $-b$.
#
# $$\begin{aligned}
# (h^+, h^-, h^\sim) &= (x, x, -x) \text{ at the input} \\
# z^+ &= \hat W h^+ + \hat b \\
# z^- &= \hat W h^- + \hat b \\
# z^\sim &= \hat W h^\sim - \hat b
# \end{aligned}$$


# %%
def one_layer(states, W_hat, b_hat, Sigma):
    """The three states behind a masked layer."""
    z_plus = W_hat @ states[0] + b_hat
    z_minus = W_hat @ states[1] + b_hat
    z_mixed = W_hat @ states[2] - b_hat
    h_plus = Sigma @ z_plus
    h_minus = (I - Sigma) @ z_minus
    h_mixed = Sigma @ (z_minus + z_mixed) + (I - Sigma) @ (z_plus + z_mixed)
    return torch.stack([h_plus, h_minus, h_mixed])


# %%
states0 = torch.stack([x[0], x[0], -x[0]])
states1 = one_layer(states0, W1_hat, b1_hat, Sigma1)
states2 = one_layer(states1, W2_hat, b2_hat, Sigma2)
states3 = one_layer(states2, W3_hat, b3_hat, Sigma3)
assert close(states1.sum(dim=0), h1)
assert close(states2.sum(dim=0), h2)
assert close(states3.sum(dim=0), W3_hat @ h2 + b3_hat)

# %% [markdown]
# At the output there is no mask. There we multiply by $w$, and add the bias as in the
# other layers.

# %%
parts = states3 @ w + torch.cat([b, b, -b])
assert close(parts.sum(), y)
assert close(parts, torch.stack([y_plus, y_minus, y_rest]))
assert close(torch.cat(dmbp.recurrence(lin, masks))[:, 0], parts)

# %% tags=["hide-input"]
figure, axes = plt.subplots(1, 3, figsize=(9.6, 2.2))
behind = {"layer 1": states1, "layer 2": states2, "layer 3": states3}
for ax, (name, states) in zip(axes, behind.items(), strict=True):
    drawn = ax.imshow(states.numpy(), cmap=DIVERGING, vmin=-2, vmax=2)
    ax.set(title=f"behind {name}", xlabel="unit", xticks=range(6))
    ax.set_yticks(range(3), ("h⁺", "h⁻", "h~"))
colorbar = figure.colorbar(drawn, ax=axes, label="value")

# %% [markdown]
# The columns of each picture add up to what the network itself has at that unit. Behind
# layer 1 nothing is mixed yet: the last row is empty. From layer 2 on it fills.

# %%
assert close(states1[2], 0 * h1)
assert states2[2].abs().max() > 0.1

# %% [markdown]
# ## Eq. (7): a map without the nuisance
#
# The gradient of each side gives a map of that side. Add the two maps, and leave the
# nuisance out. This is the map that the paper proposes:
#
# $$a(x) = [w^\top H_L^+] \odot x + [w^\top H_L^-] \odot x$$
#
# To see it we need a network that has learnt something: the one for digit pairs, and
# the picture of a 3 and a 9, from lesson 1. Again we ask for the score of "3".

# %%
digits = pretrained("digit-pairs").double()
pair = sample_pairs().images[:1].double()
graph = linreg.trace(digits, pair)
lin_digits = graph.linearize(pair)
sites = dmbp.find_sites(graph)
print(*sites, sep="\n")

# %% [markdown]
# `find_sites` names the places for masks, the *sites*: all gates. We need masks for
# them, and this time they should make some sense. Here is a simple rule. If a unit
# raises the score, that is, if the gradient of the score with respect to it is
# positive, it goes to the positive side with nine tenths. Else it goes there with one
# tenth. `adjoint` goes back through the frozen network and gives the gradient at any
# node. It starts from `asked`, which has a 1 for the output that we ask for.

# %%
asked = torch.zeros(1, 10, dtype=torch.float64)
asked[0, 3] = 1
by_sign = {}
for site in sites:
    gradient = lin_digits.adjoint(asked, start=site)
    by_sign[site] = 0.1 + 0.8 * (gradient > 0).double()
other_side = {site: 1 - mask for site, mask in by_sign.items()}

# %% [markdown]
# The gradient of a masked network takes one backward pass. At each site, the gradient
# that arrives is multiplied by the mask before it goes on. We have met the hook that
# does this at the end of lesson 3.


# %%
def mask_gradient(mask, gate, inputs, output):
    """A forward hook: the gradient that arrives at this output goes on times mask."""
    output.register_hook(lambda gradient: mask * gradient)


# %% [markdown]
# `masked_backward` hangs this hook on every site, runs the network, and asks PyTorch
# for the gradients of a score: with respect to the input, and with respect to every
# bias. Then it takes the hooks off again. (`create_graph=True` allows us to
# differentiate the result once more. Lesson 5 needs that.)


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


# %%
unmasked_gradient, _ = masked_backward(digits, pair, 3, {})
positive_gradient, _ = masked_backward(digits, pair, 3, by_sign)
negative_gradient, _ = masked_backward(digits, pair, 3, other_side)

whole_map = (unmasked_gradient * pair).detach()
positive_map = (positive_gradient * pair).detach()
negative_map = (negative_gradient * pair).detach()
a = positive_map + negative_map

# %% [markdown]
# `dmbp.decompose` finds the same maps.

# %%
split = dmbp.decompose(lin_digits, by_sign, 3)
positive = split.attribution("positive")
negative = split.attribution("negative")
assert torch.allclose(positive, positive_map, rtol=1e-9, atol=1e-12)
assert torch.allclose(negative, negative_map, rtol=1e-9, atol=1e-12)
print(split)

# %% tags=["hide-input"]
maps = {
    "c ⊙ x, Eq. (5)": whole_map,
    "∇F⁺ ⊙ x": positive_map,
    "∇F⁻ ⊙ x": negative_map,
    "a(x), Eq. (7)": a,
}
limit = a.abs().quantile(0.995).item()
figure, axes = plt.subplots(1, 4, figsize=(12, 3))
for ax, (name, values) in zip(axes, maps.items(), strict=True):
    drawn = ax.imshow(values[0, 0].numpy(), cmap=DIVERGING, vmin=-limit, vmax=limit)
    ax.set(title=name, xticks=[], yticks=[])
label = "share of the score per pixel"
colorbar = figure.colorbar(drawn, ax=axes, label=label, extend="both")

# %% [markdown]
# All four maps have the same scale. In the last one the 3 is red, the 9 is nearly all
# blue, and beside the ink little is left of the noise. So the noise was nuisance. We
# can put numbers on that. In the ink of the 3, nine tenths of what the map has are
# positive, and in the ink of the 9, nine tenths are negative. Beside the ink, at pixels
# that are more than two pixels away from any ink, Eq. (7) has less than an eighth of what
# Eq. (5) has.

# %%
ink = pair.gt(0.5).double()
of_3 = (ink * a)[..., :32]
of_9 = (ink * a)[..., 32:]
assert of_3.clamp(min=0).sum() > 0.9 * of_3.abs().sum()
assert of_9.clamp(max=0).abs().sum() > 0.9 * of_9.abs().sum()

# %%
near_ink = nn.functional.max_pool2d(ink, kernel_size=5, stride=1, padding=2)
beside = near_ink == 0
assert 8 * a[beside].abs().sum() < whole_map[beside].abs().sum()

# %% [markdown]
# Look at the numbers above the picture, too: $y^\sim$ as a whole is near zero. With our
# simple rule this is luck. Lesson 5 makes it an aim.

# %%
assert split.nuisance.abs() < 0.1

# %% [markdown]
# ## Exercises
#
# 1. What is the split if all masks are 1? What does it do to the split if you exchange
#    $\sigma$ and $1 - \sigma$?
# 2. Take a network without biases, and let all masks be ½. Which share of $y$ is
#    nuisance with 3 masked layers? And with 11?
# 3. Mask layer 2 alone. What is $u$ now, and what is $y^\sim$?
# 4. **Change a number and look.** In the rule for the masks of the digit network,
#    replace 0.1 and 0.8 by 0 and 1, and then by 0.4 and 0.2. What becomes of the three
#    parts of the score?
# 5. **Do it to your own network.** Use the rule on a network and an input of your own.
#    Does `masked_backward` give the same two maps as `decompose`? How large is
#    `unmasked`?

# %% tags=["hide-cell"]
# 1. With all masks 1, what meets a mask is positive, and the rest is u. The exchange
# swaps y⁺ and y⁻.
ones = {site: torch.ones_like(mask) for site, mask in masks.items()}
whole = dmbp.decompose(lin, ones)
assert close(whole.positive[0], y - u)
assert close(whole.negative[0], 0 * u)
assert close(whole.nuisance[0], u)

swapped = dmbp.decompose(lin, other_masks)
assert close(swapped.positive[0], y_minus - u)
assert close(swapped.negative[0], y_plus - u)

# %% tags=["hide-cell"]
# 2. H⁺ = H⁻ = H / 2^L, which leaves 1 − 2^(1 − L) for the nuisance: three quarters with
# 3 layers, 99.9 % with 11.
halved = {site: torch.full_like(mask, 0.5) for site, mask in masks.items()}
even = matrices.matrices(lin, halved, "relu3")
assert close(torch.from_numpy(even.nuisance.toarray()), 0.75 * lin.matrix("relu3"))

deep = nn.Sequential()
for _ in range(11):
    deep.extend([nn.Linear(5, 5, bias=False), nn.ReLU()])
deep.append(nn.Linear(5, 1, bias=False))
for weight in deep.double().parameters():
    nn.init.uniform_(weight)  # none is negative, so that no unit closes
ones = torch.ones(1, 5, dtype=torch.float64)
lin_deep = linreg.trace(deep, ones).linearize(ones)
halves = {site: 0.5 * ones for site in dmbp.find_sites(lin_deep.graph)}
deep_split = dmbp.decompose(lin_deep, halves, 0)
assert close(deep_split.nuisance, (1 - 2**-10) * deep_split.y)

# %% tags=["hide-cell"]
# 3. The last two biases meet no mask: they are u. With a single masked layer nothing
# can be mixed, so y~ is u and nothing else.
alone = dmbp.decompose(lin, {"relu2": sigma2})
assert close(alone.unmasked[0], w @ b3_hat + b[0])
assert close(alone.nuisance, alone.unmasked)

# %% tags=["hide-cell"]
# 4. Near ½ most is nuisance, here more than 70 % of y: a path of many gates leaves
# little to either side. At 0 and 1 the parts are largest, and the nuisance is no longer
# small.
hard = {site: (mask > 0.5).double() for site, mask in by_sign.items()}
hard_split = dmbp.decompose(lin_digits, hard, 3)
soft = {site: 0.4 + 0.2 * mask for site, mask in hard.items()}
soft_split = dmbp.decompose(lin_digits, soft, 3)
assert hard_split.positive > split.positive > soft_split.positive
assert hard_split.nuisance.abs() > 8
assert soft_split.nuisance > 0.7 * soft_split.y

# %% tags=["hide-cell"]
# 5. They are the same. Here u is the bias of the output.
yours = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
yours = yours.double().eval()
example = torch.rand(1, 1, 8, 8, dtype=torch.float64)
lin_yours = linreg.trace(yours, example).linearize(example)
asked = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
rule = {"1": 0.1 + 0.8 * (lin_yours.adjoint(asked, start="1") > 0).double()}
yours_split = dmbp.decompose(lin_yours, rule, 1)
gradient, _ = masked_backward(yours, example, 1, rule)
assert close(yours_split.attribution("positive"), (gradient * example).detach())
assert close(yours_split.unmasked[0], yours[3].bias.detach()[1])
