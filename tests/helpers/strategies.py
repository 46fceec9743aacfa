"""Hypothesis strategies: any row that a file of pairs may hold."""

from hypothesis import strategies as st

from helpers.data import bot, system, user

TEXTS = st.sampled_from(["", " ", "Q", "Q good", "\n\nHuman: Q\n\nAssistant: a", "\n\nHuman: Q", "\ud800"]) | st.text()


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS


MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": TEXTS})
    | st.dictionaries(st.sampled_from(["role", "content", "tool_calls"]), LEAVES),
    max_size=4,
)


ANYTHING = st.recursive(LEAVES | MESSAGES, lambda x: st.lists(x, max_size=3) | st.dictionaries(TEXTS, x, max_size=3))


COLUMNS = [
    "prompt",
    "chosen",
    "rejected",
    "margin",
    "chosen_score",
    "rejected_score",
    "id",
    "subset",
    "system",
    "input",
]


TURNS = [system("S"), user("Q"), user("R"), bot("a"), bot("b")]


LIKELY = st.fixed_dictionaries(
    {column: st.lists(st.sampled_from(TURNS), max_size=4) | TEXTS for column in ("chosen", "rejected")},
    optional={"prompt": st.lists(st.sampled_from(TURNS), max_size=3) | TEXTS},
)


ROWS = st.dictionaries(st.sampled_from(COLUMNS), ANYTHING) | LIKELY
