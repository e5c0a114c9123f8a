"use strict";
// Implements storage.rules for a signed-in app in JavaScript, since Firebase's evaluator needs a Java version that few
// machines have. tests/tools/test_emulators.py has a case for each line.

const RESULTS = /^b\/[^/]+\/o\/generating\/([^/]+)\/(?:image|video)\/(?:thumbs\/)?[^/]+$/;
const UPLOADS = /^b\/[^/]+\/o\/uploads\/([^/]+)\/([^/]+)$/;
const NAME = /^[A-Za-z0-9._-]{1,200}$/;
const KINDS = /^(?:image\/(?:png|jpeg|jpg|webp|heic|heif|avif|gif|bmp|tiff)|application\/octet-stream)$/;
const MAX_BYTES = 64 * 1024 * 1024;

/** The uid in an ID token of the Auth emulator; such tokens have no signature. */
function uidOf(token) {
  try {
    const claims = JSON.parse(Buffer.from(token.split(".")[1], "base64url").toString());
    return claims.user_id ?? claims.sub;
  } catch {
    return undefined;
  }
}

function isSource({ contentType, size, contentEncoding }) {
  return KINDS.test(contentType ?? "") && Number(size) < MAX_BYTES && ["", "identity", undefined, null].includes(contentEncoding);
}

function permits({ method, path, file, token }) {
  const uid = token && uidOf(token);
  if (!uid) return false;
  const place = path.replace(/^\/|\/$/g, "");
  const result = RESULTS.exec(place);
  if (result) return result[1] === uid && method === "delete";
  const upload = UPLOADS.exec(place);
  if (!upload || upload[1] !== uid) return false;
  if (["get", "delete"].includes(method)) return true;
  return ["create", "update"].includes(method) && NAME.test(upload[2]) && isSource(file.after ?? {});
}

/** The interface through which the emulator queries its ruleset. */
async function verify(question) {
  return { permitted: permits(question), issues: { exist: () => false, all: [] } };
}

module.exports = { verify };
