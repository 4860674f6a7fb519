"""HTML holds nothing that text put there, fetches nothing, and names no folder or user."""

from __future__ import annotations

import base64
import re

import pytest
import torch
from markupsafe import Markup

import pellucid as px
from pellucid.contract import Measure
from pellucid.show import pages
from show.reading import Page
from show.samples import PAYLOADS, forms, images


@pytest.mark.parametrize("payload", PAYLOADS)
def test_text_stays_text_in_every_field(payload: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        pages, "image", lambda *_: Markup("data:image/png;base64,")
    )  # the picture has a test of its own
    for name in (
        "images",
        "table",
        "tokens",
        "several",
        "examples",
        "tree",
        "sentences",
        "bars",
        "gallery",
        "scores",
        "text",
    ):
        plain, hostile = (forms(word)[name].html() for word in ("cat", payload))
        page = Page(hostile)
        assert page.foreign == [], name
        assert len(page.tags) == len(Page(plain).tags), name


def test_nothing_hides_in_the_text() -> None:
    page = forms(PAYLOADS[10])["table"].html(whole=True)
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x1b\u2028]", page)
    assert "⟨U+202E⟩" in page


@pytest.mark.parametrize("name", list(forms()))
def test_every_form_has_one_picture_with_words_and_no_request(name: str) -> None:
    text = forms()[name].html(whole=True)
    page = Page(text)
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 1
    assert pictures[0]["alt"]
    assert page.foreign == []
    assert "url(" not in text
    assert "@import" not in text
    assert page.count("h1") == 1
    assert page.count("main") == 1


def test_drawn_text_is_no_element_inside_the_picture() -> None:
    for form in ("tree", "text", "bars"):
        address = next(a["src"] for t, a in Page(forms(PAYLOADS[1])[form].html()).tags if t == "img")
        drawing = base64.b64decode(str(address).split(",", 1)[1]).decode()
        assert address.startswith("data:image/svg+xml")
        assert "onerror" not in re.sub("<!--.*?-->", "", drawing, flags=re.DOTALL)
        assert "<script" not in drawing
        assert "<image" not in drawing


def test_the_content_policy_names_style_and_script_by_hash() -> None:
    import hashlib

    text = images().html(whole=True)
    policy = next(a["content"] for t, a in Page(text).tags if t == "meta" and a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        inside = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL).group(1)  # type: ignore[union-attr]
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in policy
    assert "style=" not in text


def test_engineers_figures_stand_open_for_engineers_alone() -> None:
    assert '<details class="figures">' in images().html()
    assert '<details class="figures" open>' not in images().html()
    assert '<details class="figures" open>' in images().html(audience="engineer")


def test_no_folder_is_named() -> None:
    result = images().replace(source={"method": "m", "settings": {"file": "/home/ann/secret/net.pt"}, "model": "Net"})
    text = re.sub(r"data:image/[^\"]*", "", result.html())  # pictures hold any letters
    assert "ann" not in text
    assert "…/net.pt" in text


def test_the_same_result_gives_the_same_bytes() -> None:
    assert images("cat").html(whole=True).split("<img")[0] == images("cat").html(whole=True).split("<img")[0]
    measured = Measure(values=torch.ones(1))
    assert measured.html(whole=True) == measured.html(whole=True)


@pytest.mark.parametrize(
    "name",
    ["../x", "/x", "C:\\x", "%2e%2e", "a\x00b", "CON", "x" * 300, "\u202eabc", "-rf", "", ".", "猫", "a b", "nul"],
)
def test_slugs_are_safe_names(name: str) -> None:
    made = pages.slug(name)
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,99}", made)
    assert made not in ("con", "nul")
    assert pages.slug(name) == made != pages.slug(name + "!")


def test_notebooks_get_the_piece() -> None:
    assert px.Measure(values=torch.ones(1))._repr_html_().startswith("<style>")
