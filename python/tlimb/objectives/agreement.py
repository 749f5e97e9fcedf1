"""How far apart two predictions of the same scans are."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid, pad

from tlimb.data.targets import Target
from tlimb.errors import InputError, Problem


def squared_difference(target: Target, one: Tensor, two: Tensor) -> Tensor:
    r"""A head's outputs (B, outputs) for two views of B scans -> (B,).

    Classes, of probabilities p and q: 1 / C sum_c (p_c - q_c)^2. Quantities: the squared difference of the predictions,
    in standard deviations of the training labels. Survival: that of the risks.
    """
    if target.kind in ("regression", "survival"):
        return (_number(target, one) - _number(target, two)).square()
    one, two = (log_probabilities(target, output).exp() for output in (one, two))
    return (one - two).square().mean((1, 2))


def divergence(target: Target, one: Tensor, two: Tensor) -> Tensor:
    r"""KL(q \|\| p) = sum_c q_c log(q_c / p_c) of B scans, (B,), with p of the outputs `one` and q of `two`, both
    (B, outputs). Where a scan may have several classes: the mean over them of that of having each or not."""
    one, two = log_probabilities(target, one), log_probabilities(target, two)
    return (two.exp() * (two - one)).sum(2).mean(1)


def log_probabilities(target: Target, output: Tensor) -> Tensor:
    """Outputs (B, outputs) -> (B, K, C): log-probabilities of the C answers to K questions, which is one, of the class
    or the bin, or where a scan may have several classes, for each of them whether it is there (C = 2)."""
    output = output.float()
    if target.kind == "multilabel":
        return torch.stack([logsigmoid(output), logsigmoid(-output)], dim=2)
    if target.kind == "ordinal":
        # log P(y = j) = log(1 - s_j) + sum_{i < j} log s_i. Neither a product of matrices, which autocast would take in
        # half precision, nor cumsum, which a GPU does not repeat exactly.
        before = torch.ones(output.shape[1], output.shape[1] + 1, device=output.device).triu(1)
        reached = (logsigmoid(output)[:, :, None] * before).sum(1)
        return (reached + pad(logsigmoid(-output), (0, 1)))[:, None]
    return log_softmax(output, dim=1)[:, None]


def _number(target: Target, output: Tensor) -> Tensor:
    """What is predicted of each scan, (B,): of bins the mean of their distribution."""
    if not target.bins:
        return output[:, 0].float()
    places = torch.as_tensor((target.bins.centres - target.mean) / target.sd, device=output.device)
    probabilities = log_probabilities(target, output)[:, 0].exp()
    return (probabilities * places.to(probabilities)).sum(1)


def require_targets(term: str, targets: Sequence[Target], distance: str = "mse") -> None:
    """Raises InputError for a stage without targets, and for a divergence of what is no probability."""
    where = f"objective.auxiliary: {term}"
    if not targets:
        message = "compares predictions of targets, and the stage has none"
        raise InputError([Problem(where, message, "it stands beside the loss of a target")])
    numbers = [of.name for of in targets if of.kind == "survival" or (of.kind == "regression" and not of.bins)]
    if distance == "kl" and numbers:
        message = f"distance 'kl' compares probabilities, and {', '.join(numbers)} are predicted as numbers"
        raise InputError([Problem(where, message, "expected 'mse'")])
