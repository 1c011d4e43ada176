"""Parameters of the commands that run something, made from the table of options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from inspect import Parameter
from typing import Any, TypeVar

import typer

from supervisor.lifecycle.options import Kind, Option, Use, used_for

F = TypeVar("F", bound=Callable[..., Any])


def takes_options(use: Use, *, unset: str = "") -> Callable[[F], F]:
    """Give a command the options of the table that are good for ``use``.

    The command takes them as ``**given``: texts, lists of texts and flags, as they were typed
    (:func:`supervisor.lifecycle.options.from_command_line` reads them). Typer makes its
    parameters from a function's signature, so that is what is replaced.

    Parameters
    ----------
    use : Use
        Which options.
    unset : str
        What ``--help`` says of an option that is not given, in place of its default.
    """

    def give(command: F) -> F:
        own = inspect.signature(command, eval_str=True).parameters.values()
        table = [_parameter(option, unset) for option in used_for(use)]
        ordered = [item for item in own if item.kind is Parameter.POSITIONAL_OR_KEYWORD]
        ordered += table
        ordered += [item for item in own if item.kind is Parameter.KEYWORD_ONLY]
        vars(command)["__signature__"] = inspect.Signature(ordered)
        command.__annotations__ = {item.name: item.annotation for item in ordered}
        return command

    return give


def _parameter(option: Option, unset: str) -> Parameter:
    flag = option.kind is Kind.FLAG
    annotation: object = str | None
    if flag:
        annotation = bool
    elif option.kind is Kind.TABLE:
        annotation = list[str] | None
    info = typer.Option(
        False if flag else None,
        option.flag,
        help=option.help,
        metavar=option.metavar or None,
        show_default=False if flag else unset or _default(option) or False,
        rich_help_panel=option.group.value,
    )
    return Parameter(option.name, Parameter.KEYWORD_ONLY, default=info, annotation=annotation)


def _default(option: Option) -> str:
    default = option.default
    return option.shown or (f"{default:g}" if isinstance(default, float) else str(default or ""))
