// The app's backend: the only holder of the RunPod key. It knows who is signed in; the app does not say so itself.

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
  consumeAppCheckToken: true, // each token opens one call: a script cannot use one that it caught again
  timeoutSeconds: 60,
  maxInstances: 20,
};
// A worker may have to start for it. Asked often: tokens of one call each would use up what Google and Apple attest in a day.
const QUESTION = { ...CALLABLE, consumeAppCheckToken: false, timeoutSeconds: 120 };

/**
 * `{fileUid, input, slip?, quote?}` of a signed-in user -> `{jobId}`. The result arrives in generations/{uid}/files/{fileUid}.
 * `slip: true` says that the app has made that document as `queued`: deleting it while the job waits ends the job.
 * `quote` is what the callable of that name answered for this input: no more than it says is held of the user's credits.
 */
export const generate = onCall(CALLABLE, async (call) => {
  const uid = caller(call);
  const { data } = call;
  const fileUid = checkedFileUid(data?.fileUid);
  const input = checkedInput(data.input);
  const units = isOn() ? await mostFor(data.quote, uid, input) : 0;
  if (isOn() || jobsPerMinute.value() > 0) await checkWanted(call, fileUid);
  await count(uid, { perMinute: jobsPerMinute.value(), what: "jobs", counters: "submissions" });
  // Who asks, and where the result goes, is said here: whatever the app wrote there is overwritten.
  const job = { ...input, user_id: uid, file_uid: fileUid, use_cloud_storage: true };
  const submitted = async () =>
    submit(await withTicket(job, ticketSecret.value(), TTL_SECONDS, { slip: data.slip === true }));
  return { jobId: isOn() ? await paidFor({ uid, job, units }, submitted) : await submitted() };
});

/** `{input}` -> `{units, estimated_seconds, params, quote}`, and what it costs in `credits` where jobs are paid for. */
export const quote = onCall(QUESTION, async (call) => {
  const uid = caller(call);
  const input = checkedInput(call.data?.input);
  await countQuestion(uid);
  if (isOn()) await wallets().open(uid); // its credits can be shown before the first job
  const { units, estimated_seconds, params } = await ask({ ...priced(input), action: "quote" });
  if (!isUnits(units)) {
    logger.error("The worker named no price");
    throw noAnswer();
  }
  const signed = await signQuote({ uid, input, units }, ticketSecret.value());
  return { units, estimated_seconds, params, quote: signed, ...(isOn() && { credits: priceOf(units) }) };
});

/** `{}` -> what there is to choose from: tasks, models, styles, sizes, limits. */
export const capabilities = onCall(QUESTION, async (call) => {
  const uid = caller(call);
  if (!isKnown()) await countQuestion(uid);
  if (!isKnown()) askForAll();
  return await known.answer;
});

let known; // the promise of it: whoever comes while a worker is asked waits for the same answer
const isKnown = () => known?.until > Date.now();

function askForAll() {
  const asked = { until: Date.now() + CAPABILITIES_MS, answer: ask({ action: "capabilities" }) };
  known = asked;
  asked.answer.catch(() => known === asked && (known = undefined));
}

/** A generation's document was written: once it has ended, or is not wanted, what was held for it is taken or given back. */
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

/** Settles what no document has settled: jobs that were never taken, lost, or deleted. */
export const sweep = onSchedule({ region, schedule: "every 5 minutes", timeoutSeconds: 540 }, async () => {
  let failed = 0;
  try {
    if (isOn()) failed = await wallets().sweep();
  } finally {
    await eraseAgain(); // what is to be gone goes, whatever is wrong with the credits
  }
  if (failed > 0) logger.error("Holds could not be settled; they are tried again", { failed });
});

/** The most units that a job may cost: its quote, or what any job of its task may come to; null: its quote is not good any more. */
async function mostFor(quote, uid, input) {
  if (quote === undefined || quote === null) return mostUnits(input.task_type);
  return await unitsOf(quote, { uid, input }, ticketSecret.value());
}
