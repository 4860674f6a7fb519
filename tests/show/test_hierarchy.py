"""A hierarchy on a page: every group once, in its place, as text; a damaged one is left out."""

from __future__ import annotations

import re

import pytest
import torch

import pellucid as px
from pellucid.contract import Attribution, Context
from pellucid.show import hierarchy, select
from pellucid.show.options import Options
from show.reading import Page
from show.samples import PAYLOADS


def node(features, children=(), score=1.0):
    return {"features": list(features), "children": list(children), "score": score, "interaction": 0.0, "round": 0}


TREE = [node([0], score=2.0), node([1], score=-4.0), node([2], score=0.0), node([0, 2], [0, 2], 1.0),
        node([0, 1, 2], [1, 3], -3.0)]  # fmt: skip


def result(*trees, features=("first", "second", "third")) -> Attribution:
    values = torch.zeros(len(trees), 3)
    return Attribution(values=values, source={"hierarchy": list(trees)}, context=Context(features=features))


def test_groups_open_and_close_in_order_with_the_shade_of_their_score() -> None:
    (lines,) = hierarchy.lists(result(TREE), Options())
    assert [(x.kind, x.text, x.shade) for x in lines] == [
        ("open", "first, second, third", "px-down3"),
        ("open", "first, third", "px-up1"),
        ("leaf", "first", "px-up2"),
        ("leaf", "third", "px-level"),
        ("close", "", ""),
        ("leaf", "second", "px-down3"),
        ("close", "", ""),
    ]


def test_the_page_holds_a_list_that_opens_by_keyboard_and_closes_every_element() -> None:
    text = result(TREE, TREE).html()
    part = text[text.index('<details open class="px-hierarchy">') :]
    part = part[: part.index("</ul>\n</details>") + len("</ul>\n</details>")]
    for tag in ("details", "summary", "ul", "li", "span"):
        assert len(re.findall(f"<{tag}[ >]", part)) == part.count(f"</{tag}>"), tag
    assert part.count("<li>") == 2 * len(TREE)
    assert Page(text).foreign == []


@pytest.mark.parametrize("payload", PAYLOADS)
def test_names_stay_text(payload: str) -> None:
    plain, hostile = (result(TREE, features=(word, "b", "c")).html() for word in ("cat", payload))
    assert Page(hostile).foreign == []
    assert len(Page(plain).tags) == len(Page(hostile).tags)


@pytest.mark.parametrize(
    "damaged",
    [
        "text",
        [],
        [1],
        [node([0], [0])],
        [node([0]), node([0, 1], [0, 0])],
        [node([0]), node([1])],
        [node([0]), node([0], [5])],
        [{"features": [0], "children": []}],
        [node(["<b>"])],
        [node([0])] * 601,
    ],
)
def test_a_damaged_hierarchy_is_left_out(damaged) -> None:
    assert hierarchy.lists(result(damaged), Options()) == []
    assert "px-hierarchy" not in re.sub(r"<style>.*?</style>", "", result(damaged).html(), flags=re.DOTALL)


def test_rows_are_limited_and_one_row_keeps_its_own() -> None:
    other = [node([1], score=7.0)]
    assert len(hierarchy.lists(result(TREE, other, TREE), Options(rows=2))) == 2
    (lines,) = hierarchy.lists(select.only(result(TREE, other), 1), Options())
    assert [x.score for x in lines] == ["7"]


def test_a_saved_hierarchy_is_shown_again(tmp_path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2)).eval()
    found = px.explain(net, torch.ones(2, 4), "acd")
    path = found.save(tmp_path / "acd.safetensors")
    assert hierarchy.lists(px.load(path), Options()) == hierarchy.lists(found, Options()) != []
