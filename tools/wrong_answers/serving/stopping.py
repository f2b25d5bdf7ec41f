# ruff: noqa: D103  (what each gets wrong stands in its decorator; a stub's arguments are given)
"""Text as it comes."""

import codecs

from wrong_answers import wrong


def _decoder():
    return codecs.getincrementaldecoder("utf-8")(errors="replace")


def _held(text, stop):
    return max((size for one in stop for size in range(1, len(one)) if text.endswith(one[:size])), default=0)


def _cut(text, stop):
    """Return where to cut the text; None where no stop string is in it."""
    ends = [(text.find(one) + len(one), len(one)) for one in stop if one in text]
    return min(ends)[0] - min(ends)[1] if ends else None


def _streamed(tokens, stop, decode, held=_held, cut=_cut, last=lambda: ""):
    text, shown = "", 0
    for token in tokens:
        text += decode(token)
        end = cut(text, stop)
        free = len(text) - held(text, stop) if end is None else end
        if free > shown:
            yield text[shown:free]
            shown = free
        if end is not None:
            return
    if rest := text[shown:] + last():
        yield rest


def _finishing(decoder):
    return lambda: decoder.decode(b"", final=True)


@wrong("05.stop_strings", "half-characters", "Decodes each token on its own.")
def each_alone(tokens, stop):
    yield from _streamed(tokens, stop, lambda token: token.decode("utf-8", errors="replace"))


@wrong("05.stop_strings", "loses-characters", "Decodes each token on its own, and ignores what is no character.")
def ignores(tokens, stop):
    yield from _streamed(tokens, stop, lambda token: token.decode("utf-8", errors="ignore"))


@wrong("05.stop_strings", "end-lost", "Never asks the decoder for what it still holds.")
def end_lost(tokens, stop):
    yield from _streamed(tokens, stop, _decoder().decode)


@wrong("05.stop_strings", "crash", "Decodes strictly, and half a character raises.")
def strict(tokens, stop):
    yield from _streamed(tokens, stop, bytes.decode)


@wrong("05.stop_strings", "stop-within-a-token", "Looks for stop strings in the newest token's text.")
def within_a_token(tokens, stop):
    decoder = _decoder()
    for token in tokens:
        new = decoder.decode(token)
        end = _cut(new, stop)
        if new[:end]:
            yield new[:end]
        if end is not None:
            return
    if rest := decoder.decode(b"", final=True):
        yield rest


@wrong("05.stop_strings", "leaks-the-stop", "Shows all that it has, and looks for stop strings in the text so far.")
def leaks(tokens, stop):
    decoder = _decoder()
    yield from _streamed(tokens, stop, decoder.decode, held=lambda *_: 0, last=_finishing(decoder))


@wrong("05.stop_strings", "keeps-the-stop", "Cuts the text behind the stop string.")
def keeps(tokens, stop):
    def cut(text, stop):
        ends = [text.find(one) + len(one) for one in stop if one in text]
        return min(ends) if ends else None

    decoder = _decoder()
    yield from _streamed(tokens, stop, decoder.decode, cut=cut, last=_finishing(decoder))


@wrong("05.stop_strings", "first-of-the-list", "Takes the first stop string of the list that is in the text.")
def list_order(tokens, stop):
    def cut(text, stop):
        return next((text.find(one) for one in stop if one in text), None)

    decoder = _decoder()
    yield from _streamed(tokens, stop, decoder.decode, cut=cut, last=_finishing(decoder))


@wrong("05.stop_strings", "first-to-begin", "Cuts at the leftmost of the stop strings in the text.")
def leftmost(tokens, stop):
    def cut(text, stop):
        return min((text.find(one) for one in stop if one in text), default=None)

    decoder = _decoder()
    yield from _streamed(tokens, stop, decoder.decode, cut=cut, last=_finishing(decoder))


@wrong("05.stop_strings", "held-back-lost", "Forgets at the end what it held back.")
def forgets(tokens, stop):
    decoder = _decoder()
    text, shown = "", 0
    for token in tokens:
        text += decoder.decode(token)
        end = _cut(text, stop)
        free = len(text) - _held(text, stop) if end is None else end
        if free > shown:
            yield text[shown:free]
            shown = free
        if end is not None:
            return
    if rest := decoder.decode(b"", final=True):
        yield rest


@wrong("05.stop_strings", "goes-on", "Takes in all tokens, and cuts the text then.")
def takes_all(tokens, stop):
    text = b"".join(tokens).decode("utf-8", errors="replace")
    if text[: _cut(text, stop)]:
        yield text[: _cut(text, stop)]


@wrong("05.stop_strings", "waits-for-the-end", "Shows nothing before the end.")
def waits(tokens, stop):
    decoder = _decoder()
    yield from _streamed(tokens, stop, decoder.decode, held=lambda text, _: len(text), last=_finishing(decoder))


@wrong("05.stop_strings", "holds-too-much", "Holds back a fixed number of letters, as vLLM does.")
def fixed(tokens, stop):
    def held(_, stop):
        return max(map(len, stop), default=1) - 1

    decoder = _decoder()
    yield from _streamed(tokens, stop, decoder.decode, held=held, last=_finishing(decoder))


@wrong("05.stop_strings", "empty-texts", "Yields for each token, whether or not there is text.")
def empty(tokens, stop):
    decoder = _decoder()
    text, shown = "", 0
    for token in tokens:
        text += decoder.decode(token)
        end = _cut(text, stop)
        free = max(shown, len(text) - _held(text, stop)) if end is None else end
        yield text[shown:free]
        shown = free
        if end is not None:
            return
    yield text[shown:] + decoder.decode(b"", final=True)
