"""What a run tells a person before anything goes wrong."""

import pytest

from dist_plm.config import Config, ModelConfig, TrainConfig
from dist_plm.methods import METHODS
from dist_plm.training.learner import Learner
from dist_plm.training.warnings import start_warning


@pytest.mark.parametrize("weights", ["", "imagenet"])
@pytest.mark.parametrize("name", METHODS)
def test_methods_that_learn_from_their_own_embeddings_are_warned_of_random_ones(name, weights):
    learner = Learner.__new__(Learner)
    learner.config = Config(model=ModelConfig(weights=weights), train=TrainConfig(method=name))
    learner.method = METHODS[name]  # type: ignore[assignment]
    warned = name in ("plm", "stml", "neighbour_contrast", "pseudo_labels") and not weights
    assert bool(start_warning(learner)) == warned
