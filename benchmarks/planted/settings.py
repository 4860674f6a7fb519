"""Which methods are asked with other than their default settings, and which are not asked at all, always with the reason.

Everything else is asked with its defaults. "trial" stands for the cheap settings on a method's card.
"""

from __future__ import annotations

from typing import Any

from pellucid.contract import Method, registered

TRIAL = "trial"
PICTURES = ("objects", "cues")

# By method: the tasks, or None for all, and the settings. The reason is the time that the page may take, or that the
# default does not fit: a window over words is one word with all of its dimensions.
OTHERS: dict[str, list[tuple[tuple[str, ...] | None, str | dict[str, Any]]]] = {
    "acd": [(("objects", "cues", "weights"), {"features": ("grid", 4)})],
    "conductance": [(PICTURES, TRIAL)],
    "dasp": [(PICTURES, {"cells": 4, "sizes": 2}), (("weights",), {"cells": 4, "sizes": 2})],
    "deepconsensus": [(("seeds",), TRIAL)],
    "dmm-men": [(None, TRIAL)],
    "information-based-measure-nlp": [(PICTURES, TRIAL), (("weights",), TRIAL)],
    "integrated-gradients": [(PICTURES, {"tolerance": 0.05})],
    "l2x": [(PICTURES, {"chosen": 3, "steps": 60, "hidden": 32}), (None, {"chosen": 3, "steps": 150, "hidden": 32})],
    "mame": [(None, TRIAL)],
    "occlusion-sensitivity": [(("words",), {"window": (1, None), "stride": (1, 1)})],
    "prediction-decomposition": [(PICTURES, {"features": ("grid", 8)})],
    "prediction-difference-analysis": [(None, {"window": 4, "surround": 2, "stride": 4, "samples": 5})],
    "real-time-image-saliency": [(None, {"steps": 30, "width": 8, "depth": 2, "minibatch": 8})],
    "shapley-sampling": [(PICTURES, {"walks": 10})],
}

# Their values are slopes, which have no sum worth reading: a place's channels are pooled by the root of the sum of squares.
# Those of all others are parts of something, and are added, with their signs, before the size is taken.
SLOPES = frozenset(
    {
        *(
            "vanilla-gradient",
            "smoothgrad",
            "guided-backprop",
            "deconvnet",
            "guided-grad-cam",
            "word-gradient-saliency",
        ),
        *("caso-cafo", "explanation-vectors", "openbox-plnn", "registration-reconstruction-explanation"),
        *("sensitivity-analysis", "edge-detector"),
    }
)

# By method and task: why it is not asked.
LEFT_OUT: dict[tuple[str, str], str] = {
    ("openbox-plnn", task): "takes minutes for a picture: it solves for each of its values" for task in PICTURES
}


def chosen(name: str, task: str) -> tuple[Method, str]:
    """The method as it is asked in a task, and what its settings are called on the page."""
    cls = registered()[name]
    for tasks, settings in OTHERS.get(name, []):
        if tasks is None or task in tasks:
            if settings == TRIAL:
                return cls(**dict(cls.card.trial)), TRIAL
            assert isinstance(settings, dict)
            return cls(**settings), ", ".join(f"{k}={v!r}" for k, v in settings.items())
    return cls(), "defaults"
