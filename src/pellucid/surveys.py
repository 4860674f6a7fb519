"""Where does a method stand in the taxonomies of the field's surveys? Every method has one place in each of them.

A card may say where its authors would look for it; what it does not say follows from its form, its scope, whether it is
active and what it needs. Places are paths in the survey's own tree, in the survey's own order; branches without a method
are kept, since they are part of the map.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pellucid.contract.card import Card
from pellucid.contract.errors import MethodError

__all__ = ["DIMENSIONS", "EVALUATION", "SURVEYS", "TREES", "dimensions", "place", "places", "tree"]

SURVEYS = {
    "000": "Shahroudnejad 2021, understanding, visualisation and explanation",
    "001": "Ras, Xie, van Gerven and Doran, a field guide",
    "002": "Fan, Xiong, Li and Wang 2021, interpretability of neural networks",
    "003": "Zhang, Tiňo, Leonardis and Tang 2021, neural-network interpretability",
    "004": "Zhang and Zhu 2018, visual interpretability",
    "gilpin": "Gilpin et al. 2018, explaining explanations",
}
EVALUATION = "evaluation"

# The third survey's three dimensions, in its order: engagement, explanation (of rising power) and scope.
DIMENSIONS = {
    "engagement": ("passive", "active"),
    "explanation": ("example", "attribution", "hidden semantics", "rule"),
    "scope": ("local", "semi-local", "global"),
}

TREES: dict[str, tuple[str, ...]] = {
    "000": (
        *(f"structural/CNN/{part}" for part in ("first layer", "intermediate layers", "generality", "last layer")),
        *("structural/RNN", "behavioural/functional/gradients", "behavioural/functional/perturbation"),
        *("behavioural/functional/proxy", "behavioural/decision/relevance", "behavioural/decision/training data"),
        *("by design", "textual", EVALUATION),
    ),
    "001": (
        *("visualization/back-propagation", "visualization/perturbation"),
        *("distillation/local approximation", "distillation/model translation"),
        *("intrinsic/attention", "intrinsic/joint training"),
        *(f"associated/{part}" for part in ("learning mechanism", "debugging", "adversarial", "fairness")),
        EVALUATION,
    ),
    "002": (
        *(f"post-hoc/{part}" for part in ("feature analysis", "model inspection")),
        *(f"post-hoc/saliency/{part}" for part in ("effects", "leave one out", "Shapley", "gradients", "relevance")),
        *(f"post-hoc/saliency/{part}" for part in ("mutual information", "masks", "activation maps", "attention")),
        *(f"post-hoc/proxy/{part}" for part in ("direct extraction", "distillation", "local explainer")),
        *("post-hoc/mathematics and physics", "post-hoc/explaining by case", "post-hoc/explaining by text"),
        *("ad-hoc/interpretable representation", "ad-hoc/model renovation", EVALUATION),
    ),
    "003": (
        *(
            f"{e}/{x}/{s}"
            for e in DIMENSIONS["engagement"]
            for x in DIMENSIONS["explanation"]
            for s in DIMENSIONS["scope"]
        ),
        *("text", EVALUATION),
    ),
    "004": ("visualise", "diagnose", "disentangle", "learn disentangled", "middle to end"),
    "gilpin": ("processing", "representation", "producing", EVALUATION),
}

# What cards write, from its beginning, and the branch of the survey that it is. The first that fits counts.
_SPELLINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "000": (
        ("structural/cnn/intermediate", "structural/CNN/intermediate layers"),
        ("structural/cnn/last", "structural/CNN/last layer"),
        ("structural/cnn/first", "structural/CNN/first layer"),
        ("structural/attention", "structural/RNN"),
        ("structural/decomposition", "structural/RNN"),
        ("structural/rnn", "structural/RNN"),
        ("behavioural/functional/layer-wise", "behavioural/decision/relevance"),
        ("behavioural/functional/perturbation/lime", "behavioural/functional/proxy"),
        ("behavioural/functional/evaluation", EVALUATION),
        ("behavioural/functional/perturbation", "behavioural/functional/perturbation"),
        ("behavioural/functional/gradients", "behavioural/functional/gradients"),
        ("behavioural/decision/training", "behavioural/decision/training data"),
        ("behavioural/decision", "behavioural/decision/relevance"),
    ),
    "001": (
        ("visualization/activation", "visualization/back-propagation"),
        ("visualization/attention", "intrinsic/attention"),
        ("visualization/perturbation/lime", "distillation/local approximation"),
        ("visualization/perturbation/streak", "distillation/local approximation"),
        ("visualization/perturbation", "visualization/perturbation"),
        ("distillation/local", "distillation/local approximation"),
        ("distillation/model translation", "distillation/model translation"),
        ("model-specific/rules", "distillation/model translation"),
        ("model-specific", "visualization/back-propagation"),
    ),
    "002": (
        ("post-hoc/saliency/activation", "post-hoc/saliency/activation maps"),
        ("post-hoc/saliency/attention", "post-hoc/saliency/attention"),
        ("post-hoc/saliency/decomposition", "post-hoc/saliency/relevance"),
        ("post-hoc/saliency/evaluation", EVALUATION),
        ("post-hoc/saliency/validation", EVALUATION),
        ("post-hoc/proxy/stability", EVALUATION),
        ("post-hoc/saliency/perturbation/mask", "post-hoc/saliency/masks"),
        ("post-hoc/saliency/perturbation", "post-hoc/saliency/leave one out"),
        ("post-hoc/saliency/sensitivity", "post-hoc/saliency/effects"),
        ("post-hoc/saliency/shapley", "post-hoc/saliency/Shapley"),
        ("post-hoc/feature-analysis", "post-hoc/feature analysis"),
        ("post-hoc/local approximation", "post-hoc/proxy/local explainer"),
        ("post-hoc/proxy/direct", "post-hoc/proxy/direct extraction"),
        ("post-hoc/explaining-by-case", "post-hoc/explaining by case"),
        ("post-hoc/explaining-by-text", "post-hoc/explaining by text"),
        ("post-hoc/model-renovation", "ad-hoc/model renovation"),
    ),
    "003": (("passive/attribution/evaluation", EVALUATION),),
    "004": (("explain", "diagnose"),),
    "gilpin": (),
}
_EXPLANATION = {
    "examples": "example",
    "attribution": "attribution",
    "semantics": "hidden semantics",
    "rules": "rule",
}


def places(card: Card) -> dict[str, str]:
    """The method's place in every survey.

    Example:
        >>> import pellucid as px
        >>> from pellucid.surveys import places
        >>> places(px.catalogue.card("lime"))["001"]
        'distillation/local approximation'
    """
    return {survey: place(card, survey) for survey in SURVEYS}


def place(card: Card, survey: str) -> str:
    """The method's place in one survey: what its card says where that is a branch of the tree, else what follows."""
    branches = _branches(survey)
    said = card.taxonomy.get(survey, "").lower()
    if survey == "002" and card.form == "attribution" and "shap" in card.name:
        return (
            "post-hoc/saliency/Shapley"  # cards say saliency by perturbation, or by gradients, which they are as well
        )
    if said.startswith(EVALUATION) and EVALUATION in branches:
        return EVALUATION
    for start, branch in _SPELLINGS[survey]:
        if said.startswith(start):
            return branch
    for branch in branches:
        if said and (said == branch.lower() or said.startswith(f"{branch.lower()}/")):
            return branch
    return _FOLLOWS[survey](card)


def tree(survey: str, cards: Iterable[Card]) -> dict[str, tuple[str, ...]]:
    """A survey's branches in its order, each with the names of the methods there; empty ones too."""
    found: dict[str, list[str]] = {branch: [] for branch in _branches(survey)}
    for card in sorted(cards, key=lambda c: c.name):
        found[place(card, survey)].append(card.name)
    return {branch: tuple(names) for branch, names in found.items()}


def dimensions(card: Card) -> tuple[str, str, str] | None:
    """Engagement, explanation and scope, the third survey's dimensions; None for what lies outside of them."""
    parts = place(card, "003").split("/")
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 else None


def _branches(survey: str) -> tuple[str, ...]:
    if survey not in TREES:
        raise MethodError(f"The 'survey' must be one of {', '.join(SURVEYS)}", got=repr(survey))
    return TREES[survey]


def _structure(card: Card) -> str:
    """000: looking at structure, at behaviour, or built to be understood."""
    if card.form == "measure":
        return EVALUATION
    if card.active:
        return "by design"
    if card.form == "attribution":
        if "backward rules" in card.needs:
            return "behavioural/decision/relevance"
        ways = {True: "behavioural/functional/gradients", False: "behavioural/functional/perturbation"}
        return ways["gradient" in card.needs]
    forms = {"semantics": "structural/CNN/intermediate layers", "examples": "behavioural/decision/training data"}
    return forms.get(card.form, "textual" if card.form == "text" else "behavioural/functional/proxy")


def _guide(card: Card) -> str:
    """001: seen, distilled or built in."""
    if card.form == "measure":
        return EVALUATION
    if card.active:
        return "intrinsic/joint training"
    inside = {"gradient", "layers", "backward rules", "spatial layer"} & {*card.needs}
    seen = "visualization/back-propagation" if inside else "visualization/perturbation"
    forms = {"rules": "distillation/model translation", "text": "intrinsic/joint training", "attribution": seen}
    return forms.get(card.form, "associated/debugging" if card.form == "examples" else "visualization/back-propagation")


def _interpretability(card: Card) -> str:
    """002: after the training or before it."""
    if card.form == "measure":
        return EVALUATION
    if card.active:
        return "ad-hoc/interpretable representation"
    if card.form == "attribution":
        if "backward rules" in card.needs:
            return "post-hoc/saliency/relevance"
        if "gradient" in card.needs:
            return "post-hoc/saliency/gradients"
        return "post-hoc/saliency/effects" if card.scope == "global" else "post-hoc/saliency/leave one out"
    return {
        "semantics": "post-hoc/feature analysis",
        "rules": "post-hoc/proxy/direct extraction",
        "examples": "post-hoc/explaining by case",
        "text": "post-hoc/explaining by text",
    }[card.form]


def _cube(card: Card) -> str:
    """003: three dimensions, which every card has."""
    if card.form not in _EXPLANATION:
        return EVALUATION if card.form == "measure" else card.form
    return f"{'active' if card.active else 'passive'}/{_EXPLANATION[card.form]}/{card.scope}"


def _visual(card: Card) -> str:
    """004: what is done with a network's representations."""
    if card.active:
        return "learn disentangled"
    return {"semantics": "visualise", "rules": "disentangle"}.get(card.form, "diagnose")


def _explaining(card: Card) -> str:
    """Gilpin et al.: how data are processed, what is represented, or an explanation that the network itself produces."""
    if card.form == "measure":
        return EVALUATION
    if card.active or card.form == "text":
        return "producing"
    return "representation" if card.form == "semantics" else "processing"


_FOLLOWS = {
    "000": _structure,
    "001": _guide,
    "002": _interpretability,
    "003": _cube,
    "004": _visual,
    "gilpin": _explaining,
}


def flattened(grown: Mapping[str, Iterable[str]]) -> list[str]:
    """The names in a tree, as often as they stand there."""
    return [name for names in grown.values() for name in names]
