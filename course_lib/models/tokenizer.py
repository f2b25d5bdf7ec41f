"""A byte-level BPE tokenizer as the files of a Hugging Face folder: both of the course's own policies have one."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE


def single_digits() -> pre_tokenizers.PreTokenizer:
    """Return GPT-2's split into words with each digit alone: "2+17" is 2, +, 1, 7, so a number has one spelling."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )


def byte_level(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], special: Sequence[str]) -> Tokenizer:
    """Return a tokenizer of this vocabulary; a `special` token is matched whole, and `skip_special_tokens` skips it."""
    tokenizer = Tokenizer(BPE(vocab=dict(vocab), merges=list(merges)))
    tokenizer.pre_tokenizer = single_digits()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def tokenizer_files(
    tokenizer: Tokenizer, special: Mapping[str, str], chat_template: str, max_length: int
) -> dict[str, bytes]:
    """Return `tokenizer.json` and `tokenizer_config.json`.

    They are written here and not by transformers' `save_pretrained`, because release 5 names a tokenizer class there
    that release 4 does not have; both read this one.

    Args:
        tokenizer: The tokenizer.
        special: `{"eos": "<|im_end|>", ...}` for those of bos, eos, unk and pad that the model has.
        chat_template: The Jinja template of a conversation.
        max_length: The longest sequence that the model takes, in tokens.
    """
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": False,
        "chat_template": chat_template,
        **{f"{name}_token": token for name, token in special.items()},
    }
    return {
        "tokenizer.json": tokenizer.to_str(pretty=True).encode(),
        "tokenizer_config.json": (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode(),
    }
