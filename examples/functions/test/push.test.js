// Tests pushes with a local Firestore (FIRESTORE_EMULATOR_HOST; skipped without it) and a stand-in for FCM.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { after, before, beforeEach, describe, test } from "node:test";
import { Fcm } from "./fcm.js";
import { World } from "./world.js";

const URL = "https://firebasestorage.googleapis.com/v0/b/b/o/generating%2Falice%2Fimage%2Fthumbs%2Ff1.webp?alt=media&token=t";
const SECRET_PROMPT = "my secret prompt";
const DAY = 24 * 3600;
const document = (fields) => ({
  status: "completed",
  attempt: 1,
  request_data: { prompt: SECRET_PROMPT },
  generation_data: { storage: "firebase", files: [{ url: URL, thumbnail_url: URL, nsfw: false }] },
  ...fields,
});
const FAILED = document({ status: "failed", generation_data: undefined, error: { code: "timeout", message: SECRET_PROMPT } });
const RUNNING = document({ status: "processing", generation_data: undefined });

describe("a user's devices", { skip: !process.env.FIRESTORE_EMULATOR_HOST }, () => {
  const world = new World();
  const fcm = new Fcm();
  let firestore;
  let Timestamp;

  before(async () => {
    await fcm.start();
    await world.start();
    ({ Timestamp } = await import("firebase-admin/firestore"));
    firestore = (await import("firebase-admin/firestore")).getFirestore();
  });
  after(async () => {
    await world.stop();
    await fcm.stop();
    await firestore.terminate();
  });
  beforeEach(async () => {
    world.reset();
    fcm.reset();
    process.env.PUSH = "on";
    for (const uid of ["alice", "bob"]) await firestore.recursiveDelete(firestore.doc(`users/${uid}`));
  });

  const register = (token, { uid = "alice", platform = "ios" } = {}) =>
    world.call({ token, platform }, { uid, name: "registerDevice" });
  const tokensOf = async (uid) => {
    const { docs } = await firestore.collection(`users/${uid}/devices`).get();
    return docs.map((found) => found.get("token")).sort();
  };
  /** Run the trigger for a change; the document may meanwhile be another one, `stands`. */
  const written = async (earlier, later, { uid = "alice", fileUid = "f1", stands = later } = {}) => {
    const said = (fields) => ({ data: () => fields });
    const file = firestore.doc(`generations/${uid}/files/${fileUid}`);
    await (stands ? file.set(JSON.parse(JSON.stringify(stands))) : file.delete());
    await world.functions.settle.run({ params: { uid, fileUid }, data: { before: said(earlier), after: said(later) } });
  };
  const told = () => fcm.sent.map(({ code, message }) => [code, message.token, message.data.status]);

  test("are registered under the hash of their token, and again without a second one", async () => {
    assert.deepEqual(await register("token-1"), { status: 200, result: {} });
    await register("token-1", { platform: "web" });
    const { docs } = await firestore.collection("users/alice/devices").get();
    const { token, platform, updated_at, ...more } = docs[0].data();
    assert.deepEqual([docs.length, token, platform, more], [1, "token-1", "web", {}]);
    assert.equal(docs[0].id, createHash("sha256").update("token-1").digest("hex").slice(0, 32));
    assert.ok(Math.abs(updated_at.toMillis() - Date.now()) < 60_000);
  });

  test("belong to who is signed in on them", async () => {
    await register("tablet", { uid: "bob" });
    await register("bobs-own", { uid: "bob" });
    await register("tablet", { uid: "alice" });
    assert.deepEqual([await tokensOf("bob"), await tokensOf("alice")], [["bobs-own"], ["tablet"]]);
  });

  test("belong to one user, also where two sign in on one at once", async () => {
    for (let round = 0; round < 5; round += 1) {
      const answers = await Promise.all(["alice", "bob", "alice", "bob"].map((uid) => register("tablet", { uid })));
      assert.ok(answers.some(({ status }) => status === 200));
      assert.deepEqual([...(await tokensOf("bob")), ...(await tokensOf("alice"))], ["tablet"]);
    }
  });

  test("are not registered as often as a script likes", async () => {
    process.env.QUOTES_PER_MINUTE = "2";
    try {
      const answers = [];
      for (let number = 0; number < 5; number += 1) answers.push((await register(`token-${number}`)).status);
      assert.ok(answers.includes(429), String(answers));
    } finally {
      process.env.QUOTES_PER_MINUTE = "0";
    }
  });

  for (const data of [null, {}, { token: "t" }, { token: 5, platform: "ios" }, { token: "", platform: "ios" },
    { token: "a b", platform: "ios" }, { token: "x".repeat(1025), platform: "ios" }, { token: "t", platform: "windows" }])
    test(`are not registered by ${JSON.stringify(data)?.slice(0, 50)}`, async () => {
      const { status, error } = await world.call(data, { name: "registerDevice" });
      assert.deepEqual([status, error.status, await tokensOf("alice")], [400, "INVALID_ARGUMENT", []]);
    });

  test("are not registered by nobody, nor by what is not the app", async () => {
    for (const who of [{ uid: null }, { app: null }]) {
      const { error } = await world.call({ token: "t", platform: "ios" }, { ...who, name: "registerDevice" });
      assert.equal(error.status, "UNAUTHENTICATED");
    }
  });

  test("are twenty at most: the oldest go", async () => {
    for (let number = 0; number < 22; number += 1) await register(`token-${number}`);
    const tokens = await tokensOf("alice");
    assert.equal(tokens.length, 20);
    assert.ok(!tokens.includes("token-0") && !tokens.includes("token-1") && tokens.includes("token-21"));
  });

  test("all hear of a result, with its thumbnail and nothing of the prompt", async () => {
    await register("token-1");
    await register("token-2", { platform: "web" });
    await register("bobs", { uid: "bob" });
    await written(RUNNING, document());
    assert.deepEqual(told().sort(), [[200, "token-1", "completed"], [200, "token-2", "completed"]]);
    const { token: _, ...message } = fcm.sent[0].message;
    const topic = createHash("sha256").update("f1").digest("base64url").slice(0, 32);
    const { "apns-expiration": expires, ...headers } = message.apns.headers;
    assert.ok(Math.abs(expires - Date.now() / 1000 - DAY) < 60);
    assert.deepEqual(headers, { "apns-push-type": "alert", "apns-priority": "10", "apns-collapse-id": topic });
    const text = { title: "It is ready", body: "Tap to see what was made for you." };
    assert.deepEqual(message.notification, { ...text, image: URL });
    assert.deepEqual(message.data, { file_uid: "f1", status: "completed" });
    assert.deepEqual(message.android, {
      collapse_key: topic,
      priority: "high",
      ttl: `${DAY}s`,
      notification: { channel_id: "generations", tag: topic },
    });
    assert.deepEqual(message.apns.payload, { aps: { "mutable-content": 1, "thread-id": "generations", sound: "default" } });
    assert.deepEqual(message.apns.fcmOptions, { image: URL });
    assert.deepEqual(message.webpush, {
      headers: { TTL: String(DAY), Topic: topic, Urgency: "normal" },
      notification: { ...text, tag: topic, image: URL },
    });
    assert.doesNotMatch(JSON.stringify(fcm.sent), new RegExp(SECRET_PROMPT));
  });

  test("hear of a failure without its words", async () => {
    await register("token-1");
    await written(RUNNING, FAILED);
    const [{ message }] = fcm.sent;
    assert.deepEqual(message.data, { file_uid: "f1", status: "failed" });
    assert.deepEqual(message.notification, { title: "It did not work", body: "Tap to see why, and to try again." });
    assert.doesNotMatch(JSON.stringify(message), new RegExp(SECRET_PROMPT));
  });

  for (const [what, later, title] of [
    ["kept for later", { ...FAILED, error: { code: "storage_unavailable", retryable: false } }, "It takes a little longer"],
    ["lost", { ...FAILED, error: { code: "storage_unavailable", retryable: true } }, "It did not work"],
    ["returned inline, where no app has it", document({ generation_data: { storage: "base64", files: [] } }), "It did not work"],
  ])
    test(`are promised what comes, of a result that was ${what}`, async () => {
      await register("token-1");
      await written(RUNNING, later);
      const [{ message }] = fcm.sent;
      assert.deepEqual([message.notification.title, message.webpush.notification.title], [title, title]);
      assert.equal(message.data.status, later.status);
    });

  test("hear once of each end, however often they are told of it", async () => {
    await register("token-1");
    await Promise.all(Array.from({ length: 5 }, () => written(RUNNING, document())));
    await written(RUNNING, document());
    assert.equal(fcm.sent.length, 1);
    await written(RUNNING, document({ attempt: 2 }));
    await written(RUNNING, document({ attempt: 1 }));
    assert.equal(fcm.sent.length, 2);
    await written(RUNNING, document(), { fileUid: "f2" });
    assert.equal(fcm.sent.length, 3);
    const marker = await firestore.doc("users/alice/pushed/f1").get();
    assert.ok(marker.get("expires_at").toMillis() > Date.now() + 7 * DAY * 1000);
  });

  test("hear again of what failed, and came from the outbox after all", async () => {
    await register("token-1");
    await written(RUNNING, FAILED);
    await written(FAILED, document());
    await written(RUNNING, FAILED, { stands: document() }); // late
    assert.deepEqual(told(), [[200, "token-1", "failed"], [200, "token-1", "completed"]]);
  });

  for (const [name, earlier, later] of [
    ["has not ended", document({ status: "queued" }), RUNNING],
    ["has a new label", document(), document({ favorite: true })],
    ["was deleted", document(), undefined],
    ["its user cancelled", RUNNING, document({ status: "failed", error: { code: "cancelled" } })],
  ])
    test(`hear nothing of what ${name}`, async () => {
      await register("token-1");
      await written(earlier, later);
      assert.deepEqual(fcm.sent, []);
    });

  test("hear nothing late of what does not stand any more", async () => {
    await register("token-1");
    await written(RUNNING, document(), { stands: null }); // deleted, or taken down
    await written(RUNNING, FAILED, { stands: document() });
    assert.deepEqual(fcm.sent, []);
    await written(FAILED, document());
    assert.deepEqual(told(), [[200, "token-1", "completed"]]);
  });

  test("hear nothing where PUSH is off", async () => {
    delete process.env.PUSH;
    await register("token-1");
    await written(RUNNING, document());
    assert.deepEqual(fcm.sent, []);
  });

  test("show no picture that the content safety check flagged, and none where there is none", async () => {
    await register("token-1");
    await written(RUNNING, document({ generation_data: { files: [{ thumbnail_url: URL, nsfw: true }] } }));
    await written(RUNNING, document({ generation_data: { files: [] } }), { fileUid: "f2" });
    await written(RUNNING, document({ generation_data: { files: [{ thumbnail_url: null }] } }), { fileUid: "f3" });
    assert.equal(fcm.sent.length, 3);
    for (const { code, message } of fcm.sent) assert.ok(code === 200 && !JSON.stringify(message).includes("image"));
  });

  test("that are gone are forgotten, and no others", async () => {
    for (const token of ["gone-1", "none-1", "broken-1", "odd-1", "token-1"]) await register(token);
    await written(RUNNING, document());
    assert.equal(fcm.sent.length, 5);
    assert.deepEqual(await tokensOf("alice"), ["broken-1", "odd-1", "token-1"]);
  });

  test("that were away for 270 days are forgotten", async () => {
    await register("token-1");
    const old = Timestamp.fromMillis(Date.now() - 271 * DAY * 1000);
    await firestore.doc("users/alice/devices/old").set({ token: "old", platform: "ios", updated_at: old });
    await written(RUNNING, document());
    assert.deepEqual(told(), [[200, "token-1", "completed"]]);
    assert.deepEqual(await tokensOf("alice"), ["token-1"]);
  });

  test("that cannot be reached keep nothing else from being settled", async () => {
    await register("token-1");
    fcm.isDown = true;
    await written(RUNNING, document());
    assert.deepEqual(fcm.sent, []);
    assert.deepEqual(await tokensOf("alice"), ["token-1"]);
  });
});
