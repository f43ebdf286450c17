"""Networks: backbones, the encoder (student), its momentum copy (teacher), proxies and pretrained weights."""

from dist_plm.model.backbones import build_backbone, check_model
from dist_plm.model.encoder import Encoder
from dist_plm.model.teacher import Teacher

__all__ = ["Encoder", "Teacher", "build_backbone", "check_model"]
