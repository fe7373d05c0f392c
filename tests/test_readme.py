"""What README shows runs, and where it points there is something."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib
import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_its_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.+?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    with matplotlib.rc_context({"backend": "Agg"}):
        exec(compile(example, "README.md", "exec"), {"__name__": "readme"})
    printed = capsys.readouterr().out
    assert "c · x" in printed and Path("why.png").stat().st_size > 10_000
    (said,) = re.findall(r"```text\n(.+?)```", README, re.DOTALL)
    rows, shown = numbers_by_name(printed), numbers_by_name(said)
    assert list(shown) == ["y", "y⁺", "y⁻", "y~"]
    for name, values in shown.items():  # 200 updates in float32: the last digits are the machine's
        assert rows[name] == pytest.approx(values, rel=0.02, abs=0.02)


def numbers_by_name(text: str) -> dict[str, list[float]]:
    """The rows of the table of a split: a name and three numbers."""
    found = re.findall(r"^(y\S?) +(\S+) +(\S+) +(\S+)$", text, re.MULTILINE)
    return {name: [float(number) for number in numbers] for name, *numbers in found}


def test_its_links_lead_somewhere() -> None:
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if "://" not in target]
    files = [target for target in targets if not target.startswith("#")]
    assert len(files) > 10 and all((ROOT / target.partition("#")[0]).exists() for target in files)
    headings = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", README, re.M)
    }
    assert {target[1:] for target in targets if target.startswith("#")} <= headings


def test_its_pictures_are_light() -> None:
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    assert pictures and all((ROOT / picture).stat().st_size < 300_000 for picture in pictures)


def test_it_is_short() -> None:
    assert len(README.split()) < 900
