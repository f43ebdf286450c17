"""Treatments of batch norm against torch's own layer on the whole batch."""

import threading

import pytest
import torch
from torch import nn

from dist_plm.config import ModelConfig
from dist_plm.errors import UserError
from dist_plm.model import Encoder
from dist_plm.model.batch_norm import SynchronisedRowNorm, convert_batch_norm


def layer():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(5, eps=1e-3, momentum=0.3).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return norm


def maps(count=6):
    # Far from zero: a one-pass variance would lose its digits here.
    return 1e3 + torch.randn(count, 5, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def run(norm, inputs, weights):
    inputs = inputs.clone().requires_grad_()
    output = norm(inputs)
    (output.sin() * weights).sum().backward()
    return output.detach(), inputs.grad, norm.weight.grad, norm.bias.grad


def close(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-9)


class Threads:
    """Ranks as threads: a sum whose value and gradient are sums over ranks, without a process group."""

    def __init__(self, size):
        self.barrier = threading.Barrier(size, timeout=20)
        self.slots = [None] * size

    def total(self, rank, tensor):
        self.slots[rank] = tensor
        self.barrier.wait()
        total = sum(self.slots[1:], self.slots[0])
        self.barrier.wait()
        return total

    def of(self, rank):
        threads = self

        class Sum(torch.autograd.Function):
            @staticmethod
            def forward(ctx, tensor):
                return threads.total(rank, tensor.detach().clone())

            @staticmethod
            def backward(ctx, gradient):
                return threads.total(rank, gradient.clone())

        return Sum.apply


def row_layer(all_reduce_sum=None):
    """The same parameters for rows: torch's layer, or the synchronised one."""
    norm = nn.BatchNorm1d(5, 1e-3, 0.3) if all_reduce_sum is None else SynchronisedRowNorm(5, 1e-3, 0.3, all_reduce_sum)
    norm.double().load_state_dict(layer().state_dict())
    return norm.train()


@pytest.mark.parametrize("of_rows", [False, True])
@pytest.mark.parametrize("shares", [[6], [3, 3], [1, 2, 3]])
def test_synchronised_equals_one_layer_on_the_whole_batch(shares, of_rows):
    inputs, weights = maps(), torch.randn(6, 5, 4, 3, dtype=torch.float64)
    if of_rows:
        inputs, weights = inputs[:, :, 0, 0], weights[:, :, 0, 0]
    reference = row_layer() if of_rows else layer().train()
    expected = run(reference, inputs, weights)
    threads, results, norms = Threads(len(shares)), [None] * len(shares), []
    pieces = list(zip(inputs.split(shares), weights.split(shares), strict=True))
    for rank in range(len(shares)):
        total = threads.of(rank)
        norms.append(row_layer(total) if of_rows else convert_batch_norm(layer().train(), "synchronised", total))

    def work(rank):
        results[rank] = run(norms[rank], *pieces[rank])

    workers = [threading.Thread(target=work, args=(rank,)) for rank in range(len(shares))]
    [worker.start() for worker in workers]
    [worker.join() for worker in workers]
    outputs, inputs_grad, weight_grad, bias_grad = zip(*results, strict=True)
    close([torch.cat(outputs), torch.cat(inputs_grad), sum(weight_grad), sum(bias_grad)], expected)
    for norm in norms:
        close([norm.running_mean, norm.running_var], [reference.running_mean, reference.running_var])
        assert norm.num_batches_tracked == reference.num_batches_tracked == 1


def test_statistics_of_a_rank_alone_differ():
    whole, part = layer().train()(maps()), layer().train()(maps()[:3])
    assert (whole[:3] - part).abs().max() > 0.01


def test_synchronised_in_evaluation_uses_running_statistics_without_ranks():
    norm = convert_batch_norm(layer().eval(), "synchronised")
    close([norm(maps())], [layer().eval()(maps())])
    with pytest.raises(AssertionError, match="sum over the ranks"):
        norm.train()(maps())


def test_frozen_stays_in_evaluation_and_trains_scale_and_shift():
    weights = torch.randn(6, 5, 4, 3, dtype=torch.float64)
    network = nn.Sequential(nn.Identity(), layer().train())
    convert_batch_norm(network, "frozen").train()
    frozen, reference = network[1], layer().eval()
    close(run(frozen, maps(), weights), run(reference, maps(), weights))
    close([frozen.running_mean, frozen.running_var], [reference.running_mean, reference.running_var])
    assert network.training and not frozen.training


@pytest.mark.parametrize("treatment", ["frozen", "synchronised", "per_rank"])
def test_every_layer_of_a_backbone_is_converted_with_its_names(treatment):
    kind = {"frozen": "FrozenBatchNorm", "synchronised": "SynchronisedBatchNorm", "per_rank": "BatchNorm2d"}[treatment]
    network = Encoder(ModelConfig(backbone="resnet18", dim=8, batch_norm=treatment))
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [type(norm).__name__ for norm in norms] == [kind] * 20
    plain = Encoder(ModelConfig(backbone="resnet18", dim=8, batch_norm="per_rank"))
    assert network.state_dict().keys() == plain.state_dict().keys()


def test_synchronised_backbone_on_one_rank_equals_torch():
    images = torch.randint(0, 256, (4, 3, 48, 48), dtype=torch.uint8)
    config = ModelConfig(backbone="resnet18", dim=8, batch_norm="synchronised")
    one = Encoder(config, all_reduce_sum=lambda tensor: tensor).double().train()
    two = Encoder(ModelConfig(backbone="resnet18", dim=8, batch_norm="per_rank")).double().train()
    for network in (one, two):
        network(images)[:, 0].sum().backward()
    close([p.grad for p in one.parameters()], [p.grad for p in two.parameters()])
    close(
        [b for b in one.buffers() if b.is_floating_point()],
        [b for b in two.buffers() if b.is_floating_point()],
    )


def test_half_precision_maps_keep_exact_statistics():
    norm = convert_batch_norm(layer().float().train(), "synchronised", lambda tensor: tensor)
    half = torch.randn(6, 5, 4, 3).bfloat16()
    output = norm(half)
    assert output.dtype == torch.bfloat16
    expected = layer().float().train()(half.float())
    assert torch.equal(output, expected.bfloat16()) or (output - expected).abs().max() < 0.02


@pytest.mark.parametrize("treatment", ["frozen", "synchronised"])
@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d])
def test_a_layer_without_scale_and_shift(kind, treatment):
    inputs = maps()[:, :, 0, 0] if kind is nn.BatchNorm1d else maps()
    reference, own = (kind(5, 1e-3, 0.3, affine=False).double() for _ in range(2))
    own = convert_batch_norm(nn.Sequential(own), treatment, lambda tensor: tensor).train()[0]
    reference.train(treatment == "synchronised")
    found = [inputs.clone().requires_grad_() for _ in range(2)]
    for norm, each in zip((own, reference), found, strict=True):
        norm(each).sin().sum().backward()
    close([own(inputs), found[0].grad, *own.buffers()], [reference(inputs), found[1].grad, *reference.buffers()])
    assert not list(own.parameters())


def test_statistics_that_a_treatment_lacks_are_told():
    for treatment, layer_of, told in (
        ("frozen", {"track_running_stats": False}, "has no running statistics"),
        ("synchronised", {"track_running_stats": False}, "set --model.batch_norm per_rank"),
        ("synchronised", {"momentum": None}, "has momentum=None"),
    ):
        for kind in (nn.BatchNorm1d, nn.BatchNorm2d):
            network = nn.Sequential(kind(5, **layer_of))
            assert convert_batch_norm(network, "per_rank") is network
            with pytest.raises(UserError, match=f"model.batch_norm {treatment}: a {kind.__name__} of 5 .*{told}"):
                convert_batch_norm(network, treatment, lambda tensor: tensor)
    averaged = convert_batch_norm(nn.BatchNorm2d(5, momentum=None).double(), "frozen").train()
    torch.testing.assert_close(averaged(maps()), maps() / (1 + 1e-5) ** 0.5)
