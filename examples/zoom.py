"""Zoom into a picture: a folder of frames, each a region of the file sampled at the same number of pixels.

python examples/zoom.py photo.sinr frames/ --at 120,80 --frames 8
"""

import argparse
from pathlib import Path

from PIL import Image

import inrcodec

parser = argparse.ArgumentParser()
parser.add_argument("file", type=Path)
parser.add_argument("folder", type=Path)
parser.add_argument("--at", default="0,0", help="x,y in pixels, the corner that stays in view")
parser.add_argument("--frames", type=int, default=8)
arguments = parser.parse_args()

picture = inrcodec.open(arguments.file)  # nothing is decoded yet
x, y = (int(part) for part in arguments.at.split(","))
arguments.folder.mkdir(exist_ok=True)
for frame in range(arguments.frames):
    width, height = (max(8, round(side * 0.75**frame)) for side in picture.size)
    left, top = min(x, picture.width - width), min(y, picture.height - height)
    array = picture.region(left, top, width, height, size=picture.size)
    Image.fromarray(array).save(arguments.folder / f"{frame:03}.png")
    print(f"{width}x{height} pixels from ({left}, {top})")
