// RunPod's API: a job handed in, a question asked. Knows no user and no money.

import { logger } from "firebase-functions";
import { HttpsError } from "firebase-functions/https";
import { endpoint, runpodKey, runpodUrl, TTL_SECONDS } from "./params.js";

const ANSWER_MS = 20_000;
const QUESTION_MS = 90_000; // a worker may have to start for it

export const noAnswer = () => new HttpsError("unavailable", "The generator does not answer; try again.");

/** Whether RunPod took no job, for certain. After any other error of `submit` one may still come. */
export const isRefusal = (error) => !(error instanceof HttpsError && error.code === "unavailable");

/** Hands a job in and returns its id. */
export async function submit(input) {
  const { id } = await post("run", { input, policy: { ttl: TTL_SECONDS * 1000 } }, ANSWER_MS);
  if (typeof id === "string") return id;
  logger.error("RunPod named no job");
  throw noAnswer();
}

/** Takes a job back, from the queue or from its worker. Whether RunPod says that nothing more comes of it. */
export async function cancel(jobId) {
  try {
    return (await post(`cancel/${encodeURIComponent(jobId)}`, {}, ANSWER_MS)).status === "CANCELLED";
  } catch {
    return false; // it has ended, or RunPod does not answer, which is in the log
  }
}

/** Asks a worker something that is no job, and returns its answer. */
export async function ask(input) {
  const { status, output, error } = await post("runsync", { input, policy: { ttl: QUESTION_MS } }, QUESTION_MS);
  const refusal = error ?? output?.error;
  if (typeof refusal === "string") throw refused(refusal);
  if (status === "COMPLETED" && typeof output === "object" && output !== null) return output;
  logger.error("RunPod did not answer a question", { status });
  throw noAnswer();
}

/** What the worker says is wrong, in its own words, which are made for users: "code: message". */
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
  // The app takes this for the end, and "unavailable" for a job that may still come.
  if ([400, 401, 403, 404].includes(answer.status))
    throw new HttpsError("failed-precondition", "The generator does not take jobs.");
  throw noAnswer();
}
