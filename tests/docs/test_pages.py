"""The documentation is made from the catalogue: every method has its page, every operation its rule."""

import sys
from pathlib import Path

import pytest

from pellucid.contract import registered

ROOT = Path(__file__).parents[2] / "docs"


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    import pages

    yield {p.relative_to(tmp_path).as_posix(): p.read_text() for p in pages.write(tmp_path)}
    sys.modules.pop("pages", None)


def test_every_method_has_a_page_with_its_question_and_limits(written):
    for name, method in registered().items():
        page = written[f"methods/{name}.md"]
        assert method.card.question in written["methods/index.md"]
        assert all(limit in page for limit in method.card.limits)


def test_rules_page_shows_the_rule_of_each_operation(written):
    assert "| `convolution` |" in written["rules.md"]
    assert "refused" in written["rules.md"]
