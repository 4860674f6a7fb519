"""The same masks and answers fitted by lime's own program."""

import warnings

import numpy as np
import pytest
import torch

from pellucid.engine.regression import weighted

lime_base = pytest.importorskip("lime.lime_base", exc_type=ImportError)


def test_the_fit_equals_limes_on_the_same_masks():
    draw = np.random.default_rng(0)
    masks = (draw.random((80, 9)) < 0.5).astype(float)
    masks[0] = 1.0
    answers = np.sin(masks @ draw.normal(size=(9, 3))) + masks[:, :3]
    distances = 1 - np.sqrt(masks.sum(1) / 9)  # the cosine distance of a mask to the whole input
    width = 0.25
    base = lime_base.LimeBase(lambda d: np.sqrt(np.exp(-(d**2) / width**2)), random_state=0)
    ours = weighted(
        torch.from_numpy(masks),
        torch.exp(-(torch.from_numpy(distances) ** 2) / (2 * width**2)),
        torch.from_numpy(answers.T.copy()),
        ridge=1.0,
    )
    for label in range(3):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            intercept, local, r2, says = base.explain_instance_with_data(
                masks, answers, distances, label, 9, feature_selection="none"
            )
        theirs = np.zeros(9)
        for feature, slope in local:
            theirs[feature] = slope
        assert np.allclose(ours.slopes[label].numpy(), theirs, atol=1e-10)
        assert ours.intercept[label].item() == pytest.approx(intercept, abs=1e-10)
        assert ours.r2[label].item() == pytest.approx(r2, abs=1e-10)
        assert (ours.intercept + ours.slopes.sum(1))[label].item() == pytest.approx(float(says[0]), abs=1e-10)
