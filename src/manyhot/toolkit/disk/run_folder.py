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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from manyhot.toolkit.errors import InputError, first_line, shown
from manyhot.toolkit.parse import parse_json, parse_toml
from manyhot.toolkit.plain_files import MOST_TEXT, read_plain, why

MANIFEST = "manifest.json"


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
RUN = Kind("run", "train", 6, RUN_FILES, since="training")
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


# Where a place is the root of a volume: nothing beside it is on the same one.
INSIDE = ".partial"
# Bytes that a name may have on the file systems there are.
LONGEST_NAME = 255


def partial_of(path: Path) -> Path:
    """Return the hidden folder beside a run's place, where it is built and where an interrupted training is kept.

    Where the place is the root of a volume, it is inside.
    """
    return path / INSIDE if os.path.ismount(path) else path.with_name(f".{path.name}.partial")


def place_of(out: str) -> Path:
    """Return the place that --out names, links and dots resolved, before any work is done for it.

    Raises:
        InputError: a name that no file system takes, or a link to nothing or to no folder.
    """
    if "\0" in out:
        raise InputError(f"--out: expected the name of a folder, got one with a NUL byte, {shown(out)}.")
    path = Path(out)
    for part in path.parts:
        if len(os.fsencode(f".{part}.partial")) > LONGEST_NAME:
            raise InputError(f"--out: expected names of at most 246 bytes, got {shown(part)}; choose a shorter one.")
    for part in (path, *path.parents):
        if part.is_symlink() and not _is_there(part):
            raise InputError(f"{part}: expected a folder, got a link to {os.readlink(part)}, which is not there.")
    if path.is_symlink() and not path.is_dir():  # /dev/stdout leads to a name that is nowhere
        raise InputError(
            f"{out}: expected a folder that does not exist yet, got a link to what is none; choose another --out."
        )
    if path.is_symlink() or not path.name or ".." in path.parts:
        path = path.resolve()
    return path


def _is_there(link: Path) -> bool:
    try:
        return link.exists()
    except OSError:  # a link to itself
        return False


def check_free(path: Path) -> None:
    """Refuse a place where something is.

    Raises:
        InputError: the folder exists and is not empty, or cannot be made.
    """
    if path.exists() and (not path.is_dir() or any(entry.name != INSIDE for entry in path.iterdir())):
        raise InputError(f"{path}: expected a folder that does not exist yet; choose another --out or remove it.")
    existing = next(parent for parent in path.absolute().parents if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise InputError(f"{path}: cannot make this folder, {existing} is no folder to write in; choose another --out.")


def check_output(path: Path, outputs: Sequence[str], data: str | Path | None = None) -> None:
    """Refuse an output of one file that cannot be written or takes the place of something, before any work is done.

    Args:
        path: the file to write.
        outputs: what its name may end in.
        data: what is read for it.

    Raises:
        InputError: another suffix, a name that no file system takes, no folder to write in, a pipe or device, the data
            file, or a file of a run.
    """
    if path.suffix not in outputs:
        raise InputError(f"{path}: expected an output that ends in {', '.join(outputs)}.")
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise InputError(f"{path}: expected a name of at most {LONGEST_NAME} bytes; choose a shorter --out.")
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"{path}: expected a file in a folder that exists.")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path}: expected a file in a folder that may be written in; choose another --out.")
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: expected a file, got a pipe or device; choose another --out.")
    if data is not None and path.exists() and Path(data).exists() and path.samefile(data):
        raise InputError(f"{path}: expected an output beside the data, got the data file itself; choose another --out.")
    if path.name in (*RUN.files, *COMPARISON.files, MANIFEST) and (path.parent / MANIFEST).exists():
        raise InputError(
            f"{path}: expected a file outside of the folder of a run, whose files no longer change; choose another "
            "--out."
        )


def write_folder(path: Path, files: dict[str, bytes], kind: Kind) -> None:
    """Write a complete run or comparison, or nothing.

    The folder is built in a hidden one beside its place, each file flushed to the disk, the manifest last, and renamed.

    Raises:
        OSError: the disk is full or refuses; nothing is left behind.
    """
    if set(files) != set(kind.files):
        raise ValueError(f"a {kind.name} holds {kind.files}; got {sorted(files)}.")
    partial = partial_of(path)
    partial.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=partial))
    try:
        building.chmod(0o755)
        for name, content in files.items():
            write_file(building / name, content)
        sums = {name: sha256(content) for name, content in sorted(files.items())}
        write_file(building / MANIFEST, to_json({"format": kind.format, "sha256": sums}))
        flush_folder(building)
        _put(building, path)
        flush_folder(path.parent)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    finally:
        with contextlib.suppress(OSError):  # a checkpoint is in it
            partial.rmdir()


def _put(building: Path, path: Path) -> None:
    """Rename a folder to its place; what cannot be renamed onto, such as a mounted volume, is written into.

    The manifest comes last: a folder without it is no run.
    """
    try:
        # A folder that somebody stands in would be gone from under them.
        if path.is_dir() and os.path.samefile(path, os.curdir):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))
        os.rename(building, path)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM) or not path.is_dir():
            raise
        if any(entry.name != INSIDE for entry in path.iterdir()):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path)) from None
        names = sorted(os.listdir(building), key=lambda name: name == MANIFEST)
        try:
            for name in names:
                write_file(path / name, (building / name).read_bytes())
            flush_folder(path)
        except BaseException:
            for name in reversed(names):
                (path / name).unlink(missing_ok=True)
            raise
        shutil.rmtree(building)


def write_file(path: Path, content: bytes) -> None:
    """Write a file: the whole of it or nothing."""
    with whole_file(path) as file:
        file.write(content)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file under a temporary name; at the end it is flushed and put in its place, whatever was there before.

    Whatever goes wrong before, the temporary file is removed, and its place is as it was.
    """
    # What is put in a place has the rights of what was there. Its name before is nobody's to guess, and is made anew: a
    # link that was planted under it would not be followed. A character has up to four bytes, and a name 255.
    temporary = path.with_name(f".{path.name[:50]}.{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with open(os.open(temporary, flags, 0o666), "wb") as file:
            if path.is_file():
                with contextlib.suppress(OSError):
                    os.chmod(temporary, stat.S_IMODE(path.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_folder(path: Path, kind: Kind) -> dict[str, bytes]:
    """Read the files of a run or comparison after checking each against the manifest.

    Raises:
        InputError: nothing of this kind, one cut short or changed by hand, or one of another format; names the file.
    """
    wanted = f"expected a {kind.name} folder"
    if not path.is_dir():
        raise InputError(f"{path}: {wanted}, as `manyhot {kind.command}` writes it; there is none.")
    try:
        manifest = parse_json(read_plain(path / MANIFEST, MOST_TEXT))
        format_, sums = manifest["format"], manifest["sha256"]
    except FileNotFoundError:
        raise InputError(f"{path}: {wanted}, but {MANIFEST} is missing; {kind.again}.") from None
    except OSError as error:
        raise InputError(f"{path / MANIFEST}: cannot be read, {why(error)}; {kind.again}.") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{path / MANIFEST}: expected the manifest of a {kind.name}, but it is damaged; {kind.again}."
        ) from None
    if kind is RUN and isinstance(sums, dict) and set(sums) == set(COMPARISON.files):
        raise InputError(f"{path}: {wanted}, got a comparison; name the folder of a run, as `manyhot train` writes it.")
    if format_ != kind.format:
        raise InputError(
            f"{path}: {kind.name} format {kind.format} is what this manyhot reads; got {format_!r}. "
            f"Update manyhot, or {kind.command} again."
        )
    files = {}
    for name in kind.files:
        try:
            files[name] = read_plain(path / name, _most(name))
        except FileNotFoundError:
            raise InputError(f"{path / name}: missing from the {kind.name}; {kind.again}.") from None
        except OSError as error:
            raise InputError(f"{path / name}: cannot be read, {why(error)}; {kind.again}.") from None
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


def _most(name: str) -> int:
    """Return how many bytes a file of a run may have: weights as many as there is memory."""
    import psutil

    return psutil.virtual_memory().available if name.endswith(".safetensors") else MOST_TEXT


def kind_of_run(path: Path) -> Kind:
    """Say which kind of run a folder is by the files that its manifest names; a damaged one is a run like any other."""
    try:
        named = set(parse_json(read_plain(path / MANIFEST, MOST_TEXT))["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
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
    """Write JSON for people and programs; NaN is an error. Bytes of a file name that is no UTF-8 become escapes."""
    text = json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False)
    return (text + "\n").encode(errors="backslashreplace")


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
