"""Prints the values that crates/sol-eval/src/python/random.rs expects. Needs CPython 3.8 to 3.12 and nothing else."""

import random

r = random.Random(1234)
print(r.getrandbits(32), r.getrandbits(32))
r = random.Random(1 << 40)
print(r.sample(range(39905), 11))
print(r.sample(range(10), 4))
items = list(range(7))
r.shuffle(items)
print(items)
