"""scipy's answers to the pairs in pairs.json: python3 make_expected.py > expected.json

Made with Python 3.11, scipy 1.17.1, numpy 2.4, pandas 2.3, pyarrow. Per pair and column: null and NaN are
dropped, infinities too (driftd counts them and does not compare them), integers are read as doubles, booleans
as 0 and 1. What scipy answers with NaN, infinity or an exception is written as null.
"""
import json
import math
import pathlib
import warnings

import numpy as np
import pyarrow.parquet as pq
from scipy import stats
from scipy.spatial.distance import jensenshannon

HERE = pathlib.Path(__file__).parent
warnings.filterwarnings("ignore")


def number(f):
    try:
        x = float(f())
    except Exception:  # whatever scipy raises: it has no number
        return None
    return x if math.isfinite(x) else None


def both(out, name, f):
    try:
        r = f()
    except Exception:
        return
    out[name] = {"statistic": number(lambda: r.statistic), "p_value": number(lambda: r.pvalue)}


def numeric(r, c):
    # Moments of values far from 0 beside their spread lose their digits in scipy. None of these numbers
    # depends on where 0 is, and a shift to a middle value is exact for them.
    middle = np.median(r) if len(r) else 0.0
    if len(r) and abs(middle) > 1e5 * np.ptp(np.r_[r, c]):
        r, c = r - middle, c - middle
    o = {}
    both(o, "ks", lambda: stats.ks_2samp(r, c))
    both(o, "cvm", lambda: stats.cramervonmises_2samp(r, c))
    both(o, "anderson", lambda: stats.anderson_ksamp([r, c], variant="midrank"))
    both(o, "mann_whitney", lambda: stats.mannwhitneyu(r, c))
    both(o, "welch_t", lambda: stats.ttest_ind(r, c, equal_var=False))
    both(o, "epps_singleton", lambda: stats.epps_singleton_2samp(r, c))
    w = lambda: stats.wasserstein_distance(r, c)
    o["wasserstein"] = {"statistic": number(w)}
    o["wasserstein_normed"] = {"statistic": number(lambda: w() / np.std(r))}
    o["energy"] = {"statistic": number(lambda: stats.energy_distance(r, c))}
    return o


def categorical(r, c):
    o = {}
    levels = sorted(set(r) | set(c))
    at = {level: i for i, level in enumerate(levels)}
    t = np.zeros((2, len(levels)), dtype=np.int64)
    for side, column in enumerate((r, c)):
        np.add.at(t[side], [at[level] for level in column], 1)
    if not (t[0].sum() and t[1].sum()):
        return o
    expected = stats.contingency.expected_freq(t).min()
    both(o, "chi2", lambda: stats.chi2_contingency(t, correction=False))
    both(o, "g", lambda: stats.chi2_contingency(t, correction=False, lambda_="log-likelihood"))
    both(o, "chi2_yates", lambda: stats.chi2_contingency(t, correction=True))
    if len(levels) == 2:
        both(o, "fisher", lambda: stats.fisher_exact(t))
    if len(levels) > 1:
        o["cramers_v"] = {"statistic": number(lambda: stats.contingency.association(t, method="cramer"))}
    p, q = t[0] / t[0].sum(), t[1] / t[1].sum()
    o["tv"] = {"statistic": number(lambda: np.abs(p - q).sum() / 2)}
    o["linf"] = {"statistic": number(lambda: np.abs(p - q).max())}
    o["js"] = {"statistic": number(lambda: jensenshannon(p, q, 2))}
    o["hellinger"] = {"statistic": number(lambda: math.sqrt(max(0, 1 - np.sqrt(p * q).sum())))}
    o["kl"] = {"statistic": number(lambda: stats.entropy(p, q))}
    o["least_expected"] = expected
    return o


def column(table, name, kind):
    c = table.column(name).to_pandas().dropna()
    if kind == "categorical":
        c = c[c.map(lambda x: not isinstance(x, str) or x != "")]  # to driftd an empty text is null
        return [x if isinstance(x, str) else str(int(x)) if not isinstance(x, (bool, np.bool_)) else str(x) for x in c]
    x = c.to_numpy().astype(float)
    return x[np.isfinite(x)]


def main():
    out = {}
    for pair in json.loads((HERE / "pairs.json").read_text()):
        r, c = (pq.read_table(HERE / "inputs" / pair[side]) for side in ("reference", "current"))
        out[pair["id"]] = {
            name: (numeric if kind == "numeric" else categorical)(column(r, name, kind), column(c, name, kind))
            for name, kind in pair["columns"].items()
        }
    print(json.dumps(out, indent=1, allow_nan=False))


if __name__ == "__main__":
    main()
