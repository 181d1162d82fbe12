// The D1 binding for programs in Node. Like the original it is a thin shim: it checks what is bound, at once, and sends
// the rest to where the database is; here to `worker.mjs`, which hands it to the original.

const ALLOWED = new Set(["number", "string", "boolean"]);

// The name is what Cloudflare's Python SDK recognises the binding by.
export class D1Database {
  #socket;
  #calls = new Map();
  #number = 0;

  // `socket` is open, and leads to the route `/binding/NAME`.
  constructor(socket) {
    this.#socket = socket;
    socket.on("message", (data) => {
      const { id, answer } = JSON.parse(data);
      this.#calls.get(id).resolve(answer);
      this.#calls.delete(id);
    });
    socket.on("close", () => {
      for (const { reject } of this.#calls.values()) reject(new Error("workerd has closed the connection"));
    });
  }

  prepare(sql) {
    return new D1PreparedStatement(this, sql, []);
  }

  async batch(statements) {
    return this.send("batch", statements);
  }

  async send(mode, statements) {
    const call = { mode, statements: statements.map(({ sql, values }) => ({ sql, values })) };
    const id = (this.#number += 1);
    const { results, error } = await new Promise((resolve, reject) => {
      this.#calls.set(id, { resolve, reject });
      this.#socket.send(JSON.stringify({ id, call }));
    });
    if (error !== undefined) throw failure(error);
    return results;
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
