"""The gallery: exactly the dropped patches and words fade."""

import numpy as np
import pytest
from PIL import Image
from transformers import ViTConfig

from rltr.evaluate.points import View
from rltr.evaluate.results import Evaluation
from rltr.report.gallery import FADE, TINT, Patches, dim, panels, stage_titles, text_panels


def test_exactly_the_dropped_patches_are_dimmed() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8))
    present = "11" + "101" + "011" + "0"  # CLS and another, two rows of three patches, one token beyond them
    dimmed = np.asarray(dim(picture, present, Patches(2, 3, leading=2)))
    before = np.asarray(picture)
    for row, column in np.ndindex(2, 3):
        here = np.s_[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        if (row, column) in ((0, 1), (1, 0)):
            expected = np.round((1 - FADE) * before[here].astype(np.float64) + FADE * np.array(TINT))
            assert np.abs(dimmed[here] - expected).max() <= 1
        else:
            assert (dimmed[here] == before[here]).all()


def test_too_few_tokens_for_the_geometry() -> None:
    with pytest.raises(ValueError, match="takes 17"):
        dim(Image.new("L", (8, 8)), "1" * 16, Patches(4, 4, 1))


@pytest.mark.parametrize(
    ("image", "patch", "grid", "expected"),
    [
        (224, 16, 197, Patches(14, 14, 1)),
        (224, 16, 198, Patches(14, 14, 2)),  # DeiT with its distillation token
        (518, 14, 257, Patches(16, 16, 1)),  # DINOv2 used at 224 pixels
        (518, 14, 261, Patches(16, 16, 5)),  # the same with four registers
        ((32, 64), 16, 9, Patches(2, 4, 1)),
    ],
)
def test_geometry_follows_config_or_the_largest_square(
    image: int | tuple[int, int], patch: int, grid: int, expected: Patches
) -> None:
    assert Patches.of(ViTConfig(image_size=image, patch_size=patch), grid) == expected


def test_one_panel_per_stage_with_its_share(evaluation: Evaluation) -> None:
    (view,) = evaluation.gallery[0].views
    assert stage_titles(view) == ["all tokens", "layer 1: 53 %", "layer 2: 29 %"]
    assert len(panels(Image.new("L", (16, 16)), view, Patches(4, 4, 1))) == 3


def test_dropped_words_fade_and_are_escaped() -> None:
    view = View("policy", "merge", 0.2, None, 0.0, [1], ["011110", "010110"])  # padding on both sides
    whole, reduced = text_panels(["a", "<b>", "play", "##ing"], view)
    assert whole == "<span>a</span> <span>&lt;b&gt;</span> <span>play</span><span>ing</span>"
    assert reduced == '<span>a</span> <span class="gone">&lt;b&gt;</span> <span>play</span><span>ing</span>'
    with pytest.raises(ValueError, match="do not fit"):
        text_panels(["a"], view)


def test_words_of_other_tokenizers() -> None:
    view = View("policy", "merge", 0.2, None, 0.0, [], ["111"])
    assert text_panels(["Ġto", "ken", "Ġs"], view) == ["<span>to</span><span>ken</span> <span>s</span>"]
