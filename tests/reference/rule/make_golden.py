"""make_golden.py > golden.json : small streams, and what rule.py says of them (14 digits; inputs in full precision).

Seven streams of two or three numbers in 14 bins and two label features. Each has one fault of real streams, and a change in its live part.
"""
import json
import sys

import numpy as np
import rule
import scipy
from scipy.stats import norm
from worlds import NONE, Feature, Stream, ar

EDGES = np.concatenate([[-3.2], norm.ppf(np.arange(1, 12) / 12), [3.2]])  # 14 bins, two of them out of range
FULL = 2  # questions of a stream whose evidence and effects are written in full; of the others sums are


def stream(seed, K, T, every=24, rows=300, mu=None, sd=None, null=0.0, missing=0.0, wrong=0.0, new=0.0, zeros=None, constant=False, trickle=False, swap=0.0, rho=None, numbers=3):
    """Features x0.. (normal), c0 (6 levels and one unseen), c1 (4 levels). null, missing, wrong: shares of x0, x1, x2's rows in windows.
    zeros: share of x1's rows that are not 0. constant: 1 row of 1,000 of x2 differs. trickle: c0 has rare levels that come and go."""
    rng, W = np.random.default_rng(seed), K + T
    n = np.zeros(W, int) + rows
    mu = np.zeros((W, numbers)) if mu is None else mu(rng, W)
    sd, rho, zeros = (np.zeros(W) + v if v is not None else None for v in (1.0 if sd is None else sd, 0.0 if rho is None else rho, zeros))
    null, missing, wrong, new, swap = (np.zeros(W) + v for v in (null, missing, wrong, new, swap))
    sample, C, counts = [], np.zeros((numbers, W, 14), int), np.zeros((3, numbers, W), int)
    for w in range(W):
        x = rng.normal(0, 1, (numbers, n[w]))
        x[1] = rho[w] * x[0] + np.sqrt(1 - rho[w] ** 2) * x[1]
        x[0] *= sd[w]
        bins = np.searchsorted(EDGES, x + mu[w][:, None]).astype(np.uint8)
        if zeros is not None:
            bins[1] = np.where(rng.random(n[w]) < zeros[w], rng.integers(2, 12, n[w]), 1)
        if constant:
            bins[2] = np.where(rng.random(n[w]) < 0.001, rng.integers(5, 8, n[w]), 4)
        for i, (j, share) in enumerate(((0, null), (1, missing), (2, wrong))):
            if share[w] > 0 and j < numbers:
                gone = (rng.random(n[w]) < share[w]) & (bins[j] != NONE)
                bins[j, gone], counts[i, j, w] = NONE, gone.sum()
        for j in range(numbers):
            C[j, w] = np.bincount(bins[j], minlength=256)[:14]
        sample.append(bins)
    fs = [Feature(f"x{j}", "num", C[j], *counts[:, j]) for j in range(numbers)]
    base = np.array([0.4, 0.3, 0.15, 0.1, 0.04, 0.01])
    P = np.column_stack([np.stack([rng.dirichlet(200 * base) for _ in range(W)]) * (1 - new)[:, None], new])
    P[:, :2] += np.outer(swap, [-1, 1])
    c0 = rng.multinomial(n, P)
    if trickle:  # every few windows a level of its own
        rare = np.zeros((W, 12), int)
        rare[np.arange(0, W, max(1, W // 12))[:12], np.arange(12)] = 2
        c0 = np.column_stack([c0, rare])
    fs += [Feature("c0", "lab", c0), Feature("c1", "lab", rng.multinomial(n, np.full(4, 0.25), W))]
    return Stream(fs, n, 24 * 1000 + 72, every, sample)


def step(W, at, size, before=0.0):
    return np.where(np.arange(W) >= at, size, before)


def weekly(rng, W):
    return rng.normal(0, 0.15, (W, 3)) + 0.6 * ((np.arange(W) % 7) >= 5)[:, None] * np.array([1.0, -0.7, 0.4])


def with_shift(means, at, size):
    def of(rng, W):
        mu = means(rng, W)
        mu[at:, 0] += size
        return mu

    return of


def streams():
    def none(rng, W):
        return np.zeros((W, 3))

    def wave(rng, W):
        hour = (72 + np.arange(W)) % 24
        return rng.normal(0, 0.1, (W, 3)) + 0.7 * np.sin(2 * np.pi * hour[:, None] / 24 + np.array([0.0, 1.0, 2.0]))

    shifted = stream(1, 40, 40, mu=with_shift(none, 60, 0.14))
    for w, rows in ((45, 4), (54, 2), (55, 1), (72, 6)):  # out of range: a batch alone, two windows in a row, and a large batch alone
        shifted.features[1].C[w, 4:10] -= rows
        shifted.features[1].C[w, 13] += 6 * rows
    yield "iid, then a shift; batches out of range", shifted, 40, 30, 1
    unequal = np.clip(np.random.default_rng(2).lognormal(np.log(250), 0.9, 98), 60, 1500).astype(int)
    yield "wobble and weekly season, unequal rows, then a spread", stream(2, 56, 42, rows=unequal, mu=weekly, sd=step(98, 76, 1.18)), 56, 30, 1
    yield "AR, then another correlation", stream(3, 60, 40, mu=lambda r, W: ar(r, W, 0.8, 0.15, 3), rho=step(100, 76, 0.25, 0.5)), 60, 30, 2
    yield "zeros and a constant, then more of both", stream(4, 45, 40, zeros=np.where((np.arange(85) >= 58) & (np.arange(85) < 72), 0.07, 0.05), constant=True, rows=400, new=step(85, 76, 0.01)), 45, 30, 1
    yield "hours with a daily season, then other labels", stream(5, 72, 40, every=1, rows=200, mu=wave, swap=step(112, 90, 0.08)), 72, 120, 1
    nothing = np.full(76, 250)
    nothing[[7, 40, 41, 55]] = 0
    kw = dict(null=step(76, 52, 0.03, 0.01), missing=step(76, 60, 0.01), wrong=step(76, 64, 0.012, 0.002), new=step(76, 58, 0.02))
    yield "nulls, missing, wrong types, new labels, windows without rows", stream(6, 36, 40, rows=nothing, trickle=True, **kw), 36, 30, 1
    few = stream(7, 20, 40, rows=150, mu=lambda r, W: r.normal(0, 0.1, (W, 2)) + np.outer(np.where((np.arange(W) >= 34) & (np.arange(W) < 46), 0.6, 0), [0, 1]), numbers=2, null=0.03)
    few.sample = None
    yield "the fewest windows, no pairs, then a shift", few, 20, 60, 2


def plain(x):
    """For JSON: 14 digits, infinity as the word."""
    if isinstance(x, np.ndarray):
        return [plain(v) for v in x.tolist()]
    if isinstance(x, (list, tuple)):
        return [plain(v) for v in x]
    if isinstance(x, (np.integer, np.bool_)):
        return int(x)
    if isinstance(x, (float, np.floating)):
        return float(f"{x:.14g}") if np.isfinite(x) else "inf"
    return x


def learned(l, full):
    seasons = [dict(which=which, values=m, error=error, number=S) for which, m, error, S in l.seasons]
    seasons = [{k: plain(v) for k, v in s.items()} for s in seasons]
    out = dict(feature=l.q.feature, name=l.q.name, d=l.q.d, p=l.p, tau2=l.tau2, mean=l.mean, W=l.W, df=l.df, deff=l.deff, cap=l.cap)
    out |= dict(post=l.post, tails=l.tails, c=l.c)
    out |= dict(scale=l.scale) if full else dict(scale_sum=l.scale.sum())
    return {k: plain(v) for k, v in out.items()} | dict(seasons=seasons)


def golden(name, st, K, per, most):
    r = rule.Rule(st, K, per, most)
    drifted = r.run(st)
    pairs = r.pairs(st, slice(None))
    live = [e for j in sorted(r.live) for e in r.live[j]]
    flat = [(j, e.name) for j in sorted(r.live) for e in r.live[j]]
    assert flat == [(q.feature, q.name) for q in r.questions]
    best = sorted(range(len(live)), key=lambda i: -live[i].lnp.max())
    full = sorted(best[:FULL] + [i for i in best[FULL:] if live[i].name in ("pairs", "volume")][:1])
    evidence = []
    for i, e in enumerate(live):
        out = dict(lnp_sum=e.lnp.sum(), effect_sum=e.effect.sum(), level=e.level)
        if i in full:
            out |= dict(lnp=e.lnp, effect=e.effect, e=e.e if e.e.shape[1] == 1 else None, v=e.v)
        evidence.append({k: plain(v) for k, v in out.items()})
    features = [dict(name=f.name, kind=f.kind, counts=f.C, null=f.null, missing=f.missing, wrong=f.wrong) for f in st.features]
    features = [{k: plain(v) for k, v in f.items()} for f in features]
    weights = [dict(weights=a.weights, bend=a.bend, group=a.group, p=a.p, least=a.least) if a.group is not None else dict(few=a.few) for a in r.askers]
    expected = [None if x is None else dict(base=plain(x.base), seasons=[dict(which=which, values=plain(m)) for which, m in x.seasons]) for x in r.expected]
    inputs = dict(K=K, per=per, max=most, start_hour=st.hour0, every_hours=st.every, rows=plain(st.rows), features=features, pairs=None if pairs is None else pairs.tolist())
    outputs = dict(day=r.day, gap=r.gap, lengths=r.lengths, features=[{k: plain(v) for k, v in w.items()} for w in weights], questions=[learned(l, i in full) for i, l in enumerate(r.learned)])
    outputs |= dict(expected=expected, replay=plain(r.maxima), before_raising=plain(r.tail), c=plain(r.c), evidence=evidence)
    outputs |= dict(begins=plain(r.begins), drifted=["".join("01"[int(d)] for d in row) for row in drifted])
    return dict(name=name, inputs=inputs, outputs=outputs), r, drifted


if __name__ == "__main__":
    out = []
    for args in streams():
        g, r, D = golden(*args)
        out.append(g)
        print(g["name"], "| c", r.c, "raised", r.c - r.tail, "| drifted", D.sum(0), "| seasons", {(l.q.feature, l.q.name): [s[0] for s in l.seasons] for l in r.learned if l.seasons}, "| begins", r.begins, file=sys.stderr)
    head = dict(made_by="make_golden.py", numpy=np.__version__, scipy=scipy.__version__)
    print(json.dumps(head | dict(streams=out), separators=(",", ":")).replace('{"name":"', '\n{"name":"'))
