"""Steps of each network of a sweep, timed on random images in memory."""

import time
from collections.abc import Callable
from dataclasses import replace
from math import prod

import click
import torch

from tlimb import registry
from tlimb.architectures.build import build_network
from tlimb.architectures.network import Network
from tlimb.errors import InputError, Problem
from tlimb.registry import class_name
from tlimb.scenarios.device import device_name, find_device
from tlimb.scenarios.fitted import is_fitted
from tlimb.scenarios.schedules import build_optimizer
from tlimb.scenarios.tuning import Tuner
from tlimb.search.costs import Known
from tlimb.search.objectives_made import made_objective
from tlimb.search.plan import Plan, shape_of
from tlimb.search.rates import Rates, keys_of

MOST = 4_000_000
"""Numbers in the images of a timed batch on a CPU, where time grows as they do; a GPU is given whole batches."""
STEPS = 2


def measured(plan: Plan, known: Known, trusted=()) -> Known:
    """What is known with rates from some steps, on this device, of the network of every distinct training of a plan.

    What auxiliary terms, a second set of scans and terms that look at images add is not in them. Raises InputError for
    a network that does not fit into the device's memory.
    """
    device, rates = find_device(), Rates()
    torch.set_num_threads(1)
    recipes = {name: recipe.model_dump() for name, recipe in plan.sweep.recipes.items()}
    trained = [(line["spec"]["architecture"], line["spec"]["stage"]) for line in plan.proposal.pretrainings]
    trained += [(trial["spec"]["architecture"], trial["spec"]["stages"][-1]) for trial in plan.proposal.trials]
    distinct = {}
    for architecture, stage in trained:
        keys = keys_of(architecture, stage, recipes[stage["data"]["recipe"]])
        distinct.setdefault(keys[0], (architecture, stage, keys))
    for number, (architecture, stage, keys) in enumerate(distinct.values(), start=1):
        told = f"timing network {number} of {len(distinct)}: {class_name(architecture)}, stage {stage['name']}"
        click.echo(told, err=True)
        if stage["strategy"] != "direct":
            images, seconds = _timed(architecture, stage, plan, recipes, device, trusted)
            rates.add(keys, images, seconds)
    rates.devices.add(device_name(device))
    source = f"steps of {rates.trainings} networks timed here on {device_name(device)}, without auxiliary terms"
    return replace(known, source=source, rates=rates)


def _timed(architecture: dict, stage: dict, plan: Plan, recipes: dict, device, trusted) -> tuple[int, float]:
    """How many images were passed through a network, an epoch's share each, and the seconds that took."""
    recipe, module = stage["data"]["recipe"], stage["data"]["module"]
    made = registry.load("module", module["class_path"], trusted)(**module["init_args"])
    shape = made.input_shape(shape_of(plan.sweep.recipes[recipe]))
    heads = made_objective(stage, plan.summary["labels"], trusted).heads(stage["heads"]) | stage["heads"]
    outputs = dict.fromkeys(stage["targets"], 1)
    network = build_network(architecture, shape, outputs, 0, trusted, heads, recipes[recipe])
    batch = stage["batch_size"]
    if device.type == "cpu":
        batch = min(batch, max(2, MOST // prod(shape)))
    try:
        images = torch.randn(batch, *shape, device=device)
        network.to(device)
        if is_fitted(network.encoder):
            return batch * STEPS, _seconds(lambda: _passed(network, images), device)
        tuner = Tuner(network, stage, 0, trusted)
        tuner.start()
        tuner.set_epoch(stage["epochs"])
        if tuner.features_stand_still and not stage["data"]["augment"]:
            once = stage["epochs"]  # features are computed once for all epochs
            return batch * STEPS * once, _seconds(lambda: _passed(network, images), device)
        optimizer = build_optimizer(stage["optimizer"], tuner.groups(), trusted)
        return batch * STEPS, _seconds(lambda: _step(network, images, optimizer), device)
    except torch.OutOfMemoryError:
        where = f"stages.{stage['name']}.batch_size"
        message = f"a batch of {batch} does not fit into the memory of {device_name(device)}"
        raise InputError([Problem(where, message, "expected fewer scans, or `accumulate` of the trainer")]) from None


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    """The time of some steps, after one that makes ready."""
    step()
    _wait(device)
    started = time.perf_counter()
    for _ in range(STEPS):
        step()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.no_grad()
def _passed(network: Network, images: torch.Tensor) -> None:
    network.eval().encode(images)


def _step(network: Network, images: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    outputs = network(images)
    values = list(outputs.values()) if outputs else [network.encode(images)]
    optimizer.zero_grad()
    sum(value.float().square().mean() for value in values).backward()
    optimizer.step()
