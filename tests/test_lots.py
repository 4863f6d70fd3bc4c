from swaplib.models.lots import Callbacks, Lot


class Letters:
    """A checkpoint whose tokens are letters."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


class Feed:
    def __init__(self, *texts: str):
        self.texts = list(texts)
        self.gone: list[int] = []

    def take(self, most):
        taken, self.texts = self.texts[:most], self.texts[most:]
        return [(text, 8) for text in taken]

    def list_gone(self):
        return self.gone

    def refuse(self, index, error):
        raise error


def make_lot(*texts: str) -> tuple[Lot, list[tuple[int, int]]]:
    streamed: list[tuple[int, int]] = []
    callbacks = Callbacks(lambda index, token: streamed.append((index, token)))
    lot = Lot(Letters(), callbacks, feed=Feed(*texts))
    lot.take(len(texts))
    return lot, streamed


def test_nothing_is_kept_of_a_request_whose_client_is_gone():
    lot, streamed = make_lot("ab", "c")
    on_token, _, _ = lot.callbacks.bind(lot.begin())
    on_token(0, 7)
    on_token(1, 9)
    lot.feed.gone = [0]
    assert lot.list_gone() == [0]
    assert streamed == [(0, 7), (1, 9)]
    assert (lot.waiting, lot.encoded, lot.max_new_tokens) == ([1], {1: [ord("c")]}, {1: 8})
    assert dict(lot.callbacks.streamed) == {1: [9]}


def test_what_was_streamed_is_not_streamed_again_by_a_second_attempt():
    lot, streamed = make_lot("ab", "c")
    on_token, _, _ = lot.callbacks.bind(lot.begin())
    on_token(1, 9)
    lot.end(0)
    on_token, _, sampler = lot.callbacks.bind(lot.begin())
    assert sampler is not None, "the tokens that were streamed are taken again"
    on_token(0, 9)
    on_token(0, 5)
    assert streamed == [(1, 9), (1, 5)]
