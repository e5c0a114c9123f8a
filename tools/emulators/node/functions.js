"use strict";
// Hosts the functions of a folder on loopback, as Firebase's functions emulator does. Each export of index.js describes
// itself (`__endpoint`), so a new function needs no change here.
//
//   callables     POST /{project}/us-central1/{name}: what `connectFunctionsEmulator` calls. Tokens are read, not verified.
//   Firestore     each change of a document that matches a trigger's pattern, with before and after, at least once. Changes
//                 in quick succession may arrive as one. `deliver` makes each change arrive several times, and late.
//   auth          POST /local/user-deleted {"uid": …}
//   schedules     POST /local/run {"name": …}
//
// Prints `@{"ready":{"port":…,"functions":[…]}}` to stdout, and ends when stdin ends, as main.js does.

const { randomUUID } = require("node:crypto");
const fs = require("node:fs");
const { createRequire } = require("node:module");
const path = require("node:path");
const readline = require("node:readline");
const { pathToFileURL } = require("node:url");

console.log = console.info = console.debug = console.error; // stdout is the control channel
process.on("unhandledRejection", (error) => console.error("unhandled rejection", error));

const options = JSON.parse(process.argv[2]);
const { project, source, port = 0, env = {}, appCheck = false, deliver = {} } = options;
const { times = 1, lateMs = 0 } = deliver;
const INDEX = path.join(source, "index.js");
const TRIES = 6;
const DATABASE = "(default)";

Object.assign(process.env, {
  GCLOUD_PROJECT: project,
  FIREBASE_CONFIG: JSON.stringify({ projectId: project, storageBucket: env.FIREBASE_STORAGE_BUCKET }),
  FIREBASE_DEBUG_MODE: "true",
  FIREBASE_DEBUG_FEATURES: JSON.stringify({ skipTokenVerification: true, enableCors: true }),
  FUNCTIONS_EMULATOR: "true",
  ...env,
});

// Loads the packages of the functions, so that both sides share one firebase-admin.
const theirs = createRequire(INDEX);
const express = theirs("express");
const { getFirestore } = theirs("firebase-admin/firestore");

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const valueOf = (text) => (typeof text === "string" ? text : text?.value());
const entries = (functions) =>
  Object.entries(functions).flatMap(([name, made]) => (made?.__endpoint ? [{ name, made, endpoint: made.__endpoint }] : []));

/** Deliver an event once, with retries if the function asks for them. */
async function handle({ name, endpoint }, work) {
  for (let tried = 1; ; tried += 1) {
    try {
      return await work();
    } catch (error) {
      console.error(`${name} failed`, error);
      if (!endpoint.eventTrigger?.retry || tried === TRIES) return undefined;
      await pause(100 * 2 ** tried);
    }
  }
}

/** Set each parameter's default in the environment, as Google's tools do in a deployment; the libraries do not. */
function fillIn() {
  for (const { name, options: declared } of theirs("firebase-functions/params").declaredParams) {
    if (declared?.default !== undefined) process.env[name] ??= String(declared.default);
  }
}

// ---- Firestore ---------------------------------------------------------------------------------------------------

/** "generations/{uid}/files/{id}" -> a regular expression for the paths that it matches. */
const fitting = (pattern) =>
  new RegExp(`^${pattern.replace(/[.*+?^$()|[\]\\]/g, "\\$&").replace(/\{\w+=\*\*\}/g, ".+").replace(/\{\w+(=\*)?\}/g, "[^/]+")}$`);

/** Whether a change triggers an event of this type. */
function happens(type, before, after) {
  const kind = /\.v1\.(\w+?)(\.withAuthContext)?$/.exec(type)[1];
  const kinds = { created: !before && after, deleted: before && !after, updated: before && after, written: true };
  return Boolean(kinds[kind]);
}

function events() {
  const folder = path.resolve(theirs.resolve("firebase-functions/firestore"), "..", "..", "..", "..");
  const compiled = require(path.join(folder, "protos", "compiledFirestore.js"));
  const { DocumentEventData } = compiled.google.events.cloud.firestore.v1;
  const stored = (snapshot) =>
    snapshot && {
      name: `projects/${project}/databases/${snapshot.ref.firestore.databaseId}/documents/${snapshot.ref.path}`,
      fields: snapshot._fieldsProto,
      createTime: { seconds: snapshot.createTime.seconds, nanos: snapshot.createTime.nanoseconds },
      updateTime: { seconds: snapshot.updateTime.seconds, nanos: snapshot.updateTime.nanoseconds },
    };
  return (type, database, document, before, after) => ({
    specversion: "1.0",
    id: randomUUID(),
    type,
    source: `//firestore.googleapis.com/projects/${project}/databases/${database}`,
    subject: `documents/${document}`,
    time: new Date().toISOString(),
    project,
    database,
    namespace: DATABASE,
    document,
    location: "nam5",
    datacontenttype: "application/protobuf",
    data: DocumentEventData.encode(
      DocumentEventData.create({ value: stored(after), oldValue: stored(before) }),
    ).finish(),
  });
}

/** Call each trigger's function for each change from now on; resolves once no change can be missed. */
async function listen(functions) {
  const event = events();
  const triggers = entries(functions)
    .filter(({ endpoint }) => endpoint.eventTrigger?.eventType.startsWith("google.cloud.firestore."))
    .map((one) => {
      const { eventFilters, eventFilterPathPatterns } = one.endpoint.eventTrigger;
      const pattern = valueOf(eventFilterPathPatterns?.document ?? eventFilters.document);
      const group = pattern.split("/").filter((_, index) => index % 2 === 0).at(-1);
      return { ...one, type: one.endpoint.eventTrigger.eventType, pattern: fitting(pattern), group, database: valueOf(eventFilters.database) };
    });

  function changed(trigger, document, before, after) {
    if (!trigger.pattern.test(document) || !happens(trigger.type, before, after)) return;
    const message = event(trigger.type, trigger.database, document, before, after);
    for (let copy = 0; copy < times; copy += 1) {
      const late = pause(Math.random() * lateMs);
      late.then(() => handle(trigger, () => trigger.made({ ...message })));
    }
  }

  function follow(database, group) {
    const known = new Map(); // path -> the version seen last
    const mine = triggers.filter((one) => one.database === database && one.group === group);
    return new Promise((resolve) => {
      let first = true;
      getFirestore(database).collectionGroup(group).onSnapshot(
        (snapshot) => {
          for (const { type, doc } of snapshot.docChanges()) {
            const before = known.get(doc.ref.path);
            const after = type === "removed" ? undefined : doc;
            if (after) known.set(doc.ref.path, after);
            else known.delete(doc.ref.path);
            if (!first) for (const trigger of mine) changed(trigger, doc.ref.path, before, after);
          }
          first = false;
          resolve();
        },
        (error) => {
          console.error("the listener ended", error);
          process.exit(1);
        },
      );
    });
  }

  const wanted = new Map(triggers.map(({ database, group }) => [`${database} ${group}`, { database, group }]));
  await Promise.all([...wanted.values()].map(({ database, group }) => follow(database, group)));
}

// ---- HTTP --------------------------------------------------------------------------------------------------------

const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
const APP = `${part({ alg: "RS256", typ: "JWT" })}.${part({ sub: "local-app", app_id: "local-app" })}.${part("unsigned")}`;

/** Accept calls without an App Check token, which a page on localhost cannot get, unless App Check is under test. */
function attested(request, response, next) {
  if (!appCheck) request.headers["x-firebase-appcheck"] ||= APP;
  next();
}

function front(functions) {
  const app = express();
  const all = entries(functions);
  app.use(express.json({ limit: "32mb", verify: (request, _, bytes) => void (request.rawBody = bytes) }));
  for (const { name, made, endpoint } of all) {
    if (endpoint.callableTrigger || endpoint.httpsTrigger) app.all(`/${project}/us-central1/${name}`, attested, made);
  }
  app.post("/local/user-deleted", async (request, response) => {
    const { uid } = request.body;
    const told = all.filter(({ endpoint }) => endpoint.eventTrigger?.eventType.endsWith("user.delete"));
    const context = () => ({
      eventId: randomUUID(),
      timestamp: new Date().toISOString(),
      eventType: "providers/firebase.auth/eventTypes/user.delete",
      resource: `projects/${project}`,
    });
    const user = { uid, email: null, metadata: { createdAt: new Date(0).toISOString(), lastSignedInAt: new Date(0).toISOString() } };
    for (const one of told) {
      for (let copy = 0; copy < times; copy += 1) await handle(one, () => one.made({ ...user }, context()));
    }
    response.json({ called: told.map(({ name }) => name) });
  });
  app.post("/local/run", (request, response) => {
    const found = all.find(({ name, endpoint }) => name === request.body.name && endpoint.scheduleTrigger);
    if (!found) return response.status(404).json({ error: "no scheduled function of this name" });
    // A first-generation function is called as an event, a second-generation one over HTTP.
    if (found.endpoint.platform !== "gcfv1") return found.made(request, response);
    return handle(found, () => found.made({}, { eventId: randomUUID() })).then(() => response.end());
  });
  return app;
}

async function main() {
  if (!fs.existsSync(INDEX)) throw new Error("there is no index.js in the folder of the functions");
  const functions = await import(pathToFileURL(INDEX).href);
  fillIn();
  await listen(functions);
  const server = front(functions).listen(port, "127.0.0.1", () => {
    const names = entries(functions).map(({ name }) => name);
    process.stdout.write(`@${JSON.stringify({ ready: { port: server.address().port, functions: names } })}\n`);
  });
  server.on("error", (error) => {
    console.error(error);
    process.exit(1);
  });
  readline.createInterface({ input: process.stdin }).on("close", () => process.exit(0));
}

for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"]) process.on(signal, () => process.exit(0));
main().catch((error) => {
  console.error(error);
  process.exit(1);
});
