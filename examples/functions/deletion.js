// Erases all data of a user who deletes their account, including later results of their jobs: those that wait at RunPod,
// those that a worker runs, and results that wait on a worker's volume.
//
//   documents first     a worker notices within seconds that its document is gone, stops, and removes what it has stored
//   deleted_users/{uid} remembers the deletion for two days. `generate` refuses sign-ins from before it, a result that still
//                       arrives is deleted as its document appears (`fenced`), and the data is erased again once no job and
//                       no result can be left (`eraseAgain`), such as files in the bucket of a worker that died

import { setTimeout } from "node:timers/promises";
import { getAuth } from "firebase-admin/auth";
import { getFirestore, Timestamp } from "firebase-admin/firestore";
import { logger } from "firebase-functions";
import { HttpsError } from "firebase-functions/https";
import { runWith } from "firebase-functions/v1";
import { bucket } from "./bucket.js";
import { database, TTL_SECONDS } from "./params.js";
import { isUserId } from "./request.js";
import { blockOf, takeDown } from "./takedown.js";

const BELOW = ["generations", "users", "wallets", "submissions", "quotes"]; // {name}/{uid}, with all subcollections
const ABOUT = ["reports", "blocked"]; // {name}/{any id}, with `uid` as a field
const DEADLINE_MS = 10_000; // Google's client would retry for longer than a call of the function may take
const MINUTE_MS = 60_000;
// After the last job that RunPod can still hold, and after the last result on a worker's volume.
const AGAIN_MS = [TTL_SECONDS * 1000 + 15 * MINUTE_MS, 49 * 60 * MINUTE_MS];
const PAGE = 100;

const firestore = () => getFirestore(database.value());
const marks = (uid, fileUid) => firestore().getAll(tombstoneOf(uid), blockOf(uid, fileUid));
const tombstoneOf = (uid) => firestore().collection("deleted_users").doc(uid);

// A first-generation function, which not every REGION offers: in us-central1.
export const onUserDeleted = runWith({ timeoutSeconds: 540, memory: "512MB", failurePolicy: true })
  .auth.user()
  .onDelete(async ({ uid }, { eventId }) => {
    if (!isUserId(uid)) return; // no generation was ever made for such an id
    const tombstone = tombstoneOf(uid);
    // A repeated event: the data may belong to someone who has signed up again under the same id.
    if (eventId && (await tombstone.get()).get("erased") === eventId) return;
    const at = Date.now();
    await tombstone.set({ at: Timestamp.fromMillis(at), erase_at: Timestamp.fromMillis(at + AGAIN_MS[0]) });
    await erase(uid);
    await tombstone.update({ erased: eventId ?? null });
  });

/** @throws HttpsError if the caller's account was deleted or this file was taken down. */
export async function checkWanted({ auth }, fileUid) {
  const late = setTimeout(DEADLINE_MS, undefined, { ref: false }).then(() => {
    throw new Error("Firestore did not answer in time");
  });
  const [tombstone, block] = await Promise.race([marks(auth.uid, fileUid), late]).catch((error) => {
    logger.error("It was not known whether a job is wanted", { name: error.name, code: error.code });
    throw new HttpsError("resource-exhausted", "Jobs cannot be taken at the moment; try again later.");
  });
  // A user who signed up again under the same id, as with custom sign-in, has signed in after the deletion.
  if (tombstone.exists && !(auth.token.auth_time * 1000 > tombstone.get("at").toMillis()))
    throw new HttpsError("unauthenticated", "This account was deleted.");
  if (block.exists) throw new HttpsError("permission-denied", "This file was taken down; use a new fileUid.");
}

/**
 * Erases a generation whose user was deleted or that was taken down, and returns whether it did. Checks only when a document
 * appears and when a worker claims it.
 */
export async function fenced(uid, fileUid, { before, after }) {
  const isClaim = after?.status === "processing" && before?.status !== "processing";
  if (!after || (before && !isClaim)) return false;
  const [tombstone, block] = await marks(uid, fileUid);
  if (tombstone.exists && !(await isBack(uid))) await erase(uid);
  else if (block.exists) await takeDown(uid, fileUid);
  else return false;
  return true;
}

/** Erases the remaining data of deleted users for whom that is due. */
export async function eraseAgain({ now = Date.now() } = {}) {
  const due = firestore().collection("deleted_users").where("erase_at", "<=", Timestamp.fromMillis(now)).limit(PAGE);
  for (const tombstone of (await due.get()).docs) {
    try {
      await again(tombstone, now);
    } catch (error) {
      logger.error("A deleted user's data could not be gone through", { name: error.name, code: error.code });
    }
  }
}

async function again(tombstone, now) {
  const at = tombstone.get("at").toMillis();
  const next = AGAIN_MS.map((after) => at + after).find((time) => time > now);
  const isGone = !(await isBack(tombstone.id));
  if (isGone) await erase(tombstone.id);
  if (isGone && next !== undefined) await tombstone.ref.update({ erase_at: Timestamp.fromMillis(next) });
  else await tombstone.ref.delete();
}

/** Whether the id is in use again: later generations then belong to its new user. */
async function isBack(uid) {
  try {
    await getAuth().getUser(uid);
    return true;
  } catch (error) {
    if (error.code === "auth/user-not-found") return false;
    throw error;
  }
}

async function erase(uid) {
  for (const name of BELOW) await firestore().recursiveDelete(firestore().collection(name).doc(uid));
  for (const name of ABOUT) {
    const { docs } = await firestore().collection(name).where("uid", "==", uid).get();
    await Promise.all(docs.map(({ ref }) => ref.delete()));
  }
  for (const folder of ["generating", "uploads"])
    await bucket().deleteFiles({ prefix: `${folder}/${uid}/`, force: true, ignoreNotFound: true });
}
