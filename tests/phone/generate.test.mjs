// The phone's code of docs/client.md, run against a stub of Firebase in a time of its own.

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { generate } from "./generate.mjs";
import * as firebase from "./stub.mjs";

const HOUR = 3600;
let now, timers, asked;

const settle = () => new Promise((resolve) => setImmediate(resolve));

beforeEach(() => {
  [now, timers] = [1_800_000_000_000, new Map()];
  Date.now = () => now;
  globalThis.setInterval = (run, every) => {
    const timer = Symbol("timer");
    timers.set(timer, { run, every, due: now + every });
    return timer;
  };
  globalThis.clearInterval = (timer) => timers.delete(timer);
  firebase.setCall(async () => ({ data: { jobId: "job-1" } }));
});
afterEach(() => assert.deepEqual([timers.size, firebase.listeners], [0, 0], "a timer or a listener was left behind"));

/** Seconds in which the app is in the foreground; `each` is what happens in every one of them. */
async function awake(seconds, each = () => {}) {
  for (let second = 1; second <= seconds; second += 1) {
    now += 1000;
    for (const timer of [...timers.values()]) {
      if (timer.due > now) continue;
      timer.due = now + timer.every;
      timer.run();
    }
    each(second);
    await settle();
  }
}

/** Seconds in which the phone sleeps: timers stand still, and fire once when it wakes. */
const asleep = (seconds) => {
  now += seconds * 1000;
};

function start(more = {}) {
  asked = { progress: [] };
  const generation = generate({
    db: 1, functions: 1, uid: "alice", input: { prompt: "a fox" }, onProgress: (p) => asked.progress.push(p), ...more,
  });
  generation.result.then((value) => { asked.value = value; }, (error) => { asked.error = error; });
  return generation;
}

let beats = 0;
const at = (ms) => ({ toMillis: () => ms });
/** A document that a living worker wrote, by a server whose clock may differ from the phone's. */
const living = (aside = 0) => {
  beats += 1;
  const written = now + aside * 1000 + beats;
  return { status: "processing", job_id: "job-1", updated_at: at(written), expires_at: at(written + 90_000) };
};
const COMPLETED = { status: "completed", job_id: "job-1", generation_data: { image_url: "u" } };
const FAILED = { status: "failed", job_id: "job-1", error: { code: "cancelled" } };
const completes = async () => {
  firebase.push(COMPLETED);
  await settle();
  assert.deepEqual([asked.error, asked.value], [undefined, COMPLETED.generation_data]);
};

test("a result resolves, progress is told, and the document is the user's own", async () => {
  let sent;
  firebase.setCall(async (input) => { sent = input; return { data: { jobId: "job-1" } }; });
  const { fileUid, cancel } = start();
  firebase.push(undefined);
  firebase.push({ ...living(), progress: { percent: 5 } });
  await cancel();
  assert.deepEqual(firebase.writes.at(-1), [[1, "generations", "alice", "files", fileUid], { cancel_requested: true }]);
  await completes();
  assert.deepEqual(asked.progress, [{ percent: 5 }]);
  assert.deepEqual(sent, { fileUid, input: { prompt: "a fox" } });
});

// firebase-js-sdk#4163, react-native-firebase#5843, react-native#32155
for (const seconds of [180, 20 * 60, 26 * HOUR])
  for (const late of [0, 90])
    test(`an app that slept ${seconds} s, with a listener ${late} s late, does not call its job lost`, async () => {
      start();
      firebase.push(living());
      await awake(7);
      asleep(seconds);
      await awake(5 + late);
      firebase.push(living());
      await completes();
    });

test("an app that sleeps again and again does not call its job lost", async () => {
  start();
  firebase.push(living());
  for (let turn = 0; turn < 20; turn += 1) {
    await awake(80);
    asleep(100);
  }
  await completes();
});

test("an app that slept before its job was taken goes on waiting", async () => {
  start();
  firebase.push(undefined);
  await awake(14 * 60);
  asleep(HOUR);
  await awake(80);
  firebase.push(living());
  await completes();
});

// firebase-js-sdk#3289, flutterfire#9539, firebase-ios-sdk#13131
for (const code of ["deadline-exceeded", "unavailable", "internal", "cancelled", "unknown", "aborted", undefined])
  for (const taken of [true, false])
    test(`a callable that ends as ${code} ends no job ${taken ? "that runs" : "that may still come"}`, async () => {
      let reject;
      firebase.setCall(() => new Promise((_, no) => { reject = no; }));
      start();
      firebase.push(taken ? living() : undefined);
      reject(code ? { code: `functions/${code}` } : new TypeError("Network request failed"));
      await awake(60);
      firebase.push(living());
      await awake(3 * 60, (second) => second % 10 || firebase.push(living()));
      await completes();
    });

for (const code of ["invalid-argument", "permission-denied", "unauthenticated", "failed-precondition", "not-found",
  "resource-exhausted"])
  test(`a callable that ends as ${code} is a refusal`, async () => {
    const error = { code: `functions/${code}` };
    firebase.setCall(async () => { throw error; });
    start();
    await settle();
    assert.equal(asked.error, error);
  });

test("a refusal ends no job that runs", async () => {
  let reject;
  firebase.setCall(() => new Promise((_, no) => { reject = no; }));
  start();
  firebase.push(living());
  reject({ code: "functions/resource-exhausted" });
  await settle();
  await completes();
});

// TanStack/db PR#365, unleash-js-sdk PR#292, hermes#915
test("no crypto is needed, and no two files have one name", async () => {
  const crypto = Object.getOwnPropertyDescriptor(globalThis, "crypto");
  Object.defineProperty(globalThis, "crypto", { value: undefined, configurable: true });
  try {
    const names = new Set();
    for (let count = 0; count < 200; count += 1) {
      names.add(start().fileUid);
      await completes();
    }
    assert.equal(names.size, 200);
    for (const name of names) assert.match(name, /^[A-Za-z0-9_-]{20}$/);
  } finally {
    Object.defineProperty(globalThis, "crypto", crypto);
  }
});

test("a worker that is silent is lost, where a second look at the server brings nothing", async () => {
  start();
  firebase.push(living());
  await awake(99);
  assert.equal(asked.error, undefined);
  await awake(40);
  assert.deepEqual(asked.error, { code: "worker_lost", retryable: true });
});

test("a worker is lost at once where the server shows the same as before", async () => {
  start();
  const last = living();
  firebase.push(last);
  await awake(101);
  firebase.push(last, { fromCache: false });
  await settle();
  assert.deepEqual(asked.error, { code: "worker_lost", retryable: true });
});

test("a worker that is gone is found after the phone slept too", async () => {
  start();
  firebase.push(living());
  asleep(2 * HOUR);
  await awake(140);
  assert.equal(asked.error?.code, "worker_lost");
});

test("a listener that was stuck is woken by the second look", async () => {
  start();
  firebase.push(living());
  await awake(105);
  firebase.push(living());
  await awake(90);
  await completes();
});

test("without a network nothing is lost, however long", async () => {
  start();
  const last = living();
  firebase.push(last);
  // The SDK answers each new listener from its cache, where that holds the document and where it does not.
  let known = firebase.push;
  await awake(2 * HOUR, (second) => {
    if (known === firebase.push) return;
    known = firebase.push;
    firebase.push(second % 2 ? undefined : last, { fromCache: true });
  });
  assert.equal(asked.error, undefined);
  await completes();
});

test("a browser that says it is offline is believed", async () => {
  const before = Object.getOwnPropertyDescriptor(globalThis, "navigator");
  Object.defineProperty(globalThis, "navigator", { value: { onLine: false }, configurable: true });
  try {
    start();
    firebase.push(living());
    await awake(HOUR);
    globalThis.navigator.onLine = true;
    await awake(90);
    await completes();
  } finally {
    if (before) Object.defineProperty(globalThis, "navigator", before);
    else delete globalThis.navigator;
  }
});

for (const hours of [1, -1]) {
  test(`a phone whose clock is wrong by ${hours} h waits for a worker that lives`, async () => {
    start();
    await awake(10 * 60, (second) => second % 10 || firebase.push(living(hours * HOUR)));
    await completes();
  });

  test(`a phone whose clock is wrong by ${hours} h finds a worker that is gone`, async () => {
    start();
    firebase.push(living(hours * HOUR));
    await awake(140);
    assert.equal(asked.error?.code, "worker_lost");
  });

  test(`a clock that is set ${hours} h aside meanwhile is no loss`, async () => {
    start();
    firebase.push(living());
    await awake(50);
    asleep(hours * HOUR);
    await awake(50);
    await completes();
  });
}

test("a failure is told", async () => {
  start();
  firebase.push(living());
  firebase.push(FAILED);
  await settle();
  assert.equal(asked.error, FAILED.error);
});

for (const [what, answer] of Object.entries({
  "this job's": async () => ({ data: { jobId: "job-1" } }),
  "an unknown job's": async () => ({}),
  "a job's whose backend timed out": async () => { throw { code: "functions/deadline-exceeded" }; },
}))
  test(`a failure that is there at the first look is told where it is ${what}`, async () => {
    firebase.setCall(answer);
    start();
    firebase.push(FAILED);
    await settle();
    assert.equal(asked.error, FAILED.error);
  });

test("asked again, the failure of an earlier attempt is not this one's", async () => {
  firebase.setCall(async () => ({ data: { jobId: "job-2" } }));
  start({ fileUid: "again" });
  firebase.push(FAILED);
  await awake(200);
  assert.equal(asked.error, undefined);
  firebase.push({ ...living(), job_id: "job-2" });
  await completes();
});

test("asked again, a second failure is told", async () => {
  firebase.setCall(async () => ({ data: { jobId: "job-2" } }));
  start({ fileUid: "again" });
  firebase.push(FAILED);
  await settle();
  const second = { ...FAILED, job_id: "job-2", error: { code: "timeout" } };
  firebase.push(second);
  await settle();
  assert.equal(asked.error, second.error);
});

test("a job that nobody takes is given up after a quarter of an hour, with what the backend said", async () => {
  start();
  firebase.push(undefined);
  await awake(14 * 60);
  assert.equal(asked.error, undefined);
  await awake(2 * 60);
  assert.deepEqual(asked.error, { code: "worker_lost", retryable: true });
  const error = { code: "functions/unavailable" };
  firebase.setCall(async () => { throw error; });
  start();
  await awake(16 * 60);
  assert.equal(asked.error, error);
});

test("rules that refuse the listener are told", async () => {
  start();
  firebase.fail({ code: "permission-denied" });
  await settle();
  assert.equal(asked.error?.code, "permission-denied");
});
