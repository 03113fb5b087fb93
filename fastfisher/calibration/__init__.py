"""Which kernel is fastest on this machine, measured (measure.py) on calls of its own (works.py)."""

from .measure import Calibration, Row, calibrate
from .works import cells

__all__ = ["Calibration", "Row", "calibrate", "cells"]
