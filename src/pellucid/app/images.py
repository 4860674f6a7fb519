"""Pictures out of files that nobody vouches for: the header is judged before any pixel is unpacked."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from pellucid.app import files
from pellucid.contract.errors import InputError, UnsafeFileError

FORMATS = ("PNG", "JPEG", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MOST_PIXELS = 50_000_000
LARGEST = 256 << 20


def read(path: Path, size: tuple[int, int], channels: int, *, most_pixels: int = MOST_PIXELS) -> Tensor:
    """One picture as (1, channels, height, width) in [0, 1]: its largest centred part of the right shape, resampled.

    A picture is turned upright as its own data say; transparent parts become white.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = files.existing(path, LARGEST)
    try:
        with path.open("rb") as file:
            picture = _opened(file)
            if picture.width * picture.height > most_pixels:
                raise _too_large(path, f"{picture.width} × {picture.height} pixels", most_pixels)
            picture = ImageOps.exif_transpose(picture)
            picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    except Image.DecompressionBombError:
        raise _too_large(path, "a larger one", most_pixels) from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, UnsafeFileError):
            raise
        raise InputError(f"{path.name} must be a whole PNG, JPEG or WebP picture", got=str(error)[:120]) from error
    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    flat = picture.convert("L" if channels == 1 else "RGB")
    fitted = ImageOps.fit(flat, (size[1], size[0]), Image.Resampling.BICUBIC)
    values = torch.from_numpy(np.asarray(fitted, dtype=np.float32) / 255.0)
    return values[None, None] if channels == 1 else values.permute(2, 0, 1)[None].contiguous()


def _opened(file: IO[bytes]) -> Any:
    """A picture of which only the header was read."""
    from PIL import Image

    with warnings.catch_warnings():
        # Pillow warns from 89 million pixels on and refuses from 179 million on; ours is the stricter rule.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(file, formats=FORMATS)


def _too_large(path: Path, got: str, most: int) -> UnsafeFileError:
    return UnsafeFileError(f"{path.name} must have at most {most // 1_000_000} million pixels", got=got)
