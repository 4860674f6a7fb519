"""What equals what: relations between methods as data, each with its preconditions and where it is proved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__: list[str] = []

CHANGE, SCORE = "the score's change", "the score"


@dataclass(frozen=True, kw_only=True)
class Relation:
    """`left` gives what `right` gives, where all of `needs` hold.

    A side is a method's name with its settings, `CHANGE` or `SCORE`, which is compared with the sum of the other side's
    values. With ``places`` the right side is multiplied by the number of places of a map. `data` says whether the
    question's background goes to the methods, `limit` what may differ beyond rounding, for methods that stop at a
    tolerance of their own.
    """

    name: str
    left: str
    right: str
    needs: tuple[str, ...]
    says: str
    source: str
    left_settings: Mapping[str, Any] = field(default_factory=dict)
    right_settings: Mapping[str, Any] = field(default_factory=dict)
    places: bool = False
    data: bool = False
    limit: float = 0.0


PATH = {"tolerance": 1e-4, "max_steps": 2048}
EACH = {"features": "element"}

RELATIONS: tuple[Relation, ...] = (
    Relation(
        name="path completeness",
        left="integrated-gradients",
        left_settings=PATH,
        right=CHANGE,
        needs=("no jump",),
        says="integrated gradients add up to the change of the score since the baseline",
        source="Sundararajan, Taly & Yan 2017, proposition 1",
        limit=0.005,
    ),
    Relation(
        name="Euler's sum",
        left="gradient-x-input",
        right=SCORE,
        needs=("homogeneous",),
        says="gradient × input adds up to the score",
        source="Euler's theorem on homogeneous functions",
    ),
    Relation(
        name="straight path",
        left="integrated-gradients",
        left_settings=PATH,
        right="gradient-x-input",
        needs=("homogeneous",),
        says="the gradient is the same all along the path from zero",
        source="Ancona, Ceolini, Öztireli & Gross 2018, proposition 2 and after",
        limit=0.005,
    ),
    Relation(
        name="LRP-0 is gradient × input",
        left="lrp-epsilon",
        left_settings={"epsilon": 1e-9},
        right="gradient-x-input",
        needs=("rectifiers",),
        says="a unit's value over its argument is its slope; biases change both sides alike",
        source="Ancona et al. 2018, proposition 1; Kindermans et al. 2016",
    ),
    Relation(
        name="conservation",
        left="lrp-epsilon",
        left_settings={"epsilon": 1e-9},
        right=SCORE,
        needs=("nothing from nothing",),
        says="relevance adds up to the score where no bias takes a part of it",
        source="Bach et al. 2015, eq. 2",
    ),
    Relation(
        name="DeepLIFT's sum",
        left="deeplift",
        right=CHANGE,
        needs=(),
        says="contributions add up to the difference from the reference",
        source="Shrikumar, Greenside & Kundaje 2017, eq. 1",
    ),
    Relation(
        name="one bend",
        left="deeplift",
        right="integrated-gradients",
        right_settings=PATH,
        needs=("one layer",),
        says="a unit's mean slope along the path is its rise over its run",
        source="Ancona et al. 2018, §3; the case of one layer",
        limit=0.005,
    ),
    Relation(
        name="bent at the reference",
        left="deeplift",
        right="gradient-x-input",
        needs=("rectifiers", "nothing from nothing"),
        says="with the reference at the bend, a unit's rise over its run is its slope",
        source="Ancona et al. 2018, proposition 2",
    ),
    Relation(
        name="alone and together",
        left="feature-ablation",
        left_settings=EACH,
        right="shapley-value",
        right_settings=EACH,
        needs=("additive", "every coalition"),
        says="where inputs act alone, what goes when one goes is its share in every coalition",
        source="Shapley 1953, the axiom of dummies",
    ),
    Relation(
        name="path of an additive score",
        left="integrated-gradients",
        left_settings=PATH,
        right="feature-ablation",
        right_settings=EACH,
        needs=("additive", "no jump"),
        says="each input's own function is integrated from zero to its value",
        source="fundamental theorem of calculus",
        limit=0.005,
    ),
    Relation(
        name="path and coalitions",
        left="integrated-gradients",
        left_settings=PATH,
        right="shapley-value",
        right_settings=EACH,
        needs=("quadratic", "every coalition"),
        says="both share a product of two inputs evenly",
        source="Sundararajan & Najmi 2020, §3, for products of two",
        limit=0.005,
    ),
    Relation(
        name="Kernel SHAP with all coalitions",
        left="kernel-shap",
        left_settings=EACH,
        right="shapley-value",
        right_settings=EACH,
        needs=("every coalition",),
        says="the weighted regression over all coalitions has the Shapley values as its solution",
        source="Lundberg & Lee 2017, theorem 2",
    ),
    Relation(
        name="line through an additive score",
        left="lime",
        left_settings=EACH,
        right="feature-ablation",
        right_settings=EACH,
        needs=("additive",),
        says="a line over presences fits a sum exactly, whatever the weights",
        source="Ribeiro, Singh & Guestrin 2016, eq. 1, without its penalty",
    ),
    Relation(
        name="ablation of a line",
        left="feature-ablation",
        left_settings=EACH,
        right="gradient-x-input",
        needs=("affine",),
        says="what goes with an input is its weight times its value",
        source="Ancona et al. 2018, §4.1",
    ),
    Relation(
        name="noise on a line",
        left="smoothgrad",
        right="vanilla-gradient",
        needs=("affine",),
        says="the gradient is the same wherever noise goes",
        source="Smilkov et al. 2017, eq. 1",
    ),
    Relation(
        name="Deep SHAP of a line",
        left="deep-shap",
        right="shapley-value",
        right_settings=EACH,
        needs=("affine", "background", "every coalition"),
        says="both are the weight times the distance from the background's mean",
        source="Lundberg & Lee 2017, corollary 1",
        data=True,
    ),
    Relation(
        name="expected paths and differences",
        left="expected-gradients",
        left_settings={"exact": True, "steps": 256},
        right="deep-shap",
        needs=("one layer", "background"),
        says="the case of one layer, for each row of the background",
        source="as for DeepLIFT and integrated gradients",
        data=True,
        limit=0.01,
    ),
    Relation(
        name="Grad-CAM is CAM",
        left="cam",
        right="grad-cam",
        right_settings={"relu": False},
        needs=("pooled head",),
        says="a map's mean gradient is its weight over the number of places",
        source="Selvaraju et al. 2017, §3.1",
        places=True,
    ),
    Relation(
        name="HiResCAM is Grad-CAM",
        left="hires-cam",
        right="grad-cam",
        right_settings={"relu": False},
        needs=("pooled head",),
        says="the gradient is the same at every place of a map",
        source="Draelos & Carin 2020, §3",
    ),
    Relation(
        name="XGrad-CAM is Grad-CAM",
        left="xgrad-cam",
        left_settings={"relu": False},
        right="grad-cam",
        right_settings={"relu": False},
        needs=("pooled head",),
        says="a mean of equal gradients does not depend on the weights",
        source="Fu et al. 2020, §3",
    ),
    Relation(
        name="guided by nothing",
        left="guided-backprop",
        right="vanilla-gradient",
        needs=("no rectifier",),
        says="only rectifiers are treated otherwise",
        source="Springenberg et al. 2015, §3.4",
    ),
    Relation(
        name="γ of zero",
        left="lrp-gamma",
        left_settings={"gamma": 0.0, "stabiliser": 1e-9},
        right="lrp-epsilon",
        right_settings={"epsilon": 1e-9},
        needs=(),
        says="without favour for what supports, the rule is LRP-0",
        source="Montavon et al. 2019, §10.2.1",
    ),
)
