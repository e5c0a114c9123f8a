// Lets users report a generation of theirs, as the app stores require. Only this function writes reports; only the operator
// reads them, in the console, and sets their `state`. `takedown.js` removes a generation.

import { FieldValue, getFirestore } from "firebase-admin/firestore";
import { logger } from "firebase-functions";
import { HttpsError, onCall } from "firebase-functions/https";
import { countQuestion } from "./limit.js";
import { database, region } from "./params.js";
import { caller, checkedFileUid } from "./request.js";
import { aboutFile } from "./takedown.js";

const MAX_REASON = 100;
const MAX_NOTE = 1000;

/** `{fileUid, reason, note?}` of the caller's own generation. One report per file: a later one replaces it. */
export const report = onCall({ region, enforceAppCheck: true, consumeAppCheckToken: true, maxInstances: 20 }, async (call) => {
  const uid = caller(call);
  const fileUid = checkedFileUid(call.data?.fileUid);
  const reason = text("reason", call.data.reason, MAX_REASON);
  const note = call.data.note === undefined || call.data.note === null ? null : text("note", call.data.note, MAX_NOTE);
  if (!reason) throw new HttpsError("invalid-argument", "reason: must say something");
  await countQuestion(uid);
  const firestore = getFirestore(database.value());
  const [document, before] = await firestore.getAll(
    firestore.doc(`generations/${uid}/files/${fileUid}`),
    aboutFile("reports", uid, fileUid),
  );
  // Anyone may write any number of order slips: reports of those would bury the others, and reopen those taken down.
  if (document.get("status") !== "completed") throw new HttpsError("not-found", "There is no such generation.");
  const created_at = before.get("created_at") ?? FieldValue.serverTimestamp();
  await before.ref.set({ uid, file_uid: fileUid, reason, note, state: "open", created_at, updated_at: FieldValue.serverTimestamp() });
  logger.warn("A generation was reported"); // for an alert; Firestore has the details
  return {};
});

function text(name, value, most) {
  if (typeof value !== "string" || value.length > most)
    throw new HttpsError("invalid-argument", `${name}: must be a text of at most ${most} characters`);
  return value.trim();
}
