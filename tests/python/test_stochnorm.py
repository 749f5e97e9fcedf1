"""Batch norms that choose between what they see and what they know: as the formula says, and gone in the end."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from small_networks import Flat, Small, arrays, network_of, noise
from torch import nn

from tlimb.architectures.stochnorm import StochNorm, make_ordinary, make_stochastic, stochastic_places
from tlimb.config import Tuning
from tlimb.errors import InputError
from tlimb.objectives.own_pass import still_statistics
from tlimb.scenarios.averaging import measure_statistics
from tlimb.scenarios.tuning import Tuner
from tlimb.search.tuning_problems import tuning_problems

NORMS = {1: (nn.BatchNorm1d, (6, 5)), 2: (nn.BatchNorm2d, (6, 5, 4, 3)), 3: (nn.BatchNorm3d, (6, 5, 2, 3, 2))}


def norm_of(dims: int) -> tuple[nn.Module, torch.Tensor]:
    """A batch norm of 5 channels that has seen something, and what it is given."""
    made, shape = NORMS[dims]
    norm = made(5)
    with torch.no_grad():
        for number, tensor in enumerate((norm.weight, norm.bias, norm.running_mean, norm.running_var)):
            tensor.copy_(noise(5, seed=number).abs() + 0.5)
    return norm, noise(*shape, seed=9) * 2 + 1


@pytest.mark.parametrize("dims", NORMS)
def test_stochnorm_takes_each_channel_from_the_batch_or_from_before(dims):
    norm, values = norm_of(dims)
    before = arrays(norm)
    stochastic = StochNorm(norm, 0.5).train()
    torch.manual_seed(0)
    chosen = torch.rand(5) < 0.5
    assert 0 < chosen.sum() < 5
    torch.manual_seed(0)
    found = stochastic(values).detach().double().numpy()
    x = values.double().numpy()
    axes = (0, *range(2, x.ndim))
    shape = (-1, *[1] * (x.ndim - 2))
    m, v, count = x.mean(axes), x.var(axes), x.size / 5
    known = [before[name] for name in ("running_mean", "running_var")]
    mean, variance = (np.where(chosen.numpy(), own, old) for own, old in zip((m, v), known))
    hat = (x - mean.reshape(shape)) / np.sqrt(variance.reshape(shape) + norm.eps)
    np.testing.assert_allclose(found, before["weight"].reshape(shape) * hat + before["bias"].reshape(shape), atol=1e-5)
    after = arrays(stochastic)
    np.testing.assert_allclose(after["running_mean"], 0.9 * known[0] + 0.1 * m, rtol=1e-5)
    np.testing.assert_allclose(after["running_var"], 0.9 * known[1] + 0.1 * v * count / (count - 1), rtol=1e-5)


@pytest.mark.parametrize("dims", NORMS)
def test_stochnorm_of_probability_one_and_in_evaluation_is_batch_norm_bit_for_bit(dims):
    norm, values = norm_of(dims)
    peer, stochastic = deepcopy(norm), StochNorm(norm, 1.0)
    assert torch.equal(stochastic.train()(values), peer.train()(values))
    assert all(torch.equal(of, peer.state_dict()[name]) for name, of in stochastic.state_dict().items())
    assert torch.equal(StochNorm(norm, 0.3).eval()(values), norm.eval()(values))
    assert stochastic.state_dict().keys() == peer.state_dict().keys()


def test_gradients_of_stochnorm_go_through_both_ways():
    norm, values = norm_of(2)
    values = values[:3, :, :2, :2].double().requires_grad_()

    def passed(of):
        torch.manual_seed(0)
        return StochNorm(deepcopy(norm).double(), 0.5).train()(of)

    assert torch.autograd.gradcheck(passed, values)


def test_batch_norms_are_replaced_for_training_and_put_back_with_their_statistics():
    encoder = network_of(Small()).encoder
    plain, images = deepcopy(encoder), noise(4, 1, 8, 8)
    names = stochastic_places(encoder)
    assert names == ["first.1", "second.1"]
    parameters = {name: id(of) for name, of in encoder.named_parameters()}
    before = make_stochastic(encoder, 0.5, names)
    assert {name: id(of) for name, of in encoder.named_parameters()} == parameters
    encoder.train()(images)
    make_ordinary(encoder, before)
    assert [type(of) for of in encoder.modules()] == [type(of) for of in plain.modules()]
    assert encoder.first[1].num_batches_tracked == plain.first[1].num_batches_tracked + 1
    assert not torch.equal(encoder.first[1].running_mean, plain.first[1].running_mean)
    assert {name: id(of) for name, of in encoder.named_parameters()} == parameters


def test_statistics_measured_anew_are_those_of_batch_norm():
    plain, images = network_of(Small()).encoder.train(), [noise(4, 1, 8, 8, seed=seed) for seed in range(3)]
    encoder = deepcopy(plain)
    make_stochastic(encoder, 0.5, stochastic_places(encoder))
    for of in (plain, encoder):
        measure_statistics(of, images, of)
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in encoder.state_dict().items())


def test_a_pass_with_still_statistics_chooses_as_well_and_moves_nothing():
    norm, values = norm_of(2)
    stochastic, twin = StochNorm(norm, 0.5).train(), StochNorm(deepcopy(norm), 0.5).train()
    before = deepcopy(stochastic.state_dict())
    torch.manual_seed(0)
    with still_statistics(stochastic):
        found = stochastic(values)
    assert all(torch.equal(tensor, before[name]) for name, tensor in stochastic.state_dict().items())
    torch.manual_seed(0)
    torch.testing.assert_close(found, twin(values))


def tuner_of(encoder: nn.Module, **tuning) -> Tuner:
    """A started tuner of a network with one head."""
    spec = {"name": "finetune", "strategy": "full", "epochs": 4, "tuning": Tuning(**tuning).model_dump()}
    tuner = Tuner(network_of(encoder, sex=2), spec, seed=0)
    tuner.start()
    return tuner


def stochastic(tuner: Tuner, epoch: int) -> list[str]:
    """The layers that choose in an epoch."""
    tuner.set_epoch(epoch)
    return [name for name, of in tuner.encoder.named_modules() if isinstance(of, StochNorm) and of.training]


def test_stochnorm_goes_with_what_trains_and_with_statistics_from_before():
    assert stochastic(tuner_of(Small(), stochnorm=0.5), 1) == ["first.1", "second.1"]
    assert stochastic(tuner_of(Small(), stochnorm=0.5, freeze_up_to="second"), 1) == ["second.1"]
    tuner = tuner_of(Small(), stochnorm=0.5, unfreeze=1)
    assert [stochastic(tuner, epoch) for epoch in (1, 2, 3)] == [[], ["second.1"], ["first.1", "second.1"]]
    assert stochastic(tuner_of(Small(), stochnorm=0.5, reinitialise=1), 1) == ["first.1"]
    tuner.finish()
    assert not any(isinstance(of, StochNorm) for of in tuner.encoder.modules())


def test_stochnorm_needs_batch_norms_that_train():
    with pytest.raises(InputError, match="tuning.stochnorm: the encoder has no batch norm"):
        tuner_of(Flat(), stochnorm=0.5)
    lora = {"class_path": "LoRA", "init_args": {"rank": 1}}
    with pytest.raises(InputError, match="tuning.stochnorm: no batch norm .* ever trains"):
        tuner_of(Small(), stochnorm=0.5, adapter=lora)
    for strategy in ("scratch", "frozen", "direct"):
        (problem,) = tuning_problems(Tuning(stochnorm=0.5).model_dump(), strategy, "tuning")
        assert problem.where == "tuning.stochnorm"
    (problem,) = tuning_problems(Tuning(stochnorm=0.5, only="bias").model_dump(), "full", "tuning")
    assert problem.where == "tuning.stochnorm" and "running statistics" in problem.message
    assert not tuning_problems(Tuning(stochnorm=0.5, only="norm").model_dump(), "full", "tuning")
