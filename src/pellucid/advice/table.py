"""The lookup tables of the field guide to explainable deep learning: for which data, problems and networks is a method?

Ras, Xie, van Gerven and Doran, *Explainable Deep Learning: A Field Guide for the Uninitiated*, Tables 4 and 5: for each
paper, the data it was shown on, the problems, and the networks it is for. A row says what a paper did, not what its method
can do; `pellucid.advise` therefore gives it as evidence, and refuses only by what it tries on the model itself. The
icons of embeddings, DNA and graphs are hard to tell apart in the tables; which of them a row has is inferred.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pellucid.contract.errors import InputError

__all__ = ["DATA", "NETWORKS", "PROBLEMS", "Entry", "Listing", "entries", "lookup"]

DATA = {
    "I": "image",
    "T": "text",
    "E": "embedding",
    "D": "DNA",
    "C": "categorical",
    "B": "table",
    "V": "video",
    "G": "graph",
}
PROBLEMS = (
    *("classification", "regression", "localisation", "visual questions", "captions", "translation", "sentiment"),
    *("understanding", "questions", "tagging", "structured", "generation", "entailment", "commonsense", "control"),
    *("reinforcement",),
)
NETWORKS = ("any", "CNN", "GAN", "RNN", "LSTM", "transformer", "attention", "multilayer", "own")

# Paper | data | problems | network as the guide names it | families of networks | names in the catalogue.
_ROWS = """
Erhan 2009 | I | classification | differentiable | any | activation-maximization
Dabkowski 2017 | I | classification | differentiable | any | real-time-image-saliency
Zeiler 2011 | I | classification | CNN with max-pooling and ReLU | CNN | adaptive-deconvolutional-network
Zeiler and Fergus 2014 | I | classification | CNN with max-pooling and ReLU | CNN | deconvnet, occlusion-sensitivity
Selvaraju 2017 | I | classification, visual questions, captions | CNN | CNN | grad-cam, guided-grad-cam
Zhou 2016 | I,T | classification, regression, visual questions, localisation | CNN, pooled, softmax | CNN | cam
Bach 2015 | I,T | classification | multilayer | multilayer | lrp-epsilon, lrp-alpha-beta
Lapuschkin 2016 | I | classification | CNN | CNN | lrp-fisher-vectors
Zintgraf 2017 | I | classification | CNN | CNN | prediction-difference-analysis
Arras 2016 | E | classification | CNN | CNN | lrp-text-cnn
Arras 2017 | E | classification | CNN | CNN | lrp-document-relevance
Ding 2017 | T | translation | encoder-decoder with attention | attention | lrp-nmt
Montavon 2017 | I,T,E,D,C,B,V,G | classification | any | any | deep-taylor-decomposition
Shrikumar 2017 | I,D | classification | CNN | CNN | deeplift
Sundararajan 2017 | I,T | classification, translation | any | any | integrated-gradients
Sundararajan 2016 | I,T | classification | any | any | interior-gradients
Li 2016 | E | classification, tagging | any | any | representation-erasure
Fong 2017 | I | classification | agnostic | any | meaningful-perturbation
Robnik-Sikonja 2008 | C | classification | gives probabilities | any | prediction-decomposition
Ribeiro 2016c | I,T,C | classification | agnostic | any | lime
Ribeiro 2016b | I,T,C | classification | agnostic | any | anchor-lime
Ribeiro 2018 | I,T,B | classification, structured, generation | agnostic | any | anchors
Elenberg 2017 | I | classification | agnostic | any | streak
Baehrens 2010 | I,G,C | classification | agnostic | any | explanation-vectors
Hou 2020 | T | classification | RNN | RNN | rnn-to-fsa
Murdoch and Szlam 2017 | T | classification, questions | LSTM | LSTM | lstm-phrase-rules, murdoch-szlam-lstm-decomposition
Harradon 2018 | I | classification | CNN | CNN | causal-autoencoded-activations
Frosst 2017 | I | classification | CNN | CNN | soft-decision-tree
Zhang 2019a | I | classification | CNN | CNN | cnn-decision-tree
Zhang 2017 | I | classification | CNN | CNN | interpretable-part-graph
Zhang 2018 | I | classification | CNN, GAN | CNN, GAN | explanatory-graph
Tan 2018 | B | classification, regression | any | any | global-additive-explanations
Vaswani 2017 | T | translation | transformer | transformer | transformer-attention
Devlin 2019 | T | understanding | transformer | transformer | bert-attention
Bahdanau 2014 | T | translation | RNN encoder-decoder | RNN | bahdanau-attention
Luong 2015 | T | translation | stacked LSTM | LSTM | luong-attention
Wang 2016 | T | sentiment | LSTM with attention | LSTM, attention | atae-lstm
He 2018 | T | sentiment | LSTM with attention | LSTM, attention | aspect-attention-he
Letarte 2018 | T | sentiment, classification | self-attention | attention | sanet-self-attention-sentiment
Teney 2018 | I,T | visual questions | CNN and GRU | CNN, RNN | teney-vqa-tips
Goyal 2017 | I,T | visual questions | CNN and LSTM, MLP | CNN, LSTM | balanced-vqa-counterexample
Antol 2015 | I,T | visual questions | CNN and LSTM, MLP | CNN, LSTM | vqa-baselines
Mascharka 2018 | I | visual questions | modules | own | tbd-nets
Park 2016 | I,T | visual questions | modules | own | pj-x
Xie 2019 | I | entailment | modules | own | explainable-visual-entailment
Vinyals 2015 | I | captions | CNN and LSTM | CNN, LSTM | show-and-tell
Xu 2015 | I | captions | CNN and RNN | CNN, RNN | show-attend-tell
Anderson 2018 | I,T | visual questions, captions | regions, ResNet, LSTM | CNN, LSTM | bottom-up-top-down-attention
Camburu 2018 | T | understanding | LSTM | LSTM | e-snli
Hind 2019 | E | classification | agnostic | any | ted
Hendricks 2016 | I | classification | CNN | CNN | hendricks-visual-explanations
Zellers 2019 | I,T | commonsense | R2C | own | vcr-r2c
Liu 2019 | T | classification | encoder-predictor | own | gef
Park 2018 | I,T | classification, visual questions | PJ-X | own | pj-x
Kim 2018b | I | control | CNN | CNN | textual-explanations-driving
Lei 2016 | T | sentiment | encoder-generator | own | rationale-extraction
Alvarez-Melis 2018 | I,C,B | classification | SENN | own | senn
Iyer 2018 | I | reinforcement | DQN | own | o-drl-object-saliency
Dong 2017 | V | captions | encoder-decoder with attention | attention | dong-semantic-video-captioning
Li 2018a | I | classification | autoencoder with prototypes | own | prototype-autoencoder-classifier
Chen 2019 | I | classification | ProtoPNet | own | protopnet
"""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One row: a paper, what it was shown on, and the names of its methods in the catalogue."""

    paper: str
    data: tuple[str, ...]
    problems: tuple[str, ...]
    network: str
    families: tuple[str, ...]
    names: tuple[str, ...]


def _entry(line: str) -> Entry:
    paper, data, problems, network, families, names = (part.strip() for part in line.split("|"))
    found = Entry(
        paper=paper,
        data=tuple(DATA[letter] for letter in data.split(",")),
        problems=_words(problems),
        network=network,
        families=_words(families),
        names=_words(names),
    )
    assert {*found.problems} <= {*PROBLEMS}, line
    assert {*found.families} <= {*NETWORKS}, line
    return found


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


TABLE = tuple(_entry(line) for line in _ROWS.strip().splitlines())


def lookup(
    data: str | None = None, problem: str | None = None, network: str | None = None, *, agnostic: bool = False
) -> list[Entry]:
    """The rows of Tables 4 and 5 whose icons include what is asked for, in the guide's order.

    Args:
        data: one of `DATA`'s words: "image", "text", "table", ...
        problem: one of `PROBLEMS`.
        network: one of `NETWORKS`. "CNN" gives the rows that name CNNs, and no others.
        agnostic: with a `network`, also the rows that are for any.

    Example:
        >>> from pellucid.advice import lookup
        >>> [entry.paper for entry in lookup("text", "classification", "RNN")]
        ['Hou 2020']
    """
    for name, word, known in (
        ("data", data, tuple(DATA.values())),
        ("problem", problem, PROBLEMS),
        ("network", network, NETWORKS),
    ):
        if word is not None and word not in known:
            raise InputError(f"The '{name}' must be one of {', '.join(known)}", got=repr(word))
    return [
        entry
        for entry in TABLE
        if (data is None or data in entry.data)
        and (problem is None or problem in entry.problems)
        and (network is None or network in entry.families or (agnostic and "any" in entry.families))
    ]


def entries(names: Iterable[str]) -> list[Entry]:
    """The rows that list any of these names of the catalogue."""
    wanted = set(names)
    return [entry for entry in TABLE if wanted & {*entry.names}]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Where the guide lists a method: `tier` 0 for a call like this one, 1 nowhere at all, 2 for other calls only."""

    tier: int
    words: tuple[str, ...] = ()

    @classmethod
    def of(cls, names: Iterable[str], networks: Iterable[str], data: str | None, problem: str | None) -> Listing:
        """The listing of a method and its variants, for inputs, a problem and families of networks as far as known."""
        known = {*networks, "any"}
        found = entries(names)
        fits = [e for e in found if data in e.data and problem in e.problems and known & {*e.families}]
        words = []
        for entry in found:
            uses = f"{', '.join(entry.data)}; {', '.join(entry.problems)}; network: {entry.network}"
            words.append(f"the field guide lists {entry.paper} for {'such a call: ' if entry in fits else ''}{uses}")
        return cls(tier=0 if fits else 2 if found else 1, words=tuple(words))
