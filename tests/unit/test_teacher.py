"""The momentum encoder against equation 1 written out in numpy."""

import numpy as np
import pytest
import torch

from dist_plm.config import ModelConfig
from dist_plm.model import Encoder, Teacher


def images(count=2):
    return torch.randint(0, 256, (count, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def student(batch_norm="per_rank"):
    return Encoder(ModelConfig(backbone="resnet18", dim=8, batch_norm=batch_norm))


def numbers(network):
    return {name: tensor.detach().numpy().copy() for name, tensor in network.state_dict().items()}


def test_starts_as_a_copy_and_never_follows_by_itself():
    theta = student()
    teacher = Teacher(theta, 0.9)
    before = numbers(teacher.encoder)
    assert all(np.array_equal(value, before[name]) for name, value in numbers(theta).items())
    with torch.no_grad():
        for parameter in theta.parameters():
            parameter.add_(1.0)
    assert all(np.array_equal(value, before[name]) for name, value in numbers(teacher.encoder).items())


def test_update_is_equation_1_on_weights_and_statistics_and_copies_counters():
    theta = student().train()
    teacher = Teacher(theta, 0.9)
    expected = numbers(teacher.encoder)
    for step in range(3):
        theta(images() // (step + 1))
        with torch.no_grad():
            for parameter in theta.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        teacher.update(theta)
        for name, value in numbers(theta).items():
            floating = value.dtype.kind == "f"
            expected[name] = np.float32(0.9) * expected[name] + np.float32(0.1) * value if floating else value
    actual = numbers(teacher.encoder)
    assert actual["backbone.trunk.bn1.num_batches_tracked"] == 3
    assert not np.allclose(actual["backbone.trunk.bn1.running_mean"], 0)
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, atol=1e-5, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_limits_of_momentum(momentum):
    theta = student()
    teacher = Teacher(theta, momentum)
    start = teacher.encoder.head.weight.clone()
    with torch.no_grad():
        theta.head.weight.mul_(3)
    teacher.update(theta)
    assert torch.equal(teacher.encoder.head.weight, theta.head.weight if momentum == 0 else start)


def test_always_in_evaluation_mode_without_gradients():
    theta = student().train()
    teacher = Teacher(theta, 0.9)
    torch.nn.ModuleList([theta, teacher]).train()
    assert theta.training
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    before = numbers(teacher.encoder)
    assert not teacher(images()).requires_grad
    assert all(np.array_equal(value, before[name]) for name, value in numbers(teacher.encoder).items())
    assert all(parameter.requires_grad for parameter in theta.parameters())


def test_another_network_is_refused():
    with pytest.raises(AssertionError, match="copied from"):
        Teacher(student(), 0.9).update(Encoder(ModelConfig(backbone="small", dim=8)))


class Ranks:
    """Stands for a process group: it sums over ranks and cannot be copied."""

    def __deepcopy__(self, memo):
        raise AssertionError("a process group was copied")

    def all_reduce_sum(self, tensor):
        return tensor


def test_copies_a_student_whose_batch_norm_holds_a_process_group():
    config = ModelConfig(backbone="resnet18", dim=8, batch_norm="synchronised")
    theta = Encoder(config, all_reduce_sum=Ranks().all_reduce_sum).train()
    teacher = Teacher(theta, 0.5)
    theta(images()).sum().backward()
    teacher.update(theta)
    expected = 0.5 * theta.backbone.trunk.bn1.running_mean
    torch.testing.assert_close(teacher.encoder.backbone.trunk.bn1.running_mean, expected)
