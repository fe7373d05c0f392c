"""Verdicts: their numbers from the ledgers themselves, their words by the limits, computed or read from a file."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import traced
from scipy.stats import spearmanr

import dmbp
from dmbp import verdict
from dmbp.evaluation import insertion
from dmbp.evaluation.randomization import redraw
from dmbp.evaluation.trial import Trial
from dmbp.standing import percent, probable

pytestmark = pytest.mark.xdist_group("verdict")

TARGET = [0, 2, 1]


@cache
def explained(name: str, **options: Any) -> dmbp.Result:
    given: dict[str, Any] = {"iterations": 25, "progress": False} | options
    return dmbp.explain(traced(name).graph, traced(name).x[:3], TARGET, **given)


@pytest.mark.parametrize("name", ["conv_bn", "mobile", "chain", "pools"])
def test_what_the_maps_show_is_what_the_ledgers_say(name: str) -> None:
    """By ∇ · x of each part, and by the sum of its complete map."""
    result = explained(name)
    for image in range(3):
        found = result.verdict(image)
        missing = {"paper": 0.0, "complete": 0.0}
        scale = 0.0
        for part in ("positive", "negative"):
            ledger = result.split.ledger(part)
            total = result.scores[part][image].item()
            pixels = (ledger.weight[image] * result.input[image]).sum().item()
            placed = ledger.complete().map.reshape(3, -1).sum(1)[image].item()
            assert getattr(found.paper, part) == pytest.approx(pixels / total, rel=1e-9, abs=1e-12)
            assert getattr(found.complete, part) == pytest.approx(placed / total, rel=1e-9)
            scale += abs(total)
            missing["paper"] += abs(total - pixels)
            missing["complete"] += abs(total - placed)
        assert found.paper.hidden == pytest.approx(missing["paper"] / scale, rel=1e-9)
        assert found.complete.hidden == pytest.approx(missing["complete"] / scale, rel=1e-9, abs=1e-12)
        y = result.scores["y"][image].abs().item()
        assert found.growth.start == pytest.approx(result.history["positive"][0, image].item() / y)
        assert found.growth.end == pytest.approx(result.scores["positive"][image].item() / y)
        gates = sum(margin.units for margin in result.split.lin.certificate(TARGET).margins)
        assert found.rounding.gates == gates


def test_settled_is_the_rank_correlation_over_the_last_twenty_updates() -> None:
    late, early = explained("mobile", iterations=45), explained("mobile", iterations=25)
    for image, found in enumerate(late.settled.tolist()):
        expected = spearmanr(early.complete[image].flatten(), late.complete[image].flatten()).statistic
        assert found == pytest.approx(expected, abs=1e-12)
        assert late.verdict(image).settled.correlation == found
    assert explained("mobile", iterations=9).settled.isnan().all()
    assert "not known" in explained("mobile", iterations=9).verdict().settled.words


def test_a_result_from_a_file_has_the_same_verdict(tmp_path: Path) -> None:
    result = explained("conv_bn")
    loaded = dmbp.load(result.save(tmp_path / "out.npz"))
    for image in range(3):
        assert loaded.verdict(image, labels=str) == result.verdict(image, labels=str)


def test_a_file_of_an_older_version_says_what_it_does_not_know(tmp_path: Path) -> None:
    arrays = explained("conv_bn").arrays()
    new = {"output", "doubtful", "gates", "settled"}
    np.savez(tmp_path / "old.npz", **{name: value for name, value in arrays.items() if name not in new})
    found = dmbp.load(tmp_path / "old.npz").verdict()
    assert found.level == explained("conv_bn").verdict().level
    assert found.standing is None and found.rounding.doubtful is None
    assert "the file does not say" in found.rounding.words and "not known" in found.settled.words


def altered(tmp_path: Path, change: Callable[[dict[str, np.ndarray]], None]) -> verdict.Verdict:
    """The verdict on a result whose numbers were changed in its file."""
    arrays = {name: value.copy() for name, value in explained("conv_bn").arrays().items()}
    change(arrays)
    np.savez(tmp_path / "altered.npz", **arrays)
    return dmbp.load(tmp_path / "altered.npz").verdict()


def of_pixels(share: float) -> Callable[[dict[str, np.ndarray]], None]:
    """Let so much of y⁺ and of y⁻ come from the input."""

    def change(arrays: dict[str, np.ndarray]) -> None:
        for part in ("positive", "negative"):
            arrays[f"{part}_input_share"] = share * arrays[part]

    return change


def grown(start: float, end: float) -> Callable[[dict[str, np.ndarray]], None]:
    """Let y⁺ be so many times |y| before and after; all of it from the input."""

    def change(arrays: dict[str, np.ndarray]) -> None:
        y = np.abs(arrays["y"])
        arrays["positive"] = end * y
        arrays["history_positive"][0] = start * y
        of_pixels(1.0)(arrays)

    return change


@pytest.mark.parametrize(
    ("change", "level", "trusted", "words"),
    [
        (of_pixels(0.21), "good", ("paper", "complete"), "shows 21 % of y⁺ and 21 % of y⁻"),
        (of_pixels(1.79), "good", ("paper", "complete"), "shows 179 % of y⁺"),
        (of_pixels(0.19), "good", ("complete",), "look at the complete map alone"),
        (of_pixels(0.05), "good", ("complete",), "the paper's map shows 5.0 % of y⁺"),
        (grown(1.99, 14.9), "good", ("paper", "complete"), "shows all of y⁺ and y⁻"),
        (grown(1.99, 15.1), "doubtful", ("paper", "complete"), "fewer iterations may do better"),
        (grown(2.01, 14.9), "doubtful", ("paper", "complete"), "cancels: y⁺ is 15 times |y|"),
        (grown(9.01, 14.9), "doubtful", ("paper", "complete"), "(9.0 times |y| before"),
        (grown(1.99, 60.1), "do not trust", ("paper", "complete"), "y⁺ is 60 times |y| (2.0 times |y| before"),
    ],
)
def test_levels_change_at_the_limits(
    change: Callable[[dict[str, np.ndarray]], None], level: str, trusted: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    found = altered(tmp_path, change)
    assert (found.level, found.trusted) == (level, trusted)
    assert words in found.words


@pytest.mark.parametrize(("rest", "told"), [(0.49, ""), (0.51, "0.51"), (-1.6, "−1.6"), (-0.49, "")])
def test_a_large_rest_is_told(rest: float, told: str, tmp_path: Path) -> None:
    """y~ / |y|: a score may be mostly what no map shows, however well the maps show y⁺ and y⁻."""

    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays["nuisance"] = rest * np.abs(arrays["y"])

    found = altered(tmp_path, change)
    assert found.growth.rest == pytest.approx(rest)
    words = f", and y~, which no map shows, is {told} times |y|" if told else ""
    assert found.growth.words.endswith(words) and ("y~" in found.growth.words) == bool(told)
    assert found.growth.words in str(found).replace("\n", " ")


def test_rounding_can_spoil_it_and_says_what_to_do(tmp_path: Path) -> None:
    def off(part: float) -> Callable[[dict[str, np.ndarray]], None]:
        return lambda arrays: arrays.update(split_error=part * np.abs(arrays["y"]))

    def turned(arrays: dict[str, np.ndarray]) -> None:
        arrays["doubtful"] = arrays["doubtful"] + int(0.01 * arrays["gates"])

    def missing(arrays: dict[str, np.ndarray]) -> None:
        arrays["completeness_error"] = 2 * arrays["completeness_bound"]

    assert "rounding: fine (" in altered(tmp_path, off(0.009)).rounding.words
    for change, level in ((off(0.011), "doubtful"), (off(0.11), "do not trust"), (turned, "doubtful"),
                          (missing, "do not trust")):  # fmt: skip
        found = altered(tmp_path, change)
        assert (found.level, found.rounding.level) == (level, level)
        assert "repeat with model.double() and x.double()" in " ".join(found.lines())


def test_the_score_itself_is_not_judged() -> None:
    found = explained("conv_bn", loss="none").verdict()
    assert (found.level, found.trusted) == ("not judged", ()) and "nothing was learned" in found.words


def test_masks_to_start_from_are_not_taken_for_those_of_the_paper() -> None:
    first = explained("conv_bn")
    again = dmbp.explain(
        traced("conv_bn").graph, traced("conv_bn").x[:3], TARGET, start=first.masks, iterations=1, progress=False
    )
    assert np.isnan(again.verdict().growth.start) and "before" not in again.verdict().growth.words


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "none"])
def test_the_class_and_those_that_run_up(kind: str) -> None:
    result = explained("conv_bn")
    output = result.split.lin.output
    chances = {"softmax": output.softmax(1), "sigmoid": output.sigmoid(), "none": None}[kind]
    for image, target in enumerate(TARGET):
        found = result.verdict(image, labels=["cat, tom", "dog", "7"], probability=kind).standing
        assert found is not None
        (own,) = found.targets
        assert (own.index, own.place) == (target, 1 + int((output[image] > output[image, target]).sum()))
        order = [index for index in output[image].argsort(descending=True).tolist() if index != target]
        assert [other.index for other in found.others] == order
        for each in (own, *found.others):
            assert each.score == output[image, each.index].item()
            expected = None if chances is None else pytest.approx(chances[image, each.index].item(), rel=1e-12)
            assert each.probability == expected
        assert own.name == ["cat (0)", "dog (1)", "7 (2)"][target]


def test_a_difference_of_classes_tells_both() -> None:
    weights = torch.tensor([[-1.0, 0, 1.0]]).double().expand(3, 3)
    result = dmbp.explain(traced("conv_bn").graph, traced("conv_bn").x[:3], weights, iterations=2, progress=False)
    found = result.verdict().standing
    assert found is not None and [each.index for each in found.targets] == [2, 0]
    assert " against " in found.words and [each.index for each in found.others] == [1]
    odd = dmbp.explain(traced("conv_bn").graph, traced("conv_bn").x[:3], weights * 2, iterations=2, progress=False)
    assert odd.verdict().standing is None


# ---- put to the test ----


def test_a_check_measures_the_maps_and_redraws_the_last_layer() -> None:
    """Areas by the metric itself, on the module; the redrawn map by another network, which differs in that layer."""
    result = explained("conv_bn", iterations=3)
    lin = result.split.lin
    tried = result.verdict(1, check=True).tried
    assert tried is not None and tried.steps == 36
    maps = {
        "paper": result.attribution.sum(1),
        "complete": result.complete,
        "nd": (lin.weight(TARGET) * lin.input).sum(1),
    }
    for name, values in maps.items():
        curve = insertion(traced("conv_bn").model.eval(), lin.input[1:2], 2, values[1:2], step=1)
        assert tried.areas[name] == pytest.approx(curve.area.item(), rel=1e-9)
    other = lin.graph.to_module()
    redraw(other.get_submodule(tried.layer), torch.Generator().manual_seed(0))
    again = dmbp.explain(other, lin.input[1:2], 2, iterations=3, progress=False)
    for name, (ours, theirs) in {"paper": (result.attribution[1].sum(0), again.attribution[0].sum(0)),
                                 "complete": (result.complete[1], again.complete[0])}.items():  # fmt: skip
        assert tried.redrawn[name] == pytest.approx(spearmanr(ours.flatten(), theirs.flatten()).statistic, abs=1e-9)


def test_a_map_that_fails_the_check_is_doubtful(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result = explained("conv_bn")
    assert result.verdict().level == "good"

    def failing(*maps: str) -> None:
        found = Trial("insertion area", {}, {}, "fc", 56, maps)
        monkeypatch.setattr("dmbp.evaluation.trial.trial", lambda *_: found)

    failing("paper", "complete")
    assert result.verdict(check=True).level == "doubtful"
    assert "no map passed the check" in result.verdict(check=True).words
    failing("paper")
    assert (result.verdict(check=True).level, result.verdict(check=True).trusted) == ("good", ("complete",))
    monkeypatch.undo()
    loaded = dmbp.load(result.save(tmp_path / "out.npz"))
    with pytest.raises(dmbp.DmbpError, match="read from a file, which holds its numbers and not its network"):
        loaded.verdict(check=True)
    features = dmbp.explain(traced("chain").graph, traced("chain").x[:3], TARGET, iterations=1, progress=False)
    with pytest.raises(dmbp.DmbpError, match="one input with positions, and a class as its target"):
        features.verdict(check=True)


def test_its_record_is_all_plain() -> None:
    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(isinstance(key, str) and plain(each) for key, each in value.items())
        if isinstance(value, list | tuple):
            return all(map(plain, value))
        return value is None or type(value) in (str, int, float, bool)

    record = explained("conv_bn").verdict().record()
    assert plain(record)
    assert {"level", "words", "paper", "complete", "growth", "settled", "rounding", "standing"} <= set(record)


def test_it_prints_in_lines_of_a_terminal_and_tells_its_parts_whole() -> None:
    verdict = explained("conv_bn").verdict()
    assert max(map(len, str(verdict).splitlines())) <= 100 < max(map(len, verdict.lines()))
    assert str(verdict).split() == " ".join(verdict.lines()).split()


def test_refusals() -> None:
    with pytest.raises(dmbp.DmbpError, match="no image 3"):
        explained("conv_bn").verdict(3)
    with pytest.raises(dmbp.DmbpError, match="probability must be one of 'softmax', 'sigmoid', 'none', not 'odds'"):
        explained("conv_bn").verdict(probability="odds")


def test_numbers_for_people() -> None:
    shown = {0.98: "98 %", 1.3541: "135 %", 0.0312: "3.1 %", -0.25: "−25 %", 0.0: "0 %", 5e-5: "0.0050 %"}
    assert {share: percent(share) for share in shown} == shown
    assert [probable(p) for p in (0.9999, 0.93, 0.0004)] == ["over 0.999", "0.930", "under 0.001"]
