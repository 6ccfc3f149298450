"""Pictures and texts of inputs after each decision, with removed tokens dimmed.

Merged and dropped tokens look the same, since neither is in the sequence any more.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image
from transformers import PretrainedConfig

from rltr.evaluate.points import View

TINT = (122, 132, 146)
"""RGB of the grey-blue that dimmed patches fade to; visible on black and on white backgrounds."""
FADE = 0.8
"""Share of the tint in a dimmed patch."""


@dataclass(frozen=True)
class Patches:
    """Positions of image tokens: leading ones without a position, then the patches row by row, then any others."""

    rows: int
    """Number of rows of patches."""
    columns: int
    """Number of columns of patches."""
    leading: int = 1
    """Number of CLS, distillation and register tokens before the first patch."""

    @classmethod
    def of(cls, config: PretrainedConfig, grid: int) -> "Patches":
        """Infer the layout of ``grid`` tokens: from image and patch size if they fit, else the largest square."""
        image, patch = getattr(config, "image_size", None), getattr(config, "patch_size", None)
        if image is not None and patch is not None:
            (height, width), (patch_height, patch_width) = _pair(image), _pair(patch)
            rows, columns = height // patch_height, width // patch_width
            # If the image size differs from the config's, the number of patches does not fit.
            if 0 <= grid - rows * columns <= max(rows, columns):
                return cls(rows, columns, grid - rows * columns)
        side = math.isqrt(grid)
        return cls(side, side, grid - side * side)


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    return size[0], size[1]


def stage_titles(view: View) -> list[str]:
    """One caption per stage: the fraction of the input's tokens that is left."""
    full = max(1, view.present[0].count("1"))
    shares = [f"{stage.count('1') / full:.0%}".replace("%", " %") for stage in view.present[1:]]
    return ["all tokens", *(f"layer {layer}: {share}" for layer, share in zip(view.layers, shares, strict=True))]


def dim(picture: Image.Image, present: str, patches: Patches) -> Image.Image:
    """Fade the patches whose tokens were removed; all other pixels are unchanged.

    Args:
        picture: the image after the model's preprocessing.
        present: one ``1`` (still there) or ``0`` per token; tokens that are not patches are ignored.
        patches: layout of the tokens.

    Raises:
        ValueError: if there are fewer tokens than the layout needs.
    """
    needed = patches.leading + patches.rows * patches.columns
    if len(present) < needed:
        raise ValueError(f"{len(present)} tokens do not fit {patches}, which takes {needed}")
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float32)
    gone = np.array([token == "0" for token in present[patches.leading : needed]])
    row = np.arange(pixels.shape[0]) * patches.rows // pixels.shape[0]
    column = np.arange(pixels.shape[1]) * patches.columns // pixels.shape[1]
    mask = gone.reshape(patches.rows, patches.columns)[row[:, None], column]
    faded = (1 - FADE) * pixels + FADE * np.array(TINT, dtype=np.float32)
    result: NDArray[np.uint8] = np.where(mask[..., None], faded, pixels).round().astype(np.uint8)
    return Image.fromarray(result)


def panels(picture: Image.Image, view: View, patches: Patches, side: int = 224) -> list[Image.Image]:
    """One picture per stage, at most ``side`` pixels wide and high."""
    small = picture.convert("RGB")
    small.thumbnail((side, side))
    return [dim(small, stage, patches) for stage in view.present]


def text_panels(words: Sequence[str], view: View) -> list[Markup]:
    """One piece of HTML per stage, with every token in a span; removed tokens have the class ``gone``.

    Args:
        words: one string per token, without padding.
        view: its first stage marks the places of these tokens in the batch's padded grid.

    Raises:
        ValueError: if the numbers of words and tokens differ.
    """
    places = [place for place, token in enumerate(view.present[0]) if token == "1"]
    if len(places) != len(words):
        raise ValueError(f"{len(words)} words do not fit {len(places)} tokens")
    pieces = _pieces(words)
    html = []
    for stage in view.present:
        spans = []
        for place, (space, text) in zip(places, pieces, strict=True):
            gone = ' class="gone"' if stage[place] == "0" else ""
            spans.append(f"{space}<span{gone}>{escape(text)}</span>")
        html.append(Markup("".join(spans).strip()))
    return html


def _pieces(words: Sequence[str]) -> list[tuple[str, str]]:
    """Leading space and text of each token, for WordPiece (##ing), BPE (Ġword) and SentencePiece (▁word)."""
    marked = any(word.startswith(("Ġ", "▁")) for word in words)
    pieces = []
    for word in words:
        if marked:
            pieces.append((" " if word[:1] in "Ġ▁" else "", word.lstrip("Ġ▁")))
        else:
            pieces.append(("" if word.startswith("##") else " ", word.removeprefix("##")))
    return pieces
