"""Random statements, by seed, are answered as one plain PostgreSQL answers them; a failure comes out shrunk.

`SHARDPOOL_STATEMENTS` says how many; a failure names its seed, and `SHARDPOOL_SEED` set to it runs that one again.
"""

from __future__ import annotations

import os
import secrets

import pytest

from tests.oracle.generator import Generator
from tests.oracle.oracle import Oracle, Outcome
from tests.oracle.trees import Node, shrink

STATEMENTS = int(os.environ.get("SHARDPOOL_STATEMENTS", "300"))
#: ``run`` or ``run:number`` for one statement of a run.
SEED = os.environ.get("SHARDPOOL_SEED") or secrets.token_hex(4)
#: So many failures are shrunk and shown.
SHOWN = 3


def test_random_statements_are_answered_as_by_one_postgresql(oracle: Oracle) -> None:
    seeds = [SEED] if ":" in SEED else [f"{SEED}:{number}" for number in range(STATEMENTS)]
    print(f"SHARDPOOL_SEED={SEED} SHARDPOOL_STATEMENTS={len(seeds)}")
    failures = []
    for seed in seeds:
        generator = Generator(seed)
        statement = generator.statement()
        if oracle.check(generator.spell(statement), generator.params).kind != "same":
            failures.append(f"SHARDPOOL_SEED={seed}\n{smallest(oracle, generator, statement)}")
    print(oracle.tally)
    shown = "\n\n".join(failures[:SHOWN])
    assert not failures, f"{len(failures)} of {len(seeds)} statements of seed {SEED}\n\n{shown}"


def smallest(oracle: Oracle, generator: Generator, statement: Node) -> Outcome:
    """Return the outcome of a small statement that fails alike."""
    found = oracle.check(generator.spell(statement), generator.params)

    def fails_alike(node: Node) -> bool:
        outcome = oracle.check(generator.spell(node), generator.params)
        return (outcome.kind, outcome.why[:20]) == (found.kind, found.why[:20])

    return oracle.check(generator.spell(shrink(statement, fails_alike)), generator.params)


@pytest.mark.parametrize("number", range(3))
def test_a_seed_makes_the_same_statement_again(number: int) -> None:
    first, second = Generator(f"again:{number}"), Generator(f"again:{number}")
    assert (first.statement().sql(), first.params) == (second.statement().sql(), second.params)
