# %% [markdown]
# # 6. Reading the masks
#
# Tutorial 5 learnt a mask for every unit: a hundred and forty thousand numbers for one picture. This page reads them,
# layer by layer. `dmbp.analysis` gives the numbers, `dmbp.sheets` the pictures. It needs tutorials 4 and 5.

# %%
import matplotlib.pyplot as plt
import torch

import dmbp
import linreg
from dmbp import analysis, sheets
from dmbp.datasets import sample_pairs
from dmbp.networks import pretrained
from dmbp.plot import BLUE, RED
from linreg.draw import draw_graph, draw_spectrum
from linreg.paths import node_share, path_spectrum

network, pair = pretrained("digit-pairs").double(), sample_pairs().images[:1].double()
graph = linreg.trace(network, pair)
lin, sites = graph.linearize(pair), dmbp.find_sites(graph)
exact = 1e-12 * lin.ledger(3).magnitude.item()  # rounding, on the scale of Σ|terms|

# %% [markdown]
# ## Eq. (8): what a mask says
#
# $$\hat W_l = \hat W_l^+ + \hat W_l^- = \Sigma_l \hat W_l + (I - \Sigma_l)\, \hat W_l$$
#
# A unit hands the share σ of its value to the pass of y⁺, and 1 − σ to that of y⁻. Of a path through d gates y⁺ gets
# $\prod_l \sigma_l$, y⁻ gets $\prod_l (1 - \sigma_l)$, and y~ what is left. So 1 says *for*, 0 says *against*, and 0.5
# says *neither*: eleven halves in a row leave $2^{-11}$ to either side. Depth turns indecision into nuisance. To test
# it, give all units the mask λ. With $y_d$ the sum over all paths of d gates, which `path_spectrum` finds without
# listing them, the masked network is $P(\lambda) = \sum_d \lambda^d y_d$. The literal P is lines 4 and 5 of
# Algorithm 1: a backward pass, each gradient multiplied as it arrives at a site, and then the sum of Eq. 14.

# %%
norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
shifts = [n.bias - n.running_mean * n.weight / (n.running_var + n.eps).sqrt() for n in norms]
last, seen = network.classify.bias, {}  # seen: at each site the value h, and the gradient g that arrived


def multiplied(l, mask):
    return lambda module, inputs, h: h.register_hook(lambda g: seen.update({l: (h.detach(), g)}) or mask * g) and None


def literal(masks):
    """P = ∇F · x + Σ ∇_b F · b for "3"."""
    hooks = [network.get_submodule(l).register_forward_hook(multiplied(l, m)) for l, m in masks.items()]
    leaf = pair.clone().requires_grad_()
    gradients = torch.autograd.grad(network(leaf)[0, 3], [leaf, *(n.bias for n in norms), last])
    [hook.remove() for hook in hooks]
    return sum((g * b).sum().item() for g, b in zip(gradients, [pair, *shifts, last], strict=True))


spectrum = path_spectrum(lin, 3)
for strength in (0.0, 0.3, 0.5, 1.0):
    assert abs(literal(dict.fromkeys(sites, strength)) - spectrum.at(strength)) < exact
half = dmbp.decompose(lin, {l: pair.new_full((1, *graph[l].shape), 0.5) for l in sites}, 3)
assert abs(half.positive + half.unmasked - spectrum.at(0.5)) < exact
print(f"all 0.5: y⁺ = y⁻ = {half.positive.item():.2f}, y~ = {half.nuisance.item():.2f} of y = {half.y.item():.2f}")
sigma = torch.linspace(0, 1, 201).numpy()
figure, axes = plt.subplots(1, 3, figsize=(13, 3.9), layout="constrained", width_ratios=(1, 1, 2.4))
for ax, depth in zip(axes, (1, 11), strict=False):
    parts = ((1 - sigma) ** depth, 1 - sigma**depth - (1 - sigma) ** depth, sigma**depth)
    ax.stackplot(sigma, *parts, colors=(BLUE, "#e3e3e3", RED), labels=("y⁻", "y~", "y⁺"))
    ax.set(title=f"a path through {depth} gate{'s' * (depth > 1)}", xlabel="σ of each gate", xlim=(0, 1), ylim=(0, 1))
axes[0].set_ylabel("share of the path")
axes[1].legend(loc="upper center", fontsize=11)
draw_spectrum(spectrum, axes[2])

# %% [markdown]
# Left: what becomes of a path. Right: those of "3". From the picture all pass six gates or more; a bias may enter late.
#
# ## Algorithm 1: which units learn
#
# $$\frac{\partial P}{\partial \sigma_l} = g_l \odot h_l$$
#
# $h_l$ is the value before the mask, $g_l$ the gradient that arrives; where either is zero nothing is learnt. A unit is
# *closed* where its ReLU is, *unread* where no path leads on from it, else *live*; `leans` counts the live ones above
# 0.55, below 0.45 and between. While nothing is masked, $\sum g_l \odot h_l$ is what passes the site, its `node_share`.

# %%
result = dmbp.explain(graph, pair.repeat(2, 1, 1, 1), [3, 9], progress=False)
three, nine = (analysis.site_masks(result, image) for image in (0, 1))
leans, shares, _ = analysis.leans(three), node_share(lin, 3), literal(dict.fromkeys(sites, 1.0))
for mask, lean in zip(three, leans, strict=True):
    h, g = seen[mask.site]
    learnt = result.masks[mask.site][:1][(h > 0) & (g != 0)]
    assert torch.equal(torch.from_numpy(mask.live), ((h > 0) & (g != 0))[0])
    assert (lean.closed, lean.unread) == ((h == 0).sum(), ((h > 0) & (g == 0)).sum())
    sides = (learnt > 0.55).double().mean(), (learnt < 0.45).double().mean()
    assert abs(lean.positive - sides[0]) < 1e-12 and abs(lean.negative - sides[1]) < 1e-12
    assert abs(shares[mask.site] - (g * h).sum()) < exact
print(result.split, analysis.summary(leans), sep="\n\n")
figure, ax = plt.subplots(figsize=(11.6, 6), layout="constrained")
draw_graph(graph, ax, shares, 'share of the score of "3" that passes the gate')

# %% [markdown]
# All of the score but the output's bias passes the last gate; a residual branch carries a part beside its skip. In the
# table most units of nearly every site are closed, and of the stem's open ones the max pool passes over half.
#
# ## Appendix B.1: where the masks lean, and how far they went
#
# $$\sigma_l^i = \mathrm{sigmoid}(\pm 2) \text{ where both gradients have that sign}, \qquad 0.5 \text{ elsewhere}$$
#
# At the last site both passes bring the same gradient, $w_c / 64$, by the average over 8×8 places: all units start at
# sigmoid(±2), by the sign of their channel's weight. Further in the passes have met different masks and often disagree.

# %%
start = torch.sigmoid(2 * network.classify.weight[3].detach().sign())[:, None, None].expand(64, 8, 8)
moved = (result.masks["blocks.4.relu"][0] - start).abs()[torch.from_numpy(three[-1].live)]
drifts = analysis.drifts(three)
assert (torch.from_numpy(three[-1].initial) - start).abs().max() < 1e-15
assert abs(drifts[-1].mean - moved.mean()) < 1e-12 and abs(drifts[-1].largest - moved.max()) < 1e-12
print(analysis.summary(drifts))
sheets.mask_sheet(three, 'the masks of "3"')

# %% [markdown]
# Live units have left the middle, about as many to either side; towards the output whole channels agree. The last site
# moved least. Two thirds of the stem's live units `decided`; few anywhere `crossed` over: the start settles much.
#
# ## Eq. (16): a mask for each place
#
# $$h_l = \Sigma_l \odot \mathcal H(W_l * h_{l-1}) \odot (W_l * h_{l-1})$$
#
# Σ has the shape of $h_l$: one filter may speak for the 3 here and against it there. We draw the mean at each place.

# %%
live, learnt = torch.from_numpy(three[-1].live), result.masks["blocks.4.relu"][0]
assert torch.allclose(torch.from_numpy(three[-1].picture()), (learnt * live).sum(0) / live.sum(0), rtol=1e-12)
sheets.spatial_sheet(three, pair[0, 0].numpy(), 'mean mask of "3" at each place')

# %% [markdown]
# From `blocks.1` on the masks are red about the 3 and blue about the 9, and nobody told them where the digits are.
#
# ## Eq. (9): two questions, two sets of masks
#
# $$y^+(\sigma) = w^\top [\Sigma_L \hat W_L \dots \Sigma_1 \hat W_1]\, x$$
#
# Picture and gates are the same for both digits; only w is another row of the last layer. Do the masks agree?

# %%
agreements = analysis.agreements(three, nine)
for a, b, found in zip(three, nine, agreements, strict=True):
    first, second = (result.masks[a.site][image][torch.from_numpy(a.live & b.live)] - 0.5 for image in (0, 1))
    apart = (first * second < 0) & (first.abs() > 0.05) & (second.abs() > 0.05)
    ranks = torch.stack([values.argsort().argsort().double() for values in (first, second)])
    assert abs(found.opposite - apart.double().mean()) < 1e-12
    assert abs(found.correlation - torch.corrcoef(ranks)[0, 1]) < 1e-3  # ties apart
sheets.agreement_sheet(agreements, 'masks of "3" and of "9", one picture')

# %% [markdown]
# Six in ten and more lean to opposite sides, at every depth: what speaks for a digit tends to speak against the other.
#
# ## Eq. (9): what each site carries, and where the nuisance is made
#
# $$y^+ = \sum_l y^+_l, \qquad y^- = \sum_l y^-_l, \qquad y^\sim = u + \sum_l y^\sim_l$$
#
# Sort the paths by the site that decides them. Those of $y^\pm_l$ meet their first site at l (a bias may enter just
# before it). Those of $y^\sim_l$ met one sign only, and meet the other at l: what follows no longer matters. u meets no
# site. `carries` does it in four sweeps; literally, it takes P with one kind of masks before l, one at l, one after:

# %%
carries, none, free = analysis.carries(result.split), dict.fromkeys(sites, 0.0), dict.fromkeys(sites, 1.0)
plus, minus = {l: m[:1] for l, m in result.masks.items()}, {l: 1 - m[:1] for l, m in result.masks.items()}


def P(before, at, after, l):
    return literal({site: (before, at, after)[(k >= l) + (k > l)][site] for k, site in enumerate(sites)})


for l, found in enumerate(carries.sites):
    assert abs(found.positive - (P(plus, plus, plus, l) - P(plus, none, plus, l))) < exact
    assert abs(found.first_positive - (P(none, plus, plus, l) - P(none, none, plus, l))) < exact
    for met, here, part in ((plus, minus, found.from_positive), (minus, plus, found.from_negative)):
        turned = P(met, here, free, l) - P(met, none, free, l) - P(none, here, free, l) + P(none, none, free, l)
        assert abs(part - turned) < exact
assert carries.error < exact
sheets.carry_sheet(carries, 'what the sites carry of "3"')

# %% [markdown]
# Above: nearly half of y⁺ and y⁻ comes in at the stem, with the picture; the rest are biases that enter later. Below:
# single sites make up to ±2.6 of nuisance, where y~ ends at −0.3. It is small because its parts cancel, and Eq. 10 asks
# for no more: $\|y^\sim\|_1$ is the absolute value of one number. Next, tutorial 7: the maps that such masks make.
#
# ## Exercises
#
# 1. The histograms look nearly binary. Round every mask to 0 or 1: is the split as good?
# 2. Keep the masks of the last site only. What is y~ now, and why?
# 3. `path_spectrum(…, "blocks")` counts residual blocks, which a path may skip. Which paths give most of y⁺?

# %% tags=["hide-cell"]
rounded = dmbp.decompose(lin, {l: m.round() for l, m in plus.items()}, 3)  # 1. No: values in between keep y~ small.
assert rounded.positive > result.split.positive[0] and rounded.nuisance.abs() > 10 > 1 > result.split.nuisance[0].abs()
single = dmbp.decompose(lin, {"blocks.4.relu": plus["blocks.4.relu"]}, 3)  # 2. u: a path meets one mask or none.
assert abs(single.nuisance - single.unmasked) < exact and abs(single.nuisance - last[3]) < exact
blocks = path_spectrum(result.split.passes[0], [3, 9], "blocks")  # 3. Those through one or two of the five.
assert abs(literal(plus | {f"blocks.{i}.residual.2": 0.6 for i in range(5)}) - blocks.at(0.6)[0]) < exact
assert blocks.value[1:3, 0].sum() > 0.5 * blocks.total[0]
