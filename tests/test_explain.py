"""The whole method in one call: options, batches, callbacks, interruption, saving, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import NETS, traced
from splits import recurred
from torch import Tensor, nn

import dmbp
import linreg
from dmbp.account import PARTS

TARGET = [0, 2, 1]
SCORES = ("positive", "negative", "nuisance")
SAME = {"rtol": 1e-10, "atol": 1e-10}


def given(name: str) -> tuple[nn.Module, Tensor, linreg.OperatorGraph]:
    t = traced(name)
    return t.model, t.x, t.graph


def explained(name: str = "chain_with_biases", **options: Any) -> dmbp.Result:
    _, x, graph = given(name)
    return dmbp.explain(graph, x, TARGET, **({"iterations": 5, "progress": False} | options))


def assert_same(a: dmbp.Result, b: dmbp.Result) -> None:
    """The same explanation, whatever time it took."""
    first, second = a.arrays(), b.arrays()
    del first["seconds"], second["seconds"]
    assert first.keys() == second.keys()
    for name, value in first.items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(value, second[name], rtol=1e-10, atol=1e-10, err_msg=name)
        else:
            assert (value == second[name]).all()
    assert (a.loss, a.iterations, a.interrupted) == (b.loss, b.iterations, b.interrupted)


@pytest.mark.parametrize(
    ("name", "sites"), [("chain_with_biases", "gates"), ("residual_outer", "blocks"), ("mobile", "gates")]
)
def test_a_model_and_its_graph_give_the_same(name: str, sites: str) -> None:
    model, x, graph = given(name)
    options = {"iterations": 4, "sites": sites, "progress": False}
    assert_same(dmbp.explain(model, x, TARGET, **options), dmbp.explain(graph, x, TARGET, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["chain_with_biases", "residual_inner", "mobile", "pools", "wiring"])
@pytest.mark.parametrize("loss", ["all", "+-", "+", "none"])
def test_images_of_a_batch_are_independent(name: str, loss: str) -> None:
    _, x, graph = given(name)
    together = explained(name, loss=loss)
    for i, target in enumerate(TARGET):
        alone = dmbp.explain(graph, x[i : i + 1], target, iterations=5, loss=loss, progress=False)
        for part in ("attribution", "positive", "negative"):
            torch.testing.assert_close(getattr(together, part)[i : i + 1], getattr(alone, part), rtol=1e-8, atol=1e-10)
        for site, mask in alone.masks.items():
            torch.testing.assert_close(together.masks[site][i : i + 1], mask, rtol=0, atol=1e-8)
        for part in SCORES:
            torch.testing.assert_close(together.history[part][:, i : i + 1], alone.history[part], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("unmasked", ["nuisance", "both"])
@pytest.mark.parametrize("iterations", [0, 1, 5])
def test_history_holds_the_split_at_the_start_and_after_each_update(iterations: int, unmasked: str) -> None:
    seen: list[dict[str, Tensor]] = []
    result = explained(
        iterations=iterations,
        unmasked=unmasked,
        callback=lambda k, split, logits: seen.append({site: theta.sigmoid() for site, theta in logits.items()}),
    )
    _, x, graph = given("chain_with_biases")
    lin = graph.linearize(x)
    assert (result.iterations, result.interrupted) == (iterations, False)
    steps = [recurred(lin, masks, TARGET, unmasked) for masks in (*seen, result.masks)]
    for part in SCORES:
        history = result.history[part]
        assert history.shape == (iterations + 1, len(x)) and history.dtype == x.dtype
        torch.testing.assert_close(history, torch.stack([getattr(step, part) for step in steps]), **SAME)
        torch.testing.assert_close(history[-1], getattr(result.split, part), **SAME)
        start = dmbp.decompose(lin, result.initial, TARGET, unmasked)
        torch.testing.assert_close(history[0], getattr(start, part), **SAME)
    for step in steps:
        torch.testing.assert_close(step.total, result.split.y, **SAME)
    assert all(mask.shape == (len(x), *graph[site].shape) for site, mask in result.masks.items())


def test_an_empty_history_has_the_shape_dtype_and_device_of_a_full_one() -> None:
    _, x, graph = given("chain_with_biases")
    learned = dmbp.learn_masks(graph.linearize(x), TARGET, iterations=0, progress=False)
    for part in SCORES:
        assert learned.history[part].shape == (0, len(x))
        assert learned.history[part].dtype == x.dtype


@pytest.mark.parametrize("loss", ["all", "+-", "+"])
def test_learning_lowers_the_loss_of_each_image(loss: str) -> None:
    result = explained("residual_inner", loss=loss, iterations=30)
    history = result.history
    values = {
        "all": history["negative"] - history["positive"] + history["nuisance"].abs(),
        "+-": history["negative"] - history["positive"],
        "+": -history["positive"],
    }[loss]
    assert (values[-1] < values[0]).all()


def test_the_callback_sees_each_iteration_before_its_update() -> None:
    seen: list[tuple[int, dict[str, Tensor]]] = []

    def callback(iteration: int, split: Mapping[str, Tensor], logits: Mapping[str, Tensor]) -> None:
        assert torch.is_grad_enabled()
        seen.append((iteration, dict(split)))

    result = explained(callback=callback)
    assert [iteration for iteration, _ in seen] == [0, 1, 2, 3, 4]
    for iteration, split in seen:
        assert set(split) == {"y", *SCORES}
        assert torch.equal(split["y"], result.split.y)
        assert not any(value.requires_grad for value in split.values())
        for part in SCORES:
            assert torch.equal(split[part], result.history[part][iteration])


def test_the_callback_sees_the_masks_of_each_iteration() -> None:
    """Those before update k are what k iterations end with."""
    seen: list[dict[str, Tensor]] = []
    explained(callback=lambda k, split, logits: seen.append({n: theta.sigmoid() for n, theta in logits.items()}))
    for k in (0, 3):
        for site, mask in explained(iterations=k).masks.items():
            assert torch.equal(seen[k][site], mask)


@pytest.mark.parametrize("k", [0, 3])
def test_interruption_keeps_what_was_reached(k: int) -> None:
    def stop(iteration: int, split: Mapping[str, Tensor], logits: Mapping[str, Tensor]) -> None:
        if iteration == k:
            raise KeyboardInterrupt

    result = explained("residual_outer", iterations=50, callback=stop)
    assert (result.interrupted, result.iterations) == (True, k)
    whole = explained("residual_outer", iterations=k)
    assert not whole.interrupted
    for site, mask in whole.masks.items():
        assert torch.equal(result.masks[site], mask)
    for part in SCORES:
        assert torch.equal(result.history[part], whole.history[part])
    assert torch.equal(result.attribution, whole.attribution)


def test_other_exceptions_of_the_callback_are_not_swallowed() -> None:
    def fail(iteration: int, split: Mapping[str, Tensor], logits: Mapping[str, Tensor]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        explained(callback=fail)


def test_without_iterations_the_masks_are_those_of_b1() -> None:
    result = explained(iterations=0)
    _, x, graph = given("chain_with_biases")
    lin = graph.linearize(x)
    expected = dmbp.initial_logits(lin, dmbp.find_sites(graph), TARGET)
    assert list(result.masks) == list(expected)
    for site, theta in expected.items():
        assert torch.equal(result.masks[site], theta.sigmoid())
        assert torch.equal(result.initial[site], theta.sigmoid())


@pytest.mark.parametrize("unmasked", ["nuisance", "both"])
@pytest.mark.parametrize("name", ["chain_with_biases", "shortcut", "mobile"])
def test_loss_none_is_gradient_times_input(name: str, unmasked: str) -> None:
    """Eq. 5: c ⊙ x, paths past every mask included."""
    model, x, graph = given(name)

    def callback(iteration: int, split: Mapping[str, Tensor], logits: Mapping[str, Tensor]) -> None:
        raise AssertionError("there is nothing to learn")

    result = explained(name, loss="none", unmasked=unmasked, iterations=50, callback=callback)
    assert torch.equal(result.attribution, graph.linearize(x).weight(TARGET) * x)
    leaf = x.clone().requires_grad_()
    model(leaf)[torch.arange(3), TARGET].sum().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(result.attribution, leaf.grad * x, rtol=1e-10, atol=1e-12)
    assert all((mask == 1).all() for mask in result.masks.values())
    assert (result.iterations, result.interrupted) == (0, False)


@pytest.mark.parametrize("loss", ["all", "+-", "+"])
def test_the_map_is_the_sum_of_its_two_sides(loss: str) -> None:
    result = explained("shortcut", loss=loss)
    assert torch.equal(result.attribution, result.positive + result.negative)
    for part in ("positive", "negative"):
        ledger = result.split.ledger(part)
        assert torch.equal(getattr(result, part), ledger.weight * result.input)
        shares = getattr(result, part).flatten(1).sum(1) + ledger.bias_share
        torch.testing.assert_close(shares, getattr(result.split, part), **SAME)


def test_start_goes_on_from_given_masks() -> None:
    first = explained("residual_outer")
    before = {site: mask.clone() for site, mask in first.masks.items()}
    second = explained("residual_outer", start=first.masks)
    for site, mask in before.items():
        torch.testing.assert_close(second.initial[site], mask, **SAME)
        assert torch.equal(first.masks[site], mask)  # they are the caller's
        assert not torch.equal(second.masks[site], mask)
    for part in SCORES:
        torch.testing.assert_close(second.history[part][0], first.history[part][-1], **SAME)


def test_start_from_the_masks_of_b1_is_no_start_at_all() -> None:
    whole = explained("residual_outer", iterations=10)
    start = {site: mask.clone().requires_grad_() for site, mask in whole.initial.items()}  # whoever they come from
    again = explained("residual_outer", iterations=10, start=start)
    for site, mask in whole.masks.items():
        torch.testing.assert_close(again.masks[site], mask, rtol=0, atol=1e-8)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_start_from_masks_of_zero_or_one_can_move(value: float) -> None:
    start = {site: torch.full_like(mask, value) for site, mask in explained(iterations=0).initial.items()}
    result = explained(start=start, loss="+-")
    for site, mask in start.items():
        assert (result.initial[site] - mask).abs().max() < 1e-5
        assert result.masks[site].isfinite().all()
        assert (result.masks[site] - result.initial[site]).abs().max() > 1e-8


def test_named_sites_are_the_only_ones_masked() -> None:
    result = explained(sites=["3"])
    assert list(result.masks) == list(result.initial) == ["3"]
    torch.testing.assert_close(result.split.error, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"loss": "+ -"}, r"loss must be one of 'all', '\+-', '\+', 'none', not '\+ -'"),
    ({"sites": "layers"}, "sites must be one of 'gates', 'blocks'"),
    ({"sites": []}, "nothing to mask"),
    ({"sites": ["1", "nowhere"]}, "no node 'nowhere'"),
    ({"unmasked": "twice"}, "unmasked must be one of 'nuisance', 'both', not 'twice'"),
    ({"unmasked": "twice", "loss": "none"}, "unmasked must be one of"),
    ({"iterations": -1}, "iterations must be a whole number of at least 0, not -1"),
    ({"iterations": 2.5}, "iterations must be a whole number"),
    ({"iterations": True}, "iterations must be a whole number"),
    ({"lr": 0.0}, "learning rate must be a positive number"),
    ({"lr": -0.1}, "learning rate must be a positive number"),
    ({"lr": float("nan")}, "learning rate must be a positive number"),
    ({"lr": float("inf")}, "learning rate must be a positive number"),
    ({"start": {}}, "masks must be a mapping .* not an empty one"),
    ({"start": {"1": torch.full((3, 8), 0.5, dtype=torch.float64)}}, "must be those of the sites: 1, 3, 5"),
    ({"start": {"1": torch.full((8,), 0.5, dtype=torch.float64)}}, "must have shape"),
    ({"start": {"1": torch.full((3, 8), 1.5, dtype=torch.float64)}}, "must lie in"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_options_are_refused_with_the_allowed_ones(options: dict[str, Any], message: str) -> None:
    def callback(iteration: int, split: Mapping[str, Tensor], logits: Mapping[str, Tensor]) -> None:
        raise AssertionError("the learning must not start")

    with pytest.raises(linreg.LinregError, match=message):
        explained(callback=callback, **options)


def test_learn_masks_refuses_a_wrong_way_of_counting() -> None:
    _, x, graph = given("chain_with_biases")
    with pytest.raises(dmbp.DmbpError, match="unmasked must be one of 'nuisance', 'both', not 'nuisanse'"):
        dmbp.learn_masks(graph.linearize(x), TARGET, iterations=1, unmasked="nuisanse", progress=False)


@pytest.mark.parametrize(
    ("target", "message"), [(3, "3 classes"), ([0, 1], "3 images"), (None, "`target`"), (-1, "3 classes")]
)
def test_wrong_targets_are_refused(target: Any, message: str) -> None:
    _, x, graph = given("chain_with_biases")
    with pytest.raises(linreg.LinregError, match=message):
        dmbp.explain(graph, x, target, iterations=1, progress=False)


def test_a_network_without_gates_is_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)).double()
    with pytest.raises(dmbp.DmbpError, match="no elementwise gate"):
        dmbp.explain(model, torch.ones(1, 3, dtype=torch.float64), progress=False)


def test_the_model_and_the_image_are_left_as_they_were() -> None:
    model, x = NETS["residual_inner"]()
    model.train()
    model[0].eval()  # a mixture of modes, to be kept
    calls: list[int] = []
    model[3].register_forward_hook(lambda module, args, output: calls.append(1))
    for k, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(k % 2 == 0)
        if k % 2 == 0:
            parameter.grad = torch.full_like(parameter, 0.5)
    x.requires_grad_()

    def tensors() -> dict[str, Tensor]:
        grads = {f"{name}.grad": p.grad for name, p in model.named_parameters() if p.grad is not None}
        found = {**model.state_dict(), **grads, "input": x.detach(), "random state": torch.get_rng_state()}
        return {name: value.clone() for name, value in found.items()}

    def settings() -> list[Any]:
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()]
        modes = [(name, module.training) for name, module in model.named_modules()]
        parameters = [(name, id(p), p.requires_grad, p.grad is None) for name, p in model.named_parameters()]
        buffers = [(name, id(b)) for name, b in model.named_buffers()]
        return [hooks, modes, parameters, buffers, x.requires_grad, x.grad, torch.is_grad_enabled()]

    before, around = tensors(), settings()
    result = dmbp.explain(model, x, TARGET, iterations=3, progress=False)
    after = tensors()
    assert settings() == around
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert not result.attribution.requires_grad and calls  # the hook is part of what the model does


@pytest.mark.parametrize("name", ["chain_with_biases", "mobile"])
def test_everything_is_saved_without_pickle(name: str, tmp_path: Path) -> None:
    result = explained(name)
    path = result.save(tmp_path / "out.npz")
    assert path == tmp_path / "out.npz"
    assert [p.name for p in tmp_path.iterdir()] == ["out.npz"]
    with np.load(path, allow_pickle=False) as saved:
        expected = result.arrays()
        assert set(saved.files) == set(expected)
        for key, value in expected.items():
            assert value.dtype != object
            assert saved[key].dtype == value.dtype and (saved[key] == value).all()
        assert (saved["input"] == result.input.numpy()).all()
        assert (saved["attribution"] == result.attribution.numpy()).all()
        assert (saved["y"] == result.split.y.numpy()).all()
        for part in PARTS:
            ledger = result.split.ledger(part)
            assert (saved[part] == getattr(result.split, part).numpy()).all()
            assert (saved[f"{part}_mapping"] == ledger.weight.numpy()).all()
            assert (saved[f"{part}_attribution"] == ledger.input.numpy()).all()
            total = saved[f"{part}_input_share"] + saved[f"{part}_ledger"].sum(0)
            np.testing.assert_allclose(total, saved[part], rtol=1e-9, atol=1e-9)
            assert len(saved[f"{part}_ledger"]) == len(saved["ledger_terms"])
        for part in SCORES:
            assert saved[f"history_{part}"].shape == (6, 3)
        for site, mask in result.masks.items():
            assert (saved[f"mask/{site}"] == mask.numpy()).all()
            assert (saved[f"initial_mask/{site}"] == result.initial[site].numpy()).all()


def test_a_path_without_suffix_gets_one(tmp_path: Path) -> None:
    assert explained(iterations=0).save(str(tmp_path / "out")) == tmp_path / "out.npz"
    assert (tmp_path / "out.npz").is_file()


def test_two_names_give_two_files(tmp_path: Path) -> None:
    result = explained(iterations=0)
    assert result.save(tmp_path / "lr0.1") != result.save(tmp_path / "lr0.2")


def test_a_ledger_without_terms_is_empty() -> None:
    arrays = explained("chain", iterations=0).arrays()
    assert all(len(arrays[f"{part}_ledger"]) == len(arrays["ledger_terms"]) == 0 for part in PARTS)


def failing(error: BaseException) -> Callable[..., None]:
    """A `savez_compressed` that breaks off after it has written something."""

    def savez_compressed(file: str | Path, **arrays: np.ndarray) -> None:
        Path(file).write_bytes(b"half a file")
        raise error

    return savez_compressed


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (OSError(28, "No space left on device"), dmbp.DmbpError, "No space left"),
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
    ],
)
def test_a_failed_save_leaves_what_was_there(
    error: BaseException, raised: type[BaseException], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = explained(iterations=0)
    path = result.save(tmp_path / "out.npz")
    before = path.read_bytes()
    monkeypatch.setattr(np, "savez_compressed", failing(error))
    with pytest.raises(raised, match=message):
        result.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["out.npz"]


def test_saving_where_one_cannot_write_is_refused(tmp_path: Path) -> None:
    result = explained(iterations=0)
    with pytest.raises(dmbp.DmbpError, match=r"cannot write .*No such file"):
        result.save(tmp_path / "nowhere" / "out.npz")
    (tmp_path / "taken.npz").mkdir()
    with pytest.raises(dmbp.DmbpError, match=r"cannot write .*taken\.npz"):
        result.save(tmp_path / "taken.npz")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["taken.npz"]


def test_saving_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(dmbp.DmbpError, match="cannot write"):
        explained(iterations=0).save(tmp_path / "file" / "out.npz")
