#!/usr/bin/env python3
"""make_numeric.py > numeric.json : small inputs, what scipy and astropy answer on them, and tails of laws.

Needs numpy, scipy, astropy and mpmath; the versions that made the file are recorded in it. Tails of the
two limiting laws come from inverting the moment generating function along two lines from the saddle
point with 30 digits, which shares nothing with the code's own way. Where a library has no number, or
one that is known to be wrong, it is left out: what the tests answer there is tested beside the code."""
import json, math, warnings
from fractions import Fraction
import astropy, mpmath as mp, numpy as np, scipy
from astropy.stats import kuiper_two
from scipy import stats

warnings.filterwarnings("ignore")
R = np.random.default_rng(20261123)
out = {"made_by": {"numpy": np.__version__, "scipy": scipy.__version__, "astropy": astropy.__version__, "mpmath": mp.__version__}}

def samples():
    N = lambda n, m=0.0, s=1.0: R.normal(m, s, n)
    Q = lambda *a: np.round(N(*a), 1)
    yield "same", N(60), N(40)
    yield "shift", N(60), N(45, .8)
    yield "scale", N(50), N(70, 0, 2)
    yield "equal sizes", N(50), N(50, .3)
    yield "far", N(40), N(50, 3)
    yield "exact, equal sizes", N(20), N(20, .9)
    yield "exact, unequal sizes", N(20), N(13, .9)
    yield "exact, coprime sizes", N(17), N(12)
    yield "exact, ties", Q(15), Q(18, .4)
    yield "exact, ties, equal sizes", R.integers(0, 5, 14).astype(float), R.integers(1, 5, 14).astype(float)
    yield "seven rows", N(90), N(7, .5)
    yield "eight rows", N(8), N(100, -.6)
    yield "eight rows, ties", Q(8), Q(100, .3)
    yield "nine rows", N(9), N(100, .6)
    yield "five rows", np.arange(1., 6), np.arange(3., 8)
    yield "twenty-four rows", N(24), N(24, .2)
    yield "twenty-five rows", N(25), N(11, .2)
    yield "ties", R.integers(0, 9, 70).astype(float), R.integers(0, 10, 70).astype(float)
    yield "ties, unequal sizes", R.integers(0, 9, 90).astype(float), R.integers(0, 10, 30).astype(float)
    yield "mostly zero", np.where(R.random(80) < .7, 0, np.round(R.exponential(1, 80), 2)), np.where(R.random(80) < .5, 0, np.round(R.exponential(1, 80), 2))
    yield "boolean", (R.random(60) < .5).astype(float), (R.random(60) < .7).astype(float)
    yield "constant window", N(30), np.full(12, .25)
    yield "one row", N(30), np.array([.5])
    yield "two rows", N(30), np.array([.5, -1.2])
    yield "two against two", np.array([0., 1.]), np.array([2., 3.])
    yield "disjoint", N(20), N(31, 50)
    yield "small disjoint", np.arange(1., 5), np.arange(10., 13)
    yield "cauchy", R.standard_cauchy(60), R.standard_cauchy(50)
    yield "large", np.round(N(500), 2), np.round(N(300, .15), 2)

def number(x):
    x = float(x); return x if math.isfinite(x) else None
def case(name, a, b):
    a, b = np.sort(a), np.sort(b); c = {"name": name, "reference": a.tolist(), "window": b.tolist()}
    def put(key, f):
        try: c[key] = [number(x) for x in f()]
        except (ValueError, np.linalg.LinAlgError): c[key] = [None, None]
    both = lambda r: (r.statistic, r.pvalue)
    put("cvm", lambda: both(stats.cramervonmises_2samp(a, b)))
    put("anderson", lambda: both(stats.anderson_ksamp([a, b], variant="midrank")))
    put("mann_whitney", lambda: both(stats.mannwhitneyu(a, b)))
    put("welch_t", lambda: both(stats.ttest_ind(a, b, equal_var=False)))
    # A singular covariance leaves scipy with rounding errors for numbers.
    put("epps_singleton", lambda: both(stats.epps_singleton_2samp(a, b)) if min(len(a), len(b)) >= 5 and len(np.unique(np.r_[a, b])) >= 5 and name != "constant window" else (np.nan, np.nan))
    put("kuiper", lambda: kuiper_two(a, b))
    w, sd = stats.wasserstein_distance(a, b), np.std(a)
    put("wasserstein_normed", lambda: (w / sd if sd > 0 else np.nan, sd))
    put("energy", lambda: (stats.energy_distance(a, b), np.nan))
    return c
out["samples"] = [case(*s) for s in samples()]

mp.mp.dps = 30
def inverted(ln_mgf, first, x):
    """P(Q > x) = 1/pi Im of the integral of e^(-s x) E(e^(s Q)) / s from 0 < c < first / 2 outwards at 45 degrees."""
    x = mp.mpf(x); c = mp.mpf(first) / 2 * (1 - 1 / (2 + x * mp.mpf(first))); turn = mp.exp(mp.mpc(0, mp.pi / 4))
    f = lambda t: mp.im(turn * mp.exp(ln_mgf(c + t * turn) - (c + t * turn) * x) / (c + t * turn))
    return mp.quad(f, [mp.mpf(k) / 8 / x for k in range(16)] + [2 * mp.mpf(1.2)**k / x for k in range(24)]) / mp.pi
def cvm(s): w = mp.sqrt(2 * s) / mp.pi; return (mp.loggamma(1 + w) + mp.loggamma(1 - w)) / 2
def anderson(s): r = mp.sqrt(1 + 8 * s); return (mp.loggamma((3 - r) / 2) + mp.loggamma((3 + r) / 2)) / 2
out["laws"] = [{"law": n, "x": x, "p": float(inverted(f, w, x))} for n, f, w, xs in (
    ("cvm", cvm, mp.pi**2, (.02, .05, .1, .2, .46136, .74346, 1.2, 2., 5., 10., 20., 47., 100.)), ("anderson", anderson, 2, (.2, .5, .8, 1.3, 1.933, 2.492, 3.857, 6., 8., 12., 30., 100., 231., 600.))) for x in xs]
def student(t, df):
    t, df = mp.mpf(t), mp.mpf(df); return mp.log(mp.betainc(df / 2, mp.mpf(1) / 2, 0, df / (df + t * t), regularized=True))
out["student"] = [{"t": t, "df": df, "ln_p": float(student(t, df))} for df in (1., 1.5, 2., 4.7, 10., 33.3, 200., 5000.) for t in (1e-6, .1, .7, 1., 1.5, 2., 4., 10., 40.)]
# Beyond that the incomplete beta function of the library fails; the density is integrated outwards.
def far(t, df):
    t, df = mp.mpf(t), mp.mpf(df); g = lambda u: mp.exp(-(df + 1) / 2 * mp.log1p(u * u / df)); w = 1 / (1 + t)
    return mp.log(2 * mp.quad(g, [t + w * k for k in (0, 1, 2, 4, 8, 16, 32, 64, 200)]) * mp.exp(mp.loggamma((df + 1) / 2) - mp.loggamma(df / 2)) / mp.sqrt(df * mp.pi))
out["student"] += [{"t": t, "df": df, "ln_p": float(far(t, df))} for df in (1e5, 3e6, 1e9) for t in (.1, 1., 2., 4., 10., 30.)]

def exceed(n, m, k): return Fraction(math.comb(m, k + 1) + n * math.comb(m, k), math.comb(n + m, k + 1))
out["exceedances"] = [{"n": n, "m": m, "k": k, "p": float(exceed(n, m, k))} for n, m, k in ((1000, 1000, 1), (1000, 1000, 12), (1000, 1000, 900), (100000, 500, 1), (100000, 500, 5), (500, 100000, 700), (3, 9, 9), (2, 5, 4), (20000, 30000, 40), (7, 1, 1))]

def orders(n, m, u):
    """P(U <= u) two-sided, by counting partitions in whole numbers."""
    c = [0] * (u + 1); c[0] = 1
    for i in range(1, n + 1):
        for x in range(u, m + i - 1, -1): c[x] -= c[x - m - i]
        for x in range(i, u + 1): c[x] += c[x - i]
    return float(min(1, Fraction(2 * sum(c), math.comb(n + m, n))))
out["orders"] = [{"n": n, "m": m, "u": u, "p": orders(n, m, u)} for n, m, u in ((8, 8, 10), (8, 300, 3), (8, 300, 900), (5, 4000, 2500), (8, 20000, 5), (8, 20000, 20000), (8, 20000, 79000), (1, 1000, 324))]
json.dump(out, __import__("sys").stdout, allow_nan=False, separators=(",", ":"))
