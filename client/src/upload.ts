// Uploads a user's picture for a request.

import type { Backend } from "./backend.js";
import { GenerationError } from "./errors.js";

/** A `Blob`, a `File`, or bytes. */
export type UploadContent = { readonly size: number; readonly type: string } | Uint8Array;

export interface UploadOptions {
  /** For content without a type. The worker goes by the content itself. */
  contentType?: string;
  /** 1 to 200 of `A-Z a-z 0-9 . _ -`; reusing a name replaces the picture. */
  name?: string;
}

const MOST_BYTES = 64 * 1024 * 1024; // the limit of storage.rules and of the worker
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
  // React Native's blobs have no type, and browsers do not know the type of some files.
  const path = `uploads/${uid}/${name}`;
  const bucket = await backend.store(path, content, PICTURE.test(said) ? said : UNTYPED);
  return `gs://${bucket}/${path}`;
}

const LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

/** A unique name: 20 letters and digits, like Firestore's ids. Uses `Math.random`: React Native has no `crypto`. */
export function newId(): string {
  return Array.from({ length: 20 }, () => LETTERS[Math.floor(Math.random() * LETTERS.length)]).join("");
}
