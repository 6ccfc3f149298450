"""Draw cluttered, translated Fashion-MNIST: 56x56 canvases from 28x28 garments.

They follow the cluttered, translated MNIST of Mnih et al. 2014 ("Recurrent Models of Visual Attention", section 4.1):
one garment at a random position on a larger, black canvas, among small pieces cut from other garments. Most of a canvas
is irrelevant for its label, and the relevant part is at a different position in each, so the tokens that matter depend
on the input.

All functions are pure: the same garments and seed give the same canvases, bit for bit.
"""

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

CANVAS = 56
"""Side of a canvas in pixels; 4x4 patches then make the 14x14 grid of a ViT at 224 pixels."""
PIECES = 8
"""Pieces of clutter on each canvas."""
PIECE = 8
"""Side of a piece of clutter in pixels."""
MEAN, STD = 0.2, 0.3
"""Normalisation of the embedded model's pixels (0 to 1); the same numbers are in its preprocessor_config.json."""


def draw_canvases(
    garments: NDArray[np.uint8], seed: int, *, pieces: int = PIECES
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Place every garment on a canvas of its own, among clutter cut from the others.

    Args:
        garments: ``(garments, 28, 28)``, grey values 0 to 255; at least one.
        seed: seed of the positions and the clutter; any non-negative integer.
        pieces: pieces of clutter per canvas, 0 or more.

    Returns:
        Canvases ``(garments, 56, 56)``, and each garment's top left corner ``(garments, 2)`` as row and column in
        pixels, 0 to 28. Where things overlap, the brighter pixel wins.

    Raises:
        ValueError: if ``garments`` is not a stack of 28x28 images.
    """
    if garments.ndim != 3 or garments.shape[1:] != (28, 28) or len(garments) == 0:
        raise ValueError(f"garments must have shape (garments, 28, 28) with at least one garment, not {garments.shape}")
    generator = np.random.default_rng(seed)
    count, side = len(garments), garments.shape[1]
    canvases = np.zeros((count, CANVAS, CANVAS), np.uint8)
    index = np.arange(count)
    for _ in range(pieces):
        # A step of 1 .. count - 1 around the stack is always another garment.
        donor = garments[(index + generator.integers(1, max(count, 2), count)) % count]
        # The outer 4 pixels of a garment are nearly always black, so pieces are not cut from there.
        piece = _crop(donor, generator.integers(4, side - PIECE - 3, (count, 2)), PIECE)
        _paste(canvases, piece, generator.integers(0, CANVAS - PIECE + 1, (count, 2)))
    corner = generator.integers(0, CANVAS - side + 1, (count, 2))
    _paste(canvases, garments, corner)
    return canvases, corner


def pixels(canvases: NDArray[np.uint8]) -> Float[Tensor, "images 1 56 56"]:
    """Canvases ``(images, 56, 56)`` of 0 to 255 as the embedded model takes them: one channel, normalised."""
    return (torch.from_numpy(canvases)[:, None].float() / 255 - MEAN) / STD


def _window(corner: NDArray[np.int64], side: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Index arrays of a ``side x side`` window at ``corner (images, 2)`` of each image in a stack."""
    image = np.arange(len(corner))[:, None, None]
    row = corner[:, 0, None, None] + np.arange(side)[:, None]
    column = corner[:, 1, None, None] + np.arange(side)
    return image, row, column


def _crop(images: NDArray[np.uint8], corner: NDArray[np.int64], side: int) -> NDArray[np.uint8]:
    return images[_window(corner, side)]


def _paste(canvases: NDArray[np.uint8], images: NDArray[np.uint8], corner: NDArray[np.int64]) -> None:
    window = _window(corner, images.shape[1])
    canvases[window] = np.maximum(canvases[window], images)
