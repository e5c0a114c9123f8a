// `node test/replay.js FILE` replays to the wallet, as Firebase's triggers would, what real workers wrote on a bad day, and
// then checks the sums. FILE has a line of JSON per generation: {uid, fileUid, history}, its documents in order, null
// for a deletion.
//
// Each generation has a hold before its first document. Triggers come up to three times, one in ten after everything else.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { initializeApp } from "firebase-admin/app";
import { getFirestore } from "firebase-admin/firestore";
import { Wallets } from "../wallet.js";

const HELD = 100;
const GRANTED = 10_000_000;
const AT_ONCE = 16;
const LATER = 31 * 60_000; // by then all holds are due

initializeApp({ projectId: "demo-functions" });
const firestore = getFirestore();
const wallets = new Wallets({ database: "(default)", creditsPer1000Units: 1000 });
const generations = readFileSync(process.argv[2], "utf8").split("\n").filter(Boolean).map((line) => JSON.parse(line));
const late = [];
const owed = new Map(); // ledger id -> its price
let triggers = 0;

async function lived({ uid, fileUid, history }) {
  await wallets.hold(uid, fileUid, { hash: fileUid, credits: HELD, call: "call", ttlMs: 60_000 });
  await wallets.accepted(uid, fileUid, { call: "call", jobId: `${fileUid}-job-0` });
  const document = firestore.doc(`generations/${uid}/files/${fileUid}`);
  let before;
  for (const after of history) {
    await (after === null ? document.delete() : document.set(after));
    const told = { before, after: after ?? undefined };
    for (let copies = 1 + Math.floor(Math.random() * 3); copies > 0; copies -= 1) {
      triggers += 1;
      if (Math.random() < 0.1) late.push(() => wallets.settle(uid, fileUid, told));
      else await wallets.settle(uid, fileUid, told);
    }
    if (after?.status === "completed" && after.generation_data.storage === "firebase")
      owed.set(`${uid} ${fileUid}.${after.attempt}.${encodeURIComponent(after.job_id)}`, Math.min(HELD, after.usage.units));
    before = after ?? undefined;
  }
}

async function main() {
  const users = [...new Set(generations.map(({ uid }) => uid))];
  for (const uid of users) await wallets.grant(uid, GRANTED, "purchase", "order-1");
  const waiting = [...generations];
  const lane = async () => {
    while (waiting.length > 0) await lived(waiting.shift());
  };
  await Promise.all(Array.from({ length: AT_ONCE }, lane));
  assert.equal(await wallets.sweep({ now: Date.now() + LATER }), 0);
  for (const deliver of late.reverse()) await deliver();

  const paid = new Map();
  for (const uid of users) {
    const wallet = (await firestore.doc(`wallets/${uid}`).get()).data();
    for (const entry of (await firestore.collection(`wallets/${uid}/ledger`).get()).docs) {
      if (entry.data().kind === "payment") paid.set(`${uid} ${entry.id}`, -entry.data().credits);
    }
    const spent = [...paid].filter(([id]) => id.startsWith(`${uid} `)).reduce((sum, [, credits]) => sum + credits, 0);
    assert.deepEqual([wallet.held, wallet.spent, wallet.credits], [0, spent, GRANTED - spent], uid);
  }
  assert.deepEqual([...paid].sort(), [...owed].sort(), "each result is paid once, at its price");
  console.log(`CREDITS: ${generations.length} generations, ${triggers} triggers, ${paid.size} results paid once each; none held`);
  await firestore.terminate();
}

await main();
