// Tests deleted accounts, reports and takedowns, with local Firebase emulators at FIRESTORE_EMULATOR_HOST,
// STORAGE_EMULATOR_HOST and AUTH_HOST. Skipped if one of them is missing.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, beforeEach, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { World } from "./world.js";

const { FIRESTORE_EMULATOR_HOST, STORAGE_EMULATOR_HOST, AUTH_HOST } = process.env;
const INPUT = { prompt: "a fox" };
const MINUTE = 60_000;
if (AUTH_HOST) process.env.FIREBASE_AUTH_EMULATOR_HOST = AUTH_HOST;
process.env.STORAGE_BUCKET = process.env.FIREBASE_STORAGE_BUCKET ?? "";

describe("what is to be gone", { skip: !(FIRESTORE_EMULATOR_HOST && STORAGE_EMULATOR_HOST && AUTH_HOST) }, () => {
  const world = new World();
  let firestore, bucket, users, eraseAgain;

  before(async () => {
    await world.start();
    firestore = (await import("firebase-admin/firestore")).getFirestore();
    users = (await import("firebase-admin/auth")).getAuth();
    ({ eraseAgain } = await import("../deletion.js"));
    bucket = (await import("../bucket.js")).bucket();
  });
  after(async () => {
    await world.stop();
    await firestore.terminate();
  });
  beforeEach(async () => {
    world.reset();
    process.env.JOBS_PER_MINUTE = "1000";
    for (const name of ["generations", "users", "wallets", "submissions", "quotes"])
      for (const uid of ["alice", "alice2", "kakao:1"]) await firestore.recursiveDelete(firestore.doc(`${name}/${uid}`));
    for (const name of ["reports", "blocked", "deleted_users"])
      for (const { ref } of (await firestore.collection(name).get()).docs) await ref.delete();
    await bucket.deleteFiles({ force: true });
    await users.deleteUser("alice").catch(() => {});
  });

  const put = (path, file_uid) => bucket.file(path).save("x", { resumable: false, metadata: file_uid && { metadata: { file_uid } } });
  const paths = async () => (await bucket.getFiles())[0].map(({ name }) => name).sort();
  const there = async (path) => (await firestore.doc(path).get()).exists;
  const deleted = (uid = "alice") => world.functions.onUserDeleted({ uid, metadata: {} }, { eventId: "1", eventType: "x" });
  const generate = (fileUid, who = {}) => world.call({ fileUid, input: INPUT }, who);
  /** Write a document and run the trigger for the change. */
  const written = async (fileUid, earlier, later, uid = "alice") => {
    const said = (fields) => ({ data: () => fields });
    if (later) await firestore.doc(`generations/${uid}/files/${fileUid}`).set(later);
    await world.functions.settle.run({ params: { uid, fileUid }, data: { before: said(earlier), after: said(later) } });
  };
  const LEFT = [
    "generations/alice/files/f1", "generations/alice/files/f2", "users/alice", "users/alice/devices/d", "users/alice/pushed/f1",
    "wallets/alice", "wallets/alice/holds/f1", "wallets/alice/ledger/l", "submissions/alice", "quotes/alice",
    "reports/file:f1:alice", "blocked/file:f9:alice",
  ];

  test("is all of a deleted user's, and nothing of another one's", async () => {
    const others = LEFT.map((path) => path.replaceAll("alice", "alice2"));
    for (const path of [...LEFT, ...others]) await firestore.doc(path).set({ uid: path.includes("alice2") ? "alice2" : "alice" });
    for (const uid of ["alice", "alice2"])
      for (const path of ["generating/$/image/f1.png", "generating/$/image/thumbs/f1.webp", "generating/$/video/f2.mp4", "uploads/$/a.png"])
        await put(path.replace("$", uid));
    await deleted();
    for (const path of LEFT) assert.equal(await there(path), false, path);
    for (const path of others) assert.equal(await there(path), true, path);
    assert.deepEqual(await paths(), [
      "generating/alice2/image/f1.png", "generating/alice2/image/thumbs/f1.webp", "generating/alice2/video/f2.mp4",
      "uploads/alice2/a.png",
    ]);
    await deleted(); // events may be redelivered
    await deleted("not/an..id of ours");
    assert.equal((await firestore.collection("deleted_users").get()).size, 1);
  });

  test("is what a job brings after that, as soon as its document appears", async () => {
    await deleted();
    for (const [earlier, later] of [
      [undefined, { status: "queued" }],
      [{ status: "queued" }, { status: "processing", attempt: 1 }],
      [undefined, { status: "completed", attempt: 1, generation_data: {} }], // a result from a worker's volume
    ]) {
      await put("generating/alice/image/f1.png");
      await written("f1", earlier, later);
      assert.deepEqual([await there("generations/alice/files/f1"), await paths()], [false, []]);
    }
  });

  test("is what a worker left that died, once no job and no result can be left", async () => {
    await deleted();
    const start = Date.now();
    await put("generating/alice/image/f1.png");
    await eraseAgain({ now: start + 30 * MINUTE });
    assert.deepEqual(await paths(), ["generating/alice/image/f1.png"], "a job may still be at work");
    await eraseAgain({ now: start + 41 * MINUTE });
    assert.deepEqual(await paths(), []);
    await put("generating/alice/image/f2.png");
    await eraseAgain({ now: start + 60 * MINUTE });
    assert.equal((await paths()).length, 1);
    await eraseAgain({ now: start + 50 * 60 * MINUTE });
    assert.deepEqual([await paths(), await there("deleted_users/alice")], [[], false]);
  });

  test("is gone also where the credits are set wrongly", async () => {
    const { Timestamp } = await import("firebase-admin/firestore");
    await firestore.doc("deleted_users/alice").set({ at: Timestamp.fromMillis(0), erase_at: Timestamp.fromMillis(1) });
    await firestore.doc("users/alice/devices/late").set({ token: "t" });
    process.env.CREDITS = "true";
    try {
      await assert.rejects(world.functions.sweep.run({}), /CREDITS must be/);
    } finally {
      process.env.CREDITS = "off";
    }
    const left = [firestore.doc("users/alice/devices/late"), firestore.doc("deleted_users/alice")];
    assert.deepEqual((await firestore.getAll(...left)).map(({ exists }) => exists), [false, false]);
  });

  test("is nothing that was made since, where a deletion is told of twice", async () => {
    await deleted();
    await firestore.doc("wallets/alice").set({ credits: 5 });
    await deleted();
    assert.equal(await there("wallets/alice"), true);
    await world.functions.onUserDeleted({ uid: "alice", metadata: {} }, { eventId: "2", eventType: "x" }); // a second deletion
    assert.equal(await there("wallets/alice"), false);
  });

  test("is nothing of who signed up again under the same id", async () => {
    await deleted();
    await users.createUser({ uid: "alice" });
    await put("generating/alice/image/f1.png");
    await written("f1", undefined, { status: "processing", attempt: 1 });
    await eraseAgain({ now: Date.now() + 41 * MINUTE });
    assert.deepEqual([await there("generations/alice/files/f1"), (await paths()).length], [true, 1]);
    assert.equal(await there("deleted_users/alice"), false);
  });

  test("is not made for a sign-in from before the deletion", async () => {
    assert.equal((await generate("f1")).status, 200);
    await deleted();
    const { status, error } = await generate("f2");
    assert.deepEqual([status, error.status, world.sent.length], [401, "UNAUTHENTICATED", 1]);
    const again = { claims: { auth_time: Math.floor(Date.now() / 1000) + 5 } };
    assert.equal((await generate("f3", again)).status, 200);
    assert.equal((await generate("f4", { uid: "bob" })).status, 200);
  });

  describe("a report", () => {
    const report = (data, who = {}) => world.call(data, { ...who, name: "report" });
    beforeEach(async () => {
      await firestore.doc("generations/alice/files/f1").set({ status: "completed" });
      await firestore.doc("generations/alice/files/slip").set({ status: "queued" });
    });

    test("stands where its operator reads it, once for each file", async () => {
      assert.deepEqual(await report({ fileUid: "f1", reason: " offensive ", note: "look" }), { status: 200, result: {} });
      await report({ fileUid: "f1", reason: "violence" });
      const { docs } = await firestore.collection("reports").get();
      const { created_at, updated_at, ...said } = docs[0].data();
      assert.equal(docs.length, 1);
      assert.deepEqual(said, { uid: "alice", file_uid: "f1", reason: "violence", note: null, state: "open" });
      assert.ok(created_at.toMillis() < updated_at.toMillis());
    });

    for (const [data, code] of [
      [null, "INVALID_ARGUMENT"],
      [{ fileUid: "f1" }, "INVALID_ARGUMENT"],
      [{ fileUid: "f1", reason: "  " }, "INVALID_ARGUMENT"],
      [{ fileUid: "f1", reason: "x".repeat(101) }, "INVALID_ARGUMENT"],
      [{ fileUid: "f1", reason: "x", note: "x".repeat(1001) }, "INVALID_ARGUMENT"],
      [{ fileUid: "f1", reason: "x", note: { a: 1 } }, "INVALID_ARGUMENT"],
      [{ fileUid: "../f1", reason: "x" }, "INVALID_ARGUMENT"],
      [{ fileUid: "not-mine", reason: "x" }, "NOT_FOUND"],
      [{ fileUid: "slip", reason: "x" }, "NOT_FOUND"],
    ])
      test(`is none: ${JSON.stringify(data)?.slice(0, 50)}`, async () => {
        const { error } = await report(data);
        assert.deepEqual([error.status, (await firestore.collection("reports").get()).size], [code, 0]);
      });

    test("is not made as often as a script likes", async () => {
      process.env.QUOTES_PER_MINUTE = "2";
      try {
        const answers = [];
        for (let number = 0; number < 5; number += 1) answers.push((await report({ fileUid: "f1", reason: "x" })).status);
        assert.ok(answers.includes(429), String(answers));
      } finally {
        process.env.QUOTES_PER_MINUTE = "0";
      }
    });

    test("is made by who is signed in, in the app", async () => {
      for (const who of [{ uid: null }, { app: null }])
        assert.equal((await report({ fileUid: "f1", reason: "x" }, who)).error.status, "UNAUTHENTICATED");
    });
  });

  test("is taken down with its files, and is not made again", async () => {
    await firestore.doc("generations/alice/files/a").set({ status: "completed" });
    await firestore.doc("generations/alice/files/a_0").set({ status: "completed" });
    await world.call({ fileUid: "a", reason: "offensive" }, { name: "report" });
    await put("generating/alice/image/a_0.png", "a");
    await put("generating/alice/image/a_1.png", "a");
    await put("generating/alice/image/thumbs/a_0.webp", "a");
    await put("generating/alice/video/a.mp4", "a");
    await put("generating/alice/image/ab.png", "ab");
    await put("generating/alice/video/a_0.mp4", "a_0");
    const run = promisify(execFile)(process.execPath, ["takedown.js", "alice", "a"], { env: process.env });
    assert.equal((await run).stdout, "taken down: the document and 4 files; nothing is made under this fileUid again\n");
    assert.deepEqual(await paths(), ["generating/alice/image/ab.png", "generating/alice/video/a_0.mp4"]);
    assert.deepEqual(
      [await there("generations/alice/files/a"), await there("generations/alice/files/a_0")],
      [false, true],
    );
    assert.equal((await firestore.doc("reports/file:a:alice").get()).get("state"), "taken down");
    const { error } = await generate("a");
    assert.deepEqual([error.status, world.sent.length], ["PERMISSION_DENIED", 0]);
    assert.equal((await generate("ab")).status, 200);
    // A job that was submitted before the takedown.
    await written("a", undefined, { status: "processing", attempt: 1 });
    await put("generating/alice/image/a_0.png", "a");
    await written("a", undefined, { status: "completed", attempt: 1 });
    assert.deepEqual([await there("generations/alice/files/a"), (await paths()).length], [false, 2]);
  });

  test("is taken down in the database that the settings name", async () => {
    const { getFirestore } = await import("firebase-admin/firestore");
    const photos = getFirestore("photos");
    const [here, elsewhere] = [firestore, photos].map((database) => database.doc("generations/alice/files/a"));
    for (const document of [here, elsewhere]) await document.set({ status: "completed" });
    const folder = await mkdtemp(join(tmpdir(), "settings-"));
    await writeFile(join(folder, ".env"), "FIRESTORE_DATABASE=photos\n");
    const { FIRESTORE_DATABASE: _, ...env } = process.env;
    const script = fileURLToPath(new URL("../takedown.js", import.meta.url));
    await promisify(execFile)(process.execPath, [script, "alice", "a"], { cwd: folder, env });
    assert.deepEqual([(await here.get()).exists, (await elsewhere.get()).exists], [true, false]);
    assert.equal((await photos.doc("blocked/file:a:alice").get()).exists, true);
    await photos.terminate();
    await rm(folder, { recursive: true });
  });

  test("is not taken down under a path that is none", async () => {
    for (const words of [["alice"], ["..", "a/b"]])
      await assert.rejects(promisify(execFile)(process.execPath, ["takedown.js", ...words]), /usage: node takedown\.js/);
  });
});
