"""Counts out of bibliographic exports equal those counted by hand; planted growth comes back; foreign text stays text."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest

from pellucid.contract.errors import InputError, UnsafeFileError
from pellucid.report import literature_files, trend
from pellucid.report.literature import Growth, growth

BIBTEX = r"""
% an export
@comment{@article{not, title = {A saliency map}, year = 2011}}
@string{jml = "Journal"}
@article{a, title = {A {S}aliency map}, journal = jml, year = 2011, doi = {10.1/A}}
@inproceedings{b,
  title = "On " # {saliency, and trees},
  abstract = {Rules; a "quoted" word, and an escaped brace \} here.},
  date = {2012-05-01},
}
@article(c, title = {M{\"u}ller's r\'{e}seau de neurones}, keywords = {Salience}, year = {2012})
@article{d, title = {No year: saliency}}
@article{e, title = {The same record again: saliency}, year = 2013, doi = {https://doi.org/10.1/a}}
@book{f, title = {Trees}, year = {in press, 2013}}
"""
RIS = """TY  - JOUR
TI  - A saliency map
PY  - 2011///
DO  - 10.1/A
ER  -
TY  - CONF
T1  - On saliency,
 and trees
KW  - rules
KW  - "quoted"
Y1  - 2012/05/01
ER  -
"""
CSV = """Title,Abstract,Publication Year,DOI
A saliency map,,2011,10.1/A
"On saliency, and trees","Rules, and a ""quoted"" word",2012,
=cmd|' /C calc'!A0,"<script>alert(1)</script> $\\frac{1}{0}$",2012,
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_counts_are_those_counted_by_hand(tmp_path: Path) -> None:
    found = trend(
        write(tmp_path, "own.bib", BIBTEX),
        {
            "word": "saliency",
            "begins": "salien*",
            "accents": "RÉSEAU müller",
            "in order": '"map saliency"',
            "either": "trees OR map",
            "both": "saliency trees",
            "part of a word": "tree",
            "from field to field": '"trees rules"',
        },
    )
    assert (found.years, found.records, found.repeated, found.undated) == ((2011, 2012, 2013), 6, 1, 1)
    assert found.counts == {
        "word": (1, 1, 0),
        "begins": (1, 2, 0),
        "accents": (0, 1, 0),
        "in order": (0, 0, 0),
        "either": (1, 1, 1),
        "both": (0, 1, 0),
        "part of a word": (0, 0, 0),
        "from field to field": (0, 0, 0),
    }


@pytest.mark.parametrize(("name", "text"), [("own.ris", RIS), ("own.csv", CSV)])
def test_other_exports_are_counted_too(tmp_path: Path, name: str, text: str) -> None:
    found = trend(write(tmp_path, name, text), {"saliency": "saliency", "rules": "quoted rules"})
    assert found.counts == {"saliency": (1, 1), "rules": (0, 1)}


@pytest.mark.parametrize("doubling", [1.0, 2.5, -3.0])
def test_planted_growth_is_recovered_exactly_from_expected_counts(doubling: float) -> None:
    """Whole counts within half a publication of the curve give its rate; scaled up, to as many digits as one likes."""
    planted = math.log(2) / doubling
    counts = tuple(round(1e6 * math.exp(planted * t)) for t in range(9))
    found = growth(counts)
    assert isinstance(found, Growth)
    assert found.rate == pytest.approx(planted, abs=1e-6)
    assert found.doubling == pytest.approx(doubling, rel=1e-5)
    assert found.first == pytest.approx(1e6, rel=1e-5)
    assert ("doubles" if doubling > 0 else "halves") in found.sentence()


@pytest.mark.parametrize("scatter", [1.0, 6.0])
def test_the_interval_holds_the_planted_rate_as_often_as_it_says(scatter: float) -> None:
    """Counts of chance alone, and counts whose variance is six times their mean (negative binomial)."""
    chance = np.random.default_rng(5)
    mean = 8 * np.exp(0.25 * np.arange(10))
    held = 0
    for _ in range(300):
        if scatter == 1.0:
            counts = chance.poisson(mean)
        else:
            counts = chance.negative_binomial(mean / (scatter - 1), 1 / scatter)
        found = growth(tuple(int(c) for c in counts))
        assert isinstance(found, Growth)
        held += found.low <= 0.25 <= found.high
    assert 0.90 <= held / 300 <= 0.995


def test_the_fit_is_the_maximum_of_the_likelihood() -> None:
    """No other line near it gives the counts a higher probability; the score equations are solved."""
    counts = (0, 3, 1, 0, 7, 9, 14, 40)
    found = growth(counts)
    assert isinstance(found, Growth)
    x, y = np.arange(8), np.array(counts)
    expected = found.first * np.exp(found.rate * x)
    assert (y - expected).sum() == pytest.approx(0, abs=1e-8)
    assert ((y - expected) * x).sum() == pytest.approx(0, abs=1e-7)
    low, high = found.doubling_interval or (0, 0)
    assert low < found.doubling < high


def test_no_growth_is_told_as_none() -> None:
    flat = growth((20, 22, 19, 21, 20, 18, 22, 20))
    assert isinstance(flat, Growth)
    assert flat.low < 0 < flat.high
    assert "neither growth nor decline" in flat.sentence()
    assert "too few years" in str(growth((1, 2, 4)))
    assert "fewer than two years" in str(growth((0, 0, 5, 0, 0)))


def test_the_years_to_fit_leave_out_one_that_is_not_over(tmp_path: Path) -> None:
    rows = [f"a map,{2010 + y}" for y in range(6) for _ in range(10 * 2**y)] + ["a map,2016"] * 3
    file = write(tmp_path, "own.csv", "title,year\n" + "\n".join(rows))
    found = trend(file, {"map": "map"}, fit=(2010, 2015))
    assert found.counts["map"] == (10, 20, 40, 80, 160, 320, 3)
    fit = found.fits["map"]
    assert isinstance(fit, Growth)
    assert fit.doubling == pytest.approx(1.0, abs=1e-9)
    assert "Growth is told from 2010 to 2015" in found.describe()
    narrowed = trend(file, {"map": "map"}, years=(2011, 2014))
    assert narrowed.counts["map"] == (20, 40, 80, 160)


def test_foreign_text_stays_text(tmp_path: Path) -> None:
    query = '=HYPERLINK("http://x","$\\frac{1}{0}$")'
    found = trend(write(tmp_path, "own.csv", CSV), {query: "script", "\x1b[31m": "alert*"})
    assert found.csv().splitlines()[0].startswith("year,\"'=HYPERLINK(")
    assert "\x1b" not in found.csv()
    assert "\x1b" not in found.describe()
    figure = found.show()
    figure.canvas.draw()  # a formula taken for one would fail here
    assert all(not text.get_parse_math() for text in figure.axes[0].get_legend().get_texts())


@pytest.mark.parametrize(
    "text", ["@article{" * 30_000, "@article{a, title = {" + "{" * 200_000, '@a{b, t = "' + "\\" * 200_000]
)
def test_hostile_exports_are_refused_quickly(tmp_path: Path, text: str) -> None:
    start = time.perf_counter()
    with pytest.raises(InputError, match="must have an end"):
        trend(write(tmp_path, "own.bib", text), {"a": "b"})
    assert time.perf_counter() - start < 2


def test_queries_are_no_regular_expressions(tmp_path: Path) -> None:
    start = time.perf_counter()
    file = write(tmp_path, "own.csv", "title,year\n" + "a" * 100_000 + ",2011\nc++ (a+)+$,2012\n")
    found = trend(file, {"signs": "(a+)+$", "no such": "c+*", "dot": "."})
    assert found.counts == {"signs": (0, 1), "no such": (0, 1), "dot": (0, 0)}
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("own.txt", "x", ".bib, .ris or .csv"),
        ("own.bib", "nothing", "at least one record"),
        ("own.csv", "a,b\n1,2\n", "column for the title"),
        ("own.csv", "title,year\n1,2,3\n", "Row 2"),
        ("own.csv", "title,year\nmap,soon\n", "publication with a year"),
    ],
)
def test_what_is_no_export_is_refused(tmp_path: Path, name: str, text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        trend(write(tmp_path, name, text), {"a": "b"})


def test_what_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, "own.csv", CSV)
    monkeypatch.setattr(literature_files, "MOST", 2)
    with pytest.raises(UnsafeFileError, match="records"):
        trend(file, {"a": "b"})
    monkeypatch.setattr(literature_files, "LARGEST", 20)
    with pytest.raises(UnsafeFileError, match="at most"):
        trend(file, {"a": "b"})
    monkeypatch.undo()
    (tmp_path / "latin.bib").write_bytes(b"@a{b, title={\xe9}, year=2000}")
    with pytest.raises(InputError, match="UTF-8"):
        literature_files.publications(tmp_path / "latin.bib")


@pytest.mark.parametrize(
    ("queries", "told"), [({}, "1 to 8"), ({"a": ""}, "words"), ({"a": "x OR "}, "words"), ({"a": 'one "two'}, "words")]
)
def test_bad_queries_are_refused(tmp_path: Path, queries: dict[str, str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        trend(write(tmp_path, "own.csv", CSV), queries)


def test_bad_years_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path, "own.csv", CSV)
    with pytest.raises(InputError, match="in order"):
        trend(file, {"a": "b"}, years=(2012, 2011))
    with pytest.raises(InputError, match="among those counted"):
        trend(file, {"a": "b"}, fit=(2000, 2012))
