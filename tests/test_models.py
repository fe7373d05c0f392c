"""Models by name, classes by name, and weights that are read without running anything."""

import os
import pickle
import sys
import zipfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from dmbp.errors import DmbpError
from dmbp.images import Preprocess, read_image
from dmbp.models import Model, imagenet_classes, load_model, read_weights

GREY = Preprocess((8, 8), (0.0,), (1.0,))


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))


SMALL = """
from torch import nn
from dmbp.images import Preprocess
from dmbp.models import Model

def network():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))

def model(labels=("a", "b", "c")):
    return Model("small", network(), Preprocess((8, 8), (0.0,), (1.0,)), labels)

def mislabelled():
    return model(("a", "b"))

def broken():
    raise KeyError("no luck")

def number():
    return 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.py"
    path.write_text(SMALL)
    return path


# ---- classes ----


@pytest.fixture
def animals() -> Model:
    labels = ("tench, Tinca tinca", "tiger cat", "Egyptian cat", "crane", "crane", "cat")
    return Model("animals", small(), GREY, labels)


@pytest.mark.parametrize(
    ("target", "index"),
    [("2", 2), (" 2 ", 2), ("Tinca Tinca", 0), ("tench", 0), ("TIGER CAT", 1), ("egypt", 2), ("n c", 2), ("cat", 5)],
)
def test_class_names(animals: Model, target: str, index: int) -> None:
    assert animals.index(target) == index


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("6", "class id 6 is out of range, expected 0 to 5"),
        ("-1", "class id -1 is out of range"),
        ("tigre cat", "no class 'tigre cat'; near: tiger cat"),
        ("xyzzy", "no class 'xyzzy'$"),
        ("", "no class ''"),
        ("crane", r"fits several classes: crane \(3\), crane \(4\)"),
    ],
)
def test_no_such_class(animals: Model, target: str, message: str) -> None:
    with pytest.raises(DmbpError, match=message):
        animals.index(target)


def test_without_labels_ids_are_checked_against_the_network() -> None:
    model = Model("small", small().eval(), GREY)
    assert model.index("2") == 2 and model.label(2) == "class 2"
    with pytest.raises(DmbpError, match="expected 0 to 2"):
        model.index("3")
    with pytest.raises(DmbpError, match="no class names: give the class id, 0 to 2"):
        model.index("cat")
    with pytest.raises(DmbpError, match=r"does not take an input of shape \(1, 1, 9, 9\)"):
        Model("small", small().eval(), Preprocess((9, 9), (0.0,), (1.0,))).index("0")
    with pytest.raises(DmbpError, match=r"expected scores of shape \(1, classes\), got a tensor"):
        Model("small", small()[:1], GREY).index("0")


def test_imagenet_classes_are_torchvisions() -> None:
    default = torchvision.models.get_model_weights("resnet18").DEFAULT
    assert imagenet_classes() == tuple(default.meta["categories"])


# ---- models ----


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digit-pair", "unknown model 'digit-pair'; near: digit-pairs"),
        (
            "zebra",
            "expected digit-pairs, digit-pairs-vgg, efficientnet-lite0, torchvision:NAME, voc:vgg16, voc:resnet50, "
            "path.py:factory",
        ),
        ("torchvision:resnet5", "no classifier 'resnet5'; near: .*resnet50"),
        ("none.py:network", "none.py: there is no such file"),
    ],
)
def test_unknown_models(spec: str, message: str) -> None:
    with pytest.raises(DmbpError, match=message):
        load_model(spec)


@pytest.mark.parametrize("name", ["digit-pairs", "digit-pairs-vgg"])
def test_digit_pairs(name: str) -> None:
    model = load_model(name)
    assert not model.network.training and model.index("7") == 7 and model.label(7) == "7"
    with torch.no_grad():
        assert model.network(model.preprocess.tensor(np.zeros((64, 64, 3)))).shape == (1, 10)


@pytest.mark.parametrize(
    ("photo", "classes"),
    [
        ("chelsea", {"Egyptian cat", "tabby", "tiger cat"}),
        ("coffee", {"espresso"}),
        ("camera", {"tripod"}),
        ("rocket", {"missile"}),
        ("motorcycle_left", {"moped"}),
    ],
)
def test_efficientnet_classes_photos(photo: str, classes: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    model = load_model("efficientnet-lite0")
    x = model.preprocess.tensor(read_image(f"skimage:{photo}"))
    with torch.no_grad():
        best = model.network(x)[0].topk(len(classes)).indices.tolist()
    assert {model.label(i) for i in best} == classes
    assert not any(module.training for module in model.network.modules())
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("spec", ["efficientnet-lite0", "torchvision:resnet18"])
def test_a_missing_extra_is_named(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("efficientnet_lite_pytorch", "torchvision"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DmbpError, match=r'pip install "\.\[(demo|eval)\]"'):
        load_model(spec)


def test_torchvision_with_a_file(tmp_path: Path) -> None:
    network = torchvision.models.resnet18(weights=None)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    model = load_model("torchvision:resnet18", tmp_path / "weights.pth")
    for key, value in model.network.state_dict().items():
        assert torch.equal(value, network.state_dict()[key])
    assert not model.network.training and model.label(285) == "Egyptian cat"
    assert model.preprocess == Preprocess((224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224 / 256)


def test_torchvisions_own_densenet_files_have_old_names(tmp_path: Path) -> None:
    network = torchvision.models.densenet121(weights=None)
    old = {
        key.replace(f"{layer}{i}.", f"{layer}.{i}.") if "denselayer" in key else key: value
        for key, value in network.state_dict().items()
        for layer in ("norm", "conv")
        for i in (1, 2)
        if "denselayer" not in key or f".{layer}{i}." in key
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old and len(old) == len(network.state_dict())
    torch.save(old, tmp_path / "weights.pth")
    load_model("torchvision:densenet121", tmp_path / "weights.pth")


def test_torchvision_without_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise URLError("offline")

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", offline)
    with pytest.raises(DmbpError, match=r"offline.*fetch https://.*--weights FILE"):
        load_model("torchvision:resnet18")


def test_a_download_is_never_unpickled_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    def state(self: object, **options: object) -> dict[str, torch.Tensor]:
        asked.append(options)
        return torchvision.models.squeezenet1_1(weights=None).state_dict()

    monkeypatch.setattr(torchvision.models.SqueezeNet1_1_Weights, "get_state_dict", state)
    load_model("torchvision:squeezenet1_1")
    assert asked[0]["weights_only"] is True


def test_factory(file: Path) -> None:
    model = load_model(f"{file}:model")
    assert model.name == "small" and model.index("b") == 1 and not model.network.training
    network = load_model(f"{file}:network")
    assert network.preprocess.size == (224, 224) and network.labels is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "it defines no function 'none'"),
        ("broken", r"small.py:16: KeyError: 'no luck'"),
        ("number", "expected a torch.nn.Module or a dmbp Model, got a value of type int"),
        ("mislabelled", "as many labels as scores, got 2 and 3"),
    ],
)
def test_factories_that_fail(file: Path, name: str, message: str) -> None:
    with pytest.raises(DmbpError, match=message):
        load_model(f"{file}:{name}")


@pytest.mark.parametrize(("text", "message"), [("x = (", "SyntaxError"), ("import nix", "bad.py:1: Mod.*'nix'")])
def test_files_that_fail(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(DmbpError, match=message):
        load_model(f"{tmp_path / 'bad.py'}:network")


# ---- weights ----


def _save_npz(weights: dict[str, torch.Tensor], path: Path) -> None:
    np.savez(path, **{key: value.numpy() for key, value in weights.items()})


SAVE = {".pth": torch.save, ".pt": torch.save, ".npz": _save_npz, ".safetensors": save_file}


@pytest.mark.parametrize("suffix", SAVE)
def test_weights_round_trip(file: Path, suffix: str) -> None:
    weights = small().state_dict()
    path = file.with_suffix(suffix)
    SAVE[suffix](dict(weights), path)
    for key, value in load_model(f"{file}:model", path).network.state_dict().items():
        assert torch.equal(value, weights[key]) and value.shape == weights[key].shape


def test_wrapped_and_old_weights(file: Path) -> None:
    weights = {key: value for key, value in small().state_dict().items() if "num_batches" not in key}
    torch.save({"epoch": 3, "state_dict": weights}, file.with_suffix(".pth"))
    network = load_model(f"{file}:model", file.with_suffix(".pth")).network
    assert torch.equal(network.state_dict()["4.weight"], weights["4.weight"])


@pytest.mark.parametrize("suffix", SAVE)
def test_weights_that_do_not_fit(file: Path, suffix: str) -> None:
    weights = small().state_dict()
    del weights["0.bias"]
    weights |= {"4.weight": torch.zeros(3, 5), "extra": torch.zeros(1)}
    SAVE[suffix](dict(weights), file.with_suffix(suffix))
    message = r"missing: 0.bias; not in the network: extra; wrong shape: 4.weight has .*\(3, 5\), expected \(3, 72\)"
    with pytest.raises(DmbpError, match=message):
        load_model(f"{file}:model", file.with_suffix(suffix))


@pytest.mark.parametrize("suffix", SAVE)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(tmp_path: Path, suffix: str, value: float) -> None:
    SAVE[suffix]({"fine": torch.zeros(2), "4.weight": torch.tensor([0.0, value])}, tmp_path / f"w{suffix}")
    with pytest.raises(DmbpError, match=r"the tensor '4.weight' holds NaN or infinity"):
        read_weights(tmp_path / f"w{suffix}")


class Malice:
    """Unpickled, it makes a directory."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.trace),)


def _malicious_npz(malice: Malice, path: Path) -> None:
    np.savez(path, weight=np.array([malice], dtype=object), allow_pickle=True)


def _pickled(protocol: int):
    return lambda malice, path: path.write_bytes(pickle.dumps({"weight": malice}, protocol))


MALICIOUS = {
    "zip.pth": lambda malice, path: torch.save({"weight": malice}, path),
    "protocol2.pt": _pickled(2),
    "protocol5.pth": _pickled(5),
    "objects.npz": _malicious_npz,
    "pickle.npz": _pickled(4),
    "pickle.safetensors": _pickled(4),
}


@pytest.mark.parametrize("name", MALICIOUS)
def test_no_pickle_is_ever_run(tmp_path: Path, name: str) -> None:
    trace = tmp_path / "it was run"
    MALICIOUS[name](Malice(trace), tmp_path / name)
    with pytest.raises(DmbpError, match="unpickling it could execute code"):
        load_model("digit-pairs", tmp_path / name)
    assert not trace.exists()


def test_the_malice_is_real(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Malice(tmp_path / "it was run")))
    assert (tmp_path / "it was run").exists()


@pytest.mark.parametrize("suffix", SAVE)
@pytest.mark.parametrize("content", [b"", b"hello there"])
def test_weights_of_rubbish(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(DmbpError, match="no file of plain tensors"):
        read_weights(path)


def test_weights_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(DmbpError, match=r"ends in one of .safetensors, .npz, .pt, .pth"):
        read_weights(tmp_path / "w.h5")
    with pytest.raises(DmbpError, match="there is no such file"):
        read_weights(tmp_path / "w.pth")
    torch.save(torch.zeros(2), tmp_path / "w.pth")
    with pytest.raises(DmbpError, match=r"expected tensors by name, got a tensor of shape \(2,\)"):
        read_weights(tmp_path / "w.pth")
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(DmbpError, match="'epoch' is a value of type int"):
        read_weights(tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("note.txt", "hello")
    with pytest.raises(DmbpError, match="no file of plain tensors"):
        read_weights(tmp_path / "w.npz")


def test_safetensors_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.safetensors").touch()
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(DmbpError, match='pip install "safetensors"'):
        read_weights(tmp_path / "w.safetensors")
