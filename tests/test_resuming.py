"""An evaluation that is stopped at any moment, and started again with any number of processes, ends with one table."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from studies import evaluated, plan, rendered, write_pictures

from dmbp.datasets.items import PhotoFile, Unreadable
from dmbp.errors import DmbpError
from dmbp.evaluation import record
from dmbp.evaluation.outcome import told
from dmbp.evaluation.record import Key, Writer, lines_of, read_results
from dmbp.evaluation.run import Evaluation, check_alike

ROOT = Path(__file__).parents[1]


class Killed(BaseException):
    """What nothing on the way handles, as nothing handles SIGKILL."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def unbroken(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return rendered(evaluated(plan(pictures), tmp_path_factory.mktemp("unbroken") / "out"))


def torn(chance: float, rng: np.random.Generator) -> Callable[[int, bytes], int]:
    """`os.write` that now and then writes a part of a line, or all of it, and dies."""
    write = os.write

    def dying(file: int, line: bytes) -> int:
        if rng.random() < chance:
            write(file, line[: rng.integers(len(line) + 1)])
            raise Killed
        return write(file, line)

    return dying


def test_killed_twenty_times_it_ends_with_the_table_of_an_unbroken_run(
    pictures: Path, unbroken: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaths, rng, out = 0, np.random.default_rng(0), tmp_path / "out"
    whole: list[int] = []
    while deaths < 20:
        monkeypatch.setattr(record.os, "write", torn(0.4, rng))
        try:
            evaluated(plan(pictures), out)
        except Killed:
            deaths += 1
        monkeypatch.undo()
        whole.append(len(read_results(out).values))
        if whole[-1] == 18:  # all is there: lose the end of the file once more, in the middle of a line
            path = out / "results-0000.jsonl"
            path.write_bytes(path.read_bytes()[: -int(rng.integers(2, path.stat().st_size // 2))])
    assert len(set(whole)) > 5, "the deaths came at different moments"
    assert rendered(evaluated(plan(pictures), out)) == unbroken
    keys = [(e["method"], e["picture"]) for e in lines_of(out / "results-0000.jsonl") if e["kind"] == "result"]
    assert len(keys) == len(set(keys)) == 18, "nothing is computed twice that was finished"


def test_what_is_there_is_not_computed_again(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert evaluated(plan(pictures), out).computed == 18
    assert evaluated(plan(pictures), out).computed == 0
    more = plan(pictures, methods=("nd", "gradient"), metrics=("insertion", "deletion"))
    assert evaluated(more, out).computed == 12  # a metric that nd lacks, and a new method
    found = read_results(out).values
    assert set(found[Key("tiny", "nd", "p0.png")]) == {"insertion", "cim", "deletion"}


def test_the_table_of_more_is_that_of_all_at_once(pictures: Path, unbroken: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    evaluated(plan(pictures, methods=("dmbp:iterations=2",), metrics=("cim",)), out)
    evaluated(plan(pictures, methods=("nd",)), out)
    assert rendered(evaluated(plan(pictures), out)) == unbroken


# ---- several processes ----

SCRIPT = """
import os, signal, sys
from pathlib import Path
from studies import plan, rendered
from dmbp.evaluation import record
from dmbp.evaluation.processes import joined
from dmbp.evaluation.run import evaluate
import torch
torch.set_num_threads(1)

pictures, out, victim, after = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
fsync, count = os.fsync, 0

def deadly(file):
    global count
    count += 1
    if os.environ["RANK"] == victim and count > after:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(file)

record.os.fsync = deadly
with joined() as ranks:
    found = evaluate(plan(pictures), out, ranks)
if found is not None:
    (out / "table.txt").write_text(rendered(found)["json"])
"""


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def two_ranks(pictures: Path, out: Path, victim: str = "none", after: int = 0) -> list[int]:
    """Start the evaluation in two processes, as torchrun does; their exit statuses."""
    shared = {
        **os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(pictures), str(out), victim, str(after)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]  # fmt: skip
    for process in started:
        process.communicate(timeout=240)
    return [process.returncode for process in started]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="a system without SIGKILL")
@pytest.mark.skipif(not torch.distributed.is_available(), reason="a build of torch without torch.distributed")
def test_two_ranks_make_the_table_of_one_and_so_does_whoever_goes_on(
    pictures: Path, unbroken: dict[str, str], tmp_path: Path
) -> None:
    assert two_ranks(pictures, tmp_path / "both") == [0, 0]
    assert (tmp_path / "both/table.txt").read_text() == unbroken["json"]
    files = sorted((tmp_path / "both").glob("*.jsonl"))
    counts = [sum(entry["kind"] == "result" for entry in lines_of(file)) for file in files]
    assert counts == [9, 9]

    out = tmp_path / "killed"
    first, second = two_ranks(pictures, out, victim="1", after=3)  # its header, and two results
    assert second == -signal.SIGKILL and first != 0
    assert len(read_results(out).values) < 18
    assert rendered(evaluated(plan(pictures), out)) == unbroken


# ---- what must not be mixed, and what cannot be written ----


def differing(folder: Path) -> dict[str, tuple[Any, str]]:
    """Plans that make other numbers, and what the refusal names."""
    other = plan(folder)
    with torch.no_grad():
        next(other.subjects[0].model.network.parameters()).mul_(1.5)
    seeded = plan(folder)
    object.__setattr__(seeded, "settings", {"seed": 1})
    return {
        "weights": (other, "models tiny"),
        "seed": (seeded, "settings seed: 0, and now 1;"),
        "step": (plan(folder, step=4), r"metrics insertion: Insertion\(step=8\), and now Insertion\(step=4\)"),
    }


@pytest.mark.parametrize("what", ["weights", "seed", "step"])
def test_what_was_made_differently_is_not_mixed(pictures: Path, tmp_path: Path, what: str) -> None:
    out = tmp_path / "out"
    evaluated(plan(pictures, methods=("nd",)), out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    changed, message = differing(pictures)[what]
    with pytest.raises(DmbpError, match=f"made differently: .*{message}"):
        evaluated(changed, out)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_another_picture_of_the_same_name_is_not_mixed(tmp_path: Path) -> None:
    folder, out = write_pictures(tmp_path / "pictures"), tmp_path / "out"
    evaluated(plan(folder, methods=("nd",)), out)
    Image.new("RGB", (9, 9)).save(folder / "p1.png")
    with pytest.raises(DmbpError, match=r"p1.png: .*another picture of this name \(its pixels differ\)"):
        evaluated(plan(folder, methods=("nd",)), out)
    write_pictures(folder)
    table = (folder / "labels.csv").read_text().replace("p0.png,cat; dog", "p0.png,cat; cow")
    (folder / "labels.csv").write_text(table)
    with pytest.raises(DmbpError, match=r"p0.png: .*its classes were \[0, 1\]"):
        evaluated(plan(folder, methods=("nd",)), out)


def test_a_full_disk_loses_the_line_at_hand_only(
    pictures: Path, unbroken: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, write, left = tmp_path / "out", os.write, [3_000]

    def filling(file: int, line: bytes) -> int:
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        part = line[: left[0]]
        left[0] -= len(part)
        return write(file, part)

    monkeypatch.setattr(record.os, "write", filling)
    with pytest.raises(DmbpError, match="No space left on device; all finished results are kept"):
        evaluated(plan(pictures), out)
    monkeypatch.undo()
    kept = (out / "results-0000.jsonl").read_bytes()
    assert kept.endswith(b"}\n") and 0 < len(read_results(out).values) < 18
    assert rendered(evaluated(plan(pictures), out)) == unbroken
    assert (out / "results-0000.jsonl").read_bytes().startswith(kept)


def test_what_stands_in_the_way_of_writing_is_told(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DmbpError, match="cannot write to"):
        evaluated(plan(pictures), tmp_path / "file" / "out")
    out = tmp_path / "out"
    with Writer(out, 0), pytest.raises(DmbpError, match="another process writes its results there now"):
        Writer(out, 0)
    (out / "results-0000.jsonl").write_text('{"kind": "result"}\nnothing\n')
    with pytest.raises(DmbpError, match=r"results-0000.jsonl, line 1: this is no line of an evaluation .*'model'"):
        evaluated(plan(pictures), out)


def test_a_picture_that_cannot_be_read_is_skipped_and_taken_once_it_can(
    pictures: Path, unbroken: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = write_pictures(tmp_path / "pictures"), tmp_path / "out"
    (folder / "p2.png").write_bytes((folder / "p2.png").read_bytes()[:60])
    found = evaluated(plan(folder), out)
    assert len(found.study.places[0].pictures) == 5 and "p2.png" not in found.study.places[0].pictures
    assert "skipped p2.png" in capsys.readouterr().err
    assert ": 5 pictures." in rendered(found)["txt"]
    write_pictures(folder)
    assert rendered(evaluated(plan(folder), out)) == unbroken


def test_a_picture_that_is_lost_later_keeps_what_was_found(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, digest = tmp_path / "out", PhotoFile.digest
    evaluated(plan(pictures, methods=("nd",)), out)

    def lost(photo: PhotoFile) -> str:
        if photo.path.name == "p2.png":
            raise Unreadable("a disk of stone")
        return digest(photo)

    monkeypatch.setattr(PhotoFile, "digest", lost)
    found = evaluated(plan(pictures, methods=("nd", "gradient")), out)
    assert "gradient: only 5 of 6 pictures" in rendered(found)["txt"]
    assert found.computed == 5 and not found.study.results.unread


# ---- batches ----


def test_batches_give_the_same_numbers_to_rounding_and_resume_to_the_bit(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four pictures, seven rows, go together, then two with three rows; a batch that was cut is made again whole."""
    one, four = evaluated(plan(pictures), tmp_path / "one"), evaluated(plan(pictures, batch=4), tmp_path / "four")
    for metric in ("insertion", "cim"):
        np.testing.assert_allclose(values(four, metric), values(one, metric), atol=1e-5)
    deaths, rng, out = 0, np.random.default_rng(3), tmp_path / "killed"
    while deaths < 6:
        monkeypatch.setattr(record.os, "write", torn(0.25, rng))
        try:
            evaluated(plan(pictures, batch=4), out)
            break
        except Killed:
            deaths += 1
        monkeypatch.undo()
    monkeypatch.undo()
    assert deaths > 2
    assert rendered(evaluated(plan(pictures, batch=4), out)) == rendered(four)
    with pytest.raises(DmbpError, match="settings batch: 4, and now 2"):
        evaluated(plan(pictures, batch=2), out)


def test_one_map_that_fails_takes_no_other_of_its_batch_along(pictures: Path, tmp_path: Path) -> None:
    asked = plan(pictures, batch=6)
    object.__setattr__(asked, "methods", (Broken(lambda x: x * torch.nan),))
    found = evaluated(asked, tmp_path / "out")
    assert [key.picture for key in found.study.results.failed] == ["p5.png"]
    assert len(found.study.results.values) == 5


class Broken:
    """A method whose map of one picture is what it should not be."""

    name = "nd"

    def __init__(self, wrong: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.wrong = wrong

    def __repr__(self) -> str:
        return "ND()"

    def __call__(self, network: torch.nn.Module, x: torch.Tensor, target: list[int]) -> torch.Tensor:
        if target[-1] != 2:  # the last picture's class, which no other has
            return x
        return self.wrong(x) if len(target) == 1 else torch.cat([x[:-1], self.wrong(x[-1:])])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: x * torch.nan, "holds NaN"),
        (lambda x: x[..., 1:], "expected maps of the shape"),
        (lambda x: x.no_such_thing, "AttributeError"),
    ],
)
def test_a_map_that_cannot_be_judged_is_told_and_not_counted(
    pictures: Path, tmp_path: Path, wrong: Callable[[torch.Tensor], torch.Tensor], message: str
) -> None:
    asked = plan(pictures)
    object.__setattr__(asked, "methods", (Broken(wrong), asked.methods[2]))
    found = evaluated(asked, tmp_path / "out")
    [(key, reason)] = found.study.results.failed.items()
    assert key == ("tiny", "nd", "p5.png") and message in reason
    assert "ND: only 5 of 6 pictures" in rendered(found)["txt"]
    assert values(found, "insertion")[5, 0] != values(found, "insertion")[5, 0]  # NaN


def test_a_constant_map_has_a_number_and_wide_bounds(pictures: Path, tmp_path: Path) -> None:
    asked = plan(pictures, metrics=("insertion",))
    object.__setattr__(asked, "methods", (Broken(torch.zeros_like),))
    found = evaluated(asked, tmp_path / "out")
    [row] = found.study.results.values[Key("tiny", "nd", "p5.png")]["insertion"]
    assert 0 < row["lower"] < row["area"] < row["upper"] < 1 and row["upper"] - row["lower"] > 0.8
    assert "by the order of equal pixels: ND 0." in rendered(found)["txt"]


def test_ranks_that_differ_are_refused_and_metrics_without_numbers_are_told(pictures: Path, tmp_path: Path) -> None:
    mine, other = plan(pictures).made(), plan(pictures).made() | {"device": "another"}
    with pytest.raises(DmbpError, match="rank 1 differs from rank 0 in device"):
        check_alike([mine, other])
    asked = plan(pictures, methods=("nd",), metrics=("insertion", "localization"))
    lines = told(asked, evaluated(asked, tmp_path / "out"))
    assert lines[0].startswith("tiny: localization has no number here: it needs pictures made of two halves")
    assert len(lines) == 2


def values(found: Evaluation, metric: str) -> np.ndarray:
    return found.study.values(found.study.places[0], metric, "area")


def test_a_class_that_the_network_does_not_have_and_an_empty_plan(pictures: Path) -> None:
    with pytest.raises(DmbpError, match=r"p5\.png shows class 7, and the network has classes 0 to 2"):
        folder_with(pictures, "7")
    with pytest.raises(DmbpError, match="at least one network, one method and one metric"):
        plan(pictures, methods=())
    with pytest.raises(DmbpError, match="two of a name"):
        plan(pictures, methods=("nd", "nd"))


def folder_with(pictures: Path, label: str) -> None:
    table = pictures / "labels.csv"
    text = table.read_text()
    try:
        table.write_text(text.replace("p5.png,2", f"p5.png,{label}"))
        plan(pictures)
    finally:
        table.write_text(text)


def test_a_line_holds_all_that_the_tables_need(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = evaluated(plan(pictures), out)
    header, first, *_ = (json.loads(line) for line in (out / "results-0000.jsonl").read_text().splitlines())
    assert set(header["made"]) == {"models", "methods", "metrics", "data", "settings", "device", "versions"}
    assert header["made"]["versions"]["torch"].startswith(torch.__version__.partition("+")[0])
    assert first["targets"] == [0, 1] and len(first["digest"]) == 64
    curve = first["metrics"]["insertion"][0]
    assert curve["lower"] <= curve["area"] <= curve["upper"] and len(curve["curve"]) == 9
    mean = np.mean([row["area"] for row in first["metrics"]["insertion"]])
    assert values(found, "insertion")[0, 0] == mean
    assert first["metrics"]["cim"][0] != first["metrics"]["insertion"][0]
    assert np.isnan(values(found, "cim")[5]).all() and not np.isnan(values(found, "cim")[:5]).any()
