"""Training: first the segmentation network, then SynthSR in front of it.

:mod:`.config` reads what is wanted, :mod:`.trainer` trains one network, :mod:`.devices` spreads a training over several
devices, :mod:`.record` and :mod:`.provenance` write down what happens, :mod:`.card` says at last what came of it.
"""

from .config import NETWORKS, NetworkPlan, Stage, TrainingConfig, ValidationScan, read_config
from .run import train
from .scans import as_segmenter_input
from .trainer import MAIN_NUMBERS, Trainer

__all__ = [
    "MAIN_NUMBERS",
    "NETWORKS",
    "NetworkPlan",
    "Stage",
    "Trainer",
    "TrainingConfig",
    "ValidationScan",
    "as_segmenter_input",
    "read_config",
    "train",
]
