"""What a benchmark says when it runs in this process: another process loads torch and transformers for ten seconds first."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from typing import Any
from unittest.mock import patch

import torch


def printed(main: Callable[[], int], *words: str) -> str:
    """All that it prints on standard output, given these words of a command line."""
    threads = torch.get_num_threads()
    try:
        with redirect_stdout(StringIO()) as out, patch.object(sys, "argv", ["benchmark", *words]):
            assert main() == 0
    finally:
        torch.set_num_threads(threads)
    return out.getvalue()


def document(main: Callable[[], int], *words: str) -> dict[str, Any]:
    """What the last line says."""
    return json.loads(printed(main, *words).splitlines()[-1])
