"""The run's federation: registries, policy and fleets, as the flow driver needs them. And the one-cluster stand-in."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dagster import MetadataValue

from ioi_dagster.adapters.dask.memory import bytes_of
from ioi_dagster.adapters.dask.node_plugin import CLUSTER
from ioi_dagster.adapters.http.registries import FederatedRegistry
from ioi_dagster.clock import Clock, SystemClock
from ioi_dagster.domain import DomainHome, home_domain
from ioi_dagster.errors import BadInputError, FinalError, RetryableError
from ioi_dagster.governors.flow_messages import Place
from ioi_dagster.host.alone_fleets import RUNNER, AddressFleet, EmbeddedFleet
from ioi_dagster.host.federated_fleets import DaskFleet, InvokeFleet
from ioi_dagster.host.fleets import Fleet
from ioi_dagster.host.governance import Checked, Credentials, check_permit, started_by, trigger_of
from ioi_dagster.host.partial import Partials
from ioi_dagster.host.private import DagsterRun
from ioi_dagster.host.work import Found
from ioi_dagster.local.gate import open_gate
from ioi_dagster.model.amounts import counted
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import OWN_STEP, Lease
from ioi_dagster.model.permit import StepPermit
from ioi_dagster.model.placement import Link
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.standing import MAX_STANDINGS, Experience, Experiences, Standing
from ioi_dagster.model.story import Chapter
from ioi_dagster.model.topology import DomainSpec
from ioi_dagster.policy.documents import placement_document, step_document
from ioi_dagster.policy.permits import issue
from ioi_dagster.ras.selection import Candidate, Discovery, Query
from ioi_dagster.signing import Signed, digest_bytes

FOUND_FOR_S = 1.0


def open_network(
    run: DagsterRun, workers: int | None, address: str | None, memory_limit: str | None = None
) -> FederatedNetwork | AloneNetwork | Refusal:
    """Gate 3: where a policy root is configured, a run without a good permit gets no network at all."""
    home = home_domain()
    if home is None and os.environ.get("IOI_HOME"):
        return Refusal(
            "permit.no_domain",
            "IOI_HOME names a policy root, but IOI_DOMAIN does not say whose run this is",
            "gate 3",
            "set IOI_DOMAIN, or unset IOI_HOME to run alone",
        )
    if home is None:
        return AloneNetwork(address) if address else EmbeddedNetwork(workers or os.cpu_count() or 2, memory_limit)
    checked = check_permit(home, run)
    return checked if isinstance(checked, Refusal) else FederatedNetwork(home, checked)


class FederatedNetwork:
    """Implements `flow_driver.Network` over the gateways of all domains."""

    immediate = False
    shares_storage = False
    outlives_run_process = True

    def __init__(self, home: DomainHome, checked: Checked, clock: Clock | None = None) -> None:
        self.home = home.name
        self._home, self._checked = home, checked
        self._credentials = Credentials(home.own_key(), checked)
        self._config = home.config()
        self.links = self._config.links
        self._authority = self._config.spec.authority
        self._gate = open_gate(home)
        self._clock = clock or SystemClock()
        self._registry = FederatedRegistry(
            home, self._config, self._credentials.key, self._credentials.permit, self._clock
        )
        self._fleets: dict[str, Fleet] = {}
        self._partials = Partials()
        self._lock = threading.Lock()
        self._connecting: dict[str, threading.Lock] = {}
        self._found: dict[tuple[str, DataClass], tuple[float, Discovery]] = {}
        self._refreshing: set[tuple[str, DataClass]] = set()
        self._refresher = ThreadPoolExecutor(1, thread_name_prefix="places")
        self._run = checked.permit.run
        self._begins_with = self._registry.client(self.home).standing(Experiences(self._run))
        self._standing: tuple[Standing, ...] | None = None

    def find(self, capability: str, data_class: DataClass, domains: tuple[str, ...], typed: bool) -> Found:
        discovery = self._discover(capability, data_class)
        places = []
        rejected = [(item.who, item.refusal) for item in discovery.rejected]
        for candidate in discovery.candidates:
            refusal = self._refused(candidate, capability, data_class, domains, typed) or self._reach(candidate)
            if refusal is not None:
                rejected.append((candidate.cluster, refusal))
                continue
            places.append(Place(candidate.cluster, candidate.domain, slots=candidate.slots))
        may_change = any(item.may_change(domains) for item in discovery.rejected)
        return Found(tuple(places), tuple(rejected), may_change)

    def names(self) -> set[str]:
        clusters = [cluster for spec in (self._config.spec, *self._beside()) for cluster in spec.clusters]
        return {*self._fleets, *(name for one in clusters for name in (one.name, *one.members()))}

    def _beside(self) -> list[DomainSpec]:
        """Other domains of the same home, as far as they can be read: what is wrong with one is no matter of this one's runs."""
        found: list[DomainSpec] = []
        folder = self._home.root.parent
        for root in _folders(folder) if folder.name == "domains" else ():
            if root != self._home.root:
                with contextlib.suppress(BadInputError):
                    found.append(DomainHome(root).config().spec)
        return found

    def standing(self) -> tuple[Standing, ...]:
        """As it was when the run began."""
        if self._standing is None:
            try:
                self._standing = self._begins_with.result()
            except (RetryableError, FinalError):
                # The run finds out for itself.
                self._standing = ()
        return self._standing

    def experienced(self, seen: tuple[Experience, ...]) -> None:
        with contextlib.suppress(RetryableError, FinalError):
            self._registry.client(self.home).standing(Experiences(self._run, seen[:MAX_STANDINGS])).result()

    def fleet(self, cluster: str) -> Fleet:
        return self._fleets[cluster]

    def fleets(self) -> list[Fleet]:
        return list(self._fleets.values())

    def step_permit(self, lease: Lease, data_class: DataClass, sent: bytes) -> Signed:
        permit = StepPermit.of(
            lease,
            issuer=self.home,
            data_class=data_class,
            payload=digest_bytes(sent),
            nonce=uuid.uuid4().hex,
            # By the clock of who is to take it.
            now=self._clock.wall() + self._registry.client(lease.domain).ahead_s,
        )
        return issue(self._credentials.key(), permit)

    def issued_anew(self) -> list[str]:
        return self._credentials.issued_anew()

    def opening(self, run: DagsterRun) -> tuple[Chapter, str]:
        """The run process's first word in the story. Who started the run was told at gate 1."""
        decisions = ", ".join(self._checked.permit.decision_ids)
        text = f"gate 3: the permit of decision {decisions} is for this run and still good"
        return Chapter.POLICY, f"{text}; {self._checked.anew}" if self._checked.anew else text

    def banner(self) -> str:
        return f"Governed by {self.home}: {counted(len(self._config.authorities), 'domain')}, gate 3 passed"

    def metadata(self, run: DagsterRun) -> dict[str, Any]:
        permit = self._checked.permit
        return {
            "ioi/trigger": MetadataValue.text(started_by(run)),
            "ioi/permit": MetadataValue.text(f"{self._checked.signed.key_id} {permit.nonce}"),
            "ioi/decision": MetadataValue.text(", ".join(permit.decision_ids)),
            "ioi/policy_revision": MetadataValue.text(permit.revision),
            "ioi/highest": MetadataValue.text(str(permit.highest)),
            "ioi/domains": MetadataValue.text(", ".join(permit.domains)),
        }

    def close(self) -> None:
        for fleet in self.fleets():
            fleet.close()
        self._refresher.shutdown(wait=False, cancel_futures=True)
        self._registry.close()

    def _discover(self, capability: str, data_class: DataClass) -> Discovery:
        """Cached for a second: many steps ask the same. Who asks again and again is not kept waiting when it is over: it is asked
        anew before that."""
        key, now = (capability, data_class), self._clock.monotonic()
        with self._lock:
            until, known = self._found.get(key, (0.0, None))
            anew = known is not None and now < until < now + FOUND_FOR_S / 2 and key not in self._refreshing
            if anew:
                self._refreshing.add(key)
        if anew:
            self._refresher.submit(self._refresh, key)
        return known if known is not None and until > now else self._discovered(key)

    def _discovered(self, key: tuple[str, DataClass]) -> Discovery:
        discovery = self._registry.discover(Query(*key, self.home, self._authority))
        with self._lock:
            # From now on, however long it took.
            self._found[key] = (self._clock.monotonic() + FOUND_FOR_S, discovery)
        return discovery

    def _refresh(self, key: tuple[str, DataClass]) -> None:
        try:
            self._discovered(key)
        finally:
            with self._lock:
                self._refreshing.discard(key)

    def _refused(
        self, candidate: Candidate, capability: str, data_class: DataClass, domains: tuple[str, ...], typed: bool
    ) -> Refusal | None:
        if domains and candidate.domain not in domains:
            return Refusal("step.place_in", f"the step may run in {', '.join(domains)} only", "the step's own tags")
        if candidate.accepts == "block" and not (typed and capability != OWN_STEP):
            return Refusal("step.not_a_block_call", "it takes block calls with typed data only", candidate.domain)
        permit, now = self._checked.permit, self._clock.wall()
        decisions = (
            self._gate.decide(
                "placement",
                placement_document(
                    now=now,
                    origin=self.home,
                    origin_authority=self._authority,
                    capability=capability,
                    data_class=data_class,
                    domain=candidate.domain,
                    authority=candidate.authority,
                    handles=candidate.handles,
                    region=candidate.region,
                ),
            ),
            self._gate.decide(
                "step",
                step_document(
                    now=now,
                    origin=self.home,
                    capability=capability,
                    data_class=data_class,
                    domain=candidate.domain,
                    highest=permit.highest,
                    domains=permit.domains,
                ),
            ),
        )
        return next((decision.refusals[0] for decision in decisions if not decision.allowed), None)

    def _reach(self, candidate: Candidate) -> Refusal | None:
        """Its cluster has a fleet from now on. Or why not: to this run the name is another domain's, whose leases and permits
        would be taken for its own."""
        with self._lock:
            connecting = self._connecting.setdefault(candidate.cluster, threading.Lock())
        # A scheduler that does not answer is waited for by those alone who want it.
        with connecting:
            fleet = self._fleets.get(candidate.cluster)
            if fleet is None:
                fleet = self._fleets[candidate.cluster] = self._fleet_of(candidate)
        if fleet.domain == candidate.domain:
            return None
        text = f"{candidate.domain} offers {candidate.cluster}, which is a cluster of {fleet.domain} to this run"
        return Refusal("ras.name_taken", text, "registry", "give it another name, or start the run again")

    def _fleet_of(self, candidate: Candidate) -> Fleet:
        client = self._registry.client(candidate.domain)
        if candidate.accepts == "step":
            return DaskFleet(candidate.domain, candidate.cluster, client, candidate.scheduler)
        return InvokeFleet(candidate.domain, candidate.cluster, client, self._partials)


def _folders(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


class AloneNetwork:
    """Alone on the Dask cluster at `address`: no policy root, no permits. The same governors decide."""

    home = CLUSTER
    links: tuple[Link, ...] = ()
    immediate = True
    shares_storage = True
    outlives_run_process = True

    def __init__(self, address: str) -> None:
        self._where = f"the Dask cluster at {address}"
        self._fleet: AddressFleet | EmbeddedFleet = AddressFleet(address, RUNNER)

    def find(self, capability: str, data_class: DataClass, domains: tuple[str, ...], typed: bool) -> Found:
        return Found((Place(self._fleet.cluster, self._fleet.domain),), (), True)

    def fleet(self, cluster: str) -> Fleet:
        return self._fleet

    def fleets(self) -> list[Fleet]:
        return [self._fleet]

    def names(self) -> set[str]:
        return {self._fleet.cluster, *self._fleet.names()}

    def standing(self) -> tuple[Standing, ...]:
        return ()

    def experienced(self, seen: tuple[Experience, ...]) -> None:
        pass

    def step_permit(self, lease: Lease, data_class: DataClass, sent: bytes) -> Signed | None:
        return None

    def issued_anew(self) -> list[str]:
        return []

    def opening(self, run: DagsterRun) -> tuple[Chapter, str]:
        """The run process's first word in the story."""
        return Chapter.TRIGGER, f"started by {trigger_of(run.tags)}"

    def banner(self) -> str:
        return f"Running alone on {self._where}. No policy root is configured (IOI_HOME), so no permits are asked for."

    def metadata(self, run: DagsterRun) -> dict[str, Any]:
        return {"ioi/trigger": MetadataValue.text(trigger_of(run.tags)), "ioi/cluster": MetadataValue.text(self._where)}

    def close(self) -> None:
        self._fleet.close()


class EmbeddedNetwork(AloneNetwork):
    """Alone on a Dask cluster that is started for this run and ends with it."""

    outlives_run_process = False

    def __init__(self, workers: int, memory_limit: str | None = None) -> None:
        limit = bytes_of(memory_limit) if memory_limit else 0
        self._folder = tempfile.TemporaryDirectory(prefix="ioi-dask-")
        self._where = f"{workers} Dask workers started for this run"
        self._fleet = EmbeddedFleet(workers, self._folder.name, limit)

    def close(self) -> None:
        super().close()
        self._folder.cleanup()
