import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import { getAppCheck } from "firebase-admin/app-check";
import { getAuth } from "firebase-admin/auth";
import { jwtVerify } from "jose";
import { SECRET, World } from "./world.js";
import { requestHash, withTicket } from "../ticket.js";

const FILE = "file-1";
const INPUT = { prompt: "a fox", seed: 7 };
const key = new TextEncoder().encode(SECRET);
const world = new World();

before(() => world.start());
after(() => world.stop());
beforeEach(() => world.reset());

const nested = (levels) => JSON.parse("[".repeat(levels) + "]".repeat(levels));

async function ticketOf(input) {
  const { payload } = await jwtVerify(input.id_token, key, { algorithms: ["HS256"], audience: "generation-worker" });
  return payload;
}

test("a signed-in user of the app gets a job, with a ticket for exactly this input", async () => {
  const { status, result } = await world.call({ fileUid: FILE, input: INPUT });
  assert.deepEqual([status, result], [200, { jobId: "job-1" }]);
  const [{ path, key: used, body }] = world.sent;
  assert.deepEqual([path, used, Object.keys(body)], ["/endpoint-1/run", "Bearer the-runpod-key", ["input", "policy"]]);
  const { id_token: _, ...input } = body.input;
  assert.deepEqual(input, { ...INPUT, user_id: "alice", file_uid: FILE, use_cloud_storage: true });
  const ticket = await ticketOf(body.input);
  assert.deepEqual([ticket.sub, ticket.file_uid, ticket.request_hash], ["alice", FILE, requestHash(input)]);
  assert.equal(ticket.exp - ticket.iat, 25 * 60);
  assert.deepEqual(body.policy, { ttl: 25 * 60 * 1000 });
});

test("an app that made an order slip has it in its ticket, and no other app", async () => {
  for (const slip of [true, false, "yes", undefined]) {
    world.reset();
    await world.call({ fileUid: FILE, input: INPUT, slip });
    assert.equal((await ticketOf(world.sent[0].body.input)).slip, slip === true ? true : undefined);
  }
});

test("whatever the app says about who asks is overwritten", async () => {
  const lies = { user_id: "victim", file_uid: "theirs", use_cloud_storage: false, id_token: "mine" };
  await world.call({ fileUid: FILE, input: { ...INPUT, ...lies }, user_id: "victim" });
  const [{ body }] = world.sent;
  assert.deepEqual(
    [body.input.user_id, body.input.file_uid, body.input.use_cloud_storage],
    ["alice", FILE, true],
  );
  assert.equal((await ticketOf(body.input)).sub, "alice");
});

for (const [name, who] of [
  ["nobody is signed in", { uid: null }],
  ["the call does not come from the app", { app: null }],
])
  test(`no job where ${name}`, async () => {
    const { status, error } = await world.call({ fileUid: FILE, input: INPUT }, who);
    assert.deepEqual([status, error.status, world.sent], [401, "UNAUTHENTICATED", []]);
  });

for (const data of [
  null,
  {},
  { fileUid: FILE },
  { fileUid: "", input: INPUT },
  { fileUid: "../other", input: INPUT },
  { fileUid: 5, input: INPUT },
  { fileUid: "x".repeat(129), input: INPUT },
  { fileUid: FILE, input: "a fox" },
  { fileUid: FILE, input: [INPUT] },
  { fileUid: FILE, input: { seed: 7 } },
  { fileUid: FILE, input: { prompt: ["a fox"] } },
  { fileUid: FILE, input: { task_type: "upscale", prompt: 5 } },
  { fileUid: FILE, input: { task_type: "img2img", image_url: "gs://b/uploads/alice/a.png" } },
  { fileUid: FILE, input: { ...INPUT, image_url: "x".repeat(100_000) } },
  { fileUid: "__x__", input: INPUT },
  { fileUid: FILE, input: { ...INPUT, x: [[[1]]] } },
  { fileUid: FILE, input: { ...INPUT, x: { y: [{ z: 1 }] } } },
  { fileUid: FILE, input: { ...INPUT, x: nested(1_750) } },
  { fileUid: FILE, input: { x: Array(500_000).fill(0), ...INPUT } },
  { fileUid: FILE, input: JSON.parse('{"__proto__": {"prompt": "a fox"}, "seed": 7}') },
  // The hold would be for a cheap upscale, by MAX_UNITS, but the worker would receive a text2img.
  { fileUid: FILE, input: JSON.parse('{"__proto__": {"task_type": "upscale"}, "prompt": "a fox"}') },
])
  test(`no job for ${JSON.stringify(data).slice(0, 60)}`, async () => {
    const { status, error } = await world.call(data);
    assert.deepEqual([status, error.status, world.sent], [400, "INVALID_ARGUMENT", []]);
  });

test("what is nested as deeply as a field may be goes through", async () => {
  const input = { ...INPUT, loras: [{ path: "a", scale: 1 }] };
  const { status } = await world.call({ fileUid: FILE, input });
  assert.equal(status, 200);
  assert.deepEqual(world.sent[0].body.input.loras, input.loras);
});

// Firebase's web SDK sends null for undefined.
for (const prompt of [undefined, null])
  test(`a picture is made larger without a prompt (${prompt})`, async () => {
    const input = { task_type: "upscale", prompt, image_url: "gs://b/uploads/alice/a.png", upscale_factor: 2 };
    assert.equal((await world.call({ fileUid: FILE, input })).status, 200);
    assert.equal("prompt" in world.sent[0].body.input, false);
  });

for (const uid of ["kakao:12345", "auth0|abc", "user.name", "a@b+c"])
  test(`a user called ${uid} is served`, async () => {
    const { status } = await world.call({ fileUid: FILE, input: INPUT }, { uid });
    assert.deepEqual([status, world.sent[0].body.input.user_id], [200, uid]);
  });

for (const uid of ["google:1|a/b", "..", "__x__", "ü"])
  test(`a user called ${uid}, whom the worker refuses, costs no job`, async () => {
    const { status, error } = await world.call({ fileUid: FILE, input: INPUT }, { uid });
    assert.deepEqual([status, error.status, world.sent], [400, "FAILED_PRECONDITION", []]);
  });

for (const [answer, said] of [
  [{ status: 401, body: { error: "bad key the-runpod-key" } }, "FAILED_PRECONDITION"],
  [{ status: 404, body: {} }, "FAILED_PRECONDITION"],
  [{ status: 429, body: {} }, "RESOURCE_EXHAUSTED"],
  [{ status: 500, body: {} }, "UNAVAILABLE"],
  [{ status: 200, body: {} }, "UNAVAILABLE"],
])
  test(`an answer ${answer.status} of RunPod's is told as ${said}, without its words`, async () => {
    world.answer = answer;
    const { result, error } = await world.call({ fileUid: FILE, input: INPUT });
    assert.deepEqual([result, error.status], [undefined, said]);
    assert.doesNotMatch(JSON.stringify(error), /key|endpoint-1|127\.0\.0\.1/);
  });

test("a RunPod that is not there is told as such", async () => {
  process.env.RUNPOD_URL = "http://127.0.0.1:9";
  const { error } = await world.call({ fileUid: FILE, input: INPUT });
  assert.deepEqual([error.status, error.message], ["UNAVAILABLE", "The generator does not answer; try again."]);
});

test("a token of the app opens one job, and any number of questions", async () => {
  const features = process.env.FIREBASE_DEBUG_FEATURES;
  process.env.FIREBASE_DEBUG_FEATURES = "{}";
  // As Google does it: the first call that asks to consume a token consumes it.
  const [auth, appCheck, consumed] = [getAuth(), getAppCheck(), new Set()];
  auth.verifyIdToken = async () => ({ uid: "alice" });
  appCheck.verifyToken = async (token, options) => {
    if (!options?.consume) return { appId: "app-1" };
    const alreadyConsumed = consumed.has(token);
    consumed.add(token);
    return { appId: "app-1", alreadyConsumed };
  };
  try {
    world.answer = { status: 200, body: { status: "COMPLETED", output: { units: 33 }, id: "job-1" } };
    const answers = [];
    for (const name of ["quote", "quote", "capabilities", "capabilities", "generate", "generate"])
      answers.push((await world.call({ fileUid: FILE, input: INPUT }, { name })).error?.message);
    assert.deepEqual(answers, [...Array(5).fill(undefined), "Use a new App Check token for each call."]);
  } finally {
    process.env.FIREBASE_DEBUG_FEATURES = features;
    delete auth.verifyIdToken;
    delete appCheck.verifyToken;
  }
});

// The worker's tests use these inputs, as they were sent, and check their tickets in Python.
for (const input of [
  { prompt: "ein Füchslein, 狐, 🦊, \u2028 \u0000 \"quoted\" \\ / é e\u0301", negative_prompt: "\ud83d\ude00" },
  { prompt: "numbers", guidance_scale: 7.5, strength: 1e-7, seed: 4294967295, flow_shift: 3.0, high_noise_frac: 0.1 },
  { prompt: "more numbers", a: 1e21, b: 5e-324, c: 1.7976931348623157e308, d: -0.0, e: 123456789012345.6, f: 1e-6 },
  { prompt: "keys", "\u20ac": 1, "\r": 2, "\ufb33": 3, 1: 4, "\u{1f600}": 5, "\u0080": 6, "\u00f6": 7, __proto_: 8 },
  { prompt: "nested", list: [[], {}, null, true, false, "", { z: 1, a: 2.5 }], nothing: null },
  { task_type: "img2img", prompt: "a picture", image_url: `data:image/png;base64,${"iVBORw0K".repeat(12_000)}` },
])
  test(`a ticket is made for an input like ${input.prompt.slice(0, 12)}`, async () => {
    const { status } = await world.call({ fileUid: FILE, input });
    const [{ body }] = world.sent;
    assert.equal(status, 200);
    assert.equal((await ticketOf(body.input)).request_hash, requestHash(body.input));
  });

test("a short secret makes no tickets", async () => {
  await assert.rejects(withTicket({ ...INPUT, user_id: "alice", file_uid: FILE }, "short", 60), /32 characters/);
});
