"""`governed_executor`: Dagster decides the order, the flow governor decides where, one process writes what happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any, cast

import msgspec
from dagster import (
    DagsterExecutionInterruptedError,
    DagsterInvalidDefinitionError,
    Executor,
    Field,
    InitExecutorContext,
    MetadataValue,
    StringSource,
    executor,
    multiple_process_executor_requirements,
)

from ioi_dagster.clock import SystemClock
from ioi_dagster.compound.codec import block_payload
from ioi_dagster.errors import FinalError
from ioi_dagster.framing import decode_payload
from ioi_dagster.governors.failures import AT_MOST_ONCE, GANG_LOST, POISON, RULES, USERS_RETRY
from ioi_dagster.governors.flow import FlowGovernor
from ioi_dagster.governors.flow_rounds import PARK_S
from ioi_dagster.host import tags
from ioi_dagster.host.beside import Beside
from ioi_dagster.host.console import Console
from ioi_dagster.host.demand import demand_of, run_demand, tenant_of
from ioi_dagster.host.event_groups import GroupedEventLogStorage, grouped, patient, told_event, waits_for_log
from ioi_dagster.host.exchange import Handle, Located, StepInput, StepWork, handle_from_text
from ioi_dagster.host.flow_driver import FlowDriver
from ioi_dagster.host.foresight import graph_of
from ioi_dagster.host.fusion import Chains
from ioi_dagster.host.gangs import Gangs
from ioi_dagster.host.io_manager import ObjectStore, default_folder, ledger_path
from ioi_dagster.host.map_events import map_event
from ioi_dagster.host.named import Named
from ioi_dagster.host.outage import OutageTeller
from ioi_dagster.host.pieces_event import pieces_event
from ioi_dagster.host.placement_event import placement_event
from ioi_dagster.host.pools import PoolSlots
from ioi_dagster.host.private import (
    ActiveExecution,
    DagsterEvent,
    EngineEventData,
    EventLogEntry,
    ExecutionPlan,
    ExecutionStep,
    FromLoadableAsset,
    InstanceConcurrencyContext,
    KnownExecutionState,
    PlanOrchestrationContext,
    RetryMode,
    SerializableErrorInfo,
    StepDependencyConfig,
    StepFailureData,
    StepOutputHandle,
    deserialize_value,
    events_not_collected,
    get_retries_config,
    get_step_dependency_config_field,
    keep_claims,
    moves_plan,
    serialize_value,
    steps_in_flight,
    steps_that_ended,
    update_plan,
)
from ioi_dagster.host.progress import ProgressTeller
from ioi_dagster.host.run_scoped import is_run_scoped
from ioi_dagster.host.run_story import told_in_story
from ioi_dagster.host.staged import from_reference, is_reference
from ioi_dagster.host.step_state import StepStates
from ioi_dagster.host.upstream import UpstreamAsset, upstream_of
from ioi_dagster.host.work import Outcome, Work
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import OWN_STEP, Ask, Effect
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.start import Streaming
from ioi_dagster.model.story import Chapter

BEGAN = frozenset(
    {POISON, AT_MOST_ONCE, GANG_LOST, *(f"flow.{rule.cause}" for rule in RULES.values() if not rule.again)}
)
"""Why a step failed that had begun: its own events were lost with its process."""

MAX_SOURCES = 64
MAX_WAIT_S = 0.2
"""Interrupts, retries and pools are only seen by looking."""


@executor(
    name="governed",
    requirements=multiple_process_executor_requirements(),
    config_schema={
        "retries": get_retries_config(),
        "max_concurrent": Field(
            int, is_required=False, description="Steps in flight at most; 0, the default: no limit."
        ),
        "tag_concurrency_limits": Field(list, is_required=False, description="As in Dagster's own executors."),
        "step_dependency_config": get_step_dependency_config_field(),
        "objective": Field(str, default_value="balanced", description="fastest, balanced or cheapest"),
        "address": Field(
            StringSource, is_required=False, description="Alone: a Dask scheduler to use, as tcp://host:port."
        ),
        "workers": Field(int, is_required=False, description="Alone: Dask workers to start; default: one per core."),
        "memory_limit": Field(
            StringSource,
            is_required=False,
            description="Alone: what a worker may hold, as '4 GiB'; default: what the machine has.",
        ),
    },
)
def governed_executor(init_context: InitExecutorContext) -> Executor:
    """Runs steps on the federation of `$IOI_HOME`, or alone on a Dask cluster that it starts for the run. Raises
    `DagsterInvalidDefinitionError` for settings that cannot be meant."""
    config = init_context.executor_config
    for name, least in (("workers", 1), ("max_concurrent", 0)):
        if config.get(name) is not None and cast("int", config[name]) < least:
            raise DagsterInvalidDefinitionError(f"governed executor: {name} is {config[name]}; give {least} or more")
    if config.get("address") and config.get("workers") is not None:
        raise DagsterInvalidDefinitionError(
            "governed executor: address names a cluster with workers of its own; give address or workers, not both"
        )
    return GovernedExecutor(
        retries=RetryMode.from_config(config["retries"]),  # pyright: ignore[reportArgumentType]
        max_concurrent=config.get("max_concurrent") or None,  # pyright: ignore[reportArgumentType]
        tag_concurrency_limits=config.get("tag_concurrency_limits"),  # pyright: ignore[reportArgumentType]
        step_dependency_config=StepDependencyConfig.from_config(config.get("step_dependency_config")),  # pyright: ignore[reportArgumentType]
        objective=str(config["objective"]),
        workers=config.get("workers"),  # pyright: ignore[reportArgumentType]
        address=config.get("address"),  # pyright: ignore[reportArgumentType]
        memory_limit=config.get("memory_limit"),  # pyright: ignore[reportArgumentType]
    )


class GovernedExecutor(Executor):
    """See `governed_executor`."""

    def __init__(
        self,
        retries: RetryMode,
        max_concurrent: int | None,
        tag_concurrency_limits: list[dict[str, Any]] | None,
        step_dependency_config: StepDependencyConfig,
        objective: str,
        workers: int | None,
        address: str | None,
        memory_limit: str | None = None,
    ) -> None:
        self._retries = retries
        self._max_concurrent = max_concurrent
        self._tag_concurrency_limits = tag_concurrency_limits
        self._step_dependency_config = step_dependency_config
        self._objective = objective
        self._workers, self._address, self._memory_limit = workers, address, memory_limit

    @property
    def limited(self) -> bool:
        """Something is to be decided before a step may start, besides what it depends on."""
        return bool(self._tag_concurrency_limits)

    @property
    def retries(self) -> RetryMode:
        return self._retries

    @property
    def step_dependency_config(self) -> StepDependencyConfig:
        return self._step_dependency_config

    def execute(self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan) -> Iterator[DagsterEvent]:
        """Yield the run's events; they are in the log already when they are yielded."""
        from ioi_dagster.adapters.sql.ledger import Ledger, LedgerAwayError
        from ioi_dagster.host.network import open_network
        from ioi_dagster.host.resume import owned, resume, will_go_on

        run = plan_context.dagster_run
        clock = SystemClock()
        with told_in_story(run, clock):
            asked = run_demand(run, plan_context.instance, clock, self._objective)
            gangs = Gangs(execution_plan, run.tags, self._max_concurrent, self._tag_concurrency_limits or ())
        with ExitStack() as stack:
            unread = stack.enter_context(events_not_collected())
            opened = open_network(run, self._workers, self._address, self._memory_limit)
            if isinstance(opened, Refusal):
                yield _refused(plan_context, opened)
                raise FinalError(f"gate 3: {opened}")
            stack.callback(opened.close)
            ledger = Ledger(ledger_path())
            stack.callback(ledger.close)
            epoch = ledger.take_over(run.run_id, run.job_name, clock.wall(), run.tags.get(tags.SUBJECT, ""))
            # Clusters in this very process answer at once.
            park_s = 0.0 if opened.immediate else PARK_S
            governor = FlowGovernor(
                run.run_id, opened.home, asked.objective, budget=asked.budget, due=asked.due, park_s=park_s
            )
            governor.resume(ledger.fences(run.run_id), 0.0 if asked.budget is None else ledger.spent(run.run_id))
            driver = FlowDriver(run.run_id, epoch, opened, governor, ledger, ObjectStore(default_folder()), clock)
            driver.tell(*opened.opening(run))
            driver.outputs.stores |= ledger.stores(run.run_id)
            resources = plan_context.job.get_definition().resource_defs
            driver.keeps_resources = any(map(is_run_scoped, resources.values()))
            for reference, name in ledger.outputs(run.run_id).items():
                driver.outputs.references[handle_from_text(reference)] = name
            if not plan_context.resume_from_failure:
                data = EngineEventData(metadata=opened.metadata(run))
                yield DagsterEvent.engine_event(plan_context, opened.banner(), data)
            pools = stack.enter_context(InstanceConcurrencyContext(plan_context.instance, run))
            driver.pools = PoolSlots(pools)
            stack.enter_context(owned(plan_context.instance, run.run_id, epoch, ledger, pools))
            active = stack.enter_context(
                ActiveExecution(
                    execution_plan,
                    retry_mode=self._retries,
                    max_concurrent=self._max_concurrent,
                    tag_concurrency_limits=self._tag_concurrency_limits,
                    instance_concurrency_context=pools,
                    step_dependency_config=self.step_dependency_config,
                )
            )
            named = Named(
                execution_plan,
                lambda: active.get_known_state().dynamic_mappings,
                lambda: set().union(*steps_that_ended(active)),
                driver.places,
            )
            driver.look_up(named.look)
            stack.enter_context(patient(plan_context.instance, driver.renew))
            flow = _Flow(
                self,
                plan_context,
                execution_plan,
                active,
                driver,
                ProgressTeller(driver, clock, execution_plan, epoch),
                unread,
                gangs,
            )
            if plan_context.resume_from_failure or epoch > 1:
                # Also where two processes were started for one run: what the first has done is not done again.
                yield from resume(plan_context, active, driver, opened, ledger, flow.fail)
            over = set().union(*steps_that_ended(active))
            took, made = ledger.took(run.job_name), ledger.made(run.job_name)
            driver.post(
                graph_of(execution_plan, took, made, over, run.tags, driver.places_in, opened.home, opened.links)
            )
            interrupted, goes_on, running = False, False, []
            try:
                for event in flow.run():
                    if event is None:
                        interrupted, running = True, driver.running()
                        goes_on = not active.is_complete and will_go_on(plan_context.instance, run.run_id)
                        break
                    yield event
            finally:
                text = "interrupted" if interrupted else "the run process ended"
                driver.tell(Chapter.DONE, text, {"interrupted": interrupted, "failed": len(flow.failed)})
                if goes_on:
                    if driver.leave():
                        keep_claims(pools)
                else:
                    driver.close(interrupted or not active.is_complete)
                    for problem in driver.not_torn_down:
                        plan_context.log.warning(problem)
                    with suppress(LedgerAwayError):
                        ledger.end(run.run_id, epoch, clock.wall())
            if interrupted:
                active.mark_interrupted()
                text = "Interrupted: running steps were cancelled, leases released"
                if goes_on:
                    # A failure that is told now would be final for that process too.
                    text = (
                        "Interrupted: another process goes on with the run, and with the steps that are under way still"
                    )
                else:
                    yield from flow.end(running)
                yield DagsterEvent.engine_event(plan_context, text, EngineEventData())


Entries = dict[int, EventLogEntry]
"""Of an outcome's events those that move the plan, by their number."""


class _Flow:
    """One run's loop: handle what happened, vend what is ready, until Dagster's plan is complete."""

    def __init__(
        self,
        owner: GovernedExecutor,
        plan_context: PlanOrchestrationContext,
        plan: ExecutionPlan,
        active: ActiveExecution,
        driver: FlowDriver,
        progress: ProgressTeller,
        unread: bool,
        gangs: Gangs,
    ) -> None:
        self._progress, self._outage = progress, OutageTeller(driver)
        self._gangs, self._beside = gangs, Beside(plan)
        self._owner, self._context, self._plan = owner, plan_context, plan
        self._active, self._driver = active, driver
        self._states = StepStates(plan)
        self._run = serialize_value(plan_context.dagster_run)
        self._origin = serialize_value(plan_context.reconstructable_job.get_python_origin())
        load_data = plan.repository_load_data
        run = plan_context.dagster_run
        self._parents = [parent for parent in (run.parent_run_id, run.root_run_id) if parent]
        self._load_data = serialize_value(load_data) if load_data is not None else None
        instance = plan_context.instance
        # Between two fused steps nothing is asked: no gate, no limit.
        fusing = driver.shares_storage and not owner.limited
        self._chains = Chains(plan) if fusing else None
        self._instance = (
            serialize_value(instance.get_ref()) if driver.shares_storage and instance.is_persistent else None
        )
        # Where nobody is told of events, those that lead to nothing go to the log as they came from the node.
        storage = instance.event_log_storage
        self._plain_log = storage if unread and isinstance(storage, GroupedEventLogStorage) else None
        self.failed: set[str] = set()
        """Steps whose failure was told."""
        self._untold: set[str] = set()
        """Steps whose commits are gone through, and whose events are not in the log yet."""
        self._console = Console(plan_context.log)
        self._layer = plan_context.reconstructable_job.get_definition().asset_layer if not self._instance else None

    def run(self) -> Iterator[DagsterEvent | None]:
        """Yields events; None when a person or the machine interrupted the run."""
        for text in self._beside.nothing_meant():
            self._context.log.warning(text)
        while True:
            if self._active.check_for_interrupts():
                # Else it may be taken for complete, and the run for one that went well.
                update_plan(self._active)
                yield None
                return
            # Vending resolves dynamic outputs, so only then "complete" can be believed.
            ready = self._vend()
            yield from self._active.concurrency_event_iterator(self._context)
            yield from self._active.plan_events_iterator(self._context)
            if self._active.is_complete:
                return
            if self._gangs:
                self._start_gangs()
            outcomes = self._driver.fused() or self._driver.pump(self._wait(ready))
            for report in self._driver.reports():
                yield map_event(self._context, self._plan, report)
            for text in (*self._driver.replaced(), *self._driver.interventions()):
                yield DagsterEvent.engine_event(self._context, text, EngineEventData())
            for came in self._driver.streams():
                yield pieces_event(self._context, *came)
            yield from self._progress.tell(self._context, lambda: self._active.get_known_state().dynamic_mappings)
            yield from self._outage.tell(self._context)
            if not outcomes:
                continue
            told: list[Outcome] = []
            happened: list[DagsterEvent] = []
            # Written together, and before anything is started that may look for them in the log.
            with grouped(self._context.instance) as texts:
                while outcomes:
                    moved, more = self._move_on(outcomes)
                    for outcome, entries in moved:
                        happened += self._tell(outcome, entries, texts)
                        told.append(outcome)
                    outcomes = more
            self._untold.clear()
            for outcome in told:
                if outcome.attempt:
                    self._driver.published(outcome.step, outcome.attempt)
            for text in waits_for_log(self._context.instance):
                yield DagsterEvent.engine_event(self._context, text, EngineEventData())
            yield from happened

    def _move_on(self, outcomes: list[Outcome]) -> tuple[list[tuple[Outcome, Entries]], list[Outcome]]:
        """Lead the plan through outcomes, and through those of steps that ran in one task with them. The nodes get what is next
        while all that is written: where it could have run in that task too, it looks for nothing in the log. Returns what was
        gone through, and what came meanwhile."""
        moved: list[tuple[Outcome, Entries]] = []
        vended: list[ExecutionStep] = []
        again = False
        while outcomes:
            moved += [(outcome, self._move(outcome)) for outcome in outcomes]
            if self._chains is None:
                return moved, []
            self._untold.update(outcome.step for outcome in outcomes)
            vended = self._vend()
            # The start of its next try takes the place of the commit that owes the events of this one.
            again = again or any(step.key in self._untold for step in vended)
            outcomes = self._driver.fused()
        if self._chains is not None and vended and not again and all(map(self._chains.goes_on, vended)):
            return moved, self._driver.pump(0.0)
        return moved, []

    def _vend(self) -> list[ExecutionStep]:
        """Hand over what is ready now."""
        ready = list(self._active.get_steps_to_execute())
        if not ready:
            return []
        # Once a batch: each makes a new value out of all that is known.
        known = self._active.get_known_state()
        for step in ready:
            if self._driver.take_fused(step.key):
                continue
            try:
                work = self._work(step, known)
                if work.ask.gang and step.key in self._driver.found:
                    # It is under way still, as an earlier process of the run started it.
                    work = replace(work, ask=replace(work.ask, gang=""))
                if self._driver.pools is not None:
                    self._driver.pools.vended(step, work)
                if not self._gangs.hold(work):
                    self._driver.submit(work)
            except FinalError as error:
                # Its tags or inputs are unfit: that is the failure of this step, and of no other.
                self._driver.refuse(step.key, Refusal("flow.unfit_step", str(error), "flow governor"))
        return ready

    def _start_gangs(self) -> None:
        """Hand over those that are whole by now, and refuse those that never will be."""
        succeeded, over = steps_that_ended(self._active)
        mappings = self._active.get_known_state().dynamic_mappings
        due = self._gangs.due(steps_in_flight(self._active) | succeeded, over, mappings)
        for work in due.whole:
            self._driver.submit(work)
        for step, refusal in due.broken:
            self._driver.refuse(step, refusal)
        for step, why in due.wait:
            self._driver.tell(Chapter.WAIT, why, step=step)

    def _wait(self, just_vended: list[ExecutionStep]) -> float:
        if just_vended:
            return 0.0
        pause = self._active.sleep_interval()
        return min(MAX_WAIT_S, pause) if pause > 0 else MAX_WAIT_S

    def _work(self, step: ExecutionStep, known: KnownExecutionState) -> Work:
        """The step, with the steps that may run in one task after it."""
        head, its_work = self._one(step, known, None)
        chain: list[tuple[Work, Callable[[], StepWork]]] = []
        last = head
        for follower in self._chains.after(step) if self._chains is not None else []:
            last, follower_work = self._one(follower, known, last.ask)
            chain.append((last, follower_work))
        if not chain:
            return head

        def fused() -> bytes:
            return _encode(msgspec.structs.replace(its_work(), then=[work() for _, work in chain]))

        return replace(head, then=tuple(work for work, _ in chain), fused=fused)

    def _one(
        self, step: ExecutionStep, known: KnownExecutionState, before: Ask | None
    ) -> tuple[Work, Callable[[], StepWork]]:
        """Besides the step: what makes all that its node gets. `before`: the step of the chain whose outputs this one takes,
        which have not been made yet."""
        sources = [
            source for step_input in step.step_inputs for source in step_input.get_step_output_handle_dependencies()
        ]
        takes = {source for source in sources if before is not None and source.step_key == before.step}
        handles = [_handle(source) for source in sources if source not in takes]
        found = {handle: self._driver.outputs.find(handle, self._parents) for handle in handles}
        # By name: they are read when the step is sent.
        stored = {handle: name for handle, name in found.items() if name and not is_reference(name)}
        located = [Located(handle, name) for handle, name in found.items() if name and is_reference(name)]
        # What comes from elsewhere than this run has no class that is known here: it is taken as the highest.
        classes = [self._driver.outputs.classes.get(handle, DataClass.RESTRICTED) for handle in handles]
        if before is not None:
            classes.append(before.data_class)
        if any(isinstance(step_input.source, FromLoadableAsset) for step_input in step.step_inputs):
            # Materialised by an earlier run: Dagster names no output of this run that it depends on.
            classes.append(DataClass.RESTRICTED)
        if tags.DATA_CLASS in step.tags:
            classes.append(tags.one_of(DataClass, step.tags, tags.DATA_CLASS, DataClass.INTERNAL))
        capability = step.tags.get(tags.CAPABILITY, OWN_STEP)
        run_tags = self._context.dagster_run.tags
        demand = demand_of(step.tags, run_tags)
        work = StepWork(
            origin=self._origin,
            run=self._run,
            step=step.key,
            known_state=serialize_value(self._states.of(step, known, takes)),
            retries=self._owner.retries.value,
            repository_load_data=self._load_data,
            located=located,
            one_cluster=self._driver.shares_storage,
            instance=self._instance,
            upstream=self._upstream(step),
            takes=[_handle(source) for source in takes],
        )
        effect = tags.one_of(
            Effect, step.tags, tags.EFFECT, Effect.PURE if capability != OWN_STEP else Effect.IDEMPOTENT
        )
        ask = Ask(
            run=self._context.run_id,
            step=step.key,
            capability=capability,
            data_class=DataClass.highest(classes) if classes else DataClass.INTERNAL,
            effect=effect,
            copies=tags.copies_of(step.tags, effect),
            sources=_lying_at_nodes(located),
            tenant=tenant_of(run_tags),
            priority=demand.priority,
            input_bytes=sum(map(self._size, stored.values())),
            domains=self._driver.places_in(step.tags.get(tags.PLACE_IN, "")),
            resources=demand.resources,
            gang=demand.gang,
            checkpointable=demand.checkpointable,
            near=self._beside.keys(step, tags.NEAR, known.dynamic_mappings),
            apart=self._beside.keys(step, tags.APART, known.dynamic_mappings),
        )

        def whole() -> StepWork:
            inputs = [StepInput(handle, self._get(name)) for handle, name in stored.items()]
            left = self._driver.outputs.checkpoint(step.key) if demand.checkpointable else None
            return msgspec.structs.replace(work, inputs=inputs, checkpoint=left) if inputs or left is not None else work

        placed = Work(
            ask=ask,
            work=lambda: _encode(whole()),
            payload=self._payload_of(capability, list(stored.values())),
            priority=ask.priority,
            assigns_class=step.tags.get(tags.ASSIGNS_CLASS) == "true",
            timeout_s=tags.seconds(step.tags, tags.TIMEOUT),
            streams=tags.one_of(Streaming, step.tags, tags.STREAMS, Streaming.NO),
        )
        return placed, whole

    def _payload_of(self, capability: str, stored: list[str]) -> Callable[[], Any] | None:
        """The block's payload where the step is a block call with exactly one typed input."""
        if capability == OWN_STEP or len(stored) != 1:
            return None
        (name,) = stored
        if decode_payload(self._get(name)).document.get("kind") != "typed":
            return None
        return lambda: block_payload(self._get(name))

    def _upstream(self, step: ExecutionStep) -> list[UpstreamAsset]:
        """What the step is sent of the log of the run's owner, where it may not look itself."""
        return upstream_of(step, self._layer, self._context.instance) if self._layer is not None else []

    def _get(self, name: str) -> bytes:
        data = self._driver.outputs.read(name)
        if data is None:
            raise _gone(name)
        return data

    def _size(self, name: str) -> int:
        size = self._driver.outputs.size(name)
        if size is None:
            raise _gone(name)
        return size

    def _began(self, step: ExecutionStep) -> DagsterEvent:
        """The beginning of an attempt that did not live to tell it."""
        attempts = self._active.get_known_state().get_retry_state().get_attempt_count(step.key)
        step_context = self._context.for_step(step)
        if attempts:
            return DagsterEvent.step_restarted_event(step_context, attempts)
        return DagsterEvent.step_start_event(step_context)

    def end(self, running: list[str]) -> Iterator[DagsterEvent]:
        """Interrupted: `running` were under way and end with the run."""
        for key in running:
            step = self._active.get_step_by_key(key)
            yield self._began(step)
            error = SerializableErrorInfo("the run was interrupted", [], DagsterExecutionInterruptedError.__name__)
            yield DagsterEvent.step_failure_event(
                self._context.for_step(step), StepFailureData(error=error, user_failure_data=None)
            )

    def _move(self, outcome: Outcome) -> Entries:
        """Lead the plan through what became of a step."""
        entries: Entries = {}
        for number, text in enumerate(outcome.events):
            if not moves_plan(text):
                continue
            entry = entries[number] = deserialize_value(text, EventLogEntry)
            event = entry.get_dagster_event()
            if event.step_key != outcome.step:
                continue
            if event.is_successful_output:
                handle = _handle(event.step_output_data.step_output_handle)
                self._driver.outputs.classes.setdefault(handle, outcome.data_class)
            self._active.handle_event(event)
            if event.is_step_failure:
                self.failed.add(outcome.step)
        if outcome.refusal is None and outcome.failure is None:
            # Before anything is vended: a step that is tried again at once is under way anew then.
            self._active.verify_complete(self._context, outcome.step)
        return entries

    def _tell(self, outcome: Outcome, entries: Entries, texts: dict[int, str]) -> Iterator[DagsterEvent]:
        """Hand what happened to the log."""
        step = self._active.get_step_by_key(outcome.step)
        step_context = self._context.for_step(step)
        placed = placement_event(step_context, outcome)
        if placed is not None:
            yield placed
        if outcome.refusal is not None:
            if outcome.refusal.code in BEGAN:
                yield self._began(step)
            error = SerializableErrorInfo(str(outcome.refusal), [], outcome.refusal.code)
            yield self._failed(step_context, error, outcome.refusal.code in USERS_RETRY)
            return
        for number, text in enumerate(outcome.events):
            self._console.show(text)
            entry = entries.get(number)
            if entry is None and self._plain_log is not None and (told := told_event(text)) is not None:
                self._plain_log.store_event(told)
                continue
            entry = entry or deserialize_value(text, EventLogEntry)
            texts[id(entry)] = text
            self._context.instance.handle_new_event(entry)
            if entry.dagster_event is not None:
                yield entry.dagster_event
        if outcome.failure is not None:
            yield self.fail(outcome.step, outcome.failure)
            self._active.verify_complete(self._context, outcome.step)

    def fail(self, step: str, failure: str) -> DagsterEvent:
        """What became of `step`, whose error Dagster raised around it."""
        error = deserialize_value(failure, SerializableErrorInfo)
        # As in Dagster's own executors the user's retry policy has a say in it.
        return self._failed(self._context.for_step(self._active.get_step_by_key(step)), error, True)

    def _failed(self, step_context: Any, error: SerializableErrorInfo, retries: bool) -> DagsterEvent:
        """The step's failure, or where `retries` the next try that its retry policy allows."""
        if retries:
            event = self._owner.log_failure_or_retry_event_after_error(
                step_context, error, self._active.get_known_state()
            )
        else:
            event = DagsterEvent.step_failure_event(step_context, StepFailureData(error=error, user_failure_data=None))
        self._active.handle_event(event)
        if event.is_step_failure:
            self.failed.add(event.step_key or "")
        return event


def _refused(plan_context: PlanOrchestrationContext, refusal: Refusal) -> DagsterEvent:
    return DagsterEvent.engine_event(
        plan_context,
        f"Refused at gate 3: {refusal}",
        EngineEventData(
            metadata={
                "ioi/code": MetadataValue.text(refusal.code),
                "ioi/by": MetadataValue.text(refusal.by),
                "ioi/remedy": MetadataValue.text(refusal.remedy or "–"),
            }
        ),
    )


def _lying_at_nodes(located: list[Located]) -> tuple[str, ...]:
    """The steps whose outputs a step reads from the memory of the nodes that made them; of many, some."""
    staged = (from_reference(one.reference) for one in located[:MAX_SOURCES])
    return tuple(dict.fromkeys(output.handle[0] for output in staged if output is not None and output.holder))


def _handle(source: StepOutputHandle) -> Handle:
    return (source.step_key, source.output_name, source.mapping_key or "")


def _gone(name: str) -> FinalError:
    return FinalError(f"the stored value {name} of this run is gone")


def _encode(work: StepWork) -> bytes:
    return msgspec.msgpack.encode(work)
