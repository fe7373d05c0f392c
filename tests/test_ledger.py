"""The ledger as an object: every grouping sums to the total, positions sum to channels, and the waterfall to y."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from approx import EXACT, values
from matplotlib.figure import Figure
from nets import NETS, Lambda, every_net, seeded_net, traced
from torch import Tensor, nn

import dmbp
import linreg
from linreg import Ledger, LinregError, Term
from linreg.plot import steps, waterfall
from linreg.plot.style import BLUE, RED, TOTAL


def ledger(name: str, target: int = 1, fuse: bool = True) -> Ledger:
    return traced(name, fuse).lin.ledger(target)


# ---- groupings ----


@every_net
def test_every_grouping_sums_to_the_bias_share(name: str) -> None:
    book = ledger(name)
    groupings = [book.by_node(), book.by_kind(), *(book.by_module(depth) for depth in (1, 2, 9))]
    groupings.append({label: channels.sum(1) for label, channels in book.by_channel().items()})
    for groups in groupings:
        total = sum(groups.values(), torch.zeros_like(book.total))
        torch.testing.assert_close(total, book.bias_share, **EXACT)
    torch.testing.assert_close(book.input_share + book.bias_share, book.total, **EXACT)
    assert list(book.by_node()) == list(book.by_module(9)) and len(book.by_channel()) == len(book.terms)


@every_net
def test_positions_sum_to_channels(name: str) -> None:
    """g ⊙ β before its sum: over positions it is the term, over channels a picture of where the bias counts."""
    t = traced(name)
    for label, term in zip(ledger(name).labels, ledger(name).terms, strict=True):
        assert term.elements.shape == (3, *t.graph[term.node].shape)
        others = [dim for dim in range(1, term.elements.dim()) if dim != term.channel_dim]
        by_channel = term.elements.sum(others) if others else term.elements
        whole = by_channel if term.channels.shape[1] > 1 else by_channel.sum(1, keepdim=True)
        torch.testing.assert_close(whole, term.channels, **EXACT, msg=lambda text, label=label: f"{label}: {text}")
        torch.testing.assert_close(term.positions.reshape(3, -1).sum(1), term.total, **EXACT)


def test_positions_of_a_bias_are_its_gradients_times_itself() -> None:
    """∂y/∂z ⊙ b by autograd, at a convolution of which the model itself gives the output z."""
    t = traced("conv_bn", fuse=False)
    assert isinstance(t.model, nn.Sequential)
    z = t.model[0](t.x).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(t.model[1:](z)[:, 1].sum(), z)
    expected = gradient * dict(t.model.named_parameters())["0.bias"].detach()[:, None, None]
    for fuse in (True, False):
        term = ledger("conv_bn", fuse=fuse)["0.bias"]
        torch.testing.assert_close(term.elements, expected, **EXACT)
        torch.testing.assert_close(term.positions, expected.sum(1), **EXACT)
        torch.testing.assert_close(term.channels, expected.sum((2, 3)), **EXACT)


def test_positions_of_an_input_sized_constant() -> None:
    """A gate's offset is of each element; what is summed over is nothing."""
    term = next(term for term in ledger("mobile").terms if term.kind == "offset")
    torch.testing.assert_close(term.elements, term.values, **EXACT)


def test_channels_of_a_layer_over_the_last_dimension() -> None:
    """Tokens (N, T, features): the features are the channels, the tokens the positions."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Flatten(), nn.Linear(15, 2)).double()
        x = torch.randn(2, 3, 4, dtype=torch.float64)
    term = linreg.trace(model, x).linearize(x).ledger(0)["0.bias"]
    assert term.channels.shape == (2, 5) and term.positions.shape == (2, 3)
    torch.testing.assert_close(term.elements.sum(1), term.channels, **EXACT)


def last(x: Tensor, layer: nn.Module) -> Tensor:
    """Channels last: a linear layer at each position of a picture (N, H, W, C)."""
    return F.hardtanh(layer(x), -0.3, 0.4).flatten(1)


def turned(x: Tensor, layer: nn.Module) -> Tensor:
    """A convolution, and its channels turned to the end before the gate."""
    return F.hardtanh(layer(x).permute(0, 2, 3, 1), -0.3, 0.4).flatten(1)


def tokens(x: Tensor, layer: nn.Module, table: Tensor) -> Tensor:
    """An embedding of positions, another number for each token and feature."""
    return (layer(x) + table).clamp(-0.3, 0.4).flatten(1)


def clipped(x: Tensor, layer: nn.Module) -> Tensor:
    """A gate on the input itself, whose channels are those that the layer behind it reads."""
    return layer(x.clamp(-0.3, 0.4)).flatten(1)


def framed(x: Tensor, layer: nn.Module) -> Tensor:
    """Frames (N, T, C, H, W) merged with the batch."""
    return F.hardtanh(layer(x.flatten(0, 1)), -0.3, 0.4).flatten(1).view(len(x), -1)


@pytest.mark.parametrize(
    ("function", "layer", "shape", "dim"),
    [
        (last, lambda: nn.Linear(3, 5), (4, 2, 3), 3), (turned, lambda: nn.Conv2d(3, 5, 2), (3, 4, 3), 3),
        (tokens, lambda: nn.Linear(3, 5), (4, 3), 2), (clipped, lambda: nn.Conv1d(3, 2, 2), (3, 4), 1),
        (clipped, lambda: nn.Linear(4, 2), (3, 4), 2), (framed, lambda: nn.Conv2d(2, 5, 2), (3, 2, 3, 4), 2),
    ],
)  # fmt: skip
def test_channels_are_where_the_layers_have_them(
    function: Callable[..., Tensor], layer: Callable[[], nn.Module], shape: tuple[int, ...], dim: int
) -> None:
    """Whatever the layout: a gate's offsets, and all else that varies along several dimensions."""

    def build() -> nn.Module:
        own = {"table": nn.Parameter(torch.randn(4, 5))} if function is tokens else {}
        return Lambda(function, layer=layer(), **own)

    model, x = seeded_net(build, *shape)
    lin = linreg.trace(model, x).linearize(x)
    book = lin.ledger(values(*lin.output.shape[1:]))
    several = [term for term in book.terms if term.kind == "offset" or term.name == "table"]
    assert len(several) == (2 if function is tokens else 1)
    for term in several:
        assert term.elements.abs().sum() > 0
        others = [each for each in range(1, term.elements.dim()) if each != dim]
        torch.testing.assert_close(term.channels, term.elements.sum(others), **EXACT)
        torch.testing.assert_close(term.positions, term.elements.sum(dim), **EXACT)
        torch.testing.assert_close(book.by_channel()[term.name], term.along(dim), **EXACT)
    for copied in (pickle.loads(pickle.dumps(book)), book - book):
        assert [term.channel_dim for term in copied.terms if term.kind == "offset"] == [dim]


def test_channels_that_no_layer_tells_are_not_guessed() -> None:
    model, x = seeded_net(lambda: Lambda(lambda x, d: d(x.clamp(-0.3, 0.4).flatten(1)), d=nn.Linear(12, 2)), 3, 4)
    term = linreg.trace(model, x).linearize(x).ledger(0)["clamp.offset"]
    for ask in (lambda: term.channels, lambda: term.positions):
        with pytest.raises(linreg.LinregError, match=r"'clamp' \(N, 3, 4\) holds channels is not known.*along\(dim\)"):
            ask()
    torch.testing.assert_close(term.along(2), term.elements.sum(1), **EXACT)
    torch.testing.assert_close(term.total, term.along(1).sum(1), **EXACT)
    with pytest.raises(linreg.LinregError, match="the dimensions 1 to 2 beside the batch, not 3"):
        term.along(3)


def test_one_number_for_all_has_one_channel() -> None:
    book = ledger("constants")
    scalar = book["sub.constant"]
    assert scalar.channels.shape == (3, 1) and scalar.positions.shape == (3, 6, 6)
    assert Term("a", "b", "bias", torch.ones(3)).channels.shape == (3, 1)


def test_differences_have_elements() -> None:
    t = traced("conv_bn")
    difference = t.lin.ledger(0) - t.lin.ledger(1)
    expected = t.lin.ledger(torch.tensor([1.0, -1.0, 0.0]))
    for mine, theirs in zip(difference.terms, expected.terms, strict=True):
        torch.testing.assert_close(mine.elements, theirs.elements, **EXACT)


def test_masked_ledgers_have_elements() -> None:
    """Also where a mask multiplies the constants of its own node, which `values` has in it."""
    t = traced("conv_bn")
    masks = {"2": torch.full((3, 4, 6, 6), 0.3, dtype=torch.float64), "1": torch.rand(3, 4, 6, 6, dtype=torch.float64)}
    split = dmbp.decompose(t.lin, masks, 1)
    for part in ("positive", "negative", "nuisance", "unmasked"):
        for term in split.ledger(part).terms:
            torch.testing.assert_close(term.elements.flatten(1).sum(1), term.total, **EXACT)


def test_a_term_without_a_graph_says_so() -> None:
    with pytest.raises(LinregError, match="'b' was made without a graph"):
        _ = Term("a", "b", "bias", torch.ones(3)).elements


# ---- kinds, and the output's bias ----


def test_kinds_are_told_apart() -> None:
    """The bias of a convolution, the shift of the batch norm fused into it, offsets, pads and other constants."""
    kinds = {name: set(ledger(name).by_kind()) for name in NETS}
    assert kinds["conv_bn"] == {"bias", "shift"} and kinds["mobile"] == {"bias", "shift", "offset"}
    assert kinds["wiring"] == {"bias", "pad"} and kinds["constants"] == {"bias", "constant"}
    assert kinds["gates"] == {"bias", "offset"} and kinds["chain"] == set()
    for fuse in (True, False):
        book = ledger("conv_bn", fuse=fuse)
        assert [book[label].kind for label in ("0.bias", "1.shift", "4.shift")] == ["bias", "shift", "shift"]


@every_net
def test_the_output_has_its_own_line(name: str) -> None:
    """What no gate follows has the same share at any other input: the last layer's bias, and a linear block's shift."""
    t = traced(name)
    found = [term for term in ledger(name).terms if term.at_output]
    last = {
        "chain": [], "constants": ["second.bias"], "shortcut": ["deep.5.bias", "wide.bias"],
        "mobile": ["4.layers.7.shift", "7.bias"],
    }  # fmt: skip
    bias = dict(t.model.named_parameters())
    layers = [n for n in bias if n.endswith("bias") and len(bias[n]) == 3 and bias[n].dim() == 1]
    assert [term.name for term in found] == last.get(name, layers[-1:])
    elsewhere = t.graph.linearize(t.x.flip(0) * 3 + 1).ledger(1)
    torch.testing.assert_close(ledger(name).output_share, elsewhere.output_share, **EXACT)
    torch.testing.assert_close(elsewhere.output_share, sum((x.total for x in found), torch.zeros(3).double()), **EXACT)


# ---- lines ----


def test_a_constant_that_is_read_twice_has_two_lines() -> None:
    book = ledger("gates")
    assert len(set(book.labels)) == len(book.terms)
    twice = [label for label in book.labels if label.startswith("a.bias")]
    assert len(twice) == 2 and all(" at " in label for label in twice)
    assert book[twice[0]] is not book[twice[1]]


def test_near_labels() -> None:
    with pytest.raises(LinregError, match=r"no term '0\.bais'; did you mean '0\.bias'"):
        ledger("conv_bn")["0.bais"]
    with pytest.raises(LinregError, match="`labels` lists them"):
        ledger("conv_bn")["?"]


def test_sorted_by_absolute_share() -> None:
    book = ledger("free_bn")
    rows, ordered = book.rows(2), book.rows(2, sort=True)
    assert sorted(rows) == sorted(ordered)
    shares = [abs(share) for _, _, share in ordered]
    assert shares == sorted(shares, reverse=True)
    lines = book.summary(2, sort=True).splitlines()
    assert lines[2].startswith(ordered[0][0])


def test_summary_has_all_totals() -> None:
    book = ledger("mobile")
    text = book.summary(1)
    for name, share in {**book.by_kind(), "total": book.total, "after the last gate": book.output_share}.items():
        line = next(line for line in text.splitlines() if line.startswith((f"all of {name} ", f"{name} ")))
        assert line.endswith(f"{share[1].item():+.6g}")


# ---- data ----


@every_net
def test_to_dict_survives_json(name: str) -> None:
    """Numbers, names and lists of one image, whose terms, the input's first, sum to its total."""
    book = ledger(name)
    told = book.to_dict(2)
    read = json.loads(json.dumps(told))
    assert read == told
    first, *terms = read["terms"]
    assert (first["term"], first["kind"], first["share"]) == ("c · x", "input", read["input_share"])
    assert [term["term"] for term in terms] == list(book.labels)
    for term, mine in zip(terms, book.terms, strict=True):
        assert (term["node"], term["kind"], term["at_output"]) == (mine.node, mine.kind, mine.at_output)
        assert term["share"] == mine.total[2].item()
    total = book.total[2].item()
    assert read["total"] == total
    assert sum(term["share"] for term in read["terms"]) == pytest.approx(total, rel=1e-12, abs=1e-12)
    assert read["input_share"] + sum(read["by_kind"].values()) == pytest.approx(total, rel=1e-12, abs=1e-12)
    assert read["output_share"] == pytest.approx(sum(term["share"] for term in terms if term["at_output"]), rel=1e-12)


@every_net
def test_to_numpy_survives_a_file(name: str) -> None:
    book = ledger(name)
    file = io.BytesIO()
    np.savez(file, **book.to_numpy())
    file.seek(0)
    with np.load(file, allow_pickle=False) as read:
        assert read["share"].shape == (3, len(book.terms)) and list(read["term"]) == list(book.labels)
        assert list(read["kind"]) == [term.kind for term in book.terms]
        np.testing.assert_allclose(read["share"].sum(1) + read["input_share"], read["total"], rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(read["weight"] * read["x"], book.input)


# ---- the waterfall ----


def made_up(shares: list[float], output: float = 0.5) -> Ledger:
    """A ledger of one image with c·x = 1 and these shares, three terms to a module, then the output's bias."""
    terms = [Term(f"m{k // 3}.n{k}", f"m{k // 3}.n{k}.bias", "bias", torch.tensor([[s]])) for k, s in enumerate(shares)]
    last = Term("head", "head.bias", "bias", torch.tensor([[output]]), at_output=True)
    one = torch.ones(1, 1)
    return Ledger(one, one, (*terms, last))


def widths(ax: object) -> list[float]:
    return [bar.get_width() for bar in ax.patches]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["chain", "chain_with_biases", "conv_bn", "gates", "shortcut"])
def test_bars_are_the_rows(name: str) -> None:
    book = ledger(name)
    ax = waterfall(book, image=2, bars=99)
    *bars, last = ax.patches
    for bar, (_, _, share) in zip(bars, sorted_output_last(book, 2), strict=True):
        assert bar.get_width() == pytest.approx(share, abs=1e-12)  # type: ignore[attr-defined]
        assert bar.get_facecolor()[:3] == pytest.approx(rgb(RED if share > 0 else BLUE))
    assert widths(ax)[-1] == pytest.approx(book.total[2].item(), rel=1e-12)
    assert last.get_facecolor()[:3] == pytest.approx(rgb(TOTAL))
    assert "running total" in ax.get_xlabel() and f"{book.total[2].item():.3g}".lstrip("-")[:4] in ax.get_title()


def sorted_output_last(book: Ledger, image: int) -> list[tuple[str, str, float]]:
    first, *rows = book.rows(image)
    output = {label for label, term in zip(book.labels, book.terms, strict=True) if term.at_output}
    return [first, *sorted(rows, key=lambda row: row[0] in output)]


def rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


def test_sixty_terms_are_twenty_bars_and_nothing_is_lost() -> None:
    shares = torch.randn(60, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    book = made_up(shares)
    found = steps(book)
    assert len(found) == 20 and found[0].label == "c · x" and found[-1].label == "head.bias" and found[-1].at_output
    others = found[-2]
    assert others.label == "… 43 other terms" and others.terms == 43
    kept = {step.label for step in found[1:-2]}
    small = sorted(shares, key=abs)[:43]
    assert not kept & {f"m{k // 3}.n{k}.bias" for k, share in enumerate(shares) if share in small}
    assert others.share == pytest.approx(sum(small)) and others.magnitude == pytest.approx(sum(map(abs, small)))
    assert found[-1].stop == pytest.approx(book.total.item())
    assert all(a.stop == b.start for a, b in pairwise(found))
    labels = [text.get_text() for text in waterfall(book).get_yticklabels()]
    assert len(labels) == 21 and labels[-3].startswith("… 43 other terms, Σ|·| = ")
    assert labels[-2] == "head.bias (after the last gate)"


def test_terms_by_module() -> None:
    found = steps(made_up([1.0, -2.0, 0.25, 3.0]), depth=1)
    assert [(step.label, step.share, step.terms) for step in found[1:-1]] == [("m0", -0.75, 3), ("m1", 3.0, 1)]
    assert found[1].magnitude == 3.25
    real = steps(ledger("residual_inner"), depth=1)
    by_module = ledger("residual_inner").by_module(1)
    for step in real[1:-1]:
        assert step.share == pytest.approx(by_module[step.label][0].item(), rel=1e-12)


def test_few_bars_still_hold_everything() -> None:
    for bars in (1, 2, 3, 4):
        found = steps(made_up([1.0, 2.0, 3.0]), bars=bars)
        assert found[-1].stop == 7.5 and sum(step.terms for step in found) == 5


def test_waterfall_draws_where_it_is_told() -> None:
    ax = Figure().add_subplot()
    assert waterfall(ledger("chain_with_biases"), ax, score="cat") is ax
    assert "cat" in ax.get_xlabel() and ax.get_yticklabels()[-1].get_text() == "cat"


@pytest.mark.parametrize("shares", [[], [0.0], [1e-9, -1e9], [0.1] * 60])
def test_waterfall_can_be_drawn(shares: list[float]) -> None:
    file = io.BytesIO()
    waterfall(made_up(shares)).figure.savefig(file, format="png")  # type: ignore[union-attr]
    assert file.getvalue()


def test_labels_stay_inside_of_the_picture() -> None:
    """Sixty terms with long names: every text is in the figure, and no two lines overlap."""
    ax = waterfall(made_up([(-1.0) ** k * 1000 * k for k in range(60)]), bars=70)
    figure = ax.figure
    assert isinstance(figure, Figure)
    figure.savefig(io.BytesIO(), format="png")
    frame = figure.bbox
    boxes = [text.get_window_extent() for text in [*ax.get_yticklabels(), *ax.texts]]
    assert all(frame.x0 <= b.x0 and b.x1 <= frame.x1 and frame.y0 <= b.y0 and b.y1 <= frame.y1 for b in boxes)
    lines = [text.get_window_extent() for text in ax.get_yticklabels()]
    assert all(below.y1 <= above.y0 + 1 for above, below in pairwise(lines))
