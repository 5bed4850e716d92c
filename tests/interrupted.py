"""Trainings that are killed at a chosen call of the system, and what a run holds that a repetition must give again."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

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


def goes_on_to_the_same_run(config, monkeypatch, kills, *, folder, train):
    """Train whole, and killed after so many files were written and resumed: every file must be the same."""
    train(config)
    monkeypatch.setattr("manyhot.toolkit.disk.checkpoint.WRITE_SECONDS", 0.0)
    monkeypatch.setattr("manyhot.toolkit.disk.checkpoint.SHARE", 1e9)
    for after in kills:
        place = replace(config, out=f"after{after}")
        assert killed(place, monkeypatch, after=after, train=train)
        train(place, resume=True)
        for name in folder.files:
            if name != "provenance.json":
                whole = Path(config.out, name).read_bytes()
                assert Path(f"after{after}", name).read_bytes() == whole, (after, name)


def contents(path):
    return {name: (Path(path) / name).read_bytes() for name in SAME}


class Stopped:
    """A bookmark that keeps every state, and interrupts the fit after so many; another fit goes on from the last."""

    def __init__(self, stop=None):
        self.states: list[Any] = []
        self.stop = stop

    def load(self):
        return self.states[-1] if self.states else None

    def save(self, state):
        self.states.append({name: np.array(array) for name, array in state().items()})
        if len(self.states) == self.stop:
            raise KeyboardInterrupt


class Recorded:
    """Steps that keep the last state, and break off after some."""

    def __init__(self, saves=10**9, state=None):
        self.saves, self.state = saves, state

    def load(self):
        return self.state

    def save(self, state):
        # What is kept must not change when the fit goes on: a checkpoint is bytes by then.
        self.state = {name: np.array(value) for name, value in state().items()}
        self.saves -= 1
        if not self.saves:
            raise KeyboardInterrupt
