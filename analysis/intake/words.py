"""Words of descriptions that name a technique or a place in the body, and nobody."""

from __future__ import annotations

import re

_TECHNIQUE = """
t1 t2 t2* t1w t2w pd pdw flair swi swan dwi dti adc asl pwi tof mra mrv bold fmri stir dir mprage mp rage mp2rage
bravo spgr fspgr flash vibe space cube vista tfl tfe ffe tse fse frfse se gre ge ir tirm haste ssfse propeller blade
multivane fiesta ciss trufi epi ep ep2d dark fluid fat fs fatsat sat spair dixon water in opp phase mag weighted
weighting contrast enhanced post pre gd gad gado gadolinium km c + native plain iv oral fast spin echo gradient
inversion recovery turbo dual
"""
_GEOMETRY = """
2d 3d ax axial tra transversal transverse cor coronal sag sagittal oblique obl iso isotropic thin thick mm slices
slice stack mpr mip minip recon ref reformatted helical spiral sequential volume vol full fov high low res hr
resolution
"""
_ANATOMY = """
brain head skull cranial cranium neuro cerebrum hippocampus temporal lobe orbit orbits sella pituitary iac neck spine
cervical thoracic lumbar knee hip chest abdomen pelvis bone soft tissue kopf schaedel schädel gehirn tete cerveau
cerebral crane encephale encéphale craneo cráneo cerebro
"""
_OTHER = """
loc localizer localiser scout survey calibration test series routine protocol study exam mr mri mrt irm ct cta trauma
stroke tumor tumour epilepsy dementia ms with without w wo and or of the von mit ohne sans avec con sin left right li
re links rechts
"""
_WORDS = frozenset(f"{_TECHNIQUE} {_GEOMETRY} {_ANATOMY} {_OTHER}".split())


def technical(text: str) -> list[str]:
    """Those words of a text that are on the list, as they are written.

    >>> technical("Ax T2 FLAIR Muster, Erika 4711")
    ['Ax', 'T2', 'FLAIR']
    """
    return [word for word in re.findall(r"[^\W_]+\*?|\+", text) if word.lower() in _WORDS]
