"""The exceptions that Assay raises on purpose.

    Exception
    ├── ValueError           a caller's mistake: names the value and the fix
    │   └── DataError        a file of pairs or completions that cannot be used as it is
    └── AssayError           the world failed: the last good state is kept
        ├── ArtifactError    an artifact that is missing, altered or not loadable
        ├── CacheError       a cache of rewards that is damaged or of another version
        ├── CheckpointError  a checkpoint that is broken or of another run
        ├── EngineError      a remote engine that cannot be reached or answers with something else than rewards
        ├── RewardError      answers without a reward where a trainer cannot go on without
        └── TrainingError    a loss that is not finite, a disk that is full

A completion that cannot be scored is no exception: its row is NaN with a reason (`Rewards.error`).
"""

from __future__ import annotations


class DataError(ValueError):
    """A file or table that cannot be read as preference pairs or completions."""


class AssayError(Exception):
    """Base of the failures that are not the caller's mistake."""


class ArtifactError(AssayError):
    """An artifact directory that is missing something, was altered, or cannot be loaded."""


class CacheError(AssayError):
    """A cache file that cannot be read: delete it, it is filled again."""


class CheckpointError(AssayError):
    """A checkpoint that is incomplete, damaged, or was made by a different run."""


class EngineError(AssayError):
    """A remote engine that cannot be reached, refuses, or does not give one reward for each text; names the URL and the fix."""


class RewardError(AssayError):
    """Answers of a training step have no reward; the message gives their number and the first reason."""


class TrainingError(AssayError):
    """Training had to stop; the message says where the last good state lies."""
