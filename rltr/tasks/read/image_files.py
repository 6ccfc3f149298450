"""Read image files with PIL, rotated upright, with the model's number of channels."""

import struct

from PIL import Image, ImageOps

from rltr.errors import RltrError
from rltr.tasks.read.stored_files import StoredFile, open_stored

SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif",
    ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga",
}  # fmt: skip
"""Suffixes of images that every build of PIL decodes. Some that it opens are left out: a .psd is likely the source of a
.png beside it, and PIL reads only the size of a .pdf, .eps or .mpg."""
IF_BUILT = {".avif", ".avifs", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpx", ".jpf", ".jxl", ".qoi"}
"""Suffixes that PIL decodes only in some builds, or with a plugin."""


def suffixes() -> set[str]:
    """Suffixes of files that are read as images, in lower case."""
    return SUFFIXES | (IF_BUILT & set(Image.registered_extensions()))


def read_image(file: StoredFile, channels: int, name: str) -> Image.Image:
    """Read an image, rotated upright, as grey (``channels`` 1) or RGB (3).

    Raises:
        RltrError: if it is not an image, is damaged, or has more than 8 bits per channel (PIL would clip them to
            white); the message has its ``name``.
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
