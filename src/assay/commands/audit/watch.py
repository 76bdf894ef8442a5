"""`assay audit watch`: signs of a policy's run from what it logged, held against whole healthy runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from assay.audit.healthy_file import RATE, keep_healthy, read_healthy
from assay.audit.watch_log import is_run, settings_for, watch_log
from assay.commands.shared import Columns, keep, show
from assay.console import say
from assay.data.raw.rows import slug

FAILED = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Watch logs of a policy's training for signs of hacking (docs/monitors.md); status 6: an alarm rang."""

    logs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="LOG")]
    """Scored completions with step, prompt, response and reward, a file a run; or directories that assay rl train made."""
    healthy: Path | None = None
    """File of whole healthy runs: what gives signs a threshold and a rate. Without it they have none."""
    keep_healthy: Path | None = None
    """Add each LOG, a whole run that is known to be healthy, to this file."""
    rate: float = RATE
    """Share of healthy runs that may pass all signs together, and each alone."""
    window: int = 256
    """Rows of a look, at least; a run directory has a look a step."""
    start: int = 4
    """Looks at the beginning that signs are measured from."""
    columns: Columns = ()
    """Such as reward=my_function (docs/monitors.md)."""
    out: Path | None = None
    """Directory of reports and pages; that of the log when left out."""
    verbose: bool = False
    """Print every figure with its note."""

    def __post_init__(self) -> None:
        if not self.logs:
            raise ValueError("no log is named: give a file of scored completions, or a directory that assay rl train made")
        if self.healthy is not None and self.keep_healthy is not None:
            raise ValueError("--healthy judges a run and --keep-healthy takes it for healthy: give one of them")


def run(config: Config) -> int:
    """Watch each log, keep its report and page, and show what was found."""
    columns = dict(text.partition("=")[::2] for text in config.columns)
    reports, failed, page = [], False, None
    for path in config.logs:
        settings = settings_for(path, window=config.window, start=config.start)
        healthy = None if config.healthy is None else read_healthy(config.healthy, settings.watching, rate=config.rate)
        result = watch_log(path, settings=settings, healthy=healthy, columns=columns)
        if config.keep_healthy is not None:
            keep_healthy(config.keep_healthy, result.watch.record(path.name))
            say("kept", f"{path} as a healthy run in {config.keep_healthy}")
            continue
        home = config.out or (path if is_run(path) else path.parent)
        name = f"watch-{slug(str(path))}"
        reports.append(keep(result, home, name, page=result.page.title))
        page = home / f"{name}.html"
        failed |= any(finding.level == "fail" for finding in result.findings)
    if reports:
        then = () if config.healthy is not None else ("assay", "audit", "watch", "HEALTHY_LOGS", "--keep-healthy", "healthy.jsonl")
        show(reports, verbose=config.verbose, page=page, then=then)
    return FAILED if failed else 0
