"""Write ``neurocombat_reference.json``, once, in an environment of its own:

    pip install neuroCombat==0.2.12 numpy pandas
    python tests/data/make_neurocombat_reference.py

neuroCombat stops at a relative change of 1e-4; here at 1e-12, so that the numbers can be compared to many digits.
"""

import importlib
import json
from pathlib import Path

import numpy as np
import pandas as pd

module = importlib.import_module("neuroCombat.neuroCombat")  # the package's name is also its function's

SITES = (9, 6, 12)

rng = np.random.default_rng(7)
site = np.repeat([f"site{i}" for i in range(len(SITES))], SITES)
age, sex = rng.uniform(20, 90, len(site)).round(1), rng.choice(["F", "M"], len(site))
level = 1000.0 * np.arange(1, 9)[:, None]
own = 40 * (sex == "M") - 3 * (age - 50) + 60 * rng.standard_normal((8, len(site)))
number = np.repeat(np.arange(len(SITES)), SITES)
shift, scale = rng.normal(0, 80, (8, len(SITES))), rng.uniform(0.6, 1.7, (8, len(SITES)))
values = (level + shift[:, number] + scale[:, number] * own).round(2)
people = pd.DataFrame({"site": site, "age_years": age, "sex": sex})

module.it_sol.__defaults__ = (1e-12,)
kept = module.neuroCombat(values, people, "site", categorical_cols=["sex"], continuous_cols=["age_years"])
plain = module.neuroCombat(values, people[["site"]], "site")
content = {
    "made_by": "tests/data/make_neurocombat_reference.py with neuroCombat 0.2.12",
    "site": list(site),
    "age_years": list(age),
    "sex": list(sex),
    "values": values.T.tolist(),
    "harmonised": kept["data"].T.tolist(),
    "harmonised_without_covariates": plain["data"].T.tolist(),
}
Path(__file__).with_name("neurocombat_reference.json").write_text(json.dumps(content, indent=None) + "\n")
