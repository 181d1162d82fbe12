// TanStack Workflow on Node: its Postgres store through Drizzle and pg, or its store in memory. The talk with the
// process that measures is that of stopwatch.py.

import { randomUUID } from 'node:crypto'
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

const STEPS = 10
const PAYLOAD = { text: 'x'.repeat(286) }
const CONNECTIONS = 16
const WARM_UP_S = 0.2
const WARM_UP_TURNS = 8

const task = JSON.parse(process.argv[2])
// The packages lie elsewhere, so they are looked up from there.
const require = createRequire(join(process.env.CONTENDER_PACKAGES, 'package.json'))
const load = (name) => import(pathToFileURL(require.resolve(name)).href)

const { createWorkflow } = await load('@tanstack/workflow-core')
const { defineWorkflowRuntime, inMemoryWorkflowExecutionStore } = await load('@tanstack/workflow-runtime')

async function openStore() {
  if (task.options.store === 'memory') return inMemoryWorkflowExecutionStore()
  const { drizzle } = await load('drizzle-orm/node-postgres')
  const pg = await load('pg')
  const { createDrizzlePostgresWorkflowStore } = await load('@tanstack/workflow-store-drizzle-postgres')
  const pool = new pg.default.Pool({ connectionString: task.dsn, max: CONNECTIONS })
  const store = createDrizzlePostgresWorkflowStore({ db: drizzle(pool) })
  await store.ensureSchema()
  return store
}

const count = task.workload === 'steps' ? STEPS : 0
const size = count || 1
const workflow = createWorkflow({ id: 'steps' }).handler(async (ctx) => {
  for (let number = 0; number < count; number++) await ctx.step(`work-${number}`, async () => PAYLOAD)
  return null
})
const runtime = defineWorkflowRuntime({
  workflows: { steps: { load: async () => workflow } },
  store: await openStore(),
})

async function run() {
  const done = await runtime.startRun({ workflowId: 'steps', runId: randomUUID(), input: {}, includeEvents: false })
  if (done.run?.status !== 'finished') throw new Error(`the run ended as ${done.kind}`)
}

function whileTime(seconds, atLeast) {
  let turns = 0
  const until = performance.now() + seconds * 1e3
  return () => turns < atLeast || performance.now() < until ? (turns++, true) : false
}

function times(turns) {
  return () => turns-- > 0
}

async function share(another) {
  let done = 0
  const some = async () => {
    while (another()) {
      await run()
      done++
    }
  }
  await Promise.all(Array.from({ length: task.at_once }, some))
  return done
}

const say = (what) => process.stdout.write(JSON.stringify(what) + '\n')
await share(whileTime(WARM_UP_S, Math.max(WARM_UP_TURNS, task.at_once)))
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]()
say({ ready: true })
await lines.next()
const cpu = process.cpuUsage()
const began = performance.now()
const done = await share(task.units ? times(Math.ceil(task.units / size)) : whileTime(task.seconds, 1))
const seconds = (performance.now() - began) / 1e3
const used = process.cpuUsage(cpu)
say({ units: done * size, seconds, client_cpu_s: (used.user + used.system) / 1e6 })
await lines.next()
process.exit(0)
