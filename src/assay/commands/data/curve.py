"""`assay data curve`: what doubling the training data would bring."""

from __future__ import annotations

from assay.commands.shared import show
from assay.run_files import only_run
from assay.training.fits.curve import CurveConfig as Config
from assay.training.fits.curve import learning_curve


def run(config: Config) -> int:
    """Fit on growing shares of the data, and show the curve with its forecast."""
    with only_run(config.train.out):
        report = learning_curve(config)
    show([report], verbose=config.train.machine.verbose, page=config.train.out / "curve.html")
    return 0
