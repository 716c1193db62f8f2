"""The application: errors and exit codes, and what several commands share."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from inrcodec import __version__
from inrcodec.errors import ImageError, InrcodecError, SinrError
from inrcodec.options import Device

console = Console(stderr=True, highlight=False)

EXIT_CODES = (
    "Exit codes: 0 done, 1 failed, 2 a wrong option, 3 not an image that can be encoded, 4 not a valid .sinr "
    "file, 5 prior missing or wrong, 6 the output exists or cannot be written, 130 interrupted."
)


class Commands(typer.core.TyperGroup):
    """Turns errors into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except InrcodecError as error:
            _fail(error, error.exit_code)
        except KeyboardInterrupt:
            console.print("interrupted")
            raise typer.Exit(130) from None
        except Exception as error:  # ours to mend, or the machine's; INRCODEC_DEBUG=1 shows where
            if os.environ.get("INRCODEC_DEBUG") or type(error).__module__.startswith("typer"):
                raise
            _fail(error, 1)


def _fail(error: BaseException, code: int) -> None:
    text = " ".join((str(error) or type(error).__name__).split())
    if "--json" in sys.argv:
        print(json.dumps({"error": {"type": type(error).__name__, "message": text, "exit_code": code}}))
    else:
        console.print(f"[red]error:[/] {escape(text)}", soft_wrap=True)
    raise typer.Exit(code) from None


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


JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite the output if it exists.")]
PriorOption = Annotated[str | None, typer.Option(help="Name of a bundled prior (see `inrcodec priors`) or a file.")]
DeviceOption = Annotated[Device, typer.Option(help="Where to compute; auto: cuda, else mps, else cpu.")]

DecodeDeviceOption = Annotated[Device, typer.Option(help="Where to sample; auto and cpu: NumPy, without torch.")]


def report(facts: Any, text: str, *, as_json: bool) -> None:
    """Print a command's result: all facts as JSON, or the text."""
    print(json.dumps(facts) if as_json else text)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors inside say which file they are about."""
    try:
        yield
    except (SinrError, ImageError) as error:
        raise type(error)(f"{path}: {error}") from None


def same_file(a: Path, b: Path) -> bool:
    return a.exists() and b.exists() and os.path.samefile(a, b)


@contextmanager
def progress_bar(title: str, wanted: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar with ETA on a terminal's stderr, else nothing."""
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    from rich.progress import Progress

    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
