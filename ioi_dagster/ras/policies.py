"""Which policies are in force where, as each domain states by a signed record: bundles by scope and revision."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from ioi_dagster.decoding import converted
from ioi_dagster.errors import BadInputError
from ioi_dagster.ras.record import Record
from ioi_dagster.ras.urn import Kind


@dataclass(frozen=True, slots=True)
class BundleSpec:
    """The `spec` of a policy's record. `revision` is the digest of the bundle, `scopes` those for which it has rules that count
    in this domain, from the network down."""

    revision: str
    scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bundle:
    """What `domain` decides by. `record`: digest of the record that says so."""

    domain: str
    name: str
    record: str
    spec: BundleSpec


def bundle_of(record: Record) -> Bundle:
    """Raises `BadInputError`."""
    where = f"{record.urn} {record.version}"
    if record.kind is not Kind.POLICY:
        raise BadInputError(f"it is a {record.kind}", where=where, todo="name a policy")
    try:
        spec = converted({name: its for name, its in record.spec.items() if name in _FIELDS}, BundleSpec)
    except msgspec.ValidationError as error:
        raise BadInputError(f"no bundle: {error}", where=where, todo="its owner states it anew") from error
    return Bundle(record.domain, record.name, record.digest, spec)


_FIELDS = frozenset(BundleSpec.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class PolicyView:
    """Of the records that are in force (the version of each name that a registry gives). What is no bundle is left out, and
    named in `unreadable`. It says what owners state, and not that their gates keep to it: a decision names the revision that it
    was made by, and that is to be one of these."""

    bundles: tuple[Bundle, ...]
    unreadable: tuple[str, ...] = ()

    def of(self, domain: str) -> tuple[Bundle, ...]:
        return tuple(one for one in self.bundles if one.domain == domain)

    def scopes(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """Scope → revision → the domains in which that counts there; all in order of name."""
        found: dict[str, dict[str, set[str]]] = {}
        for one in self.bundles:
            for scope in one.spec.scopes:
                found.setdefault(scope, {}).setdefault(one.spec.revision, set()).add(one.domain)
        return {
            scope: {revision: tuple(sorted(its)) for revision, its in sorted(revisions.items())}
            for scope, revisions in sorted(found.items())
        }

    def differing(self) -> tuple[str, ...]:
        """Scopes that several domains share and do not have in one revision: somebody has not taken a change yet."""
        return tuple(scope for scope, revisions in self.scopes().items() if len(revisions) > 1)


def policy_view(records: Iterable[Record]) -> PolicyView:
    bundles, unreadable = [], []
    for record in records:
        if record.kind is Kind.POLICY:
            try:
                bundles.append(bundle_of(record))
            except BadInputError:
                unreadable.append(f"{record.urn} {record.version}")
    return PolicyView(tuple(sorted(bundles, key=lambda one: (one.domain, one.name))), tuple(sorted(unreadable)))
