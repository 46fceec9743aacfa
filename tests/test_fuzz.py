"""Whatever words are typed: a config, or one message. Never a traceback."""

import os
import string

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rmbench.commands import launch
from rmbench.commands.catalog import groups
from rmbench.commands.registry import COMMANDS
from rmbench.config import SCHEMAS, choices, keys
from rmbench.errors import UserError

ODD = [
    "", " ", "null", "true", "-1", "0", "1e400", "nan", "-inf", "9" * 60, "[]", "{}", "[1,2", "{a:1}", "a,b", "'",
    "${seed}", "${nothing}", "${oc.env:NO_SUCH}", "${", "}", "???", "~", "=", "==", "\\", "\x00", "ü\u202e", "🦙",
    "a b", "!!python/object/apply:os.system [true]", "range(3)", "glob(*)", "choice(1,2)", "int(x)", "@x", "#", "%s",
    '"', "-", "../..",
]  # fmt: skip


def words_of(command):
    config = COMMANDS[command].config
    named = [*groups(config), *keys(SCHEMAS[config])]
    options = {name: list(group.options) for name, group in groups(config).items()}
    values = st.one_of(st.sampled_from(ODD), st.text(max_size=8), st.integers().map(str), st.floats().map(str))

    def word(key):
        right = options.get(key) or choices(SCHEMAS[config], key)
        value = st.one_of(values, st.sampled_from(right)) if right else values
        return value.map(lambda text: f"{key}={text}")

    known = st.sampled_from(named).flatmap(word)
    unknown = st.builds(
        lambda prefix, key, cut, value: f"{prefix}{key[:-cut]}={value}",
        st.sampled_from(["", "+", "++", "~", "-", "--", "@", "hydra.", "hydra/"]),
        st.sampled_from(named),
        st.integers(1, 3),
        values,
    )
    junk = st.text(st.sampled_from(string.printable + "ü🦙"), max_size=12)
    flags = st.sampled_from(
        ["-m", "--cfg", "--multirun", "--info", "--config-dir", "--config-name=x", "--version", "-x"]
    )
    return st.tuples(st.just(command), st.lists(st.one_of(known, known, unknown, junk, flags), max_size=4))


def answers(command, words):
    """Compose them as the command would, and start nothing."""
    try:
        said = launch.show(command, words)
    except UserError as error:
        said = str(error)
    except SystemExit as end:  # --version
        said = end.code == 0 and "printed"
    assert said.strip()
    assert "Traceback" not in said


typed = st.sampled_from(list(COMMANDS)).flatmap(words_of)
QUIET = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


@given(typed)
@example(("train", ["hydra/backbone.name_or_path=../.."]))  # no key of Hydra's grammar, and a value that is a path
@settings(max_examples=25, suppress_health_check=QUIET, derandomize=True)
def test_any_words_give_a_config_or_one_message(case):
    answers(*case)


@pytest.mark.slow
@given(typed)
@settings(max_examples=1000, suppress_health_check=QUIET)
def test_a_thousand_times_any_words_give_a_config_or_one_message(case):
    answers(*case)


@pytest.mark.parametrize("value", ODD)
def test_odd_values_as_the_name_of_a_model_are_one_message(value):
    from rmbench.modeling.loading import load_reward_model

    with pytest.raises(UserError):
        load_reward_model(os.path.join("nowhere", "at", "all", value.replace("\x00", "")))
