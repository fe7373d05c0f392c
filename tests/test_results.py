"""What values print, and results that go to a file and come back: the same numbers, words and pixels."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from nets import NETS, every_net, traced
from torch import nn

import dmbp
import linreg
from dmbp import analysis
from dmbp.account import LINES
from dmbp.runs.memory import _Meter
from dmbp.saved import Record
from linreg.paths import path_spectrum
from linreg.text import counted, decimals, html_table, number, numbers, table

TARGET = [0, 2, 1]
EXACT = {"rtol": 1e-11, "atol": 1e-11}


@cache
def explained(name: str, images: int = 3, **options: Any) -> dmbp.Result:
    given: dict[str, Any] = {"iterations": 2, "progress": False} | options
    return dmbp.explain(traced(name).graph, traced(name).x[:images], TARGET[:images], **given)


# ---- numbers ----


@pytest.mark.parametrize(
    ("value", "plain", "signed"),
    [
        (0.0, "0", "0"), (-0.0, "0", "0"), (1.0, "1.00", "+1.00"), (-12.3456, "−12.3", "−12.3"), (999.4, "999", "+999"),
        (999.5, "1,000", "+1,000"), (-38123.4, "−38,123", "−38,123"), (1.5e7, "15,000,000", "+15,000,000"),
        (0.00123456, "0.00123", "+0.00123"), (-1.234e-7, "−1.23e−07", "−1.23e−07"), (float("inf"), "inf", "+inf"),
    ],
)  # fmt: skip
def test_a_number_has_three_figures_or_all_before_the_point(value: float, plain: str, signed: str) -> None:
    assert number(value) == plain and number(value, signed=True) == signed


def test_a_number_can_be_read_back() -> None:
    generator = np.random.default_rng(0)
    for figures in (3, 4):
        for value in generator.standard_normal(500) * 10.0 ** generator.integers(-12, 12, 500):
            read = float(number(value, figures=figures).replace(",", "").replace("−", "-"))
            assert read == pytest.approx(value, rel=0.5001 * 10 ** (1 - figures))


def test_the_first_of_many_and_how_many_more() -> None:
    assert numbers([1.23456]) == "1.235" and numbers([]) == ""
    assert numbers([1.0, -2.0, 3.0]) == "1.000, −2.000, 3.000"
    assert numbers([1.0] * 1003) == "1.000, 1.000, 1.000 and 1,000 more"
    assert [counted(n, "image") for n in (0, 1, 2, 1000)] == ["0 images", "1 image", "2 images", "1,000 images"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], 4), ([0.0], 4), ([5.0, -3.0], 4), ([999.0, 1.0], 4), ([-1000.0, 1.0], 2), ([0.1], 4), ([0.05], 5),
     ([2e-6, -1e-9], 9), ([float("nan")], 4)],
)  # fmt: skip
def test_a_column_shows_four_figures_of_its_largest(values: list[float], expected: int) -> None:
    assert decimals(values) == expected


# ---- two lines ----


def printed(images: int, counting: str) -> dict[str, Any]:
    """A value of each kind, of a network with biases, shifts and offsets."""
    result = explained("mobile", images, unmasked=counting)
    lin, target = result.split.lin, TARGET[:images]
    ledger = lin.ledger(target)
    spectrum = path_spectrum(lin, target)
    found = [result, result.split, ledger, ledger.terms[0], lin, lin.certificate(target), spectrum]
    found += [analysis.carries(result.split), analysis.site_masks(result)[0]]
    found += [dmbp.learn_masks(lin, target, iterations=1, progress=False)]
    return {type(value).__name__: value for value in found}


@pytest.mark.parametrize("images", [1, 2, 3])
@pytest.mark.parametrize("counting", ["nuisance", "both"])
def test_values_print_in_two_lines_of_few_figures(images: int, counting: str) -> None:
    shown = printed(images, counting)
    assert len(shown) == 10
    for name, value in shown.items():
        text = repr(value)
        lines = text.splitlines()
        assert text.startswith(name) and len(lines) <= 2 and max(map(len, lines)) <= 120, text
        for figures in re.findall(r"\d[\d.]*", text):
            assert len(figures.replace(".", "").lstrip("0")) <= 4, text


@pytest.mark.parametrize("counting", ["nuisance", "both"])
def test_a_split_prints_its_sum_for_two_images(counting: str) -> None:
    """Each number that is shown is the value to four figures."""
    split = explained("mobile", unmasked=counting).split
    lines = repr(split).splitlines()
    for image, line in enumerate(lines):
        read = [float(text.replace("−", "-")) for text in re.findall(r"= (−?[\d.e−+]+)", line)]
        values = [getattr(split, part)[image].item() for part in LINES]
        assert read == pytest.approx(values, rel=0.5001e-3)
        assert line.count("(in y~)" if counting == "nuisance" else "(in y⁺ and in y⁻)") == 1
    assert len(lines) == 2 and lines[1].endswith("; 1 more image)")
    assert "more" not in repr(explained("mobile", 2).split)


def test_a_result_prints_how_it_was_made() -> None:
    one, three = explained("mobile", 1), explained("mobile")
    assert re.match(r"Result\(loss 'all', 2 iterations in \d+\.\d s, 1 image of 3×6×6;\n", repr(one))
    assert "3 images of 3×6×6" in repr(three) and repr(three).endswith("; 2 more images)")
    assert repr(one).endswith(repr(one.split).removeprefix("Split("))


def test_an_interrupted_result_says_so() -> None:
    def stop(iteration: int, *_: Any) -> None:
        if iteration == 1:
            raise KeyboardInterrupt

    assert "interrupted after 1 iteration in" in repr(explained("chain_with_biases", callback=stop))


def test_a_ledger_prints_what_it_sums_to() -> None:
    ledger = traced("mobile").lin.ledger(1)
    assert repr(ledger).startswith(f"Ledger({len(ledger.terms)} terms: shift, offset, bias;\n")
    for name, values in {"total": ledger.total, "c · x": ledger.input_share, "constants": ledger.bias_share}.items():
        assert f"{name} = {numbers(values.tolist())}" in repr(ledger)
    assert "0 terms: no constants;" in repr(traced("chain").lin.ledger(1))
    term = ledger["7.bias"]
    assert repr(term) == f"Term('7.bias', bias at '7': {numbers(term.total.tolist())})"


def test_paths_beyond_every_float_are_counted_by_their_digits() -> None:
    one = torch.ones(1, 1)
    spectrum = linreg.paths.PathSpectrum("gates", (0,), one[None], one, one, (10**400,), (12345678,))
    assert "10^400.0 paths from the input, 12,345,678 from constants" in repr(spectrum)


# ---- the table ----


def cells(text: str) -> list[list[str]]:
    """The rows of a table, by the widths of the line under its header."""
    _, rule, *lines = text.split("\n\n")[0].splitlines()
    spans = [match.span() for match in re.finditer("─+", rule)]
    return [[line[start:stop].strip() for start, stop in spans] for line in lines]


@every_net
@pytest.mark.parametrize("counting", ["nuisance", "both"])
def test_the_table_says_where_each_score_comes_from(name: str, counting: str) -> None:
    """Against the plain sums: ∇·x from the mapping of each masked network, and what is left of its score."""
    result = explained(name, unmasked=counting)
    split, lin = result.split, traced(name).lin
    aside = split.passes[2] if counting == "nuisance" else None
    networks = {"y": lin, "positive": split.passes[0], "negative": split.passes[1], "unmasked": split.passes[2]}
    for image in range(3):
        shown = {row[0]: row[1:] for row in cells(result.summary(image))}
        assert list(shown)[:4] == ["y", "y⁺", "y⁻", "y~"] and list(shown)[4].startswith("u, in y")
        found: dict[str, np.ndarray] = {}
        for line, network in networks.items():
            score, share = network.score(TARGET)[image], (network.weight(TARGET) * lin.input)[image].sum()
            if line in ("positive", "negative") and aside is not None:
                score = score - aside.score(TARGET)[image]
                share = share - (aside.weight(TARGET) * lin.input)[image].sum()
            found[line] = np.array([score.item(), share.item(), (score - share).item()])
        found["nuisance"] = found["y"] - found["positive"] - found["negative"]
        for line, row in zip(LINES, shown.values(), strict=True):
            places = len(row[0].partition(".")[2])
            np.testing.assert_allclose([float(c) for c in row], found[line], rtol=0, atol=0.51 * 10.0**-places)


@every_net
def test_shares_are_those_of_the_ledgers(name: str) -> None:
    result = explained(name)
    assert list(result.shares) == list(LINES)
    for line, shares in result.shares.items():
        ledger = result.split.ledger(line)
        assert torch.equal(shares.mapping, ledger.weight) and shares.labels == ledger.labels
        assert torch.equal(shares.input_share, ledger.input_share) and torch.equal(shares.bias_share, ledger.bias_share)
        assert shares.terms.shape == (len(ledger.terms), 3)
        torch.testing.assert_close(shares.input_share + shares.bias_share, result.scores[line], **EXACT)


def test_under_the_table_stand_the_certificate_and_the_recurrence() -> None:
    result = explained("conv_bn")
    certificate = traced("conv_bn").lin.certificate(TARGET)
    for image in range(3):
        _, below = result.summary(image).split("\n\n")
        assert below.startswith(f"certificate: {certificate.summary(image)}\nsplit: y⁺ + y⁻ + y~ = y to ")
        error = result.split.error[image].item()
        scale = sum(abs(result.scores[part][image].item()) for part in ("y", "positive", "negative"))
        assert f"to {error:.1e}, with y~ from its own recurrence; {error / scale:.1e} of |y⁺| + |y⁻| + |y|" in below
    assert result.split.summary(1) == result.summary(1)
    assert torch.equal(result.checks.completeness_error, certificate.completeness_error)
    assert torch.equal(result.checks.completeness_bound, certificate.bound)
    assert torch.equal(result.checks.split_error, result.split.error)


def test_a_score_of_zero_has_a_table() -> None:
    """All of it is 0, and 0 of 0 is no error."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    result = dmbp.explain(model, torch.zeros(1, 2), iterations=1, progress=False)
    assert "= y to 0.0e+00, with y~ from its own recurrence; 0.0e+00 of" in result.summary()


@pytest.mark.parametrize("image", [-1, 3, 1.0, "0", None])
def test_an_image_that_is_not_there_is_refused(image: Any) -> None:
    shown = printed(3, "nuisance")
    asked: dict[str, list[Callable[[Any], Any]]] = {
        "Ledger": [shown["Ledger"].summary, shown["Ledger"].rows, shown["Ledger"].to_dict],
        "Certificate": [shown["Certificate"].summary],
        "PathSpectrum": [shown["PathSpectrum"].summary, shown["PathSpectrum"].rows],
        "Split": [shown["Split"].summary, lambda n: analysis.carries(shown["Split"], n)],
        "Result": [shown["Result"].summary],
    }
    for name, functions in asked.items():
        error = dmbp.DmbpError if name in ("Split", "Result") else linreg.LinregError
        for function in functions:
            with pytest.raises(error, match=rf"no image {image!r}: the batch has 3, counted from 0"):
                function(image)


# ---- notebooks ----


class Html(HTMLParser):
    """The cells of a table row by row, the paragraphs, and the pictures; raises for tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.paragraphs: list[str] = []
        self.pictures: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.pictures.append(dict(attrs)["src"] or "")
            return
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "p":
            self.paragraphs.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        if self.open and self.open[-1] == "p":
            self.paragraphs[-1] += data


@pytest.mark.parametrize("name", ["mobile", "chain"])
def test_a_notebook_shows_the_same_table(name: str) -> None:
    for value in (explained(name), explained(name).split, explained(name, 1)):
        page, text = Html(value._repr_html_()), value.summary()
        assert [[cell.strip() for cell in row] for row in page.rows[1:]] == cells(text)
        assert page.rows[0] == ["", "score", "from the input", "from bias terms"]
        shown = text.split("\n\n")[1].splitlines()
        assert page.paragraphs[: len(shown)] == shown
        images = len(value.scores["y"])
        assert page.paragraphs[len(shown) :] == (
            [] if images == 1 else ["This is image 0 of 3: summary(image) tells of the others."]
        )


def test_a_notebook_shows_the_largest_rows_of_a_ledger_and_all_totals() -> None:
    for name in ("mobile", "conv_bn"):
        ledger = traced(name).lin.ledger(1)
        page = Html(ledger._repr_html_())
        rows, totals = ledger.rows(sort=True), cells(ledger.summary())[len(ledger.terms) + 1 :]
        shown = [row[0] for row in page.rows[1 : 1 + min(12, len(rows))]]
        assert shown == [name for name, *_ in rows[:12]]
        assert page.rows[-len(totals) :] == totals
        if len(rows) > 12:
            assert page.rows[13][0] == f"… {len(rows) - 12} other terms"
            assert float(page.rows[13][2]) == pytest.approx(sum(share for *_, share in rows[12:]), rel=1e-5)
    assert len(traced("mobile").lin.ledger(1).rows()) > 13 > len(traced("conv_bn").lin.ledger(1).rows())


def test_a_notebook_shows_a_certificate() -> None:
    certificate = traced("conv_bn").lin.certificate(1)
    page, (first, second) = Html(certificate._repr_html_()), certificate.summary().splitlines()
    assert [row[0] for row in page.rows[1:]][:2] == ["y", "c·x + Σ ledger"]
    assert all(row[1] in first for row in page.rows[1:])
    assert page.paragraphs == [second, "This is image 0 of 3: summary(image) tells of the others."]


def test_names_are_no_tags() -> None:
    text = html_table([("<b>&", "1")], ("a<", "b"), right=(1,), below="x < y\nz")
    assert Html(text).rows == [["a<", "b"], ["<b>&", "1"]] and Html(text).paragraphs == ["x < y", "z"]
    assert "<b>" not in text and table([("<b>", "1")], ("a", "b")).splitlines()[-1] == "<b>  1"


def test_a_notebook_shows_the_figure_where_there_is_one() -> None:
    cube = nn.Sequential(nn.Flatten(), nn.Linear(32, 2), nn.ReLU(), nn.Linear(2, 1))
    drawn, plain = explained("mobile"), dmbp.explain(cube, torch.ones(1, 2, 2, 2, 2, 2), iterations=1, progress=False)
    picture = drawn._repr_png_()
    assert picture is not None and picture.startswith(b"\x89PNG\r\n") and drawn._repr_png_() is picture
    (source,) = Html(drawn._repr_html_()).pictures
    assert source.startswith("data:image/png;base64,")
    assert plain._repr_png_() is None and Html(plain._repr_html_()).pictures == []


# ---- files ----


ROUND_TRIPS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in NETS),
    ("mobile", {"loss": "none"}),
    ("mobile", {"unmasked": "both", "loss": "+-"}),
    ("residual_inner", {"snapshots": (0, 2), "sites": "blocks"}),
    ("mobile", {"iterations": 0}),
]


@pytest.mark.parametrize(("name", "options"), ROUND_TRIPS, ids=str)
def test_what_is_saved_comes_back(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    result = explained(name, **options)
    loaded = dmbp.load(result.save(tmp_path / "out.npz"))
    assert_same(loaded, result)
    assert isinstance(loaded.account, Record)
    again = dmbp.load(loaded.save(tmp_path / "again.npz"))
    assert_same(again, result)


def assert_same(loaded: dmbp.Result, result: dmbp.Result) -> None:
    """Bit for bit, and word for word."""
    ours, theirs = loaded.arrays(), result.arrays()
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype and value.shape == theirs[name].shape, name
        assert value.tobytes() == theirs[name].tobytes(), name
    for name in ("masks", "initial", "history", "snapshots"):
        mine, other = getattr(loaded, name), getattr(result, name)
        assert list(mine) == list(other) and all(torch.equal(mine[key], other[key]) for key in other)
    for name in ("positive", "negative", "attribution", "input", "updates", "target"):
        assert torch.equal(getattr(loaded, name), getattr(result, name)), name
    for name in ("loss", "iterations", "interrupted", "seconds", "counting"):
        assert getattr(loaded, name) == getattr(result, name), name
    assert repr(loaded) == repr(result)
    assert [loaded.summary(image) for image in range(3)] == [result.summary(image) for image in range(3)]


def pixels(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


@pytest.mark.parametrize(("name", "options"), [("mobile", {}), ("residual_outer", {"loss": "none"})], ids=str)
def test_a_loaded_result_draws_the_same_pixels(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    result = explained(name, **options)
    loaded = dmbp.load(result.save(tmp_path / "out"))
    given = {"picture": np.random.default_rng(0).random((6, 6, 3)), "title": "a title", "score": "cat"}
    drawn = pixels(loaded.plot(2, **given))
    np.testing.assert_array_equal(drawn, pixels(result.plot(2, **given)))
    assert not np.array_equal(drawn, pixels(loaded.plot(1, **given)))


def test_float32_comes_back_as_float32(tmp_path: Path) -> None:
    model, x = NETS["mobile"]()
    result = dmbp.explain(model.float(), x.float(), TARGET, iterations=1, progress=False)
    loaded = dmbp.load(result.save(tmp_path / "out"))
    assert loaded.attribution.dtype == torch.float32
    assert_same(loaded, result)


def test_a_loaded_result_needs_nothing_but_its_file(tmp_path: Path) -> None:
    """Another process prints and draws it."""
    result = explained("mobile")
    result.save(tmp_path / "out.npz")
    code = """
import dmbp, sys
result = dmbp.load("out")
sys.stdout.buffer.write(result.summary(1).encode())
with open("out.html", "w", encoding="utf-8") as file:
    file.write(result._repr_html_())
"""
    options: dict[str, Any] = {"cwd": tmp_path, "capture_output": True, "check": True}
    told = subprocess.run([sys.executable, "-c", code], **options).stdout.decode()
    assert told == result.summary(1)
    assert (tmp_path / "out.html").read_text(encoding="utf-8") == result._repr_html_()


def test_a_loaded_result_has_no_split_and_says_how_to_make_one(tmp_path: Path) -> None:
    result = explained("mobile", unmasked="both")
    loaded = dmbp.load(result.save(tmp_path / "out"))
    for asked in (lambda: loaded.split, lambda: analysis.site_masks(loaded)):
        with pytest.raises(dmbp.DmbpError, match=r"read from a file.*dmbp\.decompose\(graph\.linearize\(result\.input"):
            asked()
    graph = traced("mobile").graph
    made = dmbp.decompose(graph.linearize(loaded.input), loaded.masks, loaded.target, loaded.counting)
    for line in LINES:
        assert torch.equal(made.scores[line], result.scores[line])


def saved(folder: Path) -> Path:
    return explained("chain_with_biases").save(folder / "out.npz")


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    whole = path.read_bytes()
    for length in {0, 1, 100, len(whole) // 2, len(whole) - 1}:
        path.write_bytes(whole[:length])
        with pytest.raises(dmbp.DmbpError, match=r"out\.npz is broken, or no \.npz file"):
            dmbp.load(path)


def test_a_byte_that_turned_is_seen_or_does_no_harm(tmp_path: Path) -> None:
    """Zip's checksums cover the data; a time of day in its headers may turn, and nothing is lost."""
    path = saved(tmp_path)
    whole, result, seen = path.read_bytes(), explained("chain_with_biases"), 0
    positions = np.random.default_rng(0).integers(len(whole), size=300)
    for position in positions:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            loaded = dmbp.load(path)
        except dmbp.DmbpError as error:
            assert str(path) in str(error)
            seen += 1
        else:
            assert_same(loaded, result)
    assert seen > 200


def rewritten(path: Path, **changed: Any) -> None:
    """The file with some arrays exchanged, or left out where they are None."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files} | changed
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})


def test_a_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    rewritten(path, dmbp_result=np.array(2), input=None, something_new=np.zeros(3))
    with pytest.raises(dmbp.DmbpError, match=r"out\.npz was written by a newer dmbp \(format 2, this one reads 1\)"):
        dmbp.load(path)


@pytest.mark.parametrize("name", ["input", "target", "positive", "nuisance_mapping", "y_ledger", "certificate", "loss"])
def test_a_file_that_lacks_something_is_refused(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path)
    rewritten(path, **{name: None})
    with pytest.raises(dmbp.DmbpError, match=r"out\.npz is broken: it lacks"):
        dmbp.load(path)


def test_files_that_are_no_results_are_refused(tmp_path: Path) -> None:
    graph, x = traced("chain_with_biases").graph, traced("chain_with_biases").x
    list(dmbp.explain_all(graph, x, TARGET, iterations=1, out=tmp_path / "all", progress=False))
    np.savez(tmp_path / "others.npz", a=np.zeros(3))
    for path in (tmp_path / "others.npz", tmp_path / "all" / "000000.npz"):
        with pytest.raises(dmbp.DmbpError, match=r"is no saved result: dmbp\.load reads what Result\.save wrote"):
            dmbp.load(path)
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "objects.npz", a=np.array([{}], object))
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    for name in ("text", "objects", "array"):
        with pytest.raises(dmbp.DmbpError, match=rf"{name}\.npz is broken, or no \.npz file of plain arrays"):
            dmbp.load(tmp_path / name)
    (tmp_path / "folder.npz").mkdir()
    for name in ("nowhere", "folder"):
        with pytest.raises(dmbp.DmbpError, match=rf"there is no file .*{name}\.npz"):
            dmbp.load(tmp_path / name)


# ---- memory ----


def test_a_result_holds_no_offsets_of_gates() -> None:
    """Of each line two maps no larger than x and a number for each constant, beside the small things of its ledger."""
    t = traced("mobile")
    first, second = (dmbp.explain(t.graph, t.x, TARGET, iterations=1, progress=False) for _ in range(2))
    terms = first.split.ledger("positive").terms
    offsets = sum(term.values.nbytes for term in terms if term.kind == "offset")
    parts = [part for term in terms for part in (term.own, term.places, term.whole) if part is not None]
    book = t.x.nbytes + sum(part.nbytes for part in parts)
    meter = _Meter()
    with meter:
        shares = second.shares
        gc.collect()
    constants, images = len(shares["y"].labels), len(t.x)
    assert meter.now <= len(LINES) * (2 * t.x.nbytes + 8 * images * (constants + 4) + book)
    assert offsets > book  # what each ledger would hold more


# ---- the packages ----


def test_both_packages_tell_their_version() -> None:
    assert linreg.__version__ == dmbp.__version__ == version("linreg-dmbp")


def test_packages_that_were_not_installed_have_a_version_too() -> None:
    code = """
import importlib.metadata as metadata
known = metadata.version
def version(name):
    if name == "linreg-dmbp":
        raise metadata.PackageNotFoundError(name)
    return known(name)
metadata.version = version
import dmbp
print(dmbp.__version__)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "0+unknown"


def test_the_types_of_both_packages_are_shipped() -> None:
    root = Path(__file__).parents[1]
    data = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for package in ("linreg", "dmbp"):
        assert "py.typed" in data[package] and (root / package / "py.typed").is_file()
