"""Maps of tokens in transformers as a library spells them: exact sums, and the class token left out."""

import pytest
import torch

import pellucid as px
from pellucid.attribution import HiResCAM
from pellucid.contract.errors import LayerError

transformers = pytest.importorskip("transformers")
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def subject(cls, config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return px.Subject(cls(config).eval(), output="logits")


def vit():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.ViTConfig(image_size=32, patch_size=8, **sizes)
    return subject(transformers.ViTForImageClassification, config)


def name_of(model, ending):
    return [name for name, _ in model.model.named_modules() if name.endswith(ending)][-1]


def test_swin_has_exact_class_activation_maps():
    config = transformers.SwinConfig(
        image_size=32, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4
    )
    model = subject(transformers.SwinForImageClassification, config)
    got = px.explain(model, IMAGES, "cam", layer="swin.layernorm", target=1)
    assert got.values.shape == (2, 1, 8, 8)
    with torch.no_grad():
        logits = model.model(IMAGES).logits[:, 1]
    torch.testing.assert_close(got.values.mean((1, 2, 3)) + got.facts["bias"], logits, rtol=0, atol=1e-6)


def test_vit_map_is_gradient_times_value_of_its_patches():
    model = vit()
    layer = name_of(model, "layernorm_before")
    got = px.explain(model, IMAGES, HiResCAM(), layer=layer, target=1)
    grads = px.explain(model, IMAGES, "vanilla-gradient", layer=layer, target=1).values
    seen = []
    handle = model.model.get_submodule(layer).register_forward_hook(lambda part, given, out: seen.append(out.detach()))
    model.model(IMAGES)
    handle.remove()
    assert grads.shape == (2, 17, 32)
    for place in range(16):
        expected = (grads * seen[0])[:, 1 + place].sum(1)
        torch.testing.assert_close(got.values[:, 0, place // 4, place % 4], expected, rtol=1e-4, atol=1e-8)
    assert 0 < got.facts["outside_grid"].max() < 0.5


def test_vit_after_its_last_attention_is_told():
    got = px.explain(vit(), IMAGES, "grad-cam", layer="vit.layernorm")
    assert got.values.abs().max() == 0
    assert (got.facts["outside_grid"] == 1).all()


def test_a_layer_is_not_guessed_in_a_transformer():
    with pytest.raises(LayerError, match="normalisation before its last attention"):
        px.explain(vit(), IMAGES, "grad-cam")
