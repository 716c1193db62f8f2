"""Use from Pillow: save a picture as .sinr, open it again, and make a thumbnail of it.

python examples/use_pillow.py photo.png
"""

import sys
from pathlib import Path

from PIL import Image

import inrcodec.plugins.pillow  # noqa: F401  # Pillow now knows .sinr

path = Path(sys.argv[1])
with Image.open(path) as image:
    image.save(path.with_suffix(".sinr"), quality=40, steps=20)

with Image.open(path.with_suffix(".sinr")) as image:
    print(image.format, image.mode, image.size)
    image.thumbnail((64, 64))  # decodes only as many samples as that needs
    image.save(path.with_suffix(".thumbnail.png"))
