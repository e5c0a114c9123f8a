// A signed price: what one input may cost one user, for ten minutes. A JWT. Knows no Firebase and no RunPod.

import { jwtVerify, SignJWT } from "jose";
import { requestHash, secretKey } from "./ticket.js";

const AUDIENCE = "generation-quote"; // a worker takes no quote for a ticket
const SECONDS = 600;

/** Whether a worker, also one of another version, named a price that can be held. */
export const isUnits = (units) => Number.isFinite(units) && units >= 0;

/** The input as it is priced: who asks and where the result goes cost nothing. */
export function priced({ id_token: _, user_id: __, file_uid: ___, use_cloud_storage: ____, ...input }) {
  return input;
}

/** @param units what the worker says that this input comes to */
export async function signQuote({ uid, input, units }, secret) {
  return await new SignJWT({ units, request_hash: requestHash(priced(input)) })
    .setProtectedHeader({ alg: "HS256", typ: "JWT" })
    .setAudience(AUDIENCE)
    .setSubject(uid)
    .setIssuedAt()
    .setExpirationTime(`${SECONDS}s`)
    .sign(secretKey(secret));
}

/** The units of a quote; null where it is none of ours, another user's or input's, or too old. */
export async function unitsOf(quote, { uid, input }, secret) {
  try {
    const options = { algorithms: ["HS256"], audience: AUDIENCE, subject: uid, requiredClaims: ["exp"] };
    const { payload } = await jwtVerify(quote, secretKey(secret), options);
    return payload.request_hash === requestHash(priced(input)) && isUnits(payload.units) ? payload.units : null;
  } catch {
    return null;
  }
}
