"""Which kinds of operation are there, and what can each send back?

Families are named by aten operation, in-place or not: data movement, linear, weighted (linear with parameters),
curved (one nonlinearity per element), norms, products, softmax. A table gives a rule to each family.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pellucid.engine.rules.ledger import LEAST
from pellucid.engine.rules.record import Op
from pellucid.engine.rules.walk import WEIGHTED, Rule


def words(text: str) -> frozenset[str]:
    """The set of the words of a text."""
    return frozenset(text.split())


ROUTING = words(
    "view _unsafe_view reshape _reshape_alias t transpose permute slice select expand expand_as clone _to_copy alias "
    "unsqueeze squeeze diagonal unfold cat stack split split_with_sizes unsafe_split unsafe_split_with_sizes unbind "
    "unsafe_chunk index index_select gather take_along_dim as_strided flip roll rot90 constant_pad_nd repeat "
    "reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d im2col pixel_shuffle pixel_unshuffle copy "
    "masked_fill masked_scatter where maximum minimum fmax fmin max min amax amin slice_scatter select_scatter "
    "index_put _index_put_impl scatter index_copy index_fill fill zero lift_fresh native_dropout tril triu sort topk "
    "max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool2d adaptive_max_pool3d "
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d channel_shuffle _unsafe_index contiguous embedding "
    "_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d fractional_max_pool2d kthvalue "
    "median aminmax cummax cummin diag_embed nan_to_num"
)
AVERAGING = words(
    "mean sum avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d cumsum upsample_linear1d "
    "upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d index_add scatter_add col2im grid_sampler_2d "
    "_upsample_bilinear2d_aa _upsample_bicubic2d_aa nansum"
)
LINEAR = AVERAGING | words("add sub rsub neg") | WEIGHTED
BATCH_NORM = words("native_batch_norm _native_batch_norm_legit_no_training _native_batch_norm_legit cudnn_batch_norm")
CURVED = words(
    "relu gelu silu tanh sigmoid exp clamp clamp_min clamp_max hardtanh leaky_relu elu selu celu pow sqrt rsqrt square "
    "threshold log log1p softplus hardswish hardsigmoid mish reciprocal erf abs log_sigmoid_forward sin cos prelu "
    "_prelu_kernel expm1 rrelu_with_noise"
)
NORMS = words("native_layer_norm native_group_norm _fused_rms_norm")
SOFTMAX = words("_softmax _safe_softmax")
STATISTICS = words("_log_softmax logsumexp logaddexp linalg_vector_norm norm var var_mean std std_mean prod")
COMPOSED = words("addcmul addcdiv lerp glu hypot addr addbmm _trilinear sign exp2 log2 log10 _embedding_bag")
PRODUCTS = words("mul div")
MATRIX_PRODUCTS = words("mm bmm baddbmm addmm mv addmv dot")
MASKABLE = words("mul where masked_fill index_put _index_put_impl")
SUMMED = words("addmm baddbmm addmv")
RECTIFIERS = words("relu clamp clamp_min threshold maximum fmax leaky_relu hardtanh") | MASKABLE
GATES = {"_softmax": 3, "_safe_softmax": 3, "sigmoid": 2, "rsqrt": 2, "sqrt": 2, "reciprocal": 2, "tanh": 1}


def rectified(op: Op) -> int | None:
    """The leaf x when the operation is relu(x), in whatever spelling; else None.

    Masks count by provenance and value: the mask was made by comparing this very x with zero, and the result equals
    relu(x). A mask made from anything else is a gate, even where the values agree on this batch.
    """
    if op.name not in RECTIFIERS or len(op.edges) != 1:
        return None
    x = next(iter(op.edges))
    if op.name in ("maximum", "fmax"):
        other = op.leaves[1 - x]
        return x if 1 - x not in op.links and not other.any() else None
    if op.name in MASKABLE:
        return x if op.gated == x and _equal(op.outs[0], op.leaves[x].clamp_min(0)) else None
    return x if x == 0 and _bounded_by_zero(op.name, op.leaves[1:]) else None


def _bounded_by_zero(name: str, settings: list[Any]) -> bool:
    lower = settings[0] if settings else None
    upper = settings[1] if len(settings) > 1 else None
    if name == "relu":
        return True
    if name == "clamp":
        return _zero(lower) and upper is None
    if name == "hardtanh":
        return _zero(lower) and upper == float("inf")
    if name == "threshold":
        return _zero(lower) and _zero(upper)
    return name in ("clamp_min", "leaky_relu") and _zero(lower)


def _equal(got: Tensor, want: Tensor) -> bool:
    """Equal where numbers: one row that is not finite must not change what the others get."""
    return got.shape == want.shape and bool(((got == want) | got.isnan()).all())


def _zero(bound: Any) -> bool:
    return not bound.any() if isinstance(bound, Tensor) else bound == 0 and bound is not None


# --- rules ---


def stabilised(z: Tensor, epsilon: float) -> Tensor:
    """z moved away from zero by epsilon, zero itself upwards."""
    return z + _signed(z, epsilon)


def _signed(z: Tensor, epsilon: float) -> Tensor:
    above = torch.tensor(epsilon, dtype=z.dtype, device=z.device)
    return torch.where(z >= 0, above, -above)


def ratio(relevance: Tensor, z: Tensor, stabiliser: float) -> Tensor:
    """relevance / z with z moved away from zero; without a stabiliser, nothing where z is zero."""
    return relevance / stabilised(z, stabiliser) if stabiliser else torch.where(z == 0, 0.0, relevance / z)


def kept(relevance: Tensor, factor: Tensor, z: Tensor, stabiliser: float) -> Tensor:
    """What the stabiliser keeps for itself, given factor = ratio(relevance, z, stabiliser)."""
    return factor * _signed(z, stabiliser) if stabiliser else torch.where(z == 0, relevance, 0.0)


def _passing(op: Op, grads: list[Any]) -> dict[int, Any]:
    i = min(op.edges)  # a norm's scale may depend on the input too, and counts as constant
    return {i: grads[0].sum_to_size(op.leaves[i].shape)}


passing = Rule("pass", _passing, linear=True)
blocked = Rule("constant", lambda op, grads: {}, linear=True, absorbs="gate")
folded = Rule("folded into the operation before", _passing, linear=True)


def epsilon(stabiliser: float = 1e-6, share: float = 1.0, absorbs: str = "bias", least: bool = False) -> Rule:
    """Each leaf gets its part of the output: x * d(output)/dx * relevance / output, times `share`.

    Biases and other constant operands keep their parts, which the ledger shows as `absorbs`, and the stabiliser a
    little. With `least`, the size of each denominator is told as well.
    """

    def apply(op: Op, grads: list[Any]) -> dict[Any, Any]:
        pairs = list(zip(grads, op.outs, strict=False))
        factors = [None if g is None else ratio(g, z, stabiliser) for g, z in pairs]
        if op.name == "add" and len(op.leaves) == 2:
            back = {i: factors[0].sum_to_size(op.leaves[i].shape) for i in op.edges}  # type: ignore[union-attr]
        else:
            back = op.vjp(factors, list(op.edges))
        found: dict[Any, Any] = {
            i: op.leaves[i] * g if share == 1.0 else share * op.leaves[i] * g for i, g in back.items()
        }
        if grads[0] is not None and factors[0] is not None:
            found["stabiliser"] = kept(grads[0], factors[0], op.outs[0], stabiliser)
            if least:
                found[LEAST] = torch.where(grads[0] == 0, torch.inf, op.outs[0].abs())
        return found

    return Rule("epsilon" if share == 1.0 else f"epsilon × {share}", apply, absorbs=absorbs)


def gate_rank(op: Op, leaf: int) -> int:
    """How much a factor looks like a gate: softmax, then sigmoid and normalisers, then tanh, then signals."""
    source = op.producers.get(leaf)
    while source is not None and len(source.edges) == 1 and source.name in ROUTING | words("add mul div"):
        source = source.producers[next(iter(source.edges))]
    return GATES.get(source.name, 0) if source is not None else 0


def product(stabiliser: float = 1e-6, least: bool = False) -> Rule:
    """Gate times signal: all to the signal. Two signals: half and half. A constant factor: epsilon.

    A divisor is a gate.
    """
    whole, half = epsilon(stabiliser, least=least), epsilon(stabiliser, 0.5, least=least)

    def apply(op: Op, grads: list[Any]) -> dict[Any, Any]:
        if len(op.edges) == 1:
            return {"gate": grads[0]} if op.name == "div" and 1 in op.edges else whole.apply(op, grads)
        if op.name == "div":
            signal = 0
        else:
            first, second = list(op.edges)[-2:]
            ranks = gate_rank(op, first), gate_rank(op, second)
            if ranks[0] == ranks[1]:
                back = half.apply(op, grads)
                if op.name in SUMMED and 0 in back:
                    back[0] = 2 * back[0]  # the operand that is added is no factor
                return back
            signal = first if ranks[0] < ranks[1] else second
        wanted = [signal, *(i for i in op.edges if i == 0 and op.name in SUMMED)]
        factor = ratio(grads[0], op.outs[0], stabiliser)
        found: dict[Any, Any] = {i: op.leaves[i] * g for i, g in op.vjp([factor], wanted).items()}
        found["stabiliser"] = kept(grads[0], factor, op.outs[0], stabiliser)
        return found

    return Rule("product", apply, absorbs="bias")
