"""What a decision rests on is measured, what would change it changes it, and a planted wrong label is found."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pellucid as px
from pellucid.engine.data import Rows
from pellucid.engine.inputs import as_inputs
from pellucid.report.decision import borrowed, causes
from pellucid.report.evidence import evidence
from report.deciding import reported
from show.reading import Page


class Sum(torch.nn.Module):
    """Class 1 scores the weighted sum of the columns more than class 0, which scores ten."""

    def __init__(self, *weights: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(weights))

    def forward(self, x: Tensor) -> Tensor:
        score = (x.flatten(1) * self.weight).sum(1)
        return torch.stack([torch.full_like(score, 10.0), 10 + score], 1)


def sigmoid(score: float) -> float:
    return float(torch.sigmoid(torch.tensor(score)))


def test_each_fragment_rests_on_a_region_whose_removal_lowers_the_decision() -> None:
    subject = px.Subject(Sum(2.0, 1.0, 0.0, -1.0).eval(), classes=("no", "yes"), features=("a", "b", "c", "d"))
    row = torch.tensor([[1.0, 1.0, 1.0, 1.0]])
    # The map points to c as well, which the network never reads.
    found = evidence(subject, row, torch.tensor([[2.0, 1.0, 5.0, -1.0]]), 1)
    assert found is not None
    assert [r.name for r in found.regions] == ["a = 1", "b = 1"]
    assert [r.name for r in found.unsupported] == ["c = 1"]
    assert found.share == pytest.approx(sigmoid(2.0))
    assert [r.without for r in found.regions] == pytest.approx([sigmoid(0.0), sigmoid(1.0)])
    assert [r.weight for r in found.regions] == pytest.approx([2 / 8, 1 / 8])
    for text, region in found.fragments(subject.classes):
        without = row * ~region.mask
        share = float(subject.model(without).softmax(1)[0, 1].detach())
        assert share == pytest.approx(region.without)
        assert share < found.share
        assert region.name in text
    said = " ".join(found.sentences(subject.classes))
    assert "“yes” rests on a = 1 (without it, “yes” falls from 88 % to 50 %) and b = 1" in said
    assert "also points to c = 1, but erasing that hardly lowers “yes”" in said


def test_named_parts_of_a_picture_are_named() -> None:
    glove, ball = torch.zeros(2, 4, 5, dtype=torch.bool)
    glove[:2], ball[3, 3:] = True, True
    weights = (glove.float() * 0.1 + ball.float()).flatten().tolist()
    subject = px.Subject(Sum(*weights).eval(), classes=("empty", "player"))
    row = torch.ones(1, 1, 4, 5)
    values = torch.tensor(weights).reshape(1, 1, 4, 5)
    found = evidence(subject, row, values, 1, {"glove": glove, "ball <b>": ball, "hat": torch.zeros_like(ball)})
    assert found is not None
    assert [r.name for r in found.regions] == ["the part “ball <b>”", "the part “glove”"]
    assert [r.without for r in found.regions] == pytest.approx([sigmoid(1.0), sigmoid(2.0)])
    ninths = evidence(subject, row, values, 1)
    assert ninths is not None
    # Of the ninths, the one with the ball takes two from the score; those with the glove three tenths at most.
    assert [(r.name, r.without) for r in ninths.regions] == [("the lower right", pytest.approx(sigmoid(1.0)))]


def test_a_map_that_points_nowhere_supports_no_statement() -> None:
    subject = px.Subject(Sum(2.0, 0.0).eval())
    found = evidence(subject, torch.ones(1, 2), torch.tensor([[0.0, 1.0]]), 1)
    assert found is not None
    assert found.regions == ()
    assert found.sentences(())[0].startswith("No single part")
    assert evidence(subject, torch.ones(1, 2), torch.zeros(1, 3), 1) is None


def test_a_change_taken_from_a_known_case_changes_the_answer_and_nothing_in_it_can_be_spared() -> None:
    subject = px.Subject(Sum(1.0, 1.0, 1.0, 0.0).eval(), classes=("no", "yes"), features=("a", "b", "c", "d"))
    row = torch.tensor([[2.0, 1.0, 1.0, 5.0]])
    known = Rows(as_inputs(torch.tensor([[-1.0, 0.9, -2.0, 6.0], [3.0, 3.0, 3.0, 3.0], [9.0, 0.0, 0.0, 0.0]])), None)
    found = borrowed(subject, row, 1, known)
    assert found is not None
    assert (found.valid, found.answer, found.by) == (True, 0, "a known case")
    assert int(subject.model(found.row).argmax()) == 0
    # a and c together take it below zero, neither does alone; b and d are left as they are.
    assert [(i, a, b) for i, a, b in found.changes] == [(0, 2.0, -1.0), (2, 1.0, -2.0)]
    assert found.sentence(subject).startswith("With a = −1 instead of 2 and c = −2 instead of 1, and all else as it is")
    for i, before, _ in found.changes:
        spared = found.row.clone()
        spared[0, i] = before
        assert int(subject.model(spared).argmax()) == 1
    same = Rows(as_inputs(torch.full((3, 4), 2.0)), None)
    assert borrowed(subject, row, 1, same) is None
    assert borrowed(subject, row.reshape(1, 1, 2, 2), 1, known) is None


def planted(wrong: bool = True) -> tuple[Tensor, Tensor]:
    """Two clouds of 40 cases, 0 on the left and 1 on the right; no. 3, far inside the left one, may be labelled 1."""
    draw = torch.Generator().manual_seed(0)
    data = torch.randn(80, 2, generator=draw) * 0.5
    data[:40, 0] -= 4
    data[40:, 0] += 4
    labels = (torch.arange(80) >= 40).long()
    data[3] = torch.tensor([-4.0, 0.0])
    labels[3] = int(wrong)
    return data, labels


class Nearest(torch.nn.Module):
    """It has learnt every case by heart: the nearest one's label."""

    def __init__(self, data: Tensor, labels: Tensor) -> None:
        super().__init__()
        self.data, self.labels = torch.nn.Parameter(data), torch.nn.Buffer(labels)

    def forward(self, x: Tensor) -> Tensor:
        far = torch.cdist(x, self.data).square()
        return torch.stack([-far[:, self.labels == k].amin(1) for k in (0, 1)], 1) * 40


def test_a_planted_wrong_label_is_found_behind_a_wrong_answer(tmp_path: Path) -> None:
    data, labels = planted()
    row = torch.tensor([[-4.02, 0.01]])
    model = Nearest(data, labels).eval()
    assert int(model(row).argmax()) == 1, "the wrong label has misled the network"
    found = causes(row, 1, 0, Rows(as_inputs(data), labels))
    assert [(s.item, s.label, s.usual, s.blamed) for s in found.suspects] == [(3, 1, 0, True)]
    assert found.items[0] == 3
    assert (found.as_answered, found.as_true) == (1, 9)
    subject = px.Subject(model, classes=("left", "right"))
    text, told = report(tmp_path, subject, row, (data, labels))
    assert "No. 3 is labelled “right”, but 10 of the 10 cases nearest to it are labelled “left”" in text
    assert "it is the answer that the network gave" in text
    assert told["computed"]["cases"][0]["causes"]["suspects"][0]["item"] == 3


def report(folder: Path, subject: px.Subject, row: Tensor, data: Any, **given: Any) -> tuple[str, dict[str, Any]]:
    path = folder / "page.html"
    wanted: dict[str, Any] = {"record": True, "overwrite": True, "methods": ["vanilla-gradient"], **given}
    px.report(subject, row, labels=[0], data=data, path=path, **wanted)
    page = path.read_text().replace("\u00a0", " ")
    return re.sub(r"\s+", " ", Page(page).text), json.loads((folder / "page.json").read_bytes())


def test_right_labels_are_not_suspected() -> None:
    data, labels = planted(wrong=False)
    found = causes(torch.tensor([[-4.02, 0.01]]), 1, 0, Rows(as_inputs(data), labels))
    assert found.suspects == ()
    assert (found.as_answered, found.as_true) == (0, 10)
    assert "no wrong label was found" in " ".join(found.sentences(1, 0, ()))


def test_columns_are_near_in_units_of_their_spread() -> None:
    data, labels = planted()
    stretched = data * torch.tensor([1.0, 1000.0])
    found = causes(torch.tensor([[-4.02, 10.0]]), 1, 0, Rows(as_inputs(stretched), labels))
    assert [s.item for s in found.suspects] == [3]


def test_private_data_are_counted_and_not_shown(tmp_path: Path) -> None:
    data, labels = planted()
    row = torch.tensor([[-4.02, 0.01]])
    subject = px.Subject(Nearest(data, labels).eval(), classes=("left", "right"))
    methods = ["vanilla-gradient", "deep-nearest-neighbours"]
    text, told = report(tmp_path, subject, row, (data, labels), private=True, methods=methods)
    assert "1 label nearby may be wrong; the cases are not shown, as the data are private" in text
    assert "No. 3" not in text
    assert "deep-nearest-neighbours : it shows rows of the data, which are private" in text
    assert told["computed"]["cases"][0]["causes"] == {"near": 10, "as_answered": 1, "as_true": 9, "suspects": 1}
    assert all(change["by"] == "erasing" for change in told["computed"]["cases"][0].get("changes", ()))
    assert told["asked"]["private"] is True
    kept = (tmp_path / "page.json").read_text()
    assert not [v for v in data.double().flatten().tolist() if v not in (0.0, -4.0) and repr(v) in kept]


def test_the_log_holds_model_method_settings_and_output_of_each_explanation(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    for _ in range(2):
        _, told = reported(tmp_path, log=log)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(lines) == 2 * 4  # two methods, and the reason of two rows
    assert {"model_hash", "method", "settings", "outputs", "answers", "when", "seed", "digest"} <= lines[0].keys()
    assert [line["method"] for line in lines[:2]] == ["integrated-gradients", "smoothgrad"]
    assert lines[0]["model_hash"] == told["asked"]["model"]["hash"]
    assert lines[0]["outputs"] == told["computed"]["outputs"]["tensor"]["digest"]
    assert lines[0]["answers"] == [0, 1]
    assert lines[1]["settings"] == told["computed"]["results"][1]["settings"]
    assert (log.stat().st_mode & 0o777) == 0o600
    link = tmp_path / "link.jsonl"
    link.symlink_to(log)
    before = log.read_bytes()
    with pytest.raises(px.contract.errors.InputError, match="'log'"):
        reported(tmp_path, log=link)
    assert log.read_bytes() == before


def test_named_parts_stand_on_the_page_and_are_replayed(tmp_path: Path) -> None:
    ball = torch.zeros(1, 4, 5, dtype=torch.bool)
    ball[0, 3, 3:] = True
    subject = px.Subject(Sum(*ball.float().flatten().tolist()).eval(), classes=("empty", "player"))
    rows, page = torch.ones(1, 1, 4, 5), tmp_path / "page.html"
    px.report(subject, rows, ["gradient-x-input"], parts={"ball": ball}, path=page, record=True)
    said = Page(page.read_text()).text.replace("\u00a0", " ")
    assert "“player” rests on the part “ball” (without it, “player” falls from 88 % to 50 %)" in said
    assert px.report.replay(tmp_path / "page.json", subject, rows, parts={"ball": ball}).verified
    assert not px.report.replay(tmp_path / "page.json", subject, rows, parts={"ball": ~ball}).verified
    assert not px.report.replay(tmp_path / "page.json", subject, rows).verified
    with pytest.raises(px.contract.errors.InputError, match="'parts'"):
        px.report(subject, rows, parts={"ball": ball[:, :2]}, path=tmp_path / "other.html")
