// The D1 binding for programs in Node. Like the original it is a thin shim: it checks what is bound, at once, and sends
// the rest to where the database is; here to `worker.mjs`, which hands it to the original.
import http from "node:http";

const ALLOWED = new Set(["number", "string", "boolean"]);

// The name is what Cloudflare's Python SDK recognises the binding by.
export class D1Database {
  #url;
  #agent = new http.Agent({ keepAlive: true });

  constructor(url) {
    this.#url = url;
  }

  prepare(sql) {
    return new D1PreparedStatement(this, sql, []);
  }

  async batch(statements) {
    return this.send("batch", statements);
  }

  async send(mode, statements) {
    const body = JSON.stringify({ mode, statements: statements.map(({ sql, values }) => ({ sql, values })) });
    const { results, error } = JSON.parse(await this.#post(body));
    if (error !== undefined) throw failure(error);
    return results;
  }

  #post(body) {
    const options = { method: "POST", agent: this.#agent, headers: { "content-length": Buffer.byteLength(body) } };
    return new Promise((resolve, reject) => {
      const request = http.request(this.#url, options, (response) => {
        const parts = [];
        response.on("data", (part) => parts.push(part));
        response.on("end", () => resolve(Buffer.concat(parts).toString()));
        response.on("error", reject);
      });
      request.on("error", reject);
      request.end(body);
    });
  }
}

class D1PreparedStatement {
  #database;

  constructor(database, sql, values) {
    this.#database = database;
    this.sql = sql;
    this.values = values;
  }

  bind(...values) {
    return new D1PreparedStatement(this.#database, this.sql, values.map(asSent));
  }

  async all() {
    return (await this.#database.send("all", [this]))[0];
  }

  async run() {
    return (await this.#database.send("run", [this]))[0];
  }
}

function asSent(value) {
  if (value === null || ALLOWED.has(typeof value)) return value;
  if (value instanceof ArrayBuffer) return [...new Uint8Array(value)];
  if (ArrayBuffer.isView(value)) return [...value];
  if (Array.isArray(value)) return value;
  throw failure(`D1_TYPE_ERROR: Type '${typeof value}' not supported for value '${value}'`);
}

function failure(message) {
  return new Error(message, { cause: new Error(message.replace(/^D1_\w*ERROR: /, "")) });
}
