from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """x"""

    out: Path = Path("runs/demo")


def demo(config): ...
