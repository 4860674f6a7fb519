"""Layer-wise relevance on a VGG-16-shaped network: zennit's composites against Pellucid."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

import pellucid as px
from benchmarks.nets import images, network
from benchmarks.timing import Row, compare
from pellucid.attribution import AlphaBetaLRP, CompositeLRP, EpsilonLRP
from pellucid.contract import Method

CLASS = 3


def run(size: int = 224) -> list[Row]:
    """One row per rule and batch; the limit is a forward pass with a backward pass to the input."""
    composites, gradient = _peer()
    cases: list[tuple[str, Method, Any]] = [
        ("epsilon", EpsilonLRP(), _everywhere(composites, composites.Epsilon())),
        ("alpha 2, beta 1", AlphaBetaLRP(), _everywhere(composites, composites.AlphaBeta(2, 1))),
        ("epsilon-alpha2-beta1", CompositeLRP(composite="epsilon-alpha2-beta1"), composites.EpsilonAlpha2Beta1()),
        ("epsilon-plus-flat", CompositeLRP(composite="epsilon-plus-flat"), composites.EpsilonPlusFlat()),
    ]
    rows = []
    for batch in (1, 4):
        model, x = _plain(network("vgg16")), images(batch, size)
        for name, method, composite in cases:
            theirs = partial(_theirs, gradient, model, composite, x)
            task = f"vgg16, {name}, batch {batch}"
            limit = partial(_forward_backward, model, x)
            rows.append(compare(task, partial(_ours, model, x, method), theirs, within=2e-2, limit=limit))
    return rows


def _peer() -> tuple[Any, Callable[..., Any]]:
    """Zennit, with stand-ins for the two architectures that it imports from torchvision where that does not work."""
    try:
        import torchvision  # noqa: F401
    except Exception:
        for name in ("torchvision", "torchvision.models", "torchvision.models.resnet", "torchvision.models.vgg"):
            sys.modules[name] = ModuleType(name)
        for module, kind in (("resnet", "Bottleneck"), ("resnet", "BasicBlock"), ("vgg", "VGG")):
            setattr(sys.modules[f"torchvision.models.{module}"], kind, type(kind, (), {}))
    from zennit import composites
    from zennit.attribution import Gradient

    return composites, Gradient


def _everywhere(composites: Any, rule: Any) -> Any:
    """One rule for all layers with weights."""
    kinds = (composites.Convolution, nn.Linear)
    return composites.LayerMapComposite([*composites.layer_map_base(), *((kind, rule) for kind in kinds)])


def _plain(model: nn.Module) -> nn.Module:
    """Without gradients of parameters, which neither way needs."""
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return model.requires_grad_(False)


def _ours(model: nn.Module, x: Tensor, method: Method) -> Tensor:
    return px.explain(model, x, method, target=CLASS).values


def _theirs(gradient: Callable[..., Any], model: nn.Module, composite: Any, x: Tensor) -> Tensor:
    def start(output: Tensor) -> Tensor:
        seed = torch.zeros_like(output)
        seed[:, CLASS] = output[:, CLASS].detach()
        return seed

    with gradient(model, composite) as attributor:
        return attributor(x.clone().requires_grad_(), start)[1].detach()


def _forward_backward(model: nn.Module, x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(model(leaf)[:, CLASS].sum(), leaf)[0]
