"""`dmbp evaluate` as it is called: what it prints and writes, what it refuses, and what it goes on from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import Run, files
from PIL import Image
from scipy.ndimage import gaussian_filter
from studies import model, write_pictures

from dmbp.datasets import items
from dmbp.errors import DmbpError
from dmbp.evaluation import layer_randomization
from dmbp.evaluation.blurred_maps import Blurred
from dmbp.evaluation.methods import DMBP, parse
from dmbp.evaluation.processes import own_device
from dmbp.evaluation.published import column
from dmbp.evaluation.record import Key, lines_of, read_results
from dmbp.images import read_image
from dmbp.models import load_model
from dmbp.plot.rivals_picture import Line, draw_rivals

ASKED = ("evaluate", "--model", "net.py:model", "--data", "folder:pictures", "--out", "study", "--step", "35")


@pytest.fixture
def pictures(here: Path) -> Path:
    folder = write_pictures(here / "pictures", 3)
    table = folder / "labels.csv"
    table.write_text(table.read_text().replace("cat; dog", "0;3"))
    return folder


def test_it_prints_tables_writes_all_and_goes_on(run: Run, pictures: Path) -> None:
    asked = (
        *ASKED,
        "--methods",
        "nd",
        "dmbp:iterations=1",
        "--blur",
        "1",
        "--metrics",
        "insertion",
        "cim",
        "--sheet",
        "2",
    )
    status, out, _ = run(*asked)
    assert status == 0 and "Table 2" in out and "made and judged 12 maps" in out
    assert "DMBP:iterations=1 blur 1" in out
    text = Path("study/tables.txt").read_text()
    assert out.startswith(text)
    for ending in ("md", "tex", "csv", "json"):
        assert Path(f"study/tables.{ending}").stat().st_size > 300
    with Image.open("study/sheet-net.png") as sheet:
        assert sheet.format == "PNG" and min(sheet.size) > 600
    with Image.open("study/differences.png") as drawn:
        assert drawn.format == "PNG" and min(drawn.size) > 300
    assert len(list(Path("study/maps").glob("*.npy"))) == 8  # two pictures, four methods
    before = files("study/maps") | {p: b for p, b in files("study").items() if p.suffix == ".jsonl"}
    assert run(*asked, "--tables")[0] == 0 and Path("study/tables.txt").read_text() == text
    again, out, _ = run(*asked, "--json")
    assert again == 0 and json.loads(out) == json.loads(Path("study/tables.json").read_text())
    assert files("study/maps") | {p: b for p, b in files("study").items() if p.suffix == ".jsonl"} == before
    assert Path("study/tables.txt").read_text() == text


def test_metrics_have_options(run: Run, pictures: Path) -> None:
    """Each is kept and shown under its name with its options, and is what the functions make of the same picture."""
    metrics = ("insertion", "insertion:step=7", "randomization:seed=3", "cascade", "cascade:order=bottom-up")
    status, out, err = run(*ASKED, "--methods", "nd", "random", "--count", "1", "--metrics", *metrics)
    assert status == 0, err
    results = read_results(Path("study"))
    [((_, picture), known)] = results.pictures.items()
    found = results.values[Key("net", "nd", picture)]
    assert list(found) == list(metrics)
    loaded, method = load_model("net.py:model"), parse("nd")
    x = loaded.preprocess.tensor(read_image(f"pictures/{picture}"))
    places = x[0, 0].numel()
    for name, step in (("insertion", 35), ("insertion:step=7", 7)):
        assert [len(row["curve"]) for row in found[name]] == [ceil(places / step) + 1] * len(found[name])
    for name, order, seed in (
        ("randomization:seed=3", "last", 3), ("cascade", "top-down", 0), ("cascade:order=bottom-up", "bottom-up", 0),
    ):  # fmt: skip
        drawn = layer_randomization(method, loaded.network, x, known["targets"][0], order=order, seed=seed)
        assert found[name][0]["layers"] == pytest.approx(drawn.correlations[:, 0].tolist(), abs=1e-5)
    for words in ("IM ", "IM step=7", "cascading correlation ", "cascading correlation order=bottom-up"):
        assert f"pictures/net  {words}" in out
    assert "pictures/net seed=3" in out and "Table 3" in out


def test_differences_are_to_any_method_by_its_name_or_as_tables_call_it(run: Run, pictures: Path) -> None:
    words = ("--methods", "nd", "ig:steps=2", "--blur", "1", "--metrics", "insertion", "--sheet", "0")
    ways = {"ig:steps=2": "IG:steps=2", "IG:steps=2": "IG:steps=2", "nd blurred by 1": "ND blur 1"}
    for asked, title in (ways | {"ND blur 1": "ND blur 1"}).items():
        status, out, err = run(*ASKED, *words, "--reference", asked)
        assert status == 0, err
        assert f"Differences to {title}, paired by picture" in out


def test_tables_tell_which_metrics_are_not_computed_yet_or_not_for_all(run: Run, pictures: Path) -> None:
    """A folder that holds fewer metrics than are asked for; and one that was stopped while a metric was added."""
    methods = ("--methods", "nd", "random", "--sheet", "0")
    assert run(*ASKED, *methods, "--metrics", "insertion")[0] == 0
    both = ("--metrics", "insertion", "deletion", "localization")
    _, out, _ = run(*ASKED, *methods, *both, "--tables")
    assert "net: deletion is not computed yet" in out and "net: localization is not computed yet" in out
    assert "has no number" not in out and "only" not in out
    assert run(*ASKED, "--methods", "nd", "--sheet", "0", *both)[0] == 0
    _, out, _ = run(*ASKED, *methods, *both, "--tables")
    assert "not computed yet" not in out and "net: localization has no number here: it needs pictures made of" in out
    further = out.partition("Further metrics")[2].partition("Differences")[0]
    assert "pictures/net, random: only 0 of 3 pictures" in further
    assert "only" not in out.partition("Further metrics")[0]


def test_what_constant_maps_have_no_number_of_is_told(run: Run, pictures: Path) -> None:
    with Path("net.py").open("a") as stream:
        stream.write("\ndef flat():\n    made = model()\n    made.network[-1].weight.data.zero_()\n    return made\n")
    words = ("--model", "net.py:flat", "--methods", "nd", "--metrics", "insertion", "randomization", "--count", "1")
    status, out, err = run("evaluate", *words, "--data", "folder:pictures", "--out", "study")
    assert status == 0, err
    assert "net: randomization has no number here: it needs maps that are not constant" in out


def test_a_damaged_picture_is_told_and_the_others_are_judged(run: Run, pictures: Path) -> None:
    (pictures / "p1.png").write_text("no picture")
    (pictures / "p2.png").unlink()
    status, out, err = run(*ASKED, "--methods", "nd", "--sheet", "3")
    assert status == 0
    for line in ("skipped p1.png: pictures/p1.png: this is not an image", "skipped p2.png: there is no such picture"):
        assert f"net: {line}" in out
    assert ": 1 picture." in out and "skipped p1.png" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "nod"], "there is no method 'nod'"),
        (["--metrics", "im"], "there is no metric 'im'"),
        (["--metrics", "cascade:ordre=top-down"], "cascade has no option 'ordre' (did you mean 'order'?)"),
        (["--metrics", "cascade:order=last"], "cascade: order must be one of 'top-down', 'bottom-up', not 'last'"),
        (["--metrics", "insertion:step=0"], "insertion: step must be a whole number of at least 1, not 0"),
        (["--metrics", "cim:step=64.0"], "cim: step must be a whole number or none, not '64.0'"),
        (["--metrics", "randomization:seed=-1"], "randomization: seed must be a whole number of at least 0, not -1"),
        (["--data", "folder:none"], "none: there is no such folder"),
        (["--data", "folders:pictures"], "unknown data set 'folders:pictures'; near: folder"),
        (["--data", "imagenet:pictures"], "found neither class folders nor"),
        (["--reference", "ig"], "--reference ig: it must be one of the methods"),
        (["--weights", "shapes.pth", "--weights", "nan.pth"], "--weights: expected one for each of 1 models"),
        (["--count", "9"], "9 pictures were asked for, and there are 3"),
        (["--blur", "0"], "blurred by a positive number"),
        (["--model", "net.py:model"], "two of a name cannot be told apart"),
        (["--out", "photo.png/study"], "cannot write to photo.png/study"),
    ],
)
def test_what_cannot_be_is_one_message_before_any_work(
    run: Run, pictures: Path, words: list[str], message: str
) -> None:
    before = files()
    status, out, err = run(*ASKED, "--methods", "nd", *words)
    assert (status, out) == (2, "") and message in err and err.count("\n") == 1
    assert files() == before


def test_interrupted_it_says_how_to_go_on(run: Run, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dmbp.evaluation.methods.ND.attribute", interrupted)
    status, out, err = run(*ASKED, "--methods", "gradient", "nd")
    assert (status, out) == (130, "") and err.endswith("the same command goes on from there\n")
    assert len(read_results(Path("study")).values) == 1
    status, out, _ = run(*ASKED, "--methods", "gradient", "nd", "--tables")
    assert status == 0 and "gradient: only 1 of 3 pictures" in out and "ND: only 0 of 3 pictures" in out


def test_a_sigmoid_is_the_models_own_word() -> None:
    """The probability that a factory names is what scores are made of; one that there is not is refused."""
    assert load_model("digit-pairs").probability == "sigmoid" and model().probability == "sigmoid"
    with pytest.raises(DmbpError, match='expected the probability "softmax" or "sigmoid", got \'logit\''):
        replace(model(), probability="logit")


def test_scores_are_of_the_models_own_probability(run: Run, pictures: Path) -> None:
    """The last score of a curve is the probability of the whole picture, by softmax or by sigmoid."""
    with Path("net.py").open("a") as stream:
        stream.write("\ndef several():\n    from dataclasses import replace\n")
        stream.write("    return replace(model(), name='several', probability='sigmoid')\n")
    models = ["net.py:model", "net.py:several"]
    assert run(*ASKED, "--model", models[1], "--methods", "nd", "--metrics", "insertion")[0] == 0
    found = read_results(Path("study"))
    for spec, chances in zip(models, (lambda s: s.softmax(1), torch.sigmoid), strict=True):
        loaded = load_model(spec)
        scores = chances(loaded.scores(loaded.preprocess.tensor(read_image("pictures/p0.png"))))[0]
        rows = found.values[Key(loaded.name, "nd", "p0.png")]["insertion"]
        assert [row["curve"][-1] for row in rows] == pytest.approx([scores[0].item(), scores[3].item()], abs=1e-5)


def test_a_blurred_map_is_made_of_the_sharp_one() -> None:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    sharp = parse("nd")
    blurred = Blurred(sharp, 1.5)
    maps = sharp(model().network, x, [0, 2])
    expected = np.stack([gaussian_filter(each.sum(0).double().numpy(), 1.5) for each in maps])
    made = blurred(model().network, x, [0, 2])
    assert made.shape == (2, 1, 8, 8)
    np.testing.assert_allclose(made[:, 0].numpy(), expected, rtol=1e-5, atol=1e-6)
    assert blurred.name == "nd blurred by 1.5" and column(blurred.name) == "ND blur 1.5"


def test_a_picture_is_read_once_for_all_methods_and_a_map_is_made_once_for_all_widths(
    run: Run, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the time goes to methods and scores, whose seconds each line tells."""
    calls: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: (calls.update([name]), function(*given))[1]

    monkeypatch.setattr("dmbp.datasets.items.read_image", counted("read", items.read_image))
    monkeypatch.setattr(DMBP, "learned", counted("map", DMBP.learned))
    assert run(*ASKED, "--methods", "nd", "dmbp:iterations=1", "--blur", "1", "2", "--sheet", "0")[0] == 0
    assert calls == {"read": 3, "map": 3}
    lines = [entry for entry in lines_of(Path("study/results-0000.jsonl")) if entry["kind"] == "result"]
    assert len(lines) == 18 and all(set(entry["seconds"]) == {"methods", "scores"} for entry in lines)
    learned = [entry["seconds"]["methods"] for entry in lines if entry["method"] == "dmbp:iterations=1"]
    blurred = [entry["seconds"]["methods"] for entry in lines if entry["method"] == "dmbp:iterations=1 blurred by 1"]
    assert sum(blurred) < sum(learned)


@pytest.mark.parametrize("rule", ["", ",tolerance=0.02", ",loss=none"])
def test_several_numbers_of_iterations_are_learned_once(
    run: Run, pictures: Path, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    """The longest learning gives the maps of all shorter ones, bit for bit those of runs of their own."""
    methods = [f"dmbp:iterations={count}{rule}" for count in (3, 45, 0)]
    methods += ["dmbp:iterations=2,loss=+", f"dmbp:iterations=3,map=complete{rule}"]
    calls: Counter[str] = Counter()
    learned = DMBP.learned
    monkeypatch.setattr(DMBP, "learned", lambda self, *given: (calls.update([self.loss]), learned(self, *given))[1])
    words = ("--data", "folder:pictures", "--metrics", "insertion", "--sheet", "3")
    assert run(*ASKED, *words, "--methods", *methods)[0] == 0
    together = files("study/maps")
    assert len(together) == 15 and sorted(calls.values()) == [3, 3]
    for place, method in enumerate(methods):
        assert run(*ASKED, *words, "--methods", method, "--out", f"alone{place}")[0] == 0
        alone = {path.name: content for path, content in files(f"alone{place}/maps").items()}
        assert len(alone) == 3
        for path, content in together.items():
            if path.name in alone:
                assert alone[path.name] == content, f"{method}: {path.name}"


def test_a_sheet_shows_each_map_on_its_own_scale_and_what_is_missing() -> None:
    """White is zero in every cell, and red what speaks for the class, whatever the method's units."""
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(6, 9)), 1000 * rng.normal(size=(6, 9)), None]
    lines = [Line(rng.random((6, 9, 3)), "cat $", maps), Line(rng.random((6, 9, 3)), "dog", maps)]
    figure = draw_rivals(lines, ["a", "b", "c"], "net")
    axes = np.array(figure.axes).reshape(2, 4)
    for row, line in zip(axes, lines, strict=True):
        np.testing.assert_array_equal(row[0].images[0].get_array(), line.picture)
        for ax, values in zip(row[1:3], line.maps[:2], strict=True):
            image = ax.images[0]
            np.testing.assert_array_equal(image.get_array(), values)
            low, high = image.get_clim()
            assert -low == high == pytest.approx(np.percentile(np.abs(values), 99.5))
            assert image.to_rgba(np.zeros(1))[0, :3].tolist() == [1, 1, 1]
        assert not row[3].images and row[3].texts[0].get_text() == "not kept"
    assert [ax.get_title() for ax in axes[0]] == ["picture", "a", "b", "c"]
    with pytest.raises(DmbpError, match="a map or None of each method"):
        draw_rivals(lines, ["a"])


def test_each_process_has_the_device_of_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert own_device("cuda") == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert [own_device(name) for name in ("cuda", "cuda:0", "cpu")] == ["cuda:1", "cuda:0", "cpu"]
