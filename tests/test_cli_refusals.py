"""What the command line cannot do is one message, with nothing written; Ctrl-C and closed pipes end it cleanly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command import Run, files
from torch import Tensor

import dmbp
from dmbp.datasets import sample_pairs
from dmbp.learning.objective import LOSSES

PHOTO = ("photo.png", "--model")
REFUSED = {
    "missing file": (("none.png",), "none.png: there is no such image file"),
    "text file": (("text.png",), "text.png: this is not an image"),
    "one pixel": (("dot.png",), "dot.png: expected at least 8×8 pixels, got 1×1"),
    "no such pair": (("digit-pair:8",), "expected digit-pair:0 to digit-pair:7"),
    "no name": (("",), "the name of the INPUT is empty"),
    "unknown model": (("--model", "digit-pear"), "unknown model 'digit-pear'; near: digit-pairs"),
    "no image": (("--model", "net.py:model"), "--model net.py:model needs an INPUT"),
    "unknown class": ((*PHOTO, "net.py:named", "--target", "crame"), "net has no class 'crame'; near: crane"),
    "two classes": ((*PHOTO, "net.py:named", "--target", "crane"), "fits several classes: crane, bird (0), crane, "),
    "class out of range": ((*PHOTO, "net.py:model", "--target", "4"), "class id 4 is out of range, expected 0 to 3"),
    "negative class": (("--target", "-1"), "class id -1 is out of range, expected 0 to 9"),
    "a number too long": (("--target", "9" * 5000), "has no class"),
    "softmax attention": (
        (*PHOTO, "net.py:attention"),
        "cannot take node 'matmul', aten.matmul of (N, 140, 3), (N, 3, 140)",
    ),
    "sigmoid gate": ((*PHOTO, "net.py:gated"), "aten.sigmoid of (N, 4, 8, 12): it is smooth, not piecewise linear"),
    "batch norm": ((*PHOTO, "net.py:batch_norm"), "without running statistics it divides by those of the batch"),
    "data-dependent": ((*PHOTO, "net.py:data_dependent"), "write the choice with operators (torch.where, clamp"),
    "forward fails": ((*PHOTO, "net.py:too_small"), "the network does not take an input of shape (1, 3, 10, 14): "),
    "no scores": (
        (*PHOTO, "net.py:unpooled"),
        "(N, 4, 8, 12) has scores of 4 classes at 96 places: say where the score is",
    ),
    "NaN in a network": ((*PHOTO, "net.py:nan"), "'0.weight' holds NaN"),
    "nothing to mask": ((*PHOTO, "net.py:gateless"), "there is nothing to mask"),
    "factory raises": ((*PHOTO, "net.py:raises"), "KeyError: 'no luck'"),
    "factory leaves": ((*PHOTO, "net.py:leaves"), "SystemExit: 0"),
    "no factory": ((*PHOTO, "net.py:none"), "net.py: it defines no function 'none'"),
    "wrong shapes": (("--weights", "shapes.pth"), "these weights do not fit the network; wrong shape: stem.0.0.weight"),
    "NaN in weights": (("--weights", "nan.pth"), "holds NaN or infinity"),
    "code in weights": (("--weights", "evil.pth"), "evil.pth: refused"),
    "code among weights": (("--weights", "evil.pt"), "evil.pt: refused"),
    "no weights": (("--weights", "none.pth"), "none.pth: there is no such file of weights"),
    "negative iterations": (("--iterations", "-1"), "expected a whole number of at least 0, not '-1'"),
    "half an iteration": (("--iterations", "1.5"), "expected a whole number of at least 0, not '1.5'"),
    "no number": (("--iterations", "many"), "expected a whole number of at least 0, not 'many'"),
    "out is a file": (("--out", "photo.png"), "cannot write to photo.png: Not a directory"),
    "out below a file": (("--out", "photo.png/below/it"), "cannot write to photo.png/below/it: Not a directory"),
    "no such device": (("--device", "nonsense"), "--device nonsense: this machine or this build of torch has no such"),
    "no real device": (("--device", "meta"), "--device meta: this machine or this build of torch has no such device"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(run: Run, case: str) -> None:
    arguments, message = REFUSED[case]
    check_refused(run, arguments, message)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_cuda(run: Run) -> None:
    check_refused(run, ("--device", "cuda"), "--device cuda: this machine or this build of torch has no such device")


def test_read_only_folder(run: Run) -> None:
    Path("out").chmod(0o555)
    try:
        if os.access("out", os.W_OK):
            pytest.skip("this user may write anywhere")
        check_refused(run, (), "cannot write to out: Permission denied")
        check_refused(run, ("--out", "out/below"), "cannot write to out/below: Permission denied")
    finally:
        Path("out").chmod(0o755)


def check_refused(run: Run, arguments: tuple[str, ...], message: str) -> None:
    """Exit status 2, one message, nothing on standard output, nothing written anywhere, nothing executed."""
    before = files()
    status, out, err = run("explain", *(() if "--out" in arguments else ("--out", "out")), *arguments, "--json")
    assert (status, out) == (2, "")
    assert message in err and err.count("error: ") == 1 and "Traceback" not in err
    assert err.startswith("dmbp: error: ") or err.startswith("usage: dmbp explain")  # argparse's own
    assert files() == before and not Path("executed").exists()


def test_inspect_says_before_any_work_that_it_cannot_write(run: Run) -> None:
    status, out, err = run("inspect", "--regions", "--out", "photo.png")
    assert (status, out, err) == (2, "", "dmbp: error: cannot write to photo.png: Not a directory\n")


def test_a_folder_is_made_only_when_there_is_something_to_write(run: Run) -> None:
    assert run("explain", "none.png", "--out", "new/folder")[0] == 2
    assert not Path("new").exists()
    assert run("explain", "photo.png", "--model", "net.py:model", "--iterations", "0", "--out", "new/folder")[0] == 0
    assert len(files("new/folder")) == 2


def test_a_failed_write_leaves_the_old_figure(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(figure: object, path: Path, **_: object) -> None:
        path.write_bytes(b"half a fig")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    status, out, err = run("explain", "--target", "3", "--iterations", "0", "--out", "out")
    assert (status, out) == (2, "")
    assert err == "dmbp: error: cannot write out/digit-pair-0-digit-pairs-3.png: No space left on device\n"
    assert files("out")[Path("out/digit-pair-0-digit-pairs-3.png")] == b"old figure"
    assert not list(Path("out").glob("*partial*"))


# ---- Ctrl-C, pipes, and the process itself ----


def test_interrupted_while_learning(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([LOSSES["all"]] * 3)

    def three_times(y: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        if loss := next(losses, None):
            return loss(y, positive, negative)
        raise KeyboardInterrupt

    monkeypatch.setitem(LOSSES, "all", three_times)
    first, second = sample_pairs().labels[0].tolist()
    status, out, err = run("explain", "--out", "out", "--json")
    (report,) = json.loads(out)
    assert status == 130
    assert (report["target"], report["iterations"], report["interrupted"]) == (first, 3, True)
    assert err == f"dmbp: interrupted after 3 iterations; kept what was reached; not begun: {second}\n"
    with np.load(report["arrays"], allow_pickle=False) as arrays:
        assert len(arrays["history_positive"]) == 4


def test_interrupted_while_tracing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dmbp.cli.question.trace", interrupted)
    before = files()
    assert run("explain", "--out", "out") == (130, "", "dmbp: interrupted before the end\n")
    assert files() == before


STOPPED = """
import sys

class Stop:  # what Ctrl-C does while torch is loaded
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Stop())
sys.argv = ["dmbp", "inspect"]
"""
WAYS = {
    "script": "from dmbp.cli import main; main()",
    "module": "import runpy; runpy.run_module('dmbp.cli', run_name='__main__')",
}


@pytest.mark.parametrize("way", WAYS)
def test_interrupted_while_loading(way: str) -> None:
    """Torch takes seconds to load, and is not loaded before the command line answers Ctrl-C."""
    code = STOPPED + WAYS[way]
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (process.returncode, process.stdout) == (130, "")
    assert process.stderr == "dmbp: interrupted before the end\n"


def process(*arguments: str) -> subprocess.Popen[str]:
    folders = [str(Path(dmbp.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folder for folder in folders if folder)}
    command = [sys.executable, "-m", "dmbp.cli", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", env=environment
    )


def test_exit_status_of_the_process(here: Path) -> None:
    with process("explain", "none.png", "--out", "out") as refused:
        out, err = refused.communicate(timeout=120)
    assert (refused.returncode, out) == (2, "")
    assert err == "dmbp: error: none.png: there is no such image file\n"


def test_a_reader_that_stops_early_is_no_error(here: Path) -> None:
    with process("inspect", "photo.png", "--model", "net.py:model", "--json") as piped:
        assert piped.stdout is not None and piped.stderr is not None
        piped.stdout.close()
        assert piped.stderr.read() == ""
        assert piped.wait(timeout=120) == 141
