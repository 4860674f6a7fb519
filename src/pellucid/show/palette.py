"""Colours that keep the sign: red raises the score, blue lowers it, and zero is always the neutral middle."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

RED, BLUE = (180, 4, 38), (59, 76, 192)
GREY = (150, 150, 150)
SIGNED, SIZED = "coolwarm", "Purples"


@dataclass(frozen=True)
class Scale:
    """How values become colours: full colour at ±`limit`, which `clipped` values exceed.

    `signed`: blue–grey–red; otherwise pale to dark. `blank`: all values are zero.
    """

    limit: float
    clipped: int
    percentile: float
    signed: bool = True
    blank: bool = False

    @property
    def low(self) -> float:
        """The value of the first colour: minus the limit, so that zero is the middle; zero where there is no sign."""
        return -self.limit if self.signed else 0.0

    @property
    def note(self) -> str:
        """What was clipped, for the caption."""
        if self.blank:
            return "all values are zero"
        if not self.clipped:
            return "no value clipped"
        noun = "value" if self.clipped == 1 else "values"
        return f"{self.clipped} {noun} beyond the {self.percentile:g}th percentile drawn in full colour"


def scale(values: Tensor, clip: float = 99.0, *, signed: bool = True) -> Scale:
    """Limits symmetric about zero: the `clip`-th percentile of the values' sizes, or the largest where that is zero."""
    sizes = finite(values).abs().flatten().double().numpy()
    top = float(sizes.max(initial=0.0))
    limit = float(np.quantile(sizes, clip / 100, method="higher")) if sizes.size else 0.0
    limit = limit if limit > 0 else top
    if limit <= 0:
        return Scale(1.0, 0, clip, signed, blank=True)
    return Scale(limit, int((sizes > limit).sum()), clip, signed)


def finite(values: Tensor) -> Tensor:
    """On the CPU, with values that are not finite set to zero."""
    return torch.nan_to_num(values.detach().cpu().float(), nan=0.0, posinf=0.0, neginf=0.0)


def coloured(values: Tensor, by: Scale) -> np.ndarray:
    """Red, green, blue bytes (..., 3) of the values; grey where a value is not finite."""
    unit = (finite(values).numpy() - by.low) / (by.limit - by.low)
    out = colormaps[SIGNED if by.signed else SIZED](np.clip(unit, 0, 1), bytes=True)[..., :3].copy()
    out[~torch.isfinite(values.detach().cpu()).numpy()] = GREY
    return out


def over(photograph: np.ndarray, values: Tensor, by: Scale, strength: float = 0.55) -> np.ndarray:
    """The two end hues laid over a photograph faded to `strength`, more opaque the larger the value: (height, width, 3)."""
    size = np.clip(finite(values).abs().numpy() / by.limit, 0, 1)[..., None]
    hue = np.where(finite(values).numpy()[..., None] >= 0, np.array(RED), np.array(BLUE))
    grey = photograph.astype(np.float64).mean(-1, keepdims=True)
    faded = 255 - (255 - (0.5 * photograph + 0.5 * grey)) * strength
    return np.clip(np.rint((1 - size) * faded + size * hue), 0, 255).astype(np.uint8)


def picture(image: Tensor) -> np.ndarray:
    """An input (channels, height, width) as red, green, blue bytes; values outside [0, 1] are stretched to fit."""
    pixels = finite(image)
    pixels = pixels[:3] if pixels.shape[0] >= 3 else pixels[:1].expand(3, -1, -1)
    low, high = float(pixels.min()), float(pixels.max())
    if low < -1e-6 or high > 1 + 1e-6:
        pixels = (pixels - low) / (high - low if high > low else 1.0)
    return np.rint(pixels.clamp(0, 1).permute(1, 2, 0).numpy() * 255).astype(np.uint8)


def upsample(heat: Tensor, height: int, width: int) -> Tensor:
    """A coarse map (h, w) at the size of the input, bilinear. For drawing alone: results keep their own size."""
    whole = heat[None, None].detach().cpu().float()
    return torch.nn.functional.interpolate(whole, (height, width), mode="bilinear", align_corners=False)[0, 0]


def png(pixels: np.ndarray, *, smallest: int = 0) -> bytes:
    """A PNG file without metadata; small pictures are enlarged in whole steps to at least `smallest` pixels."""
    step = max(1, -(-smallest // max(1, min(pixels.shape[:2]))))
    pixels = np.ascontiguousarray(pixels.repeat(step, 0).repeat(step, 1))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


def data_uri(content: bytes, kind: str = "image/png") -> str:
    """The bytes as an address that needs no request."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def shade(value: float, by: Scale) -> tuple[str, str]:
    """Background and text colours, as #rrggbb, of a token: text is black or white, whichever is easier to read."""
    red, green, blue = (int(c) for c in coloured(torch.tensor([value]), by)[0])
    parts = [c / 255 for c in (red, green, blue)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return f"#{red:02x}{green:02x}{blue:02x}", "#000000" if luminance > 0.179 else "#ffffff"


def hexadecimal(colour: tuple[int, int, int]) -> str:
    """#rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*colour)
