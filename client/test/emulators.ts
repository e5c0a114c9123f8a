// Runs the client with Firebase's real SDK against emulators, a stand-in for RunPod, and a network that can be cut.

import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer as createHttpServer, type Server } from "node:http";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { deleteApp, initializeApp } from "firebase/app";
import * as auth from "firebase/auth";
import * as firestore from "firebase/firestore";
import * as functions from "firebase/functions";
import * as storage from "firebase/storage";
import { createClient, type Client, type Memory } from "../src/index.js";

const LOOPBACK = "127.0.0.1";
const setting = (name: string): string => {
  const value = process.env[name];
  if (value === undefined) throw new Error(`${name} is not set: tests/client/test_client.py starts these tests`);
  return value;
};
const portOf = (address: string): number => Number(address.slice(address.lastIndexOf(":") + 1));

export const PROJECT = setting("GCLOUD_PROJECT");
export const BUCKET = setting("FIREBASE_STORAGE_BUCKET");
const PORTS = {
  firestore: portOf(setting("FIRESTORE_EMULATOR_HOST")),
  functions: portOf(setting("FUNCTIONS_EMULATOR_HOST")),
  storage: portOf(setting("STORAGE_EMULATOR_HOST")),
  auth: portOf(setting("FIREBASE_AUTH_EMULATOR_HOST")),
};

export const pause = (seconds: number) => new Promise<void>((resolve) => setTimeout(resolve, 1000 * seconds));

/** Wait until a condition holds. */
export async function until(what: () => unknown, seconds = 60): Promise<void> {
  const deadline = performance.now() + 1000 * seconds;
  while (!(await what())) {
    if (performance.now() > deadline) throw new Error(`not so after ${seconds} s: ${what}`);
    await pause(0.02);
  }
}

/** A network connection to one port, which can be cut or frozen. */
export class Line {
  port = 0;
  private readonly server = createServer((near) => this.through(near));
  private readonly sockets = new Set<Socket>();
  private state: "open" | "cut" | "frozen" = "open";
  /** Whether to drop the far side's responses: requests arrive, but no response does. */
  deafToAnswers = false;

  constructor(private readonly target: number) {}

  async start(): Promise<this> {
    this.server.listen(0, LOOPBACK);
    await once(this.server, "listening");
    this.port = (this.server.address() as AddressInfo).port;
    return this;
  }

  private through(near: Socket): void {
    if (this.state === "cut") return void near.destroy();
    const far = connect(this.target, LOOPBACK);
    for (const [from, to] of [[near, far], [far, near]] as const) {
      this.sockets.add(from);
      from.on("data", (bytes) => {
        if (from === far && this.deafToAnswers) {
          near.destroy();
          far.destroy();
        } else to.write(bytes);
      });
      from.on("error", () => undefined);
      from.on("close", () => {
        this.sockets.delete(from);
        to.destroy();
      });
    }
    if (this.state === "frozen") for (const socket of [near, far]) socket.pause();
  }

  /** Break all connections and let no new one through. */
  cut(): void {
    this.state = "cut";
    for (const socket of this.sockets) socket.destroy();
  }

  /** Stall all connections without breaking them: a tunnel, or a connection that died unnoticed. */
  freeze(): void {
    this.state = "frozen";
    for (const socket of this.sockets) socket.pause();
  }

  open(): void {
    this.state = "open";
    for (const socket of this.sockets) socket.resume();
  }

  close(): void {
    this.cut();
    this.server.close();
  }
}

/** A phone with its own user. */
export class Phone {
  readonly lines = { firestore: new Line(PORTS.firestore), functions: new Line(PORTS.functions) };
  uid = "";
  client!: Client;
  /** The number of open listeners. */
  listeners = 0;
  calls: string[] = [];
  db!: firestore.Firestore;
  bucket!: storage.FirebaseStorage;
  private app!: ReturnType<typeof initializeApp>;
  private static phones = 0;

  async start(memory?: Memory, user?: { email: string; password: string }): Promise<this> {
    const number = (Phone.phones += 1);
    await Promise.all(Object.values(this.lines).map((line) => line.start()));
    this.app = initializeApp({ projectId: PROJECT, apiKey: "any", storageBucket: BUCKET }, `phone-${number}`);
    const account = auth.initializeAuth(this.app, { persistence: auth.inMemoryPersistence });
    auth.connectAuthEmulator(account, `http://${LOOPBACK}:${PORTS.auth}`, { disableWarnings: true });
    const who = user ?? { email: `phone-${number}-${Date.now()}@example.com`, password: "only-for-tests" };
    const sign = auth.signInWithEmailAndPassword;
    const { user: signed } = await sign(account, who.email, who.password).catch(() =>
      auth.createUserWithEmailAndPassword(account, who.email, who.password),
    );
    this.uid = signed.uid;
    // Keeps what was read, as a cache on disk does.
    const localCache = firestore.memoryLocalCache({ garbageCollector: firestore.memoryLruGarbageCollector() });
    this.db = firestore.initializeFirestore(this.app, { localCache });
    firestore.connectFirestoreEmulator(this.db, LOOPBACK, this.lines.firestore.port);
    const callables = functions.getFunctions(this.app);
    functions.connectFunctionsEmulator(callables, LOOPBACK, this.lines.functions.port);
    this.bucket = storage.getStorage(this.app);
    storage.connectStorageEmulator(this.bucket, LOOPBACK, PORTS.storage);

    const counted = {
      ...firestore,
      onSnapshot: (...all: Parameters<typeof firestore.onSnapshot>) => {
        this.listeners += 1;
        const stop = firestore.onSnapshot(...all);
        return () => {
          this.listeners -= 1;
          stop();
        };
      },
    };
    const heard = {
      ...functions,
      httpsCallable: (fns: functions.Functions, name: string, options: functions.HttpsCallableOptions) => {
        this.calls.push(name);
        return functions.httpsCallable(fns, name, options);
      },
    };
    this.client = createClient({
      firestore: counted as unknown as typeof firestore,
      functions: heard as unknown as typeof functions,
      storage,
      app: { db: this.db, functions: callables, storage: this.bucket },
      uid: () => account.currentUser?.uid,
      ...(memory ? { memory } : {}),
    });
    return this;
  }

  /**
   * Make the SDK's cache hold the document's absence as newer than the document, until that changes: as after a first
   * snapshot that missed a write from just before it.
   */
  async mislead(file: string): Promise<void> {
    const name = `projects/${PROJECT}/databases/(default)/documents/generations/${this.uid}/files/${file}`;
    const there = await fetch(`http://${setting("FIRESTORE_EMULATOR_HOST")}/v1/${name}`, { headers: { Authorization: "Bearer owner" } });
    const { updateTime } = (await there.json()) as { updateTime: string };
    const readTime = new Date(Date.parse(updateTime) + 1).toISOString();
    const part = (value: unknown): string => {
      const text = JSON.stringify(value);
      return `${Buffer.byteLength(text)}${text}`;
    };
    const absence = part({ documentMetadata: { name, readTime, exists: false } });
    const about = { id: file, createTime: readTime, version: 1, totalDocuments: 1, totalBytes: Buffer.byteLength(absence) };
    await firestore.loadBundle(this.db, part({ metadata: about }) + absence);
    const { docs } = await firestore.getDocsFromServer(
      firestore.query(
        firestore.collection(this.db, `generations/${this.uid}/files`),
        firestore.where(firestore.documentId(), "==", file),
        firestore.limit(1),
      ),
    );
    if (docs.length > 0) throw new Error("the SDK was not misled");
  }

  cut(): void {
    for (const line of Object.values(this.lines)) line.cut();
  }

  freeze(): void {
    for (const line of Object.values(this.lines)) line.freeze();
  }

  open(): void {
    for (const line of Object.values(this.lines)) line.open();
  }

  async close(): Promise<void> {
    for (const line of Object.values(this.lines)) line.close();
    await firestore.terminate(this.db);
    await deleteApp(this.app);
  }
}

export interface Job {
  id: string;
  uid: string;
  file: string;
  input: Record<string, unknown>;
}

const EXAMPLES = { quote: "quote/text2img.json", capabilities: "capabilities/all.json" };

/** A worker's answer to an action: the contract's example. */
export function example(action: keyof typeof EXAMPLES): Record<string, unknown> {
  return JSON.parse(readFileSync(`${setting("EXAMPLES")}/${EXAMPLES[action]}`, "utf8")) as Record<string, unknown>;
}

function answerTo({ action, prompt }: Record<string, unknown>): Record<string, unknown> {
  if (prompt === "") return { id: "question", status: "FAILED", error: "invalid_input: prompt: must not be empty" };
  return { id: "question", status: "COMPLETED", output: example(action as keyof typeof EXAMPLES) };
}

/** RunPod as the backend calls it, and its workers, which write documents with the rights of a service account. */
export class Workers {
  readonly jobs: Job[] = [];
  /** Requests that are no jobs. */
  readonly questions: Record<string, unknown>[] = [];
  private server!: Server;
  private app!: ReturnType<typeof initializeApp>;
  private db!: firestore.Firestore;
  private readonly alive = new Set<string>();

  async start(): Promise<this> {
    this.server = createHttpServer(async (request, response) => {
      const chunks: Buffer[] = [];
      for await (const chunk of request) chunks.push(chunk as Buffer);
      const { input } = JSON.parse(Buffer.concat(chunks).toString()) as { input: Record<string, unknown> };
      response.setHeader("Content-Type", "application/json");
      if (request.url?.endsWith("/runsync")) {
        this.questions.push(input);
        return void response.end(JSON.stringify(answerTo(input)));
      }
      const { user_id: uid, file_uid: file } = input as { user_id: string; file_uid: string };
      const id = `job-${this.jobs.length + 1}-${file}`;
      this.jobs.push({ id, uid, file, input });
      response.end(JSON.stringify({ id, status: "IN_QUEUE" }));
    });
    this.server.listen(Number(setting("RUNPOD_PORT")), LOOPBACK);
    await once(this.server, "listening");
    this.app = initializeApp({ projectId: PROJECT, apiKey: "any" }, "workers");
    this.db = firestore.getFirestore(this.app);
    firestore.connectFirestoreEmulator(this.db, LOOPBACK, PORTS.firestore, { mockUserToken: "owner" });
    return this;
  }

  /** The jobs that the backend has submitted for a file. */
  of(file: string): Job[] {
    return this.jobs.filter((job) => job.file === file);
  }

  async job(file: string): Promise<Job> {
    await until(() => this.of(file).length > 0);
    return this.of(file)[0] as Job;
  }

  document({ uid, file }: { uid: string; file: string }): firestore.DocumentReference {
    return firestore.doc(this.db, `generations/${uid}/files/${file}`);
  }

  async fields(of: { uid: string; file: string }): Promise<firestore.DocumentData | undefined> {
    return (await firestore.getDocFromServer(this.document(of))).data();
  }

  /** A user's report of a file. */
  async reported({ uid, file }: { uid: string; file: string }): Promise<firestore.DocumentData | undefined> {
    return (await firestore.getDocFromServer(firestore.doc(this.db, `reports/file:${file}:${uid}`))).data();
  }

  put(of: { uid: string; file: string }, fields: Record<string, unknown>): Promise<void> {
    return firestore.setDoc(this.document(of), fields, { merge: true });
  }

  /** Claim a job with a lease, which is renewed until the job ends or its worker dies. */
  async take(job: Job, leaseSeconds = 90): Promise<void> {
    const write = (more: Record<string, unknown> = {}) =>
      this.put(job, {
        status: "processing",
        job_id: job.id,
        updated_at: firestore.serverTimestamp(),
        expires_at: firestore.Timestamp.fromMillis(serverNow() + 1000 * leaseSeconds),
        ...more,
      });
    await write({ progress: { stage: "loading", percent: 1 } });
    this.alive.add(job.id);
    // One write at a time: queued writes would carry outdated leases.
    void (async () => {
      for (;;) {
        await pause(leaseSeconds / 8);
        if (!this.alive.has(job.id)) return;
        await write().catch(() => undefined);
      }
    })();
  }

  progress(job: Job, progress: Record<string, unknown>): Promise<void> {
    return this.put(job, { progress, updated_at: firestore.serverTimestamp() });
  }

  die(job: Job): void {
    this.alive.delete(job.id);
  }

  async complete(job: Job, files: Record<string, unknown>[] = []): Promise<void> {
    this.die(job);
    await this.put(job, {
      status: "completed",
      updated_at: firestore.serverTimestamp(),
      generation_data: { storage: "firebase", image_url: `https://${job.file}`, files },
    });
  }

  async fail(job: Job, code: string): Promise<void> {
    this.die(job);
    const error = { code, message: code, retryable: false };
    await this.put(job, { status: "failed", updated_at: firestore.serverTimestamp(), error });
  }

  async close(): Promise<void> {
    this.alive.clear();
    this.server.close();
    this.server.closeAllConnections();
    await firestore.terminate(this.db);
    await deleteApp(this.app);
  }
}

/** How far the phone's clock is ahead of the server's, in milliseconds (`PHONE_CLOCK_ASIDE`, seconds). */
const aside = 1000 * Number(process.env["PHONE_CLOCK_ASIDE"] ?? 0);
const serverNow = () => Date.now() - aside;
if (aside !== 0) {
  const Real = Date;
  const shifted = class extends Real {
    constructor(...all: []) {
      super(...(all.length === 0 ? ([Real.now() + aside] as unknown as []) : all));
    }
    static override now = () => Real.now() + aside;
  };
  globalThis.Date = shifted as DateConstructor;
}
