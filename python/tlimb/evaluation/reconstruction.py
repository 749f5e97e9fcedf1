"""How well a training without targets does on held-out scans: its scores."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import Dataset

from tlimb.architectures.forward import BATCH
from tlimb.architectures.network import Network
from tlimb.data.dataset import batched, fetch
from tlimb.data.targets import Target
from tlimb.data.view import View
from tlimb.evaluation.bootstrap import percentile_interval, person_bootstrap
from tlimb.evaluation.predict import Bootstrap, scores
from tlimb.objectives.term import Step
from tlimb.seeds import seed_for


def scores_without_targets(
    network: Network,
    term: nn.Module,
    rows: pd.DataFrame,
    view: View,
    device: torch.device,
    bootstrap: Bootstrap,
    columns: Sequence[Target] = (),
) -> dict:
    """What scores.json says of a training without targets, but for its id.

    term: its primary term, as it was trained. rows: scan_id, person and the label columns that terms look at, which
    `columns` describes. "loss" holds the value that the term minimises, by its name: its attribute `loss` ("mse", "l1")
    or its class in lower case. Where the term gives a value for each scan, `each(step)` -> (B,), this is their mean
    with its interval over persons. Else it is the mean over batches of 16 scans, a lone last one with those before it,
    each batch as often as it has scans; its low and high are None. "loss" is empty where there are no scans, or one
    that cannot be compared with others.
    """
    found, single = scores(rows, [], "test", bootstrap), hasattr(term, "each")
    if len(rows) < (1 if single else 2):
        return found | {"loss": {}}
    names = [of.name for of in columns]
    dataset = view.dataset(rows[["scan_id", "person", *names]], columns)
    values = _values(network, term, dataset, names, view, device)
    low, high = _interval(values, rows["person"], bootstrap) if single else (None, None)
    loss = getattr(term, "loss", None)
    name = loss if isinstance(loss, str) else type(term).__name__.lower()
    return found | {"loss": {name: {"value": float(values.mean()), "low": low, "high": high}}}


def _values(
    network: Network, term: nn.Module, dataset: Dataset, names: Sequence[str], view: View, device: torch.device
) -> np.ndarray:
    """The term's value for each scan, or what it is for its batch, (n,), in evaluation mode. names: of the labels."""
    network.to(device).eval()
    term.to(device).eval()
    parts = []
    with torch.inference_mode():
        for indices in batched(range(len(dataset)), BATCH):
            torch.manual_seed(seed_for(0, "prediction", indices[0]))  # what a term hides or turns is alike each time
            images, labels = view.before(fetch(dataset, list(indices)), training=False)
            images, labels = view.after((images.to(device), [label.to(device) for label in labels]), training=False)
            columns, seen = dict(zip(names, labels)), getattr(term, "seen", None)
            step = Step(network, images, [], columns, labelled=len(images), training=False, seen=seen)
            value = term.each(step) if hasattr(term, "each") else term(step).expand(len(images))
            parts.append(value.double().cpu().numpy())
    return np.concatenate(parts)


def _interval(values: np.ndarray, persons: pd.Series, bootstrap: Bootstrap) -> tuple[float | None, float | None]:
    """Of the mean over scans, drawn anew by persons."""
    names, codes = np.unique(persons.to_numpy(str), return_inverse=True)
    means = person_bootstrap(
        lambda weights: weights[:, codes] @ values / weights[:, codes].sum(axis=1),
        len(names),
        resamples=bootstrap.resamples,
        seed=bootstrap.seed,
    )
    return percentile_interval(means, bootstrap.confidence, len(names))
