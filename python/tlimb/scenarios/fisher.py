"""What each parameter of an encoder matters for what it was trained on."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from tlimb.architectures.network import Network
from tlimb.data.dataset import fetch
from tlimb.data.targets import Target
from tlimb.data.view import View
from tlimb.errors import InputError, Problem
from tlimb.objectives.agreement import log_probabilities
from tlimb.scenarios.fitted import is_fitted
from tlimb.seeds import seed_for

SCANS = 1000
"""Scans that the mean is taken over, where there are more."""


def fisher_diagonal(
    network: Network, targets: Sequence[Target], dataset: Dataset, view: View, seed: int, device: torch.device
) -> dict[str, Tensor]:
    r"""Parameter of the encoder -> F_i = mean over scans x of (d log p(y | x) / d theta_i)^2, y drawn from p(y | x).

    The diagonal of the Fisher information of one scan: one label y of each scan is drawn from what the network itself
    predicts (that the scan has another one makes no difference), so its expectation is the true Fisher information, not
    the empirical one. p is the softmax over classes or bins, the chain of ordered classes, for each of several classes
    by itself, and a normal distribution of variance 1 about a standardised quantity; over targets log p is summed.

    dataset: the training scans; of more than 1,000, as many of them drawn by the seed. They pass one by one, in
    evaluation mode and not augmented. The network keeps its weights and is left on the device.
    """
    network.to(device).eval()
    parameters = dict(network.encoder.named_parameters())
    trained = {name: parameter.requires_grad for name, parameter in parameters.items()}
    network.encoder.requires_grad_(True)
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    drawn = np.random.default_rng(seed_for(seed, "fisher")).permutation(len(dataset))[:SCANS]
    for place in sorted(drawn.tolist()):
        torch.manual_seed(seed_for(seed, "fisher", place))
        images, labels = view.before(fetch(dataset, [place]), training=False)
        images, _ = view.after((images.to(device), [label.to(device) for label in labels]), training=False)
        outputs = network(images, [target.name for target in targets])
        value = sum(drawn_log_likelihood(target, outputs[target.name]) for target in targets)
        gradients = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, gradients):
            if gradient is not None:
                total[name] += gradient.square()
    for name, parameter in parameters.items():
        parameter.requires_grad_(trained[name])
    return {name: (squares / len(drawn)).cpu() for name, squares in total.items()}


def drawn_log_likelihood(target: Target, outputs: Tensor) -> Tensor:
    """log p(y) of labels y that are drawn on the CPU from p itself, but for a constant, summed over outputs (B, K)."""
    if target.kind == "regression" and not target.bins:
        noise = torch.randn(outputs.shape).to(outputs)
        return -(outputs.detach() + noise - outputs).square().sum() / 2
    logs = log_probabilities(target, outputs).flatten(0, 1)
    label = torch.multinomial(logs.detach().cpu().exp(), 1).to(logs.device)
    drawn = label == torch.arange(logs.shape[1], device=logs.device)
    return torch.where(drawn, logs, 0.0).sum()


def require_drawable(stage: dict, labels: dict, encoder: nn.Module) -> None:
    """That a label of each target can be drawn from what the network predicts. Raises InputError."""
    where = f"stages.{stage['name']}.fisher"
    problems = []
    if not stage["targets"]:
        problems.append(Problem(where, "needs targets, and the stage has none", "expected false"))
    for name in stage["targets"]:
        if labels[name]["kind"] == "survival":
            message = f"no time until an event can be drawn from the risk that is predicted of '{name}'"
            problems.append(Problem(where, message, "expected false"))
    if is_fitted(encoder):
        problems.append(Problem(where, "the network is fitted at once and has no parameters to keep", "expected false"))
    if problems:
        raise InputError(problems)
