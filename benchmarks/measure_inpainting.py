"""Are white-matter lesions filled in? Grey level in lesions against white matter, in scans and in what SynthSR makes.

    python benchmarks/measure_inpainting.py SCANS... --lesions MASK

One is what a lesion should have that was filled with healthy white matter; the mask may lie on any grid in the scans'
space. White matter is what the segmenter finds in the synthetic T1. Of lesions only what lies in it counts, as brain
stem and thalamus have grey levels of their own. Prints a table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.processing import resample_from_to

from synthsr import inference, labels, scan
from synthsr.predict import Predictor
from synthsr.segment import Segmenter
from synthsr.train import as_segmenter_input

WHITE_MATTER = (2, 41)


def ratio(image: npt.NDArray[np.float32], lesions: npt.NDArray[np.bool_], white: npt.NDArray[np.bool_]) -> float:
    """Mean grey level of the lesions within white matter over that of white matter without them."""
    return float(image[lesions & white].mean() / image[white & ~lesions].mean())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path, nargs="+")
    parser.add_argument("--lesions", type=Path, required=True, help="mask of lesions")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    inference.prepare_process(given.threads)
    predictor, segmenter = Predictor.load(device=given.device), Segmenter.load(device=given.device)
    mask = nib.load(given.lesions)
    mask = nib.Nifti1Image((np.asanyarray(mask.dataobj) > 0).astype(np.float32), mask.affine)
    print("scan", "synthetic T1", "lesions in white matter, ml", "file", sep="\t")
    for path in given.scans:
        image, grid = scan.read(path, ct=False)
        lesions = resample_from_to(mask, (grid.shape, grid.affine), order=1).get_fdata() > 0.5
        synthetic = inference.run(predictor.weights.network, image)
        channel = segmenter.segment(as_segmenter_input(synthetic))[0].numpy()
        white = np.isin(np.array(labels.segmentation_numbers())[channel], WHITE_MATTER)
        ratios = [ratio(volume[0, 0].numpy(), lesions, white) for volume in (image, synthetic)]
        volume_ml = (lesions & white).sum() / 1000
        print(*(f"{value:.2f}" for value in ratios), f"{volume_ml:.2f}", path.name, sep="\t")


if __name__ == "__main__":
    main()
