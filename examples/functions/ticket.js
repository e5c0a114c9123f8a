// Signs tickets: a JWT for one user, one file and exactly one input, which the worker accepts in `id_token` in place of
// Firebase's ID token, since that is valid for an hour only. Knows no Firebase and no RunPod.

import { createHash } from "node:crypto";
import canonicalize from "canonicalize";
import { SignJWT } from "jose";

const AUDIENCE = "generation-worker";
const MIN_SECRET_CHARACTERS = 32;

/** SHA-256, in hex, over the canonical JSON (RFC 8785) of the input without its `id_token`. */
export function requestHash({ id_token: _, ...input }) {
  return createHash("sha256").update(canonicalize(input)).digest("hex");
}

/** The key that signs tickets and quotes. */
export function secretKey(secret) {
  const key = secret.trim(); // a secret store may add a newline; the worker drops it, too
  if (key.length < MIN_SECRET_CHARACTERS) throw new Error(`TICKET_SECRET needs ${MIN_SECRET_CHARACTERS} characters`);
  return new TextEncoder().encode(key);
}

/**
 * Returns the input with its ticket in `id_token`, valid for `seconds`, at most 25 hours. The input must not change after
 * that.
 * `slip`: the app has created the document, as `queued`; deleting it before a worker claims the job ends the job.
 */
export async function withTicket(input, secret, seconds, { slip = false } = {}) {
  const ticket = await new SignJWT({ file_uid: input.file_uid, request_hash: requestHash(input), ...(slip && { slip }) })
    .setProtectedHeader({ alg: "HS256", typ: "JWT" })
    .setAudience(AUDIENCE)
    .setSubject(input.user_id)
    .setIssuedAt()
    .setExpirationTime(`${seconds}s`)
    .sign(secretKey(secret));
  return { ...input, id_token: ticket };
}
