"""Change models while the service runs: load a candidate, shadow, promote, roll back. Every route needs an admin token.

POST /v1/admin/models/NAME/load {"artifact": "in the configured directory", "rescale": true}
POST /v1/admin/models/NAME/{shadow, unshadow, promote, rollback, drop}       GET /v1/admin/models
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from pathlib import Path
from typing import Literal

from fastapi import APIRouter, Request
from starlette.responses import Response

from assay.errors import AssayError
from assay.scorers.wrappers.scaled import Scaled
from assay.serve.service import BadRequest, Body, Service, StrictJSON, run_in_thread, service_of

router = APIRouter(prefix="/v1/admin", tags=["admin"])
log = logging.getLogger("assay.serve")

Action = Literal["shadow", "unshadow", "promote", "rollback", "drop"]
_loading = threading.Lock()


class LoadRequest(Body):
    """artifact: name of a directory in the configured one. rescale: bring its rewards to the scale of the current model."""

    artifact: str
    rescale: bool = True


@router.get("/models")
async def list_models(request: Request) -> Response:
    """The current, candidate and previous model of each name, and the shadow's figures."""
    return StrictJSON({"models": [served.describe() for served in service_of(request).models.values()]})


@router.post("/models/{name:path}/load")
async def load_candidate(name: str, body: LoadRequest, request: Request) -> Response:
    """Load an artifact as the candidate of a model; it does not answer requests yet."""
    service = service_of(request)
    service.find(name)
    if not _loading.acquire(blocking=False):
        raise BadRequest(409, "another model is being loaded: wait for it")
    try:
        await asyncio.wrap_future(run_in_thread(_load, service, name, body))
    finally:
        _loading.release()
    return StrictJSON(service.find(name).describe())


@router.post("/models/{name:path}/{action}")
async def change_model(name: str, action: Action, request: Request) -> Response:
    """Shadow, unshadow, promote, rollback or drop. Running requests are answered by the model that was current when they began."""
    served = service_of(request).find(name)
    try:
        match action:
            case "shadow" | "unshadow":
                served.set_shadow(action == "shadow")
            case "promote":
                served.promote()
            case "rollback":
                served.roll_back()
            case "drop":
                served.drop()
    except ValueError as error:
        raise BadRequest(409, str(error)) from error
    log.warning("%s: %s, now %s (%s)", name, action, served.current.source, served.current.fingerprint)
    return StrictJSON(served.describe())


def artifact_inside(directory: Path, name: str) -> Path:
    """The artifact of that name in the directory. Raises BadRequest for a name that is not plain or leads out of the directory."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name):
        raise BadRequest(422, "an artifact is named by the name of its directory: letters, digits, and . _ - inside of it")
    root = directory.resolve()
    path = (root / name).resolve()
    if path.parent != root or not path.is_dir():
        raise BadRequest(404, f"there is no artifact {name} in the directory that models may be loaded from")
    return path


def _load(service: Service, name: str, body: LoadRequest) -> None:
    swapping, served = service.swapping, service.find(name)
    if swapping is None:
        raise BadRequest(409, "no model can be loaded: the service was started without a directory to load from")
    if body.rescale and swapping.measure_scale is None:
        raise BadRequest(409, "there is no reference set to rescale on: start with one, or ask for rescale: false")
    path = artifact_inside(swapping.directory, body.artifact)
    try:
        scorer, scale = swapping.load(path), None
        if body.rescale and swapping.measure_scale is not None:
            scale = swapping.measure_scale(served.current.batcher, scorer)
            scorer = Scaled(scorer=scorer, factor=scale["factor"])
        served.propose(service.start_engine(name, scorer, body.artifact, scale))
    except (ValueError, AssayError, OSError) as error:
        raise BadRequest(409, f"{body.artifact} was not loaded: {error}") from error
