"""What a stage keeps for the next one: what its parameters mattered, and how sure its heads may be."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from small_networks import AGE, BINNED, DIAGNOSIS, FINDINGS, GRADE, Flat, arrays, network_of, noise

from tlimb.architectures.network import Network
from tlimb.data.targets import Target
from tlimb.scenarios.calibration import temperature
from tlimb.scenarios.fisher import drawn_log_likelihood, fisher_diagonal

CPU = torch.device("cpu")


class Scans:
    """The same image again and again, as a dataset and the view of it."""

    def __init__(self, image: torch.Tensor, n: int):
        self.image, self.n = image, n

    def __len__(self) -> int:
        return self.n

    def __getitems__(self, indices):
        return self.image.expand(len(indices), *self.image.shape), [torch.full((len(indices),), torch.nan)]

    def before(self, batch, training):
        assert not training
        return batch

    after = before


def exact_fisher(network: Network, image: torch.Tensor, target: Target) -> np.ndarray:
    """E_y (d log p(y) / dW)^2 of a Flat encoder by hand: d o_k / d W_ij = V_ki x_j."""
    x, v = image.flatten().double().numpy(), arrays(network.head(target.name))
    outputs = v["weight"] @ (arrays(network.encoder)["layer.weight"] @ x) + v["bias"]
    slopes = v["weight"][:, :, None] * x  # (K, 3, 4)
    if target.kind == "regression" and not target.bins:
        return slopes[0] ** 2
    if target.kind == "multilabel":
        p = expit(outputs)
        cross = np.einsum("k,kij->ij", p * (1 - p), slopes**2)
        return cross
    if target.kind == "ordinal":
        s = expit(outputs)
        p = np.array([1 - s[0], s[0] * (1 - s[1]), s[0] * s[1]])
        scores = [-s[0] * slopes[0], (1 - s[0]) * slopes[0] - s[1] * slopes[1]]
        scores.append((1 - s[0]) * slopes[0] + (1 - s[1]) * slopes[1])
        return sum(share * score**2 for share, score in zip(p, scores))
    p = softmax(outputs)
    return sum(p[k] * (slopes[k] - np.tensordot(p, slopes, 1)) ** 2 for k in range(len(p)))


@pytest.mark.parametrize("target", [AGE, DIAGNOSIS, GRADE, FINDINGS, BINNED], ids=lambda of: of.kind)
def test_the_fisher_information_is_that_of_labels_drawn_from_the_networks_own_predictions(target):
    network, image = network_of(Flat(), **{target.name: target.outputs}), noise(1, 2, 2, seed=3)
    scans = Scans(image, 300)
    found = fisher_diagonal(network, [target], scans, scans, seed=1, device=CPU)["layer.weight"].numpy()
    wanted = exact_fisher(network, image, target)
    assert np.linalg.norm(found - wanted) < 0.2 * np.linalg.norm(wanted)


def test_fisher_information_sums_over_targets_and_leaves_the_network_alone():
    network, image = network_of(Flat(), age=1, diagnosis=3), noise(1, 2, 2, seed=3)
    network.encoder.layer.weight.requires_grad_(False)
    before, scans = deepcopy(network.state_dict()), Scans(image, 300)
    both = fisher_diagonal(network, [AGE, DIAGNOSIS], scans, scans, seed=0, device=CPU)["layer.weight"]
    again = fisher_diagonal(network, [AGE, DIAGNOSIS], scans, scans, seed=0, device=CPU)["layer.weight"]
    assert torch.equal(both, again)
    wanted = exact_fisher(network, image, AGE) + exact_fisher(network, image, DIAGNOSIS)
    assert np.linalg.norm(both.numpy() - wanted) < 0.2 * np.linalg.norm(wanted)
    assert not network.encoder.layer.weight.requires_grad and network.encoder.layer.weight.grad is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("target", [DIAGNOSIS, GRADE, FINDINGS], ids=lambda of: of.kind)
def test_labels_are_drawn_as_often_as_they_are_probable(target):
    torch.manual_seed(0)
    logits = noise(1, target.outputs, seed=5)
    surprise = -float(drawn_log_likelihood(target, logits.expand(20000, -1))) / 20000
    o = logits[0].double().numpy()
    s = expit(o)
    p = {
        "classification": lambda: [softmax(o)],
        "ordinal": lambda: [np.array([1 - s[0], s[0] * (1 - s[1]), s[0] * s[1]])],
        "multilabel": lambda: [np.array([share, 1 - share]) for share in s],
    }[target.kind]()
    assert surprise == pytest.approx(-sum((each * np.log(each)).sum() for each in p), rel=0.02)


@pytest.mark.parametrize("target", [DIAGNOSIS, GRADE, BINNED], ids=lambda of: of.kind)
def test_the_temperature_makes_held_out_labels_most_probable(target):
    random = np.random.default_rng(0)
    outputs = noise(4000, target.outputs, seed=4)
    o = outputs.double().numpy()
    p = softmax(o, axis=1)
    if target is GRADE:
        s = expit(o)
        p = np.stack([1 - s[:, 0], s[:, 0] * (1 - s[:, 1]), s[:, 0] * s[:, 1]], 1)
    place = np.array([random.choice(p.shape[1], p=row) for row in p / p.sum(1, keepdims=True)])
    label = torch.tensor(place, dtype=torch.float32)
    if target is BINNED:
        label = torch.tensor((BINNED.bins.centres[place] - 50) / 10, dtype=torch.float32)
    label[::7] = torch.nan
    assert temperature(target, outputs * 3, label) == pytest.approx(3, rel=0.1)
    assert temperature(target, outputs, torch.full((4000,), torch.nan)) == 1
