// Tests what the client concludes from its document while the phone sleeps, has a wrong clock, is offline or was closed.
// Cases that come from a public report name it.

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import type { Client, Cursor, GenerateOptions, Memory } from "../src/index.js";
import { settle, told, World, type Job, type Told } from "./world.js";

const MINUTE = 60;
const HOUR = 3600;
const INPUT = { prompt: "a fox" };
const refused = (code: string) => Object.assign(new Error(code), { code: `functions/${code}` });

let world: World;
let client: Client;

beforeEach(() => {
  world = new World();
  world.install();
  client = world.client();
});
afterEach(async () => {
  await settle();
  assert.deepEqual([world.timers.size, world.listeners.size], [0, 0], "a timer or a listener was left behind");
  assert.deepEqual(new Set(world.generated).size, world.generated.length, "a generation was paid for twice");
});

async function start(more: GenerateOptions = {}): Promise<Told> {
  const seen = told((onChange) => client.generate(INPUT, { onChange, ...more }));
  await settle();
  await settle();
  return seen;
}

/** A generation that a worker has claimed. */
async function taken(more: GenerateOptions = {}): Promise<{ seen: Told; job: Job }> {
  const seen = await start(more);
  const { job, denied } = world.take();
  assert.equal(denied, undefined);
  await settle();
  return { seen, job };
}

/** Request a job in a session that ends before the response; returns what resumes it in another session. */
async function leftUnanswered(): Promise<() => Told> {
  const store = memory();
  client = world.client({ memory: store });
  world.answer = (_, submit) => {
    submit();
    return new Promise(() => undefined);
  };
  const { handle } = await start();
  world.close();
  return () => told((onChange) => world.client({ memory: store }).resume(handle.fileUid, { onChange }));
}

async function completes(seen: Told, job: Job): Promise<void> {
  world.complete(job);
  await settle();
  assert.equal(seen.error, undefined);
  assert.equal((seen.value as { image_url: string }).image_url, seen.handle.fileUid);
}

/** Assert that the generation has not ended. */
function waits(seen: Told): void {
  assert.deepEqual([seen.error, seen.value], [undefined, undefined]);
}

const asks = () => world.calls.filter(({ name }) => name === "generate");
const beatsOf = (job: Job) => (second: number) => void (second % 10 || world.beat(job));

// --- the usual course

test("a slip is there before anybody is asked, progress is told, and the result comes", async () => {
  let slip: unknown;
  world.answer = async (job, submit) => {
    slip = world.fields(job.file)?.["status"];
    return submit();
  };
  const { seen, job } = await taken();
  assert.equal(slip, "queued");
  assert.deepEqual(asks()[0]?.data, { fileUid: seen.handle.fileUid, input: INPUT, slip: true });
  world.beat(job, { percent: 5, step: 1, total_steps: 20, eta_seconds: 7, preview: "data:" });
  world.beat(job, { stage: "uploading", percent: 90 });
  await completes(seen, job);
  assert.deepEqual(seen.states, [
    { stage: "queued", offline: false },
    { stage: "generating", percent: 5, step: 1, total_steps: 20, eta_seconds: 7, preview: "data:", offline: false },
    { stage: "uploading", percent: 90, offline: false },
    { stage: "completed", percent: 100, offline: false },
  ]);
});

test("a stage that this version does not know is shown as the middle of the job", async () => {
  const { seen, job } = await taken();
  world.beat(job, { stage: "polishing", percent: 7 });
  assert.deepEqual(seen.last, { stage: "generating", percent: 7, offline: false });
  await completes(seen, job);
});

test("a failure is told, with the document's own words", async () => {
  const { seen, job } = await taken();
  world.fail(job, "storage_unavailable", false);
  await settle();
  const { code, message, retryable } = seen.error ?? {};
  assert.deepEqual([code, message, retryable], ["storage_unavailable", "storage_unavailable", false]);
  assert.deepEqual(seen.last, { stage: "failed", offline: false });
});

test("an app whose onChange throws loses no job, and hears of it", async () => {
  const global = globalThis as { console?: unknown };
  const { console } = global;
  let heard = 0;
  global.console = { error: () => (heard += 1) };
  try {
    const seen = told(() => client.generate(INPUT, { onChange: () => assert.fail("the app's mistake") }));
    await settle();
    await settle();
    await completes(seen, world.take().job);
  } finally {
    global.console = console;
  }
  assert.ok(heard > 1);
});

test("a question waits as long as its backend, and only what is consumed has a token of its own", async () => {
  world.startMs = 120_000; // the time limit of the function
  assert.deepEqual(await client.quote(INPUT), { name: "quote" });
  assert.deepEqual(await client.capabilities(), { name: "capabilities" });
  assert.equal(world.attested, 0);
  const { seen, job } = await taken();
  await client.report(seen.handle.fileUid, "harmful");
  assert.equal(world.attested, 2);
  await completes(seen, job);
});

test("nobody is signed in: a promise says so", async () => {
  const { result, fileUid } = world.client({ uid: () => null }).generate(INPUT);
  assert.match(fileUid, /^\w{20}$/);
  await assert.rejects(result, { code: "unauthenticated" });
});

for (const fileUid of ["", "a/b", "..", "__all__", "x".repeat(129)])
  test(`"${fileUid.slice(0, 9)}" names no file: a promise says so, and nothing is remembered`, async () => {
    await assert.rejects(client.generate(INPUT, { fileUid }).result, { code: "invalid-argument", retryable: false });
    assert.deepEqual([await client.inFlight(), world.calls, world.documents.size], [[], [], 0]);
  });

// --- F05: firebase-js-sdk#4163, react-native-firebase#5843, react-native#32155

for (const seconds of [180, 20 * MINUTE, 26 * HOUR])
  for (const late of [0, 90])
    test(`an app that slept ${seconds} s, with a listener ${late} s late, does not call its job lost`, async () => {
      const { seen, job } = await taken();
      await world.awake(7);
      world.asleep(seconds, late);
      world.beat(job);
      await world.awake(5 + late, beatsOf(job));
      await completes(seen, job);
    });

test("an app that sleeps again and again does not call its job lost", async () => {
  const { seen, job } = await taken();
  for (let turn = 0; turn < 20; turn += 1) {
    await world.awake(80, beatsOf(job));
    world.asleep(100, 30);
    world.beat(job);
  }
  await world.awake(31);
  await completes(seen, job);
});

test("an app that slept before its job was taken goes on waiting", async () => {
  const seen = await start();
  await world.awake(14 * MINUTE);
  world.asleep(HOUR);
  await world.awake(80);
  const { job } = world.take();
  await completes(seen, job);
});

test("timers that were held back and fire in a burst are no time", async () => {
  const { seen, job } = await taken();
  for (let tick = 0; tick < 1000; tick += 1) for (const { run } of world.timers.values()) run();
  await world.awake(20);
  waits(seen);
  assert.equal(world.looks, 0);
  await completes(seen, job);
});

test("a second listener of the same document, deaf after a sleep, is no witness of a loss", async () => {
  const { seen, job } = await taken();
  const { onSnapshot } = world.modules().firestore as unknown as { onSnapshot: (...all: unknown[]) => () => void };
  const stop = onSnapshot(job.file, { includeMetadataChanges: true }, () => undefined, () => undefined);
  await settle();
  world.asleep(HOUR, 10 * MINUTE);
  await world.awake(9 * MINUTE, beatsOf(job));
  waits(seen);
  await world.awake(2 * MINUTE, beatsOf(job));
  stop();
  await completes(seen, job);
});

// --- F07: firebase-js-sdk#3289, flutterfire#9539, firebase-ios-sdk#13131

for (const code of ["deadline-exceeded", "unavailable", "internal", "cancelled", "unknown", "aborted", undefined])
  for (const early of [true, false])
    test(`a callable that ends as ${code} ends no job ${early ? "that runs" : "that may still come"}`, async () => {
      let reject: (error: unknown) => void = () => undefined;
      world.answer = (_, submit) => {
        submit();
        return new Promise((_resolve, no) => (reject = no));
      };
      const seen = await start();
      const before = early ? world.take().job : undefined;
      reject(code ? { code: `functions/${code}` } : new TypeError("Network request failed"));
      await world.awake(60, before && beatsOf(before));
      const job = before ?? world.take().job;
      await world.awake(3 * MINUTE, beatsOf(job));
      await completes(seen, job);
    });

for (const code of ["invalid-argument", "permission-denied", "unauthenticated", "failed-precondition", "not-found", "resource-exhausted"])
  test(`a callable that ends as ${code} is a refusal, and its slip goes`, async () => {
    world.answer = async () => Promise.reject(Object.assign(refused(code), { details: { retryAfterSeconds: 7 } }));
    const seen = await start();
    await settle();
    assert.deepEqual([seen.error?.code, seen.error?.retryable], [code, code === "resource-exhausted"]);
    assert.deepEqual((seen.error as unknown as { details: unknown }).details, { retryAfterSeconds: 7 });
    assert.equal(world.documents.size, 0);
    assert.deepEqual(await client.inFlight(), []);
  });

test("a refusal ends no job that runs", async () => {
  let reject: (error: unknown) => void = () => undefined;
  world.answer = (_, submit) => {
    submit();
    return new Promise((_resolve, no) => (reject = no));
  };
  const seen = await start();
  const { job } = world.take();
  reject(refused("resource-exhausted"));
  await settle();
  await completes(seen, job);
});

test("a call that never reached the backend is made again, with the same name and input", async () => {
  let first = true;
  world.answer = async (_, submit) => {
    if (!first) return submit();
    first = false;
    throw refused("internal");
  };
  const seen = await start();
  await world.awake(30);
  assert.deepEqual(asks().length, 2);
  assert.deepEqual(asks()[0]?.data, asks()[1]?.data);
  await completes(seen, world.take().job);
});

test("a call that never answers is made again", async () => {
  let first = true;
  world.answer = async (_, submit) => {
    if (!first) return submit();
    first = false;
    return new Promise(() => undefined);
  };
  const seen = await start();
  await world.awake(4 * MINUTE);
  assert.equal(asks().length, 2);
  await completes(seen, world.take().job);
});

test("where only the answer was lost, a second call makes no second generation", async () => {
  let first = true;
  world.answer = async (_, submit) => {
    const answer = submit();
    if (first) {
      first = false;
      throw refused("internal");
    }
    return answer;
  };
  const seen = await start();
  await world.awake(5 * MINUTE);
  assert.equal(world.queue.length, 2);
  const { job } = world.take();
  assert.equal(world.take().denied, "duplicate");
  await completes(seen, job);
});

test("nothing is asked again while a worker is at it", async () => {
  world.answer = async (_, submit) => {
    submit();
    throw refused("unavailable");
  };
  const seen = await start();
  const { job } = world.take();
  await world.awake(10 * MINUTE, beatsOf(job));
  assert.equal(asks().length, 1);
  await completes(seen, job);
});

test("a second call that is refused says nothing of the first", async () => {
  let first = true;
  world.answer = async (_, submit) => {
    if (!first) throw refused("resource-exhausted");
    first = false;
    submit();
    throw refused("internal");
  };
  const seen = await start();
  await world.awake(MINUTE);
  assert.ok(asks().length > 1);
  waits(seen);
  await completes(seen, world.take().job);
});

test("a backend that stays away is asked four times in all, and then told of", async () => {
  world.answer = async () => Promise.reject(refused("unavailable"));
  const seen = await start();
  await world.awake(16 * MINUTE);
  assert.deepEqual([asks().length, seen.error?.code], [4, "unavailable"]);
});

// --- F11: TanStack/db PR#365, unleash-js-sdk PR#292, hermes#915

test("neither crypto nor navigator is needed, and no two files have one name", async () => {
  const global = globalThis as Record<string, unknown>;
  const before = ["crypto", "navigator", "window", "document"].map(
    (name) => [name, Object.getOwnPropertyDescriptor(globalThis, name)] as const,
  );
  for (const [name] of before) Object.defineProperty(globalThis, name, { value: undefined, configurable: true });
  try {
    const names = new Set<string>();
    for (let count = 0; count < 200; count += 1) {
      const { seen, job } = await taken();
      names.add(seen.handle.fileUid);
      await completes(seen, job);
    }
    assert.equal(names.size, 200);
    for (const name of names) assert.match(name, /^[A-Za-z0-9_-]{20}$/);
  } finally {
    for (const [name, property] of before) {
      if (property) Object.defineProperty(globalThis, name, property);
      else delete global[name];
    }
  }
});

// --- a lost worker

test("a worker that is silent is lost, where the server shows the same as before", async () => {
  const { seen } = await taken();
  await world.awake(99);
  waits(seen);
  assert.equal(world.looks, 0);
  await world.awake(10);
  assert.deepEqual([seen.error?.code, seen.error?.retryable, world.looks], ["worker_lost", true, 1]);
});

test("a worker that is gone is found after the phone slept, too", async () => {
  const { seen } = await taken();
  world.asleep(2 * HOUR);
  await world.awake(140);
  assert.equal(seen.error?.code, "worker_lost");
});

test("a listener that was stuck is helped by a look at the server", async () => {
  const { seen, job } = await taken();
  world.deafUntil = world.time + 99_000;
  await world.awake(105, (second) => {
    if (second === 98) world.beat(job);
  });
  waits(seen);
  await world.awake(80, beatsOf(job));
  await completes(seen, job);
});

test("a look that brings nothing proves nothing", async () => {
  const { seen, job } = await taken();
  world.deafUntil = world.time + HOUR * 1000;
  await world.awake(30 * MINUTE);
  waits(seen);
  world.deafUntil = world.time;
  world.beat(job);
  await completes(seen, job);
});

test("a worker that says nothing of its lease has a hundred seconds", async () => {
  const seen = await start();
  world.write(seen.handle.fileUid, { status: "processing" });
  await world.awake(95);
  waits(seen);
  await world.awake(20);
  assert.equal(seen.error?.code, "worker_lost");
});

test("a job that nobody takes is given up after a quarter of an hour, and is then made for nobody", async () => {
  const seen = await start();
  await world.awake(14 * MINUTE);
  waits(seen);
  await world.awake(2 * MINUTE);
  assert.deepEqual([seen.error?.code, seen.error?.retryable], ["worker_lost", true]);
  assert.equal(world.take().denied, "deleted");
});

test("how long a job may wait is the app's to say", async () => {
  const seen = told((onChange) => world.client({ queueSeconds: HOUR }).generate(INPUT, { onChange }));
  await world.awake(50 * MINUTE);
  await completes(seen, world.take().job);
});

// --- no network

for (const knownAfter of [1, 10, 2 * HOUR])
  for (const disk of [true, false])
    test(`offline for hours, known ${knownAfter} s after${disk ? ", with a cache on disk" : ""}, nothing is lost`, async () => {
      world.disk = disk;
      const { seen, job } = await taken();
      world.cut(knownAfter);
      await world.awake(HOUR, beatsOf(job));
      waits(seen);
      assert.equal(seen.last?.offline, knownAfter < HOUR);
      world.restore();
      await world.awake(90, beatsOf(job));
      assert.equal(seen.last?.offline, false);
      await completes(seen, job);
    });

test("a network that comes and goes for an hour loses nothing", async () => {
  const { seen, job } = await taken();
  for (let turn = 0; turn < 60; turn += 1) {
    world.cut(turn % 20);
    await world.awake(45, beatsOf(job));
    world.restore(turn % 7);
    await world.awake(15, beatsOf(job));
  }
  await completes(seen, job);
});

test("a worker that was lost while the phone was offline is found when it is back", async () => {
  const { seen } = await taken();
  world.cut();
  await world.awake(HOUR);
  waits(seen);
  world.restore();
  await world.awake(20);
  assert.equal(seen.error?.code, "worker_lost");
});

test("asked without a network, a job begins when there is one, and only once", async () => {
  world.cut(0);
  const seen = await start();
  await world.awake(HOUR);
  assert.deepEqual([asks().length, seen.error, seen.last?.offline], [0, undefined, true]);
  world.restore();
  await world.awake(10);
  assert.deepEqual([asks().length, seen.last?.offline], [1, false]);
  await completes(seen, world.take().job);
});

test("a start with nothing but a cache on disk is no word of being offline", async () => {
  world.disk = true;
  const { seen, job } = await taken();
  await completes(seen, job);
  assert.ok(seen.states.every(({ offline }) => !offline));
});

test("the network goes between slip and call: the call is made again once it is back", async () => {
  world.answer = async () => {
    world.cut();
    throw new TypeError("Network request failed");
  };
  const seen = await start();
  world.answer = async (_, submit) => submit();
  await world.awake(10 * MINUTE);
  assert.deepEqual([asks().length, seen.error], [1, undefined]);
  world.restore();
  await world.awake(90);
  assert.equal(asks().length, 2);
  await completes(seen, world.take().job);
});

// --- clocks

for (const hours of [1, -1, 24 * 365]) {
  test(`a phone whose clock is wrong by ${hours} h waits for a worker that lives`, async () => {
    world.aside = hours * HOUR * 1000;
    const { seen, job } = await taken();
    await world.awake(10 * MINUTE, beatsOf(job));
    await completes(seen, job);
  });

  test(`a phone whose clock is wrong by ${hours} h finds a worker that is gone`, async () => {
    world.aside = hours * HOUR * 1000;
    const { seen } = await taken();
    await world.awake(140);
    assert.equal(seen.error?.code, "worker_lost");
  });

  test(`a clock that is set ${hours} h aside meanwhile is no loss`, async () => {
    const { seen, job } = await taken();
    await world.awake(50);
    world.aside = hours * HOUR * 1000;
    await world.awake(45);
    waits(seen);
    await completes(seen, job);
  });
}

test("a clock that jumps every minute is no loss", async () => {
  const { seen, job } = await taken();
  await world.awake(20 * MINUTE, (second) => {
    if (second % 60 === 0) world.aside = (second % 240) * 30_000;
    beatsOf(job)(second);
  });
  await completes(seen, job);
});

// --- repeated requests

test("asked again, the failure of an earlier attempt is not this one's", async () => {
  const first = await taken({ fileUid: "again" });
  world.fail(first.job, "timeout", true);
  await settle();
  assert.equal(first.seen.error?.code, "timeout");
  world.generated = [];
  const seen = await start({ fileUid: "again" });
  await world.awake(200);
  assert.deepEqual([asks().length, seen.error], [2, undefined]);
  await completes(seen, world.take().job);
});

test("asked again, a second failure is told", async () => {
  const first = await taken({ fileUid: "again" });
  world.fail(first.job, "timeout", true);
  await settle();
  world.generated = [];
  const second = await taken({ fileUid: "again" });
  world.fail(second.job, "out_of_memory");
  await settle();
  assert.equal(second.seen.error?.code, "out_of_memory");
});

for (const [what, answer] of Object.entries({
  "the job that the backend names": async () => ({ data: { jobId: "job-0" } }),
  "a job that the backend does not name": async () => ({ data: null }),
}))
  test(`asked again, a failure that is there is told where it is that of ${what}`, async () => {
    world.write("again", { status: "failed", job_id: "job-0", error: { code: "forbidden", message: "", retryable: false } });
    world.answer = answer;
    const seen = await start({ fileUid: "again" });
    await settle();
    assert.equal(seen.error?.code, "forbidden");
  });

test("asked again for what is there, the result comes without a call", async () => {
  const first = await taken({ fileUid: "again" });
  await completes(first.seen, first.job);
  const seen = await start({ fileUid: "again" });
  await settle();
  assert.deepEqual([(seen.value as { image_url: string }).image_url, asks().length], ["again", 1]);
});

test("asked again while a worker is at it, the job is watched and not asked for", async () => {
  const { seen, job } = await taken({ fileUid: "again" });
  const other = told((onChange) => world.client().generate(INPUT, { fileUid: "again", onChange }));
  await settle();
  await world.awake(3 * MINUTE, beatsOf(job));
  assert.equal(asks().length, 1);
  await completes(seen, job);
  await completes(other, job);
});

test("asked again after its worker was lost, a new one takes it over", async () => {
  const first = await taken({ fileUid: "again" });
  await world.awake(2 * MINUTE);
  assert.equal(first.seen.error?.code, "worker_lost");
  world.generated = [];
  const seen = await start({ fileUid: "again" });
  await world.awake(10);
  assert.equal(asks().length, 2);
  await world.awake(5 * MINUTE); // queued, while the document shows the lost job
  waits(seen);
  const { job, denied } = world.take();
  assert.equal(denied, undefined);
  await completes(seen, job);
});

test("asked again by an app that knows no time yet, a lost worker is replaced as soon as that is sure", async () => {
  const first = await taken({ fileUid: "again" });
  first.seen.handle.stop();
  world.generated = [];
  world.asleep(HOUR);
  const seen = told((onChange) => world.client().generate(INPUT, { fileUid: "again", onChange }));
  await world.awake(120);
  assert.equal(asks().length, 2);
  await completes(seen, world.take().job);
});

test("asked twice at once, there is one call and one listener", async () => {
  const one = told((onChange) => client.generate(INPUT, { fileUid: "twice", onChange }));
  const two = told((onChange) => client.generate(INPUT, { fileUid: "twice", onChange }));
  await settle();
  await settle();
  assert.deepEqual([asks().length, world.listeners.size], [1, 1]);
  const { job } = world.take();
  await completes(one, job);
  await completes(two, job);
});

test("a failure may be answered by asking again from onChange", async () => {
  const again: Told[] = [];
  const seen = told(() =>
    client.generate(INPUT, {
      fileUid: "again",
      onChange: ({ stage }) => {
        if (stage === "failed") again.push(told((onChange) => client.generate(INPUT, { fileUid: "again", onChange })));
      },
    }),
  );
  await settle();
  await settle();
  world.fail(world.take().job, "gpu_fault", true);
  world.generated = [];
  await settle();
  await settle();
  assert.equal(seen.error?.code, "gpu_fault");
  await completes(again[0] as Told, world.take().job);
});

// --- cancelling

test("a job that waits is cancelled at once, and whoever takes it draws nothing", async () => {
  const seen = await start();
  await seen.handle.cancel();
  await settle();
  assert.equal(seen.error?.code, "cancelled");
  assert.equal(world.take().denied, "cancelled");
  assert.deepEqual(world.generated, []);
});

test("of a job that was asked for twice, neither is drawn once it is cancelled", async () => {
  let first = true;
  world.answer = async (_, submit) => {
    const answer = submit();
    if (!first) return answer;
    first = false;
    throw refused("internal");
  };
  const seen = await start();
  await world.awake(30);
  assert.equal(world.queue.length, 2);
  await seen.handle.cancel();
  await settle();
  assert.deepEqual([world.take().denied, world.take().denied], ["deleted", "deleted"]);
  assert.deepEqual([seen.error?.code, world.generated], ["cancelled", []]);
});

test("asked for again after a failure and cancelled while it waits, nothing is drawn", async () => {
  const first = await taken({ fileUid: "again" });
  world.fail(first.job, "gpu_fault", true);
  await settle();
  world.generated = [];
  const seen = await start({ fileUid: "again" });
  assert.equal(asks().length, 2);
  await seen.handle.cancel();
  await settle();
  assert.equal(seen.error?.code, "cancelled");
  assert.deepEqual([world.take().denied, world.generated], ["deleted", []]);
});

test("asked for in two sessions and cancelled in the second, nothing is drawn", async () => {
  const resume = await leftUnanswered();
  world.answer = async (_, submit) => submit();
  const seen = resume();
  await world.awake(3);
  assert.equal(world.queue.length, 2);
  await seen.handle.cancel();
  await settle();
  assert.equal(seen.error?.code, "cancelled");
  assert.deepEqual([world.take().denied, world.take().denied, world.generated], ["deleted", "deleted", []]);
});

test("asked for in an earlier session, a job is not ended by a refusal in this one", async () => {
  const resume = await leftUnanswered();
  world.answer = async () => Promise.reject(refused("failed-precondition")); // its quote has expired
  const seen = resume();
  await world.awake(MINUTE);
  assert.ok(asks().length > 1);
  waits(seen);
  await completes(seen, world.take().job);
});

test("asked for in an earlier session and deleted on another device since, a job is not asked for again", async () => {
  const resume = await leftUnanswered();
  await world.client().remove(String([...world.documents.keys()][0]));
  const seen = resume();
  await world.awake(5);
  assert.deepEqual([seen.error?.code, asks().length, world.take().denied], ["deleted", 1, "deleted"]);
});

test("cancelled as soon as it is resumed, a job that was asked for before is not drawn", async () => {
  const resume = await leftUnanswered();
  const seen = resume();
  await seen.handle.cancel();
  await settle();
  assert.equal(seen.error?.code, "cancelled");
  assert.deepEqual([world.take().denied, world.generated], ["deleted", []]);
});

test("a job that waits and is cancelled on another device is cancelled on this one", async () => {
  const seen = await start();
  const other = told((onChange) => world.client().resume(seen.handle.fileUid, { onChange }));
  await world.awake(5);
  await other.handle.cancel();
  await settle();
  assert.deepEqual([seen.error?.code, other.error?.code], ["cancelled", "cancelled"]);
  assert.equal(world.take().denied, "cancelled");
});

test("cancelled by an app that was closed before it heard of that, a job is not asked for again", async () => {
  const resume = await leftUnanswered();
  const [file] = world.documents.keys();
  world.write(String(file), { ...world.fields(String(file)), cancel_requested: true });
  const seen = resume();
  await world.awake(5);
  assert.deepEqual([seen.error?.code, asks().length, world.take().denied], ["cancelled", 1, "deleted"]);
});

for (const [what, there] of Object.entries<() => void>({
  "an earlier failure": () => world.write("again", { status: "failed", job_id: "job-0", error: { code: "timeout" } }),
  "nothing, by rules that take no slips": () => void (world.slipsAreTaken = false),
}))
  test(`cancelled before it is known that there is ${what}, a job ends, and nobody is asked`, async () => {
    there();
    const { firestore } = world.modules();
    const { runTransaction, onSnapshot } = firestore as unknown as Record<string, (...all: unknown[]) => unknown>;
    let open: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => (open = resolve));
    const slow = {
      ...firestore,
      runTransaction: async (...all: unknown[]) => gate.then(() => runTransaction?.(...all)),
      onSnapshot: (...all: unknown[]) => {
        let stop: unknown = () => undefined;
        void gate.then(() => stop && (stop = onSnapshot?.(...all)));
        return () => {
          (stop as () => void)();
          stop = undefined;
        };
      },
    } as typeof firestore;
    const seen = told((onChange) => world.client({ firestore: slow }).generate(INPUT, { fileUid: "again", onChange }));
    await settle();
    const cancelling = seen.handle.cancel();
    await settle();
    open();
    await cancelling;
    await settle();
    assert.deepEqual([seen.error?.code, asks().length], ["cancelled", 0]);
  });

for (const [when, network] of Object.entries<() => void>({
  "as soon as it is asked for again": () => undefined,
  "before it is known that it is there": () => void (world.deafUntil = world.time + 2000),
}))
  test(`cancelled ${when}, a job that an earlier screen asked for is cancelled, too`, async () => {
    for (const isRunning of [true, false]) {
      const fileUid = `again-${isRunning}`;
      const first = isRunning ? (await taken({ fileUid })).seen : await start({ fileUid });
      first.handle.stop();
      await settle();
      network();
      const seen = told((onChange) => client.generate(INPUT, { fileUid, onChange }));
      if (world.deafUntil > world.time) await settle();
      await seen.handle.cancel();
      await world.awake(5);
      assert.equal(seen.error?.code, "cancelled");
      if (isRunning) assert.equal(world.fields(fileUid)?.["cancel_requested"], true);
      else assert.equal(world.take().denied, "deleted");
    }
    assert.equal(asks().length, 2);
  });

for (const how of ["cancelled", "refused"])
  test(`a job whose app was closed between slip and call leaves no slip where it is ${how}`, async () => {
    world.write("left", { status: "queued", created_at: { toMillis: () => world.time } });
    const left = new Map([["generation-client/alice", JSON.stringify({ left: { input: INPUT } })]]);
    client = world.client({ memory: memory(left) });
    world.answer = async () => Promise.reject(refused("failed-precondition"));
    const seen = told((onChange) => client.resume("left", { onChange }));
    if (how === "cancelled") await seen.handle.cancel();
    await world.awake(5);
    assert.deepEqual([seen.error?.code, asks().length], how === "cancelled" ? ["cancelled", 0] : ["failed-precondition", 1]);
    assert.deepEqual([world.documents.size, left.size], [0, 0]);
  });

for (const code of ["failed-precondition", "internal"])
  test(`cancelled during a call that ends as ${code}, a job leaves no slip`, async () => {
    let end: () => void = () => undefined;
    world.answer = () => new Promise((_, reject) => (end = () => reject(refused(code))));
    const seen = await start();
    await seen.handle.cancel();
    await settle();
    assert.deepEqual([seen.error?.code, world.fields(seen.handle.fileUid)?.["cancel_requested"]], ["cancelled", true]);
    end();
    await world.awake(2);
    assert.deepEqual([asks().length, world.documents.size], [1, 0]);
  });

for (const isCalled of [false, true])
  test(`cancelled ${isCalled ? "during its call" : "before its slip was taken"} and begun again, a job is made`, async () => {
    let end: () => void = () => undefined;
    world.answer = () => new Promise((_, reject) => (end = () => reject(refused("internal"))));
    if (!isCalled) world.deafUntil = world.time + 2000;
    const first = await start({ fileUid: "again" });
    await first.handle.cancel();
    world.answer = async (_, submit) => submit();
    const seen = told((onChange) => client.generate(INPUT, { fileUid: "again", onChange }));
    await world.awake(5);
    end();
    await world.awake(5);
    assert.deepEqual([first.error?.code, asks().length], ["cancelled", isCalled ? 2 : 1]);
    await completes(seen, world.take().job);
  });

for (const device of ["this", "another"])
  test(`cancelled on ${device} device after a call that did not get through, a job leaves no slip`, async () => {
    world.answer = async () => Promise.reject(refused("internal"));
    const seen = await start();
    if (device === "this") await seen.handle.cancel();
    else world.write(seen.handle.fileUid, { ...world.fields(seen.handle.fileUid), cancel_requested: true });
    await settle();
    assert.deepEqual([seen.error?.code, asks().length, world.documents.size], ["cancelled", 1, 0]);
  });

for (const isRunning of [true, false])
  test(`cancelled during its call, begun again and left, a job that ${isRunning ? "runs" : "waits"} goes on`, async () => {
    let end: () => void = () => undefined;
    world.answer = () => new Promise((_, reject) => (end = () => reject(refused("deadline-exceeded"))));
    const first = await start({ fileUid: "again" });
    await first.handle.cancel();
    world.answer = async (_, submit) => submit();
    const again = await start({ fileUid: "again" });
    await world.awake(2);
    if (isRunning) assert.equal(world.take().denied, undefined);
    again.handle.stop();
    await settle();
    end();
    await world.awake(5);
    assert.deepEqual([world.fields("again")?.["status"], world.fields("again")?.["cancel_requested"]], [
      isRunning ? "processing" : "queued",
      undefined,
    ]);
  });

test("a job that runs is cancelled by its worker", async () => {
  const { seen, job } = await taken();
  await seen.handle.cancel();
  assert.equal(world.fields(job.file)?.["cancel_requested"], true);
  waits(seen);
  world.fail(job, "cancelled");
  await settle();
  assert.equal(seen.error?.code, "cancelled");
});

test("cancelled before anybody was asked, nobody is", async () => {
  const seen = told((onChange) => client.generate(INPUT, { onChange }));
  await seen.handle.cancel();
  await world.awake(5);
  assert.deepEqual([seen.error?.code, asks().length, world.documents.size], ["cancelled", 0, 0]);
});

test("cancelled without a network, nobody is asked when there is one, and no slip stays", async () => {
  world.cut(0);
  const seen = await start();
  await world.awake(60);
  await seen.handle.cancel();
  await settle();
  assert.equal(seen.error?.code, "cancelled");
  world.restore();
  await settle();
  world.pump();
  assert.deepEqual([asks().length, world.documents.size], [0, 0]);
});

test("a cancel without a network resolves when the server knows", async () => {
  const { seen, job } = await taken();
  world.cut();
  let known = false;
  void seen.handle.cancel().then(() => (known = true));
  await world.awake(60);
  assert.equal(known, false);
  world.restore();
  await settle();
  assert.equal(known, true);
  world.fail(job, "cancelled");
  await settle();
});

for (const [what, begin] of Object.entries<() => Promise<string>>({
  "that waits": async () => (await start()).handle.fileUid,
  "that runs": async () => (await taken()).job.file,
  "that has no answer": async () => {
    world.answer = (_, submit) => (submit(), new Promise(() => undefined));
    return (await start()).handle.fileUid;
  },
  "of another device": async () => {
    const mine = client;
    client = world.client();
    const { job, seen } = await taken();
    seen.handle.stop();
    client = mine;
    return job.file;
  },
}))
  test(`cancelled without a network by an app that is then closed, a job ${what} ends when it is resumed`, async () => {
    const store = memory();
    client = world.client({ memory: store });
    const file = await begin();
    const { handle } = told((onChange) => client.resume(file, { onChange }));
    await world.awake(5);
    world.cut();
    void handle.cancel();
    await world.awake(MINUTE);
    world.close();
    world.restore();
    client = world.client({ memory: store });
    assert.deepEqual(await client.inFlight(), [file]);
    const seen = told((onChange) => client.resume(file, { onChange }));
    await world.awake(5);
    if (world.queue.length > 0) assert.ok(["cancelled", "deleted"].includes(String(world.take().denied)));
    else if (world.fields(file)?.["cancel_requested"]) world.fail({ file } as Job, "cancelled");
    await settle();
    assert.deepEqual([seen.error?.code, asks().length, await client.inFlight()], ["cancelled", 1, []]);
  });

test("cancelled without a network, and resumed without one, a job that an earlier screen asked for is cancelled", async () => {
  const first = await taken({ fileUid: "again" });
  first.seen.handle.stop();
  const store = memory();
  client = world.client({ memory: store });
  const { handle } = await start({ fileUid: "again" });
  await world.awake(5);
  world.cut();
  void handle.cancel();
  await world.awake(5);
  world.close();
  const seen = told((onChange) => world.client({ memory: store }).resume("again", { onChange }));
  await world.awake(MINUTE);
  waits(seen);
  world.restore();
  await world.awake(5);
  assert.equal(world.fields("again")?.["cancel_requested"], true);
  world.fail(first.job, "cancelled");
  await settle();
  assert.equal(seen.error?.code, "cancelled");
});

test("cancelled without a network and asked for again in another session, a job is made", async () => {
  const store = memory();
  client = world.client({ memory: store });
  const { job } = await taken({ fileUid: "again" });
  world.cut();
  const { handle } = await start({ fileUid: "again" });
  void handle.cancel();
  await world.awake(5);
  world.close();
  world.restore();
  client = world.client({ memory: store });
  const seen = await start({ fileUid: "again" });
  await world.awake(5);
  await completes(seen, job);
});

test("a cancel that comes too late is none", async () => {
  const { seen, job } = await taken();
  await completes(seen, job);
  await seen.handle.cancel();
});

test("a result that overtakes a cancel is a result", async () => {
  const { seen, job } = await taken();
  world.deafUntil = world.time + 10_000;
  world.complete(job);
  const cancelling = seen.handle.cancel();
  await world.awake(15);
  await cancelling;
  assert.ok(seen.value);
});

test("cancelled and asked for again, a job is made", async () => {
  const first = await start({ fileUid: "again" });
  await first.handle.cancel();
  await settle();
  const seen = await start({ fileUid: "again" });
  await world.awake(5);
  assert.equal(asks().length, 2);
  const { job, denied } = world.take();
  assert.equal(denied, undefined);
  assert.equal(world.take().denied, "duplicate");
  await completes(seen, job);
});

// --- stopping, deleting, listeners that end

test("stopped, it listens no more, and the job goes on", async () => {
  const { seen, job } = await taken();
  seen.handle.stop();
  await settle();
  assert.deepEqual([seen.error?.code, world.listeners.size], ["stopped", 0]);
  assert.deepEqual(await client.inFlight(), [job.file]);
  const again = told((onChange) => client.resume(job.file, { onChange }));
  await settle();
  await completes(again, job);
  assert.deepEqual(await client.inFlight(), []);
});

for (const [when, network] of Object.entries<() => void>({
  "before anything was sent": () => undefined,
  "while its slip is on its way": () => void (world.deafUntil = world.time + 2000),
  "without a network": () => world.cut(0),
}))
  test(`stopped ${when}, a job is asked for all the same, and then nothing is open`, async () => {
    const store = memory();
    client = world.client({ memory: store });
    network();
    const seen = told((onChange) => client.generate(INPUT, { onChange }));
    seen.handle.stop();
    await settle();
    assert.equal(seen.error?.code, "stopped");
    await world.awake(MINUTE);
    world.restore();
    await world.awake(5);
    assert.deepEqual([asks().length, world.listeners.size, world.timers.size], [1, 0, 0]);
    const again = told((onChange) => client.resume(seen.handle.fileUid, { onChange }));
    await world.awake(5);
    assert.equal(asks().length, 1);
    await completes(again, world.take().job);
  });

test("stopped, a job whose call did not get through is asked for again, and then nothing is open", async () => {
  let calls = 0;
  world.answer = async (_, submit) => {
    calls += 1;
    if (calls < 3) throw refused("internal");
    return submit();
  };
  const seen = await start();
  seen.handle.stop();
  await world.awake(3 * MINUTE);
  assert.deepEqual([asks().length, world.listeners.size, world.timers.size], [3, 0, 0]);
  world.take();
});

test("stopped, a job whose call does not get through is asked for four times, and nothing stays open", async () => {
  world.answer = async () => Promise.reject(refused("internal"));
  const seen = await start();
  seen.handle.stop();
  await world.awake(10 * MINUTE);
  assert.deepEqual([asks().length, world.listeners.size, world.timers.size], [4, 0, 0]);
});

test("stopped before it is known that there is an earlier failure, which a read does not show, a job is asked for", async () => {
  world.write("again", { status: "failed", job_id: "job-0", error: { code: "timeout" } });
  const { firestore } = world.modules();
  const { onSnapshot } = firestore as unknown as Record<string, (...all: unknown[]) => unknown>;
  const slow = {
    ...firestore,
    runTransaction: () => Promise.reject(refused("unavailable")),
    onSnapshot: (...all: unknown[]) => {
      let stop: unknown = () => undefined;
      setImmediate(() => setImmediate(() => stop && (stop = onSnapshot?.(...all))));
      return () => {
        (stop as () => void)();
        stop = undefined;
      };
    },
  } as typeof firestore;
  const seen = told((onChange) => world.client({ firestore: slow }).generate(INPUT, { fileUid: "again", onChange }));
  seen.handle.stop();
  await world.awake(5);
  assert.equal(asks().length, 1);
});

test("stopped during the call, its answer is remembered, or what the backend refused forgotten", async () => {
  for (const code of [undefined, "failed-precondition"]) {
    const kept = new Map<string, string>();
    client = world.client({ memory: memory(kept) });
    let answer: () => void = () => undefined;
    world.answer = (_, submit) =>
      new Promise((resolve, reject) => (answer = () => (code === undefined ? resolve(submit()) : reject(refused(code)))));
    const seen = await start();
    seen.handle.stop();
    await settle();
    assert.equal(world.listeners.size, 1);
    answer();
    await settle();
    await settle();
    assert.deepEqual([kept.get("generation-client/alice")?.includes("jobId"), world.listeners.size], [code ? undefined : true, 0]);
    assert.equal(world.documents.has(seen.handle.fileUid), code === undefined);
  }
});

test("begun, stopped and begun again, as React does it, a job is asked for once", async () => {
  const first = told((onChange) => client.generate(INPUT, { fileUid: "twice", onChange }));
  first.handle.stop();
  const seen = told((onChange) => client.generate(INPUT, { fileUid: "twice", onChange }));
  await world.awake(MINUTE);
  assert.deepEqual([first.error?.code, asks().length], ["stopped", 1]);
  await completes(seen, world.take().job);
});

test("a cancel after a stop says that nobody hears it", async () => {
  const { seen, job } = await taken();
  seen.handle.stop();
  await assert.rejects(seen.handle.cancel(), { code: "stopped" });
  const again = told((onChange) => client.resume(job.file, { onChange }));
  await again.handle.cancel();
  assert.equal(world.fields(job.file)?.["cancel_requested"], true);
  world.fail(job, "cancelled");
  await settle();
});

test("a cancel that is on its way when it is stopped arrives", async () => {
  const { seen, job } = await taken();
  world.deafUntil = world.time + 2000;
  const cancelling = seen.handle.cancel();
  seen.handle.stop();
  await world.awake(5);
  await cancelling;
  assert.deepEqual([world.fields(job.file)?.["cancel_requested"], world.listeners.size], [true, 0]);
});

test("nobody asks in the name of who signs in meanwhile, and the job is there for whom it was", async () => {
  const store = memory();
  let uid: string | null = "alice";
  client = world.client({ memory: store, uid: () => uid });
  for (const who of ["bob", null]) {
    uid = "alice";
    world.deafUntil = world.time + 2000;
    const seen = await start();
    uid = who;
    await world.awake(5);
    assert.deepEqual([seen.error?.code, asks().length], ["unauthenticated", 0]);
    uid = "alice";
    assert.ok((await client.inFlight()).includes(seen.handle.fileUid));
  }
  const [first] = await client.inFlight();
  world.answer = async () => Promise.reject(refused("failed-precondition"));
  const again = told((onChange) => client.resume(String(first), { onChange }));
  await world.awake(5);
  assert.deepEqual([again.error?.code, asks().length], ["failed-precondition", 1], "a refusal says that it was never submitted");
});

test("of a user who was forgotten while a request was being stored, nothing is stored again", async () => {
  const kept = new Map<string, string>();
  const writes: (() => void)[] = [];
  const slow: Memory = {
    ...memory(kept),
    set: (key, value) => new Promise<void>((resolve) => writes.push(() => (kept.set(key, value), resolve()))),
  };
  const written = async () => {
    writes.shift()?.();
    await settle();
    await settle();
  };
  let uid: string | null = "alice";
  client = world.client({ memory: slow, uid: () => uid });
  await start();
  await written(); // the order; now the call is about to be made
  assert.deepEqual([writes.length, asks().length], [1, 0]);
  uid = null;
  const forgotten = client.forget("alice");
  await written();
  await forgotten;
  await written();
  assert.deepEqual([kept.size, asks().length], [0, 0]);
});

test("of a user who was forgotten in another tab, nothing is stored again", async () => {
  const kept = new Map<string, string>();
  let uid: string | null = "alice";
  client = world.client({ memory: memory(kept), uid: () => uid });
  world.deafUntil = world.time + 2000;
  const seen = await start();
  uid = null;
  await world.client({ memory: memory(kept), uid: () => uid }).forget("alice");
  await world.awake(5);
  assert.deepEqual([seen.error?.code, asks().length, kept.size], ["unauthenticated", 0, 0]);
});

test("of two screens that watch a job, one may stop", async () => {
  const { seen, job } = await taken();
  const other = told((onChange) => client.resume(job.file, { onChange }));
  seen.handle.stop();
  await settle();
  assert.equal(seen.error?.code, "stopped");
  await completes(other, job);
});

for (const running of [true, false])
  test(`a document that is deleted ${running ? "while it runs" : "while it waits"} ends the wait`, async () => {
    const seen = await start();
    if (running) world.take();
    await settle();
    world.write(seen.handle.fileUid, undefined);
    await settle();
    await settle();
    assert.equal(seen.error?.code, "deleted");
  });

test("a job that completes while it is removed leaves no file", async () => {
  const { seen, job } = await taken();
  world.deleting = () => {
    world.deleting = () => undefined;
    for (const path of ["picture", "thumbnail"]) world.objects.add(path);
    world.complete(job, [{ storage_path: "picture", thumbnail_path: "thumbnail" }]);
  };
  await client.remove(job.file);
  await settle();
  assert.deepEqual([[...world.objects], world.documents.size], [[], 0]);
  assert.ok(seen.value);
});

test("a job that nobody took in time is not deleted once it was made all the same", async () => {
  const seen = await start();
  await world.awake(901, (second) => second === 900 && world.cut());
  assert.equal(seen.error?.code, "worker_lost");
  world.complete(world.take().job);
  world.restore();
  await settle();
  assert.equal(world.fields(seen.handle.fileUid)?.["status"], "completed");
});

test("asked for again as soon as nobody took it in time, a job is made", async () => {
  const { firestore } = world.modules();
  const runTransaction: typeof firestore.runTransaction = async (db, update) => {
    await settle(); // the request and the commit are on their way
    return firestore.runTransaction(db, async (transaction) => {
      await update(transaction);
      await settle();
    });
  };
  client = world.client({ firestore: { ...firestore, runTransaction } });
  const first = await start({ fileUid: "again" });
  let seen!: Told;
  first.handle.result.catch(() => {
    seen = told((onChange) => client.generate(INPUT, { fileUid: "again", onChange }));
  });
  await world.awake(905);
  assert.equal(first.error?.code, "worker_lost");
  waits(seen);
  await completes(seen, world.take().job);
});

test("a listener that has not caught up shows no document: a look at the server knows better", async () => {
  const { seen, job } = await taken();
  for (const { next } of world.listeners) {
    next({ id: job.file, data: () => undefined, metadata: { fromCache: false, hasPendingWrites: false } });
  }
  await settle();
  waits(seen);
  await completes(seen, job);
});

test("a document that is deleted ends the wait, also where the first look is never answered", async () => {
  const { seen, job } = await taken();
  world.lostLooks = 1;
  world.write(job.file, undefined);
  await world.awake(2 * MINUTE);
  assert.equal(seen.error?.code, "deleted");
});

// https://github.com/firebase/firebase-tools/issues/3867: a first snapshot that leaves out a write of a moment before it.
for (const running of [true, false])
  test(`an SDK that holds a document for gone, ${running ? "which a worker has" : "which waits"}, ends nothing`, async () => {
    const seen = await start();
    if (running) world.take();
    await settle();
    world.mislead(seen.handle.fileUid);
    for (let turn = 0; turn < 5; turn += 1) await settle();
    waits(seen);
    assert.equal(seen.last?.stage, "queued");
    const job = running ? { file: seen.handle.fileUid, id: "job-1", input: INPUT, slip: true } : world.take().job;
    await world.awake(10, beatsOf(job));
    assert.equal(seen.last?.stage, "generating");
    const { looks } = world;
    await world.awake(MINUTE, beatsOf(job));
    assert.equal(world.looks, looks, "asked on, after the listener had it again");
    await completes(seen, job);
  });

test("an SDK that holds a document for gone does not hide that nobody takes the job, or that it is deleted", async () => {
  for (const [deleted, code] of [[true, "deleted"], [false, "worker_lost"]] as const) {
    const seen = await start();
    world.mislead(seen.handle.fileUid);
    await settle();
    if (deleted) world.write(seen.handle.fileUid, undefined);
    await world.awake(deleted ? 15 : 20 * MINUTE);
    assert.equal(seen.error?.code, code);
  }
});

test("an SDK that holds a document for gone does not keep a call that was lost from being made again", async () => {
  world.answer = async () => {
    throw refused("internal");
  };
  const seen = await start();
  world.mislead(seen.handle.fileUid);
  world.answer = async (_, submit) => submit();
  await world.awake(30);
  assert.equal(asks().length, 2);
  await completes(seen, world.take().job);
});

test("rules that refuse the listener are told, and the job is remembered", async () => {
  const { seen, job } = await taken();
  world.end({ code: "permission-denied" });
  await settle();
  assert.equal(seen.error?.code, "permission-denied");
  assert.deepEqual(await client.inFlight(), [job.file]);
});

test("a listener that the server ended is begun again", async () => {
  const { seen, job } = await taken();
  world.end({ code: "firestore/internal" });
  await world.awake(15, beatsOf(job));
  assert.equal(world.listeners.size, 1);
  await completes(seen, job);
});

test("rules that take no slips: the job is asked for without one", async () => {
  world.slipsAreTaken = false;
  const seen = await start();
  await settle();
  assert.equal(asks()[0]?.data["slip"], false);
  await world.awake(MINUTE);
  await completes(seen, world.take().job);
});

test("a history whose cache has gaps goes back to where the server's pages ended once there is a network", async () => {
  for (let number = 0; number < 5; number += 1) {
    world.write(`f${number}`, { status: "completed", created_at: { toMillis: () => world.time + 1000 * number } });
  }
  const names = async (after: Cursor | null) => {
    const { items, offline, next } = await client.history({ pageSize: 2, after });
    return { names: items.map(({ fileUid }) => fileUid), offline, next };
  };
  const first = await names(null);
  assert.deepEqual([first.names, first.offline], [["f4", "f3"], false]);
  world.cut(0);
  world.mislead("f2"); // the cache lacks it
  const second = await names(first.next);
  const third = await names(second.next);
  assert.deepEqual([second.names, third.names, second.offline, third.offline], [["f1", "f0"], [], true, true]);
  world.write("f2", { ...world.fields("f2") });
  world.restore();
  const again = await names(third.next);
  assert.deepEqual([again.names, again.offline], [["f2", "f1"], false]);
  const last = await names(again.next);
  assert.deepEqual([last.names, last.next], [["f0"], null]);
});

// --- a closed app

function memory(kept = new Map<string, string>()): Memory {
  return {
    get: (key) => kept.get(key) ?? null,
    set: (key, value) => void kept.set(key, value),
    remove: (key) => void kept.delete(key),
  };
}

test("an app that was closed finds its job again, and asks for nothing", async () => {
  const store = memory();
  client = world.client({ memory: store });
  const { job } = await taken();
  const kept = String(await store.get("generation-client/alice"));
  assert.ok(kept.includes(job.file) && !kept.includes(INPUT.prompt), "what was taken is nobody's to read");
  world.close();
  world.beat(job);
  const next = world.client({ memory: store });
  assert.deepEqual(await next.inFlight(), [job.file]);
  const seen = told((onChange) => next.resume(job.file, { onChange }));
  await world.awake(3 * MINUTE, beatsOf(job));
  assert.equal(asks().length, 1);
  await completes(seen, job);
  assert.deepEqual(await next.inFlight(), []);
  assert.deepEqual(await world.client({ memory: store }).inFlight(), []);
});

test("an app that was closed before it asked asks when it is back", async () => {
  const store = memory();
  client = world.client({ memory: store });
  world.cut(0);
  const { handle } = await start();
  world.close();
  world.restore();
  const seen = told((onChange) => world.client({ memory: store }).resume(handle.fileUid, { onChange }));
  await world.awake(5);
  assert.deepEqual(asks().map(({ data }) => data), [{ fileUid: handle.fileUid, input: INPUT, slip: true }]);
  await completes(seen, world.take().job);
});

for (const [what, then] of Object.entries<(job: Job) => void>({
  runs: () => undefined,
  "was done": (job) => world.complete(job),
  "has failed": (job) => world.fail(job, "out_of_memory"),
}))
  test(`closed before the answer came, an app does not ask for what ${what}`, async () => {
    const store = memory();
    client = world.client({ memory: store });
    world.answer = (_, submit) => {
      submit();
      return new Promise(() => undefined);
    };
    await start();
    const { job } = world.take();
    world.close();
    then(job);
    const seen = told((onChange) => world.client({ memory: store }).resume(job.file, { onChange }));
    await world.awake(MINUTE, (second) => {
      if (what === "runs") beatsOf(job)(second);
    });
    assert.equal(asks().length, 1);
    if (what === "has failed") assert.equal(seen.error?.code, "out_of_memory");
    else await completes(seen, job);
  });

test("what was never there, or was deleted meanwhile, cannot be resumed", async () => {
  const seen = told((onChange) => client.resume("nothing", { onChange }));
  await world.awake(2);
  assert.equal(seen.error?.code, "deleted");
});

test("resumed offline, what the phone has kept of a result is the result", async () => {
  world.disk = true;
  const { seen, job } = await taken();
  await completes(seen, job);
  world.cut(0);
  const again = told((onChange) => client.resume(job.file, { onChange }));
  await world.awake(15);
  assert.ok(again.value);
});

test("resumed offline, a failure that the phone has kept may be an old one", async () => {
  world.disk = true;
  const { seen, job } = await taken();
  world.fail(job, "timeout", true);
  await settle();
  assert.equal(seen.error?.code, "timeout");
  world.cut(0);
  const again = told((onChange) => client.resume(job.file, { onChange }));
  await world.awake(MINUTE);
  waits(again);
  world.complete(job); // a redelivery
  world.restore();
  await settle();
  assert.ok(again.value);
});

test("each user has their own jobs in flight", async () => {
  const store = memory();
  let uid = "alice";
  client = world.client({ memory: store, uid: () => uid });
  const { seen, job } = await taken();
  uid = "bob";
  assert.deepEqual(await client.inFlight(), []);
  uid = "alice";
  assert.deepEqual(await client.inFlight(), [job.file]);
  await completes(seen, job);
});

test("two tabs with one memory do not forget each other's jobs", async () => {
  const store = memory();
  client = world.client({ memory: store });
  const first = await taken();
  const other = world.client({ memory: store });
  assert.deepEqual(await other.inFlight(), [first.job.file]);
  const second = await taken();
  assert.deepEqual((await other.inFlight()).sort(), [first.job.file, second.job.file].sort());
  await completes(first.seen, first.job);
  assert.deepEqual(await other.inFlight(), [second.job.file]);
  await completes(second.seen, second.job);
});

test("of a user who is forgotten nothing stays: no listener, no job in memory, and nobody else's is touched", async () => {
  const kept = new Map<string, string>();
  const store = memory(kept);
  let uid = "alice";
  client = world.client({ memory: store, uid: () => uid });
  const others = await taken();
  uid = "alice2";
  const { seen, job } = await taken();
  const waiting = await start();
  uid = "";
  await client.forget("alice2");
  assert.deepEqual([seen.error?.code, waiting.error?.code], ["stopped", "stopped"]);
  assert.deepEqual([[...kept.keys()], world.listeners.size], [["generation-client/alice"], 1]);
  world.beat(job, { percent: 5 });
  await world.awake(MINUTE);
  assert.deepEqual([...kept.keys()], ["generation-client/alice"]);
  world.complete(others.job);
  await settle();
  assert.ok(others.seen.value);
});

test("forgotten while it is being asked for, or read from memory, a job is not remembered again", async () => {
  const kept = new Map<string, string>();
  const store = memory(kept);
  client = world.client({ memory: store });
  let answer: () => void = () => undefined;
  world.answer = async (_, submit) => new Promise((resolve) => (answer = () => resolve(submit())));
  const { handle } = await start();
  const later = world.client({ memory: store });
  const resumed = told((onChange) => later.resume(handle.fileUid, { onChange }));
  await Promise.all([client.forget("alice"), later.forget("alice")]);
  answer();
  await world.awake(MINUTE);
  assert.deepEqual([resumed.error?.code, kept.size, asks().length], ["stopped", 0, 1]);
});

const full = (): never => assert.fail("full");
for (const [what, store] of Object.entries<Memory>({
  "that fails": { get: async () => full(), set: full, remove: full },
  "with something else in it": { get: () => "[1]", set: () => undefined, remove: () => undefined },
}))
  test(`a memory ${what} costs no job`, async () => {
    client = world.client({ memory: store });
    const { seen, job } = await taken();
    assert.deepEqual(await client.inFlight(), [job.file]);
    await completes(seen, job);
  });
