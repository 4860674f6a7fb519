"""The catalogue's page and the surveys' trees: every method once in each, text inert, nothing fetched, script optional."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import pellucid as px
from pellucid import surveys
from pellucid.__main__ import main
from pellucid.contract import Card, registered
from pellucid.contract.errors import MethodError
from show.reading import Page
from show.samples import PAYLOADS


def own_cards() -> list[Card]:
    """Those of Pellucid itself: tests define methods as well."""
    methods = [m for m in registered().values() if m.__module__.startswith("pellucid.")]
    return sorted((m.card for m in methods), key=lambda c: c.name)


@pytest.fixture(scope="module")
def cards() -> list[Card]:
    return own_cards()


@pytest.fixture(scope="module")
def whole(cards: list[Card]) -> str:
    return px.catalogue.html(cards)


@pytest.mark.parametrize("survey", surveys.SURVEYS)
def test_a_tree_holds_each_method_once_and_leads_back_to_its_place(survey: str, cards: list[Card]) -> None:
    grown = px.catalogue.tree(survey, cards)
    assert Counter(surveys.flattened(grown)) == Counter(card.name for card in cards)
    assert tuple(grown) == surveys.TREES[survey]
    for branch, names in grown.items():
        assert all(px.catalogue.places(name)[survey] == branch for name in names)
        assert list(names) == sorted(names)


def test_the_trees_have_the_branches_that_the_surveys_draw() -> None:
    # Written out by hand from the surveys' figures: first levels, and the second of what is looked at most.
    roots = {survey: [*dict.fromkeys(b.split("/")[0] for b in tree)] for survey, tree in surveys.TREES.items()}
    assert roots["000"][:3] == ["structural", "behavioural", "by design"]
    assert roots["001"] == ["visualization", "distillation", "intrinsic", "associated", "evaluation"]
    assert roots["002"] == ["post-hoc", "ad-hoc", "evaluation"]
    assert roots["004"] == ["visualise", "diagnose", "disentangle", "learn disentangled", "middle to end"]
    post = {b.split("/")[1] for b in surveys.TREES["002"] if b.startswith("post-hoc")}
    assert post == {
        *("feature analysis", "model inspection", "saliency", "proxy", "mathematics and physics"),
        *("explaining by case", "explaining by text"),
    }
    assert len([b for b in surveys.TREES["003"] if b.count("/") == 2]) == 2 * 4 * 3


@pytest.mark.parametrize(
    ("name", "survey", "branch"),
    [
        ("lime", "001", "distillation/local approximation"),
        ("lime", "002", "post-hoc/proxy/local explainer"),
        ("grad-cam", "001", "visualization/back-propagation"),
        ("grad-cam", "002", "post-hoc/saliency/activation maps"),
        ("occlusion-sensitivity", "000", "behavioural/functional/perturbation"),
        ("occlusion-sensitivity", "001", "visualization/perturbation"),
        ("lrp-epsilon", "000", "behavioural/decision/relevance"),
        ("lrp-epsilon", "002", "post-hoc/saliency/relevance"),
        ("kernel-shap", "002", "post-hoc/saliency/Shapley"),
        ("meaningful-perturbation", "002", "post-hoc/saliency/masks"),
        ("integrated-gradients", "003", "passive/attribution/semi-local"),
        ("lime", "003", "passive/attribution/local"),
        ("cart-c45-surrogate", "003", "passive/rule/global"),
        ("cart-c45-surrogate", "004", "disentangle"),
        ("pointing-game", "002", "evaluation"),
        ("pointing-game", "gilpin", "evaluation"),
    ],
)
def test_methods_stand_where_the_surveys_put_them(name: str, survey: str, branch: str) -> None:
    assert px.catalogue.places(name)[survey] == branch


def test_a_card_that_says_nothing_is_placed_by_what_it_is(cards: list[Card]) -> None:
    base = replace(next(c for c in cards if c.name == "lime"), taxonomy={}, name="mine")
    wanted = {
        ("semantics", False): "passive/hidden semantics/local",
        ("examples", True): "active/example/local",
        ("rules", False): "passive/rule/local",
        ("text", False): "text",
        ("measure", False): "evaluation",
    }
    for (form, active), place in wanted.items():
        card = replace(base, form=form, active=active)
        assert surveys.place(card, "003") == place
        assert all(surveys.place(card, survey) in surveys.TREES[survey] for survey in surveys.SURVEYS)
    with pytest.raises(MethodError, match=r"survey.*one of 000, 001.*'005'"):
        px.catalogue.tree("005")


def test_methods_can_be_found_by_their_place(cards: list[Card]) -> None:
    found = px.catalogue.find(category="001:distillation/local")
    assert {"lime", "streak"} <= {card.name for card in found}
    assert "grad-cam" not in {card.name for card in found}


def test_each_method_stands_once_in_the_table_and_once_in_each_tree(whole: str, cards: list[Card]) -> None:
    for card in cards:
        assert whole.count(f'<tr id="method-{card.name}"') == 1
        assert whole.count(f'<a href="#method-{card.name}">') == len(surveys.SURVEYS)


def test_the_cells_counts_are_those_of_the_table(whole: str) -> None:
    counts = Counter(re.findall(r'<tr id="[^"]*"[^>]* data-place="([^"]+)"', whole))
    cells = {
        place: int(count) for place, count in re.findall(r'<a href="#methods" data-place="([^"]+)"[^>]*>(\d+)<', whole)
    }
    assert cells == dict(counts)
    drawn = [int(n) for n in re.findall(r'<text x="[^"]*" y="[^"]*" text-anchor="middle">(\d+)</text>', whole)]
    assert sorted(drawn) == sorted(counts.values())


@pytest.mark.parametrize("payload", PAYLOADS)
def test_what_a_card_says_stays_text(payload: str, cards: list[Card]) -> None:
    base = next(c for c in cards if c.name == "lime")

    def told(text: str) -> Page:
        words = {"title": text, "question": f"{text}?", "data_types": (text,), "taxonomy": {"002": text}}
        return Page(px.catalogue.html([replace(base, name=f"x{text}", **words)]))

    page, plain = told(payload), told("word")
    assert [(tag, [*names]) for tag, names in page.tags] == [(tag, [*names]) for tag, names in plain.tags]
    for _, attributes in page.tags:
        assert all((attributes.get(name) or "#").startswith("#") for name in ("href", "src"))


def test_the_page_can_be_read_without_its_script_and_by_a_screen_reader(whole: str) -> None:
    page = Page(whole)
    forms = [attributes for tag, attributes in page.tags if tag == "form"]
    assert [("hidden" in attributes) for attributes in forms] == [True]
    assert not any("hidden" in attributes for tag, attributes in page.tags if tag == "tr")
    assert page.count("label") == page.count("select") + page.count("input")
    (svg,) = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert svg["role"] == "img"
    assert "passive, attribution, local" in page.text
    heads = [attributes for tag, attributes in page.tags if tag == "th"]
    assert all(attributes.get("scope") in ("row", "col") for attributes in heads)


def test_the_command_writes_the_page_and_prints_trees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "methods.html"
    assert main(["methods", "--html", str(out)]) == 0
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")
    capsys.readouterr()
    assert main(["methods", "--html", str(out)]) != 0
    assert "force" in capsys.readouterr().err
    assert main(["methods", "--tree", "001"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"distillation/local approximation: [^:]*\blime\b", said)


@pytest.mark.browser
def test_the_script_runs_in_a_browser_and_counts_what_it_shows(tmp_path: Path, whole: str, cards: list[Card]) -> None:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no browser")
    path = tmp_path / "page.html"
    path.write_text(whole, encoding="utf-8")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    call = [program, *flags.split(), "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run([*call, path.as_uri()], capture_output=True, timeout=120, check=False)
    shown = done.stdout.decode("utf-8", "replace")
    assert f"{len(cards)} of {len(cards)} methods" in shown
    assert not any("hidden" in attributes for tag, attributes in Page(shown).tags if tag == "form")
