"""SynthSR: any clinical brain scan to a synthetic 1 mm T1, and its segmentation."""

__version__ = "0.1.0"
