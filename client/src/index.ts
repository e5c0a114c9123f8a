// The app's side: start a generation, watch it, cancel it, and list the results. See docs/client.md.

import { AwakeClock } from "./awake.js";
import { Backend } from "./backend.js";
import { GenerationError, signedOut } from "./errors.js";
import type { Instances, Modules } from "./firebase.js";
import { Generation, type GenerationHandle, type GenerationState, type Plan } from "./generation.js";
import { history, removeGeneration, type Cursor, type HistoryPage, type Place } from "./history.js";
import { InFlight, type GenerationInput, type Memory } from "./memory.js";
import { newId, upload, type UploadContent, type UploadOptions } from "./upload.js";
import type { Capabilities, Quote } from "./wire.js";

export { GenerationError } from "./errors.js";
export type { FirestoreModule, FunctionsModule, Instances, Modules, StorageModule } from "./firebase.js";
export type { GenerationHandle, GenerationState, Stage } from "./generation.js";
export type { Cursor, HistoryItem, HistoryPage, Thumbnail } from "./history.js";
export type { Memory } from "./memory.js";
export type { UploadContent, UploadOptions } from "./upload.js";
// All wire types. A document's error reaches the app as a `GenerationError`.
export type * from "./wire.js";
export type { GenerationInput } from "./memory.js";

export interface ClientOptions extends Modules {
  app: Instances;
  /** The signed-in user; read at each call. */
  uid: () => string | null | undefined;
  /** Keeps the jobs in flight while the app is closed. Without it they are forgotten then. */
  memory?: Memory;
  /** How long a job may wait for a worker, in seconds while the app is awake. Default: 900. */
  queueSeconds?: number;
}

export interface GenerateOptions extends WatchOptions {
  /** 1 to 128 of `A-Z a-z 0-9 _ -`. Repeating it with the same input returns the same generation. */
  fileUid?: string;
  /** The signed quote from `quote()`, for a backend with credits: the price does not exceed it. */
  quote?: string;
}

export interface WatchOptions {
  onChange?: (state: GenerationState) => void;
}

/** The price of a request, in units and, if the backend uses them, in credits. */
export interface Offer extends Quote {
  credits?: number;
  /** The signed quote, for `generate`. */
  quote?: string;
}

export interface Labels {
  favorite?: boolean;
  hidden?: boolean;
  /** Up to ten, each of at most 40 characters. */
  labels?: string[];
}

export interface Client {
  generate(input: GenerationInput, options?: GenerateOptions): GenerationHandle;
  /** Continues to watch a job, after a restart or a `stop`. */
  resume(fileUid: string, options?: WatchOptions): GenerationHandle;
  /** The `fileUid`s of jobs whose end this app has not seen yet. */
  inFlight(): Promise<string[]>;
  /** Lists generations, newest first; at most 100 a page. */
  history(options?: { pageSize?: number; after?: Cursor | null }): Promise<HistoryPage>;
  /** Deletes a generation's files, then its document. A job that still runs stops. */
  remove(fileUid: string): Promise<void>;
  label(fileUid: string, labels: Labels): Promise<void>;
  quote(input: GenerationInput): Promise<Offer>;
  /** Uploads a picture. Returns the `gs://` address for a request's `image_url`. */
  upload(content: UploadContent, options?: UploadOptions): Promise<string>;
  /** Reports an objectionable picture to the operator. */
  report(fileUid: string, reason: string, note?: string): Promise<void>;
  capabilities(): Promise<Capabilities>;
  /**
   * Stops watching a user's jobs and removes them from this phone's memory. For a deleted account; the jobs themselves
   * end with it.
   */
  forget(uid: string): Promise<void>;
}

const QUEUE_SECONDS = 15 * 60;
const FILE_UID = /^(?!__.*__$)[A-Za-z0-9_-]{1,128}$/;

export function createClient(options: ClientOptions): Client {
  const { firestore, functions, storage, app } = options;
  const backend = new Backend({ firestore, functions, storage }, app);
  const inFlight = new InFlight(options.memory);
  const queueSeconds = options.queueSeconds ?? QUEUE_SECONDS;
  const running = new Map<string, Generation>();
  const isBegun = (uid: string, fileUid: string): boolean => running.get(`${uid}/${fileUid}`)?.isOver === false;
  const around = { backend, clock: new AwakeClock(), inFlight, uid: options.uid, isBegun, queueSeconds };
  const cursors = new WeakMap<Cursor, Place>();

  const user = (): string => {
    const uid = options.uid();
    if (!uid) throw signedOut();
    return uid;
  };

  /** Watch a job. One that is watched already is shared, so each job has a single listener. */
  function begin(
    fileUid: string,
    plan: (uid: string) => Plan | Promise<Plan>,
    onChange: WatchOptions["onChange"],
  ): GenerationHandle {
    const uid = options.uid();
    if (!uid) return refused(fileUid, signedOut());
    if (!FILE_UID.test(fileUid)) {
      const what = "fileUid: must be 1 to 128 of the characters A-Z a-z 0-9 _ -, and not __like this__";
      return refused(fileUid, new GenerationError("invalid-argument", what, false));
    }
    const place = `${uid}/${fileUid}`;
    const there = running.get(place);
    if (there && !there.isOver) return there.watch(onChange);
    const generation = new Generation(around, uid, fileUid);
    running.set(place, generation);
    void generation.ended.then(() => running.get(place) === generation && running.delete(place));
    const handle = generation.watch(onChange);
    void generation.start(plan(uid));
    return handle;
  }

  return {
    generate: (input, { fileUid = newId(), quote, onChange } = {}) => {
      const order = quote === undefined ? { input } : { input, quote };
      return begin(fileUid, () => ({ order, anew: true }), onChange);
    },
    resume: (fileUid, { onChange } = {}) => {
      const remembered = async (uid: string): Promise<Plan> => {
        const order = await inFlight.find(uid, fileUid);
        return order ? { order, anew: false } : { anew: false };
      };
      return begin(fileUid, remembered, onChange);
    },
    inFlight: async () => inFlight.list(user()),
    history: async (page = {}) => history(backend, user(), cursors, page),
    remove: async (fileUid) => removeGeneration(backend, user(), fileUid),
    label: async (fileUid, { favorite, hidden, labels }) => {
      const given = Object.entries({ favorite, hidden, labels }).filter(([, value]) => value !== undefined);
      if (given.length > 0) await backend.update(user(), fileUid, Object.fromEntries(given));
    },
    quote: async (input) => backend.ask<Offer>("quote", { input }),
    upload: async (content, more = {}) => upload(backend, user(), content, more),
    report: async (fileUid, reason, note) => {
      await backend.call("report", note === undefined ? { fileUid, reason } : { fileUid, reason, note });
    },
    capabilities: async () => backend.ask<Capabilities>("capabilities", {}),
    forget: async (uid) => {
      for (const [place, generation] of running) if (place.startsWith(`${uid}/`)) generation.stop();
      await inFlight.forgetAll(uid);
    },
  };
}

function refused(fileUid: string, error: GenerationError): GenerationHandle {
  const result = Promise.reject(error);
  result.catch(() => undefined);
  return { fileUid, result, cancel: async () => undefined, stop: () => undefined };
}
