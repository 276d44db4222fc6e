"""evaluate.py OUT.jsonl K BASELINES WORLD[,WORLD] [per=30] [seeds=50000] [full] [onerow] : what the rule does in the worlds.

One JSON line per world: episodes per 30 quiet windows (mean, 9th decile of baselines), share of quiet windows drifted, mean length of an
episode; per change: median and mean delay (cut at 60 windows), share found in 60, share of later windows that stay drifted, windows until it
is stable after the end, share of starts at which the feature was drifted before (these are left out of the rest).
"""
import json
import sys
import time

import numpy as np
import rule
from worlds import make

WARM, ON, OFF, QUIET = 40, 60, 30, 400


def changes(name, full):
    c = [("zero", 0.10), ("zero", 0.15)] if name == "zero95" else [("shift", 0.2), ("shift", 0.3), ("shift", 0.5), ("spread", 1.2)]
    return c + ([("null", 0.02), ("swap", 0), ("newlevel", 0.01), ("newlevel", 0.02), ("corr", 0.5)] if full else [])


def measure(name, K, baselines, per=30.0, seeds=50_000, full=False, onerow=False, models=rule.Rule, quiet=QUIET, change=True):
    """`models(stream, K, per)` answers one with run(stream)."""
    quiet_rates, found, cost, alarms = [], {}, [], []
    for i in range(baselines):
        W = K + quiet
        s = make(name, np.random.default_rng(seeds + i), K, quiet)
        t = time.time()
        m = models(s, K, per)
        cost.append(time.time() - t)
        D = m.run(s).any(1)
        begun = int((D & ~np.r_[False, D[:-1]]).sum())
        quiet_rates.append((begun * 30 / quiet, float(D.mean()), D.sum() / begun if begun else np.nan))
        J, correlated = len(s.features), None
        for ch in changes(name, full) if change else []:
            col = {"swap": J - 2, "newlevel": J - 2, "corr": J}.get(ch[0], 0)
            if ch[0] == "corr":  # the training data need the correlation too
                correlated = correlated or models(make(name, np.random.default_rng(seeds + i), K, 0, change=("corr", 0.5, W, W)), K, per)
            for r in range(2):
                rng = np.random.default_rng(seeds + 40_000 + 1000 * i + 10 * r + 1)
                q = make(name, rng, K, WARM + ON + OFF, change=(*ch, K + WARM, K + WARM + ON), first=K)
                d = (correlated if ch[0] == "corr" else m).run(q)[:, col]
                c = found.setdefault(f"{ch[0]} {ch[1]}", [])
                if d[WARM - 1]:
                    c.append((np.nan,) * 3 + (1,))
                    continue
                on, off = d[WARM : WARM + ON], d[WARM + ON :]
                delay = int(on.argmax()) + 1 if on.any() else 99
                stay = float(on[delay:].mean()) if delay <= 45 else np.nan
                after = (int(off.argmin()) if not off.all() else OFF) if delay <= ON and on[-1] else np.nan
                c.append((delay, stay, after, 0))
        for r in range(3 if onerow else 0):
            ends = []
            for ch in (("onerow", 1, K + 40, K + 41), None):
                q = make(name, np.random.default_rng(seeds + 20_000 + 100 * i + r), K, 41, change=ch, first=K)
                ends.append(m.run(q)[-1])
            alarms.append(int((ends[0] & ~ends[1]).any()))
    a = np.array(quiet_rates)

    def mean(x, f=np.nanmean):
        return float(f(x)) if np.isfinite(x).any() else None

    out = dict(world=name, K=K, per=per, seeds=seeds, reps=len(a), episodes=a[:, 0].mean(), decile9=np.quantile(a[:, 0], 0.9))
    out |= dict(share=a[:, 1].mean(), share9=np.quantile(a[:, 1], 0.9), length=mean(a[:, 2]), cost=np.mean(cost), onerow=mean(np.array(alarms, float)), changes={})
    for ch, v in found.items():
        v = np.array(v, float)
        delay = v[:, 0]
        out["changes"][ch] = dict(delay=mean(delay, np.nanmedian), mean60=mean(np.minimum(delay, 60)), found=mean(np.where(np.isfinite(delay), delay <= 60, np.nan)))
        out["changes"][ch] |= dict(stay=mean(v[:, 1]), after=mean(v[:, 2]), before=v[:, 3].mean())
    return out


if __name__ == "__main__":
    path, K, baselines, names = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4].split(",")
    named = dict(a.split("=") for a in sys.argv[5:] if "=" in a)
    for name in names:
        line = measure(name, K, baselines, float(named.get("per", 30)), int(named.get("seeds", 50_000)), "full" in sys.argv, "onerow" in sys.argv)
        with open(path, "a") as f:
            f.write(json.dumps(line) + "\n")
