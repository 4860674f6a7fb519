"""Which fewer, faster steps give the same numbers? Rewrites of a recorded graph, each exact up to rounding.

Evaluation batch-norm is folded into the affine step before it (in float64, eps included); dropout and identity
vanish; ReLU and residual addition are done by the step that produces their input, in its own fresh memory; in-place
operations become out-of-place, so that steps may be joined safely. What does not depend on the inputs is computed
once.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from pellucid.engine.plan.ops import Affine, affine_of
from pellucid.engine.plan.outline import outline
from pellucid.engine.plan.trace import Refused, Traced, variants

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_DROPOUT_FUNCTIONS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout)

_OUT_OF_PLACE = {getattr(operator, "i" + name): getattr(operator, name) for name in ("add", "sub", "mul", "truediv")}
_OUT_OF_PLACE |= {torch.relu_: torch.relu, F.relu_: F.relu, F.elu_: F.elu, F.leaky_relu_: F.leaky_relu}
_ADDITIONS = (operator.add, torch.add)
_RELUS = (torch.relu, F.relu)

# Steps whose result never shares memory with what they read.
_FRESH_FUNCTIONS = frozenset(
    {
        *_ADDITIONS,
        *_RELUS,
        *(operator.sub, operator.mul, operator.truediv, operator.matmul, operator.neg, operator.pow),
        *(torch.sub, torch.mul, torch.div, torch.matmul, torch.bmm, torch.cat, torch.stack, torch.mean, torch.sum),
        *(torch.sigmoid, torch.tanh, torch.exp, torch.sqrt, F.softmax, F.gelu, F.silu, F.elu, F.leaky_relu),
        *(F.linear, F.conv1d, F.conv2d, F.conv3d, F.batch_norm, F.layer_norm, F.group_norm, F.embedding),
        *(F.hardswish, F.hardsigmoid, F.interpolate, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d),
        F.scaled_dot_product_attention,
    }
)
_FRESH_METHODS = frozenset(
    {
        *("add", "sub", "mul", "div", "matmul", "bmm", "neg", "pow", "exp", "sqrt", "abs", "clamp", "clone", "size"),
        *("relu", "sigmoid", "tanh", "softmax", "mean", "sum"),
    }
)
_FRESH_MODULES = (
    *(*_CONVOLUTIONS, *_NORMS, nn.Linear, nn.LayerNorm, nn.GroupNorm, nn.Embedding, nn.Sigmoid, nn.Tanh, nn.Softmax),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Hardswish),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
)


def normalise(traced: Traced) -> bool:
    """Rewrite the graph, in place, without in-place steps as far as that is safe; True where none is left."""
    drop_identities(traced)
    pure = make_out_of_place(traced)
    fold_constants(traced)
    return pure


def simplify(traced: Traced, *, pure: bool, quick: bool) -> None:
    """Join steps, in place. `quick` also changes memory layout."""
    lower(traced, quick=quick)
    fold_norms(traced)
    fuse_epilogues(traced, additions=pure)
    if quick:
        _views_to_reshapes(traced, pure)


def compile_steps(traced: Traced, batch: int, *, gradient: bool) -> None:
    """Use the kernels made for this processor, for about `batch` rows."""
    for node in traced.graph.nodes:
        if isinstance(node.target, Affine):
            shape = tuple(variants(node.args[0])[0].shape)
            node.target = node.target.compiled((batch, *shape[1:]), gradient=gradient)


def between(traced: Traced, start: fx.Node | None = None, end: fx.Node | None = None) -> Traced:
    """A copy of the steps from the inputs, or from `start`, to `end`, or to the output, without unused ones.

    With a `start`, its value is the first input; the model's own inputs follow where some step still needs them.
    """
    graph, copies = fx.Graph(), {}
    result = end or next(iter(reversed(traced.graph.nodes))).args[0]
    needed: set[fx.Node] = set()
    # A step that writes matters though nothing reads its result; a cut is only made where no such step is left.
    waiting = [node for node in traced.graph.nodes if _writes(node, traced)]
    fx.node.map_arg(result, lambda node: waiting.append(node))
    while waiting:
        node = waiting.pop()
        if node is not start and node not in needed:
            needed.add(node)
            waiting += node.all_input_nodes
    inputs = [node for node in traced.graph.nodes if node.op == "placeholder"]
    if start is None or any(node in needed for node in inputs):
        needed.update(inputs)
    if start is not None:
        copies[start] = graph.placeholder("start")
        copies[start].meta.update(start.meta)
    for node in traced.graph.nodes:
        if node in needed and node not in copies:
            copies[node] = graph.node_copy(node, lambda item: copies[item])
    graph.output(fx.node.map_arg(result, lambda item: copies[item]))
    return Traced(graph, traced.modules, traced.constants)


def pruned(traced: Traced) -> Traced:
    """The same graph with the modules and constants that it uses alone, so that nothing else is kept alive."""
    nodes = list(traced.graph.nodes)
    modules = {str(node.target): traced.modules[str(node.target)] for node in nodes if node.op == "call_module"}
    constants = {str(node.target): traced.constants[str(node.target)] for node in nodes if node.op == "get_attr"}
    return Traced(traced.graph, modules, constants)


def drop_identities(traced: Traced) -> None:
    """Evaluation dropout and identity return their input itself."""
    for node in list(traced.graph.nodes):
        module = traced.modules[str(node.target)] if node.op == "call_module" else None
        silent = isinstance(module, (*_DROPOUTS, nn.Identity))
        if node.op == "call_function" and node.target in _DROPOUT_FUNCTIONS:
            training = node.kwargs.get("training", node.args[2] if len(node.args) > 2 else True)
            silent = training is False
        if silent:
            source = node.args[0] if node.args else node.kwargs.get("input")
            if isinstance(source, fx.Node):
                _replace(traced, node, source)


def make_out_of_place(traced: Traced) -> bool:
    """Rewrite in-place steps where that is provably the same; True where none is left.

    Raises `Refused` where a remaining one might write into an input or a weight.
    """
    pure = True
    order = {node: index for index, node in enumerate(traced.graph.nodes)}
    for node in list(traced.graph.nodes):
        if not _writes(node, traced):
            continue
        target = node.args[0] if node.args else node.kwargs.get("input")
        if isinstance(target, fx.Node) and _unshared(target, node, order, traced) and _convert(node, traced):
            for user in list(target.users):
                if order[user] > order[node]:
                    user.replace_input_with(target, node)
            continue
        pure = False
        if _may_be_outside(target, traced):
            raise Refused(f"'{node.name}' may write into an input or a weight")
    return pure


def _writes(node: fx.Node, traced: Traced) -> bool:
    if node.op == "call_module":
        return bool(getattr(traced.modules[str(node.target)], "inplace", False))
    if node.op == "call_method":
        name = str(node.target)
        return name in ("__setitem__", "__iadd__") or (name.endswith("_") and not name.endswith("__"))
    if node.op != "call_function":
        return False
    name = getattr(node.target, "__name__", "")
    first = variants(node.args[0])[0] if node.args and isinstance(node.args[0], fx.Node) else None
    if node.target in _OUT_OF_PLACE and not isinstance(first, Tensor):
        return False
    spelled = name.endswith("_") and not name.endswith("__")
    positional = node.target in (F.relu, F.elu, F.leaky_relu, F.relu6, F.selu, F.celu) and node.args[-1] is True
    in_operator = getattr(operator, name, None) is node.target and name in ("setitem", *_in_place_operators())
    return spelled or positional or in_operator or bool(node.kwargs.get("inplace")) or "out" in node.kwargs


def _in_place_operators() -> list[str]:
    return ["iadd", "isub", "imul", "itruediv", "ifloordiv", "ipow", "imod", "iand", "ior", "ixor", "imatmul"]


def _convert(node: fx.Node, traced: Traced) -> bool:
    """Turn one step into its out-of-place spelling, if that has one with the same result."""
    if node.op == "call_module":
        traced.modules[str(node.target)].__dict__["inplace"] = False
        return True
    before = node.target, node.args, node.kwargs
    if node.op == "call_method":
        if not hasattr(Tensor, str(node.target)[:-1]) or node.target == "requires_grad_":
            return False
        node.target = str(node.target)[:-1]
    elif node.target in _OUT_OF_PLACE:
        node.target = _OUT_OF_PLACE[node.target]
    elif node.kwargs.get("inplace"):
        node.kwargs = {key: value for key, value in node.kwargs.items() if key != "inplace"}
    elif node.target is F.relu:
        node.args = node.args[:1]
    else:
        return False
    # An in-place step keeps its target's dtype and shape; its out-of-place spelling may promote or broadcast.
    for which, old in enumerate(variants(node)):
        args, kwargs = _loaded(node, {source: variants(source)[which] for source in node.all_input_nodes})
        new = outline(node.op, node.target, args, kwargs)
        if new.dtype != old.dtype or new.shape != old.shape:
            node.target, node.args, node.kwargs = before
            return False
    return True


def _loaded(node: fx.Node, values: dict[fx.Node, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a step, with values in place of nodes."""
    arguments: Any = fx.node.map_arg((node.args, node.kwargs), lambda item: values[item])
    return arguments


def _fresh(node: fx.Node, traced: Traced) -> bool:
    if node.op == "call_module":
        module = traced.modules[str(node.target)]
        return isinstance(module, _FRESH_MODULES) and not getattr(module, "inplace", False)
    if node.op == "call_function":
        return node.target in _FRESH_FUNCTIONS and not _writes(node, traced)
    return node.op == "call_method" and node.target in _FRESH_METHODS


def _unshared(target: fx.Node, writer: fx.Node, order: dict[fx.Node, int], traced: Traced) -> bool:
    """No other value read after `writer` shares memory with `target`."""
    alone = target.op in ("placeholder", "get_attr") or _fresh(target, traced)
    earlier = [user for user in target.users if order[user] < order[writer]]
    return alone and all(_fresh(user, traced) for user in earlier)


def _may_be_outside(target: object, traced: Traced) -> bool:
    if not isinstance(target, fx.Node):
        return True
    if target.op in ("placeholder", "get_attr"):
        return True
    return not _fresh(target, traced) and any(_may_be_outside(source, traced) for source in target.all_input_nodes)


def fold_constants(traced: Traced) -> None:
    """Compute once what depends on no input."""
    for node in list(traced.graph.nodes):
        sources = node.all_input_nodes
        if node.op not in ("call_function", "call_method") or not sources or _writes(node, traced):
            continue
        if any(source.op != "get_attr" for source in sources):
            continue
        if not node.users:
            continue
        args, kwargs = _loaded(node, {source: traced.constants[str(source.target)] for source in sources})
        call: Any = getattr(args[0], str(node.target)) if node.op == "call_method" else node.target
        value = call(*(args[1:] if node.op == "call_method" else args), **kwargs)
        if isinstance(value, Tensor):
            name = f"folded {len(traced.constants)}"
            traced.constants[name] = value.detach()
            with traced.graph.inserting_before(node):
                new = traced.graph.create_node("get_attr", name, name="constant")
            new.meta["variants"] = variants(node)
            _replace(traced, node, new)


def lower(traced: Traced, *, quick: bool) -> None:
    """Write convolutions and linear maps, modules or functions, as `Affine` steps with weights of their own."""
    for node in list(traced.graph.nodes):
        found = affine_of(node, traced, quick=quick)
        if found is not None:
            source, step = found
            with traced.graph.inserting_before(node):
                new = traced.graph.create_node("call_function", step, (source,), name=node.name)
            new.meta["variants"] = variants(node)
            _replace(traced, node, new)


def fold_norms(traced: Traced) -> None:
    """Fold evaluation batch-norm into the affine step that feeds it and nothing else."""
    for node in list(traced.graph.nodes):
        norm = _norm_of(node, traced)
        if norm is None:
            continue
        source, scale, shift = norm
        step = source.target
        if not isinstance(step, Affine) or len(source.users) > 1 or variants(source)[0].dim() < 2:
            continue
        if step.kind == "linear" and variants(source)[0].dim() != 2:
            continue
        source.target = step.scaled(scale, shift)
        node.replace_all_uses_with(source)
        traced.graph.erase_node(node)


def _norm_of(node: fx.Node, traced: Traced) -> tuple[fx.Node, Tensor, Tensor] | None:
    """The input, scale and shift of an evaluation batch-norm, in float64."""
    if node.op == "call_module" and isinstance(traced.modules[str(node.target)], _NORMS):
        module: Any = traced.modules[str(node.target)]
        source: Any = node.args[0] if node.args else node.kwargs.get("input")
        statistics = (module.running_mean, module.running_var, module.weight, module.bias, module.eps)
    elif node.op == "call_function" and node.target is F.batch_norm:
        names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
        given = dict(zip(names, node.args, strict=False)) | node.kwargs
        tensors: list[Any] = [given.get(name) for name in names[1:5]]
        if given.get("training") or any(item is not None and not _constant(item) for item in tensors):
            return None
        source = given["input"]
        loaded = [None if item is None else traced.constants[str(item.target)] for item in tensors]
        statistics = (loaded[0], loaded[1], loaded[2], loaded[3], given.get("eps", 1e-5))
    else:
        return None
    mean, variance, weight, bias, eps = statistics
    if mean is None or variance is None or not isinstance(source, fx.Node):
        return None
    scale = (variance.double() + eps).rsqrt() * (1.0 if weight is None else weight.double())
    shift = (0.0 if bias is None else bias.double()) - mean.double() * scale
    return source, scale.detach(), shift.detach()


def _constant(item: object) -> bool:
    return isinstance(item, fx.Node) and item.op == "get_attr"


def fuse_epilogues(traced: Traced, *, additions: bool) -> None:
    """Let an affine step also add the residual and take the ReLU, where its own result is used for nothing else.

    `additions`: the graph has no in-place step, so that an affine step may move down to where its sum is taken.
    """
    order = {node: index for index, node in enumerate(traced.graph.nodes)}
    for node in list(traced.graph.nodes):
        if additions and node.op in ("call_function", "call_method") and _is_plain_sum(node):
            _join_sum(traced, node, order)
    for node in list(traced.graph.nodes):
        if _is_relu(node, traced):
            source = node.args[0] if node.args else node.kwargs.get("input")
            if not isinstance(source, fx.Node) or len(source.users) > 1:
                continue
            if isinstance(source.target, Affine) and not source.target.relu:
                source.target = source.target.changed(relu=True)
                node.replace_all_uses_with(source)
                traced.graph.erase_node(node)


def _join_sum(traced: Traced, node: fx.Node, order: dict[fx.Node, int]) -> None:
    shape = [value.shape for value in variants(node)], variants(node)[0].dtype
    both = [item for item in node.args if isinstance(item, fx.Node)]
    ready = [item for item in both if isinstance(item.target, Affine) and len(item.users) == 1 and len(item.args) == 1]
    alike = all(([value.shape for value in variants(item)], variants(item)[0].dtype) == shape for item in both)
    if not ready or len(both) < 2 or both[0] is both[1] or not alike:
        return
    chosen = max(ready, key=lambda item: order.get(item, -1))
    other = both[0] if chosen is both[1] else both[1]
    with traced.graph.inserting_before(node):
        new = traced.graph.create_node("call_function", chosen.target, (chosen.args[0], other), name=node.name)
    new.meta["variants"] = variants(node)
    order[new] = order[node]
    _replace(traced, node, new)
    traced.graph.erase_node(chosen)


def _is_plain_sum(node: fx.Node) -> bool:
    named = node.target in _ADDITIONS or (node.op == "call_method" and node.target == "add")
    return named and len(node.args) == 2 and not node.kwargs and isinstance(variants(node)[0], Tensor)


def _is_relu(node: fx.Node, traced: Traced) -> bool:
    if node.op == "call_module":
        module: Any = traced.modules[str(node.target)]
        return isinstance(module, nn.ReLU) and not module.inplace
    if node.op == "call_method":
        return node.target == "relu"
    return node.op == "call_function" and node.target in _RELUS and not _writes(node, traced)


def _views_to_reshapes(traced: Traced, pure: bool) -> None:
    """A view needs one memory layout; a reshape has the same values in any."""
    for node in traced.graph.nodes:
        if node.op == "call_method" and node.target == "view" and not isinstance(node.args[1], torch.dtype):
            if not pure:
                raise Refused("it writes through a view")
            node.target = "reshape"


def _replace(traced: Traced, old: fx.Node, new: fx.Node) -> None:
    old.replace_all_uses_with(new)
    for nodes in traced.places.values():
        nodes[:] = [new if node is old else node for node in nodes]
    traced.graph.erase_node(old)
