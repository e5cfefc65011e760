"""The average follows its formula, is swapped in and out whole, and costs training nothing."""

import math

import pytest
import torch
from torch import nn

from mmldm.training.optim import Average


def layer(value: float) -> nn.Linear:
    layer = nn.Linear(2, 2)
    nn.init.constant_(layer.weight, value)
    nn.init.constant_(layer.bias, value)
    return layer


def test_average_follows_its_formula() -> None:
    module = layer(0.0)
    average, expected = Average({"m": module}, 0.5), 0.0
    for step in range(30):
        nn.init.constant_(module.weight, step)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert math.isclose(average.state()["m.weight"][0, 0].item(), expected, rel_tol=1e-5)


def test_constant_weights_are_their_own_average() -> None:
    module = layer(0.3)
    average = Average({"m": module}, 0.99)
    for step in range(20):
        average.update(step)
    assert torch.equal(average.state()["m.weight"], module.weight)


def test_swapped_module_holds_the_average_and_then_its_own_weights_again() -> None:
    module = layer(1.0)
    average = Average({"m": module}, 0.5)
    nn.init.constant_(module.weight, 2.0)
    with pytest.raises(KeyError), average.swapped():
        assert module.weight.eq(1.0).all()
        raise KeyError("whatever happens inside")
    assert module.weight.eq(2.0).all()
    assert average.state()["m.weight"].eq(1.0).all()


def test_frozen_weights_are_not_averaged() -> None:
    module = layer(1.0)
    module.bias.requires_grad_(False)
    assert list(Average({"m": module}, 0.5).state()) == ["m.weight"]


def test_loaded_average_continues_the_saved_one() -> None:
    averages = [Average({"m": layer(value)}, 0.9) for value in (1.0, 5.0)]
    saved = {name: tensor.clone() for name, tensor in averages[0].state().items()}
    averages[1].load(saved)
    assert torch.equal(averages[1].state()["m.bias"], saved["m.bias"])


def test_without_a_decay_nothing_is_averaged_or_swapped() -> None:
    module = layer(1.0)
    average = Average({"m": module}, None)
    average.update(0)
    nn.init.constant_(module.weight, 3.0)
    with average.swapped():
        assert module.weight.eq(3.0).all()
