"""Comparison of groups of runs: from stored runs to numbers, intervals, tests and verdicts, as plain data.

`compare` gives what `comparison.json` holds and charts and reports are made from. Numbers are JSON numbers, and None
where there is none (a point of a curve before the first evaluation, an interval of too few seeds); nothing in it is
NaN. Every interval is a table `{"value", "low", "high", "confidence", "method"}`; `low` and `high` are None together.

    format             1
    name               of the comparison
    by                 what the verdict is about: `final` (return of the last policy), `steps` (environment steps to the
                       threshold, fewer are better), `curve` (mean of the evaluations over the run)
    measure            the same, for people
    better             `higher` or `lower`
    alpha              probability of calling sides different anywhere in the comparison that are not
    paired             whether scores were paired by seed
    seed, resamples    of the bootstrap and of Monte-Carlo tests
    correction         `Holm`
    num_tests          tests of the whole comparison, which p was corrected for
    sides              names, in the order given; the first is the baseline
    environments       list, by name, of:
        environment    its id (several, joined by " / ", where versions were allowed to differ)
        budget         nominal budget in environment steps, or None
        threshold      return that counts as solved, or None
        reference      [low, high] for normalised scores, or None
        protocol       table for people: eval_every, eval_episodes, eval_max_steps, final_episodes, versions
        sides          list, in the order of `sides`, of those that have runs here:
            side       name
            seeds      ascending [n]
            runs       where each lies, to be typed [n]
            scores     what the verdict is about, in the order of the seeds [n]
            censored   by `steps`: whether the budget was used up below the threshold, the score then being the steps
                       that were watched; else all false [n]
            median     interval, exact (order statistics)
            iqm, mean  intervals (stratified bootstrap)
            final      returns of the last policies [n], None where there is none
            steps_to_threshold   None without a threshold, else {"steps": [n], "reached": [n] booleans, "num_reached",
                       "median": interval}; a run that has not reached it counts with the steps that were watched, and
                       an end of the interval that is censored is None
            curves     {"steps": curve, "seconds": curve} or None each, where a curve is {"x": [K], "median": [K],
                       "iqm": [K], "low": [K], "high": [K], "confidence", "method", "runs": [n][K]}: evaluations at
                       the nominal steps that all runs of the side have; or at K wall times, the last one before each
            settings   settings of the side that another side here has not, by dotted name
        pairs          list of:
            side, baseline       names: what is said is about `side`
            n                    [seeds of side, seeds of baseline]; if paired, pairs twice
            difference           interval: mean of side less mean of baseline
            probability_of_improvement   interval: a run of `side` is better than one of `baseline` (ties count half)
            p, p_corrected       of the permutation test; None where there were too few seeds for one
            method               `exact`, `Monte Carlo` or None
            splits, smallest_p   see `statistics.Test`
            verdict              `better`, `worse` or `cannot tell`
            reason               why, in words
            more_seeds           how many more a side are needed before any difference could be told; 0 if enough
            text                 the verdict in one sentence
        profiles       None, or {"thresholds": [M], "sides": [{"side", "fraction": [M], "low": [M], "high": [M]}]}: the
                       fraction of runs that score above (by `steps`: need fewer than) each threshold
        notes          list of sentences
    overall            list per pair of sides that share several environments, of:
        side, baseline, environments   whose probabilities of improvement were averaged
        probability_of_improvement     interval
    normalised         None, or, where every shared environment has a reference: {"environments", "sides": [{"side",
                       "median", "iqm", "mean", "optimality_gap"}] intervals, "profiles": as above}
    allowed            list of {"key", "reason"}: what would mislead and was let pass
    notes              list of sentences about the whole
    versions           package: version, or versions joined by ", ", of the runs
    made_with          {"rlkit-core": version, "time": ISO 8601}
    reproduce          command line
"""

from __future__ import annotations
