"""Fixed sets of prompts with better and worse responses, and how each forms its number.

A benchmark is a module of pure functions: `load(config)` gives its items, `section_of(subset)` the section that a
subset counts in, `credit(row)` says how well an item was ranked, `observations(rows)` and `formula(cells)` say how its
numbers follow from score rows, `further(rows)` gives what is no mean. `suite` is several of them in one evaluation.
Scores are files, metrics are functions of files: any number can be formed again without the model.
"""

from rmbench.benchmarks.registry import find, rules_of

__all__ = ["find", "rules_of"]
