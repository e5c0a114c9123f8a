import assert from "node:assert/strict";
import { test } from "node:test";
import { World } from "./world.js";

// As in production, no check is skipped. (Both kinds of token are refused before Google's public keys are needed.)
delete process.env.FIREBASE_AUTH_EMULATOR_HOST;
delete process.env.FIREBASE_DEBUG_MODE;
delete process.env.FIREBASE_DEBUG_FEATURES;

test("in production a token that Google did not sign is nobody's", async () => {
  const world = await new World().start();
  try {
    for (const who of [{}, { uid: null }, { app: null }]) {
      const { status, error } = await world.call({ fileUid: "file-1", input: { prompt: "a fox" } }, who);
      assert.deepEqual([status, error.status, world.sent], [401, "UNAUTHENTICATED", []]);
    }
  } finally {
    await world.stop();
  }
});
