"""The weight files of a checkpoint, looked at before anything is loaded: are they safe to read, whole, and what is in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

INDEX = "model.safetensors.index.json"
_PICKLES = ("pytorch_model*.bin", "model*.bin", "adapter_model.bin", "value_head.bin", "*.pt", "*.pth")
_TO_SAFETENSORS = (
    'python -c "import glob; from torch import load; from safetensors.torch import save_file; '
    "[save_file({{k: v.clone().contiguous() for k, v in load(f, map_location='cpu', weights_only=True).items()}}, "
    "f[:-4].replace('pytorch_model', 'model') + '.safetensors', {{'format': 'pt'}}) "
    "for f in glob.glob('{path}/*.bin') if 'training_args' not in f]\""
)
_SHARDS = (
    'python -c "from transformers import AutoModelForSequenceClassification as M; '
    "M.from_pretrained('{path}', use_safetensors=False).save_pretrained('{path}')\""
)


class Stored(NamedTuple):
    """A tensor of a checkpoint: its file, its shape and its number format, as safetensors names it (F32, BF16, ...)."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def stored_tensors(path: Path) -> dict[str, Stored]:
    """Name -> tensor, of all safetensors files of a directory, from their headers alone.

    Raises ValueError for a directory with pickled weights only, which are never loaded, and for a file that is cut short, damaged
    or missing; each message says what to do.
    """
    files = sorted(path.glob("*.safetensors"))
    _refuse_missing(path, files)
    if not files:
        refuse_pickles(path)
        raise ValueError(f"{path} holds no weights: a checkpoint has model.safetensors, or model-00001-of-....safetensors")
    return {name: stored for file in files for name, stored in _header(file).items()}


def refuse_pickles(path: Path) -> None:
    """Raises ValueError for a directory whose weights are pickled; the message has the line that converts them elsewhere."""
    pickled = sorted({file.name for pattern in _PICKLES for file in path.glob(pattern)} - {"training_args.bin", "optimizer.pt"})
    if not pickled:
        return
    several = sum(name.startswith("pytorch_model") for name in pickled) > 1
    line = (_SHARDS if several else _TO_SAFETENSORS).format(path=path)
    raise ValueError(
        f"{path} has pickled weights ({pickled[0]}), which can run code when they are loaded: Assay reads safetensors only. "
        f"Convert them where you trust the publisher: {line}"
    )


def _refuse_missing(path: Path, files: list[Path]) -> None:
    """Raises ValueError when the index names a file that is not there."""
    index = path / INDEX
    if not index.is_file():
        return
    try:
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"{index} cannot be read ({error}): fetch the checkpoint again") from error
    if missing := sorted(named - {file.name for file in files}):
        raise ValueError(f"{path} lacks {len(missing)} of its {len(named)} weight files, such as {missing[0]}: fetch it again")


def _header(file: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file: eight bytes with the length of a JSON header, the header, the data."""
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= size - 8:
                raise ValueError("its header does not fit into it")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        needed = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        found = {name: Stored(file, tuple(entry["shape"]), entry["dtype"]) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is no whole safetensors file ({error}): fetch it again") from error
    if size < needed:
        raise ValueError(f"{file} is cut short, {size:,} of {needed:,} bytes: fetch it again")
    return found
