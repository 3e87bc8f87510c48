"""`run_scoped`: a resource that lives as long as its run on a worker, and not as long as a step."""

from __future__ import annotations

import copy
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ContextDecorator, ExitStack
from typing import Any

from dagster import DagsterInvalidDefinitionError, InitResourceContext, ResourceDefinition

from ioi_dagster.compound.attempt import current_attempt
from ioi_dagster.host.private import (
    ConfigurableResourceFactory,
    PartialResource,
    is_async_resource,
    resource_name,
    with_resource_function,
)

Resource = ResourceDefinition | ConfigurableResourceFactory | PartialResource


class _Shared:
    """The function of a resource that is `run_scoped`; `make` is that of the resource itself."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make
        # Dagster tells it where the resource cannot be made.
        self.__name__ = getattr(make, "__name__", "resource")

    def __call__(self, context: InitResourceContext) -> Any:
        _check_dependencies(context)
        scope, attempt = _scope(), current_attempt()
        if scope is None or attempt is None:
            return _made(self._make, context)
        return self._handed(scope, context, attempt.run_key)

    def _handed(self, scope: Any, context: InitResourceContext, its_run: str) -> Iterator[Any]:
        name = resource_name(context) or f"{id(self):x}"
        config = json.dumps(context.resource_config, sort_keys=True, default=repr)
        with scope.shared(its_run, f"{name} {config}", lambda stack: _set_up(self._make, context, stack)) as value:
            yield value


def run_scoped(resource: Resource) -> ResourceDefinition:
    """The same resource, set up once in each worker process for a run and torn down when the run has ended there.

    For a resource definition (of a function, generator or context manager) or a `ConfigurableResource`. The steps of a run on a
    worker share it, from several threads where the worker has several, and it is torn down in another thread than it was set up
    in. Where steps do not run on workers of `governed_executor` it lives as it would without this.

    Raises `DagsterInvalidDefinitionError` for what is no resource, and for one that is set up asynchronously: its event loop is
    that of one step.
    """
    if not isinstance(resource, Resource):
        raise DagsterInvalidDefinitionError(f"run_scoped takes a resource, and {resource!r} is none")
    definition = resource if isinstance(resource, ResourceDefinition) else resource.get_resource_definition()
    if is_async_resource(definition):
        raise DagsterInvalidDefinitionError(
            f"run_scoped: {resource!r} is set up asynchronously, in the event loop of one step; no other step can use it"
        )
    if is_run_scoped(definition):
        return definition
    return with_resource_function(copy.copy(definition), _Shared(definition.resource_fn))


def is_run_scoped(definition: ResourceDefinition) -> bool:
    return isinstance(definition.resource_fn, _Shared)


def _scope() -> Any:
    """That of the node whose step runs here; None elsewhere. Not imported: under another executor it is not needed."""
    module = sys.modules.get("ioi_dagster.adapters.dask.run_scope")
    return module.scope if module is not None and module.scope.open else None


def _check_dependencies(context: InitResourceContext) -> None:
    """What it is made of has to live as long."""
    for key in sorted(context.resource_def.required_resource_keys):
        needed = (context.all_resource_defs or {}).get(key)
        if needed is not None and not is_run_scoped(needed):
            raise DagsterInvalidDefinitionError(
                f"the resource {resource_name(context)} is run_scoped and needs {key!r}, which lives as long as a step only: make"
                " that run_scoped too"
            )


def _made(make: Callable[..., Any], context: InitResourceContext) -> Any:
    """As Dagster calls it."""
    return make(context) if inspect.signature(make).parameters else make()


def _set_up(make: Callable[..., Any], context: InitResourceContext, stack: ExitStack) -> Any:
    """As Dagster does it where it sets a resource up for a step."""
    made = _made(make, context)
    if isinstance(made, ContextDecorator):
        return stack.enter_context(made)  # pyright: ignore[reportArgumentType]
    if not inspect.isgenerator(made):
        return made
    try:
        value = next(made)
    except StopIteration:
        raise DagsterInvalidDefinitionError(f"the resource {resource_name(context)} must yield one item") from None
    stack.callback(next, made, None)
    return value
