"""Many files: which there are, where each result goes, and doing them all.

A single file that is named is done as if there were no batches: its error is the command's. Of many files a bad
one is reported and the rest is done; the exit code is then 1.

Many files are done in as many threads as there are cores, each file in its own, so that nothing waits for a slow one.
A file's result is the same whatever runs beside it. Processes that `torchrun` started take turns in the list of files,
and the first of them reports for all.
"""

from __future__ import annotations

import glob
import json
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from inrcodec.cli.app import STREAM, Reporter, check_target, error_facts, progress_bar, show_error
from inrcodec.errors import OptionError
from inrcodec.options import Device

RecursiveOption = Annotated[bool, typer.Option("-r", "--recursive", help="Of folders, take what is in them.")]
JobsOption = Annotated[
    int | None,
    typer.Option("-j", "--jobs", min=1, help="Files at a time, which share the cores. Default: a core each."),
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Skip files whose output is there already.")]
MtimeOption = Annotated[bool, typer.Option("--keep-mtime", help="Give the output the time of its input.")]

SINR = frozenset({".sinr"})  # suffixes of what is decoded

PATIENCE = timedelta(days=30)  # for other processes: they may have slower files

Progress = Callable[[int, int], None]  # steps done, steps in all


@dataclass(frozen=True)
class Job:
    """One file to do."""

    source: Path
    target: Path | None = None  # None if nothing is written


@dataclass(frozen=True)
class Result:
    """What is said of a file that is done."""

    facts: dict[str, Any]  # as JSON
    text: str
    detail: str = ""  # for the verbose


@dataclass(frozen=True)
class Batch:
    """Files to do, and how."""

    jobs: Sequence[Job]
    single: bool  # one named file: its error is the command's
    threads: int | None = None  # files at a time; None: as many as there are cores
    resume: bool = False
    keep_mtime: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        if self.resume and self.force:
            raise OptionError("--resume keeps outputs and --force replaces them: give one of them")

    @property
    def at_once(self) -> int:
        """How many files are done at a time."""
        return max(1, min(self.threads or cores(), len(self.jobs)))


def cores() -> int:
    """Of this machine, shared among the processes that `torchrun` started on it."""
    return max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


class MemoryShare:
    """A limit on what several threads hold at a time; one that wants more than there is waits until it is alone."""

    def __init__(self, size: float) -> None:
        self.size, self.held = size, 0.0  # bytes
        self.changed = threading.Condition()

    @contextmanager
    def __call__(self, size: float) -> Iterator[None]:
        """Inside, so many bytes are held."""
        with self.changed:
            self.changed.wait_for(lambda: self.held == 0 or self.held + size <= self.size)
            self.held += size
        try:
            yield
        finally:
            with self.changed:
                self.held -= size
                self.changed.notify_all()


def half_of_memory() -> float:
    """Bytes of this machine's; infinite where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2
    except (AttributeError, ValueError, OSError):
        return math.inf


@dataclass(frozen=True)
class Team:
    """The processes among which the files of a batch are shared."""

    number: int = 0  # of this one
    size: int = 1
    gather: Callable[[bytes], Sequence[bytes]] = lambda message: [message]  # what each says, by its number


@contextmanager
def torchrun_team(device: Device) -> Iterator[Team]:
    """The processes that `torchrun` started, or this one alone."""
    if "RANK" not in os.environ:
        yield Team()
        return
    from inrcodec.fit import torch_device  # torch
    from inrcodec.processes import gather, process, processes

    with processes(device, PATIENCE):
        yield Team(*process(), lambda message: gather(message, torch_device(device)))


def find_jobs(
    sources: Sequence[Path], suffixes: frozenset[str], recursive: bool, output: Path | None, suffix: str | None
) -> tuple[list[Job], bool]:
    """The files that sources name, with their outputs, and whether it is a single named one.

    A source is a file, a pattern or, if `recursive`, a folder, of which all files with the suffixes are taken.
    Outputs have `suffix` and lie beside the files or, with the same subfolders, in the folder `output`; there are
    none if it is None. A single file's output may be `output` itself.
    """
    found = [(path, root) for source in sources for path, root in _expand(source, suffixes, recursive)]
    single = len(sources) == 1 and found == [(sources[0], sources[0].parent)]
    if STREAM in sources and not single:
        raise OptionError("- is stdin and has to be the only input")
    if suffix is None:
        return [Job(path) for path, _ in found], single
    if single and (output is None or not output.is_dir()):
        beside = STREAM if sources[0] == STREAM else sources[0].with_suffix(suffix)
        return [Job(sources[0], output or beside)], True
    if output == STREAM or output is not None and output.exists() and not output.is_dir():
        raise OptionError(f"{output}: the results of many files need a folder")
    jobs: dict[Path, Job] = {}
    for path, root in found:
        target = (output / path.relative_to(root) if output else path).with_suffix(suffix)
        if target in jobs:
            raise OptionError(f"{jobs[target].source} and {path} would both become {target}; do one of them by itself")
        jobs[target] = Job(path, target)
    return list(jobs.values()), single


def _expand(source: Path, suffixes: frozenset[str], recursive: bool) -> list[tuple[Path, Path]]:
    """Files of a source, each with the folder that its place is relative to."""
    from inrcodec.image import find_pictures

    if source.is_dir():
        if not recursive:
            raise OptionError(f"{source} is a folder; -r takes what is in it")
        return [(path, source) for path in find_pictures(source, suffixes)]
    if source.exists() or not glob.has_magic(str(source)):
        return [(source, source.parent)]
    found = [Path(name) for name in sorted(glob.glob(str(source), recursive=True))]
    files = [(path, path.parent) for path in found if path.is_file()]
    if not files:
        raise OptionError(f"{source}: no file matches")
    return files


def do_all(
    batch: Batch,
    work: Callable[[Job, Progress], Result],
    report: Reporter,
    title: str,
    initializer: Callable[[], object] | None = None,
    team: Team = Team(),
) -> None:
    """Do every job, and report each; `initializer` is called in each thread that does some.

    Of a team's processes each does its share, and the first reports. Raises the error of a single file, typer.Exit(1)
    if some of many failed in any process.
    """
    first = team.number == 0
    if batch.single:
        if not first:
            return
        (job,) = batch.jobs
        with progress_bar(title, report.shows_progress) as bar:
            result = _do(batch, job, work, bar or (lambda done, total: None))
        if result is None:
            report({"input": str(job.source), "output": str(job.target), "skipped": True}, f"{job.target}: is there")
        else:
            report(result.facts, result.text, result.detail)
        return

    batch = replace(batch, jobs=batch.jobs[team.number :: team.size])
    if not first:
        report = replace(report, quiet=True, verbose=False)
    said: list[dict[str, Any]] = [{} for _ in batch.jobs]
    counts = {"done": 0, "skipped": 0, "failed": 0}
    parts = [0.0 for _ in batch.jobs]  # of each job, how much is done
    stopped, lock = threading.Event(), threading.Lock()

    from threadpoolctl import threadpool_limits

    with progress_bar(title, report.shows_progress) as bar:

        def advance(number: int, part: float) -> None:
            with lock:
                parts[number] = part
                if bar:
                    bar(sum(parts), len(parts))

        def one(number: int, job: Job) -> None:
            def progress(done: int, total: int) -> None:
                if stopped.is_set():
                    raise KeyboardInterrupt
                advance(number, done / total)

            try:
                result = _do(batch, job, work, progress)
            except Exception as error:  # reported, and the rest is done
                outcome, said[number] = "failed", {"input": str(job.source), "error": error_facts(error)}
                if not report.as_json:
                    show_error(error)
            else:
                outcome = "skipped" if result is None else "done"
                said[number] = result.facts if result else {"input": str(job.source), "skipped": True}
                if result and not report.as_json:
                    report(result.facts, result.text, result.detail)
            with lock:
                counts[outcome] += 1
            advance(number, 1.0)

        # BLAS has one limit for all threads, so it is set before they begin.
        blas = threadpool_limits(1, "blas") if batch.at_once > 1 else nullcontext()
        with blas, ThreadPoolExecutor(batch.at_once, initializer=initializer) as pool:
            try:
                futures = [pool.submit(one, number, job) for number, job in enumerate(batch.jobs)]
                for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                    future.result()
            except KeyboardInterrupt:
                stopped.set()
                pool.shutdown(cancel_futures=True)
                raise
    found = [json.loads(message) for message in team.gather(json.dumps({"files": said, **counts}).encode())]
    counts = {what: sum(each[what] for each in found) for what in counts}
    if first:
        total = sum(len(each["files"]) for each in found)
        files = [found[number % team.size]["files"][number // team.size] for number in range(total)]
        report({"files": files, **counts}, ", ".join(f"{count} {what}" for what, count in counts.items() if count))
    if counts["failed"]:
        raise typer.Exit(1)


def _do(batch: Batch, job: Job, work: Callable[[Job, Progress], Result], progress: Progress) -> Result | None:
    """Do one job; None if its output is there already."""
    if job.target is None:
        return work(job, progress)
    if batch.resume and job.target.is_file():
        return None
    if not batch.single:
        job.target.parent.mkdir(parents=True, exist_ok=True)
    check_target(job.target, job.source, overwrite=batch.force)
    result = work(job, progress)
    if batch.keep_mtime and STREAM not in (job.source, job.target):
        times = job.source.stat()
        os.utime(job.target, ns=(times.st_atime_ns, times.st_mtime_ns))
    return result
