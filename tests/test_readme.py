"""What README shows runs, and where it points there is something."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib
import pytest
import torch
from torch import Tensor, nn

import dmbp
import linreg

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_its_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    example = re.findall(r"```python\n(.+?)```", README, re.DOTALL)[0]
    monkeypatch.chdir(tmp_path)
    with matplotlib.rc_context({"backend": "Agg"}):
        exec(compile(example, "README.md", "exec"), {"__name__": "readme"})
    printed = capsys.readouterr().out
    assert "c · x" in printed and "Split(" in printed and Path("why.png").stat().st_size > 10_000


def test_its_example_of_several_inputs_runs(capsys: pytest.CaptureFixture[str]) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pixels, self.numbers, self.head = nn.Linear(4, 5), nn.Linear(3, 5), nn.Linear(5, 4)

        def forward(self, image: Tensor, table: Tensor, mask: Tensor) -> Tensor:
            pixels = torch.relu(self.pixels((image * mask).flatten(1)))
            return self.head(pixels + torch.relu(self.numbers(table)))

    _, example = re.findall(r"```python\n(.+?)```", README, re.DOTALL)
    names = {"x": torch.ones(2, 1, 2, 2), "t": torch.ones(2, 3), "m": torch.ones(2, 1, 2, 2).bool()}
    exec(compile(example, "README.md", "exec"), {"linreg": linreg, "dmbp": dmbp, "both": Both(), **names})
    assert "c · table" in capsys.readouterr().out


def test_its_links_and_footnotes_lead_somewhere() -> None:
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if "://" not in target]
    files = [target for target in targets if not target.startswith("#")]
    assert len(files) > 10 and all((ROOT / target).exists() for target in files)
    headings = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", README, re.M)
    }
    assert {target[1:] for target in targets if target.startswith("#")} <= headings
    for opening, closing in (
        (r"\[\^(\w+)\](?!:)", r"^\[\^(\w+)\]:"),
        (r"\[(\w[\w.]*)\](?![(:])", r"^\[(\w[\w.]*)\]: "),
    ):
        text = re.sub(r"```.+?```", "", README, flags=re.DOTALL)
        assert set(re.findall(opening, text)) == set(re.findall(closing, text, re.M)) != set()


def test_its_pictures_are_light() -> None:
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    assert pictures and all((ROOT / picture).stat().st_size < 300_000 for picture in pictures)
