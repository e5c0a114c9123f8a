// Structural types of what the client uses of Firebase. They fit both `firebase` and `@react-native-firebase`; neither
// is imported, not even its types. Methods use method syntax, so that the narrower parameters of the SDKs fit.

/** `firebase/firestore` or `@react-native-firebase/firestore`. */
export interface FirestoreModule {
  doc(db: never, path: string): unknown;
  collection(db: never, path: string): unknown;
  query(from: never, ...constraints: never[]): unknown;
  orderBy(field: string, direction: "desc"): unknown;
  limit(count: number): unknown;
  startAfter(snapshot: never): unknown;
  getDocs(query: never): Promise<unknown>;
  runTransaction(db: never, update: (transaction: Transaction) => Promise<void>): Promise<unknown>;
  setDoc(reference: never, fields: never): Promise<void>;
  updateDoc(reference: never, fields: never): Promise<void>;
  deleteDoc(reference: never): Promise<void>;
  onSnapshot(reference: never, options: never, next: never, failed: never): () => void;
  serverTimestamp(): unknown;
}

/** `firebase/functions` or `@react-native-firebase/functions`. */
export interface FunctionsModule {
  httpsCallable(
    functions: never,
    name: string,
    options: CallableOptions,
  ): (data: never) => Promise<{ data: unknown }>;
}

export interface CallableOptions {
  limitedUseAppCheckTokens: boolean;
  /** Milliseconds. */
  timeout?: number;
}

/** `firebase/storage` or `@react-native-firebase/storage`. */
export interface StorageModule {
  ref(storage: never, path: string): unknown;
  // Not `uploadBytes`: React Native Firebase does not implement it.
  uploadBytesResumable(reference: never, data: never, metadata: { contentType: string }): unknown;
  deleteObject(reference: never): Promise<void>;
}

/** The three modules, as imported with `import * as`. */
export interface Modules {
  firestore: FirestoreModule;
  functions: FunctionsModule;
  storage: StorageModule;
}

/** The three instances of the app: `getFirestore()`, `getFunctions()`, `getStorage()`. */
export interface Instances {
  db: unknown;
  functions: unknown;
  storage: unknown;
}

export interface Transaction {
  get(reference: never): Promise<Snapshot>;
  delete(reference: never): unknown;
}

export interface Snapshot {
  readonly id: string;
  data(): Record<string, unknown> | undefined;
  readonly metadata: { readonly fromCache: boolean; readonly hasPendingWrites: boolean };
}
