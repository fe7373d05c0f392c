"""The pages for people with a network of their own: their code and commands run, and no option is left out."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import matplotlib
import pytest
from command import Run

from dmbp.cli.option_page import page

SITE = Path(__file__).parents[1] / "tutorials" / "site"
BLOCKS = re.findall(r"```(python|sh)\n(.+?)```", (SITE / "own_network.md").read_text(encoding="utf-8"), re.DOTALL)


def test_the_page_of_the_command_line_is_that_of_its_parser() -> None:
    assert (SITE / "command_line.md").read_text(encoding="utf-8") == page(), (
        "python -m dmbp.cli.option_page makes it anew"
    )
    for option in ("`--at ROW,COLUMN`", "`--per-class PER_CLASS`", "`--only PART …`", "`INPUT …`"):
        assert option in page()


def test_its_code_and_commands_run_in_their_order(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(".")
    before, names, commands = set(sys.modules), dict[str, object](), 0
    with matplotlib.rc_context({"backend": "Agg"}):
        for kind, text in BLOCKS:
            file = re.match(r"# (\w+\.py)\n", text)
            if file:
                Path(file[1]).write_text(text, encoding="utf-8")
            elif kind == "python":
                exec(compile(text, "own_network.md", "exec"), names)
            else:
                for line in text.splitlines():
                    words = shlex.split(line, comments=True)
                    status, out, err = run(*words[1:], "--iterations", "1", "--out", "out")
                    assert (words[0], status, err) == ("dmbp", 0, ""), (line, err)
                    assert Path(re.findall(r"^arrays: (.+)$", out, re.MULTILINE)[0]).is_file()
                    commands += 1
    for name in {"net", "table", "signal_net", "segment", "both"} - before:
        sys.modules.pop(name, None)
    assert commands == 8 and Path("bars.png").is_file() and Path("both.png").is_file()
