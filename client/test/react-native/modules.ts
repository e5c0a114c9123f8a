// Checks that the client accepts React Native Firebase's modules. Compiled by tests/client/test_client.py, never run.

import * as firestore from "@react-native-firebase/firestore";
import * as functions from "@react-native-firebase/functions";
import * as storage from "@react-native-firebase/storage";
import { createClient } from "../../src/index.js";

export const client = createClient({
  firestore,
  functions,
  storage,
  app: { db: firestore.getFirestore(), functions: functions.getFunctions(), storage: storage.getStorage() },
  uid: () => null,
});

const { runTransaction: _, ...without } = firestore;
// @ts-expect-error a module that lacks one of the functions
createClient({ firestore: without, functions, storage, app: { db: 1, functions: 2, storage: 3 }, uid: () => null });
// @ts-expect-error the wrong module
createClient({ firestore: storage, functions, storage, app: { db: 1, functions: 2, storage: 3 }, uid: () => null });
