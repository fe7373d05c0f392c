"""Several writers at once: of one path, of one folder, of one name; each file is whole, and each result its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import numpy as np
import pytest
import torch
from command import Run
from PIL import Image
from torch import Tensor, nn

import dmbp
import linreg
from dmbp import DmbpError
from dmbp.cli.json_text import as_json
from dmbp.files import whole
from dmbp.runs import shelf as shelves

pytestmark = pytest.mark.xdist_group("writers")
X = torch.linspace(-2, 3, 24).reshape(6, 4).sin()


def network(seed: int = 0) -> linreg.OperatorGraph:
    torch.manual_seed(seed)
    return linreg.trace(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.ones(2, 4))


def explained(graph: linreg.OperatorGraph, out: Path | str | None = None, **options: Any) -> list[dmbp.Explained]:
    words = {"iterations": 2, "batch_size": 2, "progress": False} | options
    return list(dmbp.explain_all(graph, X, 0, out=out, **words))


def same(found: list[dmbp.Explained], expected: list[dmbp.Explained]) -> bool:
    maps = zip(found, expected, strict=True)
    return all(torch.allclose(a.attribution, b.attribution, atol=1e-6) for a, b in maps)


# ---- one path ----


def test_a_thousand_saves_of_two_writers_leave_files_that_can_be_read(tmp_path: Path) -> None:
    """Each of the files is wholly the one's or wholly the other's, read while both go on, and nothing else is left."""
    path, broken, together = tmp_path / "one.npz", list[BaseException](), Barrier(2)
    payload = {who: {"who": np.full(3000, who), "more": np.full((7, 9), float(who))} for who in (1, 2)}

    def write(who: int) -> None:
        try:
            together.wait()
            for _ in range(500):
                with whole(path) as partial:
                    np.savez(partial, **payload[who])
                with np.load(path, allow_pickle=False) as found:
                    first = int(found["who"][0])
                    assert all(np.array_equal(found[name], value) for name, value in payload[first].items())
        except BaseException as error:
            broken.append(error)

    writers = [Thread(target=write, args=(who,)) for who in payload]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert broken == [] and os.listdir(tmp_path) == ["one.npz"]


def test_only_one_of_many_is_first(tmp_path: Path) -> None:
    """Of writers that keep what is there, one writes and all others see its file; without links no file is torn."""
    together, first, refused = Barrier(6), list[int](), list[str]()

    def keep(path: Path) -> None:
        raise FileNotFoundError(path.read_text())  # any error of one's own

    def write(who: int) -> None:
        together.wait()
        try:
            with whole(tmp_path / "one", keep) as partial:
                partial.write_text(f"{who}" * 1000)
            first.append(who)
        except DmbpError as error:
            refused.append(str(error))

    writers = [Thread(target=write, args=(who,)) for who in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(first) == 1 and len(refused) == 5
    assert (tmp_path / "one").read_text() == f"{first[0]}" * 1000
    assert os.listdir(tmp_path) == ["one"]


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*paths: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", none)
    graph = network()
    assert same(explained(graph, tmp_path), explained(graph))
    with pytest.raises(DmbpError, match="another iterations"):
        explained(graph, tmp_path, iterations=3)


# ---- one folder ----


def test_two_runs_that_share_a_folder(tmp_path: Path) -> None:
    """The second run's options are seen at each file, not only at its start."""
    graph = network()

    def targets() -> Iterator[int]:
        explained(graph, tmp_path, iterations=2)
        yield from [0] * 6

    run = dmbp.explain_all(graph, X, targets(), out=tmp_path, iterations=40, batch_size=1, progress=False)
    with pytest.raises(
        DmbpError, match=r"000000.npz was made from another iterations \(2, not 40\): give another folder"
    ):
        list(run)
    assert same(explained(graph, tmp_path), explained(graph))


@pytest.mark.parametrize("other", ["options", "network", "version"])
def test_a_file_that_appears_meanwhile_is_not_overwritten(
    other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at a folder and the writing: the file is the other run's, and stays it."""
    graph = network()
    run = dmbp.explain_all(graph, X, 0, out=tmp_path, iterations=3, batch_size=2, progress=False)
    first = next(run)
    for path in tmp_path.iterdir():
        path.unlink()
    with monkeypatch.context() as patch:
        if other == "version":
            patch.setattr(shelves, "VERSIONS", {"dmbp": "0.0.1", "torch": torch.__version__})
        explained(network(1) if other == "network" else graph, tmp_path, iterations=2 if other == "options" else 3)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(DmbpError, match=r"was made from another (iterations|network|dmbp) ?"):
        list(run)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert first.iterations == 3


SCRIPT = """
import sys, torch, dmbp
sys.path.insert(0, {tests!r})
from test_writers import network, X
try:
    found = list(dmbp.explain_all(network(), X, 0, out={out!r}, iterations={n}, batch_size=1, progress=False))
    print("own" if {{e.iterations for e in found}} == {{{n}}} else "mixed")
except dmbp.DmbpError as error:
    print("refused" if "made from another iterations" in str(error) else error)
"""


def test_four_processes_with_two_settings_share_one_folder(tmp_path: Path) -> None:
    """Each gets its own results or a refusal; the files are all of one setting, or none is both."""
    here, out = str(Path(__file__).parent), str(tmp_path / "out")
    scripts = [SCRIPT.format(tests=here, out=out, n=n) for n in (2, 3, 2, 3)]
    runs = [subprocess.Popen([sys.executable, "-c", s], stdout=subprocess.PIPE, text=True) for s in scripts]
    said = [run.communicate(timeout=240)[0].strip() for run in runs]
    assert set(said) <= {"own", "refused"} and "own" in said, said
    for path in Path(out).iterdir():
        with np.load(path) as arrays:
            assert int(arrays["iterations"]) == json.loads(str(arrays["made"]))["iterations"]


def test_files_of_other_versions_are_named(tmp_path: Path) -> None:
    """An older record lacks what this one compares, and an older dmbp gave it its version."""
    graph = network()
    explained(graph, tmp_path)
    path = tmp_path / "000003.npz"
    arrays = dict(np.load(path))
    record = json.loads(str(arrays["made"]))
    for changed, message in [
        ({"torch": "1.0"}, r"made from another torch \('1.0', not"),
        ({"dmbp": "0.1"}, r"made from another dmbp \('0.1', not"),
        (None, "was written by another version of dmbp: give another folder with `out`, or delete the file"),
    ]:
        new = {k: v for k, v in record.items() if k != "dmbp"} if changed is None else record | changed
        np.savez(path, **arrays | {"made": np.array(json.dumps(new))})
        with pytest.raises(DmbpError, match=message):
            explained(graph, tmp_path)


def test_a_folder_is_the_one_of_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative `out` is that of the working directory when it was given."""
    (there := tmp_path / "there").mkdir()
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(there)
    run = dmbp.explain_all(network(), X, 0, out="out", iterations=1, progress=False)
    monkeypatch.chdir(elsewhere)
    assert len(list(run)) == 6
    assert len(list((there / "out").iterdir())) == 6 and not list(elsewhere.iterdir())


# ---- one name ----


def test_pictures_of_one_name_have_files_of_their_own(run: Run) -> None:
    """a/0001.png and b/0001.png into one folder; the same again takes its own file's place."""
    pictures = {"a": (200, 30, 90), "b": (20, 220, 60), "c": (90, 90, 10)}
    for folder, colour in pictures.items():
        Path(folder).mkdir()
        noise = np.random.default_rng(len(folder)).integers(0, 40, (20, 28, 3))
        Image.fromarray((noise + colour).clip(0, 255).astype(np.uint8)).save(f"{folder}/0001.png")
    reports = {}
    for folder in [*pictures, *pictures]:
        words = ("--model", "net.py:named", "--target", "0", "--iterations", "1", "--out", "mine", "--json")
        status, out, err = run("explain", f"{folder}/0001.png", *words)
        assert status == 0, err
        report = json.loads(out)
        assert reports.setdefault(folder, report["arrays"]) == report["arrays"]
    assert len(set(reports.values())) == 3
    inputs = [dmbp.load(path).input for path in reports.values()]
    assert not torch.equal(inputs[0], inputs[1]) and not torch.equal(inputs[1], inputs[2])
    stems = {Path(path).stem for path in reports.values()}
    assert {path.name for path in Path("mine").iterdir()} == {f"{s}.{kind}" for s in stems for kind in ("npz", "png")}
    # Another network of that name, as another file's of one factory: its result is another's too.
    text = Path("net.py").read_text()
    Path("sub").mkdir()
    Path("sub/neighbour.py").write_text(Path("neighbour.py").read_text())
    Path("sub/net.py").write_text(text.replace("manual_seed(0)", "manual_seed(1)"))
    words = ("--model", "sub/net.py:named", "--target", "0", "--iterations", "1", "--out", "mine", "--json")
    status, out, err = run("explain", "a/0001.png", *words)
    assert status == 0, err
    assert json.loads(out)["arrays"] not in reports.values()


# ---- what is written and printed ----


def test_numbers_that_json_does_not_know_are_null() -> None:
    value = {"a": [float("nan"), float("inf"), 1.5, -float("inf")], "b": {"c": (np.float64("nan"), True, None, "x")}}
    assert json.loads(as_json(value), parse_constant=pytest.fail) == {
        "a": [None, None, 1.5, None], "b": {"c": [None, True, None, "x"]},
    }  # fmt: skip


@pytest.mark.parametrize("word", ["", " "])
def test_an_empty_name_is_no_picture(word: str, run: Run) -> None:
    for command in ("explain", "inspect"):
        status, _, err = run(command, word)
        assert status == 2 and "the name of the INPUT is empty" in err
    status, _, err = run("explain", "--model", "")
    assert status == 2 and "unknown model ''" in err


def test_masks_of_a_run_are_not_shared_between_threads(tmp_path: Path) -> None:
    """Two threads that explain into one folder with one setting: both read and write the same values."""
    graph, found = network(), dict[int, list[dmbp.Explained]]()
    expected = explained(graph)

    def work(k: int) -> None:
        found[k] = explained(graph, tmp_path)

    threads = [Thread(target=work, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(found[k], expected) for k in range(2))
    values: list[Tensor] = [one.attribution for one in explained(graph, tmp_path)]
    assert len(values) == 6
