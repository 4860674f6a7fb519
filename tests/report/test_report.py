"""The report says what the network answered, checks its maps by erasing, and holds nothing that doesn't belong there."""

from __future__ import annotations

import itertools
import re
import subprocess
from pathlib import Path

import pytest
import torch

import pellucid as px
from pellucid import report
from pellucid.contract import Measure
from pellucid.contract.errors import InputError
from pellucid.report.erase import erasure
from pellucid.report.why import why
from pellucid.show.answer import answers
from show.reading import Page
from show.samples import PAYLOADS, images


class Scale(torch.nn.Module):
    """Class 0 scores the first feature minus the second; class 1 scores one half."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = x.flatten(1)[:, 0] - x.flatten(1)[:, 1]
        return torch.stack([first, torch.full_like(first, 0.5)], 1)


def two() -> px.Subject:
    return px.Subject(Scale().eval(), classes=("first", "half"), features=("a", "b", "c"))


def test_erasing_what_speaks_for_the_answer_changes_it() -> None:
    row = torch.tensor([[3.0, 1.0, 9.0]])
    check = erasure(two(), row, torch.tensor([[3.0, -1.0, 0.0]]), 0, seed=0)
    assert check is not None
    assert (check.part, check.count, check.candidates, check.inked) == ("feature", 1, 1, 3)
    assert check.answer == 1
    assert check.share == pytest.approx(float(torch.softmax(torch.tensor([-1.0, 0.5]), 0)[1]))
    assert check.erased.tolist() == [[0.0, 1.0, 9.0]]
    assert check.mask.tolist() == [True, False, False]
    # Where the first of three stands in a random order: in the middle on average, and it always changes the answer.
    assert check.by_chance == pytest.approx(2.0, abs=0.5)
    assert check.never == 0


def test_the_parts_that_speak_most_are_erased_first() -> None:
    row = torch.tensor([[3.0, 1.0, 9.0]])
    first = erasure(two(), row, torch.tensor([[3.0, -1.0, 0.5]]), 0, seed=0)
    last = erasure(two(), row, torch.tensor([[3.0, -1.0, 5.0]]), 0, seed=0)
    assert first is not None
    assert last is not None
    assert (first.count, last.count) == (1, 2)


def test_a_map_that_points_elsewhere_is_found_out() -> None:
    check = erasure(two(), torch.tensor([[3.0, 1.0, 9.0]]), torch.tensor([[0.0, 0.0, 5.0]]), 0, seed=0)
    assert check is not None
    assert check.count is None
    assert check.answer == 0


def test_large_images_are_erased_in_patches() -> None:
    row = torch.ones(1, 3, 40, 48)
    row[0, 0, 0, 0] = 5.0
    values = torch.zeros(1, 3, 40, 48)
    values[0, 0, 0, 0] = 1.0
    check = erasure(two(), row, values, 0, seed=0)
    assert check is not None
    assert (check.part, check.count, check.inked) == ("patch", 1, 64)
    assert bool(check.mask[:5, :6].all())
    assert int(check.mask.sum()) == 30


def test_why_is_the_difference_of_two_scores() -> None:
    row = torch.tensor([[3.0, 1.0, 9.0]])
    answer = answers(images().context.__class__(output=two().model(row), classes=("first", "half")), 1)[0]
    found = why(two(), row, answer, 1, seed=0)
    assert found is not None
    assert torch.allclose(found.result.values, torch.tensor([[3.0, -1.0, 0.0]]), atol=1e-5)
    assert (
        "Erase only the feature that speaks most for “first”, and the network answers “half” (82 %)"
        in found.sentences(("first", "half"))[0]
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "page.html"
    made = px.report(
        two(),
        torch.tensor([[3.0, 1.0, 9.0], [0.2, 0.1, 1.0]]),
        ["integrated-gradients", "vanilla-gradient", "no-such-method"],
        labels=[1, 1],
        path=path,
        title="Two cases",
    )
    assert made == path
    return path.read_text(encoding="utf-8").replace("\u00a0", " ")


def test_the_page_says_what_was_answered_and_whether_it_is_right(page: str) -> None:
    said = re.sub(r"\s+", " ", Page(page).text)
    assert "read as “first”, but it is “half”" in said
    assert "read as “half”, and it is" in said
    assert "Why “first” rather than “half”?" in said
    assert "1 feature erased: “half”" in said


def test_the_page_says_what_was_measured_and_what_cannot_be_said(page: str) -> None:
    said = Page(page).text
    card = px.contract.by_name("vanilla-gradient").card
    assert all(limit in said for limit in card.limits)
    assert all(support in said for support in card.supports)
    assert "no error of its own" in said
    assert "adds up" in said
    assert "no-such-method" in said
    assert "not in the catalogue" in said


def test_the_page_is_of_its_own_making_alone(page: str) -> None:
    assert Page(page).foreign == []
    assert page.count("<h1>") == 1


def test_the_page_says_nothing_of_where_and_by_whom_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "quetzalfrog"
    for name in ("USER", "LOGNAME", "USERNAME", "HOME", "HOSTNAME", "TMPDIR"):
        monkeypatch.setenv(name, f"/home/{secret}" if name == "HOME" else secret)
    for name in ("socket.gethostname", "platform.node", "getpass.getuser"):
        monkeypatch.setattr(name, lambda: secret)
    folder = tmp_path / secret
    folder.mkdir()
    monkeypatch.chdir(folder)
    text = px.report(two(), torch.ones(1, 3), ["vanilla-gradient"], path="page.html").read_text()
    assert secret not in text
    assert str(tmp_path) not in text


def test_no_heading_level_is_skipped(page: str) -> None:
    levels = [int(tag[1]) for tag, _ in Page(page).tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


@pytest.mark.parametrize("payload", PAYLOADS)
def test_hostile_names_stay_text(payload: str, tmp_path: Path) -> None:
    subject = px.Subject(Scale().eval(), classes=(payload, "b"), features=(payload, "b", "c"))
    path = px.report(subject, torch.ones(1, 3), [payload, "vanilla-gradient"], title=payload, path=tmp_path / "a.html")
    assert Page(path.read_text()).foreign == []
    assert report.page(report.Section(heading=payload, parts=(payload,)), payload, title=payload).count("<script>") == 1


def test_an_existing_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("mine")
    for call in (lambda: px.report(two(), torch.ones(1, 3), path=path), lambda: report.demo(path)):
        with pytest.raises(InputError, match="must not exist"):
            call()
    with pytest.raises(InputError, match="existing folder"):
        px.report(two(), torch.ones(1, 3), path=tmp_path / "none" / "page.html")
    link = tmp_path / "link.html"
    link.symlink_to(tmp_path / "elsewhere.html")
    with pytest.raises(InputError, match="must not exist"):
        px.report(two(), torch.ones(1, 3), path=link)
    assert path.read_text() == "mine"
    px.report(two(), torch.ones(1, 3), ["vanilla-gradient"], path=path, overwrite=True)
    assert "mine" not in path.read_text()[:20]


@pytest.mark.parametrize("bad", [{"audience": "child"}, {"labels": [1, 2]}, {"labels": [0.5]}])
def test_impossible_wishes_are_refused_before_any_work(bad: dict, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        px.report(two(), torch.ones(1, 3), path=tmp_path / "page.html", **bad)
    with pytest.raises(InputError, match="at most 24"):
        px.report(two(), torch.ones(25, 3), path=tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


def test_sections_results_and_text_make_a_page() -> None:
    text = report.page(
        "Words & more", {"A": Measure(values=torch.ones(1))}, images(rows=1), title="T", audience="engineer"
    )
    page = Page(text)
    assert page.foreign == []
    assert page.count("img") == 2
    assert "Words & more" in page.text
    assert '<details class="figures" open>' in text
    with pytest.raises(InputError, match="results or text"):
        report.page(3)


def test_a_model_that_only_predicts_is_reported(tmp_path: Path) -> None:
    def scores(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[:, 0], x[:, 1]], 1)

    path = px.report(scores, torch.eye(3), ["feature-ablation", "vanilla-gradient"], path=tmp_path / "page.html")
    said = Page(path.read_text()).text
    assert "must be a torch module" in said
    assert "read as “class 0”" in said


def chromium() -> str | None:
    import shutil

    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.browser
def test_a_browser_runs_the_own_script_and_nothing_else(tmp_path: Path) -> None:
    program = chromium()
    if program is None:
        pytest.skip("no browser")
    evil = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"
    subject = px.Subject(Scale().eval(), classes=(evil, "b"))
    path = px.report(subject, torch.ones(1, 3), ["vanilla-gradient"], path=tmp_path / "page.html", title="Whole")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    done = subprocess.run(
        [
            program,
            *flags.split(),
            "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        timeout=60,
        check=False,
    )
    shown = done.stdout.decode("utf-8", "replace")
    assert "<title>Whole</title>" in shown
    assert "onerror" in Page(shown).text
    assert Page(shown).foreign == []


def test_a_mistake_is_told_first_in_a_few_lines(tmp_path: Path) -> None:
    rows = torch.tensor([[0.2, 0.1, 1.0], [3.0, 1.0, 9.0]]).reshape(2, 1, 1, 3)
    wanted = {"labels": [1, 1], "contest": "Write to us.", "path": tmp_path / "page.html", "overwrite": True}
    text = px.report(two(), rows, ["integrated-gradients"], **wanted).read_text().replace("\u00a0", " ")
    said = re.sub(r"\s+", " ", Page(text).text)
    assert "<h1>Why did the network answer “first” when it is “half”?</h1>" in text
    assert "Erase only the pixel that speaks most for “first”, and the network answers “half” (82 %)." in said
    assert re.search(r"What it rests on “first” rests on the \w+", said)
    assert re.search("(1|None) of the 1 map below stood the test", said)
    assert "To contest it Write to us." in said
    assert 'href="#case-2"' in text[: text.index("How to read a map")]
    right = px.report(two(), rows[:1], ["integrated-gradients"], **{**wanted, "labels": [1]}).read_text()
    assert "Why did the network" not in right
    own = px.report(two(), rows, ["integrated-gradients"], title="My title", **wanted).read_text()
    assert "<h1>My title</h1>" in own
