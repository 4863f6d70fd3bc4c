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
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from tqdm import tqdm
from transformers import AttentionInterface, AttentionMaskInterface, LogitsProcessor, LogitsProcessorList
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
) -> Iterator[Answer]:
    """Decode prompts greedily, up to `slots` at once, in their order.

    Args:
        model: A causal language model, as prepare left it, perhaps with an adapter; its generation config names end tokens.
        prompts: Token ids of each prompt, at least one.
        max_new_tokens: The limit of each answer, in tokens.
        slots: How many prompts are in work at once; memory grows with it.
        on_token: Called with a prompt's index and its next token's id, end token included.

    Yields:
        The answer of each prompt, as it ends.
    """
    if model.config._attn_implementation != ATTENTION:
        yield from _decode_with_library(model, prompts, max_new_tokens, slots, on_token)
        return
    ends, waiting, start = _end_tokens(model), deque(range(len(prompts))), time.perf_counter()
    work = _Slots(model, prompts, max_new_tokens, min(slots, len(prompts)))
    told: dict[int, list[tuple[int, float]]] = {}  # by index, tokens and logprobs of the prompts in work
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
        for index, token, logprob in fresh:
            told[index].append((token, logprob))
            if on_token:
                on_token(index, token)
            if token in ends or len(told[index]) == max_new_tokens:
                work.leave(index)
                ids, logprobs = map(list, zip(*told.pop(index), strict=True))
                yield Answer(index, ids, logprobs, time.perf_counter() - began.pop(index))
        if not waiting:
            work.compact()


def _end_tokens(model: Any) -> set[int]:
    ends = model.generation_config.eos_token_id
    return {ends} if isinstance(ends, int) else set(ends or ())


def _pick(logits: torch.Tensor) -> torch.Tensor:
    """The likeliest token of each row and the natural log of its probability.

    Args:
        logits: [rows, vocabulary], of any floating type; the logs are float32 arithmetic.

    Returns:
        [2, rows], float64, which holds both as they are: one tensor, so that the host waits for the device once.
    """
    tokens = logits.argmax(-1, keepdim=True)
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
    """Prompts in work: keys, values, lengths; `last`, the last token of each slot and its logprob, as _pick gives them.

    `indices` names the prompt of each slot, None if it is free.
    """

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, n: int):
        place = weakref.proxy(self)  # no cycle: keys and values are free as soon as nobody decodes with them
        super().__init__(layers=[_Layer(place) for _ in range(model.config.get_text_config().num_hidden_layers)])
        self.model, self.prompts, self.device = model, prompts, model.device
        self.width = max(map(len, prompts)) + max_new_tokens
        self.indices: list[int | None] = [None] * n
        self.last = torch.zeros(2, n, dtype=torch.float64, device=self.device)
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

    def join(self, slots: list[int], indices: list[int]) -> list[tuple[int, int, float]]:
        """Read prompts into free slots; returns of each its index, its first token and that token's logprob."""
        prompts = [self.prompts[i] for i in indices]
        done = 0
        while done < len(slots):
            longest = max(map(len, prompts[done:])) - self.shared
            n = max(1, min(READ_AT_ONCE[self.device.type] // longest, 32))  # _read makes n times n rows of logits
            chunk = slice(done, done + n)
            self.last[:, slots[chunk]] = self._read(slots[chunk], prompts[chunk])
            done = chunk.stop
        self.lengths[slots] = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        for slot, index in zip(slots, indices, strict=True):
            self.indices[slot] = index
        tokens, logprobs = self.last[:, slots].tolist()
        return list(zip(indices, map(int, tokens), logprobs, strict=True))

    def _read(self, slots: list[int], prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """What _pick says of each prompt's next token. Padding is on the right, where nothing that counts can see it."""
        suffixes = [list(prompt[self.shared :]) for prompt in prompts]
        longest = max(map(len, suffixes))
        ids = torch.tensor([suffix + [0] * (longest - len(suffix)) for suffix in suffixes], device=self.device)
        self.rows, self.seen = torch.tensor(slots, device=self.device)[:, None], self.shared + longest
        self.columns = torch.arange(self.shared, self.seen, device=self.device)[None]
        mask = torch.arange(self.seen, device=self.device) <= self.columns[0][:, None]
        last = torch.tensor([len(suffix) - 1 for suffix in suffixes], device=self.device)
        logits = self._call(ids, self.columns.expand(len(slots), -1), mask.expand(len(slots), 1, -1, -1), last)
        return _pick(logits.diagonal().T)  # of each prompt's row the column that is its own

    def step(self) -> list[tuple[int, int, float]]:
        """Decode one token more for every slot; returns of each prompt in work its index, the token and its logprob."""
        if self.device.type == "cuda":
            if self.graph is None:
                self.graph = self._capture()
            self.graph()
        else:
            self._step(int(self.lengths.max()) + 1)
        tokens, logprobs = self.last.tolist()
        told = zip(self.indices, tokens, logprobs, strict=True)
        return [(index, int(token), logprob) for index, token, logprob in told if index is not None]

    def _step(self, seen: int) -> None:
        self.rows, self.seen = torch.arange(len(self.indices), device=self.device)[:, None], seen
        self.columns = self.lengths[:, None]
        mask = torch.arange(seen, device=self.device) <= self.columns
        logits = self._call(self.last[0, :, None].long(), self.columns, mask[:, None, None], 1)
        self.last.copy_(_pick(logits[:, -1]))
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
            tqdm.write(f"no CUDA graph of this model ({str(error).splitlines()[0]}): its steps are launched one by one")
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
    model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, size: int, on_token: OnToken | None
) -> Iterator[Answer]:
    """The same with transformers' `generate`, batch by batch."""
    ends, padding = _end_tokens(model), model.generation_config.pad_token_id or 0
    for start in range(0, len(prompts), size):
        batch, began = prompts[start : start + size], time.perf_counter()
        width = max(map(len, batch))
        ids = torch.tensor([[padding] * (width - len(p)) + list(p) for p in batch], device=model.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch], device=model.device)
        watch = _LogprobWatch()
        options = {"max_new_tokens": max_new_tokens, "logits_processor": LogitsProcessorList([watch])}
        streamer = _Streamer(on_token, range(start, start + len(batch)), ends) if on_token else None
        found = model.generate(input_ids=ids, attention_mask=mask, streamer=streamer, **options)
        new, logprobs = found[:, width:].tolist(), watch.list_logprobs(width, found.shape[1])
        seconds = time.perf_counter() - began
        for index, row, of_row in zip(range(start, start + len(batch)), new, logprobs, strict=True):
            length = next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
            yield Answer(index, row[:length], of_row[:length], seconds)


class _LogprobWatch(LogitsProcessor):
    """Keeps the logprob of each token that `generate` takes, which is the likeliest; it changes nothing."""

    def __init__(self) -> None:
        self.by_length: dict[int, torch.Tensor] = {}  # a step that is taken back is asked again at the same length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.by_length[input_ids.shape[1]] = scores.log_softmax(-1, dtype=torch.float32).amax(-1)
        return scores

    def list_logprobs(self, start: int, stop: int) -> list[list[float]]:
        """Those of each row's tokens from position `start` to `stop`."""
        return torch.stack([self.by_length[length] for length in range(start, stop)], dim=1).tolist()


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
