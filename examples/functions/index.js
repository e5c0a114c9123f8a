// The app's backend: the only holder of the RunPod key. It knows who is signed in; the app does not say so itself.

import { initializeApp } from "firebase-admin/app";
import { logger } from "firebase-functions";
import { HttpsError, onCall } from "firebase-functions/https";
import { defineInt, defineSecret, defineString } from "firebase-functions/params";
import { secondsToWait } from "./limit.js";
import { withTicket } from "./ticket.js";

initializeApp();

const runpodKey = defineSecret("RUNPOD_API_KEY");
const ticketSecret = defineSecret("TICKET_SECRET");
const endpoint = defineString("RUNPOD_ENDPOINT");
const runpodUrl = defineString("RUNPOD_URL", { default: "https://api.runpod.ai/v2" });
const jobsPerMinute = defineInt("JOBS_PER_MINUTE", { default: 10 }); // of one user; 0: no limit, and no Firestore
const database = defineString("FIRESTORE_DATABASE", { default: "(default)" });

// What the worker takes for an id. A job under another one would be paid for and never have a document.
const FILE_UID = /^(?!__.*__$)[A-Za-z0-9_-]{1,128}$/;
const USER_ID = /^(?!__.*__$|\.\.?$)[A-Za-z0-9_.:@+|-]{1,128}$/;
const MAX_BYTES = 100_000; // pictures go through the bucket, as gs:// paths
const MAX_DEPTH = 3; // an object in a list of the input; what is nested deeper no field has
// RunPod drops a job this long after it was submitted, whether it waits or runs: 15 minutes in line, as long as the app
// waits, and 10 of work. Without it a job waits for a day, and is then generated for nobody.
const TTL_SECONDS = 25 * 60;
const ANSWER_MS = 20_000;

/**
 * `{fileUid, input, slip?}` of a signed-in user -> `{jobId}`. The result arrives in generations/{uid}/files/{fileUid}.
 * `slip: true` says that the app has made that document as `queued`: deleting it while the job waits ends the job.
 */
export const generate = onCall(
  {
    secrets: [runpodKey, ticketSecret],
    enforceAppCheck: true,
    consumeAppCheckToken: true, // each token opens one call: a script cannot use one that it caught again
    timeoutSeconds: 60,
    maxInstances: 20,
  },
  async ({ auth, app, data }) => {
    if (!auth) throw new HttpsError("unauthenticated", "Sign in first.");
    if (app?.alreadyConsumed) throw new HttpsError("unauthenticated", "Use a new App Check token for each call.");
    if (!USER_ID.test(auth.uid)) throw new HttpsError("failed-precondition", "This user's id cannot be served.");
    const { fileUid, input, slip } = checked(data);
    await count(auth.uid);
    // Who asks, and where the result goes, is said here: whatever the app wrote there is overwritten.
    const job = { ...input, user_id: auth.uid, file_uid: fileUid, use_cloud_storage: true };
    return { jobId: await submit(await withTicket(job, ticketSecret.value(), TTL_SECONDS, { slip })) };
  },
);

/** The shape only: the worker checks every field, and says in the document what is wrong with one. */
function checked(data) {
  const { fileUid, input } = data ?? {};
  if (typeof fileUid !== "string" || !FILE_UID.test(fileUid))
    throw new HttpsError(
      "invalid-argument",
      "fileUid: must be 1 to 128 of the characters A-Z a-z 0-9 _ -, and not __like this__",
    );
  const isObject = typeof input === "object" && input !== null && !Array.isArray(input);
  if (!isObject || (typeof input.prompt !== "string" && !(input.task_type === "upscale" && input.prompt === undefined)))
    throw new HttpsError("invalid-argument", "input: must be an object with at least a prompt, which only an upscale may lack");
  // RunPod's SDK drops what is nested too deeply before any worker sees it, with every other job that came beside it.
  if (depth(input) > MAX_DEPTH) throw new HttpsError("invalid-argument", `input: is nested in more than ${MAX_DEPTH} levels`);
  if (Buffer.byteLength(JSON.stringify(input)) > MAX_BYTES)
    throw new HttpsError("invalid-argument", "input: is too large; upload pictures to uploads/{your uid}/ first");
  return { fileUid, input, slip: data.slip === true };
}

/** How deep objects and lists lie in each other, counted up to one more than is allowed. */
function depth(value, above = 0) {
  if (typeof value !== "object" || value === null || above > MAX_DEPTH) return above;
  return Math.max(above + 1, ...Object.values(value).map((inner) => depth(inner, above + 1)));
}

/** One more submission of this user's, or the refusal that says when the next one may come. */
async function count(uid) {
  const perMinute = jobsPerMinute.value();
  if (perMinute === 0) return;
  let seconds;
  try {
    seconds = await secondsToWait(uid, { perMinute, database: database.value() });
  } catch (error) {
    // A job that nobody counts is not submitted. "unavailable" would say that it may still come.
    logger.error("A submission was not counted", { name: error.name, code: error.code });
    throw new HttpsError("resource-exhausted", "Jobs cannot be counted at the moment; try again later.");
  }
  if (seconds > 0)
    throw new HttpsError("resource-exhausted", `At most ${perMinute} jobs a minute; try again in ${seconds} seconds.`, {
      retryAfterSeconds: seconds,
    });
}

async function submit(input) {
  let answer;
  try {
    answer = await fetch(`${runpodUrl.value()}/${endpoint.value()}/run`, {
      method: "POST",
      headers: { Authorization: `Bearer ${runpodKey.value().trim()}`, "Content-Type": "application/json" },
      body: JSON.stringify({ input, policy: { ttl: TTL_SECONDS * 1000 } }),
      signal: AbortSignal.timeout(ANSWER_MS),
    });
    if (answer.ok) {
      const { id } = await answer.json();
      if (typeof id === "string") return id;
    }
  } catch (error) {
    logger.error("RunPod was not reached", { name: error.name });
    throw new HttpsError("unavailable", "The generator does not answer; try again.");
  }
  logger.error("RunPod did not take the job", { status: answer.status });
  if (answer.status === 429) throw new HttpsError("resource-exhausted", "The generator is busy; try again later.");
  // The app takes this for the end, and "unavailable" for a job that may still come.
  if ([400, 401, 403, 404].includes(answer.status))
    throw new HttpsError("failed-precondition", "The generator does not take jobs.");
  throw new HttpsError("unavailable", "The generator does not answer; try again.");
}
