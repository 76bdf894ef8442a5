"""`assay serve`: load scorers, listen, answer until told to stop. FastAPI and uvicorn are the extra `serve`."""

from __future__ import annotations

from assay.serve.serve_config import ServeConfig as Config


def run(config: Config) -> int:
    """Serve until SIGTERM or SIGINT, then answer what was asked and return. Raises ValueError where the extra is not installed."""
    try:
        from assay.serve.build import serve  # imports FastAPI
    except ImportError as error:
        raise ValueError(f"{error.name} is not installed: pip install '.[serve]' in Assay's clone") from None
    serve(config)
    return 0
