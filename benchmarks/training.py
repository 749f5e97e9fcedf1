"""Training speed of the encoders: scans a second on one core.

python benchmarks/training.py [--steps 8]
"""

import time

import click
import torch

from tlimb.architectures.build import build_network

SETTINGS = [
    ("ResNet-18, one axial slice at 2 mm", {"class_path": "ResNet", "init_args": {"depth": 18, "dims": 2}}, (1, 80, 96)),
    ("ResNet-18, one axial slice at 3 mm", {"class_path": "ResNet", "init_args": {"depth": 18, "dims": 2}}, (1, 56, 64)),
    ("SFCN, volumes at 4 mm", {"class_path": "SFCN", "init_args": {}}, (1, 40, 48, 40)),
]
BATCH = 16


@click.command(help=__doc__)
@click.option("--steps", type=click.IntRange(1), default=8, show_default=True, help="Timed steps, after two that warm up.")
def main(steps: int):
    """Print a Markdown table."""
    torch.set_num_threads(1)
    print(f"| network | scans a second (batch {BATCH}, {steps} steps, torch {torch.__version__}) |\n|---|---|")
    for name, architecture, shape in SETTINGS:
        print(f"| {name} | {_rate(architecture, shape, steps):.0f} |")


def _rate(architecture: dict, shape: tuple[int, ...], steps: int) -> float:
    network = build_network(architecture, shape, {"age": 1}, seed=0)
    optimizer = torch.optim.AdamW(network.parameters())
    images, ages = torch.randn(BATCH, *shape), torch.randn(BATCH, 1)
    for step in range(steps + 2):
        if step == 2:
            started = time.perf_counter()
        loss = torch.nn.functional.mse_loss(network(images)["age"], ages)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return steps * BATCH / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
