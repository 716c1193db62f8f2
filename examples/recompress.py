"""Recompress a folder: every picture in it to .sinr, no larger than a share of the file that it comes from.

python examples/recompress.py photos/ small/ --share 0.3
"""

import argparse
from pathlib import Path

from inrcodec import InrcodecError, codec
from inrcodec.image import find_pictures, read_picture, write_atomically
from inrcodec.options import EncodeOptions, Target

parser = argparse.ArgumentParser()
parser.add_argument("source", type=Path)
parser.add_argument("target", type=Path)
parser.add_argument("--share", type=float, default=0.5)
parser.add_argument("--steps", type=int, default=100)
arguments = parser.parse_args()

for path in find_pictures(arguments.source):
    size = path.stat().st_size
    target = (arguments.target / path.relative_to(arguments.source)).with_suffix(".sinr")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        picture = read_picture(path)  # with its opacity, 16 bits and metadata
        options = EncodeOptions(steps=arguments.steps, target=Target(size=round(arguments.share * size)))
        encoded = codec.encode(picture, options)
        write_atomically(target, encoded.data)
    except InrcodecError as error:
        print(f"{path}: left as it is ({error})")
    else:
        print(f"{path}: {size} bytes to {len(encoded.data)}, quality {encoded.quality:.0f}")
