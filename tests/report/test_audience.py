"""What is added to a page: limits of use, the users' words, further sections; refused where a record can't hold them."""

import pytest
import torch

from pellucid import report
from pellucid.__main__ import main
from pellucid.contract.errors import InputError
from pellucid.report import Section, Vocabulary


def line(x):
    return torch.cat([-x, x], 1)


def rows(count, seed):
    x = torch.rand(count, 1, generator=torch.Generator().manual_seed(seed)) * 6 - 3
    return x, (x[:, 0] > 0).long()


def test_limits_of_use_stand_on_the_page(tmp_path):
    path = report(
        line,
        torch.tensor([[2.0], [40.0]]),
        ["feature-ablation"],
        data=rows(200, 0),
        held_out=rows(200, 1),
        sections=[Section(heading="One <more>", parts=["said & done"])],
        path=tmp_path / "page.html",
    )
    text = path.read_text(encoding="utf-8")
    assert "When to rely on it, and when to ask a person" in text
    assert "It may be relied on." in text
    assert "Ask a person" in text
    assert "One &lt;more&gt;" in text
    assert "said &amp; done" in text


@pytest.mark.parametrize(
    "changes",
    [
        {"record": True, "vocabulary": {"feature:a": "size"}},
        {"record": True, "sections": [Section(heading="one")]},
        {"held_out": rows(20, 0)},
        {"sections": ["text"]},
        {"vocabulary": [1]},
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(changes, tmp_path):
    def never(x):
        raise AssertionError("the model ran")

    with pytest.raises(InputError, match="Got"):
        report(never, torch.ones(1, 1), ["feature-ablation"], path=tmp_path / "page.html", **changes)
    assert not any(tmp_path.iterdir())


def test_the_command_line_takes_words_and_rows_kept_apart(tmp_path, capsys):
    words = Vocabulary.of({"class:0": "a naught"}).save(tmp_path / "words.json")
    page = tmp_path / "page.html"
    asked = [
        "report",
        "zoo:digits-cnn",
        "test:10",
        "--methods",
        "vanilla-gradient",
        "--data",
        "train",
        "--out",
        str(page),
    ]
    assert main([*asked, "--held-out", "test", "--vocabulary", str(words)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "When to rely on it" in text
    assert "a naught" in text
    assert "no word yet" in text
