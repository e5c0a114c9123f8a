// Simulates a phone, a server and workers in virtual time. Implements Firebase's modules for the client: listeners with
// metadata, a cache, writes that wait for the network, and the security rules as far as they affect an app.

import type { CallableOptions, Modules } from "../src/firebase.js";
import { createClient, type Client, type ClientOptions, type GenerationHandle, type GenerationState } from "../src/index.js";

export type Fields = Record<string, unknown>;
interface Timer {
  run: () => void;
  every: number;
  due: number;
}
interface Listener {
  file: string;
  next: (snapshot: unknown) => void;
  failed: (error: unknown) => void;
  version: number;
  fromCache: boolean | undefined;
  answersAt: number;
}
export interface Job {
  id: string;
  file: string;
  input: unknown;
  slip: boolean;
}

export const at = (ms: number) => ({ toMillis: () => ms });
const QUESTIONS = ["quote", "capabilities"];
export const settle = () => new Promise<void>((resolve) => setImmediate(resolve));
const refusal = (code: string) => Object.assign(new Error(`refused: ${code}`), { code });

export class World {
  /** The server's time, in milliseconds. The phone's clock is ahead of it by `aside`. */
  time = 1_800_000_000_000;
  aside = 0;
  readonly timers = new Map<unknown, Timer>();

  // The server.
  readonly documents = new Map<string, { fields: Fields; version: number }>();
  private version = 1;

  // The phone's network.
  online = true;
  /** Until then the stream of listeners is dead, without the SDK noticing. */
  deafUntil = 0;
  private offlineKnownAt = Number.POSITIVE_INFINITY;
  /** Whether the SDK caches what it has seen, and answers each new listener from there first. */
  disk = false;
  private readonly cache = new Map<string, Fields | undefined>();
  private readonly misled = new Map<string, number | undefined>();
  readonly listeners = new Set<Listener>();
  private writes: { file: string; apply: () => void; done: () => void; failed: (error: unknown) => void }[] = [];
  private readonly overlays = new Map<string, Fields>();
  slipsAreTaken = true;
  looks = 0;
  /** How many of the next reads of the server get no response. */
  lostLooks = 0;
  /** Called when the server is about to delete a document for an app. */
  deleting: () => void = () => undefined;
  /** The bucket. */
  readonly objects = new Set<string>();

  // The backend and the workers.
  calls: { name: string; data: Fields }[] = [];
  /** How many single-use App Check tokens were requested. */
  attested = 0;
  /** How long a question waits for a cold start. */
  startMs = 0;
  answer: (job: Job, submit: () => { data: { jobId: string } }) => Promise<unknown> = async (_, submit) => submit();
  queue: Job[] = [];
  /** The generations that workers have begun. */
  generated: string[] = [];
  private jobs = 0;

  install(): void {
    Date.now = () => this.time + this.aside;
    const global = globalThis as unknown as Record<string, unknown>;
    global["setInterval"] = (run: () => void, every: number) => {
      const timer = Symbol("timer");
      this.timers.set(timer, { run, every, due: this.time + every });
      return timer;
    };
    global["clearInterval"] = (timer: unknown) => void this.timers.delete(timer);
  }

  client(more: Partial<ClientOptions> = {}): Client {
    return createClient({ ...this.modules(), app: { db: 1, functions: 2, storage: 3 }, uid: () => "alice", ...more });
  }

  // --- time

  /** Let seconds pass with the app in the foreground; `each` runs in every one of them. */
  async awake(seconds: number, each: (second: number) => void = () => undefined): Promise<void> {
    for (let second = 1; second <= seconds; second += 1) {
      this.time += 1000;
      for (const timer of [...this.timers.values()]) {
        if (timer.due > this.time) continue;
        timer.due = this.time + timer.every;
        timer.run();
      }
      each(second);
      this.pump();
      await settle();
    }
  }

  /** Let the phone sleep: timers pause and fire once when it wakes; streams return `late` seconds later. */
  asleep(seconds: number, late = 0): void {
    this.time += seconds * 1000;
    this.deafUntil = this.time + late * 1000;
  }

  /** Close the app: only what it wrote to its memory remains. */
  close(): void {
    this.timers.clear();
    this.listeners.clear();
    this.overlays.clear();
    this.writes = [];
  }

  // --- the network

  cut(knownAfter = 10): void {
    this.online = false;
    this.offlineKnownAt = this.time + knownAfter * 1000;
  }

  restore(late = 0): void {
    this.online = true;
    this.offlineKnownAt = Number.POSITIVE_INFINITY;
    this.deafUntil = this.time + late * 1000;
    this.pump();
  }

  private get reachable(): boolean {
    return this.online && this.time >= this.deafUntil;
  }

  /** Deliver all that the network would have delivered by now. */
  pump(): void {
    if (this.reachable) {
      const waiting = this.writes;
      this.writes = [];
      for (const write of waiting) {
        try {
          write.apply();
          write.done();
        } catch (error) {
          write.failed(error);
        }
      }
    }
    for (const listener of [...this.listeners]) this.deliver(listener);
  }

  private deliver(listener: Listener): void {
    if (!this.listeners.has(listener)) return;
    const overlay = this.overlays.get(listener.file);
    if (this.reachable && this.time >= listener.answersAt) {
      const there = this.byTheCache(listener.file);
      const version = there?.version ?? 0;
      if (version === listener.version && listener.fromCache === false && !overlay) return;
      [listener.version, listener.fromCache] = [version, overlay !== undefined];
      this.cache.set(listener.file, there?.fields);
      if (overlay) return this.say(listener, overlay, true, true);
      return this.say(listener, there?.fields, false);
    }
    if (listener.fromCache !== true && (this.time >= this.offlineKnownAt || (this.disk && listener.fromCache === undefined))) {
      const known = this.cache.has(listener.file);
      if (!known && this.time < this.offlineKnownAt) return;
      listener.fromCache = true;
      this.say(listener, overlay ?? (known ? this.cache.get(listener.file) : undefined), true, overlay !== undefined);
    }
  }

  private say(listener: Listener, fields: Fields | undefined, fromCache: boolean, hasPendingWrites = false): void {
    listener.next({ id: listener.file, data: () => fields, metadata: { fromCache, hasPendingWrites } });
  }

  /** Make the SDK's cache hold the document's absence as newer than the document, until that changes. */
  mislead(file: string): void {
    this.misled.set(file, this.documents.get(file)?.version);
    this.pump();
  }

  /** The document as an online SDK's listeners and queries see it. */
  private byTheCache(file: string): { fields: Fields; version: number } | undefined {
    const there = this.documents.get(file);
    return there?.version === this.misled.get(file) ? undefined : there;
  }

  /** End all listeners, as the server does. */
  end(error: { code: string }): void {
    for (const listener of [...this.listeners]) {
      this.listeners.delete(listener);
      listener.failed(error);
    }
  }

  // --- the server

  write(file: string, fields: Fields | undefined): void {
    this.version += 1;
    if (fields === undefined) this.documents.delete(file);
    else this.documents.set(file, { fields, version: this.version });
    this.pump();
  }

  fields(file: string): Fields | undefined {
    return this.documents.get(file)?.fields;
  }

  // --- workers, which claim as the worker's table says

  /** Let a worker take the next queued job. Returns the job, with the denial's code if its claim is denied. */
  take(): { job: Job; denied?: string } {
    const job = this.queue.shift();
    if (!job) throw new Error("no job waits");
    const found = this.fields(job.file);
    if (!found && job.slip) return { job, denied: "deleted" };
    if (found?.["status"] === "completed") return { job, denied: "replayed" };
    const expires = found?.["expires_at"] as { toMillis(): number } | undefined;
    if (found?.["status"] === "processing" && (expires?.toMillis() ?? 0) > this.time) return { job, denied: "duplicate" };
    const ended = found?.["status"] === "failed";
    const wished = found?.["cancel_requested"] === true && !ended;
    const { error: _e, completed_at: _c, cancel_requested: wish, ...kept } = found ?? {};
    const attempt = ((found?.["attempt"] as number | undefined) ?? 0) + 1;
    const claimed = { ...kept, ...(ended ? {} : { cancel_requested: wish }), attempt, job_id: job.id, status: "processing" };
    this.write(job.file, { created_at: at(this.time), ...claimed, ...this.alive(), progress: { stage: "queued" } });
    if (wished) {
      this.fail(job, "cancelled");
      return { job, denied: "cancelled" };
    }
    this.generated.push(job.file);
    return { job };
  }

  private alive(): Fields {
    return { updated_at: at(this.time), expires_at: at(this.time + 90_000) };
  }

  beat(job: Job, progress: Fields = {}): void {
    this.write(job.file, { ...this.fields(job.file), ...this.alive(), progress: { stage: "generating", ...progress } });
  }

  complete(job: Job, files: Fields[] = [{ thumbnail_url: "t", blurhash: "b", width: 8, height: 8 }]): void {
    const { expires_at: _, ...rest } = this.fields(job.file) ?? {};
    const ended = { updated_at: at(this.time), completed_at: at(this.time) };
    this.write(job.file, { ...rest, status: "completed", ...ended, generation_data: { image_url: job.file, files } });
  }

  fail(job: Job, code: string, retryable = false): void {
    const { expires_at: _, ...rest } = this.fields(job.file) ?? {};
    const ended = { updated_at: at(this.time), completed_at: at(this.time) };
    this.write(job.file, { ...rest, status: "failed", ...ended, error: { code, message: code, retryable } });
  }

  // --- Firebase

  modules(): Modules {
    const world = this;
    const snapshot = (file: string, fields: Fields | undefined) => ({ id: file, data: () => fields });
    const written = (file: string, apply: () => void, overlay?: Fields) =>
      new Promise<void>((resolve, reject) => {
        if (overlay) world.overlays.set(file, overlay);
        const over = () => overlay && world.overlays.delete(file);
        const done = () => (over(), resolve());
        // As in the SDK, the promise rejects first, and a snapshot with the refused write may still follow.
        const failed = (error: unknown) => {
          reject(error);
          if (!overlay) return;
          setImmediate(() => {
            for (const listener of world.listeners) if (listener.file === file) world.say(listener, overlay, false, true);
            over();
            for (const listener of world.listeners) listener.fromCache = true;
            world.pump();
          });
        };
        world.writes.push({ file, apply, done, failed });
        if (world.reachable) world.pump();
      });
    const firestore = {
      doc: (_: unknown, path: string) => path.split("/")[3],
      collection: (_: unknown, path: string) => path,
      query: (_: unknown, ...constraints: unknown[]) => constraints,
      orderBy: () => ({}),
      limit: (count: number) => ({ count }),
      startAfter: (after: { id: string }) => ({ after: after.id }),
      serverTimestamp: () => "server's time",
      getDocs: async (constraints: { count?: number; after?: string }[]) => {
        const { count = 0, after } = Object.assign({}, ...constraints) as { count?: number; after?: string };
        const made = (file: string) => (world.fields(file)?.["created_at"] as { toMillis(): number }).toMillis();
        const files = [...world.documents.keys()].filter((file) => world.byTheCache(file)).sort((a, b) => made(b) - made(a));
        const from = after === undefined ? 0 : files.indexOf(after) + 1;
        const docs = files.slice(from, from + count).map((file) => snapshot(file, world.fields(file)));
        return { docs, metadata: { fromCache: !world.online } };
      },
      runTransaction: async (_: unknown, update: (transaction: unknown) => Promise<unknown>) => {
        let read: { file: string; version: number | undefined } | undefined;
        let deleted: string | undefined;
        const get = (file: string) => {
          world.looks += 1;
          if (world.lostLooks > 0) {
            world.lostLooks -= 1;
            return new Promise(() => undefined);
          }
          if (!world.online) return Promise.reject(refusal("unavailable"));
          return new Promise((resolve) => {
            const answer = () => {
              read = { file, version: world.documents.get(file)?.version };
              resolve(snapshot(file, world.fields(file)));
            };
            if (world.reachable) answer();
            else world.writes.push({ file, apply: answer, done: () => undefined, failed: () => undefined });
          });
        };
        for (let attempt = 0; attempt < 5; attempt += 1) {
          deleted = undefined;
          await update({ get, delete: (file: string) => void (deleted = file) });
          if (!world.online) throw refusal("unavailable");
          if (deleted !== undefined) world.deleting();
          if (read && world.documents.get(read.file)?.version !== read.version) continue;
          if (deleted !== undefined) world.write(deleted, undefined);
          return;
        }
        throw refusal("aborted");
      },
      setDoc: (file: string, fields: Fields) =>
        written(
          file,
          () => {
            if (world.documents.has(file) || !world.slipsAreTaken) throw refusal("permission-denied");
            world.write(file, { ...fields, created_at: at(world.time) });
          },
          { ...fields, created_at: null },
        ),
      updateDoc: (file: string, fields: Fields) =>
        written(file, () => {
          const found = world.fields(file);
          if (!found) throw refusal("not-found");
          if (fields["cancel_requested"] && !["queued", "processing"].includes(String(found["status"]))) {
            throw refusal("permission-denied");
          }
          world.write(file, { ...found, ...fields });
        }),
      deleteDoc: (file: string) => written(file, () => (world.deleting(), world.write(file, undefined))),
      onSnapshot: (
        file: string,
        options: { includeMetadataChanges: boolean },
        next: Listener["next"],
        failed: Listener["failed"],
      ) => {
        if (!options.includeMetadataChanges) throw new Error("nobody would hear of the network");
        // A new listener shares the view of another one of the same document, however old that is.
        const shared = [...world.listeners].find((other) => other.file === file && other.fromCache === false);
        const listener: Listener = { file, next, failed, version: -1, fromCache: undefined, answersAt: world.time };
        world.listeners.add(listener);
        if (shared && !world.reachable) {
          [listener.version, listener.fromCache] = [shared.version, false];
          world.say(listener, world.cache.get(file), false);
        } else if (world.overlays.has(file)) {
          world.say(listener, world.overlays.get(file), true, true);
        }
        setImmediate(() => world.deliver(listener));
        return () => void world.listeners.delete(listener);
      },
    };
    const functions = {
      httpsCallable:
        (_: unknown, name: string, { limitedUseAppCheckTokens, timeout = 70_000 }: CallableOptions) =>
        async (data: Fields) => {
          world.attested += limitedUseAppCheckTokens ? 1 : 0;
          world.calls.push({ name, data });
          if (QUESTIONS.includes(name)) {
            if (timeout < world.startMs) throw refusal("functions/deadline-exceeded");
            return { data: { name } };
          }
          if (!limitedUseAppCheckTokens) throw new Error("the backend consumes tokens");
          if (name !== "generate") return { data: { name } };
          if (!world.online) throw Object.assign(new Error("internal"), { code: "functions/internal" });
          const { fileUid, input, slip } = data as { fileUid: string; input: unknown; slip: boolean };
          const job = { id: `job-${(world.jobs += 1)}`, file: fileUid, input, slip };
          const submit = () => {
            world.queue.push(job);
            return { data: { jobId: job.id } };
          };
          return world.answer(job, submit);
        },
    };
    const storage = {
      ref: (_: unknown, path: string) => ({ path, bucket: "bucket" }),
      uploadBytesResumable: async () => undefined,
      deleteObject: async ({ path }: { path: string }) => void world.objects.delete(path),
    };
    return { firestore, functions, storage } as unknown as Modules;
  }
}

/** What a watcher has received of a generation. */
export interface Told {
  handle: GenerationHandle;
  states: GenerationState[];
  readonly last: GenerationState | undefined;
  value?: unknown;
  error?: { code: string; message: string; retryable: boolean };
}

export function told(begin: (onChange: (state: GenerationState) => void) => GenerationHandle): Told {
  const states: GenerationState[] = [];
  const handle = begin((state) => states.push(state));
  const seen: Told = { states, handle, get last() { return states[states.length - 1]; } };
  seen.handle.result.then(
    (value) => (seen.value = value),
    (error) => (seen.error = error),
  );
  return seen;
}
