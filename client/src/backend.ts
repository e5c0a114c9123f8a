// Accesses Firebase for the client: a user's documents, objects and callables. The only caller of the app's modules.

import { fromFirebase } from "./errors.js";
import type { CallableOptions, Instances, Modules, Snapshot, Transaction } from "./firebase.js";
import type { GenerationDocument } from "./wire.js";

export interface Seen {
  fields: GenerationDocument | undefined;
  /** Whether this is from the phone's cache; the server may have something else. */
  fromCache: boolean;
  /** Whether this contains writes of this app that the server has not accepted yet. */
  pending: boolean;
}

const QUESTION_MS = 130_000; // the backend's limit is 120 s; Firebase's default is 70 s

// The modules are typed by shape only (firebase.ts), with `never` parameters; this cast passes values to them.
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
    // Only metadata changes reveal that the network is gone, or that the server confirms an unchanged document.
    const options = { includeMetadataChanges: true };
    return this.modules.firestore.onSnapshot(hand(this.document(uid, fileUid)), hand(options), hand(told), hand(failed));
  }

  /**
   * Read the document from the server; throws without a network.
   *
   * Uses a transaction because nothing else bypasses the SDK's state. `getDoc` is answered by a listener of the same
   * document, whose connection may be dead after a sleep. A query, even `getDocsFromServer`, goes through the SDK's
   * cache: if that wrongly holds the document's absence for newer, every query confirms it.
   */
  look(uid: string, fileUid: string): Promise<GenerationDocument | undefined> {
    return new Promise((resolve, reject) => {
      const read = async (transaction: Transaction): Promise<void> => {
        const snapshot = await transaction.get(hand(this.document(uid, fileUid)));
        resolve(snapshot.data() as GenerationDocument | undefined);
        throw new Error("read"); // ends the transaction: nothing to commit, and no retry if a worker writes meanwhile
      };
      this.modules.firestore.runTransaction(hand(this.app.db), read).catch(reject);
    });
  }

  /** One page, newest first. Without a network the SDK answers from its cache, without an error. */
  async page(uid: string, size: number, after: unknown): Promise<{ docs: Snapshot[]; fromCache: boolean }> {
    const { query, orderBy, limit, startAfter, getDocs } = this.modules.firestore;
    const constraints = [orderBy("created_at", "desc"), ...(after ? [startAfter(hand(after))] : []), limit(size)];
    const found = await getDocs(hand(query(hand(this.files(uid)), ...constraints.map(hand))));
    const { docs, metadata } = found as { docs: Snapshot[]; metadata: { fromCache: boolean } };
    return { docs, fromCache: metadata.fromCache };
  }

  /** Create the order slip: the `queued` document that waits for a job. Refused if the document exists. */
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

  /**
   * Delete the document if `mayGo` accepts the version that is deleted. Throws without a network: unlike `remove`, it
   * leaves no deletion in the SDK's queue, which would reach whatever the document has become by then.
   */
  async removeIf(uid: string, fileUid: string, mayGo: (fields: GenerationDocument) => boolean): Promise<void> {
    const document = hand(this.document(uid, fileUid));
    let stays = false;
    const change = async (transaction: Transaction): Promise<void> => {
      const fields = (await transaction.get(document)).data() as GenerationDocument | undefined;
      stays = fields === undefined || !mayGo(fields);
      if (stays) throw new Error("read"); // as in `look`
      transaction.delete(document);
    };
    await this.modules.firestore.runTransaction(hand(this.app.db), change).catch((error: unknown) => {
      if (!stays) throw error;
    });
  }

  // --- callables

  /** Call a function; throws a `GenerationError`. Each call has its own App Check token, which the backend consumes. */
  call<Answer>(name: string, data: Record<string, unknown>): Promise<Answer> {
    return this.invoke(name, data, { limitedUseAppCheckTokens: true });
  }

  /**
   * As `call`, for frequent calls that create no job. Uses the app's reusable App Check token, since Google and Apple
   * limit attestations per day, and waits as long as the backend waits for a cold start.
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

  /** Upload an object. Returns the bucket's name. */
  async store(path: string, content: unknown, contentType: string): Promise<string> {
    const { ref, uploadBytesResumable } = this.modules.storage;
    const reference = ref(hand(this.app.storage), path);
    await uploadBytesResumable(hand(reference), hand(content), { contentType });
    return (reference as { bucket: string }).bucket;
  }

  /** Delete an object; a missing one is no error. */
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
