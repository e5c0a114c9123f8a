// Signs and verifies quotes: a JWT with the price of one input for one user, valid for ten minutes. Knows no Firebase and
// no RunPod.

import { jwtVerify, SignJWT } from "jose";
import { requestHash, secretKey } from "./ticket.js";

const AUDIENCE = "generation-quote"; // so that a worker does not accept a quote as a ticket
const SECONDS = 600;

/** Whether a worker's price can be held; a worker of another version may return anything. */
export const isUnits = (units) => Number.isFinite(units) && units >= 0;

/** The input without the fields that do not affect its price: who asks, and where the result goes. */
export function priced({ id_token: _, user_id: __, file_uid: ___, use_cloud_storage: ____, ...input }) {
  return input;
}

/** @param units the worker's price of this input */
export async function signQuote({ uid, input, units }, secret) {
  return await new SignJWT({ units, request_hash: requestHash(priced(input)) })
    .setProtectedHeader({ alg: "HS256", typ: "JWT" })
    .setAudience(AUDIENCE)
    .setSubject(uid)
    .setIssuedAt()
    .setExpirationTime(`${SECONDS}s`)
    .sign(secretKey(secret));
}

/** The units of a quote; null if it is not ours, for another user or input, or expired. */
export async function unitsOf(quote, { uid, input }, secret) {
  try {
    const options = { algorithms: ["HS256"], audience: AUDIENCE, subject: uid, requiredClaims: ["exp"] };
    const { payload } = await jwtVerify(quote, secretKey(secret), options);
    return payload.request_hash === requestHash(priced(input)) && isUnits(payload.units) ? payload.units : null;
  } catch {
    return null;
  }
}
