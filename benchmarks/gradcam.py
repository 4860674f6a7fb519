"""Grad-CAM at the last feature map: captum's LayerGradCam against Pellucid, plans made; and pytorch-grad-cam's maps.

pytorch-grad-cam is left out where it is not installed. It scales each map to 0…1 and enlarges it to the picture, so that
the same is done to ours before they are compared.
"""

from __future__ import annotations

import importlib
import sys
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn

import pellucid as px
from benchmarks.nets import images, network
from benchmarks.timing import Row, compare
from pellucid.attribution import GradCAM

ENLARGED = (("resnet18", "layer4", 1), ("resnet18", "layer4", 8), ("resnet50", "layer4", 8))
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
    return rows + _enlarged()


def _enlarged() -> list[Row]:
    """The same map, rectified, scaled and enlarged, against pytorch-grad-cam."""
    library = _pytorch_grad_cam()
    if library is None:
        return []
    rows = []
    for name, layer, batch in ENLARGED:
        model, x = network(name), images(batch)
        subject = px.Subject(model, plan=True)
        target = [library.ClassifierOutputTarget(3)] * batch
        peer = library.GradCAM(model=_apart(model), target_layers=[model.get_submodule(layer)])

        def ours(subject: px.Subject = subject, x: Tensor = x, layer: str = layer) -> Tensor:
            heat = _scaled(px.explain(subject, x, GradCAM(), target=3, layer=layer).values)
            whole = nn.functional.interpolate(heat, size=x.shape[2:], mode="bilinear", align_corners=False)
            return _scaled(whole)[:, 0]

        def theirs(peer: Any = peer, x: Tensor = x, target: Any = target) -> Tensor:
            return torch.from_numpy(peer(input_tensor=x, targets=target))

        rows.append(compare(f"{name}, {layer}, batch {batch}, pytorch-grad-cam", ours, theirs, within=1e-4))
    return rows


def _scaled(heat: Tensor) -> Tensor:
    heat = heat - heat.amin((2, 3), keepdim=True)
    return heat / (1e-7 + heat.amax((2, 3), keepdim=True))


def _pytorch_grad_cam() -> Any:
    """The library, with stand-ins for the parts of torchvision that it imports and Grad-CAM does not use."""
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.models")
    try:
        import torchvision  # noqa: F401
    except Exception:
        for name in names:
            module = sys.modules[name] = ModuleType(name)
            for part in ("Compose", "Normalize", "ToTensor", "resize"):
                setattr(module, part, object)
    try:
        found = importlib.import_module("pytorch_grad_cam")
        targets = importlib.import_module("pytorch_grad_cam.utils.model_targets")
    except ImportError:
        return None
    return SimpleNamespace(GradCAM=found.GradCAM, ClassifierOutputTarget=targets.ClassifierOutputTarget)


def _apart(model: nn.Module) -> nn.Module:
    """Captum keeps the layer's tensor as it is, so that a rectifier working in place after it would change it."""
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return model


def _forward(model: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(x)
