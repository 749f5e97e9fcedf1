"""Training speed of the networks: scans a second of one core's processor time.

python benchmarks/training.py [--steps 3]
"""

import time

import click
import torch

from tlimb.architectures.build import build_network

SLICE, SMALL_SLICE, VOLUME = (1, 80, 96), (1, 56, 64), (1, 40, 48, 40)
SETTINGS = [
    ("ResNet-18, one axial slice at 2 mm", "ResNet", {"dims": 2}, SLICE),
    ("ResNet-18, one axial slice at 3 mm", "ResNet", {"dims": 2}, SMALL_SLICE),
    ("ResNet-50, one axial slice at 2 mm", "ResNet", {"dims": 2, "depth": 50}, SLICE),
    ("timm's convnext_atto, one axial slice at 2 mm", "Timm", {"name": "convnext_atto"}, SLICE),
    ("SFCN, volumes at 4 mm", "SFCN", {}, VOLUME),
    ("ResNet-18, volumes at 4 mm", "ResNet", {}, VOLUME),
    ("DenseNet-121, volumes at 4 mm", "DenseNet", {}, VOLUME),
    ("ViT base, volumes at 4 mm", "ViT", {}, VOLUME),
    ("Swin, volumes at 4 mm", "Swin", {}, VOLUME),
    ("CAE's encoder, volumes at 4 mm", "CAE", {}, VOLUME),
    ("SliceSet of 5-layer CNNs, axial slices of volumes at 2 mm", "SliceSet", {"axis": "axial"}, (1, 80, 96, 80)),
    ("SliceSet of ResNet-18, volumes at 4 mm", "SliceSet", {"slice_encoder": {"class_path": "ResNet", "init_args": {"dims": 2}}}, VOLUME),
]
BATCH = 8


@click.command(help=__doc__)
@click.option("--steps", type=click.IntRange(1), default=3, show_default=True, help="Timed steps, after one that warms up.")
def main(steps: int):
    """Print a Markdown table."""
    torch.set_num_threads(1)
    print(f"| network | scans a second (batch {BATCH}, {steps} steps, torch {torch.__version__}) |\n|---|---|")
    for name, network, arguments, shape in SETTINGS:
        architecture = {"class_path": network, "init_args": arguments}
        print(f"| {name} | {_rate(architecture, shape, steps):.2g} |", flush=True)


def _rate(architecture: dict, shape: tuple[int, ...], steps: int) -> float:
    network = build_network(architecture, shape, {"age": 1}, seed=0)
    optimizer = torch.optim.AdamW(network.parameters())
    images, ages = torch.randn(BATCH, *shape), torch.randn(BATCH, 1)
    for step in range(steps + 1):
        if step == 1:
            started = time.process_time()
        loss = torch.nn.functional.mse_loss(network(images)["age"], ages)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return steps * BATCH / (time.process_time() - started)


if __name__ == "__main__":
    main()
