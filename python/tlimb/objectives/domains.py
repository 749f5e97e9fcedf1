"""What terms share that compare two sets of scans, a source and a target domain."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import softplus

from tlimb.data.targets import Target
from tlimb.errors import InputError, Problem
from tlimb.objectives.term import Step


def of_one_domain(step: Step, least: int = 1) -> bool:
    """Whether a batch has fewer than `least` scans of one of the domains, so that nothing can be compared."""
    return min(step.labelled, len(step.passed.features) - step.labelled) < least


def nothing(step: Step) -> Tensor:
    """0, without any gradient but zeros, for a batch in which there is nothing to compare."""
    return step.passed.features.float().sum() * 0


def domain_loss(logits: Tensor, sources: int, weights: Tensor | None = None) -> Tensor:
    r"""-1/n_s sum_source w_i log(1 - D_i) - 1/n_t sum_target w_j log D_j, with D = sigmoid(logit): the binary
    cross-entropy of source 0 and target 1, each domain counting the same however many scans of it there are.

    logits: (B,), those of the `sources` scans of the source first; weights: (B,), 1 where None.
    """
    logits = logits.float()
    weights = logits.new_ones(len(logits)) if weights is None else weights
    source, target = softplus(logits[:sources]), softplus(-logits[sources:])
    return (weights[:sources] * source).mean() + (weights[sources:] * target).mean()


def classifications(targets: Sequence[Target], term: str) -> list[Target]:
    """The targets of one class of several. Raises InputError where there is none."""
    found = [target for target in targets if target.kind == "classification"]
    if not found:
        kinds = ", ".join(f"{target.name} is {target.kind}" for target in targets) or "there are no targets"
        message = f"needs a target of the kind classification, and {kinds}"
        raise InputError([Problem(f"objective.auxiliary: {term}", message, "DANN, MMD and DeepCORAL suit every kind")])
    return found
