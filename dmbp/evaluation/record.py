"""What an evaluation has found, in files that only grow, one line of JSON after another: whatever ends the process, all
lines but the last are whole.

A folder holds one file for each process that ever wrote to it. The first line of a file, and of each later start with
other settings, is a header: what results were made with. A line without its end was torn, counts as never written, and
is cut off when its file is written to again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from dmbp.errors import DmbpError
from dmbp.files import writable

FORMAT = 1
EACH = ("models", "methods", "metrics", "versions")  # of a header: only what both headers name is compared


class Key(NamedTuple):
    """Which map a result is of."""

    model: str
    method: str
    picture: str


@dataclass(frozen=True)
class Results:
    """All that the files of a folder hold.

    `values[key]` is what was found, by metric; `pictures` the digest and targets that each picture of each model had;
    `failed` why a map could not be had, as far as it was not had later; `skipped` why a picture was not read, once.
    """

    headers: list[dict[str, Any]] = field(default_factory=list)
    values: dict[Key, dict[str, Any]] = field(default_factory=dict)
    pictures: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    failed: dict[Key, str] = field(default_factory=dict)
    skipped: dict[tuple[str, str], str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def unread(self) -> dict[tuple[str, str], str]:
        """The pictures that could never be read, by model, and why."""
        return {key: why for key, why in self.skipped.items() if key not in self.pictures}

    def check(self, made: Mapping[str, Any]) -> None:
        """Raise DmbpError, naming what differs, where something here was made differently from `made`."""
        for found in self.headers:
            names = sorted(set(found) | set(made))
            if differing := [words for name in names for words in _differences(name, found.get(name), made.get(name))]:
                raise DmbpError(
                    f"this folder holds results that were made differently: {'; '.join(differing)}; give another "
                    "folder with --out, or the same settings"
                )

    def check_picture(self, model: str, picture: str, digest: str, targets: tuple[int, ...]) -> None:
        """Raise DmbpError where this picture, for this model, was another one when its results were made."""
        was = self.pictures.get((model, picture))
        if was and was != {"digest": digest, "targets": list(targets)}:
            what = "its pixels differ" if was["digest"] != digest else f"its classes were {was['targets']}"
            raise DmbpError(
                f"{picture}: this folder holds results of another picture of this name ({what}); give another folder "
                "with --out"
            )


def _differences(name: str, found: Any, made: Any) -> list[str]:
    """What differs between two headers under one name, in words."""
    if not (isinstance(found, Mapping) and isinstance(made, Mapping)):
        return [] if found == made else [f"{name}: {found}, and now {made}"]
    keys = set(found) & set(made) if name in EACH else set(found) | set(made)
    pairs = ((key, found.get(key), made.get(key)) for key in sorted(keys))
    return [f"{name} {key}: {old}, and now {new}" for key, old, new in pairs if old != new]


def read_results(folder: Path) -> Results:
    """What the files of a folder hold; nothing for one that does not exist yet.

    Raises DmbpError, with file and line, for a whole line that is none of ours.
    """
    results = Results()
    for path in sorted(folder.glob("results-*.jsonl")):
        for number, line in enumerate(_whole_lines(path), start=1):
            try:
                entry = json.loads(line)
                _ENTRIES[entry["kind"]](results, entry)
            except (ValueError, KeyError, TypeError) as error:
                raise DmbpError(
                    f"{path}, line {number}: this is no line of an evaluation ({type(error).__name__}: {error}); "
                    "delete the line, and what it held is computed again"
                ) from error
    for key in results.values:
        results.failed.pop(key, None)
    return results


def _whole_lines(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().split(b"\n")[:-1]  # what stands behind the last end of a line was torn
    except OSError as error:
        raise DmbpError(f"cannot read {path}: {error.strerror or error}") from error


def _header(results: Results, entry: dict[str, Any]) -> None:
    if entry["format"] != FORMAT:
        raise ValueError(f"format {entry['format']}, expected {FORMAT}")
    results.headers.append(entry["made"])


def _result(results: Results, entry: dict[str, Any]) -> None:
    key = Key(entry["model"], entry["method"], entry["picture"])
    results.values.setdefault(key, {}).update(entry["metrics"])
    results.pictures[key.model, key.picture] = {"digest": entry["digest"], "targets": entry["targets"]}
    for part, seconds in entry["seconds"].items():
        results.seconds[part] = results.seconds.get(part, 0.0) + seconds


def _failed(results: Results, entry: dict[str, Any]) -> None:
    results.failed[Key(entry["model"], entry["method"], entry["picture"])] = entry["reason"]


def _skipped(results: Results, entry: dict[str, Any]) -> None:
    results.skipped[entry["model"], entry["picture"]] = entry["reason"]


_ENTRIES = {"header": _header, "result": _result, "failed": _failed, "skipped": _skipped}


class Writer:
    """The file of one process: `append` returns when the line is on the disk.

    Raises DmbpError where the folder or the file cannot be written to, and where another process writes to it now.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self.path = writable(folder) / f"results-{rank:04d}.jsonl"
        try:
            self.file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644)
        except OSError as error:
            raise self._unwritable(error) from error
        self._lock()
        self._cut_torn_line()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.file)

    def begin(self, made: Mapping[str, Any]) -> None:
        """Write a header, unless the last one of the file says the same."""
        entry = {"kind": "header", "format": FORMAT, "made": json.loads(json.dumps(made))}
        headers = [line for line in _whole_lines(self.path) if line.startswith(b'{"kind": "header"')]
        if not headers or json.loads(headers[-1]) != entry:
            self.append(entry)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write one line. Where that fails, what is there of it is taken back, and all before stays."""
        line = json.dumps(entry, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        size = os.fstat(self.file).st_size
        try:
            written = os.write(self.file, line)
            while written < len(line):
                written += os.write(self.file, line[written:])
            os.fsync(self.file)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self.file, size)
            raise self._unwritable(error) from error

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows has no such lock; two writers would then do the work twice
            return
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self.file)
            raise DmbpError(
                f"{self.path}: another process writes its results there now; wait for it, or give another folder"
            ) from None
        except OSError:  # a file system that knows no locks
            pass

    def _cut_torn_line(self) -> None:
        held = self.path.read_bytes()
        os.ftruncate(self.file, held.rfind(b"\n") + 1)

    def _unwritable(self, error: OSError) -> DmbpError:
        return DmbpError(
            f"cannot write {self.path}: {error.strerror or error}; all finished results are kept: the same command "
            "goes on from there"
        )


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a results file, one after another, as they are."""
    return (json.loads(line) for line in _whole_lines(path))
