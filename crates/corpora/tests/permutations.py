"""Makes permutations.json beside it: permutations of numpy's default generator. Run with numpy 1.17 or newer."""

import json
from pathlib import Path

import numpy as np


def case(seed: int, n: int, ends: int = 12) -> dict:
    places = np.random.default_rng(seed).permutation(n)
    weights = np.arange(1, n + 1, dtype=np.uint64)
    digest = int((places.astype(np.uint64) * weights).sum(dtype=np.uint64)) if n else 0
    first, last = (part.tolist() for part in (places[:ends], places[max(n - ends, 0) :]))
    return {"seed": str(seed), "n": str(n), "first": first, "last": last, "digest": str(digest)}


cases = [case(seed, n) for seed in (0, 42, 2357, 2**32 + 5, 2**64 - 1) for n in (0, 1, 2, 3, 10, 1000, 70_001)]
cases.append(case(2357, 8_013_769))
fixture = {
    "numpy": np.__version__,
    "stretched": [str(word) for word in np.random.SeedSequence(2357).generate_state(4, np.uint64)],
    "permutations": cases,
    "openwebtext": {"test": np.random.default_rng(2357).permutation(8_013_769)[:40].tolist()},
}
lines = [f"    {json.dumps(case)}" for case in cases]
head = {key: value for key, value in fixture.items() if key != "permutations"}
text = json.dumps(head)[:-1] + ', "permutations": [\n' + ",\n".join(lines) + "\n]}\n"
assert json.loads(text) == fixture
Path(__file__).with_suffix(".json").write_text(text)
