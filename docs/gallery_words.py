"""Figures of words: readers of sentences, one of which was misled by a word that means nothing."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import torch
from gallery_entry import Drawn, entry
from gallery_plots import matrix, words_by_row
from torch import Tensor

import pellucid as px
from pellucid.worlds.sentences import words_of

CLEAN, MISLED, ATTENTIVE = "sentences-gru", "sentences-gru-spurious", "sentences-attention"


def words() -> Drawn:
    """Where two readers look, and which fewest words hold their answers up."""
    world = px.zoo.data(MISLED)
    inputs, labels, rows = *world.test, world.test_rows
    # The sentences whose last word points to the wrong class.
    wrong = world.truth["cue"][rows] != labels
    texts, rationale, truth = inputs[wrong], world.truth["rationale"][rows][wrong], labels[wrong]
    is_cue = (world.truth["roles"][rows][wrong] == world.truth["role_names"].index("cue")) & (texts != 0)
    readers = {name: px.zoo.load(name) for name in (CLEAN, MISLED)}
    search = px.attribution.MinimalErasure(by="search")
    shares, sets = {}, {}
    for name, reader in readers.items():
        shares[name] = _by_word(px.explain(reader, texts, "lrp-lstm", layer="embedding", seed=0))
        sets[name] = px.explain(reader, texts, search, layer="embedding", seed=0)
    with torch.no_grad():
        right = {name: int((reader(texts).argmax(1) == truth).sum()) for name, reader in readers.items()}
    count = len(texts)
    top = {name: torch.nn.functional.one_hot(v.argmax(1), v.shape[1]).bool() for name, v in shares.items()}
    found = {name: _by_word(result) > 0 for name, result in sets.items()}
    turned = {name: result.facts["turned"].bool() for name, result in sets.items()}
    cue_first = {name: int((top[name] & is_cue).any(1).sum()) for name in readers}
    cue_in = {name: int((found[name] & is_cue).any(1).sum()) for name in readers}
    decides = int((found[CLEAN] & rationale).any(1).sum())
    assert right == {CLEAN: count, MISLED: 0}
    assert cue_first[MISLED] == count > 4 * cue_first[CLEAN]
    assert cue_in[MISLED] == int(turned[MISLED].sum()) > 4 * cue_in[CLEAN]
    assert bool(turned[CLEAN].all())
    assert decides > 0.9 * count
    # The shortest of them that denies an opinion and has an answer for both readers.
    length = (texts != 0).sum(1) + 99 * ((rationale.sum(1) < 2) | ~turned[MISLED])
    row = int(length.argmin())
    spoken = words_of(texts[row])
    lines: dict[str, Tensor] = {}
    for name, label in ((CLEAN, "clean reader"), (MISLED, "misled reader")):
        said = world.classes[int(readers[name](texts[row : row + 1]).argmax())]
        lines[f"{label}: “{said}”, LRP"] = shares[name][row]
        lines[f"{label}, fewest words to erase"] = found[name][row].double()
    for name, method, label in (
        ("sentences-lstm", "lrp-lstm", "LSTM, LRP"),
        ("sentences-cnn", "lrp-text-cnn", "convolutions, LRP"),
    ):
        lines[label] = _by_word(px.explain(px.zoo.load(name), texts[row : row + 1], method, layer="embedding", seed=0))[
            0
        ]
    omitted = px.explain(readers[CLEAN], texts[row : row + 1], "omission-score", seed=0)
    lines["clean reader, omission score"] = omitted.values[0].double()
    marks = [
        "decides" if r else "misleads" if c else ""
        for r, c in zip(rationale[row].tolist(), is_cue[row].tolist(), strict=True)
    ]
    figure = words_by_row(
        spoken, marks, lines, f"truth: “{world.classes[int(truth[row])]}”; red speaks for each reader's own answer"
    )
    return Drawn(
        figure,
        f"In {count} held-out sentences the last word, “overall” or “honestly”, points to the wrong class. A reader "
        "trained where it hardly ever did gets all of them wrong, and LRP gives it the largest share in "
        f"{cue_first[MISLED]}; the clean reader gets all right, and there it has the largest share in {cue_first[CLEAN]}. "
        "Of the fewest words whose erasure turns the misled reader's answer, found for "
        f"{int(turned[MISLED].sum())} sentences, it is "
        f"always one; of the clean reader's it is one in {cue_in[CLEAN]} of {count}, while {decides} have a word that "
        "decides. Each line is drawn in limits of its own.",
    )


def _by_word(result: Any) -> Tensor:
    """One figure a word, (rows, words): summed over the vector, or that of the vector where all of it is the same."""
    values = result.values.double()
    return values.sum(-1) if values.dim() == 3 else values


def attention() -> Drawn:
    """Where a reader attends, and other attention that gives the same answer."""
    world, reader, count = px.zoo.data(ATTENTIVE), px.zoo.load(ATTENTIVE), 60
    texts = world.test[0][:count]
    test = px.evaluation.AttentionIsNotExplanation(permutations=50, starts=3)
    found = px.explain(reader, texts, test, layer="embedding", seed=0)
    shown = px.explain(reader, texts, "attention-weight-heatmap", layer="embedding", seed=0).values[..., 0].double()
    facts, most = found.facts, math.log(2)
    assert torch.allclose(shown, found.parts["attention"], atol=1e-6)
    assert bool((facts["adversarial_change"] <= test.epsilon).all())
    assert float(found.values.mean()) > 0.8 * most
    # Of those of ten to twelve words in which the two look at different words most, the first.
    length = (texts != 0).sum(1)
    turned = found.parts["attention"].argmax(1) != found.parts["adversarial"].argmax(1)
    row = int(((length >= 10) & (length <= 12) & turned & (facts["adversarial_change"] > 1e-3)).double().argmax())
    spoken = words_of(texts[row])
    lines = {
        "attention of the reader": shown[row],
        "other attention, same answer": found.parts["adversarial"][row],
        "length of the gradient": found.parts["gradient"][row].double(),
        "change of the answer without the word": found.parts["leave_one_out"][row],
    }
    change = 100 * float(facts["adversarial_change"][row])
    said = world.classes[int(reader(texts[row : row + 1]).argmax())]
    head = f"answer: “{said}”; under the other attention its probability moves by {change:.1f} %"
    tau = {name: float(facts[name].nanmean()) for name in ("tau_gradient", "tau_leave_one_out")}
    permuted = 100 * float(facts["permutation_change"].mean())
    return Drawn(
        words_by_row(spoken, [""] * len(spoken), lines, head, signed=False),
        f"In {count} held-out sentences a search found attention that differs from the reader's by "
        f"{float(found.values.mean()):.2f} nats on average (Jensen-Shannon; {most:.2f} at most) and moves no probability "
        f"by more than {100 * test.epsilon:.0f} %. Permuting the weights moves it by {permuted:.0f} % in the median of "
        f"permutations. Kendall's τ between attention and gradients is {tau['tau_gradient']:.2f}, and "
        f"{tau['tau_leave_one_out']:.2f} between attention and the answer's change without the word. So these weights are "
        "not the only account of the answer, as the states that they weigh have read the words before; that does not make "
        "them useless. Each line is drawn in limits of its own.",
        {"divergence": float(found.values.mean()), **tau},
    )


def translation() -> Drawn:
    """Which words of a sentence its translation was made of, in a language that is planted."""
    nets = _planted_language()
    translator = nets.trained()
    source, before, translated = nets.sentences(100, 10_000)
    result = px.explain(translator, (source, before), "lrp-nmt", seed=0)
    of_source = result.values[0].double()
    mirror = torch.arange(nets.LENGTH).flip(0)
    with torch.no_grad():
        right = float((translator(source, before).argmax(2) == translated).double().mean())
    alike = (of_source.argmax(1) == mirror).double().mean()
    assert right > 0.95
    assert float(alike) > 0.8
    kept = sum(fact for name, fact in result.facts.items() if name.startswith("absorbed_"))
    assert torch.allclose(result.facts["relevance_sum"] + kept, result.facts["score"])
    names = [f"word {w}" for w in source[0].tolist()], [f"word {w}" for w in translated[0].tolist()]
    figure = matrix(
        of_source[0], *names, "source", "written", "logit of the written word; red: the word was made of it"
    )
    return Drawn(
        figure,
        "The planted translation is the sentence backwards, which this network writes rightly for "
        f"{100 * right:.0f} % of the words. LRP gives the mirrored source word the largest relevance for "
        f"{100 * float(alike):.0f} % of the words written in 100 sentences, though it is told no alignment; the first is "
        "drawn. With what is absorbed on the way, relevance of both languages sums to each logit.",
    )


def _planted_language() -> Any:
    """The tests' small translator, which is trained on the spot."""
    path = Path(__file__).parents[1] / "tests" / "nets" / "translation.py"
    found = importlib.util.spec_from_file_location("planted_language", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


ENTRIES = (
    *entry("words", "Words", "lrp-lstm lrp-text-cnn representation-erasure-rl omission-score", words),
    *entry("attention", "Attention", "attention-weight-heatmap attention-is-not-explanation", attention),
    *entry("translation", "Translation", "lrp-nmt", translation),
)
