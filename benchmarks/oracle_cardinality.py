"""How much of the error is the number of labels a row: the run's own decision beside the true number, given.

    python benchmarks/oracle_cardinality.py RUN DATA

With the true k of each row the k best logits are predicted; what is left to 1 is the ranking's. A reading of test rows
that nothing is chosen by.
"""

import argparse

import manyhot
from manyhot.toolkit.read.examples import drop_unlabelled
from manyhot.toolkit.runs.evaluate import align
from manyhot.toolkit.runs.predict import read_for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("data")
    options = parser.parse_args()
    run = manyhot.load_run(options.run)
    examples = read_for(run, options.data, with_labels=True)
    if run.drop_unlabelled:
        examples, _ = drop_unlabelled(examples)
    targets = align(examples.targets, examples.label_names, run.label_names).targets
    logits = run.logits(examples)
    low, high = run.cardinality
    for name, preds in (
        ("s > 0", manyhot.decide(logits, min_labels=low, max_labels=high)),
        ("true k known", manyhot.top_k(logits, targets.sum(1))),
    ):
        metrics = manyhot.multilabel_metrics(preds, targets, logits, train_counts=run.train_counts)
        print(f"{name:>14}: micro-F1 {metrics['micro_f1']:.3f}, macro-F1 {metrics['macro_f1']:.3f}")


if __name__ == "__main__":
    main()
