"""Trainings that are killed at a chosen call of the system, and what a run holds that a repetition must give again."""

import os
from pathlib import Path

from manyhot.toolkit.disk.run_folder import RUN
from manyhot.toolkit.train import train

# What a run is; provenance.json has the time that it took.
SAME = [name for name in RUN.files if name != "provenance.json"]


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


def killed(config, monkeypatch, *, after, call="replace", resume=False, train=train):
    """Train until the process has made so many calls of `os`; say whether it was killed."""
    original, left = getattr(os, call), [after]

    def counted(*arguments, **options):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, counted)
        try:
            train(config, resume=resume)
        except Killed:
            return True
    return False


def contents(path):
    return {name: (Path(path) / name).read_bytes() for name in SAME}
