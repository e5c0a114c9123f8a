// Checks what an app sends: the ids and the shape of the input. The worker checks every field. Knows no RunPod, and of
// Firebase only the errors of callables.

import { HttpsError } from "firebase-functions/https";

// The ids that the worker accepts. A job under another one would be paid for but never have a document.
const FILE_UID = /^(?!__.*__$)[A-Za-z0-9_-]{1,128}$/;
const USER_ID = /^(?!__.*__$|\.\.?$)[A-Za-z0-9_.:@+|-]{1,128}$/;
const MAX_BYTES = 100_000; // pictures go through the bucket, as gs:// paths
const MAX_DEPTH = 3; // an object in a list of the input; no field is nested deeper

export const isFileUid = (text) => typeof text === "string" && FILE_UID.test(text);
export const isUserId = (text) => typeof text === "string" && USER_ID.test(text);

const invalid = (message) => new HttpsError("invalid-argument", message);

/** The caller's user id. */
export function caller({ auth, app }) {
  if (!auth) throw new HttpsError("unauthenticated", "Sign in first.");
  if (app?.alreadyConsumed) throw new HttpsError("unauthenticated", "Use a new App Check token for each call.");
  if (!isUserId(auth.uid)) throw new HttpsError("failed-precondition", "This user's id cannot be served.");
  return auth.uid;
}

export function checkedFileUid(fileUid) {
  if (!isFileUid(fileUid))
    throw invalid("fileUid: must be 1 to 128 of the characters A-Z a-z 0-9 _ -, and not __like this__");
  return fileUid;
}

/**
 * Checks the shape only: the worker checks every field, and reports errors in the document. Returns the input without its
 * null fields.
 */
export function checkedInput(input) {
  // A key `__proto__` would give it fields here that the worker does not receive, and the hold of another task.
  const isPlain = typeof input === "object" && input !== null && Object.getPrototypeOf(input) === Object.prototype;
  // Null means absent: Firebase's web SDK sends it for undefined, and other SDKs send whole structures.
  const needsNone = isPlain && input.task_type === "upscale" && (input.prompt ?? null) === null;
  if (!isPlain || (typeof input.prompt !== "string" && !needsNone))
    throw invalid("input: must be an object with at least a prompt, which only an upscale may lack");
  // RunPod's SDK drops deeply nested input before a worker sees it, with every other job of the same batch.
  if (depth(input) > MAX_DEPTH) throw invalid(`input: is nested in more than ${MAX_DEPTH} levels`);
  if (Buffer.byteLength(JSON.stringify(input)) > MAX_BYTES)
    throw invalid("input: is too large; upload pictures to uploads/{your uid}/ first");
  return given(input);
}

/**
 * What is not null: null means absent. An SDK sends it for undefined, but not after the app was closed and has read its
 * request from a text, and that is no other input.
 */
function given(value) {
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) return value.map(given);
  return Object.fromEntries(Object.entries(value).flatMap(([name, inner]) => (inner === null ? [] : [[name, given(inner)]])));
}

/** The nesting depth of objects and lists, counted up to one more than is allowed. */
function depth(value, above = 0) {
  if (typeof value !== "object" || value === null || above > MAX_DEPTH) return above;
  // No spread: a list may be longer than a call's argument list.
  return Object.values(value).reduce((deepest, inner) => Math.max(deepest, depth(inner, above + 1)), above + 1);
}
