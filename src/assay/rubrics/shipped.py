"""The rubrics that come with Assay, found by name: helpfulness, correctness, safety, instruction-following, concision,
last-step."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from assay.rubrics.rubric import Rubric
from assay.rubrics.rubric_file import read_rubric

_FOLDER = Path(__file__).parent / "shipped_files"


def shipped_names() -> list[str]:
    """What the shipped rubrics are called."""
    return sorted(file.stem for file in _FOLDER.glob("*.toml"))


def rubric_file_of(name: str | Path) -> Path:
    """The file of a shipped rubric's name, or the file that is named itself. Raises ValueError that names the shipped ones."""
    if str(name) in shipped_names():
        return _FOLDER / f"{name}.toml"
    if Path(name).suffix.lower() in (".toml", ".json"):
        return Path(name)
    raise ValueError(
        f"{str(name)!r} is no rubric: name a .toml or .json file, or one that is shipped: {', '.join(shipped_names())}"
    )


def why_no_rubric(name: str, *, flags: str = "the flags of a judge") -> str:
    """That a name is no rubric though it is taken for one, the names that there are, and the nearest of them. flags: what goes with
    a rubric."""
    near = get_close_matches(name, shipped_names(), n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"{name} is no rubric: {meant}{flags} go with a rubric file or the name of a shipped one ({', '.join(shipped_names())})"


def find_rubric(name: str | Path) -> Rubric:
    """The rubric of a shipped name or a file. Raises ValueError as `rubric_file_of` and `read_rubric` do."""
    return read_rubric(rubric_file_of(name))


def names_local_judge(word: str) -> bool:
    """Whether a word of a command line is a rubric (in TOML, or shipped) whose judge runs in this process by what its file says."""
    if Path(word).suffix.lower() != ".toml" and word not in shipped_names():
        return False
    try:
        return find_rubric(word).judge.backend == "local"
    except (ValueError, OSError):
        return False
