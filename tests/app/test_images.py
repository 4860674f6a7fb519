"""Pictures: judged by their headers, and read as the eye sees them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from pellucid.app import images
from pellucid.contract.errors import InputError, UnsafeFileError


def saved(path: Path, picture: Image.Image, **how: object) -> Path:
    picture.save(path, **how)
    return path


@pytest.mark.parametrize("side", [13_350, 20_000])
def test_a_picture_of_many_pixels_is_refused_by_its_header(
    side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """178 million pixels, about where Pillow begins to refuse, and 400 million, in a file of some kilobytes."""
    path = saved(tmp_path / "bomb.png", Image.new("1", (side, side)))
    assert path.stat().st_size < 100_000

    def load(*_: object) -> None:
        raise AssertionError("a pixel was unpacked")

    monkeypatch.setattr(Image.Image, "load", load)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    started = time.perf_counter()
    with pytest.raises(UnsafeFileError, match="at most 50 million pixels"):
        images.read(path, (8, 8), 1)
    assert time.perf_counter() - started < 1  # a tenth of a second, where nothing else runs


def test_the_limit_is_exact(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.new("L", (10, 10)))
    assert images.read(path, (10, 10), 1, most_pixels=100).shape == (1, 1, 10, 10)
    with pytest.raises(UnsafeFileError):
        images.read(path, (10, 10), 1, most_pixels=99)


def test_pixels_come_as_channels_rows_and_columns(tmp_path: Path) -> None:
    picture = Image.new("RGB", (3, 2))
    picture.putpixel((2, 0), (255, 0, 51))
    found = images.read(saved(tmp_path / "a.png", picture), (2, 3), 3)
    expected = torch.zeros(1, 3, 2, 3)
    expected[0, :, 0, 2] = torch.tensor([1.0, 0.0, 0.2])
    assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_the_three_formats_are_read(kind: str, tmp_path: Path) -> None:
    found = images.read(saved(tmp_path / f"a.{kind}", Image.new("RGB", (64, 32), (200, 200, 200))), (16, 16), 3)
    assert found.shape == (1, 3, 16, 16)
    assert torch.allclose(found, torch.tensor(200 / 255), atol=0.01)


def test_a_wide_picture_gives_its_middle(tmp_path: Path) -> None:
    picture = Image.new("L", (30, 10), 0)
    picture.paste(255, (10, 0, 20, 10))
    assert bool((images.read(saved(tmp_path / "a.png", picture), (10, 10), 1) == 1).all())


def test_transparent_parts_are_white(tmp_path: Path) -> None:
    found = images.read(saved(tmp_path / "a.png", Image.new("RGBA", (4, 4), (255, 0, 0, 0))), (4, 4), 3)
    assert bool((found == 1).all())


def test_a_turned_photograph_is_set_upright(tmp_path: Path) -> None:
    picture = Image.new("L", (8, 8), 0)
    picture.paste(255, (0, 0, 8, 4))  # bright above, stored turned by 180 degrees
    turned = Image.Exif()
    turned[0x0112] = 3
    found = images.read(saved(tmp_path / "a.png", picture, exif=turned), (8, 8), 1)
    assert found[0, 0, 0, 0] == 0
    assert found[0, 0, 7, 7] == 1


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF"])
def test_other_formats_are_refused_whatever_their_name(kind: str, tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png", format=kind)
    with pytest.raises(InputError, match="PNG, JPEG or WebP"):
        images.read(tmp_path / "a.png", (4, 4), 1)


def test_a_cut_off_picture_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", Image.effect_noise((64, 64), 50))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match="whole PNG, JPEG or WebP"):
        images.read(path, (8, 8), 1)
