"""The command line: `dmbp explain`, `dmbp compare`, `dmbp inspect`, `dmbp evaluate` and `dmbp bench`."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. Whatever cannot be done is one message on standard error and exit status 2."""
    try:
        _run(arguments)
    except KeyboardInterrupt:
        print("dmbp: interrupted before the end", file=sys.stderr)
        raise SystemExit(130) from None


def _run(arguments: Sequence[str] | None) -> None:
    from dmbp.cli.arguments import parser  # here, where Ctrl-C is answered: it brings torch, which takes seconds
    from dmbp.runs.memory import keep_freed
    from linreg import LinregError

    keep_freed()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # for terminals that have no ⁺
    options = parser().parse_args(arguments)
    try:
        import_module(f"dmbp.cli.{options.command}").run(options)  # which imports what it needs, and no other's
        print(end="", flush=True)  # now: at exit it would be too late to say what went wrong
    except LinregError as error:
        print(f"dmbp: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:  # `| head` has read enough
        _discard_stdout()
        raise SystemExit(141) from None
    except OSError as error:
        _discard_stdout()
        print(f"dmbp: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _discard_stdout() -> None:
    """What could not be printed would fail once more when Python flushes at exit."""
    with suppress(OSError):  # of a standard output that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
