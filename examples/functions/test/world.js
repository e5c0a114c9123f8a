// Stands in for RunPod and Google's front end on loopback: records what RunPod is sent, and serves the functions behind
// express, as Google does. firebase-functions' own code reads the tokens; as in Firebase's functions emulator their
// signatures are not checked, since no test can have Google's.

import { appendFileSync } from "node:fs";
import { createServer } from "node:http";
import { once } from "node:events";
import express from "express";
import { declaredParams } from "firebase-functions/params";

export const SECRET = process.env.TICKET_SECRET ?? "a secret that both sides hold, 32+ characters";
const LOOPBACK = "127.0.0.1";

Object.assign(process.env, {
  TICKET_SECRET: SECRET,
  RUNPOD_API_KEY: "the-runpod-key\n",
  RUNPOD_ENDPOINT: "endpoint-1",
  JOBS_PER_MINUTE: "0", // limit.test.js tests it
  QUOTES_PER_MINUTE: "0",
  GCLOUD_PROJECT: "demo-functions",
  FIREBASE_CONFIG: JSON.stringify({ projectId: "demo-functions" }),
  FIREBASE_DEBUG_MODE: "true",
  FIREBASE_DEBUG_FEATURES: JSON.stringify({ skipTokenVerification: true }),
});

async function listening(listener) {
  const server = createServer(listener).listen(0, LOOPBACK);
  server.keepAliveTimeout = 0; // a connection closed just as the next call is sent would look like a fault
  await once(server, "listening");
  return { server, url: `http://${LOOPBACK}:${server.address().port}` };
}

const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
const unsigned = (claims) => `${part({ alg: "RS256", typ: "JWT" })}.${part(claims)}.${part("no signature")}`;

export class World {
  /** @type {{path: string, key: string, body: any}[]} */
  sent = [];
  /** RunPod's answer, or a function that returns one for a request; without one it hangs up. */
  answer = { status: 200, body: { id: "job-1", status: "IN_QUEUE" } };

  async start() {
    this.runpod = await listening(async (request, response) => {
      const chunks = [];
      for await (const chunk of request) chunks.push(chunk);
      const body = JSON.parse(Buffer.concat(chunks).toString());
      this.sent.push({ path: request.url, key: request.headers.authorization, body });
      if (process.env.SENT_TO && request.url.endsWith("/run")) appendFileSync(process.env.SENT_TO, `${JSON.stringify(body)}\n`);
      const answer = typeof this.answer === "function" ? await this.answer(request.url, body) : this.answer;
      if (!answer) return void request.destroy();
      response.writeHead(answer.status, { "Content-Type": "application/json" });
      response.end(JSON.stringify(answer.body));
    });
    process.env.RUNPOD_URL = this.runpod.url;
    this.functions = await import("../index.js");
    // Sets the defaults, as Google's tools do for a deployment.
    for (const { name, options } of declaredParams) {
      if (options?.default !== undefined) process.env[name] ??= String(options.default);
    }
    const front = express();
    front.use(express.json({ limit: "32mb" }));
    for (const [name, made] of Object.entries(this.functions)) {
      if (made.__endpoint.callableTrigger) front.post(`/${name}`, made);
    }
    this.front = await listening(front);
    return this;
  }

  reset() {
    this.sent.length = 0;
    this.answer = { status: 200, body: { id: "job-1", status: "IN_QUEUE" } };
    process.env.RUNPOD_URL = this.runpod.url;
  }

  /** Call a function as Firebase's client library does. Returns the status, and the result or error. */
  async call(data, { uid = "alice", app = "app-1", name = "generate", claims = {} } = {}) {
    const headers = { "Content-Type": "application/json" };
    if (uid) headers.Authorization = `Bearer ${unsigned({ sub: uid, aud: "demo-functions", ...claims })}`;
    if (app) headers["X-Firebase-AppCheck"] = unsigned({ sub: app });
    const response = await fetch(`${this.front.url}/${name}`, {
      method: "POST",
      headers,
      body: JSON.stringify({ data }),
    });
    return { status: response.status, ...(await response.json()) };
  }

  async stop() {
    for (const { server } of [this.front, this.runpod]) {
      server.closeAllConnections();
      server.close();
    }
  }
}
