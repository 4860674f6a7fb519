"""The page on studies with people runs as it is written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "studies.md"


def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 5
    space: dict[str, Any] = {}
    for number, block in enumerate(blocks):
        if number == 4:  # people have answered by now
            save(space["study"])
        exec(compile(block, "studies.md", "exec"), space)
    assert space["participants_needed"](0.15, spread=0.5, answers=8, person=0.1) == 28
    assert "with a map minus without" in capsys.readouterr().out
    assert space["found"].source["study"]["people"] == 3


def save(study: Any) -> None:
    folder = Path("my-study/answers")
    folder.mkdir()
    codes = study.codes()
    for number in (1, 2, 3):
        rows = [
            {"stimulus": codes[s.stimulus], "position": i, "seconds": 2.0, "given": {"answer": 0}}
            for i, s in enumerate(study.plan()[number - 1])
        ]
        body = {"format": "pellucid-answers", "version": 1, "study": study.mark, "participant": number, "answers": rows}
        (folder / f"{number}.json").write_text(json.dumps(body))


def test_every_word_of_the_table_is_public() -> None:
    import pellucid as px

    table = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
    words = {w for line in table for w in re.findall(r"`(\w+)`", line)}
    assert len(words) > 12
    assert all(hasattr(px.evaluation, word) for word in words)
