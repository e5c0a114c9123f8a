// Tests the client with Firebase's SDK against the emulators: rules, listeners, callables, and a failing network.
// Leases are short, so that a lost worker is noticed within seconds; everything else is as for a user.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import * as storage from "firebase/storage";
import type { GenerationState, Memory } from "../src/index.js";
import { doc, onSnapshot, setLogLevel } from "firebase/firestore";
import { BUCKET, example, pause, Phone, until, Workers, type Job } from "./emulators.js";

const INPUT = { prompt: "a fox" };
const SHORT = 10; // seconds of a lease; the client waits ten more

setLogLevel("silent"); // these cases break the network on purpose
const workers = new Workers();
before(() => workers.start());
after(() => workers.close());

/** Run a case with a phone, and check that it leaves no listener behind. */
function on(name: string, run: (phone: Phone) => Promise<void>): void {
  test(name, { timeout: 120_000 }, async () => {
    const phone = await new Phone().start();
    try {
      await run(phone);
      assert.equal(phone.listeners, 0, "a listener was left open");
    } finally {
      await phone.close();
    }
  });
}

function ask(phone: Phone, more: { fileUid?: string } = {}) {
  const states: GenerationState[] = [];
  const handle = phone.client.generate(INPUT, { onChange: (state) => states.push(state), ...more });
  return { ...handle, states, where: { uid: phone.uid, file: handle.fileUid } };
}

const store = (): Memory => {
  const kept = new Map<string, string>();
  return {
    get: (key) => kept.get(key),
    set: (key, value) => void kept.set(key, value),
    remove: (key) => void kept.delete(key),
  };
};

describe("the client with Firebase", { concurrency: 8 }, () => {
  on("a job goes from its slip over progress to its result", async (phone) => {
    const { fileUid, result, states, where } = ask(phone);
    const job = await workers.job(fileUid);
    const slip = await workers.fields(where);
    assert.deepEqual(Object.keys(slip ?? {}).sort(), ["created_at", "status"]);
    assert.equal(job.uid, phone.uid);
    await workers.take(job);
    await until(() => states.at(-1)?.stage === "loading");
    await workers.progress(job, { stage: "generating", percent: 40, step: 8, total_steps: 20, eta_seconds: null });
    await until(() => states.at(-1)?.percent === 40);
    await workers.complete(job);
    assert.equal((await result).image_url, `https://${fileUid}`);
    assert.deepEqual(states.at(-1), { stage: "completed", percent: 100, offline: false });
    assert.deepEqual(await phone.client.inFlight(), []);
    assert.equal(workers.of(fileUid).length, 1);
  });

  on("asked for again, a result comes from its document", async (phone) => {
    const first = ask(phone, { fileUid: "again" });
    await workers.complete(await workers.job("again"));
    await first.result;
    const second = ask(phone, { fileUid: "again" });
    assert.equal((await second.result).image_url, "https://again");
    assert.equal(workers.jobs.filter(({ uid }) => uid === phone.uid).length, 1);
  });

  on("asked for again after it failed, a job is made", async (phone) => {
    const first = ask(phone, { fileUid: "once-more" });
    const job = await workers.job("once-more");
    await workers.take(job);
    await workers.fail(job, "out_of_memory");
    await assert.rejects(first.result, { name: "GenerationError", code: "out_of_memory", retryable: false });
    const second = ask(phone, { fileUid: "once-more" });
    await until(() => workers.of("once-more").length === 2);
    await workers.take(workers.of("once-more")[1] as Job);
    await workers.complete(workers.of("once-more")[1] as Job);
    await second.result;
  });

  on("a job that waits is cancelled", async (phone) => {
    const { fileUid, result, cancel, where } = ask(phone);
    await workers.job(fileUid);
    await cancel();
    await assert.rejects(result, { code: "cancelled" });
    assert.equal((await workers.fields(where))?.["cancel_requested"], true);
  });

  on("a job that runs is cancelled by its worker", async (phone) => {
    const { fileUid, result, cancel, where, states } = ask(phone);
    const job = await workers.job(fileUid);
    await workers.take(job);
    await until(() => states.at(-1)?.stage === "loading");
    await cancel();
    assert.equal((await workers.fields(where))?.["cancel_requested"], true);
    await workers.fail(job, "cancelled");
    await assert.rejects(result, { code: "cancelled" });
  });

  on("a document that is deleted ends the wait", async (phone) => {
    const { fileUid, result } = ask(phone);
    await workers.job(fileUid);
    await phone.client.remove(fileUid);
    await assert.rejects(result, { code: "deleted" });
  });

  on("a job whose document the SDK holds for gone goes on, and ends as ever", async (phone) => {
    const { fileUid, result, states } = ask(phone);
    const job = await workers.job(fileUid);
    await phone.mislead(fileUid);
    await pause(1);
    assert.equal(states.at(-1)?.stage, "queued");
    await workers.take(job);
    await until(() => states.at(-1)?.stage === "loading");
    await phone.mislead(fileUid);
    await workers.complete(job);
    await result;
  });

  on("a document that the SDK holds for gone ends the wait once it is deleted", async (phone) => {
    const { fileUid, result } = ask(phone);
    await workers.job(fileUid);
    await phone.mislead(fileUid);
    await phone.client.remove(fileUid);
    await assert.rejects(result, { code: "deleted" });
  });

  on("a network that breaks while a worker lives loses nothing", async (phone) => {
    const { fileUid, result, states } = ask(phone);
    const job = await workers.job(fileUid);
    await workers.take(job, SHORT);
    await until(() => states.at(-1)?.stage === "loading");
    phone.cut();
    await until(() => states.at(-1)?.offline === true, 40);
    await pause(15);
    phone.open();
    await until(() => states.at(-1)?.offline === false, 60);
    await workers.complete(job);
    await result;
    assert.equal(workers.of(fileUid).length, 1);
  });

  on("a connection that died unnoticed while a worker lives loses nothing", async (phone) => {
    const { fileUid, result, states } = ask(phone);
    const job = await workers.job(fileUid);
    await workers.take(job, SHORT);
    await until(() => states.at(-1)?.stage === "loading");
    phone.freeze();
    await pause(30); // longer than it takes to notice a lost worker
    await workers.complete(job);
    phone.open();
    await result;
    assert.equal(workers.of(fileUid).length, 1);
  });

  on("clock: a worker that is gone is missed, and one that lives is not", async (phone) => {
    const [lives, dies] = [ask(phone), ask(phone)];
    const living = await workers.job(lives.fileUid);
    const dying = await workers.job(dies.fileUid);
    await workers.take(living, SHORT);
    await workers.take(dying, SHORT);
    await until(() => dies.states.at(-1)?.stage === "loading");
    workers.die(dying);
    await assert.rejects(dies.result, { code: "worker_lost", retryable: true });
    await pause(10);
    await workers.complete(living);
    await lives.result;
  });

  on("asked without a network, a job begins once there is one", async (phone) => {
    phone.cut();
    const { fileUid, result, states } = ask(phone);
    await until(() => states.at(-1)?.offline === true, 40);
    assert.deepEqual([workers.of(fileUid).length, phone.calls.length], [0, 0]);
    phone.open();
    const job = await workers.job(fileUid).catch(() => workers.job(fileUid)); // the SDK backs off before it connects
    await workers.complete(job);
    await result;
    assert.equal(workers.of(fileUid).length, 1);
  });

  on("cancelled without a network, a job is never asked for", async (phone) => {
    phone.cut();
    const { result, cancel, where } = ask(phone);
    await pause(1);
    await cancel();
    await assert.rejects(result, { code: "cancelled" });
    phone.open();
    await pause(15);
    assert.deepEqual([phone.calls.length, await workers.fields(where)], [0, undefined]);
  });

  on("an answer that is lost costs no second job while the first is at work", async (phone) => {
    phone.lines.functions.deafToAnswers = true;
    const { fileUid, result } = ask(phone);
    const job = await workers.job(fileUid);
    await workers.take(job);
    phone.lines.functions.deafToAnswers = false;
    await pause(30);
    await workers.complete(job);
    await result;
    assert.deepEqual([workers.of(fileUid).length, phone.calls.length], [1, 1]);
  });

  on("a call that did not get through is made again, with the same name", async (phone) => {
    phone.lines.functions.cut();
    const { fileUid, result } = ask(phone);
    await until(() => phone.calls.length === 1);
    await pause(2);
    phone.lines.functions.open();
    await until(() => workers.of(fileUid).length === 1, 60);
    assert.equal(phone.calls.length, 2);
    await workers.complete(await workers.job(fileUid));
    await result;
  });

  on("what the backend refuses is told, and leaves no slip", async (phone) => {
    const { result } = phone.client.generate({ prompt: 5 as unknown as string }, { fileUid: "refused" });
    await assert.rejects(result, { code: "invalid-argument", retryable: false });
    await until(async () => (await workers.fields({ uid: phone.uid, file: "refused" })) === undefined);
  });

  test("an app that was closed finds its job again", { timeout: 60_000 }, async () => {
    const user = { email: "closed@example.com", password: "only-for-tests" };
    const memory = store();
    const first = await new Phone().start(memory, user);
    const { fileUid, stop } = ask(first);
    const job = await workers.job(fileUid);
    await workers.take(job);
    await until(() => memory.get(`generation-client/${first.uid}`)?.toString().includes("jobId"));
    stop();
    await first.close();
    const second = await new Phone().start(memory, user);
    try {
      assert.deepEqual(await second.client.inFlight(), [fileUid]);
      const { result } = second.client.resume(fileUid);
      await workers.complete(job);
      assert.equal((await result).image_url, `https://${fileUid}`);
      assert.deepEqual([second.calls, await second.client.inFlight(), second.listeners], [[], [], 0]);
    } finally {
      await second.close();
    }
  });

  on("history comes in pages, newest first, with what a grid shows", async (phone) => {
    const files = [{ thumbnail_url: "https://t", blurhash: "L5H2", width: 64, height: 32, storage_path: null }];
    for (let number = 0; number < 7; number += 1) {
      await workers.put({ uid: phone.uid, file: `f${number}` }, {
        status: "completed",
        created_at: new Date(1_700_000_000_000 + 1000 * number),
        request_data: { task_type: "text2img" },
        generation_data: { storage: "firebase", files },
      });
    }
    const names: string[] = [];
    let next: Parameters<typeof phone.client.history>[0] = { pageSize: 3 };
    for (;;) {
      const page = await phone.client.history(next);
      names.push(...page.items.map(({ fileUid }) => fileUid));
      assert.ok(page.items.length <= 3);
      if (!page.next) break;
      next = { pageSize: 3, after: page.next };
    }
    assert.deepEqual(names, ["f6", "f5", "f4", "f3", "f2", "f1", "f0"]);
    const [item] = (await phone.client.history({ pageSize: 5000 })).items;
    assert.deepEqual(item?.thumbnails, [{ url: "https://t", blurhash: "L5H2", width: 64, height: 32 }]);
    assert.deepEqual([item?.taskType, item?.createdAt?.getTime()], ["text2img", 1_700_000_006_000]);
    await assert.rejects(phone.client.history({ after: { fileUid: "f3" } }), TypeError);
  });

  on("a history without a network says so, and its pages go on once there is one", async (phone) => {
    for (let number = 0; number < 5; number += 1) {
      const created_at = new Date(1_700_000_000_000 + 1000 * number);
      await workers.put({ uid: phone.uid, file: `f${number}` }, { status: "completed", created_at });
    }
    const first = await phone.client.history({ pageSize: 3 });
    assert.deepEqual([first.items.length, first.offline], [3, false]);
    phone.cut();
    const cut = await phone.client.history({ pageSize: 3, after: first.next });
    assert.deepEqual([cut.items, cut.offline], [[], true]);
    phone.open();
    let { next } = cut;
    const names: string[] = [];
    await until(async () => {
      const page = await phone.client.history({ pageSize: 3, after: next });
      if (page.offline) return false;
      names.push(...page.items.map(({ fileUid }) => fileUid));
      next = page.next;
      return true;
    }, 60);
    assert.deepEqual([names, next], [["f1", "f0"], null]);
  });

  on("a history that was read from a cache with gaps has them filled once there is a network", async (phone) => {
    for (let number = 0; number < 5; number += 1) {
      const created_at = new Date(1_700_000_000_000 + 1000 * number);
      await workers.put({ uid: phone.uid, file: `f${number}` }, { status: "completed", created_at });
    }
    let seen = false;
    const one = doc(phone.db, `generations/${phone.uid}/files/f1`);
    const stop = onSnapshot(one, (found) => void (seen ||= found.exists()));
    await until(() => seen);
    phone.cut();
    const cut = await phone.client.history({ pageSize: 3 });
    assert.deepEqual([cut.items.map(({ fileUid }) => fileUid), cut.offline], [["f1"], true]);
    phone.open();
    let { next } = cut;
    const names: string[] = [];
    await until(async () => {
      const page = await phone.client.history({ pageSize: 3, after: next });
      next = page.next;
      if (!page.offline) names.push(...page.items.map(({ fileUid }) => fileUid));
      return next === null;
    }, 60);
    assert.deepEqual(names, ["f4", "f3", "f2", "f1", "f0"]);
    stop();
  });

  on("removed, a generation is not in the history without a network either", async (phone) => {
    await workers.put({ uid: phone.uid, file: "gone" }, { status: "completed", created_at: new Date() });
    assert.equal((await phone.client.history()).items.length, 1);
    await phone.client.remove("gone");
    phone.cut();
    const { items, offline } = await phone.client.history();
    assert.deepEqual([items, offline], [[], true]);
  });

  on("a generation gets the app's labels, which the rules check", async (phone) => {
    const where = { uid: phone.uid, file: "labelled" };
    await workers.put(where, { status: "completed", created_at: new Date() });
    await phone.client.label("labelled", { favorite: true, labels: ["foxes"] });
    await phone.client.label("labelled", {});
    const { favorite, labels, hidden } = (await workers.fields(where)) ?? {};
    assert.deepEqual([favorite, labels, hidden], [true, ["foxes"], undefined]);
  });

  on("an upload lands where a request may name it, and is gone with the generation that names it", async (phone) => {
    const address = await phone.client.upload(new Uint8Array([137, 80, 78, 71]), { contentType: "image/png", name: "a.png" });
    assert.equal(address, `gs://${BUCKET}/uploads/${phone.uid}/a.png`);
    const object = storage.ref(phone.bucket, `uploads/${phone.uid}/a.png`);
    assert.equal((await storage.getMetadata(object)).contentType, "image/png");
    const untyped = await phone.client.upload(new Blob(["x"]));
    const [name] = untyped.split("/").slice(-1);
    const other = storage.ref(phone.bucket, `uploads/${phone.uid}/${name}`);
    assert.equal((await storage.getMetadata(other)).contentType, "application/octet-stream");
    await assert.rejects(phone.client.upload(new Uint8Array(64 * 1024 * 1024)), { code: "too_large" });

    const where = { uid: phone.uid, file: "gone" };
    const paths = { storage_path: `uploads/${phone.uid}/a.png`, thumbnail_path: `uploads/${phone.uid}/never-was.png` };
    await workers.put(where, { status: "completed", created_at: new Date(), generation_data: { files: [paths] } });
    await phone.mislead("gone"); // its files are deleted all the same
    await phone.client.remove("gone");
    assert.equal(await workers.fields(where), undefined);
    await assert.rejects(storage.getMetadata(object), { code: "storage/object-not-found" });
  });

  on("what a job would cost is asked beforehand, or why it would be refused", async (phone) => {
    const input = { prompt: "a fox to be priced" };
    const { quote, ...offer } = await phone.client.quote(input);
    assert.deepEqual(offer, example("quote"));
    assert.deepEqual(workers.questions.filter(({ prompt }) => prompt === input.prompt), [{ ...input, action: "quote" }]);
    const { fileUid, result } = phone.client.generate(input, { quote: String(quote) });
    await workers.complete(await workers.job(fileUid));
    await result;
    const told = { name: "GenerationError", code: "invalid-argument", message: "prompt: must not be empty", retryable: false };
    await assert.rejects(phone.client.quote({ prompt: "" }), told);
  });

  on("what there is to choose from is asked of the workers once", async (phone) => {
    assert.deepEqual(await phone.client.capabilities(), example("capabilities"));
    assert.deepEqual(await phone.client.capabilities(), example("capabilities"));
    assert.equal(workers.questions.filter(({ action }) => action === "capabilities").length, 1);
  });

  on("a generation is reported to the operator, with the last words that its user found", async (phone) => {
    const where = { uid: phone.uid, file: "reported" };
    await workers.put(where, { status: "completed", created_at: new Date() });
    await phone.client.report(where.file, "harmful", "a note");
    const { reason, note, state } = (await workers.reported(where)) ?? {};
    assert.deepEqual([reason, note, state], ["harmful", "a note", "open"]);
    await phone.client.report(where.file, "other");
    const again = (await workers.reported(where)) ?? {};
    assert.deepEqual([again["reason"], again["note"]], ["other", null]);
    await assert.rejects(phone.client.report(where.file, " "), { code: "invalid-argument" });
    await assert.rejects(phone.client.report("never-was", "harmful"), { code: "not-found", retryable: false });
  });
});
