"use strict";
// Tests what the rules allow and refuse, on the official emulators with Firebase's test library.
// Run by `npm test`, which starts the emulators (Java 21 or newer, and a download on the first run), and by test_rules.py
// on Google's Firestore emulator alone, if google-cloud-cli has installed it.

const assert = require("node:assert/strict");
const fs = require("node:fs");
const path = require("node:path");
const { after, afterEach, before, describe, test } = require("node:test");
const {
  assertFails,
  assertSucceeds,
  initializeTestEnvironment,
} = require("@firebase/rules-unit-testing");
const { createMockUserToken } = require("@firebase/util");
const firestore = require("firebase/firestore");
const storage = require("firebase/storage");

const ROOT = path.join(__dirname, "..", "..");
const read = (name) => fs.readFileSync(path.join(ROOT, name), "utf8");
const FILE = "generations/alice/files/f1";
const IMAGE = { contentType: "image/png" };

const PROJECT = "demo-generation-rules";
// Google's packaged Firestore emulator does not include the Storage emulator.
const WITHOUT_STORAGE = !process.env.FIREBASE_STORAGE_EMULATOR_HOST;

let world;
before(async () => {
  world = await initializeTestEnvironment({
    projectId: PROJECT,
    firestore: { rules: read("firestore.rules") },
    ...(WITHOUT_STORAGE ? {} : { storage: { rules: read("storage.rules") } }),
  });
});
afterEach(() => Promise.all([world.clearFirestore(), WITHOUT_STORAGE || world.clearStorage()]));
after(() => world.cleanup());

const documents = (uid) => (uid ? world.authenticatedContext(uid) : world.unauthenticatedContext()).firestore();
const objects = (uid) => (uid ? world.authenticatedContext(uid) : world.unauthenticatedContext()).storage();
const document = (uid, name = FILE) => firestore.doc(documents(uid), name);
const object = (uid, name) => storage.ref(objects(uid), name);

const asWorker = (work) => world.withSecurityRulesDisabled(work);
const givenDocument = (fields) =>
  asWorker((context) => firestore.setDoc(firestore.doc(context.firestore(), FILE), fields));
const givenObject = (name) =>
  asWorker((context) => storage.uploadBytes(storage.ref(context.storage(), name), new Uint8Array(8), IMAGE));
const slip = (more) => ({ status: "queued", created_at: firestore.serverTimestamp(), ...more });

describe("a generation's document", () => {
  const owner = "alice";

  test("is read by its owner alone", async () => {
    await givenDocument({ status: "completed" });
    await assertSucceeds(firestore.getDoc(document(owner)));
    await assertFails(firestore.getDoc(document("bob")));
    await assertFails(firestore.getDoc(document(null)));
  });

  test("is listed by its owner alone, with a limit", async () => {
    const list = (uid, ...limits) =>
      firestore.getDocs(firestore.query(firestore.collection(documents(uid), "generations/alice/files"), ...limits));
    await assertSucceeds(list(owner, firestore.limit(100)));
    await assertFails(list(owner, firestore.limit(101)));
    await assertFails(list(owner));
    await assertFails(list("bob", firestore.limit(1)));
    await assertFails(list(null, firestore.limit(1)));
  });

  test("is listed from the first one on: what an offset passes over is billed", async () => {
    const listed = async (more) => {
      const answer = await fetch(
        `http://${process.env.FIRESTORE_EMULATOR_HOST}/v1/projects/${PROJECT}/databases/(default)/documents/generations/alice:runQuery`,
        {
          method: "POST",
          headers: { Authorization: `Bearer ${createMockUserToken({ user_id: owner }, PROJECT)}` },
          body: JSON.stringify({ structuredQuery: { from: [{ collectionId: "files" }], limit: 1, ...more } }),
        },
      );
      return answer.status;
    };
    assert.equal(await listed({}), 200);
    assert.equal(await listed({ offset: 0 }), 200);
    assert.equal(await listed({ offset: 1 }), 403);
    assert.equal(await listed({ offset: 999999 }), 403);
    assert.equal(await listed({ limit: 101 }), 403);
  });

  test("is not found through a collection group", async () => {
    const everyone = firestore.collectionGroup(documents(owner), "files");
    await assertFails(firestore.getDocs(firestore.query(everyone, firestore.limit(1))));
  });

  test("is deleted by its owner alone", async () => {
    await givenDocument({ status: "processing" });
    await assertFails(firestore.deleteDoc(document("bob")));
    await assertFails(firestore.deleteDoc(document(null)));
    await assertSucceeds(firestore.deleteDoc(document(owner)));
  });

  test("is created by its owner as an order slip", async () => {
    await assertSucceeds(firestore.setDoc(document(owner), slip()));
    const labels = { favorite: true, hidden: false, labels: ["cats", "blue"] };
    await assertSucceeds(firestore.setDoc(document(owner, "generations/alice/files/f2"), slip(labels)));
  });

  const forged = {
    "a finished status": slip({ status: "completed" }),
    "a claimed status": slip({ status: "processing" }),
    "a result": slip({ generation_data: { image_url: "https://example.com" } }),
    "a job": slip({ job_id: "j" }),
    "a lease": slip({ expires_at: firestore.serverTimestamp() }),
    "an attempt": slip({ attempt: 0 }),
    "a stop request": slip({ cancel_requested: true }),
    "a time of its own": { status: "queued", created_at: firestore.Timestamp.fromMillis(0) },
    "no time": { status: "queued" },
    "no status": { created_at: firestore.serverTimestamp() },
    "a label that is no list": slip({ labels: "cats" }),
  };
  for (const [what, fields] of Object.entries(forged)) {
    test(`is not created with ${what}`, () => assertFails(firestore.setDoc(document(owner), fields)));
  }

  test("is not created for somebody else, or under a strange id", async () => {
    await assertFails(firestore.setDoc(document("bob"), slip()));
    await assertFails(firestore.setDoc(document(null), slip()));
    await assertFails(firestore.setDoc(document(owner, "generations/alice/files/a b"), slip()));
    await assertFails(firestore.setDoc(document(owner, "generations/alice/files/f1/more/x"), slip()));
  });

  const kept = { status: "completed", attempt: 1, generation_data: { image_url: "u" } };

  for (const change of [
    { favorite: true },
    { hidden: true, labels: ["a"] },
    { labels: Array.from({ length: 10 }, (_, place) => `label ${place}`) },
    { favorite: firestore.deleteField() },
  ]) {
    test(`takes its owner's labels: ${Object.keys(change)}`, async () => {
      await givenDocument({ ...kept, favorite: false });
      await assertSucceeds(firestore.updateDoc(document(owner), change));
    });
  }

  const refused = {
    "its status": { status: "completed" },
    "its result": { "generation_data.image_url": "https://example.com" },
    "its attempt": { attempt: 9 },
    "a new field": { note: "x" },
    "a label and its status": { favorite: true, status: "failed" },
    "a favourite that is no flag": { favorite: "yes" },
    "eleven labels": { labels: Array.from({ length: 11 }, (_, place) => `label ${place}`) },
    "a long label": { labels: ["x".repeat(41)] },
    "a label that is no text": { labels: ["a", { b: 1 }] },
  };
  for (const [what, change] of Object.entries(refused)) {
    test(`does not let its owner change ${what}`, async () => {
      await givenDocument({ ...kept, status: "processing" });
      await assertFails(firestore.updateDoc(document(owner), change));
    });
  }

  test("takes no labels from others", async () => {
    await givenDocument(kept);
    await assertFails(firestore.updateDoc(document("bob"), { favorite: true }));
    await assertFails(firestore.updateDoc(document(null), { favorite: true }));
  });

  test("is not replaced", async () => {
    await givenDocument(kept);
    await assertFails(firestore.setDoc(document(owner), slip()));
  });

  for (const status of ["queued", "processing"]) {
    test(`takes a stop request while it is ${status}, and keeps it`, async () => {
      await givenDocument({ status });
      await assertFails(firestore.updateDoc(document(owner), { cancel_requested: false }));
      await assertFails(firestore.updateDoc(document("bob"), { cancel_requested: true }));
      await assertSucceeds(firestore.updateDoc(document(owner), { cancel_requested: true }));
      await assertFails(firestore.updateDoc(document(owner), { cancel_requested: firestore.deleteField() }));
      await assertFails(firestore.updateDoc(document(owner), { cancel_requested: false }));
    });
  }

  for (const status of ["completed", "failed"]) {
    test(`takes no stop request when it is ${status}`, async () => {
      await givenDocument({ status });
      await assertFails(firestore.updateDoc(document(owner), { cancel_requested: true }));
    });
  }
});

// Custom sign-in creates such ids: react-native-auth0#14.
for (const uid of ["kakao:12345", "auth0|abc", "user.name", "a@b+c", "-_-"]) {
  test(`a user called ${uid} has what is theirs, and nobody else has it`, async () => {
    const slips = `generations/${uid}/files/f1`;
    const source = `uploads/${uid}/in.png`;
    const upload = (who) => storage.uploadBytes(object(who, source), new Uint8Array(8), IMAGE);
    await assertSucceeds(firestore.setDoc(document(uid, slips), slip()));
    await assertSucceeds(firestore.getDoc(document(uid, slips)));
    for (const other of ["alice", null]) {
      await assertFails(firestore.getDoc(document(other, slips)));
    }
    if (WITHOUT_STORAGE) return;
    await assertSucceeds(upload(uid));
    await assertFails(upload("alice"));
    await assertFails(upload(null));
  });
}

test("a wallet is read by its owner, and changed by nobody", async () => {
  const wallet = { credits: 5, held: 0, spent: 0, granted: 5 };
  await asWorker((context) => firestore.setDoc(firestore.doc(context.firestore(), "wallets/alice"), wallet));
  await assertSucceeds(firestore.getDoc(document("alice", "wallets/alice")));
  for (const uid of ["bob", null]) await assertFails(firestore.getDoc(document(uid, "wallets/alice")));
  for (const uid of ["alice", "bob", null]) {
    await assertFails(firestore.setDoc(document(uid, "wallets/alice"), { ...wallet, credits: 500 }));
    await assertFails(firestore.updateDoc(document(uid, "wallets/alice"), { credits: 500 }));
    await assertFails(firestore.deleteDoc(document(uid, "wallets/alice")));
  }
  await assertFails(firestore.setDoc(document("bob", "wallets/bob"), wallet));
  const everyone = firestore.query(firestore.collection(documents("alice"), "wallets"), firestore.limit(1));
  await assertFails(firestore.getDocs(everyone));
});

test("nothing else in Firestore is open", async () => {
  for (const name of [
    "generations/alice",
    "users/alice",
    "users/alice/devices/d1",
    "users/alice/pushed/f1",
    "reports/file:f1:alice",
    "blocked/file:f1:alice",
    "deleted_users/alice",
    "submissions/alice",
    "quotes/alice",
    "wallets/alice/holds/f1",
    "wallets/alice/ledger/free",
    "generations/alice/other/x",
  ]) {
    await assertFails(firestore.getDoc(document("alice", name)));
    await assertFails(firestore.setDoc(document("alice", name), { x: 1 }));
  }
});

// Storage's evaluator is not always available, but its language is Firestore's. These tests run storage.rules in Firestore's
// evaluator: an object is a document, its metadata are the fields, and an upload's path has one more segment.
describe("storage.rules, put to Firestore's evaluator,", () => {
  const SPELLING = [
    ["service firebase.storage", "service cloud.firestore"],
    ["match /b/{bucket}/o", "match /databases/{database}/documents"],
    ["/uploads/{uid}/{file}", "/uploads/{uid}/files/{file}"],
    ["request.resource.", "request.resource.data."],
  ];
  const rules = SPELLING.reduce((text, [ours, theirs]) => {
    assert.ok(text.includes(ours), ours);
    return text.replaceAll(ours, theirs);
  }, read("storage.rules"));
  const PNG = { contentType: "image/png", size: 8, contentEncoding: "identity" };
  const SOURCE = "uploads/alice/files/in.png";
  const RESULT = "generating/alice/image/f1.png";

  let elsewhere;
  before(async () => {
    elsewhere = await initializeTestEnvironment({ projectId: `${PROJECT}-storage`, firestore: { rules } });
  });
  afterEach(() => elsewhere.clearFirestore());
  after(() => elsewhere.cleanup());

  const at = (uid, name) =>
    firestore.doc((uid ? elsewhere.authenticatedContext(uid) : elsewhere.unauthenticatedContext()).firestore(), name);
  const write = (uid, name, metadata) => firestore.setDoc(at(uid, name), { ...PNG, ...metadata });
  const given = (name) =>
    elsewhere.withSecurityRulesDisabled((context) => firestore.setDoc(firestore.doc(context.firestore(), name), PNG));

  const TABLE = [
    [{}, true],
    [{ contentEncoding: null }, true],
    [{ contentEncoding: "" }, true],
    ...["gzip", "br", "zstd", "gzip, gzip", "GZIP", "identity, br", " identity", 1, ["identity"], { identity: 1 }].map(
      (contentEncoding) => [{ contentEncoding }, false],
    ),
    ...["image/jpeg", "image/webp", "image/heic", "image/avif", "application/octet-stream"].map((contentType) => [
      { contentType },
      true,
    ]),
    ...["image/svg+xml", "text/html", "image/png; x=y", "application/image/png", "video/mp4", null].map((contentType) => [
      { contentType },
      false,
    ]),
    [{ size: 64 * 1024 * 1024 - 1 }, true],
    [{ size: 64 * 1024 * 1024 }, false],
  ];
  for (const [metadata, taken] of TABLE) {
    test(`says ${taken ? "yes" : "no"} to an upload with ${JSON.stringify(metadata)}, new or in place of another`, async () => {
      const check = taken ? assertSucceeds : assertFails;
      await check(write("alice", SOURCE, metadata));
      await given(SOURCE);
      await check(write("alice", SOURCE, metadata));
    });
  }

  test("gives a source to its owner alone", async () => {
    await given(SOURCE);
    for (const other of ["bob", null]) {
      await assertFails(write(other, SOURCE));
      await assertFails(firestore.getDoc(at(other, SOURCE)));
      await assertFails(firestore.deleteDoc(at(other, SOURCE)));
    }
    await assertSucceeds(firestore.getDoc(at("alice", SOURCE)));
    await assertSucceeds(firestore.deleteDoc(at("alice", SOURCE)));
  });

  test("takes no strange name of a source, and lists none", async () => {
    for (const name of ["a b.png", "a%2fb", "ü.png", "x".repeat(201)])
      await assertFails(write("alice", `uploads/alice/files/${name}`));
    await assertFails(firestore.getDocs(firestore.query(at("alice", SOURCE).parent, firestore.limit(1))));
  });

  test("lets a result be deleted by its owner alone, who neither reads nor writes it here", async () => {
    await given(RESULT);
    for (const user of ["alice", "bob", null]) {
      await assertFails(firestore.getDoc(at(user, RESULT)));
      await assertFails(firestore.getDocs(at(user, RESULT).parent));
      if (user !== "alice") await assertFails(firestore.deleteDoc(at(user, RESULT)));
    }
    await assertFails(write("alice", RESULT));
    await assertFails(write("alice", "generating/alice/image/new.png"));
    await assertSucceeds(firestore.deleteDoc(at("alice", RESULT)));
  });

  test("opens nothing else", async () => {
    for (const name of ["generating/alice/audio/f1.png", "generating/alice", "other/x", "uploads/alice", `${SOURCE}/more/x`]) {
      await given(name);
      await assertFails(firestore.getDoc(at("alice", name)));
      await assertFails(write("alice", name));
    }
  });
});

describe("a result's object", { skip: WITHOUT_STORAGE }, () => {
  const name = "generating/alice/image/f1.png";

  test("is read and listed by nobody without its URL, and deleted by its owner alone", async () => {
    await givenObject(name);
    for (const user of ["alice", "bob", null]) {
      await assertFails(storage.getMetadata(object(user, name)));
      await assertFails(storage.listAll(object(user, "generating/alice/image")));
      if (user !== "alice") await assertFails(storage.deleteObject(object(user, name)));
    }
    await assertSucceeds(storage.deleteObject(object("alice", name)));
  });

  test("is written by no client, its metadata included", async () => {
    await assertFails(storage.uploadBytes(object("alice", name), new Uint8Array(8), IMAGE));
    await givenObject(name);
    await assertFails(storage.uploadBytes(object("alice", name), new Uint8Array(9), IMAGE));
    await assertFails(storage.updateMetadata(object("alice", name), { customMetadata: { x: "y" } }));
  });
});

describe("a source image", { skip: WITHOUT_STORAGE }, () => {
  const upload = (uid, name, bytes, contentType) =>
    storage.uploadBytes(object(uid, name), new Uint8Array(bytes), { contentType });

  const kinds = ["png", "jpeg", "jpg", "webp", "heic", "heif", "avif", "gif", "bmp", "tiff"].map((kind) => `image/${kind}`);
  for (const kind of [...kinds, "application/octet-stream"]) {
    test(`is uploaded, replaced, read and deleted by its owner: ${kind}`, async () => {
      await assertSucceeds(upload("alice", "uploads/alice/in.png", 8, kind));
      await assertSucceeds(upload("alice", "uploads/alice/in.png", 9, kind));
      await assertSucceeds(storage.getMetadata(object("alice", "uploads/alice/in.png")));
      await assertSucceeds(storage.deleteObject(object("alice", "uploads/alice/in.png")));
    });
  }

  for (const kind of ["image/svg+xml", "text/html", "image/*", "video/mp4", "image/png; x=y", "application/image/png"]) {
    test(`is not uploaded as ${kind}, and does not become it`, async () => {
      await assertFails(upload("alice", "uploads/alice/in.png", 8, kind));
      await assertSucceeds(upload("alice", "uploads/alice/in.png", 8, "application/octet-stream"));
      await assertFails(storage.updateMetadata(object("alice", "uploads/alice/in.png"), { contentType: kind }));
    });
  }

  const encoded = (contentEncoding, uid = "alice") =>
    storage.uploadBytes(object(uid, "uploads/alice/in.png"), new Uint8Array(8), { ...IMAGE, contentEncoding });

  for (const encoding of ["gzip", "br", "zstd", "deflate", "compress", "gzip, gzip", "GZIP", "identity, br", " identity"]) {
    test(`is not uploaded as packed by ${encoding}, and does not become it`, async () => {
      await assertFails(encoded(encoding));
      await assertSucceeds(encoded(undefined));
      await assertFails(encoded(encoding)); // as a replacement
      await assertFails(storage.updateMetadata(object("alice", "uploads/alice/in.png"), { contentEncoding: encoding }));
    });
  }

  test("that says identity is as it is, and taken from its owner alone", async () => {
    await assertSucceeds(encoded("identity"));
    await assertSucceeds(storage.updateMetadata(object("alice", "uploads/alice/in.png"), { contentEncoding: "identity" }));
    await assertFails(encoded("identity", "bob"));
  });

  test("that the app gives no type is untyped, and taken", async () => {
    await assertSucceeds(upload("alice", "uploads/alice/in.png", 8, undefined));
  });

  test("is smaller than 64 MiB", async () => {
    await assertFails(upload("alice", "uploads/alice/in.png", 64 * 1024 * 1024, "image/png"));
  });

  test("belongs to its owner", async () => {
    await givenObject("uploads/alice/in.png");
    for (const other of ["bob", null]) {
      await assertFails(upload(other, "uploads/alice/in.png", 8, "image/png"));
      await assertFails(storage.getMetadata(object(other, "uploads/alice/in.png")));
      await assertFails(storage.deleteObject(object(other, "uploads/alice/in.png")));
    }
  });
});

test("nothing else in Storage is open", { skip: WITHOUT_STORAGE }, async () => {
  for (const name of ["x.png", "generating/alice/f1.png", "generating/alice/audio/f1.png", "uploads/alice/a/b.png"]) {
    await givenObject(name);
    await assertFails(storage.getMetadata(object("alice", name)));
    await assertFails(storage.uploadBytes(object("alice", name), new Uint8Array(8), IMAGE));
  }
});
