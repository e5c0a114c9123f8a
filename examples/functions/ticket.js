// The ticket: what the worker accepts in `id_token` in place of Firebase's ID token, which lives for an hour only.
// A JWT for one user, one file and exactly one input. Knows no Firebase and no RunPod.

import { createHash } from "node:crypto";
import canonicalize from "canonicalize";
import { SignJWT } from "jose";

const AUDIENCE = "generation-worker";
const MIN_SECRET_CHARACTERS = 32;

/** SHA-256, in hex, over the canonical JSON (RFC 8785) of the input without its `id_token`. */
export function requestHash({ id_token: _, ...input }) {
  return createHash("sha256").update(canonicalize(input)).digest("hex");
}

/** What tickets and quotes are signed with. */
export function secretKey(secret) {
  const key = secret.trim(); // the worker drops the newline that a secret store may have added, too
  if (key.length < MIN_SECRET_CHARACTERS) throw new Error(`TICKET_SECRET needs ${MIN_SECRET_CHARACTERS} characters`);
  return new TextEncoder().encode(key);
}

/**
 * The input with its ticket in `id_token`, valid for so many seconds, 25 hours at most. Nothing of it may change afterwards.
 * `slip`: the app has made the document, as `queued`. Who deletes it before a worker takes the job does not want it any more.
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
