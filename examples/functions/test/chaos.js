// `node test/chaos.js` runs WALLET_JOBS jobs that go wrong in every known way, and then checks the sums. It is a separate
// program because Node's test runner tracks every promise, and this creates millions. chaos.test.js runs it with a few
// hundred jobs.
//
// The functions are the real ones, with an emulator of Firestore (FIRESTORE_EMULATOR_HOST). RunPod refuses, hangs up, or
// takes a job without a response. The worker's stand-in writes the documents as the worker does: it claims by the worker's
// table, is killed, fails, delivers spooled results, receives a job twice. Users repeat requests, reuse an id for another
// input, cancel and delete. Triggers come up to three times, in any order, some after everything else.
//
// The expected sum of each wallet is counted separately, only from what the worker delivered.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { setTimeout as pause } from "node:timers/promises";
import { World } from "./world.js";

const JOBS = Number(process.env.WALLET_JOBS ?? 300);
const SEED = Number(process.env.WALLET_SEED ?? Date.now() % 1_000_000);
const UNTIL = Date.now() + Number(process.env.WALLET_SECONDS ?? 86_400) * 1000; // ends earlier, with fewer jobs
const AT_ONCE = 24;
const DATABASE = "chaos"; // other tests may run at the same time
const MINUTE = 60_000;
const HELD = 100; // units, and credits, held without a quote
const RICH = 1_000_000;
const POOR = 250; // enough for two jobs

/** A seeded random number generator (mulberry32). */
function dice(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}
const random = dice(SEED);
const chance = (share) => random() < share;
const between = (least, most) => least + Math.floor(random() * (most - least + 1));
/** A random name, by weight. */
function pick(weights) {
  let rest = random() * Object.values(weights).reduce((sum, weight) => sum + weight, 0);
  for (const [name, weight] of Object.entries(weights)) if ((rest -= weight) < 0) return name;
  return Object.keys(weights).at(-1);
}
const soon = () => pause(between(0, 60));

const world = new World();
const seen = {}; // how often each thing happened
const note = (what) => void (seen[what] = (seen[what] ?? 0) + 1);
const owed = new Map(); // uid -> the results delivered to this user: {id, price}
const running = new Set(); // workers and deliveries in progress
const late = []; // triggers that are delivered after everything else
const users = Array.from({ length: Math.max(6, Math.ceil(JOBS / 8)) }, (_, number) => ({
  uid: `user-${number}`,
  granted: number % 8 === 0 ? POOR : RICH,
}));
let firestore;
let admin;
let wallets;
let other; // the wallets of a second instance of the functions, which competes with the first
let signQuote;
let jobs = 0;

console.debug = console.info = () => {}; // otherwise logs a line per call

async function start() {
  Object.assign(process.env, { CREDITS: "on", MAX_UNITS: String(HELD), FIRESTORE_DATABASE: DATABASE });
  await world.start();
  admin = await import("firebase-admin/firestore");
  firestore = admin.getFirestore(DATABASE);
  ({ wallets } = await import("../credits.js"));
  other = new (await import("../wallet.js")).Wallets({ database: DATABASE, creditsPer1000Units: 1000 });
  ({ signQuote } = await import("../quote.js"));
  world.answer = runpod;
  // If two transactions conflict, this emulator refuses one (Google's lets it wait), and the client then sleeps for seconds.
  const { setTimeoutHandler } = createRequire(import.meta.url)("@google-cloud/firestore/build/src/backoff");
  setTimeoutHandler((work, ms) => setTimeout(work, ms / 20));
}

/** Run work in the background; the program awaits it at the end. */
function beside(work) {
  const ended = work.finally(() => running.delete(ended));
  running.add(ended);
}

// ---- Firestore's documents and their triggers

const ref = ({ user_id: uid, file_uid: fileUid }) => firestore.doc(`generations/${uid}/files/${fileUid}`);
const snapshot = (fields) => ({ data: () => fields });

const stored = new Map(); // path -> the document; undefined once deleted
const turns = new Map(); // path -> the last write's end

/** Compare and swap, like every write of the worker. `decide` returns the document, null to delete, undefined to leave it. */
async function write(job, decide) {
  const { path } = ref(job);
  const change = (turns.get(path) ?? Promise.resolve()).then(async () => {
    const before = stored.get(path);
    const after = decide(before);
    if (after === undefined) return null;
    await (after === null ? ref(job).delete() : ref(job).set(after));
    stored.set(path, after ?? undefined);
    return { before, after: after ?? undefined };
  });
  turns.set(path, change);
  if (await change) tell(job, await change);
  return change;
}

/** Deliver a trigger at least once, to either instance, in any order, and again if it fails, as `retry` requires. */
function tell({ user_id: uid, file_uid: fileUid }, { before, after }) {
  const event = { params: { uid, fileUid }, data: { before: snapshot(before), after: snapshot(after) } };
  const deliver = async () => {
    const elsewhere = chance(0.3);
    for (;;) {
      try {
        return elsewhere ? await other.settle(uid, fileUid, { before, after }) : await world.functions.settle.run(event);
      } catch (error) {
        assert.ok(error.code === 10 || /retries/.test(error.message), `only contention makes a trigger fail: ${error.stack}`);
        note("triggers tried again");
      }
    }
  };
  for (let copy = between(1, 3); copy > 0; copy -= 1) {
    note("triggers");
    if (chance(0.05)) late.push(deliver);
    else beside(pause(between(0, 300)).then(deliver));
  }
}

// ---- RunPod: POST /run and /cancel

const takenBack = new Set(); // jobs

function runpod(url, { input }) {
  const [, stopped] = url.split("/cancel/");
  if (stopped !== undefined) {
    // For a running job this may come too late.
    const answer = pick({ "taken back": 8, "not there": 1, "no answer": 1 });
    note(`RunPod: ${answer}`);
    if (answer === "taken back") takenBack.add(stopped);
    return answer === "taken back" ? { status: 200, body: { id: stopped, status: "CANCELLED" } } : { status: answer === "not there" ? 404 : 502, body: {} };
  }
  jobs += 1;
  const job = { ...input, job_id: `job-${jobs}` };
  const answer = pick({ taken: 84, refused: 4, busy: 4, error: 2, "error, taken": 2, "hung up": 1, "hung up, taken": 2, "no id, taken": 1 });
  note(`RunPod: ${answer}`);
  if (answer.endsWith("taken")) beside(worked(job));
  if (answer.startsWith("hung up")) return null;
  if (answer === "refused") return { status: 400, body: {} };
  if (answer === "busy") return { status: 429, body: {} };
  if (answer.startsWith("error")) return { status: 502, body: {} };
  return { status: 200, body: answer === "taken" ? { id: job.job_id, status: "IN_QUEUE" } : {} };
}

// ---- the worker

const alive = () => admin.Timestamp.fromMillis(Date.now() + 90_000);
const ended = (fields) => ({ ...fields, expires_at: null, completed_at: admin.Timestamp.now() });
const isMine = (found, job, attempt) => found?.status === "processing" && found.job_id === job.job_id && found.attempt === attempt;

/** As document.transitions.decide_claim, as far as it affects credits. Returns the granted attempt, or null. */
async function claim(job, { redelivered = false } = {}) {
  let attempt = null;
  await write(job, (found) => {
    attempt = null;
    if (!found && redelivered) return undefined; // deleted
    if (found?.status === "queued" && found.cancel_requested) return ended({ ...found, status: "failed", job_id: job.job_id, error: { code: "cancelled" } });
    const same = found?.request === job.prompt;
    if (found?.status === "completed" && !(same && found.generation_data.storage !== "firebase")) return undefined;
    if (found?.status === "processing" && found.job_id !== job.job_id && found.expires_at.toMillis() > Date.now()) return undefined;
    attempt = (["completed", "failed", "processing"].includes(found?.status) ? found.attempt : 0) + 1;
    const { user_id, file_uid, job_id } = job;
    return { status: "processing", user_id, file_uid, job_id, attempt, request: job.prompt, expires_at: alive() };
  });
  return attempt;
}

const fail = (job, attempt, code, units) =>
  write(job, (found) =>
    isMine(found, job, attempt)
      ? ended({ ...found, status: "failed", error: { code, message: code, retryable: true }, ...(units && { usage: { gpu_seconds: 1, units } }) })
      : undefined,
  );

/** Write the result into the document. From then on it is owed, whatever happens to the document. */
async function complete(job, attempt, { storage = "firebase", from = (found) => isMine(found, job, attempt) } = {}) {
  const units = chance(0.05) ? between(150, 900) : between(1, HELD);
  const change = await write(job, (found) => {
    if (!from(found)) return undefined;
    const { error: _, ...kept } = found;
    return ended({ ...kept, status: "completed", generation_data: { storage }, usage: { gpu_seconds: 1, units } });
  });
  if (!change || storage !== "firebase") return;
  const price = Math.min(units, quoted(job));
  const uid = job.user_id;
  owed.set(uid, [...(owed.get(uid) ?? []), { id: `${job.file_uid}.${attempt}.${job.job_id}`, price }]);
  note("results");
}

async function worked(job, options) {
  await (chance(0.2) ? pause(between(100, 900)) : soon()); // the time in the queue
  const fate = pick({ completed: 58, failed: 10, refused: 4, killed: 9, spooled: 6, inline: 4, "never taken": 5, cancelled: 4 });
  if (fate === "never taken") return note(fate);
  if (takenBack.has(job.job_id)) return note("left the queue");
  const attempt = await claim(job, options);
  if (attempt === null) return note("claim denied");
  note(fate);
  await soon();
  if (chance(0.2)) await write(job, (found) => (isMine(found, job, attempt) ? { ...found, expires_at: alive() } : undefined));
  if (chance(0.03)) {
    note("deleted while it ran");
    await write(job, (found) => (found ? null : undefined));
  }
  if (fate === "completed") {
    await complete(job, attempt);
    if (chance(0.1)) await claim(job, { redelivered: true }); // answered from the document
    if (chance(0.1)) await write(job, (found) => (found?.status === "completed" ? { ...found, favorite: true } : undefined));
  } else if (fate === "inline") await complete(job, attempt, { storage: "base64" });
  else if (fate === "failed") await fail(job, attempt, "internal", between(1, HELD));
  else if (fate === "refused") await fail(job, attempt, "invalid_input", 0);
  else if (fate === "cancelled") await fail(job, attempt, "cancelled", between(1, HELD));
  else if (fate === "spooled") {
    await fail(job, attempt, "storage_unavailable", between(1, HELD));
    await pause(between(0, 400));
    const waits = (found) => found?.status === "failed" && found.job_id === job.job_id && found.attempt === attempt;
    await complete(job, attempt, { from: waits });
  } else if (fate === "killed") {
    if (chance(0.5)) return void (chance(0.5) && (await worked(job, { redelivered: true })));
    await fail(job, attempt, "worker_lost"); // by the reaper
    if (chance(0.3)) await worked(job, { redelivered: true });
  }
}

// ---- the app

const quotes = new Map(); // prompt -> its quoted price
const quoted = ({ prompt }) => quotes.get(prompt) ?? HELD;

async function wished(number) {
  const { uid } = users[between(0, users.length - 1)];
  const fileUid = `file-${number}`;
  const input = { prompt: `a fox ${number}` };
  const slip = chance(0.3);
  const data = { fileUid, input, slip };
  if (chance(0.4)) {
    const units = between(20, 300);
    quotes.set(input.prompt, units);
    data.quote = await signQuote({ uid, input, units }, process.env.TICKET_SECRET);
  }
  const ask = async (more = {}) => {
    const { status, error } = await world.call({ ...data, ...more }, { uid });
    note(`generate: ${error?.details?.reason ?? error?.status ?? status}`);
  };
  const file = { user_id: uid, file_uid: fileUid };
  if (slip) await write(file, (found) => (found ? undefined : { status: "queued" }));
  await Promise.all(Array.from({ length: chance(0.15) ? 3 : 1 }, () => ask()));
  if (chance(0.1)) await write(file, (found) => (found?.status === "queued" ? { ...found, cancel_requested: true } : undefined));
  while (chance(0.35)) {
    await pause(between(0, 400));
    if (chance(0.1)) await ask({ input: { prompt: "something else" }, quote: undefined });
    else if (chance(0.15)) await write(file, (found) => (found ? null : undefined));
    else await ask();
  }
}

// ---- the sums

const every = async (path) => (await firestore.collection(path).get()).docs;

async function looked() {
  for (const wallet of await every("wallets")) {
    const { credits, held, spent, granted } = wallet.data();
    assert.ok(credits >= 0 && held >= 0 && spent >= 0, `${wallet.id}: ${JSON.stringify(wallet.data())}`);
    assert.equal(credits + held + spent, granted, wallet.id);
  }
}

/** Run all jobs, then check that every sum is exact, none is negative, and nothing stays held. */
async function main() {
  console.error(`seed ${SEED}`);
  await start();
  await Promise.all(users.map(({ uid, granted }) => wallets().grant(uid, granted, "purchase", "order-1")));
  let next = 0;
  const lane = async () => {
    while (next < JOBS && Date.now() < UNTIL) {
      const number = (next += 1);
      await wished(number);
      if (number % 500 === 0) await looked();
      if (number % 500 === 0) console.error(`${number} of ${JOBS}`);
      // A sweep with a clock that is ahead returns the holds of running jobs: those are paid when they complete.
      if (number % Math.ceil(JOBS / 6) === 0) note(`swept too early, ${await wallets().sweep({ now: Date.now() + 31 * MINUTE })} not settled`);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, lane));
  while (running.size > 0) await Promise.all(running);
  await looked();

  // All remaining holds are due; the delayed triggers follow.
  while ((await wallets().sweep({ now: Date.now() + 31 * MINUTE })) > 0) note("sweeps tried again");
  for (const deliver of late) beside(deliver());
  while (running.size > 0) await Promise.all(running);
  await looked();

  const sums = { credits: 0, spent: 0, granted: 0, unpaid: 0, payments: 0, results: 0 };
  for (const { uid, granted } of users) {
    const wallet = (await firestore.doc(`wallets/${uid}`).get()).data();
    const [holds, ledger] = await Promise.all([every(`wallets/${uid}/holds`), every(`wallets/${uid}/ledger`)]);
    const states = new Set(holds.map((hold) => hold.data().state));
    assert.ok(!states.has("held") && wallet.held === 0, `${uid}: nothing is held for ever`);
    assert.equal(wallet.granted, granted);
    assert.equal(wallet.credits + wallet.spent, granted);
    const entries = ledger.map((entry) => ({ id: entry.id, ...entry.data() }));
    assert.equal(entries.reduce((sum, { credits }) => sum + credits, 0), wallet.credits, `${uid}: the ledger`);
    const payments = entries.filter(({ kind }) => kind === "payment");
    const paid = payments.map(({ id, credits, unpaid }) => [id, unpaid - credits]).sort();
    const delivered = (owed.get(uid) ?? []).map(({ id, price }) => [id, price]).sort();
    assert.deepEqual(paid, delivered, `${uid}: each result is paid once, at its price`);
    const unpaid = payments.reduce((sum, entry) => sum + entry.unpaid, 0);
    if (granted === RICH) assert.equal(unpaid, 0, `${uid}: who has enough pays all`);
    sums.credits += wallet.credits;
    sums.spent += wallet.spent;
    sums.granted += granted;
    sums.unpaid += unpaid;
    sums.payments += payments.length;
    sums.results += delivered.length;
  }
  assert.equal(sums.credits + sums.spent, sums.granted);
  assert.equal(sums.payments, sums.results);
  assert.ok(sums.results > next / 4);
  console.log(Object.entries(seen).sort().map(([what, count]) => `${what}: ${count}`).join("\n"));
  console.log(
    `WALLET: ${next} asked for, ${jobs} jobs, ${sums.results} results paid once each: granted ${sums.granted} = credits ${sums.credits}`
      + ` + spent ${sums.spent} + held 0; forgiven ${sums.unpaid}; none negative, none held`,
  );
  await world.stop();
  await firestore.terminate();
}

await main();
