"""In which terms can a person read an explanation? Pixels, vectors and letters turned into what a field has words for.

An explanation is given in values of the raw input; a person thinks in terms: superpixels and visual concepts (colours,
textures, materials, parts, objects, scenes) of images, words of texts, motifs of sequences, columns of tables. A vocabulary
finds the terms of a row, each with the places where it stands, and an attribution is then told term by term.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.contract import Attribution
from pellucid.contract.errors import InputError, MethodError
from pellucid.engine.feature import superpixels as regions_of
from pellucid.engine.inputs import as_inputs
from pellucid.show.words import clean

__all__ = ["FIELDS", "Saying", "Term", "Vocabulary", "at", "find", "register", "said", "told"]

# Letters that stand for several, as geneticists write motifs.
AMBIGUOUS = {
    "R": "AG",
    "Y": "CTU",
    "S": "CG",
    "W": "ATU",
    "K": "GTU",
    "M": "AC",
    "B": "CGTU",
    "D": "AGTU",
    "H": "ACTU",
    "V": "ACG",
    "N": "ACGTU",
}
NINTHS = (("top left", "top", "top right"), ("left", "middle", "right"), ("bottom left", "bottom", "bottom right"))


@dataclass(frozen=True, kw_only=True, eq=False)
class Term:
    """One term of one row: what a person calls it, and `where` it stands, truth values over the row's places."""

    name: str
    where: Tensor


Finder = Callable[..., list[list[Term]]]


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The terms of a kind of input: `find(inputs, **given)` gives the terms of each row.

    `whole` says that every place of a row belongs to exactly one term, so that nothing of an explanation is left untold.
    """

    name: str
    field: str
    terms: str
    find: Finder
    whole: bool = True


@dataclass(frozen=True, kw_only=True)
class Saying:
    """One term with its share of an explanation: the sum of the values where it stands, over the terms that share them."""

    name: str
    value: float


FIELDS: dict[str, Vocabulary] = {}


def register(vocabulary: Vocabulary) -> Vocabulary:
    """Add the terms of another field; a name that is taken is refused."""
    if vocabulary.name in FIELDS:
        raise MethodError(f"There is a vocabulary {vocabulary.name!r} already", hint="another name")
    FIELDS[vocabulary.name] = vocabulary
    return vocabulary


def find(inputs: Any, vocabulary: str, **given: Any) -> list[list[Term]]:
    """The terms of each row.

    Args:
        inputs: images (rows, channels, height, width), token ids (rows, words), sequences of letters (rows, letters) as
            ids or (rows, letters, alphabet) as one of each, tables (rows, columns).
        vocabulary: "superpixels" (`count`), "concepts" (`masks`: concept to (rows, height, width)), "words" (`names` of the
            ids, `padding`), "motifs" (`motifs`, `letters`), "columns" (`names`), or what `register` has added.

    Example:
        >>> import torch
        >>> from pellucid.show import terms
        >>> [term.name for term in terms.find(torch.tensor([[2, 1, 0]]), "words", names=("", "soup", "good"))[0]]
        ['good', 'soup']
    """
    if vocabulary not in FIELDS:
        raise MethodError("There is no such vocabulary", got=repr(vocabulary), hint=", ".join(FIELDS))
    return FIELDS[vocabulary].find(as_inputs(inputs).tensors[0].detach().cpu(), **given)


def at(terms: Sequence[Term], place: int | tuple[int, ...]) -> list[Term]:
    """The terms that stand at a place: the way back from the raw input."""
    return [term for term in terms if bool(term.where[place])]


def said(result: Attribution, terms: Sequence[Sequence[Term]]) -> list[list[Saying]]:
    """Each row's terms with their shares, the largest first; a place with several terms is shared evenly among them.

    What lies at places without a term is told as "everything else", so that a row's shares sum to its values.
    """
    values = result.values
    if not isinstance(values, Tensor) or len(values) != len(terms):
        raise InputError("The 'terms' must be those of the explanation's rows", got=f"{len(terms)} rows of terms")
    return [_row(v, row) for v, row in zip(values.detach().cpu().double(), terms, strict=True)]


def told(result: Attribution, terms: Sequence[Sequence[Term]], most: int = 3) -> list[str]:
    """One sentence a row: the terms that raise and that lower the score, by size."""
    lines = []
    for row in said(result, terms):
        up = [s.name for s in row if s.value > 0][:most]
        down = [s.name for s in row if s.value < 0][:most]
        parts = [f"{', '.join(names)} {verb}" for names, verb in ((up, "raised"), (down, "lowered")) if names]
        lines.append(f"{' and '.join(parts)} the score." if parts else "Nothing that has a name moved the score.")
    return lines


def _row(values: Tensor, terms: Sequence[Term]) -> list[Saying]:
    places = tuple(terms[0].where.shape) if terms else tuple(values.shape)
    flat = _at_places(values, places)
    counts = sum((t.where.double() for t in terms), torch.zeros(places, dtype=torch.float64))
    shared = torch.where(counts > 0, flat / counts.clamp(min=1), 0.0)
    found = [Saying(name=t.name, value=float(shared[t.where].sum())) for t in terms]
    if bool((counts == 0).any()):
        found.append(Saying(name="everything else", value=float(flat[counts == 0].sum())))
    return sorted(found, key=lambda s: -abs(s.value))


def _at_places(values: Tensor, places: tuple[int, ...]) -> Tensor:
    """One figure a place: channels of images and dimensions of vectors added up."""
    if tuple(values.shape) == places:
        return values
    for axis in (0, -1):
        rest = values.sum(axis) if values.dim() == len(places) + 1 else values
        if tuple(rest.shape) == places:
            return rest
    raise InputError(f"The explanation must have the terms' places, {places} a row", got=f"shape {tuple(values.shape)}")


def _superpixels(images: Tensor, count: int = 16) -> list[list[Term]]:
    """Connected regions of like colour, called by their place in the picture."""
    if images.dim() != 4 or not images.is_floating_point():
        raise InputError(
            "Superpixels are those of images (rows, channels, height, width)", got=f"{tuple(images.shape)}"
        )
    found = []
    for labels in regions_of(images, count)[:, 0]:
        masks = [labels == number for number in range(int(labels.max()) + 1)]
        found.append(_numbered([Term(name=_ninth(mask), where=mask) for mask in masks]))
    return found


def _ninth(mask: Tensor) -> str:
    """Where in the picture a region has its centre."""
    row, column = (float(axis.double().mean()) for axis in mask.nonzero(as_tuple=True))
    height, width = mask.shape
    return f"region at the {NINTHS[min(2, int(3 * row / height))][min(2, int(3 * column / width))]}"


def _concepts(images: Tensor, masks: Mapping[str, Any]) -> list[list[Term]]:
    """What people or a segmentation marked: each concept that shows in a picture, with its pixels."""
    wanted = (len(images), *images.shape[2:])
    found: list[list[Term]] = [[] for _ in range(len(images))]
    for name in masks:
        mask = torch.as_tensor(masks[name]).detach().cpu()
        if tuple(mask.shape) != wanted:
            raise InputError(f"The mask of {clean(name)!r} must have shape {wanted}", got=f"{tuple(mask.shape)}")
        for row, where in enumerate(mask.bool()):
            if bool(where.any()):
                found[row].append(Term(name=clean(name), where=where))
    return found


def _words(ids: Tensor, names: Sequence[str], padding: int | None = 0) -> list[list[Term]]:
    """The words of token ids; a word that stands several times is told apart by its turn."""
    if ids.dim() != 2 or ids.is_floating_point():
        raise InputError("Words are those of token ids (rows, words)", got=f"{ids.dtype} of shape {tuple(ids.shape)}")
    if int(ids.max()) >= len(names) or int(ids.min()) < 0:
        raise InputError(f"The ids must be from 0 to {len(names) - 1}, as there are names", got=f"{int(ids.max())}")
    return [
        _numbered([Term(name=clean(names[i]), where=_only(p, len(row))) for p, i in enumerate(row) if i != padding])
        for row in ids.tolist()
    ]


def _motifs(sequences: Tensor, motifs: Sequence[str], letters: str = "ACGT") -> list[list[Term]]:
    """Where each motif stands; one may overlap another, and the rest of the sequence has no name."""
    if sequences.dim() == 3 and sequences.shape[2] == len(letters):
        sequences = sequences.argmax(2)
    if sequences.dim() != 2 or sequences.is_floating_point() or int(sequences.max()) >= len(letters):
        raise InputError(
            f"Sequences must be ids (rows, letters) below {len(letters)}, or (rows, letters, {len(letters)})",
            got=f"{sequences.dtype} of shape {tuple(sequences.shape)}",
        )
    if bad := [m for m in motifs if not m or any(c not in letters and c not in AMBIGUOUS for c in m)]:
        raise InputError(f"A motif must be of the letters {letters} and {''.join(AMBIGUOUS)}", got=repr(bad[0]))
    found = []
    for row in sequences.tolist():
        text, terms = "".join(letters[i] for i in row), []
        for motif in motifs:
            for start in range(len(text) - len(motif) + 1):
                if all(c == t or t in AMBIGUOUS.get(c, "") for c, t in zip(motif, text[start:], strict=False)):
                    where = torch.zeros(len(text), dtype=torch.bool)
                    where[start : start + len(motif)] = True
                    terms.append(Term(name=f"{motif} at {start + 1}", where=where))
        found.append(terms)
    return found


def _columns(table: Tensor, names: Sequence[str]) -> list[list[Term]]:
    """The columns of a table by their names."""
    if table.dim() != 2 or table.shape[1] != len(names):
        raise InputError(f"The table must have the {len(names)} columns that are named", got=f"{tuple(table.shape)}")
    row = [Term(name=clean(name), where=_only(p, len(names))) for p, name in enumerate(names)]
    return [list(row) for _ in range(len(table))]


def _only(place: int, count: int) -> Tensor:
    return torch.arange(count) == place


def _numbered(terms: Sequence[Term]) -> list[Term]:
    """The same terms, those of equal names told apart by their turn."""
    names = [t.name for t in terms]
    turns: dict[str, int] = {}
    found = []
    for term in terms:
        turns[term.name] = turn = turns.get(term.name, 0) + 1
        several = names.count(term.name) > 1
        found.append(Term(name=f"{term.name} ({turn})" if several else term.name, where=term.where))
    return found


for _vocabulary in (
    Vocabulary(name="superpixels", field="images", terms="connected regions of like colour", find=_superpixels),
    Vocabulary(
        name="concepts",
        field="images",
        terms="colours, textures, materials, parts, objects, scenes",
        find=_concepts,
        whole=False,
    ),
    Vocabulary(name="words", field="texts", terms="words", find=_words),
    Vocabulary(name="motifs", field="sequences", terms="motifs", find=_motifs, whole=False),
    Vocabulary(name="columns", field="tables", terms="columns", find=_columns),
):
    register(_vocabulary)
