"""How fast this machine embeds, measured before anything is chosen by it."""

import time
from dataclasses import replace

import torch

from dist_plm.config import ModelConfig
from dist_plm.fit.machine import Machine
from dist_plm.model import Encoder
from dist_plm.model.preprocessing import check_size

IMAGES = {"cpu": 16, "cuda": 64}  # of a batch
SECONDS = 2.0


@torch.inference_mode()
def views_per_second(model: ModelConfig, size: int, machine: Machine) -> float:
    """Forward passes a second of the whole machine; decoding is left out.

    Args:
        model: Its weights are not read: they take no part in the speed.
        size: Side of a view, pixels.

    Raises:
        UserError: The network takes no images of this size.
    """
    device = torch.device("cuda" if machine.gpus else "cpu")
    network = Encoder(replace(model, weights="")).eval()
    check_size(network, model.backbone, size)
    network.to(device)
    images = torch.zeros(IMAGES[device.type], 3, size, size, device=device)
    done, started = -1, time.monotonic()
    with torch.autocast(device.type, torch.bfloat16, enabled=machine.bf16):
        while done < 2 or time.monotonic() - started < SECONDS:
            network(images).sum().item()
            done += 1
            if not done:  # the first chooses kernels
                started = time.monotonic()
    return max(1, machine.gpus) * done * len(images) / (time.monotonic() - started)
