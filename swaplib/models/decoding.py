"""Greedy decoding of many prompts at once: the tokens of transformers' `generate`, sooner.

It knows token ids, a model and nothing else: no text, no rows, no memory that runs out (local_model.py does). Four things
make it fast: what all prompts begin with is read once; prompts are read with little or no padding; a row that has ended
leaves its slot to the next row; and keys and values stay where they were written, read by all the queries of a group, in
steps that a GPU replays as one CUDA graph. Rounding differs from `generate`, so ties between logits may break otherwise;
benchmarks/results/throughput.md counts how often.

Three prompts in two slots, on a CPU, with max_new_tokens=3; all begin with A B, and `.` is the end token:

    does        slot 0               slot 1               yields
    __init__    A B                  A B                                            read once, copied to the other slot
    join        A B c       -> x     A B d e    -> .      Answer(1, [.])            each prompt's own part is read
    join                             A B f      -> u                                the next prompt takes the free slot
    step        A B c x     -> y     A B f u    -> v                                one token more for every slot
    step        A B c x y   -> .     A B f u v  -> w      Answer(0, [x, y, .]), Answer(2, [u, v, w])

The last answer was cut off: its third token is no end token. `->` is where a token is chosen from logits: the likeliest,
unless hooks say otherwise. With hooks a GPU's graph ends at the logits; without them choosing is part of the graph.

A server's prompts come from a feed: they join while others are in work, in slots that are added as they are needed, and
leave when nobody waits for their answers. One that begins otherwise than the first ones is read whole.
"""

import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Protocol

import torch
from tqdm import tqdm
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    LogitsProcessor,
    LogitsProcessorList,
)
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "grouped_sdpa"
# By device: how many tokens one pass over prompts may read (a CPU is as fast with one prompt, and pads nothing), and which
# part of the slots must be free before prompts are read (on a GPU a pass costs as much as many steps).
READ_AT_ONCE = {"cpu": 1, "cuda": 16384}
JOIN_AT = {"cpu": 1 / 8, "cuda": 1 / 2}
JOIN_WITHIN = {
    "cpu": 0,
    "cuda": 16,
}  # or how many steps a feed's prompt waits at most beside a free slot

_NOT_CAPTURED: weakref.WeakSet[Any] = weakref.WeakSet()  # models that no CUDA graph could take

OnToken = Callable[[int, int], None]
# Both hooks are called with the indices of the prompts whose next token is chosen, the tokens that each has so far (to be
# read only) and their logits, [prompts, vocabulary]. The first gives logits of the same shape, the second [prompts] tokens.
LogitsHook = Callable[[Sequence[int], Sequence[Sequence[int]], torch.Tensor], torch.Tensor]
Sampler = Callable[[Sequence[int], Sequence[Sequence[int]], torch.Tensor], torch.Tensor]


class Feed(Protocol):
    """Prompts that come while others are in work. Both methods are called before every step, in the decoding's thread."""

    def take(self, most: int) -> Sequence[tuple[Sequence[int], int]]:
        """At most so many further prompts, each with the limit of its answer; their indices go on from those before."""

    def list_gone(self) -> Collection[int]:
        """The indices of prompts whose answers nobody waits for any more; they end without one."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was decoded of one prompt, the `index`-th of those asked.

    `ids` are its new tokens, the end token last if it came; `logprobs` holds the natural log of each one's probability.
    `seconds` is its wall time, beside the others.
    """

    index: int
    ids: list[int]
    logprobs: list[float]
    seconds: float


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """SDPA that, for one new token, reads keys and values as they are: the heads of a group become rows of one query.

    Args:
        module: The attention layer.
        query: [rows, heads, new tokens, head size].
        key: [rows, groups, columns, head size]; each group is read by heads / groups heads.
        value: [rows, groups, columns, value size].
        attention_mask: [rows, 1, new tokens, columns], bool, or None.
        **options: transformers' own, such as `scaling`.

    Returns:
        [rows, new tokens, heads, value size], and no attention weights.

    Raises:
        NotImplementedError: The mask has more than one row for all heads.
    """
    rows, heads, length, size = query.shape
    if attention_mask is not None and attention_mask.shape[1] > 1:
        raise NotImplementedError("a mask of its own for each head")
    if length > 1 or attention_mask is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    grouped = query.reshape(rows, key.shape[1], heads // key.shape[1], size)
    out = torch.nn.functional.scaled_dot_product_attention(
        grouped, key, value, attn_mask=attention_mask, scale=options.get("scaling")
    )
    return out.reshape(rows, 1, heads, value.shape[-1]), None


AttentionInterface.register(ATTENTION, _attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def prepare(model: Any) -> Any:
    """Give a loaded model this module's attention, if it can take it; for any other, decode uses `generate`."""
    layers = DynamicCache(config=model.config.get_text_config()).layers
    has_full_attention = bool(layers) and all(type(layer) is DynamicLayer for layer in layers)
    if model._supports_attention_backend and model._supports_sdpa and has_full_attention:
        model.set_attn_implementation(ATTENTION)
        try:
            list(decode(model, [[0, 1], [0, 2, 3]], 2, 2))
        except NotImplementedError:  # this architecture changes the mask on its way
            model.set_attn_implementation("sdpa")
    return model


@torch.inference_mode()
def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int | Sequence[int],
    slots: int,
    on_token: OnToken | None = None,
    logits_hook: LogitsHook | None = None,
    sampler: Sampler | None = None,
    feed: Feed | None = None,
) -> Iterator[Answer]:
    """Decode prompts, up to `slots` at once, in their order.

    Args:
        model: A causal language model, as prepare left it, perhaps with an adapter; its generation config names end tokens.
        prompts: Token ids of each prompt, at least one.
        max_new_tokens: The limit of each answer, in tokens; one for all, or one for each.
        slots: How many prompts are in work at once; memory grows with it.
        on_token: Called with a prompt's index and its next token's id, end token included.
        logits_hook: Changes logits before a token is chosen, to forbid some of them, say.
        sampler: Chooses tokens from the logits in place of the likeliest. An answer's logprobs are those of the tokens that
            were chosen, by the logits as the sampler was given them.
        feed: Further prompts, as they come; decoding ends when there is no prompt left and the feed has none.

    Yields:
        The answer of each prompt, as it ends.
    """
    hooks = _Hooks(logits_hook, sampler) if logits_hook or sampler else None
    limits = (
        [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    )
    if model.config._attn_implementation == ATTENTION:
        yield from _decode_in_slots(model, prompts, limits, slots, on_token, hooks, feed)
    else:
        yield from _decode_with_library(model, prompts, limits, slots, on_token, hooks, feed)


@dataclass(frozen=True)
class _Hooks:
    """How a caller wants tokens to be chosen."""

    logits_hook: LogitsHook | None
    sampler: Sampler | None

    def pick(
        self, indices: Sequence[int], generated: Sequence[Sequence[int]], logits: torch.Tensor
    ) -> torch.Tensor:
        """What _pick gives, for tokens chosen by the hooks; its arguments are theirs."""
        if self.logits_hook:
            logits = self.logits_hook(indices, generated, logits)
        return _pick(logits, self.sampler(indices, generated, logits) if self.sampler else None)


def _decode_in_slots(
    model: Any,
    prompts: Sequence[Sequence[int]],
    limits: list[int],
    slots: int,
    on_token: OnToken | None,
    hooks: _Hooks | None,
    feed: Feed | None,
) -> Iterator[Answer]:
    """What decode does with a model that has this module's attention."""
    stop_tokens, waiting, start = (
        _list_stop_tokens(model),
        deque(range(len(prompts))),
        time.perf_counter(),
    )
    work = _Slots(model, prompts, limits, min(slots, len(prompts)), hooks)
    logprobs: dict[int, list[float]] = {}  # by index, of the prompts in work
    started, device, waited = dict[int, float](), work.device.type, 0
    while True:
        if feed:
            _follow(feed, work, waiting, logprobs, slots)
        if not (waiting or logprobs):
            return
        free = work.find_free()
        few = (
            1
            if feed and waited >= JOIN_WITHIN[device]
            else max(1, int(JOIN_AT[device] * len(work.indices)))
        )
        if waiting and len(free) >= few:
            waited = 0
            joining = [waiting.popleft() for _ in range(min(len(free), len(waiting)))]
            started |= dict.fromkeys(joining, start or time.perf_counter())
            start = 0.0  # only the first have waited for what all prompts share
            logprobs |= {i: [] for i in joining}
            fresh = work.join(free[: len(joining)], joining)
        else:
            fresh = work.step()
            waited += bool(waiting and free)
        for index, token, logprob in fresh:
            logprobs[index].append(logprob)
            if on_token:
                on_token(index, token)
            if token in stop_tokens or len(logprobs[index]) == work.limits[index]:
                ids = work.leave(index)
                yield Answer(
                    index, ids, logprobs.pop(index), time.perf_counter() - started.pop(index)
                )
        if not waiting:
            work.compact()


def _follow(
    feed: Feed, work: "_Slots", waiting: deque[int], logprobs: dict[int, list[float]], slots: int
) -> None:
    """Let prompts go that nobody waits for, queue those that have come, and make room for them."""
    for index in feed.list_gone():
        if logprobs.pop(index, None) is not None:
            work.leave(index)
        elif index in waiting:
            waiting.remove(index)
    for prompt, limit in feed.take(slots - len(logprobs) - len(waiting)):
        waiting.append(work.add(prompt, limit))
    missing = min(len(logprobs) + len(waiting), slots) - len(work.indices)
    if missing > 0:  # at least as many as there are, so that this is rare: a graph is captured anew
        work.expand(min(max(missing, len(work.indices)), slots - len(work.indices)))


def _list_stop_tokens(model: Any) -> set[int]:
    """The tokens that end an answer, as a model's generation config names them."""
    stop_tokens = model.generation_config.eos_token_id
    return {stop_tokens} if isinstance(stop_tokens, int) else set(stop_tokens or ())


def _pick(logits: torch.Tensor, tokens: torch.Tensor | None = None) -> torch.Tensor:
    """The next token of each row and the natural log of its probability.

    Args:
        logits: [rows, vocabulary], of any floating type; the logs are float32 arithmetic.
        tokens: [rows], the tokens' ids; None for the likeliest.

    Returns:
        [2, rows], float64, which holds both as they are: one tensor, so that the host waits for the device once.
    """
    tokens = logits.argmax(-1, keepdim=True) if tokens is None else tokens[:, None].long()
    logprobs = logits.log_softmax(-1, dtype=torch.float32).gather(-1, tokens)
    return torch.stack((tokens[:, 0].double(), logprobs[:, 0].double()))


class _Layer(CacheLayerMixin):
    """One layer's keys and values: [slots, heads, columns, head size]; a prompt's token i lies in column i of its slot."""

    is_compileable = is_sliding = False

    def __init__(self, work: "_Slots"):
        super().__init__()
        self.work = work

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate for all slots."""
        for name, states in (("keys", key_states), ("values", value_states)):
            _, heads, _, size = states.shape
            setattr(
                self, name, states.new_zeros(len(self.work.indices), heads, self.work.width, size)
            )
        self.is_initialized = True

    def resize(self) -> None:
        """Take the slots and columns that the work has now, at least those that are there; the new ones are empty."""
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_zeros(len(self.work.indices), old.shape[1], self.work.width, old.shape[3])
            new[: old.shape[0], :, : old.shape[2]] = old
            setattr(self, name, new)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new tokens' columns, and give back what the rows in question have so far.

        Args:
            key_states: [rows, heads, new tokens, head size].
            value_states: The same of values.
            *args: Unused; transformers' caches take more.
            **kwargs: As args.

        Returns:
            Keys and values, [rows, heads, seen, head size] each.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, columns, seen = self.work.rows, self.work.columns, self.work.seen
        self.keys[rows, :, columns] = key_states.transpose(1, 2)
        self.values[rows, :, columns] = value_states.transpose(1, 2)
        if len(rows) == len(self.keys):
            return self.keys[:, :, :seen], self.values[:, :, :seen]
        return self.keys[rows[:, 0], :, :seen], self.values[rows[:, 0], :, :seen]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what a mask would have to cover; every call brings its own mask."""
        return self.work.seen, 0

    def get_seq_length(self) -> int:
        """Columns in use, those being written included: positions and masks come with every call, not from here."""
        return self.work.seen

    def get_max_length(self) -> int:
        """Columns at all."""
        return self.work.width


class _Slots(Cache):
    """Prompts in work: keys and values (layers), and what follows of each slot.

    `indices` names the prompt in each slot, None where it is free. `generated` holds the new tokens of each prompt in work,
    by its index. On the device: `lengths`, int64 [slots], how many columns a slot has filled; `last`, float64 [2, slots],
    its last token, which no column holds yet, and that token's logprob, as _pick gives them.
    """

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        limits: list[int],
        n: int,
        hooks: _Hooks | None = None,
    ):
        weak_self = weakref.proxy(
            self
        )  # no cycle: keys and values are free as soon as nobody decodes with them
        super().__init__(
            layers=[
                _Layer(weak_self) for _ in range(model.config.get_text_config().num_hidden_layers)
            ]
        )
        self.model, self.prompts, self.device, self.hooks = (
            model,
            list(prompts),
            model.device,
            hooks,
        )
        self.limits = limits
        self.width = max(len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True))
        self.indices: list[int | None] = [None] * n
        self.generated: dict[int, list[int]] = {}
        self.last = torch.zeros(2, n, dtype=torch.float64, device=self.device)
        self.graph: Callable[[], None] | None = None
        self.shared = shared = _count_shared(prompts)
        self.prefix = list(prompts[0][:shared])
        self.has_shared = [
            True
        ] * n  # of each slot, whether its first columns hold what the first prompts share
        if shared:
            self._read([0], [self.prefix], 0)
            for layer in self.layers:
                layer.keys[1:, :, :shared] = layer.keys[:1, :, :shared]
                layer.values[1:, :, :shared] = layer.values[:1, :, :shared]
        # a free slot runs on beside the others, and must not write over what all share
        self.lengths = torch.full((n,), shared, device=self.device)

    def add(self, prompt: Sequence[int], limit: int) -> int:
        """Take a further prompt on; returns its index."""
        self.prompts.append(prompt)
        self.limits.append(limit)
        return len(self.prompts) - 1

    def find_free(self) -> list[int]:
        """The slots without a prompt, in order."""
        return [slot for slot, index in enumerate(self.indices) if index is None]

    def join(self, slots: list[int], indices: list[int]) -> list[tuple[int, int, float]]:
        """Read prompts into free slots; returns of each its index, its first token and that token's logprob."""
        self._widen(max(len(self.prompts[i]) + self.limits[i] for i in indices))
        self.generated |= {i: [] for i in indices}
        by_start: dict[int, list[tuple[int, int]]] = {}
        for slot, index in zip(slots, indices, strict=True):
            by_start.setdefault(self._find_start(slot, self.prompts[index]), []).append(
                (slot, index)
            )
        for start, pairs in by_start.items():
            self._read_all(pairs, start)
        self.lengths[slots] = torch.tensor(
            [len(self.prompts[i]) for i in indices], device=self.device
        )
        for slot, index in zip(slots, indices, strict=True):
            self.indices[slot], self.has_shared[slot] = (
                index,
                self._begins_alike(self.prompts[index]),
            )
        return self._take(slots)

    def _read_all(self, pairs: list[tuple[int, int]], start: int) -> None:
        """Read the prompts (slot, index) from column `start` on, as many in one pass as a pass may read."""
        while pairs:
            longest = max(len(self.prompts[index]) for _, index in pairs) - start
            n = max(
                1, min(READ_AT_ONCE[self.device.type] // longest, 32)
            )  # _read makes n times n rows of logits
            slots, indices = ([pair[k] for pair in pairs[:n]] for k in (0, 1))
            logits = self._read(slots, [self.prompts[i] for i in indices], start)
            self.last[:, slots] = self._choose(indices, logits)
            pairs = pairs[n:]

    def _find_start(self, slot: int, prompt: Sequence[int]) -> int:
        """From which column on a slot must read a prompt: what it shares with the first ones is there or copied there."""
        if not self.shared or not self._begins_alike(prompt):
            self.has_shared[slot] = False
            return 0
        donor = (
            slot
            if self.has_shared[slot]
            else next((i for i, has in enumerate(self.has_shared) if has), None)
        )
        if donor is None:
            return 0
        for layer in self.layers if donor != slot else ():
            layer.keys[slot, :, : self.shared] = layer.keys[donor, :, : self.shared]
            layer.values[slot, :, : self.shared] = layer.values[donor, :, : self.shared]
        self.has_shared[slot] = True
        return self.shared

    def _begins_alike(self, prompt: Sequence[int]) -> bool:
        return len(prompt) > self.shared and list(prompt[: self.shared]) == self.prefix

    def expand(self, n: int) -> None:
        """Add free slots; what the first prompts share is copied there when it is asked for."""
        self.indices += [None] * n
        self.has_shared += [False] * n
        self.lengths = torch.cat([self.lengths, self.lengths.new_full((n,), self.shared)])
        self.last = torch.cat([self.last, self.last.new_zeros(2, n)], dim=1)
        self._resize()

    def _widen(self, width: int) -> None:
        """Make columns for a prompt and its answer; 256 at once, so that this is rare."""
        if width > self.width:
            self.width = -(-width // 256) * 256
            self._resize()

    def _resize(self) -> None:
        """Give the layers the shape that slots and width have now; the step is captured anew."""
        self.graph = None
        for layer in self.layers:
            if layer.is_initialized:
                layer.resize()

    def step(self) -> list[tuple[int, int, float]]:
        """Decode one token more for every slot; returns of each prompt in work its index, the token and its logprob."""
        if self.device.type == "cuda":
            if self.graph is None:
                self.graph = self._capture()
            self.graph()
        else:
            self._step(int(self.lengths.max()) + 1)
        slots = [slot for slot, index in enumerate(self.indices) if index is not None]
        if self.hooks:
            self.last[:, slots] = self._choose(
                [self.indices[slot] for slot in slots], self.logits[slots]
            )
        return self._take(slots)

    def leave(self, index: int) -> list[int]:
        """Free the slot of a prompt that has ended; returns its new tokens. What the slot holds is overwritten later."""
        self.indices[self.indices.index(index)] = None
        self.prompts[index] = ()
        return self.generated.pop(index)

    def _choose(self, indices: list[int], logits: torch.Tensor) -> torch.Tensor:
        """What _pick gives of the next tokens of these prompts, by the hooks where there are some."""
        if self.hooks is None:
            return _pick(logits)
        return self.hooks.pick(indices, [self.generated[i] for i in indices], logits)

    def _take(self, slots: list[int]) -> list[tuple[int, int, float]]:
        """Bring the last tokens of these slots to the host, and add them to what was generated."""
        told = self.last.tolist()
        found = [(self.indices[slot], int(told[0][slot]), told[1][slot]) for slot in slots]
        for index, token, _ in found:
            self.generated[index].append(token)
        return found

    def _read(self, slots: list[int], prompts: Sequence[Sequence[int]], start: int) -> torch.Tensor:
        """Read what prompts have from column `start` on, in one pass; returns the logits of each one's next token.

        Padding is on the right, where nothing that counts can see it. So each prompt's last token stands elsewhere, and the
        model, asked for the logits at n positions, gives those of all n prompts at each: [n, n, vocabulary].

        Returns:
            [n, vocabulary]: of each prompt the logits at its own last token, which are that block's diagonal.
        """
        suffixes = [list(prompt[start:]) for prompt in prompts]
        longest = max(map(len, suffixes))
        ids = torch.tensor(
            [suffix + [0] * (longest - len(suffix)) for suffix in suffixes], device=self.device
        )
        self.rows, self.seen = torch.tensor(slots, device=self.device)[:, None], start + longest
        self.columns = torch.arange(start, self.seen, device=self.device)[None]
        mask = torch.arange(self.seen, device=self.device) <= self.columns[0][:, None]
        last = torch.tensor([len(suffix) - 1 for suffix in suffixes], device=self.device)
        logits = self._call(
            ids, self.columns.expand(len(slots), -1), mask.expand(len(slots), 1, -1, -1), last
        )
        return logits.diagonal().T

    def _step(self, seen: int) -> None:
        """The part of a step that a GPU replays: every slot's last token goes in, free slots' too, so shapes never change.

        With hooks it leaves the next tokens' logits, [slots, vocabulary], in `logits`; else the tokens chosen, in `last`.

        Args:
            seen: How many columns attention looks at, at least the longest slot's and the one being written. A CPU takes no
                more than it needs; a graph has one number for good, the whole width.
        """
        self.rows, self.seen = torch.arange(len(self.indices), device=self.device)[:, None], seen
        self.columns = self.lengths[:, None]
        mask = torch.arange(seen, device=self.device) <= self.columns
        logits = self._call(self.last[0, :, None].long(), self.columns, mask[:, None, None], 1)[
            :, -1
        ]
        if self.hooks:
            self.logits = logits
        else:
            self.last.copy_(_pick(logits))
        self.lengths.add_(1).clamp_(max=self.width - 1)  # a free slot runs on beside the others

    def _call(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor,
        keep: int | torch.Tensor,
    ) -> torch.Tensor:
        """Run the model over new tokens, whose keys and values go to `rows` and `columns` of this cache (see _Layer).

        Args:
            ids: [rows, new tokens], int64.
            positions: [rows, new tokens], int64: each token's place in its prompt, which is its column too.
            mask: [rows, 1, new tokens, seen], bool: True where a token may look.
            keep: At which of the new tokens logits are wanted: the last so many, or their places, int64 [kept].

        Returns:
            [rows, kept, vocabulary], of the model's type.
        """
        return self.model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=self,
            use_cache=True,
            logits_to_keep=keep,
        ).logits

    def _capture(self) -> Callable[[], None]:
        """The step as a CUDA graph, which spares the launch of each kernel; as it is where a model cannot be captured."""
        weak_self = weakref.proxy(self)  # what is kept of the step must not keep these slots
        stream = torch.cuda.current_stream()

        def step() -> None:
            weak_self._step(weak_self.width)

        if self.model in _NOT_CAPTURED:
            return step
        lengths, last, graph = self.lengths.clone(), self.last.clone(), torch.cuda.CUDAGraph()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step()  # kernels and workspaces are made ready outside the capture
        torch.cuda.current_stream().wait_stream(side)
        try:
            with torch.cuda.graph(graph):
                step()
            replay = graph.replay
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            tqdm.write(
                f"no CUDA graph of this model ({str(error).splitlines()[0]}): its steps are launched one by one"
            )
            torch.cuda.set_stream(stream)  # a failed capture leaves its own behind
            _NOT_CAPTURED.add(self.model)
            replay = step
        self.lengths.copy_(lengths)
        self.last.copy_(last)
        return replay

    def compact(self) -> None:
        """Drop free slots, where that saves work: a graph has its shapes for good."""
        kept = [slot for slot, index in enumerate(self.indices) if index is not None]
        if self.device.type == "cuda" or len(kept) == len(self.indices):
            return
        self.indices = [self.indices[slot] for slot in kept]
        self.has_shared = [self.has_shared[slot] for slot in kept]
        self.lengths, self.last = self.lengths[kept], self.last[:, kept]
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[kept], layer.values[kept]


def _count_shared(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with; one token of each is left to be read, and a single prompt shares nothing."""
    if len(prompts) == 1:
        return 0
    alike = takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False))
    return min(sum(1 for _ in alike), min(map(len, prompts)) - 1)


def _decode_with_library(
    model: Any,
    prompts: Sequence[Sequence[int]],
    limits: list[int],
    size: int,
    on_token: OnToken | None,
    hooks: _Hooks | None,
    feed: Feed | None,
) -> Iterator[Answer]:
    """The same with transformers' `generate`, batch by batch; what a feed has comes into the next one."""
    stop_tokens, padding = _list_stop_tokens(model), model.generation_config.pad_token_id or 0
    asked = dict(enumerate(zip(prompts, limits, strict=True)))
    came = len(asked)
    while True:
        if feed:
            taken = feed.take(size)
            asked |= dict(enumerate(taken, came))
            came += len(taken)
            for index in feed.list_gone():
                asked.pop(index, None)
        if not asked:
            return
        limit, started = next(iter(asked.values()))[1], time.perf_counter()
        indices = [index for index, (_, other) in asked.items() if other == limit][:size]
        batch = [asked.pop(index)[0] for index in indices]
        width = max(map(len, batch))
        ids = torch.tensor(
            [[padding] * (width - len(p)) + list(p) for p in batch], device=model.device
        )
        mask = torch.tensor(
            [[0] * (width - len(p)) + [1] * len(p) for p in batch], device=model.device
        )
        watch = _HookedWatch(hooks, indices, width, stop_tokens) if hooks else _LogprobWatch()
        options = {"max_new_tokens": limit, "logits_processor": LogitsProcessorList([watch])}
        streamer = _Streamer(on_token, indices, stop_tokens) if on_token else None
        found = model.generate(input_ids=ids, attention_mask=mask, streamer=streamer, **options)
        new, logprobs = found[:, width:].tolist(), watch.list_logprobs(width, found.shape[1])
        seconds = time.perf_counter() - started
        for index, row, of_row in zip(indices, new, logprobs, strict=True):
            length = next((i + 1 for i, token in enumerate(row) if token in stop_tokens), len(row))
            yield Answer(index, row[:length], of_row[:length], seconds)


class _LogprobWatch(LogitsProcessor):
    """Keeps the logprob of each token that `generate` takes, which is the likeliest; it changes nothing."""

    def __init__(self) -> None:
        self.by_length: dict[
            int, torch.Tensor
        ] = {}  # a step that is taken back is asked again at the same length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.by_length[input_ids.shape[1]] = scores.log_softmax(-1, dtype=torch.float32).amax(-1)
        return scores

    def list_logprobs(self, start: int, stop: int) -> list[list[float]]:
        """Those of each row's tokens from position `start` to `stop`."""
        return torch.stack(
            [self.by_length[length] for length in range(start, stop)], dim=1
        ).tolist()


class _HookedWatch(_LogprobWatch):
    """Chooses tokens by the hooks, for the rows that have not ended, and leaves `generate` no other to take."""

    def __init__(self, hooks: _Hooks, indices: Sequence[int], width: int, stop_tokens: set[int]):
        super().__init__()
        self.hooks, self.indices, self.width, self.stop_tokens = hooks, indices, width, stop_tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        generated = input_ids[:, self.width :].tolist()
        live = [row for row, ids in enumerate(generated) if self.stop_tokens.isdisjoint(ids)]
        indices, so_far = [self.indices[row] for row in live], [generated[row] for row in live]
        tokens, logprobs = self.hooks.pick(indices, so_far, scores[live])
        self.by_length[input_ids.shape[1]] = scores.new_zeros(len(generated))
        self.by_length[input_ids.shape[1]][live] = logprobs.to(scores.dtype)
        forced = torch.full_like(scores, -torch.inf)
        forced[live, tokens.long()] = 0
        return forced


class _Streamer:
    """Takes tokens from `generate` as they come, and tells those of rows that have not ended."""

    def __init__(self, on_token: OnToken, indices: Sequence[int], ends: set[int]):
        self.on_token, self.indices, self.ends = on_token, indices, ends
        self.live: set[int] | None = None

    def put(self, tokens: torch.Tensor) -> None:
        if self.live is None:  # the prompts come first
            self.live = set(self.indices)
            return
        for index, token in zip(self.indices, tokens.tolist(), strict=True):
            if index in self.live:
                self.on_token(index, token)
                if token in self.ends:
                    self.live.discard(index)

    def end(self) -> None:
        pass
