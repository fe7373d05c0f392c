"""A small evaluation: a folder of pictures with two labels each, a tiny network, methods and metrics."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from dmbp.datasets import load_data
from dmbp.evaluation.measures import Metric, metrics_of
from dmbp.evaluation.methods import parse
from dmbp.evaluation.plan import Plan, Subject
from dmbp.evaluation.processes import Ranks
from dmbp.evaluation.rendering import RENDERERS
from dmbp.evaluation.run import Evaluation, evaluate
from dmbp.evaluation.tables import tables
from dmbp.images import Preprocess
from dmbp.models import Model

CLASSES = ("cat", "dog", "cow")
METHODS = ("nd", "smoothgrad:samples=2", "dmbp:iterations=2")
METRICS = ("insertion", "cim")


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 3)).eval()


def model() -> Model:
    return Model("tiny", network(), Preprocess((8, 8), (0.5,) * 3, (0.25,) * 3), CLASSES, "sigmoid")


def write_pictures(folder: Path, count: int = 6) -> Path:
    """Pictures p0.png and on with a table of labels: two classes each, but one for the last."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "labels.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["picture", "labels"])
        for k in range(count):
            Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(folder / f"p{k}.png")
            rows.writerow([f"p{k}.png", "cat; dog" if k < count - 1 else "2"])
    return folder


def plan(
    folder: Path, methods: tuple[str, ...] = METHODS, metrics: tuple[str, ...] = METRICS, step: int = 8, batch: int = 1
) -> Plan:
    subject = Subject(model(), load_data(f"folder:{folder}", CLASSES))
    asked: dict[str, Metric] = metrics_of(metrics, step)
    return Plan((subject,), tuple(parse(name) for name in methods), asked, {"seed": 0}, batch=batch)


def evaluated(plan: Plan, out: Path, ranks: Ranks | None = None) -> Evaluation:
    found = evaluate(plan, out, ranks)
    assert found is not None
    return found


def rendered(evaluation: Evaluation) -> dict[str, str]:
    """The tables, in every kind of text."""
    made = tables(evaluation.study)
    return {ending: render(made) for ending, render in RENDERERS.items()}
