"""Greedy decoding of many prompts at once: the tokens of transformers' `generate`, sooner.

It knows token ids, a model and nothing else: no text, no rows, no memory that runs out (that is
local_model.py's). Four things make it fast: a prefix that all prompts share is prefilled once;
prompts are prefilled with little or no padding; a prompt that has ended leaves its slot to the next
one; and keys and values stay where they were written, read by all the queries of a group, in steps
that a GPU replays as one CUDA graph. Rounding differs from `generate`, so ties between logits may
break the other way; benchmarks/results/throughput.md counts how often.

Three prompts in two slots, on a CPU, with max_new_tokens=3. All begin with A B; `.` is the end
token; `->` is where a token is chosen from logits. `lengths` and `last` are what the device knows
of the two slots afterwards:

    call       slot 0             slot 1              lengths  last   who joins, who leaves
    __init__   A B                A B                 2 2             A B copied to slot 1
    join       A B c      -> x    A B d e    -> .     3 4      x .    0 and 1 join, 1 leaves
    join                          A B f      -> u     3 3      x u    2 joins in slot 1
    step       A B c x    -> y    A B f u    -> v     4 4      y v
    step       A B c x y  -> .    A B f u v  -> w     5 5      . w    0 and 2 leave

A prompt leaves with its end token (1 and 0) or when its answer is as long as allowed (2). `join`
prefills what the prompts that join have beyond the shared prefix; `step` feeds each slot's last
token and gives it the next one. The answers, in the order in which they are yielded:

    Answer(1, [.])    Answer(0, [x, y, .])    Answer(2, [u, v, w])

The last one was cut off: its third token is no end token. The likeliest token is chosen unless
hooks say otherwise. With hooks a GPU's graph ends at the logits; without them choosing is part of
the graph.

A server's prompts come from a feed: they join while others are in flight, in slots that are added
as they are needed, and leave when nobody waits for their answers. One that does not begin with the
shared prefix is prefilled from its first token.
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

from swaplib.models.in_flight import InFlight

ATTENTION = "grouped_sdpa"
# By device type. READ_AT_ONCE: the most tokens that one prefill pass takes; a CPU is as fast with
# one prompt, which needs no padding. JOIN_AT: the part of the slots that must be free before
# prompts join; on a GPU a prefill pass costs as much as many steps. JOIN_WITHIN: or the most steps
# that a feed's prompt waits although a slot is free.
READ_AT_ONCE = {"cpu": 1, "cuda": 16384}
JOIN_AT = {"cpu": 1 / 8, "cuda": 1 / 2}
JOIN_WITHIN = {"cpu": 0, "cuda": 16}

_NOT_CAPTURED: weakref.WeakSet[Any] = weakref.WeakSet()  # models that no CUDA graph could take

OnToken = Callable[[int, int], None]
# Both hooks are called with the indices of the prompts whose next token is chosen, the tokens that
# each has so far (read only) and their logits, [prompts, vocabulary]. The first returns logits of
# the same shape, the second token ids, [prompts].
LogitsHook = Callable[[Sequence[int], Sequence[Sequence[int]], torch.Tensor], torch.Tensor]
Sampler = Callable[[Sequence[int], Sequence[Sequence[int]], torch.Tensor], torch.Tensor]


class Feed(Protocol):
    """Prompts that come while others are in flight.

    Both methods are called before every step, in the thread that decodes.
    """

    def take(self, most: int) -> Sequence[tuple[Sequence[int], int]]:
        """At most so many further prompts, each with its max_new_tokens; their indices count on."""

    def list_gone(self) -> Collection[int]:
        """The indices of prompts whose answers nobody waits for any more; they end without one."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was decoded of one prompt, the `index`-th of those asked.

    `ids` are its new tokens, the end token last if it came; `logprobs` holds the natural log of
    each one's probability. `seconds` is its wall time, while other prompts share the batch.
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
    """SDPA that does not repeat keys and values for one new token: a group's heads share a query.

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
    """Give a model this module's attention, if it can take it; else decode uses `generate`."""
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
        model: A causal language model, as prepare left it, perhaps with an adapter; its generation
            config names the end tokens.
        prompts: Token ids of each prompt, at least one.
        max_new_tokens: The longest answer in tokens; one number for all, or one for each.
        slots: The most prompts in flight; memory grows with it.
        on_token: Called with a prompt's index and its next token's id, end token included.
        logits_hook: Changes logits before a token is chosen, to forbid some of them, say.
        sampler: Chooses tokens from the logits in place of the likeliest. An answer's logprobs are
            those of the chosen tokens, by the logits that the sampler was given.
        feed: Further prompts, as they come; decoding ends when no prompt is left and it has none.

    Yields:
        The answer of each prompt, as it ends.
    """
    hooks = _Hooks(logits_hook, sampler) if logits_hook or sampler else None
    if isinstance(max_new_tokens, int):
        max_new_tokens = [max_new_tokens] * len(prompts)
    uses_slots = model.config._attn_implementation == ATTENTION
    run = _decode_in_slots if uses_slots else _decode_with_library
    yield from run(model, prompts, list(max_new_tokens), slots, on_token, hooks, feed)


@dataclass(frozen=True)
class _Hooks:
    """How a caller wants tokens to be chosen."""

    logits_hook: LogitsHook | None
    sampler: Sampler | None

    def pick(
        self, indices: Sequence[int], generated: Sequence[Sequence[int]], logits: torch.Tensor
    ) -> torch.Tensor:
        """Choose the next tokens by the hooks, and return what _pick does, [2, prompts].

        Args:
            indices: The prompts whose next tokens are chosen.
            generated: The new tokens that each of them has so far.
            logits: [prompts, vocabulary].
        """
        if self.logits_hook:
            logits = self.logits_hook(indices, generated, logits)
        return _pick(logits, self.sampler(indices, generated, logits) if self.sampler else None)


def _decode_in_slots(
    model: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: list[int],
    n_slots: int,
    on_token: OnToken | None,
    hooks: _Hooks | None,
    feed: Feed | None,
) -> Iterator[Answer]:
    """What decode does with a model that has this module's attention."""
    stop_tokens = _list_stop_tokens(model)
    joined_at: float | None = time.perf_counter()  # of the first, who wait for the shared prefix
    slots = _Slots(model, prompts, max_new_tokens, min(n_slots, len(prompts)), hooks)
    flight = InFlight(deque(range(len(prompts))))
    steps_waited = 0  # while prompts waited although a slot was free
    while True:
        if feed:
            _follow(feed, slots, flight, n_slots)
        if not len(flight):
            return
        free = slots.find_free()
        if flight.waiting and len(free) >= _count_wanted(slots, bool(feed), steps_waited):
            indices = flight.start(len(free), joined_at or time.perf_counter())
            joined_at, steps_waited = None, 0
            chosen = slots.join(free[: len(indices)], indices)
        else:
            chosen = slots.step()
            steps_waited += bool(flight.waiting and free)
        for index, token, logprob in chosen:
            flight.logprobs[index].append(logprob)
            if on_token:
                on_token(index, token)
            is_full = len(flight.logprobs[index]) == slots.max_new_tokens[index]
            if token in stop_tokens or is_full:
                ids = slots.leave(index)
                yield Answer(index, ids, *flight.end(index))
        if not flight.waiting:
            slots.compact()


def _count_wanted(slots: "_Slots", has_feed: bool, steps_waited: int) -> int:
    """How many slots must be free before prompts join."""
    device = slots.device.type
    if has_feed and steps_waited >= JOIN_WITHIN[device]:
        return 1
    return max(1, int(JOIN_AT[device] * len(slots.indices)))


def _follow(feed: Feed, slots: "_Slots", flight: InFlight, n_slots: int) -> None:
    """Let prompts go that nobody waits for, queue those that have come, and make room for them.

    Slots are at least doubled, so that this is rare: a graph must be captured again.
    """
    for index in feed.list_gone():
        if flight.drop(index):
            slots.leave(index)
        else:
            slots.forget(index)
    for prompt, max_new_tokens in feed.take(n_slots - len(flight)):
        flight.waiting.append(slots.add(prompt, max_new_tokens))
    missing = min(len(flight), n_slots) - len(slots.indices)
    if missing > 0:
        slots.expand(min(max(missing, len(slots.indices)), n_slots - len(slots.indices)))


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
        [2, rows], float64, which holds both exactly: one tensor, so that the host waits for the
        device once.
    """
    tokens = logits.argmax(-1, keepdim=True) if tokens is None else tokens[:, None].long()
    logprobs = logits.log_softmax(-1, dtype=torch.float32).gather(-1, tokens)
    return torch.stack((tokens[:, 0].double(), logprobs[:, 0].double()))


class _Layer(CacheLayerMixin):
    """One layer's `keys` and `values`, [slots, heads, columns, head size].

    A prompt's token i is in column i of its slot. Both tensors are made at the first write.
    """

    keys: torch.Tensor
    values: torch.Tensor
    is_compileable = is_sliding = False

    def __init__(self, slots: "_Slots"):
        super().__init__()
        self.slots = slots

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate for all slots, with the heads, head size and type of the states."""
        self.keys = self._allocate(key_states)
        self.values = self._allocate(value_states)
        self.is_initialized = True

    def _allocate(self, like: torch.Tensor) -> torch.Tensor:
        """Zeros for all slots and columns, otherwise as `like`, [any, heads, any, head size]."""
        _, heads, _, size = like.shape
        return like.new_zeros(len(self.slots.indices), heads, self.slots.width, size)

    def resize(self) -> None:
        """Take on the number of slots and columns, no fewer than before; the new ones are 0."""
        keys, values = self.keys, self.values
        n, _, columns, _ = keys.shape
        self.keys = self._allocate(keys)
        self.keys[:n, :, :columns] = keys
        self.values = self._allocate(values)
        self.values[:n, :, :columns] = values

    def copy_columns(self, source: int, targets: slice, n: int) -> None:
        """Copy the first n columns of one slot to others."""
        self.keys[targets, :, :n] = self.keys[source, :, :n]
        self.values[targets, :, :n] = self.values[source, :, :n]

    def keep(self, slots: list[int]) -> None:
        """Drop all slots but these."""
        self.keys, self.values = self.keys[slots], self.values[slots]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new tokens' columns, and return what the rows in question have so far.

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
        rows, columns, seen = self.slots.rows, self.slots.columns, self.slots.seen
        self.keys[rows, :, columns] = key_states.transpose(1, 2)
        self.values[rows, :, columns] = value_states.transpose(1, 2)
        if len(rows) == len(self.keys):
            return self.keys[:, :, :seen], self.values[:, :, :seen]
        return self.keys[rows[:, 0], :, :seen], self.values[rows[:, 0], :, :seen]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what a mask would cover; every call brings a mask of its own."""
        return self.slots.seen, 0

    def get_seq_length(self) -> int:
        """Columns in use, those being written included; every call brings its own positions."""
        return self.slots.seen

    def get_max_length(self) -> int:
        """Columns that there are."""
        return self.slots.width


class _Slots(Cache):
    """The prompts in flight: keys and values (`kv`, one for each layer), and each slot's state.

    On the host: `indices`, [slots], the prompt in each slot, None where it is free; `has_shared`,
    [slots], whether a slot's first columns hold the shared prefix; `generated`, the new tokens of
    each prompt in flight, by its index.

    On the device: `lengths`, int64 [slots], how many columns a slot has filled; `last`, float64 [2,
    slots], its last token, which no column holds yet, and that token's logprob, as _pick returns
    them; `logits`, [slots, vocabulary], of a step with hooks.

    For the layers, set by each call of the model: `rows`, int64 [rows, 1], the slots that are
    written; `columns`, int64, [1, new tokens] in a prefill and [rows, 1] in a step, where; `seen`,
    how many columns attention looks at.
    """

    rows: torch.Tensor
    columns: torch.Tensor
    seen: int
    logits: torch.Tensor

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: list[int],
        n: int,
        hooks: _Hooks | None = None,
    ):
        # Layers hold these slots weakly: without a cycle, keys and values are free at once when
        # decoding ends.
        weak_self = weakref.proxy(self)
        n_layers = model.config.get_text_config().num_hidden_layers
        self.kv = [_Layer(weak_self) for _ in range(n_layers)]
        super().__init__(layers=[*self.kv])
        self.model = model
        self.device: torch.device = model.device
        self.hooks = hooks
        self.prompts = list(prompts)
        self.max_new_tokens = max_new_tokens
        self.width = max(map(sum, zip(map(len, prompts), max_new_tokens, strict=True)))
        self.indices: list[int | None] = [None] * n
        self.has_shared = [True] * n
        self.generated: dict[int, list[int]] = {}
        self.last = torch.zeros(2, n, dtype=torch.float64, device=self.device)
        self.replay: Callable[[], None] | None = None  # the captured step
        self.shared = _count_shared(prompts)
        self.prefix = list(prompts[0][: self.shared])
        if self.shared:
            self._read([0], [self.prefix], 0)
            for layer in self.kv:
                layer.copy_columns(0, slice(1, None), self.shared)
        # A free slot is stepped like the others, and must not write over the shared prefix.
        self.lengths = torch.full((n,), self.shared, device=self.device)

    def add(self, prompt: Sequence[int], max_new_tokens: int) -> int:
        """Accept a further prompt; returns its index."""
        self.prompts.append(prompt)
        self.max_new_tokens.append(max_new_tokens)
        return len(self.prompts) - 1

    def find_free(self) -> list[int]:
        """The slots without a prompt, in order."""
        return [slot for slot, index in enumerate(self.indices) if index is None]

    def _list_occupied(self) -> list[tuple[int, int]]:
        """The slots with a prompt, in order, each with the prompt's index."""
        return [(slot, index) for slot, index in enumerate(self.indices) if index is not None]

    def join(self, slots: list[int], indices: list[int]) -> list[tuple[int, int, float]]:
        """Prefill prompts in free slots; returns each one's index, first token and its logprob."""
        self._widen(max(len(self.prompts[i]) + self.max_new_tokens[i] for i in indices))
        self.generated |= {i: [] for i in indices}
        pairs = list(zip(slots, indices, strict=True))
        by_start: dict[int, list[tuple[int, int]]] = {}
        for slot, index in pairs:
            start = self._prepare_start(slot, self.prompts[index])
            by_start.setdefault(start, []).append((slot, index))
        for start, of_start in by_start.items():
            self._read_all(of_start, start)
        lengths = [len(self.prompts[i]) for i in indices]
        self.lengths[slots] = torch.tensor(lengths, device=self.device)
        for slot, index in pairs:
            self.indices[slot] = index
            self.has_shared[slot] = self._begins_alike(self.prompts[index])
        return self._take(pairs)

    def _read_all(self, pairs: list[tuple[int, int]], start: int) -> None:
        """Prefill the prompts (slot, index) from column `start` on, in as few passes as may be.

        A pass takes READ_AT_ONCE tokens and 32 prompts at most: _read makes n times n rows of
        logits.
        """
        while pairs:
            longest = max(len(self.prompts[index]) for _, index in pairs) - start
            n = max(1, min(READ_AT_ONCE[self.device.type] // longest, 32))
            slots = [slot for slot, _ in pairs[:n]]
            indices = [index for _, index in pairs[:n]]
            logits = self._read(slots, [self.prompts[i] for i in indices], start)
            self.last[:, slots] = self._choose(indices, logits)
            pairs = pairs[n:]

    def _prepare_start(self, slot: int, prompt: Sequence[int]) -> int:
        """The column from which a prompt must be prefilled in a slot.

        Behind the shared prefix, which is in the slot or copied there, where the prompt begins with
        it and a slot still holds it; else 0.
        """
        if not self.shared or not self._begins_alike(prompt):
            self.has_shared[slot] = False
            return 0
        if not self.has_shared[slot]:
            if True not in self.has_shared:
                return 0
            donor = self.has_shared.index(True)
            for layer in self.kv:
                layer.copy_columns(donor, slice(slot, slot + 1), self.shared)
            self.has_shared[slot] = True
        return self.shared

    def _begins_alike(self, prompt: Sequence[int]) -> bool:
        """Whether a prompt begins with the shared prefix, and a token of it is left to be read."""
        return len(prompt) > self.shared and list(prompt[: self.shared]) == self.prefix

    def expand(self, n: int) -> None:
        """Add n free slots; the shared prefix is copied there when a prompt needs it."""
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
        """Give the layers the present number of slots and columns; the step is captured again."""
        self.replay = None
        for layer in self.kv:
            if layer.is_initialized:
                layer.resize()

    def step(self) -> list[tuple[int, int, float]]:
        """Decode one token for every slot; returns each prompt's index, token and its logprob."""
        if self.device.type == "cuda":
            if self.replay is None:
                self.replay = self._capture()
            self.replay()
        else:
            self._step(int(self.lengths.max()) + 1)
        pairs = self._list_occupied()
        if self.hooks:
            slots = [slot for slot, _ in pairs]
            self.last[:, slots] = self._choose([index for _, index in pairs], self.logits[slots])
        return self._take(pairs)

    def leave(self, index: int) -> list[int]:
        """Free a prompt's slot, whose columns are overwritten later; returns its new tokens."""
        self.indices[self.indices.index(index)] = None
        self.forget(index)
        return self.generated.pop(index)

    def forget(self, index: int) -> None:
        """Let go of a prompt's tokens."""
        self.prompts[index] = ()

    def _choose(self, indices: list[int], logits: torch.Tensor) -> torch.Tensor:
        """What _pick returns for these prompts, by the hooks where there are some.

        Args:
            indices: The prompts.
            logits: [prompts, vocabulary].

        Returns:
            [2, prompts], float64.
        """
        if self.hooks is None:
            return _pick(logits)
        return self.hooks.pick(indices, [self.generated[i] for i in indices], logits)

    def _take(self, pairs: list[tuple[int, int]]) -> list[tuple[int, int, float]]:
        """Bring the last tokens of the prompts (slot, index) to the host, into `generated`."""
        tokens, logprobs = self.last.tolist()
        for slot, index in pairs:
            self.generated[index].append(int(tokens[slot]))
        return [(index, int(tokens[slot]), logprobs[slot]) for slot, index in pairs]

    def _read(self, slots: list[int], prompts: Sequence[Sequence[int]], start: int) -> torch.Tensor:
        """Prefill prompts from column `start` on, in one pass; returns each one's next logits.

        Padding is on the right, where nothing that counts can see it. So each prompt's last token
        is in another column, and the model, asked for the logits at n positions, returns those of
        all n prompts at each: [n, n, vocabulary].

        Returns:
            [n, vocabulary]: each prompt's logits at its own last token, that block's diagonal.
        """
        suffixes = [list(prompt[start:]) for prompt in prompts]
        longest = max(map(len, suffixes))
        padded = [suffix + [0] * (longest - len(suffix)) for suffix in suffixes]
        ids = torch.tensor(padded, device=self.device)
        self.rows = torch.tensor(slots, device=self.device)[:, None]
        self.seen = start + longest
        self.columns = torch.arange(start, self.seen, device=self.device)[None]
        positions = self.columns.expand(len(slots), -1)
        mask = torch.arange(self.seen, device=self.device) <= self.columns[0][:, None]
        last = torch.tensor([len(suffix) - 1 for suffix in suffixes], device=self.device)
        logits = self._call(ids, positions, mask.expand(len(slots), 1, -1, -1), last)
        return logits.diagonal().T

    def _step(self, seen: int) -> None:
        """The part of a step that a GPU replays: every slot's last token goes in.

        Free slots' too, so that shapes never change. With hooks it leaves the next tokens' logits
        in `logits`, else the chosen tokens in `last`.

        Args:
            seen: How many columns attention looks at, at least those of the longest slot and the
                one that is written. A CPU takes no more than it needs; a graph has one number for
                good, the whole width.
        """
        self.rows = torch.arange(len(self.indices), device=self.device)[:, None]
        self.seen = seen
        self.columns = self.lengths[:, None]
        mask = torch.arange(seen, device=self.device) <= self.columns
        ids = self.last[0, :, None].long()
        logits = self._call(ids, self.columns, mask[:, None, None], 1)[:, -1]
        if self.hooks:
            self.logits = logits
        else:
            self.last.copy_(_pick(logits))
        self.lengths.add_(1).clamp_(max=self.width - 1)  # free slots may reach the last column

    def _call(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor,
        keep: int | torch.Tensor,
    ) -> torch.Tensor:
        """Run the model over new tokens, whose keys and values go to `rows` and `columns`.

        Args:
            ids: [rows, new tokens], int64.
            positions: [rows, new tokens], int64: each token's place in its prompt, and its column.
            mask: [rows, 1, new tokens, seen], bool: True where a token may look.
            keep: At which of the new tokens logits are wanted: the last so many, or their places,
                int64 [kept].

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
        """The step as a CUDA graph, which saves the launch of each kernel.

        A model that cannot be captured is stepped kernel by kernel, which is said in one line.
        """
        weak_self = weakref.proxy(self)  # a captured step must not keep keys and values alive

        def step() -> None:
            """One step over the whole width."""
            weak_self._step(weak_self.width)

        if self.model in _NOT_CAPTURED:
            return step
        stream = torch.cuda.current_stream()
        lengths, last = self.lengths.clone(), self.last.clone()
        graph = torch.cuda.CUDAGraph()
        side = torch.cuda.Stream()
        side.wait_stream(stream)
        with torch.cuda.stream(side):
            step()  # kernels and workspaces are made ready outside the capture
        stream.wait_stream(side)
        replay: Callable[[], None] = graph.replay
        try:
            with torch.cuda.graph(graph):
                step()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            why = str(error).splitlines()[0]
            tqdm.write(f"no CUDA graph of this model ({why}): its steps are launched one by one")
            torch.cuda.set_stream(stream)  # a failed capture leaves its own behind
            _NOT_CAPTURED.add(self.model)
            replay = step
        self.lengths.copy_(lengths)
        self.last.copy_(last)
        return replay

    def compact(self) -> None:
        """Drop free slots, where that saves work: a graph has its shapes for good."""
        kept = [slot for slot, _ in self._list_occupied()]
        if self.device.type == "cuda" or len(kept) == len(self.indices):
            return
        self.indices = [self.indices[slot] for slot in kept]
        self.has_shared = [self.has_shared[slot] for slot in kept]
        self.lengths = self.lengths[kept]
        self.last = self.last[:, kept]
        for layer in self.kv:
            layer.keep(kept)


def _count_shared(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with; 0 for a single prompt.

    One token of each is left to be read, since its logits are needed.
    """
    if len(prompts) == 1:
        return 0
    alike = takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False))
    return min(sum(1 for _ in alike), min(map(len, prompts)) - 1)


def _decode_with_library(
    model: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: list[int],
    size: int,
    on_token: OnToken | None,
    hooks: _Hooks | None,
    feed: Feed | None,
) -> Iterator[Answer]:
    """The same with transformers' `generate`, batch by batch; what a feed has joins the next one.

    A batch takes waiting prompts of one max_new_tokens, that of the longest waiting.
    """
    waiting = dict(enumerate(zip(prompts, max_new_tokens, strict=True)))
    n_known = len(waiting)
    while True:
        if feed:
            taken = feed.take(size)
            waiting |= dict(enumerate(taken, n_known))
            n_known += len(taken)
            for index in feed.list_gone():
                waiting.pop(index, None)
        if not waiting:
            return
        most = next(iter(waiting.values()))[1]
        indices = [index for index, (_, other) in waiting.items() if other == most][:size]
        batch = {index: waiting.pop(index)[0] for index in indices}
        yield from _decode_batch(model, batch, most, on_token, hooks)


def _decode_batch(
    model: Any,
    batch: dict[int, Sequence[int]],
    max_new_tokens: int,
    on_token: OnToken | None,
    hooks: _Hooks | None,
) -> Iterator[Answer]:
    """Decode prompts, by index, with one call of `generate`, whose `seconds` each one has."""
    started_at = time.perf_counter()
    stop_tokens = _list_stop_tokens(model)
    padding = model.generation_config.pad_token_id or 0
    indices = list(batch)
    width = max(map(len, batch.values()))
    gaps = [width - len(prompt) for prompt in batch.values()]  # padding is on the left
    padded = [[padding] * n + list(p) for n, p in zip(gaps, batch.values(), strict=True)]
    mask = [[0] * n + [1] * (width - n) for n in gaps]
    watch = _HookedWatch(hooks, indices, width, stop_tokens) if hooks else _LogprobWatch()
    output = model.generate(
        input_ids=torch.tensor(padded, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        streamer=_Streamer(on_token, indices, stop_tokens) if on_token else None,
        max_new_tokens=max_new_tokens,
        logits_processor=LogitsProcessorList([watch]),
    )
    generated = output[:, width:].tolist()
    logprobs = watch.list_logprobs(width, output.shape[1])
    seconds = time.perf_counter() - started_at
    for index, ids, of_ids in zip(indices, generated, logprobs, strict=True):
        length = next((i + 1 for i, token in enumerate(ids) if token in stop_tokens), len(ids))
        yield Answer(index, ids[:length], of_ids[:length], seconds)


class _LogprobWatch(LogitsProcessor):
    """Keeps the logprob of each token that `generate` takes, the likeliest; it changes nothing."""

    def __init__(self) -> None:
        # A step that `generate` takes back is asked again at the same length.
        self.by_length: dict[int, torch.Tensor] = {}

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Keep the logprobs, [rows], by the length that the rows have so far.

        Args:
            input_ids: [rows, length], the padded prompts and what was generated.
            scores: [rows, vocabulary], the logits of the next token; returned as they are.
        """
        self.by_length[input_ids.shape[1]] = scores.log_softmax(-1, dtype=torch.float32).amax(-1)
        return scores

    def list_logprobs(self, start: int, stop: int) -> list[list[float]]:
        """Those of each row's tokens from position `start` to `stop`."""
        steps = [self.by_length[length] for length in range(start, stop)]
        return torch.stack(steps, dim=1).tolist()


class _HookedWatch(_LogprobWatch):
    """Chooses the tokens of rows that have not ended by the hooks; `generate` may take no other."""

    def __init__(self, hooks: _Hooks, indices: Sequence[int], width: int, stop_tokens: set[int]):
        super().__init__()
        self.hooks = hooks
        self.indices = indices
        self.width = width
        self.stop_tokens = stop_tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores of the same shape, -inf for all tokens but the chosen ones; see _LogprobWatch."""
        generated = input_ids[:, self.width :].tolist()
        live = [row for row, ids in enumerate(generated) if self.stop_tokens.isdisjoint(ids)]
        indices = [self.indices[row] for row in live]
        tokens, logprobs = self.hooks.pick(indices, [generated[row] for row in live], scores[live])
        of_rows = scores.new_zeros(len(generated))
        of_rows[live] = logprobs.to(scores.dtype)
        self.by_length[input_ids.shape[1]] = of_rows
        forced = torch.full_like(scores, -torch.inf)
        forced[live, tokens.long()] = 0
        return forced


class _Streamer:
    """Takes tokens from `generate` as they come, and reports those of rows that have not ended."""

    def __init__(self, on_token: OnToken, indices: Sequence[int], stop_tokens: set[int]):
        self.on_token = on_token
        self.indices = indices
        self.stop_tokens = stop_tokens
        self.live: set[int] | None = None  # None until `generate` has sent the prompts

    def put(self, tokens: torch.Tensor) -> None:
        """Take the prompts, [rows, width], at the first call, then each step's tokens, [rows]."""
        if self.live is None:
            self.live = set(self.indices)
            return
        for index, token in zip(self.indices, tokens.tolist(), strict=True):
            if index in self.live:
                self.on_token(index, token)
                if token in self.stop_tokens:
                    self.live.discard(index)

    def end(self) -> None:
        """Called by `generate` at its end."""
