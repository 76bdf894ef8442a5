"""`assay swap`: change the models of a running service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from assay.console import print_figures
from assay.serve.admin_client import Change, change_models


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Change the models of a running service: load, shadow, promote, roll back."""

    url: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="URL")]
    """The service, such as http://127.0.0.1:8000; its admin token is read from ASSAY_ADMIN_TOKENS."""
    action: tyro.conf.Positional[Change]
    """What to do."""
    model: str | None = None
    """Name of the model to change; may be left out where one is served."""
    artifact: str | None = None
    """For load: name of a directory in the service's --models-dir."""
    as_it_is: bool = False
    """For load: leave its rewards on its own scale."""


def run(config: Config) -> int:
    """Do it, and print the models of the service."""
    print_figures(f"Models of {config.url}", swap_rows(swap(config)))
    return 0


def swap(config: Config) -> list[dict[str, Any]]:
    """Do it, and return what the service says of its models. Raises as `change_models`."""
    return change_models(config.url, config.action, model=config.model, artifact=config.artifact, as_it_is=config.as_it_is)


def swap_rows(models: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """What stands where, as rows of `show.print_figures`."""
    rows = []
    for model in models:
        for role in ("current", "candidate", "previous"):
            if (loaded := model[role]) is not None:
                scale = loaded["scale"] and f"rewards times {loaded['scale']['factor']:.4g}"
                rows.append((f"{model['name']}: {role}", loaded["source"], "; ".join(filter(None, (loaded["fingerprint"], scale)))))
                rows += [(f"{model['name']}: {role}", "warn", warning) for warning in (loaded["scale"] or {}).get("warnings", ())]
        if (shadow := model["shadow"]) is not None:
            rms = shadow["rms_difference"]
            seen = f"{shadow['n_scored']:,} of {shadow['n']:,} rewards, {shadow['flips']} of {shadow['pairs']} pairs flip"
            rows.append((f"{model['name']}: shadow", "" if rms is None else f"{rms:.4g}", f"root mean square difference; {seen}"))
    return rows
