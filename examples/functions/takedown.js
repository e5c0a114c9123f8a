// Takes one generation away for good: its document, its files and thumbnails, and its id, which nothing is made under again.
//
//   GOOGLE_APPLICATION_CREDENTIALS=key.json STORAGE_BUCKET=my-app.firebasestorage.app node takedown.js <uid> <fileUid>
//
// The database, and the bucket where it has a name of its own, are those of `.env`.

import { existsSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { getApps, initializeApp } from "firebase-admin/app";
import { FieldValue, getFirestore } from "firebase-admin/firestore";
import { bucket } from "./bucket.js";
import { database } from "./params.js";
import { isFileUid, isUserId } from "./request.js";

/** A document about one file, in a collection that has one for each: no file's id holds a colon. */
export const aboutFile = (collection, uid, fileUid) =>
  getFirestore(database.value()).collection(collection).doc(`file:${fileUid}:${uid}`);

/** What stands there, or not, for `generate` and for what comes all the same. */
export const blockOf = (uid, fileUid) => aboutFile("blocked", uid, fileUid);

/** @returns how many files were deleted. A worker that is busy with it sees its document go, and takes back its own. */
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

/** The objects of one generation: `a_0.png` is the first of several of `a`, or the only one of `a_0`; its metadata says which. */
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
  if (existsSync(".env")) process.loadEnvFile(); // what the environment says comes first
  if (!isUserId(uid) || !isFileUid(fileUid)) {
    console.error("usage: node takedown.js <uid> <fileUid>, as in the document's path, generations/{uid}/files/{fileUid}");
    process.exit(2);
  }
  if (getApps().length === 0) initializeApp();
  console.log(`taken down: the document and ${await takeDown(uid, fileUid)} files; nothing is made under this fileUid again`);
}
