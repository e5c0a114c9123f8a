// Calls RunPod's API: submits and cancels jobs, and asks questions. Knows no users and no credits.

import { logger } from "firebase-functions";
import { HttpsError } from "firebase-functions/https";
import { endpoint, runpodKey, runpodUrl, TTL_SECONDS } from "./params.js";

const ANSWER_MS = 20_000;
const QUESTION_MS = 90_000; // it may need a cold start

export const noAnswer = () => new HttpsError("unavailable", "The generator does not answer; try again.");

/** Whether RunPod certainly took no job. After any other error of `submit` the job may still run. */
export const isRefusal = (error) => !(error instanceof HttpsError && error.code === "unavailable");

/** Submits a job and returns its id. */
export async function submit(input) {
  const { id } = await post("run", { input, policy: { ttl: TTL_SECONDS * 1000 } }, ANSWER_MS);
  if (typeof id === "string") return id;
  logger.error("RunPod named no job");
  throw noAnswer();
}

/** Cancels a job that waits or runs. Returns whether RunPod confirms it. */
export async function cancel(jobId) {
  try {
    return (await post(`cancel/${encodeURIComponent(jobId)}`, {}, ANSWER_MS)).status === "CANCELLED";
  } catch {
    return false; // the job has ended, or RunPod failed, which `post` has logged
  }
}

/** Runs an action that is no job, such as `quote`, on a worker and returns its answer. */
export async function ask(input) {
  const { status, output, error } = await post("runsync", { input, policy: { ttl: QUESTION_MS } }, QUESTION_MS);
  const refusal = error ?? output?.error;
  if (typeof refusal === "string") throw refused(refusal);
  if (status === "COMPLETED" && typeof output === "object" && output !== null) return output;
  logger.error("RunPod did not answer a question", { status });
  throw noAnswer();
}

/** Converts a worker's error, "code: message"; its messages are written for users. */
function refused(text) {
  const [, code, message] = /^(\w+): (.*)$/s.exec(text) ?? [];
  if (code === "invalid_input" || code === "url_blocked") return new HttpsError("invalid-argument", message);
  if (code === "model_unavailable") return new HttpsError("failed-precondition", message);
  logger.error("The worker did not answer a question", { code });
  return noAnswer();
}

async function post(action, body, milliseconds) {
  let answer;
  try {
    answer = await fetch(`${runpodUrl.value()}/${endpoint.value()}/${action}`, {
      method: "POST",
      headers: { Authorization: `Bearer ${runpodKey.value().trim()}`, "Content-Type": "application/json" },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(milliseconds),
    });
    if (answer.ok) return (await answer.json()) ?? {};
  } catch (error) {
    logger.error("RunPod was not reached", { name: error.name });
    throw noAnswer();
  }
  logger.error("RunPod refused", { status: answer.status });
  if (answer.status === 429) throw new HttpsError("resource-exhausted", "The generator is busy; try again later.");
  // The app takes this as final, and "unavailable" as a job that may still come.
  if ([400, 401, 403, 404].includes(answer.status))
    throw new HttpsError("failed-precondition", "The generator does not take jobs.");
  throw noAnswer();
}
