"""A run or a comparison on disk: data, not code. Built beside its place, renamed once, read after every checksum."""

import contextlib
import errno
import hashlib
import json
import os
import platform
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import psutil
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from manyhot.toolkit.errors import InputError, first_line, shown
from manyhot.toolkit.parse import parse_json, parse_toml

MANIFEST = "manifest.json"
# Of a name, on every file system that is in use; the hidden folder beside a run's place is named after it.
MOST_NAME = 255
# What may be read of a file other than weights: those of a million labels and terms have a tenth of it.
MOST_TEXT = 2**30


@dataclass(frozen=True)
class Kind:
    """What a folder is, the command that writes it, and the files it holds."""

    name: str
    command: str
    format: int
    files: tuple[str, ...]
    since: str

    @property
    def again(self) -> str:
        """What to do where the folder is damaged."""
        return f"{self.command} again, or restore the folder from a copy"


RUN_FILES = (
    *("calibration.json", "config.toml", "findings.json", "log.jsonl", "metrics.json", "model.safetensors"),
    *("provenance.json", "report.html", "run.json", "terms.json"),
)
RUN = Kind("run", "train", 5, RUN_FILES, since="training")
# A run on spans has scores and no calibrated probabilities.
SPAN_RUN = Kind("run", "train", 1, tuple(name for name in RUN_FILES if name != "calibration.json"), since="training")
COMPARISON = Kind("comparison", "compare", 3, ("compare.json", "config.toml", "report.html"), since="it was written")


def run_name(data: str) -> str:
    """Return what runs are named after: the data file, without its folder and endings."""
    return Path(data).name.split(".")[0] or "run"


def free_path(data: str) -> Path:
    """Return runs/NAME-N, NAME the data file's and N the first number that is free."""
    number = 1
    while (path := Path("runs") / f"{run_name(data)}-{number}").exists():
        number += 1
    return path


def partial_of(path: Path) -> Path:
    """Return the hidden folder beside a run's place, where it is built and where an interrupted training is kept."""
    return path.with_name(f".{path.name}.partial")


def place_of(out: str) -> Path:
    """Return the folder that --out means: what `.`, `..` and links lead to, anything else as it is written.

    Raises:
        InputError: a link that leads nowhere, or to itself.
    """
    path = Path(out)
    link = os.path.islink(path)
    if not link and path.name and path.name != "..":
        return path
    place = Path(os.path.realpath(path))
    if link and not place.exists():
        raise InputError(f"{path}: expected a folder, got a link to {place}, which is not there; choose another --out.")
    return place


def check_free(path: Path) -> None:
    """Refuse a place where something is.

    Raises:
        InputError: the folder exists and is not empty, or cannot be made.
    """
    name = len(os.fsencode(partial_of(path).name)) if path.name else 0
    if name > MOST_NAME:
        most = MOST_NAME - len(".partial") - 1
        raise InputError(
            f"{path.name[:40]}...: expected a name of at most {most} bytes, got one of {name - MOST_NAME + most}; "
            "choose a shorter --out."
        )
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path}: expected a folder that does not exist yet; choose another --out or remove it.")
        existing = next(parent for parent in path.absolute().parents if parent.exists())
    except OSError as error:
        raise InputError(f"{path}: cannot make this folder, {error.strerror}; choose another --out.") from None
    places = [existing, path] if path.exists() else [existing]
    for place in places:
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            hint = f"choose a folder in it: --out {path / 'run'}" if path != place and path.exists() else None
            raise InputError(
                f"{path}: cannot make this folder, {place} is no folder to write in; {hint or 'choose another --out'}."
            )


def write_folder(path: Path, files: dict[str, bytes], kind: Kind) -> None:
    """Write a complete run or comparison, or nothing.

    The folder is built in a hidden one beside its place, each file flushed to the disk, the manifest last, and renamed.

    Raises:
        OSError: the disk is full or refuses; nothing is left behind.
    """
    if set(files) != set(kind.files):
        raise ValueError(f"a {kind.name} holds {kind.files}; got {sorted(files)}.")
    sums = {name: sha256(content) for name, content in sorted(files.items())}
    files = files | {MANIFEST: to_json({"format": kind.format, "sha256": sums})}
    partial = partial_of(path)
    partial.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=partial))
    try:
        building.chmod(0o755)
        for name, content in files.items():
            write_file(building / name, content)
        flush_folder(building)
        if _is_fixed(path):
            _write_into(path, files)
        else:
            try:
                os.rename(building, path)
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.EXDEV):
                    raise
                _write_into(path, files)
        flush_folder(path.parent)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(building, ignore_errors=True)  # still there where its files were written in place
        with contextlib.suppress(OSError):  # a checkpoint is in it
            partial.rmdir()


def _is_fixed(path: Path) -> bool:
    """Say whether an empty folder has to stay the one it is: somebody stands in it, or something is mounted there."""
    return path.is_dir() and (path.is_mount() or os.path.samefile(path, os.curdir))


def _write_into(path: Path, files: dict[str, bytes]) -> None:
    """Write into an empty folder, the manifest last: without it, what is there is no run."""
    if any(path.iterdir()):
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))
    try:
        for name, content in files.items():
            write_file(path / name, content)
        flush_folder(path)
    except BaseException:
        for name in reversed(files):
            (path / name).unlink(missing_ok=True)
        raise


def write_file(path: Path, content: bytes) -> None:
    """Write a file: the whole of it or nothing."""
    with whole_file(path) as file:
        file.write(content)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file under a temporary name; at the end it is flushed and put in its place, whatever was there before.

    The name is random and nothing that exists is opened under it; a file that is replaced leaves its permissions to the
    new one. Whatever goes wrong before, the temporary file is removed, and its place is as it was.
    """
    temporary = path.with_name(f".manyhot-{secrets.token_hex(8)}")
    try:
        # 0o666 less the umask, as any new file.
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        with open(handle, "w+b") as file:
            with contextlib.suppress(OSError):
                before = os.lstat(path)
                if stat.S_ISREG(before.st_mode):
                    os.chmod(temporary, stat.S_IMODE(before.st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_regular(path: Path, most: int | None = MOST_TEXT) -> bytes:
    """Read a file of a folder that anybody may have made: no pipe, which hangs, and no device, which never ends.

    Args:
        path: the file.
        most: bytes that it may have; None for what memory is free.

    Raises:
        InputError: no plain file, a larger one, or one that may not be read.
        FileNotFoundError: there is none.
    """
    try:
        # Opening a pipe would wait for whoever writes to it.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{path}: expected a file that can be read, got: {error.strerror or error}.") from None
    try:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise InputError(f"{path}: expected a file, got a folder, pipe or device.")
        most = psutil.virtual_memory().available if most is None else most
        if about.st_size > most:
            raise InputError(
                f"{path}: expected a file of at most {most / 1e6:,.0f} MB, got one of {about.st_size / 1e6:,.0f} MB."
            )
        with open(handle, "rb", closefd=False) as file:
            return file.read(about.st_size)
    finally:
        os.close(handle)


def read_folder(path: Path, kind: Kind) -> dict[str, bytes]:
    """Read the files of a run or comparison after checking each against the manifest.

    Raises:
        InputError: nothing of this kind, one cut short or changed by hand, or one of another format; names the file.
    """
    wanted = f"expected a {kind.name} folder"
    if not path.is_dir():
        raise InputError(f"{path}: {wanted}, as `manyhot {kind.command}` writes it; there is none.")
    try:
        manifest = parse_json(read_regular(path / MANIFEST))
        format_, sums = manifest["format"], manifest["sha256"]
    except FileNotFoundError:
        raise InputError(f"{path}: {wanted}, but {MANIFEST} is missing; {kind.again}.") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{path / MANIFEST}: expected the manifest of a {kind.name}, but it is damaged; {kind.again}."
        ) from None
    if kind is RUN and isinstance(sums, dict) and set(sums) == set(COMPARISON.files):
        raise InputError(f"{path}: {wanted}, got a comparison; name the folder of a run, as `manyhot train` writes it.")
    if format_ != kind.format:
        raise InputError(
            f"{path}: {kind.name} format {kind.format} is what this manyhot reads; got {shown(format_)}. "
            f"Update manyhot, or {kind.command} again."
        )
    files = {}
    for name in kind.files:
        try:
            files[name] = read_regular(path / name, None if name.endswith(".safetensors") else MOST_TEXT)
        except FileNotFoundError:
            raise InputError(f"{path / name}: missing from the {kind.name}; {kind.again}.") from None
        if not isinstance(sums, dict) or sums.get(name) != sha256(files[name]):
            raise InputError(
                f"{path / name}: changed since {kind.since} (its sha256 is not the manifest's); {kind.again}."
            )
    return files


def parsed_files(path: Path, files: dict[str, bytes], kind: Kind) -> dict[str, Any]:
    """Parse every file, those too that prediction needs nothing of: an edited file is named as soon as it is met.

    Raises:
        InputError: a file that is none of its kind, or a number that is not finite.
    """
    parsed: dict[str, Any] = {}
    for name, content in files.items():
        try:
            if name.endswith(".safetensors"):
                parsed[name] = load_tensors(content)
                if not all(np.isfinite(array).all() for array in parsed[name].values()):
                    raise ValueError("a number in it is not finite")
            elif name.endswith(".toml"):
                parsed[name] = parse_toml(content)
            elif name.endswith(".html"):
                content.decode()
            elif name.endswith(".jsonl"):
                parsed[name] = [parse_json(line) for line in content.decode().splitlines()]
            else:
                parsed[name] = parse_json(content)
                if not isinstance(parsed[name], dict | list):
                    raise ValueError("it holds one value")
        # Types that NumPy has not, such as BF16, are a KeyError.
        except (ValueError, TypeError, KeyError, SafetensorError) as error:
            raise InputError(
                f"{path / name}: expected what training wrote, but it is damaged: {first_line(error)}; {kind.again}."
            ) from None
    return parsed


def kind_of_run(path: Path) -> Kind:
    """Say which kind of run a folder is by the files that its manifest names; a damaged one is a run like any other."""
    try:
        named = set(parse_json(read_regular(path / MANIFEST))["sha256"])
    except (InputError, OSError, ValueError, KeyError, TypeError):
        return RUN
    return SPAN_RUN if named == set(SPAN_RUN.files) else RUN


def provenance(
    inputs: list[tuple[Path, int]], *, sums: dict[str, str | None], seed: int, seconds: float
) -> dict[str, Any]:
    """Say where a run comes from: command line, versions, threads, seed, and each input with its sha256 and rows."""
    import torch

    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "seed": seed,
        "seconds": round(seconds, 2),
        "inputs": [{"file": str(file), "rows": rows, "sha256": sums.get(str(file))} for file, rows in inputs],
    }


def versions() -> dict[str, str | None]:
    """Return the versions of all that numbers may depend on."""
    packages = ("manyhot", "torch", "numpy", "scipy", "scikit-learn", "polars", "safetensors")
    return {name: _version(name) for name in packages}


def to_json(value: Any) -> bytes:
    """Write JSON for people and programs; NaN is an error."""
    return (json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode()


def sha256(content: bytes) -> str:
    """Return the hexadecimal digest."""
    return hashlib.sha256(content).hexdigest()


def file_sha256(path: Path) -> str | None:
    """Return the digest of a file; None of what is no plain file, or cannot be read."""
    if not path.is_file():
        return None  # reading a pipe would empty it
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def flush_folder(path: Path) -> None:
    """Put the names in a folder on the disk."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
