// Lists a user's generations by page, with what a grid needs to show BlurHashes at once and thumbnails soon after.

import type { Backend } from "./backend.js";
import type { GenerationDocument } from "./wire.js";

export interface Thumbnail {
  /** Null: the thumbnail could not be stored, or the result was inline. */
  url: string | null;
  blurhash: string | null;
  /** Of the full picture. */
  width: number;
  height: number;
}

export interface HistoryItem {
  fileUid: string;
  status: GenerationDocument["status"];
  createdAt: Date | null;
  taskType: string | null;
  /** One per file; a video's is its poster. */
  thumbnails: Thumbnail[];
  document: GenerationDocument;
}

/** The end of a page. Pass it back as `after`, in the same session. */
export type Cursor = { readonly fileUid: string };

export interface HistoryPage {
  items: HistoryItem[];
  next: Cursor | null;
  /**
   * Without a network: the items come from the phone's cache, which may be empty and may have gaps. Once there is one,
   * `next` returns what follows the last page from the server, so that an item may come again.
   */
  offline: boolean;
}

/** Where a page ended, and where the last page from the server did; undefined: at the start. */
export interface Place {
  here: unknown;
  online: unknown;
}

const MOST = 100; // the limit of firestore.rules

export async function history(
  backend: Backend,
  uid: string,
  cursors: WeakMap<Cursor, Place>,
  { pageSize = 30, after = null }: { pageSize?: number; after?: Cursor | null },
): Promise<HistoryPage> {
  const size = Math.max(1, Math.min(MOST, Math.floor(pageSize)));
  const place = after ? cursors.get(after) : { here: undefined, online: undefined };
  if (!place) throw new TypeError("after: must be the `next` of an earlier page");
  let page = await backend.page(uid, size, place.here);
  if (!page.fromCache && place.here !== place.online) page = await backend.page(uid, size, place.online);
  const { docs, fromCache: offline } = page;
  const last = docs[docs.length - 1];
  const here = last ?? place.here;
  let next: Cursor | null = null;
  if (offline || docs.length === size) {
    next = { fileUid: last?.id ?? after?.fileUid ?? "" };
    cursors.set(next, { here, online: offline ? place.online : here });
  }
  return { offline, next, items: docs.map((one) => item(one.id, one.data() as unknown as GenerationDocument)) };
}

function item(fileUid: string, document: GenerationDocument): HistoryItem {
  return {
    fileUid,
    status: document.status,
    createdAt: document.created_at ? new Date(document.created_at.toMillis()) : null,
    taskType: document.request_data?.task_type ?? null,
    thumbnails: (document.generation_data?.files ?? []).map(({ thumbnail_url, poster_url, blurhash, width, height }) => ({
      url: thumbnail_url ?? poster_url ?? null,
      blurhash: blurhash ?? null,
      width,
      height,
    })),
    document,
  };
}

/**
 * Delete the files that the document names, then the document, so that a failed deletion can be repeated. The document
 * goes only once it names no other files: a job may complete meanwhile.
 */
export async function removeGeneration(backend: Backend, uid: string, fileUid: string): Promise<void> {
  const gone = new Set<string>();
  for (let left: string[]; ; ) {
    left = [];
    await backend.removeIf(uid, fileUid, (document) => {
      left = filesOf(document).filter((path) => !gone.has(path));
      return left.length === 0;
    });
    if (left.length === 0) break;
    await Promise.all(left.map((path) => backend.removeObject(path)));
    for (const path of left) gone.add(path);
  }
  // A transaction leaves the SDK's cache as it is, from which a history without a network would still show it.
  backend.remove(uid, fileUid).catch(() => undefined);
}

function filesOf({ generation_data }: GenerationDocument): string[] {
  const files = generation_data?.files ?? [];
  const paths = files.flatMap(({ storage_path, thumbnail_path, poster_path }) => [storage_path, thumbnail_path, poster_path]);
  return [...new Set(paths.filter((path): path is string => typeof path === "string"))];
}
