"""The questionnaire's script: it parses, and every place of the page that it speaks of is there."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

from pellucid.show import questionnaire

TEMPLATES = files("pellucid.show") / "templates"


def read(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def test_places_of_the_page_are_there() -> None:
    script, page = read("questionnaire.js"), read("questionnaire.html")
    named = set(re.findall(r'\bat\("(\w+)"\)', script))
    made = set(re.findall(r'\bid="(\w+)"', page)) | set(re.findall(r'\bid: "(\w+)"', script))
    assert named
    assert named <= made


def test_nothing_of_the_script_makes_text_into_html() -> None:
    script = read("questionnaire.js")
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
        "fetch(",
        "Storage",
    ):
        assert word not in script


@pytest.mark.skipif(shutil.which("node") is None, reason="no JavaScript here")
def test_the_script_parses(tmp_path: Path) -> None:
    path = tmp_path / "page.js"
    path.write_text(read("page.js") + read("questionnaire.js"), encoding="utf-8")
    done = subprocess.run(["node", "--check", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_data_can_not_leave_their_element() -> None:
    text = str(questionnaire.data({"a": ["</script><!--", "&amp;", "\u2028"], "image": "data:image/png;base64,AA=="}))
    assert not set("<>&\u2028") & set(text)
    assert "data:image/png;base64,AA==" in text
