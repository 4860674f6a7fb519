"""The gallery: one figure for each family of methods, each with a sentence that is checked before it is written.

`make gallery` writes docs/gallery/index.md, docs/gallery/numbers.json and docs/figures/gallery/*.png;
`python docs/gallery.py lime shapley` draws these families alone and leaves the others as they are. The networks of the
zoo are trained on first use.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gallery_alone
import gallery_backwards
import gallery_changes
import gallery_comparison
import gallery_deletion
import gallery_demos
import gallery_discovery
import gallery_effects
import gallery_examples
import gallery_lines
import gallery_localisation
import gallery_masks
import gallery_retraining
import gallery_shares
import gallery_strategies
import gallery_tables
import gallery_theory
import gallery_trust
import gallery_words
from gallery_entry import Entry
from gallery_panels import as_png

import pellucid as px

ROOT = Path(__file__).parent
FIGURES, PAGE, NUMBERS = Path("figures", "gallery"), Path("gallery", "index.md"), Path("gallery", "numbers.json")

ENTRIES: tuple[Entry, ...] = (
    *gallery_backwards.ENTRIES,
    *gallery_changes.ENTRIES,
    *gallery_masks.ENTRIES,
    *gallery_alone.ENTRIES,
    *gallery_tables.ENTRIES,
    *gallery_lines.ENTRIES,
    *gallery_effects.ENTRIES,
    *gallery_shares.ENTRIES,
    *gallery_words.ENTRIES,
    *gallery_deletion.ENTRIES,
    *gallery_strategies.ENTRIES,
    *gallery_examples.ENTRIES,
    *gallery_theory.ENTRIES,
    *gallery_comparison.ENTRIES,
    *gallery_retraining.ENTRIES,
    *gallery_localisation.ENTRIES,
    *gallery_trust.ENTRIES,
    *gallery_discovery.ENTRIES,
    *gallery_demos.ENTRIES,
)

LEFT_OUT = {
    "Codes and factors (disentanglement-metrics)": "figure to come",
    "Attention tested by training (attention-is-not-not-explanation)": (
        "its trainings take longer than the rest of the page together"
    ),
    "Networks that agree (deepconsensus)": "figure to come",
    "Slopes over all rows (gradient-sensitivity-global)": "figure to come",
    "Axioms (axiom-completeness, attribution-axiom-tests)": "figure to come",
    "Shares of a regression (lmg-shapley-regression)": "figure to come",
    "Shares by propagation (dasp)": "figure to come",
    "Objects found by templates (o-drl-object-saliency)": "the zoo has no network that plays",
    "Explanations as rules, and three criteria (meta-predictor-explanation, fidelity-persuasibility-generalizability)": (
        "figure to come"
    ),
    "Complexity (heatmap-entropy, rule-complexity-metrics, fidelity-parsimony-tradeoff, simulatability)": "figure to come",
    "Stability (local-lipschitz-estimate, explanation-continuity, lime-instability)": "figure to come",
    "What is gained (reward-quality)": "figure to come",
    "Correct, covering, simple (three-c-evaluation)": "figure to come",
    "More localisation (cam-localisation, object-relevance-ratio, human-attention-benchmark-mohseni, "
    "attention-lesion-overlap)": "figure to come",
    "More shares of the variance (functional-anova, generalized-functional-anova, fanova-forest)": (
        "where columns are independent, as above, they show the shares that Sobol' indices do"
    ),
    "Attention through layers (attention-rollout, generic-attention-relevance, attention-relevance-propagation)": (
        "the zoo has no trained transformer, and the attention of an untrained one shows nothing about a decision"
    ),
    "Score maps (weakly-supervised-localization)": "figure to come",
    "Influence of columns drawn apart (qii)": "figure to come",
    "Reconstructions (registration-reconstruction-explanation)": "figure to come",
    "Fisher vectors (lrp-fisher-vectors)": "figure to come",
    "More of words (word-gradient-saliency, representation-erasure, murdoch-szlam-lstm-decomposition)": (
        "seven lines about a sentence are enough for one figure"
    ),
    "Documents (lrp-document-relevance)": "the zoo has no trained network for documents",
    "A trained masker (real-time-image-saliency)": "its training takes longer than the rest of the page together",
    "Graphs (gnnexplainer)": "the zoo has no trained network for graphs",
    "Information discarded (information-based-measure-nlp)": "figure to come",
}

INTRO = """# Gallery

One figure for each family of methods: of pictures, a digit that the network misreads and, for most, planted shapes, whose
pixels are known; then tables, games and sentences. Red raises the explained score, blue lowers it, and zero is always the
neutral middle; where a map shows slopes, red says that a brighter pixel would raise the score. Violet shows sizes without a
sign. Each map has limits of its own, written under it, at the 99th percentile of its sizes. Maps coarser than the picture
are enlarged. The dark line is the outline of the object whose kind is the right answer. The sentence under each figure is
computed from what is drawn and checked before it is written; `make gallery` makes the page anew, and
`python docs/gallery.py lime` one family of it. The numbers of the figures of tables are kept in `numbers.json`.
"""


def write(root: Path = ROOT, families: Sequence[str] = ()) -> list[Path]:
    """Draw the families, or all of them, and write the page; each figure's claims are asserted on the way."""
    if unknown := set(families) - {entry.family for entry in ENTRIES}:
        known = ", ".join(dict.fromkeys(entry.family for entry in ENTRIES))
        raise SystemExit(f"No family of figures is called {sorted(unknown)[0]!r}. Known: {known}.")
    (root / FIGURES).mkdir(parents=True, exist_ok=True)
    (root / PAGE).parent.mkdir(exist_ok=True)
    kept = _kept(root)
    records: dict[str, Any] = {}
    written = []
    for entry in ENTRIES:
        path = root / FIGURES / f"{entry.name}.png"
        if families and entry.family not in families and entry.name in kept and path.exists():
            records[entry.name] = kept[entry.name]
            continue
        drawn = entry.make()
        path.write_bytes(as_png(drawn.figure))
        records[entry.name] = {"sentence": drawn.sentence, **drawn.numbers}
        written.append(path)
    (root / NUMBERS).write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (root / PAGE).write_text(page({name: record["sentence"] for name, record in records.items()}), encoding="utf-8")
    return [*written, root / NUMBERS, root / PAGE]


def page(sentences: dict[str, str]) -> str:
    """The page's text, from the sentence under each figure."""
    lines, heading = [INTRO], ""
    for entry in ENTRIES:
        if entry.title != heading:
            heading = entry.title
            links = ", ".join(f"[{px.catalogue.card(m).title}](../methods/{m}.md)" for m in entry.methods)
            lines += [f"## {heading}\n", *([f"{links}\n"] if links else [])]
        path = Path("..") / FIGURES / f"{entry.name}.png"
        lines += [f"![{heading}, {entry.name.rpartition('-')[2]}]({path.as_posix()})\n", f"{sentences[entry.name]}\n"]
    lines += ["## Not drawn\n", *(f"- {name}: {reason}." for name, reason in LEFT_OUT.items())]
    return "\n".join(lines) + "\n"


def _kept(root: Path) -> dict[str, Any]:
    """What earlier runs wrote."""
    path = root / NUMBERS
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


if __name__ == "__main__":
    for path in write(families=sys.argv[1:]):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")
