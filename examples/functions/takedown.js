// Removes a generation for good: its document, files and thumbnails. Its id is blocked for new generations.
//
//   GOOGLE_APPLICATION_CREDENTIALS=key.json STORAGE_BUCKET=my-app.firebasestorage.app node takedown.js <uid> <fileUid>
//
// The database, and the bucket if it is not the default one, come from `.env`.

import { existsSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { getApps, initializeApp } from "firebase-admin/app";
import { FieldValue, getFirestore } from "firebase-admin/firestore";
import { bucket } from "./bucket.js";
import { database } from "./params.js";
import { isFileUid, isUserId } from "./request.js";

/** The document about a file in a collection with one per file; the id is unambiguous, as no `fileUid` has a colon. */
export const aboutFile = (collection, uid, fileUid) =>
  getFirestore(database.value()).collection(collection).doc(`file:${fileUid}:${uid}`);

/** The mark of a taken-down file, which `generate` and `fenced` check. */
export const blockOf = (uid, fileUid) => aboutFile("blocked", uid, fileUid);

/** @returns how many files were deleted. A worker that still runs it notices the deletion and removes its own files. */
export async function takeDown(uid, fileUid) {
  const firestore = getFirestore(database.value());
  await blockOf(uid, fileUid).set({ uid, file_uid: fileUid, at: FieldValue.serverTimestamp() });
  await firestore.doc(`generations/${uid}/files/${fileUid}`).delete();
  const report = await aboutFile("reports", uid, fileUid).get();
  if (report.exists) await report.ref.update({ state: "taken down" });
  const files = await filesOf(uid, fileUid);
  await Promise.all(files.map((file) => file.delete({ ignoreNotFound: true })));
  return files.length;
}

/** A generation's objects. `a_0.png` is the first of several of `a` or the only one of `a_0`; the metadata says which. */
async function filesOf(uid, fileUid) {
  const folders = ["image", "image/thumbs", "video", "video/thumbs"].map((kind) => `generating/${uid}/${kind}/`);
  const pages = await Promise.all(folders.map((folder) => bucket().getFiles({ prefix: folder + fileUid })));
  const named = new RegExp(`/${fileUid}(_\\d)?\\.\\w+$`);
  return pages
    .flatMap(([files]) => files)
    .filter(({ name, metadata }) => named.test(name) && (metadata.metadata?.file_uid ?? fileUid) === fileUid);
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [uid, fileUid] = process.argv.slice(2);
  if (existsSync(".env")) process.loadEnvFile(); // the environment takes precedence
  if (!isUserId(uid) || !isFileUid(fileUid)) {
    console.error("usage: node takedown.js <uid> <fileUid>, as in the document's path, generations/{uid}/files/{fileUid}");
    process.exit(2);
  }
  if (getApps().length === 0) initializeApp();
  console.log(`taken down: the document and ${await takeDown(uid, fileUid)} files; nothing is made under this fileUid again`);
}
