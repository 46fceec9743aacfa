"""Run in a process of its own, as the Hub's endpoint is read at import: loads by id, prints what `explain` says."""

import json
import sys
import time

import datasets
from transformers import AutoConfig, AutoTokenizer

from rmbench.data import hub

LOADERS = {
    "config": lambda name, **how: AutoConfig.from_pretrained(name, **how).model_type,
    "tokenizer": AutoTokenizer.from_pretrained,
    "dataset": datasets.load_dataset,
}


def attempt(loader, name, **how):
    start = time.monotonic()
    hub.prepare()
    try:
        said = LOADERS[loader](name, **how)
    except Exception as error:
        said = str(hub.explain("dataset" if loader == "dataset" else "model", name, error, "KEY=FOLDER"))
    return said, time.monotonic() - start


if __name__ == "__main__":
    print(json.dumps([attempt(loader, name, **how) for loader, name, how in json.loads(sys.argv[1])]))
