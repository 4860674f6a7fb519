"""How fast does the literature on a subject grow? Counts per year out of an export, and the exponential through them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pellucid.contract.errors import InputError
from pellucid.inert import cell, clean
from pellucid.report.literature_files import Publication, plain, publications

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Growth", "Trend", "growth", "trend"]

FEWEST_YEARS = 4
MOST_QUERIES = 8
_TERM = re.compile(r'"([^"]*)"|(\S+)')
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Growth:
    """An exponential through counts: `first` publications expected in the first year, times `exp(rate)` each year.

    `rate`, `low` and `high` are per year, with the interval at 95 %; `doubling` is ln 2 / rate in years, negative where the
    counts fall. `doubling_interval` is open (`inf`) at the side where no growth at all can't be ruled out, and `None` where
    neither growth nor decline can. `dispersion` is the counts' variance about the curve over that of chance alone: far
    above 1, the counts follow no exponential, and the interval is widened by its root. `covariance` is that of ln(first)
    and rate, (2, 2), and `quantile` how many standard errors the interval reaches to each side.
    """

    first: float
    rate: float
    low: float
    high: float
    dispersion: float
    covariance: Array
    quantile: float

    def band(self, years: Array) -> tuple[Array, Array, Array]:
        """The expected count so many years after the first, with the lower and upper end of its 95 % interval."""
        expected = self.first * np.exp(self.rate * years)
        variance = self.covariance[0, 0] + 2 * years * self.covariance[0, 1] + years**2 * self.covariance[1, 1]
        wide = np.exp(self.quantile * np.sqrt(variance))
        return expected, expected / wide, expected * wide

    @property
    def doubling(self) -> float:
        """Years until there are twice as many."""
        return math.log(2) / self.rate if self.rate else math.inf

    @property
    def doubling_interval(self) -> tuple[float, float] | None:
        """The shortest and longest doubling time (or halving time, negative) that agree with the counts."""
        if self.low <= 0 <= self.high:
            return (math.log(2) / self.high, math.inf) if self.rate > 0 and self.high > 0 else None
        ends = sorted((math.log(2) / self.low, math.log(2) / self.high))
        return ends[0], ends[1]

    def sentence(self) -> str:
        """The growth in words."""
        ends = self.doubling_interval
        if self.low <= 0 <= self.high or ends is None:
            return f"neither growth nor decline can be told from chance ({self._yearly()})"
        what = "doubles" if self.rate > 0 else "halves"
        low, high = sorted(abs(e) for e in ends)
        told = f"{what} every {abs(self.doubling):.1f} years ({low:.1f} to {high:.1f}; {self._yearly()})"
        loose = f"; the counts scatter {self.dispersion:.1f} times as much as by chance" if self.dispersion > 4 else ""
        return told + loose

    def _yearly(self) -> str:
        rates = (100 * math.expm1(r) for r in (self.rate, self.low, self.high))
        return "{:+.0f} % a year, {:+.0f} to {:+.0f} %".format(*rates).replace("-", "−")


@dataclass(frozen=True, kw_only=True)
class Trend:
    """Publications per year for each query, with the growth fitted to them.

    `counts` maps a query to the publications in each of `years`; `fits` to its growth, or to the reason there is none.
    `fitted` is the first and last year the fits look at. Of `records` in the file, `repeated` had the DOI of an earlier one
    and `undated` no year: both are left out of every count.
    """

    years: tuple[int, ...]
    counts: Mapping[str, tuple[int, ...]]
    fits: Mapping[str, Growth | str]
    fitted: tuple[int, int]
    records: int
    repeated: int
    undated: int

    def describe(self) -> str:
        """What was counted, and how fast it grows."""
        found = (
            f"{self.records} records, {self.repeated} of them repeats and {self.undated} without a year, not counted."
        )
        lines = [f"{found} Growth is told from {self.fitted[0]} to {self.fitted[1]}."]
        for query, counts in self.counts.items():
            fit = self.fits[query]
            told = fit if isinstance(fit, str) else fit.sentence()
            lines.append(f"{clean(query)}: {sum(counts)} publications; {told}.")
        return "\n".join(lines)

    def csv(self) -> str:
        """The counts as a table for spreadsheets: a line per year, a column per query."""
        lines = [["year", *self.counts]]
        lines += [[str(y), *(str(c[k]) for c in self.counts.values())] for k, y in enumerate(self.years)]
        return "".join(",".join(cell(value) for value in line) + "\n" for line in lines)

    def show(self) -> Figure:
        """Counts as dots and growth as curves, each with the band of its 95 % interval for the expected count."""
        from pellucid.report.literature_figure import figure

        return figure(self)


def trend(
    export: str | Path,
    queries: Mapping[str, str],
    *,
    years: tuple[int, int] | None = None,
    fit: tuple[int, int] | None = None,
) -> Trend:
    """How many publications a year does each query find in my export, and how soon do they double?

    Nothing is fetched: the export is the user's own, and what it leaves out is not counted. Counts rest on titles,
    abstracts and keywords. The growth is the maximum-likelihood fit of ln(expected count) = a + rate · year to
    Poisson counts, years without publications included; its interval takes the scatter beyond chance into account.

    Args:
        export: a .bib, .ris or .csv file in UTF-8, of at most 64 MiB and 200,000 records.
        queries: a name for each query. Words of a query must all occur; "words in quotation marks" in this order; `word*`
            stands for every word that begins so; ` OR ` parts alternatives. Accents and capitals make no difference, and
            nothing else is a sign: there are no regular expressions.
        years: first and last year to count; without it, those that occur.
        fit: first and last year to fit; without it, all that are counted. Leave out a last year that is not over.

    Example:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp(), "own.csv")
        >>> rows = [f"A saliency map,{2010 + y}" for y in range(6) for _ in range(2**y)]
        >>> _ = file.write_text("title,year\\n" + "\\n".join(rows))
        >>> found = trend(file, {"saliency": "salien*"})
        >>> found.counts["saliency"], round(found.fits["saliency"].doubling, 3)
        ((1, 2, 4, 8, 16, 32), 1.0)
    """
    wanted = _queries(queries)
    whole = publications(export)
    once, repeated = _once(whole)
    dated = [p for p in once if p.year is not None]
    if not dated:
        raise InputError("The export must hold a publication with a year", got=f"{len(whole)} records without one")
    occur = [p.year for p in dated if p.year is not None]
    low, high = _span("years", years or (min(occur), max(occur)))
    start, end = _span("fit", fit or (low, high))
    if not low <= start <= end <= high:
        raise InputError(
            "The years to fit must be among those counted", got=f"{start} to {end}", hint=f"{low} to {high}"
        )
    counts = {}
    for name, alternatives in wanted.items():
        row = [0] * (high - low + 1)
        for publication in dated:
            if low <= (publication.year or 0) <= high and _found(alternatives, publication.text):
                row[(publication.year or 0) - low] += 1
        counts[name] = tuple(row)
    return Trend(
        years=tuple(range(low, high + 1)),
        counts=counts,
        fits={name: growth(row[start - low : end - low + 1]) for name, row in counts.items()},
        fitted=(start, end),
        records=len(whole),
        repeated=repeated,
        undated=len(once) - len(dated),
    )


def growth(counts: tuple[int, ...]) -> Growth | str:
    """The exponential through counts of consecutive years, or why there is none to tell."""
    y = np.asarray(counts, dtype=np.float64)
    if len(y) < FEWEST_YEARS:
        return f"too few years to tell growth: {len(y)}, and it takes {FEWEST_YEARS}"
    if (y > 0).sum() < 2:
        return "publications in fewer than two years, so there is no growth to tell"
    x = np.arange(len(y), dtype=np.float64)
    middle = x.mean()
    level, rate = math.log(y.mean()), 0.0
    for _ in range(200):  # Newton's steps on a concave likelihood, halved where one would overshoot
        step, _ = _newton(x - middle, y, level, rate)
        size = 1.0
        while size > 1e-6 and not _likelihood(x - middle, y, level + size * step[0], rate + size * step[1]) >= (
            _likelihood(x - middle, y, level, rate)
        ):
            size /= 2
        level, rate = level + size * float(step[0]), rate + size * float(step[1])
        if abs(step[0]) + abs(step[1]) < 1e-12:
            break
    first = level - rate * middle
    _, information = _newton(x, y, first, rate)
    expected = np.exp(first + rate * x)
    dispersion = float(((y - expected) ** 2 / expected).sum() / (len(y) - 2))
    covariance: Array = np.asarray(np.linalg.inv(information) * max(1.0, dispersion), dtype=np.float64)
    from scipy import stats

    # The scatter is itself estimated from these counts, so Student's quantile.
    quantile = float(stats.t.ppf(0.975, len(y) - 2))
    wide = quantile * math.sqrt(float(covariance[1, 1]))
    return Growth(
        first=math.exp(first),
        rate=rate,
        low=rate - wide,
        high=rate + wide,
        dispersion=dispersion,
        covariance=covariance,
        quantile=quantile,
    )


def _newton(x: Array, y: Array, level: float, rate: float) -> tuple[Array, Array]:
    expected = np.exp(level + rate * x)
    slope = np.array([(y - expected).sum(), ((y - expected) * x).sum()])
    information = np.array([[expected.sum(), (expected * x).sum()], [(expected * x).sum(), (expected * x * x).sum()]])
    return np.linalg.solve(information, slope), information


def _likelihood(x: Array, y: Array, level: float, rate: float) -> float:
    with np.errstate(over="ignore"):
        return float((y * (level + rate * x) - np.exp(level + rate * x)).sum())


def _once(whole: tuple[Publication, ...]) -> tuple[list[Publication], int]:
    """The publications without those whose DOI stood before."""
    seen: set[str] = set()
    kept = []
    for publication in whole:
        if not publication.doi or publication.doi not in seen:
            kept.append(publication)
        seen.add(publication.doi)
    return kept, len(whole) - len(kept)


def _queries(queries: Mapping[str, str]) -> dict[str, list[list[re.Pattern[str]]]]:
    if not isinstance(queries, Mapping) or not 0 < len(queries) <= MOST_QUERIES:
        raise InputError(f"The 'queries' must map 1 to {MOST_QUERIES} names to queries", got=f"{queries!r}"[:120])
    wanted = {}
    for name, query in queries.items():
        alternatives = [_terms(part) for part in str(query).split(" OR ")]
        if not isinstance(query, str) or not all(alternatives) or query.count('"') % 2:
            raise InputError(f"The query {name!r} must hold words on each side of OR", got=f"{query!r}"[:120])
        wanted[str(name)] = alternatives
    return wanted


def _terms(part: str) -> list[re.Pattern[str]]:
    found = []
    for phrase, word in _TERM.findall(part):
        text = plain(phrase or word)
        begins = text.endswith("*")
        text = text.rstrip("*")
        if text:
            # Literal text between ends of words; no sign of the query has another meaning, so matching is linear.
            found.append(re.compile(rf"(?<!\w){re.escape(text)}" + ("" if begins else r"(?!\w)")))
    return found


def _found(alternatives: list[list[re.Pattern[str]]], text: str) -> bool:
    return any(all(term.search(text) for term in terms) for terms in alternatives)


def _span(name: str, years: tuple[int, int]) -> tuple[int, int]:
    try:
        low, high = (int(y) for y in years)
    except (TypeError, ValueError) as error:
        raise InputError(f"The {name!r} must be a first and a last year", got=f"{years!r}"[:80]) from error
    if not 1500 <= low <= high <= 2099:
        raise InputError(f"The {name!r} must be years in order, between 1500 and 2099", got=f"{low} to {high}")
    return low, high
