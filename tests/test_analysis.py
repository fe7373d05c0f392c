"""What the masks say, site by site, against loops, enumeration of sign patterns, and P evaluated with masks changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cache, reduce
from itertools import product
from math import isnan, nan

import numpy as np
import pytest
import torch
from approx import assert_within
from literal import layers
from matplotlib.figure import Figure
from nets import NETS, traced
from splits import Masks, random_masks
from torch import Tensor, nn

import dmbp
import linreg
from dmbp import analysis
from dmbp.analysis import PARTITIONS, SiteMask
from dmbp.plot import DIVERGING
from dmbp.plot import mask_pictures as sheets

TARGET = [0, 2, 1]
EXACT = 1e-12
SPLITS = [(name, sites) for name in NETS for sites in ("gates", "blocks")]


@cache
def learned(name: str, iterations: int = 5) -> dmbp.Result:
    return dmbp.explain(traced(name).graph, traced(name).x, TARGET, iterations=iterations, progress=False)


def site(sigma: list, *, initial: list | None = None, closed: list | None = None) -> SiteMask:
    """A site by hand, all units read."""
    values = np.array(sigma)
    start = np.full(values.shape, 0.5) if initial is None else np.array(initial)
    shut = np.zeros(values.shape, bool) if closed is None else np.array(closed, bool)
    return SiteMask("site", values, start, shut, np.zeros(values.shape, bool))


# ---- which units learn ----


@pytest.mark.parametrize("name", NETS)
def test_live_units_move_and_no_others(name: str) -> None:
    result = learned(name)
    for image in range(3):
        for mask in analysis.site_masks(result, image):
            assert np.array_equal(mask.sigma != mask.initial, mask.live), mask.site
            assert not (mask.closed & mask.unread).any()


def explained(model: nn.Module, x: Tensor) -> dmbp.Result:
    return dmbp.explain(model.double().eval(), x.double(), [0], iterations=3, progress=False)


def test_a_saturated_unit_learns_and_a_closed_one_does_not() -> None:
    """At z = −1, 2, 9 ReLU6 gives 0, 2, 6: only the first is closed, though two have slope 0."""
    first, last = nn.Linear(1, 3), nn.Linear(3, 1)
    with torch.no_grad():
        first.bias.copy_(torch.tensor([-1.0, 2.0, 9.0]))
        first.weight.zero_()
        last.weight.fill_(1.0)
    result = explained(nn.Sequential(first, nn.ReLU6(), last), torch.ones(1, 1))
    (mask,) = analysis.site_masks(result)
    assert result.split.lin.frozen["1"].slope.tolist() == [[0, 1, 0]]
    assert mask.closed.tolist() == [True, False, False]
    assert not mask.unread.any()
    assert (mask.sigma != mask.initial).tolist() == [False, True, True]


def test_a_leaky_unit_is_never_closed() -> None:
    masks = {mask.site: mask for mask in analysis.site_masks(learned("gates"))}
    assert not masks["leaky"].closed.any()
    assert (traced("gates").lin.frozen["leaky"].slope[0] == 0.1).any()


def test_what_a_max_pool_leaves_behind_is_unread() -> None:
    model = nn.Sequential(nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(2, 1))
    result = explained(model, torch.tensor([[[1.0, 3.0, -1.0, 2.0]]]))
    (mask,) = analysis.site_masks(result)
    assert mask.closed.tolist() == [[False, False, True, False]]
    assert mask.unread.tolist() == [[True, False, False, False]]
    assert mask.live.tolist() == [[False, True, False, True]]


def test_a_sum_has_no_closed_units() -> None:
    lin = traced("residual_outer").lin
    result = dmbp.explain(lin.graph, lin.input, TARGET, iterations=1, sites="blocks", progress=False)
    sums = [mask for mask in analysis.site_masks(result) if not lin.graph[mask.site].is_gate]
    assert sums and not any(mask.closed.any() for mask in sums)


# ---- where they lean ----


def test_leans_by_hand() -> None:
    """Of six units one is closed; 0.55 and 0.45 are still undecided."""
    mask = site([0.9, 0.55, 0.45, 0.1, 0.2, 0.0], closed=[0, 0, 0, 0, 0, 1])
    (lean,) = analysis.leans([mask], tolerance=0.0500001)
    assert (lean.units, lean.closed, lean.unread, lean.live) == (6, 1, 0, 5)
    assert (lean.positive, lean.negative, lean.undecided) == (0.2, 0.4, 0.4)
    assert lean.mean == pytest.approx(2.2 / 5)
    (sharp,) = analysis.leans([mask], tolerance=0.01)
    assert (sharp.positive, sharp.negative, sharp.undecided) == (0.4, 0.6, 0)


def test_a_site_without_live_units_has_no_shares() -> None:
    mask = site([[0.9], [0.1]], closed=[[1], [1]])
    (lean,), (drift,) = analysis.leans([mask]), analysis.drifts([mask])
    assert lean.live == drift.live == 0
    assert all(map(isnan, (lean.positive, lean.negative, lean.undecided, lean.mean, drift.mean, drift.largest)))
    assert np.isnan(mask.channel_means()).all()
    assert not mask.histogram().any()


def test_histogram_counts_live_units_and_has_a_bin_around_one_half() -> None:
    mask = site([0.0, 0.5, 0.5, 1.0, 0.5], closed=[0, 0, 0, 0, 1])
    counts = mask.histogram(5)
    assert counts.tolist() == [1, 0, 2, 0, 1]
    for found in analysis.site_masks(learned("conv_bn")):
        assert found.histogram().sum() == found.live.sum()


def test_channel_means_and_pictures_are_means_over_live_units() -> None:
    (mask, *_) = analysis.site_masks(learned("pools"))
    channels, height, width = mask.sigma.shape
    means, picture = mask.channel_means(), mask.picture()
    assert means.shape == (channels,) and picture.shape == (height, width)

    def mean(values: list[float]) -> float:
        return sum(values) / len(values) if values else nan

    for c in range(channels):
        places = [at for at in product(range(height), range(width)) if mask.live[(c, *at)]]
        assert means[c] == pytest.approx(mean([mask.sigma[(c, *at)] for at in places]), nan_ok=True)
    for at in product(range(height), range(width)):
        expected = mean([mask.sigma[(c, *at)] for c in range(channels) if mask.live[(c, *at)]])
        assert picture[at] == pytest.approx(expected, nan_ok=True)
    assert np.isnan(picture).any() and not np.isnan(picture).all()


def test_a_site_without_positions_makes_no_picture() -> None:
    (mask, *_) = analysis.site_masks(learned("chain"))
    assert np.array_equal(mask.channel_means()[mask.live], mask.sigma[mask.live])
    with pytest.raises(dmbp.DmbpError, match=r"site '1' has shape \(8,\): only \(C, H, W\)"):
        mask.picture()


# ---- drift ----


def test_drifts_by_hand() -> None:
    mask = site([0.9, 0.5, 0.2, 0.7, 0.6], initial=[0.5, 0.9, 0.8, 0.8, 0.0], closed=[0, 0, 0, 0, 1])
    (drift,) = analysis.drifts([mask])
    assert (drift.live, drift.decided, drift.undone, drift.crossed) == (4, 1, 1, 1)
    assert drift.mean == pytest.approx((0.4 + 0.4 + 0.6 + 0.1) / 4)
    assert drift.largest == pytest.approx(0.6)


def test_masks_of_earlier_iterations_give_the_drift_over_time() -> None:
    """A shorter run is the beginning of a longer one: its masks are snapshots."""
    last, steps = learned("conv_bn", 8), (0, 2, 5, 8)
    found = {}
    for step in steps:
        earlier = learned("conv_bn", step)
        found[step] = analysis.drifts(analysis.site_masks(last, 1, earlier.masks))
        assert found[step] == analysis.drifts(analysis.site_masks(earlier, 1))
    means = np.array([[drift.mean for drift in found[step]] for step in steps])
    assert (means[0] == 0).all() and (np.diff(means[:2], axis=0) > 0).all()


def test_masks_that_are_not_those_of_the_sites_are_refused() -> None:
    result = learned("conv_bn")
    with pytest.raises(dmbp.DmbpError, match="the masks must be those of the sites: 2, 5, 9"):
        analysis.site_masks(result, masks={"2": result.masks["2"]})
    with pytest.raises(dmbp.DmbpError, match="must have shape"):
        analysis.site_masks(result, masks={**result.masks, "2": result.masks["5"]})


# ---- agreement ----


def test_an_explanation_agrees_with_itself_and_not_with_its_mirror_image() -> None:
    masks = analysis.site_masks(learned("residual_inner"))
    mirrored = [replace(mask, sigma=1 - mask.sigma) for mask in masks]
    for same, opposite in zip(analysis.agreements(masks, masks), analysis.agreements(masks, mirrored), strict=True):
        assert same.common == opposite.common > 0
        assert same.opposite == opposite.same == 0
        assert same.same == opposite.opposite
        assert same.same + same.undecided == pytest.approx(1)
        assert (same.correlation, opposite.correlation) == (pytest.approx(1), pytest.approx(-1))


def test_agreement_is_over_units_live_in_both() -> None:
    first = site([0.9, 0.8, 0.1, 0.5, 0.7], closed=[0, 0, 0, 0, 1])
    second = site([0.6, 0.1, 0.2, 0.9, 0.7], closed=[1, 0, 0, 0, 0])
    (found,) = analysis.agreements([first], [second])
    assert found.common == 3
    assert (found.same, found.opposite, found.undecided) == (pytest.approx(1 / 3),) * 3
    ranks = [2, 0, 1], [0, 1, 2]  # of (0.8, 0.1, 0.5) and (0.1, 0.2, 0.9)
    assert found.correlation == pytest.approx(np.corrcoef(*ranks)[0, 1])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (site([0.1, 0.9], closed=[1, 0]), site([0.1, 0.9], closed=[0, 1])),
        (site([0.1, 0.9], closed=[1, 0]), site([0.1, 0.9])),
        (site([0.5, 0.5]), site([0.1, 0.9])),
    ],
    ids=["nothing in common", "one unit", "constant"],
)
def test_no_rank_correlation_where_there_is_none(first: SiteMask, second: SiteMask) -> None:
    (found,) = analysis.agreements([first], [second])
    assert isnan(found.correlation)
    assert isnan(found.same) == (found.common == 0)


def test_two_images_of_one_batch_are_compared_and_two_networks_are_not() -> None:
    first, second = (analysis.site_masks(learned("conv_bn"), image) for image in (0, 1))
    for record, a, b in zip(analysis.agreements(first, second), first, second, strict=True):
        assert record.common == (a.live & b.live).sum() < a.live.size
    with pytest.raises(dmbp.DmbpError, match=r"same sites: '2' has shape \(4, 6, 6\) in one and none in the other"):
        analysis.agreements(first, analysis.site_masks(learned("chain")))


# ---- what the sites carry ----


@pytest.mark.parametrize(("name", "sites"), SPLITS)
@pytest.mark.parametrize("unmasked", ["nuisance", "both"])
def test_sites_and_remainder_sum_to_each_part(name: str, sites: str, unmasked: str) -> None:
    lin = traced(name).lin
    split = dmbp.decompose(lin, random_masks(lin, sites), TARGET, unmasked)
    for image in range(3):
        found = analysis.carries(split, image)
        u = split.unmasked[image].item()
        assert found.remainder == ((0, 0, u) if unmasked == "nuisance" else (u, u, -u))
        for part, column, rest in zip(("positive", "negative", "nuisance"), PARTITIONS, found.remainder, strict=True):
            total = sum(getattr(carry, column) for carry in found.sites) + rest
            assert_within(total, getattr(split, part)[image], found.magnitude)
        assert found.error <= EXACT * found.magnitude
        for carry in found.sites:
            assert_within(carry.nuisance, carry.from_positive + carry.from_negative, found.magnitude)


@pytest.mark.parametrize(("name", "sites"), SPLITS)
def test_each_part_is_a_difference_of_masked_networks(name: str, sites: str) -> None:
    """With σ, 1 − σ, 0 or 1 in each place before l, at l and after l, P and inclusion–exclusion give every part."""
    lin = traced(name).lin
    masks = random_masks(lin, sites)
    ones, none = ({s: torch.full_like(m, value) for s, m in masks.items()} for value in (1.0, 0.0))
    other = {s: 1 - m for s, m in masks.items()}
    split = dmbp.decompose(lin, masks, TARGET)
    found = [analysis.carries(split, image) for image in range(3)]
    names = list(masks)

    def through(l: int, before: Mapping[str, Tensor], at: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Tensor:
        """P of the paths that pass site l."""
        base = {s: (before if i < l else after)[s] for i, s in enumerate(names)}
        with_it, without = ({**base, names[l]: sigma[names[l]]} for sigma in (at, none))
        return dmbp.masked(lin, with_it).score(TARGET) - dmbp.masked(lin, without).score(TARGET)

    for l in range(len(names)):
        expected = {
            "positive": through(l, masks, masks, masks),
            "negative": through(l, other, other, other),
            "first_positive": through(l, none, masks, masks),
            "first_negative": through(l, none, other, other),
            "from_positive": through(l, masks, other, ones) - through(l, none, other, ones),
            "from_negative": through(l, other, masks, ones) - through(l, none, masks, ones),
        }
        for part, values in expected.items():
            for carries, value in zip(found, values, strict=True):
                assert_within(getattr(carries.sites[l], part), value, lin.ledger(TARGET).magnitude.max())


def enumerated(model: nn.Module, lin: linreg.Linearization, masks: Masks) -> dict[tuple[str, int], Tensor]:
    """Every path of a chain, by kind: ("+", first site), ("-", first site) or ("~", site of the first disagreement)."""
    assert isinstance(model, nn.Sequential)
    *hidden, (w, _) = layers(model)
    x, h = lin.input[0], lin.input[0]
    steps, biases = [], []
    for (weight, bias), mask in zip(hidden, masks.values(), strict=True):
        gate = torch.diag((weight @ h + bias > 0).to(x))
        h = gate @ (weight @ h + bias)
        signs = {"+": torch.diag(mask[0]) @ gate, "-": torch.diag(1 - mask[0]) @ gate}
        steps.append({sign: m @ weight for sign, m in signs.items()})
        biases.append({sign: m @ bias for sign, m in signs.items()})
    sums: dict[tuple[str, int], Tensor] = {}
    for first, signs in ((l, s) for l in range(len(steps)) for s in product("+-", repeat=len(steps) - l)):
        value = biases[first][signs[0]] + (steps[0][signs[0]] @ x if first == 0 else 0)
        value = reduce(lambda v, step: step[0][step[1]] @ v, zip(steps[first + 1 :], signs[1:], strict=True), value)
        turn = next((i for i, sign in enumerate(signs) if sign != signs[0]), None)
        kind = (signs[0], first) if turn is None else ("~", first + turn)
        sums[kind] = sums.get(kind, torch.zeros(len(w)).double()) + w @ value
    return sums


@pytest.mark.parametrize("name", ["chain", "chain_with_biases"])
def test_carries_are_sums_over_sign_patterns(name: str) -> None:
    """The 2^L − 2 mixed patterns, grouped by the first sign that differs; L = 3, and a bias meets the later sites."""
    graph, x = traced(name).graph, traced(name).x[:1]
    lin = graph.linearize(x)
    masks = random_masks(lin, seed=1)
    sums = enumerated(traced(name).model, lin, masks)
    for target in range(3):
        found = analysis.carries(dmbp.decompose(lin, masks, target)).sites
        size = lin.ledger(target).magnitude
        zero = torch.zeros(3)
        for l, carry in enumerate(found):
            assert_within(carry.nuisance, sums.get(("~", l), zero)[target], size)
            for sign, side in (("+", "positive"), ("-", "negative")):
                assert_within(getattr(carry, f"first_{side}"), sums[sign, l][target], size)
                assert_within(getattr(carry, side), sum(sums[sign, k][target] for k in range(l + 1)), size)


def test_without_biases_every_layer_of_a_chain_carries_all() -> None:
    lin = traced("chain").lin
    split = dmbp.decompose(lin, random_masks(lin), TARGET)
    found = analysis.carries(split, 1)
    assert found.sites[0].nuisance == 0  # one sign cannot disagree
    for carry in found.sites:
        assert_within(carry.positive, split.positive[1], found.magnitude)
        assert_within(carry.negative, split.negative[1], found.magnitude)


def test_an_image_that_is_not_there_is_refused() -> None:
    for image in (3, -1):
        with pytest.raises(dmbp.DmbpError, match=f"there is no image {image}: the batch has 3"):
            analysis.site_masks(learned("chain"), image)
        with pytest.raises(dmbp.DmbpError, match=f"there is no image {image}"):
            analysis.carries(learned("chain").split, image)


# ---- tables and figures ----


def test_tables_have_a_line_for_each_site_and_dashes_for_nothing() -> None:
    masks = (*analysis.site_masks(learned("chain")), site([0.9], closed=[1]))
    for records in (analysis.leans(masks), analysis.drifts(masks), analysis.agreements(masks, masks)):
        lines = analysis.summary(records).splitlines()
        assert lines[0].split() == list(asdict(records[0]))
        assert [line.split()[0] for line in lines[2:]] == [mask.site for mask in masks]
        assert "–" in lines[-1] and "nan" not in "".join(lines)
    assert analysis.summary([]).startswith("site")


def test_the_table_of_carries_ends_with_the_split() -> None:
    split = learned("chain_with_biases").split
    found = analysis.carries(split, 2)
    *_, rest, total = found.summary().splitlines()
    assert rest.split()[-1] == f"{split.unmasked[2].item():+.5g}"
    assert total.split()[1:] == [f"{getattr(split, p)[2].item():+.5g}" for p in ("positive", "negative", "nuisance")]
    assert len(analysis.summary(found.sites).splitlines()) == 2 + len(found.sites)


def heights(ax: object) -> list[float]:
    return [patch.get_height() for patch in ax.patches]  # type: ignore[attr-defined]


def test_the_carry_sheet_shows_the_numbers() -> None:
    found = analysis.carries(learned("mobile").split)
    figure = sheets.carry_sheet(found, "a title of 5$ and 6$")
    above, below = figure.axes
    order = ("positive", "first_positive", "negative", "first_negative")
    assert heights(above) == [getattr(carry, name) for name in order for carry in found.sites]
    assert heights(below) == [carry.nuisance for carry in found.sites]
    assert below.lines[0].get_ydata()[-1] == pytest.approx(found.scores[2])
    assert [label.get_text() for label in below.get_xticklabels()] == [carry.site for carry in found.sites]
    figure.draw_without_rendering()


@pytest.mark.parametrize("name", NETS)
def test_mask_sheet_of_every_net(name: str) -> None:
    masks = analysis.site_masks(learned(name))
    figure = sheets.mask_sheet(masks, name)
    figure.draw_without_rendering()
    histograms, channels, units, drift, bar = figure.axes
    assert [label.get_text() for label in histograms.get_yticklabels()] == [mask.site for mask in masks]
    widths = np.array([patch.get_width() for patch in units.patches]).reshape(5, len(masks))
    np.testing.assert_allclose(widths.sum(0), 1)
    np.testing.assert_allclose(widths[4], [mask.closed.mean() for mask in masks])
    assert channels.images[0].get_array().shape[0] == len(masks)
    assert [patch.get_width() for patch in drift.patches] == [d.mean for d in analysis.drifts(masks)]
    assert bar.get_ylim() == (0, 1)


def test_spatial_sheet_is_white_at_one_half() -> None:
    masks = analysis.site_masks(learned("residual_inner"))
    figure = sheets.spatial_sheet(masks, np.zeros((8, 8)), "places")
    figure.draw_without_rendering()
    picture, *maps, bar = figure.axes
    assert len(maps) == len(masks) and picture.get_title() == "image x"
    for ax, mask in zip(maps, masks, strict=True):
        (image,) = ax.images
        np.testing.assert_array_equal(image.get_array().filled(nan), mask.picture())
        assert image.norm(0.5) == pytest.approx(0.5)
    assert DIVERGING(0.5)[:3] == (1, 1, 1)
    assert bar.get_ylabel().startswith("mean σ")


def test_sites_without_positions_have_no_spatial_sheet() -> None:
    with pytest.raises(dmbp.DmbpError, match="nothing to draw in space"):
        sheets.spatial_sheet(analysis.site_masks(learned("chain")))
    with pytest.raises(dmbp.DmbpError, match="no sites to draw"):
        sheets.mask_sheet(())


def test_spatial_sheet_of_masks_that_have_not_moved() -> None:
    """All at 0.5, or without a live unit: there is no range to scale to."""
    flat = site(np.full((2, 3, 3), 0.5).tolist())
    dead = replace(flat, closed=np.ones((2, 3, 3), bool))
    for masks in ((flat,), (dead,), (flat, dead)):
        sheets.spatial_sheet(masks).draw_without_rendering()


def test_agreement_sheet_leaves_out_what_is_not_defined() -> None:
    masks = analysis.site_masks(learned("chain"))
    alone = site([0.9, 0.1], closed=[1, 1])
    records = analysis.agreements((*masks, alone), (*masks, alone))
    figure = sheets.agreement_sheet(records, "with itself")
    figure.draw_without_rendering()
    sides, correlations = figure.axes
    widths = np.array([patch.get_width() for patch in sides.patches]).reshape(3, len(records))
    np.testing.assert_allclose(widths[0], [*(record.same for record in records[:-1]), 0])
    assert np.isnan(correlations.lines[1].get_xdata()[-1])


def test_drift_lines_start_at_zero() -> None:
    steps = {k: analysis.drifts(analysis.site_masks(learned("conv_bn", k))) for k in (0, 2, 5)}
    ax = Figure().subplots()
    sheets.draw_drift_lines(ax, steps)
    assert len(ax.lines) == 3
    for row, line in enumerate(ax.lines):
        assert line.get_xdata().tolist() == [0, 2, 5]
        assert line.get_ydata().tolist() == [steps[k][row].mean for k in (0, 2, 5)]
