"""What D3IL's cameras saw: of the demonstration `state/NAME.pkl` the files 0.jpg, 1.jpg and so on
in `images/bp-cam/NAME`, one for each recorded frame, and the same of `inhand-cam` (JPEG or PNG).
"""

from pathlib import Path

import numpy as np

from vdd_jax.formats.arrays import FormatError

CAMERAS = ("bp-cam", "inhand-cam")  # in front of the table, at the hand
ENDINGS = (".jpg", ".jpeg", ".png")


def is_here(directory: Path) -> bool:
    """Whether there are demonstrations with images."""
    return (directory / "state").is_dir() and (directory / "images").is_dir()


def read(directory: Path, name: str, length: int, size: int) -> np.ndarray:
    """The first `length` frames of a demonstration, `[L, 2, S, S, 3]` uint8, red first.

    Args:
      directory: that of `state` and `images`.
      name: of the demonstration's pickle, without its ending.
      size: S, pixels of a side.

    Raises:
      FormatError: frames are missing, damaged, or of another size.
      ImportError: Pillow is missing.
    """
    return np.stack([_frames(directory / "images" / camera / name, length, size)
                     for camera in CAMERAS], axis=1)


def _frames(directory: Path, length: int, size: int) -> np.ndarray:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ImportError("images are read by Pillow; pip install 'vdd_jax[sim]'") from error
    files = {file.stem: file for file in directory.glob("*") if file.suffix.lower() in ENDINGS}
    if missing := [i for i in range(length) if str(i) not in files]:
        raise FormatError(f"{directory} has no image {missing[0]} (0.jpg and so on); the "
                          f"demonstration needs {length}")
    frames = np.empty((length, size, size, 3), np.uint8)
    for i in range(length):
        file = files[str(i)]
        try:
            with Image.open(file) as image:
                if image.size != (size, size):
                    raise FormatError(f"{file} has {image.width}×{image.height} pixels, expected "
                                      f"{size}×{size}")
                frames[i] = np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise FormatError(f"{file} cannot be read as an image: {error}") from error
    return frames
