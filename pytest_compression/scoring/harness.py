"""lm-eval's interface around one of our models: its tasks, through our engine.

Prompts and answers become the tokens that lm-eval's own ``HFLM`` makes of them (``pairs.py``), so
the log-likelihoods are the same. What differs, on purpose: the model is left as it was given
(``HFLM`` ties weights again, which undoes a compressed head); masked models are refused (``HFLM``
scores them as if they were causal); prompts that are too long are counted; a seq2seq model
generates the ``max_gen_toks`` tokens that were asked for (``HFLM``: and as many as the longest
prompt has besides); and ``use_cache`` is refused, for lm-eval's cache does not know which model
gave an answer.

To import this module registers the class, so that ``lm_eval.simple_evaluate`` and the rest of
lm-eval know the model ``pytest-compression``. Needs the package ``lm-eval``.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec
import torch
from jinja2 import TemplateError
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs, resolve_max_length
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window, simple_parse_args_string

from pytest_compression.errors import MeasurementError, ModelError, nearest
from pytest_compression.fingerprints import digest
from pytest_compression.models.sources import Pretrained
from pytest_compression.option_errors import alternatives, said
from pytest_compression.scoring.cloze import context
from pytest_compression.scoring.generation import generate
from pytest_compression.scoring.likelihood import Request, loglikelihoods
from pytest_compression.scoring.pairs import Pair, PairEncoder
from pytest_compression.scoring.tokens import Tokens

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from pytest_compression.models.language_model import LanguageModel

NAME = "pytest-compression"
"""Of the class among lm-eval's models."""
Overlong = Literal["cut", "refuse"]
Options = TypeVar("Options")

IGNORED = {"batch_size", "max_batch_size"}
"""lm-eval always gives them; the engine makes batches of its own."""
DEFAULT_DEVICE = "cuda:0"
"""lm-eval's command always gives it; without one, ``HFLM`` takes the processor, too."""
HARMLESS = {"do_sample", "max_gen_toks", "temperature", "top_k", "top_p", "until"}
"""What may be said of a greedy continuation."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Arguments of the class; all others in ``model_args`` are the model's."""

    max_length: int | None = None
    overlong: Overlong = "cut"


@register_model(NAME)
class HarnessLM(TemplateLM):  # type: ignore[misc]  # lm-eval has no types
    """A causal or seq2seq model, as lm-eval asks it.

    Args:
        model: dense or compressed; it is not changed.
        max_length: tokens it can read; found as ``HFLM`` does if not given.
        overlong: cut longer prompts from the left, as ``HFLM`` does, or refuse them.

    Raises:
        MeasurementError: the model is masked, or has fewer positions than ``max_length``.
    """

    def __init__(
        self, model: "LanguageModel", *, max_length: int | None = None, overlong: Overlong = "cut"
    ) -> None:
        super().__init__()
        refuse_masked(model)
        self.model = model
        self.tokenizer = model.tokenizer
        self.backend = model.family
        positions = context(model)
        if max_length and positions is not None and max_length > positions:
            message = f"max_length is {max_length}, but the model has only {positions} positions."
            raise MeasurementError(message)
        found = max_length or resolve_max_length(model.module.config, self.tokenizer)
        self.max_length = found if positions is None else min(found, positions)
        self.overlong = overlong
        self.cut: set[tuple[str | None, int | None]] = set()
        """Task and document of each question whose prompt was cut."""
        known = model.memo.setdefault("lm-eval tokens", {})
        self.pairs = PairEncoder(self.tokenizer, model.family, known)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> "HarnessLM":
        """Load what ``pretrained`` names, with the options of :class:`Pretrained`.

        Raises:
            ModelError: an argument is unknown or of the wrong type, or there is no such model.
        """
        more = {key: value for key, value in (additional_config or {}).items() if value is not None}
        if more.get("device") == DEFAULT_DEVICE and not torch.cuda.is_available():
            del more["device"]
        given = {("path" if k == "pretrained" else k): v for k, v in {**more, **arg_dict}.items()}
        mine, models = ({field.name for field in fields(of)} for of in (Reading, Pretrained))
        for name in given:
            if name not in mine | models | IGNORED:
                message = (
                    f"model_args: there is no argument '{name}'. {nearest(name, mine | models)}"
                )
                raise ModelError(message)
        reading = converted({key: given[key] for key in mine & given.keys()}, Reading)
        source = converted({key: given[key] for key in models & given.keys()}, Pretrained)
        model: Any = source.load()
        return cls(model, max_length=reading.max_length, overlong=reading.overlong)

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: Mapping[str, Any] | None = None
    ) -> "HarnessLM":
        """The same from ``pretrained=DIR,dtype=bfloat16``."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    def set_cache_hook(self, _cache_hook: object) -> None:
        """Refuse lm-eval's cache.

        Raises:
            MeasurementError: always.
        """
        message = (
            "lm-eval's use_cache keeps answers by question alone, so another model would be given "
            "them; leave it out."
        )
        raise MeasurementError(message)

    @property
    def eot_token_id(self) -> int:
        """The tokenizer's end mark."""
        found: int = self.tokenizer.eos_token_id
        return found

    @property
    def prefix_token_id(self) -> int:
        """What stands before an answer without a prompt."""
        return self.pairs.prefix

    @property
    def tokenizer_name(self) -> str:
        """By which lm-eval's own request cache would know the chat template."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def apply_chat_template(
        self,
        chat_history: list[dict[str, str]],
        add_generation_prompt: bool = True,  # noqa: FBT001, FBT002  # lm-eval's signature
    ) -> str:
        """The prompt that the tokenizer's template makes of a conversation.

        Raises:
            MeasurementError: it has no template, or the template refuses the conversation.
        """
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    chat_history,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=not add_generation_prompt,
                )
            )
        except (ValueError, TemplateError) as error:
            message = f"the tokenizer's chat template cannot be applied: {first_line(error)}"
            raise MeasurementError(message) from error

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,  # noqa: FBT001  # lm-eval's signature
        **_kwargs: Any,
    ) -> list[int]:
        """Tokens of one text; with the tokenizer's own marks if not said otherwise."""
        return list(self.pairs.ids([string], special=add_special_tokens is not False)[string])

    def fitting(self, request: "Instance", context: Tokens, continuation: Tokens) -> Tokens:
        """As much of the end of the context as can be read; a causal model's last token is not.

        Raises:
            MeasurementError: the continuation has no tokens or too many, or the context too many.
        """
        if not 0 < len(continuation) <= self.max_length:
            message = (
                f"task '{request.task_name}': an answer of {len(continuation)} tokens cannot be "
                f"scored by a model that reads {self.max_length}: {request.args[1]!r:.60}"
            )
            raise MeasurementError(message)
        taken = len(continuation) - 1 if self.backend == "causal" else 0
        return self.shortened(request, context, self.max_length - taken)

    def shortened(self, request: "Instance", context: Tokens, room: int) -> Tokens:
        """The last tokens of a prompt that is too long; the question is noted."""
        if len(context) <= room:
            return context
        if self.overlong == "refuse":
            message = (
                f"task '{request.task_name}': a prompt of {len(context)} tokens does not fit into "
                f"{room} of the {self.max_length} that the model reads: {request.args[0]!r:.60} "
                "Ask with fewer examples, or write overlong: cut."
            )
            raise MeasurementError(message)
        self.cut.add((request.task_name, request.doc_id))
        return context[-room:]

    def loglikelihood(
        self,
        requests: "Sequence[Instance]",
        **_kwargs: Any,
    ) -> list[tuple[float, bool]]:
        """Nats of each continuation after its context, and whether it is the greedy one."""
        encoded = self.pairs.encoded([request.args for request in requests])
        return self._loglikelihood_tokens(
            [
                (request.args, self.fitting(request, *pair), pair[1])
                for request, pair in zip(requests, encoded, strict=True)
            ]
        )

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Pair | None, Tokens, Tokens]], **_kwargs: Any
    ) -> list[tuple[float, bool]]:
        """The same of tokens, all at once."""
        asked = [Request(tuple(before), tuple(behind)) for _, before, behind in requests]
        return [(found.total, found.greedy) for found in loglikelihoods(self.model, asked)]

    def loglikelihood_rolling(
        self,
        requests: "Sequence[Instance]",
        **_kwargs: Any,
    ) -> list[float]:
        """Nats of whole texts, each token after as much as the model can read before it."""
        ids = self.pairs.ids(request.args[0] for request in requests)
        windows = [self.windows(ids[request.args[0]]) for request in requests]
        found = iter(self._loglikelihood_tokens([one for some in windows for one in some]))
        return [sum(next(found)[0] for _ in some) for some in windows]

    def windows(self, tokens: Tokens) -> list[tuple[None, Tokens, Tokens]]:
        """Contexts and continuations that score each token of a text once, as lm-eval's."""
        rolling = get_rolling_token_windows(
            token_list=list(tokens),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.max_length,
            context_len=1,
        )
        return [
            (None, tuple(before), tuple(behind))
            for before, behind in map(make_disjoint_window, rolling)
        ]

    def generate_until(
        self,
        requests: "Sequence[Instance]",
        **_kwargs: Any,
    ) -> list[str]:
        """The greedy continuation of each prompt, up to the first of its stop strings."""
        alike: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        for position, request in enumerate(requests):
            alike.setdefault(greedy(request), []).append(position)
        ids = self.pairs.ids(request.args[0] for request in requests)
        found = [""] * len(requests)
        for (longest, stop), positions in alike.items():
            asked = [requests[position] for position in positions]
            prompts = [self.prompt(one, ids[one.args[0]], longest) for one in asked]
            texts = generate(self.model, prompts, stop=stop, max_new_tokens=longest)
            for position, text in zip(positions, texts, strict=True):
                found[position] = text
        return found

    def prompt(self, request: "Instance", tokens: Tokens, longest: int) -> Tokens:
        """A prompt that leaves a causal model room for so many tokens more."""
        room = self.max_length - (longest if self.backend == "causal" else 0)
        if room < 1:
            message = (
                f"task '{request.task_name}' asks for {longest} new tokens, but the model reads "
                f"{self.max_length} in all."
            )
            raise MeasurementError(message)
        return self.shortened(request, tokens or (self.prefix_token_id,), room)

    def fingerprint(self, requests: "Sequence[Instance]") -> str:
        """Of the tokens that requests become, and of what is done to long ones."""
        pairs = [r.args for r in requests if r.request_type == "loglikelihood"]
        others = [r.args[0] for r in requests if r.request_type != "loglikelihood"]
        texts = self.pairs.ids(others)
        tokens = [part for pair in self.pairs.encoded(pairs) for part in pair]
        tokens += [texts[text] for text in others]
        head = f"{self.backend} {self.max_length} {self.overlong} {len(pairs)}".encode()
        return digest([head, *(array("q", one).tobytes() for one in tokens)])


def converted(given: Mapping[str, Any], to: type[Options]) -> Options:
    """Arguments as what they are for.

    Raises:
        ModelError: one is missing, or has another type.
    """
    try:
        return msgspec.convert(given, to)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$.")
        name = path.rstrip("`")
        where = "model_args: pretrained" if name == "path" else f"model_args: {name}"
        if not name:
            message = "model_args: name a model: pretrained=DIR, or a hub id."
            raise ModelError(message) from error
        message = f"{where}: {said(text, str(given[name]), alternatives(to, [name]))}"
        raise ModelError(message) from error


def refuse_masked(model: "LanguageModel") -> None:
    """Refuse a model that continues nothing.

    Raises:
        MeasurementError: the model is masked.
    """
    if model.family == "masked":
        message = (
            "lm-eval's tasks ask for continuations, and a masked model predicts none; scored as "
            "if it were causal, its figures would mean nothing. Ask it cloze questions."
        )
        raise MeasurementError(message)


def greedy(request: "Instance") -> tuple[int, tuple[str, ...]]:
    """How many tokens may be generated, and what ends them.

    Raises:
        MeasurementError: the task wants samples, beams or the like.
    """
    options = normalize_gen_kwargs(request.args[1])
    others = sorted(options.keys() - HARMLESS)
    if options["do_sample"] or others:
        wanted = "samples" if options["do_sample"] else f"'{others[0]}'"
        message = (
            f"task '{request.task_name}' asks for {wanted} in its generation_kwargs; here "
            "only the most probable continuation is measured. Change the task, or name a runner."
        )
        raise MeasurementError(message)
    return options["max_gen_toks"], tuple(stop for stop in options["until"] if stop)


def first_line(error: Exception) -> str:
    """What an error says first."""
    return (str(error).strip() or repr(error)).splitlines()[0]
