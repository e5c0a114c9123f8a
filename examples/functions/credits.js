// Prices a job, holds its credits and then submits it. Unused with CREDITS=off.

import { randomUUID } from "node:crypto";
import { setTimeout } from "node:timers/promises";
import { logger } from "firebase-functions";
import { HttpsError } from "firebase-functions/https";
import { credits, creditsPer1000Units, database, freeCredits, maxUnits, TTL_SECONDS } from "./params.js";
import { cancel, isRefusal } from "./runpod.js";
import { requestHash } from "./ticket.js";
import { creditsOf, Wallets } from "./wallet.js";

const DEADLINE_MS = 10_000; // Google's client would retry for longer than a call of the function may take

/** Whether jobs cost credits. Throws for anything but "on" and "off", so that "true" does not make jobs free. */
export function isOn() {
  const value = credits.value();
  if (value !== "on" && value !== "off") throw new Error('CREDITS must be "on" or "off"');
  return value === "on";
}

export const priceOf = (units) => creditsOf(units, creditsPer1000Units.value());

let opened;
/** The wallets of this deployment. Book a purchase with `wallets().grant(uid, credits, reason, id)`. */
export function wallets() {
  if (!(creditsPer1000Units.value() > 0)) throw new Error("CREDITS_PER_1000_UNITS must be a number above 0");
  opened ??= new Wallets({
    database: database.value(),
    creditsPer1000Units: creditsPer1000Units.value(),
    freeCredits: freeCredits.value(),
  });
  return opened;
}

/** The most units that a job of a task may cost, from `MAX_UNITS`, such as "800" or "800, text2video=8000". */
export function mostUnits(taskType, text = maxUnits.value()) {
  const parts = text.split(",").map((part) => (part.includes("=") ? part : `=${part}`).split("="));
  const most = new Map(parts.map(([task, units]) => [task.trim(), Number(units)]));
  const units = most.get(taskType ?? "text2img") ?? most.get("");
  if (!Number.isSafeInteger(units) || units <= 0)
    throw new Error('MAX_UNITS must be a number, with others for some tasks if need be: "800, text2video=8000"');
  return units;
}

/**
 * Holds the price of `units`, submits the job and returns its id. With null units (unknown price) only a job that already
 * has a hold is submitted. If RunPod certainly refused the job, the hold is returned; if its response is unclear, the hold
 * stays until the document or `sweep` settles it. A job that was withdrawn during the call is taken back.
 */
export async function paidFor({ uid, job, units, slip = false }, submit) {
  const call = randomUUID();
  const price = { hash: requestHash(job), credits: units === null ? null : priceOf(units), call, ttlMs: TTL_SECONDS * 1000 };
  const fileUid = job.file_uid;
  const hold = await inTime(wallets().hold(uid, fileUid, price));
  if (hold.is === "known") return hold.jobId;
  if (hold.is === "busy") throw new HttpsError("unavailable", "This generation is being submitted already.");
  if (hold.is === "other")
    throw new HttpsError("failed-precondition", "fileUid: stands for another input; make a new one for each generation");
  if (hold.is === "unpriced")
    throw new HttpsError("failed-precondition", "quote: is too old, or for another input; ask for a new one", {
      reason: "quote",
    });
  if (hold.is === "poor")
    throw new HttpsError("failed-precondition", `This takes ${price.credits} credits, and there are ${hold.credits}.`, {
      reason: "credits",
      needed: price.credits,
      credits: hold.credits,
    });
  let jobId;
  try {
    jobId = await submit();
  } catch (error) {
    await noted(isRefusal(error) ? wallets().refused(uid, fileUid, { call }) : wallets().unclear(uid, fileUid, { call }));
    throw error;
  }
  if (await noted(wallets().accepted(uid, fileUid, { call, jobId, slip }))) await noted(drop(uid, fileUid, jobId));
  return jobId;
}

/**
 * Withdraws a job whose document was cancelled in the queue, or deleted, at `time`: removes it from RunPod's queue, so that
 * no worker starts for it, and returns its hold.
 */
export async function takeBack(uid, fileUid, time) {
  const jobId = await wallets().withdrawn(uid, fileUid, time);
  if (jobId) await drop(uid, fileUid, jobId);
}

async function drop(uid, fileUid, jobId) {
  if (await cancel(jobId)) await wallets().dropped(uid, fileUid, { jobId });
}

/** Awaits the hold, or refuses the call: a job without a hold is not submitted. */
async function inTime(held) {
  const late = setTimeout(DEADLINE_MS, undefined, { ref: false }).then(() => {
    throw new Error("Firestore did not answer in time");
  });
  try {
    return await Promise.race([held, late]);
  } catch (error) {
    logger.error("Credits were not held", { name: error.name, code: error.code });
    throw new HttpsError("resource-exhausted", "Credits cannot be counted at the moment; try again later.");
  }
}

/** Awaits an update of the hold. One that fails or is late is made up for later, by the document or by `sweep`. */
async function noted(work) {
  try {
    return await Promise.race([work, setTimeout(DEADLINE_MS, undefined, { ref: false })]);
  } catch (error) {
    logger.error("A hold was not updated", { name: error.name, code: error.code });
  }
}
