# %% [markdown]
# # 9. What to believe
#
# A map of red and blue looks like an answer. This lesson asks when it is one.
#
# **You will see** a photograph whose map shows next to nothing of the score, and why;
# how one number in a network changes what its map shows, while the function stays the
# same; a map that leaves nothing out; how the library tells you not to believe it; and
# four ways in which such pictures have misled people.
#
# **You need** lesson 2 (the ledger), lesson 5 (the masked backward pass) and lesson 7
# (the maps of other methods).
#
# **Time**: about 60 minutes to read. The page runs in a minute and a half.

# %%
from copy import deepcopy
from functools import partial
from itertools import pairwise

import matplotlib.pyplot as plt
import torch
from torch import nn

import dmbp
import linreg
from dmbp.datasets import sample_pairs
from dmbp.evaluation import insertion, layer_randomization, localization, methods
from dmbp.evaluation.blurred_maps import Blurred
from dmbp.images import read_image
from dmbp.models import load_model
from dmbp.plot import BLUE, DIVERGING, GREY, RED

# %%
torch.manual_seed(9)
plt.rcParams["figure.constrained_layout.use"] = True


def close(one, other):
    return torch.allclose(one, other, rtol=1e-9, atol=1e-11)


# %% tags=["hide-input"]
def show(ax, values, title):
    """A map in red and blue, or with `values` in three colours a picture."""
    if values.ndim == 3:
        ax.imshow(values)
    else:
        limit = values.abs().quantile(0.995).item()
        ax.imshow(values.numpy(), cmap=DIVERGING, vmin=-limit, vmax=limit)
    ax.set(title=title, xticks=[], yticks=[])


# %% [markdown]
# ## Eq. (14): a photograph, and what its map leaves out
#
# $$\begin{gathered}
# y^\pm = \nabla_x F^\pm(x)^\top x + \sum_l \nabla_{b_l} F^\pm(x)^\top b_l, \\
# a(x) = \nabla_x F^+(x) \odot x + \nabla_x F^-(x) \odot x
# \end{gathered}$$
#
# EfficientNet-Lite0 is a real network: it knows the thousand classes of ImageNet. Its
# gates are ReLU6, and it has batch norms in every layer. The photograph is one that
# scikit-image brings along. We learn masks for 20 iterations, to keep the page short.

# %%
model = load_model("efficientnet-lite0")
lite = model.network.double()
picture = read_image("skimage:chelsea")
photo = model.preprocess.tensor(picture).double()
top = lite(photo).argmax().item()
graph = linreg.trace(lite, photo)
cat = dmbp.explain(graph, photo, top, iterations=20, progress=False)
print(model.label(top))
for part, name in {"y": "y ", "positive": "y⁺", "negative": "y⁻"}.items():
    shares = cat.shares[part]
    pixels = shares.input_share.item()
    constants = shares.bias_share.item()
    total = cat.scores[part].item()
    print(f"{name} = {total:+6.2f}: pixels {pixels:+.2f}, constants {constants:+.2f}")

# %% [markdown]
# Look at these lines, and then once more at the two equations. The score and its parts
# are sums of two things: what comes straight from the pixels, and what comes from
# constants (biases, shifts of batch norms, and the 6 of every full ReLU6). a(x) shows
# the first sum and nothing else. Here that is less than one part in a hundred of y⁺ and
# of y⁻. The rest of the evidence is not on the picture that you look at.

# %%
leaf = photo.clone().requires_grad_()
score = lite(leaf)[0, top]
(gradient,) = torch.autograd.grad(score, leaf)
from_pixels = (gradient * photo).sum()
assert close(cat.shares["y"].input_share, from_pixels)
for part in ("positive", "negative"):
    shares = cat.shares[part]
    assert close(shares.input_share + shares.bias_share, cat.scores[part])
    assert (shares.input_share / cat.scores[part]).abs() < 0.01

# %% tags=["hide-input"]
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.8))
show(left, model.preprocess.picture(photo), model.label(top))
show(middle, cat.attribution[0].sum(0), "the paper's map a(x)")
parts = {"y": "y", "positive": "y⁺", "negative": "y⁻"}
for k, part in enumerate(parts):
    shares = cat.shares[part]
    right.bar(k - 0.2, shares.input_share.item(), 0.4, color=BLUE)
    right.bar(k + 0.2, shares.bias_share.item(), 0.4, color=GREY)
right.set_xticks(range(3), parts.values())
legend = right.legend(["from pixels", "from constants"])

# %% [markdown]
# ## Eqs. (12), (13): what a gate passes on is a mixture
#
# $$h_l = H_l\, x + \beta_l$$
#
# On the picture of digits things were better. Why do constants rule one network and not
# another? Look at a single layer. What leaves its gates is an affine function of the
# picture, like everything on one linear region: a part $H_l x$ that comes from pixels,
# and a part $\beta_l$ that comes from constants. A mask multiplies $h_l$, so it takes
# both parts, in the mixture in which it finds them. If $h_l$ is mostly constants, then
# choosing units is mostly choosing constants.
#
# We measure the mixture at every gate: the sum of $H_l x$ over the sum of $h_l$.


# %%
def gate_outputs(network, x):
    """What leaves each gate, in the order in which they are called."""
    found = []

    def hook(gate, inputs, output):
        found.append(output.detach())

    gates = [m for m in network.modules() if isinstance(m, nn.ReLU | nn.ReLU6)]
    hooks = [gate.register_forward_hook(hook) for gate in gates]
    network(x)
    for one in hooks:
        one.remove()
    return found


# %%
def pixel_shares(lin, network):
    sites = dmbp.find_sites(lin.graph)
    shares = []
    for site, h in zip(sites, gate_outputs(network, lin.input), strict=True):
        from_pixels = lin.forward(lin.input, stop=site)
        shares.append((from_pixels.sum() / h.sum()).item())
    return shares


# %%
pairs = sample_pairs()
x = pairs.images[:1].double()
resnet = load_model("digit-pairs").network.double()
vgg = load_model("digit-pairs-vgg").network.double()
mixtures = {}
for name, network in {"digits, ResNet": resnet, "digits, VGG": vgg}.items():
    lin = linreg.trace(network, x).linearize(x)
    mixtures[name] = pixel_shares(lin, network)
mixtures["photograph"] = pixel_shares(cat.split.lin, lite)

# %% [markdown]
# At the first gate of each network this is easily done by hand. For the photograph: a
# convolution without bias, a batch norm, and a ReLU6. Where the ReLU6 is neither closed
# nor full, the pixels' part is the convolution times the slope of the batch norm.

# %%
convolved = lite._conv_stem(photo).detach()
norm = lite._bn0
z = norm(convolved).detach()
slope = norm.weight / (norm.running_var + norm.eps).sqrt()
is_open = (z > 0) & (z < 6)
Hx = (slope[:, None, None] * convolved * is_open).detach()
h = z.clamp(0, 6)
assert abs(mixtures["photograph"][0] - Hx.sum() / h.sum()) < 1e-12
print(f"from pixels: {Hx.sum():+,.0f}, but in absolute values {Hx.abs().sum():,.0f}")
print(f"from constants: {(h - Hx).sum():+,.0f} of {(h - Hx).abs().sum():,.0f}")

# %% tags=["hide-input"]
figure, ax = plt.subplots(figsize=(8, 3.6))
for (name, shares), colour in zip(mixtures.items(), (RED, "C1", BLUE), strict=True):
    ax.plot(range(1, len(shares) + 1), shares, "o-", color=colour, ms=4, label=name)
ax.axhline(0, color="black", lw=0.8)
ax.axhline(1, color="black", lw=0.8, ls=":")
ax.set(xlabel="gate, counted from the input", ylabel="ΣHx / Σh")
legend = ax.legend()

# %% [markdown]
# For the digits most of $h_l$ comes from pixels, at nearly all gates. (Above 1, the
# constants subtract.) For the photograph it is a few parts in a hundred at the first
# gate, and little later. The lines above say why. The pixels of a photograph are centred
# around zero, and most filters look for differences, so $H_l x$ has both signs and
# cancels. Constants nearly all have one sign: they are there to hold gates open.

# %%
assert mixtures["photograph"][0] < 0.1
assert min(mixtures["digits, VGG"]) > 0.7

# %% [markdown]
# ## Eq. (8): one number changed, and the same function
#
# $$F_K(x) = F(x) + \sum_l \big[\, r_l * K - r_l * K \,\big]$$
#
# Is it the constants? An experiment tells: change them, and nothing else. We give each
# hidden map of the VGG network two more channels. They look at nothing and hand on a
# constant K, everywhere. The next layer reads one of the two with some filter $r_l$, and
# the other with $-r_l$. So what they add is zero: for every picture the new network
# gives the same score as the old one.


# %%
def add_two_channels(before, after, K):
    """Two channels between two convolutions that hand on K, and cancel."""
    blind = torch.zeros_like(before.weight[:2])
    constants = torch.full_like(before.bias[:2], K)
    reading = torch.randn_like(after.weight[:, :1]) * after.weight.std()
    readings = torch.cat([after.weight, reading, -reading], 1)
    before.weight = nn.Parameter(torch.cat([before.weight, blind]))
    before.bias = nn.Parameter(torch.cat([before.bias, constants]))
    after.weight = nn.Parameter(readings)


def widened(network, K):
    network = deepcopy(network)
    convolutions = [m for m in network.features if isinstance(m, nn.Conv2d)]
    for before, after in pairwise(convolutions):
        add_two_channels(before, after, K)
    return network


# %%
some = pairs.images.double()
results = {0: dmbp.explain(vgg, x, 3, progress=False)}
c = results[0].shares["y"].mapping
for K in (1, 3, 10):
    network = widened(vgg, K)
    assert close(network(some), vgg(some))
    results[K] = dmbp.explain(network, x, 3, progress=False)
    assert close(results[K].shares["y"].mapping, c)

# %% [markdown]
# The score is the same, and so are its gradient c and the map c ⊙ x. But the masks can
# tell the two channels apart: y⁺ takes the one that speaks for the class, and y⁻ takes
# the other.


# %%
def ranks(a):
    return a.flatten().argsort().argsort().double()


def rank_correlation(one, other):
    return torch.corrcoef(torch.stack([ranks(one), ranks(other)]))[0, 1].item()


shown = {}
for K, result in results.items():
    y_plus = result.scores["positive"].item()
    share = result.shares["positive"].input_share.item() / y_plus
    alike = rank_correlation(result.attribution, results[0].attribution)
    shown[K] = share
    y = result.scores["y"].item()
    words = f"K = {K:2}: y = {y:.2f}, y⁺ = {y_plus:6.1f}, from pixels {share:4.0%}"
    print(f"{words}; rank correlation with the map of K = 0: {alike:.2f}")

# %%
assert results[10].scores["positive"] > 4 * results[0].scores["positive"]
assert shown[0] > shown[1] > shown[3] > shown[10]
assert shown[10] < 0.25

# %% tags=["hide-input"]
figure, axes = plt.subplots(1, 4, figsize=(12, 3.2))
for ax, (K, result) in zip(axes, results.items(), strict=True):
    title = f"K = {K}: pixels are {shown[K]:.0%} of y⁺"
    show(ax, result.attribution[0, 0], title)

# %% [markdown]
# One number, K, decides how much of y⁺ the map shows: constants rule where units hand
# on constants that masks can choose between. And the size of y⁺ means nothing by
# itself: the same function can have any y⁺, by the way in which it is wired.
#
# But look at the four maps. They are much alike! So a small share from pixels does not
# *prove* that the picture is wrong. It says that the picture is not an account of y⁺:
# nearly all of y⁺ is somewhere else. Whether what is shown happens to lie at the right
# place must then be found out in another way.
#
# ## Eq. (14) as a picture: the complete map
#
# $$\begin{gathered}
# \mathrm{map}_i = \sum_{\text{colours}} (\nabla_x F \odot x)_i \\
# \qquad + \sum_l \sum_q \Lambda_l(i, q)\, a_l(q), \\
# a_l(q) = \sum_{\text{channels}} (\nabla_{z_l} F \odot b_l)(q), \\
# \sum_i \Lambda_l(i, q) = 1
# \end{gathered}$$
#
# The other way is to leave nothing out. A bias of a convolution is one number for each
# channel, but it acts at every place q of the layer, with the gradient of that place:
# $a_l(q)$ is what the biases of layer l give there.
# And every place of a layer lies somewhere over the picture. So the term of Eq. (14) can
# be drawn where it acts. Where a layer is coarser than the picture, its share is spread
# over the pixels around its centre by a *hat* Λ: full weight at the centre, none at the
# centre of the next place. Each hat sums to one, so nothing is lost.
#
# The VGG network halves its maps four times. With a step of m pixels from place to
# place, the centres are at m q + (m − 1) / 2.


# %%
def hats(size):
    """Λ of one axis: 64 pixels by `size` places."""
    step = 64 // size
    centres = torch.arange(size).double() * step + (step - 1) / 2
    distance = (torch.arange(64).double()[:, None] - centres).abs()
    weight = (1 - distance / step).clamp(min=0)
    return weight / weight.sum(0)


# %% [markdown]
# The masked backward pass of lesson 5 brings the gradients. With its masks set to the
# learnt ones, this draws y⁺. With all masks set to 1, it draws y itself.


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
# `masked_backward` gives the gradient of a bias summed over all places. We want the
# places apart, so we record, in the same pass, the gradient that arrives at what each
# convolution gives.


# %%
def complete_map(masks):
    convolutions = [m for m in vgg.features if isinstance(m, nn.Conv2d)]
    arriving = {}

    def keep(convolution, gradients):
        arriving[convolution] = gradients[0]

    hooks = [m.register_full_backward_pre_hook(keep) for m in convolutions]
    by_x, _ = masked_backward(vgg, x, 3, masks)
    for hook in hooks:
        hook.remove()
    total = (by_x * x).sum(1)
    for convolution, gradient in arriving.items():
        total = total + laid_out(gradient, convolution.bias)
    return total.detach()


# %%
def laid_out(gradient, bias):
    """The terms of a bias, summed over channels, spread over the picture."""
    share = (gradient * bias[:, None, None]).sum(1)
    spread = hats(share.shape[-1])
    return spread @ share @ spread.T


plus = results[0].masks
minus = {site: 1 - mask for site, mask in plus.items()}
assert close(results[0].shares["positive"].complete, complete_map(plus))
assert close(results[0].complete, complete_map(plus) + complete_map(minus))

# %% [markdown]
# It leaves out one thing only, the bias of the output, which belongs to no place. With
# it, the map of y sums to y.

# %%
rest = vgg.classify.bias[3].detach()
assert close(complete_map({}).sum() + rest, vgg(x)[0, 3])

# %% [markdown]
# There is a second reason to trust it more. What is zero in a picture? For the network
# black is 0, but another network may want the mean grey at 0. That is a matter of
# convention: let a first layer add 0.5, and feed it the picture less 0.5. It is the same
# function. The map a(x) changes, for it multiplies by x. The complete map does not: what
# moves from the pixels to the constants stays at its place.


# %%
class Add(nn.Module):
    def forward(self, x):
        return x + 0.5


moved = nn.Sequential(Add(), vgg)
at_grey = dmbp.explain(moved, x - 0.5, 3, progress=False)
assert close(at_grey.scores["positive"], results[0].scores["positive"])
assert close(at_grey.complete, results[0].complete)
assert not torch.allclose(at_grey.attribution, results[0].attribution, atol=0.1)
share = at_grey.shares["positive"].input_share / at_grey.scores["positive"]
print(f"pixels are {share.item():.0%} of y⁺, and were {shown[0]:.0%}")

# %% [markdown]
# Does it help where constants rule? We need a picture of which we know what is where. So
# we put two photographs side by side, the cat and a cup of espresso, and ask for both
# classes. Positive evidence should lie in the own half, and negative evidence in the
# other. By chance each share would be one half.

# %%
cup = read_image("skimage:coffee")
halves = []
for each in (picture, cup):
    tensor = model.preprocess.tensor(each).double()
    halves.append(nn.functional.interpolate(tensor, size=(224, 112), mode="area"))
both = torch.cat(halves, 3)
espresso = model.index("espresso")
twice = both.repeat(2, 1, 1, 1)
two = dmbp.explain(graph, twice, [top, espresso], iterations=20, progress=False)

# %%
own = ["left", "right"]
y_complete = two.shares["y"].complete
maps = {
    "c ⊙ x": two.shares["y"].mapping * both,
    "complete map of y, no masks": y_complete,
    "a(x), the paper's map": two.attribution,
    "complete map with masks": two.complete,
}
found = {name: localization(a, own) for name, a in maps.items()}
for name, shares in found.items():
    positive = shares.positive.mean()
    negative = shares.negative.mean()
    print(f"{name:28} positive {positive:.2f}, negative {negative:.2f}")

# %%
best = found["complete map with masks"]
for name in list(maps)[:3]:
    assert best.positive.mean() > found[name].positive.mean() + 0.2
    assert best.negative.mean() > found[name].negative.mean() + 0.2

# %% tags=["hide-input"]
figure, axes = plt.subplots(1, 5, figsize=(14, 3.1))
show(axes[0], model.preprocess.picture(both), "x")
for k, name in enumerate(("cat", "espresso")):
    show(axes[1 + k], two.attribution[k].sum(0), f'a(x) for "{name}"')
    show(axes[3 + k], two.complete[k], f'complete, "{name}"')

# %% [markdown]
# Masks alone do not do it, and places alone do not do it. Together they point to the
# right half. This was seen on more pictures too: see "Where biases rule" on the
# [page of what was measured](site/results.md). The same page says where it stops: on
# this network the object itself sometimes comes out as evidence against.
#
# ## Eq. (9): the verdict
#
# $$\begin{gathered}
# \text{hidden} = \\
# \frac{|y^+ - \sum a^+| + |y^- - \sum a^-|}{|y^+| + |y^-|}, \\
# \text{growth} = \frac{y^+}{|y|}
# \end{gathered}$$
#
# All this can be told beforehand, from numbers that every explanation has. What part of
# y⁺ and y⁻ does the map hide, where $a^\pm = \nabla_x F^\pm \odot x$? And how large has
# y⁺ become beside the score that it is to explain? If it is many times as large, then
# for and against all but cancel. `result.verdict()` puts both into words, and says which
# of the two maps it would believe.

# %%
judged = {"digits": results[0], "K = 10": results[10], "cat": cat}
verdicts = {name: result.verdict() for name, result in judged.items()}
for name, verdict in verdicts.items():
    print(name)
    print(*verdict.lines()[:2], sep="\n")
    print()

# %% [markdown]
# The first line of each is the verdict, the second is what it rests on. A map may show
# more than 100 % of y⁺: then the constants subtract from it. Now the two numbers by hand.


# %%
def hidden_and_growth(result):
    y_plus = result.scores["positive"]
    y_minus = result.scores["negative"]
    missing_plus = y_plus - result.positive.sum()
    missing_minus = y_minus - result.negative.sum()
    missing = missing_plus.abs() + missing_minus.abs()
    hidden = missing / (y_plus.abs() + y_minus.abs())
    return hidden.item(), (y_plus / result.scores["y"].abs()).item()


for name, result in judged.items():
    hidden, growth = hidden_and_growth(result)
    verdict = verdicts[name]
    assert abs(verdict.paper.hidden - hidden) < 1e-9
    assert abs(verdict.growth.end - growth) < 1e-9

# %%
assert verdicts["digits"].level == "good"
assert verdicts["K = 10"].level == "doubtful"
assert verdicts["cat"].level == "doubtful"
assert verdicts["cat"].trusted == ("complete",)
assert verdicts["cat"].complete.hidden < 0.05
assert 5.5 < verdicts["cat"].growth.start < 6

# %% tags=["hide-input"]
figure, ax = plt.subplots(figsize=(6.4, 3.6))
for name, result in judged.items():
    hidden, growth = hidden_and_growth(result)
    ax.plot(hidden, growth, "o", color=BLUE, ms=9)
    ax.annotate(name, (hidden, growth), (8, 4), textcoords="offset points")
ax.axvspan(0.8, 0.85, color="0.85")
ax.axvspan(0.85, 1.1, color="0.7")
labels = ax.set(xlabel="hidden part", ylabel="growth", xlim=(0, 1.1), ylim=(0, 14))

# %% [markdown]
# In the grey bands the paper's map is doubtful, and then no longer to be trusted. The
# cat's complete map hides next to nothing. What makes it doubtful is another part of the
# verdict: y⁺ was nearly six times the score before anything was learnt. The limits are
# not laws. They were read off the networks that were measured.
#
# ## Table 3 and further: weights drawn anew
#
# $$\begin{gathered}
# W_l \sim \mathcal N(0, \overline{W_l^2}), \\
# \rho = \text{rank correlation before and after}
# \end{gathered}$$
#
# The first way to be misled: a map that looks right, and does not depend on what the
# network has learnt. The test for it is simple. Draw the weights of a layer anew, at
# random and of the same size: from the normal distribution $\mathcal N$ with the mean 0
# and, as its variance, the mean of the squared weights. If the map explains the network,
# it must change. The paper's Table 3 does this with the last layer. Here we go on, layer
# by layer from the top, until nothing learnt is left. (Adebayo and others, *Sanity checks
# for saliency maps*, 2018.)


# %%
def redraw(layer, generator):
    for parameter in layer.parameters(recurse=False):
        size = parameter.detach().square().mean().sqrt()
        random = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data = size * random


def plain(network):
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(network(leaf)[0, 3], leaf)[0] * x


# %% [markdown]
# Guided backprop is that of lesson 7: each gate passes on only what is positive.


# %%
def positive_only(gate, gradients):
    return (gradients[0].clamp(min=0),)


def guided(network):
    gates = [m for m in network.modules() if isinstance(m, nn.ReLU)]
    hooks = [g.register_full_backward_pre_hook(positive_only) for g in gates]
    found = plain(network)
    for hook in hooks:
        hook.remove()
    return found


def learnt(network):
    return dmbp.explain(network, x, 3, iterations=20, progress=False).attribution


# %%
by_library = layer_randomization(methods.ND(), resnet, x, 3, order="top-down")
before = {"c ⊙ x": plain(resnet), "guided": guided(resnet), "DMBP": learnt(resnet)}
correlations = {name: [] for name in before}
redrawn = deepcopy(resnet)
generator = torch.Generator().manual_seed(0)
for k, name in enumerate(by_library.layers):
    redraw(redrawn.get_submodule(name), generator)
    after = {"c ⊙ x": plain(redrawn), "guided": guided(redrawn)}
    if k in (0, 6, 13):
        after["DMBP"] = learnt(redrawn)
    for method, a in after.items():
        rho = rank_correlation(before[method], a)
        correlations[method].append((k + 1, rho))

# %%
for (_, rho), expected in zip(correlations["c ⊙ x"], by_library, strict=True):
    assert abs(rho - expected[1]) < 1e-3
assert correlations["guided"][0][1] > 0.8
assert correlations["guided"][-1][1] > 0.3
assert abs(correlations["c ⊙ x"][-1][1]) < 0.1
assert max(abs(rho) for _, rho in correlations["DMBP"]) < 0.4

# %% tags=["hide-input"]
figure, ax = plt.subplots(figsize=(7, 3.6))
for name, style in {"c ⊙ x": "o-", "guided": "s-", "DMBP": "^-"}.items():
    counts, values = zip(*correlations[name], strict=True)
    ax.plot(counts, values, style, label=name)
ax.axhline(0, color="black", lw=0.8)
ax.set(xlabel="layers drawn anew, from the top", ylabel="rank correlation")
ax.set_ylim(-1, 1)
legend = ax.legend()

# %% [markdown]
# Guided backprop keeps its map, layer after layer. When nothing of the training is left,
# the correlation with its first map is still more than 0.3. What it shows is the picture,
# and not the network. c ⊙ x and DMBP lose their likeness. This test can only reject: a
# map of pure noise would pass it.
#
# ## Figure 5 once more: an edge detector knows no network
#
# $$e(x) = \sqrt{(S * x)^2 + (S^\top * x)^2}$$
#
# The second way: a map that shows the outlines of things pleases the eye. But outlines
# are in the picture. The oldest edge detector, Sobel's, has a filter S of nine fixed
# numbers, and has never seen a network. Which of the four pictures below are maps of the
# trained network?

# %%
S = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=torch.float64)
across = nn.functional.conv2d(x, S[None, None], padding=1)
down = nn.functional.conv2d(x, S.T[None, None], padding=1)
edges = (across.square() + down.square()).sqrt()
quiz = {
    "A": guided(redrawn).abs(),
    "B": edges * x,
    "C": guided(resnet).abs(),
    "D": plain(resnet).abs(),
}

# %% tags=["hide-input"]
figure, axes = plt.subplots(1, 4, figsize=(12, 3.2))
for ax, (name, a) in zip(axes, quiz.items(), strict=True):
    ax.imshow(a[0, 0].numpy(), cmap="gray_r", vmax=a.quantile(0.995).item())
    ax.set(title=name, xticks=[], yticks=[])

# %% [markdown]
# Only C and D are. A is guided backprop of the network of which every layer was drawn at
# random, and B is the edge detector times the picture. In absolute values, and on a
# picture that is mostly background, all four look like the digits: they are all
# multiplied by x.

# %%
alike = rank_correlation(quiz["A"], quiz["C"])
print(f"guided backprop, random and trained network: rank correlation {alike:.2f}")
assert alike > 0.4

# %% [markdown]
# ## Section 4.1: a metric that can be pleased
#
# $$\text{IM} = \frac1n \Big(\sum_i p_i - \frac{p_0 + p_n}{2}\Big)$$
#
# The third and the fourth way concern numbers. The paper judges maps by the *insertion
# metric* (IM), which lesson 10 explains: the pixels of the picture are put into a
# blurred copy of it in the order of the map, and $p_i$ is the probability of the class
# after each step. A good map raises it early.
#
# Two questions to such a metric. What does it give to a map that knows no network, say
# the picture itself? And what does it give to a map that was only blurred?

# %%
images = pairs.images
targets = pairs.labels[:, 0]
network = load_model("digit-pairs").network


def mean_insertion(maps):
    options = {"step": 64, "probability": "sigmoid"}
    return insertion(network, images, targets, maps, **options).area.mean().item()


noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
nd = methods.ND()(network, images, targets)
print(f"random order {mean_insertion(noise):.3f}")
print(f"c ⊙ x        {mean_insertion(nd):.3f}")
print(f"picture x    {mean_insertion(images):.3f}")

# %% [markdown]
# The picture itself beats c ⊙ x, on these pictures: bright pixels are ink, and ink is
# what the network needs. It says nothing about the network, and the same thing for every
# class. (The complementary metric of lesson 10 finds it out.)
#
# Now blur the maps by a Gaussian of a few pixels, and measure again.

# %%
widths = (0.5, 1.0, 2.0)
curves = {}
for method in (methods.ND(), methods.IntegratedGradients(), methods.DMBP()):
    maps = method(network, images, targets)
    values = [mean_insertion(maps)]
    for width in widths:
        values.append(mean_insertion(Blurred(method, width).blur(maps)))
    curves[method.title] = values
    print(method.title, [round(value, 3) for value in values])

# %% tags=["hide-input"]
figure, ax = plt.subplots(figsize=(7, 3.4))
for name, values in curves.items():
    ax.plot((0, *widths), values, "o-", label=name)
ax.set(xlabel="blur of the map, in pixels", ylabel="insertion metric")
legend = ax.legend(fontsize=8)

# %%
nd_curve = curves[methods.ND.title]
ig_curve = curves[methods.IntegratedGradients.title]
ours = curves[methods.DMBP.title]
assert mean_insertion(images) > mean_insertion(nd)
assert max(ig_curve) > ig_curve[0] + 0.04
assert max(ours) < ours[0] + 0.01
assert ours[2] - ig_curve[2] < 0.5 * (ours[0] - ig_curve[0])

# %% [markdown]
# A blur of one pixel takes most of the distance between integrated gradients and DMBP
# away, though it adds no knowledge. Insertion rewards smooth maps: pixels that come in
# as connected pieces look more like the picture than scattered ones. So a method that is
# better only while its rivals are sharp is not better. On some networks that is all
# there is to a difference ([what was measured](site/results.md) tells of a ResNet-20),
# on others it is not. `dmbp evaluate --blur` makes the comparison.
#
# What to take from this page:
#
# 1. Read how much of y⁺ and y⁻ a map shows, before you look at it. The verdict says it.
# 2. Where constants rule, look at the complete map.
# 3. Redraw weights: a map that does not change explains nothing.
# 4. Compare with what knows no network: edges, the picture, a blur.
#
# ## Exercises
#
# 1. Why does the *sum* of the complete map say nothing new, and its picture does?
# 2. Where in the ledger of `moved` did the 0.5 go that the first layer adds?
# 3. A map of random numbers passes the test of redrawn weights. Show it. Why is the test
#    worth something all the same?
# 4. **Change a number and look.** Set K to 100. What becomes of y⁺, of the verdict, and
#    of the map?
# 5. **Do it to your own network.** Explain one input, and print `result.verdict()`. How
#    much of y⁺ does the paper's map show? Draw both maps, by `result.plot()`. Do they
#    say the same?

# %% tags=["hide-cell"]
# 1. It is y less what has no place, for any masks and any wiring. Only the places are
#    something that one can be wrong about.
assert close(results[0].shares["y"].complete.sum() + rest, vgg(x)[0, 3])

# %% tags=["hide-cell"]
# 2. It is a term of its own: the gradient of all pixels, times 0.5.
ledger = linreg.trace(moved, x - 0.5).linearize(x - 0.5).ledger(3)
added = 0.5 * c.sum()
before = linreg.trace(vgg, x).linearize(x).ledger(3)
assert close(ledger.bias_share - before.bias_share, added)

# %% tags=["hide-cell"]
# 3. Two draws are not alike. The test rejects what is independent of the weights, and
#    that is a common fault; it does not prove that the rest is right.
first = torch.rand(64, 64)
second = torch.rand(64, 64)
assert abs(rank_correlation(first, second)) < 0.1

# %% tags=["hide-cell"]
# 4. y⁺ is more than a thousand, y⁺ and y⁻ nearly cancel, and the verdict is "do not
#    trust", while the map of the digits is still nearly the same.
wild = dmbp.explain(widened(vgg, 100), x, 3, progress=False)
assert wild.scores["positive"] > 1000
assert wild.verdict().level == "do not trust"
# 5. Where they disagree, the difference is what the constants say.
difference = cat.complete - cat.attribution.sum(1)
placed = sum(cat.split.complete(part).placed_share for part in ("positive", "negative"))
assert close(difference.sum(), placed.sum())
