// Runs inside workerd, with real D1 databases bound. Two ways to them:
// - /client/v4/...: the shape of Cloudflare's REST API for D1, as its OpenAPI description has it;
// - /binding/NAME: the binding itself, a call for a call, for programs that are not Workers; or, over a WebSocket, a
//   message for a call, with a number that the answer repeats.

const RUN_QUERY = /^\/client\/v4\/accounts\/([^/]+)\/d1\/database\/([^/]+)\/(query|raw)$/;
const BINDING = /^\/binding\/([^/]+)$/;
const TOKEN_OF_SQL = /--[^\n]*|\/\*[^]*?\*\/|'(?:[^']|'')*'|"(?:[^"]|"")*"|[^]/g;

export default {
  async fetch(request, env) {
    const path = new URL(request.url).pathname;
    const binding = path.match(BINDING);
    if (binding && request.headers.has("upgrade")) return overSocket(env[binding[1]]);
    if (binding) return throughBinding(env[binding[1]], await request.json());
    const query = path.match(RUN_QUERY);
    if (query && request.method === "POST") return throughRest(request, env, ...query.slice(1));
    return refuse(404, 7003, `Could not route to ${path}`);
  },
};

function overSocket(db) {
  const [client, server] = Object.values(new WebSocketPair());
  server.accept();
  server.addEventListener("message", async ({ data }) => {
    const { id, call } = JSON.parse(data);
    const answer = await throughBinding(db, call);
    server.send(`{"id":${id},"answer":${await answer.text()}}`);
  });
  return new Response(null, { status: 101, webSocket: client });
}

async function throughBinding(db, { mode, statements }) {
  try {
    const prepared = statements.map(({ sql, values }) => db.prepare(sql).bind(...values.map(asJavaScript)));
    const results = mode === "batch" ? await db.batch(prepared) : [await prepared[0][mode]()];
    return Response.json({ results });
  } catch (error) {
    return Response.json({ error: error.message });
  }
}

// JSON has no NaN and no infinity: { number: "nan" } stands for them.
function asJavaScript(value) {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return value;
  return { nan: NaN, inf: Infinity, "-inf": -Infinity }[value.number];
}

async function throughRest(request, env, account, id, form) {
  if (request.headers.get("authorization") !== `Bearer ${env.TOKEN}`) return refuse(401, 10000, "Authentication error");
  if (account !== env.ACCOUNT) return refuse(403, 7403, "The given account is not valid");
  const db = env[env.NAMES[id]];
  if (!db) return refuse(404, 7404, `The database ${id} could not be found`);
  let body;
  try {
    body = await request.json();
  } catch {
    return refuse(400, 7400, "The request is malformed: invalid JSON");
  }
  const queries = Array.isArray(body.batch) ? body.batch : typeof body.sql === "string" ? [body] : null;
  if (!queries) return refuse(400, 7400, "The request is malformed: Required");
  try {
    return answer(await db.batch(queries.flatMap((query) => prepare(db, query))), form);
  } catch (error) {
    return refuse(400, 7500, error.message.replace(/^D1_\w*ERROR: /, ""));
  }
}

function prepare(db, { sql, params }) {
  const parts = split(sql);
  if (!params?.length) return parts.map((part) => db.prepare(part));
  if (parts.length > 1) throw new Error("params with several statements is not supported");
  return [db.prepare(sql).bind(...params)];
}

// Quotes and comments are respected; the bodies of triggers are not.
function split(sql) {
  const parts = [];
  let current = "";
  for (const [token] of sql.matchAll(TOKEN_OF_SQL)) {
    if (token === ";") {
      parts.push(current);
      current = "";
    } else {
      current += token;
    }
  }
  parts.push(current);
  return parts.filter((part) => part.replace(/--[^\n]*|\/\*[^]*?\*\//g, "").trim());
}

function answer(results, form) {
  const shaped = form === "query" ? results : results.map(asColumnsAndRows);
  return Response.json({ result: shaped, success: true, errors: [], messages: [] });
}

function asColumnsAndRows(result) {
  const rows = result.results;
  return { ...result, results: { columns: Object.keys(rows[0] ?? {}), rows: rows.map((row) => Object.values(row)) } };
}

function refuse(status, code, message) {
  return Response.json({ result: null, success: false, errors: [{ code, message }], messages: [] }, { status });
}
