"""How many 56x64x56 crops a second each augmentation changes, beside MONAI's and TorchIO's of the same kind.

Ours changes a batch at once, the others one item after the other, as their transforms do in a Dataset; every item is
changed, with ranges that are alike. All run in this process, in turn, with the same number of threads; the median of
the repeats counts. TorchIO takes part where it is installed.
Run: python benchmarks/augment.py [--batch 16] [--threads 1] [--repeats 5] [--device cpu]
"""

import statistics
import time
from importlib.util import find_spec

import click
import torch
from monai import transforms as monai

from tlimb import registry

CROP = (56, 64, 56)
TURN = [0.17] * 3
PEERS = {  # our short name -> MONAI's transform of the same kind, always applied
    "RandomAffine": lambda: monai.RandAffine(
        prob=1.0, rotate_range=TURN, scale_range=[0.05] * 3, translate_range=[2] * 3, padding_mode="zeros"
    ),
    "RandomFlip": lambda: monai.RandFlip(prob=1.0, spatial_axis=0),
    "RandomElastic": lambda: monai.Rand3DElastic(
        prob=1.0, sigma_range=(4, 4), magnitude_range=(20, 20), padding_mode="border"
    ),
    "RandomNoise": lambda: monai.RandGaussianNoise(prob=1.0, std=0.15),
    "RandomBlur": lambda: monai.RandGaussianSmooth((0.1, 1.0), (0.1, 1.0), (0.1, 1.0), prob=1.0),
    "RandomBiasField": lambda: monai.RandBiasField(degree=3, coeff_range=(-0.15, 0.15), prob=1.0),
    "RandomGamma": lambda: monai.RandAdjustContrast(prob=1.0, gamma=(0.74, 1.35)),
    "RandomCutout": lambda: monai.RandCoarseDropout(
        holes=1, spatial_size=(11, 13, 11), max_spatial_size=(22, 26, 22), fill_value=0, prob=1.0
    ),
}
TORCHIO = {
    "RandomAffine": {"scales": 0.05, "degrees": 10, "translation": 2},
    "RandomFlip": {"axes": 0, "flip_probability": 1},
    "RandomElasticDeformation": {"max_displacement": 3},
    "RandomNoise": {"std": (0, 0.15)},
    "RandomBlur": {"std": (0, 1)},
    "RandomBiasField": {"coefficients": 0.15},
    "RandomGamma": {"log_gamma": 0.3},
    "RandomGhosting": {},
    "RandomMotion": {"degrees": 5, "translation": 2, "num_transforms": 4},
}


@click.command(help=__doc__)
@click.option("--batch", default=16, show_default=True, type=click.IntRange(1))
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1))
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1))
@click.option("--device", default="cpu", show_default=True)
def main(batch: int, threads: int, repeats: int, device: str):
    torch.set_num_threads(threads)
    images = torch.randn(batch, 1, *CROP) * (torch.rand(batch, 1, *CROP) < 0.8)
    click.echo("| augmentation | tlimb, items/s | MONAI, items/s | times | TorchIO, items/s | times |")
    click.echo("|---|---|---|---|---|---|")
    for name in registry.SHORT_NAMES["augment"]:
        augment, peers = registry.load("augment", name)(probability=1.0), (monai_of(name), torchio_of(name))
        labels, there = [torch.zeros(batch, device=device)], images.to(device)
        runs = [lambda: augment(there, labels), *(each_item(peer, images) for peer in peers)]
        ours, *theirs = speeds(runs, batch, repeats)
        shown = [(f"{speed:.0f}", f"{ours / speed:.1f}") if speed else ("-", "-") for speed in theirs]
        click.echo(f"| {name} | {ours:.0f} | " + " | ".join(cell for pair in shown for cell in pair) + " |")


def each_item(peer, images):
    """A run of a transform over the items of a batch, or None where there is no transform."""
    return None if peer is None else lambda: torch.stack([torch.as_tensor(peer(item)) for item in images])


def speeds(runs: list, batch: int, repeats: int) -> list[float | None]:
    """Items a second of each run, all in turn in every repeat after one for warming up; None stays None."""
    seconds = [[] for _ in runs]
    for repeat in range(repeats + 1):
        for run, taken in zip(runs, seconds):
            if run is not None:
                started = time.perf_counter()
                run()
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                taken.extend([time.perf_counter() - started] * (repeat > 0))
    return [batch / statistics.median(taken) if taken else None for taken in seconds]


def monai_of(name: str):
    """MONAI's transform of the same kind, or None."""
    return PEERS[name]() if name in PEERS else None


def torchio_of(name: str):
    """TorchIO's transform of the same kind, or None where it has none or is not installed."""
    name = {"RandomElastic": "RandomElasticDeformation"}.get(name, name)
    if find_spec("torchio") is None or name not in TORCHIO:
        return None
    import torchio

    return getattr(torchio, name)(p=1, **TORCHIO[name])


if __name__ == "__main__":
    main()
