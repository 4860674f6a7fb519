"""Figures about tables: rows of columns with names and units."""

from __future__ import annotations

from gallery_entry import Drawn, entry

import pellucid as px


def tree() -> Drawn:
    """The iris network imitated by thresholds."""
    world, model = px.zoo.data("iris-mlp"), px.zoo.load("iris-mlp")
    # The network reads standardised columns; the tree is to speak of centimetres.
    subject = px.Subject(lambda rows: model(world.standardised(rows)), classes=world.classes, features=world.features)
    flowers, known = (world.original(rows).float() for rows in (world.test[0], world.train[0]))
    result = px.explain(subject, flowers, px.rules.CartSurrogate(max_depth=3), data=known)
    agrees = float(result.facts["agrees"].double().mean())
    assert agrees >= 0.85
    return Drawn(
        result.show(),
        f"On the {len(world.test[0])} held-out flowers, which it has not seen, the tree gives the network's answer for "
        f"{100 * agrees:.0f} %; the figure in the title is measured on a share of the training flowers kept from the tree.",
    )


ENTRIES = (*entry("tree", "Rules", "cart-c45-surrogate", tree),)
