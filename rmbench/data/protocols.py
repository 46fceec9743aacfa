"""What rmbench uses of a tokenizer; every Hugging Face tokenizer has it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Tokenizer(Protocol):
    """Text to ids and back, conversations to text, and the special token ids."""

    chat_template: str | dict[str, str] | None
    padding_side: str
    pad_token: str | None
    pad_token_id: int  # None before `modeling.tokenizer` has seen to it
    bos_token_id: int | None
    eos_token_id: int | None
    unk_token_id: int | None
    model_max_length: int

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of the special tokens."""

    @property
    def all_special_tokens(self) -> list[str]:
        """The special tokens."""

    @property
    def special_tokens_map(self) -> Mapping[str, Any]:
        """Role -> special token."""

    def __len__(self) -> int:
        """Tokens, added ones included."""

    def __call__(
        self, text: str | list[str], *, add_special_tokens: bool = True, verbose: bool = True
    ) -> Mapping[str, Any]:
        """`input_ids`: ids of a text, or a list of ids for each."""

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """A conversation or several as text, or as ids where `tokenize=True`."""

    def decode(self, token_ids: list[int]) -> Any:
        """Ids as text (`list[str]` for several lists, says the type of transformers)."""

    def convert_ids_to_tokens(self, ids: int) -> Any:
        """The token of an id."""

    def get_vocab(self) -> dict[str, int]:
        """Token -> id."""

    def add_special_tokens(self, special_tokens_dict: Any) -> int:
        """Give roles their tokens; how many of them are new to the vocabulary."""

    def save_pretrained(self, save_directory: str | Path) -> object:
        """Write the tokenizer's files."""
