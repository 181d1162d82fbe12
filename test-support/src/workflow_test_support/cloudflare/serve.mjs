// Serves `worker.mjs` on a port of its own, with D1 databases that live as long as it does.
// Arguments: the folder with miniflare in its node_modules, and the names of the databases.
// Prints one line of JSON; ends when its standard input does.
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [folder, ...names] = process.argv.slice(2);
const miniflare = createRequire(path.join(folder, "package.json")).resolve("miniflare");
const { Log, LogLevel, Miniflare } = await import(pathToFileURL(miniflare));

const account = "test-account";
const token = "test-token";
const databases = Object.fromEntries(
  names.map((name, index) => [name, `00000000-0000-4000-8000-${String(index + 1).padStart(12, "0")}`]),
);
const server = new Miniflare({
  host: "127.0.0.1",
  port: 0,
  modules: true,
  script: fs.readFileSync(new URL("worker.mjs", import.meta.url), "utf8"),
  d1Databases: databases,
  bindings: {
    ACCOUNT: account,
    TOKEN: token,
    NAMES: Object.fromEntries(Object.entries(databases).map(([name, id]) => [id, name])),
  },
  log: new Log(LogLevel.ERROR),
});
const url = String(await server.ready);
console.log(JSON.stringify({ url, account, token, databases }));

async function stop() {
  await server.dispose();
  process.exit(0);
}
process.stdin.resume().on("end", stop);
process.on("SIGTERM", stop);
process.on("SIGINT", stop);
