"""Greedy decoding of many prompts at once: the tokens of transformers' `generate`, sooner.

Four things make it fast: what all prompts begin with is read once; prompts are read with little or no padding; a row that
has ended leaves its slot to the next row; and keys and values stay where they were written, read by all the queries of a
group, in steps that a GPU replays as one CUDA graph. Rounding differs from `generate`, so ties between logits may break
otherwise; benchmarks/results/throughput.md counts how often.
"""

import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Any

import torch
from tqdm import tqdm
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "grouped_sdpa"
# By device: how many tokens one pass over prompts may read (a CPU is as fast with one prompt, and pads nothing), and which
# part of the slots must be free before prompts are read (on a GPU a pass costs as much as many steps).
READ_AT_ONCE = {"cpu": 1, "cuda": 16384}
JOIN_AT = {"cpu": 1 / 8, "cuda": 1 / 2}

_NOT_CAPTURED: weakref.WeakSet[Any] = weakref.WeakSet()  # models that no CUDA graph could take

OnToken = Callable[[int, int], None]


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """SDPA that, for one new token, reads keys and values as they are: the heads of a group become rows of one query."""
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
    model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, slots: int, on_token: OnToken | None = None
) -> Iterator[tuple[int, list[int], float]]:
    """Decode prompts greedily, up to `slots` at once, in their order.

    Args:
        model: A causal language model, as prepare left it, perhaps with an adapter; its generation config names end tokens.
        prompts: Token ids of each prompt, at least one.
        max_new_tokens: The limit of each answer, in tokens.
        slots: How many prompts are in work at once; memory grows with it.
        on_token: Called with a prompt's index and its next token's id, end token included.

    Yields:
        As each prompt ends: its index, its new tokens' ids (the end token last, if it came), and its wall time in seconds.
    """
    if model.config._attn_implementation != ATTENTION:
        yield from _decode_with_library(model, prompts, max_new_tokens, slots, on_token)
        return
    ends, waiting, start = _end_tokens(model), deque(range(len(prompts))), time.perf_counter()
    work = _Slots(model, prompts, max_new_tokens, min(slots, len(prompts)))
    told: dict[int, list[int]] = {}  # by index, what has been decoded of the prompts in work
    began: dict[int, float] = {}
    while waiting or told:
        free = work.find_free()
        if waiting and len(free) >= max(1, int(JOIN_AT[work.device.type] * len(work.indices))):
            joining = [waiting.popleft() for _ in range(min(len(free), len(waiting)))]
            began |= dict.fromkeys(joining, start or time.perf_counter())
            start = 0.0  # only the first have waited for what all prompts share
            told |= {i: [] for i in joining}
            fresh = work.join(free[: len(joining)], joining)
        else:
            fresh = work.step()
        for index, token in fresh:
            told[index].append(token)
            if on_token:
                on_token(index, token)
            if token in ends or len(told[index]) == max_new_tokens:
                work.leave(index)
                yield index, told.pop(index), time.perf_counter() - began.pop(index)
        if not waiting:
            work.compact()


def _end_tokens(model: Any) -> set[int]:
    ends = model.generation_config.eos_token_id
    return {ends} if isinstance(ends, int) else set(ends or ())


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
            setattr(self, name, states.new_zeros(len(self.work.indices), heads, self.work.width, size))
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new tokens' columns, and give back what the rows in question have so far."""
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
    """Prompts in work: keys, values, lengths, last tokens. `indices` names the prompt of each slot, None if it is free."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, n: int):
        place = weakref.proxy(self)  # no cycle: keys and values are free as soon as nobody decodes with them
        super().__init__(layers=[_Layer(place) for _ in range(model.config.get_text_config().num_hidden_layers)])
        self.model, self.prompts, self.device = model, prompts, model.device
        self.width = max(map(len, prompts)) + max_new_tokens
        self.indices: list[int | None] = [None] * n
        self.tokens = torch.zeros(n, dtype=torch.long, device=self.device)
        self.graph: Any = None
        self.shared = 0
        shared = _count_shared(prompts)
        if shared:
            self._read([0], [prompts[0][:shared]])
            for layer in self.layers:
                layer.keys[1:, :, :shared] = layer.keys[:1, :, :shared]
                layer.values[1:, :, :shared] = layer.values[:1, :, :shared]
            self.shared = shared
        # a free slot runs on beside the others, and must not write over what all share
        self.lengths = torch.full((n,), shared, device=self.device)

    def find_free(self) -> list[int]:
        return [slot for slot, index in enumerate(self.indices) if index is None]

    def leave(self, index: int) -> None:
        self.indices[self.indices.index(index)] = None

    def join(self, slots: list[int], indices: list[int]) -> list[tuple[int, int]]:
        """Read prompts into free slots; returns the first token of each."""
        prompts = [self.prompts[i] for i in indices]
        done = 0
        while done < len(slots):
            longest = max(map(len, prompts[done:])) - self.shared
            n = max(1, min(READ_AT_ONCE[self.device.type] // longest, 32))  # _read makes n times n rows of logits
            chunk = slice(done, done + n)
            self.tokens[slots[chunk]] = self._read(slots[chunk], prompts[chunk])
            done = chunk.stop
        self.lengths[slots] = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        for slot, index in zip(slots, indices, strict=True):
            self.indices[slot] = index
        return list(zip(indices, self.tokens[slots].tolist(), strict=True))

    def _read(self, slots: list[int], prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """The next token of each prompt. Padding is on the right, where nothing that counts can see it."""
        suffixes = [list(prompt[self.shared :]) for prompt in prompts]
        longest = max(map(len, suffixes))
        ids = torch.tensor([suffix + [0] * (longest - len(suffix)) for suffix in suffixes], device=self.device)
        self.rows, self.seen = torch.tensor(slots, device=self.device)[:, None], self.shared + longest
        self.columns = torch.arange(self.shared, self.seen, device=self.device)[None]
        mask = torch.arange(self.seen, device=self.device) <= self.columns[0][:, None]
        last = torch.tensor([len(suffix) - 1 for suffix in suffixes], device=self.device)
        logits = self._call(ids, self.columns.expand(len(slots), -1), mask.expand(len(slots), 1, -1, -1), last)
        return logits.argmax(-1).diagonal()

    def step(self) -> list[tuple[int, int]]:
        """Decode one token more for every slot; returns those of the prompts in work."""
        if self.device.type == "cuda":
            if self.graph is None:
                self.graph = self._capture()
            self.graph()
        else:
            self._step(int(self.lengths.max()) + 1)
        tokens = self.tokens.tolist()
        return [(index, token) for index, token in zip(self.indices, tokens, strict=True) if index is not None]

    def _step(self, seen: int) -> None:
        self.rows, self.seen = torch.arange(len(self.indices), device=self.device)[:, None], seen
        self.columns = self.lengths[:, None]
        mask = torch.arange(seen, device=self.device) <= self.columns
        logits = self._call(self.tokens[:, None], self.columns, mask[:, None, None], 1)
        self.tokens.copy_(logits[:, -1].argmax(-1))
        self.lengths.add_(1).clamp_(max=self.width - 1)  # a free slot runs on beside the others

    def _call(self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, keep: Any) -> torch.Tensor:
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
        place, stream = (
            weakref.proxy(self),
            torch.cuda.current_stream(),
        )  # what is kept of the step must not keep these slots

        def step() -> None:
            place._step(place.width)

        if self.model in _NOT_CAPTURED:
            return step
        lengths, tokens, graph = self.lengths.clone(), self.tokens.clone(), torch.cuda.CUDAGraph()
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
            tqdm.write(f"no CUDA graph of this model ({str(error).splitlines()[0]}): its steps are launched one by one")
            torch.cuda.set_stream(stream)  # a failed capture leaves its own behind
            _NOT_CAPTURED.add(self.model)
            replay = step
        self.lengths.copy_(lengths)
        self.tokens.copy_(tokens)
        return replay

    def compact(self) -> None:
        """Drop free slots, where that saves work: a graph has its shapes for good."""
        kept = [slot for slot, index in enumerate(self.indices) if index is not None]
        if self.device.type == "cuda" or len(kept) == len(self.indices):
            return
        self.indices = [self.indices[slot] for slot in kept]
        self.lengths, self.tokens = self.lengths[kept], self.tokens[kept]
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[kept], layer.values[kept]


def _count_shared(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with; one token of each is left to be read, and a single prompt shares nothing."""
    if len(prompts) == 1:
        return 0
    alike = takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False))
    return min(sum(1 for _ in alike), min(map(len, prompts)) - 1)


def _decode_with_library(
    model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, size: int, on_token: OnToken | None
) -> Iterator[tuple[int, list[int], float]]:
    """The same with transformers' `generate`, batch by batch."""
    ends, padding = _end_tokens(model), model.generation_config.pad_token_id or 0
    for start in range(0, len(prompts), size):
        batch, began = prompts[start : start + size], time.perf_counter()
        width = max(map(len, batch))
        ids = torch.tensor([[padding] * (width - len(p)) + list(p) for p in batch], device=model.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch], device=model.device)
        streamer = _Streamer(on_token, range(start, start + len(batch)), ends) if on_token else None
        found = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, streamer=streamer)
        seconds = time.perf_counter() - began
        for index, row in enumerate(found[:, width:].tolist(), start):
            yield index, row[: next((i + 1 for i, token in enumerate(row) if token in ends), len(row))], seconds


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
