"""A folder of files predicted: one output a file, whoever takes which, and what is there already is not made again.

The unit is a file: its output is whole or not there, so that processes, shards and machines need tell each other
nothing, and a second start goes on where the first one ended.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import torch

from manyhot.toolkit.config import MARKED_TEXTS
from manyhot.toolkit.disk.run_folder import MANIFEST, file_sha256, place_of, sha256, to_json, whole_file, write_file
from manyhot.toolkit.errors import InputError, first_line, shown
from manyhot.toolkit.parse import parse_json
from manyhot.toolkit.plain_files import MOST_TEXT, read_plain
from manyhot.toolkit.read.formats.files import POLARS_ERRORS, TABLES, NoRows, check_is_file, kind_of_file
from manyhot.toolkit.runs.predictions import PREDICTED, WRITERS, free_names, write_predictions
from manyhot.toolkit.runs.saved_run import load_run
from manyhot.toolkit.spans.write import COLUMNS, OWN, write_spans

# Of matrices the file with the features stands for all.
ARRAYS = (".npy", ".X.npz")
DONE, OF_RUN = "_manifest.json", "_run.json"


class Done(NamedTuple):
    """What became of a file: its name in the folder, its rows, why there is no output if there is none, and a note."""

    name: str
    rows: int
    error: str | None = None
    note: str | None = None


class Job(NamedTuple):
    """What a worker needs to know, in words that any process understands."""

    run: str
    folder: str
    out: str
    keep: tuple[str, ...] | None
    encoding: str | None


class Summary(NamedTuple):
    """What was done with a folder."""

    files: list[Done]
    skipped: int
    left_out: int
    empty: int

    @property
    def failed(self) -> list[Done]:
        """The files without an output."""
        return [done for done in self.files if done.error is not None]


# Calls a job on each name, by whatever means, and yields what becomes of it as it comes.
Pool = Callable[[Job, Sequence[str]], Iterator[Done]]


def files_of_folder(folder: Path) -> tuple[list[str], int]:
    """List the data files below a folder by their names in it, sorted, and count what else there is.

    What begins with a dot or an underscore is nobody's data.
    """
    names, others = [], 0
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not path.is_file() or any(part[0] in "._" for part in name.parts):
            continue
        if _holds_rows(path):
            names.append(name.as_posix())
        else:
            others += 1
    return names, others


def _holds_rows(path: Path) -> bool:
    if path.name.endswith((".Y.npy", "labels.txt")):
        return False
    return kind_of_file(path)[0] in TABLES or path.name.endswith(ARRAYS)


def output_of(name: str) -> str:
    """Name the output of a file: its own name with .parquet in the place of all endings of its format."""
    path = Path(name)
    kind, packing = kind_of_file(path)
    stem = path.name[: len(path.name) - len(packing)]
    stem = stem[: len(stem) - len(kind)].removesuffix(".X")
    return path.with_name(f"{stem}.parquet").as_posix()


def shard_of(names: Sequence[str], part: str | None) -> list[str]:
    """Take part I of N, `I/N`, counted from 1: every N-th file, so that long and short ones are shared out.

    Raises:
        InputError: what is no I/N.
    """
    if part is None:
        return list(names)
    number, _, of = part.partition("/")
    digits = number.isdecimal() and of.isdecimal() and part.isascii() and len(part) < 20
    if not digits or not 1 <= int(number) <= int(of):
        raise InputError(f"--shard: expected I/N, such as 3/8, with I from 1 to N; got {shown(part)}")
    return list(names[int(number) - 1 :: int(of)])


def predict_folder(
    run: Path,
    folder: Path,
    out: Path,
    *,
    keep: Sequence[str] | None = (),
    encoding: str | None = None,
    shard: str | None = None,
    pool: Pool | None = None,
    progress: Callable[[int, int, Done], None] = lambda done, of, last: None,
) -> Summary:
    """Predict every data file below a folder, and write one .parquet file for each, under the same name.

    A file whose output is there is left alone. A file that cannot be read gets none, and the others are predicted all
    the same. At the end `_manifest.json` says which files were predicted, their rows, and the run.

    Args:
        run: the run folder.
        folder: what to read; all data files below it.
        out: the folder to write to, outside of `folder`; made if need be.
        keep: columns that every output has beside; None for all.
        encoding: of files that are text and not UTF-8.
        shard: `I/N`, a part of the files, for machines that share the work.
        pool: how the files are dealt out: :func:`one_after_another`, :func:`processes`, :func:`ray_actors`.
        progress: told with each file how many are done, of how many.

    Raises:
        InputError: no data files, two files of one output, outputs of another run, or a folder inside of the other.
    """
    names, left_out = files_of_folder(folder)
    if not names:
        raise InputError(f"{folder}: expected data files in this folder ({', '.join(TABLES[:5])} ...), got none")
    out = place_of(str(out))
    if out.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{out}: expected an output folder outside of {folder}, whose files are read; name another -o")
    _check_outputs(names)
    mine = shard_of(names, shard)
    load_run(run)  # what is wrong with it is said once, and not by every worker
    digest = sha256(read_plain(run / MANIFEST, MOST_TEXT))
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: expected a folder to write to, got a file; name another -o")
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, {"run": digest, "keep": "all" if keep is None else list(keep)})
    waiting = [name for name in mine if not (out / output_of(name)).exists()]
    for name in waiting:
        (out / output_of(name)).parent.mkdir(parents=True, exist_ok=True)
    files = [Done(name, _row_count(out / output_of(name))) for name in mine if (out / output_of(name)).exists()]
    skipped = len(files)
    job = Job(str(run), str(folder), str(out), None if keep is None else tuple(keep), encoding)
    for done in (pool or one_after_another)(job, waiting):
        files.append(done)
        progress(len(files), len(mine), done)
    files.sort(key=lambda done: done.name)
    summary = Summary(files, skipped, left_out, sum(done.rows == 0 and done.error is None for done in files))
    if not summary.failed:
        write_file(out / _manifest_name(shard), to_json(_manifest(folder, digest, files)))
    elif not any(out.rglob("*.parquet")):  # the same command with a mended option finds its place free
        _leave(out)
    return summary


def _leave(out: Path) -> None:
    """Remove the claim to a folder without outputs, and what folders it has."""
    (out / OF_RUN).unlink(missing_ok=True)
    for place in (*sorted((path for path in out.rglob("*") if path.is_dir()), reverse=True), out):
        with suppress(OSError):  # one that holds something
            place.rmdir()


def _manifest_name(shard: str | None) -> str:
    return DONE if shard is None else DONE.replace(".json", f"-{shard.replace('/', '-of-')}.json")


def _manifest(folder: Path, digest: str, files: list[Done]) -> dict[str, Any]:
    inputs = [{"file": d.name, "rows": d.rows, "sha256": file_sha256(folder / d.name)} for d in files]
    return {"run": digest, "rows": sum(done.rows for done in files), "inputs": inputs}


def _check_outputs(names: list[str]) -> None:
    taken: dict[str, str] = {}
    for name in names:
        other = taken.setdefault(output_of(name), name)
        if other != name:
            raise InputError(f"{other} and {name} would both be written to {output_of(name)}; rename one of them")


def _claim(out: Path, asked: dict[str, Any]) -> None:
    """Write what the outputs of a folder are of, or refuse those of something else."""
    claim = out / OF_RUN
    try:
        said = parse_json(read_plain(claim, MOST_TEXT))
    except FileNotFoundError:
        write_file(claim, to_json(asked))
        return
    except (OSError, ValueError) as error:
        raise InputError(
            f"{claim}: expected what an earlier start wrote, got something else ({first_line(error)}); name another -o"
        ) from None
    if said != asked:
        raise InputError(
            f"{out}: holds predictions of another run, or with other --keep; name another -o, or remove it"
        )


def _row_count(path: Path) -> int:
    try:
        check_is_file(path)
        return int(pl.scan_parquet(path, glob=False).select(pl.len()).collect().item())
    except POLARS_ERRORS as error:
        raise InputError(
            f"{path}: expected predictions of an earlier start, got another file or a damaged one "
            f"({first_line(error)}); remove it, or name another -o"
        ) from None


# --- one file --------------------------------------------------------------------------------------------------------


class Worker:
    """Holds a run, and predicts one file after the other."""

    def __init__(self, job: Job) -> None:
        self.job, self.run = job, load_run(job.run)

    def __call__(self, name: str) -> Done:
        """Predict a file; what is wrong with it is returned and not raised, as the other files are worth theirs."""
        job = self.job
        source, out = Path(job.folder) / name, Path(job.out) / output_of(name)
        try:
            if self.run.task in MARKED_TEXTS:
                return Done(name, write_spans(out, self.run, source, keep=job.keep))
            notes: list[str] = []
            options: Any = {"keep": job.keep, "encoding": job.encoding, "warn": notes.append}
            rows = write_predictions(out, self.run, source, **options)
            return Done(name, rows, note="; ".join(notes) or None)
        except NoRows:
            _write_nothing(out, COLUMNS.get(self.run.task, PREDICTED), source, job.keep)
            return Done(name, 0)
        except InputError as error:
            return Done(name, 0, str(error))


def _write_nothing(out: Path, predicted: pl.Schema, source: Path, keep: tuple[str, ...] | None) -> None:
    """Write an output without rows. A Parquet file keeps the types of its columns; columns of a text file are text."""
    known: dict[str, Any] = {}
    spans = predicted is not PREDICTED
    if kind_of_file(source) == (".parquet", ""):
        known = dict(pl.read_parquet_schema(source))
    kept = known if keep is None else {name: known.get(name, pl.String) for name in keep}
    names = {name: kept[own] for own, name in free_names(kept, {*OWN, *predicted} if spans else predicted).items()}
    with whole_file(out) as file, WRITERS[".parquet"](file) as write:
        write(pl.DataFrame(schema=names | dict(predicted)))


# --- who takes which file --------------------------------------------------------------------------------------------


def one_after_another(job: Job, names: Sequence[str]) -> Iterator[Done]:
    """Predict in this process."""
    if names:
        yield from map(Worker(job), names)


_worker: Worker | None = None  # of a process of a pool


def _start(job: Job) -> None:
    global _worker
    # Told to end, it cleans up as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    torch.set_num_threads(1)
    _worker = Worker(job)


def _take(name: str) -> Done:
    assert _worker is not None
    try:
        return _worker(name)
    except KeyboardInterrupt:  # its temporary file is gone; the pool would give it the next
        os._exit(1)


def processes(number: int) -> Pool:
    """Return a pool of processes on this machine, each with the run in its memory and one thread."""

    def pool(job: Job, names: Sequence[str]) -> Iterator[Done]:
        if not names:
            return
        context = multiprocessing.get_context("spawn")
        size = min(number, len(names))
        with ProcessPoolExecutor(size, mp_context=context, initializer=_start, initargs=(job,)) as executor:
            try:
                for future in as_completed([executor.submit(_take, name) for name in names]):
                    yield future.result()
            except BrokenProcessPool:
                error = ChildProcessError(0, "a process was ended by somebody else, or by want of memory", "--jobs")
                error.add_note("files that are written stay: the same command goes on, with fewer --jobs")
                raise error from None
            except BaseException:  # without these, it would wait until all other files are predicted
                for process in multiprocessing.active_children():
                    process.terminate()
                executor.shutdown(cancel_futures=True)
                raise

    return pool


def ray_actors(address: str, number: int | None = None) -> Pool:
    """Return a pool of Ray's actors, on the cluster at an address, or one of this machine for `local`.

    Args:
        address: what ray.init takes, such as auto, or local.
        number: of actors; None is one for each processor of the cluster.

    Raises:
        InputError: Ray is not installed.
    """
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise InputError('--ray needs Ray: pip install "ray[default]"; on one machine --jobs does the same') from None

    def pool(job: Job, names: Sequence[str]) -> Iterator[Done]:
        if not names:
            return
        ray.init(address=address, log_to_driver=False)
        try:
            size = min(number or int(ray.cluster_resources().get("CPU", 1)), len(names))
            actor: Any = ray.remote(max_restarts=1, max_task_retries=1, num_cpus=1)(_Actor)
            actors = ray.util.ActorPool([actor.remote(job) for _ in range(size)])
            yield from actors.map_unordered(lambda worker, name: worker.take.remote(name), names)
        finally:
            ray.shutdown()

    return pool


class _Actor:
    def __init__(self, job: Job) -> None:
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)
        # Ray pickles what a worker is given, and a run is read where it is used.
        self.worker = Worker(Job(*job))

    def take(self, name: str) -> Done:
        return self.worker(name)
