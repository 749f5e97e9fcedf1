"""What ways to tune cost: processor time of a training step on one core, as a ratio to plain full tuning.

python benchmarks/tuning.py [--rounds 5]
"""

import statistics
import time

import click
import torch
from torch import nn

from tlimb.architectures.build import build_network
from tlimb.config import Tuning
from tlimb.scenarios.averaging import Average
from tlimb.scenarios.schedules import build_optimizer
from tlimb.scenarios.tuning import Tuner

ARCHITECTURE = {"class_path": "ResNet", "init_args": {"depth": 18, "dims": 2}}
SHAPE, BATCH = (1, 80, 96), 16
ADAMW = {"class_path": "AdamW", "init_args": {"lr": 1e-3}}
WAYS = {
    "full": {},
    "layer_decay 0.8": {"layer_decay": 0.8},
    "average: ema": {"average": {"kind": "ema"}},
    "adapter: LoRA, rank 4": {"adapter": {"class_path": "LoRA", "init_args": {}}},
    "adapter: ParallelAdapter": {"adapter": {"class_path": "ParallelAdapter", "init_args": {}}},
    "only: bias": {"only": "bias"},
    "freeze_up_to layer4": {"freeze_up_to": "layer4"},
    "head_first (its epochs)": {"head_first": 1},
}


class Way:
    """A network tuned in one way, and steps of it."""

    def __init__(self, tuning: dict, cached: bool = False):
        network = build_network(ARCHITECTURE, SHAPE, {"age": 1}, seed=0)
        stage = {"name": "benchmark", "strategy": "full", "epochs": 2, "tuning": Tuning(**tuning).model_dump()}
        self.tuner = Tuner(network, stage, seed=0)
        self.tuner.start()
        self.optimizer = build_optimizer(ADAMW, self.tuner.groups())
        spec = stage["tuning"]["average"]
        self.average = None if spec is None else Average(spec, network)
        self.forward = network.predict if cached else network
        self.images = torch.randn(BATCH, network.encoder.features) if cached else torch.randn(BATCH, *SHAPE)
        self.ages = torch.randn(BATCH, 1)

    def step(self) -> float:
        """Seconds of processor time of one step."""
        started = time.process_time()
        nn.functional.mse_loss(self.forward(self.images)["age"], self.ages).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.after_step()
        return time.process_time() - started


@click.command(help=__doc__)
@click.option("--rounds", type=click.IntRange(2), default=5, show_default=True, help="Steps of each way.")
def main(rounds: int):
    """Print a Markdown table."""
    torch.set_num_threads(1)
    ways = {name: Way(tuning) for name, tuning in WAYS.items()}
    ways["frozen (features computed once)"] = Way({"head_first": 1}, cached=True)
    seconds = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            taken = way.step()
            if number:
                seconds[name].append(taken)
    full = statistics.median(seconds["full"])
    setting = f"ResNet-18 on slices {SHAPE[1:]}, batch {BATCH}, torch {torch.__version__}"
    print(f"{setting}; full: {1000 * full:.0f} ms a step\n")
    print("| way | step, ratio to full | parameters that train |\n|---|---|---|")
    for name, way in ways.items():
        trained = sum(of.numel() for of in way.tuner.network.parameters() if of.requires_grad)
        print(f"| {name} | {statistics.median(seconds[name]) / full:.4f} | {trained:,} |")


if __name__ == "__main__":
    main()
