"""How others call a saved reward model so that it sees the ids that training saw: Markdown for a card or a note."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jinja2

from rmbench.data.text import encode

NOTE = "SCORING.md"

TRANSFORMERS = """In transformers:

```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{place}")
model = AutoModelForSequenceClassification.from_pretrained("{place}")
messages = [{{"role": "user", "content": "..."}}, {{"role": "assistant", "content": "..."}}]
{encoding}
reward = model(**inputs).logits[0, 0]
```

With a pipeline, which puts no sigmoid on the reward (`problem_type` is regression):

```python
from transformers import pipeline

text = tokenizer.apply_chat_template(messages, tokenize=False){shortened}
scored = pipeline("text-classification", model=model, tokenizer=tokenizer)(text)
reward = scored[0]["score"]
```

{trl}

```bash
# servers get the same text; whether vLLM, too, puts no sigmoid on the reward (by problem_type): not checked
vllm serve {place} --runner pooling
curl localhost:8000/classify -H "Content-Type: application/json" \\
    -d '{{"model": "{place}", "input": "TEXT"}}'
text-embeddings-router --model-id {place} --port 8080  # takes encoders alone
curl localhost:8080/predict -H "Content-Type: application/json" -d '{{"inputs": "TEXT", "raw_scores": true}}'
```

The two servers' lines were not run when this file was written; the Python above is what rmbench tests.
"""
BY_TEMPLATE = """inputs = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)"""
BY_TEXT = """text = tokenizer.apply_chat_template(messages, tokenize=False)
inputs = tokenizer(text, return_tensors="pt")  # adds special tokens that the template does not write"""
WITHOUT_BOS = ".removeprefix(tokenizer.bos_token)  # the tokenizer adds it again"
TRL = """In TRL: `GRPOTrainer(reward_funcs="{place}", ...)`."""
TRL_BY_TEXT = """TRL's `GRPOTrainer` leaves out the special tokens that this tokenizer adds by itself ([CLS], a BOS), so
give it a function around the first lines, not the folder."""


@dataclass(frozen=True)
class Usage:
    """Which calls give the token ids of training: `apply_chat_template`, or tokenising the rendered text."""

    by_template: bool = True
    without_bos: bool = False

    def markdown(self, place: str) -> str:
        """Markdown with code for transformers, pipeline and TRL, and lines for vLLM and text-embeddings-inference."""
        return TRANSFORMERS.format(
            place=place,
            encoding=BY_TEMPLATE if self.by_template else BY_TEXT,
            shortened=WITHOUT_BOS if self.without_bos else "",
            trl=TRL.format(place=place) if self.by_template else TRL_BY_TEXT,
        )


def usage(tokenizer: Any) -> Usage:
    """The calls that give the ids of training, found by trying both; the usual ones if the template refuses."""
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    try:
        (seen,) = encode([messages], tokenizer)
    except jinja2.TemplateError:
        return Usage()
    alone = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    bos = tokenizer.bos_token
    shorter = bool(bos) and list(tokenizer(text)["input_ids"]) != seen
    return Usage(
        by_template=list(alone) == seen,
        without_bos=shorter and list(tokenizer(text.removeprefix(bos))["input_ids"]) == seen,
    )
