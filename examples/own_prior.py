"""Train a prior for your own pictures, from the bundled one, and put it into a file that then opens anywhere.

python examples/own_prior.py photos/ mine.safetensors --steps 2000
"""

import argparse
from pathlib import Path

from inrcodec import codec
from inrcodec.dataset import Crop, open_dataset
from inrcodec.image import find_pictures, read_picture, write_atomically
from inrcodec.prior import find_prior
from inrcodec.train_fields import FieldOptions, train_fields

parser = argparse.ArgumentParser()
parser.add_argument("pictures", type=Path)
parser.add_argument("prior", type=Path)
parser.add_argument("--size", type=int, default=128, help="side of the crops")
parser.add_argument("--steps", type=int, default=2000)
arguments = parser.parse_args()

crops = open_dataset(arguments.pictures, arguments.size, arguments.size, crop=Crop.RANDOM)
options = FieldOptions(guess_steps=0, fit_steps=0, decoder_steps=arguments.steps)  # all that decodes, at its own fits
run = arguments.prior.with_suffix(".run")  # checkpoint and log: start again to go on
prior = train_fields(options, crops, run, name=arguments.prior.stem, start=find_prior("photo"))
assert prior is not None
write_atomically(arguments.prior, prior.data)

picture = read_picture(find_pictures(arguments.pictures)[0])
encoded = codec.encode(picture, prior=prior, self_contained=True)
write_atomically(arguments.prior.with_suffix(".sinr"), encoded.data)
print(f"prior {prior.id.hex()}; the first picture takes {sum(encoded.groups)} bytes with it")
