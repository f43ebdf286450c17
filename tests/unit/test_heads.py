"""A wide head beside the embedding, and a head whose output is normalised."""

import torch
from torch.nn.functional import layer_norm, normalize

from dist_plm.config import Config, ModelConfig
from dist_plm.distributed.world import World
from dist_plm.model import Encoder
from dist_plm.training.learner import Learner, phases

IMAGES = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_a_wide_head_stands_beside_the_embedding():
    plain = Encoder(ModelConfig(backbone="small", dim=16), seed=3)
    both = Encoder(ModelConfig(backbone="small", dim=16, wide_dim=24), seed=3)
    out = both(IMAGES)
    torch.testing.assert_close(out[:, :16], plain(IMAGES), rtol=0, atol=0)
    torch.testing.assert_close(out[:, 16:].norm(dim=1), torch.ones(3))
    missing = {name for name, _ in both.named_parameters()} - {name for name, _ in plain.named_parameters()}
    assert missing == {"wide_head.weight", "wide_head.bias"}


def test_the_head_parameters_are_all_but_the_backbones():
    encoder = Encoder(ModelConfig(backbone="small", dim=16, wide_dim=24, layer_norm=True))
    heads = {id(parameter) for parameter in encoder.head_parameters()}
    trunk = {id(parameter) for parameter in encoder.backbone.parameters()}
    assert len(heads) == 6 and not heads & trunk
    assert heads | trunk == {id(parameter) for parameter in encoder.parameters()}


def test_layer_norm_comes_before_the_unit_length():
    plain = Encoder(ModelConfig(backbone="small", dim=16), seed=3)
    normed = Encoder(ModelConfig(backbone="small", dim=16, layer_norm=True), seed=3)
    pooled = plain.pool(plain.backbone(IMAGES))
    torch.testing.assert_close(normed(IMAGES), normalize(layer_norm(plain.head(pooled), (16,))))


def test_evaluation_takes_the_embedding_and_the_sweep_the_wide_head():
    config = Config(model=ModelConfig(backbone="small", dim=16, wide_dim=24))
    learner = Learner(config, World(), phases(config)[0])
    out = learner.teacher(IMAGES)
    torch.testing.assert_close(learner.embed_with(learner.teacher)(IMAGES), out[:, :16])
    torch.testing.assert_close(learner.embed_with(learner.teacher, wide=True)(IMAGES), out[:, 16:])
