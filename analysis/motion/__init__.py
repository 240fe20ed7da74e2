"""Whether a head moved while it was scanned, by a small network that looks at single slices.

:mod:`.simulate` makes slices of heads that moved, :mod:`.train` the network's weights from them, :mod:`.network` judges
scans by these.
"""

from .network import WEIGHTS, probability, shipped

__all__ = ["WEIGHTS", "probability", "shipped"]
