import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const CHAOS = fileURLToPath(new URL("chaos.js", import.meta.url));
const WITHOUT_FIRESTORE = !process.env.FIRESTORE_EMULATOR_HOST;

test("after jobs that were killed, doubled, refused, cancelled and told late, all sums are exact", { skip: WITHOUT_FIRESTORE }, async () => {
  const env = { WALLET_JOBS: "200", ...process.env, SENT_TO: "" };
  const { stdout } = await promisify(execFile)(process.execPath, [CHAOS], { env, maxBuffer: 64 << 20 });
  assert.match(stdout, /^WALLET: \d+ asked for, .* none negative, none held/m);
});
