"""Passes that a term makes through the network beside the step's own."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tlimb.objectives.term import Step


@contextmanager
def still_statistics(network: nn.Module) -> Iterator[None]:
    """Within it, batch normalisations in training mode use the statistics of their batch and leave their running ones
    alone, which so stay those of the scans as the stage shows them: a network is validated and used on such scans, not
    on a term's views of them. Those in evaluation mode use their running statistics, as ever."""
    moving = [of for of in network.modules() if isinstance(of, _BatchNorm) and of.training and of.track_running_stats]
    for norm in moving:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in moving:
            norm.track_running_stats = True


def kept_statistics(step: Step) -> AbstractContextManager:
    """What a term's own pass stands in: `still_statistics` beside targets; without any targets nothing, since there
    the running statistics are of such passes."""
    return still_statistics(step.network) if step.labels else nullcontext()
