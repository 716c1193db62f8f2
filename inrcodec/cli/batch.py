"""Many files: which there are, where each result goes, and doing them all.

A single file that is named is done as if there were no batches: its error is the command's. Of many files a bad
one is reported and the rest is done; the exit code is then 1.

Many files are done in as many threads as there are cores, each file in its own, so that nothing waits for a slow one.
A file's result is the same whatever runs beside it. Small pictures of the same size are one task, which is done
together. Processes that `torchrun` started take turns in the list of files, and the first of them reports for all.
"""

from __future__ import annotations

import glob
import json
import math
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

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

GROUP_PIXELS = 1 << 20  # of files that are done together
TURNS = 4  # groups of a thread, at least, if there are groups: so that none waits long for the last

T = TypeVar("T")
P = ParamSpec("P")
Progress = Callable[[int, int], None]  # steps done, steps in all
Size = tuple[int, int]  # of a picture, in pixels


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


Work = Callable[[Sequence[Job], Progress], Sequence[Result | Exception]]  # what came of each


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


def one_by_one(work: Callable[[Job, Progress], Result]) -> Work:
    """What does several jobs, each by itself."""
    return lambda jobs, progress: [caught(work, job, progress) for job in jobs]


def caught(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T | Exception:
    """What a function gives or raises."""
    try:
        return function(*arguments, **named)
    except Exception as error:
        return error


def grouped(jobs: Sequence[Job], at_once: int, size: Callable[[Job], Size | None]) -> list[list[int]]:
    """Numbers of the jobs that are done together: some of a size, or one of which none is known."""
    most = max(1, len(jobs) // (TURNS * at_once))
    alike = defaultdict[Size | int, list[int]](list)
    for number, job in enumerate(jobs):
        alike[(size(job) if most > 1 else None) or number].append(number)
    groups = []
    for shape, numbers in alike.items():
        count = 1 if isinstance(shape, int) else max(1, min(most, GROUP_PIXELS // max(1, math.prod(shape))))
        groups += [numbers[start : start + count] for start in range(0, len(numbers), count)]
    return sorted(groups)


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
    work: Work,
    report: Reporter,
    title: str,
    initializer: Callable[[], object] | None = None,
    team: Team = Team(),
    size: Callable[[Job], Size | None] = lambda job: None,
) -> None:
    """Do every job, those of a size together, and report each; `initializer` is called in each thread that does some.

    Of a team's processes each does its share, and the first reports. Raises the error of a single file, typer.Exit(1)
    if some of many failed in any process.
    """
    first = team.number == 0
    if batch.single:
        if not first:
            return
        (job,) = batch.jobs
        with progress_bar(title, report.shows_progress) as bar:
            (result,) = _do(batch, [job], work, bar or (lambda done, total: None))
        if isinstance(result, Exception):
            raise result
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

        def advance(numbers: Sequence[int], part: float) -> None:
            with lock:
                for number in numbers:
                    parts[number] = part
                if bar:
                    bar(sum(parts), len(parts))

        def several(numbers: Sequence[int]) -> None:
            def progress(done: int, total: int) -> None:
                if stopped.is_set():
                    raise KeyboardInterrupt
                advance(numbers, done / total)

            results = _do(batch, [batch.jobs[number] for number in numbers], work, progress)
            for number, result in zip(numbers, results, strict=True):
                settle(number, result)

        def settle(number: int, result: Result | Exception | None) -> None:
            source = str(batch.jobs[number].source)
            if isinstance(result, Exception):  # reported, and the rest is done
                outcome, said[number] = "failed", {"input": source, "error": error_facts(result)}
                if not report.as_json:
                    show_error(result)
            else:
                outcome = "skipped" if result is None else "done"
                said[number] = result.facts if result else {"input": source, "skipped": True}
                if result and not report.as_json:
                    report(result.facts, result.text, result.detail)
            with lock:
                counts[outcome] += 1
            advance([number], 1.0)

        # BLAS has one limit for all threads, so it is set before they begin.
        blas = threadpool_limits(1, "blas") if batch.at_once > 1 else nullcontext()
        with blas, ThreadPoolExecutor(batch.at_once, initializer=initializer) as pool:
            try:
                futures = [pool.submit(several, numbers) for numbers in grouped(batch.jobs, batch.at_once, size)]
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


def _do(batch: Batch, jobs: Sequence[Job], work: Work, progress: Progress) -> list[Result | Exception | None]:
    """What came of jobs that are done together; None if an output is there already."""
    refused = [caught(_is_there, batch, job) for job in jobs]  # False: it is not
    wanted = [job for job, why in zip(jobs, refused, strict=True) if why is False]
    found = caught(work, wanted, progress) if wanted else []
    results = iter([found] * len(wanted) if isinstance(found, Exception) else found)
    outcomes: list[Result | Exception | None] = []
    for job, why in zip(jobs, refused, strict=True):
        result = next(results) if why is False else why if isinstance(why, Exception) else None
        outcomes.append(caught(_finished, batch, job, result) if isinstance(result, Result) else result)
    return outcomes


def _is_there(batch: Batch, job: Job) -> bool:
    """Whether to skip a job. Raises if its output must not be written."""
    if job.target is None:
        return False
    if batch.resume and job.target.is_file():
        return True
    if not batch.single:
        job.target.parent.mkdir(parents=True, exist_ok=True)
    check_target(job.target, job.source, overwrite=batch.force)
    return False


def _finished(batch: Batch, job: Job, result: Result) -> Result:
    """The result of a job whose output is written."""
    if job.target is not None and batch.keep_mtime and STREAM not in (job.source, job.target):
        times = job.source.stat()
        os.utime(job.target, ns=(times.st_atime_ns, times.st_mtime_ns))
    return result
