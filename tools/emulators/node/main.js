"use strict";
// Runs the requested emulators in one process, each on a free loopback port.
// Prints `@{"ready":{...}}` to stdout, then answers each JSON command on stdin with one `@{...}` line.
// Ends when stdin ends: the parent holds the other end, so no emulator outlives its tests.

const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const readline = require("node:readline");

console.log = console.error; // stdout is the control channel
process.on("unhandledRejection", (error) => console.error("unhandled rejection", error));

const { project, bucket, parts } = JSON.parse(process.argv[2]);
// Two Storage emulators with one temporary directory would delete each other's objects.
process.env.TMPDIR = fs.mkdtempSync(path.join(os.tmpdir(), "emulators-"));
process.on("exit", () => fs.rmSync(process.env.TMPDIR, { recursive: true, force: true }));

const starters = {
  firestore: () => require("./firestore").start(),
  storage: () => require("./storage").start(project, bucket),
  auth: () => require("./auth").start(project),
};
const running = {};

async function start(name) {
  running[name] ??= await starters[name]();
  return running[name].port;
}

const commands = {
  start: ({ part }) => start(part),
  reset: () => Promise.all(Object.values(running).map((emulator) => emulator.reset())),
  fault: ({ fault }) => running.firestore.addFault(fault),
  clearFaults: () => running.firestore.clearFaults(),
  writes: () => running.firestore.writes(),
  tellOfDeletions: ({ url }) => start("auth").then(() => running.auth.tellOfDeletions(url)),
};

const say = (message) => process.stdout.write(`@${JSON.stringify(message)}\n`);

async function main() {
  const ready = {};
  for (const name of parts) ready[name] = await start(name);
  say({ ready });
  const lines = readline.createInterface({ input: process.stdin });
  lines.on("line", async (line) => {
    const { id, command, ...rest } = JSON.parse(line);
    try {
      say({ id, value: (await commands[command](rest)) ?? null });
    } catch (error) {
      say({ id, error: String(error) });
    }
  });
  lines.on("close", () => process.exit(0));
}

for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"]) process.on(signal, () => process.exit(0));
main().catch((error) => {
  console.error(error);
  process.exit(1);
});
