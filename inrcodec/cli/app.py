"""The application: errors and exit codes, and what several commands share."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inrcodec import __version__
from inrcodec.errors import ImageError, InrcodecError, OptionError, SinrError
from inrcodec.options import Device

if TYPE_CHECKING:
    from rich.console import Console

STREAM = Path("-")  # stdin as an input, stdout as an output

EXIT_CODES = (
    "Exit codes: 0 done, 1 failed, 2 a wrong option, 3 not an image that can be encoded, 4 not a valid .sinr "
    "file, 5 prior missing or wrong, 6 the output exists or cannot be written, 130 interrupted."
)


@cache
def console() -> Console:
    """Stderr with colours, imported when there is something to say: a fiftieth of a decode."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


class Commands(typer.core.TyperGroup):
    """Turns errors into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        as_json = "--json" in ctx.args  # which nobody has parsed yet when an option is misspelt
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except (typer.Exit, typer.Abort):
            raise
        except InrcodecError as error:
            show_error(error, as_json=as_json)
            raise typer.Exit(error.exit_code) from None
        except BrokenPipeError:  # who reads stdout has had enough, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or flushing it would fail once more
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            console().print("interrupted")
            raise typer.Exit(130) from None
        except Exception as error:
            misused = hasattr(error, "format_message")  # typer's own errors, which it shows with the usage
            if misused and not as_json or not misused and os.environ.get("INRCODEC_DEBUG"):
                raise
            show_error(error, as_json=as_json)
            raise typer.Exit(2 if misused else 1) from None


def error_facts(error: Exception) -> dict[str, Any]:
    """What --json says of an error."""
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    code = getattr(error, "exit_code", 1)
    return {
        "type": type(error).__name__,
        "message": " ".join(message.split()) or type(error).__name__,
        "exit_code": code,
    }


def show_error(error: Exception, *, as_json: bool = False) -> None:
    """An error as one line on stderr, or as one JSON object on stdout."""
    facts = error_facts(error)
    if as_json:
        print(json.dumps({"error": facts}))
    else:
        from rich.markup import escape

        console().print(f"[red]error:[/] {escape(facts['message'])}", soft_wrap=True)


def show_warning(text: str) -> None:
    """What was done, but not as asked, as one line on stderr."""
    from rich.markup import escape

    console().print(f"[yellow]warning:[/] {escape(text)}", soft_wrap=True)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help="Images as sparse changes to a meta-learned neural network: encode, then decode at any scale.",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"inrcodec {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and stop.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Images as sparse changes to a meta-learned neural network: encode, then decode at any scale."""


def _prior_names() -> list[str]:
    from inrcodec.prior import bundled_priors

    return [path.stem for path in bundled_priors()]


JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
QuietOption = Annotated[
    bool, typer.Option("-q", "--quiet", help="Print nothing but errors (and the object of --json).")
]
VerboseOption = Annotated[bool, typer.Option("-v", "--verbose", help="Print details on stderr.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite the output if it exists.")]
PriorOption = Annotated[
    str | None,
    typer.Option(help="Name of a bundled prior (see `inrcodec priors`) or a file.", autocompletion=_prior_names),
]
MaxPixelsOption = Annotated[
    int, typer.Option("--max-pixels", min=1, help="Refuse a FILE with more: lower it for files of strangers.")
]
DeviceOption = Annotated[Device, typer.Option(help="Where to compute; auto: cuda, else mps, else cpu.")]

DecodeDeviceOption = Annotated[Device, typer.Option(help="Where to sample; auto and cpu: NumPy, without torch.")]


@dataclass(frozen=True)
class Reporter:
    """Says a command's result as its options want it: all facts as JSON, or a text, or nothing."""

    as_json: bool
    quiet: bool = False
    verbose: bool = False
    aside: bool = False  # on stderr, because the result itself goes to stdout

    @property
    def shows_progress(self) -> bool:
        """Whether a progress bar is wanted, if there is a terminal."""
        return not (self.as_json or self.quiet)

    def __call__(self, facts: Any, text: str, detail: str = "") -> None:
        """Say a result; the detail is for the verbose."""
        if self.verbose and detail:
            console().print(detail, soft_wrap=True, markup=False)
        if self.as_json or not self.quiet:
            print(json.dumps(facts) if self.as_json else text, file=sys.stderr if self.aside else sys.stdout)


def read_input(path: Path) -> bytes:
    """The bytes of a file, or of stdin if the path is `-`. SinrError if it cannot be read."""
    from inrcodec.bitstream import read_file

    return sys.stdin.buffer.read() if path == STREAM else read_file(path)


def check_target(path: Path, source: Path | None, *, overwrite: bool) -> None:
    """Raise what `write_output` would raise anyway, and OptionError if it would replace its source or fill a screen."""
    from inrcodec.image import check_output

    if path == STREAM:
        if sys.stdout.isatty():
            raise OptionError("stdout is a terminal; redirect it to a file or choose one with -o")
    elif source and path.exists() and source.exists() and os.path.samefile(path, source):
        raise OptionError(f"{source}: the output would replace the input; choose another with -o")
    else:
        check_output(path, overwrite=overwrite)


def write_output(path: Path, data: bytes, *, overwrite: bool) -> None:
    """Write a file, or to stdout if the path is `-`."""
    from inrcodec.image import write_atomically

    if path == STREAM:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        write_atomically(path, data, overwrite=overwrite)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors inside say which file they are about."""
    try:
        yield
    except (SinrError, ImageError) as error:
        raise type(error)(f"{path}: {error}") from None


@contextmanager
def progress_bar(title: str, wanted: bool) -> Iterator[Callable[[float, float], None] | None]:
    """A bar with ETA on a terminal's stderr, else nothing."""
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    from rich.progress import Progress

    # Rich would send what is printed to stdout above the bar, and so to stderr: not if it is meant for a pipe.
    with Progress(console=console(), transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
