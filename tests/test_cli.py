"""The command line: what it prints and writes, and that what cannot be done is one message, with nothing written."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from splits import recurred
from torch import Tensor

import dmbp
import linreg
from dmbp import cli
from dmbp.account import PARTS
from dmbp.datasets import sample_pairs
from dmbp.learning.objective import LOSSES
from dmbp.models import load_model
from dmbp.networks import pretrained

KEYS = {
    "model", "target", "label", "y", "positive", "negative", "nuisance", "unmasked", "completeness_error", "iterations",
    "seconds", "figure", "arrays",
}  # fmt: skip

NETWORKS = """
import sys
import torch
from torch import nn
from dmbp.images import Preprocess
from dmbp.models import Model
from neighbour import LABELS

def body(*layers):
    torch.manual_seed(0)
    head = nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 4)
    return nn.Sequential(nn.Conv2d(3, 4, 3), *layers, *head)

def model(network=None, labels=None):
    return Model("net", network or body(), Preprocess((10, 14), (0.5,) * 3, (0.25,) * 3), labels)

class With(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.body, self.gate, self.how = body(), nn.Conv2d(3, 4, 3), forward

    def forward(self, x):
        return self.how(self, x)

def named():
    return model(labels=LABELS)

def double():
    return model(body().double())

def loud():
    print("made")
    return model(With(lambda self, x: (print("run"), self.body(x))[1]))

def attention():
    def forward(self, x):
        keys = x.flatten(2)
        return (torch.softmax(keys.transpose(1, 2) @ keys, -1) @ keys.transpose(1, 2)).mean(1)
    return model(With(forward))

def gated():
    return model(With(lambda self, x: (self.body[0](x).relu() * self.gate(x).sigmoid()).mean((2, 3))))

def batch_norm():
    return model(body(nn.BatchNorm2d(4, track_running_stats=False)))

def data_dependent():
    return model(With(lambda self, x: self.body(x) if x.sum() > 0 else -self.body(x)))

def too_small():
    return model(With(lambda self, x: self.body(x[:, :, :2, :2])))

def unpooled():
    return model(body()[:2])

def nan():
    made = model()
    made.network[0].weight.data[0, 0, 0, 0] = torch.nan
    return made

def gateless():
    return model(nn.Sequential(nn.Flatten(), nn.Linear(420, 4)))

def raises():
    raise KeyError("no luck")

def leaves():
    sys.exit(0)
"""
LABELS = ("crane, bird", "crane, machine", "a/b\\c $\\frac$", "déjà vu?")


class Evil:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("executed",)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of pictures, networks and weights, good ones and bad; `out` holds what an earlier run may have left."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "neighbour", raising=False)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.png")
    Image.fromarray(pixels[:1, :1]).save("dot.png")
    Path("text.png").write_text("no image")
    Path("net.py").write_text(NETWORKS)
    Path("neighbour.py").write_text(f"LABELS = {LABELS!r}")
    state = pretrained("digit-pairs").state_dict()
    first = next(iter(state))
    torch.save({**state, first: state[first][:1]}, "shapes.pth")
    torch.save({**state, first: state[first] * torch.nan}, "nan.pth")
    Path("evil.pth").write_bytes(pickle.dumps(Evil()))
    torch.save({**state, "evil": Evil()}, "evil.pt")
    Path("out").mkdir()
    for stem in ("photo-net-class-0", "digit-pair-0-digit-pairs-3"):
        Path(f"out/{stem}.png").write_bytes(b"old figure")
        Path(f"out/{stem}.npz").write_bytes(b"old arrays")
    return tmp_path


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(here: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def status_and_output(*arguments: str) -> tuple[int, str, str]:
        status = 0
        try:
            cli.main(arguments)
        except SystemExit as leaving:
            status = int(leaving.code or 0)
        return status, *capsys.readouterr()

    return status_and_output


def explained(run: Run, *arguments: str, iterations: int = 1) -> Any:
    """What --json prints, which is all that may be on standard output."""
    status, out, err = run("explain", *arguments, "--iterations", str(iterations), "--out", "out", "--json")
    assert (status, err) == (0, "")
    return json.loads(out)


def files(folder: str = ".") -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file() and path.suffix != ".pyc"}


# ---- what it prints and writes ----


def test_without_arguments_both_digits_of_the_shipped_pair(run: Run) -> None:
    status, out, err = run("explain", "--iterations", "2")
    assert (status, err) == (0, "")
    digits = sample_pairs().labels[0].tolist()
    names = {f"digit-pair-0-digit-pairs-{digit}.{kind}" for digit in digits for kind in ("png", "npz")}
    assert {path.name for path in Path("dmbp-out").iterdir()} == names
    for digit in digits:
        assert f"{digit}, digit-pairs at digit-pair:0: 2 iterations in" in out
        assert f"figure: dmbp-out/digit-pair-0-digit-pairs-{digit}.png" in out
    for word in ("from the input", "from bias terms", "y⁺", "y⁻", "u, in y~: what no mask touches", "certificate:"):
        assert out.count(word) >= 2


def test_json(run: Run) -> None:
    reports = explained(run, iterations=2)
    assert [report["target"] for report in reports] == sample_pairs().labels[0].tolist()
    for report in reports:
        assert set(report) >= KEYS
        assert report["label"] == str(report["target"]) and report["iterations"] == 2
        assert 0 <= report["completeness_error"] < 1e-4
        with Image.open(report["figure"]) as figure:
            assert figure.format == "PNG" and min(figure.size) > 700
        with np.load(report["arrays"], allow_pickle=False) as arrays:
            check_arrays(dict(arrays), report)
            check_split(dict(arrays), report)
    assert not list(Path("out").glob("*partial*"))


def check_arrays(arrays: dict[str, np.ndarray], report: dict[str, Any]) -> None:
    """The map of each part sums to its input share, and with the ledger to the part itself."""
    for part in ("positive", "negative", "nuisance", "unmasked"):
        share = arrays[f"{part}_attribution"].sum()
        assert arrays[f"{part}_input_share"].item() == pytest.approx(share, abs=1e-4)
        assert arrays[part].item() == report[part] == pytest.approx(share + arrays[f"{part}_ledger"].sum(), abs=1e-4)
        assert len(arrays[f"{part}_ledger"]) == len(arrays["ledger_terms"])
    both = arrays["positive_attribution"] + arrays["negative_attribution"]
    np.testing.assert_allclose(arrays["attribution"], both, atol=1e-6)
    assert arrays["attribution"].shape == arrays["input"].shape == (1, 1, 64, 64)
    assert arrays["y"].item() == report["y"]
    assert arrays["history_positive"].shape == (3, 1)


def check_split(arrays: dict[str, np.ndarray], report: dict[str, Any]) -> None:
    """The parts are those of the masks that were written, by the recurrence, and sum to the network's own score."""
    network, x = pretrained("digit-pairs"), torch.from_numpy(arrays["input"])
    lin = linreg.trace(network, x).linearize(x)
    masks = {key.removeprefix("mask/"): torch.from_numpy(m) for key, m in arrays.items() if key.startswith("mask/")}
    parts, size = recurred(lin, masks, report["target"]), lin.ledger(report["target"]).magnitude.item()
    for part in PARTS:
        assert report[part] == pytest.approx(getattr(parts, part).item(), abs=1e-5 * size)
    with torch.no_grad():
        score = network(x)[0, report["target"]].item()
    assert report["y"] == pytest.approx(score, abs=1e-5 * size)
    assert parts.total.item() == pytest.approx(score, abs=1e-5 * size)


def test_one_target_is_one_object(run: Run) -> None:
    report = explained(run, "digit-pair:5", "--model", "digit-pairs-vgg", "--target", "4", "--target", " 4")
    assert (report["model"], report["target"]) == ("digit-pairs-vgg", 4)


def test_photo_with_the_shipped_network(run: Run) -> None:
    report = explained(run, "photo.png", "--model", "digit-pairs")
    assert report["image"] == "photo.png" and report["label"] in "0123456789"


def test_own_network_with_its_top_class(run: Run) -> None:
    report = explained(run, "photo.png", "--model", "net.py:model")
    assert report["label"] == f"class {report['target']}"
    assert Path(report["figure"]).name == f"photo-net-class-{report['target']}.png"


def test_own_network_without_preprocessing(run: Run) -> None:
    assert explained(run, "photo.png", "--model", "net.py:body")["model"] == "net.py:body"


def test_own_network_in_float64(run: Run) -> None:
    assert explained(run, "photo.png", "--model", "net.py:double")["completeness_error"] < 1e-14


def test_targets_by_name_and_id_have_files_of_their_own(run: Run) -> None:
    arguments = [word for target in ("0", "crane, machine", "A/B", "Déjà", "3") for word in ("--target", target)]
    reports = explained(run, "photo.png", "--model", "net.py:named", *arguments)
    assert [(report["target"], report["label"]) for report in reports] == list(enumerate(LABELS))
    names = ["crane-0", "crane-1", "a-b-c-frac-2", "déjà-vu-3"]
    assert [Path(report["arrays"]).name for report in reports] == [f"photo-net-{name}.npz" for name in names]


def test_what_the_users_code_prints_is_not_on_standard_output(run: Run) -> None:
    status, out, err = run("explain", "photo.png", "--model", "net.py:loud", "--iterations", "0", "--json")
    assert status == 0 and json.loads(out)["model"] == "net"
    assert err == "made\nrun\n"


def grey(pixels: Image.Image) -> Image.Image:
    return pixels.convert("L")


def deep(pixels: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(pixels.convert("L")).astype(np.uint16) * 257)


def transparent(pixels: Image.Image) -> Image.Image:
    pixels.putalpha(128)
    return pixels


def cmyk(pixels: Image.Image) -> Image.Image:
    return pixels.convert("CMYK")


@pytest.mark.parametrize(
    ("convert", "mode", "ending"),
    [(grey, "L", "png"), (deep, "I;16", "png"), (transparent, "RGBA", "png"), (cmyk, "CMYK", "jpg")],
)
def test_kinds_of_images(run: Run, convert: Callable[[Image.Image], Image.Image], mode: str, ending: str) -> None:
    name = f"été {mode[0]}.v2 (1).{ending}"
    with Image.open("photo.png") as photo:
        convert(photo).save(name)
    with Image.open(name) as image:
        assert image.mode == mode
    report = explained(run, name, "--model", "net.py:model")
    assert report["image"] == name
    assert Path(report["figure"]).name.startswith(f"été-{mode[0]}-v2-1-net-class-")


@pytest.mark.parametrize("loss", ["all", "+-", "+", "none"])
@pytest.mark.parametrize("sites", ["gates", "blocks"])
def test_losses_and_sites(run: Run, loss: str, sites: str) -> None:
    report = explained(run, "photo.png", "--model", "net.py:model", "--loss", loss, "--sites", sites)
    assert report["iterations"] == (0 if loss == "none" else 1)


def test_where_the_text_says_the_unmasked_share_is(run: Run) -> None:
    status, out, _ = run("explain", "photo.png", "--model", "net.py:model", "--iterations", "1", "--unmasked", "both")
    assert status == 0 and "u, in y⁺ and in y⁻: what no mask touches" in out and ": 1 iteration in" in out


def test_a_second_run_replaces_the_files_of_the_first(run: Run) -> None:
    first = explained(run, "--target", "3")
    assert files("out")[Path(first["figure"])] != b"old figure"
    assert files("out")[Path(first["arrays"])] != b"old arrays"


def test_inspect(run: Run) -> None:
    before = files()
    status, out, err = run("inspect")
    assert (status, err) == (0, "") and files() == before
    for word in ("digit-pairs at digit-pair:0", "blocks.0.residual.0.1", "conv2d + bn", "c · x", "certificate: y = "):
        assert word in out
    assert out.count("ledger of") == 2


def test_inspect_json(run: Run) -> None:
    status, out, err = run("inspect", "photo.png", "--model", "net.py:named", "--target", "1", "--json")
    assert (status, err) == (0, "")
    told = json.loads(out)
    assert [node["operator"] for node in told["nodes"]][:2] == ["conv2d", "relu"]
    assert 0 < told["nodes"][1]["open"] < 1 and told["nodes"][0]["open"] is None
    (target,) = told["targets"]
    assert (target["target"], target["label"]) == (1, LABELS[1])
    assert target["y"] == pytest.approx(sum(term["share"] for term in target["ledger"]["terms"]), abs=1e-6)
    assert target["completeness_error"] < 1e-6


# ---- the figure ----


def test_figure(here: Path) -> None:
    """Every map is white at exactly zero, the ticks are whole iterations, and no text leaves the figure."""
    model = load_model("digit-pairs")
    result = dmbp.explain(model.network, sample_pairs().images[:1], 3, iterations=1, loss="none", progress=False)
    figure = result.plot(title="3, $digit$-pairs")
    figure.savefig("figure.png")
    maps = {ax.get_title(): ax.images[0] for ax in figure.axes if ax.images}
    assert list(maps) == [
        "image x", "positive mapping ∇⁺", "negative mapping ∇⁻", "positive ∇⁺ ⊙ x", "negative ∇⁻ ⊙ x", "attribution a",
        "complete, positive", "complete, negative", "complete, both",
    ]  # fmt: skip
    for name in list(maps)[1:]:
        drawn = maps[name]
        assert drawn.to_rgba(np.zeros((1, 1)))[0, 0].tolist() == [1, 1, 1, 1]
    assert not np.any(maps["negative ∇⁻ ⊙ x"].get_array()) and np.any(maps["attribution a"].get_array())
    history = next(ax for ax in figure.axes if ax.get_xlabel() == "iteration")
    low, high = history.get_xlim()
    assert [tick for tick in history.get_xticks() if low <= tick <= high] == [0]
    inside = figure.get_tightbbox()
    assert inside.x0 >= 0 and inside.y0 >= 0
    assert inside.x1 <= figure.get_figwidth() and inside.y1 <= figure.get_figheight()


# ---- what cannot be done ----

PHOTO = ("photo.png", "--model")
REFUSED = {
    "missing file": (("none.png",), "none.png: there is no such image file"),
    "text file": (("text.png",), "text.png: this is not an image"),
    "one pixel": (("dot.png",), "dot.png: expected at least 8×8 pixels, got 1×1"),
    "no such pair": (("digit-pair:8",), "expected digit-pair:0 to digit-pair:7"),
    "unknown model": (("--model", "digit-pear"), "unknown model 'digit-pear'; near: digit-pairs"),
    "no image": (("--model", "net.py:model"), "--model net.py:model needs an IMAGE"),
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
    "no scores": ((*PHOTO, "net.py:unpooled"), "expected scores of shape (1, classes), got a tensor of shape (1, 4, 8"),
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
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dmbp.cli.question.trace", interrupted)
    before = files()
    assert run("explain", "--out", "out") == (130, "", "dmbp: interrupted before the end\n")
    assert files() == before


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
