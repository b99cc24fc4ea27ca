"""`python -m tests.equality`: the table of relative errors; exit 0 only if all are within the limit."""

from __future__ import annotations

import argparse
import sys

from .launch import LIMIT, STAGES, launch


def main() -> int:
    parser = argparse.ArgumentParser(description="loss and gradient of every layout against one process, fp32")
    parser.add_argument("--full", action="store_true", help="every W, stage and accumulation; else a pairwise subset")
    full = parser.parse_args().full
    found = []
    for world in (1, 2, 4):
        for strategies in (("ddp",), STAGES):
            layouts = [(s, a) for s in strategies for a in (1, 2, 4) if full or (world + a + len(s + s[-1])) % 2 == 0]
            if layouts:
                found += launch(world, layouts)
                print(f"W={world} {strategies[0]}…: {len(layouts)} layouts done", file=sys.stderr)
    print(f"{'W':>2} {'strategy':8} {'accumulation':>12} {'term':12} {'loss':>9} {'gradient':>9}")
    for row in found:
        bad = "" if max(row["loss"], row["gradient"]) <= LIMIT else "  FAIL"
        print(
            f"{row['world']:2d} {row['strategy']:8} {row['accumulation']:12d} {row['term']:12} "
            f"{row['loss']:9.1e} {row['gradient']:9.1e}{bad}"
        )
    worst = {k: max(row[k] for row in found) for k in ("loss", "gradient")}
    errors = ", ".join(f"{k} {v:.1e}" for k, v in worst.items())
    print(f"\n{len(found)} rows; largest error: {errors} (limit {LIMIT:.0e})")
    return 0 if max(worst.values()) <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
