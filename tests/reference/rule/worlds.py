"""Worlds for judging the rule: quiet streams with the faults of real ones, and changes in feature 0 (or the first label feature).

`make(name, rng, K, T, J, change)` answers a Stream with K + T windows. change = (kind, size, from_window, to_window) or None.
kinds: shift, spread, null, zero (zero95 only), newlevel, swap, onerow, corr. `corr` correlates features 0 and 1 by `size` in all
windows but the changed ones, so the training data need it too: change = ("corr", .5, W, W) changes nothing.
"""
import numpy as np
from scipy.stats import norm

FINE = 60
NONE = 255  # bin of a row without a value


class Feature:
    """kind 'num' or 'lab'. C: windows x bins; 'num' [below the range, fine bins, above it], 'lab' a bin per level.
    null, missing, wrong: rows of each window."""

    def __init__(self, name, kind, C, null=None, missing=None, wrong=None):
        self.name, self.kind, self.C = name, kind, C
        self.null, self.missing, self.wrong = (np.zeros(len(C), int) if a is None else a for a in (null, missing, wrong))


class Stream:
    """sample: per window the bins (features x rows) of the numeric features, of which the rule computes pairs.
    pairs (windows x pairs) may be given in its place; with neither there is no question of pairs."""

    def __init__(self, features, rows, hour0, every, sample=None, pairs=None):
        self.features, self.rows, self.hour0, self.every, self.sample, self.pairs = features, rows, hour0, every, sample, pairs

    def hours(self):
        return self.hour0 + self.every * np.arange(len(self.rows))


def ar(rng, T, a, sd, cols):
    x = rng.normal(0, sd, cols)
    out, e = np.empty((T, cols)), rng.normal(0, sd * np.sqrt(1 - a * a), (T, cols))
    for t in range(T):
        x = a * x + e[t]
        out[t] = x
    return out


def zipf(levels, a):
    p = 1 / np.arange(1, levels + 1) ** a
    return p / p.sum()


ZIPF400 = zipf(400, 1.3)
P12 = np.bincount(np.arange(400) % 12, ZIPF400)
P12 /= P12.sum()
NAMES = ["iid", "wobble", "wobble-t3", "ar.8", "ar.9-shared", "week-ar.5-unequal", "burst", "trickle", "cluster", "zero95"]
NAMES += ["constant", "hourly", "hourly-ar.8", "trend", "iid-60", "wobble-200"]


def means(name, rng, W, J, hour0):
    """Means of the numeric features in each window. Seasons are those of the world, not of the seed."""
    t, jr = np.arange(W), np.random.default_rng(12345)
    if name in ("wobble", "zero95", "constant", "wobble-200"):
        return rng.normal(0, 0.15, (W, J))
    if name == "wobble-t3":
        return 0.15 * 0.6 * rng.standard_t(3, (W, J))
    if name == "ar.8":
        return ar(rng, W, 0.8, 0.15, J)
    if name == "ar.9-shared":
        return ar(rng, W, 0.9, 0.12, J) + ar(rng, W, 0.9, 0.08, 1)
    if name == "week-ar.5-unequal":
        return ar(rng, W, 0.5, 0.1, J) + 0.5 * ((t % 7) >= 5)[:, None] * jr.normal(0, 1, J)
    if name == "burst":
        return ar(rng, W, 0.3, 0.1, J) + (rng.random((W, J)) < 0.006) * rng.choice([-1.5, 1.5], (W, J))
    if name in ("trickle", "cluster"):
        return ar(rng, W, 0.5, 0.08, J)
    if name in ("hourly", "hourly-ar.8"):
        wobble = rng.normal(0, 0.15, (W, J)) if name == "hourly" else ar(rng, W, 0.8, 0.15, J)
        return wobble + 0.5 * np.sin(2 * np.pi * (((hour0 + t) % 24) / 24)[:, None] + 2 * np.pi * jr.random(J))
    if name == "trend":
        return ar(rng, W, 0.97, 0.2, J)
    return np.zeros((W, J))


def make(name, rng, K, T, J=10, change=None, first=0):
    """No rows are drawn of windows before `first`: they stay empty."""
    W, J = K + T, {"iid-60": 60, "wobble-200": 200}.get(name, J)
    every, hour0, n0 = 1 if name.startswith("hourly") else 24, 24 * 1000 + 72, 400 if J > 20 else 1000
    n = np.maximum(200, rng.lognormal(np.log(n0), 0.3, W)).astype(int)
    if name == "week-ar.5-unequal":
        n = np.clip(rng.lognormal(np.log(1000), 1.2, W), 100, 10000).astype(int)
    mu = means(name, rng, W, J, hour0)
    kind, size = change[:2] if change else ("", 0)
    on = np.zeros(W, bool)
    if change:
        on[change[2] : change[3]] = True
    mu[on, 0] += size if kind == "shift" else 0
    sd = np.where(on & (kind == "spread"), size, 1.0)
    null = np.zeros((W, J))
    null[:, 1] = 0.01
    null[:, 0] = np.where(on & (kind == "null"), size, 0.0)
    zp = 1 / (1 + (1 / 0.05 - 1) * np.exp(-rng.normal(0, 0.15, (W, J)))) if name == "zero95" else np.full((W, J), 0.05)
    zp[on, 0] = size if kind == "zero" else zp[on, 0]
    rho = np.where(on, 0.0, size) if kind == "corr" else np.zeros(W)
    edge = 1 / (K * n0)
    E = np.concatenate([[norm.ppf(edge)], norm.ppf(np.arange(1, FINE) / FINE), [norm.isf(edge)]])
    zero, rare = name == "zero95", name == "constant"
    C, nulls, sample = np.zeros((J, W, FINE + 2), int), np.zeros((J, W), int), []
    for w in range(W):
        m = n[w] if w >= first else 0
        if name == "cluster":  # rows come in clusters of about 20
            g = max(2, n[w] // 20)
            x = (rng.normal(0, 1, (J, g))[:, rng.integers(0, g, m)] + rng.normal(0, 0.2, (J, m))) / np.sqrt(1.04)
        else:
            x = rng.normal(0, 1, (J, m))
        x[1] = rho[w] * x[0] + np.sqrt(1 - rho[w] ** 2) * x[1]
        u = norm.sf(x[: J // 2]) if zero else None
        x[0] *= sd[w]
        x += mu[w][:, None]
        bins = np.searchsorted(E, x).astype(np.uint8)
        if name == "cluster":
            bins[J // 2 :][x[J // 2 :] < 0.5] = 1  # a frequent value
        if zero:  # an atom at 0 and 20 bins of other values
            h = J // 2
            bins[:h] = np.where(u < zp[w, :h, None], 2 + np.minimum(20 * u / zp[w, :h, None], 19).astype(np.uint8), 1)
        if rare:  # constant, or 1 of 2,000 rows differs
            for j in range(J // 2, J):
                bins[j] = np.where(rng.random(m) < (1 / 2000 if j % 2 else 0), 2, 1)
        for j in (0, 1):
            bins[j, rng.random(m) < null[w, j]] = NONE
        for j in range(J):
            c = np.bincount(bins[j], minlength=256)
            C[j, w], nulls[j, w] = c[: FINE + 2], c[NONE]
        sample.append(bins)
    fs = []
    for j in range(J):
        bins = 23 if zero and j < J // 2 else 4 if rare and j >= J // 2 else FINE + 2  # the last is out of range
        fs.append(Feature(f"x{j}", "num", C[j][:, :bins], nulls[j]))
    for i in range(2 if J < 60 else 0):
        if name == "trickle":
            base, conc = (ZIPF400, 400) if i == 0 else (np.full(8, 1 / 8), 480)
        else:
            base, conc = P12 if i == 0 else np.full(4, 0.25), 0 if name in ("iid", "constant", "zero95") else 400
        P = rng.dirichlet(base * conc, W) if conc else np.tile(base, (W, 1))
        if kind == "swap" and i == 0:
            P[on] = P[on][:, [0, 2, 1] + list(range(3, len(base)))]
        new = np.where(on, size, 0.0) if kind == "newlevel" and i == 0 else np.zeros(W)
        P = np.column_stack([P * (1 - new)[:, None], new])
        L = rng.multinomial(np.where(np.arange(W) >= first, n, 0), P / P.sum(1, keepdims=True))
        if kind == "onerow" and i == 0:
            L[on, -1] += 1
        fs.append(Feature(f"c{i}", "lab", L))
    if kind == "onerow":
        fs[0].C[on, -1] += 1
        fs[0].null[on] += 1
    return Stream(fs, n, hour0, every, sample if J <= 20 else None)
