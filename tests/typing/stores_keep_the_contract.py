"""Read by the type checker, never run: each store has every verb of the contract with the contract's types."""

from workflow_runtime.store import SupportsNotify, SupportsSubscribe, WorkflowExecutionStore
from workflow_store_d1 import D1WorkflowStore
from workflow_store_memory import InMemoryWorkflowStore
from workflow_store_postgres import PostgresWorkflowStore

memory: type[WorkflowExecutionStore] = InMemoryWorkflowStore
d1: type[WorkflowExecutionStore] = D1WorkflowStore
postgres: type[WorkflowExecutionStore] = PostgresWorkflowStore

followed: list[type[SupportsSubscribe]] = [InMemoryWorkflowStore, D1WorkflowStore, PostgresWorkflowStore]
heard: list[type[SupportsNotify]] = [InMemoryWorkflowStore, PostgresWorkflowStore]
