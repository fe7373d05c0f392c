# %% [markdown]
# # 11. Where the linear function ends
#
# Lesson 1 froze the gates at one input and found a linear function. It holds on a region
# around that input, and the region has an end: the first place where a unit turns. This
# lesson finds that place, in the plane and in a network that reads digits, and looks at
# what is on the other side.
#
# **You will see** the walls of a region and the units that they belong to, how far the
# nearest wall is, what jumps there and what does not, and all the linear pieces between
# two inputs and in the plane through three.
#
# **You need** lesson 1 (gates). One section needs lesson 4 (masks).
#
# **Time**: about 50 minutes to read. The page runs in half a minute.

# %%
from math import inf

import matplotlib.pyplot as plt
import torch
from torch import nn

import dmbp
import linreg
from dmbp.datasets import sample_pairs
from dmbp.networks import pretrained
from dmbp.walls import jump
from linreg import regions
from linreg.plot import draw_plane, draw_region, draw_walls

torch.manual_seed(3)
plt.rcParams["figure.constrained_layout.use"] = True


def close(one, other):
    return torch.allclose(one, other, rtol=1e-10, atol=1e-11)


# %% [markdown]
# ## Symbols
#
# In this lesson x is the input whose region we look at, and $x'$ is any other input. A
# number k goes through the gates of all layers, so $z_k$ is a single number here.
#
# | symbol | meaning |
# |---|---|
# | $z_k$ | the number that arrives at gate k; the gate is open where $z_k > 0$ |
# | $g_k$, $\beta_k$ | its gradient and its constant on the region: $z_k(x') = g_k \cdot x' + \beta_k$ |
# | slack of unit k | how much of $z_k$ is left at x before the unit turns: $\lvert z_k(x) \rvert$ |
# | wall k | the inputs $x'$ with $z_k(x') = 0$ |
#
# "Linear region" is said of two things. Most often it means all inputs with the same
# *pattern*: every gate is open or closed as it is at x. It can also mean all inputs
# around x with the same *map*, the same linear function. A unit may turn and change no
# map, if all that reads it is closed. In `linreg.regions` you choose by `by="pattern"`
# or `by="map"`. This lesson takes the pattern, which is the default.

# %% [markdown]
# ## Eq. (3): every unit has a wall
#
# $$\begin{aligned}
# z_1(x') &= W_1 x' + b_1 \\
# z_2(x') &= W_2 \,\mathrm{diag}(\mathcal H(z_1(x)))\, z_1(x') \\
# &\quad + b_2
# \end{aligned}$$
#
# We take two layers of eight units, in the plane, with biases. (In this equation 1 and
# 2 are the layers, each with its eight numbers.) The gates are those of x. With them,
# each number that arrives at a gate is a linear function of the input, up to a
# constant. So its sign changes on a straight line. Each of the 16 units has one.

# %%
network = nn.Sequential(
    nn.Linear(2, 8),
    nn.ReLU(),
    nn.Linear(8, 8),
    nn.ReLU(),
    nn.Linear(8, 1),
).double()
W1, b1, W2, b2, w, b = (value.detach() for value in network.parameters())
x = torch.tensor([[0.3, -0.2]], dtype=torch.float64)

# %%
z1 = W1 @ x[0] + b1
open1 = (z1 > 0).double()
z2 = W2 @ (open1 * z1) + b2
open2 = (z2 > 0).double()

z = torch.cat([z1, z2])
g = torch.cat([W1, W2 @ torch.diag(open1) @ W1])
beta = z - g @ x[0]

# %% [markdown]
# The region is where all units keep their sign: $\pm (g_k \cdot x' + \beta_k) \ge 0$,
# with the sign that they have at x. The library writes it the other way round,
# $\mp g_k \cdot x' \le \pm \beta_k$. `rows` gives the factors of $x'$, one row for each
# unit, and `region.b` the right sides. (In the library's documentation they are A and
# b.) Each row takes a pass back through the network. So a row is made only when
# somebody asks for it.

# %%
sign = torch.where(z > 0, 1.0, -1.0).double()
graph = linreg.trace(network, x)
lin = graph.linearize(x)
region = regions.inequalities(lin)

assert close(region.rows(), -sign[:, None] * g)
assert close(region.b, sign * beta)
assert str(region.label(11)) == "3[3]"

# %% [markdown]
# Row 11 belongs to the ReLU called "3", unit 3. In the figure every line is the wall of
# one unit, as the gates of x have it. Only some of them touch the region. The others lie
# behind a wall, where the region has ended already. `polytope` finds which ones those
# are, by linear programs. The circle is the largest ball that has room in the region.

# %%
shape = regions.polytope(lin, bounds=(-3, 3))
print(f"{len(shape.facets)} of {len(region)} walls bound the region")
assert 3 <= len(shape.facets) < len(region)
assert region.contains(shape.vertices(), tolerance=1e-9).all()

# %% tags=["hide-input"]
figure, ax = plt.subplots(figsize=(6.2, 5.6))
across = torch.tensor([-3.0, 3.0], dtype=torch.float64)
for k in range(len(g)):
    steep = g[k, 1].abs() > g[k, 0].abs()
    other = -(beta[k] + g[k, int(not steep)] * across) / g[k, int(steep)]
    ends = (across, other) if steep else (other, across)
    colour = "#2166ac" if k < 8 else "#b2182b"
    ax.plot(ends[0], ends[1], color=colour, lw=0.8, alpha=0.6)
draw_region(shape, ax)
ax.set(xlim=(-1.6, 2.2), ylim=(-2, 1.8))
title = ax.set_title("walls of layer 1 (blue) and of layer 2 (red)")

# %% [markdown]
# ## Eq. (2): inside, and nowhere else
#
# $$\begin{gathered}
# \pm (g_k \cdot x' + \beta_k) \ge 0 \text{ for all } k \\
# \Longleftrightarrow \\
# \text{every gate is at } x' \text{ as it is at } x
# \end{gathered}$$
#
# Walls of the second layer are drawn for the gates that the first layer has at x. Beyond
# a wall of the first layer these lines bend. That does not matter here: whoever leaves
# the region has crossed a wall of this list first. We try 10,000 points, and ask the
# network itself.

# %%
points = x + torch.randn(10_000, 2, dtype=torch.float64)
before = points @ W1.T + b1
behind = before.clamp(min=0) @ W2.T + b2
gates = torch.cat([before, behind], 1) > 0

same = (gates == (z > 0)).all(1)
assert torch.equal(region.contains(points), same)
assert 0 < same.sum() < 10_000

# %% [markdown]
# A pattern is a value in Python: it can be compared, and be a key of a dictionary. So we
# can count how many regions these points lie in.

# %%
patterns = graph.linearize(points[:500])
seen = {patterns.pattern(image) for image in range(500)}
assert len(seen) == len(gates[:500].unique(dim=0))
assert lin.pattern()["1"].tolist() == open1.tolist()

# %% tags=["hide-input"]
figure, ax = plt.subplots(figsize=(5.6, 5))
number = gates.unique(dim=0, return_inverse=True)[1]
ax.scatter(points[:, 0], points[:, 1], c=number % 20, cmap="tab20", s=3)
draw_region(shape, ax, names=False, ball=False)
ax.set(xlim=(-2.2, 2.8), ylim=(-2.7, 2.3))
title = ax.set_title("10,000 points, coloured by their pattern")

# %% [markdown]
# ## Eq. (4): how far the linear function reaches
#
# $$\text{distance}_k = \begin{cases}
# |z_k(x)| \,/\, \lVert g_k \rVert_2 & \text{in } \ell_2 \\
# |z_k(x)| \,/\, \lVert g_k \rVert_1 & \text{in } \ell_\infty \\
# |z_k(x)| \,/\, \lVert g_k \rVert_\infty & \text{in } \ell_1
# \end{cases}$$
#
# The length of a step can be measured by the root of the summed squares ($\ell_2$), by
# the largest entry ($\ell_\infty$), or by the sum of the sizes of all entries
# ($\ell_1$). A step changes $z_k$ by at most its length times the size of $g_k$. The
# size of $g_k$ is then measured in the *dual* norm: $\ell_2$ is dual to itself, and
# $\ell_1$ and $\ell_\infty$ to each other. So wall k is at the distance slack over
# size. The smallest of these is the distance from x to the end of its region, exactly.
# The other distances are those of the walls as lines: such a line may lie behind
# another wall.

# %%
near = regions.walls(lin, count=3)
distance = sign * z / g.norm(dim=1)
nearest = distance.argmin()
assert [wall.row for wall in near] == distance.argsort()[:3].tolist()
assert abs(near[0].distance - distance[nearest]) < 1e-12
print(near)

# %%
norms = {1: g.abs().amax(1), 2: g.norm(dim=1), inf: g.abs().sum(1)}
reach = {}
for norm, size in norms.items():
    reach[norm] = regions.walls(lin, 1, norm)[0]
    assert abs(reach[norm].distance - (sign * z / size).min()) < 1e-12

# %% [markdown]
# In the figure each ball has grown until it touched a wall. Its nearest point on the wall
# is `wall.point`.

# %% tags=["hide-input"]
figure, ax = plt.subplots(figsize=(7, 4))
draw_region(shape, ax, names=False, ball=False)
turn = torch.linspace(0, 2 * torch.pi, 401, dtype=torch.float64)
circle = torch.stack([turn.cos(), turn.sin()], 1)
for norm, colour in ((1, "#5aae61"), (2, "#2166ac"), (inf, "#9970ab")):
    ball = circle / circle.norm(norm, dim=1, keepdim=True) * reach[norm].distance
    ax.plot(*(x + ball).T, color=colour, label=f"ℓ{norm}".replace("inf", "∞"))
    ax.plot(*reach[norm].point, "o", color=colour, ms=5)
ax.set(xlim=(-1, 1.6), ylim=(-0.7, 0.6))
legend = ax.legend(title="the largest ball around x", loc="upper right", ncols=3)

# %% [markdown]
# ## Eq. (5): on the other side
#
# $$\begin{gathered}
# c' - c = \kappa\, g_k \\
# y' = y \ \text{ on the wall}
# \end{gathered}$$
#
# The network is continuous. On the wall both linear functions give the same score, so
# they can only differ across it: c jumps by a multiple, $\kappa$, of $g_k$, which stands
# at a right angle to the wall. `across` gives both functions, at one point of the wall,
# and says which units turn. Its `normal` is $g_k$ made 1 long, and leads out of the
# region. So `kappa` below is $\kappa$ times the length of $g_k$, perhaps with its sign
# turned.

# %%
first = regions.across(lin, near[0])
assert first.turned == {near[0].label.site: [near[0].label.unit]}
assert abs(first.step()) < 1e-12

change = first.jump()[0]
kappa = change @ first.normal
assert close(change, kappa * first.normal)
assert kappa.abs() > 1e-6

# %% [markdown]
# PyTorch agrees, if it is asked for the gradient a little before the wall and a little
# behind it.

# %%
gradients = []
for side in (-1e-6, 1e-6):
    leaf = (first.point + side * first.normal).requires_grad_()
    gradients += torch.autograd.grad(network(leaf).sum(), leaf)
assert close(gradients[1] - gradients[0], first.jump())

# %% [markdown]
# Now we follow the straight line through x and that point, far beyond the wall. The score
# has a bend at every wall that it crosses, and no step.

# %% tags=["hide-input"]
ahead = near[0].point - x[0]
way = torch.linspace(-2, 8, 1001, dtype=torch.float64)[:, None]
scores = network(x + way * ahead).detach()
straight = lin.score() + way[:, 0] * (lin.weight()[0] @ ahead)
figure, ax = plt.subplots(figsize=(7, 3.6))
ax.plot(way, scores, color="#404040", lw=2, label="y")
ax.plot(way, straight, "--", color="#2166ac", label="the linear function at x")
ax.axvline(1, color="#b2182b", lw=0.9, label="the nearest wall")
ax.set(xlabel="steps of the way from x to the wall", ylabel="score")
legend = ax.legend()

# %% [markdown]
# ## Eq. (9): y goes on, and its parts jump
#
# $$\begin{gathered}
# y = y^+ + y^- + y^\sim \\
# \Delta y^+ + \Delta y^- + \Delta y^\sim = 0
# \end{gathered}$$
#
# A unit at its wall has $z_k = 0$: it hands on nothing, open or closed. The two masked
# passes of lesson 4 have other numbers there. What arrives at the unit in the positive
# pass is $z_k^+$, and that is not 0. When the unit opens, a masked share of it comes in
# at once. So with fixed masks $y^+$ and $y^-$ have steps at walls ($\Delta$ is the size
# of a step), and $y^\sim$ takes them back. We look for a wall of the second layer, where
# the masks of the first have something to say.

# %%
masks = {"1": torch.rand(1, 8).double(), "3": torch.rand(1, 8).double()}
walls_of_layer_2 = []
for neighbour in regions.neighbours(shape):
    if neighbour.label.site == "3":
        walls_of_layer_2.append(neighbour)
wall = max(walls_of_layer_2, key=lambda n: abs(jump(n, masks).scores["positive"]))
jumps = jump(wall, masks).scores

# %%
print({part: round(value, 4) for part, value in jumps.items()})
assert abs(jumps["y"]) < 1e-12
assert abs(jumps["positive"]) > 1e-4
assert abs(jumps["positive"] + jumps["negative"] + jumps["nuisance"]) < 1e-12

# %% [markdown]
# By hand: what arrives in the positive pass is the unit's row of
# $z_2^+ = W_2\, (\sigma_1 \odot h_1) + b_2$. With the unit's mask and the weight that
# reads it, this is the step.

# %%
[(unit,)] = wall.turned["3"]
h1 = (W1 @ wall.point[0] + b1).clamp(min=0)
arriving = W2[unit] @ (masks["1"][0] * h1) + b2[unit]
opens = 1 - 2 * open2[unit]  # 1 if the unit opens at the wall, −1 if it closes
by_hand = opens * w[0, unit] * masks["3"][0, unit] * arriving
assert abs(by_hand - jumps["positive"]) < 1e-12

# %%
room = 0.4
way = torch.linspace(-room, room, 801, dtype=torch.float64)[:, None]
everywhere = graph.linearize(wall.point + way * wall.normal)
same_masks = {site: mask.expand(len(way), -1) for site, mask in masks.items()}
split = dmbp.decompose(everywhere, same_masks)

# %% tags=["hide-input"]
figure, ax = plt.subplots(figsize=(7, 3.6))
colours = {
    "y": "black",
    "positive": "#b2182b",
    "negative": "#2166ac",
    "nuisance": "0.5",
}
for part, colour in colours.items():
    ax.plot(way, split.scores[part], color=colour, label=part)
ax.axvline(0, color="#8c8c8c", lw=0.8, ls=":")
ax.set(xlabel="distance beyond the wall", ylabel="score, and its parts")
legend = ax.legend()

# %% [markdown]
# ## Section 3: all the pieces on a line
#
# $$\begin{aligned}
# &F(x') - F(x) = \sum_i (x' - x)_i \\
# &\quad \cdot \int_0^1
# \frac{\partial F}{\partial x_i}\big(x + \tau (x' - x)\big)\, d\tau
# \end{aligned}$$
#
# The line goes from the input x (in the code: `start`) to the input $x'$ (`stop`), and
# $\tau$ says how far we are, from 0 to 1. The gradient is the same all over a piece. So
# an integral along a line is a finite sum: the length of each piece times its gradient.
# Integrated Gradients is such an integral, and is usually averaged over 50 points.
# `segment` finds every piece, in order, and sums with no error but rounding. Its `t`
# holds the $\tau$ of all ends of pieces.

# %%
start = torch.zeros(1, 2, dtype=torch.float64)
stop = torch.tensor([[2.0, -1.5]], dtype=torch.float64)
line = regions.segment(graph, start, stop, progress=False)
shares = line.integrated_gradients(0)
assert close(shares.sum(), (network(stop) - network(start)).sum())

# %%
middle = (line.t[1:] + line.t[:-1]) / 2
leaf = (start + middle[:, None] * (stop - start)).requires_grad_()
(gradient,) = torch.autograd.grad(network(leaf).sum(), leaf)
lengths = line.t.diff()[:, None]
assert close((lengths * gradient).sum(0) * (stop - start), shares)

# %% [markdown]
# How many pieces can there be? Folding the line in half, and in half again, doubles them
# each time. A *sawtooth* network does that: L layers of two units make $2^L$ pieces.


# %%
def sawtooth(layers):
    folds = []
    for _ in range(layers):
        first = nn.Linear(1, 2)
        first.weight.data = torch.tensor([[1.0], [1.0]])
        first.bias.data = torch.tensor([0.0, -0.5])
        last = nn.Linear(2, 1, bias=False)
        last.weight.data = torch.tensor([[2.0, -4.0]])
        folds += [first, nn.ReLU(), last]
    return nn.Sequential(*folds).double()


# %%
zero = torch.zeros(1, 1, dtype=torch.float64)
one = torch.ones(1, 1, dtype=torch.float64)
for layers in (1, 2, 3, 8):
    folded = linreg.trace(sawtooth(layers), zero)
    pieces = regions.segment(folded, zero, one, progress=False)
    assert len(pieces) == 2**layers

# %% tags=["hide-input"]
figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.2))
fine = torch.linspace(0, 1, 1001, dtype=torch.float64)
axes[0].plot(fine, network(start + fine[:, None] * (stop - start)).detach())
axes[0].vlines(line.t, *axes[0].get_ylim(), color="#8c8c8c", lw=0.6)
axes[0].set(title=f"{len(line)} pieces, start to stop", xlabel="τ", ylabel="score")
axes[1].plot(fine, sawtooth(3)(fine[:, None]).detach())
title = axes[1].set_title("a sawtooth of three layers: 8 pieces")

# %% [markdown]
# ## Section 3 in two dimensions: all the pieces in a plane
#
# $$\begin{aligned}
# x(u, v) &= p + u\,(q - p) + v\,(r - p) \\
# N(n) &= 1 + n + \binom{n}{2}
# \end{aligned}$$
#
# Three inputs p, q and r span a plane, and u and v say where in it we are. There the
# pieces are polygons. `plane` finds all of them, each with its linear function.
#
# We begin with one layer, where we know how many there must be. Each of its n units
# turns on one straight line. The first line cuts the plane in two. Every new line that
# crosses k others passes through k + 1 pieces, and cuts each of them in two. So if any
# two lines cross, and no three in the same point, there are N(n) pieces. All crossings
# have to be in view: here u and v go from −5 to 5. The inputs p, q and r are such that
# x(u, v) is the point (u, v) itself.

# %%
p = torch.tensor([[0.0, 0.0]], dtype=torch.float64)
q = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
r = torch.tensor([[0.0, 1.0]], dtype=torch.float64)


def pieces_in_view(model, reach):
    traced = linreg.trace(model, p)
    view = ((-reach, reach), (-reach, reach))
    return regions.plane(traced, p, q, r, bounds=view)


# %%
n = 7
angle = torch.arange(n) * torch.pi / n
layer = nn.Linear(2, n)
layer.weight.data = torch.stack([angle.cos(), angle.sin()], 1)
layer.bias.data = 2 * torch.rand(n) - 1
lines = nn.Sequential(layer, nn.ReLU(), nn.Linear(n, 1)).double()

arrangement = pieces_in_view(lines, 5)
assert len(arrangement) == 1 + n + n * (n - 1) // 2
assert abs(arrangement.areas().sum() - 100) < 1e-9

# %% tags=["hide-input"]
figure, ax = plt.subplots(figsize=(5, 5))
draw_plane(arrangement, "piece", ax)
title = ax.set_title(f"{n} lines make {len(arrangement)} pieces")

# %% [markdown]
# With a second layer the lines bend: a unit of the second layer has another line on
# every piece of the first. We let a network of two layers learn to tell two half moons
# apart, and look at its pieces before it learns, after 20 steps, and after 200.

# %%
turn = torch.pi * torch.rand(300, 1, dtype=torch.float64)
moon = torch.cat([turn.cos() - 0.5, turn.sin() - 0.25], 1)
dots = torch.cat([moon, -moon])
dots = dots + 0.1 * torch.randn(600, 2, dtype=torch.float64)
moons = torch.arange(600) // 300

hidden = [nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU()]
classifier = nn.Sequential(*hidden, nn.Linear(16, 2)).double()
optimizer = torch.optim.Adam(classifier.parameters(), lr=0.02)

# %%
learned = {}
for step in range(201):
    if step in (0, 20, 200):
        learned[step] = pieces_in_view(classifier, 2)
    loss = nn.functional.cross_entropy(classifier(dots), moons)
    optimizer.zero_grad()
    loss.backward()
    if step < 200:
        optimizer.step()

# %% [markdown]
# PyTorch can check what we found. The gradient in the middle of each polygon is that of
# its linear function. And `boundaries` gives the line between the two classes exactly:
# straight stretches, on which both outputs are equal.

# %%
pieces = learned[200]
leaf = pieces.points(pieces.centres()).requires_grad_()
(gradient,) = torch.autograd.grad(classifier(leaf)[:, 0].sum(), leaf)
assert close(pieces.maps(0)[:, :2], gradient)

stretches, _ = pieces.boundaries()
outputs = classifier(pieces.points(stretches.mean(1)))
assert close(outputs[:, 0], outputs[:, 1])

# %% tags=["hide-input"]
figure, axes = plt.subplots(1, 3, figsize=(11, 4), sharey=True)
for ax, (step, found) in zip(axes, learned.items(), strict=True):
    draw_plane(found, "class", ax)
    ax.scatter(*dots.T, s=2, c=moons, cmap="coolwarm")
    ax.set(title=f"after {step} steps: {len(found)} pieces", ylabel="")

# %% [markdown]
# By pattern each of these polygons is a region. By map several of them can be one, and
# together they may be bent. Here is a network whose score is the smaller of u and v,
# minus ½, or 0 where that is negative. It has four patterns. Two of them have the score
# 0, and touch. So by map there are three regions, one of which looks like an L.


# %%
class SmallerOfTwo(nn.Module):
    def forward(self, x):
        u, v = x.split(1, dim=1)
        smaller = u - torch.relu(u - v)
        return torch.relu(smaller - 0.5)


corner = linreg.trace(SmallerOfTwo(), p)
assert len(regions.plane(corner, p, q, r)) == 4
by_map = regions.plane(corner, p, q, r, by="map")
assert len(by_map) == 3
assert abs(by_map.areas().max() - 3 / 4) < 1e-12

# %% [markdown]
# The same works where the input is a picture. Each of the eight sample pictures of
# lesson 1 has two digits. A small network learns these sixteen halves by heart, with
# some noise on them. Then we take the plane through three of them, a 3, a 2 and a 7.
# All other points of the plane are mixtures of the three. The figure has a colour for
# each class, and black lines between classes.

# %%
pairs = sample_pairs()
halves = torch.cat(pairs.images.double().split(32, dim=3)).flatten(1)
classes = pairs.labels.T.flatten()
small = [nn.Linear(2048, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()]
by_heart = nn.Sequential(*small, nn.Linear(64, 10)).double()
optimizer = torch.optim.Adam(by_heart.parameters(), lr=0.003)
for _ in range(200):
    noisy = halves + 0.2 * torch.randn_like(halves)
    loss = nn.functional.cross_entropy(by_heart(noisy), classes)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
assert torch.equal(by_heart(halves).argmax(1), classes)

# %%
three = [halves[k : k + 1] for k in (2, 7, 9)]
reading = linreg.trace(by_heart, three[0])
view = ((-0.25, 1.25), (-0.25, 1.25))
mixtures = regions.plane(reading, *three, bounds=view)

mixed = mixtures.points(mixtures.centres())
score = mixtures.maps(3)
y = (score[:, :2] * mixtures.centres()).sum(1) + score[:, 2]
assert close(y, by_heart(mixed)[:, 3])

# %% tags=["hide-input"]
figure, ax = plt.subplots(figsize=(6.4, 6))
draw_plane(mixtures, "class", ax)
for half, (u, v) in zip(three, [(0, 0), (1, 0), (0, 1)], strict=True):
    box = [u - 0.06, v - 0.12, 0.12, 0.24]
    picture = ax.inset_axes(box, transform=ax.transData)
    picture.imshow(half.view(64, 32).numpy(), cmap="gray_r")
    picture.set(xticks=[], yticks=[])
read = mixtures.by_class()
for digit in read.classes().unique():
    largest = (read.polygons.areas() * (read.classes() == digit)).argmax()
    ax.text(*read.polygon(largest).mean(0), int(digit), size=20, ha="center")
title = ax.set_title(f"{len(mixtures):,} pieces in the plane through three digits")

# %% [markdown]
# ## Section 4: a network that reads digits
#
# $$\min_k \frac{|z_k(x)|}{\lVert g_k \rVert_2} \quad \text{over 196,608 walls}$$
#
# The residual network of lesson 1 has 163,840 units, and some of them are max pools. A
# pool has a wall for each pixel that it did not choose: the chosen one minus the other is
# its slack. Here one pass back for each wall would take minutes. `walls` makes 64 rows
# instead: products with random vectors tell the size of every row within a factor, and
# only rows that may be near are made. (That it misses one has a probability below
# $10^{-9}$. It says so.)

# %%
digits = pretrained("digit-pairs").double()
pair = sample_pairs().images[:1].double()
reader = linreg.trace(digits, pair)
there = reader.linearize(pair)
closest = regions.walls(there, count=12)
print(closest)

# %%
edge = closest[0].point[None] - pair
short = reader.linearize(pair + 0.99 * edge)
beyond = reader.linearize(pair + 1.01 * edge)
assert short.pattern() == there.pattern()
assert sum(beyond.pattern().hamming(there.pattern()).values()) == 1

# %% [markdown]
# The linear function at this picture ends after a step of less than a millionth, where a
# grey level is 1/255. A picture that looks the same lies in another region. So a gradient
# says little about the network a grey level away, and the reasons for a score are better
# looked for in sums over many regions, or in maps that change little from one region to
# the next.

# %%
assert closest[0].distance < 1e-6 < 1 / 255
assert closest.total == 196_608
assert closest.examined < 1000

# %% tags=["hide-input"]
ax = draw_walls(closest, plt.subplots(figsize=(8, 4.4))[1])

# %% [markdown]
# ## Exercises
#
# 1. Double the weights and the biases of the first layer. How far is the nearest wall of
#    the first layer then? And how far if you double the weights alone?
# 2. A unit of the first layer turns, and every unit that reads it is closed. What does c
#    do? How do `by="pattern"` and `by="map"` count?
# 3. A network has 3 units, all in one layer. How many walls can a region in the plane
#    have at most? Which regions have room for balls of any size?
# 4. **Change a number and look.** Move x from (0.3, −0.2) to (6, 6). How large is the
#    largest ball in its region, without bounds?
# 5. **Do it to your own network.** Run `dmbp inspect PICTURE --model … --regions`, or
#    `linreg.regions.walls` in float64. Which layer has the nearest walls?

# %% tags=["hide-cell"]
# 1. z and its gradient double alike: the walls stay. With the weights alone they move.
doubled = nn.Sequential(nn.Linear(2, 8), *list(network)[1:]).double()
doubled[0].weight.data = 2 * W1
doubled[0].bias.data = 2 * b1
again = linreg.trace(doubled, x).linearize(x)
before = regions.walls(lin, 1, sites=("1",))[0].distance
assert abs(regions.walls(again, 1, sites=("1",))[0].distance - before) < 1e-12
doubled[0].bias.data = b1
moved = linreg.trace(doubled, x).linearize(x)
assert abs(regions.walls(moved, 1, sites=("1",))[0].distance - before) > 1e-6

# %% tags=["hide-cell"]
# 2. c stays. By pattern it is a wall; by map it is none.
quiet = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1), nn.ReLU()).double()
quiet[2].bias.data = torch.tensor([-100.0]).double()
silent = linreg.trace(quiet, x).linearize(x)
assert silent.weight().abs().max() == 0
assert len(regions.walls(silent)) == 9
assert [str(wall.label) for wall in regions.walls(silent, by="map")] == ["3[0]"]

# %% tags=["hide-cell"]
# 3. Three, one for each unit. A region has room for any ball if a direction leads away
# from all of its walls at once.
few = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).double()
radii = []
for point in torch.randn(40, 2, dtype=torch.float64):
    spot = linreg.trace(few, point[None]).linearize(point[None])
    found = regions.polytope(spot)
    assert len(found.facets) <= 3
    radii.append(found.ball.radius)
assert inf in radii

# %% tags=["hide-cell"]
# 4. Out there the region has no end.
far = graph.linearize(torch.tensor([[6.0, 6.0]], dtype=torch.float64))
assert regions.polytope(far).ball.radius == inf
# 5. In the network of the digits it is the first max pool.
assert closest[0].label.site == "stem.2"
