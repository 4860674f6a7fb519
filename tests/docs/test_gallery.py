"""The gallery names figures that exist and leaves no family of attribution methods unmentioned."""

import importlib
import json
import re
from pathlib import Path

import pytest

from pellucid.contract import registered

DOCS = Path(__file__).parents[2] / "docs"
LARGEST, ALTOGETHER = 40_000, 900_000
TABLES = (
    ("lime", "lime-breast-cancer", "bars"),
    ("shapley", "shapley-diabetes", "rank correlation of column and value"),
)


@pytest.fixture(scope="module")
def page():
    return (DOCS / "gallery" / "index.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def figures(page):
    return [(DOCS / "gallery" / path).resolve() for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page)]


def test_every_figure_exists_and_is_small(figures):
    assert len(figures) == len(set(figures)) >= 10
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in figures)
    assert all(path.stat().st_size <= LARGEST for path in figures)
    assert sum(path.stat().st_size for path in figures) <= ALTOGETHER


def test_no_figure_is_left_over(figures):
    assert set((DOCS / "figures" / "gallery").resolve().glob("*")) == set(figures)


def test_every_figure_has_its_sentence_under_it(page):
    paragraphs = [p for p in page.split("\n\n") if p.strip()]
    after = [paragraphs[k + 1] for k, p in enumerate(paragraphs) if p.startswith("![")]
    assert all(re.match(r"[A-Z].*\.$", sentence.strip()) for sentence in after)


def test_every_family_of_attributions_has_an_entry(page):
    """A family is a module of `pellucid.attribution`; its methods are drawn, or listed as not drawn with the reason."""
    shown = set(re.findall(r"methods/([\w-]+)\.md", page)) | set(
        re.findall(r"[\w-]+", page.partition("## Not drawn")[2])
    )
    families: dict[str, set[str]] = {}
    for name, method in registered().items():
        if method.__module__.startswith("pellucid.attribution."):
            families.setdefault(method.__module__, set()).add(name)
    assert len(families) > 10
    assert {module for module, names in families.items() if not names & shown} == set()


def test_linked_methods_are_in_the_catalogue_and_the_page_in_the_index(page):
    linked = set(re.findall(r"methods/([\w-]+)\.md", page))
    assert linked
    assert linked <= set(registered())
    assert "\ngallery/index\n" in (DOCS / "index.md").read_text(encoding="utf-8")


def test_the_numbers_kept_are_those_of_the_figures(page, figures):
    kept = json.loads((DOCS / "gallery" / "numbers.json").read_text(encoding="utf-8"))
    assert set(kept) == {path.stem for path in figures}
    assert all(f"\n{record['sentence']}\n" in page for record in kept.values())


@pytest.mark.slow
@pytest.mark.parametrize(("draw", "name", "told"), TABLES)
def test_the_survey_s_illustrations_say_the_same_today(draw, name, told, monkeypatch):
    """Drawn anew, the claims asserted on the way hold, and the numbers are those that are kept."""
    monkeypatch.syspath_prepend(DOCS)
    drawn = getattr(importlib.import_module("gallery_tables"), draw)()
    kept = json.loads((DOCS / "gallery" / "numbers.json").read_text(encoding="utf-8"))[name]
    assert drawn.numbers[told] == pytest.approx(kept[told], abs=0.05)


@pytest.mark.slow
def test_four_saliency_maps_of_digits_are_as_noisy_as_is_told(monkeypatch):
    """The claim is asserted over all held-out digits while the figure is made; statistics and verdicts are those kept."""
    monkeypatch.syspath_prepend(DOCS)
    drawn = importlib.import_module("gallery_comparison").lenet()
    kept = json.loads((DOCS / "gallery" / "numbers.json").read_text(encoding="utf-8"))["lenet-saliency"]
    assert drawn.numbers["verdicts"] == kept["verdicts"]
    for name, statistics in kept["statistics"].items():
        for statistic, interval in statistics.items():
            assert drawn.numbers["statistics"][name][statistic] == pytest.approx(interval, abs=0.05)
            assert interval["low"] < interval["mean"] < interval["high"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["law", "motif"])
def test_what_was_planted_is_discovered(name, monkeypatch):
    """The formula and the motif are asserted while the figures are made, over several networks; figures are those kept."""
    monkeypatch.syspath_prepend(DOCS)
    drawn = getattr(importlib.import_module("gallery_discovery"), name)()
    kept = json.loads((DOCS / "gallery" / "numbers.json").read_text(encoding="utf-8"))[f"discovery-{name}"]
    if name == "law":
        assert drawn.numbers["exponents"] == pytest.approx([1, 1, -2, 0, 0], abs=0.03)
        assert drawn.numbers["exponents"] == pytest.approx(kept["exponents"], abs=0.02)
    else:
        assert drawn.numbers["read"] == kept["read"] == ["TGACTCA"] * len(kept["read"])
        assert "TGACTCA" not in drawn.numbers["shuffled"]
