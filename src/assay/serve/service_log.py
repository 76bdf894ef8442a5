"""The log of the service, to stderr: lines for people, or one JSON object a line for machines."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any


class JSONLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, message, and what the record has under `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        row: dict[str, Any] = {"time": at, "level": record.levelname, "message": record.getMessage()}
        row |= getattr(record, "fields", {})
        if record.exc_info:
            row["exception"] = self.formatException(record.exc_info)
        return json.dumps(row, default=str)


def log_to_stderr(*, as_json: bool = False) -> None:
    """Write the service's log and uvicorn's warnings to stderr, with the time."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONLines() if as_json else logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name, level in (("assay.serve", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
