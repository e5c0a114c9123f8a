"use strict";
// Starts Firebase's Auth emulator without its command line.
// Compiling the whole API description takes eight seconds. The tests only sign up, sign in and look up users, so only
// those paths are kept, which takes two.

const http = require("node:http");
const spec = require("firebase-tools/lib/emulator/auth/apiSpec").default;

const KEPT = [
  /^\/v1\/token$/,
  /^\/v1\/accounts:(signUp|signInWithPassword|signInWithCustomToken|lookup|update|delete)$/,
  /^\/v1\/projects\/\{targetProjectId\}\/accounts(:lookup|:update|:delete)?$/,
];
for (const path of Object.keys(spec.paths)) {
  if (!KEPT.some((pattern) => pattern.test(path))) delete spec.paths[path];
}

const { createApp } = require("firebase-tools/lib/emulator/auth/server");
const { AuthEmulator } = require("firebase-tools/lib/emulator/auth");
const { AuthCloudFunction } = require("firebase-tools/lib/emulator/auth/cloudFunctions");
const { EmulatorRegistry } = require("firebase-tools/lib/emulator/registry");

// The URL of functions.js, which starts later, to notify of deleted users. Google's way needs the whole functions emulator.
let functionsUrl = null;
AuthCloudFunction.prototype.dispatch = async function (action, { localId }) {
  if (action !== "delete" || functionsUrl === null) return;
  try {
    const headers = { "content-type": "application/json" };
    const told = await fetch(`${functionsUrl}/local/user-deleted`, { method: "POST", headers, body: JSON.stringify({ uid: localId }) });
    if (!told.ok) throw new Error(`answered ${told.status}`);
  } catch (error) {
    console.error("the functions were not told of a deleted user", error);
  }
};

async function start(projectId) {
  const states = new Map();
  const server = http.createServer(await createApp(projectId, undefined, states));
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  EmulatorRegistry.set("auth", new AuthEmulator({ projectId, host: "127.0.0.1", port }));
  return { port, reset: () => states.clear(), tellOfDeletions: (url) => (functionsUrl = url) };
}

module.exports = { start };
