"""Where a base model comes from: a hub id, a directory, or a GGUF file, which is converted once into a cached directory."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

NOTE_FILE = "assay_base.json"


class Base(NamedTuple):
    """A base that transformers can load. path: a directory or a hub id; note: what the card should say of its origin."""

    path: str
    name: str
    note: str = ""
    license: str = ""


def resolve_base(base: str) -> Base:
    """Make `base` loadable. Raises ValueError for a path that does not exist or a GGUF file that transformers cannot read."""
    path = Path(base).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ValueError(f"base {base!r}: there is no such GGUF file")
        return _read_note(convert_gguf(path))
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ValueError(f"base {base!r} is a directory without config.json: give a saved transformers model")
        return _read_note(path)
    if path.is_absolute() or base.startswith((".", "~")) or base.count("/") > 1:
        raise ValueError(f"base {base!r}: there is no such directory; a hub id looks like org/name")
    return Base(path=base, name=base)


def cache_dir() -> Path:
    """$ASSAY_CACHE, else ~/.cache/assay."""
    return Path(os.environ.get("ASSAY_CACHE") or Path.home() / ".cache" / "assay")


def convert_gguf(file: Path, cache: Path | None = None) -> Path:
    """Dequantise a GGUF file into a safetensors directory in float32 under the cache; the second time it is only found."""
    digest = file_digest(file)
    target = (cache or cache_dir()) / "bases" / f"{file.stem}-{digest[:12]}"
    if (target / NOTE_FILE).is_file():
        return target
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        import gguf
    except ImportError as error:
        raise ValueError(f"base {file} is a GGUF file: install the reader with pip install 'assay-rm[gguf]'") from error
    fields = gguf.GGUFReader(file).fields
    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.float32)
    # After a GGUF load transformers takes the model for a quantised one and refuses to save it, though it is dequantised.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=".convert-"))
    try:
        model.save_pretrained(work)
        tokenizer.save_pretrained(work)
        (work / NOTE_FILE).write_text(json.dumps(_gguf_note(file, fields, digest, gguf), indent=1))
        if not target.exists():
            work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _gguf_note(file: Path, fields: Any, digest: str, gguf: Any) -> dict[str, str]:
    def text(name: str) -> str:
        return str(fields[name].contents()) if name in fields else ""

    file_type = fields["general.file_type"].contents() if "general.file_type" in fields else None
    try:
        quantisation = gguf.LlamaFileType(file_type).name.removeprefix("MOSTLY_")
    except ValueError:
        quantisation = "unknown"
    return {
        "name": file.stem,
        "note": f"weights are {quantisation} quantised, dequantised from {file.name} (sha256 {digest[:12]}), not the original ones",
        "license": text("general.license"),
    }


def _read_note(path: Path) -> Base:
    note = path / NOTE_FILE
    return Base(path=str(path), **json.loads(note.read_text())) if note.is_file() else Base(path=str(path), name=path.name)


def file_digest(file: Path) -> str:
    """sha256 of a file, 64 hex digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
