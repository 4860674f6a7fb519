"""Grad-CAM at the last feature map: captum's LayerGradCam against Pellucid, plans made."""

from __future__ import annotations

from functools import partial

import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn

import pellucid as px
from benchmarks.nets import images, network
from benchmarks.timing import Row, compare
from pellucid.attribution import GradCAM

CASES = (("resnet18", "layer4", 1), ("resnet18", "layer4", 8), ("resnet50", "layer4", 8), ("vgg16", "features.29", 1))
SIGNED = GradCAM(relu=False)  # a rectifier could hide a difference


def run() -> list[Row]:
    """One row per network and batch; the limit is a plain forward pass."""
    rows = []
    for name, layer, batch in CASES:
        model, x = network(name), images(batch)
        subject = px.Subject(model, plan=True)  # made at the first call
        peer = LayerGradCam(_apart(model), model.get_submodule(layer))

        def ours(subject: px.Subject = subject, x: Tensor = x, layer: str = layer) -> Tensor:
            return px.explain(subject, x, SIGNED, target=3, layer=layer).values

        def theirs(peer: LayerGradCam = peer, x: Tensor = x) -> Tensor:
            return peer.attribute(x, target=3).detach()

        task, limit = f"{name}, {layer}, batch {batch}", partial(_forward, model, x)
        rows.append(compare(task, ours, theirs, within=1e-4, limit=limit))
    return rows


def _apart(model: nn.Module) -> nn.Module:
    """Captum keeps the layer's tensor as it is, so that a rectifier working in place after it would change it."""
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return model


def _forward(model: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(x)
