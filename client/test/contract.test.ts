// Tests how the client shows the contract's example documents (schema/examples/), which all languages share.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { at, settle, told, World, type Fields } from "./world.js";

const FOLDER = process.env["EXAMPLES"] ?? "";
const names = readdirSync(join(FOLDER, "document"));
const isTime = (value: unknown): value is string => typeof value === "string" && /^\d{4}-\d\d-\d\dT.*Z$/.test(value);

/** An example document as Firestore returns it, with times as Timestamps. */
const document = (name: string): Fields => {
  const read = JSON.parse(readFileSync(join(FOLDER, "document", name), "utf8")) as Fields;
  return Object.fromEntries(Object.entries(read).map(([key, value]) => [key, isTime(value) ? at(Date.parse(value)) : value]));
};

for (const name of names)
  test(`${name} is understood`, async () => {
    const world = new World();
    world.install();
    const client = world.client();
    const fields = document(name);
    world.write("file", fields);
    const seen = told((onChange) => client.resume("file", { onChange }));
    await settle();
    await settle();
    const { status } = fields;
    if (status === "completed") assert.deepEqual(seen.value, fields["generation_data"]);
    else if (status === "failed") {
      const { code, message, retryable } = seen.error ?? {};
      assert.deepEqual({ code, message, retryable }, fields["error"]);
    } else {
      assert.deepEqual([seen.value, seen.error], [undefined, undefined]);
      const { stage, percent, preview, offline } = seen.states.at(-1) ?? {};
      const progress = fields["progress"] as Fields | undefined;
      if (status === "processing") assert.deepEqual([percent, preview], [progress?.["percent"], progress?.["preview"]]);
      assert.equal(offline, false);
      assert.ok(["queued", "loading", "generating", "uploading"].includes(String(stage)));
      seen.handle.stop();
    }
    const [item] = (await client.history()).items;
    const files = (fields["generation_data"] as { files?: Fields[] } | undefined)?.files ?? [];
    assert.deepEqual(item?.thumbnails.map(({ blurhash }) => blurhash), files.map((file) => file["blurhash"] ?? null));
    assert.deepEqual([item?.fileUid, item?.status], ["file", status]);
    assert.deepEqual([world.timers.size, world.listeners.size], [0, 0]);
  });
