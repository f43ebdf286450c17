"""The convolutions of a step on their own: the right ones, and their operations against torch's own counter."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from dist_plm.bench.convolutions import _convolutions
from dist_plm.config import ModelConfig
from dist_plm.model import Encoder


def test_operations_are_those_that_torch_counts():
    network = Encoder(ModelConfig(backbone="small", dim=8))
    views = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    found = _convolutions(network, lambda: network(views))
    layers = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    assert [each.layer for each in found] == layers and [each.differentiates for each in found].count(False) == 1
    for each in found:
        with FlopCounterMode(display=False) as counter:
            each.step()
        assert each.operations() == counter.get_total_flops()


def test_operands_have_the_type_of_the_step():
    network = Encoder(ModelConfig(backbone="small", dim=8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = _convolutions(network, lambda: network(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)))
    assert {each.maps.dtype for each in found} == {each.weight.dtype for each in found} == {torch.bfloat16}
