"""Two passes of the published network as its authors run it, by TensorFlow: what inference is measured against.

    .venv-keras/bin/python benchmarks/original_network.py [--threads N]

``make test-keras`` makes that environment. The graph is that of the reference implementation (``tests/
keras_reference.py``) with random weights, which take the same time; the image has 192 x 224 x 192 voxels. Prints the
seconds of both passes, without loading, and the largest memory as JSON. Neither reads nor writes an image.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import keras_reference
import numpy as np
import tensorflow

SHAPE = (192, 224, 192)


def main() -> None:
    """Build, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="(default: all)")
    given = parser.parse_args()
    tensorflow.config.threading.set_intra_op_parallelism_threads(given.threads)
    model = keras_reference.build(levels=5, features=24, in_channels=1, out_channels=1)
    image = np.random.default_rng(0).random((1, *SHAPE, 1), dtype=np.float32)
    wall, cpu = time.perf_counter(), time.process_time()
    answer = model.predict(image, verbose=0)
    mirrored = model.predict(image[:, ::-1], verbose=0)
    answer = 0.5 * (answer + mirrored[:, ::-1])
    taken = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(json.dumps({**taken, "peak_mb": peak_mb, "tensorflow": tensorflow.__version__}))


if __name__ == "__main__":
    main()
