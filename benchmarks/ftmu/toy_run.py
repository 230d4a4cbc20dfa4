"""All arms of the toy world of `benchmarks.ftmu.toy`, seed by seed."""

import torch

from benchmarks.common import Options, Record, parse_options
from benchmarks.ftmu import toy
from benchmarks.ftmu.counterfactual import learn_counterfactual
from benchmarks.ftmu.toy import (
    FIXED,
    LEARNED,
    LONG_PATIENCE,
    PATIENCE,
    STEPS,
    WIDER,
    learn,
    measure,
    settings,
    threshold,
)
from maskmill.trainers.ftmu.policies import Learned

COUNTERFACTUAL = {"counterfactual": WIDER["counted"], "learned": WIDER["free"]}
LOOKED_BACK = {"small": (800, 300), "full": (2_000, 1_000)}  # steps of those: as actor-critics, and looking back


def run(options: Options) -> None:
    """All arms of all seeds."""
    torch.set_num_threads(1)
    record = Record.open(options)
    for seed in options.seeds:
        plain = settings(STEPS[options.budget], seed)
        for arm, (policy, patience) in FIXED.items():
            record.add(arm, seed, measure(policy, patience, plain))
        record.add("threshold", seed, threshold(plain, PATIENCE))
        record.add(f"threshold@{LONG_PATIENCE}", seed, threshold(plain, LONG_PATIENCE))
        for arm, changes in LEARNED.items():
            if not record.has(arm, seed):
                config = settings(STEPS[options.budget], seed, **changes)
                record.add(arm, seed, measure(Learned(learn(config)), PATIENCE, config))
                print(f"seed {seed}: {arm} {record.values[arm][str(seed)]}", flush=True)
        for arm, rules in COUNTERFACTUAL.items():
            if not record.has(arm, seed):
                patience = None if rules.free else LONG_PATIENCE
                first, steps = LOOKED_BACK[options.budget]
                config = settings(steps, seed)
                actor = learn_counterfactual(config, rules, patience, first)
                record.add(arm, seed, measure(Learned(actor), patience, config, rules))
                print(f"seed {seed}: {arm} {record.values[arm][str(seed)]}", flush=True)
        for arm, rules in WIDER.items():
            if not record.has(arm, seed):
                patience = None if rules.free else LONG_PATIENCE
                actor = learn(plain, rules, patience)
                record.add(arm, seed, measure(Learned(actor), patience, plain, rules))
                print(f"seed {seed}: {arm} {record.values[arm][str(seed)]}", flush=True)
    record.finish()


def main() -> None:
    """As the command line says."""
    run(parse_options("ftmu_toy", toy.__doc__, needs_data=False))
