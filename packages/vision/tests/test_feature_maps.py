"""Feature maps: colours are principal components, lie where their tokens lie, and show a collapse as gray."""

from __future__ import annotations

import io

import clip_cases
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA
from vision_cases import built, configured, noise

from jepa_core.evaluate.colours import principal_colours
from jepa_vision.feature_maps import feature_pictures, upsampled


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_colours_are_the_first_principal_components() -> None:
    features = random(3, 20, 12) * torch.linspace(4, 0.5, 12)
    colours = principal_colours(features)
    reference = PCA(3, svd_solver="full").fit(features.flatten(0, 1).double().numpy())
    expected = torch.from_numpy(reference.transform(features.flatten(0, 1).double().numpy()))
    assert colours.explained == pytest.approx(reference.explained_variance_ratio_.sum(), abs=1e-9)
    inner = ((colours.rgb > 0) & (colours.rgb < 1)).all(-1).flatten()
    assert inner.float().mean() > 0.8, "few tokens are cut off"
    for channel in range(3):
        values = colours.rgb.flatten(0, 1)[inner, channel].double()
        related = torch.corrcoef(torch.stack([values, expected[inner, channel]]))[0, 1]
        assert abs(float(related)) == pytest.approx(1, abs=1e-6)


def test_colours_do_not_depend_on_the_axes_of_the_features_nor_on_one_odd_token() -> None:
    features = random(2, 50, 6) * torch.tensor([5.0, 3.0, 2.0, 0.1, 0.1, 0.1])
    turn = torch.linalg.qr(random(6, 6, seed=3))[0]
    first, turned = principal_colours(features).rgb, principal_colours(features @ turn * 7 + 100).rgb
    for channel in range(3):
        one, two = first[..., channel], turned[..., channel]
        assert torch.allclose(one, two, atol=1e-4) or torch.allclose(one, 1 - two, atol=1e-4)
    odd = features.clone()
    odd[0, 0] = features[0, 0] + torch.tensor([40.0, 0, 0, 0, 0, 0])
    assert principal_colours(odd).rgb[..., 0].std() > 0.2


@pytest.mark.parametrize("features", [torch.ones(2, 9, 8) * 3, torch.zeros(2, 9, 8), 1e4 + 1e-4 * random(2, 9, 8)])
def test_a_collapsed_encoder_is_gray(features: torch.Tensor) -> None:
    assert bool((principal_colours(features).rgb == 0.5).all())


def test_narrow_features_have_the_colours_they_can() -> None:
    rgb = principal_colours(random(2, 9, 2)).rgb
    assert rgb.shape == (2, 9, 3) and bool((rgb[..., 2] == 0.5).all())


def test_colours_lie_where_their_tokens_lie() -> None:
    rgb = torch.zeros(1, 6, 3)
    rgb[0, 4, 1] = 1.0  # row 1, column 1 of 2 x 3
    pixels = upsampled(rgb, 2, 3, (20, 30))
    assert pixels.shape == (1, 20, 30, 3) and pixels.min() >= 0 and pixels.max() <= 1
    assert np.unravel_index(pixels[0, ..., 1].argmax(), (20, 30))[0] >= 10
    assert 10 <= np.unravel_index(pixels[0, ..., 1].argmax(), (20, 30))[1] < 20 and not pixels[0, ..., 0].any()


def test_pictures_of_images_and_of_a_clip() -> None:
    images = configured("quickstart")
    methods = {"trained": built(images), "untrained": built(images, seed=1)}
    methods["trained"].train()
    (picture,) = feature_pictures(methods, noise(8, 48, 48))
    assert methods["trained"].training
    shown = np.asarray(Image.open(io.BytesIO(picture.png)))
    assert picture.title == "Feature maps" and "trained " in picture.caption and shown[..., :3].std() > 20
    clips = clip_cases.configured("quickstart")
    size = clips.data.frames, clips.data.height, clips.data.width
    (strip,) = feature_pictures({"trained": clip_cases.built(clips)}, clip_cases.noise(2, *size))
    assert "this clip" in strip.caption and strip.png.startswith(b"\x89PNG")
