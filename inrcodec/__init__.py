"""Images as sparse changes to a meta-learned SIREN, decoded at any scale.

    data = inrcodec.encode(array, quality=60)     # (height, width, 3) uint8 to the bytes of a .sinr file
    array = inrcodec.decode(data, scale=2)        # and back, at any scale
    picture = inrcodec.open("photo.sinr")         # or sampled where you ask: picture.at([[12.5, 7.25]])

Names are imported when they are first used: `import inrcodec` takes no time, and only encoding needs torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inrcodec.api import SinrPicture, decode, encode, open
    from inrcodec.errors import (
        ImageError,
        InrcodecError,
        LimitError,
        OptionError,
        OutputError,
        OutputExistsError,
        PriorError,
        SinrError,
        TargetWarning,
        TruncatedFileError,
        UnsupportedVersionError,
    )

__version__ = "0.1.0"

__all__ = [
    "ImageError",
    "InrcodecError",
    "LimitError",
    "OptionError",
    "OutputError",
    "OutputExistsError",
    "PriorError",
    "SinrError",
    "SinrPicture",
    "TargetWarning",
    "TruncatedFileError",
    "UnsupportedVersionError",
    "__version__",
    "decode",
    "encode",
    "open",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("inrcodec.errors" if name.endswith(("Error", "Warning")) else "inrcodec.api"), name)


def __dir__() -> list[str]:
    return __all__
