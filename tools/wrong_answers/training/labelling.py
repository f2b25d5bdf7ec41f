# ruff: noqa: D103  (what each gets wrong stands in its decorator)
"""Labels of a conversation."""

import torch

from wrong_answers import wrong


def _filled(rows, value):
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])


def _ids(conversations, pad_id):
    return _filled([[token for _, *parts in one for part in parts for token in part] for one in conversations], pad_id)


def _in_place(conversations, label=lambda role, _header, content, _last: content if role == "assistant" else None):
    """Return labels that stand where their tokens stand. `label` gives a turn's: its content's, or all of its tokens'."""
    rows = []
    for one in conversations:
        row = []
        for number, (role, header, content) in enumerate(one):
            found = label(role, header, content, number == len(one) - 1) or []
            row += [-100] * (len(header) + len(content) - len(found)) + found
        rows.append(row)
    return rows


def _shifted(rows, by=1):
    return [row[by:] + [-100] * by for row in rows]


@wrong("06.sft_labels", "not-shifted", "Lets each position predict itself.")
def not_shifted(conversations, pad_id):
    return _ids(conversations, pad_id), _filled(_in_place(conversations), -100)


@wrong("06.sft_labels", "shifted-twice", "Shifts once while building, and once at the end.")
def twice(conversations, pad_id):
    return _ids(conversations, pad_id), _filled(_shifted(_in_place(conversations), 2), -100)


@wrong("06.sft_labels", "shifted-back", "Shifts the labels to the right.")
def back(conversations, pad_id):
    labels = _filled(_in_place(conversations), -100)
    return _ids(conversations, pad_id), torch.nn.functional.pad(labels, (1, 0), value=-100)[:, :-1]


@wrong("06.sft_labels", "learns-everything", "Learns every token of the conversation.")
def everything(conversations, pad_id):
    rows = _in_place(conversations, lambda _role, header, content, _last: header + content)
    return _ids(conversations, pad_id), _filled(_shifted(rows), -100)


@wrong("06.sft_labels", "learns-the-user", "Learns what the user says.")
def the_user(conversations, pad_id):
    rows = _in_place(conversations, lambda role, _header, content, _last: content if role == "user" else None)
    return _ids(conversations, pad_id), _filled(_shifted(rows), -100)


@wrong("06.sft_labels", "learns-the-header", "Learns the header of the assistant's turns, too.")
def the_header(conversations, pad_id):
    rows = _in_place(conversations, lambda role, header, content, _: header + content if role == "assistant" else None)
    return _ids(conversations, pad_id), _filled(_shifted(rows), -100)


@wrong("06.sft_labels", "last-answer-only", "Learns the last answer only.")
def last_only(conversations, pad_id):
    rows = _in_place(conversations, lambda role, _, content, last: content if role == "assistant" and last else None)
    return _ids(conversations, pad_id), _filled(_shifted(rows), -100)


@wrong("06.sft_labels", "never-ends", "Leaves out the token that ends the turn.")
def never_ends(conversations, pad_id):
    label = lambda role, _header, content, _last: [*content[:-1], -100] if role == "assistant" else None  # noqa: E731
    return _ids(conversations, pad_id), _filled(_shifted(_in_place(conversations, label)), -100)


@wrong("06.sft_labels", "masked-by-value", "Masks padding by its id, and with it the end of each turn.")
def by_value(conversations, pad_id):
    labels = _filled(_shifted(_in_place(conversations)), -100)
    return _ids(conversations, pad_id), labels.masked_fill(labels == pad_id, -100)


@wrong("06.sft_labels", "learns-padding", "Pads the labels like the ids.")
def padding(conversations, pad_id):
    labels = _filled(_in_place(conversations), pad_id)
    return _ids(conversations, pad_id), torch.nn.functional.pad(labels, (0, 1), value=-100)[:, 1:]


@wrong("06.sft_labels", "other-ids", "Pads at the front, as for generation.")
def left(conversations, pad_id):
    ids, rows = _ids(conversations, pad_id), _shifted(_in_place(conversations))
    lengths = [len(row) for row in rows]
    longest = max(lengths)
    turned = [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]
    return (
        torch.tensor([[pad_id] * (longest - len(row)) + row for row in turned]),
        torch.tensor([[-100] * (longest - len(row)) + row for row in rows]),
    )
