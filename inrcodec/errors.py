"""Errors: everything this package raises on purpose.

InrcodecError                           exit code 1
├─ OptionError(…, ValueError)           2   a setting out of range
├─ ImageError(…, ValueError)            3   not an image we can read, or not one we can keep faithfully
├─ SinrError(…, ValueError)             4   not a valid .sinr file
│  ├─ TruncatedFileError(…, EOFError)       shorter than its own header says
│  ├─ UnsupportedVersionError               valid perhaps, but written by a newer inrcodec
│  └─ LimitError                            larger than a limit that protects this machine
├─ PriorError(…, ValueError)            5   weights missing, damaged or not those the file names
└─ OutputError(…, OSError)              6   the result could not be written
   └─ OutputExistsError(…, FileExistsError)

A message says which file, what was expected and what was found. Each class has
the closest builtin as second base, so that `except ValueError` works for callers
who do not know us. `exit_code` is what the command line exits with.

What is done, but not as well as was asked for, is a TargetWarning.
"""

from typing import ClassVar

__all__ = [
    "ImageError",
    "InrcodecError",
    "LimitError",
    "OptionError",
    "OutputError",
    "OutputExistsError",
    "PriorError",
    "SinrError",
    "TargetWarning",
    "TruncatedFileError",
    "UnsupportedVersionError",
]


class InrcodecError(Exception):
    """Base of every error of this package."""

    exit_code: ClassVar[int] = 1


class OptionError(InrcodecError, ValueError):
    """A setting is out of range or contradicts another."""

    exit_code: ClassVar[int] = 2


class ImageError(InrcodecError, ValueError):
    """The input is not an image, or not one that would survive unchanged in meaning."""

    exit_code: ClassVar[int] = 3


class SinrError(InrcodecError, ValueError):
    """The bytes are not a valid `.sinr` file."""

    exit_code: ClassVar[int] = 4


class TruncatedFileError(SinrError, EOFError):
    """The file ends before its own header says it does."""


class UnsupportedVersionError(SinrError):
    """The file uses a version or a critical chunk that this reader does not know."""


class LimitError(SinrError):
    """The file declares more than the reader's limits allow."""


class PriorError(InrcodecError, ValueError):
    """The prior is missing, damaged, or not the one that is needed."""

    exit_code: ClassVar[int] = 5


class OutputError(InrcodecError, OSError):
    """The result could not be written."""

    exit_code: ClassVar[int] = 6


class OutputExistsError(OutputError, FileExistsError):
    """The output is there already and overwriting was not asked for."""


class TargetWarning(UserWarning):
    """A size, bits per pixel or PSNR is not met within 2 % or 0.1 dB."""
