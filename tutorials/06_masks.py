# %% [markdown]
# # 6. Reading the masks
#
# Lesson 5 learnt a mask for every unit of a network: 147,456 numbers for one picture.
# This lesson reads them.
#
# **You will see** which units learn at all, to which side they lean, where on the
# picture they do so, whether the masks of two questions agree, and in which layers the
# evidence enters and the nuisance is made.
#
# **You need** lesson 4 (the split y⁺, y⁻, y~ and the untouched part u) and lesson 5 (the
# masked backward pass, and where the masks start).
#
# **Time**: about 40 minutes to read. The page runs in half a minute.

# %%
from functools import partial

import matplotlib.pyplot as plt
import torch
from torch import nn

import dmbp
import linreg
from dmbp import analysis, sheets
from dmbp.datasets import sample_pairs
from dmbp.networks import pretrained
from dmbp.plot import BLUE, RED
from linreg.draw import draw_graph, draw_spectrum
from linreg.paths import node_share, path_spectrum

plt.rcParams["figure.constrained_layout.use"] = True

# %% [markdown]
# The network is the residual network of the digit pairs, and the picture is the one with
# a 3 and a 9.

# %%
network = pretrained("digit-pairs").double()
x = sample_pairs().images[:1].double()

# %% [markdown]
# `lin` is the network opened at the picture x. A *site* is a gate whose output gets a
# mask; this network has eleven. All claims below are exact, so what they may be off is
# rounding, and rounding is measured on the scale of the sum of all terms' sizes.

# %%
graph = linreg.trace(network, x)
lin = graph.linearize(x)
sites = dmbp.find_sites(graph)
rounding = 1e-12 * lin.ledger(3).magnitude.item()
print(*sites, sep="\n")

# %% [markdown]
# ## Eq. (8): what a mask says
#
# $$\begin{aligned}
# \hat W_l &= \hat W_l^+ + \hat W_l^- \\
# &= \Sigma_l \hat W_l + (I - \Sigma_l)\, \hat W_l
# \end{aligned}$$
#
# A unit hands the share σ of its value to the pass of y⁺, and the share 1 − σ to the
# pass of y⁻. So a mask of 1 says *for*, and a mask of 0 says *against*. What does a mask
# of 0.5 say? Follow one path through the network that passes d gates. Of what comes
# along it, y⁺ gets the product of its d masks, y⁻ gets the product of their
# complements, and y~ gets the rest. If all masks are 0.5, then y⁺ and y⁻ get $2^{-d}$
# each. With eleven gates that is one part in two thousand, and nearly all is nuisance:
# a deep network turns indecision into nuisance.
#
# We want to check this on the real network, so we need the score that masks let
# through. It is called $P$, and lines 4 and 5 of Algorithm 1 compute it: a backward pass
# in which the gradient is multiplied by the mask at every site, and then the sum of
# Eq. (14). Here are the masked backward pass and the constants of lesson 5 once more.


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


# %%
def P(masks):
    """The score of "3" that the masks let through."""
    by_x, by_bias = masked_backward(network, x, 3, masks)
    added = constants(network)
    total = (by_x * x).sum()
    for name, gradient in by_bias.items():
        total += (gradient * added[name]).sum()
    return total.item()


# %% [markdown]
# Now give every unit the same mask σ, one number for all. A path through d gates is then
# multiplied by $\sigma^d$. If $y_d$ is the sum over all paths of d gates, it follows that
#
# $$P(\sigma) = \sum_d \sigma^d\, y_d.$$
#
# The paths are far too many to be listed, but `path_spectrum` finds all $y_d$ in one
# sweep. Both sides of the equation can be computed, and they agree.

# %%
spectrum = path_spectrum(lin, 3)
for sigma in (0.0, 0.3, 0.5, 1.0):
    same_everywhere = dict.fromkeys(sites, sigma)
    assert abs(P(same_everywhere) - spectrum.at(sigma)) < rounding

# %%
undecided = {site: x.new_full((1, *graph[site].shape), 0.5) for site in sites}
assert sum(mask.numel() for mask in undecided.values()) == 147_456
half = dmbp.decompose(lin, undecided, 3)
assert abs(half.positive + half.unmasked - spectrum.at(0.5)) < rounding
print("with all masks at 0.5:")
print(f"y⁺ = {half.positive.item():.2f} and y⁻ = {half.negative.item():.2f}")
print(f"y~ = {half.nuisance.item():.2f} of y = {half.y.item():.2f}")

# %% tags=["hide-input"]
side = torch.linspace(0, 1, 201).numpy()
figure, axes = plt.subplots(1, 3, figsize=(13, 3.9), width_ratios=(1, 1, 2.4))
for ax, depth, gates in ((axes[0], 1, "1 gate"), (axes[1], 11, "11 gates")):
    against = (1 - side) ** depth
    speaking = side**depth
    shares = (against, 1 - speaking - against, speaking)
    colours = (BLUE, "#e3e3e3", RED)
    ax.stackplot(side, *shares, colors=colours, labels=("y⁻", "y~", "y⁺"))
    ax.set(title=f"a path through {gates}", xlabel="σ of each gate")
    ax.set(xlim=(0, 1), ylim=(0, 1))
axes[0].set_ylabel("share of the path")
axes[1].legend(loc="upper center", fontsize=11)
bars = draw_spectrum(spectrum, axes[2])

# %% [markdown]
# On the left is what becomes of a path: with one gate nothing is lost, with eleven
# gates nearly everything is, unless the masks are close to 0 or to 1. On the right are
# the paths of the score of "3". Those from the picture pass six gates or more. A bias
# may enter late, so that its path passes few gates: this is what y⁺ and y⁻ kept above,
# with all masks at 0.5.
#
# ## Algorithm 1: which units learn
#
# $$\frac{\partial P}{\partial \sigma_l} = \nabla_{h_l} F^+ \odot h_l$$
#
# $h_l$ is what leaves the gates, before the mask, and $\nabla_{h_l} F^+$ is the gradient
# that arrives there. Lesson 5 derived this. Where one of the two is zero, the mask is
# never moved, and that sorts the units into three kinds. A unit is *closed* where its
# ReLU is closed, so that $h_l = 0$. It is *unread* where it is open but no path leads on
# from it, so that the gradient is 0: a max pool takes only the largest of four, for
# instance. All other units are *live*.
#
# We learn masks for two questions about the same picture, "3" and "9". `site_masks`
# gives the masks of each site with these three kinds, and `leans` counts how many of the
# live units lie above 0.55 (for), below 0.45 (against), and between.

# %%
both = x.repeat(2, 1, 1, 1)
result = dmbp.explain(graph, both, [3, 9], progress=False)
three = analysis.site_masks(result, 0)
nine = analysis.site_masks(result, 1)
leans = analysis.leans(three)
print(result.split)
print(analysis.summary(leans))

# %% [markdown]
# The three kinds follow from the picture and the network alone. To find them by hand, we
# record what leaves every gate in a forward pass, and ask PyTorch for the gradient of the
# score with respect to each of these values. Nothing is masked.

# %%
values = {}


def record(site, gate, inputs, output):
    values[site] = output


hooks = []
for site in sites:
    gate = network.get_submodule(site)
    hooks.append(gate.register_forward_hook(partial(record, site)))
score = network(x)[0, 3]
for hook in hooks:
    hook.remove()
gradients = torch.autograd.grad(score, list(values.values()))
arriving = dict(zip(sites, gradients, strict=True))

# %%
for mask, lean in zip(three, leans, strict=True):
    is_open = values[mask.site] > 0
    is_read = arriving[mask.site] != 0
    live = is_open & is_read
    assert torch.equal(torch.from_numpy(mask.live), live[0])
    assert lean.closed == (~is_open).sum()
    assert lean.unread == (is_open & ~is_read).sum()
    learnt = result.masks[mask.site][:1][live]
    assert abs(lean.positive - (learnt > 0.55).double().mean()) < 1e-12
    assert abs(lean.negative - (learnt < 0.45).double().mean()) < 1e-12

# %% [markdown]
# The same two quantities tell how much of the score passes each gate: while nothing is
# masked it is the sum of $\nabla_{h_l} F \odot h_l$. `node_share` gives it for every
# node, and the figure paints the network with it.

# %%
shares = node_share(lin, 3)
for site in sites:
    passing = (arriving[site] * values[site]).sum().item()
    assert abs(shares[site] - passing) < rounding

# %% tags=["hide-input"]
figure, ax = plt.subplots(figsize=(11.6, 6))
title = 'share of the score of "3" that passes the node'
drawn = draw_graph(graph, ax, shares, title)

# %% [markdown]
# All of the score except the output's bias passes the last gate. Inside a block, the
# residual branch carries one part, and the skip beside it the other. The table above
# says more: at all sites but one most units are closed, and of the open ones of the stem
# the max pool passes over more than half.

# %%
assert abs(shares[sites[-1]] + network.classify.bias[3] - score) < rounding
mostly_closed = [lean.closed > lean.units / 2 for lean in leans]
assert sum(mostly_closed) == len(sites) - 1
assert leans[0].unread > leans[0].live

# %% [markdown]
# ## Appendix B.1: where the masks lean, and how far they went
#
# $$\sigma_l^i = \begin{cases}
# \mathrm{sigmoid}(\pm 2) & \text{if both gradients} \\
# & \text{have that sign} \\
# 0.5 & \text{elsewhere}
# \end{cases}$$
#
# The masks start where the gradients of the two passes agree. At the last site both
# passes still bring the same gradient: the weight of the channel for "3", divided by the
# 64 places over which the network takes the mean. So there every unit starts at
# sigmoid(2) or at sigmoid(−2), by the sign of one weight. Further towards the input the
# two passes have met different masks, and often disagree.

# %%
weights = network.classify.weight[3].detach()
start = torch.sigmoid(2 * weights.sign())
start = start[:, None, None].expand(64, 8, 8)
last = three[-1]
assert (torch.from_numpy(last.initial) - start).abs().max() < 1e-15

# %% [markdown]
# `drifts` says how far the live units went from there. `decided` counts those that
# started in the middle and lean to a side now, `undone` the reverse, and `crossed` those
# that changed sides.

# %%
drifts = analysis.drifts(three)
live = torch.from_numpy(last.live)
moved = (result.masks[last.site][0] - start).abs()[live]
assert abs(drifts[-1].mean - moved.mean()) < 1e-12
assert abs(drifts[-1].largest - moved.max()) < 1e-12
print(analysis.summary(drifts))

# %% tags=["hide-input"]
sheets.mask_sheet(three, 'the masks of "3"')

# %% [markdown]
# Nearly all live units have left the middle, about as many to one side as to the other.
# Towards the output whole channels agree. The last site moved least, for its start was
# clear. In the stem two thirds of the live units were `decided` only by learning, but
# hardly any unit of the network `crossed` over: the start settles much.

# %%
for lean, drift in zip(leans, drifts, strict=True):
    assert lean.undecided < 0.05
    assert abs(lean.positive - lean.negative) < 0.1
    assert drift.mean >= drifts[-1].mean
    assert drift.crossed < 0.06 * drift.live
assert 0.6 < drifts[0].decided / drifts[0].live < 0.7

# %% [markdown]
# ## Eq. (16): a mask for each place
#
# $$\begin{aligned}
# h_l = \sigma_l &\odot \mathcal H(W_l * h_{l-1}) \\
# &\odot (W_l * h_{l-1})
# \end{aligned}$$
#
# In a convolutional network the masks are as large as the maps: a value for every
# channel at every place. (The paper writes $\Sigma_l$ here too.) One and the same
# filter may speak for the 3 at one place and against it at another. To look at it we
# take the mean over the live channels at each place.

# %%
live = torch.from_numpy(last.live)
learnt = result.masks[last.site][0]
mean = (learnt * live).sum(0) / live.sum(0)
assert torch.allclose(torch.from_numpy(last.picture()), mean, rtol=1e-12)

# %% tags=["hide-input"]
sheets.spatial_sheet(three, x[0, 0].numpy(), 'mean mask of "3" at each place')

# %% [markdown]
# From `blocks.1` on the masks are red around the 3 and blue around the 9. Nobody told
# them where the digits are.
#
# ## Eq. (9): two questions, two sets of masks
#
# $$y^+(\sigma) = w^\top [\Sigma_L \hat W_L \dots \Sigma_1 \hat W_1]\, x$$
#
# The picture is the same for both digits, and so are all gates $\hat W_l$. Only w
# differs, which is another row of the last layer. Do the two sets of masks agree? For
# each site `agreements` counts the units that lean to opposite sides, among those that
# are live for both questions, and gives the rank correlation of their masks.

# %%
agreements = analysis.agreements(three, nine)
for a, b, found in zip(three, nine, agreements, strict=True):
    common = torch.from_numpy(a.live & b.live)
    first = result.masks[a.site][0][common] - 0.5
    second = result.masks[a.site][1][common] - 0.5
    decided = (first.abs() > 0.05) & (second.abs() > 0.05)
    opposite = decided & (first * second < 0)
    assert abs(found.opposite - opposite.double().mean()) < 1e-12

# %% [markdown]
# A rank correlation is the ordinary correlation of the ranks. Sorting twice gives the
# rank of every element; where several are equal the library takes their mean rank, and
# the difference is below a thousandth.


# %%
def ranks(values):
    return values.argsort().argsort().double()


for a, b, found in zip(three, nine, agreements, strict=True):
    common = torch.from_numpy(a.live & b.live)
    first = ranks(result.masks[a.site][0][common])
    second = ranks(result.masks[a.site][1][common])
    correlation = torch.corrcoef(torch.stack([first, second]))[0, 1]
    assert abs(found.correlation - correlation) < 1e-3

# %% tags=["hide-input"]
sheets.agreement_sheet(agreements, 'masks of "3" and of "9", one picture')

# %% [markdown]
# At every depth six units in ten and more lean to opposite sides: what speaks for one
# digit tends to speak against the other.

# %%
assert min(found.opposite for found in agreements) > 0.6

# %% [markdown]
# ## Eqs. (6), (9): what each site carries, and where the nuisance is made
#
# $$\begin{gathered}
# y^+ = \sum_l y^+_l, \\
# y^- = \sum_l y^-_l, \\
# y^\sim = u + \sum_l y^\sim_l
# \end{gathered}$$
#
# y~ is what met masks of both sides on its way, so for each of its paths there is a site
# where that happened for the first time. This sorts all paths by the site that decides
# them:
#
# - the paths of $y^+_l$ and $y^-_l$ meet their *first* site at l (a bias may enter just
#   before it);
# - the paths of $y^\sim_l$ had met one side only, and meet the other one at l. What
#   follows no longer matters, so behind l nothing is masked;
# - u meets no site at all.
#
# `carries` finds all of this in four sweeps. The literal way takes P with one kind of
# masks in front of site l, another at it, and a third behind it.

# %%
plus = {site: mask[:1] for site, mask in result.masks.items()}
minus = {site: 1 - mask for site, mask in plus.items()}
shut = dict.fromkeys(sites, 0.0)
free = dict.fromkeys(sites, 1.0)


def P_by_place(l, before, at, behind):
    """P with masks `before` in front of site l, `at` at it and `behind` behind it."""
    masks = {}
    for k, site in enumerate(sites):
        kind = before if k < l else behind
        masks[site] = at[site] if k == l else kind[site]
    return P(masks)


# %% [markdown]
# To cut out the paths that pass site l, take P, and subtract P with site l shut. For
# $y^+_l$ the sites in front of l are shut too, so that nothing has met a site before.

# %%
carries = analysis.carries(result.split)
for l, found in enumerate(carries.sites):
    passing = P_by_place(l, plus, plus, plus) - P_by_place(l, plus, shut, plus)
    first = P_by_place(l, shut, plus, plus) - P_by_place(l, shut, shut, plus)
    assert abs(found.positive - passing) < rounding
    assert abs(found.first_positive - first) < rounding

# %% [markdown]
# For the nuisance, take the paths that met `plus` in front of l and `minus` at it, with
# nothing masked behind; and then the reverse. Of each, subtract the paths that met no
# site in front of l: they belong to $y^-_l$ or $y^+_l$.


# %%
def turned(l, met, here):
    """The paths that met the one side only, and meet the other one at site l."""
    passing = P_by_place(l, met, here, free) - P_by_place(l, met, shut, free)
    fresh = P_by_place(l, shut, here, free) - P_by_place(l, shut, shut, free)
    return passing - fresh


for l, found in enumerate(carries.sites):
    assert abs(found.from_positive - turned(l, plus, minus)) < rounding
    assert abs(found.from_negative - turned(l, minus, plus)) < rounding
assert carries.error < rounding

# %% tags=["hide-input"]
sheets.carry_sheet(carries, 'what the sites carry of "3"')

# %% [markdown]
# In the upper part, nearly half of y⁺ and of y⁻ comes in at the stem, with the picture.
# The rest are biases that enter later. In the lower part, single sites make up to +1.7
# or −2.6 of nuisance, while y~ ends at −0.3. So y~ is small because its parts cancel,
# and Eq. (10) asks for no more: $\|y^\sim\|_1$ is the absolute value of one number.

# %%
stem = carries.sites[0]
assert 0.4 < stem.first_positive / result.split.positive[0] < 0.5
assert 0.4 < stem.first_negative / result.split.negative[0] < 0.5

made = [site.nuisance for site in carries.sites]
assert 1.6 < max(made) < 1.8
assert -2.65 < min(made) < -2.55
assert -0.35 < result.split.nuisance[0] < -0.25

# %% [markdown]
# Lesson 7 shows the maps that such masks make.
#
# ## Exercises
#
# 1. The histograms look as if nearly all masks were 0 or 1. Round every mask of "3" to 0
#    or 1. Is the split as good as before?
# 2. Keep the masks of the last site only, and mask nothing else. What is y~ now, and
#    why?
# 3. `path_spectrum(lin, 3, "blocks")` counts how many residual blocks a path passes, for
#    it may take the skip beside one. Which paths give most of y⁺?
# 4. **Change a number and look.** Learn for 20 iterations in place of 200
#    (`iterations=20`) and draw the mask sheet again. Which sites look as they did, and
#    which do not?
# 5. **Do it to your own network.** Trace a network of yours, explain one input, and
#    print `analysis.summary(analysis.leans(masks))`. Where are most units closed, and
#    does any site have nothing that is live?

# %% tags=["hide-cell"]
# 1. No. The values in between keep y~ small: with rounded masks it is above 10.
rounded = {site: mask.round() for site, mask in plus.items()}
crude = dmbp.decompose(lin, rounded, 3)
fine = result.split
assert crude.positive > fine.positive[0]
assert crude.nuisance.abs() > 10
assert fine.nuisance[0].abs() < 1

# %% tags=["hide-cell"]
# 2. It is u, the output's bias: a path meets one mask or none, so nothing is mixed.
only_last = {last.site: plus[last.site]}
single = dmbp.decompose(lin, only_last, 3)
assert abs(single.nuisance - single.unmasked) < rounding
assert abs(single.nuisance - network.classify.bias[3]) < rounding

# %% tags=["hide-cell"]
# 3. Those through one or two of the five blocks. Blocks that let through 0.6 of what
#    their branch gives are gates and masks of that branch.
blocks = path_spectrum(fine.passes[0], [3, 9], "blocks")
assert blocks.value[1:3, 0].sum() > 0.5 * blocks.total[0]

# %% tags=["hide-cell"]
# 4. The last site looks the same; those near the input are still close to their start.
early = dmbp.explain(graph, x, 3, iterations=20, progress=False)
change = analysis.drifts(analysis.site_masks(early))
assert change[0].mean < 0.5 * drifts[0].mean
# 5. The answer is yours. Such a site could be left out of `sites` with no loss.
assert all(lean.live > 0 for lean in leans)
