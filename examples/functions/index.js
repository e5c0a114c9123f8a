// The app's backend: the only holder of the RunPod key. It takes the user from the sign-in, never from the app's data.

import { initializeApp } from "firebase-admin/app";
import { logger } from "firebase-functions";
import { onDocumentWritten } from "firebase-functions/firestore";
import { onCall } from "firebase-functions/https";
import { onSchedule } from "firebase-functions/scheduler";
import { isOn, mostUnits, paidFor, priceOf, takeBack, wallets } from "./credits.js";
import { checkWanted, eraseAgain, fenced } from "./deletion.js";
import { count, countQuestion } from "./limit.js";
import { database, jobsPerMinute, region, runpodKey, ticketSecret, TTL_SECONDS } from "./params.js";
import { announce } from "./push.js";
import { isUnits, priced, signQuote, unitsOf } from "./quote.js";
import { caller, checkedFileUid, checkedInput } from "./request.js";
import { ask, noAnswer, submit } from "./runpod.js";
import { withTicket } from "./ticket.js";
import { isEnd, isWithdrawal } from "./wallet.js";

export { onUserDeleted } from "./deletion.js";
export { registerDevice } from "./push.js";
export { report } from "./report.js";

initializeApp();

const CAPABILITIES_MS = 10 * 60_000;

const CALLABLE = {
  region,
  secrets: [runpodKey, ticketSecret],
  enforceAppCheck: true,
  consumeAppCheckToken: true, // each token is valid for one call: a script cannot replay it
  timeoutSeconds: 60,
  maxInstances: 20,
};
// May need a cold start. Called often: single-use tokens would exhaust the attestations that Google and Apple allow per day.
const QUESTION = { ...CALLABLE, consumeAppCheckToken: false, timeoutSeconds: 120 };

/**
 * `{fileUid, input, slip?, quote?}` of a signed-in user -> `{jobId}`. The result arrives in generations/{uid}/files/{fileUid}.
 * `slip: true` says that the app has created that document as `queued`: deleting it while the job waits ends the job.
 * `quote` is the signed quote from the callable of that name for this input; it limits the credits that are held.
 */
export const generate = onCall(CALLABLE, async (call) => {
  const uid = caller(call);
  const { data } = call;
  const fileUid = checkedFileUid(data?.fileUid);
  const input = checkedInput(data.input);
  const units = isOn() ? await mostFor(data.quote, uid, input) : 0;
  if (isOn() || jobsPerMinute.value() > 0) await checkWanted(call, fileUid);
  await count(uid, { perMinute: jobsPerMinute.value(), what: "jobs", counters: "submissions" });
  // The backend decides who asks and where the result goes: it overwrites whatever the app wrote there.
  const job = { ...input, user_id: uid, file_uid: fileUid, use_cloud_storage: true };
  const slip = data.slip === true;
  const submitted = async () => submit(await withTicket(job, ticketSecret.value(), TTL_SECONDS, { slip }));
  return { jobId: isOn() ? await paidFor({ uid, job, units, slip }, submitted) : await submitted() };
});

/** `{input}` -> `{units, estimated_seconds, params, quote}`, and the price in `credits` if CREDITS is on. */
export const quote = onCall(QUESTION, async (call) => {
  const uid = caller(call);
  const input = checkedInput(call.data?.input);
  await countQuestion(uid);
  if (isOn()) await wallets().open(uid); // so that the app can show the free credits before the first job
  const { units, estimated_seconds, params } = await ask({ ...priced(input), action: "quote" });
  if (!isUnits(units)) {
    logger.error("The worker named no price");
    throw noAnswer();
  }
  const signed = await signQuote({ uid, input, units }, ticketSecret.value());
  return { units, estimated_seconds, params, quote: signed, ...(isOn() && { credits: priceOf(units) }) };
});

/** `{}` -> what an app can offer: tasks, models, styles, sizes, limits. */
export const capabilities = onCall(QUESTION, async (call) => {
  const uid = caller(call);
  if (!isKnown()) await countQuestion(uid);
  if (!isKnown()) askForAll();
  return await known.answer;
});

let known; // shared: callers that come while a worker is asked wait for the same answer
const isKnown = () => known?.until > Date.now();

function askForAll() {
  const asked = { until: Date.now() + CAPABILITIES_MS, answer: ask({ action: "capabilities" }) };
  known = asked;
  asked.answer.catch(() => known === asked && (known = undefined));
}

/** On each write of a document: settles the hold of a generation that has ended or is withdrawn, and sends the push. */
export const settle = onDocumentWritten(
  { document: "generations/{uid}/files/{fileUid}", database, retry: true, secrets: [runpodKey] },
  async ({ time, params: { uid, fileUid }, data }) => {
    const [before, after] = [data.before.data(), data.after.data()];
    if (await fenced(uid, fileUid, { before, after })) return;
    if (isEnd(before, after) && isOn()) await wallets().settle(uid, fileUid, { before, after });
    if (isWithdrawal(before, after) && isOn()) await takeBack(uid, fileUid, time);
    await announce(uid, fileUid, { before, after });
  },
);

/** Settles holds that no document has settled: of jobs never claimed, lost, or deleted. Erases deleted users again. */
export const sweep = onSchedule({ region, schedule: "every 5 minutes", timeoutSeconds: 540 }, async () => {
  let failed = 0;
  try {
    if (isOn()) failed = await wallets().sweep();
  } finally {
    await eraseAgain(); // erased even if the credits fail
  }
  if (failed > 0) logger.error("Holds could not be settled; they are tried again", { failed });
});

/** The most units that a job may cost: its quote's, or without one the maximum of its task; null: the quote is not valid. */
async function mostFor(quote, uid, input) {
  if (quote === undefined || quote === null) return mostUnits(input.task_type);
  return await unitsOf(quote, { uid, input }, ticketSecret.value());
}
