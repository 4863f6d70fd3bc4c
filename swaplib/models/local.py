"""The local SLM as a client: HostedLLM's contract over a model in this process.

It scores nothing and writes nothing.

    LocalSLM(Checkpoint(folder)).generate([[{"role": "user", "content": "Say yes."}]], 8)
    -> (0, Generation("Yes.", …))
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from swaplib.models.local_checkpoint import Checkpoint
from swaplib.models.local_model import LoadedModel, load
from swaplib.models.native import NativeForm
from swaplib.prompts import Message
from swaplib.rows import Generation


@dataclass(frozen=True)
class LocalSLM:
    """A checkpoint that answers in this process, loaded once, at the first generation."""

    checkpoint: Checkpoint
    batch_size: int = 64

    def check(self) -> None:
        """Check that checkpoint and adapter are there, whole and for chats.

        Raises:
            FileNotFoundError, ValueError: They are not; says what is wrong.
        """
        self.checkpoint.check()
        self.checkpoint.check_template()

    def identity(self) -> dict[str, Any]:
        """What makes two runs of this model the same run."""
        return self.checkpoint.identity()

    @cached_property
    def model(self) -> LoadedModel:
        """The loaded model."""
        return load(self.checkpoint)

    def generate(
        self,
        conversations: Sequence[Sequence[Message]],
        max_new_tokens: int,
        forms: Sequence[NativeForm] | None = None,
    ) -> Generator[tuple[int, Generation], None, None]:
        """Answer conversations, `batch_size` at once.

        Args:
            conversations: Messages of each row, as build_messages makes them.
            max_new_tokens: The longest answer, in tokens.
            forms: Where rows are asked natively, the form of each: the decoding is bound to its
                schema.

        Yields:
            The index of a conversation and its generation, as each ends, as LoadedModel.generate
            yields and raises them.

        Raises:
            RuntimeError: Also where a form's grammar cannot follow an answer to its end.
        """
        if not conversations:
            return  # nothing is asked, so nothing is loaded
        if forms is not None:
            yield from self._generate_natively(conversations, max_new_tokens, forms)
            return
        prompts = [self.checkpoint.render(messages) for messages in conversations]
        yield from self.model.generate(prompts, max_new_tokens, self.batch_size)

    def _generate_natively(
        self,
        conversations: Sequence[Sequence[Message]],
        max_new_tokens: int,
        forms: Sequence[NativeForm],
    ) -> Iterator[tuple[int, Generation]]:
        """Answer under the forms' grammars; the answers are written in the track's form."""
        prompts = [
            self.checkpoint.render(messages, tools=form.tools)
            for messages, form in zip(conversations, forms, strict=True)
        ]
        hook = self.model.constrain([form.to_grammar() for form in forms])
        for i, generation in self.model.generate(
            prompts, max_new_tokens, self.batch_size, logits_hook=hook
        ):
            if problem := hook.problems.get(i):
                raise RuntimeError(problem)
            yield i, replace(generation, output=forms[i].read_output(generation.output))
