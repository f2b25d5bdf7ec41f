# ruff: noqa: ARG001, D103  (what each gets wrong stands in its decorator; a stub's arguments are given)
"""Chat templates."""

import re

from wrong_answers import wrong

START, END = "<|im_start|>", "<|im_end|>"


def _with_default(messages, default_system):
    if messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": default_system}, *messages]


def _rendered(messages, default_system, add_generation_prompt):
    text = "".join(f"{START}{m['role']}\n{m['content']}{END}\n" for m in _with_default(messages, default_system))
    return text + f"{START}assistant\n" * add_generation_prompt


def _right(messages, encode, special, add_generation_prompt):
    ids = []
    for message in messages:
        ids += [special[START], *encode(f"{message['role']}\n{message['content']}"), special[END], *encode("\n")]
    return ids + [special[START], *encode("assistant\n")] * add_generation_prompt


@wrong("05.chat_prompt", "markers-as-text", "Renders the text, and encodes it with its markers.")
def as_text(messages, encode, special, default_system, add_generation_prompt):
    return encode(_rendered(messages, default_system, add_generation_prompt))


@wrong(
    "05.chat_prompt",
    "injection",
    "Renders the text, and looks for markers in all of it, as a tokenizer does by default.",
)
def parsed(messages, encode, special, default_system, add_generation_prompt):
    ids = []
    whole = _rendered(messages, default_system, add_generation_prompt)
    for piece in re.split(r"(<\|im_start\|>|<\|im_end\|>)", whole):
        ids += [special[piece]] if piece in special else encode(piece)
    return ids


@wrong("05.chat_prompt", "encoded-apart", "Encodes role, newline and content one by one.")
def apart(messages, encode, special, default_system, add_generation_prompt):
    ids = []
    for message in _with_default(messages, default_system):
        ids += [special[START], *encode(message["role"]), *encode("\n"), *encode(message["content"])]
        ids += [special[END], *encode("\n")]
    if add_generation_prompt:
        ids += [special[START], *encode("assistant"), *encode("\n")]
    return ids


@wrong("05.chat_prompt", "strips-the-text", "Strips the contents, as some models' templates do.")
def strips(messages, encode, special, default_system, add_generation_prompt):
    stripped = [{**message, "content": message["content"].strip()} for message in messages]
    return _right(_with_default(stripped, default_system), encode, special, add_generation_prompt)


@wrong("05.chat_prompt", "no-newline-after-the-role", "Puts the content right behind the role.")
def no_newline(messages, encode, special, default_system, add_generation_prompt):
    ids = []
    for message in _with_default(messages, default_system):
        ids += [special[START], *encode(message["role"] + message["content"]), special[END], *encode("\n")]
    return ids + [special[START], *encode("assistant")] * add_generation_prompt


@wrong("05.chat_prompt", "no-newline-after-the-end", "Begins the next message right behind the last one's end.")
def no_last_newline(messages, encode, special, default_system, add_generation_prompt):
    ids = []
    for message in _with_default(messages, default_system):
        ids += [special[START], *encode(f"{message['role']}\n{message['content']}"), special[END]]
    return ids + [special[START], *encode("assistant\n")] * add_generation_prompt


@wrong("05.chat_prompt", "prompts-always", "Adds the generation prompt unasked.")
def prompts_always(messages, encode, special, default_system, add_generation_prompt):
    return _right(_with_default(messages, default_system), encode, special, True)


@wrong("05.chat_prompt", "answers-for-the-model", "Closes the assistant's message.")
def closes(messages, encode, special, default_system, add_generation_prompt):
    ids = _right(_with_default(messages, default_system), encode, special, add_generation_prompt)
    return ids + [special[END], *encode("\n")] * add_generation_prompt


@wrong("05.chat_prompt", "no-default", "Has no default for the system message.")
def no_default(messages, encode, special, default_system, add_generation_prompt):
    return _right(messages, encode, special, add_generation_prompt)


@wrong("05.chat_prompt", "empty-is-none", "Takes an empty system message for a missing one.")
def empty_is_none(messages, encode, special, default_system, add_generation_prompt):
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    if not system:
        messages = [{"role": "system", "content": default_system}, *messages]
    return _right(messages, encode, special, add_generation_prompt)


@wrong("05.chat_prompt", "system-anywhere", "Looks for a system message anywhere.")
def anywhere(messages, encode, special, default_system, add_generation_prompt):
    if not any(message["role"] == "system" for message in messages):
        messages = [{"role": "system", "content": default_system}, *messages]
    return _right(messages, encode, special, add_generation_prompt)


@wrong("05.chat_prompt", "changes-the-messages", "Puts the default into the caller's list.")
def inserts(messages, encode, special, default_system, add_generation_prompt):
    if messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": default_system})
    return _right(messages, encode, special, add_generation_prompt)
