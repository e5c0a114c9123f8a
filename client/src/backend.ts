// Firebase as the client needs it: one user's documents, objects and callables. The only user of the modules handed in.

import { fromFirebase } from "./errors.js";
import type { CallableOptions, Instances, Modules, Snapshot, Transaction } from "./firebase.js";
import type { GenerationDocument } from "./wire.js";

export interface Seen {
  fields: GenerationDocument | undefined;
  /** From the phone's own cache: what the server has is not known. */
  fromCache: boolean;
  /** Has changes of this app's that the server has not taken yet. */
  pending: boolean;
}

const QUESTION_MS = 130_000; // the backend's own limit is 120 s; Firebase would give up after 70

// What was handed in is known by its shape alone; each call here fits what firebase.ts says of it.
const hand = (value: unknown): never => value as never;

export class Backend {
  constructor(
    private readonly modules: Modules,
    private readonly app: Instances,
  ) {}

  // --- documents

  listen(uid: string, fileUid: string, next: (seen: Seen) => void, failed: (error: unknown) => void): () => void {
    const told = (snapshot: Snapshot): void =>
      next({
        fields: snapshot.data() as GenerationDocument | undefined,
        fromCache: snapshot.metadata.fromCache,
        pending: snapshot.metadata.hasPendingWrites,
      });
    // Without metadata changes nobody says that the network went, or that the server still shows the same.
    const options = { includeMetadataChanges: true };
    return this.modules.firestore.onSnapshot(hand(this.document(uid, fileUid)), hand(options), hand(told), hand(failed));
  }

  /**
   * The document as the server has it now; throws without a network.
   *
   * By a transaction, which alone asks the server and nobody else. A listener of the same document answers for `getDoc`,
   * and its connection may be dead after a sleep. A query, `getDocsFromServer` too, is answered by way of the SDK's cache:
   * where that wrongly holds the absence of a document for newer, every query confirms it.
   */
  look(uid: string, fileUid: string): Promise<GenerationDocument | undefined> {
    return new Promise((resolve, reject) => {
      const read = async (transaction: Transaction): Promise<never> => {
        const snapshot = await transaction.get(hand(this.document(uid, fileUid)));
        resolve(snapshot.data() as GenerationDocument | undefined);
        throw new Error("read"); // there is nothing to commit, nor to read again where a worker writes meanwhile
      };
      this.modules.firestore.runTransaction(hand(this.app.db), read).catch(reject);
    });
  }

  /** One page, newest first. Without a network the SDK answers with what it has kept, and no error. */
  async page(uid: string, size: number, after: unknown): Promise<{ docs: Snapshot[]; fromCache: boolean }> {
    const { query, orderBy, limit, startAfter, getDocs } = this.modules.firestore;
    const constraints = [orderBy("created_at", "desc"), ...(after ? [startAfter(hand(after))] : []), limit(size)];
    const found = await getDocs(hand(query(hand(this.files(uid)), ...constraints.map(hand))));
    const { docs, metadata } = found as { docs: Snapshot[]; metadata: { fromCache: boolean } };
    return { docs, fromCache: metadata.fromCache };
  }

  /** The document that an app may make itself: it waits for a job. Refused where there is one. */
  async order(uid: string, fileUid: string): Promise<void> {
    const { setDoc, serverTimestamp } = this.modules.firestore;
    await setDoc(hand(this.document(uid, fileUid)), hand({ status: "queued", created_at: serverTimestamp() }));
  }

  async update(uid: string, fileUid: string, fields: Record<string, unknown>): Promise<void> {
    await this.modules.firestore.updateDoc(hand(this.document(uid, fileUid)), hand(fields));
  }

  async remove(uid: string, fileUid: string): Promise<void> {
    await this.modules.firestore.deleteDoc(hand(this.document(uid, fileUid)));
  }

  // --- callables

  /** Throws a `GenerationError`. Each call has an App Check token of its own, which the backend consumes. */
  call<Answer>(name: string, data: Record<string, unknown>): Promise<Answer> {
    return this.invoke(name, data, { limitedUseAppCheckTokens: true });
  }

  /**
   * The same, of what makes no job and is asked often: by the app's usual token, since Google and Apple attest only so many
   * a day, and for as long as the backend waits for a worker that has to start.
   */
  ask<Answer>(name: string, data: Record<string, unknown>): Promise<Answer> {
    return this.invoke(name, data, { limitedUseAppCheckTokens: false, timeout: QUESTION_MS });
  }

  private async invoke<Answer>(name: string, data: Record<string, unknown>, options: CallableOptions): Promise<Answer> {
    try {
      const { httpsCallable } = this.modules.functions;
      const callable = httpsCallable(hand(this.app.functions), name, options);
      return (await callable(hand(data))).data as Answer;
    } catch (error) {
      throw fromFirebase(error);
    }
  }

  // --- objects

  /** Returns the bucket's name. */
  async store(path: string, content: unknown, contentType: string): Promise<string> {
    const { ref, uploadBytesResumable } = this.modules.storage;
    const reference = ref(hand(this.app.storage), path);
    await uploadBytesResumable(hand(reference), hand(content), { contentType });
    return (reference as { bucket: string }).bucket;
  }

  /** One that is gone already is fine. */
  async removeObject(path: string): Promise<void> {
    const { ref, deleteObject } = this.modules.storage;
    try {
      await deleteObject(hand(ref(hand(this.app.storage), path)));
    } catch (error) {
      if (fromFirebase(error).code !== "object-not-found") throw error;
    }
  }

  private document(uid: string, fileUid: string): unknown {
    return this.modules.firestore.doc(hand(this.app.db), `generations/${uid}/files/${fileUid}`);
  }

  private files(uid: string): unknown {
    return this.modules.firestore.collection(hand(this.app.db), `generations/${uid}/files`);
  }
}
