// A user's own picture on its way into a request.

import type { Backend } from "./backend.js";
import { GenerationError } from "./errors.js";

/** A `Blob`, a `File`, or bytes. */
export type UploadContent = { readonly size: number; readonly type: string } | Uint8Array;

export interface UploadOptions {
  /** Where the content does not say it itself. The worker goes by the content. */
  contentType?: string;
  /** 1 to 200 of `A-Z a-z 0-9 . _ -`; the same one again replaces it. */
  name?: string;
}

const MOST_BYTES = 20 * 1024 * 1024; // the rules, and the worker
const PICTURE = /^image\/(png|jpeg|jpg|webp|heic|heif|avif|gif|bmp|tiff)$/;
const UNTYPED = "application/octet-stream";

export async function upload(
  backend: Backend,
  uid: string,
  content: UploadContent,
  { contentType, name = newId() }: UploadOptions,
): Promise<string> {
  const size = "size" in content ? content.size : content.length;
  if (size >= MOST_BYTES) {
    throw new GenerationError("too_large", `A picture may have at most ${MOST_BYTES / 1024 / 1024} MB.`, false);
  }
  const said = contentType ?? ("type" in content ? content.type : "");
  // React Native's blobs have no type, and browsers know none of some files.
  const path = `uploads/${uid}/${name}`;
  const bucket = await backend.store(path, content, PICTURE.test(said) ? said : UNTYPED);
  return `gs://${bucket}/${path}`;
}

const LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

/** A name that no two files have: 20 letters and digits, as Firestore's own. React Native has no `crypto` for more. */
export function newId(): string {
  return Array.from({ length: 20 }, () => LETTERS[Math.floor(Math.random() * LETTERS.length)]).join("");
}
