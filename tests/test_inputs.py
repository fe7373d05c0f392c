"""Networks of several inputs, data and fixed: each number against autograd on the user's own model."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from approx import EXACT, assert_within
from several import CASES, Case, Fusion, Rowed, Siamese, Values, row
from torch import Tensor, nn

import dmbp
import linreg
from linreg import Linearization, LinregError, OperatorGraph

pytestmark = pytest.mark.xdist_group("several inputs")
SEEDS = range(3)
every_case = pytest.mark.parametrize("name", CASES)


@cache
def traced(name: str, seed: int = 0) -> tuple[Case, nn.Module, OperatorGraph]:
    """Traced with two images; what follows asks about others, with other fixed inputs."""
    case = CASES[name]
    model = case.model(seed)
    graph = linreg.trace(model, case.given(case.values(2, seed + 50)), fixed=case.fixed)
    return case, model, graph


def linearized(name: str, seed: int = 0, images: int = 5) -> tuple[Case, nn.Module, Linearization, Values]:
    case, model, graph = traced(name, seed)
    values = case.values(images, seed)
    return case, model, graph.linearize(case.given(values)), values


def gradients(case: Case, model: nn.Module, values: Values, target: int) -> tuple[Tensor, Values]:
    """The scores of all images and their gradients by each data input, by autograd."""
    leaves = {name: value.clone().requires_grad_() for name, value in case.data(values).items()}
    y = case.output(model, values | leaves)[:, target]
    return y.detach(), dict(zip(leaves, torch.autograd.grad(y.sum(), list(leaves.values())), strict=True))


def summed(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1).sum(1)


@every_case
@pytest.mark.parametrize("seed", SEEDS)
def test_the_weights_are_the_models_gradients_and_the_ledger_sums_to_its_score(name: str, seed: int) -> None:
    case, model, graph = traced(name, seed)
    for images in (1, 2, 5):
        values = case.values(images, 10 * seed + images)
        lin = graph.linearize(case.given(values))
        y, expected = gradients(case, model, values, 1)
        torch.testing.assert_close(lin.output, case.output(model, values).detach(), **EXACT)
        torch.testing.assert_close(graph(case.given(values)), lin.output, **EXACT)
        weight = lin.weight(1) if len(expected) > 1 else {next(iter(expected)): lin.weight(1)}
        torch.testing.assert_close(weight, expected, **EXACT)
        ledger = lin.ledger(1)
        assert_within(ledger.total, y, ledger.magnitude)
        own = {key: summed(c * values[key]) for key, c in expected.items()}
        for key, share in ledger.by_input().items():
            torch.testing.assert_close(summed(share), own[key], **EXACT)
        assert_within(ledger.bias_share, y - sum(own.values()), ledger.magnitude)
        certificate = lin.certificate(1)
        assert (certificate.completeness_error <= certificate.bound).all() and certificate.bound.isfinite().all()


@every_case
def test_forward_adjoint_and_matrices_by_each_input(name: str) -> None:
    case, model, lin, values = linearized(name, images=1)
    data = case.data(values)

    def output(*leaves: Tensor) -> Tensor:
        return case.output(model, values | dict(zip(data, leaves, strict=True)))

    jacobians = torch.autograd.functional.jacobian(output, tuple(data.values()))
    dense = {key: J.reshape(lin.output.numel(), -1) for key, J in zip(data, jacobians, strict=True)}
    whole = torch.cat(list(dense.values()), 1)
    torch.testing.assert_close(lin.matrix(), whole, **EXACT)
    torch.testing.assert_close(torch.from_numpy(lin.matrix(format="csr").toarray()), whole, **EXACT)
    g = torch.randn(lin.output.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for key, J in dense.items():
        start = lin.graph.inputs.nodes[key]
        torch.testing.assert_close(lin.jacobian(start=start).dense(), J, **EXACT)
        moved = lin.forward(values[key], start=start).flatten()
        torch.testing.assert_close(moved, J @ values[key].flatten(), **EXACT)
        torch.testing.assert_close(lin.adjoint(g, start=start).flatten(), J.T @ g.flatten(), **EXACT)
    together = lin.forward(data if len(data) > 1 else next(iter(data.values())))
    torch.testing.assert_close(together.flatten(), whole @ row(data).flatten(), **EXACT)


@every_case
def test_each_image_of_a_batch_is_explained_as_it_is_alone(name: str) -> None:
    case, _, graph = traced(name)
    values = case.values(4, 7)
    lin = graph.linearize(case.given(values))
    ledger = lin.ledger(0)
    for n in range(4):
        alone = graph.linearize(case.given(case.one(values, n)))
        torch.testing.assert_close(alone.output[0], lin.output[n], **EXACT)
        other = alone.ledger(0)
        assert other.labels == ledger.labels
        for label, share in ledger.by_channel().items():
            torch.testing.assert_close(other[label].channels[0], share[n], **EXACT)
        for node in graph.nodes:  # an operator's matrices are those of its image
            pairs = zip(lin.frozen[node.name].sparse(n), alone.frozen[node.name].sparse(), strict=True)
            assert all(abs(ours - theirs).max() < 1e-12 for ours, theirs in pairs), node


@every_case
def test_the_split_is_that_of_one_row(name: str) -> None:
    """Masks, scores and maps are those of a network of one input, made by laying the data in a row."""
    case, model, graph = traced(name)
    values = case.values(4, 3)
    sites = dmbp.find_sites(graph)
    options = dmbp.Options(iterations=25, sites=[f"model.{site}" for site in sites])
    result = dmbp.explain(graph, case.given(values), 1, iterations=25, progress=False)
    assert tuple(result.masks) == sites
    for n in range(4):
        one = case.one(values, n)
        network = Rowed(case, case.alike(model), one).eval()
        twin = dmbp.explain(network, row(case.data(one)), 1, options=options, progress=False)
        for mask, other in zip(result.masks.values(), twin.masks.values(), strict=True):
            torch.testing.assert_close(mask[n], other[0], rtol=0, atol=1e-9)
        for part, score in result.scores.items():
            torch.testing.assert_close(score[n], twin.scores[part][0], rtol=0, atol=1e-8)
        maps = result.attribution if len(case.data(one)) > 1 else {"": result.attribution}
        flat = torch.cat([a[n].flatten() for a in maps.values()])
        torch.testing.assert_close(flat, twin.attribution[0], rtol=0, atol=1e-8)


@every_case
@pytest.mark.parametrize("unmasked", ["nuisance", "both"])
def test_any_masks_split_the_score_exactly(name: str, unmasked: str) -> None:
    _, _, lin, _ = linearized(name)
    g = torch.Generator().manual_seed(2)
    masks = {
        site: torch.rand(5, *lin.graph.shape(site), dtype=torch.float64, generator=g)
        for site in dmbp.find_sites(lin.graph)
    }
    split = dmbp.decompose(lin, masks, 1, unmasked)
    size = sum(split.ledger(line).magnitude for line in ("y", "positive", "negative", "unmasked"))
    assert_within(split.error, torch.zeros(5), size)
    for line in ("positive", "negative", "nuisance"):
        ledger, complete = split.ledger(line), split.complete(line)
        assert_within(ledger.total, split.scores[line], size)
        assert_within(complete.total, split.scores[line], size)


# ---- what fixed inputs give ----


def test_a_fixed_inputs_share_stands_under_its_name() -> None:
    """The label's own share is what its embedding adds to the score: the gradient by it, times it."""
    _case, model, lin, values = linearized("class")
    ledger = lin.ledger(1)
    own = model.offset.weight[values["label"], 1]
    shares = {
        label: term.total for label, term in zip(ledger.labels, ledger.terms, strict=True) if term.name == "label"
    }
    assert len(shares) == 2  # the shift of the features, and the offset of the score
    last = next(share for label, share in reversed(shares.items()))
    torch.testing.assert_close(last, own.detach(), **EXACT)
    scale, shift = model.film(model.embedding(values["label"])).chunk(2, 1)
    shift = shift.detach().requires_grad_()
    y = (model.head(torch.relu(model.features(values["x"]) * scale + shift)) + own[:, None] * 0)[:, 1].sum()
    (grad,) = torch.autograd.grad(y, shift)
    torch.testing.assert_close(next(iter(shares.values())), (grad * shift).sum(1).detach(), **EXACT)


def test_a_bound_graph_takes_data_alone() -> None:
    case, model, graph = traced("graph")
    values = case.values(3, 8)
    bound = graph.bind({name: values[name] for name in case.fixed})
    assert list(bound.inputs) == ["nodes", "extra"] and not bound.inputs.fixed
    expected = case.output(model, values).detach()
    torch.testing.assert_close(bound(case.data(values)), expected, **EXACT)
    torch.testing.assert_close(bound(row(case.data(values))), expected, **EXACT)
    torch.testing.assert_close(bound.to_module()(*case.data(values).values()), expected, **EXACT)
    assert bound.linearize(case.data(values)).inputs.keys() == values.keys()
    for few in (case.data(case.values(2, 8)), row(case.data(case.values(2, 8)))):
        with pytest.raises(LinregError, match="bound to the fixed inputs of 3 images, and is given 2"):
            bound.linearize(few)
    with pytest.raises(LinregError, match="fixed inputs of this network are 'adjacency', 'bias', not 'bias'"):
        graph.bind({"bias": values["bias"]})


def test_an_input_that_leads_nowhere_weighs_nothing() -> None:
    class First(nn.Module):
        def forward(self, x: Tensor, other: Tensor) -> Tensor:
            return torch.relu(x) + 1

    x, other = torch.ones(2, 3), torch.ones(2, 1, 4, 4)
    lin = linreg.trace(First(), (x, other)).linearize((x, other))
    assert lin.weight(0)["other"].eq(0).all() and lin.weight(0)["x"][:, 0].eq(1).all()
    assert lin.ledger(0).complete().total.tolist() == [2, 2]
    lin.graph.draw()
    with pytest.raises(LinregError, match="no path leads from 'other'"):
        lin.forward(other, start="other")


def test_one_fixed_value_serves_all_images() -> None:
    case, model, graph = traced("mask")
    values = case.values(4, 1)
    values["mask"] = values["mask"][:1]
    lin = graph.linearize(case.given(values))
    torch.testing.assert_close(lin.output, model(values["x"], values["mask"].expand(4, -1)).detach(), **EXACT)


def test_inputs_are_told_by_name() -> None:
    _, _, lin, values = linearized("lengths")
    assert list(lin.inputs) == ["x", "lengths"]
    assert all(torch.equal(lin.inputs[name], value) for name, value in values.items())
    graph = traced("image and table")[2]
    assert {name: entry.shape for name, entry in graph.inputs.items()} == {"image": (1, 8, 8), "table": (5,)}
    assert graph["table"].shape == (5,) and graph.input_shape == (69,)
    assert repr(graph).startswith("OperatorGraph(image (N, 1, 8, 8); table (N, 5) to 'head.2'")


def test_one_tensor_is_called_input_as_ever() -> None:
    model, x = CASES["class"].model(0).features, torch.ones(2, 5, dtype=torch.float64)
    alone, named = linreg.trace(model, x), linreg.trace(model, {"input": x})
    assert list(alone.inputs) == ["input"] and alone.summary() == named.summary()
    assert torch.equal(alone.linearize(x).weight(0), named.linearize({"input": x}).weight(0))


def test_what_is_one_for_all_images_may_be_as_long_as_the_batch() -> None:
    """Its size alone does not tell: the index of two columns, traced with two images; a mask of three, with three."""

    class Columns(nn.Module):
        def forward(self, x: Tensor, index: Tensor, on: Tensor) -> Tensor:
            return torch.relu(x)[:, index] * on[index] + (x * on).sum(1, keepdim=True)

    index, on = torch.tensor([2, 0]), torch.tensor([True, False, True])
    for images in (2, 3):
        x = torch.randn(images, 3)
        graph = linreg.trace(Columns(), (x, index, on), fixed=("index", 2))
        assert graph.batch is None and not any(entry.each for entry in graph.inputs.fixed)
        x = torch.randn(4, 3)
        torch.testing.assert_close(graph((x, index, on)), Columns()(x, index, on))


@pytest.mark.parametrize(
    "function",
    [
        lambda x, c: torch.cat([x, c], 1),
        lambda x, c: torch.stack([x, c], 1).flatten(1),
        lambda x, c: torch.where(c > 0, x, c),
        lambda x, c: c - x,
        lambda x, c: torch.lerp(x, c, 0.25),
        lambda x, c: c.type_as(x) + x,
        lambda x, c: torch.cat([x, c.sort(1).values.tanh()], 1) * torch.cat([c, c], 1),
    ],
)
def test_wherever_a_fixed_input_enters_its_share_has_its_name(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Without a bias, all that is not of the data is of the fixed input."""

    class Network(nn.Module):
        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            return function(torch.relu(x), c)

    x, c = (torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    lin = linreg.trace(Network(), (x, c), fixed="c").linearize((x, c))
    w = torch.ones_like(lin.output)
    ledger = lin.ledger(w)
    leaf = x.clone().requires_grad_()
    y = function(torch.relu(leaf), c).sum(1)
    (grad,) = torch.autograd.grad(y.sum(), leaf)
    assert {term.name for term in ledger.terms} == {"c"}
    assert_within(ledger.bias_share, (y - (grad * x).sum(1)).detach(), ledger.magnitude)


def test_graphs_of_fixed_inputs_pickle() -> None:
    for name in ("lengths", "thresholds", "class"):
        case, model, graph = traced(name)
        values = case.values(2, 9)
        copy = pickle.loads(pickle.dumps(graph))
        torch.testing.assert_close(copy(case.given(values)), case.output(model, values).detach(), **EXACT)


# ---- pictures and places ----


def test_places_are_those_of_the_picture_alone() -> None:
    model = Fusion().double().eval()
    x = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    graph = linreg.trace(model, (x, torch.ones(1, 5, dtype=torch.float64)))
    alone = linreg.trace(model.image, x)
    for node in alone.nodes:
        found, expected = graph.geometry(f"image.{node.name}", "image"), alone.geometry(node.name)
        assert (found.stride, found.offset, found.extent) == (expected.stride, expected.offset, expected.extent)
        assert not graph.geometry(f"image.{node.name}", "table").placed
    with pytest.raises(LinregError, match="views"):
        graph.geometry("image.1")
    with pytest.raises(LinregError, match="no input 'mask'"):
        graph.geometry("image.1", "mask")


def test_the_complete_map_of_a_picture_beside_a_table_is_that_of_the_picture_alone() -> None:
    """The table held as a constant: what it gives has no place on the picture, and all else is as it is."""

    class Alone(nn.Module):
        def __init__(self, model: nn.Module, table: Tensor) -> None:
            super().__init__()
            self.model = model
            self.register_buffer("table", table)

        def forward(self, image: Tensor) -> Tensor:
            return self.model(image, self.table)

    _case, model, lin, values = linearized("image and table", images=1)
    found = lin.ledger(2).complete()
    twin = Alone(model, values["table"]).eval()
    expected = linreg.trace(twin, values["image"]).linearize(values["image"]).ledger(2).complete()
    torch.testing.assert_close(found.map["image"], expected.map, **EXACT)
    assert_within(found.total, lin.score(2), lin.ledger(2).magnitude)
    torch.testing.assert_close(found.map["table"], summed(lin.ledger(2).by_input()["table"]), **EXACT)


def test_a_constant_that_lies_on_two_pictures_is_shared_evenly() -> None:
    _case, _, lin, _ = linearized("two images")
    ledger = lin.ledger(0)
    maps = ledger.complete()
    label = "head.bias"
    assert ledger[label].views.keys() == {"left", "right"}
    for key in maps:
        torch.testing.assert_close(summed(maps[key].layer("head")), ledger[label].total / 2, **EXACT)
    assert set(maps["left"].placed) & set(maps["right"].placed) == {"head"}
    assert_within(maps.total, lin.score(0), ledger.magnitude)


# ---- explanations, many and saved ----


def test_an_explanation_is_saved_whole(tmp_path: Path) -> None:
    case, _, graph = traced("graph")
    values = case.values(2, 4)
    result = dmbp.explain(graph, values, 1, iterations=4, snapshots=(0, 2), progress=False)
    arrays = result.arrays()
    assert {"attribution/nodes", "attribution/extra", "fixed/bias", "snapshot/2/nodes"} <= arrays.keys()
    assert "attribution" not in arrays
    loaded = dmbp.load(result.save(tmp_path / "why.npz"))
    again = loaded.arrays()
    assert again.keys() == arrays.keys() and all((again[k] == arrays[k]).all() for k in arrays)
    assert loaded.summary() == result.summary() and repr(loaded) == repr(result)
    for name, value in values.items():
        assert torch.equal(loaded.inputs[name], value)
    whole = sum(summed(a) for a in result.attribution.values())
    biases = result.shares["positive"].bias_share + result.shares["negative"].bias_share
    size = abs(whole) + abs(biases) + 1
    assert_within(whole + biases, result.scores["positive"] + result.scores["negative"], size)


def test_a_fixed_input_beside_one_of_data_leaves_maps_as_tensors(tmp_path: Path) -> None:
    case, _, graph = traced("lengths")
    values = case.values(3, 4)
    result = dmbp.explain(graph, values, 1, iterations=2, progress=False)
    assert result.attribution.shape == values["x"].shape
    loaded = dmbp.load(result.save(tmp_path / "why.npz"))
    assert torch.equal(loaded.attribution, result.attribution)
    assert {k: v.tolist() for k, v in loaded.inputs.items()} == {k: v.tolist() for k, v in values.items()}


@pytest.mark.parametrize("name", ["image and table", "graph", "lengths"])
def test_many_images_are_explained_as_one_is(name: str, tmp_path: Path) -> None:
    case, model, graph = traced(name)
    values = case.values(5, 6)
    expected = dmbp.explain(graph, values, 1, iterations=3, progress=False)
    runs = [
        dmbp.explain_all(model, values, 1, fixed=case.fixed, iterations=3, batch_size=2, progress=False, out=tmp_path),
        dmbp.explain_all(model, values, 1, fixed=case.fixed, iterations=3, batch_size=2, progress=False, out=tmp_path),
    ]
    if not case.shared:
        rows = ({key: value[n] for key, value in values.items()} for n in range(5))
        runs.append(dmbp.explain_all(graph, rows, 1, iterations=3, progress=False))
    for run in runs:
        found = list(run)
        assert len(found) == 5
        for n, one in enumerate(found):
            maps = (one.attribution, expected.attribution), (one.complete, expected.complete)
            for ours, theirs in maps:
                theirs = {k: v[n] for k, v in theirs.items()} if isinstance(theirs, dict) else theirs[n]
                torch.testing.assert_close(ours, theirs, **EXACT)


def test_what_is_one_for_all_may_be_as_long_as_the_images_are_many() -> None:
    """Of a module too: what its size alone does not tell, the network does. Lengths of the images stay their own."""

    class Columns(nn.Module):
        def forward(self, x: Tensor, on: Tensor) -> Tensor:
            return torch.relu(x) @ torch.diag(on) + x.sum(1, keepdim=True)

    class Lengths(nn.Module):
        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            return torch.relu(x) * (torch.arange(3) < lengths[:, None]) + x.sum(1, keepdim=True)

    x = torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double()
    for model, fixed in ((Columns(), torch.tensor([1.0, 0.5, 2.0]).double()), (Lengths(), torch.tensor([1, 3, 2]))):
        expected = model(x, fixed)[:, 1].tolist()
        for batch_size in (2, 3):
            name = "on" if isinstance(model, Columns) else "lengths"
            given = {"x": x, name: fixed}
            found = list(
                dmbp.explain_all(model, given, 1, fixed=name, iterations=2, batch_size=batch_size, progress=False)
            )
            assert [one.y for one in found] == pytest.approx(expected)


def test_each_input_is_drawn() -> None:
    case, _model, graph = traced("two images")
    values = case.values(1, 2)
    result = dmbp.explain(graph, case.given(values), 1, iterations=2, progress=False)
    titles = [ax.get_title() for ax in result.plot().axes]
    assert titles.count("attribution a") == 2 and {"left", "right"} <= set(titles)
    case, _, graph = traced("image and table")
    result = dmbp.explain(graph, case.values(1, 2), 1, iterations=2, progress=False)
    titles = [ax.get_title() for ax in result.plot().axes]
    assert titles.count("attribution a") == 2 and {"image", "table: positive ∇⁺ ⊙ x"} <= set(titles)


# ---- refusals ----


def test_what_does_not_fit_is_said() -> None:
    model, x, table = Fusion().double(), torch.ones(2, 1, 8, 8).double(), torch.ones(2, 5).double()
    for given, fixed, why in (
        ((x, table), "mask", "there is no input 'mask' to be fixed: the model is given 'image', 'table'"),
        ((x, table), 2, "there is no input 2 to be fixed"),
        ((x, table), (0, 1), "all inputs are fixed, 'image', 'table'"),
        ((x, table[:1]), None, "same number of images, one for one; they hold: 'image' 2, 'table' 1"),
        ({"image": x, "tabel": table}, None, "must take 'image', 'tabel' by name .*table"),
        ((x, table, x), None, "too many positional arguments"),
        ((x, None), None, "each input must be a torch.Tensor, not NoneType"),
        ((x, table.long()), None, "the input 'table' must be a floating-point tensor .*fixed='table'"),
        ((x, table.float()), None, "torch.float32"),
        ((x, table * torch.nan), "table", "the fixed input 'table' holds NaN"),
        ((), None, "the example is empty"),
    ):
        with pytest.raises(LinregError, match=why):
            linreg.trace(model, given, fixed=fixed)
    graph = linreg.trace(model, (x, table))
    for given, why in (
        (x, "takes 2 inputs, 'image', 'table': give a tuple .*not one tensor"),
        ((x,), "not one tensor|not 1 of them"),
        ({"image": x}, "these differ: 'table'"),
        ((x, table[:1]), "'image' 2, 'table' 1"),
        ((x, table[:, :4]), r"the input 'table' must have shape \(N, 5\), not \(2, 4\)"),
        ((x, table * torch.inf), "the input 'table' holds NaN or infinite values"),
    ):
        with pytest.raises(LinregError, match=why):
            graph.linearize(given)
    with pytest.raises(LinregError, match="fixed= where it is traced"):
        dmbp.explain(graph, (x, table), 0, fixed="table")


def test_some_in_order_and_the_rest_by_name(tmp_path: Path) -> None:
    """(x, {"mask": m}) is what a dict of all of them is, for the graph, its linearization and an explanation."""

    class Weighed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor, *, other: Tensor, mask: Tensor) -> Tensor:
            return self.head(torch.relu(self.layer(x * mask) - self.layer(other)))

    torch.manual_seed(5)
    model, x, other = Weighed().double(), torch.randn(3, 4).double(), torch.randn(3, 4).double()
    mask = torch.rand(3, 4) > 0.3
    mixed, named = (x, {"mask": mask, "other": other}), {"x": x, "other": other, "mask": mask}
    graph = linreg.trace(model, mixed, fixed="mask")
    torch.testing.assert_close(graph(mixed), model(x, other=other, mask=mask), rtol=1e-12, atol=1e-12)
    lin, same = graph.linearize(mixed), graph.linearize(named)
    leaf = {"x": x.clone().requires_grad_(), "other": other.clone().requires_grad_()}
    grads = torch.autograd.grad(model(leaf["x"], other=leaf["other"], mask=mask)[:, 1].sum(), list(leaf.values()))
    for name, grad in zip(leaf, grads, strict=True):
        torch.testing.assert_close(lin.weight(1)[name], grad, rtol=1e-12, atol=1e-12)
        assert torch.equal(lin.weight(1)[name], same.weight(1)[name])
    result = dmbp.explain(model, mixed, 1, fixed="mask", iterations=2, progress=False)
    assert set(result.attribution) == {"x", "other"} and torch.equal(result.inputs["mask"], mask)
    with pytest.raises(LinregError, match=r"in order and 'mask' by name \(missing a required"):
        linreg.trace(model, (x, {"mask": mask}))
    with pytest.raises(LinregError, match="these differ: 'others'"):
        graph((x, {"others": other, "other": other, "mask": mask}))


def test_a_class_that_does_not_exist_is_said() -> None:
    case, _, graph = traced("class")
    values = case.values(2, 1)
    values["label"][1] = 4
    with pytest.raises(LinregError, match="cannot take this fixed input, label: embedding: index out of range"):
        graph.linearize(values)


def test_a_size_that_fixed_values_decide_is_refused() -> None:
    class Chosen(nn.Module):
        def forward(self, x: Tensor, keep: Tensor) -> Tensor:
            return x[:, keep].sum(1, keepdim=True)

    with pytest.raises(LinregError, match="its size depends on the values of a fixed input"):
        linreg.trace(Chosen(), (torch.ones(2, 3), torch.tensor([True, False, True])), fixed="keep")


def test_a_fixed_input_that_mixes_the_images_is_refused() -> None:
    class Mixed(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return torch.relu(x) * (mask - mask.mean(0))

    with pytest.raises(LinregError, match="mixes the images"):
        linreg.trace(Mixed(), (torch.randn(4, 3), torch.randn(4, 3)), fixed="mask")


def test_the_model_keeps_its_inputs() -> None:
    """It may write to what it is given: it is given copies."""

    class Writes(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            mask[:, 0] = 0
            x += 1
            return (x * mask).sum(1, keepdim=True)

    x, mask = torch.ones(2, 3), torch.ones(2, 3, dtype=torch.long)
    graph = linreg.trace(Writes(), (x, mask), fixed="mask")
    assert graph((x, mask)).tolist() == [[4.0], [4.0]]
    assert x.eq(1).all() and mask.eq(1).all()


def test_siamese_encoders_are_nodes_of_their_own() -> None:
    graph = linreg.trace(Siamese().eval(), (torch.ones(1, 1, 8, 8), torch.ones(1, 1, 8, 8)))
    assert {"encoder.2", "encoder.2@1"} <= set(dmbp.find_sites(graph))
