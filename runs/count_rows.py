"""Counts what a clip costs in each row of a paper-size recipe's models: python runs/count_rows.py [RECIPE].

TFLOP without vocoder, on tensors without memory. docs/performance.md has the table, beside its peers.
"""

import argparse

from mmldm.benchmark.rows import row_costs
from mmldm.config import load_config
from mmldm.evaluation.page import markdown_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", nargs="?", default="landscape")
    costs = row_costs(load_config(parser.parse_args().recipe))
    head = ("row", "generator steps", "decoder steps", "image decoder", "TFLOP a clip")
    rows = [
        (
            name,
            str(cost.generator_steps),
            str(cost.decoder_steps),
            "light" if cost.light else "the KL-VAE's",
            f"{cost.tflop:.1f}",
        )
        for name, cost in costs.items()
    ]
    print(markdown_table(head, rows))


if __name__ == "__main__":
    main()
