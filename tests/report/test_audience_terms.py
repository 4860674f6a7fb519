"""The user's own words: every id resolved or told, both ways, in sentences, and nothing in a file trusted."""

import json

import pytest
import torch

import pellucid as px
from pellucid import report, zoo
from pellucid.contract.errors import InputError, UnsafeFileError
from pellucid.report import Term, Vocabulary, page

WORDS = Vocabulary(
    (
        Term(
            id="feature:a",
            word="size of the lesion",
            meaning="its largest diameter",
            evidence="the atlas",
            confidence=0.9,
        ),
        Term(id="feature:b", word="smoker"),
        Term(id="class:yes", word="malignant"),
        Term(id="concept:striped", word="striped"),
        Term(id="region:upper left", word="the left lung"),
    ),
    "lungs",
)


def subject():
    net = torch.nn.Linear(3, 2).eval()
    return px.Subject(net, features=("a", "b", "c"), classes=("no", "yes"))


def test_every_id_is_resolved_or_told():
    found = WORDS.apply(subject())
    assert found.features == ("size of the lesion", "smoker", "c")
    assert found.classes == ("no", "malignant")
    assert WORDS.unmapped(subject(), ["concept:striped", "region:middle"]) == ("feature:c", "class:no", "region:middle")
    assert WORDS.word("feature:c") == "c (no word yet)"
    text = " ".join(WORDS.section(WORDS.unmapped(subject())).parts)
    assert "There is no word yet for feature “c”" in text
    assert "90 % sure. Evidence: the atlas." in text


def test_words_lead_back_to_ids():
    assert all(WORDS.id(t.kind, WORDS.word(t.id)) == t.id for t in WORDS.terms)
    with pytest.raises(InputError, match="word"):
        WORDS.id("feature", "malignant")


def test_a_file_keeps_all_of_it(tmp_path):
    path = WORDS.save(tmp_path / "words.json")
    assert Vocabulary.read(path) == WORDS
    assert json.loads(path.read_text(encoding="utf-8"))["terms"][0]["confidence"] == 0.9
    with pytest.raises(InputError):
        WORDS.save(path)
    assert Vocabulary.of({"feature:a": "size"}).word("feature:a") == "size"


def test_sentences_use_the_words():
    world, net = zoo.data("breast-cancer-mlp"), zoo.load("breast-cancer-mlp")
    words = Vocabulary.of(
        {f"feature:{n}": f"the {n} of the nuclei" for n in world.features} | {"class:malignant": "cancer"}
    )
    told = px.explain(
        words.apply(px.Subject(net, features=world.features, classes=world.classes)),
        world.test[0][:1],
        "gradient-x-input",
    ).describe()
    assert "of the nuclei" in told
    plain = px.explain(px.Subject(net, features=world.features), world.test[0][:1], "gradient-x-input")
    assert "of the nuclei" not in plain.describe()


def test_a_page_uses_the_words_and_lists_them(tmp_path):
    path = report(subject(), torch.ones(1, 3), ["gradient-x-input"], vocabulary=WORDS, path=tmp_path / "page.html")
    text = path.read_text(encoding="utf-8")
    assert "size of the lesion" in text
    assert "its largest diameter" in text
    assert "There is no word yet for feature “c”" in text


def test_harmful_words_stay_words():
    bad = Vocabulary.of({"feature:a": "<script>alert(1)</script>", "feature:b": "=cmd|'/c calc'!A0\u202e"})
    written = page(bad.section(["feature:<img src=x>"]))
    assert "<script>alert(1)" not in written
    assert "<img src=x>" not in written
    assert "\u202e" not in written


@pytest.mark.parametrize(
    "told",
    [
        {"feature:a": "one", "feature:b": "one"},
        {"a": "no kind"},
        {"thing:a": "no such kind"},
        {"feature:": "no name"},
        {"feature:a": ""},
        {"feature:a": "x" * 81},
        {"feature:a": 3},
        {"vocabulary": 2, "terms": []},
        {"vocabulary": 1, "terms": {}},
        {"vocabulary": 1, "terms": [{"id": "feature:a"}]},
        {"vocabulary": 1, "terms": [{"id": "feature:a", "word": "x", "run": "rm"}]},
        {"vocabulary": 1, "terms": [{"id": "feature:a", "word": "x", "confidence": 2}]},
        {"vocabulary": 1, "terms": [{"id": "feature:a", "word": "x"}] * 2},
        {"vocabulary": 1, "terms": [], "more": 1},
        [],
        "text",
    ],
)
def test_what_is_no_vocabulary_is_refused(told):
    with pytest.raises(InputError, match="Got"):
        Vocabulary.of(told)


def test_words_that_would_merge_two_names_are_refused():
    with pytest.raises(InputError, match="apart"):
        Vocabulary.of({"feature:a": "b"}).apply(subject())


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000, b"{" + b" " * (5 << 20) + b"}"])
def test_files_that_are_none_are_refused(tmp_path, content):
    path = tmp_path / "words.json"
    path.write_bytes(content)
    with pytest.raises((UnsafeFileError, InputError)):
        Vocabulary.read(path)
