"""Whether a compressed network can be asked what its dense model is asked, token by token."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import transformers

from pytest_compression.errors import ModelError
from pytest_compression.models.completeness import is_wordless
from pytest_compression.models.families import family_of
from pytest_compression.models.places import first_line
from pytest_compression.models.weight_files import found

if TYPE_CHECKING:
    from pytest_compression.models.language_model import LanguageModel
    from pytest_compression.models.sources import Pretrained

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "merges.txt"),
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
)
SPOKEN = (
    "The capital of France is Paris.",
    "It was founded in 1703, on 27 May; by 2021 it had 5,384,342 inhabitants (+12.5%).",
    "don't, won't -- \"quoted\" / e-mail@example.org",
    "  two  spaces\tand\na line",
    "São Tomé, Łódź, Αθήνα, Москва, 東京",
)
"""Texts that two tokenizers of the same vocabulary must split alike: words, digits, marks, space,
letters of other scripts."""


def named(model: "LanguageModel") -> str:
    """The dense model, as a message calls it."""
    name = getattr(model.module.config, "name_or_path", "")
    return f"the dense model '{name}'" if name else "the dense model"


def check_configuration(source: "Pretrained", config: Any, model: "LanguageModel") -> None:
    """Refuse a network of another family, or with another number of tokens.

    Raises:
        ModelError: naming both.
    """
    family = family_of(config)
    if family != model.family:
        message = (
            f"'{source.path}' is a {family} language model, and {named(model)} is a {model.family} "
            "one: what one is asked the other cannot be asked."
        )
        raise ModelError(message)
    found = config.get_text_config().vocab_size
    dense = model.module.config.get_text_config().vocab_size  # type: ignore[union-attr,operator]
    if found != dense:
        message = (
            f"'{source.path}' has a vocabulary of {found} tokens, and {named(model)} one of "
            f"{dense}: their answers do not compete with the same ones."
        )
        raise ModelError(message)


def check_tokenizer(
    source: "Pretrained", tokenizer: Any, model: "LanguageModel", *, rebuilt: bool
) -> None:
    """Refuse another tokenizer than the dense model's.

    Args:
        source: where the network comes from.
        tokenizer: that it brings.
        model: the dense one.
        rebuilt: it was put together from a GGUF file, which holds the vocabulary but only the name
            of the rule by which a text is first split, and may hold tokens that only fill it up.

    Raises:
        ModelError: naming a token or a text that the two treat otherwise.
    """
    own, dense = tokenizer.get_vocab(), model.tokenizer.get_vocab()
    names = dense.keys() if rebuilt else dense.keys() | own.keys()
    differ = sorted(
        (name for name in names if own.get(name) != dense.get(name)),
        key=lambda name: (dense.get(name, len(dense)), name),
    )
    if differ:
        name = differ[0]
        message = (
            f"'{source.path}' has another tokenizer than {named(model)}: {len(differ)} of "
            f"{len(names)} tokens differ, such as {name!r} (id {own.get(name, 'none')} here, "
            f"{dense.get(name, 'none')} there)."
        )
        raise ModelError(message)
    for text in () if rebuilt else SPOKEN:
        here, there = (one(text)["input_ids"] for one in (tokenizer, model.tokenizer))
        if here != there:
            message = (
                f"'{source.path}' has another tokenizer than {named(model)}: the vocabularies are "
                f"the same, but {text!r} becomes {here} here and {there} there."
            )
            raise ModelError(message)


def tokenizer_of(source: "Pretrained", where: str, shared: dict[str, Any]) -> Any:
    """The tokenizer that lies beside the weights; None if there is none.

    Raises:
        ModelError: there are files of one, which cannot be read.
    """
    names = TOKENIZER_FILES if source.gguf_file is None else ()  # a GGUF file holds its own
    there = [name for name in names if found(where, name, source.revision)]
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(where, **shared)
    except Exception as error:
        if there:
            raise ModelError(unread(source, there, first_line(error))) from error
        if not isinstance(error, OSError | ValueError):
            raise
        return None
    if not is_wordless(tokenizer):
        return tokenizer
    if there:
        raise ModelError(unread(source, there, "it knows no words"))
    return None


def unread(source: "Pretrained", files: Sequence[str], reason: str) -> str:
    """That there is a tokenizer which cannot be read, and what to do."""
    return (
        f"'{source.path}' holds a tokenizer that cannot be read ({', '.join(files)}: {reason}). "
        "Save it again with tokenizer.save_pretrained, or remove these files: then it is asked "
        "with the dense model's."
    )
