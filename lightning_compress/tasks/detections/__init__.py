"""Detections: which of many scored boxes they are, and pictures of them."""

from lightning_compress.tasks.detections.drawing import draw_detections
from lightning_compress.tasks.detections.selection import (
    Detected,
    DetectionThresholds,
    select_detections,
)

__all__ = ["Detected", "DetectionThresholds", "draw_detections", "select_detections"]
