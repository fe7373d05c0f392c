# %% [markdown]
# # 7. Pictures of digits
#
# This lesson makes the paper's figures 1, 2, 4, 5 and 6, on a picture of two digits,
# where everybody sees what is where.
#
# **You will see** that the map changes with the question; which part of the gradient is
# nuisance; how the map differs from those of six other methods; and what stands behind
# its colours.
#
# **You need** lesson 4 (the split), lesson 5 (the masked backward pass) and lesson 1
# (what c ⊙ x is).
#
# **Time**: about 40 minutes to read. The page runs in twenty seconds.
#
# The paper's own pictures cannot be reproduced here: they need ImageNet and VOC, and a
# ResNet-50 and a VGG-16 that were trained on them. If you have weights, one line on the
# command line draws all of it for a photograph of yours:
# `dmbp explain photo.jpg --model torchvision:resnet50 --weights FILE`. Photographs are
# the matter of lesson 9.

# %%
from functools import partial

import matplotlib.pyplot as plt
import torch
from torch import nn

import dmbp
import linreg
from dmbp.datasets import sample_pairs
from dmbp.evaluation import methods
from dmbp.networks import pretrained
from dmbp.plot import DIVERGING

plt.rcParams["figure.constrained_layout.use"] = True


def close(one, other):
    return torch.allclose(one, other, rtol=1e-9, atol=1e-12)


# %% [markdown]
# Maps have both signs. In all figures red is above zero, blue is below, and white is
# exactly zero. Each map has its own scale, given by the bar beside it; a few extreme
# pixels may lie beyond its end, so that the others can be seen.


# %% tags=["hide-input"]
def colours_of(title, a):
    if title == "x":
        return {"cmap": "gray"}
    if a.min() > 0:
        return {"cmap": "Reds"}
    limit = a.abs().quantile(0.995).item()
    return {"cmap": DIVERGING, "vmin": -limit, "vmax": limit}


# %% tags=["hide-input"]
def draw_maps(maps, columns):
    rows = len(maps) // columns
    size = (2.5 * columns, 2.1 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for ax, (title, a) in zip(axes.flat, maps.items(), strict=True):
        drawn = ax.imshow(a[0, 0].numpy(), **colours_of(title, a))
        bar = figure.colorbar(drawn, ax=ax)
        bar.locator = plt.MaxNLocator(3)
        ax.set(xticks=[], yticks=[], title=title)
    return figure


# %% [markdown]
# ## Figure 1: two digits, two questions
#
# $$a(x) = \nabla_x F^+(x) \odot x + \nabla_x F^-(x) \odot x$$
#
# The paper's Figure 1 shows a dog and a cat. The one that is asked for is painted red,
# the other one blue, and when the question changes they change places. Our picture holds
# a 3 on the left and a 9 on the right. We ask for both.

# %%
network = pretrained("digit-pairs").double()
x = sample_pairs().images[:1].double()
graph = linreg.trace(network, x)
both = x.repeat(2, 1, 1, 1)
result = dmbp.explain(graph, both, [3, 9], progress=False)
for_three = result.attribution[:1]
for_nine = result.attribution[1:]

# %% tags=["hide-input"]
figure = draw_maps({"x": x, 'a(x) for "3"': for_three, 'a(x) for "9"': for_nine}, 3)

# %% [markdown]
# The colours change places, and the clutter between the digits stays nearly white. To
# say this in numbers we need to know which pixels belong to which digit. The clutter is
# never brighter than 0.3, so what is brighter is ink.

# %%
ink = x > 0.3
left = torch.arange(64) < 32
places = {"3": ink & left, "9": ink & ~left, "clutter": ~ink}
clutter = places["clutter"].double().mean().item()
print(f"{clutter:.0%} of the pixels are clutter")
assert abs(clutter - 0.94) < 0.005

# %%
assert for_three[places["3"]].sum() > 5
assert for_three[places["9"]].sum() < -5
assert for_nine[places["9"]].sum() > 5
assert for_nine[places["3"]].sum() < -5

# %% [markdown]
# The map itself is line 13 of Algorithm 1. Its two gradients come from two masked
# backward passes, one with the masks and one with their complements. Here is the pass of
# lesson 5 once more. Of what it gives we need only the gradient with respect to x.


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
def mappings(target, masks):
    """∇⁺ and ∇⁻: what Algorithm 1 finds with these masks and with their complements."""
    others = {site: 1 - mask for site, mask in masks.items()}
    plus, _ = masked_backward(network, x, target, masks)
    minus, _ = masked_backward(network, x, target, others)
    return plus.detach(), minus.detach()


masks_three = {site: mask[:1] for site, mask in result.masks.items()}
masks_nine = {site: mask[1:] for site, mask in result.masks.items()}
plus, minus = mappings(3, masks_three)
plus_nine, minus_nine = mappings(9, masks_nine)
assert close(for_three, plus * x + minus * x)
assert close(for_nine, plus_nine * x + minus_nine * x)

# %% [markdown]
# ## Figure 2: where the noise goes
#
# $$w^\top H_L = w^\top H_L^+ + w^\top H_L^- + w^\top H_L^\sim$$
#
# The paper's Figure 2 shows in its first row the gradient c and the map c ⊙ x, which is
# noise to the eye; and in two more rows the mappings ∇⁺ and ∇⁻ that are learnt. Ours has
# one column for each of these, and one more that the paper does not show: the mapping of
# the nuisance, which is what is left of c.

# %%
c, _ = masked_backward(network, x, 3, {})
c = c.detach()
parts = {"c": c, "∇⁺": plus, "∇⁻": minus}
parts["∇⁺ + ∇⁻"] = plus + minus
parts["∇~"] = c - plus - minus
products = {f"[{name}] ⊙ x": mapping * x for name, mapping in parts.items()}

# %%
split = result.split
assert close(split.ledger("y").weight[:1], c)
assert close(split.ledger("positive").weight[:1], plus)
assert close(split.ledger("negative").weight[:1], minus)
assert close(split.ledger("nuisance").weight[:1], parts["∇~"])

# %% tags=["hide-input"]
figure = draw_maps(parts | products, 5)

# %% [markdown]
# ∇⁺ has found the 3, and ∇⁻ has found the 9. How much do red and blue cancel? For each
# place we compare the sum of a map with the sum of its absolute values. They are equal
# where a map has one sign only.

# %%
print("sum of the map / sum of its absolute values, by place")
for name, a in products.items():
    words = [f"{name:14}"]
    for place, at in places.items():
        words.append(f"{place}: {a[at].sum():+6.2f} / {a[at].abs().sum():5.2f}   ")
    print(*words)

# %%
for place in ("3", "9"):
    at = places[place]
    noisy = products["[c] ⊙ x"][at]
    learnt = products["[∇⁺ + ∇⁻] ⊙ x"][at]
    assert noisy.sum().abs() < 0.5 * noisy.abs().sum()
    assert learnt.sum().abs() > 0.85 * learnt.abs().sum()
nuisance = products["[∇~] ⊙ x"]
assert nuisance.abs().sum() > products["[∇⁺ + ∇⁻] ⊙ x"].abs().sum()

# %% [markdown]
# On the ink of a digit, only 0.3 or 0.4 of c ⊙ x is left after cancelling. Of the learnt
# map 0.9 is left. The noise went into ∇~, which is larger than the map itself. The paper
# says that nuisance has "no effect on the output". That is true only in so far as its
# parts cancel.
#
# ## Figure 5: beside other gradients
#
# $$a(x) = c \odot x$$
#
# The paper compares its map with those of other methods that are made of gradients. All
# of them can be written like this, and each has a c of its own. We write five of them
# by hand, each in a few lines, and compare with `dmbp.evaluation.methods`, which has all
# methods of the paper. DeepLift, the paper's last one, is left to the library.
#
# The plain gradient is c itself.

# %%
ND = methods.ND()
assert close(ND(network, x, 3), c * x)


def gradient(pictures, target):
    """The gradient at each of some pictures."""
    leaf = pictures.clone().requires_grad_()
    total = network(leaf)[:, target].sum()
    return torch.autograd.grad(total, leaf)[0]


# %% [markdown]
# *Integrated gradients* (IG) takes the mean of the gradients on the straight way from a
# black picture to x. So every pixel is asked not only here, but also where it is darker.

# %%
fractions = torch.arange(1, 101, dtype=torch.float64) / 100
way = fractions[:, None, None, None] * x
IG = methods.IntegratedGradients(steps=100, rule="riemann")


def integrated(target):
    return gradient(way, target).mean(0, keepdim=True)


assert close(IG(network, x, 3), integrated(3) * x)

# %% [markdown]
# *SmoothGrad* (SG) takes the mean of the gradients at fifty noisy copies of x. Noise in
# the gradient that changes from copy to copy cancels.

# %%
generator = torch.Generator().manual_seed(0)
noise = []
for _ in range(50):
    noise.append(torch.randn(1, 64, 64, generator=generator, dtype=torch.float64))
spread = 0.15 * (x.max() - x.min())
noisy = x + spread * torch.stack(noise)


def smooth(target):
    return gradient(noisy, target).mean(0, keepdim=True)


assert close(methods.SmoothGrad()(network, x, 3), smooth(3) * x)

# %% [markdown]
# *Guided backprop* (GBp) changes the rule: on the way back, each gate passes on only
# what is positive. In the backward pass this is one line more than a mask needs.


# %%
def positive_only(gate, gradients):
    return (gradients[0].clamp(min=0),)


def guided(target):
    hooks = []
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            hooks.append(module.register_full_backward_pre_hook(positive_only))
    found = gradient(x, target)
    for hook in hooks:
        hook.remove()
    return found


assert close(methods.GuidedBackprop()(network, x, 3), guided(3) * x)

# %% [markdown]
# *Guided Grad-CAM* (GGC) multiplies this by a coarse map, Grad-CAM: the channels of the
# last feature map, each weighed by the mean of its gradient. In this network that
# gradient is the weight of the last layer, over the number of places. What is negative
# is set to zero, and the small map is enlarged to the size of the picture.


# %%
def grad_cam(target):
    features = network.blocks(network.stem(x)).detach()
    weights = network.classify.weight[target].detach() / 64
    coarse = torch.einsum("k,nkij->nij", weights, features).clamp(min=0)
    return nn.functional.interpolate(coarse[:, None], size=(64, 64), mode="bilinear")


GGC = methods.GuidedGradCAM()
assert close(methods.GradCAM()(network, x, 3), grad_cam(3))
assert close(GGC(network, x, 3), guided(3) * grad_cam(3) * x)

# %% [markdown]
# Now the same for both questions, and DMBP as the last one.

# %%
maps = {}
learnt = {3: plus + minus, 9: plus_nine + minus_nine}
for target in (3, 9):
    maps[f'gradient, "{target}"'] = gradient(x, target) * x
    maps[f'IG, "{target}"'] = integrated(target) * x
    maps[f'SG, "{target}"'] = smooth(target) * x
    maps[f'GBp, "{target}"'] = guided(target) * x
    maps[f'GGC, "{target}"'] = guided(target) * grad_cam(target) * x
    maps[f'DMBP, "{target}"'] = learnt[target] * x

# %% tags=["hide-input"]
figure = draw_maps(maps, 6)

# %% [markdown]
# What the paper says of its Figure 5 holds here too. The gradient, IG and SG mix red and
# blue within one digit. GBp paints both digits red, whatever the question is. GGC blots
# out the other digit, and so it cannot say that it speaks against. In numbers: what does
# each map of one digit say about the ink of the *other* one?

# %%
for target, other in (("3", "9"), ("9", "3")):
    against = {}
    for name in ("gradient", "IG", "SG", "GBp", "GGC", "DMBP"):
        a = maps[f'{name}, "{target}"']
        against[name] = a[places[other]].sum().item()
    words = [f"{name} {value:+.2f}" for name, value in against.items()]
    print(f'"{target}", on the ink of the {other}:', *words, sep="  ")
    assert against["GBp"] > 5
    assert abs(against["GGC"]) < 0.01 * against["GBp"]
    assert against["DMBP"] == min(against.values())

# %% [markdown]
# Looking at six maps of one picture is no measurement. Lesson 10 measures, and lesson 9
# shows how maps mislead.
#
# ## Figure 4: beside coarse maps
#
# $$\begin{gathered}
# a_{GC} = \max\Big(\sum_k \gamma_k h_{L,k},\, 0\Big), \\
# a_{FG} = \psi(c \odot x) + \sum_l \psi(\nabla_{b_l} F \odot b_l)
# \end{gathered}$$
#
# The paper's Figure 4 puts DMBP beside two methods that look at layers in the middle of
# the network. *Grad-CAM* (GC) we have just written; $h_{L,k}$ are the channels of the
# last feature map, and $\gamma_k$ their weights. *FullGrad* (FG) takes all terms of the
# ledger of lesson 2: c ⊙ x, and of every layer the bias times its gradient, at each
# place of the layer. ψ takes absolute values and stretches each term to the range from
# 0 to 1. Then each is enlarged to the size of the picture, and all are added up.

# %%
arrived = {}


def keep(norm, gradients):
    arrived[norm] = gradients[0]


norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
hooks = [norm.register_full_backward_pre_hook(keep) for norm in norms]
terms = [gradient(x, 3) * x]
for hook in hooks:
    hook.remove()
for norm, arriving in arrived.items():
    at_zero = torch.zeros(1, norm.num_features, 1, 1, dtype=torch.float64)
    shift = norm(at_zero).detach()  # the constant that a batch norm adds
    terms.append(arriving * shift)

# %%
to_picture = {"size": (64, 64), "mode": "bilinear", "align_corners": True}
full = torch.zeros_like(x)
for term in terms:
    size = term.abs()
    stretched = (size - size.min()) / (size - size.min()).max()
    summed = stretched.sum(1, keepdim=True)
    full += nn.functional.interpolate(summed, **to_picture)
library = methods.FullGrad()(network, x, 3)
assert torch.allclose(library, full, rtol=1e-3)  # it adds 1e-6 to each divisor

# %% tags=["hide-input"]
figure = draw_maps({"x": x, "GC": grad_cam(3), "FG": full, "DMBP": for_three}, 4)

# %% [markdown]
# GC is an 8×8 picture, made large. FG has more detail, but it takes absolute values, so
# that it can only say *here is something*, and not whether this speaks for the class or
# against it. It is nowhere near zero, so its colours begin at its lowest value. DMBP
# follows the strokes, with a sign. The share of each map that lies on ink, which is 6 %
# of the pixels, says how fine it is:

# %%
for name, a in {"GC": grad_cam(3), "FG": full, "DMBP": for_three}.items():
    on_ink = a[ink].abs().sum() / a.abs().sum()
    print(f"{name}: {on_ink:.0%} of the map lies on ink, lowest value {a.min():+.2f}")
assert grad_cam(3).min() == 0
assert full.min() > 0
assert for_three[ink].abs().sum() > 0.75 * for_three.abs().sum()

# %% [markdown]
# ## Figure 6, Figures 7 to 13: what is behind the colours
#
# $$\begin{gathered}
# a = c^+ \odot x + c^- \odot x, \\
# c^\pm_i = c_i \text{ where } \pm c_i x_i > 0, \text{ else } 0
# \end{gathered}$$
#
# The paper's figures 6 to 13 show each map together with two mappings, whose sum makes
# it. (Figures 7 to 13 are the same for other pictures and networks.) For most methods
# the two are made by hand: $c^+$ where the map is positive, $c^-$ where it is negative.
# Since x ≥ 0, each has one colour. DMBP has *learnt* its two.

# %%
rows = {}
for name in ("gradient", "IG", "GBp"):
    a = maps[f'{name}, "3"']
    mapping = a / x.clamp(min=1e-9)
    rows[f"{name}: c⁺"] = torch.where(a > 0, mapping, 0)
    rows[f"{name}: c⁻"] = torch.where(a < 0, mapping, 0)
    rows[f"{name}: map"] = a
    parted = rows[f"{name}: c⁺"] * x + rows[f"{name}: c⁻"] * x
    assert close(parted, a)
assert x.min() >= 0
rows["DMBP: ∇⁺"] = plus
rows["DMBP: ∇⁻"] = minus
rows["DMBP: map"] = for_three

# %% tags=["hide-input"]
figure = draw_maps(rows, 3)

# %% [markdown]
# Look at the last row. ∇⁺ has both colours: it is a filter for the strokes of a 3, with
# a positive middle and negative edges. Nothing in the objective asks for one colour. Only
# the sum over all pixels was made large. `dmbp.plot.draw_explanation(result)` draws this
# row and more for any picture, and so does `result.plot()`.

# %%
positive = (plus * x)[places["3"]].clamp(min=0).sum()
negative = (plus * x)[places["3"]].clamp(max=0).sum()
print(f"∇⁺ ⊙ x on the 3: {positive:+.1f} of red and {negative:+.1f} of blue")
assert negative < -1

# %% [markdown]
# Next: lesson 8 leaves the ReLU behind. Lesson 9 asks what of all this one may believe.
#
# ## Exercises
#
# 1. Ask why the network sees a 3 *rather than* a 9. The target may be a vector of
#    weights for the outputs: 1 for the 3, −1 for the 9. What becomes of the two halves
#    of the map?
# 2. The map of IG sums to F(x) − F(0), but for the error of its hundred steps. Where is
#    F(0) in a ledger?
# 3. How much of the score of "3" comes from pixels, and how much from biases?
# 4. **Change a number and look.** Set the noise of SmoothGrad, 0.15, to 0.5, and then to
#    0.02. What does the map become in either case, and why?
# 5. **Do it to your own network.** Explain a picture of yours for the two classes with
#    the highest scores, `dmbp.explain(network, picture.repeat(2, 1, 1, 1), [a, b])`,
#    and draw both with `result.plot(0)` and `result.plot(1)`. Where do the two maps
#    disagree in sign?

# %% tags=["hide-cell"]
# 1. Both speak louder.
weights = torch.zeros(10, dtype=torch.float64)
weights[3] = 1
weights[9] = -1
rather = dmbp.explain(graph, x, weights, iterations=30, progress=False).attribution
alone = dmbp.explain(graph, x, 3, iterations=30, progress=False).attribution
assert rather[..., left].sum() > alone[..., left].sum()
assert rather[..., ~left].sum() < alone[..., ~left].sum()

# %% tags=["hide-cell"]
# 2. At x = 0 all is constants: the ledger there has no other share, and sums to F(0).
black = torch.zeros_like(x)
ledger = graph.linearize(black).ledger(3)
assert ledger.input_share == 0
assert abs(ledger.bias_share - network(black)[0, 3]) < 1e-12 * ledger.magnitude

# %% tags=["hide-cell"]
# 3. Two thirds come from pixels. Of y⁺ it is about half: see lesson 9.
share = (c * x).sum() / network(x)[0, 3]
assert 0.6 < share < 0.75
assert 0.45 < (plus * x).sum() / result.split.positive[0] < 0.55

# %% tags=["hide-cell"]
# 4. With 0.5 the strokes drown in noise and the map is a blur of them. With 0.02 the
#    copies are nearly x itself, so that the map is nearly c ⊙ x.
little = methods.SmoothGrad(spread=0.02)(network, x, 3)
much = methods.SmoothGrad(spread=0.5)(network, x, 3)
assert (little - c * x).abs().sum() < (much - c * x).abs().sum()
# 5. Where they disagree, the network uses the pixel to tell the two classes apart.
assert (for_three * for_nine < 0)[ink].double().mean() > 0.5
