# ruff: noqa: D103  (what each gets wrong stands in its decorator; a stub's arguments are given)
"""One stream, many readers."""

from wrong_answers import wrong


def _chunks(outputs, key=lambda output, sample: (output.request_id, sample.index)):
    sent, names, ended = {}, {}, set()
    for output in outputs:
        for sample in output.outputs:
            me = key(output, sample)
            new = sample.text[sent.get(me, 0) :]
            if me not in ended and (new or sample.finish_reason):
                yield output.request_id, sample.index, new, sample.finish_reason
            sent[me] = len(sample.text)
            names[me] = output.request_id, sample.index
            if sample.finish_reason:
                ended.add(me)
    for me, (request_id, index) in names.items():
        if me not in ended:
            yield request_id, index, "", "abort"


@wrong("05.streaming", "whole-text-again", "Sends the whole text each time.")
def whole(outputs):
    ended, seen = set(), {}
    for output in outputs:
        for sample in output.outputs:
            key = output.request_id, sample.index
            if key not in ended:
                yield *key, sample.text, sample.finish_reason
            seen[key] = sample.text
            if sample.finish_reason:
                ended.add(key)
    yield from ((*key, "", "abort") for key in seen if key not in ended)


@wrong("05.streaming", "removes-repeats", "Removes the old text wherever it stands.")
def replaces(outputs):
    ended, seen = set(), {}
    for output in outputs:
        for sample in output.outputs:
            key = output.request_id, sample.index
            before = seen.get(key, "")
            new = sample.text.replace(before, "") if before else sample.text
            if key not in ended and (new or sample.finish_reason):
                yield *key, new, sample.finish_reason
            seen[key] = sample.text
            if sample.finish_reason:
                ended.add(key)
    yield from ((*key, "", "abort") for key in seen if key not in ended)


@wrong("05.streaming", "spaces-lost", "Strips each new text.")
def strips(outputs):
    for request_id, index, text, reason in _chunks(outputs):
        if text.strip() or reason:
            yield request_id, index, text.strip(), reason


@wrong("05.streaming", "empty-chunks", "Sends a chunk for each output.")
def empty(outputs):
    ended, sent = set(), {}
    for output in outputs:
        for sample in output.outputs:
            key = output.request_id, sample.index
            if key not in ended:
                yield *key, sample.text[sent.get(key, 0) :], sample.finish_reason
            sent[key] = len(sample.text)
            if sample.finish_reason:
                ended.add(key)
    yield from ((*key, "", "abort") for key in sent if key not in ended)


@wrong("05.streaming", "silent-end", "Sends nothing where nothing is new, not even the end.")
def silent(outputs):
    sent, ended = {}, set()
    for output in outputs:
        for sample in output.outputs:
            key = output.request_id, sample.index
            new = sample.text[sent.get(key, 0) :]
            if new:
                yield *key, new, sample.finish_reason
            sent[key] = len(sample.text)
            if sample.finish_reason:
                ended.add(key)
    yield from ((*key, "", "abort") for key in sent if key not in ended)


@wrong("05.streaming", "waits-for-the-end", "Collects all outputs first.")
def collects(outputs):
    return list(_chunks(list(outputs)))


@wrong("05.streaming", "samples-mixed", "Keeps one text for each request.")
def by_request(outputs):
    return _chunks(outputs, key=lambda output, _: output.request_id)


@wrong("05.streaming", "requests-mixed", "Keeps one text for each index.")
def by_index(outputs):
    return _chunks(outputs, key=lambda _, sample: sample.index)


@wrong("05.streaming", "place-as-index", "Numbers the samples by their place in the output.")
def by_place(outputs):
    sent, ended = {}, set()
    for output in outputs:
        for place, sample in enumerate(output.outputs):
            key = output.request_id, place
            new = sample.text[sent.get(key, 0) :]
            if key not in ended and (new or sample.finish_reason):
                yield *key, new, sample.finish_reason
            sent[key] = len(sample.text)
            if sample.finish_reason:
                ended.add(key)
    yield from ((*key, "", "abort") for key in sent if key not in ended)


@wrong("05.streaming", "waits-for-the-request", "Ends a sample when its request is finished.")
def with_the_request(outputs):
    sent, ended = {}, set()
    for output in outputs:
        for sample in output.outputs:
            key = output.request_id, sample.index
            new, reason = sample.text[sent.get(key, 0) :], sample.finish_reason if output.finished else None
            if key not in ended and (new or reason):
                yield *key, new, reason
            sent[key] = len(sample.text)
            if reason:
                ended.add(key)
    yield from ((*key, "", "abort") for key in sent if key not in ended)


@wrong("05.streaming", "first-sample-only", "Looks at the first sample of an output.")
def first_only(outputs):
    sent, ended = {}, set()
    for output in outputs:
        sample = output.outputs[0]
        key = output.request_id, sample.index
        new = sample.text[sent.get(key, 0) :]
        if key not in ended and (new or sample.finish_reason):
            yield *key, new, sample.finish_reason
        sent[key] = len(sample.text)
        if sample.finish_reason:
            ended.add(key)
    yield from ((*key, "", "abort") for key in sent if key not in ended)


@wrong("05.streaming", "ends-twice", "Ends a sample each time it comes.")
def twice(outputs):
    sent, ended = {}, set()
    for output in outputs:
        for sample in output.outputs:
            key = output.request_id, sample.index
            new = sample.text[sent.get(key, 0) :]
            if new or sample.finish_reason:
                yield *key, new, sample.finish_reason
            sent[key] = len(sample.text)
            if sample.finish_reason:
                ended.add(key)
    yield from ((*key, "", "abort") for key in sent if key not in ended)


@wrong("05.streaming", "left-open", "Ends with the outputs, whoever still waits.")
def left_open(outputs):
    sent, ended = {}, set()
    for output in outputs:
        for sample in output.outputs:
            key = output.request_id, sample.index
            new = sample.text[sent.get(key, 0) :]
            if key not in ended and (new or sample.finish_reason):
                yield *key, new, sample.finish_reason
            sent[key] = len(sample.text)
            if sample.finish_reason:
                ended.add(key)
