"""What DMBP costs on this machine: an iteration beside its floor and the literal algorithm, and other rivals.

The floor of an iteration is what its arithmetic costs in plain PyTorch: two forwards, one of them recorded, and one
backward to the input, of the network with its batch norms folded, in the memory format that DMBP takes. Rivals take
turns in rounds, so that a machine that slows down slows them all; each figure is the median over the rounds, after a
first one that is not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dmbp.bench.growth import grow
from dmbp.bench.literal import Literal
from dmbp.bench.report import Report, Row, machine
from dmbp.bench.resident import peaks
from dmbp.bench.subject import Problem, Subject, flops, in_turn
from dmbp.explanation import explain
from dmbp.extras import install
from dmbp.learning.objective import loss_all
from dmbp.split import decompose
from linreg import trace

RUN, STEPS = 200, 50  # iterations of a whole explanation (the paper's), steps of Integrated Gradients
FLOOR, FIRST, GIVEN = "floor", "floor, channels first", "floor, batch norms unfolded"
OURS, COMPILED, LITERAL = "dmbp", "dmbp, compiled", "literal Algorithm 1"
OWN = "dmbp, Eq. 10 as a function"


@dataclass(frozen=True)
class Settings:
    """What to measure: `parts` of PARTS, on each of `batches`; `iterations` at a stretch in each of `rounds` rounds."""

    batches: tuple[int, ...] = (1, 4)
    iterations: int = 5
    rounds: int = 5
    parts: tuple[str, ...] = ()


def iteration(report: Report, problem: Problem, settings: Settings) -> None:
    """One iteration beside its floor; with these parts compiled, with a function for a loss, literal, and the peaks."""
    images = len(problem.x)
    single: dict[str, Callable[[], object]] = {
        FLOOR: problem.laid_out.floor,
        **({FIRST: problem.floor} if problem.order else {}),
        GIVEN: lambda: problem.floor(problem.given),
    }
    rivals = {name: problem.clock(run, settings.iterations) for name, run in single.items()}
    rivals[OURS] = lambda: problem.iteration(settings.iterations)
    if "compiled" in settings.parts:
        rivals[COMPILED] = lambda: problem.iteration(settings.iterations, compiled=True)
    if "own-loss" in settings.parts:
        rivals[OWN] = lambda: problem.iteration(settings.iterations, loss=loss_all)
    literal = Literal(problem.lin, problem.target) if "literal" in settings.parts else None
    if literal:
        rivals[LITERAL] = problem.clock(literal.step)
    times = in_turn(rivals, settings.rounds, f"one iteration, batch {images}")
    work = {name: flops(run) for name, run in single.items()}
    work[OURS] = work[COMPILED] = _flops(problem)
    if "own-loss" in settings.parts:
        work[OWN] = _flops(problem, loss=loss_all)
    if literal:
        report.masks.append(_compared(problem, literal, settings.rounds + 1))
        work[LITERAL] = flops(literal.step)
    del literal
    memory = peaks(problem.lin.graph, problem.x, problem.target) if "memory" in settings.parts else None
    for name, spent in times.items():
        peak = memory and {FLOOR: memory["plain"], OURS: memory["dmbp"]}.get(name)
        report.costs.append(
            {
                "batch": images, "name": name, "seconds": spent, "seconds_per_image": spent / images,
                "over_floor": spent / times[FLOOR], "over_dmbp": spent / times[OURS],
                "flops": work[name], "flops_per_second": work[name] / spent, "peak_mb": peak,
                "peak_mb_per_image": peak and peak / images,
                "peak_over_floor": peak / memory["plain"] if peak and memory else None,
            }
        )  # fmt: skip


def _flops(problem: Problem, **options: Any) -> int:
    """Of one iteration, which is what two take more than one."""
    one, two = (flops(partial(problem.learn, n, compiled=False, **options)) for n in (1, 2))
    return two - one


def _compared(problem: Problem, literal: Literal, iterations: int) -> Row:
    ours, theirs = problem.learn(iterations).masks, literal.masks
    difference = max((ours[site] - theirs[site]).abs().max().item() for site in theirs)
    return {"batch": len(problem.x), "iterations": iterations, "sites": len(theirs), "difference": difference}


def region(report: Report, problem: Problem, settings: Settings) -> None:
    """`linearize` beside a plain forward, `weight` beside a plain backward to the input."""
    lin, target, images = problem.lin, problem.target, len(problem.x)
    leaf = problem.x.clone().requires_grad_()
    score = problem.score(problem.folded(leaf))

    def forward() -> None:
        with torch.no_grad():
            problem.folded(problem.x)

    runs: dict[str, Callable[[], object]] = {
        "linearize": lambda: lin.graph.linearize(lin.input),
        "plain forward": forward,
        "weight": lambda: lin.weight(target),
        "plain input-backward": lambda: torch.autograd.grad(score, leaf, retain_graph=True),
    }
    clocks = {name: problem.clock(run, settings.iterations) for name, run in runs.items()}
    times = in_turn(clocks, settings.rounds, f"linear region, batch {images}")
    for own, rival in (("linearize", "plain forward"), ("weight", "plain input-backward")):
        report.pair(own, images, times[own], rival, times[rival])


def complete(report: Report, problem: Problem, settings: Settings) -> None:
    """The complete map of y⁺ + y⁻, beside the three sweeps back of the paper's map and one floor of an iteration."""
    masks, target = problem.learn(1).masks, problem.target
    split = decompose(problem.lin, masks, target)

    def placed() -> None:
        new = replace(split)  # which has computed nothing yet
        _ = (new.complete("positive") + new.complete("negative")).map

    runs = {
        "complete": placed,
        "the paper's": lambda: [part.weight(target) for part in split.passes],
        FLOOR: problem.laid_out.floor,
    }
    images = len(problem.x)
    clocks = {name: problem.clock(run) for name, run in runs.items()}
    times = in_turn(clocks, settings.rounds, f"complete map, batch {images}")
    rival = times["the paper's"] + times[FLOOR]
    report.pair("complete map of y⁺ + y⁻", images, times["complete"], "the paper's, and a floor", rival)
    held = peaks(problem.lin.graph, problem.x, target, ("dmbp", "learning"))
    if held:
        report.note(
            f"batch {images}: memory at its peak, {held['learning']:,.0f} MB while masks are learned, "
            f"{held['dmbp']:,.0f} MB with all maps made"
        )


def small_network(channels: int, size: int) -> tuple[nn.Module, Tensor]:
    """Four 3×3 convolutions with ReLUs, all of one width, and a picture for them, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for inputs in (3, channels, channels, channels):
            layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU()]
        return nn.Sequential(*layers).double().requires_grad_(False), torch.randn(1, 3, size, size).double()


def jacobian(network: nn.Module, x: Tensor, chunk: int) -> Tensor:
    """The Jacobian of one image by `torch.func.jacrev`, so many rows at a time."""
    return torch.func.jacrev(lambda x: network(x[None])[0].flatten(), chunk_size=chunk)(x[0]).flatten(1)


def matrices(report: Report, settings: Settings) -> None:
    """H of the last gate of a small network, always the same one, beside `torch.func.jacrev` in its best chunks."""
    network, x = small_network(8, 16)
    lin = trace(network, x).linearize(x)
    problem = Problem(network, network, lin, lin.output.new_zeros(1))
    chunks = {f"jacrev, {chunk} rows at once": partial(jacobian, network, x, chunk) for chunk in (32, 128, 512)}
    runs = {name: partial(lin.matrix, format=name) for name in ("dense", "csr")} | chunks
    times = in_turn({name: problem.clock(run) for name, run in runs.items()}, settings.rounds, "matrices")
    rows, columns = lin.jacobian().shape
    best = min(chunks, key=times.__getitem__)
    for name in ("dense", "csr"):
        report.pair(f"{name} matrix {rows:,} × {columns:,} of a small network", 1, times[name], best, times[best])


def captum(report: Report, problem: Problem, settings: Settings) -> None:
    """A whole explanation beside Captum's Integrated Gradients with 50 steps."""
    try:
        from captum.attr import IntegratedGradients
    except ImportError:
        report.note(f"no Integrated Gradients: Captum is not installed: {install('baselines')}")
        return
    images, gradients = len(problem.x), IntegratedGradients(problem.given)

    def start_and_end() -> None:
        result = explain(problem.lin.graph, problem.x, problem.target, iterations=0, progress=False)
        _ = result.attribution  # made when it is asked for

    def integrated() -> None:
        gradients.attribute(problem.x, target=problem.target, n_steps=STEPS, internal_batch_size=10 * images)

    clocks = {
        "start and end": problem.clock(start_and_end),
        OURS: lambda: problem.iteration(settings.iterations),
        "captum": problem.clock(integrated),
    }
    times = in_turn(clocks, settings.rounds, f"Integrated Gradients, batch {images}")
    whole = times["start and end"] + RUN * times[OURS]
    report.pair(f"dmbp, {RUN} iterations *", images, whole, f"Integrated Gradients, {STEPS} steps", times["captum"])
    report.note(f"* extrapolated: start and end of an explanation, and {RUN} times one iteration")


Measure = Callable[[Report, Problem, Settings], None]


def _each_batch(measure: Measure) -> Part:
    def part(report: Report, subject: Subject, settings: Settings) -> None:
        for images in settings.batches:
            measure(report, subject.problem(images), settings)

    return part


Part = Callable[[Report, Subject, Settings], None]
ITERATION = _each_batch(iteration)
PARTS: dict[str, Part] = {
    "iteration": ITERATION,
    "compiled": ITERATION,
    "own-loss": ITERATION,
    "literal": ITERATION,
    "memory": ITERATION,
    "linearize": _each_batch(region),
    "matrix": lambda report, subject, settings: matrices(report, settings),
    "complete": _each_batch(complete),
    "captum": _each_batch(captum),
    "growth": lambda report, subject, settings: grow(report, subject, settings.iterations, settings.rounds),
}


def bench(subject: Subject, settings: Settings, note: str = "") -> Report:
    """Measure the parts of the settings, all without any; Ctrl-C keeps what was measured so far."""
    settings = settings if settings.parts else replace(settings, parts=tuple(PARTS))
    chosen = {"model": subject.name, "dtype": str(subject.pictures.dtype).removeprefix("torch."), **asdict(settings)}
    report = Report(machine(subject.pictures.device), chosen)
    if note:
        report.note(note)
    try:
        for part in dict.fromkeys(PARTS[name] for name in PARTS if name in settings.parts):
            part(report, subject, settings)
    except KeyboardInterrupt:
        report.interrupted = True
    return report
