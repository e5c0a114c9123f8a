// Tests what jobs cost, through the functions as an app calls them. The wallet is in a local Firestore
// (FIRESTORE_EMULATOR_HOST; skipped without it), and a stand-in writes the documents as the worker does.

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, test } from "node:test";
import { jwtVerify, SignJWT } from "jose";
import { requestHash } from "../ticket.js";
import { SECRET, World } from "./world.js";

const INPUT = { prompt: "a fox", seed: 7 };
const QUOTED = { units: 33, estimated_seconds: 4.2, params: { width: 1024, height: 1024 } };
const MINUTES = 60_000;
const key = new TextEncoder().encode(SECRET);

describe("a user with credits", { skip: !process.env.FIRESTORE_EMULATOR_HOST }, () => {
  const world = new World();
  let firestore;
  let wallets;
  let Timestamp;

  before(async () => {
    Object.assign(process.env, { CREDITS: "on", MAX_UNITS: "100, text2video=2000", CREDITS_PER_1000_UNITS: "500" });
    await world.start();
    const admin = await import("firebase-admin/firestore");
    ({ Timestamp } = admin);
    firestore = admin.getFirestore();
    ({ wallets } = await import("../credits.js"));
  });
  after(async () => {
    await world.stop();
    await firestore.terminate();
  });
  beforeEach(async () => {
    world.reset();
    process.env.CREDITS = "on";
    for (const uid of ["alice", "bob"]) {
      const names = [`wallets/${uid}/holds`, `wallets/${uid}/ledger`, `generations/${uid}/files`];
      const found = await Promise.all(names.map((name) => firestore.collection(name).get()));
      const refs = [firestore.doc(`wallets/${uid}`), ...found.flatMap(({ docs }) => docs.map(({ ref }) => ref))];
      await Promise.all(refs.map((ref) => ref.delete()));
    }
    await wallets().grant("alice", 1000, "purchase", "order-1");
  });

  const generate = (data = {}, who) => world.call({ fileUid: "f1", input: INPUT, ...data }, who);
  const file = (fileUid = "f1", uid = "alice") => firestore.doc(`generations/${uid}/files/${fileUid}`);
  const hold = async (fileUid = "f1") => (await firestore.doc(`wallets/alice/holds/${fileUid}`).get()).data();
  async function wallet(uid = "alice") {
    const { credits, held, spent, granted } = (await firestore.doc(`wallets/${uid}`).get()).data();
    const { docs } = await firestore.collection(`wallets/${uid}/ledger`).get();
    const entries = docs.reduce((sum, entry) => sum + entry.data().credits, 0);
    assert.equal(credits + held + spent, granted);
    assert.equal(entries, credits + held, "the ledger says the same");
    return { credits, held, spent };
  }
  const lease = (seconds) => Timestamp.fromMillis(Date.now() + seconds * 1000);
  const processing = (job = "job-1", attempt = 1, seconds = 90) => ({
    status: "processing", user_id: "alice", job_id: job, attempt, expires_at: lease(seconds),
  });
  const completed = (units = 33, job = "job-1", attempt = 1, storage = "firebase") => ({
    status: "completed", user_id: "alice", job_id: job, attempt, generation_data: { storage, images: [] },
    usage: { gpu_seconds: 4.1, units }, completed_at: Timestamp.now(),
  });
  const failed = (code = "internal", job = "job-1", attempt = 1) => ({
    status: "failed", user_id: "alice", job_id: job, attempt, error: { code, message: "it failed", retryable: true },
    completed_at: Timestamp.now(),
  });
  const path = (fileUid) => ({ params: { uid: "alice", fileUid } });
  /** Write a document (null: delete it) and run the trigger. Returns a function that runs the trigger again. */
  async function becomes(fields, fileUid = "f1") {
    const before = await file(fileUid).get();
    await (fields ? file(fileUid).set(fields) : file(fileUid).delete());
    const after = await file(fileUid).get();
    const tell = () => world.functions.settle.run({ ...path(fileUid), data: { before, after } });
    await tell();
    return tell;
  }

  test("pays what the job came to, and has the rest back", async () => {
    const { status } = await generate();
    assert.equal(status, 200);
    assert.deepEqual(await wallet(), { credits: 950, held: 50, spent: 0 });
    await becomes(processing());
    await becomes(completed(33));
    assert.deepEqual(await wallet(), { credits: 983, held: 0, spent: 17 });
  });

  test("pays nothing for a job that failed, was refused or lost", async () => {
    for (const [number, code] of ["internal", "invalid_input", "worker_lost", "cancelled"].entries()) {
      await generate({ fileUid: `f${number}` });
      await becomes(failed(code, `job-${number}`), `f${number}`);
      assert.deepEqual(await wallet(), { credits: 1000, held: 0, spent: 0 });
    }
  });

  describe("and who does not want the job any more", () => {
    const slip = { status: "queued", created_at: new Date() };
    const stopped = { ...slip, cancel_requested: true };
    const asked = () => world.sent.map(({ path }) => path);
    const cancels = () => asked().filter((path) => path.includes("/cancel/"));
    const runpod = (answers) => (world.answer = (url) => (url.includes("/cancel/") ? answers : { status: 200, body: { id: "job-1" } }));
    const taken = { status: 200, body: { id: "job-1", status: "CANCELLED" } };

    test("has all back at once, and no worker starts for it", async () => {
      runpod(taken);
      await file().set(slip);
      await generate({ slip: true });
      const again = await becomes(stopped);
      assert.deepEqual(await wallet(), { credits: 1000, held: 0, spent: 0 });
      assert.deepEqual(cancels(), ["/endpoint-1/cancel/job-1"]);
      const { created_at: _, completed_at, updated_at, ...ended } = (await file().get()).data();
      assert.deepEqual(ended, {
        status: "failed", error: { code: "cancelled", message: "the job was cancelled", retryable: false },
        usage: { gpu_seconds: 0, units: 0 }, user_id: "alice", file_uid: "f1", job_id: "job-1", attempt: 1, cancel_requested: true,
      });
      assert.ok(completed_at.toMillis() > 0 && updated_at.isEqual(completed_at));
      await again();
      assert.equal((await generate()).status, 200);
      assert.deepEqual(await wallet(), { credits: 950, held: 50, spent: 0 }, "asked for again, it is a new job");
      await again();
      assert.deepEqual(await wallet(), { credits: 950, held: 50, spent: 0 }, "which what was told late does not take back");
      assert.equal(cancels().length, 1);
    });

    test("has all back where its slip, or the document of a job that runs, is deleted", async () => {
      runpod(taken);
      for (const [fileUid, stands] of Object.entries({ f1: slip, f2: processing(), f3: null })) {
        if (stands === slip) await file(fileUid).set(slip);
        await generate({ fileUid });
        if (stands !== slip) await file(fileUid).set(stands ?? failed());
        await becomes(null, fileUid);
        assert.deepEqual(await wallet(), { credits: 1000, held: 0, spent: 0 }, fileUid);
        assert.equal((await file(fileUid).get()).exists, false);
      }
    });

    test("has all back where that is known before RunPod's answer to the submission", async () => {
      for (const [fileUid, becoming] of Object.entries({ f1: stopped, f2: null })) {
        world.answer = async (url) => {
          if (url.includes("/cancel/")) return taken;
          await becomes(becoming, fileUid);
          return { status: 200, body: { id: `job-${fileUid}` } };
        };
        await file(fileUid).set(slip);
        assert.deepEqual((await generate({ fileUid, slip: true })).result, { jobId: `job-${fileUid}` });
        assert.deepEqual(await wallet(), { credits: 1000, held: 0, spent: 0 }, fileUid);
        assert.equal(cancels().at(-1), `/endpoint-1/cancel/job-${fileUid}`);
        assert.equal((await file(fileUid).get()).data()?.error.code, becoming ? "cancelled" : undefined);
      }
    });

    test("waits for the worker where RunPod does not take the job back", async () => {
      for (const answer of [{ status: 404, body: {} }, { status: 200, body: { id: "job-1", status: "COMPLETED" } }, null]) {
        runpod(answer);
        await file().set(slip);
        await generate();
        await becomes(stopped);
        assert.deepEqual(await wallet(), { credits: 950, held: 50, spent: 0 });
        assert.equal((await file().get()).data().status, "queued");
      }
      await becomes(failed("cancelled"));
      assert.deepEqual(await wallet(), { credits: 1000, held: 0, spent: 0 });
    });

    test("waits for the worker that has claimed it meanwhile, and pays what came all the same", async () => {
      world.answer = async (url) => {
        if (!url.includes("/cancel/")) return { status: 200, body: { id: "job-1" } };
        await file().set(processing());
        return taken;
      };
      await file().set(slip);
      await generate();
      await becomes(stopped);
      assert.deepEqual(await wallet(), { credits: 950, held: 50, spent: 0 });
      await becomes(completed(33));
      assert.deepEqual(await wallet(), { credits: 983, held: 0, spent: 17 });
    });

    test("is told at once where the slip that was made anew waits for nothing", async () => {
      world.answer = async (url) => {
        if (!url.includes("/cancel/")) return { status: 200, body: { id: "job-1" } };
        await file().set(slip);
        assert.equal((await generate({ slip: true })).result.jobId, "job-1", "the same job, as long as it is held for");
        return taken;
      };
      await file().set(slip);
      await generate({ slip: true });
      await becomes(stopped);
      assert.deepEqual(await wallet(), { credits: 1000, held: 0, spent: 0 });
      assert.equal((await file().get()).data().error.code, "cancelled");
    });

    test("is no fault where the wallet is gone with its user", async () => {
      world.answer = async (url) => {
        if (!url.includes("/cancel/")) return { status: 200, body: { id: "job-1" } };
        await firestore.doc("wallets/alice").delete();
        return taken;
      };
      await file().set(slip);
      await generate({ slip: true });
      await becomes(null);
      assert.deepEqual(cancels(), ["/endpoint-1/cancel/job-1"]);
    });

    test("leaves a job alone whose earlier call may have been taken, too", async () => {
      await file().set(slip);
      runpod(taken);
      world.answer = { status: 502, body: {} };
      await generate();
      runpod(taken);
      await generate();
      await becomes(stopped);
      assert.deepEqual(cancels(), []);
      assert.deepEqual(await wallet(), { credits: 950, held: 50, spent: 0 });
    });

    test("keeps a job that was asked for after what is told late", async () => {
      runpod(taken);
      await file().set(failed());
      const before = await file().get();
      await file().delete();
      const time = new Date().toISOString();
      await new Promise((resolve) => setTimeout(resolve, 20));
      await generate();
      await world.functions.settle.run({ ...path("f1"), time, data: { before, after: await file().get() } });
      assert.deepEqual(cancels(), []);
      assert.deepEqual(await wallet(), { credits: 950, held: 50, spent: 0 });
    });

    test("does nothing at RunPod where jobs are not paid for", async () => {
      process.env.CREDITS = "off";
      await file().set(slip);
      await becomes(stopped);
      assert.deepEqual(cancels(), []);
    });
  });

  test("pays once, however often and late it is told", async () => {
    await generate();
    const again = [await becomes(processing()), await becomes(failed("storage_unavailable"))];
    again.push(await becomes(completed(33)));
    again.push(await becomes({ ...completed(33), favorite: true }));
    again.push(await becomes(null));
    for (const tell of [...again, ...again.reverse()]) await tell();
    await Promise.all([...again, ...again].map((tell) => tell()));
    assert.deepEqual(await wallet(), { credits: 983, held: 0, spent: 17 });
  });

  test("pays a result that comes after its failure, as far as the credits go", async () => {
    await generate();
    await becomes(failed("storage_unavailable"));
    await generate({ fileUid: "f2", input: { task_type: "text2video", prompt: "a fox" } });
    assert.deepEqual(await wallet(), { credits: 0, held: 1000, spent: 0 });
    await becomes(completed(33));
    assert.deepEqual(await wallet(), { credits: 0, held: 1000, spent: 0 });
    const { docs } = await firestore.collection("wallets/alice/ledger").where("kind", "==", "payment").get();
    assert.deepEqual(docs.map((entry) => [Math.abs(entry.data().credits), entry.data().unpaid]), [[0, 17]]);
    await becomes(failed("internal", "job-1"), "f2");
    assert.deepEqual(await wallet(), { credits: 1000, held: 0, spent: 0 });
  });

  test("pays for a result that was deleted before anybody was told of it", async () => {
    await generate();
    const before = await file().get();
    await file().set(completed(33));
    const after = await file().get();
    await file().delete();
    await world.functions.settle.run({ ...path("f1"), data: { before, after } });
    assert.deepEqual(await wallet(), { credits: 983, held: 0, spent: 17 });
  });

  test("pays for a result of which only the deletion is told", async () => {
    await generate();
    await file().set(completed(33));
    await becomes(null);
    assert.deepEqual(await wallet(), { credits: 983, held: 0, spent: 17 });
  });

  test("never pays more than was held", async () => {
    await generate();
    await becomes(completed(5000));
    assert.deepEqual(await wallet(), { credits: 950, held: 0, spent: 50 });
  });

  test("does not pay for a result without files in the bucket, and pays when it is asked for again", async () => {
    await generate();
    await becomes(completed(33, "job-1", 1, "base64"));
    assert.deepEqual(await wallet(), { credits: 1000, held: 0, spent: 0 });
    world.answer.body.id = "job-2";
    await generate();
    await becomes(processing("job-2", 2));
    await becomes(completed(33, "job-2", 2));
    assert.deepEqual([await wallet(), world.sent.length], [{ credits: 983, held: 0, spent: 17 }, 2]);
  });

  test("who asks again for the same pays nothing, and no second job is made", async () => {
    const first = await generate();
    world.answer.body.id = "job-2";
    assert.deepEqual((await generate()).result, first.result);
    await becomes(completed(33));
    assert.deepEqual((await generate()).result, first.result);
    assert.deepEqual([await wallet(), world.sent.length], [{ credits: 983, held: 0, spent: 17 }, 1]);
  });

  test("who asks again for a failed one pays for the one that comes, though the failure is told late", async () => {
    await generate();
    const late = await becomes(failed());
    world.answer.body.id = "job-2";
    await generate();
    await late();
    assert.deepEqual(await wallet(), { credits: 950, held: 50, spent: 0 });
    await becomes(processing("job-2", 2));
    await late();
    await becomes(completed(33, "job-2", 2));
    await late();
    assert.deepEqual(await wallet(), { credits: 983, held: 0, spent: 17 });
  });

  test("who asks again before the failure was told is not kept waiting for the old job", async () => {
    await generate();
    await file().set(failed());
    world.answer.body.id = "job-2";
    assert.deepEqual((await generate()).result, { jobId: "job-2" });
    assert.deepEqual(await wallet(), { credits: 950, held: 50, spent: 0 });
  });

  test("who deleted a result and asks for it again pays again", async () => {
    await generate();
    await becomes(completed(33));
    await becomes(null);
    world.answer.body.id = "job-2";
    await generate();
    await becomes(completed(33, "job-2"));
    assert.deepEqual(await wallet(), { credits: 966, held: 0, spent: 34 });
  });

  test("one input is the same with its null fields and without: an app that was closed asks without them", async () => {
    const lora = { path: "ink", scale: 1 };
    world.answer = { status: 200, body: { output: QUOTED, status: "COMPLETED" } };
    const whole = { ...INPUT, style: null, loras: [{ ...lora, weight_name: null }] };
    const { result } = await world.call({ input: whole }, { name: "quote" });
    world.answer = { status: 502, body: {} };
    await generate({ input: whole, quote: result.quote });
    world.reset();
    const again = await generate({ input: { ...INPUT, loras: [lora] }, quote: result.quote });
    assert.deepEqual(again, { status: 200, result: { jobId: "job-1" } });
    assert.deepEqual(await wallet(), { credits: 983, held: 17, spent: 0 });
    assert.deepEqual(world.sent[0].body.input.loras, [lora]);
  });

  test("one id stands for one input", async () => {
    await generate();
    const other = { input: { ...INPUT, seed: 8 } };
    assert.equal((await generate(other)).error.status, "FAILED_PRECONDITION");
    await becomes(completed(33));
    assert.equal((await generate(other)).error.status, "FAILED_PRECONDITION");
    assert.deepEqual([await wallet(), world.sent.length], [{ credits: 983, held: 0, spent: 17 }, 1]);
  });

  test("one id stands for one input also where its job was thought lost, which may still come at its own price", async () => {
    await generate();
    await becomes(failed("worker_lost"));
    assert.equal((await generate({ input: { ...INPUT, seed: 8 } })).error.status, "FAILED_PRECONDITION");
    await becomes(completed(33));
    assert.deepEqual([await wallet(), world.sent.length], [{ credits: 983, held: 0, spent: 17 }, 1]);
  });

  test("many calls at once make one job", async () => {
    const answers = await Promise.all(Array.from({ length: 8 }, () => generate()));
    const said = new Set(answers.map(({ status, error }) => (status === 200 ? "taken" : error.status)));
    assert.ok(said.has("taken"));
    assert.ok([...said].every((one) => ["taken", "UNAVAILABLE"].includes(one)), [...said].join());
    assert.deepEqual([await wallet(), world.sent.length], [{ credits: 950, held: 50, spent: 0 }, 1]);
  });

  test("whose credits do not go so far is told what is missing, and no job is made", async () => {
    const { status, error } = await generate({}, { uid: "bob" });
    assert.deepEqual([status, error.status, world.sent.length], [400, "FAILED_PRECONDITION", 0]);
    assert.deepEqual(error.details, { reason: "credits", needed: 50, credits: 0 });
    assert.deepEqual(await wallet("bob"), { credits: 0, held: 0, spent: 0 });
  });

  for (const status of [400, 401, 404, 429])
    test(`has all back at once where RunPod answers ${status}`, async () => {
      world.answer = { status, body: {} };
      assert.notEqual((await generate()).status, 200);
      assert.deepEqual(await wallet(), { credits: 1000, held: 0, spent: 0 });
      world.reset();
      assert.equal((await generate()).status, 200);
      assert.deepEqual(await wallet(), { credits: 950, held: 50, spent: 0 });
    });

  for (const [what, answer] of [["500", { status: 500, body: {} }], ["no id", { status: 200, body: {} }], ["nothing", () => null]])
    test(`has nothing back where RunPod answers ${what}: the job may have been taken`, async () => {
      world.answer = answer;
      assert.equal((await generate()).error.status, "UNAVAILABLE");
      assert.deepEqual(await wallet(), { credits: 950, held: 50, spent: 0 });
      // A repeated request is refused: the first job may still come, and does.
      world.answer = { status: 429, body: {} };
      assert.equal((await generate()).error.status, "RESOURCE_EXHAUSTED");
      assert.deepEqual(await wallet(), { credits: 950, held: 50, spent: 0 });
      await becomes(completed(33, "job-9"));
      assert.deepEqual(await wallet(), { credits: 983, held: 0, spent: 17 });
    });

  test("has all back when a job never came, was lost or deleted, and RunPod has dropped it", async () => {
    const sweep = (minutes) => wallets().sweep({ now: Date.now() + minutes * MINUTES, page: 2 });
    for (const name of ["absent", "slip", "lost", "deleted", "alive"]) await generate({ fileUid: name });
    await file("slip").set({ status: "queued", created_at: Timestamp.now() });
    await file("lost").set(processing("job-1", 1, 29 * 60));
    await file("deleted").set(processing());
    await becomes(null, "deleted");
    await file("alive").set(processing("job-1", 1, 32 * 60));
    assert.equal(await sweep(29), 0);
    assert.deepEqual(await wallet(), { credits: 750, held: 250, spent: 0 });
    assert.equal(await sweep(31), 0);
    assert.deepEqual(await wallet(), { credits: 950, held: 50, spent: 0 });
    await sweep(36);
    assert.equal((await wallet()).held, 50, "a worker is still busy with it");
    await sweep(38);
    assert.deepEqual(await wallet(), { credits: 1000, held: 0, spent: 0 });
    await becomes(completed(33), "lost");
    assert.deepEqual(await wallet(), { credits: 983, held: 0, spent: 17 });
  });

  test("is held for a job that was submitted again as long as that one may come", async () => {
    const now = Date.now();
    const price = { hash: "h", credits: 50, ttlMs: 25 * MINUTES };
    await wallets().hold("alice", "f1", { ...price, call: "first", now });
    await wallets().unclear("alice", "f1", { call: "first" });
    const { is } = await wallets().hold("alice", "f1", { ...price, call: "second", now: now + 20 * MINUTES });
    assert.equal(is, "again");
    await wallets().sweep({ now: now + 49 * MINUTES });
    assert.deepEqual(await wallet(), { credits: 950, held: 50, spent: 0 });
    await wallets().sweep({ now: now + 51 * MINUTES });
    assert.deepEqual(await wallet(), { credits: 1000, held: 0, spent: 0 });
  });

  test("pays what nobody told of, when it is swept", async () => {
    await generate();
    await file().set(completed(33));
    await generate({ fileUid: "f2" });
    await file("f2").set(failed());
    await wallets().sweep({ now: Date.now() + 31 * MINUTES });
    assert.deepEqual(await wallet(), { credits: 983, held: 0, spent: 17 });
    assert.equal((await hold()).state, "taken");
    assert.equal((await hold("f2")).state, "returned");
  });

  test("who is gone leaves nothing behind: no wallet is made for a job that ends later", async () => {
    await generate();
    await firestore.doc("wallets/alice").delete();
    await becomes(completed(33));
    await wallets().sweep({ now: Date.now() + 31 * MINUTES });
    assert.equal((await firestore.doc("wallets/alice").get()).exists, false);
    assert.equal(await hold(), undefined);
  });

  test("is granted a purchase once", async () => {
    const grants = await Promise.all(Array.from({ length: 5 }, () => wallets().grant("alice", 100, "purchase", "order/2")));
    assert.equal(grants.filter(Boolean).length, 1);
    assert.deepEqual(await wallet(), { credits: 1100, held: 0, spent: 0 });
    for (const wrong of [0, -5, 1.5, NaN, "100"]) await assert.rejects(wallets().grant("alice", wrong, "x", "y"), TypeError);
  });

  test("a new user begins with the free credits, once", async () => {
    const { Wallets } = await import("../wallet.js");
    const free = new Wallets({ creditsPer1000Units: 500, freeCredits: 60 });
    await Promise.all([free.open("bob"), free.open("bob"), free.grant("bob", 5, "gift", "1")]);
    assert.deepEqual(await wallet("bob"), { credits: 65, held: 0, spent: 0 });
  });

  describe("asks what it costs", () => {
    const quote = (input = INPUT, who = {}) => world.call({ input }, { name: "quote", ...who });
    beforeEach(() => {
      world.answer = (url) =>
        url.endsWith("/runsync")
          ? { status: 200, body: { id: "sync-1", status: "COMPLETED", output: QUOTED } }
          : { status: 200, body: { id: "job-1" } };
    });

    test("and is told units, seconds, credits and a signed price", async () => {
      const { result } = await quote({ ...INPUT, user_id: "victim", file_uid: "x", use_cloud_storage: true, id_token: "t" });
      const { quote: signed, ...said } = result;
      assert.deepEqual(said, { ...QUOTED, credits: 17 });
      const [{ path: asked, body }] = world.sent;
      assert.deepEqual([asked, body.input], ["/endpoint-1/runsync", { ...INPUT, action: "quote" }]);
      const { payload } = await jwtVerify(signed, key, { audience: "generation-quote" });
      assert.deepEqual([payload.sub, payload.units, payload.exp - payload.iat], ["alice", 33, 600]);
      assert.equal(payload.request_hash, requestHash(INPUT));
    });

    test("and no more than that is held", async () => {
      const { result } = await quote();
      await generate({ quote: result.quote });
      assert.deepEqual(await wallet(), { credits: 983, held: 17, spent: 0 });
    });

    test("and a quote is for one user and one input, for ten minutes, signed by us", async () => {
      const { quote: signed } = (await quote()).result;
      const forged = (claims, audience = "generation-quote", exp = "5m") =>
        new SignJWT({ units: 1, request_hash: requestHash(INPUT), ...claims })
          .setProtectedHeader({ alg: "HS256" }).setAudience(audience).setSubject("alice").setExpirationTime(exp);
      const wrong = [
        [{ quote: signed }, { uid: "bob" }],
        [{ quote: signed, input: { ...INPUT, num_images: 4 } }],
        [{ quote: "abc" }],
        [{ quote: 5 }],
        [{ quote: await forged({}).sign(new TextEncoder().encode("another secret, also 32+ characters")) }],
        [{ quote: await forged({}, "generation-worker").sign(key) }],
        [{ quote: await forged({ units: undefined }).sign(key) }],
        [{ quote: await forged({ units: "5" }).sign(key) }],
        [{ quote: await forged({ units: -5 }).sign(key) }],
        [{ quote: await forged({}, "generation-quote", new Date(Date.now() - 5000)).sign(key) }],
      ];
      world.sent.length = 0;
      for (const [data, who] of wrong) {
        const { error } = await generate(data, who);
        assert.deepEqual([error.status, error.details], ["FAILED_PRECONDITION", { reason: "quote" }]);
      }
      assert.deepEqual([await wallet(), world.sent.length], [{ credits: 1000, held: 0, spent: 0 }, 0]);
    });

    test("and asked for again, what is held goes on at that price, however old its quote is by now", async () => {
      const signed = (seconds) =>
        new SignJWT({ units: 33, request_hash: requestHash(INPUT) })
          .setProtectedHeader({ alg: "HS256" }).setAudience("generation-quote").setSubject("alice")
          .setExpirationTime(new Date(Date.now() + 1000 * seconds)).sign(key);
      const old = await signed(-60);
      world.answer = { status: 500, body: {} }; // it is unknown whether RunPod took the job
      assert.equal((await generate({ quote: await signed(60) })).error.status, "UNAVAILABLE");
      world.reset();
      assert.deepEqual((await generate({ quote: old })).result, { jobId: "job-1" });
      assert.deepEqual((await generate({ quote: old })).result, { jobId: "job-1" });
      assert.deepEqual([await wallet(), world.sent.length], [{ credits: 983, held: 17, spent: 0 }, 1]);
      await becomes(completed(33));
      assert.deepEqual((await generate({ quote: old })).result, { jobId: "job-1" });
      await becomes(null);
      assert.deepEqual((await generate({ quote: old })).error.details, { reason: "quote" });
      assert.deepEqual(await wallet(), { credits: 983, held: 0, spent: 17 });
    });

    for (const [output, said, words] of [
      [{ error: "invalid_input: width: must be a multiple of 8" }, "INVALID_ARGUMENT", /^width: must/],
      [{ error: "model_unavailable: no model serves this task here" }, "FAILED_PRECONDITION", /^no model/],
      [{ error: "internal: something went wrong" }, "UNAVAILABLE", /does not answer/],
      [undefined, "UNAVAILABLE", /does not answer/],
      [{}, "UNAVAILABLE", /does not answer/],
      [{ units: null }, "UNAVAILABLE", /does not answer/],
      [{ units: "33" }, "UNAVAILABLE", /does not answer/],
    ])
      test(`and is told ${said} for ${output?.error ?? (JSON.stringify(output) || "no answer")}`, async () => {
        for (const body of [{ status: "FAILED", ...output }, { status: "COMPLETED", output }]) {
          world.answer = { status: 200, body };
          const { error } = await quote();
          assert.equal(error.status, said);
          assert.match(error.message, words);
        }
      });

    test("and nobody else asks", async () => {
      for (const who of [{ uid: null }, { app: null }]) assert.equal((await quote(INPUT, who)).status, 401);
      assert.equal((await quote({ seed: 5 })).error.status, "INVALID_ARGUMENT");
      assert.equal(world.sent.length, 0);
    });

    test("and not too often", async () => {
      process.env.QUOTES_PER_MINUTE = "2";
      try {
        const answers = [];
        for (let number = 0; number < 5; number += 1) answers.push((await quote()).status);
        assert.ok(answers.includes(429), String(answers));
      } finally {
        process.env.QUOTES_PER_MINUTE = "0";
      }
    });

    test("and what there is to choose from, which is asked once for all, however many ask at once", async () => {
      const [answer, users] = [{ tasks: ["text2img"], models: {} }, Array.from({ length: 20 }, (_, number) => `user-${number}`)];
      const all = () => Promise.all(users.map((uid) => world.call({}, { name: "capabilities", uid })));
      world.answer = { status: 500, body: {} };
      for (const { error } of await all()) assert.equal(error.status, "UNAVAILABLE");
      world.reset();
      world.answer = { status: 200, body: { status: "COMPLETED", output: answer } };
      for (const { result } of [...(await all()), ...(await all())]) assert.deepEqual(result, answer);
      assert.deepEqual(world.sent.map(({ body }) => body.input), [{ action: "capabilities" }]);
    });
  });

  test("without CREDITS nobody pays, and nothing is written", async () => {
    process.env.CREDITS = "off";
    assert.equal((await generate({}, { uid: "bob" })).status, 200);
    await becomes(completed(33));
    await world.functions.sweep.run({});
    assert.equal((await firestore.doc("wallets/bob").get()).exists, false);
    assert.deepEqual(await wallet(), { credits: 1000, held: 0, spent: 0 });
  });

  test("gets no job for nothing where CREDITS is neither on nor off", async () => {
    for (const value of ["true", "ON", ""]) {
      process.env.CREDITS = value;
      assert.equal((await generate()).error.status, "INTERNAL");
    }
    assert.deepEqual([world.sent.length, await wallet()], [0, { credits: 1000, held: 0, spent: 0 }]);
  });

  test("what is held without a quote is the most that a job of its task may come to", async () => {
    const { mostUnits } = await import("../credits.js");
    assert.deepEqual(
      [undefined, null, "text2img", "text2video", "other"].map((task) => mostUnits(task, "800 , text2video = 8000")),
      [800, 800, 800, 8000, 800],
    );
    assert.equal(mostUnits(null, "800,text2img=5"), 5);
    for (const wrong of ["", "x", "text2video=5", "-1"]) assert.throws(() => mostUnits("text2img", wrong), /MAX_UNITS/);
  });
});
