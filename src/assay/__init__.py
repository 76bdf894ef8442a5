"""Assay: reward models you can trust. Train, calibrate, evaluate, score and watch them."""

__version__ = "0.1.0.dev0"
