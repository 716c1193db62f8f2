"""Read headers without torch and without decoding: a line for each .sinr file.

python examples/header.py *.sinr
"""

import sys
from pathlib import Path

from inrcodec import SinrError
from inrcodec.bitstream import unpack
from inrcodec.options import index_quality

for name in sys.argv[1:]:
    try:
        file = unpack(Path(name).read_bytes())
    except SinrError as error:
        print(f"{name}: {error}")
        continue
    kind = file.colour.name.lower() + (" with opacity" if file.alpha else "")
    metadata = ", ".join(file.metadata) or "no metadata"
    print(f"{name}: {file.width}x{file.height} {kind}, quality {index_quality(file.quality_index):.0f}, {metadata}")

assert "torch" not in sys.modules
