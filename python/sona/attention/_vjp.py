"""Gradients: one rule per differentiable function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sona.attention._arrays import Array
from sona.attention._errors import ParameterError

__all__ = ["Gradients", "Pullback", "differentiable", "vjp"]

Gradients = dict[str, Array]
Pullback = Callable[..., Gradients]
Rule = Callable[..., tuple[Any, Pullback]]
F = TypeVar("F", bound=Callable[..., Any])

_RULES: dict[Callable[..., Any], Rule] = {}


def differentiable(function: Callable[..., Any]) -> Callable[[Rule], Rule]:
    """Register the decorated function as the rule of `function`: same arguments, returns the result and its pullback."""

    def register(rule: Rule) -> Rule:
        _RULES[function] = rule
        return rule

    return register


def has_vjp(function: Callable[..., Any]) -> bool:
    """Whether `vjp` takes this function."""
    return function in _RULES


def vjp(f: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, Pullback]:
    """Result of a call, and a function that carries a gradient back through it.

    Parameters
    ----------
    f : callable
        A differentiable function of this module.
    *args, **kwargs
        Its arguments.

    Returns
    -------
    result
        What ``f(*args, **kwargs)`` returns.
    pullback : callable
        ``pullback(dout)`` maps ∂L/∂result to a dict with ∂L/∂argument for every floating-point array argument, under the
        argument's name. For a NamedTuple result ``dout`` belongs to its first field.

    Raises
    ------
    ParameterError
        The function has no derivative.

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import scaled_dot_product_attention, vjp
    >>> x = np.eye(3)
    >>> out, pullback = vjp(scaled_dot_product_attention, x, x, x)
    >>> sorted(pullback(np.ones_like(out)))
    ['k', 'q', 'v']
    """
    try:
        rule = _RULES[f]
    except (KeyError, TypeError) as error:
        known = ", ".join(sorted(g.__name__ for g in _RULES))
        raise ParameterError(f"{getattr(f, '__name__', f)!r} has no derivative; differentiable are {known}") from error
    return rule(*args, **kwargs)
