"""The site's pages for people at work: their code runs, and the messages they quote are those that come."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from linreg import LinregError

SITE = Path(__file__).parents[1] / "tutorials" / "site"
PARTS = re.compile(
    r'^## "(?P<heading>[^"\n]+)"$|^```(?P<language>python|text)\n(?P<text>.*?)^```', re.DOTALL | re.MULTILINE
)
FAILS = "# fails\n"


def parts(page: str) -> list[dict[str, str]]:
    """The headings that quote a message, and the blocks of code and messages, in order."""
    return [found.groupdict() for found in PARTS.finditer((SITE / page).read_text(encoding="utf-8"))]


def run(code: str, names: dict[str, Any]) -> str | None:
    """What the lines after "# fails" raise; without these words, all runs."""
    before, _, failing = code.partition(FAILS)
    exec(compile(before, "page", "exec"), names)
    if not failing:
        return None
    with pytest.raises(LinregError) as caught:
        exec(compile(failing, "page", "exec"), names)
    return str(caught.value)


def test_messages_are_those_that_come() -> None:
    names: dict[str, Any] = {"__name__": "page"}
    heading, raised, quoted = "", None, 0
    for part in parts("troubleshooting.md"):
        if part["heading"]:
            heading = part["heading"]
        elif part["language"] == "python":
            raised = run(part["text"], names) or raised
        else:
            assert raised and raised.startswith(part["text"].strip())
            assert re.search(".*".join(map(re.escape, heading.removesuffix(" …").split(" … "))), raised), heading
            raised, quoted = None, quoted + 1
    assert quoted >= 10 and raised is None


def test_the_quick_start_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    for part in parts("quick_start.md"):
        if part["language"] == "python":
            run(part["text"], names)
    assert "c · x" in capsys.readouterr().out
