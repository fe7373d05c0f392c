# %% [markdown]
# # 7. Pictures
#
# Figures 1, 2, 5 and 6 of the paper, on a picture of two digits, where everybody sees what is where; then a photo and a
# large network, where the method fares worse, and why. It needs tutorials 2, 4 and 5, and a minute on one core.
# **What cannot be reproduced here** are the paper's own pictures and tables: they need ImageNet, VOC, and ResNet-50 and
# VGG-16 trained on them. If you have weights: `dmbp explain photo.jpg --model torchvision:resnet50 --weights FILE`.

# %%
import matplotlib.pyplot as plt
import torch
from torch import nn

import dmbp
import linreg
from dmbp.datasets import sample_pairs
from dmbp.images import read_image
from dmbp.models import load_model
from dmbp.plot import BLUE, DIVERGING, RED
from linreg.plot import waterfall


def backward_pass(network, x, target, masks=(), rule=torch.mul):
    """∇F with masks for the gates in their order; what shifts, and full ReLU6, give of the score; Σh of each gate."""
    left, offsets, totals = iter(masks), [], []

    def multiplied(module, inputs, h):
        mask, full = next(left, 1.0), 6.0 * (h == 6) if isinstance(module, nn.ReLU6) else 0.0
        h.register_hook(lambda g: offsets.append((full * mask * g).sum()) or rule(g, mask))
        totals.append(h.sum().item())

    hooks = [m.register_forward_hook(multiplied) for m in network.modules() if isinstance(m, nn.ReLU | nn.ReLU6)]
    norms, leaf = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)], x.clone().requires_grad_()
    gradient, *others = torch.autograd.grad(network(leaf)[:, target].sum(), [leaf, *(n.bias for n in norms)])
    [hook.remove() for hook in hooks]
    shifts = [n(g.new_zeros(1, len(g), 1, 1)).flatten() for g, n in zip(others, norms, strict=True)]  # their value at 0
    return gradient, sum((g * b).sum().item() for g, b in zip(others, shifts, strict=True)), sum(offsets).item(), totals


def draw_maps(maps, columns):
    rows = len(maps) // columns
    figure, axes = plt.subplots(rows, columns, figsize=(2.5 * columns, 2.1 * rows), layout="constrained", squeeze=False)
    for ax, (title, a) in zip(axes.flat, maps.items(), strict=True):
        limit, colours = a.abs().quantile(0.995).item(), "gray" if title == "x" else DIVERGING
        drawn = ax.imshow(a[0, 0].numpy(), cmap=colours, vmin=0 if title == "x" else -limit, vmax=limit)
        figure.colorbar(drawn, ax=ax, extend="neither" if title == "x" else "both").locator = plt.MaxNLocator(3)
        ax.set(xticks=[], yticks=[], title=title)


# %% [markdown]
# ## Figure 1: two digits, two questions
#
# $$a(x) = \nabla_x F^+(x) \odot x + \nabla_x F^-(x) \odot x$$
#
# The paper's picture holds a dog and a cat. The one that is asked for is painted red, the other blue, and with the
# question they change places. Ours holds a 3 on the left and a 9 on the right; what is brighter than its clutter, 0.3,
# is ink, and we know whose. `backward_pass` is lines 4 to 7 of Algorithm 1, the equation its line 13.

# %%
network, pair = load_model("digit-pairs").network.double(), sample_pairs().images[:1].double()
graph = linreg.trace(network, pair)
result = dmbp.explain(graph, pair.repeat(2, 1, 1, 1), [3, 9], progress=False)
left, ink, mappings = torch.arange(64) < 32, pair > 0.3, {}
places = {3: ink & left, 9: ink & ~left, "clutter": ~ink}
for image, target, own in ((0, 3, left), (1, 9, ~left)):
    masks, a = [mask[image : image + 1] for mask in result.masks.values()], result.attribution[image : image + 1]
    plus, minus = (backward_pass(network, pair, target, m)[0] for m in (masks, [1 - mask for mask in masks]))
    assert torch.allclose(a, plus * pair + minus * pair, rtol=1e-9, atol=1e-12)
    assert min(a[..., own].sum(), -a[..., ~own].sum(), a[places[target]].sum(), -a[places[12 - target]].sum()) > 5
    mappings[target] = plus, minus
draw_maps({"x": pair, 'a(x) for "3"': result.attribution[:1], 'a(x) for "9"': result.attribution[1:]}, 3)

# %% [markdown]
# Red and blue, in units of the score per pixel, change places; the clutter, 94 % of the pixels, is nearly white.
#
# ## Figure 2: where the noise goes
#
# $$w^\top H_L = w^\top H_L^+ + w^\top H_L^- + w^\top H_L^\sim$$
#
# The paper's top row, c and c ⊙ x, is our first column; the two mappings that are learnt, its other rows, are our next,
# and then their sum. The last column is not in the paper: the mapping of the nuisance.

# %%
c, (plus, minus) = backward_pass(network, pair, 3)[0], mappings[3]
parts = {"c": c, "∇⁺": plus, "∇⁻": minus, "∇⁺ + ∇⁻": plus + minus, "∇~": c - plus - minus}
for name, part in {"∇⁺": "positive", "∇⁻": "negative", "∇~": "nuisance"}.items():
    assert torch.allclose(result.split.ledger(part).weight[:1], parts[name], rtol=1e-9, atol=1e-12)
made = {f"[{name}] ⊙ x": mapping * pair for name, mapping in parts.items()}
for name, a in made.items():
    print(f"{name:13}", *(f"{p}: Σa {a[at].sum():+6.2f}, Σ|a| {a[at].abs().sum():5.2f}   " for p, at in places.items()))
draw_maps(parts | made, 5)

# %% [markdown]
# ∇⁺ has found the 3 and ∇⁻ the 9. On their ink |Σa| is 0.3 or 0.4 of Σ|a| in c ⊙ x, and 0.9 in the map. The noise is in
# ∇~, which is larger than the map. It has "no effect on the output", as the paper says, only in that its parts cancel.
#
# ## Figure 5: beside other gradients
#
# $$a(x) = c \odot x$$
#
# Each method has a c: the gradient; its mean on the way from black to x (integrated gradients, IG) or over noisy copies
# of x (SmoothGrad, SG); guided backpropagation (GBp), whose gates let only positive gradients back; guided Grad-CAM
# (GGC), which weighs that by where the last feature map speaks for the class. DeepLift, in the paper, takes a library.

# %%
way = ((torch.arange(100, dtype=torch.float64) + 0.5) / 100)[:, None, None, None] * pair
noisy = pair + 0.15 * torch.randn(100, 1, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
features, maps, rows = network.blocks(network.stem(pair)).detach(), {}, {}
for target in (3, 9):
    gradient, ig, sg = (backward_pass(network, x, target)[0].mean(0, keepdim=True) for x in (pair, way, noisy))
    guided = backward_pass(network, pair, target, rule=lambda g, mask: g.clamp(min=0))[0]
    heat = torch.einsum("c,nchw->nhw", network.classify.weight[target].detach(), features)[:, None].clamp(min=0)
    ggc = guided * nn.functional.interpolate(heat / heat.max(), size=(64, 64), mode="bilinear")
    found = {"gradient": gradient, "IG": ig, "SG": sg, "GBp": guided, "GGC": ggc, "DMBP": sum(mappings[target])}
    maps |= {f'{name}, "{target}"': c * pair for name, c in found.items()}
    against = {name: (c * pair)[places[12 - target]].sum().item() for name, c in found.items()}
    assert torch.allclose(graph.linearize(pair).weight(target), gradient, rtol=1e-9, atol=1e-12)
    assert against["GBp"] > 5 and abs(against["GGC"]) < 0.01 and against["DMBP"] == min(against.values())
draw_maps(maps, 6)

# %% [markdown]
# What the paper says of its Figure 5 holds. The gradient, IG and SG mix red and blue within a digit. GBp paints both
# digits red. GGC blots out the other digit, and so cannot say that it speaks against. But looking is no measurement.
#
# ## Figure 6: what is behind the colours
#
# $$a = c^+ \odot x + c^- \odot x, \qquad c^\pm_i = c_i \text{ where } \pm c_i x_i > 0, \text{ else } 0$$
#
# Figures 6 to 13 show two mappings with each map. Other methods' one is parted by the map's sign; where x ≥ 0 each part
# has one colour. DMBP learns two: ∇⁺ has both colours, the edges of a filter, and only its sum was made large.

# %%
for name in ("gradient", "IG", "GBp", "DMBP"):
    a = maps[f'{name}, "3"']
    parted = [torch.where(sign * a > 0, a / pair.clamp(min=1e-9), 0) for sign in (1, -1)]
    rows[name] = *(mappings[3] if name == "DMBP" else parted), a
    assert torch.allclose((rows[name][0] + rows[name][1]) * pair, a, rtol=1e-9, atol=1e-12)
draw_maps({f"{name}: {row}": rows[name][k] for k, row in enumerate(("c⁺", "c⁻", "map")) for name in rows}, 4)

# %% [markdown]
# ## Eqs. (13), (14): a photo, and why bias terms rule there
#
# $$y = \nabla_x F(x)^\top x + \sum_l \nabla_{b_l} F(x)^\top b_l, \qquad h_l = J_l x + k_l$$
#
# EfficientNet-Lite0 knows ImageNet's classes. Its 33 gates are ReLU6: a full one hands on the constant 6, an *offset*;
# batch norm gives *shifts*. With masks the sum gives y⁺ and y⁻. To keep the page short we learn for 30 iterations only;
# `iterations=200`, or `dmbp explain skimage:chelsea` on the command line, runs all, in some minutes.

# %%
model = load_model("efficientnet-lite0")
lite, photo = model.network.double(), model.preprocess.tensor(read_image("skimage:chelsea")).double()
top, lin = lite(photo).argmax().item(), linreg.trace(lite, photo).linearize(photo)
cat = dmbp.explain(lin.graph, photo, top, iterations=30, progress=False)
masks = (), list(cat.masks.values()), [1 - mask for mask in cat.masks.values()]
ledgers = {"y": lin.ledger(top), "y⁺": cat.split.ledger("positive"), "y⁻": cat.split.ledger("negative")}
scores = cat.split.y - cat.split.unmasked, cat.split.positive, cat.split.negative
for (name, ledger), sigma, score in zip(ledgers.items(), masks, scores, strict=True):
    mapping, shifts, offsets, _ = backward_pass(lite, photo, top, sigma)
    kinds, wanted = ledger.by_kind(), ((mapping * photo).sum().item(), shifts, offsets)
    found = ledger.input_share.item(), kinds["shift"].item(), kinds["offset"].item(), score.item()
    assert max(abs(a - b) for a, b in zip(found, (*wanted, sum(wanted)), strict=True)) < 1e-12 * ledger.magnitude
    print(f"{name} = {ledger.total.item():+.2f}:", "pixels {:+.2f}, shifts {:+.2f}, offsets {:+.2f}".format(*wanted))
figure, axes = plt.subplot_mosaic([["y", "y⁺"], ["h", "h"]], figsize=(13, 8.6), layout="constrained")
[waterfall(ledgers[name], axes[name], depth=2, bars=10, score=name) for name in ("y", "y⁺")]
for name, net, at, colour in (("digits", network, graph.linearize(pair), RED), ("photo", lite, lin, BLUE)):
    sites, totals = dmbp.find_sites(at.graph), backward_pass(net, at.input, 0)[3]
    shares = [at.forward(at.input, stop=l).sum().item() / total for l, total in zip(sites, totals, strict=True)]
    axes["h"].plot(range(1, len(sites) + 1), shares, "o-", color=colour, ms=4, label=f"{name}: ΣJx / Σh")
axes["h"].set(xlabel="gate, counted from the input", ylabel="share", title="how much of h comes from pixels")
axes["h"].legend()
norm, seen = lite._bn0, lite._conv_stem(photo)  # the photo's first gate by hand
Jx = (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None, None] * seen * ((norm(seen) > 0) & (norm(seen) < 6))
k = norm(seen).clamp(0, 6) - Jx
assert abs(shares[0] - Jx.sum() / (Jx + k).sum()) < 1e-12
print(f"ΣJx = {Jx.sum():,.0f} of Σ|Jx| = {Jx.abs().sum():,.0f}, Σk = {k.sum():,.0f} of Σ|k| = {k.abs().sum():,.0f}")
cat.plot(picture=model.preprocess.picture(photo), title=f"{model.label(top)}, after 30 iterations")

# %% [markdown]
# Of y = 9.03 next to nothing comes from pixels, of y⁺ and y⁻ 0.3 and 1.3 %: all that the map shows. After all 200
# iterations some +38,000 stand against −38,000, 95 % of either in bias terms. Do not trust such a map without its
# shares. The paper's networks, ResNet-50 and VGG-16 with plain ReLUs, may differ; this one cannot tell.
#
# Why? A mask multiplies all of $h_l$, what comes of pixels, $J_l x$, and of constants, $k_l$: it gets their mixture.
# For the digits $\sum h_l$ is mostly pixels at nearly all gates (above 1, constants subtract); for the photo 6 % at the
# first, mostly under 15 % later: $J_l x$ has both signs, as x has, and cancels; constants nearly all have one. Choosing
# units is choosing constants, and Eq. 10 pays for all growth of y⁺ that y⁻ makes good. Next, tutorial 8: beyond ReLU.
#
# ## Exercises
#
# 1. Ask why a 3 *rather than* a 9: a target may be weights of the outputs. What becomes of the two halves?
# 2. IG sums to F(x) − F(0), but for the error of its hundred steps. Where in a ledger is F(0)?
# 3. Do constants rule the score of "3" too?

# %% tags=["hide-cell"]
weights = torch.eye(10, dtype=torch.float64)[3] - torch.eye(10, dtype=torch.float64)[9]  # 1. Both speak louder.
rather, one = (dmbp.explain(graph, pair, w, iterations=30, progress=False).attribution for w in (weights, 3))
assert rather[..., left].sum() > one[..., left].sum() and rather[..., ~left].sum() < one[..., ~left].sum()
black = graph.linearize(0 * pair).ledger(3)  # 2. At x = 0 all is constants: the ledger has no other share.
assert black.input_share == 0 and abs(black.bias_share - network(0 * pair)[0, 3]) < 1e-12 * black.magnitude
assert 0.6 < parts["c"].mul(pair).sum() / network(pair)[0, 3] < 0.75  # 3. No: two thirds come from pixels.
