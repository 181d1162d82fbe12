// Runs a Python program in Pyodide, the Python of Cloudflare's Workers, with a real D1 database behind `env.DB`.
// Argument: a file of JSON, which `pyodide/program.py` writes. Lines of JSON go both ways: what the program emits and, at
// last, how it ended comes on standard output; what it is told, on standard input. What it prints goes to standard
// error. Waits at the end to be killed, with workerd; it ends itself, with workerd, when its parent has gone.
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import readline from "node:readline";
import { pathToFileURL } from "node:url";
import { Worker } from "node:worker_threads";

import { D1Database } from "./d1_binding.mjs";

const order = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
endWithParent();
const { Log, LogLevel, Miniflare } = await load(order.miniflare, "miniflare");
const { default: WebSocket } = await load(order.miniflare, "ws"); // comes with miniflare; Node has one from 22 on
const { loadPyodide } = await load(order.pyodide, "pyodide/pyodide.mjs");

const told = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const server = new Miniflare({
  host: "127.0.0.1",
  port: 0,
  modules: true,
  script: fs.readFileSync(new URL("worker.mjs", import.meta.url), "utf8"),
  d1Databases: { DB: order.databaseId },
  d1Persist: order.persist ?? false,
  log: new Log(LogLevel.ERROR),
});
const [url, python] = await Promise.all([server.ready, start()]);
const env = { DB: new D1Database(await connect(url)), ...order.variables };
if (order.ownBinding) env.DB = await server.getD1Database("DB");
if (order.proxy) env.PROXY = await server.getD1Database("DB");
await run();

async function load(folder, name) {
  return import(pathToFileURL(createRequire(path.join(folder, "package.json")).resolve(name)));
}

async function connect(url) {
  const socket = new WebSocket(`ws://${url.host}/binding/DB`);
  await new Promise((resolve, reject) => socket.on("open", resolve).on("error", reject));
  return socket;
}

async function start() {
  const python = await loadPyodide({
    // The sources are mounted as they are: nothing may be written among them.
    env: { PYTHONDONTWRITEBYTECODE: "1", HOME: "/home/pyodide" },
    stdout: (line) => process.stderr.write(`${line}\n`),
    stderr: (line) => process.stderr.write(`${line}\n`),
  });
  order.path.forEach((folder, index) => {
    const mounted = `/mounted/${index}`;
    python.FS.mkdirTree(mounted);
    python.FS.mount(python.FS.filesystems.NODEFS, { root: folder }, mounted);
    python.runPython(`import sys; sys.path.append("${mounted}")`);
  });
  return python;
}

async function run() {
  const say = (line) => fs.writeSync(1, `${line}\n`);
  const emit = (json) => say(`{"emitted": ${json}}`);
  // What Cloudflare's SDK imports from its host. `waitUntil` is that of the context which an entrypoint is given.
  const helper = { cloudflareWorkersModule: { env }, patchWaitUntil() {} };
  python.registerJsModule("_pyodide_entrypoint_helper", helper);
  python.registerJsModule("_cloudflare_compat_flags", {});
  const receive = async () => (await told.next()).value;
  python.registerJsModule("_pyodide_run", { env, emit, receive, argument: JSON.stringify(order.argument) });
  try {
    await python.runPythonAsync(order.prelude);
    await python.runPythonAsync(order.program, { filename: "program.py" });
    say(`{"failed": null}`);
  } catch (error) {
    say(JSON.stringify({ failed: error.message }));
  }
}

// On a thread: a Python program that calculates, or goes round in circles, leaves this one no time to hear of anything.
function endWithParent() {
  const watch = `
    const parent = ${order.parent};
    setInterval(() => process.ppid === parent || process.kill(-process.pid, "SIGKILL"), 500);
  `; // the process leads a group of its own, with workerd in it
  new Worker(watch, { eval: true }).unref();
}
