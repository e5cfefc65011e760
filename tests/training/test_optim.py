"""Muon moves hidden matrices and kernels, and nothing else; the average follows its formula."""

import math

import pytest
import torch
from torch import nn

from mmldm.sections import TrainConfig
from mmldm.training.distributed import Process
from mmldm.training.optim import (
    ITERATIONS,
    QUINTIC,
    Average,
    Muon,
    Turn,
    hidden_weights,
    orthogonalise,
)

DTYPES = pytest.mark.parametrize("dtype", list(ITERATIONS), ids=str)


@DTYPES
@pytest.mark.parametrize("shape", [(1, 32, 64), (3, 64, 200), (2, 200, 64)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape, dtype):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape), dtype))
    assert values.min() > 0.3
    assert values.max() < 1.3


@DTYPES
def test_orthogonalised_matrix_keeps_its_singular_vectors(dtype):
    torch.manual_seed(0)
    matrix = torch.randn(48, 48)
    u, _, v = torch.linalg.svd(matrix)
    rotated = u.T @ orthogonalise(matrix[None], dtype)[0] @ v.T
    limit = 1e-4 if dtype == torch.float32 else 0.05
    assert (rotated - torch.diag(rotated.diag())).abs().max() < limit


@DTYPES
def test_iteration_on_gram_matrices_is_the_iteration_on_the_matrices(dtype):
    """Momentum's spectra are steep: half of the singular values lie below 1/100 of the largest."""
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(4, 48, 120), full_matrices=False)
    matrices = u * torch.logspace(0, -4, 48) @ v
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True)
    a, b, c = QUINTIC
    for _ in range(sum(ITERATIONS[dtype])):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    difference = (orthogonalise(matrices, dtype) - x).norm() / x.norm()
    assert difference < (1e-3 if dtype == torch.float32 else 0.15)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 64), nn.Linear(64, 64), nn.Conv2d(32, 64, 3), nn.Embedding(64, 64),
        nn.GroupNorm(4, 64), nn.Linear(64, 4),
    )  # fmt: skip


def test_hidden_weights_are_matrices_and_kernels_thick_on_both_sides():
    assert set(hidden_weights(network())) == {"1.weight", "2.weight"}


def test_frozen_layers_are_left_to_nobody():
    net = network()
    net.get_submodule("1").requires_grad_(False)
    assert set(hidden_weights(net)) == {"2.weight"}


def test_step_does_not_depend_on_the_scale_of_the_gradient_or_on_what_else_is_batched():
    torch.manual_seed(0)
    gradients = [torch.randn(64, 32, 3, 3), torch.randn(64, 288)]
    moved = []
    for scale, together in ((1.0, True), (128.0, True), (1.0, False)):
        weights = [nn.Parameter(torch.zeros_like(g)) for g in gradients]
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = scale * gradient
        for group in [weights] if together else [[w] for w in weights]:
            Muon(group, lr=0.1).step()
        moved.append(weights)
    for other in moved[1:]:
        for a, b in zip(moved[0], other, strict=True):
            assert torch.allclose(a, b, atol=1e-5)
    assert moved[0][0].abs().max() > 0


def test_withheld_update_changes_neither_weights_nor_momentum_even_for_nan():
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(32, 32))
    muon = Muon([weight], lr=0.1, weight_decay=0.1)
    weight.grad = torch.randn(32, 32)
    muon.step()
    before = weight.detach().clone(), muon.state[weight]["momentum_buffer"].clone()
    weight.grad = torch.full((32, 32), float("nan"))
    muon.found_inf = torch.tensor(1.0)
    muon.step()
    assert torch.equal(weight, before[0])
    assert torch.equal(muon.state[weight]["momentum_buffer"], before[1])


def test_only_the_models_turn_uses_muon_and_every_weight_has_one_owner():
    config = TrainConfig(
        steps=1, batch_size=1, learning_rate=1e-3, matrix_learning_rate=0.02, weight_decay=0.0
    )
    for name, kinds in (("model", 2), ("critic", 1)):
        turn = Turn(name, network(), config, 1e-3, Process())
        assert len(turn.optimizers) == kinds
        owned = [
            id(p) for o in turn.optimizers for group in o.param_groups for p in group["params"]
        ]
        assert sorted(owned) == sorted(id(p) for p in turn.parameters.values())


def test_muon_fits_a_linear_map_faster_than_plain_adamw():
    losses = {}
    for rate in (None, 0.02):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 32)
        )
        target = torch.randn(32, 32) / 32**0.5
        matrices = list(hidden_weights(net).values()) if rate else []
        rest = [p for p in net.parameters() if not any(p is m for m in matrices)]
        optimizers = [torch.optim.AdamW(rest, lr=1e-3, weight_decay=0.0)]
        if rate:
            optimizers.append(Muon(matrices, lr=rate))
        for _ in range(150):
            x = torch.randn(64, 32)
            loss = (net(x) - x @ target).square().mean()
            net.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
        losses[rate] = loss.item()
    assert losses[0.02] < losses[None]


def test_step_runs_a_closure_as_every_torch_optimiser_does() -> None:
    weight = nn.Parameter(torch.eye(4))
    optimizer = Muon([weight], lr=0.1)

    def closure() -> float:
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return float(loss)

    assert optimizer.step(closure) == 4
    assert weight.square().sum() < 4


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
