// Limits a user's calls per minute, by counters in Firestore that no app can read or write. Counts submissions, not
// completed jobs, since a cancelled job costs as much. Knows no RunPod.

import { setTimeout } from "node:timers/promises";
import { getFirestore, Timestamp } from "firebase-admin/firestore";
import { logger } from "firebase-functions";
import { HttpsError } from "firebase-functions/https";
import { database as databaseOf, quotesPerMinute } from "./params.js";

const MINUTE_MS = 60_000;
const KEPT_MS = 60 * MINUTE_MS; // a policy on `expires_at` deletes the counters of inactive users
const DEADLINE_MS = 10_000; // Google's client would retry for longer than a call of the function may take

/**
 * Counts a call in this minute, unless the user has reached the limit. `counters` is the collection; each kind of call has
 * its own.
 * @returns {Promise<number>} 0 if it was counted, else the seconds until the minute is over.
 * @throws if it cannot be counted: Firestore does not answer, or too many calls compete.
 */
export async function secondsToWait(uid, { perMinute, database, counters = "submissions", now = Date.now() }) {
  const firestore = getFirestore(database);
  const counter = firestore.collection(counters).doc(uid);
  const counted = firestore.runTransaction(async (transaction) => {
    const before = (await transaction.get(counter)).data();
    // The clock of the machine that counted last may be ahead of this one's.
    const minute = Math.max(Math.floor(now / MINUTE_MS), before?.minute ?? 0);
    const count = before?.minute === minute ? before.count : 0;
    if (count >= perMinute) return Math.ceil(((minute + 1) * MINUTE_MS - now) / 1000);
    transaction.set(counter, { minute, count: count + 1, expires_at: Timestamp.fromMillis(now + KEPT_MS) });
    return 0;
  });
  const late = setTimeout(DEADLINE_MS, undefined, { ref: false }).then(() => {
    throw new Error("Firestore did not answer in time");
  });
  return await Promise.race([counted, late]);
}

/** Counts a call of this user; throws the refusal that says when to try again. */
export async function count(uid, { perMinute, what, counters }) {
  if (perMinute === 0) return;
  let seconds;
  try {
    seconds = await secondsToWait(uid, { perMinute, counters, database: databaseOf.value() });
  } catch (error) {
    // A job that cannot be counted is not submitted. "unavailable" would mean that it may still come.
    logger.error("A call was not counted", { name: error.name, code: error.code });
    throw new HttpsError("resource-exhausted", "Calls cannot be counted at the moment; try again later.");
  }
  if (seconds > 0)
    throw new HttpsError("resource-exhausted", `At most ${perMinute} ${what} a minute; try again in ${seconds} seconds.`, {
      retryAfterSeconds: seconds,
    });
}

/** Counts a call that creates no job: a question, a report or a registration. */
export const countQuestion = (uid) => count(uid, { perMinute: quotesPerMinute.value(), what: "calls", counters: "quotes" });
