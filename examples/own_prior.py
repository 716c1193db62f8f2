"""Train a prior for your own pictures, from the bundled one, and put it into a file that then opens anywhere.

python examples/own_prior.py photos/ mine.safetensors --guess-steps 2000 --fit-steps 1000
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
parser.add_argument("--guess-steps", type=int, default=2000)
parser.add_argument("--fit-steps", type=int, default=1000)
arguments = parser.parse_args()

crops = open_dataset(arguments.pictures, arguments.size, arguments.size, crop=Crop.RANDOM)
options = FieldOptions(guess_steps=arguments.guess_steps, fit_steps=arguments.fit_steps)
run = arguments.prior.with_suffix(".run")  # checkpoint and log: start again to go on
prior = train_fields(options, crops, run, name=arguments.prior.stem, start=find_prior("photo"))
assert prior is not None
write_atomically(arguments.prior, prior.data)

picture = read_picture(find_pictures(arguments.pictures)[0])
encoded = codec.encode(picture, prior=prior, self_contained=True)
write_atomically(arguments.prior.with_suffix(".sinr"), encoded.data)
print(f"prior {prior.id.hex()}; the first picture takes {sum(encoded.groups)} bytes with it")
