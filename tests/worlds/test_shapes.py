"""The shapes world: masks against pixels, cues, label errors, words, and the same bytes everywhere."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from pellucid import worlds
from pellucid.contract.errors import InputError, MethodError
from pellucid.worlds.painting import paint
from pellucid.worlds.scene import COLOURS, KINDS, MOST_OBJECTS, PARTS, TEXTURES, Scenes
from pellucid.worlds.shapes import CONCEPTS, refuse_impossible

# Changes of these are changes of the world: raise the versions of the zoo recipes that use it, and say so.
PINNED = {
    None: "f19e4807ff2cb3bd",
    "tag": "2b2a973b9b41df53",
    "background": "0a7c62fec4840711",
}


@pytest.fixture(scope="module")
def world() -> worlds.World:
    return worlds.shapes(200, seed=5)


def changed_pixels(scenes: Scenes, anti_alias: bool = True, **fields: object) -> Tensor:
    before, _ = paint(scenes, anti_alias=anti_alias)
    after, _ = paint(dataclasses.replace(scenes, **fields), anti_alias=anti_alias)  # type: ignore[arg-type]
    return torch.from_numpy((before != after).any(axis=-1))


@pytest.mark.parametrize("cue", PINNED)
def test_bytes_are_pinned(cue: str | None) -> None:
    assert worlds.shapes(40, seed=7, spurious=cue, label_noise=0.2).fingerprint()[:16] == PINNED[cue]  # type: ignore[arg-type]


def test_rows_depend_on_seed_and_row_alone(world: worlds.World) -> None:
    assert torch.equal(worlds.shapes(30, seed=5).inputs, world.inputs[:30])
    assert not torch.equal(worlds.shapes(30, seed=6).inputs, world.inputs[:30])


@pytest.mark.parametrize("anti_alias", [True, False])
def test_recolouring_an_object_changes_its_body_alone_and_all_of_it(anti_alias: bool) -> None:
    world = worlds.shapes(200, seed=5, anti_alias=anti_alias)
    scenes, mask = world.truth["scenes"], world.truth["masks"]["main body"]
    colour = scenes.colour.copy()
    colour[:, 0] = (colour[:, 0] + 3) % len(COLOURS)
    changed = changed_pixels(scenes, anti_alias, colour=colour)
    assert not (changed & ~mask).any()
    # The faintest edge pixels may round to the same colour; without soft edges none can.
    assert (changed & mask).sum() >= (1 if not anti_alias else 0.97) * mask.sum()


@pytest.mark.parametrize("part", [part for part in PARTS if part != "body"])
def test_removing_a_part_changes_its_pixels_alone(world: worlds.World, part: str) -> None:
    scenes, mask = world.truth["scenes"], world.truth["masks"][f"main {part}"]
    parts = scenes.parts.copy()
    parts[:, 0, PARTS.index(part)] = False
    changed = changed_pixels(scenes, parts=parts)
    assert not (changed & ~mask).any()
    assert (changed & mask).sum() >= 0.97 * mask.sum() > 0


def test_retexturing_and_regrounding_stay_within_their_masks(world: worlds.World) -> None:
    scenes, masks = world.truth["scenes"], world.truth["masks"]
    assert not (changed_pixels(scenes, texture=(scenes.texture + 1) % len(TEXTURES)) & ~masks["body"]).any()
    assert not (changed_pixels(scenes, ground=(scenes.ground + 1) % 3) & ~masks["background"]).any()


def test_hard_edged_pixels_have_one_owner_each() -> None:
    masks = worlds.shapes(100, seed=5, anti_alias=False).truth["masks"]
    owned = sum(masks[name].int() for name in ("main object", "bystanders", "background"))
    assert (owned == 1).all()
    for group in ("kind", "colour", "texture"):
        assert torch.equal(sum(masks[name].int() for name in CONCEPTS[group]), masks["body"].int())
    assert torch.equal(sum(masks[name].int() for name in CONCEPTS["ground"]), masks["background"].int())


def test_masks_say_what_the_scene_says(world: worlds.World) -> None:
    scenes, masks = world.truth["scenes"], world.truth["masks"]
    assert torch.equal(masks.present("hat"), masks["hat"].flatten(1).any(dim=1))
    assert torch.equal(masks.present("main wheels"), torch.from_numpy(scenes.parts[:, 0, PARTS.index("wheels")]))
    red = ((scenes.colour == COLOURS.index("red")) & scenes.present).any(axis=1)
    assert (masks.present("red").numpy() == red).mean() > 0.97  # a small object may be hidden whole
    assert set(masks) == {name for group in CONCEPTS.values() for name in group}
    assert len(masks) == len(list(masks)) == len(set(masks))
    with pytest.raises(MethodError, match="'wings'"):
        masks["wings"]


def test_solid_colour_shows_in_the_mask() -> None:
    world = worlds.shapes(200, seed=5, anti_alias=False)
    masks = world.truth["masks"]
    pixels = world.original(world.inputs).round().permute(0, 2, 3, 1)
    red = torch.tensor([214.0, 64.0, 69.0])
    assert (pixels[masks["red"] & masks["plain"]] == red).all()
    assert not (pixels[~masks["red"]] == red).all(dim=-1).any()


def test_label_is_the_main_objects_kind_and_no_bystander_repeats_it(world: worlds.World) -> None:
    kinds = torch.from_numpy(world.truth["scenes"].kind)
    assert torch.equal(world.labels, kinds[:, 0])
    assert not (kinds[:, 1:] == kinds[:, :1]).any()
    assert world.classes == KINDS
    assert world.labels.bincount(minlength=5).min() > 20
    assert not world.truth["flipped"].any()


def test_label_errors_are_recorded_exactly_and_spare_held_out_rows() -> None:
    clean, noisy = worlds.shapes(400, seed=2), worlds.shapes(400, seed=2, label_noise=0.2)
    flipped = noisy.truth["flipped"]
    assert torch.equal(flipped, noisy.labels != clean.labels)
    assert torch.equal(noisy.truth["true_labels"], clean.labels)
    assert torch.equal(noisy.inputs, clean.inputs)
    assert torch.equal(noisy.test_rows, clean.test_rows)
    assert not flipped[noisy.test_rows].any()
    assert flipped[noisy.train_rows].double().mean() == pytest.approx(0.2, abs=5 * (0.16 / 300) ** 0.5)


@pytest.mark.parametrize("cue", ["tag", "background"])
def test_cue_shows_in_its_mask_alone_and_agrees_as_often_as_asked(cue: str) -> None:
    clean = worlds.shapes(400, seed=2)
    cued = worlds.shapes(400, seed=2, spurious=cue, spurious_probability=0.8)  # type: ignore[arg-type]
    mask = cued.truth["masks"]["cue"]
    changed = (clean.inputs != cued.inputs).any(dim=1)
    assert not (changed & ~mask).any()
    assert mask.flatten(1).any(dim=1).all()
    assert torch.equal(clean.labels, cued.labels)
    agrees = (cued.truth["cue"] == cued.labels).double().mean()
    assert agrees == pytest.approx(0.8, abs=5 * (0.16 / 400) ** 0.5)
    assert (clean.truth["cue"] == -1).all()
    assert not clean.truth["masks"]["cue"].any()


def test_words_name_what_is_there(world: worlds.World) -> None:
    scenes, masks = world.truth["scenes"], world.truth["masks"]
    for row in range(40):
        kind, colour = KINDS[scenes.kind[row, 0]], COLOURS[scenes.colour[row, 0]]
        assert f"{colour} {kind}" in world.truth["captions"][row]
        assert world.truth["reasons"][row].startswith(f"It is a {kind} because")
        answers = {question.question: question for question in world.truth["questions"][row]}
        assert answers["What is the largest object?"].answer == kind
        assert answers[f"What colour is the {kind}?"].answer == colour
        for question in answers.values():
            assert masks[question.evidence][row].any()
        count = int(scenes.present[row].sum())
        assert answers["How many objects are there?"].answer == ("no", "one", "two", "three")[count]
        assert world.truth["captions"][row].count("small") == count - 1
    assert 1 <= scenes.present.sum(axis=1).min() <= scenes.present.sum(axis=1).max() == MOST_OBJECTS


def test_main_object_is_largest_and_inside(world: worlds.World) -> None:
    scenes = world.truth["scenes"]
    assert (scenes.radius[:, :1] > 1.5 * scenes.radius[:, 1:]).all()
    for size in (24, 48):
        masks = worlds.shapes(50, seed=1, size=size).truth["masks"]
        assert masks["main body"].shape == (50, size, size)
        body = masks["main body"]
        assert not body[:, 0].any()
        assert not body[:, :, -1].any()


def test_no_global_generator_is_touched() -> None:
    before_numpy, before_torch = np.random.get_state()[1].copy(), torch.random.get_rng_state()  # type: ignore[index]
    worlds.shapes(10)
    worlds.tabular(10)
    assert np.array_equal(before_numpy, np.random.get_state()[1])  # type: ignore[index]
    assert torch.equal(before_torch, torch.random.get_rng_state())


def test_pickles(world: worlds.World) -> None:
    again = pickle.loads(pickle.dumps(world))
    assert torch.equal(again.truth["masks"]["stem"], world.truth["masks"]["stem"])


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"n": 0}, "n=0"),
        ({"size": 8}, "Got 8"),
        ({"label_noise": 1.5}, "label_noise.*1.5"),
        ({"spurious_probability": -0.1}, "spurious_probability.*-0.1"),
        ({"seed": -1}, "seed.*-1"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        worlds.shapes(**{"n": 4, **settings})  # type: ignore[arg-type]


def test_unknown_cue_is_named() -> None:
    with pytest.raises(InputError, match="'frame'"):
        refuse_impossible(4, 32, "frame", 0.9, 0.0)
