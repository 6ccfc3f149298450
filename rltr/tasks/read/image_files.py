"""Read image files with PIL: upright, with the number of channels that a model takes."""

import struct

from PIL import Image, ImageOps

from rltr.errors import RltrError
from rltr.tasks.read.stored_files import StoredFile, open_stored

SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif",
    ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga",
}  # fmt: skip
"""What images are called that PIL always decodes. Not all that it opens: a .psd is likely the source of a .png beside
it, and of a .pdf, an .eps or an .mpg it knows no more than the size."""
IF_BUILT = {".avif", ".avifs", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpx", ".jpf", ".jxl", ".qoi"}
"""Suffixes that PIL decodes if it was built so, or a plugin is registered."""


def suffixes() -> set[str]:
    """Suffixes of files that are read as images, in lower case."""
    return SUFFIXES | (IF_BUILT & set(Image.registered_extensions()))


def read_image(file: StoredFile, channels: int, name: str) -> Image.Image:
    """Read an image, upright, as grey (``channels`` 1) or RGB (3).

    Raises:
        RltrError: if it is no image, is damaged, or has more than 8 bits per channel (PIL would clip those to white);
            with its ``name``.
    """
    try:
        with Image.open(open_stored(file)) as opened:
            image = ImageOps.exif_transpose(opened)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RltrError(f"{name} cannot be read as an image ({reason})") from error
    if image.mode.startswith(("I", "F")):
        raise RltrError(f"{name} has more than 8 bits per channel (mode {image.mode}); convert it to an 8-bit image")
    return image.convert("L" if channels == 1 else "RGB")
