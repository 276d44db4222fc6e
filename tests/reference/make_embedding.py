#!/usr/bin/env python3
"""make_embedding.py > embedding.json : vectors, their norms, and what scipy says of norms.

Needs numpy and scipy; the versions that made the file are recorded in it. The norms are those of
fractions: the squares are summed exactly and the root is taken with 60 digits, so that they are
right to the last bit whatever the scale. The p-values are for two sides of embeddings that are
compared by their norms."""
import json, sys
from decimal import Decimal, getcontext
import numpy as np, scipy
from scipy import stats

getcontext().prec = 60
getcontext().Emin, getcontext().Emax = -10000, 10000
R = np.random.default_rng(384)
out = {"made_by": {"numpy": np.__version__, "scipy": scipy.__version__, "python": sys.version.split()[0]}}

def norm(vector):
    with_digits = getcontext().copy()
    with_digits.prec = 2000  # a square of a double has at most 2200 digits; its leading ones do
    total = Decimal(0)
    for value in vector:
        total = with_digits.add(total, with_digits.multiply(Decimal(value), Decimal(value)))
    return float(total.sqrt())

out["norms"] = []
for dimension in (1, 2, 3, 7, 8, 9, 33, 384):
    for scale in (1.0, 1e-200, 1e-320, 1e200, 1e306):
        vector = (R.normal(0, 1, dimension) * scale).tolist()
        out["norms"].append({"vector": vector, "norm": norm(vector)})
mixed = [1e-300, 1.0, 1e150, 1e154, 3.5]
out["norms"].append({"vector": mixed, "norm": norm(mixed)})

out["sides"] = []
for name, shift, factor in (("same", 0.0, 1.0), ("longer", 0.0, 1.15), ("elsewhere", 0.4, 1.0)):
    reference, window = R.normal(0, 1, (70, 4)), R.normal(shift, factor, (50, 4))
    ours = [[norm(v) for v in side.tolist()] for side in (reference, window)]
    test = stats.ks_2samp(*ours)
    out["sides"].append({"name": name, "reference": reference.tolist(), "window": window.tolist(),
        "ks": float(test.statistic), "p": float(test.pvalue)})

json.dump(out, sys.stdout)
