"""What several tests use. Tests import from here, never from each other: `from helpers.data import write_jsonl`."""
