# %% [markdown]
# # 4. Splitting the score exactly
#
# The map of tutorial 1 is noise: what speaks for a class, against it, and neither, all on top of each other. This page
# splits the score, $y = y^+ + y^- + y^\sim$, by a number in [0, 1] for each hidden unit, its mask. Masks are set
# by hand here, and the split is exact whatever they are; tutorial 5 learns them. You need $\hat W_l$ and $H_L$ from
# tutorial 1 and biases from tutorial 2.

# %%
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

torch.manual_seed(2490)  # a network of which all parts can be seen
close = partial(torch.allclose, rtol=1e-12, atol=1e-12)

# %% [markdown]
# ## Eq. (8): one layer becomes two
#
# $$\hat W_l = \hat W_l^+ + \hat W_l^- = \Sigma_l \hat W_l + (I - \Sigma_l)\, \hat W_l, \qquad
# \Sigma_l = \mathrm{diag}(\sigma_l), \quad \sigma_l \in [0, 1]^{d_l}$$
#
# Three hidden layers of six units. A unit with σ = 0.9 goes nine tenths to the positive side and one tenth to the
# negative one; the row of a closed unit is zero on both. `dmbp.masked` is the frozen network with masks put in.

# %%
hidden = [module for width in (5, 6, 6) for module in (nn.Linear(width, 6), nn.ReLU())]
network = nn.Sequential(*hidden, nn.Linear(6, 1)).double()
for layer in network[::2]:
    nn.init.kaiming_normal_(layer.weight)
x = torch.tensor([[0.9, -0.4, 0.7, 1.2, -0.8]], dtype=torch.float64)
sigma = [[0.9, 0.2, 0.7, 0.1, 0.8, 0.3], [0.1, 0.9, 0.8, 0.6, 0.2, 0.7], [0.8, 0.3, 0.1, 0.9, 0.6, 0.4]]
masks = {site: torch.tensor([row], dtype=torch.float64) for site, row in zip("135", sigma, strict=True)}

h, What, bhat = x[0], [], []
for layer in network[:5:2]:
    gate = torch.diag((layer(h) > 0).double())
    What, bhat = [*What, gate @ layer.weight.detach()], [*bhat, gate @ layer.bias.detach()]
    h = What[-1] @ h + bhat[-1]
w, b, y = network[6].weight.detach()[0], network[6].bias.detach()[0], network(x).detach()[0, 0]
Sigma, I = [torch.diag(mask[0]) for mask in masks.values()], torch.eye(6).double()
halves = {"Σ₂ Ŵ₂": Sigma[1] @ What[1], "(I − Σ₂) Ŵ₂": (I - Sigma[1]) @ What[1]}

lin = linreg.trace(network, x).linearize(x)
region, other = dmbp.masked(lin, masks), dmbp.masked(lin, {site: 1 - mask for site, mask in masks.items()})
assert close(region.matrix("3", start="1"), halves["Σ₂ Ŵ₂"])
assert close(other.matrix("3", start="1"), halves["(I − Σ₂) Ŵ₂"])
assert close(lin.matrix("3", start="1"), halves["Σ₂ Ŵ₂"] + halves["(I − Σ₂) Ŵ₂"])
figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.2), layout="constrained")
for ax, (name, matrix) in zip(axes, {"Ŵ₂": What[1], **halves}.items(), strict=True):
    drawn = ax.imshow(matrix.numpy(), cmap=DIVERGING, vmin=-1.2, vmax=1.2)
    ax.set(title=name, xlabel="unit of $h_1$", xticks=range(6), yticks=range(6))
axes[0].set_ylabel("unit of $h_2$")
axes[1].set_yticks(range(6), [f"σ = {s}" for s in sigma[1]])
axes[2].set_yticks(range(6), [f"1 − σ = {1 - s:.1f}" for s in sigma[1]])
figure.colorbar(drawn, ax=axes, label="weight")

# %% [markdown]
# ## Eqs. (6), (9): a product of sums has mixed terms
#
# $$w^\top H_L\, x = w^\top (H_L^+ + H_L^- + H_L^\sim)\, x, \qquad
# H_L^+ = \Sigma_L \hat W_L \dots \Sigma_1 \hat W_1, \qquad
# H_L^- = (I - \Sigma_L) \hat W_L \dots (I - \Sigma_1) \hat W_1$$
#
# Multiply out $\prod_l [\Sigma_l \hat W_l + (I - \Sigma_l) \hat W_l]$: it makes $2^L$ products, one for each choice of
# signs. All plus is $H_L^+$, all minus is $H_L^-$. $H_L^\sim$, which the paper leaves as the rest, is the sum of the
# $2^L - 2$ mixed ones. Masks as arbitrary as these leave much there: good ones are another matter.

# %%
H_of = {}
for signs in product("+−", repeat=3):  # the first sign is that of layer 1
    H = torch.eye(5).double()
    for sign, S, W in zip(signs, Sigma, What, strict=True):
        H = (S if sign == "+" else I - S) @ W @ H
    H_of["".join(signs)] = H
mixed = [H for signs, H in H_of.items() if len(set(signs)) == 2]
literal = torch.stack([H_of["+++"], H_of["−−−"], sum(mixed)])
assert len(mixed) == 2**3 - 2 and close(literal.sum(0), lin.matrix("5"))
found = matrices.matrices(lin, masks, "5")
assert all(close(torch.from_numpy(H.toarray()), expected) for H, expected in zip(found, literal, strict=True))
assert all(close(H, H_of[signs]) for signs, H in matrices.sign_patterns(lin, masks, "5").items())
figure, ax = plt.subplots(figsize=(7.2, 3.4), layout="constrained")
ax.bar(list(H_of), [(w @ H @ x[0]).item() for H in H_of.values()], color=[RED, *[GREY] * 6, BLUE])
ax.axhline(0, color="black", lw=0.8)
ax.set(xlabel="signs of layers 1, 2, 3", ylabel=f"share of wᵀ H x = {w @ literal.sum(0) @ x[0]:.2f}")
ax.set_title("red: wᵀ H⁺ x, blue: wᵀ H⁻ x, grey, all together: wᵀ H~ x")
ax.tick_params(axis="x", labelsize=13)

# %% [markdown]
# ## Eqs. (9), (14): the nuisance computed, and what no mask touches
#
# $$y^+ = P(\sigma), \qquad y^- = P(1 - \sigma), \qquad
# P(\sigma) = \nabla_x F^+(x)^\top x + \sum_l \nabla_{b_l} F^+(x)^\top b_l$$
#
# P is the frozen network with all its biases, each gate's output multiplied by its mask, and $F^+$ that as a function
# of x. Algorithm 1 then takes $y^\sim = y - y^+ - y^-$. A difference always adds up, so it checks nothing, and a chain
# of 11 masked layers has 2,046 mixed products. But three states carried forward give $y^\sim$ without a look at y:
#
# $$h^+ \leftarrow \Sigma z^+, \qquad h^- \leftarrow (I - \Sigma)\, z^-, \qquad
# h^\sim \leftarrow \Sigma (z^- + z^\sim) + (I - \Sigma)(z^+ + z^\sim), \qquad
# z^\pm = \hat W h^\pm + \hat b, \quad z^\sim = \hat W h^\sim - \hat b$$
#
# All minus that meets a plus becomes mixed, and the reverse; mixed stays mixed. At the input nothing is decided, both
# sides hold x, and the states are (x, x, −x). Likewise a bias, which meets the masks from its layer on: (b, b, −b). The
# output's meets none, nor does a path around all gates, as the identity in φ(W h + b) + h. Such terms, u = P(0), are in
# $y^+$, in $y^-$, and with a minus in $y^\sim$. That is Algorithm 1 to the letter, `unmasked="both"`; the paper does
# not discuss it. Here, unless you say otherwise, what no mask touches is evidence for neither side, and u is once in
# $y^\sim$. (In the figure a part is the sum of its two bars, coloured and hatched.)

# %%
plus, minus, rest = x[0], x[0], -x[0]
for S, W, t in zip(Sigma, What, bhat, strict=True):
    plus, minus, rest = W @ plus + t, W @ minus + t, W @ rest - t
    plus, minus, rest = S @ plus, (I - S) @ minus, S @ (minus + rest) + (I - S) @ (plus + rest)
states = torch.stack([w @ plus + b, w @ minus + b, w @ rest - b])
assert close(states.sum(), y)
both, once, u = dmbp.decompose(lin, masks, unmasked="both"), dmbp.decompose(lin, masks), b
assert close(torch.cat([both.positive, both.negative, both.nuisance]), states)
assert close(torch.cat([once.positive, once.negative, once.nuisance]), states + torch.stack([-u, -u, 2 * u]))
assert close(torch.cat(dmbp.recurrence(lin, masks))[:, 0], states) and close(once.unmasked[0], u)
figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4), sharey=True, layout="constrained")
for ax, name, times in zip(axes, ("nuisance", "both"), ((0, 0, 1), (1, 1, -1)), strict=True):
    ax.bar([-0.19, 0.81, 1.81], (states - u * torch.tensor([1, 1, -1])).numpy(), 0.36, color=[RED, BLUE, GREY])
    bars = ax.bar([0.19, 1.19, 2.19], [u.item() * k for k in times], 0.36, color="white", ec="black", hatch="///")
    ax.axhline(0, color="black", lw=0.8)
    ax.set(title=f'unmasked="{name}"', xticks=range(3), xticklabels=("y⁺", "y⁻", "y~"))
axes[0].set_ylabel(f"share of y = {y:.2f}")
figure.legend([bars], [f"u = {u:.2f}, met by no mask"], loc="outside lower center", frameon=False)

# %% [markdown]
# ## Eq. (7): a map without the nuisance
#
# $$a(x) = [w^\top H_L^+] \odot x + [w^\top H_L^-] \odot x$$
#
# Now the trained network, the 3 and the 9 of tutorial 1, and masks with some sense: a unit that raises the score,
# ∂y/∂h > 0, goes nine tenths to the positive side, any other one tenth. The literal version is PyTorch's own backward
# pass, in which the gradient that arrives at the output of each ReLU is multiplied by its mask.

# %%
digits, pair = pretrained("digit-pairs").double(), sample_pairs().images[:1].double()
seen = linreg.trace(digits, pair).linearize(pair)
gates = {name: gate for name, gate in digits.named_modules() if isinstance(gate, nn.ReLU)}
outputs, leaf = {}, pair.clone().requires_grad_()
for name, gate in gates.items():  # keep what each gate gives
    gate.register_forward_hook(lambda gate, args, output, name=name: outputs.update({name: output}))
score = digits(leaf)[0, 3]
c, *arriving = torch.autograd.grad(score, [leaf, *outputs.values()], retain_graph=True)
by_sign = {name: 0.1 + 0.8 * (g > 0).double() for name, g in zip(outputs, arriving, strict=True)}
split, maps = dmbp.decompose(seen, by_sign, 3), {"c ⊙ x (Eq. 5)": c * pair}
other = {name: 1 - mask for name, mask in by_sign.items()}
for part, side, title in (("positive", by_sign, "∇⁺ ⊙ x"), ("negative", other, "∇⁻ ⊙ x")):
    handles = [output.register_hook(partial(torch.mul, side[name])) for name, output in outputs.items()]
    maps[title] = torch.autograd.grad(score, leaf, retain_graph=True)[0] * pair
    assert torch.allclose(split.attribution(part), maps[title], rtol=1e-9, atol=1e-12)
    [handle.remove() for handle in handles]
maps["a (Eq. 7)"] = maps["∇⁺ ⊙ x"] + maps["∇⁻ ⊙ x"]
off = nn.functional.max_pool2d(pair.gt(0.5).double(), 5, 1, 2) == 0  # more than two pixels from the ink
assert 8 * maps["a (Eq. 7)"][off].abs().sum() < maps["c ⊙ x (Eq. 5)"][off].abs().sum()
print(f"y⁺ = {split.positive.item():.2f}, y⁻ = {split.negative.item():.2f}, y~ = {split.nuisance.item():.2f}")

# %%
figure, axes = plt.subplots(1, 4, figsize=(12, 3), layout="constrained")
limit = maps["a (Eq. 7)"].abs().quantile(0.995).item()
for ax, (name, values) in zip(axes, maps.items(), strict=True):
    drawn = ax.imshow(values.detach()[0, 0].numpy(), cmap=DIVERGING, vmin=-limit, vmax=limit)
    ax.set(title=name, xticks=[], yticks=[])
figure.colorbar(drawn, ax=axes, label="share of the score per pixel", extend="both")

# %% [markdown]
# The 3 is red, the 9 nearly all blue, and beside the ink little is left of the noise: it was nuisance. (One scale for
# all.) That $y^\sim$ as a whole is near 0 is luck; tutorial 5 makes it an aim.
#
# ## Exercises
#
# 1. What is the split for σ = 1 everywhere? What does exchanging σ and 1 − σ do to it?
# 2. Without biases and with all masks at ½, what share of y is nuisance with 3 masked layers? With 11?
# 3. Mask layer 2 alone. What is u now, and what is y~?

# %% tags=["hide-cell"]
# 1. What meets a mask is positive, and the rest is u. The exchange swaps y⁺ and y⁻.
whole = dmbp.decompose(lin, {site: torch.ones_like(mask) for site, mask in masks.items()})
swapped = dmbp.decompose(lin, {site: 1 - mask for site, mask in masks.items()})
assert close(torch.cat([whole.positive, whole.negative, whole.nuisance]), torch.stack([y - u, 0 * u, u]))
assert close(torch.cat([swapped.positive, swapped.negative]), states[[1, 0]] - u)
# 2. H⁺ = H⁻ = H / 2^L, which leaves 1 − 2^(1 − L): three quarters for 3 layers, 99.9 % for 11.
even = matrices.matrices(lin, {site: torch.full_like(mask, 0.5) for site, mask in masks.items()}, "5")
assert close(torch.from_numpy(even.nuisance.toarray()), 0.75 * literal.sum(0))
# 3. The last two biases meet no mask. With a single masked layer nothing is mixed, and y~ = u.
alone = dmbp.decompose(lin, {"3": masks["3"]})
assert close(alone.unmasked[0], w @ bhat[2] + b) and close(alone.nuisance, alone.unmasked)
