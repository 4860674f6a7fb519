"""The fastest way on a CPU to run one convolution with its sum and ReLU, and to take a gradient back through it.

Forward is one oneDNN call with weights stored in the order that call reads. The gradient to the input of a stride-one
convolution is a convolution with the flipped kernel, so it uses the same call. The gradient to an image of few
channels is the slow case, a convolution with too few outputs to fill a vector; there each block of pixels becomes the
channels of one output, and the channels are laid out as pixels afterwards.

The calls are internal to torch: whoever uses them compares the result with the model's first.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from pellucid.engine.plan.ops import Affine

# The stub of this internal function lacks its last argument.
_reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
_FEW = 4


class Packed:
    """A channels-last float32 convolution with an optional sum and ReLU, forward only."""

    __name__ = "convolution"
    __slots__ = ("bias", "dilation", "groups", "kernel", "padding", "post", "stride", "weight", "work")

    def __init__(self, step: Affine, shape: tuple[int, ...]) -> None:
        self.bias, self.stride, self.padding = step.bias, step.stride, step.padding
        self.dilation, self.groups = step.dilation, step.groups
        self.kernel, self.work = tuple(step.weight.shape[2:]), step.weight.numel()
        self.post = "relu" if step.relu else "none"
        packed = step.weight.to_mkldnn()
        self.weight = _reorder(packed, self.padding, self.stride, self.dilation, self.groups, shape)

    def unpadded(self) -> Packed:
        """The same on inputs that hold their padding already, with the same weights."""
        twin = copy.copy(self)
        twin.padding = (0, 0)
        return twin

    def __call__(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        settings = self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups
        run = torch.ops.mkldnn._convolution_pointwise
        if other is None:
            out: Tensor = run(x, *settings, self.post, [], "")
            return out
        after = "relu" if self.post == "relu" else None
        other = other.contiguous(memory_format=torch.channels_last)
        total: Tensor = run.binary(x, other, *settings, "add", 1.0, after, [], None)
        return total


class Backward:
    """The gradient to a convolution's input from the gradient to its output, before sum and ReLU."""

    __slots__ = ("blocks", "flipped", "step")

    def __init__(self, step: Affine, shape: tuple[int, ...]) -> None:
        self.step = step
        self.flipped: Packed | None = None
        self.blocks: _Blocks | None = None
        if step.groups > 1 or step.transposed:
            return
        if shape[1] <= _FEW and set(step.dilation) == {1}:
            self.blocks = _Blocks.fitting(step, shape)
        reach = [gap * (size - 1) for gap, size in zip(step.dilation, step.weight.shape[2:], strict=True)]
        padding = tuple(far - near for far, near in zip(reach, step.padding, strict=True))
        if self.blocks is None and set(step.stride) == {1} and min(padding) >= 0:
            mirrored = step.weight.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)
            produced = (shape[0], step.weight.shape[0], *_produced(step, shape))
            flipped = step.changed(weight=mirrored, bias=None, padding=padding, relu=False)
            self.flipped = Packed(flipped, produced)

    def __call__(self, gradient: Tensor, shape: tuple[int, ...]) -> Tensor:
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        if not torch.is_grad_enabled():
            if self.flipped is not None:
                return self.flipped(gradient)
            if self.blocks is not None:
                return self.blocks(gradient, shape)
        return input_gradient(self.step, gradient, shape)


class _Blocks:
    """Gradient to few channels: each block of `size` x `size` pixels is computed as the channels of one output."""

    __slots__ = ("convolution", "offset", "size")

    def __init__(self, convolution: Packed, size: int, offset: tuple[int, int]) -> None:
        self.convolution, self.size, self.offset = convolution, size, offset

    @classmethod
    def fitting(cls, step: Affine, shape: tuple[int, ...]) -> _Blocks | None:
        """The blocks for this step; None where they do not line up with its stride and padding."""
        if len(set(step.stride)) > 1:
            return None
        # Pixel size * m + a receives weight[k] from output j where stride * j - padding + k = size * m + a.
        stride = step.stride[0]
        outputs, channels = step.weight.shape[:2]
        size = stride if stride > 1 else 2
        axes = []
        for near, kernel, length, produced in zip(
            step.padding, step.weight.shape[2:], shape[2:], _produced(step, shape), strict=True
        ):
            first, last = math.ceil((near - kernel + 1) / stride), (size - 1 + near) // stride
            hop = size // stride
            beyond = (math.ceil(length / size) - 1) * hop + last - (produced - 1)
            around = max(-first, beyond, 0)
            if (around + first) % hop or last < first:
                return None
            axes.append((first, last, around, (around + first) // hop, hop))
        taps = [last - first + 1 for first, last, *_ in axes]
        weight = step.weight.new_zeros(channels, size, size, outputs, *taps)
        rows, columns = (_taps(axis, size, stride, step, which) for which, axis in enumerate(axes))
        for a, t, k in rows:
            for b, u, m in columns:
                weight[:, a, b, :, t, u] = step.weight[:, :, k, m].t()
        blocks = weight.reshape(-1, outputs, *taps).contiguous(memory_format=torch.channels_last)
        padding, hops = tuple(axis[2] for axis in axes), tuple(axis[4] for axis in axes)
        folded = step.changed(weight=blocks, bias=None, stride=hops, padding=padding, relu=False)
        packed = Packed(folded, (shape[0], outputs, *_produced(step, shape)))
        return cls(packed, size, (axes[0][3], axes[1][3]))

    def __call__(self, gradient: Tensor, shape: tuple[int, ...]) -> Tensor:
        top, left = self.offset
        pixels = F.pixel_shuffle(self.convolution(gradient)[:, :, top:, left:], self.size)
        return pixels[:, :, : shape[2], : shape[3]]


def _taps(axis: tuple[int, ...], size: int, stride: int, step: Affine, which: int) -> list[tuple[int, int, int]]:
    """(pixel in the block, tap of the block kernel, index in the weight) that belong together along one axis."""
    first, last = axis[0], axis[1]
    found = []
    for pixel in range(size):
        for tap in range(last - first + 1):
            index = pixel + step.padding[which] - stride * (tap + first)
            if 0 <= index < step.weight.shape[2 + which]:
                found.append((pixel, tap, index))
    return found


def _produced(step: Affine, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The height and width of the convolution's output."""
    sizes = zip(shape[2:], step.padding, step.dilation, step.weight.shape[2:], step.stride, strict=True)
    return tuple((size + 2 * pad - gap * (kernel - 1) - 1) // hop + 1 for size, pad, gap, kernel, hop in sizes)


def input_gradient(step: Affine, gradient: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The gradient to the input of a convolution, by torch's own backward; differentiable to `gradient`."""
    # The backward of a linear map reads its input's shape and layout, not its values.
    layout = torch.channels_last if step.channels_last else torch.contiguous_format
    like = torch.empty(shape, dtype=gradient.dtype, device=gradient.device, memory_format=layout)
    settings = step.stride, step.padding, step.dilation, step.transposed, step.output_padding, step.groups
    wanted = (True, False, False)
    found: Tensor = torch.ops.aten.convolution_backward(gradient, like, step.weight, None, *settings, wanted)[0]
    return found


class Joined:
    """A convolution with its sum and ReLU, forward and backward by the kernels of this file."""

    __name__ = "convolution"
    __slots__ = ("backward", "forward", "step")

    def __init__(self, step: Affine, shape: tuple[int, ...]) -> None:
        self.step, self.forward, self.backward = step, Packed(step, shape), Backward(step, shape)

    def __call__(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        result: Tensor = _Function.apply(x, other, self)
        return result


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, other: Tensor | None, joined: Joined) -> Tensor:
        out = joined.forward(x, other)
        ctx.joined, ctx.shape = joined, tuple(x.shape)
        if joined.step.relu:
            ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        if ctx.joined.step.relu:
            gradient = torch.ops.aten.threshold_backward(gradient, ctx.saved_tensors[0], 0)
        wanted, other, _ = ctx.needs_input_grad
        below = ctx.joined.backward(gradient, ctx.shape) if wanted else None
        return below, gradient if other else None, None
