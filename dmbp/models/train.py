"""Train a digit-pairs network from nothing: `python -m dmbp.models.train --network digit-pairs --out DIR`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from dmbp.datasets import CLASSES, DigitPairs, digit_pairs
from dmbp.errors import DmbpError
from dmbp.files import writable
from dmbp.models.digit_networks import NETWORKS
from dmbp.models.weights import save_weights

BATCH = 32
TEST_COUNT = 1_000


def train(network: nn.Module, *, epochs: int, count: int, seed: int, peak_rate: float = 3e-3) -> None:
    """Minimise the binary cross entropy of the ten logits, in place, on `count` fresh pictures per epoch.

    Adam, its rate rising to `peak_rate` and falling to zero over the run. The pictures follow from `seed` alone.
    Interrupted, it leaves the network in eval mode with the weights reached so far.
    """
    steps = epochs * -(-count // BATCH)
    optimizer = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak_rate, total_steps=steps)
    network.train()
    try:
        with tqdm(total=steps, unit="step", disable=sys.stderr is None) as bar:
            for epoch in range(epochs):
                bar.set_description(f"epoch {epoch + 1}/{epochs}")
                pairs = digit_pairs(count, split="train", seed=(seed, epoch))
                for images, labels in zip(pairs.images.split(BATCH), pairs.labels.split(BATCH), strict=True):
                    present = functional.one_hot(labels, CLASSES).sum(1).to(images.dtype)
                    loss = functional.binary_cross_entropy_with_logits(network(images), present)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
                    bar.update()
                    bar.set_postfix(loss=f"{loss.item():.4f}")
    finally:
        network.eval()


@torch.no_grad()
def both_right(network: nn.Module, pairs: DigitPairs) -> torch.Tensor:
    """Per picture, whether the two largest logits are its two digits: bool (N,)."""
    logits = torch.cat([network(images) for images in pairs.images.split(BATCH)])
    return (logits.topk(2).indices.sort(1).values == pairs.labels.sort(1).values).all(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train one network, write its weights to OUT/<network>.npz and print how well it does on test pictures."""
    parser = argparse.ArgumentParser(prog="python -m dmbp.models.train", description="Train a digit-pairs network.")
    parser.add_argument("--network", choices=NETWORKS, default="digit-pairs")
    parser.add_argument("--epochs", type=_positive, default=8)
    parser.add_argument("--count", type=_positive, default=8_000, help="pictures per epoch (default: 8000)")
    parser.add_argument("--seed", type=int, default=0, help="of the first weights and the pictures (default: 0)")
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="default: here")
    options = parser.parse_args(arguments)
    try:
        writable(options.out)
        test = digit_pairs(TEST_COUNT, split="test", seed=options.seed)
    except DmbpError as error:
        parser.error(str(error))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network = NETWORKS[options.network]()
    interrupted = False
    try:
        train(network, epochs=options.epochs, count=options.count, seed=options.seed)
    except KeyboardInterrupt:
        interrupted = True
    path = options.out / f"{options.network}.npz"
    save_weights(network, path)
    print(f"{'interrupted; the weights reached so far' if interrupted else 'weights'}: {path}")
    print(f"both digits right: {both_right(network, test).float().mean():.1%} of {TEST_COUNT} test pictures")
    if interrupted:
        raise SystemExit(130)  # as the shell has it for Ctrl-C


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return number


if __name__ == "__main__":
    main()
