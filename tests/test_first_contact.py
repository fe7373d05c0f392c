"""What newcomers meet first: messages that lead on, values that pickle, services without a terminal."""

from __future__ import annotations

import copy
import io
import pickle
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command import Run
from torch import Tensor, nn

import dmbp
import linreg
from dmbp import DmbpError, extras
from dmbp.images import Preprocess
from dmbp.models import load_model
from dmbp.progress import hidden
from linreg import LinregError

pytestmark = pytest.mark.xdist_group("contact")


def data(smooth: bool = False) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(3)
    unit = nn.Tanh() if smooth else nn.ReLU()
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), unit, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3))
    return model, torch.randn(2, 1, 4, 4)


# ---- a picture without its batch dimension ----


def test_a_picture_without_a_batch_dimension_is_told_how_to_have_one() -> None:
    model, x = data()
    graph = linreg.trace(model, x)
    for call in (lambda: linreg.trace(model, x[0]), lambda: dmbp.explain(model, x[0], 0)):
        with pytest.raises(LinregError, match=r"it takes the example with a batch dimension more, example\[None\]"):
            call()
    for call in (lambda: graph(x[0]), lambda: graph.linearize(x[0]), lambda: dmbp.explain(graph, x[0], 0)):
        with pytest.raises(LinregError, match=r"\(N, 1, 4, 4\), not \(1, 4, 4\): it lacks .* which x\[None\] adds"):
            call()
    torch.testing.assert_close(graph(x[0][None]), model(x[:1]).detach())
    with pytest.raises(LinregError) as refused:
        linreg.trace(model, x[:, :, :3])
    assert "example[None]" not in str(refused.value)


# ---- smooth units ----


def test_pieces_work_where_the_refusal_sends_people() -> None:
    model, x = data(smooth=True)
    with pytest.raises(LinregError) as refused:
        dmbp.explain(model, x, 1, iterations=2, progress=False)
    pieces = int(re.search(r"explain\(…, pieces=(\d+)\)", str(refused.value))[1])  # type: ignore[index]
    result = dmbp.explain(model, x, 1, pieces=pieces, iterations=3, progress=False)
    graph = linreg.trace(model, x, nonlinear="pwl", pieces=pieces)
    expected = dmbp.explain(graph, x, 1, iterations=3, progress=False)
    torch.testing.assert_close(result.attribution, expected.attribution)
    torch.testing.assert_close(result.scores["y"], model(x)[:, 1].detach(), rtol=0, atol=1e-2)
    found = list(dmbp.explain_all(model, x, 1, pieces=pieces, iterations=3, progress=False))
    torch.testing.assert_close(torch.stack([one.attribution for one in found]), expected.attribution)
    for call in (dmbp.explain, lambda *a, **k: list(dmbp.explain_all(*a, **k))):
        with pytest.raises(DmbpError, match="pieces are for a module that is yet to be traced"):
            call(graph, x, 1, pieces=8, progress=False)
    with pytest.raises(LinregError, match="pieces must be a whole number"):
        dmbp.explain(model, x, 1, pieces=2)


# ---- what to install, and what words mean ----


def test_install_hints_are_of_a_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each names an extra that the project has, and no package of an index that is none."""
    assert extras.install("demo") == 'in the folder of the repository, pip install ".[demo]"'
    root = Path(dmbp.__file__).parent.parent
    text = (root / "pyproject.toml").read_text()
    for path in (root / "dmbp").rglob("*.py"):
        code = path.read_text()
        assert 'pip install "linreg-dmbp' not in code, path
        for extra in re.findall(r'install\("(\w+)"\)', code) + re.findall(r"install\('(\w+)'\)", code):
            assert re.search(rf"^{extra} = ", text, re.MULTILINE), (path, extra)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(DmbpError, match=r'torchvision is not installed: in the folder .* pip install "\.\[eval\]"'):
        load_model("torchvision:resnet18")


def test_help_says_what_words_do(run: Run) -> None:
    status, out, _ = run("explain", "--help")
    said = " ".join(out.split())
    assert status == 0
    for words in ("so that y⁺ and y⁻ take up the score", "nothing is learned", "residual block as a whole",
                  "the output of each ReLU", "in y⁺ and in y⁻ alike", "once, in y~"):  # fmt: skip
        assert words in said


def test_a_network_of_another_size_gets_the_recipe(tmp_path: Path) -> None:
    """And the recipe works as it stands, pasted at the end of the file."""
    small = tmp_path / "small.py"
    small.write_text(
        "from torch import nn\ndef network():\n    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5))\n"
    )
    with pytest.raises(DmbpError, match=r"Say what it takes, at the end of .*small\.py") as caught:
        load_model(f"{small}:network").classes()
    recipe = [line[4:] for line in str(caught.value).splitlines() if line.startswith("    ") or not line]
    small.write_text(small.read_text() + "\n".join(recipe) + "\n")
    assert load_model(f"{small}:explained").classes() == 5


# ---- processes without a terminal ----


def test_without_a_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service has none: no bar, and the same results."""
    model, x = data()
    expected = dmbp.explain(model, x, 1, iterations=2, progress=False).attribution
    monkeypatch.setattr(sys, "stderr", None)
    assert hidden() is True and hidden(progress=False) is True
    torch.testing.assert_close(dmbp.explain(model, x, 1, iterations=2).attribution, expected)
    found = list(dmbp.explain_all(model, x, 1, iterations=2))
    torch.testing.assert_close(torch.stack([one.attribution for one in found]), expected)


# ---- values that travel ----


def values() -> dict[str, Any]:
    """One of each public value, looked at before, so that what it computed for itself travels with it."""
    model, x = data()
    graph = linreg.trace(model, x)
    lin, one = graph.linearize(x), graph.linearize(x[:1])
    result = dmbp.explain(graph, x, 1, iterations=2, progress=False)
    split, scores = result.split, dmbp.masked_scores(lin, target=1)
    looked_at = [result.complete, result.checks, result.summary(), result._repr_html_(), split.error, split.shares]
    looked_at += [
        split.ledger("positive").terms[0].elements,
        scores.unmasked,
        graph.geometries,
        lin.certificate(1).bound,
    ]
    assert len(looked_at) == 10
    certificate = lin.certificate(1)
    certificate.summary()
    return {
        "graph": graph, "node": graph.nodes[0], "linearization": lin, "ledger": lin.ledger(1),
        "certificate": certificate,
        "term": split.ledger("negative").terms[0],
        "jacobian": one.jacobian(), "result": result, "split": split, "ledger of a part": split.ledger("nuisance"),
        "complete": split.complete("positive"), "options": dmbp.Options(), "scores": scores,
        "learned": dmbp.learn_masks(lin, 1, iterations=1, progress=False), "module": graph.to_module(),
        "explained": list(dmbp.explain_all(graph, x, 1, iterations=1, progress=False)), "geometry": graph.geometry("0"),
        "place": linreg.target.at(1, (0, 0)), "preprocess": Preprocess((4, 4), (0.5,), (0.5,)),
        "interpolants": linreg.trace(*data(smooth=True), nonlinear="pwl"),
        "loaded model": load_model("digit-pairs"), "error": LinregError("a"), "masked": dmbp.masked(lin, result.masks),
    }  # fmt: skip


def saved_by_torch(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "torch.save": saved_by_torch,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("way", WAYS)
def test_public_values_travel(way: str) -> None:
    """And give the same numbers where they arrive."""
    held = values()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = {name: WAYS[way](value) for name, value in held.items()}
    x = held["linearization"].input
    assert torch.equal(found["graph"](x), held["graph"](x))
    assert torch.equal(found["linearization"].weight(1), held["linearization"].weight(1))
    assert torch.equal(found["ledger"].total, held["ledger"].total)
    assert torch.equal(found["ledger of a part"].terms[0].elements, held["ledger of a part"].terms[0].elements)
    assert torch.equal(found["certificate"].bound, held["certificate"].bound)
    assert torch.equal(found["result"].attribution, held["result"].attribution)
    assert found["result"].summary() == held["result"].summary()
    assert torch.equal(found["split"].error, held["split"].error)
    assert torch.equal(found["jacobian"].dense(), held["jacobian"].dense())
    assert torch.equal(found["interpolants"](x), held["interpolants"](x))
    assert torch.equal(found["module"](x), held["module"](x))
    assert found["options"] == held["options"] and found["preprocess"] == held["preprocess"]
