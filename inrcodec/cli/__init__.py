"""The command line: each command parses, calls one library function and reports.

Results go to stdout, progress and errors to stderr. With --json the result, or the error, is one JSON
object on stdout. Exit codes are those of `errors`, 1 for anything else and 130 after Ctrl-C. Heavy
modules are imported by the command that needs them; only commands that encode or train need torch.
"""

from inrcodec.cli import bench, check, convert, decode, encode, info, train, view  # noqa: F401  # each registers
from inrcodec.cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of the `inrcodec` command."""
    app()
