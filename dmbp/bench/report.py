"""What was measured, as text and as data."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from linreg.text import table

Row = dict[str, Any]


@dataclass(eq=False)
class Report:
    """What was measured: `costs` of one iteration, `masks` against the literal ones, `pairs` of rivals, `growth`."""

    machine: Row
    settings: Row
    notes: list[str] = field(default_factory=list)
    costs: list[Row] = field(default_factory=list)
    masks: list[Row] = field(default_factory=list)
    pairs: list[Row] = field(default_factory=list)
    growth: list[Row] = field(default_factory=list)
    figure: str | None = None
    interrupted: bool = False

    def note(self, text: str) -> None:
        """To be said once, however often it comes."""
        if text not in self.notes:
            self.notes.append(text)

    def pair(self, name: str, images: int | None, own: float, rival: str, rival_seconds: float) -> None:
        row = {"name": name, "batch": images, "seconds": own, "rival": rival, "rival_seconds": rival_seconds}
        self.pairs.append({**row, "ratio": own / rival_seconds})

    @property
    def title(self) -> str:
        """What was measured, where."""
        threads, settings = self.machine["threads"], self.settings
        where = f"{self.machine['device']}, {threads} thread{'s' if threads != 1 else ''}"
        return f"{settings['model']}, {settings['dtype']}, on {where}"

    def as_dict(self) -> Row:
        return asdict(self)

    def text(self) -> str:
        machine = self.machine
        where = (machine["cpu"], f"{machine['cores']} cores", f"torch {machine['torch']}", machine["system"])
        parts = [
            f"{self.title}\n"
            f"{', '.join(where)}, {machine['date']}",
            _costs(self.costs), _masks(self.masks), _pairs(self.pairs), _growth(self.growth), "\n".join(self.notes),
            f"figure: {self.figure}" if self.figure else "",
        ]  # fmt: skip
        return "\n\n".join(part for part in parts if part)


COSTS = (
    "one iteration", "batch", "ms", "ms / image", "× floor", "× dmbp", "GFLOP", "GFLOP/s", "peak MB / image", "× floor",
)  # fmt: skip


def _costs(rows: Sequence[Row]) -> str:
    cells = [
        (
            row["name"], str(row["batch"]), _milliseconds(row["seconds"]), _milliseconds(row["seconds_per_image"]),
            f"{row['over_floor']:.2f}", f"{row['over_dmbp']:.2f}", f"{row['flops'] / 1e9:.3g}",
            f"{row['flops_per_second'] / 1e9:.3g}", _or_blank(row["peak_mb_per_image"], ".1f"),
            _or_blank(row["peak_over_floor"], ".2f"),
        )
        for row in rows
    ]  # fmt: skip
    return _table(cells, COSTS)


def _masks(rows: Sequence[Row]) -> str:
    return "\n".join(
        f"batch {row['batch']}: after {row['iterations']} iterations the masks of {row['sites']} sites differ from the "
        f"literal algorithm's by at most {row['difference']:.1e}"
        for row in rows
    )


def _pairs(rows: Sequence[Row]) -> str:
    cells = [
        (
            row["name"], str(row["batch"]), _milliseconds(row["seconds"]), row["rival"],
            _milliseconds(row["rival_seconds"]), f"{row['ratio']:.2f}",
        )
        for row in rows
    ]  # fmt: skip
    return _table(cells, ("here", "batch", "ms", "rival", "ms", "ratio"), left=(0, 3))


def _growth(rows: Sequence[Row]) -> str:
    cells = [
        (
            row["name"], ", ".join(f"{x:,}" for x in row["amounts"]), ", ".join(map(_milliseconds, row["seconds"])),
            _milliseconds(row["start"]), _milliseconds(row["slope"]), f"{row['residual']:.1%}",
        )
        for row in rows
    ]  # fmt: skip
    return _table(cells, ("time against", "amounts", "ms", "line: ms", "+ ms each", "off by at most"), left=(0, 1, 2))


def _table(rows: Sequence[Sequence[str]], header: Sequence[str], left: Sequence[int] = (0,)) -> str:
    return table(rows, header, right=set(range(len(header))) - set(left)) if rows else ""


def _milliseconds(seconds: float) -> str:
    """Four figures."""
    value = seconds * 1e3
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _or_blank(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def machine(device: torch.device) -> Row:
    """The hardware, torch, and today."""
    return {
        "cpu": _cpu(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "torch": torch.__version__, "python": platform.python_version(), "system": platform.system(),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
    }  # fmt: skip


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
