// Sets up Firebase from Vite's variables: for a real project (.env.example), or for this machine's emulators.

import { initializeApp } from "firebase/app";
import { CustomProvider, initializeAppCheck, ReCaptchaEnterpriseProvider } from "firebase/app-check";
import { browserLocalPersistence, connectAuthEmulator, indexedDBLocalPersistence, initializeAuth } from "firebase/auth";
// Imports by name what the client needs (client/src/firebase.ts): an `import *` could not be tree-shaken for phones.
import {
  collection,
  connectFirestoreEmulator,
  deleteDoc,
  doc,
  getDocs,
  getFirestore,
  limit,
  onSnapshot,
  orderBy,
  query,
  runTransaction,
  serverTimestamp,
  setDoc,
  startAfter,
  updateDoc,
} from "firebase/firestore";
import { connectFunctionsEmulator, getFunctions, httpsCallable } from "firebase/functions";
import { connectStorageEmulator, deleteObject, getStorage, ref, uploadBytesResumable } from "firebase/storage";
import { createClient } from "@client";

interface Emulators {
  auth: number;
  firestore: number;
  functions: number;
  storage: number;
}

const read = <Value>(text: unknown): Value | null => (typeof text === "string" && text !== "" ? JSON.parse(text) : null);
const settings = read<Record<string, string>>(import.meta.env["VITE_FIREBASE"]);
const emulators = read<Emulators>(import.meta.env["VITE_EMULATORS"]);
const HOST = "127.0.0.1";

/** Whether everything runs on this machine, with the small demo models. */
export const isLocal = emulators !== null;

if (!settings) throw new Error("VITE_FIREBASE is not set: copy .env.example to .env.local, or start all with `make app`");
const app = initializeApp(settings);

// Before any other call to Firebase.
initializeAppCheck(app, {
  provider: isLocal
    ? new CustomProvider({ getToken: async () => unsignedToken() })
    : new ReCaptchaEnterpriseProvider(String(import.meta.env["VITE_APP_CHECK_KEY"])),
  isTokenAutoRefreshEnabled: true,
});

export const auth = initializeAuth(app, { persistence: [indexedDBLocalPersistence, browserLocalPersistence] });
export const db = getFirestore(app);
const region = import.meta.env["VITE_FUNCTIONS_REGION"];
const callables = getFunctions(app, typeof region === "string" ? region : undefined);
const bucket = getStorage(app);

if (emulators) {
  connectAuthEmulator(auth, `http://${HOST}:${emulators.auth}`, { disableWarnings: true });
  connectFirestoreEmulator(db, HOST, emulators.firestore);
  connectFunctionsEmulator(callables, HOST, emulators.functions);
  connectStorageEmulator(bucket, HOST, emulators.storage);
}

export const bucketName = settings["storageBucket"] ?? "";

export const client = createClient({
  firestore: {
    collection,
    deleteDoc,
    doc,
    getDocs,
    limit,
    onSnapshot,
    orderBy,
    query,
    runTransaction,
    serverTimestamp,
    setDoc,
    startAfter,
    updateDoc,
  },
  functions: { httpsCallable },
  storage: { deleteObject, ref, uploadBytesResumable },
  app: { db, functions: callables, storage: bucket },
  uid: () => auth.currentUser?.uid,
  memory: {
    get: (key) => localStorage.getItem(key),
    set: (key, value) => localStorage.setItem(key, value),
    remove: (key) => localStorage.removeItem(key),
  },
});

/** An unsigned App Check token, which the functions emulator accepts. */
function unsignedToken(): { token: string; expireTimeMillis: number } {
  const seconds = Math.floor(Date.now() / 1000);
  const part = (value: unknown): string => btoa(JSON.stringify(value)).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  const claims = { sub: settings?.["appId"], app_id: settings?.["appId"], iat: seconds, exp: seconds + 3600, jti: crypto.randomUUID() };
  const token = `${part({ alg: "RS256", typ: "JWT" })}.${part(claims)}.${part("unsigned")}`;
  return { token, expireTimeMillis: (seconds + 3600) * 1000 };
}
