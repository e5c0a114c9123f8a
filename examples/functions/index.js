// The app's backend: the only holder of the RunPod key. It knows who is signed in; the app does not say so itself.

import { initializeApp } from "firebase-admin/app";
import { logger } from "firebase-functions";
import { HttpsError, onCall } from "firebase-functions/https";
import { defineSecret, defineString } from "firebase-functions/params";
import { withTicket } from "./ticket.js";

initializeApp();

const runpodKey = defineSecret("RUNPOD_API_KEY");
const ticketSecret = defineSecret("TICKET_SECRET");
const endpoint = defineString("RUNPOD_ENDPOINT");
const runpodUrl = defineString("RUNPOD_URL", { default: "https://api.runpod.ai/v2" });

const IDENTIFIER = /^[A-Za-z0-9_-]{1,128}$/;
const MAX_BYTES = 9_500_000; // RunPod takes 10 MB; larger pictures go through the bucket, as gs:// paths
const ANSWER_MS = 20_000;

/** `{fileUid, input}` of a signed-in user -> `{jobId}`. The result arrives in generations/{uid}/files/{fileUid}. */
export const generate = onCall(
  { secrets: [runpodKey, ticketSecret], enforceAppCheck: true, timeoutSeconds: 60, maxInstances: 20 },
  async ({ auth, data }) => {
    if (!auth) throw new HttpsError("unauthenticated", "Sign in first.");
    const { fileUid, input } = checked(data);
    // Who asks, and where the result goes, is said here: whatever the app wrote there is overwritten.
    const job = { ...input, user_id: auth.uid, file_uid: fileUid, use_cloud_storage: true };
    return { jobId: await submit(await withTicket(job, ticketSecret.value())) };
  },
);

/** The shape only: the worker checks every field, and says in the document what is wrong with one. */
function checked(data) {
  const { fileUid, input } = data ?? {};
  if (typeof fileUid !== "string" || !IDENTIFIER.test(fileUid))
    throw new HttpsError("invalid-argument", "fileUid: must be 1 to 128 of the characters A-Z a-z 0-9 _ -");
  if (typeof input !== "object" || input === null || Array.isArray(input) || typeof input.prompt !== "string")
    throw new HttpsError("invalid-argument", "input: must be an object with at least a prompt");
  if (Buffer.byteLength(JSON.stringify(input)) > MAX_BYTES)
    throw new HttpsError("invalid-argument", "input: is too large; upload pictures to uploads/{your uid}/ first");
  return { fileUid, input };
}

async function submit(input) {
  let answer;
  try {
    answer = await fetch(`${runpodUrl.value()}/${endpoint.value()}/run`, {
      method: "POST",
      headers: { Authorization: `Bearer ${runpodKey.value().trim()}`, "Content-Type": "application/json" },
      body: JSON.stringify({ input }),
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
