"""The demonstration is true: its decisions are the network's own, two of them wrong at least, each error measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from pellucid import report, zoo
from pellucid.report.digits import MAPS, choose, spread
from show.reading import Page


def test_rows_are_spread_from_the_surest_to_the_least_sure() -> None:
    assert spread(torch.arange(9), 3).tolist() == [0, 4, 8]
    assert spread(torch.arange(2), 3).tolist() == [0, 1]
    shares = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]])
    chosen = choose(shares, torch.tensor([0, 0, 0, 1]))
    assert chosen.tolist() == [2, 3, 1, 0]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("demo") / "demo.html"
    assert report.demo(path, progress=False) == path
    assert path.stat().st_size < 3 << 20
    return path.read_text(encoding="utf-8").replace("\u00a0", " ")


def test_the_decisions_are_the_networks_own_and_two_are_wrong(demo: str) -> None:
    model, world = zoo.load("digits-cnn"), zoo.data("digits-cnn")
    inputs, labels = world.test
    with torch.no_grad():
        said = model(inputs).argmax(1)
    wrong = [(str(int(a)), str(int(b))) for a, b in zip(said, labels, strict=True) if a != b]
    shown = re.findall(r"<h3>Case \d+: read as “(\d)”, but it is “(\d)”</h3>", demo)
    assert len(shown) >= 2
    assert set(shown) <= set(wrong)
    right = re.findall(r"<h3>Case \d+: read as “\d”, and it is</h3>", demo)
    assert right
    assert 4 <= len(shown) + len(right) <= 8
    accuracy = float((said == labels).double().mean())
    assert f"{100 * accuracy:.1f} %" in demo
    assert f"misreads {len(wrong)}." in demo


def test_maps_stand_side_by_side_with_their_claims(demo: str) -> None:
    page = Page(demo)
    cases = demo.count('<section class="block case')
    assert demo.count('<article class="panel') == cases * sum(name not in _missing(demo) for name in MAPS)
    assert demo.count("What this map can and can’t support") == demo.count('<article class="panel')
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")


def test_the_page_needs_no_one(demo: str) -> None:
    assert Page(demo).foreign == []
    assert not re.search(r"(?:src|href)=.?https?:|url\(|@import|/home/|/tmp/|/root/", demo)
    assert "CC BY 4.0" in demo
    assert "Alpaydin" in demo


def _missing(demo: str) -> str:
    found = re.search(r'id="missing".*?</section>', demo, re.DOTALL)
    return found.group(0) if found else ""


def test_the_page_names_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pellucid.report.digits.MAPS", ("vanilla-gradient", "not-written-yet"))
    monkeypatch.setattr("pellucid.report.digits.OTHERS", ())
    path = report.demo(tmp_path / "demo.html", progress=False)
    assert "not-written-yet" in _missing(Path(path).read_text())
