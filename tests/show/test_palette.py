"""Colours keep the sign: limits symmetric about zero, red for what raises, blue for what lowers."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.show import palette


def test_limits_are_symmetric_and_zero_is_the_neutral_middle() -> None:
    by = palette.scale(torch.tensor([[-1.0, 4.0]]))
    assert (by.low, by.limit) == (-4.0, 4.0)
    red, green, blue = palette.coloured(torch.zeros(1), by)[0].astype(int)
    assert max(red, green, blue) - min(red, green, blue) <= 2


def test_signs_have_their_colours() -> None:
    values = torch.tensor([[3.0, -3.0]])
    raised, lowered = palette.coloured(values, palette.scale(values))[0].astype(int)
    assert raised[0] > 150 > raised[2]
    assert lowered[2] > 150 > lowered[0]
    # The hues over photographs are the ends of the colour map, to rounding.
    assert abs(raised - palette.RED).max() <= 1
    assert abs(lowered - palette.BLUE).max() <= 1


def test_equal_sizes_get_equal_distance_from_grey() -> None:
    by = palette.scale(torch.tensor([2.0]))
    up, down, none = palette.coloured(torch.tensor([1.0, -1.0, 0.0]), by).astype(float)
    assert up[0] - none[0] > 0
    assert down[2] - none[2] > 0


def test_clipping_is_counted_and_said() -> None:
    values = torch.cat([torch.ones(990), torch.full((10,), 50.0)])
    by = palette.scale(values, 98.0)
    assert by.limit == 1.0
    assert by.clipped == 10
    assert "98th percentile" in by.note
    assert "10 values" in by.note
    assert palette.scale(torch.tensor([1.0, 2.0])).note == "no value clipped"


def test_few_values_far_from_zero_are_not_clipped_to_nothing() -> None:
    values = torch.zeros(10_000)
    values[0] = -5.0
    assert palette.scale(values).limit == 5.0


def test_nothing_but_zeros_and_not_finite_values() -> None:
    by = palette.scale(torch.zeros(4, 4))
    assert by.blank
    assert by.limit == 1.0
    assert by.note == "all values are zero"
    mixed = torch.tensor([float("nan"), float("inf"), 1.0])
    shown = palette.coloured(mixed, palette.scale(mixed))
    assert tuple(shown[0]) == tuple(shown[1]) == palette.GREY != tuple(shown[2])


def test_upsampling_gives_the_size_of_the_input_and_keeps_a_constant() -> None:
    assert palette.upsample(torch.ones(3, 4), 30, 41).shape == (30, 41)
    assert torch.allclose(palette.upsample(torch.full((2, 2), 7.0), 9, 5), torch.full((9, 5), 7.0))


def test_over_a_photograph_zero_shows_no_hue_and_the_ends_are_pure() -> None:
    photo = np.full((1, 3, 3), 100, dtype=np.uint8)
    values = torch.tensor([[0.0, 2.0, -2.0]])
    shown = palette.over(photo, values, palette.scale(values))[0]
    assert len(set(shown[0].tolist())) == 1
    assert tuple(shown[1]) == palette.RED
    assert tuple(shown[2]) == palette.BLUE


def test_png_is_enlarged_in_whole_steps_without_metadata() -> None:
    content = palette.png(np.arange(12, dtype=np.uint8).reshape(2, 2, 3), smallest=7)
    with Image.open(io.BytesIO(content)) as opened:
        assert opened.size == (8, 8)
        assert not opened.info


@pytest.mark.parametrize("value", [-1.0, -0.5, 0.0, 0.5, 1.0])
def test_token_text_stands_out_from_its_colour(value: float) -> None:
    back, ink = palette.shade(value, palette.scale(torch.tensor([1.0])))

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([luminance(back), luminance(ink)])
    assert (high + 0.05) / (low + 0.05) >= 4.5
