// Tests the counter of submissions in a local Firestore at FIRESTORE_EMULATOR_HOST. Skipped without it.

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, test } from "node:test";
import { World } from "./world.js";

const INPUT = { prompt: "a fox" };
const LIMIT = 3;
const WITHOUT_FIRESTORE = !process.env.FIRESTORE_EMULATOR_HOST;

describe("a user who submits", { skip: WITHOUT_FIRESTORE }, () => {
  const world = new World();
  let firestore;
  let secondsToWait;

  before(async () => {
    await world.start();
    ({ secondsToWait } = await import("../limit.js"));
    firestore = (await import("firebase-admin/firestore")).getFirestore();
  });
  after(async () => {
    await world.stop();
    await firestore.terminate();
  });
  beforeEach(async () => {
    world.reset();
    process.env.JOBS_PER_MINUTE = String(LIMIT);
    const { docs } = await firestore.collection("submissions").get();
    await Promise.all(docs.map(({ ref }) => ref.delete()));
  });

  const call = (uid = "alice", data = { fileUid: "file-1", input: INPUT }) => world.call(data, { uid });
  const counter = async (uid) => (await firestore.doc(`submissions/${uid}`).get()).data();
  // Ensures that no minute ends while a test counts.
  const untilMinute = async () => {
    const left = 60_000 - (Date.now() % 60_000);
    if (left < 10_000) await new Promise((resolve) => setTimeout(resolve, left + 100)); // a timer may be early
  };

  test("too often is told so, and when the next one may come; nothing of it reaches RunPod", async () => {
    await untilMinute();
    for (let number = 1; number <= LIMIT; number += 1) assert.equal((await call()).status, 200);
    const { status, error } = await call();
    assert.deepEqual([status, error.status, world.sent.length], [429, "RESOURCE_EXHAUSTED", LIMIT]);
    const { retryAfterSeconds: seconds } = error.details;
    assert.ok(seconds > 0 && seconds <= 60);
    assert.match(error.message, new RegExp(`^At most 3 jobs a minute; try again in (${seconds}) seconds\\.$`));
    assert.equal((await counter("alice")).count, LIMIT);
  });

  test("does not count for another user", async () => {
    await untilMinute();
    for (let number = 1; number <= LIMIT; number += 1) await call("alice");
    assert.equal((await call("bob")).status, 200);
    assert.equal((await call("auth0|carol")).status, 200);
    assert.equal((await call("alice")).status, 429);
  });

  test("has as many again in the next minute, and each counter an end", async () => {
    const now = Date.UTC(2030, 0, 1, 12, 0, 50);
    const submit = (at) => secondsToWait("alice", { perMinute: 1, now: at });
    assert.equal(await submit(now), 0);
    assert.equal(await submit(now), 10);
    assert.equal(await submit(now + 9_001), 1);
    assert.equal(await submit(now + 10_000), 0);
    assert.equal((await counter("alice")).expires_at.toMillis(), now + 10_000 + 3_600_000);
  });

  test("is not counted anew by a machine whose clock is behind", async () => {
    const now = Date.UTC(2030, 0, 1, 12, 0, 50);
    const submit = (at) => secondsToWait("alice", { perMinute: 1, now: at });
    assert.equal(await submit(now), 0);
    assert.equal(await submit(now - 60_000), 70);
  });

  test("many at once gets no more than the limit", async () => {
    await untilMinute();
    const answers = await Promise.all(Array.from({ length: 12 }, () => call()));
    const taken = answers.filter(({ status }) => status === 200).length;
    assert.ok(taken >= 1 && taken <= LIMIT, String(taken));
    assert.deepEqual(new Set(answers.map(({ status }) => status)), new Set([200, 429]));
    assert.equal(world.sent.length, taken);
    assert.ok((await counter("alice")).count <= LIMIT);
  });

  test("what no worker could serve is not counted", async () => {
    assert.equal((await call("alice", { fileUid: "../x", input: INPUT })).status, 400);
    assert.equal(await counter("alice"), undefined);
  });

  test("what RunPod did not take is counted: a script cannot try for ever", async () => {
    await untilMinute();
    world.answer = { status: 500, body: {} };
    await call();
    assert.equal((await counter("alice")).count, 1);
  });

  test("while nobody can count is refused, without a word of Firestore's", async (context) => {
    const down = Object.assign(new Error("14 UNAVAILABLE: 10.0.0.7 does not answer"), { code: 14 });
    context.mock.method(firestore, "runTransaction", () => Promise.reject(down));
    const { status, error } = await call();
    assert.deepEqual([status, error.status, world.sent], [429, "RESOURCE_EXHAUSTED", []]);
    assert.equal(error.message, "Calls cannot be counted at the moment; try again later.");
  });

  test("while Firestore does not answer is refused after ten seconds", async (context) => {
    context.mock.method(firestore, "runTransaction", () => new Promise(() => {}));
    const started = Date.now();
    const { status } = await call();
    const waited = Date.now() - started;
    assert.deepEqual([status, world.sent], [429, []]);
    assert.ok(waited > 9_000 && waited < 30_000, String(waited));
  });

  test("is counted in the database that the worker uses", async () => {
    process.env.FIRESTORE_DATABASE = "photos";
    try {
      await call();
    } finally {
      delete process.env.FIRESTORE_DATABASE;
    }
    assert.equal(await counter("alice"), undefined);
  });

  test("with no limit at all is not counted", async () => {
    process.env.JOBS_PER_MINUTE = "0";
    for (let number = 0; number <= LIMIT; number += 1) assert.equal((await call()).status, 200);
    assert.equal(await counter("alice"), undefined);
  });
});
