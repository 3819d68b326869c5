"""Task prompts of an embedding model: what stands before a text, by the name of the task.

The bundle's `tokenizer/prompts.json` holds them; FORMAT.md says what a host does with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .bundle import Bundle
from .codec import REMEDY, format_json, parse_json, refuse, show
from .errors import UsageError, argument

PROMPTS = "tokenizer/prompts.json"
MAX_PROMPTS_BYTES = 2**20
MAX_PROMPTS = 1000
MAX_NAME = 200
"""Characters in the name of a task."""
NAMES_LISTED = 20
"""In an error."""

_TASK, _CHAT = argument("task"), argument("messages", "--chat")


@dataclass(frozen=True)
class TaskPrompts:
    """The prompts, and which of them a text gets that names no task."""

    prompts: Mapping[str, str] = field(default_factory=dict)
    """Text by task; an empty text changes nothing."""
    default: str | None = None
    """A task, or None: no prompt."""

    def text(self, task: str | None, where: str) -> str:
        """What stands before a text of `task`, by default of the default task.

        Raises:
            UsageError: no such task; lists those there are.
        """
        name = self.default if task is None else task
        if name is None:
            return ""
        if name not in self.prompts:
            raise UsageError(
                f"{_TASK}: expected a task of {where} ({_listed(self.prompts)}), got {name!r}; "
                f"pass one of them, or leave {_TASK} out"
            )
        return self.prompts[name]


def refuse_chat(before: str) -> None:
    """Raise UsageError where something stands before a text that is to be a turn of a chat."""
    if before:
        raise UsageError(
            f"{argument('embed')} with {_CHAT}: the model puts {before!r} before a text, which a "
            f"turn of a conversation has no place for: leave {_CHAT} out"
        )


def _listed(names: Mapping[str, str]) -> str:
    choices = ", ".join(sorted(names)[:NAMES_LISTED]) or "none"
    more = len(names) - NAMES_LISTED
    return f"{choices}, and {more} more" if more > 0 else choices


def format_prompts(prompts: TaskPrompts) -> bytes:
    """Content of `tokenizer/prompts.json`."""
    value = {"prompts": dict(prompts.prompts), "default": prompts.default}
    return format_json(value).encode()


def parse_prompts(data: bytes, where: str) -> TaskPrompts:
    """The prompts in the content of a prompts file; `where` names it in errors.

    Raises:
        ArtifactError: it is larger than MAX_PROMPTS_BYTES, or not as FORMAT.md says.
    """
    if len(data) > MAX_PROMPTS_BYTES:
        refuse(where, "", f"at most {MAX_PROMPTS_BYTES} bytes", str(len(data)))
    return check_prompts(parse_json(data, where), where, REMEDY)


def check_prompts(value: object, where: str, remedy: str) -> TaskPrompts:
    """The JSON value {"prompts": {...}, "default": name or null}; refuses anything else."""
    if not isinstance(value, dict) or value.keys() != {"prompts", "default"}:
        refuse(where, "", "an object with the fields prompts and default alone", show(value),
               remedy)  # fmt: skip
    prompts, default = value["prompts"], value["default"]
    if not isinstance(prompts, dict) or not 1 <= len(prompts) <= MAX_PROMPTS:
        refuse(where, "prompts", f"an object of 1 to {MAX_PROMPTS} texts", show(prompts), remedy)
    for name, text in prompts.items():
        if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
            refuse(where, "prompts", f"names of 1 to {MAX_NAME} printable characters",
                   show(name), remedy)  # fmt: skip
        if not isinstance(text, str) or not _is_unicode(text):
            refuse(where, f"prompts.{name}", "a string", show(text), remedy)
    if default is not None and (not isinstance(default, str) or default not in prompts):
        refuse(where, "default", f"null or one of {_listed(prompts)}", show(default),
               remedy)  # fmt: skip
    result = TaskPrompts(dict(prompts), default)
    if len(format_prompts(result)) > MAX_PROMPTS_BYTES:
        refuse(where, "prompts", f"at most {MAX_PROMPTS_BYTES} bytes", "more", remedy)
    return result


def _is_unicode(text: str) -> bool:
    """False for half of a surrogate pair, which JSON may spell and no file can hold."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def bundle_prompts(bundle: Bundle) -> TaskPrompts:
    """The task prompts of a bundle; without any where it has no such file.

    Raises:
        ArtifactError: the file is damaged.
    """
    where = str(bundle.root / PROMPTS)
    sizes = {record.path: record.bytes for record in bundle.manifest.files}
    if PROMPTS not in sizes:
        return TaskPrompts()
    if sizes[PROMPTS] > MAX_PROMPTS_BYTES:  # before it is read
        refuse(where, "", f"at most {MAX_PROMPTS_BYTES} bytes", str(sizes[PROMPTS]))
    return parse_prompts(bundle.read(PROMPTS), where)
