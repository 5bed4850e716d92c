"""What an interrupted training needs to go on: a hidden folder beside the run's place, .NAME.partial.

Training is a chain of fits, and all that lies between them follows from their results. So a checkpoint holds the
results of the fits that are finished and the state of the one under way, as safetensors; going on is training again,
with each finished fit read instead of made. Files get new names, and the manifest with their checksums is replaced
last: whenever the process dies, the folder holds one whole checkpoint, or none.
"""

import dataclasses
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from manyhot.toolkit.config import Config
from manyhot.toolkit.disk.fits import Arrays, Bookmark
from manyhot.toolkit.disk.run_folder import (
    MANIFEST,
    check_free,
    flush_folder,
    partial_of,
    place_of,
    run_name,
    sha256,
    to_json,
    versions,
    write_file,
)
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.parse import parse_json
from manyhot.toolkit.plain_files import MOST_TEXT, read_plain

try:
    import fcntl
except ImportError:  # Windows: two trainings at one place are not told apart
    fcntl = None

FORMAT = 5
LOCK = "lock"
# A checkpoint is written after so many seconds, and so seldom that writing takes a twentieth of the time at most.
WRITE_SECONDS = 10.0
SHARE = 1 / 20


class Checkpoint:
    """The finished fits of a training and the one under way; without a folder, nothing is kept."""

    def __init__(self, folder: Path | None = None, bound: dict[str, Any] | None = None) -> None:
        self.folder = folder
        self.bound = bound
        self.files: dict[str, str] = {}  # of each finished fit
        self.current: tuple[str, str] | None = None  # the fit under way and its file
        self.sums: dict[str, str] = {}
        self.waiting: dict[str, Arrays] = {}
        self.number = 0
        self.due = time.monotonic() + WRITE_SECONDS

    @property
    def exists(self) -> bool:
        """Say whether there is anything to go on from."""
        return self.folder is not None and (self.folder / MANIFEST).exists()

    def finished(self, fit: str) -> Arrays | None:
        """Return the result of a fit that is done; None of others."""
        if fit in self.waiting:
            return self.waiting[fit]
        return self._read(self.files[fit]) if fit in self.files else None

    def finish(self, fit: str, result: Arrays) -> None:
        """Keep the result of a fit."""
        if self.folder is None:
            return
        self.waiting[fit] = result
        if time.monotonic() >= self.due:
            self._write(None)

    def forget(self, start: str) -> None:
        """Let go of the finished fits whose names start so; the next writing removes their files."""
        for fits in (self.waiting, self.files):
            for fit in [fit for fit in fits if fit.startswith(start)]:
                del fits[fit]

    def bookmark(self, fit: str) -> Bookmark:
        """Return where a fit leaves its state."""
        return _Bookmark(self, fit)

    def load(self, fit: str) -> Arrays | None:
        """Return the state of the fit under way, if it is this one."""
        return self._read(self.current[1]) if self.current and self.current[0] == fit else None

    def save(self, fit: str, state: Callable[[], Arrays]) -> None:
        """Keep the state of the fit under way, if it is time to."""
        if self.folder is not None and time.monotonic() >= self.due:
            self._write((fit, state()))

    def open(self) -> None:
        """Read what an interrupted training left.

        Raises:
            InputError: the folder was changed, or is of another format.
        """
        assert self.folder is not None
        manifest = read_manifest(self.folder)
        self.files, self.sums = manifest["fits"], manifest["sha256"]
        self.current = tuple(manifest["current"]) if manifest["current"] else None
        for name in self.sums:
            self._bytes(name)
        self.number = max((int(name.split(".")[0]) for name in self.sums), default=0)
        self._sweep()

    def _write(self, under_way: tuple[str, Arrays] | None) -> None:
        assert self.folder is not None
        began = time.monotonic()
        for fit, result in self.waiting.items():
            self.files[fit] = self._put(result)
        self.waiting.clear()
        self.current = (under_way[0], self._put(under_way[1])) if under_way else None
        kept = {*self.files.values(), *((self.current[1],) if self.current else ())}
        self.sums = {name: value for name, value in self.sums.items() if name in kept}
        manifest = {
            "format": FORMAT,
            "bound": self.bound,
            "fits": self.files,
            "current": self.current,
            "sha256": self.sums,
        }
        write_file(self.folder / MANIFEST, to_json(manifest))
        flush_folder(self.folder)
        self._sweep()
        now = time.monotonic()
        self.due = now + max(WRITE_SECONDS, (now - began) / SHARE)

    def _put(self, arrays: Arrays) -> str:
        assert self.folder is not None
        self.number += 1
        name = f"{self.number:06d}.safetensors"
        content = save_tensors({key: np.asarray(value, order="C") for key, value in arrays.items()})
        write_file(self.folder / name, content)
        self.sums[name] = sha256(content)
        return name

    def _sweep(self) -> None:
        """Remove what no manifest names: files of the checkpoint before, and what was written when the process died."""
        assert self.folder is not None
        for path in self.folder.iterdir():
            if path.name not in (LOCK, MANIFEST, *self.sums):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _bytes(self, name: str) -> bytes:
        assert self.folder is not None
        try:
            content = read_plain(self.folder / name)
        except OSError:
            content = b""
        if sha256(content) != self.sums[name]:
            raise InputError(
                f"{self.folder / name}: expected the checkpoint as it was left (its sha256 is not the manifest's); "
                f"remove {self.folder} to start afresh."
            )
        return content

    def _read(self, name: str) -> Arrays:
        try:
            return load_tensors(self._bytes(name))
        except (SafetensorError, KeyError, ValueError) as error:
            raise InputError(
                f"{self.folder}/{name}: expected tensors; {error}: remove {self.folder} to start afresh."
            ) from None


class _Bookmark:
    """The bookmark of one fit."""

    def __init__(self, checkpoint: Checkpoint, fit: str) -> None:
        self.checkpoint = checkpoint
        self.fit = fit

    def load(self) -> Arrays | None:
        return self.checkpoint.load(self.fit)

    def save(self, state: Callable[[], Arrays]) -> None:
        self.checkpoint.save(self.fit, state)


NO_CHECKPOINT = Checkpoint()


def binding(
    config: Config, sums: dict[str, str | None], compared: dict[str, Any] | None = None, processes: int = 1
) -> dict[str, Any]:
    """Say what a checkpoint belongs to: with any of it changed, going on would give another run.

    Args:
        config: what was asked for; where the run goes does not matter.
        sums: sha256 of each input.
        compared: of a comparison, what is compared.
        processes: that train together; another number gives other bits.
    """
    options = dataclasses.asdict(config) | (compared or {}) | ({"processes": processes} if processes > 1 else {})
    del options["out"]
    return {
        "config": {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()},
        "inputs": sums,
        "versions": versions() | {"python": platform.python_version(), "machine": platform.machine()},
        "threads": torch.get_num_threads(),
    }


def differences(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Say in which ways a training is not the one that a checkpoint is of."""
    said = []
    for part, title in (("config", ""), ("versions", "version of ")):
        for key in sorted({*saved[part], *now[part]}):
            before, after = saved[part].get(key), now[part].get(key)
            if before != after:
                said.append(f"{title}{key} was {_word(before)} and is {_word(after)}")
    for file in sorted({*saved["inputs"], *now["inputs"]}):
        if saved["inputs"].get(file) != now["inputs"].get(file):
            said.append(f"{file} is not the same file")
    if saved["threads"] != now["threads"]:
        said.append(f"threads were {saved['threads']} and are {now['threads']} (OMP_NUM_THREADS)")
    return said


def find_place(config: Config, name: str, bound: dict[str, Any], *, resume: bool, say: Callable[[str], None]) -> Path:
    """Choose where the run goes, and say what interrupted trainings are there.

    Without --out it is runs/NAME-N, N the first number that is free; with `resume`, that of the training to go on with.

    Raises:
        InputError: the place is taken, or holds a checkpoint that is not to be used or is of another training.
    """
    if config.out:
        path = place_of(config.out)
        check_free(path)
        if not _has_checkpoint(path):
            return path
        if not resume:
            raise InputError(f"{path}: {_left_over(path)}, or choose another --out.")
        if said := differences(read_manifest(partial_of(path))["bound"], bound):
            raise InputError(_of_another(path, said))
        return path
    left = []
    if Path("runs").is_dir():
        numbered = re.compile(rf"\.({re.escape(name)}-\d+)\.partial")
        found = [Path("runs") / match[1] for entry in os.listdir("runs") if (match := numbered.fullmatch(entry))]
        left = [path for path in found if _has_checkpoint(path) and not path.exists()]
        left.sort(key=lambda path: (partial_of(path) / MANIFEST).stat().st_mtime, reverse=True)
    if resume and left:
        said = {path: differences(read_manifest(partial_of(path))["bound"], bound) for path in left}
        same = [path for path in left if not said[path]]
        if not same:
            raise InputError(_of_another(left[0], said[left[0]]))
        return same[0]
    if left:
        say(f"{left[0]}: {_left_over(left[0])}. This run gets another number.")
    number = 1
    while (path := Path("runs") / f"{name}-{number}").exists() or _has_checkpoint(path) or _is_locked(partial_of(path)):
        number += 1
    check_free(path)
    return path


@contextmanager
def reserved(
    config: Config,
    sums: dict[str, str | None],
    *,
    compared: dict[str, Any] | None = None,
    resume: bool,
    say: Callable[[str], None],
    processes: int = 1,
) -> Iterator[tuple[Path, Checkpoint]]:
    """Hold a place for the length of a training: one process trains there, and its checkpoint is read if asked for.

    What is left at the end is the run, or a checkpoint, or nothing; an interruption is told how to go on. What a
    comparison says of itself in `compared` belongs to its checkpoint.

    Raises:
        InputError: the place is taken, or holds a checkpoint that is not to be used or is of another training.
    """
    bound = binding(config, sums, compared, processes)
    name = run_name(config.data) + ("" if compared is None else "-compare")
    while True:
        path = find_place(config, name, bound, resume=resume, say=say)
        partial = partial_of(path)
        made = [parent for parent in (partial, *partial.parents) if not parent.exists()]
        try:
            partial.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # as of /proc, where nobody can make a folder
            reason = error.strerror or error
            raise InputError(
                f"{path}: expected a place where a folder can be made; {reason}. Choose another --out."
            ) from None
        try:
            lock = open(partial / LOCK, "wb")
        except FileNotFoundError:
            continue  # another removed the folder between two lines of ours
        with lock:
            if not _lock(lock):
                if config.out or resume:
                    raise InputError(
                        f"{path}: another manyhot is training there; wait for it, or choose another --out."
                    )
                continue  # it took the number between two lines of ours
            if not _stands(lock, partial / LOCK):
                continue  # another ended, and removed what is locked here
            checkpoint = Checkpoint(partial, bound)
            try:
                if checkpoint.exists:
                    checkpoint.open()
                    done = len(checkpoint.files)
                    say(f"going on from the checkpoint in {partial}: {done} {'fit' if done == 1 else 'fits'} finished")
                elif resume:
                    say("no checkpoint to go on from: starting at the beginning")
                yield path, checkpoint
            except BaseException as error:
                if checkpoint.exists:
                    error.add_note(f"the same command with --resume goes on from the checkpoint in {partial}")
                    raise
                shutil.rmtree(partial, ignore_errors=True)
                for parent in made[1:]:
                    with suppress(OSError):  # something else is in it by now
                        parent.rmdir()
                raise
            shutil.rmtree(partial, ignore_errors=True)
            return


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read what a checkpoint holds.

    Raises:
        InputError: damaged, or of another format.
    """
    try:
        manifest = parse_json(read_plain(folder / MANIFEST, MOST_TEXT))
        parts = [manifest["bound"][key] for key in ("config", "versions", "inputs")]
        fine = all(isinstance(part, dict) for part in (*parts, manifest["fits"], manifest["sha256"]))
        named = {*manifest["fits"].values(), *((manifest["current"][1],) if manifest["current"] else ())}
        fine = (
            fine and named == {*manifest["sha256"]} and all(re.fullmatch(r"\d+\.safetensors", name) for name in named)
        )
        fine = fine and manifest["format"] == FORMAT and isinstance(manifest["bound"]["threads"], int)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        fine, manifest = False, {}
    if not fine:
        raise InputError(
            f"{folder / MANIFEST}: expected the manifest of a checkpoint, but it is damaged or of another manyhot; "
            f"remove {folder} to start afresh."
        )
    return manifest


def _has_checkpoint(path: Path) -> bool:
    return (partial_of(path) / MANIFEST).exists()


def _left_over(path: Path) -> str:
    return (
        f"a training was interrupted here; --resume with the same options goes on, "
        f"rm -r '{partial_of(path)}' forgets it"
    )


def _of_another(path: Path, said: list[str]) -> str:
    more = f" and {len(said) - 3} more" if len(said) > 3 else ""
    return (
        f"{partial_of(path)}: expected a checkpoint of this training; {', '.join(said[:3])}{more}. "
        f"Type the options it had, or rm -r '{partial_of(path)}' to start afresh."
    )


def _word(value: Any) -> str:
    return "not given" if value is None else str(value)


def _lock(file: Any) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _stands(file: Any, path: Path) -> bool:
    """Say whether an open file is still the one at its place."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _is_locked(folder: Path) -> bool:
    try:
        with open(folder / LOCK, "rb") as file:
            return not _lock(file)
    except OSError:
        return False
