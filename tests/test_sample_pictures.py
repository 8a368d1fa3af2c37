"""Every modality draws the samples of its quickstart's evaluation split: PNG files of a sane size, one a sample."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_modalities import INSTALLED, configured

from jepa_core.evaluate.sample_rows import draw_by_name
from jepa_core.evaluate.share import Chunks
from jepa_core.evaluation_source import DrawsSamples

FEW = 3


@pytest.mark.parametrize("name", INSTALLED)
def test_a_modality_draws_its_samples(name: str) -> None:
    found, config = configured(f"{name}/quickstart")
    modality: Any = found
    assert isinstance(modality, DrawsSamples)
    source = modality.evaluation(config, "test")
    batch = Chunks(source, range(FEW), FEW, config.seed)[0].batch
    assert batch is not None
    drawn = modality.sample_pictures(config, batch)
    assert len(drawn.png) == FEW
    for png in drawn.png:
        assert png is not None and png.startswith(b"\x89PNG") and len(png) < 60_000
        with Image.open(io.BytesIO(png)) as image:
            assert 90 <= max(image.size) <= 200 and min(image.size) >= 40
            assert np.asarray(image.convert("L")).std() > 2, "something is on it"
    assert len(set(drawn.png)) == FEW, "samples differ"
    again = draw_by_name(modality, config, "test", lambda name: name == batch.sample_id[1])
    assert again.png == {batch.sample_id[1]: drawn.png[1]}
