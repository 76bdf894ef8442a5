"""The process that makes the checks of a pool: a JSON line in, a JSON line out. Run as a module, never imported.

A reply is {"value": number}, {"gold": why the ground truth cannot be read} or {"failed": why the check itself broke}.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

MEMORY_BYTES = 4 << 30

Checker = Callable[[dict[str, Any]], dict[str, Any]]


def checker_of(kind: str) -> Checker:
    """The function of a kind of check; what it needs is imported here."""
    match kind:
        case "answer":
            from assay.scorers.verifiers.math_answers import check_answer

            return check_answer
        case "json-schema":
            from assay.scorers.verifiers.schemas import check_schema

            return check_schema
        case "format":
            from assay.scorers.verifiers.patterns import check_format

            return check_format
    raise ValueError(f"there is no check {kind!r}")


def reply_to(check: dict[str, Any]) -> dict[str, Any]:
    """The reply to one check; whatever it raises is a reply too."""
    try:
        checker = checker_of(check["kind"])
        return {} if check.get("warm") else checker(check)
    except ModuleNotFoundError as error:
        return {"failed": f"{error.name} is not installed: pip install 'assay-rm[rules]'"}
    except MemoryError:
        return {"failed": f"the check needed more than {MEMORY_BYTES >> 30} GiB of memory"}
    except (Exception, SystemExit) as error:
        return {"failed": f"the check raised {type(error).__name__}: {error}"[:300]}


def main() -> None:
    """Reply to checks until the input ends. What a check prints goes nowhere."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):
        pass  # not on this system: the deadline remains
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for line in sys.stdin:
        replies.write(json.dumps(reply_to(json.loads(line))) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
